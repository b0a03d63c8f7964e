//! Convolutions behind one another whose images are larger than a cache: they take turns, some rows at a time, so that each reads
//! what the one before it has just written, and writes where what is no longer needed lay.

use super::{Place, Plan, Run, Step};
use crate::dense::geometry::Geometry;
use lowbit_core::executor::Watchlist;
use std::ops::Range;

/// Bytes of an image that a convolution had better not leave to the next as a whole.
const LARGE: usize = 512 * 1024;

/// Bytes of the largest image that are made at a time.
const BAND: usize = 448 * 1024;

/// Steps that belong together, most often one alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which steps.
    pub steps: Range<usize>,
    /// What they do by turns; nothing for one alone. But for the last, their results are not whole then.
    pub turns: Vec<Turn>,
}

/// Some rows of the result of a convolution for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Of which step of the group.
    pub step: usize,
    /// The rows.
    pub rows: Range<usize>,
    /// The elements of its operand that hold the lines which it reads: line `y` is the `y`th, counted on from the first again.
    pub from: Range<usize>,
    /// The elements of its result that it writes.
    pub to: Range<usize>,
    /// The elements of a whole result that these rows are.
    pub elements: Range<usize>,
}

/// All steps of a plan, in groups; of one each unless they may take `turns`. Threads share whole steps: of some rows there is little to
/// share.
pub fn groups(plan: &Plan, watch: &Watchlist, turns: bool) -> Vec<Group> {
    let last = plan.last_steps();
    let mut groups = vec![];
    let mut first = 0;
    while first < plan.steps.len() {
        let mut end = first + 1;
        while turns && end < plan.steps.len() && joins(plan, watch, &last, first..end) {
            end += 1;
        }
        let geometries: Option<Vec<&Geometry>> = plan.steps[first..end].iter().map(by_rows).collect();
        groups.push(Group { steps: first..end, turns: geometries.map_or(vec![], |g| turns_of(&g)) });
        first = end;
    }
    groups
}

/// The numbers of a step that can compute some rows.
fn by_rows(step: &Step) -> Option<&Geometry> {
    match &step.run {
        Run::Convolve(g, filter, _) if g.input[0] == 1 && g.output[0] == 1 && !filter.is_transformed() => {
            Some(g)
        }
        _ => None,
    }
}

/// Whether the step behind some joins them: nobody but it needs the elements of what the last one computes, nor does it need any
/// that others do.
fn joins(plan: &Plan, watch: &Watchlist, last: &[usize], steps: Range<usize>) -> bool {
    let (before, next) = (&plan.steps[steps.end - 1], &plan.steps[steps.end]);
    let (Some(g), Some(_), &[from]) = (by_rows(before), by_rows(next), &before.outputs[..]) else {
        return false;
    };
    let made = |s: usize| plan.steps[steps.clone()].iter().any(|step| step.outputs.contains(&plan.root(s)));
    plan.slots[from].place == Place::Nowhere
        && plan.slots[from].bytes() >= LARGE * g.batch
        && next.inputs[0] == from
        && last[from] == steps.end
        && !next.inputs[1..].iter().any(|&s| made(s))
        && !before.watched.iter().any(|(v, _)| watch.elements.contains(v))
}

