//! Activation functions.

use super::{Table, kept, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::symint::SymInt;

/// Of `x` alone.
fn plain(c: &mut Call<'_>, op: &'static OpDef) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    one(c.node(op, [x.into()])?)
}

pub static TABLE: Table = &[
    kept("relu", |c| plain(c, &ops::RELU)),
    kept("relu6", |c| plain(c, &ops::RELU6)),
    new("sigmoid", |c| plain(c, &ops::SIGMOID)),
    new("tanh", |c| plain(c, &ops::TANH)),
    new("silu", |c| plain(c, &ops::SILU)),
    new("softplus", |c| plain(c, &ops::SOFTPLUS)),
    new("leaky_relu", |c| {
        let (x, slope) = (c.tensor("x")?, c.float("alpha")?);
        one(c.node(&ops::LEAKY_RELU, [x.into(), Arg::Float(slope)])?)
    }),
    new("clamped_relu", |c| {
        let (x, slope, most) = (c.tensor("x")?, c.float("alpha")?, c.float("beta")?);
        let y = c.node(&ops::LEAKY_RELU, [x.into(), Arg::Float(slope)])?;
        one(c.node(&ops::CLAMP_MAX, [y.into(), Arg::Float(most)])?)
    }),
    new("prelu", |c| {
        let (x, slopes) = (c.tensor("x")?, c.tensor("alpha")?);
        one(c.node(&ops::PRELU, [x.into(), slopes.into()])?)
    }),
    new("elu", |c| {
        let (x, alpha) = (c.tensor("x")?, c.float("alpha")?);
        one(c.node(&ops::ELU, [x.into(), Arg::Float(alpha)])?)
    }),
    new("gelu", |c| {
        let (x, mode) = (c.tensor("x")?, c.str("mode", "EXACT")?);
        let approximate = match &*mode {
            "EXACT" => "none",
            "TANH_APPROXIMATION" => "tanh",
            "SIGMOID_APPROXIMATION" => {
                let y = c.scaled(x, 1.702)?;
                let y = c.node(&ops::SIGMOID, [y.into()])?;
                return one(c.node(&ops::MUL, [x.into(), y.into()])?);
            }
            other => return Err(format!("argument mode is {other:?}, which is no form of gelu")),
        };
        one(c.node(&ops::GELU, [x.into(), approximate.into()])?)
    }),
    new("softplus_parametric", |c| {
        let (x, alpha, beta) = (c.tensor("x")?, c.tensor("alpha")?, c.tensor("beta")?);
        let (alpha, beta) = (channels(c, alpha, x)?, channels(c, beta, x)?);
        let y = c.node(&ops::MUL, [x.into(), beta.into()])?;
        let y = c.node(&ops::SOFTPLUS, [y.into()])?;
        one(c.node(&ops::MUL, [y.into(), alpha.into()])?)
    }),
    new("softsign", |c| {
        let x = c.tensor("x")?;
        let y = c.node(&ops::ABS, [x.into()])?;
        let y = c.shifted(y, 1.0)?;
        one(c.node(&ops::DIV, [x.into(), y.into()])?)
    }),
    new("sigmoid_hard", |c| {
        let y = line(c)?;
        one(c.node(&ops::CLAMP, [y.into(), Arg::Float(0.0), Arg::Float(1.0)])?)
    }),
    new("linear_activation", |c| one(line(c)?)),
    new("scaled_tanh", |c| {
        let (x, alpha, beta) = (c.tensor("x")?, c.float("alpha")?, c.float("beta")?);
        let y = c.scaled(x, beta)?;
        let y = c.node(&ops::TANH, [y.into()])?;
        one(c.scaled(y, alpha)?)
    }),
    kept("thresholded_relu", |c| {
        let (x, least) = (c.tensor("x")?, c.float("alpha")?);
        let keep = c.node(&ops::GE_SCALAR, [x.into(), Arg::Float(least)])?;
        one(c.node(&ops::WHERE_SCALAR_OTHER, [keep.into(), x.into(), Arg::Float(0.0)])?)
    }),
    new("softmax", |c| {
        let x = c.tensor("x")?;
        let axis = c.axis("axis", -1, c.rank(x))?;
        one(c.node(&ops::SOFTMAX, [x.into(), axis.into()])?)
    }),
];

/// `alpha · x + beta`
fn line(c: &mut Call<'_>) -> Raised<ValueId> {
    let (x, alpha, beta) = (c.tensor("x")?, c.float("alpha")?, c.float("beta")?);
    let y = c.scaled(x, alpha)?;
    c.shifted(y, beta)
}

/// A number for each channel, in the shape that broadcasts over `x`.
pub(super) fn channels(c: &mut Call<'_>, list: ValueId, x: ValueId) -> Raised<ValueId> {
    let (n, rank) = (c.ty(list).numel(), c.rank(x));
    let shape = std::iter::once(n).chain((2..rank).map(|_| SymInt::from(1)));
    c.reshape(list, shape.collect())
}
