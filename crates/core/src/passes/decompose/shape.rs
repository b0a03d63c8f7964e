//! Shape changes, splits, padding and constants by simpler ones.

use super::{Build, PassFailure, Table, Values, dim, integer, one, out_type};
use crate::Tensor;
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

/// The same elements in order, under the shape of the output.
fn reshape(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let shape = out_type(b, n).shape;
    one(b.op(&ops::VIEW, [x.into(), Arg::Ints(shape)])?)
}

/// Expands to the shape of the output.
fn expand(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let shape = out_type(b, n).shape;
    one(b.op(&ops::EXPAND, [x.into(), Arg::Ints(shape)])?)
}

/// Nothing happens, but for a change of element type.
fn cast(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let want = out_type(b, n).dtype;
    if b.ty(x).dtype == want {
        return one(x);
    }
    one(b.op(&ops::TO_COPY, [x.into(), want.into()])?)
}

/// Nothing happens.
fn identity(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.tensor(n, 0)?)
}

fn rank(b: &Build<'_>, n: &Node) -> Result<usize, PassFailure> {
    let x = b.tensor(n, 0)?;
    Ok(b.ty(x).rank())
}

fn movedim(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, r) = (b.tensor(n, 0)?, rank(b, n)?);
    let mut order: Vec<usize> = (0..r).collect();
    let d = order.remove(dim(n, 1, r)?);
    order.insert(dim(n, 2, r)?, d);
    one(b.permute(x, &order)?)
}

fn reverse(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, r) = (b.tensor(n, 0)?, rank(b, n)?);
    let order: Vec<usize> = (0..r).rev().collect();
    one(b.permute(x, &order)?)
}

/// `unfold(self, dim, size, step)`: the entries of all windows behind one another, and those of one in a dimension of their
/// own, which goes to the end.
fn unfold(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, r) = (b.tensor(n, 0)?, rank(b, n)?);
    if r == 0 {
        return Ok(None);
    }
    let d = dim(n, 1, r)?;
    let out = out_type(b, n);
    let (Some(count), size, step) = (out.shape[d].known(), integer(n, 2)?, integer(n, 3)?) else {
        return Ok(None);
    };
    let numbers: Vec<i64> = (0..count).flat_map(|w| (0..size).map(move |k| w * step + k)).collect();
    let numbers = Tensor::new(&[numbers.len()], numbers).map_err(|e| PassFailure(e.to_string()))?;
    let numbers = b.constant(&format!("{}_windows", n.name), numbers);
    let picked = b.op(&ops::INDEX_SELECT, [x.into(), d.into(), numbers.into()])?;
    let mut shape = out.shape;
    shape.remove(r);
    shape.insert(d + 1, size.into());
    let windows = b.view(picked, shape)?;
    let mut order: Vec<usize> = (0..=r).collect();
    let entries = order.remove(d + 1);
    order.push(entries);
    one(b.permute(windows, &order)?)
}

/// `chunk` and `tensor_split` are splits into sizes that are known by now.
fn sizes(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let d = dim(n, 2, rank(b, n)?)?;
    let sizes: Vec<SymInt> = n.outputs().iter().map(|&v| b.ty(v).shape[d].clone()).collect();
    Ok(Some(b.all(&ops::SPLIT_WITH_SIZES, [x.into(), Arg::Ints(sizes), d.into()])?))
}

/// Each dimension is cut where its new first entry is, and the parts change places.
fn roll(b: &mut Build<'_>, n: &Node) -> Values {
    let (mut x, r) = (b.tensor(n, 0)?, rank(b, n)?);
    let (Some(shifts), Some(dims)) = (ops::views::ints(n.arg(1)), ops::views::ints(n.arg(2))) else {
        return Ok(None);
    };
    // Without dimensions it rolls the elements in a row.
    if shifts.len() != dims.len() {
        return Ok(None);
    }
    for (shift, d) in shifts.into_iter().zip(dims) {
        let d = crate::ops::wrap_dim(d, r)?;
        let Some(size) = b.ty(x).shape[d].known() else { return Ok(None) };
        let cut = (-shift).rem_euclid(size.max(1));
        if cut == 0 {
            continue;
        }
        let front = b.slice(x, d, cut.into(), size.into())?;
        let back = b.slice(x, d, 0.into(), cut.into())?;
        x = b.cat(vec![front, back], d)?;
    }
    one(x)
}

