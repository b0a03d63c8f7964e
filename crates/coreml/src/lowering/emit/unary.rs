//! Functions of one tensor, element by element.

use super::binary::{apply, number as constant};
use super::{Emitted, Table, number, out};
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Constant, DType};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

/// `x` through an operator that takes nothing else, and floats only.
macro_rules! plain {
    ($op:literal) => {
        |b, n| {
            let x = float(b, n)?;
            Ok(vec![function(b, $op, x)])
        }
    };
}

pub static TABLE: Table = &[
    (&ops::RELU, plain!("relu")),
    (&ops::RELU6, plain!("relu6")),
    (&ops::SIGMOID, plain!("sigmoid")),
    (&ops::TANH, plain!("tanh")),
    (&ops::SILU, plain!("silu")),
    (&ops::EXP, plain!("exp")),
    (&ops::ERF, plain!("erf")),
    (&ops::SIN, plain!("sin")),
    (&ops::COS, plain!("cos")),
    (&ops::TAN, plain!("tan")),
    (&ops::SINH, plain!("sinh")),
    (&ops::COSH, plain!("cosh")),
    (&ops::ASIN, plain!("asin")),
    (&ops::ACOS, plain!("acos")),
    (&ops::ATAN, plain!("atan")),
    (&ops::SQRT, plain!("sqrt")),
    (&ops::RSQRT, plain!("rsqrt")),
    (&ops::LOG, plain!("log")),
    (&ops::ABS, |b, n| keeping(b, n, "abs")),
    (&ops::SIGN, |b, n| keeping(b, n, "sign")),
    (&ops::CEIL, |b, n| rounded(b, n, "ceil")),
    (&ops::FLOOR, |b, n| rounded(b, n, "floor")),
    (&ops::ROUND, |b, n| rounded(b, n, "round")),
    (&ops::TRUNC, |b, n| {
        let x = b.arg(n, 0)?;
        Ok(vec![if x.ty.dtype.is_float() { truncated(b, x) } else { x }])
    }),
    (&ops::NEG, |b, n| {
        let x = b.arg(n, 0)?;
        scaled(b, x, -1.0).map(|y| vec![y])
    }),
    (&ops::SQUARE, |b, n| {
        let x = b.arg(n, 0)?;
        Ok(vec![apply(b, "mul", x.clone(), x)])
    }),
    (&ops::RECIPROCAL, |b, n| {
        let x = float(b, n)?;
        let one = constant(b, x.ty.dtype, 1.0)?;
        Ok(vec![apply(b, "real_div", one, x)])
    }),
    (&ops::EXPM1, |b, n| {
        let x = float(b, n)?;
        let y = function(b, "exp", x);
        let one = constant(b, y.ty.dtype, 1.0)?;
        Ok(vec![apply(b, "sub", y, one)])
    }),
    (&ops::LOG1P, |b, n| {
        let x = float(b, n)?;
        let one = constant(b, x.ty.dtype, 1.0)?;
        let x = apply(b, "add", x, one);
        Ok(vec![function(b, "log", x)])
    }),
    (&ops::LOG2, |b, n| logarithm(b, n, std::f64::consts::LN_2)),
    (&ops::LOG10, |b, n| logarithm(b, n, std::f64::consts::LN_10)),
    (&ops::LOGICAL_NOT, |b, n| {
        let x = b.arg(n, 0)?;
        let x = b.cast(&x, DType::Bool);
        Ok(vec![function(b, "logical_not", x)])
    }),
    (&ops::BITWISE_NOT, |b, n| {
        let x = b.arg(n, 0)?;
        match x.ty.dtype {
            DType::Bool => Ok(vec![function(b, "logical_not", x)]),
            other => Err(format!("Core ML has no operators on the bits of {}", other.name())),
        }
    }),
    (&ops::ISNAN, |b, n| {
        let x = b.arg(n, 0)?;
        let ty = x.ty.with(DType::Bool);
        Ok(vec![b.op("not_equal", vec![("x", (&x).into()), ("y", x.into())], ty)])
    }),
    (&ops::ISINF, |b, n| {
        let x = float(b, n)?;
        let size = function(b, "abs", x);
        let infinite = constant(b, size.ty.dtype, f64::INFINITY)?;
        let ty = size.ty.with(DType::Bool);
        Ok(vec![b.op("equal", vec![("x", size.into()), ("y", infinite.into())], ty)])
    }),
    (&ops::GLU, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        let d = super::dim(n, 1, ty.rank())?;
        let half = ty.shape[d].known().ok_or("it halves an open size")?;
        let gate = super::index::cut(b, x.clone(), d, half, 2 * half);
        let value = super::index::cut(b, x, d, 0, half);
        let gate = function(b, "sigmoid", gate);
        Ok(vec![apply(b, "mul", value, gate)])
    }),
    (&ops::HARDTANH, |b, n| clip(b, n, Some(number(n, 1)?), Some(number(n, 2)?))),
    (&ops::CLAMP, |b, n| clip(b, n, optional(n, 1)?, optional(n, 2)?)),
    (&ops::CLAMP_MIN, |b, n| clip(b, n, Some(number(n, 1)?), None)),
    (&ops::CLAMP_MAX, |b, n| clip(b, n, None, Some(number(n, 1)?))),
    (&ops::LEAKY_RELU, |b, n| {
        let (x, alpha) = (float(b, n)?, Constant::float(b.float, number(n, 1)? as f32));
        Ok(vec![b.op("leaky_relu", vec![("x", x.into()), ("alpha", alpha.into())], out(b, n)?)])
    }),
    (&ops::ELU, |b, n| {
        if number(n, 3)? != 1.0 {
            return Err("Core ML's elu has no scale of its input".into());
        }
        let (x, alpha) = (float(b, n)?, Constant::float(b.float, number(n, 1)? as f32));
        let y = b.op("elu", vec![("x", x.into()), ("alpha", alpha.into())], out(b, n)?);
        scaled(b, y, number(n, 2)?).map(|y| vec![y])
    }),
    (&ops::PRELU, |b, n| {
        let (x, alpha) = (b.arg(n, 0)?, b.arg(n, 1)?);
        let channels = x.ty.shape.get(1).cloned();
        if x.ty.rank() < 3 || b.frozen(n, 1).is_none() || alpha.ty.shape.first() != channels.as_ref() {
            return Err("Core ML's prelu has a constant for each channel of three or more dimensions".into());
        }
        Ok(vec![b.op("prelu", vec![("x", x.into()), ("alpha", alpha.into())], out(b, n)?)])
    }),
    (&ops::GELU, |b, n| {
        let x = float(b, n)?;
        let mode = if *n.arg(1) == Arg::from("tanh") { "TANH_APPROXIMATION" } else { "EXACT" };
        Ok(vec![b.op("gelu", vec![("x", x.into()), ("mode", mode.into())], out(b, n)?)])
    }),
    (&ops::HARDSIGMOID, |b, n| {
        let x = float(b, n)?;
        Ok(vec![hard_sigmoid(b, x)])
    }),
    (&ops::HARDSWISH, |b, n| {
        let x = float(b, n)?;
        let gate = hard_sigmoid(b, x.clone());
        Ok(vec![apply(b, "mul", x, gate)])
    }),
    (&ops::SOFTPLUS, |b, n| {
        let (x, beta, threshold) = (float(b, n)?, number(n, 1)?, number(n, 2)?);
        let inner = scaled(b, x.clone(), beta)?;
        let y = function(b, "softplus", inner.clone());
        let y = scaled(b, y, 1.0 / beta)?;
        // Above the threshold PyTorch returns x itself. From here on that differs by less than single floats show.
        if threshold >= 16.0 {
            return Ok(vec![y]);
        }
        let limit = Constant::float(b.float, threshold as f32);
        let ty = inner.ty.with(DType::Bool);
        let above = b.op("greater", vec![("x", inner.into()), ("y", limit.into())], ty);
        let ty = y.ty.clone();
        Ok(vec![super::binary::select(b, above, x, y, ty)?])
    }),
];

