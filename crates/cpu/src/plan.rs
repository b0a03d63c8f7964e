//! Plans: a program with its shapes known, as steps over buffers that are reused as soon as their values are dead.

use crate::kernel::{ConcreteArg, Kernel, kernel};
use lowbit_core::dtype::DType;
use lowbit_core::executor::RunError;
use lowbit_core::ir::{Arg, Def, Key, NodeId, Program, ValueId};
use lowbit_core::symint::Bindings;
use std::collections::{BTreeMap, BTreeSet};

/// Where a value's elements are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The caller's input.
    Input(usize),
    /// A constant of the program, or the current state of a buffer.
    Const(usize),
    /// A buffer of the plan.
    Buffer(usize),
    /// Nobody reads it.
    Nowhere,
}

/// A value with its shape known.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Where it is.
    pub place: Place,
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Vec<usize>,
}

/// One kernel call.
#[derive(Debug)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// Its kernel; `None` for a node whose output is its input's bytes under another shape.
    pub kernel: Option<Kernel>,
    /// Arguments with symbols resolved.
    pub args: Vec<ConcreteArg>,
    /// Operands, by slot.
    pub inputs: Vec<ValueId>,
    /// Outputs.
    pub outputs: Vec<ValueId>,
    /// Watched values that exist once this step has run.
    pub watched: Vec<ValueId>,
}

/// A program made ready for certain input shapes.
#[derive(Debug)]
pub struct Plan {
    /// By value id.
    pub slots: Vec<Slot>,
    /// In program order.
    pub steps: Vec<Step>,
    /// Bytes of each buffer.
    pub buffers: Vec<usize>,
    /// Watched inputs and constants: there before the first step.
    pub watched_first: Vec<ValueId>,
}

impl Plan {
    /// Plans `program` for symbols of these values. `watch` values are shown to the probe, so they are all made.
    ///
    /// # Errors
    /// When an operator has no kernel, or a shape cannot be resolved.
    pub fn new(program: &Program, bindings: &Bindings, watch: &BTreeSet<ValueId>) -> Result<Plan, RunError> {
        let g = &program.graph;
        let mut slots = Vec::with_capacity(g.values().len());
        for (_, value) in g.values() {
            // Values of erased nodes may hold symbols that no longer exist; nobody reads them.
            let shape = value.ty.resolve(bindings).unwrap_or_default();
            let place = match value.def() {
                Def::Input(i) => Place::Input(i as usize),
                Def::Const(c) => Place::Const(c.index()),
                Def::Node(..) => Place::Nowhere,
            };
            slots.push(Slot { place, dtype: value.ty.dtype, shape });
        }
        let last_use = last_uses(program);
        let mut plan = Plan { slots, steps: vec![], buffers: vec![], watched_first: vec![] };
        plan.watched_first =
            watch.iter().copied().filter(|&v| !matches!(g.value(v).def(), Def::Node(..))).collect();
        let mut free: Vec<usize> = vec![];
        // How many live values read each buffer: aliases share one.
        let mut readers: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, n) in g.nodes().enumerate() {
            let node = g.node(n);
            let inputs: Vec<ValueId> = node.operands().collect();
            let outputs = node.outputs().to_vec();
            for &v in &outputs {
                let shape = g.ty(v).resolve(bindings);
                plan.slots[v.index()].shape =
                    shape.map_err(|e| RunError::node(program, n, format!("output shape: {e}")))?;
            }
            let alias = is_alias(program, n, &plan.slots);
            let kernel = match kernel(node.op()) {
                Some(k) => k,
                None => return Err(RunError::node(program, n, format!("{} has no kernel", node.op().name))),
            };
            if alias {
                plan.slots[outputs[0].index()].place = plan.slots[inputs[0].index()].place;
                if let Place::Buffer(b) = plan.slots[outputs[0].index()].place {
                    *readers.entry(b).or_default() += 1;
                }
            } else {
                for &v in &outputs {
                    let slot = &plan.slots[v.index()];
                    let bytes = slot.shape.iter().product::<usize>() * slot.dtype.size();
                    let b = take(&mut free, &mut plan.buffers, bytes);
                    plan.slots[v.index()].place = Place::Buffer(b);
                    readers.insert(b, 1);
                }
            }
            let mut done: Vec<ValueId> = inputs.iter().chain(&outputs).copied().collect();
            done.sort();
            done.dedup();
            for v in done {
                let Place::Buffer(b) = plan.slots[v.index()].place else { continue };
                if last_use[v.index()].is_none_or(|u| u == at)
                    && !g.is_output(v)
                    && let Some(r) = readers.get_mut(&b)
                {
                    *r -= 1;
                    if *r == 0 {
                        free.push(b);
                    }
                }
            }
            plan.steps.push(Step {
                node: n,
                kernel: (!alias).then_some(kernel),
                args: concrete(program, n, bindings)?,
                watched: outputs.iter().copied().filter(|v| watch.contains(v)).collect(),
                inputs,
                outputs,
            });
        }
        Ok(plan)
    }
}

