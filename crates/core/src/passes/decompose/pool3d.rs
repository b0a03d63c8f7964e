//! Pools of volumes: each plane first, then along the depth. Windows are boxes, so that largest values, sums and counts
//! come apart by dimension.

use super::{Build, PassFailure, Table, Values, one, out_type, widened};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

/// A pool's list arguments, split into depth and plane.
struct Split {
    depth: Vec<i64>,
    plane: Vec<Arg>,
}

fn split(n: &Node, lists: &[usize]) -> Result<Split, PassFailure> {
    let kernel = widened(n, 1, 3, &[])?;
    let mut out = Split { depth: vec![], plane: vec![] };
    for &i in lists {
        let l = widened(n, i, 3, &kernel)?;
        out.depth.push(l[0]);
        out.plane.push(Arg::ints(l[1..].to_vec()));
    }
    Ok(out)
}

/// `[.., D, H, W]` as `[rows, D, H, W]`, and its sizes.
fn volume(b: &mut Build<'_>, x: ValueId) -> Result<(ValueId, [SymInt; 4]), PassFailure> {
    let shape = b.ty(x).shape.clone();
    let [lead @ .., d, h, w] = &shape[..] else {
        return Err(PassFailure(format!("the input has {} dimensions, a volume has three", shape.len())));
    };
    let rows: SymInt = lead.iter().cloned().product();
    let sizes = [rows, d.clone(), h.clone(), w.clone()];
    Ok((b.view(x, sizes.to_vec())?, sizes))
}

/// Largest values and their places, along planes and then along the depth.
fn max(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let s = split(n, &[1, 2, 3, 4])?;
    let (x, [rows, d, h, w]) = volume(b, x)?;
    let ceil = n.arg(5).clone();
    let args = |lists: Vec<Arg>, x: ValueId| -> Vec<Arg> {
        [x.into()].into_iter().chain(lists).chain([ceil.clone()]).collect()
    };
    let planes = b.all(&ops::MAX_POOL2D_WITH_INDICES, args(s.plane, x))?;
    let out = b.ty(planes[0]).shape.clone();
    let area = out[2].clone() * &out[3];
    // One column a place of the plane; the window is high, and one wide.
    let columns = b.view(planes[0], vec![rows.clone(), 1.into(), d.clone(), area.clone()])?;
    let beside = [1, 1, 0, 1];
    let lists = s.depth.iter().zip(beside).map(|(&l, side)| Arg::ints([l, side])).collect();
    let pooled = b.all(&ops::MAX_POOL2D_WITH_INDICES, args(lists, columns))?;
    let shape = out_type(b, n).shape;
    let value = b.view(pooled[0], shape.clone())?;
    if !b.is_read(n, 1) {
        return one(value);
    }
    // Of the winner, the place in its plane is looked up.
    let count = b.ty(pooled[1]).numel().floor_div(&rows);
    let winner = b.view(pooled[1], vec![rows.clone(), count])?;
    let inside = b.view(planes[1], vec![rows, d * &area])?;
    let inside = b.op(&ops::GATHER, [inside.into(), 1.into(), winner.into()])?;
    let depth = b.op(&ops::DIV_SCALAR_MODE, [winner.into(), Arg::Int(area), "trunc".into()])?;
    let before = b.op(&ops::MUL_SCALAR, [depth.into(), Arg::Int(h * &w)])?;
    let index = b.op(&ops::ADD, [before.into(), inside.into()])?;
    Ok(Some(vec![value, b.view(index, shape)?]))
}

/// `avg_pool3d(self, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)`
fn avg(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let s = split(n, &[1, 2, 3])?;
    let (x, [rows, d, _, _]) = volume(b, x)?;
    let divisor = ops::views::float(n.arg(6));
    // With a divisor of its own, both steps add up.
    let by = if divisor.is_some() { Arg::from(1) } else { Arg::None };
    let args = |lists: Vec<Arg>, x: ValueId| -> Vec<Arg> {
        let rest = [n.arg(4).clone(), n.arg(5).clone(), by.clone()];
        [x.into()].into_iter().chain(lists).chain(rest).collect()
    };
    let planes = b.op(&ops::AVG_POOL2D, args(s.plane, x))?;
    let out = b.ty(planes).shape.clone();
    let columns = b.view(planes, vec![rows, 1.into(), d, out[2].clone() * &out[3]])?;
    let beside = [1, 1, 0];
    let lists = s.depth.iter().zip(beside).map(|(&l, side)| Arg::ints([l, side])).collect();
    let y = b.op(&ops::AVG_POOL2D, args(lists, columns))?;
    let y = match divisor {
        Some(by) => b.op(&ops::DIV_SCALAR, [y.into(), Arg::Float(by)])?,
        None => y,
    };
    let shape = out_type(b, n).shape;
    one(b.view(y, shape)?)
}

pub(super) const TABLE: Table = &[
    ("aten.max_pool3d.default", max),
    ("aten.max_pool3d_with_indices.default", max),
    ("aten.avg_pool3d.default", avg),
];
