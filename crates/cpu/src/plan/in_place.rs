//! Bounds that are applied where a value lies: its memory is read and written once, and nobody else needs what it was.

use super::{Place, Plan, Run};
use lowbit_core::DType;
use lowbit_core::ir::Program;
use lowbit_core::ops;

/// Has steps that bound a computed value for the last time that it is needed do so in place.
pub fn bound(program: &Program, plan: &mut Plan) {
    let mut last = plan.last_steps();
    for at in 0..plan.steps.len() {
        let step = &plan.steps[at];
        let node = program.graph.node(step.node);
        let (Run::Kernel(_), &[from], &[to]) = (&step.run, &step.inputs[..], &step.outputs[..]) else {
            continue;
        };
        let Some(bounds) = ops::bounds(node.op(), node.args()) else { continue };
        let root = plan.root(from);
        let floats = [from, to].iter().all(|&s| plan.slots[s].dtype == DType::F32);
        let computed = plan.slots[root].place == Place::Nowhere && plan.slots[to].place == Place::Nowhere;
        let whole = plan.slots[root].bytes() == plan.slots[to].bytes();
        if !(floats && computed && whole && last[root] == at) {
            continue;
        }
        plan.slots[to].place = Place::Alias(root, 0);
        last[root] = last[to];
        let step = &mut plan.steps[at];
        (step.run, step.inputs, step.outputs) = (Run::Bound(bounds.0, bounds.1), vec![], vec![root]);
    }
}
