//! From the file's graph to a [`Program`].
//!
//! 1. Unknown operators are collected first, so that one error lists all of them.
//! 2. Inputs of the graph become inputs or constants ([`weights`]).
//! 3. Each node becomes a node of the program: its operator ([`targets`]), its arguments ([`args`]), its module
//!    ([`modules`]). Nodes over sizes become expressions ([`symbols`]); checks are dropped; regions are put in place.
//!    In-place operators and views are made functional ([`memory`], [`views`]).
//! 4. The types of the results are compared with the recorded ones.
//! 5. Outputs and mutations close the signature; nodes made in step 3 that nobody reads are removed.

mod args;
mod memory;
mod modules;
mod rewrite;
mod scope;
mod symbols;
mod targets;
mod views;
mod weights;

use crate::archive::Archive;
use crate::error::ImportError;
use crate::schema::{
    self, Argument, ExportedProgram, Graph, InputSpec, Node, OutputSpec, SymBool, SymBoolArgument, SymFloat,
    SymFloatArgument, SymIntArgument, TensorMeta, Versions,
};
use args::{Call, describe};
use lowbit_core::ir::{Arg, ConstKind, Def, ModuleStack, MutationTarget, NewNode, NodeId, Program, ValueId};
use lowbit_core::ops::{OpDef, lookup};
use lowbit_core::{DType, SymInt, Tensor};
use memory::{Memory, TensorId};
use modules::Modules;
use scope::{Binding, Scope};
use std::collections::HashMap;
use std::sync::Arc;
use symbols::Symbols;
use targets::Target;
use weights::Weights;

/// Reads the program of an archive.
pub fn program(archive: &mut Archive) -> Result<Program, ImportError> {
    let entry = format!("models/{}.json", archive.model());
    let json = archive.read(&entry)?;
    let exported = parse(archive, &entry, &json)?;
    let unknown = targets::unknown(&exported.graph_module.graph);
    if !unknown.is_empty() {
        return Err(ImportError::UnknownOperators(unknown));
    }
    let tables = weights::read_tables(archive)?;
    let mut importer = Importer {
        weights: Weights::parse(archive, &tables)?,
        program: Program::default(),
        symbols: Symbols::new(&exported.range_constraints),
        modules: Modules::default(),
        memory: Memory::default(),
        roots: vec![],
        unread: vec![],
        depth: 0,
    };
    let module = &exported.graph_module;
    let mut scope = Scope::default();
    importer.inputs(archive, &module.graph, &module.signature.input_specs, &mut scope)?;
    importer.graph(&module.graph, &mut scope)?;
    importer.outputs(&module.signature.output_specs, &scope)?;
    importer.remove_unread();
    Ok(importer.program)
}

fn parse<'a>(archive: &Archive, entry: &str, json: &'a [u8]) -> Result<ExportedProgram<'a>, ImportError> {
    let result = serde_json::from_slice::<ExportedProgram<'a>>(json);
    // Another version is the likelier reason for JSON that does not fit.
    let versions = match &result {
        Ok(p) => Some((p.schema_version, p.torch_version.clone())),
        Err(_) => {
            serde_json::from_slice::<Versions<'_>>(json).ok().map(|v| (v.schema_version, v.torch_version))
        }
    };
    if let Some((version, torch)) = versions
        && version.is_none_or(|v| v.major != schema::MAJOR)
    {
        let found = version.map_or("unknown".into(), |v| format!("{}.{}", v.major, v.minor));
        let torch = torch.map_or("unknown".into(), |t| t.to_string());
        return Err(ImportError::Version { file: archive.file().into(), found, torch });
    }
    result.map_err(|e| archive.error(entry, format!("is not the JSON of an exported program: {e}")))
}

/// Regions inside regions that are still followed.
const MAX_REGIONS: u32 = 16;

/// Terms and factors a size may have. Sizes of real models stay far below; without a limit a hostile file could make them
/// grow from node to node.
const MAX_SIZE_TERMS: usize = 512;

