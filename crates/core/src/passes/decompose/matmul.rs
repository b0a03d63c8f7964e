//! Products of matrices and vectors.

use super::{Build, PassFailure, Table, Values, number, one};
use crate::ir::{Arg, Node, TensorType, ValueId};
use crate::ops;
use crate::symint::SymInt;

fn last(t: &TensorType, k: usize) -> SymInt {
    t.shape[t.rank() - k].clone()
}

/// `x · weightᵀ + bias` over the rows of all leading dimensions.
fn linear(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let (tx, tw) = (b.ty(x).clone(), b.ty(w).clone());
    let rows: SymInt = tx.shape[..tx.rank() - 1].iter().cloned().product();
    let flat = b.view(x, vec![rows, last(&tx, 1)])?;
    let columns = b.permute(w, &[1, 0])?;
    let y = b.op(&ops::MM, [flat.into(), columns.into()])?;
    let y = match n.arg(2) {
        Arg::Value(bias) => b.op(&ops::ADD, [y.into(), (*bias).into()])?,
        _ => y,
    };
    let mut shape = tx.shape[..tx.rank() - 1].to_vec();
    shape.push(tw.shape[0].clone());
    one(b.view(y, shape)?)
}

/// A product as `torch.matmul` has it: leading dimensions are folded into one, multiplied in batches, and unfolded.
/// Batches are broadcast first.
pub(super) fn product(b: &mut Build<'_>, x: ValueId, y: ValueId) -> Result<ValueId, PassFailure> {
    let (tx, ty) = (b.ty(x).clone(), b.ty(y).clone());
    let (rx, ry) = (tx.rank(), ty.rank());
    if rx == 2 && ry == 2 {
        return b.op(&ops::MM, [x.into(), y.into()]);
    }
    if rx == 1 || ry == 1 {
        // A vector is a matrix of one row, or one column.
        let x2 = if rx == 1 { b.op(&ops::UNSQUEEZE, [x.into(), 0.into()])? } else { x };
        let y2 = if ry == 1 { b.op(&ops::UNSQUEEZE, [y.into(), 1.into()])? } else { y };
        let z = product(b, x2, y2)?;
        let z = if ry == 1 { b.op(&ops::SQUEEZE_DIM, [z.into(), Arg::from(-1)])? } else { z };
        let dim = if ry == 1 { -1 } else { -2 };
        return if rx == 1 { b.op(&ops::SQUEEZE_DIM, [z.into(), Arg::from(dim)]) } else { Ok(z) };
    }
    if ry == 2 {
        let rows: SymInt = tx.shape[..rx - 1].iter().cloned().product();
        let flat = b.view(x, vec![rows, last(&tx, 1)])?;
        let z = b.op(&ops::MM, [flat.into(), y.into()])?;
        let mut shape = tx.shape[..rx - 1].to_vec();
        shape.push(last(&ty, 1));
        return b.view(z, shape);
    }
    let batch = |t: &TensorType| t.shape[..t.rank() - 2].to_vec();
    let (bx, by) = (batch(&tx), batch(&ty));
    let r = bx.len().max(by.len());
    let at = |s: &[SymInt], i: usize| (i + s.len()).checked_sub(r).map_or(SymInt::Known(1), |k| s[k].clone());
    let shape: Vec<SymInt> = (0..r).map(|i| if at(&bx, i) == 1 { at(&by, i) } else { at(&bx, i) }).collect();
    let count: SymInt = shape.iter().cloned().product();
    let flat = |b: &mut Build<'_>, v: ValueId, t: &TensorType| {
        let mut full = shape.clone();
        full.extend([last(t, 2), last(t, 1)]);
        let v = b.expand(v, full)?;
        b.view(v, vec![count.clone(), last(t, 2), last(t, 1)])
    };
    let (fx, fy) = (flat(b, x, &tx)?, flat(b, y, &ty)?);
    let z = b.op(&ops::BMM, [fx.into(), fy.into()])?;
    let mut out = shape.clone();
    out.extend([last(&tx, 2), last(&ty, 1)]);
    b.view(z, out)
}

fn matmul(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, y) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    one(product(b, x, y)?)
}

/// `beta·self + alpha·(batch1 · batch2)`
fn baddbmm(b: &mut Build<'_>, n: &Node) -> Values {
    let p = b.op(&ops::BMM, [n.arg(1).clone(), n.arg(2).clone()])?;
    let p = b.scale(p, number(n, 4)?)?;
    let beta = number(n, 3)?;
    if beta == 0.0 {
        // Then `self` is ignored, whatever it holds.
        return one(p);
    }
    let x = b.tensor(n, 0)?;
    let x = b.scale(x, beta)?;
    one(b.op(&ops::ADD, [x.into(), p.into()])?)
}

pub(super) const TABLE: Table =
    &[("aten.linear.default", linear), ("aten.matmul.default", matmul), ("aten.baddbmm.default", baddbmm)];
