//! Reductions by others.

use super::{Build, Table, Values, dim, number, one, out_type};
use crate::ir::{Arg, Node};
use crate::ops;

/// `sum(self, dtype)` over all dimensions.
fn sum(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::SUM_DIM, [n.arg(0).clone(), Arg::Ints(vec![]), false.into(), n.arg(1).clone()])?)
}

/// `mean(self, dtype)` over all dimensions.
fn mean(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::MEAN_DIM, [n.arg(0).clone(), Arg::Ints(vec![]), false.into(), n.arg(1).clone()])?)
}

/// `var(self, dim, unbiased, keepdim)`
fn var_dim(b: &mut Build<'_>, n: &Node) -> Values {
    let correction = i64::from(ops::views::bool(n.arg(2)) != Some(false));
    one(b.op(
        &ops::VAR_CORRECTION,
        [n.arg(0).clone(), n.arg(1).clone(), correction.into(), n.arg(3).clone()],
    )?)
}

/// `std` is the root of `var`.
fn std(b: &mut Build<'_>, n: &Node) -> Values {
    let v = b.op(&ops::VAR_CORRECTION, n.args().to_vec())?;
    one(b.op(&ops::SQRT, [v.into()])?)
}

/// Norms of order 2 and 1, and the largest magnitude.
fn norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let (dims, keep) = (n.arg(2).clone(), n.arg(3).clone());
    let dims = if dims == Arg::None { Arg::Ints(vec![]) } else { dims };
    let order = ops::views::float(n.arg(1)).unwrap_or(2.0);
    if order == 2.0 {
        let s = b.op(&ops::MUL, [x.into(), x.into()])?;
        let s = b.op(&ops::SUM_DIM, [s.into(), dims, keep])?;
        return one(b.op(&ops::SQRT, [s.into()])?);
    }
    let a = b.op(&ops::ABS, [x.into()])?;
    if order == 1.0 {
        return one(b.op(&ops::SUM_DIM, [a.into(), dims, keep])?);
    }
    if order == f64::INFINITY {
        return one(b.op(&ops::AMAX, [a.into(), dims, keep])?);
    }
    let p = b.op(&ops::POW_TENSOR_SCALAR, [a.into(), Arg::Float(order)])?;
    let s = b.op(&ops::SUM_DIM, [p.into(), dims, keep])?;
    one(b.op(&ops::POW_TENSOR_SCALAR, [s.into(), Arg::Float(1.0 / order)])?)
}

/// `all` is `not any not`.
fn all(b: &mut Build<'_>, n: &Node) -> Values {
    let not = b.op(&ops::LOGICAL_NOT, [n.arg(0).clone()])?;
    let any = b.op(&ops::ANY, [not.into()])?;
    one(b.op(&ops::LOGICAL_NOT, [any.into()])?)
}
fn all_dim(b: &mut Build<'_>, n: &Node) -> Values {
    let not = b.op(&ops::LOGICAL_NOT, [n.arg(0).clone()])?;
    let any = b.op(&ops::ANY_DIM, [not.into(), n.arg(1).clone(), n.arg(2).clone()])?;
    one(b.op(&ops::LOGICAL_NOT, [any.into()])?)
}

/// `cosine_similarity(x1, x2, dim, eps)`: the product of the normed operands, summed.
fn cosine_similarity(b: &mut Build<'_>, n: &Node) -> Values {
    let eps = number(n, 3)?;
    let mut normed = vec![];
    for i in 0..2 {
        let x = b.tensor(n, i)?;
        let s = b.op(&ops::MUL, [x.into(), x.into()])?;
        let d = dim(n, 2, b.ty(x).rank())?;
        let s = b.op(&ops::SUM_DIM, [s.into(), Arg::ints([d]), true.into()])?;
        let s = b.op(&ops::SQRT, [s.into()])?;
        let s = b.op(&ops::CLAMP, [s.into(), Arg::Float(eps), Arg::None])?;
        normed.push(b.op(&ops::DIV, [x.into(), s.into()])?);
    }
    let p = b.op(&ops::MUL, [normed[0].into(), normed[1].into()])?;
    let d = dim(n, 2, b.ty(p).rank())?;
    one(b.op(&ops::SUM_DIM, [p.into(), Arg::ints([d])])?)
}

/// `cross(self, other, dim)`: without `dim` the first dimension of size 3.
fn cross(b: &mut Build<'_>, n: &Node) -> Values {
    let out = out_type(b, n);
    let d = match n.arg(2) {
        Arg::None => out.shape.iter().position(|s| *s == 3),
        _ => Some(dim(n, 2, out.rank())?),
    };
    let Some(d) = d else { return Ok(None) };
    let mut turned = vec![];
    for i in 0..2 {
        let x = b.tensor(n, i)?;
        let x = b.cast(x, out.dtype)?;
        let x = b.expand(x, out.shape.clone())?;
        for by in [-1, -2] {
            turned.push(b.op(&ops::ROLL, [x.into(), Arg::ints([by]), Arg::ints([d])])?);
        }
    }
    let [x1, x2, y1, y2] = turned[..] else { return Ok(None) };
    let plus = b.op(&ops::MUL, [x1.into(), y2.into()])?;
    let minus = b.op(&ops::MUL, [x2.into(), y1.into()])?;
    one(b.op(&ops::SUB, [plus.into(), minus.into()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.sum.default", sum),
    ("aten.mean.default", mean),
    ("aten.var.dim", var_dim),
    ("aten.cosine_similarity.default", cosine_similarity),
    ("aten.cross.default", cross),
    ("aten.std.correction", std),
    ("aten.linalg_vector_norm.default", norm),
    ("aten.norm.ScalarOpt_dim", norm),
    ("aten.all.default", all),
    ("aten.all.dim", all_dim),
];
