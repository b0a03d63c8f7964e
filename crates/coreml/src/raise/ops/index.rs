//! Picking elements by indices.

use super::{Table, kept, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    kept("gather", gather),
    kept("gather_along_axis", |c| {
        let (x, indices) = (c.tensor("x")?, indices(c)?);
        let axis = c.axis("axis", 0, c.rank(x))?;
        one(c.node(&ops::GATHER, [x.into(), axis.into(), indices.into()])?)
    }),
    kept("gather_nd", |c| {
        let (x, indices) = (c.tensor("x")?, indices(c)?);
        let each = coordinates(c, indices, x)?;
        let batches = batches(c, x, c.rank(indices) - 1)?;
        one(c.node(&ops::INDEX, [x.into(), places(0, &[batches, each].concat())])?)
    }),
];

/// Entries along an axis; with batches, each of them with its own indices.
fn gather(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, indices) = (c.tensor("x")?, indices(c)?);
    let (rank, axis) = (c.rank(x), c.axis("axis", 0, c.rank(x))?);
    let picked = c.rank(indices);
    let batches = batches(c, x, picked)?;
    let n = batches.len();
    if n == 0 {
        if axis == 0 && rank == 2 && c.is_float(x) {
            return one(c.node(&ops::EMBEDDING, [x.into(), indices.into()])?);
        }
        return one(c.node(&ops::INDEX, [x.into(), places(axis, &[indices])])?);
    }
    if axis < n {
        return Err(format!("argument axis is {axis}, argument batch_dims {n}"));
    }
    // The axis behind the batches, and back between the dimensions it was between.
    let order: Vec<usize> = (0..n).chain([axis]).chain(n..axis).chain(axis + 1..rank).collect();
    let x = c.permute(x, &order)?;
    let y = c.node(&ops::INDEX, [x.into(), places(0, &[batches, vec![indices]].concat())])?;
    let (moved, all) = (axis - n, picked + rank - n - 1);
    let back: Vec<usize> =
        (0..n).chain(picked..picked + moved).chain(n..picked).chain(picked + moved..all).collect();
    one(c.permute(y, &back)?)
}

/// Indices, in a type that PyTorch takes.
pub(super) fn indices(c: &mut Call<'_>) -> Raised<ValueId> {
    let v = c.tensor("indices")?;
    match c.ty(v).dtype {
        DType::I32 => Ok(v),
        d if d.is_int() => c.cast(v, DType::I32),
        d => Err(format!("argument indices is {d}")),
    }
}

/// For each of the leading dimensions that are batches, its own indices, to go with others of `rank` dimensions.
fn batches(c: &mut Call<'_>, x: ValueId, rank: usize) -> Raised<Vec<ValueId>> {
    let n = c.opt_int("batch_dims")?.unwrap_or(0);
    let n = usize::try_from(n).ok().filter(|&n| n < c.rank(x).max(1) && n <= rank);
    let n = n.ok_or_else(|| {
        format!("argument batch_dims does not fit {} and indices of {rank} dimensions", c.ty(x))
    })?;
    let mut all = vec![];
    for d in 0..n {
        let size = c.ty(x).shape[d].clone();
        let list = c.node(&ops::ARANGE, [Arg::Int(size.clone()), DType::I32.into()])?;
        let shape = (0..rank).map(|k| if k == d { size.clone() } else { SymInt::from(1) });
        all.push(c.reshape(list, shape.collect())?);
    }
    Ok(all)
}

/// The argument of `aten.index` for these dimensions from `first` on.
pub(super) fn places(first: usize, indices: &[ValueId]) -> Arg {
    Arg::OptValues(vec![None; first].into_iter().chain(indices.iter().copied().map(Some)).collect())
}

/// Lists of coordinates, last dimension of `indices`, as a tensor for each dimension of `x` that they go over.
pub(super) fn coordinates(c: &mut Call<'_>, indices: ValueId, x: ValueId) -> Raised<Vec<ValueId>> {
    let n = c.ty(indices).shape.last().and_then(|d| d.known()).filter(|&n| n >= 1 && n <= c.rank(x) as i64);
    let n = n.ok_or_else(|| format!("argument indices is {}, it goes into {}", c.ty(indices), c.ty(x)))?;
    (0..n).map(|i| c.node(&ops::SELECT, [indices.into(), (-1).into(), i.into()])).collect()
}
