//! Functions of two and three tensors, element by element.

use super::unary::{scaled, truncated};
use super::{Emitted, Table, broadcast, out};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, DType, Type};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::ADD, |b, n| sum("add", b, n)),
    (&ops::ADD_SCALAR, |b, n| sum("add", b, n)),
    (&ops::SUB, |b, n| sum("sub", b, n)),
    (&ops::SUB_SCALAR, |b, n| sum("sub", b, n)),
    (&ops::RSUB_SCALAR, |b, n| {
        let ty = out(b, n)?;
        let (x, y) = (operand(b, n, 0, ty.dtype)?, operand(b, n, 1, ty.dtype)?);
        let x = scaled(b, x, super::number(n, 2)?)?;
        Ok(vec![apply(b, "sub", y, x)])
    }),
    (&ops::MUL, |b, n| arithmetic("mul", b, n)),
    (&ops::MUL_SCALAR, |b, n| arithmetic("mul", b, n)),
    (&ops::DIV, |b, n| arithmetic("real_div", b, n)),
    (&ops::DIV_SCALAR, |b, n| arithmetic("real_div", b, n)),
    (&ops::DIV_TENSOR_MODE, division),
    (&ops::DIV_SCALAR_MODE, division),
    (&ops::FLOOR_DIVIDE, |b, n| arithmetic("floor_div", b, n)),
    (&ops::FLOOR_DIVIDE_SCALAR, |b, n| arithmetic("floor_div", b, n)),
    (&ops::REMAINDER, |b, n| arithmetic("mod", b, n)),
    (&ops::REMAINDER_SCALAR, |b, n| arithmetic("mod", b, n)),
    (&ops::MAXIMUM, |b, n| arithmetic("maximum", b, n)),
    (&ops::MINIMUM, |b, n| arithmetic("minimum", b, n)),
    (&ops::MAX_OTHER, |b, n| arithmetic("maximum", b, n)),
    (&ops::MIN_OTHER, |b, n| arithmetic("minimum", b, n)),
    (&ops::POW_TENSOR_TENSOR, |b, n| arithmetic("pow", b, n)),
    (&ops::POW_TENSOR_SCALAR, power),
    (&ops::POW_SCALAR_TENSOR, |b, n| arithmetic("pow", b, n)),
    (&ops::EQ, |b, n| comparison("equal", b, n)),
    (&ops::EQ_SCALAR, |b, n| comparison("equal", b, n)),
    (&ops::NE, |b, n| comparison("not_equal", b, n)),
    (&ops::NE_SCALAR, |b, n| comparison("not_equal", b, n)),
    (&ops::LT, |b, n| comparison("less", b, n)),
    (&ops::LT_SCALAR, |b, n| comparison("less", b, n)),
    (&ops::LE, |b, n| comparison("less_equal", b, n)),
    (&ops::LE_SCALAR, |b, n| comparison("less_equal", b, n)),
    (&ops::GT, |b, n| comparison("greater", b, n)),
    (&ops::GT_SCALAR, |b, n| comparison("greater", b, n)),
    (&ops::GE, |b, n| comparison("greater_equal", b, n)),
    (&ops::GE_SCALAR, |b, n| comparison("greater_equal", b, n)),
    (&ops::LOGICAL_AND, |b, n| logic("logical_and", b, n)),
    (&ops::LOGICAL_OR, |b, n| logic("logical_or", b, n)),
    (&ops::LOGICAL_XOR, |b, n| logic("logical_xor", b, n)),
    (&ops::BITWISE_AND, |b, n| bits("logical_and", b, n)),
    (&ops::BITWISE_OR, |b, n| bits("logical_or", b, n)),
    (&ops::BITWISE_XOR, |b, n| bits("logical_xor", b, n)),
    (&ops::DUNDER_AND, |b, n| bits("logical_and", b, n)),
    (&ops::DUNDER_OR, |b, n| bits("logical_or", b, n)),
    (&ops::DUNDER_XOR, |b, n| bits("logical_xor", b, n)),
    (&ops::WHERE, |b, n| {
        let ty = out(b, n)?;
        let (x, y) = (operand(b, n, 1, ty.dtype)?, operand(b, n, 2, ty.dtype)?);
        let mask = b.arg(n, 0)?;
        select(b, mask, x, y, ty).map(|z| vec![z])
    }),
    (&ops::MASKED_FILL_SCALAR, |b, n| {
        let ty = out(b, n)?;
        let (x, value) = (operand(b, n, 0, ty.dtype)?, operand(b, n, 2, ty.dtype)?);
        let mask = b.arg(n, 1)?;
        select(b, mask, value, x, ty).map(|z| vec![z])
    }),
];

/// A number as a constant.
pub(super) fn number(b: &mut Builder<'_>, dtype: DType, x: f64) -> Emitted<Var> {
    let c = match dtype {
        DType::F16 | DType::F32 => Constant::float(dtype, x as f32),
        DType::I32 => Constant::i32(x as i32),
        DType::Bool => Constant::bool(x != 0.0),
        _ => return Err(format!("Core ML does not compute with {}", dtype.name())),
    };
    Ok(b.constant("number", c))
}