/// The first argument as floats, since most functions know floats only.
fn float(b: &mut Builder<'_>, n: &Node) -> Emitted<Var> {
    let (x, float) = (b.arg(n, 0)?, b.float);
    Ok(b.cast(&x, float))
}

/// A function that keeps type and shape.
pub(super) fn function(b: &mut Builder<'_>, op: &'static str, x: Var) -> Var {
    let ty = x.ty.clone();
    b.op(op, vec![("x", x.into())], ty)
}

/// A function of floats and integers alike.
fn keeping(b: &mut Builder<'_>, n: &Node, op: &'static str) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    match x.ty.dtype {
        DType::F16 | DType::F32 | DType::I32 => Ok(vec![function(b, op, x)]),
        other => Err(format!("Core ML does not compute with {}", other.name())),
    }
}

/// Rounds floats; integers are round.
fn rounded(b: &mut Builder<'_>, n: &Node, op: &'static str) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    Ok(vec![if x.ty.dtype.is_float() { function(b, op, x) } else { x }])
}

/// Towards zero: Core ML has rounding down only.
pub(super) fn truncated(b: &mut Builder<'_>, x: Var) -> Var {
    let sign = function(b, "sign", x.clone());
    let size = function(b, "abs", x);
    let size = function(b, "floor", size);
    apply(b, "mul", size, sign)
}