/// The turns of convolutions, each of which reads the result of the one before.
fn turns_of(geometries: &[&Geometry]) -> Vec<Turn> {
    let &[first, _, ..] = geometries else { return vec![] };
    let row = |g: &Geometry| g.output[2] * g.out_channels;
    let largest =
        geometries.iter().map(|g| g.output[1] * row(g) * size_of::<f32>()).max().unwrap_or_default();
    let step = (BAND * first.output[1] / largest.max(1)).max(1);
    // By band, up to which row each result is there: more of the first, and of the others what can be made of that.
    let mut bands = vec![vec![0; geometries.len()]];
    while bands[bands.len() - 1][0] < first.output[1] {
        let before = &bands[bands.len() - 1];
        let mut ends = vec![first.output[1].min(before[0] + step)];
        for (g, &done) in geometries.iter().zip(before).skip(1) {
            let lines = ends[ends.len() - 1];
            let missing = |&y: &usize| g.lines(y..y + 1).end > lines;
            ends.push((done..g.output[1]).find(missing).unwrap_or(g.output[1]));
        }
        bands.push(ends);
    }
    // How many rows are held of each result: those that are new, and those that the next convolution still needs.
    let needed = |k: usize, g: &Geometry| {
        let held =
            bands.windows(2).map(|b| b[1][k].saturating_sub(g.lines(b[0][k + 1]..b[0][k + 1] + 1).start));
        held.max().unwrap_or_default()
    };
    let held: Vec<usize> = geometries[1..].iter().enumerate().map(|(k, g)| needed(k, g)).collect();
    let mut turns = vec![];
    for image in 0..first.batch {
        for band in bands.windows(2) {
            for (step, g) in geometries.iter().enumerate() {
                let (row, line) = (row(g), g.input[2] * g.in_channels);
                let mut from = band[0][step];
                while from < band[1][step] {
                    // What is written does not start anew within, nor what is read as one piece.
                    let whole = |held: usize| (from / held + 1) * held;
                    let ends = [held.get(step), held.get(step.wrapping_sub(1)).filter(|_| g.is_pointwise())];
                    let to =
                        ends.into_iter().flatten().map(|&held| whole(held)).fold(band[1][step], usize::min);
                    let elements = |first: usize| (first + from) * row..(first + to) * row;
                    turns.push(Turn {
                        step,
                        rows: from..to,
                        from: match step.checked_sub(1) {
                            None => image * g.input[1] * line..(image + 1) * g.input[1] * line,
                            Some(before) => 0..held[before] * line,
                        },
                        to: match held.get(step) {
                            None => elements(image * g.output[1]),
                            Some(held) => from % held * row..(from % held + to - from) * row,
                        },
                        elements: elements(image * g.output[1]),
                    });
                    from = to;
                }
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Channels, kernel, stride, dilation and padding of each convolution.
    type Filters = &'static [(usize, usize, usize, usize, usize)];

    #[test]
    fn every_row_is_made_once_of_lines_that_are_there() {
        let cases: &[(usize, Filters)] = &[
            (
                224,
                &[(32, 3, 2, 1, 1), (32, 3, 1, 1, 1), (16, 1, 1, 1, 0), (96, 1, 1, 1, 0), (96, 3, 2, 1, 1)],
            ),
            (97, &[(64, 1, 1, 1, 0), (64, 5, 2, 1, 2), (64, 3, 1, 2, 2), (64, 1, 2, 1, 0)]),
            (50, &[(300, 3, 1, 1, 0), (300, 1, 1, 1, 2), (300, 7, 3, 3, 9)]),
            (3, &[(9000, 1, 1, 1, 0), (9000, 3, 1, 1, 1)]),
        ];
        for &(size, filters) in cases {
            let mut geometries: Vec<Geometry> = vec![];
            for &(channels, kernel, stride, dilation, padding) in filters {
                let before = geometries.last().map_or((size, 3), |g| (g.output[1], g.out_channels));
                let reach = dilation * (kernel - 1);
                let out = (before.0 + 2 * padding - reach - 1) / stride + 1;
                geometries.push(Geometry {
                    batch: 2,
                    groups: 1,
                    in_channels: before.1,
                    out_channels: channels,
                    input: [1, before.0, before.0],
                    output: [1, out, out],
                    kernel: [1, kernel, kernel],
                    stride: [1, stride, stride],
                    dilation: [1, dilation, dilation],
                    padding: [0, padding as i64, padding as i64],
                });
            }
            let all: Vec<&Geometry> = geometries.iter().collect();
            let turns = turns_of(&all);
            // Which image's row lies where, by step.
            let mut lines: Vec<BTreeMap<usize, (usize, usize)>> = vec![BTreeMap::new(); all.len()];
            let mut made = vec![0; all.len()];
            for turn in &turns {
                let g = all[turn.step];
                let (image, first) = (made[turn.step] / g.output[1], made[turn.step] % g.output[1]);
                let row = g.output[2] * g.out_channels;
                assert_eq!(turn.rows.start, first);
                made[turn.step] += turn.rows.len();
                assert_eq!(
                    (turn.to.len(), turn.elements.len()),
                    (turn.rows.len() * row, turn.rows.len() * row)
                );
                for (i, y) in turn.rows.clone().enumerate() {
                    lines[turn.step].insert(turn.to.start / row + i, (image, y));
                }
                if turn.step == 0 {
                    let whole = g.input[1] * g.input[2] * g.in_channels;
                    assert_eq!(turn.from, image * whole..(image + 1) * whole);
                    continue;
                }
                let held = turn.from.len() / (g.input[2] * g.in_channels);
                for y in g.lines(turn.rows.clone()) {
                    assert_eq!(lines[turn.step - 1].get(&(y % held)), Some(&(image, y)), "{size} {turn:?}");
                }
                let places = turn.rows.start % held..turn.rows.start % held + turn.rows.len();
                assert!(!g.is_pointwise() || places.end <= held);
            }
            let last = turns.iter().rfind(|turn| turn.step + 1 == all.len()).unwrap();
            assert_eq!(
                (last.to.clone(), made.iter().zip(&all).all(|(&n, g)| n == 2 * g.output[1])),
                (last.elements.clone(), true)
            );
        }
    }
}
