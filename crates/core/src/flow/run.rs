//! Running lowered programs: delegates on the backend's own interpreter, nodes outside on the CPU, one at a time.

use super::Lowered;
use crate::backend::Device;
use crate::executor::{Executor, RunError};
use crate::ir::{Arg, NewNode, NodeId, Program, ValueId};
use crate::ops;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Why a lowered program did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A node outside delegates.
    #[error("outside the delegates: {0}")]
    Outside(#[from] RunError),
    /// A delegate.
    #[error("delegate {delegate}: {reason}")]
    Delegate {
        /// Its number.
        delegate: usize,
        /// What the device said, or what was wrong with its answer.
        reason: String,
    },
    /// A call that cannot be followed.
    #[error("{0}")]
    Malformed(String),
}

/// Runs a lowered program once, buffers in their initial state; gives the user's outputs.
///
/// # Errors
/// When a delegate or a node outside fails, or a delegate's answer has not the types it declared.
pub fn run_lowered(
    lowered: &Lowered,
    device: &dyn Device,
    executor: &dyn Executor,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, DeviceError> {
    let outputs = run(lowered, &lowered.program, device, executor, inputs)?;
    Ok(outputs.into_iter().take(lowered.program.user_outputs().len()).collect())
}

/// Runs the program or one of the bodies; gives all outputs.
fn run(
    lowered: &Lowered,
    program: &Program,
    device: &dyn Device,
    executor: &dyn Executor,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, DeviceError> {
    let g = &program.graph;
    let bindings = program.bind(inputs).map_err(RunError::from)?;
    let mut values: BTreeMap<ValueId, Tensor> =
        g.inputs().iter().copied().zip(inputs.iter().cloned()).collect();
    values.extend(program.constants.iter().map(|(_, c)| (c.value, c.tensor.clone())));
    let read = |values: &BTreeMap<ValueId, Tensor>, v: ValueId| {
        let missing = || DeviceError::Malformed(format!("%{} is read before it is made", g.value(v).name));
        values.get(&v).cloned().ok_or_else(missing)
    };
    for n in g.nodes() {
        let node = g.node(n);
        let made = if *node.op() == ops::CALL_DELEGATE {
            let operands = node.operands().map(|v| read(&values, v)).collect::<Result<Vec<_>, _>>()?;
            let number = ops::views::int(node.arg(0)).and_then(|i| usize::try_from(i).ok());
            let delegate = number.filter(|i| *i < lowered.delegates.len()).ok_or_else(|| {
                DeviceError::Malformed(format!("%{} calls a delegate that does not exist", node.name))
            })?;
            let fail = |reason: String| DeviceError::Delegate { delegate, reason };
            let mut made = device.run(&lowered.delegates[delegate].blob, &operands).map_err(fail)?;
            let want = node.outputs().len();
            if made.len() != want {
                return Err(fail(format!("gave {} outputs, its call has {want}", made.len())));
            }
            for (t, &v) in made.iter_mut().zip(node.outputs()) {
                let ty = g.ty(v);
                let shape = ty.resolve(&bindings).map_err(|e| fail(e.to_string()))?;
                // Devices without scalars have lists of one.
                if shape.is_empty() && t.shape() == [1] {
                    *t = t.reshape(&shape).map_err(|e| fail(e.to_string()))?;
                }
                if t.dtype() != ty.dtype || t.shape() != shape {
                    let (name, got) = (&g.value(v).name, t.shape());
                    return Err(fail(format!("gave {}{got:?} for %{name}, which is {ty}", t.dtype())));
                }
            }
            made
        } else if *node.op() == ops::LOOP {
            let body =
                ops::views::int(node.arg(0)).and_then(|i| lowered.bodies.get(usize::try_from(i).ok()?));
            let body = body.ok_or_else(|| {
                DeviceError::Malformed(format!("%{} repeats a body that does not exist", node.name))
            })?;
            let list =
                |i: usize| node.arg(i).values().map(|v| read(&values, v)).collect::<Result<Vec<_>, _>>();
            let step = |inputs: &[Tensor]| run(lowered, body, device, executor, inputs);
            repeat(list(1)?, &list(2)?, &list(3)?, *node.arg(4) == Arg::Bool(true), step)?
        } else {
            run_node(program, n, &values, executor, inputs)?
        };
        values.extend(node.outputs().iter().copied().zip(made));
    }
    g.outputs().iter().map(|&v| read(&values, v)).collect()
}

/// A loop: what is carried, then what is stacked.
fn repeat(
    mut carry: Vec<Tensor>,
    xs: &[Tensor],
    captured: &[Tensor],
    reverse: bool,
    step: impl Fn(&[Tensor]) -> Result<Vec<Tensor>, DeviceError>,
) -> Result<Vec<Tensor>, DeviceError> {
    let malformed = |what: &str| DeviceError::Malformed(format!("a loop {what}"));
    let steps =
        xs.first().and_then(|x| x.shape().first()).copied().ok_or_else(|| malformed("has no steps"))?;
    let mut stacks: Vec<(Option<Tensor>, Vec<u8>)> = vec![];
    for t in 0..steps {
        let t = if reverse { steps - 1 - t } else { t };
        let slice = |x: &Tensor| {
            let length = x.bytes().len() / steps;
            let bytes = x.bytes().slice(t * length..(t + 1) * length);
            Tensor::from_bytes(x.dtype(), &x.shape()[1..], bytes).map_err(|e| malformed(&e.to_string()))
        };
        let slices = xs.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<Tensor> = carry.iter().chain(&slices).chain(captured).cloned().collect();
        let mut made = step(&inputs)?;
        let stacked = made.split_off(carry.len().min(made.len()));
        carry = made;
        stacks.resize_with(stacked.len(), Default::default);
        for ((like, bytes), t) in stacks.iter_mut().zip(stacked) {
            bytes.extend_from_slice(t.bytes());
            *like = Some(t);
        }
    }
    for (like, bytes) in stacks {
        let like = like.ok_or_else(|| malformed("has no steps"))?;
        let shape: Vec<usize> = [steps].into_iter().chain(like.shape().iter().copied()).collect();
        let whole = Tensor::from_bytes(like.dtype(), &shape, bytes.into());
        carry.push(whole.map_err(|e| malformed(&e.to_string()))?);
    }
    Ok(carry)
}

/// Runs one node as a program of its own. It has the whole program's inputs too, so that symbols get their values.
fn run_node(
    program: &Program,
    n: NodeId,
    values: &BTreeMap<ValueId, Tensor>,
    executor: &dyn Executor,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, DeviceError> {
    let g = &program.graph;
    let node = g.node(n);
    let mut part = Program { symbols: program.symbols.clone(), ..Program::default() };
    let mut given: Vec<Tensor> = inputs.to_vec();
    let mut new_value: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for &v in g.inputs() {
        new_value.insert(v, part.graph.add_input(&g.value(v).name, g.ty(v).clone()));
    }
    for v in node.operands() {
        if new_value.contains_key(&v) {
            continue;
        }
        let name = &g.value(v).name;
        let new = match (program.constant(v), values.get(&v)) {
            (Some(c), _) => part.add_constant(&c.name, c.kind, c.tensor.clone()),
            (None, Some(t)) => {
                given.push(t.clone());
                part.graph.add_input(name, g.ty(v).clone())
            }
            (None, None) => return Err(DeviceError::Malformed(format!("%{name} is read before it is made"))),
        };
        new_value.insert(v, new);
    }
    part.signature.inputs = part.graph.inputs().iter().map(|&v| part.graph.value(v).name.clone()).collect();
    let args: Vec<Arg> = node
        .args()
        .iter()
        .map(|a| match a {
            Arg::Value(v) => Arg::Value(new_value[v]),
            Arg::Values(l) => Arg::Values(l.iter().map(|v| new_value[v]).collect()),
            Arg::OptValues(l) => Arg::OptValues(l.iter().map(|v| v.map(|v| new_value[&v])).collect()),
            other => other.clone(),
        })
        .collect();
    let mut new = NewNode::new(node.op(), args).like(node);
    new.types = Some(node.outputs().iter().map(|&v| g.ty(v).clone()).collect());
    let copy = part.graph.append(new).map_err(|e| DeviceError::Malformed(e.to_string()))?;
    let made = part.graph.node(copy).outputs().to_vec();
    part.signature.outputs = made.iter().map(|&v| part.graph.value(v).name.clone()).collect();
    part.graph.set_outputs(made);
    Ok(executor.load(&part, &[])?.run(&given, &mut |_, _| {})?)
}
