//! Reshaping, joining, splitting, repeating, padding: what moves numbers.

use super::{Table, all, kept, one};
use crate::raise::call::Call;
use crate::raise::{MAX_RANK, Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, wrap_dim};
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    kept("reshape", reshape),
    kept("flatten2d", |c| {
        let x = c.tensor("x")?;
        let shape = c.ty(x).shape.clone();
        let axis = c.opt_int("axis")?.unwrap_or(1);
        let axis = usize::try_from(if axis < 0 { axis.saturating_add(shape.len() as i64) } else { axis });
        let axis = axis.ok().filter(|&a| a <= shape.len()).ok_or("argument axis is outside argument x")?;
        let parts = [&shape[..axis], &shape[axis..]].map(|s| s.iter().cloned().product::<SymInt>());
        one(c.reshape(x, parts.to_vec())?)
    }),
    kept("transpose", |c| {
        let (x, order) = (c.tensor("x")?, c.ints("perm")?);
        one(c.node(&ops::PERMUTE, [x.into(), Arg::ints(order)])?)
    }),
    kept("expand_dims", |c| {
        let (mut x, axes) = (c.tensor("x")?, c.ints("axes")?);
        let rank = c.rank(x) + axes.len();
        if rank > MAX_RANK {
            return Err(format!("argument axes adds {} dimensions", axes.len()));
        }
        let places = axes.iter().map(|&d| wrap_dim(d, rank)).collect::<Result<Vec<_>, _>>();
        let mut places = places.map_err(|e| format!("argument axes: {}", e.message))?;
        places.sort_unstable();
        for d in places {
            x = c.node(&ops::UNSQUEEZE, [x.into(), d.into()])?;
        }
        one(x)
    }),
    kept("squeeze", |c| {
        let x = c.tensor("x")?;
        one(match c.axes("axes", c.rank(x))? {
            Some(axes) => c.node(&ops::SQUEEZE_DIMS, [x.into(), Arg::ints(axes)])?,
            None => c.node(&ops::SQUEEZE, [x.into()])?,
        })
    }),
    kept("stack", |c| {
        let (values, axis) = (c.tensors("values")?, c.int("axis")?);
        one(c.node(&ops::STACK, [values.into(), axis.into()])?)
    }),
    kept("concat", concat),
    kept("split", split),
    kept("tile", |c| {
        let (x, times) = (c.tensor("x")?, c.sizes("reps")?);
        one(c.node(&ops::REPEAT, [x.into(), times.into()])?)
    }),
    kept("pad", pad),
    kept("reverse", |c| {
        let x = c.tensor("x")?;
        let rank = c.rank(x);
        let axes = c.axes("axes", rank)?.unwrap_or_else(|| (0..rank).collect());
        one(c.node(&ops::FLIP, [x.into(), Arg::ints(axes)])?)
    }),
    kept("pixel_shuffle", |c| {
        let (x, factor) = (c.tensor("x")?, c.int("upscale_factor")?);
        one(c.node(&ops::PIXEL_SHUFFLE, [x.into(), factor.into()])?)
    }),
    kept("pixel_unshuffle", |c| {
        let (x, factor) = (c.tensor("x")?, c.int("downscale_factor")?);
        one(c.node(&ops::PIXEL_UNSHUFFLE, [x.into(), factor.into()])?)
    }),
    kept("depth_to_space", |c| {
        let (x, size) = (c.tensor("x")?, c.int("block_size")?);
        let x = swap_blocks(c, x, size, true)?;
        one(c.node(&ops::PIXEL_SHUFFLE, [x.into(), size.into()])?)
    }),
    kept("space_to_depth", |c| {
        let (x, size) = (c.tensor("x")?, c.int("block_size")?);
        let y = c.node(&ops::PIXEL_UNSHUFFLE, [x.into(), size.into()])?;
        one(swap_blocks(c, y, size, false)?)
    }),
    kept("sliding_windows", |c| {
        let (x, size, step) = (c.tensor("x")?, c.int("size")?, c.opt_int("stride")?.unwrap_or(1));
        let rank = c.rank(x);
        let axis = c.axis("axis", 0, rank)?;
        let y = c.node(&ops::UNFOLD, [x.into(), axis.into(), size.into(), step.into()])?;
        // PyTorch puts the windows' elements last.
        let order: Vec<usize> = (0..=axis).chain([rank]).chain(axis + 1..rank).collect();
        one(c.permute(y, &order)?)
    }),
];

