//! Scaled dot product attention, and softmaxes.

use super::matmul::product;
use super::{Build, PassFailure, Table, Values, dim, one, out_type};
use crate::dtype::DType;
use crate::ir::{Arg, Node, ValueId};
use crate::ops;

/// Attention as two products with a softmax between them:
/// `(query, key, value, attn_mask, dropout_p, is_causal, *, scale, enable_gqa)`.
fn attention(b: &mut Build<'_>, n: &Node) -> Values {
    let (q, mut k, mut v) = (b.tensor(n, 0)?, b.tensor(n, 1)?, b.tensor(n, 2)?);
    if ops::views::float(n.arg(4)).is_some_and(|p| p != 0.0) {
        return Err(PassFailure(
            "it drops out at random; export in evaluation mode, after model.eval()".into(),
        ));
    }
    if ops::views::bool(n.arg(7)) == Some(true) {
        (k, v) = (repeat_heads(b, q, k)?, repeat_heads(b, q, v)?);
    }
    let (tq, tk) = (b.ty(q).clone(), b.ty(k).clone());
    let r = tq.rank();
    let scale = match (ops::views::float(n.arg(6)), tq.shape[r - 1].known()) {
        (Some(s), _) => s,
        (None, Some(e)) => 1.0 / (e as f64).sqrt(),
        _ => return Ok(None),
    };
    let order: Vec<usize> = (0..tk.rank() - 2).chain([tk.rank() - 1, tk.rank() - 2]).collect();
    let kt = b.permute(k, &order)?;
    // The smaller factor is scaled.
    let q = b.scale(q, scale)?;
    let mut scores = product(b, q, kt)?;
    if ops::views::bool(n.arg(5)) == Some(true) {
        let (l, s) = (tq.shape[r - 2].clone(), tk.shape[tk.rank() - 2].clone());
        let ones = b.full(vec![l, s], 1.0, DType::F32)?;
        let seen = b.op(&ops::TRIL, [ones.into(), 0.into()])?;
        let hidden = b.op(&ops::EQ_SCALAR, [seen.into(), 0.into()])?;
        scores = hide(b, scores, hidden)?;
    }
    let mut empty_rows = false;
    if let Arg::Value(mask) = n.arg(3) {
        empty_rows = may_hide_a_row(b, *mask);
        scores = if b.ty(*mask).dtype == DType::Bool {
            let hidden = b.op(&ops::LOGICAL_NOT, [(*mask).into()])?;
            hide(b, scores, hidden)?
        } else {
            b.op(&ops::ADD, [scores.into(), (*mask).into()])?
        };
    }
    let rank = b.ty(scores).rank();
    // The weights of a row that is hidden as a whole are zeros.
    let op = if empty_rows { &ops::SAFE_SOFTMAX } else { &ops::SOFTMAX };
    let weights = b.op(op, [scores.into(), Arg::from(rank - 1)])?;
    one(product(b, weights, v)?)
}

/// Whether a row of the mask may be false, or −∞, from end to end; a mask that is a constant tells.
fn may_hide_a_row(b: &Build<'_>, mask: ValueId) -> bool {
    let Some(t) = b.program.frozen(mask) else { return true };
    let Some(&width) = t.shape().last().filter(|w| **w > 0) else { return true };
    let hidden = if t.dtype() == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
    t.to_f64().chunks(width).any(|row| row.iter().all(|&x| x == hidden))
}

fn hide(b: &mut Build<'_>, scores: ValueId, hidden: ValueId) -> Result<ValueId, PassFailure> {
    b.op(&ops::MASKED_FILL_SCALAR, [scores.into(), hidden.into(), Arg::Float(f64::NEG_INFINITY)])
}

/// Keys or values with a head for each head of the query.
fn repeat_heads(b: &mut Build<'_>, q: ValueId, x: ValueId) -> Result<ValueId, PassFailure> {
    let (tq, shape) = (b.ty(q).clone(), b.ty(x).shape.clone());
    let r = shape.len();
    let heads = |s: &[crate::SymInt]| s.len().checked_sub(3).and_then(|d| s[d].known());
    let (Some(hq), Some(hk)) = (heads(&tq.shape), heads(&shape)) else {
        return Err(PassFailure("the number of heads is not known".into()));
    };
    if hq == hk || hk == 0 {
        return Ok(x);
    }
    let y = b.op(&ops::UNSQUEEZE, [x.into(), (r - 2).into()])?;
    let mut wide = shape.clone();
    wide.insert(r - 2, (hq / hk).into());
    let y = b.expand(y, wide)?;
    let mut flat = shape;
    flat[r - 3] = hq.into();
    b.view(y, flat)
}

/// `softmax` in the element type asked for.
fn softmax(b: &mut Build<'_>, n: &Node) -> Values {
    one(soft(b, n, &ops::SOFTMAX_CORE)?)
}
fn log_softmax(b: &mut Build<'_>, n: &Node) -> Values {
    one(soft(b, n, &ops::LOG_SOFTMAX_CORE)?)
}
fn soft(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef) -> Result<ValueId, PassFailure> {
    let x = b.tensor(n, 0)?;
    let dtype = out_type(b, n).dtype;
    let x = b.cast(x, dtype)?;
    b.op(op, [x.into(), n.arg(1).clone(), false.into()])
}

/// `_safe_softmax`: a row of −∞ alone gives zeros, not NaN.
fn safe_softmax(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let d = dim(n, 1, b.ty(x).rank())?;
    let y = soft(b, n, &ops::SOFTMAX_CORE)?;
    let largest = b.op(&ops::AMAX, [x.into(), Arg::ints([d]), true.into()])?;
    let empty = b.op(&ops::EQ_SCALAR, [largest.into(), Arg::Float(f64::NEG_INFINITY)])?;
    one(b.op(&ops::MASKED_FILL_SCALAR, [y.into(), empty.into(), 0.into()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.scaled_dot_product_attention.default", attention),
    ("aten.softmax.int", softmax),
    ("aten.log_softmax.int", log_softmax),
    ("aten._safe_softmax.default", safe_softmax),
];
