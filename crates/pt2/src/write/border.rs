//! The signature: what the graph's placeholders and outputs are to the caller.

use super::calls::{Calls, float};
use super::names::{self, kind};
use crate::error::ExportError;
use lowbit_core::SymInt;
use lowbit_core::ir::{
    Arg, CallSpec, ConstId, ConstKind, Constant, Leaf, MutationTarget, NodeId, Program, ValueId,
};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Placeholders and outputs of the graph, each with its specification.
#[derive(Debug, Default)]
pub struct Signature {
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
    pub input_specs: Vec<Value>,
    pub output_specs: Vec<Value>,
}

/// A program with the way it is called.
#[derive(Debug)]
pub struct Border<'p> {
    pub program: &'p Program,
    call: CallSpec,
    /// Tensors that stand for a number among the results, and for nothing else: PyTorch returns the number.
    numbers: HashSet<ValueId>,
}

impl<'p> Border<'p> {
    pub fn new(program: &'p Program) -> Border<'p> {
        let call = match &program.signature.call {
            Some(call) if fits(program, call) => (**call).clone(),
            _ => plain(program),
        };
        let leaves = call.outputs.iter().filter(|l| !matches!(l, Leaf::Literal(_, Arg::None)));
        let is_number = |l: &Leaf| *l != Leaf::Tensor;
        let returned: Vec<(ValueId, bool)> =
            program.user_outputs().iter().copied().zip(leaves.map(is_number)).collect();
        let tensors: HashSet<ValueId> =
            returned.iter().filter(|(_, number)| !number).map(|(v, _)| *v).collect();
        let stored: HashSet<ValueId> = program.mutations().map(|(_, v)| v).collect();
        let alone = |v: &ValueId| {
            !tensors.contains(v) && !stored.contains(v) && program.graph.value(*v).uses().is_empty()
        };
        let numbers = returned.iter().filter(|(_, number)| *number).map(|(v, _)| *v).filter(alone).collect();
        Border { program, call, numbers }
    }

    /// Constants that have to be in the file.
    pub fn constants(&self) -> impl Iterator<Item = (ConstId, &'p Constant)> + '_ {
        self.program.live_constants().filter(|(_, c)| !self.numbers.contains(&c.value))
    }

    /// Nodes that have to be in the file.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let g = &self.program.graph;
        g.nodes().filter(|n| !g.node(*n).outputs().iter().all(|v| self.numbers.contains(v)))
    }

    /// The signature, and how the model is called.
    pub fn write(&self, calls: &mut Calls<'_>) -> Result<(Signature, Value), ExportError> {
        write(self, calls)
    }
}

fn write(border: &Border<'_>, calls: &mut Calls<'_>) -> Result<(Signature, Value), ExportError> {
    let (program, call) = (border.program, &border.call);
    let mut s = Signature::default();
    // Parameters, buffers and constants, in PyTorch's order.
    for wanted in [ConstKind::Parameter, ConstKind::Buffer, ConstKind::Tensor] {
        for (_, c) in border.constants().filter(|(_, c)| kind(program, c) == wanted) {
            let arg = json!({"name": calls.names.value(c.value)});
            s.inputs.push(json!({"as_tensor": &arg}));
            s.input_specs.push(match wanted {
                ConstKind::Parameter => json!({"parameter": {"arg": arg, "parameter_name": &*c.name}}),
                ConstKind::Buffer => {
                    json!({"buffer": {"arg": arg, "buffer_name": &*c.name, "persistent": names::is_persistent(c)}})
                }
                ConstKind::Tensor => json!({"tensor_constant": {"arg": arg, "tensor_constant_name": &*c.name}}),
            });
        }
    }
    let mut tensors = program.graph.inputs().iter();
    for leaf in &call.inputs {
        let arg = match (leaf, tensors.as_slice()) {
            (Leaf::Tensor, [v, ..]) => {
                tensors.next();
                let arg = json!({"as_tensor": {"name": calls.names.value(*v)}});
                s.input_specs.push(json!({"user_input": {"arg": &arg}}));
                arg
            }
            (Leaf::Tensor, []) => continue,
            (Leaf::Literal(name, value), _) => {
                let arg = literal(value).map_err(|reason| fail(&format!("input {name:?}"), reason))?;
                s.input_specs
                    .push(json!({"constant_input": {"name": calls.names.free(name), "value": &arg}}));
                arg
            }
        };
        s.inputs.push(arg);
    }
    outputs(border, calls, &mut s)?;
    let call = json!({
        "inputs": [],
        "outputs": [],
        "in_spec": &*call.in_spec,
        "out_spec": &*call.out_spec,
        "forward_arg_names": call.arg_names.iter().map(|n| &**n).collect::<Vec<_>>(),
    });
    Ok((s, call))
}

/// The new value of what is overwritten first, then the caller's outputs: PyTorch's order.
fn outputs(border: &Border<'_>, calls: &mut Calls<'_>, s: &mut Signature) -> Result<(), ExportError> {
    let (program, call) = (border.program, &border.call);
    // PyTorch overwrites at the end, one by one: what still has to be read from there then is copied before.
    let overwritten: HashSet<ValueId> = program
        .mutations()
        .map(|(target, _)| match target {
            MutationTarget::Buffer(c) => program.constants[c].value,
            MutationTarget::Input(i) => program.graph.inputs()[i as usize],
        })
        .collect();
    let named = |calls: &mut Calls<'_>, v: ValueId| match overwritten.contains(&calls.strides.root(v)) {
        true => calls.copy(v),
        false => calls.names.value(v).to_string(),
    };
    let mut used = HashSet::new();
    for (target, v) in program.mutations() {
        // PyTorch looks mutations up by what is written: it can only be written once.
        let name = if used.insert(v) { named(calls, v) } else { calls.copy(v) };
        let arg = json!({"name": name});
        s.outputs.push(json!({"as_tensor": &arg}));
        s.output_specs.push(match target {
            MutationTarget::Buffer(c) => {
                let c = &program.constants[c];
                match names::kind(program, c) {
                    ConstKind::Parameter => {
                        json!({"parameter_mutation": {"arg": arg, "parameter_name": &*c.name}})
                    }
                    _ => json!({"buffer_mutation": {"arg": arg, "buffer_name": &*c.name}}),
                }
            }
            MutationTarget::Input(i) => {
                let name = calls.names.value(program.graph.inputs()[i as usize]);
                json!({"user_input_mutation": {"arg": arg, "user_input_name": name}})
            }
        });
    }
    let mut values = program.user_outputs().iter();
    for (i, leaf) in call.outputs.iter().enumerate() {
        let arg = match leaf {
            Leaf::Tensor => match values.next() {
                Some(&v) => json!({"as_tensor": {"name": named(calls, v)}}),
                None => continue,
            },
            Leaf::Literal(_, value) => {
                if *value != Arg::None {
                    values.next();
                }
                let size = match value {
                    Arg::Int(n @ SymInt::Expr(_)) => calls.size(n).map(|size| json!({"as_sym_int": size})),
                    value => literal(value),
                };
                size.map_err(|reason| fail(&format!("output {i}"), reason))?
            }
        };
        s.output_specs.push(json!({"user_output": {"arg": &arg}}));
        s.outputs.push(arg);
    }
    Ok(())
}

