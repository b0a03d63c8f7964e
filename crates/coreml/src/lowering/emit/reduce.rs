//! Sums, extremes and orders over dimensions.

use super::binary::{apply, number as constant};
use super::{Emitted, Table, dim, int, number, out, truth};
use crate::lowering::builder::{Builder, Var};
use crate::mil::{DType, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::SUM, |b, n| whole(b, n, "reduce_sum")),
    (&ops::SUM_DIM, |b, n| over(b, n, "reduce_sum")),
    (&ops::MEAN, |b, n| whole(b, n, "reduce_mean")),
    (&ops::MEAN_DIM, |b, n| over(b, n, "reduce_mean")),
    (&ops::PROD, |b, n| whole(b, n, "reduce_prod")),
    (&ops::PROD_DIM_INT, |b, n| over(b, n, "reduce_prod")),
    (&ops::MAX, |b, n| whole(b, n, "reduce_max")),
    (&ops::MIN, |b, n| whole(b, n, "reduce_min")),
    (&ops::AMAX, |b, n| over(b, n, "reduce_max")),
    (&ops::AMIN, |b, n| over(b, n, "reduce_min")),
    (&ops::ANY, |b, n| whole(b, n, "reduce_max")),
    (&ops::ANY_DIM, |b, n| over(b, n, "reduce_max")),
    (&ops::ALL, |b, n| whole(b, n, "reduce_min")),
    (&ops::ALL_DIM, |b, n| over(b, n, "reduce_min")),
    (&ops::ARGMAX, |b, n| place(b, n, "reduce_argmax")),
    (&ops::ARGMIN, |b, n| place(b, n, "reduce_argmin")),
    (&ops::MAX_DIM, |b, n| both(b, n, "reduce_max", "reduce_argmax")),
    (&ops::MIN_DIM, |b, n| both(b, n, "reduce_min", "reduce_argmin")),
    (&ops::VAR_CORRECTION, |b, n| {
        let (_, var) = moments(b, n)?;
        Ok(vec![var])
    }),
    (&ops::VAR_MEAN_CORRECTION, |b, n| {
        let (mean, var) = moments(b, n)?;
        Ok(vec![var, mean])
    }),
    (&ops::CUMSUM, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        let x = b.cast(&x, ty.dtype);
        if ty.rank() == 0 {
            return Ok(vec![x]);
        }
        let axis = dim(n, 1, ty.rank())? as i32;
        let inputs = vec![
            ("x", x.into()),
            ("axis", axis.into()),
            ("exclusive", false.into()),
            ("reverse", false.into()),
        ];
        Ok(vec![b.op("cumsum", inputs, ty)])
    }),
    (&ops::TOPK, |b, n| {
        let x = b.arg(n, 0)?;
        if x.ty.rank() == 0 {
            return Err("Core ML sorts lists only".into());
        }
        let types = n.outputs().iter().map(|&v| b.type_of(v)).collect::<Emitted<Vec<_>>>()?;
        let (k, axis) = (int(n, 1)? as i32, dim(n, 2, x.ty.rank())? as i32);
        let ascending = !truth(n, 3)?;
        let inputs =
            vec![("x", x.into()), ("k", k.into()), ("axis", axis.into()), ("ascending", ascending.into())];
        Ok(b.all("topk", inputs, types))
    }),
];

/// `op` over some dimensions, which stay as ones; in the type `dtype`.
fn reduce(b: &mut Builder<'_>, op: &'static str, x: Var, axes: &[usize], keep: bool) -> Var {
    let mut ty = x.ty.clone();
    for &d in axes {
        ty.shape[d] = 1.into();
    }
    if !keep {
        let left = (0..ty.rank()).filter(|d| !axes.contains(d)).map(|d| ty.shape[d].clone());
        ty.shape = left.collect();
    }
    let list: Vec<i32> = axes.iter().map(|&d| d as i32).collect();
    b.op(op, vec![("x", x.into()), ("axes", list.into()), ("keep_dims", keep.into())], ty)
}

/// The input in the type that the result is computed in: truth values as integers.
fn operand(b: &mut Builder<'_>, n: &Node) -> Emitted<(Var, Type)> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let through = if ty.dtype == DType::Bool { DType::I32 } else { ty.dtype };
    let x = if ty.dtype == DType::Bool && x.ty.dtype != DType::Bool { b.cast(&x, DType::Bool) } else { x };
    Ok((b.cast(&x, through), ty))
}

