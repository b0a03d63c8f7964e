//! Buffers: each is used again as soon as the value in it is dead.

use super::{Place, Plan};

/// Gives every computed slot a buffer.
pub fn assign(plan: &mut Plan) {
    let mut last = vec![None; plan.slots.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        let watched = step.watched.iter().map(|(_, s)| s);
        for &s in step.inputs.iter().chain(&step.outputs).chain(watched) {
            last[plan.root(s)] = Some(at);
        }
    }
    for &s in &plan.results {
        last[plan.root(s)] = Some(plan.steps.len());
    }
    let mut free: Vec<usize> = vec![];
    let mut dying: Vec<Vec<usize>> = vec![vec![]; plan.steps.len() + 1];
    for at in 0..plan.steps.len() {
        for &s in &plan.steps[at].outputs {
            if plan.root(s) != s {
                continue;
            }
            let b = take(&mut free, &mut plan.buffers, plan.slots[s].bytes());
            plan.slots[s].place = Place::Buffer(b);
            if let Some(end) = last[s] {
                dying[end].push(b);
            }
        }
        free.append(&mut dying[at]);
    }
}

/// A free buffer that is large enough with the least waste, or the largest, grown, or a new one.
fn take(free: &mut Vec<usize>, buffers: &mut Vec<usize>, bytes: usize) -> usize {
    let fit =
        (0..free.len()).filter(|&i| buffers[free[i]] >= bytes).min_by_key(|&i| (buffers[free[i]], free[i]));
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
