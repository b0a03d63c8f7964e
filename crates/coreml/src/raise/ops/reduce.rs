//! Reductions, sorting and running sums.

use super::{Table, all, kept, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, OpDef};

pub static TABLE: Table = &[
    new("reduce_mean", |c| over(c, &ops::MEAN_DIM)),
    new("reduce_sum", |c| over(c, &ops::SUM_DIM)),
    kept("reduce_max", |c| over(c, &ops::AMAX)),
    kept("reduce_min", |c| over(c, &ops::AMIN)),
    new("reduce_prod", |c| {
        let (mut y, axes, keep) = read(c)?;
        // The last axis first: those before keep their numbers.
        for d in axes.into_iter().rev() {
            y = c.node(&ops::PROD_DIM_INT, [y.into(), d.into(), keep.into()])?;
        }
        one(y)
    }),
    new("reduce_l1_norm", |c| {
        let (x, axes, keep) = read(c)?;
        let x = c.node(&ops::ABS, [x.into()])?;
        one(reduced(c, &ops::SUM_DIM, x, &axes, keep)?)
    }),
    new("reduce_l2_norm", |c| {
        let (x, axes, keep) = read(c)?;
        one(c.node(&ops::LINALG_VECTOR_NORM, [x.into(), 2.into(), Arg::ints(axes), keep.into()])?)
    }),
    new("reduce_sum_square", |c| {
        let (x, axes, keep) = read(c)?;
        let x = c.node(&ops::SQUARE, [x.into()])?;
        one(reduced(c, &ops::SUM_DIM, x, &axes, keep)?)
    }),
    new("reduce_log_sum", |c| {
        let (x, axes, keep) = read(c)?;
        let sum = reduced(c, &ops::SUM_DIM, x, &axes, keep)?;
        one(c.node(&ops::LOG, [sum.into()])?)
    }),
    new("reduce_log_sum_exp", log_sum_exp),
    kept("reduce_argmax", |c| place(c, &ops::ARGMAX)),
    kept("reduce_argmin", |c| place(c, &ops::ARGMIN)),
    kept("topk", |c| {
        let x = c.tensor("x")?;
        let axis = c.axis("axis", -1, c.rank(x))?;
        let k = c.opt_sizes("k")?.unwrap_or_else(|| vec![1.into()]);
        let [k] = &k[..] else { return Err(format!("argument k has {} integers", k.len())) };
        let largest = !c.truth("ascending", false)?;
        // What need not be sorted may be.
        let args = [x.into(), k.clone().into(), axis.into(), largest.into(), true.into()];
        let made = c.nodes(&ops::TOPK, args)?;
        let results = c.op.outputs.len();
        all(made.into_iter().take(results))
    }),
    kept("argsort", |c| {
        let x = c.tensor("x")?;
        let axis = c.axis("axis", -1, c.rank(x))?;
        let descending = !c.truth("ascending", false)?;
        let made = c.nodes(&ops::SORT, [x.into(), axis.into(), descending.into()])?;
        all(made.into_iter().skip(1))
    }),
    new("cumsum", |c| {
        let x = c.tensor("x")?;
        let axis = c.axis("axis", 0, c.rank(x))?;
        let (exclusive, reverse) = (c.truth("exclusive", false)?, c.truth("reverse", false)?);
        let flip = |c: &mut Call<'_>, v: ValueId| c.node(&ops::FLIP, [v.into(), Arg::ints([axis])]);
        let from = if reverse { flip(c, x)? } else { x };
        let mut y = c.node(&ops::CUMSUM, [from.into(), axis.into()])?;
        if exclusive {
            y = c.node(&ops::SUB, [y.into(), from.into()])?;
        }
        one(if reverse { flip(c, y)? } else { y })
    }),
];

/// What is reduced, over which axes, and whether they stay.
fn read(c: &mut Call<'_>) -> Raised<(ValueId, Vec<usize>, bool)> {
    let x = c.tensor("x")?;
    let rank = c.rank(x);
    let axes = c.axes("axes", rank)?.unwrap_or_else(|| (0..rank).collect());
    if axes.is_empty() {
        return Err("there is no axis to reduce".into());
    }
    Ok((x, axes, c.truth("keep_dims", false)?))
}

fn reduced(c: &mut Call<'_>, op: &'static OpDef, x: ValueId, axes: &[usize], keep: bool) -> Raised<ValueId> {
    c.node(op, [x.into(), Arg::ints(axes.iter().copied()), keep.into()])
}

fn over(c: &mut Call<'_>, op: &'static OpDef) -> Raised<Vec<Value>> {
    let (x, axes, keep) = read(c)?;
    one(reduced(c, op, x, &axes, keep)?)
}

fn place(c: &mut Call<'_>, op: &'static OpDef) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    let axis = c.axis("axis", -1, c.rank(x))?;
    one(c.node(op, [x.into(), axis.into(), c.truth("keep_dims", false)?.into()])?)
}

/// With the largest taken out first, so that no exponential overflows.
fn log_sum_exp(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, axes, keep) = read(c)?;
    let most = reduced(c, &ops::AMAX, x, &axes, true)?;
    // Infinities have no difference.
    let infinite = c.node(&ops::ISINF, [most.into()])?;
    let most = c.node(&ops::WHERE_SCALAR_SELF, [infinite.into(), Arg::Float(0.0), most.into()])?;
    let y = c.node(&ops::SUB, [x.into(), most.into()])?;
    let y = c.node(&ops::EXP, [y.into()])?;
    let y = reduced(c, &ops::SUM_DIM, y, &axes, true)?;
    let y = c.node(&ops::LOG, [y.into()])?;
    let y = c.node(&ops::ADD, [y.into(), most.into()])?;
    if keep {
        return one(y);
    }
    one(c.node(&ops::SQUEEZE_DIMS, [y.into(), Arg::ints(axes)])?)
}
