//! Reshaping, moving, joining, repeating.

use super::{Emitted, Table, dim, int, ints, narrow, out, sizes};
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Constant, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops::{self, wrap_dim};
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::VIEW, to_shape),
    (&ops::RESHAPE, to_shape),
    (&ops::VIEW_COPY, to_shape),
    (&ops::UNSAFE_VIEW, to_shape),
    (&ops::VIEW_AS, to_shape),
    (&ops::RESHAPE_AS, to_shape),
    (&ops::FLATTEN, to_shape),
    (&ops::UNFLATTEN, to_shape),
    (&ops::UNSQUEEZE, to_shape),
    (&ops::UNSQUEEZE_COPY, to_shape),
    (&ops::SQUEEZE, to_shape),
    (&ops::SQUEEZE_DIM, to_shape),
    (&ops::SQUEEZE_DIMS, to_shape),
    (&ops::SQUEEZE_COPY_DIM, to_shape),
    (&ops::SQUEEZE_COPY_DIMS, to_shape),
    (&ops::PERMUTE, permute),
    (&ops::PERMUTE_COPY, permute),
    (&ops::TRANSPOSE, swap),
    (&ops::SWAPAXES, swap),
    (&ops::T, |b, n| {
        let x = b.arg(n, 0)?;
        let order: Vec<usize> = (0..x.ty.rank()).rev().collect();
        Ok(vec![transpose(b, x, &order)])
    }),
    (&ops::CAT, |b, n| {
        let ty = out(b, n)?;
        let mut parts = tensors(b, n)?;
        // PyTorch leaves out lists that are empty, whatever their shape.
        parts.retain(|x| x.ty.rank() == ty.rank());
        let axis = dim(n, 1, ty.rank())?;
        Ok(vec![concat(b, parts, axis, ty)])
    }),
    (&ops::STACK, |b, n| {
        let ty = out(b, n)?;
        let axis = dim(n, 1, ty.rank())? as i32;
        let inputs = vec![("values", tensors(b, n)?.into()), ("axis", axis.into())];
        Ok(vec![b.op("stack", inputs, ty)])
    }),
    (&ops::EXPAND, expand),
    (&ops::EXPAND_COPY, expand),
    (&ops::EXPAND_AS, expand),
    (&ops::REPEAT, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        let Arg::Ints(times) = n.arg(1) else { return Err("argument 1 is no list of integers".into()) };
        let x = widen(b, x, ty.rank())?;
        tile(b, x, &times.clone(), ty).map(|y| vec![y])
    }),
    (&ops::FLIP, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        let axes = axes(n, 1, ty.rank())?;
        Ok(vec![b.op("reverse", vec![("x", x.into()), ("axes", axes.into())], ty)])
    }),
    (&ops::ROLL, roll),
    (&ops::PIXEL_SHUFFLE, |b, n| {
        let (x, factor) = (b.arg(n, 0)?, int(n, 1)? as i32);
        if x.ty.rank() != 4 {
            return Err("Core ML shuffles pixels of batches only".into());
        }
        Ok(vec![b.op("pixel_shuffle", vec![("x", x.into()), ("upscale_factor", factor.into())], out(b, n)?)])
    }),
    (&ops::PIXEL_UNSHUFFLE, |b, n| {
        let (x, factor) = (b.arg(n, 0)?, int(n, 1)? as u32);
        if x.ty.rank() != 4 {
            return Err("Core ML shuffles pixels of batches only".into());
        }
        let factor = Constant::new(crate::mil::DType::U32, [0i64; 0], factor.to_le_bytes().to_vec());
        Ok(vec![b.op(
            "pixel_unshuffle",
            vec![("x", x.into()), ("downscale_factor", factor.into())],
            out(b, n)?,
        )])
    }),
    (&ops::CONSTANT_PAD_ND, |b, n| {
        let value = if n.args().len() > 2 { super::number(n, 2)? } else { 0.0 };
        pad(b, n, "constant", value)
    }),
    (&ops::PAD, |b, n| {
        let mode = match n.arg(2) {
            Arg::Str(s) if matches!(&**s, "constant" | "reflect" | "replicate") => s.clone(),
            other => return Err(format!("Core ML has no padding {other:?}")),
        };
        let value = lowbit_core::ops::views::float(n.arg(3)).unwrap_or(0.0);
        let mode =
            ["constant", "reflect", "replicate"].into_iter().find(|m| **m == *mode).unwrap_or("constant");
        pad(b, n, mode, value)
    }),
    (&ops::REFLECTION_PAD1D, |b, n| pad(b, n, "reflect", 0.0)),
    (&ops::REFLECTION_PAD2D, |b, n| pad(b, n, "reflect", 0.0)),
    (&ops::REPLICATION_PAD2D, |b, n| pad(b, n, "replicate", 0.0)),
];

