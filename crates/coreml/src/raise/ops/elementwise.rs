//! Functions of one tensor and of two, element by element; comparisons, logic, choice, and element types.

use super::{Table, kept, new, one};
use crate::mil::DType;
use crate::raise::call::Call;
use crate::raise::{Raised, Value, constants};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::Arg;
use lowbit_core::ops::{self, OpDef};

/// Of `x` alone.
fn plain(c: &mut Call<'_>, op: &'static OpDef) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    one(c.node(op, [x.into()])?)
}

/// Of `x` and `y`.
fn pair(c: &mut Call<'_>, op: &'static OpDef) -> Raised<Vec<Value>> {
    let (x, y) = (c.tensor("x")?, c.tensor("y")?);
    one(c.node(op, [x.into(), y.into()])?)
}

/// Of `x` and a small number that keeps it from zero.
fn offset(c: &mut Call<'_>, op: &'static OpDef, default: f64) -> Raised<Vec<Value>> {
    let (x, epsilon) = (c.tensor("x")?, c.opt_float("epsilon")?.unwrap_or(default));
    let x = c.shifted(x, epsilon)?;
    one(c.node(op, [x.into()])?)
}

pub static TABLE: Table = &[
    kept("abs", |c| plain(c, &ops::ABS)),
    new("acos", |c| plain(c, &ops::ACOS)),
    new("asin", |c| plain(c, &ops::ASIN)),
    new("atan", |c| plain(c, &ops::ATAN)),
    new("atanh", |c| {
        // Half the logarithm of (1 + x) / (1 − x).
        let x = c.tensor("x")?;
        let minus = c.node(&ops::NEG, [x.into()])?;
        let (a, b) = (c.node(&ops::LOG1P, [x.into()])?, c.node(&ops::LOG1P, [minus.into()])?);
        let y = c.node(&ops::SUB, [a.into(), b.into()])?;
        one(c.scaled(y, 0.5)?)
    }),
    kept("ceil", |c| plain(c, &ops::CEIL)),
    kept("clip", |c| {
        let (x, low, high) = (c.tensor("x")?, c.float("alpha")?, c.float("beta")?);
        let bound = |x: f64, float: bool| if float { Arg::Float(x) } else { Arg::from(x as i64) };
        let float = c.is_float(x);
        one(c.node(&ops::CLAMP, [x.into(), bound(low, float), bound(high, float)])?)
    }),
    new("cos", |c| plain(c, &ops::COS)),
    new("cosh", |c| plain(c, &ops::COSH)),
    new("erf", |c| plain(c, &ops::ERF)),
    new("exp", |c| plain(c, &ops::EXP)),
    new("exp2", |c| {
        let x = c.tensor("x")?;
        one(c.node(&ops::POW_SCALAR_TENSOR, [Arg::Float(2.0), x.into()])?)
    }),
    kept("floor", |c| plain(c, &ops::FLOOR)),
    new("inverse", |c| offset(c, &ops::RECIPROCAL, 1e-4)),
    new("log", |c| offset(c, &ops::LOG, 1e-45)),
    new("rsqrt", |c| offset(c, &ops::RSQRT, 1e-12)),
    kept("round", |c| plain(c, &ops::ROUND)),
    kept("sign", |c| plain(c, &ops::SIGN)),
    new("sin", |c| plain(c, &ops::SIN)),
    new("sinh", |c| plain(c, &ops::SINH)),
    new("sqrt", |c| plain(c, &ops::SQRT)),
    new("square", |c| plain(c, &ops::SQUARE)),
    new("tan", |c| plain(c, &ops::TAN)),
    kept("threshold", |c| {
        let (x, least) = (c.tensor("x")?, c.float("alpha")?);
        one(c.node(&ops::CLAMP_MIN, [x.into(), Arg::Float(least)])?)
    }),
    new("add", |c| pair(c, &ops::ADD)),
    new("sub", |c| pair(c, &ops::SUB)),
    new("mul", |c| pair(c, &ops::MUL)),
    new("real_div", |c| {
        let (x, y) = (c.tensor("x")?, c.tensor("y")?);
        if !c.is_float(x) && !c.is_float(y) {
            return Err("it divides integers, whose rounding Core ML does not define".into());
        }
        one(c.node(&ops::DIV, [x.into(), y.into()])?)
    }),
    new("floor_div", |c| pair(c, &ops::FLOOR_DIVIDE)),
    new("mod", |c| pair(c, &ops::REMAINDER)),
    new("pow", |c| pair(c, &ops::POW_TENSOR_TENSOR)),
    kept("maximum", |c| pair(c, &ops::MAXIMUM)),
    kept("minimum", |c| pair(c, &ops::MINIMUM)),
    kept("equal", |c| pair(c, &ops::EQ)),
    kept("not_equal", |c| pair(c, &ops::NE)),
    kept("less", |c| pair(c, &ops::LT)),
    kept("less_equal", |c| pair(c, &ops::LE)),
    kept("greater", |c| pair(c, &ops::GT)),
    kept("greater_equal", |c| pair(c, &ops::GE)),
    kept("logical_and", |c| pair(c, &ops::LOGICAL_AND)),
    kept("logical_or", |c| pair(c, &ops::LOGICAL_OR)),
    kept("logical_xor", |c| pair(c, &ops::LOGICAL_XOR)),
    kept("logical_not", |c| plain(c, &ops::LOGICAL_NOT)),
    kept("select", |c| {
        let (cond, a, b) = (c.tensor("cond")?, c.tensor("a")?, c.tensor("b")?);
        let cond = c.cast(cond, CoreType::Bool)?;
        one(c.node(&ops::WHERE, [cond.into(), a.into(), b.into()])?)
    }),
    new("cast", cast),
    kept("identity", |c| {
        let value = c.values("x").next().flatten().cloned();
        match value {
            Some(v @ Value::Tensor(_)) => Ok(vec![v]),
            _ => {
                let x = c.tensor("x")?;
                one(x)
            }
        }
    }),
];

/// To another element type. Half floats stay single ones here: results are rounded where they are declared so.
fn cast(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let name = c.str("dtype", "")?;
    let to =
        DType::from_name(&name).ok_or_else(|| format!("argument dtype is {name:?}, which is no type"))?;
    if to != c.declared()? {
        return Err(format!("argument dtype is {name}, its result is {}", c.declared()?.name()));
    }
    let x = c.tensor("x")?;
    one(c.cast(x, constants::inside(to)?)?)
}
