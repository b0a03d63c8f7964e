//! Nodes as calls of PyTorch's operators.

use super::border::{Border, Signature};
use super::names::Names;
use super::sizes::Sizes;
use super::storage::description;
use super::strides::Strides;
use crate::error::{ExportError, Place};
use crate::import::contiguous;
use crate::schema;
use lowbit_core::SymInt;
use lowbit_core::ir::{Arg, ModuleStack, Node, NodeId, Program, ValueId};
use lowbit_core::ops::{self, ArgKind, ArgSpec, OpDef};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The graph as it grows.
#[derive(Debug)]
pub struct Calls<'p> {
    border: &'p Border<'p>,
    program: &'p Program,
    pub names: Names,
    pub strides: Strides,
    sources: &'p BTreeMap<NodeId, NodeId>,
    sizes: Sizes,
    nodes: Vec<Value>,
    tensors: Map<String, Value>,
}

impl<'p> Calls<'p> {
    pub fn new(border: &'p Border<'p>, sources: &'p BTreeMap<NodeId, NodeId>) -> Self {
        let program = border.program;
        let mut calls = Calls {
            border,
            program,
            names: Names::new(border),
            strides: Strides::new(program),
            sources,
            sizes: Sizes::new(program),
            nodes: vec![],
            tensors: Map::new(),
        };
        let constants = border.constants().map(|(_, c)| c.value);
        for v in program.graph.inputs().iter().copied().chain(constants) {
            calls.describe(v);
        }
        calls
    }

    /// All nodes.
    pub fn nodes(&mut self) -> Result<(), ExportError> {
        for n in self.border.nodes() {
            self.strides.node(&self.program.graph, n);
            self.node(n)?;
        }
        Ok(())
    }

    fn node(&mut self, n: NodeId) -> Result<(), ExportError> {
        let node = self.program.graph.node(n);
        let fail = |reason: String| ExportError::Node { at: place(node), reason };
        if node.op().name.starts_with("lowbit.") {
            return Err(fail("has no name in PyTorch; only programs before lowering can be written".into()));
        }
        let (op, args) = self.spelled(node);
        let inputs = self.arguments(op, &args).map_err(fail)?;
        let results: Vec<Value> =
            node.outputs().iter().map(|&v| json!({"name": self.names.value(v)})).collect();
        let outputs = match op.schema().returns {
            None => vec![json!({"as_tensors": results})],
            Some(_) => results.into_iter().map(|r| json!({"as_tensor": r})).collect(),
        };
        node.outputs().iter().for_each(|&v| self.describe(v));
        let name = self.names.node(n).to_string();
        self.push(op, inputs, outputs, self.metadata(n), name);
        Ok(())
    }

    fn push(&mut self, op: &OpDef, inputs: Vec<Value>, outputs: Vec<Value>, metadata: Value, name: String) {
        self.nodes.push(json!({
            "target": format!("torch.ops.{}", op.name),
            "inputs": inputs,
            "outputs": outputs,
            "metadata": metadata,
            "is_hop_single_tensor_return": null,
            "name": name,
        }));
    }

    /// A copy of `v` with memory of its own: the name of the node that makes it.
    pub fn copy(&mut self, v: ValueId) -> String {
        let name = self.names.free("clone");
        let inputs = vec![positional("self", json!({"as_tensor": {"name": self.names.value(v)}}))];
        let outputs = vec![json!({"as_tensor": {"name": &name}})];
        self.push(&ops::CLONE, inputs, outputs, json!({}), name.clone());
        let ty = self.program.graph.ty(v);
        let sizes: Vec<Value> = ty.shape.iter().map(|n| self.sizes.describe(n)).collect();
        let strides: Vec<Value> = contiguous(&ty.shape).iter().map(|n| self.sizes.describe(n)).collect();
        self.tensors.insert(name.clone(), description(ty.dtype, &sizes, &strides));
        name
    }

