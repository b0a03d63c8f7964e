//! Pools by those of two dimensions, and by reductions.

use super::{Build, PassFailure, Table, Values, one, out_type};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

/// `max_pool2d` is the first output of the form with indices.
fn max_pool2d(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::MAX_POOL2D_WITH_INDICES, n.args().to_vec())?)
}

/// A list for one dimension as a list for two, the new one first.
fn two(n: &Node, i: usize, fill: i64) -> Result<Arg, PassFailure> {
    match ops::views::ints(n.arg(i)) {
        Some(l) if l.is_empty() => Ok(Arg::Ints(vec![])),
        Some(l) => Ok(Arg::ints([fill, l[0]])),
        None => Err(PassFailure(format!("argument {i} is no list of integers"))),
    }
}

/// Runs a two-dimensional pool on rows of height 1.
fn as_rows(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef, args: Vec<Arg>) -> Values {
    let x = b.tensor(n, 0)?;
    let up = b.op(&ops::UNSQUEEZE, [x.into(), Arg::from(-2)])?;
    let mut all = vec![up.into()];
    all.extend(args);
    let y = b.op(op, all)?;
    one(b.op(&ops::SQUEEZE_DIM, [y.into(), Arg::from(-2)])?)
}

fn max_pool1d(b: &mut Build<'_>, n: &Node) -> Values {
    let args = vec![two(n, 1, 1)?, two(n, 2, 1)?, two(n, 3, 0)?, two(n, 4, 1)?, n.arg(5).clone()];
    as_rows(b, n, &ops::MAX_POOL2D_WITH_INDICES, args)
}

fn avg_pool1d(b: &mut Build<'_>, n: &Node) -> Values {
    let args = vec![two(n, 1, 1)?, two(n, 2, 1)?, two(n, 3, 0)?, n.arg(4).clone(), n.arg(5).clone()];
    as_rows(b, n, &ops::AVG_POOL2D, args)
}

/// Adaptive averages of any rank: dimension by dimension, each output is the mean of its window. Means of means are the
/// mean because every window is a box.
fn adaptive_avg(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let want = out_type(b, n).shape;
    let k = match n.arg(1) {
        Arg::Ints(l) => l.len(),
        _ => return Ok(None),
    };
    let rank = want.len();
    let mut y = x;
    for d in rank - k..rank {
        match windows(b, y, d, &want[d], |b, part, d| {
            b.op(&ops::MEAN_DIM, [part.into(), Arg::ints([d]), true.into()])
        })? {
            Some(v) => y = v,
            None => return Ok(None),
        }
    }
    one(y)
}

/// Reduces each window of an adaptive pool along dimension `d`, and joins the results.
fn windows(
    b: &mut Build<'_>,
    x: ValueId,
    d: usize,
    out: &SymInt,
    reduce: impl Fn(&mut Build<'_>, ValueId, usize) -> Result<ValueId, PassFailure>,
) -> Result<Option<ValueId>, PassFailure> {
    let (Some(n), Some(o)) = (b.ty(x).shape[d].known(), out.known()) else { return Ok(None) };
    if n == o {
        return Ok(Some(x));
    }
    let mut parts = vec![];
    for i in 0..o {
        let (start, end) = window(i, n, o);
        let part = if (start, end) == (0, n) { x } else { b.slice(x, d, start.into(), end.into())? };
        parts.push(reduce(b, part, d)?);
    }
    Ok(Some(b.cat(parts, d)?))
}

/// Window `i` of `o` over `n` entries.
fn window(i: i64, n: i64, o: i64) -> (i64, i64) {
    (i * n / o, ((i + 1) * n + o - 1) / o)
}

/// Adaptive maxima: dimension by dimension from the last one, so that of equal values the first in memory wins.
fn adaptive_max(b: &mut Build<'_>, n: &Node) -> Values {
    let want = out_type(b, n).shape;
    let k = match n.arg(1) {
        Arg::Ints(l) => l.len(),
        _ => return Ok(None),
    };
    let mut y = b.tensor(n, 0)?;
    if b.is_read(n, 1) {
        return adaptive_max_places(b, y, &want, k);
    }
    for d in want.len() - k..want.len() {
        let max = |b: &mut Build<'_>, part: ValueId, d: usize| {
            b.op(&ops::AMAX, [part.into(), Arg::ints([d]), true.into()])
        };
        match windows(b, y, d, &want[d], max)? {
            Some(v) => y = v,
            None => return Ok(None),
        }
    }
    one(y)
}

/// With the place of each maximum in its plane, or volume.
fn adaptive_max_places(b: &mut Build<'_>, x: ValueId, want: &[SymInt], k: usize) -> Values {
    let mut y = x;
    let mut places: Option<ValueId> = None;
    // How many elements an entry of dimension `d` spans.
    let mut span = SymInt::Known(1);
    for d in (want.len() - k..want.len()).rev() {
        let (Some(n), Some(o)) = (b.ty(y).shape[d].known(), want[d].known()) else { return Ok(None) };
        let (mut values, mut winners) = (vec![], vec![]);
        for i in 0..o {
            let (start, end) = window(i, n, o);
            let part = b.slice(y, d, start.into(), end.into())?;
            let found = b.all(&ops::MAX_DIM, [part.into(), d.into(), true.into()])?;
            values.push(found[0]);
            winners.push(match start {
                0 => found[1],
                _ => b.op(&ops::ADD_SCALAR, [found[1].into(), start.into()])?,
            });
        }
        (y, places) = {
            let (value, at) = (b.cat(values, d)?, b.cat(winners, d)?);
            let scaled = match span == 1 {
                true => at,
                false => b.op(&ops::MUL_SCALAR, [at.into(), Arg::Int(span.clone())])?,
            };
            let place = match places {
                None => scaled,
                Some(inner) => {
                    let inner = b.op(&ops::GATHER, [inner.into(), d.into(), at.into()])?;
                    b.op(&ops::ADD, [scaled.into(), inner.into()])?
                }
            };
            (value, Some(place))
        };
        span = span * n;
    }
    Ok(Some([Some(y), places].into_iter().flatten().collect()))
}

pub(super) const TABLE: Table = &[
    ("aten.max_pool2d.default", max_pool2d),
    ("aten.max_pool1d.default", max_pool1d),
    ("aten.avg_pool1d.default", avg_pool1d),
    ("aten.adaptive_avg_pool1d.default", adaptive_avg),
    ("aten.adaptive_avg_pool2d.default", adaptive_avg),
    ("aten._adaptive_avg_pool2d.default", adaptive_avg),
    ("aten.adaptive_avg_pool3d.default", adaptive_avg),
    ("aten._adaptive_avg_pool3d.default", adaptive_avg),
    ("aten.adaptive_max_pool1d.default", adaptive_max),
    ("aten.adaptive_max_pool2d.default", adaptive_max),
    ("aten.adaptive_max_pool3d.default", adaptive_max),
];
