//! Activations out of sigmoid, clamp, exponentials and arithmetic.

use super::{Build, PassFailure, Table, Values, integer, number, one, out_type};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;

fn clamp(b: &mut Build<'_>, x: ValueId, lo: f64, hi: f64) -> Result<ValueId, PassFailure> {
    b.op(&ops::HARDTANH, [x.into(), Arg::Float(lo), Arg::Float(hi)])
}

fn relu6(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    one(clamp(b, x, 0.0, 6.0)?)
}

/// `min(max(x + 3, 0), 6) / 6`
fn hardsigmoid(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let y = b.op(&ops::ADD_SCALAR, [x.into(), Arg::Float(3.0)])?;
    let y = clamp(b, y, 0.0, 6.0)?;
    one(b.op(&ops::DIV_SCALAR, [y.into(), Arg::Float(6.0)])?)
}

/// `x · min(max(x + 3, 0), 6) / 6`
fn hardswish(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let y = b.op(&ops::ADD_SCALAR, [x.into(), Arg::Float(3.0)])?;
    let y = clamp(b, y, 0.0, 6.0)?;
    let y = b.op(&ops::MUL, [x.into(), y.into()])?;
    one(b.op(&ops::DIV_SCALAR, [y.into(), Arg::Float(6.0)])?)
}

fn silu(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let s = b.op(&ops::SIGMOID, [x.into()])?;
    one(b.op(&ops::MUL, [x.into(), s.into()])?)
}

/// `log(1 + e^(beta·x)) / beta`, and x itself above the threshold.
fn softplus(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let (beta, limit) = (number(n, 1)?, number(n, 2)?);
    let scaled = b.scale(x, beta)?;
    let soft = log1p_exp(b, scaled)?;
    let soft = b.scale(soft, 1.0 / beta)?;
    let large = b.op(&ops::GT_SCALAR, [scaled.into(), Arg::Float(limit)])?;
    one(b.op(&ops::WHERE, [large.into(), x.into(), soft.into()])?)
}

/// `log(1 + e^x) = max(x, 0) + log1p(e^(−|x|))`
fn log1p_exp(b: &mut Build<'_>, x: ValueId) -> Result<ValueId, PassFailure> {
    let a = b.op(&ops::ABS, [x.into()])?;
    let a = b.op(&ops::NEG, [a.into()])?;
    let e = b.op(&ops::EXP, [a.into()])?;
    let l = b.op(&ops::LOG1P, [e.into()])?;
    let r = b.op(&ops::RELU, [x.into()])?;
    b.op(&ops::ADD, [r.into(), l.into()])
}

/// `log(1 + x)`: of integers with one step for all, what `log1p` keeps of the smallest numbers is lost anyway.
fn log1p(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    if !b.ty(x).dtype.is_float() {
        return Ok(None);
    }
    let above = b.op(&ops::ADD_SCALAR, [x.into(), Arg::Float(1.0)])?;
    one(b.op(&ops::LOG, [above.into()])?)
}

fn mish(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let s = log1p_exp(b, x)?;
    let t = b.op(&ops::TANH, [s.into()])?;
    one(b.op(&ops::MUL, [x.into(), t.into()])?)
}

/// Small powers are products, and roots have operators of their own.
fn pow_number(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, Some(exponent)) = (b.tensor(n, 0)?, ops::views::float(n.arg(1))) else { return Ok(None) };
    if !b.ty(x).dtype.is_float() {
        return Ok(None);
    }
    let root = |op| Some(op).filter(|_| b.ty(x).dtype == out_type(b, n).dtype);
    let op = match exponent {
        0.5 => root(&ops::SQRT),
        -0.5 => root(&ops::RSQRT),
        -1.0 => root(&ops::RECIPROCAL),
        _ => None,
    };
    if let Some(op) = op {
        return one(b.op(op, [x.into()])?);
    }
    if ![2.0, 3.0, 4.0].contains(&exponent) {
        return Ok(None);
    }
    let square = b.op(&ops::MUL, [x.into(), x.into()])?;
    one(match exponent {
        2.0 => square,
        3.0 => b.op(&ops::MUL, [square.into(), x.into()])?,
        _ => b.op(&ops::MUL, [square.into(), square.into()])?,
    })
}

/// One half of a dimension, times the sigmoid of the other.
fn glu(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let d = super::dim(n, 1, b.ty(x).rank())?;
    let Some(size) = b.ty(x).shape[d].known() else { return Ok(None) };
    let value = b.slice(x, d, 0.into(), (size / 2).into())?;
    let gate = b.slice(x, d, (size / 2).into(), size.into())?;
    let gate = b.op(&ops::SIGMOID, [gate.into()])?;
    one(b.op(&ops::MUL, [value.into(), gate.into()])?)
}

/// `−log(1 + e^(−x))`
fn log_sigmoid(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let m = b.op(&ops::NEG, [x.into()])?;
    let s = log1p_exp(b, m)?;
    one(b.op(&ops::NEG, [s.into()])?)
}

fn selu(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let (alpha, scale) = (1.673_263_242_354_377_2, 1.050_700_987_355_480_5);
    one(b.op(&ops::ELU, [x.into(), Arg::Float(alpha), Arg::Float(scale), Arg::Float(1.0)])?)
}

/// `celu` is an `elu` whose input is divided by alpha.
fn celu(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let alpha = number(n, 1)?;
    one(b.op(&ops::ELU, [x.into(), Arg::Float(alpha), Arg::Float(1.0), Arg::Float(1.0 / alpha)])?)
}

/// `where(x <= threshold, value, x)`
fn threshold(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let low = b.op(&ops::LE_SCALAR, [x.into(), n.arg(1).clone()])?;
    one(b.op(&ops::MASKED_FILL_SCALAR, [x.into(), low.into(), n.arg(2).clone()])?)
}

