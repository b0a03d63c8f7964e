//! Normalization.

use super::rules::{Types, differ, one, same};
use super::{Call, InferError};
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;

ops! {
    BATCH_NORM = "aten.batch_norm.default" "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps, bool cudnn_enabled) -> Tensor", batch_norm;
    NATIVE_BATCH_NORM = "aten.native_batch_norm.default" "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)", native_batch_norm;
    NATIVE_BATCH_NORM_LEGIT_NO_TRAINING = "aten._native_batch_norm_legit_no_training.default" "(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)", native_batch_norm;
    NATIVE_BATCH_NORM_LEGIT_NO_STATS = "aten._native_batch_norm_legit.no_stats" "(Tensor input, Tensor? weight, Tensor? bias, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)", native_batch_norm;
    LAYER_NORM = "aten.layer_norm.default" "(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, bool cudnn_enable=True) -> Tensor", layer_norm;
    RMS_NORM = "aten.rms_norm.default" "(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor", layer_norm;
    NATIVE_LAYER_NORM = "aten.native_layer_norm.default" "(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)", native_layer_norm;
    GROUP_NORM = "aten.group_norm.default" "(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, bool cudnn_enabled=True) -> Tensor", same;
    INSTANCE_NORM = "aten.instance_norm.default" "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool use_input_stats, float momentum, float eps, bool cudnn_enabled) -> Tensor", same;
    NATIVE_GROUP_NORM = "aten.native_group_norm.default" "(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW, int group, float eps) -> (Tensor, Tensor, Tensor)", native_group_norm;
    WEIGHT_NORM = "aten._weight_norm.default" "(Tensor v, Tensor g, int dim=0) -> Tensor", weight_norm;
}

/// Every parameter of a batch norm has one entry a channel.
fn channels(c: &Call<'_>, params: std::ops::Range<usize>) -> Result<(), InferError> {
    let x = c.tensor(0)?;
    let Some(channels) = x.shape.get(1) else { return c.error(format!("input is {x}; it has no channels")) };
    for i in params {
        if let Some(p) = c.opt_tensor(i)
            && (p.rank() != 1 || differ(&p.shape[0], channels))
        {
            return c.error(format!("input {x} has {channels} channels, a parameter is {p}"));
        }
    }
    Ok(())
}

/// `batch_norm(input, weight, bias, mean, var, training, momentum, eps, cudnn)`
fn batch_norm(c: &Call<'_>) -> Types {
    channels(c, 1..5)?;
    same(c)
}

/// The core forms also give the batch's mean and inverse deviation: empty outside training.
fn native_batch_norm(c: &Call<'_>) -> Types {
    channels(c, 1..5)?;
    let x = c.tensor(0)?;
    let training = matches!(c.op.schema().index_of("training").map(|i| c.arg(i)), Some(Arg::Bool(true)));
    let stats = TensorType { dtype: x.dtype, shape: vec![if training { x.shape[1].clone() } else { 0.into() }] };
    Ok(vec![x.clone(), stats.clone(), stats])
}

/// How many trailing dimensions argument 1 normalizes.
fn normalized(c: &Call<'_>) -> Result<usize, InferError> {
    let (x, n) = (c.tensor(0)?, c.syms(1)?);
    let fits = |from: usize| x.shape[from..].iter().zip(n).all(|(a, b)| !differ(a, b));
    if n.is_empty() || !x.rank().checked_sub(n.len()).is_some_and(fits) {
        return c.error(format!("input {x} does not end with the normalized shape {n:?}"));
    }
    for i in [2, 3] {
        if let Some(p) = c.opt_tensor(i)
            && p.shape != n
        {
            return c.error(format!("the normalized shape is {n:?}, a parameter is {p}"));
        }
    }
    Ok(x.rank() - n.len())
}

fn layer_norm(c: &Call<'_>) -> Types {
    normalized(c)?;
    same(c)
}

/// Also gives mean and inverse deviation over the normalized dimensions.
fn native_layer_norm(c: &Call<'_>) -> Types {
    let kept = normalized(c)?;
    let x = c.tensor(0)?;
    let shape = x.shape.iter().enumerate().map(|(i, d)| if i < kept { d.clone() } else { SymInt::Known(1) });
    let stats = TensorType { dtype: x.dtype, shape: shape.collect() };
    Ok(vec![x.clone(), stats.clone(), stats])
}

/// `native_group_norm(input, weight, bias, N, C, HxW, group, eps)`
fn native_group_norm(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let stats = TensorType { dtype: x.dtype, shape: vec![c.sym(3)?, c.sym(6)?] };
    Ok(vec![x.clone(), stats.clone(), stats])
}

/// `_weight_norm(v, g, dim)`
fn weight_norm(c: &Call<'_>) -> Types {
    one(c.tensor(0)?.dtype, c.tensor(0)?.shape.clone())
}