    /// The name of the node that computes a size; `{"as_int": …}` where it is known.
    pub fn size(&mut self, n: &SymInt) -> Result<Value, String> {
        self.sizes.argument(n, self.program, &mut self.names, &mut self.nodes)
    }

    /// Records the type of a value.
    fn describe(&mut self, v: ValueId) {
        let ty = self.program.graph.ty(v);
        let in_order = contiguous(&ty.shape);
        let strides = self.strides.of(v).unwrap_or(&in_order);
        let mut list = |l: &[SymInt]| l.iter().map(|n| self.sizes.describe(n)).collect::<Vec<_>>();
        let meta = description(ty.dtype, &list(&ty.shape), &list(strides));
        self.tensors.insert(self.names.value(v).into(), meta);
    }

    /// The operator and arguments under which PyTorch knows what a node does.
    fn spelled(&self, node: &'p Node) -> (&'static OpDef, Vec<Arg>) {
        let (mut op, mut args) = (node.op(), node.args().to_vec());
        // Python's `x + 1` is the overload for tensors with a number in the tensor's place; others only exist in C++.
        let other = match (op.packet(), op.name.rsplit('.').next()) {
            ("aten.add" | "aten.sub" | "aten.mul" | "aten.div", Some("Scalar")) => {
                ops::lookup(&format!("{}.Tensor", op.packet()))
            }
            ("aten.div", Some("Scalar_mode")) => ops::lookup("aten.div.Tensor_mode"),
            ("aten.view" | "aten._unsafe_view", Some("default"))
                if !self.strides.can_view(&self.program.graph, node) =>
            {
                Some(&ops::RESHAPE)
            }
            _ => None,
        };
        op = other.filter(|t| t.schema().args.len() == args.len()).unwrap_or(op);
        // ExecuTorch reads the stride of a pool that PyTorch takes to be the window's size.
        let schema = op.schema();
        if let (Some(k), Some(s)) = (schema.index_of("kernel_size"), schema.index_of("stride"))
            && matches!(&args[s], Arg::Ints(l) if l.is_empty())
        {
            args[s] = args[k].clone();
        }
        (op, args)
    }

    /// Arguments by name. Trailing defaults are left out, as PyTorch does; those in between have to be there.
    fn arguments(&mut self, op: &'static OpDef, args: &[Arg]) -> Result<Vec<Value>, String> {
        let specs = &op.schema().args;
        let given = |(spec, arg): (&ArgSpec, &Arg)| spec.default.as_ref() != Some(arg);
        let positional = specs.iter().zip(args).rposition(|(s, a)| !s.kwarg_only && given((s, a)));
        let mut out = vec![];
        for (i, (spec, arg)) in specs.iter().zip(args).enumerate() {
            let kind = match spec.kwarg_only {
                false if positional.is_some_and(|last| i <= last) => 1,
                true if given((spec, arg)) => 2,
                _ => continue,
            };
            let arg = self.argument(spec, arg).map_err(|e| format!("argument {} {e}", spec.name))?;
            out.push(json!({"name": spec.name, "arg": arg, "kind": kind}));
        }
        Ok(out)
    }