/// The place in the schedule of each value's last reader.
fn last_uses(program: &Program) -> Vec<Option<usize>> {
    let g = &program.graph;
    let mut last = vec![None; g.values().len()];
    for (at, n) in g.nodes().enumerate() {
        for v in g.node(n).operands() {
            last[v.index()] = Some(at);
        }
    }
    last
}

/// A free buffer that is large enough with the least waste, or a new one.
fn take(free: &mut Vec<usize>, buffers: &mut Vec<usize>, bytes: usize) -> usize {
    let fit =
        (0..free.len()).filter(|&i| buffers[free[i]] >= bytes).min_by_key(|&i| (buffers[free[i]], free[i]));
    // Otherwise the largest free one grows.
    let grow = || (0..free.len()).max_by_key(|&i| (buffers[free[i]], free[i]));
    match fit.or_else(grow) {
        Some(i) => {
            let b = free.swap_remove(i);
            buffers[b] = buffers[b].max(bytes);
            b
        }
        None => {
            buffers.push(bytes);
            buffers.len() - 1
        }
    }
}

/// Whether a node's output is its first operand's bytes as they are.
fn is_alias(program: &Program, n: NodeId, slots: &[Slot]) -> bool {
    const ALIASES: &[&str] = &[
        "view",
        "reshape",
        "_unsafe_view",
        "view_copy",
        "view_as",
        "reshape_as",
        "flatten",
        "unflatten",
        "squeeze",
        "squeeze_copy",
        "unsqueeze",
        "unsqueeze_copy",
        "alias",
        "alias_copy",
        "clone",
        "contiguous",
        "detach",
        "lift_fresh_copy",
        "dropout",
        "feature_dropout",
    ];
    let node = program.graph.node(n);
    let name = node.op().short_name();
    let casts = ["to", "_to_copy", "type_as"].contains(&name);
    let (Some(from), [to]) = (node.operands().next(), node.outputs()) else { return false };
    let same_type = slots[from.index()].dtype == slots[to.index()].dtype;
    same_type && (ALIASES.contains(&name) || casts)
}

fn concrete(program: &Program, n: NodeId, bindings: &Bindings) -> Result<Vec<ConcreteArg>, RunError> {
    let mut slot = 0;
    let mut next = || {
        slot += 1;
        slot - 1
    };
    let eval = |n: &lowbit_core::SymInt| n.eval(bindings);
    let args = program.graph.node(n).args().iter().map(|a| {
        Ok(match a {
            Arg::None => ConcreteArg::None,
            Arg::Value(_) => ConcreteArg::Tensor(next()),
            Arg::Values(vs) => ConcreteArg::Tensors(vs.iter().map(|_| next()).collect()),
            Arg::OptValues(vs) => ConcreteArg::OptTensors(vs.iter().map(|v| v.map(|_| next())).collect()),
            Arg::Int(n) => ConcreteArg::Int(eval(n)?),
            Arg::Ints(l) => ConcreteArg::Ints(l.iter().map(eval).collect::<Result<_, _>>()?),
            Arg::Float(x) => ConcreteArg::Float(*x),
            Arg::Floats(l) => ConcreteArg::Floats(l.clone()),
            Arg::Bool(b) => ConcreteArg::Bool(*b),
            Arg::Bools(l) => ConcreteArg::Bools(l.clone()),
            Arg::Str(s) => ConcreteArg::Str(s.clone()),
            Arg::DType(d) => ConcreteArg::DType(*d),
            _ => ConcreteArg::None,
        })
    });
    args.collect::<Result<_, lowbit_core::symint::EvalError>>()
        .map_err(|e| RunError::node(program, n, e.to_string()))
}