/// Over all dimensions.
fn whole(b: &mut Builder<'_>, n: &Node, op: &'static str) -> Emitted<Vec<Var>> {
    let (x, ty) = operand(b, n)?;
    let axes: Vec<usize> = (0..x.ty.rank()).collect();
    let y = if axes.is_empty() { x } else { reduce(b, op, x, &axes, false) };
    Ok(vec![b.cast(&y, ty.dtype)])
}

/// The dimensions in argument 1: one, several, or all.
fn dims(n: &Node, rank: usize) -> Emitted<Vec<usize>> {
    let list = match n.arg(1) {
        Arg::Int(_) => vec![int(n, 1)?],
        Arg::None => vec![],
        _ => super::ints(n, 1)?,
    };
    if list.is_empty() {
        return Ok((0..rank).collect());
    }
    list.iter().map(|&d| ops::wrap_dim(d, rank).map_err(|e| e.message)).collect()
}

/// Over the dimensions in argument 1; argument 2 says whether they stay.
fn over(b: &mut Builder<'_>, n: &Node, op: &'static str) -> Emitted<Vec<Var>> {
    let (x, ty) = operand(b, n)?;
    let (axes, keep) = (dims(n, x.ty.rank())?, truth(n, 2)?);
    let y = if x.ty.rank() == 0 { x } else { reduce(b, op, x, &axes, keep) };
    Ok(vec![b.cast(&y, ty.dtype)])
}

/// Where the extreme is, in one dimension or in all of them as one list.
fn place(b: &mut Builder<'_>, n: &Node, op: &'static str) -> Emitted<Vec<Var>> {
    let (mut x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let mut keep = truth(n, 2)?;
    let axis = if *n.arg(1) == Arg::None {
        if keep {
            return Err("Core ML keeps no dimensions of the whole".into());
        }
        let count = x.ty.shape.iter().cloned().product::<SymInt>();
        x = super::shape::reshape(b, x, vec![count])?;
        keep = false;
        0
    } else {
        dim(n, 1, x.ty.rank())?
    };
    if x.ty.dtype == DType::Bool {
        x = b.cast(&x, DType::I32);
    }
    let inputs = vec![("x", x.into()), ("axis", (axis as i32).into()), ("keep_dims", keep.into())];
    Ok(vec![b.op(op, inputs, ty)])
}

/// An extreme and where it is.
fn both(b: &mut Builder<'_>, n: &Node, op: &'static str, place: &'static str) -> Emitted<Vec<Var>> {
    let (x, keep) = (b.arg(n, 0)?, truth(n, 2)?);
    if x.ty.rank() == 0 {
        return Err("Core ML compares lists only".into());
    }
    let axis = dim(n, 1, x.ty.rank())?;
    let value = reduce(b, op, x.clone(), &[axis], keep);
    let ty = value.ty.with(DType::I32);
    let inputs = vec![("x", x.into()), ("axis", (axis as i32).into()), ("keep_dims", keep.into())];
    Ok(vec![value, b.op(place, inputs, ty)])
}

/// Mean and variance over dimensions.
fn moments(b: &mut Builder<'_>, n: &Node) -> Emitted<(Var, Var)> {
    let x = b.arg(n, 0)?;
    let axes = dims(n, x.ty.rank())?;
    let correction = if *n.arg(2) == Arg::None { 1.0 } else { number(n, 2)? };
    let keep = truth(n, 3)?;
    let counts: Option<Vec<i64>> = axes.iter().map(|&d| x.ty.shape[d].known()).collect();
    let count: i64 = counts.ok_or("it is over dimensions of open size")?.iter().product();
    let mean = reduce(b, "reduce_mean", x.clone(), &axes, true);
    let centred = apply(b, "sub", x.clone(), mean.clone());
    let squares = apply(b, "mul", centred.clone(), centred);
    let mut var = reduce(b, "reduce_mean", squares, &axes, keep);
    if correction != 0.0 {
        let by = constant(b, var.ty.dtype, count as f64 / (count as f64 - correction))?;
        var = apply(b, "mul", var, by);
    }
    let mean = if keep { mean } else { super::shape::reshape(b, mean, var.ty.shape.clone())? };
    Ok((mean, var))
}