/// The state of an import.
struct Importer<'a> {
    program: Program,
    weights: Weights<'a>,
    symbols: Symbols<'a>,
    modules: Modules<'a>,
    memory: Memory,
    /// Inputs and constants, in the file's order: what writing into is a mutation.
    roots: Vec<(TensorId, ValueId)>,
    /// Nodes whose results only dropped checks read.
    unread: Vec<NodeId>,
    depth: u32,
}

impl<'a> Importer<'a> {
    /// Inputs of the graph: the caller's become inputs, in order; parameters, buffers and literals constants.
    fn inputs(
        &mut self,
        archive: &mut Archive,
        graph: &'a Graph<'a>,
        specs: &'a [InputSpec<'a>],
        scope: &mut Scope<'a>,
    ) -> Result<(), ImportError> {
        // The caller's inputs first: where names clash they keep theirs.
        for spec in specs {
            match spec {
                InputSpec::User(u) => self.user_input(graph, &u.arg, scope)?,
                InputSpec::ConstantInput(c) => scope.bind(&c.name, Binding::Constant),
                _ => {}
            }
        }
        for spec in specs {
            let (arg, name, kind, word) = match spec {
                InputSpec::Parameter(p) => {
                    (&p.arg.name, &p.parameter_name, ConstKind::Parameter, "parameter")
                }
                InputSpec::Buffer(b) => (&b.arg.name, &b.buffer_name, ConstKind::Buffer, "buffer"),
                InputSpec::Constant(c) => {
                    (&c.arg.name, &c.tensor_constant_name, ConstKind::Tensor, "constant")
                }
                InputSpec::User(_) | InputSpec::ConstantInput(_) => continue,
                InputSpec::CustomObj(c) => {
                    let reason = "is a custom object, which lowbit cannot read".into();
                    return Err(ImportError::Signature {
                        what: format!("input {}", c.custom_obj_name),
                        reason,
                    });
                }
                InputSpec::Other(k) => {
                    let reason = "is a kind of input that lowbit does not know".into();
                    return Err(ImportError::Signature { what: k.to_string(), reason });
                }
            };
            let tensor = self.weights.tensor(archive, word, name)?;
            let value = self.program.add_constant(name, kind, tensor);
            let fail = |reason| ImportError::Weight { kind: word, name: name.to_string(), reason };
            let meta = graph.tensor_values.get(&**arg).ok_or_else(|| fail("has no recorded type".into()))?;
            let recorded = self.symbols.tensor_type(meta).map_err(fail)?;
            let stored = self.program.graph.ty(value);
            if !self.symbols.agree(stored, &recorded) {
                return Err(fail(format!("is stored as {stored}, the graph takes {recorded}")));
            }
            self.bind_root(scope, arg, value);
        }
        Ok(())
    }

    fn user_input(
        &mut self,
        graph: &'a Graph<'a>,
        arg: &'a Argument<'a>,
        scope: &mut Scope<'a>,
    ) -> Result<(), ImportError> {
        let fail = |name: &str, reason: String| {
            Err(ImportError::Signature { what: format!("input {name:?}"), reason })
        };
        let name: &'a str = match arg {
            Argument::Tensor(t) => &t.name,
            Argument::SymInt(SymIntArgument::Name(n)) => {
                // A number that is the same in every run is bound; others are not tensors.
                let value = graph.sym_int_values.get(&**n).map(|v| self.symbols.size(v));
                if let Some(Ok(SymInt::Known(k))) = value {
                    scope.bind(n, Binding::Int(Ok(k.into())));
                    return Ok(());
                }
                let reason = "is an integer that changes from run to run; lowbit's inputs are tensors: export with a \
                              fixed number, or pass a tensor";
                return fail(n, reason.into());
            }
            other => return fail("?", format!("is {}; lowbit's inputs are tensors", describe(other))),
        };
        let Some(meta) = graph.tensor_values.get(name) else {
            return fail(name, "has no recorded type".into());
        };
        let ty = match self.symbols.tensor_type(meta) {
            Ok(ty) => ty,
            Err(e) => return fail(name, e),
        };
        if ty.shape.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
            return fail(name, format!("has the negative size {ty}"));
        }
        let symbols: Vec<_> = ty.shape.iter().flat_map(SymInt::symbols).collect();
        self.program.symbols.extend(self.symbols.table(symbols));
        let value = self.program.graph.add_input(name, ty);
        self.program.signature.inputs.push(name.into());
        self.bind_root(scope, name, value);
        Ok(())
    }

    fn bind_root(&mut self, scope: &mut Scope<'a>, name: &'a str, value: ValueId) {
        let t = self.memory.own(value);
        self.roots.push((t, value));
        scope.bind(name, Binding::Tensor(t));
    }

    /// The nodes of a graph, in order.
    fn graph(&mut self, graph: &'a Graph<'a>, scope: &mut Scope<'a>) -> Result<(), ImportError> {
        for node in &graph.nodes {
            let module = self.modules.stack(node.metadata.nn_module_stack.as_deref());
            match targets::resolve(node) {
                Target::Op { op, in_place } => self.node(graph, scope, node, op, in_place, module)?,
                Target::Symbolic => self.sizes(graph, scope, node),
                Target::Assertion => self.drop_check(scope, node),
                Target::Region { graph: at } => self.region(scope, node, at, &module)?,
                Target::Unknown => return Err(ImportError::UnknownOperators(targets::unknown(graph))),
            }
        }
        Ok(())
    }

    /// A node over tensors.
    fn node(
        &mut self,
        graph: &'a Graph<'a>,
        scope: &mut Scope<'a>,
        node: &'a Node<'a>,
        op: &'static OpDef,
        in_place: bool,
        module: ModuleStack,
    ) -> Result<(), ImportError> {
        let name = node_name(node);
        let fail = |reason: String| node_error(node, &module, reason);
        let Call { op, args, first } = self.call(scope, op, &node.inputs, name, &module).map_err(fail)?;

        let (op, args) = match rewrite::is_rewritten(op) {
            true => self.rewrite(graph, node, op, args, &module).map_err(fail)?,
            false => (op, args),
        };

        // Where the results go, and what was recorded of them.
        let mut results: Vec<Option<&'a str>> = vec![];
        for output in &node.outputs {
            match output {
                Argument::Tensor(t) => results.push(Some(&t.name)),
                Argument::Tensors(l) => results.extend(l.iter().map(|t| Some(&*t.name))),
                Argument::None(_) => results.push(None),
                other => {
                    return Err(fail(format!(
                        "returns {}; lowbit's operators return tensors",
                        describe(other)
                    )));
                }
            }
        }
        let meta = |name: &Option<&'a str>| name.and_then(|n| graph.tensor_values.get(n));
        let metas: Vec<Option<&'a TensorMeta<'a>>> = results.iter().map(meta).collect();

        let new = NewNode { module: module.clone(), ..NewNode::new(op, args).named(name) };
        let id = self.program.graph.append(new).map_err(|e| fail(e.to_string()))?;
        let made = self.program.graph.node(id).outputs().to_vec();
        if made.len() != results.len() && !results.is_empty() {
            return Err(fail(format!(
                "has {} results, lowbit's operator makes {}",
                results.len(),
                made.len()
            )));
        }

        if in_place {
            let Some(target) = first else { return Err(fail("writes into no tensor".into())) };
            // An operator that only changes the shape (`unsqueeze_`) gives a view; others write.
            let steps = self.view_steps(graph, node, id, &metas);
            if steps.is_empty() {
                let value = self.fit(target, made[0], &module).map_err(fail)?;
                let label: Arc<str> = name.into();
                self.memory.write(&mut self.program, target, value, &label, &module).map_err(fail)?;
                if let Some(Some(result)) = results.first() {
                    self.check(node, &module, value, result, metas[0])?;
                    scope.bind(result, Binding::Tensor(target));
                }
                return Ok(());
            }
        }
        let steps = self.view_steps(graph, node, id, &metas);
        for (i, (&value, result)) in made.iter().zip(&results).enumerate() {
            let Some(result) = result else { continue };
            self.check(node, &module, value, result, metas[i])?;
            if made.len() > 1 {
                self.program.graph.rename(value, result);
            }
            let t = match (first, steps.get(i)) {
                (Some(base), Some(step)) => {
                    let label = self.program.graph.value(value).name.clone();
                    self.memory.view(base, step.clone(), value, label, module.clone()).map_err(fail)?
                }
                _ => self.memory.own(value),
            };
            scope.bind(result, Binding::Tensor(t));
        }
        Ok(())
    }

    /// The operator of the table that does what `op` does.
    fn rewrite(
        &mut self,
        graph: &'a Graph<'a>,
        node: &'a Node<'a>,
        op: &'static OpDef,
        args: Vec<Arg>,
        module: &ModuleStack,
    ) -> Result<(&'static OpDef, Vec<Arg>), String> {
        let strides = match operand_meta(graph, node) {
            Some(m) => Some(m.strides.iter().map(|s| self.symbols.size(s)).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let (program, memory) = (&mut self.program, &mut self.memory);
        let mut site =
            rewrite::Site { program, memory, name: node_name(node).into(), module: module.clone(), strides };
        rewrite::apply(&mut site, op, args)
    }

    /// How the results of a node share memory with its first operand.
    fn view_steps(
        &self,
        graph: &'a Graph<'a>,
        node: &'a Node<'a>,
        id: NodeId,
        metas: &[Option<&'a TensorMeta<'a>>],
    ) -> Vec<memory::Step> {
        let g = &self.program.graph;
        let n = g.node(id);
        let Some(Arg::Value(first)) = n.args().first() else { return vec![] };
        let to: Vec<_> = n.outputs().iter().map(|&v| g.ty(v).clone()).collect();
        let from_meta = operand_meta(graph, node);
        views::Shared { op: n.op(), args: n.args(), from: g.ty(*first), from_meta, to: &to, to_meta: metas }
            .steps()
    }

    /// `value` as it lands in the memory of `target`: converted to its type and repeated to its shape.
    fn fit(&mut self, target: TensorId, mut value: ValueId, module: &ModuleStack) -> Result<ValueId, String> {
        let old = self.memory.read(&mut self.program, target)?;
        let want = self.program.graph.ty(old).clone();
        let got = self.program.graph.ty(value).clone();
        if got.dtype != want.dtype {
            let name = self.program.graph.value(value).name.clone();
            let args = vec![value.into(), Arg::DType(want.dtype)];
            value =
                self.memory.emit(&mut self.program, "aten._to_copy.default", args, name, module.clone())?;
        }
        if !self.symbols.agree(&lowbit_core::ir::TensorType { dtype: want.dtype, ..got }, &want) {
            return Err(format!("writes {} into a tensor of type {want}", self.program.graph.ty(value)));
        }
        Ok(value)
    }

    /// Compares a value's type with the recorded one.
    fn check(
        &mut self,
        node: &Node<'a>,
        module: &ModuleStack,
        value: ValueId,
        name: &str,
        meta: Option<&'a TensorMeta<'a>>,
    ) -> Result<(), ImportError> {
        let Some(meta) = meta else {
            return Err(node_error(node, module, format!("its result %{name} has no recorded type")));
        };
        let recorded = self
            .symbols
            .tensor_type(meta)
            .map_err(|e| node_error(node, module, format!("its result %{name} {e}")))?;
        let inferred = self.program.graph.ty(value);
        if self.symbols.agree(inferred, &recorded) {
            return match inferred.shape.iter().find(|d| !d.is_at_most(MAX_SIZE_TERMS)) {
                None => Ok(()),
                Some(_) => Err(node_error(
                    node,
                    module,
                    format!("a size of its result %{name} is too long a formula"),
                )),
            };
        }
        Err(ImportError::TypeMismatch {
            node: node_name(node).into(),
            target: targets::short(&node.target).into(),
            module: module.path().into(),
            value: name.into(),
            recorded: recorded.to_string(),
            inferred: inferred.to_string(),
        })
    }

    /// A node over sizes: the file records its result.
    fn sizes(&mut self, graph: &'a Graph<'a>, scope: &mut Scope<'a>, node: &'a Node<'a>) {
        for output in &node.outputs {
            match output {
                Argument::SymInt(SymIntArgument::Name(n)) => {
                    let size = match graph.sym_int_values.get(&**n) {
                        Some(v) => self.symbols.size(v),
                        None => Err("it has no recorded value".into()),
                    };
                    let size = size.and_then(|v| match v.symbols().iter().find(|s| crate::srepr::is_unbacked(s)) {
                        None => Ok(v),
                        Some(_) => Err(format!(
                            "an integer that depends on the data (made by {}); lowbit needs sizes that follow from the \
                             input shapes",
                            targets::short(&node.target)
                        )),
                    });
                    scope.bind(n, Binding::Int(size));
                }
                Argument::SymFloat(SymFloatArgument::Name(n)) => {
                    let value = match graph.sym_float_values.get(&**n) {
                        Some(SymFloat::Float(x)) => Some(x.0),
                        _ => None,
                    };
                    scope.bind(n, Binding::Float(value));
                }
                Argument::SymBool(SymBoolArgument::Name(n)) => {
                    let value = match graph.sym_bool_values.get(&**n) {
                        Some(SymBool::Bool(b)) => Some(*b),
                        _ => None,
                    };
                    scope.bind(n, Binding::Bool(value));
                }
                _ => {}
            }
        }
    }

    /// A check: what only it read becomes unread.
    fn drop_check(&mut self, scope: &Scope<'a>, node: &'a Node<'a>) {
        for input in &node.inputs {
            if let Argument::Tensor(t) = &input.arg
                && let Ok(t) = scope.tensor(&t.name)
                && let Ok(v) = self.memory.read(&mut self.program, t)
            {
                self.unread.extend(self.program.graph.producer(v));
            }
        }
    }

    /// A region: its graph's inputs are the arguments after the graph, its outputs the node's.
    fn region(
        &mut self,
        scope: &mut Scope<'a>,
        node: &'a Node<'a>,
        at: usize,
        module: &ModuleStack,
    ) -> Result<(), ImportError> {
        let fail = |reason: String| node_error(node, module, reason);
        let Some(Argument::Graph(inner)) = node.inputs.get(at).map(|i| &i.arg) else {
            return Err(fail("holds no graph".into()));
        };
        let inner = &*inner.graph;
        // wrap_with_autocast(device_type, dtype, enabled, cache_enabled, graph, …)
        if at == 4 && !matches!(node.inputs.get(2).map(|i| &i.arg), Some(Argument::Bool(false))) {
            return Err(fail(
                "runs under autocast; export the model without it, or cast it with model.half()".into(),
            ));
        }
        self.depth += 1;
        if self.depth > MAX_REGIONS {
            return Err(fail(format!("is a region inside {MAX_REGIONS} others")));
        }
        let operands = &node.inputs[at + 1..];
        if operands.len() != inner.inputs.len() {
            return Err(fail(format!(
                "gives {} inputs to a graph of {}",
                operands.len(),
                inner.inputs.len()
            )));
        }
        let mut names = Scope::default();
        for (operand, input) in operands.iter().zip(&inner.inputs) {
            match (&operand.arg, bound_name(input)) {
                (arg, Some(name)) => names.bind(name, self.operand(scope, arg).map_err(fail)?),
                (_, None) => {}
            }
        }
        self.graph(inner, &mut names)?;
        let mut results = vec![];
        for output in &node.outputs {
            match output {
                Argument::Tensors(l) => results.extend(l.iter().map(|t| Some(&*t.name))),
                other => results.push(bound_name(other)),
            }
        }
        if results.len() != inner.outputs.len() {
            return Err(fail(format!("has {} results, its graph {}", results.len(), inner.outputs.len())));
        }
        for (result, output) in results.into_iter().zip(&inner.outputs) {
            if let Some(name) = result {
                scope.bind(name, self.operand(&names, output).map_err(fail)?);
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// What a region takes in or gives out.
    fn operand(&mut self, scope: &Scope<'a>, arg: &'a Argument<'a>) -> Result<Binding, String> {
        Ok(match arg {
            Argument::Tensor(t) => Binding::Tensor(scope.tensor(&t.name)?),
            Argument::Int(n) => Binding::Int(Ok((*n).into())),
            Argument::SymInt(s) => Binding::Int(scope.int(s)),
            Argument::Float(x) => Binding::Float(Some(x.0)),
            Argument::SymFloat(s) => Binding::Float(scope.float(s).ok()),
            Argument::Bool(b) => Binding::Bool(Some(*b)),
            Argument::SymBool(s) => Binding::Bool(scope.bool(s).ok()),
            _ => Binding::Constant,
        })
    }

    /// The caller's outputs, then what is overwritten.
    fn outputs(&mut self, specs: &'a [OutputSpec<'a>], scope: &Scope<'a>) -> Result<(), ImportError> {
        let mut values = vec![];
        let mut mutations: Vec<(MutationTarget, ValueId)> = vec![];
        for (i, spec) in specs.iter().enumerate() {
            let fail = |what: String| move |reason: String| ImportError::Signature { what, reason };
            let (target, arg) = match spec {
                OutputSpec::User(u) => {
                    let found = self.output(scope, &u.arg, i).map_err(fail(format!("output {i}")))?;
                    if let Some((name, value)) = found {
                        self.program.signature.outputs.push(name);
                        values.push(value);
                    }
                    continue;
                }
                OutputSpec::Buffer(b) => (self.constant_named(&b.buffer_name), &b.arg),
                OutputSpec::Parameter(p) => (self.constant_named(&p.parameter_name), &p.arg),
                OutputSpec::Input(m) => {
                    let input = self.program.signature.inputs.iter().position(|n| **n == *m.user_input_name);
                    (input.map(|i| MutationTarget::Input(i as u32)), &m.arg)
                }
                OutputSpec::Loss(_) => {
                    return Err(fail(format!("output {i}"))(
                        "is a loss; lowbit takes inference graphs".into(),
                    ));
                }
                OutputSpec::Other(k) => {
                    return Err(fail(format!("output {i}"))(format!("is a {k}, which lowbit does not know")));
                }
            };
            let what = format!("mutation of {}", arg.name);
            let target =
                target.ok_or_else(|| fail(what.clone())("overwrites nothing that the program has".into()))?;
            let t = scope.tensor(&arg.name).map_err(fail(what.clone()))?;
            let value = self.memory.read(&mut self.program, t).map_err(fail(what))?;
            mutations.push((target, value));
        }
        // Inputs and buffers that nodes wrote into.
        for (t, original) in std::mem::take(&mut self.roots) {
            let target = match self.program.graph.value(original).def() {
                Def::Input(i) => MutationTarget::Input(i),
                Def::Const(c) => MutationTarget::Buffer(c),
                Def::Node(..) => continue,
            };
            if self.memory.was_written(t) && !mutations.iter().any(|(m, _)| *m == target) {
                let fail = |reason| ImportError::Signature { what: "mutation".into(), reason };
                let value = self.memory.read(&mut self.program, t).map_err(fail)?;
                mutations.push((target, value));
            }
        }
        for (target, value) in mutations {
            self.program.signature.mutations.push(target);
            values.push(value);
        }
        self.program.graph.set_outputs(values);
        Ok(())
    }

    fn constant_named(&self, name: &str) -> Option<MutationTarget> {
        let (c, _) = self.program.constants.iter().find(|(_, c)| *c.name == *name)?;
        Some(MutationTarget::Buffer(c))
    }

    /// An output of the caller: its name and value. `None` has none; numbers become tensors of no dimensions.
    fn output(
        &mut self,
        scope: &Scope<'a>,
        arg: &'a Argument<'a>,
        i: usize,
    ) -> Result<Option<(Arc<str>, ValueId)>, String> {
        let name = format!("output_{i}");
        let number = match arg {
            Argument::None(_) => return Ok(None),
            Argument::Tensor(t) => {
                let id = scope.tensor(&t.name)?;
                let value = self.memory.read(&mut self.program, id)?;
                return Ok(Some(((&*t.name).into(), value)));
            }
            Argument::Int(n) => Tensor::scalar(*n),
            Argument::Float(x) => Tensor::scalar(x.0),
            Argument::Bool(b) => Tensor::from_bools(&[], vec![*b]).map_err(|e| e.to_string())?,
            Argument::SymFloat(s) => Tensor::scalar(scope.float(s)?),
            Argument::SymInt(s) => match scope.int(s)? {
                SymInt::Known(n) => Tensor::scalar(n),
                n => {
                    let op = lookup("aten.full.default")
                        .ok_or("needs aten.full.default, which lowbit does not have")?;
                    let args = vec![Arg::Ints(vec![]), n.into(), Arg::DType(DType::I64)];
                    let new = NewNode::new(op, args).named(&name[..]);
                    let node = self.program.graph.append(new).map_err(|e| e.to_string())?;
                    return Ok(Some((name.as_str().into(), self.program.graph.node(node).output())));
                }
            },
            other => return Err(format!("is {}; lowbit's outputs are tensors", describe(other))),
        };
        let value = self.program.add_constant(&name, ConstKind::Tensor, number);
        Ok(Some((name.as_str().into(), value)))
    }

    /// Removes nodes that the import made for nobody, and what fed only them.
    fn remove_unread(&mut self) {
        let graph = &mut self.program.graph;
        let mut todo = std::mem::take(&mut self.memory.emitted);
        todo.append(&mut self.unread);
        let returned: std::collections::HashSet<ValueId> = graph.outputs().iter().copied().collect();
        let mut gone = std::collections::HashSet::new();
        // Counted down as readers go.
        let mut readers: HashMap<ValueId, usize> = HashMap::new();
        let mut order = vec![];
        while let Some(n) = todo.pop() {
            let unread = graph.node(n).outputs().iter().all(|v| {
                !returned.contains(v)
                    && *readers.entry(*v).or_insert_with(|| graph.value(*v).uses().len()) == 0
            });
            if !unread || !gone.insert(n) {
                continue;
            }
            order.push(n);
            for v in graph.node(n).operands().collect::<Vec<_>>() {
                *readers.entry(v).or_insert_with(|| graph.value(v).uses().len()) -= 1;
                todo.extend(graph.producer(v));
            }
        }
        graph.erase_all(&order);
    }
}

/// What was recorded of a node's first argument, when that is a tensor.
fn operand_meta<'a>(graph: &'a Graph<'a>, node: &'a Node<'a>) -> Option<&'a TensorMeta<'a>> {
    match &node.inputs.first()?.arg {
        Argument::Tensor(t) => graph.tensor_values.get(&*t.name),
        _ => None,
    }
}

/// The name a graph's input or a node's result is bound to.
fn bound_name<'a>(arg: &'a Argument<'a>) -> Option<&'a str> {
    match arg {
        Argument::Tensor(t) => Some(&t.name),
        Argument::SymInt(SymIntArgument::Name(n)) => Some(n),
        Argument::SymFloat(SymFloatArgument::Name(n)) => Some(n),
        Argument::SymBool(SymBoolArgument::Name(n)) => Some(n),
        _ => None,
    }
}

/// The node's name; older files do not have it, there the first result has it.
fn node_name<'a>(node: &'a Node<'a>) -> &'a str {
    match (&node.name, node.outputs.first()) {
        (Some(name), _) => name,
        (None, Some(Argument::Tensors(l))) => l.first().map_or("", |t| &*t.name),
        (None, Some(output)) => bound_name(output).unwrap_or_default(),
        (None, None) => "",
    }
}

fn node_error(node: &Node<'_>, module: &ModuleStack, reason: String) -> ImportError {
    ImportError::Node {
        node: node_name(node).into(),
        target: targets::short(&node.target).into(),
        module: module.path().into(),
        reason,
    }
}
