//! Picking entries by number.

use super::{Builder, Emitted, Made, Node, Table, dim, finished, out};
use crate::graph::Param;
use crate::lowering::builder::Layout;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::EMBEDDING, |b, n| gather(b, n, 0, 1, 0)),
    (&ops::INDEX_SELECT, |b, n| {
        let rank = b.program.graph.ty(n.output()).rank();
        let axis = dim(n, 1, rank)?;
        gather(b, n, 0, 2, axis)
    }),
];

/// The entries of argument `from` along an axis that argument `indices` names.
fn gather(b: &mut Builder<'_>, n: &Node, from: usize, indices: usize, axis: usize) -> Emitted<Vec<Made>> {
    let x = b.arg(n, from, Layout::Plain)?;
    let i = b.arg(n, indices, Layout::Plain)?;
    let (_, dims) = out(b, n, Layout::Plain)?;
    let kind = b.kind_of(x);
    let axis = Param::I32(i32::try_from(axis).map_err(|e| e.to_string())?);
    let y = b.one("Gather", vec![("axis", axis)], vec![x, i], (kind, dims));
    finished(b, n, y, Layout::Plain)
}
