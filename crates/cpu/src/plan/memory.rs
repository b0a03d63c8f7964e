//! The arena: where in one piece of memory each value lies. Values that do not live at the same time may share a place.

use super::{Place, Plan};

/// A value's bytes, and the groups of steps from the one that computes it to the last that needs it.
struct Life {
    slot: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

/// Gives every computed slot a place.
pub fn assign(plan: &mut Plan) {
    for (at, life) in places(lives(plan)) {
        plan.slots[life.slot].place = Place::Arena(at);
        plan.arena = plan.arena.max(at + life.bytes);
    }
}

/// A place for each: the largest first, each at the lowest place that is free as long as it lives (Pisarchyk and Lee, Efficient
/// Memory Management for Deep Neural Net Inference, 2020, "greedy by size").
fn places(mut lives: Vec<Life>) -> Vec<(usize, Life)> {
    lives.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.first, life.slot));
    // By place.
    let mut placed: Vec<(usize, Life)> = vec![];
    for life in lives {
        let mut at = 0;
        for (start, other) in &placed {
            let together = other.first <= life.last && life.first <= other.last;
            if together && *start < at + life.bytes {
                at = at.max(start + other.bytes);
            }
        }
        let behind = placed.partition_point(|(start, _)| *start < at);
        placed.insert(behind, (at, life));
    }
    placed
}

/// The computed slots, their sizes in whole cache lines.
fn lives(plan: &Plan) -> Vec<Life> {
    let last = plan.last_steps();
    // Steps that take turns run at the same time. Results are needed behind all.
    let members = plan.groups.iter().enumerate().flat_map(|(i, group)| group.steps.clone().map(move |_| i));
    let group: Vec<usize> = members.chain([plan.groups.len()]).collect();
    // A step may write what another has made.
    let mut made = vec![false; plan.slots.len()];
    let outputs =
        plan.steps.iter().enumerate().flat_map(|(at, step)| step.outputs.iter().map(move |&s| (at, s)));
    outputs
        .filter(|&(_, s)| plan.root(s) == s && !std::mem::replace(&mut made[s], true))
        .map(|(first, slot)| {
            let bytes = plan.slots[slot].bytes().next_multiple_of(64);
            Life { slot, bytes, first: group[first], last: group[last[slot]] }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_live_together_lie_apart() {
        let life = |(slot, (bytes, first, last))| Life { slot, bytes, first, last };
        // A large one, one that stays, a small one, an empty one, and another large one.
        let lives = [(640, 1, 2), (64, 0, 2), (128, 2, 3), (0, 2, 2), (640, 3, 4)];
        let mut found: Vec<(usize, usize)> = places(lives.into_iter().enumerate().map(life).collect())
            .iter()
            .map(|(at, l)| (l.slot, *at))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(0, 0), (1, 768), (2, 640), (3, 0), (4, 0)]);
    }
}