/// The tensor or number in argument `i`, in an element type.
pub(super) fn operand(b: &mut Builder<'_>, n: &Node, i: usize, dtype: DType) -> Emitted<Var> {
    match n.arg(i) {
        Arg::Value(_) => {
            let x = b.arg(n, i)?;
            Ok(b.cast(&x, dtype))
        }
        Arg::Int(size) if size.known().is_none() => {
            let x = super::sizes::scalar(b, size)?;
            Ok(b.cast(&x, dtype))
        }
        _ => number(b, dtype, super::number(n, i)?),
    }
}

/// An operator on two values of one element type.
pub(super) fn apply(b: &mut Builder<'_>, op: &'static str, x: Var, y: Var) -> Var {
    let ty = Type { dtype: x.ty.dtype, shape: broadcast(&x.ty.shape, &y.ty.shape) };
    b.op(op, vec![("x", x.into()), ("y", y.into())], ty)
}

/// Two operands, of the type of the result.
fn arithmetic(op: &'static str, b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    if !ty.dtype.is_float() && ty.dtype != DType::I32 {
        return Err(format!("Core ML does not compute with {}", ty.dtype.name()));
    }
    let (x, y) = (operand(b, n, 0, ty.dtype)?, operand(b, n, 1, ty.dtype)?);
    Ok(vec![apply(b, op, x, y)])
}

/// As [`arithmetic`], where the second operand is multiplied with a number first.
fn sum(op: &'static str, b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    if !ty.dtype.is_float() && ty.dtype != DType::I32 {
        return Err(format!("Core ML does not compute with {}", ty.dtype.name()));
    }
    let (x, y) = (operand(b, n, 0, ty.dtype)?, operand(b, n, 1, ty.dtype)?);
    let y = scaled(b, y, super::number(n, 2)?)?;
    Ok(vec![apply(b, op, x, y)])
}

/// Squares and cubes as products, which are exact for what is negative.
fn power(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let exponent = super::number(n, 1)?;
    if exponent != 2.0 && exponent != 3.0 {
        return arithmetic("pow", b, n);
    }
    let ty = out(b, n)?;
    let x = operand(b, n, 0, ty.dtype)?;
    let square = apply(b, "mul", x.clone(), x.clone());
    Ok(vec![if exponent == 2.0 { square } else { apply(b, "mul", square, x) }])
}

/// Division, rounded as told.
fn division(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let mode = match n.arg(2) {
        Arg::Str(s) => &**s,
        _ => "none",
    };
    if mode != "trunc" {
        return arithmetic(if mode == "floor" { "floor_div" } else { "real_div" }, b, n);
    }
    let ty = out(b, n)?;
    // Integers are divided as single floats, which hold those that indices have.
    let through = if ty.dtype.is_float() { ty.dtype } else { DType::F32 };
    let (x, y) = (operand(b, n, 0, through)?, operand(b, n, 1, through)?);
    let y = apply(b, "real_div", x, y);
    let y = truncated(b, y);
    Ok(vec![b.cast(&y, ty.dtype)])
}

/// The type that an argument of a comparison is compared in.
fn kind(b: &Builder<'_>, n: &Node, i: usize) -> CoreType {
    match n.arg(i) {
        Arg::Value(v) => b.program.graph.ty(*v).dtype,
        Arg::Float(_) => CoreType::F32,
        Arg::Int(_) => CoreType::I64,
        _ => CoreType::Bool,
    }
}

fn comparison(op: &'static str, b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let dtype = match b.dtype(kind(b, n, 0).promote(kind(b, n, 1)))? {
        f if f.is_float() => f,
        _ => DType::I32,
    };
    let (x, y) = (operand(b, n, 0, dtype)?, operand(b, n, 1, dtype)?);
    let ty = Type { dtype: DType::Bool, shape: broadcast(&x.ty.shape, &y.ty.shape) };
    Ok(vec![b.op(op, vec![("x", x.into()), ("y", y.into())], ty)])
}

fn logic(op: &'static str, b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, y) = (operand(b, n, 0, DType::Bool)?, operand(b, n, 1, DType::Bool)?);
    Ok(vec![apply(b, op, x, y)])
}

/// Operators on bits, of truth values.
fn bits(op: &'static str, b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    match out(b, n)?.dtype {
        DType::Bool => logic(op, b, n),
        other => Err(format!("Core ML has no operators on the bits of {}", other.name())),
    }
}

/// `x` where the mask is true, `y` elsewhere. Apple's shape rule looks at `x` and `y` only, so that they are repeated where
/// the mask is larger.
pub(super) fn select(b: &mut Builder<'_>, mask: Var, x: Var, y: Var, ty: Type) -> Emitted<Var> {
    let mask = b.cast(&mask, DType::Bool);
    let whole = broadcast(&x.ty.shape, &y.ty.shape) == ty.shape;
    let y = if whole { y } else { super::shape::expanded(b, y, &ty.shape)? };
    let inputs: Vec<(&str, In)> = vec![("cond", mask.into()), ("a", x.into()), ("b", y.into())];
    Ok(b.op("select", inputs, ty))
}
