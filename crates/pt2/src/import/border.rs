//! The border of a program: the file's inputs and outputs to inputs, constants, outputs and mutations.

use super::Importer;
use super::args::describe;
use super::scope::{Binding, Scope};
use crate::archive::Archive;
use crate::error::ImportError;
use crate::schema::{Argument, Graph, InputSpec, OutputSpec, SymIntArgument};
use lowbit_core::ir::{Arg, ConstKind, Def, Leaf, MutationTarget, NewNode, ValueId};
use lowbit_core::ops::lookup;
use lowbit_core::{DType, SymInt, Tensor};
use std::sync::Arc;

impl<'a> Importer<'a> {
    /// Inputs of the graph: the caller's become inputs, in order; parameters, buffers and literals constants.
    pub(super) fn inputs(
        &mut self,
        archive: &mut Archive,
        graph: &'a Graph<'a>,
        specs: &'a [InputSpec<'a>],
        scope: &mut Scope<'a>,
    ) -> Result<(), ImportError> {
        // The caller's inputs first: where names clash they keep theirs.
        for spec in specs {
            match spec {
                InputSpec::User(u) => {
                    self.user_input(graph, &u.arg, scope)?;
                    self.call.inputs.push(match &u.arg {
                        Argument::SymInt(SymIntArgument::Name(n)) => {
                            Leaf::Literal((&**n).into(), literal(scope, &u.arg).unwrap_or(Arg::None))
                        }
                        _ => Leaf::Tensor,
                    });
                }
                InputSpec::ConstantInput(c) => {
                    scope.bind(&c.name, Binding::Constant);
                    let value = c.value.as_ref().and_then(|v| literal(scope, v)).unwrap_or(Arg::None);
                    self.call.inputs.push(Leaf::Literal((&*c.name).into(), value));
                }
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
            if let Def::Const(c) = self.program.graph.value(value).def() {
                self.constants.insert(name, c);
                self.program.constants[c].persistent = match spec {
                    InputSpec::Buffer(b) => b.persistent != Some(false),
                    _ => kind != ConstKind::Tensor,
                };
            }
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

    /// The caller's outputs, then what is overwritten.
    pub(super) fn outputs(
        &mut self,
        specs: &'a [OutputSpec<'a>],
        scope: &Scope<'a>,
    ) -> Result<(), ImportError> {
        let mut values = vec![];
        let mut mutations: Vec<(MutationTarget, ValueId)> = vec![];
        for (i, spec) in specs.iter().enumerate() {
            let fail = |what: String| move |reason: String| ImportError::Signature { what, reason };
            let (target, arg) = match spec {
                OutputSpec::User(u) => {
                    let i = self.call.outputs.len();
                    let found = self.output(scope, &u.arg, i).map_err(fail(format!("output {i}")))?;
                    let leaf = literal(scope, &u.arg).map_or(Leaf::Tensor, |l| Leaf::Literal("".into(), l));
                    self.call.outputs.push(leaf);
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
        self.constants.get(name).map(|c| MutationTarget::Buffer(*c))
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
}

/// What the caller passes or gets where that is no tensor.
fn literal(scope: &Scope<'_>, arg: &Argument<'_>) -> Option<Arg> {
    Some(match arg {
        Argument::None(_) => Arg::None,
        Argument::Int(n) => Arg::from(*n),
        Argument::Float(x) => Arg::Float(x.0),
        Argument::Bool(b) => Arg::Bool(*b),
        Argument::Str(s) => Arg::from(&**s),
        Argument::SymInt(s) => Arg::Int(scope.int(s).ok()?),
        Argument::SymFloat(s) => Arg::Float(scope.float(s).ok()?),
        Argument::SymBool(s) => Arg::Bool(scope.bool(s).ok()?),
        _ => return None,
    })
}
