//! Reductions by others.

use super::{Build, PassFailure, Table};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;

type Values = Result<Option<Vec<ValueId>>, PassFailure>;

fn one(v: ValueId) -> Values {
    Ok(Some(vec![v]))
}

/// `sum(self, dtype)` over all dimensions.
fn sum(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::SUM_DIM, [n.arg(0).clone(), Arg::Ints(vec![]), false.into(), n.arg(1).clone()])?)
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

pub(super) const TABLE: Table = &[
    ("aten.sum.default", sum),
    ("aten.std.correction", std),
    ("aten.linalg_vector_norm.default", norm),
    ("aten.norm.ScalarOpt_dim", norm),
    ("aten.all.default", all),
    ("aten.all.dim", all_dim),
];