/// The tensors in the list of argument 0, in the element type of the result.
fn tensors(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let Arg::Values(parts) = n.arg(0) else { return Err("argument 0 is no list of tensors".into()) };
    let dtype = out(b, n)?.dtype;
    let part = |b: &mut Builder<'_>, &v: &_| b.value(v).map(|x| b.cast(&x, dtype));
    parts.iter().map(|v| part(b, v)).collect()
}

/// The dimensions in argument `i`, counted from the front.
pub(super) fn axes(n: &Node, i: usize, rank: usize) -> Emitted<Vec<i32>> {
    let wrap = |d: &i64| wrap_dim(*d, rank).map(|d| d as i32).map_err(|e| e.message);
    ints(n, i)?.iter().map(wrap).collect()
}

/// Tensors behind one another.
pub(super) fn concat(b: &mut Builder<'_>, parts: Vec<Var>, axis: usize, ty: Type) -> Var {
    if let [one] = &parts[..] {
        return one.clone();
    }
    let inputs = vec![("values", parts.into()), ("axis", (axis as i32).into()), ("interleave", false.into())];
    b.op("concat", inputs, ty)
}

/// The same elements in the shape of the result.
fn to_shape(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    Ok(vec![reshape(b, x, ty.shape)?])
}

/// Places of ones that `long` has beside what `short` has.
fn ones(short: &[SymInt], long: &[SymInt]) -> Option<Vec<i32>> {
    let (mut at, mut extra) = (0, vec![]);
    for (i, d) in long.iter().enumerate() {
        if short.get(at) == Some(d) && (d.known() != Some(1) || short.len() - at == long.len() - i) {
            at += 1;
        } else if d.known() == Some(1) {
            extra.push(i as i32);
        } else {
            return None;
        }
    }
    (at == short.len()).then_some(extra)
}

/// The same elements in another shape.
pub(super) fn reshape(b: &mut Builder<'_>, x: Var, shape: Vec<SymInt>) -> Emitted<Var> {
    if x.ty.shape == shape {
        return Ok(x);
    }
    let ty = Type { dtype: x.ty.dtype, shape };
    if let Some(axes) = ones(&x.ty.shape, &ty.shape) {
        return Ok(b.op("expand_dims", vec![("x", x.into()), ("axes", axes.into())], ty));
    }
    if let Some(axes) = ones(&ty.shape, &x.ty.shape) {
        return Ok(b.op("squeeze", vec![("x", x.into()), ("axes", axes.into())], ty));
    }
    if !ty.dtype.is_float() && !matches!(ty.dtype, crate::mil::DType::I32 | crate::mil::DType::Bool) {
        return Err(format!("Core ML does not reshape {}", ty.dtype.name()));
    }
    let open = ty.shape.iter().filter(|d| d.known().is_none()).count();
    // One open size follows from the others.
    let sizes: Vec<SymInt> = ty
        .shape
        .iter()
        .map(|d| if open == 1 && d.known().is_none() { (-1).into() } else { d.clone() })
        .collect();
    let sizes = sizes::list(b, &sizes)?;
    Ok(b.op("reshape", vec![("x", x.into()), ("shape", sizes)], ty))
}

/// The dimensions in another order.
pub(super) fn transpose(b: &mut Builder<'_>, x: Var, order: &[usize]) -> Var {
    if order.iter().enumerate().all(|(i, &d)| i == d) {
        return x;
    }
    let ty = Type { dtype: x.ty.dtype, shape: order.iter().map(|&d| x.ty.shape[d].clone()).collect() };
    let perm: Vec<i32> = order.iter().map(|&d| d as i32).collect();
    b.op("transpose", vec![("x", x.into()), ("perm", perm.into())], ty)
}

fn permute(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let order: Vec<usize> = axes(n, 1, x.ty.rank())?.iter().map(|&d| d as usize).collect();
    Ok(vec![transpose(b, x, &order)])
}