/// `where(x > 0, x, weight · x)`, the weight along dimension 1.
fn prelu(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, mut w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let rank = b.ty(x).rank();
    if rank > 1 && b.ty(w).numel() != 1 {
        let mut shape = vec![1.into(); rank];
        shape[1] = b.ty(w).numel();
        w = b.view(w, shape)?;
    }
    let scaled = b.op(&ops::MUL, [x.into(), w.into()])?;
    let positive = b.op(&ops::GT_SCALAR, [x.into(), 0.into()])?;
    one(b.op(&ops::WHERE, [positive.into(), x.into(), scaled.into()])?)
}

fn clamp_min(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    one(b.op(&ops::CLAMP, [x.into(), n.arg(1).clone(), Arg::None])?)
}
fn clamp_max(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    one(b.op(&ops::CLAMP, [x.into(), Arg::None, n.arg(1).clone()])?)
}
fn maximum(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::MAXIMUM, [n.arg(0).clone(), n.arg(1).clone()])?)
}
fn minimum(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::MINIMUM, [n.arg(0).clone(), n.arg(1).clone()])?)
}

fn square(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::MUL, [n.arg(0).clone(), n.arg(0).clone()])?)
}

/// `rsub(self, other, alpha) = other − alpha·self`
fn rsub(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::SUB, [n.arg(1).clone(), n.arg(0).clone(), n.arg(2).clone()])?)
}

/// `self + value · tensor1 (· or /) tensor2`
fn addcmul(b: &mut Build<'_>, n: &Node) -> Values {
    addc(b, n, &ops::MUL)
}
fn addcdiv(b: &mut Build<'_>, n: &Node) -> Values {
    addc(b, n, &ops::DIV)
}
fn addc(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef) -> Values {
    let p = b.op(op, [n.arg(1).clone(), n.arg(2).clone()])?;
    one(b.op(&ops::ADD, [n.arg(0).clone(), p.into(), n.arg(3).clone()])?)
}

/// `self + weight · (end − self)`, from the nearer end.
fn lerp(b: &mut Build<'_>, n: &Node) -> Values {
    let w = number(n, 2)?;
    let d = b.op(&ops::SUB, [n.arg(1).clone(), n.arg(0).clone()])?;
    let (from, step) = if w.abs() < 0.5 { (n.arg(0), w) } else { (n.arg(1), w - 1.0) };
    one(b.op(&ops::ADD, [from.clone(), d.into(), Arg::Float(step)])?)
}

fn floor_divide_number(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::DIV_SCALAR_MODE, [n.arg(0).clone(), n.arg(1).clone(), "floor".into()])?)
}

/// `round(x · 10^d) / 10^d`; for negative decimals the other way round.
fn round_decimals(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, d) = (b.tensor(n, 0)?, integer(n, 1)?);
    if !b.ty(x).dtype.is_float() {
        return Ok(None);
    }
    let ten = Arg::Float(10f64.powi(d.unsigned_abs().min(400) as i32));
    let (there, back) =
        if d < 0 { (&ops::DIV_SCALAR, &ops::MUL_SCALAR) } else { (&ops::MUL_SCALAR, &ops::DIV_SCALAR) };
    let y = b.op(there, [x.into(), ten.clone()])?;
    let y = b.op(&ops::ROUND, [y.into()])?;
    one(b.op(back, [y.into(), ten])?)
}

/// Numbers in `where` become tensors of no dimensions.
fn where_number(b: &mut Build<'_>, n: &Node) -> Values {
    let dtype = out_type(b, n).dtype;
    let mut args = vec![n.arg(0).clone()];
    for i in 1..3 {
        args.push(match n.arg(i) {
            Arg::Value(v) => Arg::Value(*v),
            number => b.op(&ops::FULL, [Arg::Ints(vec![]), number.clone(), dtype.into()])?.into(),
        });
    }
    one(b.op(&ops::WHERE, args)?)
}

/// `masked_fill(self, mask, value)` with the value in a tensor.
fn masked_fill(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::WHERE, [n.arg(1).clone(), n.arg(2).clone(), n.arg(0).clone()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.relu6.default", relu6),
    ("aten.hardsigmoid.default", hardsigmoid),
    ("aten.hardswish.default", hardswish),
    ("aten.silu.default", silu),
    ("aten.softplus.default", softplus),
    ("aten.log1p.default", log1p),
    ("aten.mish.default", mish),
    ("aten.log_sigmoid.default", log_sigmoid),
    ("aten.glu.default", glu),
    ("aten.pow.Tensor_Scalar", pow_number),
    ("aten.selu.default", selu),
    ("aten.celu.default", celu),
    ("aten.threshold.default", threshold),
    ("aten.prelu.default", prelu),
    ("aten.clamp_min.default", clamp_min),
    ("aten.clamp_max.default", clamp_max),
    ("aten.clamp_min.Tensor", maximum),
    ("aten.clamp_max.Tensor", minimum),
    ("aten.max.other", maximum),
    ("aten.min.other", minimum),
    ("aten.square.default", square),
    ("aten.rsub.Tensor", rsub),
    ("aten.lerp.Scalar", lerp),
    ("aten.floor_divide.Scalar", floor_divide_number),
    ("aten.round.decimals", round_decimals),
    ("aten.addcmul.default", addcmul),
    ("aten.addcdiv.default", addcdiv),
    ("aten.where.Scalar", where_number),
    ("aten.where.ScalarSelf", where_number),
    ("aten.where.ScalarOther", where_number),
    ("aten.masked_fill.Tensor", masked_fill),
];
