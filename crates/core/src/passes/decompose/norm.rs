//! Normalization.

use super::{Build, PassFailure, Table, Values, one};
use crate::dtype::DType;
use crate::ir::{Arg, Node, TensorType};
use crate::ops;
use crate::symint::SymInt;

/// Evaluation-mode batch norms to the core form; without running statistics, to the form that takes the batch's.
fn batch_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let count = n.outputs().len();
    let (weight, bias) = (n.arg(1).clone(), n.arg(2).clone());
    let (Arg::Value(mean), Arg::Value(_)) = (n.arg(3).clone(), n.arg(4)) else {
        let args = [n.arg(0).clone(), weight, bias, true.into(), n.arg(6).clone(), n.arg(7).clone()];
        return Ok(Some(b.all(&ops::NATIVE_BATCH_NORM_LEGIT_NO_STATS, args)?[..count].to_vec()));
    };
    if ops::views::bool(n.arg(5)) != Some(false) {
        return Ok(None);
    }
    let ty = b.ty(mean).clone();
    let args =
        [n.arg(0).clone(), weight, bias, mean.into(), n.arg(4).clone(), n.arg(6).clone(), n.arg(7).clone()];
    let args = with_weight_and_bias(b, args, &ty)?;
    Ok(Some(b.all(&ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING, args)?[..count].to_vec()))
}

/// Absent weight and bias (arguments 1 and 2) become ones and zeros of the type given.
fn with_weight_and_bias(
    b: &mut Build<'_>,
    mut args: [Arg; 7],
    ty: &TensorType,
) -> Result<[Arg; 7], PassFailure> {
    for (i, fill) in [(1, 1.0), (2, 0.0)] {
        if args[i] == Arg::None {
            args[i] = b.full(ty.shape.clone(), fill, ty.dtype)?.into();
        }
    }
    Ok(args)
}

/// `layer_norm(input, shape, weight, bias, eps, cudnn)`
fn layer_norm(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::NATIVE_LAYER_NORM, n.args()[..5].to_vec())?)
}

/// `group_norm(input, groups, weight, bias, eps)`
fn group_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let [groups, weight, bias, eps] = [1, 2, 3, 4].map(|i| n.arg(i).clone());
    let shape = b.ty(x).shape.clone();
    let inner: SymInt = shape[2..].iter().cloned().product();
    let args =
        [x.into(), weight, bias, shape[0].clone().into(), shape[1].clone().into(), inner.into(), groups, eps];
    one(b.op(&ops::NATIVE_GROUP_NORM, args)?)
}

/// `instance_norm` over its own statistics is a group norm with one group a channel; over running ones, a batch norm.
fn instance_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    if ops::views::bool(n.arg(5)) == Some(false) {
        let Arg::Value(mean) = n.arg(3) else { return Ok(None) };
        let ty = b.ty(*mean).clone();
        let [weight, bias, var] = [1, 2, 4].map(|i| n.arg(i).clone());
        let args = [x.into(), weight, bias, (*mean).into(), var, n.arg(6).clone(), n.arg(7).clone()];
        let args = with_weight_and_bias(b, args, &ty)?;
        return one(b.op(&ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING, args)?);
    }
    let channels = b.ty(x).shape[1].clone();
    let args = [x.into(), Arg::Int(channels), n.arg(1).clone(), n.arg(2).clone(), n.arg(7).clone()];
    one(b.op(&ops::GROUP_NORM, args)?)
}

/// `x · rsqrt(mean(x²) + eps) · weight`, in single precision at least.
fn rms_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let dtype = b.ty(x).dtype;
    let Arg::Ints(normalized) = n.arg(1) else { return Ok(None) };
    // Without an eps it is the smallest step of the input's element type.
    let step = match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    };
    let eps = ops::views::float(n.arg(3)).unwrap_or(step);
    let x = if matches!(dtype, DType::F16 | DType::BF16) { b.cast(x, DType::F32)? } else { x };
    let dims: Vec<i64> = (1..=normalized.len() as i64).map(|d| -d).rev().collect();
    let square = b.op(&ops::MUL, [x.into(), x.into()])?;
    let mean = b.op(&ops::MEAN_DIM, [square.into(), Arg::ints(dims), true.into()])?;
    let shifted = b.op(&ops::ADD_SCALAR, [mean.into(), Arg::Float(eps)])?;
    let inv = b.op(&ops::RSQRT, [shifted.into()])?;
    let mut y = b.op(&ops::MUL, [x.into(), inv.into()])?;
    if let Arg::Value(w) = n.arg(2) {
        y = b.op(&ops::MUL, [y.into(), (*w).into()])?;
    }
    one(b.cast(y, dtype)?)
}

/// `v · g / ‖v‖` over all dimensions but `dim`.
fn weight_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let (v, g) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let d = ops::views::int(n.arg(2)).unwrap_or(0);
    let dims: Vec<i64> = (0..b.ty(v).rank() as i64).filter(|&i| i != d).collect();
    let square = b.op(&ops::MUL, [v.into(), v.into()])?;
    let sum = b.op(&ops::SUM_DIM, [square.into(), Arg::ints(dims), true.into()])?;
    let norm = b.op(&ops::SQRT, [sum.into()])?;
    let ratio = b.op(&ops::DIV, [g.into(), norm.into()])?;
    one(b.op(&ops::MUL, [v.into(), ratio.into()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.batch_norm.default", batch_norm),
    ("aten.native_batch_norm.default", batch_norm),
    ("aten.layer_norm.default", layer_norm),
    ("aten.group_norm.default", group_norm),
    ("aten.instance_norm.default", instance_norm),
    ("aten.rms_norm.default", rms_norm),
    ("aten._weight_norm.default", weight_norm),
];