fn swap(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    if x.ty.rank() == 0 {
        return Ok(vec![x]);
    }
    let (i, j) = (dim(n, 1, x.ty.rank())?, dim(n, 2, x.ty.rank())?);
    let mut order: Vec<usize> = (0..x.ty.rank()).collect();
    order.swap(i, j);
    Ok(vec![transpose(b, x, &order)])
}

/// More dimensions in front, of one.
fn widen(b: &mut Builder<'_>, x: Var, rank: usize) -> Emitted<Var> {
    let mut shape = vec![SymInt::from(1); rank - x.ty.rank()];
    shape.extend(x.ty.shape.iter().cloned());
    reshape(b, x, shape)
}

/// So many copies along each dimension.
fn tile(b: &mut Builder<'_>, x: Var, times: &[SymInt], ty: Type) -> Emitted<Var> {
    if times.iter().all(|t| t.known() == Some(1)) {
        return Ok(x);
    }
    let times = sizes::list(b, times)?;
    Ok(b.op("tile", vec![("x", x.into()), ("reps", times)], ty))
}

fn expand(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    expanded(b, x, &ty.shape).map(|y| vec![y])
}

/// Repeated up to a shape that it broadcasts to.
pub(super) fn expanded(b: &mut Builder<'_>, x: Var, shape: &[SymInt]) -> Emitted<Var> {
    let x = widen(b, x, shape.len())?;
    let one = SymInt::from(1);
    let times = x.ty.shape.iter().zip(shape).map(|(have, want)| if have == want { &one } else { want });
    let times: Vec<SymInt> = times.cloned().collect();
    let ty = Type { dtype: x.ty.dtype, shape: shape.to_vec() };
    tile(b, x, &times, ty)
}

/// The last `shift` entries of a dimension go to its front.
fn roll(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (mut x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let (shifts, dims) = (ints(n, 1)?, axes(n, 2, ty.rank())?);
    if dims.is_empty() {
        return Err("it rolls over all dimensions at once".into());
    }
    for (shift, d) in shifts.into_iter().zip(dims) {
        let d = d as usize;
        let size = ty.shape[d].known().ok_or("it rolls a dimension of open size")?;
        let at = (-shift).rem_euclid(size.max(1));
        if at != 0 {
            let parts = [(at, size), (0, at)].map(|(from, to)| super::index::cut(b, x.clone(), d, from, to));
            x = concat(b, parts.into(), d, ty.clone());
        }
    }
    Ok(vec![x])
}

/// Pads: pairs for dimensions from the last one on; those below zero cut.
fn pad(b: &mut Builder<'_>, n: &Node, mode: &'static str, value: f64) -> Emitted<Vec<Var>> {
    let (mut x, ty, pads) = (b.arg(n, 0)?, out(b, n)?, ints(n, 1)?);
    let rank = ty.rank();
    let mut around = vec![[0i64; 2]; rank];
    for (i, pair) in pads.chunks_exact(2).enumerate() {
        let d = rank.checked_sub(i + 1).ok_or("it pads more dimensions than there are")?;
        around[d] = [pair[0], pair[1]];
        let cut = pair.iter().any(|&p| p < 0);
        if cut {
            let size = x.ty.shape[d].known().ok_or("it cuts a dimension of open size")?;
            x = super::index::cut(b, x, d, (-pair[0]).max(0), size - (-pair[1]).max(0));
            around[d] = [pair[0].max(0), pair[1].max(0)];
        }
    }
    let first = around.iter().position(|p| *p != [0, 0]).unwrap_or(rank);
    if first == rank {
        return Ok(vec![x]);
    }
    if mode != "constant" && rank - first > 2 {
        return Err(format!("Core ML pads at most two dimensions by {mode}"));
    }
    if !ty.dtype.is_float() {
        return Err(format!("Core ML does not pad {}", ty.dtype.name()));
    }
    // The constant mode wants pads for all dimensions, the others for the last ones.
    let from = if mode == "constant" { 0 } else { first };
    let list: Vec<i64> = around[from..].concat();
    let mut inputs = vec![("x", x.into()), ("pad", narrow(&list)?.into()), ("mode", mode.into())];
    inputs.push(("constant_val", Constant::float(ty.dtype, value as f32).into()));
    Ok(vec![b.op("pad", inputs, ty)])
}