/// Times a number.
pub(super) fn scaled(b: &mut Builder<'_>, x: Var, by: f64) -> Emitted<Var> {
    if by == 1.0 {
        return Ok(x);
    }
    let by = constant(b, x.ty.dtype, by)?;
    Ok(apply(b, "mul", x, by))
}

fn logarithm(b: &mut Builder<'_>, n: &Node, base: f64) -> Emitted<Vec<Var>> {
    let x = float(b, n)?;
    let y = function(b, "log", x);
    scaled(b, y, 1.0 / base).map(|y| vec![y])
}

/// `x / 6 + 1 / 2` between 0 and 1.
fn hard_sigmoid(b: &mut Builder<'_>, x: Var) -> Var {
    let number = |x: f32| Constant::float(b.float, x).into();
    let (alpha, beta) = (number(1.0 / 6.0), number(0.5));
    let ty = x.ty.clone();
    b.op("sigmoid_hard", vec![("x", x.into()), ("alpha", alpha), ("beta", beta)], ty)
}

/// The number in argument `i`, if there is one.
fn optional(n: &Node, i: usize) -> Emitted<Option<f64>> {
    if *n.arg(i) == Arg::None { Ok(None) } else { number(n, i).map(Some) }
}

/// Between two numbers.
fn clip(b: &mut Builder<'_>, n: &Node, low: Option<f64>, high: Option<f64>) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let mut x = b.cast(&x, ty.dtype);
    if let (Some(low), Some(high), true) = (low, high, ty.dtype.is_float()) {
        if (low, high) == (0.0, 6.0) {
            return Ok(vec![function(b, "relu6", x)]);
        }
        let limit = |x: f64| Constant::float(ty.dtype, x as f32).into();
        let inputs = vec![("x", x.into()), ("alpha", limit(low)), ("beta", limit(high))];
        return Ok(vec![b.op("clip", inputs, ty)]);
    }
    for (op, limit) in [("maximum", low), ("minimum", high)] {
        if let Some(limit) = limit {
            let limit = constant(b, ty.dtype, limit)?;
            x = apply(b, op, x, limit);
        }
    }
    Ok(vec![x])
}
