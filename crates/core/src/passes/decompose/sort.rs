//! Sorting, and what is found by it, through `topk`.

use super::{Build, PassFailure, Table, Values, dim, one};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

/// All entries, in order. (Which of two equal entries comes first is open, as `torch.sort` without `stable` leaves it.)
fn sort(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let d = dim(n, 1, b.ty(x).rank())?;
    let Some(size) = b.ty(x).shape.get(d).cloned() else { return Ok(None) };
    Ok(Some(b.all(&ops::TOPK, [x.into(), Arg::Int(size), d.into(), n.arg(2).clone(), true.into()])?))
}

/// The lower median: the last of the smaller half. A NaN anywhere is the result.
fn median_along(b: &mut Build<'_>, x: ValueId, d: usize, keep: bool) -> Result<[ValueId; 2], PassFailure> {
    let size = b.ty(x).shape[d].clone();
    let half: SymInt = (size + 1).floor_div(&2.into());
    let low = b.all(&ops::TOPK, [x.into(), Arg::Int(half.clone()), d.into(), false.into(), true.into()])?;
    let mut found = [low[0], low[1]];
    for v in &mut found {
        *v = b.slice(*v, d, half.clone() - 1, half.clone())?;
    }
    if b.ty(x).dtype.is_float() {
        let nan = b.op(&ops::ISNAN, [x.into()])?;
        let numbers = b.cast(nan, crate::DType::F32)?;
        let first = b.all(&ops::MAX_DIM, [numbers.into(), d.into(), true.into()])?;
        let any = b.op(&ops::GT_SCALAR, [first[0].into(), 0.into()])?;
        found[0] = b.op(&ops::MASKED_FILL_SCALAR, [found[0].into(), any.into(), Arg::Float(f64::NAN)])?;
        found[1] = b.op(&ops::WHERE, [any.into(), first[1].into(), found[1].into()])?;
    }
    if !keep {
        for v in &mut found {
            *v = b.op(&ops::SQUEEZE_DIM, [(*v).into(), d.into()])?;
        }
    }
    Ok(found)
}

fn median_dim(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let rank = b.ty(x).rank();
    if rank == 0 {
        return Ok(None);
    }
    let keep = ops::views::bool(n.arg(2)) == Some(true);
    Ok(Some(median_along(b, x, dim(n, 1, rank)?, keep)?.to_vec()))
}

/// Of all elements.
fn median(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let count = b.ty(x).numel();
    let flat = b.view(x, vec![count])?;
    one(median_along(b, flat, 0, false)?[0])
}

pub(super) const TABLE: Table =
    &[("aten.sort.default", sort), ("aten.median.default", median), ("aten.median.dim", median_dim)];
