//! Reductions.

use super::{Builder, Emitted, Made, Node, Table, dim, list, out, output, truth};
use crate::graph::Param;
use crate::lowering::builder::Layout;
use lowbit_core::ir::Arg;
use lowbit_core::ops::{self, wrap_dim};

pub static TABLE: Table = &[
    (&ops::MEAN, |b, n| reduce(b, n, "ReduceMean", vec![], false)),
    (&ops::MEAN_DIM, |b, n| along(b, n, "ReduceMean")),
    (&ops::SUM, |b, n| reduce(b, n, "ReduceSum", vec![], false)),
    (&ops::SUM_DIM, |b, n| along(b, n, "ReduceSum")),
    (&ops::AMAX, |b, n| along(b, n, "ReduceMax")),
    (&ops::AMIN, |b, n| along(b, n, "ReduceMin")),
    (&ops::MAX_DIM, |b, n| only_values(b, n).and_then(|()| one_dim(b, n, "ReduceMax"))),
    (&ops::MIN_DIM, |b, n| only_values(b, n).and_then(|()| one_dim(b, n, "ReduceMin"))),
    (&ops::ARGMAX, |b, n| place(b, n, "Argmax")),
    (&ops::ARGMIN, |b, n| place(b, n, "Argmin")),
    (&ops::CUMSUM, |b, n| {
        let rank = b.program.graph.ty(n.output()).rank();
        let x = b.arg(n, 0, Layout::Plain)?;
        let to = out(b, n, Layout::Plain)?;
        let axis = dim(n, 1, rank)? as u32;
        let params = vec![
            ("axis", Param::U32(axis)),
            ("exclusive", Param::Bool(false)),
            ("reverse", Param::Bool(false)),
        ];
        Ok(vec![(b.one("CumulativeSum", params, vec![x], to), Layout::Plain)])
    }),
];

/// The number of dimensions of argument 0.
fn rank(b: &Builder<'_>, n: &Node) -> usize {
    n.operands().next().map_or(0, |v| b.program.graph.ty(v).rank())
}

/// Over the dimensions of argument 1; none are all.
fn along(b: &mut Builder<'_>, n: &Node, kind: &'static str) -> Emitted<Vec<Made>> {
    let axes = match n.arg(1) {
        Arg::None => vec![],
        _ => super::ints(n, 1)?,
    };
    reduce(b, n, kind, axes, truth(n, 2)?)
}

fn one_dim(b: &mut Builder<'_>, n: &Node, kind: &'static str) -> Emitted<Vec<Made>> {
    reduce(b, n, kind, vec![super::int(n, 1)?], truth(n, 2)?)
}

fn only_values(b: &Builder<'_>, n: &Node) -> Emitted<()> {
    let g = &b.program.graph;
    let unread = |&v: &_| g.value(v).uses().is_empty() && !g.is_output(v);
    match n.outputs()[1..].iter().all(unread) {
        true => Ok(()),
        false => Err("HTP gives the extreme, not where it is".into()),
    }
}

fn reduce(
    b: &mut Builder<'_>,
    n: &Node,
    kind: &'static str,
    axes: Vec<i64>,
    keep: bool,
) -> Emitted<Vec<Made>> {
    let rank = rank(b, n);
    let wrap = |d: &i64| wrap_dim(*d, rank).map_err(|e| e.message);
    let mut axes = axes.iter().map(wrap).collect::<Emitted<Vec<usize>>>()?;
    if axes.is_empty() {
        axes = (0..rank).collect();
    }
    axes.sort_unstable();
    // Channels that stay alone with the batch, or in their place, are where the result has them.
    let pictures = rank > 2 && axes == (2..rank).collect::<Vec<_>>();
    let last = keep || pictures;
    let at = if last { super::layout(b, n) } else { Layout::Plain };
    let x = b.arg(n, 0, at)?;
    let places: Vec<u32> = axes.iter().map(|&d| at.place(d, rank) as u32).collect();
    let made_at = if keep { at } else { Layout::Plain };
    let to = out(b, n, made_at)?;
    let params = vec![("axes", list(places)), ("keep_dims", Param::Bool(keep))];
    Ok(vec![(b.one(kind, params, vec![x], to), made_at)])
}

/// Where the extreme is.
fn place(b: &mut Builder<'_>, n: &Node, kind: &'static str) -> Emitted<Vec<Made>> {
    if *n.arg(1) == Arg::None {
        return Err("HTP looks along one dimension".into());
    }
    let axis = dim(n, 1, rank(b, n))? as u32;
    let x = b.arg(n, 0, Layout::Plain)?;
    let to = output(b, n.output(), Layout::Plain)?;
    let params = vec![("axis", Param::U32(axis)), ("keep_dims", Param::Bool(truth(n, 2)?))];
    Ok(vec![(b.one(kind, params, vec![x], to), Layout::Plain)])
}