/// Whether the leaves are those of the program's inputs and outputs: passes may have changed them.
fn fits(program: &Program, call: &CallSpec) -> bool {
    let inputs = call.inputs.iter().filter(|l| **l == Leaf::Tensor).count();
    let outputs = call.outputs.iter().filter(|l| !matches!(l, Leaf::Literal(_, Arg::None))).count();
    inputs == program.graph.inputs().len() && outputs == program.user_outputs().len()
}

/// A call with one argument an input, which returns one tensor or a tuple of them.
fn plain(program: &Program) -> CallSpec {
    let leaf = || json!({"type": null, "context": null, "children_spec": []});
    let tuple = |n: usize| {
        let children: Vec<Value> = (0..n).map(|_| leaf()).collect();
        json!({"type": "builtins.tuple", "context": "null", "children_spec": children})
    };
    let (inputs, outputs) = (program.graph.inputs().len(), program.user_outputs().len());
    let no_keywords = json!({"type": "builtins.dict", "context": "[]", "children_spec": []});
    let arguments =
        json!({"type": "builtins.tuple", "context": "null", "children_spec": [tuple(inputs), no_keywords]});
    let results = if outputs == 1 { leaf() } else { tuple(outputs) };
    CallSpec {
        // A version of the form, and the tree.
        in_spec: json!([1, arguments]).to_string().into(),
        out_spec: json!([1, results]).to_string().into(),
        arg_names: program.signature.inputs.clone(),
        inputs: vec![Leaf::Tensor; inputs],
        outputs: vec![Leaf::Tensor; outputs],
    }
}

/// A value that is no tensor.
fn literal(value: &Arg) -> Result<Value, String> {
    Ok(match value {
        Arg::None => json!({"as_none": true}),
        Arg::Int(SymInt::Known(n)) => json!({"as_int": n}),
        Arg::Float(x) => json!({"as_float": float(*x)}),
        Arg::Bool(b) => json!({"as_bool": b}),
        Arg::Str(s) => json!({"as_string": &**s}),
        other => return Err(format!("is {other:?}, which PyTorch takes for no constant")),
    })
}

fn fail(what: &str, reason: String) -> ExportError {
    ExportError::Signature { what: what.into(), reason }
}