    fn argument(&mut self, spec: &ArgSpec, arg: &Arg) -> Result<Value, String> {
        let tensor = |v: &ValueId| json!({"name": self.names.value(*v)});
        Ok(match arg {
            Arg::None => json!({"as_none": true}),
            Arg::Value(v) => json!({"as_tensor": tensor(v)}),
            Arg::Values(l) => json!({"as_tensors": l.iter().map(tensor).collect::<Vec<_>>()}),
            Arg::OptValues(l) => {
                let one = |v: &Option<ValueId>| match v {
                    Some(v) => json!({"as_tensor": tensor(v)}),
                    None => json!({"as_none": true}),
                };
                json!({"as_optional_tensors": l.iter().map(one).collect::<Vec<_>>()})
            }
            Arg::Int(SymInt::Known(n)) => json!({"as_int": n}),
            Arg::Int(n) => json!({"as_sym_int": self.size(n)?}),
            Arg::Ints(l) => match l.iter().map(SymInt::known).collect::<Option<Vec<i64>>>() {
                Some(known) => json!({"as_ints": known}),
                None => {
                    json!({"as_sym_ints": l.iter().map(|n| self.size(n)).collect::<Result<Vec<_>, _>>()?})
                }
            },
            Arg::Float(x) => json!({"as_float": float(*x)}),
            Arg::Floats(l) => json!({"as_floats": l.iter().map(|x| float(*x)).collect::<Vec<_>>()}),
            Arg::Bool(b) => json!({"as_bool": b}),
            Arg::Bools(l) => json!({"as_bools": l}),
            Arg::DType(d) => json!({"as_scalar_type": schema::dtype_number(*d)}),
            Arg::Str(s) if spec.kind == ArgKind::Other => setting(s)?,
            Arg::Str(s) => json!({"as_string": &**s}),
            _ => return Err("is of a kind that lowbit cannot write yet".into()),
        })
    }

    /// The modules of a node, and where a quantize or dequantize node comes from.
    fn metadata(&self, n: NodeId) -> Value {
        let mut meta = Map::new();
        if let Some(stack) = modules(&self.program.graph.node(n).module) {
            meta.insert("nn_module_stack".into(), stack.into());
        }
        if let Some(&source) = self.sources.get(&n) {
            let node = self.program.graph.node(source);
            let from = json!([{
                "name": &*node.name,
                "target": node.op().name,
                "graph_id": 0,
                "pass_name": "lowbit.convert",
                "action": "create",
                "from_node": [],
            }]);
            meta.insert("from_node".into(), from.to_string().into());
        }
        meta.into()
    }

    /// The file's graph.
    pub fn finish(self, signature: &Signature) -> Result<Value, ExportError> {
        if let Some(n) = self.sizes.unreadable {
            let reason = "is too long a formula to be read back".into();
            return Err(ExportError::Signature { what: format!("size {n}"), reason });
        }
        Ok(json!({
            "inputs": signature.inputs,
            "outputs": signature.outputs,
            "nodes": self.nodes,
            "tensor_values": self.tensors,
            "sym_int_values": self.sizes.values,
            "sym_bool_values": {},
            "is_single_tensor_return": false,
            "custom_obj_values": {},
            "sym_float_values": {},
        }))
    }
}

fn positional(name: &str, arg: Value) -> Value {
    json!({"name": name, "arg": arg, "kind": 1})
}

/// JSON has no infinities: PyTorch spells them.
pub fn float(x: f64) -> Value {
    match x {
        x if x.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        x => x.into(),
    }
}

/// A memory format, layout or device, which lowbit keeps as text.
fn setting(text: &str) -> Result<Value, String> {
    if let Some(n) = schema::memory_format_number(text) {
        return Ok(json!({"as_memory_format": n}));
    }
    if text == "strided" {
        return Ok(json!({"as_layout": schema::STRIDED}));
    }
    let (kind, index) = match text.split_once(':') {
        Some((kind, n)) => (kind, Some(n.parse::<i64>().map_err(|_| format!("is no device: {text:?}"))?)),
        None => (text, None),
    };
    Ok(json!({"as_device": {"type": kind, "index": index}}))
}

/// `key,path,type` of each module, outermost first, with `;` between.
fn modules(stack: &ModuleStack) -> Option<String> {
    let frame = |f: &lowbit_core::ir::ModuleFrame| format!("L__self__{0},{0},{1}", f.path, f.type_name);
    let frames: Vec<String> = stack.frames().iter().map(frame).collect();
    (!frames.is_empty()).then(|| frames.join(";"))
}

fn place(node: &Node) -> Box<Place> {
    Box::new(Place {
        node: node.name.to_string(),
        target: node.op().name.into(),
        module: node.module.path().into(),
    })
}