/// Channels that are places in a block, and in each of them the channels of the image, in PyTorch's order: channels of the
/// image, and in each of them the places. Or back.
fn swap_blocks(c: &mut Call<'_>, x: ValueId, size: i64, forth: bool) -> Raised<ValueId> {
    let shape = c.ty(x).shape.clone();
    let places =
        size.checked_mul(size).filter(|p| *p > 0).ok_or_else(|| format!("argument block_size is {size}"))?;
    let [batch, channels, h, w] = &shape[..] else {
        return Err(format!("argument x is {}, no image", c.ty(x)));
    };
    let mut parts = [places.into(), channels.floor_div(&places.into())];
    if !forth {
        parts.reverse();
    }
    let [a, b] = parts;
    let x = c.reshape(x, vec![batch.clone(), a, b, h.clone(), w.clone()])?;
    let x = c.permute(x, &[0, 2, 1, 3, 4])?;
    c.reshape(x, shape)
}

/// A zero stands for the size that is there, counted from the last; for one where there is none.
fn reshape(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, mut shape) = (c.tensor("x")?, c.sizes("shape")?);
    let have = c.ty(x).shape.iter().rev().cloned().chain(std::iter::repeat(1.into()));
    shape.iter_mut().rev().zip(have).filter(|(d, _)| **d == 0).for_each(|(d, n)| *d = n);
    if let Some(d) = shape.iter().find(|d| d.known().is_some_and(|n| n < -1)) {
        return Err(format!("argument shape holds {d}"));
    }
    one(c.node(&ops::RESHAPE, [x.into(), shape.into()])?)
}

/// One behind the other, or, interleaved, the first slice of each, then the second of each …
fn concat(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let values = c.tensors("values")?;
    let axis = c.axis("axis", 0, c.rank(values[0]))?;
    if !c.truth("interleave", false)? {
        return one(c.node(&ops::CAT, [values.into(), axis.into()])?);
    }
    let mut shape = c.ty(values[0]).shape.clone();
    if values.iter().any(|&v| c.ty(v).shape != shape) {
        return Err("argument interleave is true, the values have different sizes".into());
    }
    shape[axis] = shape[axis].clone() * values.len() as i64;
    let stacked = c.node(&ops::STACK, [values.into(), (axis + 1).into()])?;
    one(c.reshape(stacked, shape)?)
}

/// Into parts of given sizes, or so many equal ones.
fn split(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    let axis = c.axis("axis", 0, c.rank(x))?;
    let sizes = match (c.opt_sizes("split_sizes")?, c.opt_int("num_splits")?) {
        (Some(sizes), _) => sizes,
        (None, Some(n)) => {
            let whole = c.ty(x).shape[axis].clone();
            // As many results as are listed, however many are asked for.
            if n < 1 || n != c.op.outputs.len() as i64 || whole.known().is_some_and(|w| w % n != 0) {
                return Err(format!("{whole} cannot be split into {n}"));
            }
            vec![whole.floor_div(&n.into()); c.op.outputs.len()]
        }
        (None, None) => return Err("argument split_sizes is missing".into()),
    };
    all(c.nodes(&ops::SPLIT_WITH_SIZES, [x.into(), sizes.into(), axis.into()])?)
}

/// Pads are listed from the first of the padded dimensions on; PyTorch begins with the last.
fn pad(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, pads) = (c.tensor("x")?, c.sizes("pad")?);
    let (mode, value) = (c.str("mode", "constant")?, c.opt_float("constant_val")?.unwrap_or(0.0));
    if !pads.len().is_multiple_of(2) || pads.len() / 2 > c.rank(x) {
        return Err(format!("argument pad is {pads:?}, argument x {}", c.ty(x)));
    }
    let mut list = pads.rchunks(2).flatten().cloned().collect::<Vec<SymInt>>();
    // PyTorch mirrors the last dimensions only; dimensions without padding need not be told.
    while let [.., a, b] = &list[..]
        && *a == 0
        && *b == 0
    {
        list.truncate(list.len() - 2);
    }
    if list.is_empty() {
        return one(x);
    }
    if &*mode == "reflect" && !reflects(c, x, &list) {
        return Err(format!("argument pad is {pads:?}, more than {} can mirror", c.ty(x)));
    }
    let value = if &*mode == "constant" { Arg::Float(value) } else { Arg::None };
    match &*mode {
        "constant" | "reflect" | "replicate" => {
            one(c.node(&ops::PAD, [x.into(), list.into(), mode.as_str().into(), value])?)
        }
        other => Err(format!("argument mode is {other:?}")),
    }
}

/// Whether every pad is less than the size that is mirrored.
fn reflects(c: &Call<'_>, x: ValueId, list: &[SymInt]) -> bool {
    let sizes = c.ty(x).shape.iter().rev();
    list.chunks(2).zip(sizes).all(|(pads, n)| {
        pads.iter().all(|p| match (p.known(), n.known()) {
            (Some(p), Some(n)) => p < n,
            _ => true,
        })
    })
}