/// A view with a channel's groups exchanged with what is in them.
fn channel_shuffle(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let shape = b.ty(x).shape.clone();
    let Some(g) = ops::views::int(n.arg(1)) else { return Ok(None) };
    let inner: SymInt = shape[2..].iter().cloned().product();
    let per = shape[1].floor_div(&g.into());
    let y = b.view(x, vec![shape[0].clone(), g.into(), per, inner])?;
    let y = b.permute(y, &[0, 2, 1, 3])?;
    one(b.op(&ops::VIEW, [y.into(), Arg::Ints(shape)])?)
}

/// Differences of neighbours, `n` times.
fn diff(b: &mut Build<'_>, n: &Node) -> Values {
    let (mut x, r) = (b.tensor(n, 0)?, rank(b, n)?);
    let d = dim(n, 2, r)?;
    let parts: Vec<ValueId> =
        [n.arg(3), &Arg::Value(x), n.arg(4)].into_iter().filter_map(|a| a.values().next()).collect();
    if parts.len() > 1 {
        x = b.op(&ops::CAT, [Arg::Values(parts), d.into()])?;
    }
    for _ in 0..ops::views::int(n.arg(1)).unwrap_or(1) {
        let size = b.ty(x).shape[d].clone();
        let (ahead, behind) = (b.slice(x, d, 1.into(), size.clone())?, b.slice(x, d, 0.into(), size - 1)?);
        x = b.op(&ops::SUB, [ahead.into(), behind.into()])?;
    }
    one(x)
}

/// Each tensor along its own axis, expanded over the others.
fn meshgrid(b: &mut Build<'_>, n: &Node) -> Values {
    let swap = matches!(n.arg(1), Arg::Str(s) if &**s == "xy");
    let inputs: Vec<ValueId> = n.arg(0).values().collect();
    let mut out = vec![];
    for (i, &x) in inputs.iter().enumerate() {
        let full = b.ty(n.outputs()[i]).shape.clone();
        let axis = match i {
            0 if swap && inputs.len() > 1 => 1,
            1 if swap => 0,
            _ => i,
        };
        let mut shape = vec![SymInt::Known(1); full.len()];
        shape[axis] = full[axis].clone();
        let y = b.view(x, shape)?;
        out.push(b.op(&ops::EXPAND, [y.into(), Arg::Ints(full)])?);
    }
    Ok(Some(out))
}

/// Another tensor's elements, in this one's element type and shape.
fn copy(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, t) = (b.tensor(n, 1)?, out_type(b, n));
    let x = b.cast(x, t.dtype)?;
    one(b.expand(x, t.shape)?)
}

/// Outside training nothing is dropped; the mask keeps everything.
fn native_dropout(b: &mut Build<'_>, n: &Node) -> Values {
    if ops::views::bool(n.arg(2)) != Some(false) {
        return Err(PassFailure(
            "it drops out at random; export in evaluation mode, after model.eval()".into(),
        ));
    }
    let mask = b.ty(n.outputs()[1]).clone();
    let mask = b.full(mask.shape, 1.0, mask.dtype)?;
    Ok(Some(vec![b.tensor(n, 0)?, mask]))
}

pub(super) const TABLE: Table = &[
    ("aten.reshape.default", reshape),
    ("aten._unsafe_view.default", reshape),
    ("aten.view_as.default", reshape),
    ("aten.reshape_as.default", reshape),
    ("aten.flatten.using_ints", reshape),
    ("aten.unflatten.int", reshape),
    ("aten.squeeze.default", reshape),
    ("aten.expand_as.default", expand),
    ("aten.to.dtype", cast),
    ("aten.to.device", cast),
    ("aten.to.dtype_layout", cast),
    ("aten.to.other", cast),
    ("aten.type_as.default", cast),
    ("aten.dropout.default", identity),
    ("aten.feature_dropout.default", identity),
    ("aten.alias.default", identity),
    ("aten.alias_copy.default", identity),
    ("aten.detach.default", identity),
    ("aten.contiguous.default", identity),
    ("aten.clone.default", identity),
    ("aten.lift_fresh_copy.default", identity),
    ("aten.movedim.int", movedim),
    ("aten.unfold.default", unfold),
    ("aten.numpy_T.default", reverse),
    ("aten.chunk.default", sizes),
    ("aten.tensor_split.sections", sizes),
    ("aten.channel_shuffle.default", channel_shuffle),
    ("aten.roll.default", roll),
    ("aten.diff.default", diff),
    ("aten.meshgrid.indexing", meshgrid),
    ("aten.copy.default", copy),
    ("aten.native_dropout.default", native_dropout),
];
