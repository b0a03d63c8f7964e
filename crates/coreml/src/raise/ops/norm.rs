//! Normalization.

use super::{Table, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    new("batch_norm", |c| {
        let (x, mean, variance) = (c.tensor("x")?, c.tensor("mean")?, c.tensor("variance")?);
        let (gamma, beta) = (c.opt_tensor("gamma")?, c.opt_tensor("beta")?);
        let args = [
            x.into(),
            Arg::optional(gamma),
            Arg::optional(beta),
            mean.into(),
            variance.into(),
            false.into(),
            Arg::Float(0.1),
            Arg::Float(epsilon(c, 1e-5)?),
            false.into(),
        ];
        one(c.node(&ops::BATCH_NORM, args)?)
    }),
    new("instance_norm", |c| {
        let x = c.tensor("x")?;
        let (gamma, beta) = (c.opt_tensor("gamma")?, c.opt_tensor("beta")?);
        let args = [
            x.into(),
            Arg::optional(gamma),
            Arg::optional(beta),
            Arg::None,
            Arg::None,
            true.into(),
            Arg::Float(0.1),
            Arg::Float(epsilon(c, 1e-5)?),
            false.into(),
        ];
        one(c.node(&ops::INSTANCE_NORM, args)?)
    }),
    new("layer_norm", layer_norm),
    new("l2_norm", |c| {
        let (x, epsilon) = (c.tensor("x")?, epsilon(c, 1e-6)?);
        if c.rank(x) < 3 {
            return Err(format!("argument x is {}; three dimensions are normalized", c.ty(x)));
        }
        let squares = c.node(&ops::SQUARE, [x.into()])?;
        let sum = c.node(&ops::SUM_DIM, [squares.into(), Arg::ints([-3, -2, -1]), true.into()])?;
        let sum = c.shifted(sum, epsilon)?;
        let inverse = c.node(&ops::RSQRT, [sum.into()])?;
        one(c.node(&ops::MUL, [x.into(), inverse.into()])?)
    }),
    new("local_response_norm", local),
];

fn epsilon(c: &Call<'_>, default: f64) -> Raised<f64> {
    Ok(c.opt_float("epsilon")?.unwrap_or(default))
}

/// Over the last dimensions, where PyTorch has it; others are moved there and back.
fn layer_norm(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    let rank = c.rank(x);
    let axes = c.axes("axes", rank)?.unwrap_or_else(|| (0..rank).collect());
    let (gamma, beta) = (c.opt_tensor("gamma")?, c.opt_tensor("beta")?);
    let order: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).chain(axes.iter().copied()).collect();
    let moved = c.permute(x, &order)?;
    let shape: Vec<SymInt> = axes.iter().map(|&d| c.ty(x).shape[d].clone()).collect();
    let epsilon = epsilon(c, 1e-5)?;
    let args = [moved.into(), shape.into(), Arg::optional(gamma), Arg::optional(beta), Arg::Float(epsilon)];
    let y = c.node(&ops::LAYER_NORM, args)?;
    let mut back = vec![0; rank];
    order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
    one(c.permute(y, &back)?)
}

/// `x / (k + alpha · mean of the squares of neighbouring channels)^beta`
fn local(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, size) = (c.tensor("x")?, c.int("size")?);
    let number =
        |c: &Call<'_>, name: &str, default: f64| Ok::<_, String>(c.opt_float(name)?.unwrap_or(default));
    let (alpha, beta, k) = (number(c, "alpha", 1e-4)?, number(c, "beta", 0.75)?, number(c, "k", 1.0)?);
    let shape = c.ty(x).shape.clone();
    let [batch, channels, rest @ ..] = &shape[..] else {
        return Err(format!("argument x is {}; batch and channels are needed", c.ty(x)));
    };
    if size < 1 {
        return Err(format!("argument size is {size}"));
    }
    // Channels have as many neighbours on both sides: of an even size, one is left out, but counted.
    let half = (size - 1) / 2;
    let window = half * 2 + 1;
    let squares = c.node(&ops::SQUARE, [x.into()])?;
    let pixels: SymInt = rest.iter().cloned().product();
    let image = vec![batch.clone(), 1.into(), channels.clone(), pixels];
    let image = c.reshape(squares, image)?;
    let args = [
        image.into(),
        Arg::ints([window, 1]),
        Arg::ints([1, 1]),
        Arg::ints([half, 0]),
        false.into(),
        true.into(),
    ];
    let mean = c.node(&ops::AVG_POOL2D, args)?;
    let mean: ValueId = c.reshape(mean, shape)?;
    let y = c.scaled(mean, alpha * window as f64 / size as f64)?;
    let y = c.shifted(y, k)?;
    let y = c.node(&ops::POW_TENSOR_SCALAR, [y.into(), Arg::Float(beta)])?;
    one(c.node(&ops::DIV, [x.into(), y.into()])?)
}
