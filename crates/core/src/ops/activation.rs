//! Activation functions and dropout (which does nothing outside training).

use super::rules::{Types, one, same, unary_float};
use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::Arg;
use crate::ops::{CLAMP, OpDef};

ops! {
    RELU = "aten.relu.default" "(Tensor self) -> Tensor", same, elementwise, shares_qparams;
    RELU6 = "aten.relu6.default" "(Tensor self) -> Tensor", same, elementwise, shares_qparams;
    HARDTANH = "aten.hardtanh.default" "(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor", same, elementwise, shares_qparams;
    LEAKY_RELU = "aten.leaky_relu.default" "(Tensor self, Scalar negative_slope=0.01) -> Tensor", same, elementwise;
    ELU = "aten.elu.default" "(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor", same, elementwise;
    CELU = "aten.celu.default" "(Tensor self, Scalar alpha=1.) -> Tensor", same, elementwise;
    SELU = "aten.selu.default" "(Tensor self) -> Tensor", same, elementwise;
    GELU = "aten.gelu.default" "(Tensor self, *, str approximate=\"none\") -> Tensor", same, elementwise;
    SILU = "aten.silu.default" "(Tensor self) -> Tensor", same, elementwise;
    MISH = "aten.mish.default" "(Tensor self) -> Tensor", same, elementwise;
    HARDSWISH = "aten.hardswish.default" "(Tensor self) -> Tensor", same, elementwise;
    HARDSIGMOID = "aten.hardsigmoid.default" "(Tensor self) -> Tensor", same, elementwise;
    SOFTPLUS = "aten.softplus.default" "(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor", same, elementwise;
    THRESHOLD = "aten.threshold.default" "(Tensor self, Scalar threshold, Scalar value) -> Tensor", same, elementwise;
    LOG_SIGMOID = "aten.log_sigmoid.default" "(Tensor self) -> Tensor", same, elementwise;
    SIGMOID = "aten.sigmoid.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    TANH = "aten.tanh.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    PRELU = "aten.prelu.default" "(Tensor self, Tensor weight) -> Tensor", prelu, elementwise;
    GLU = "aten.glu.default" "(Tensor self, int dim=-1) -> Tensor", glu;
    SOFTMAX = "aten.softmax.int" "(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", softmax;
    LOG_SOFTMAX = "aten.log_softmax.int" "(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", softmax;
    SAFE_SOFTMAX = "aten._safe_softmax.default" "(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", softmax;
    SOFTMAX_CORE = "aten._softmax.default" "(Tensor self, int dim, bool half_to_float) -> Tensor", softmax_core;
    LOG_SOFTMAX_CORE = "aten._log_softmax.default" "(Tensor self, int dim, bool half_to_float) -> Tensor", softmax_core;
    DROPOUT = "aten.dropout.default" "(Tensor input, float p, bool train) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    FEATURE_DROPOUT = "aten.feature_dropout.default" "(Tensor input, float p, bool train) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    NATIVE_DROPOUT = "aten.native_dropout.default" "(Tensor input, float p, bool? train) -> (Tensor, Tensor)", native_dropout, elementwise;
}

/// The bounds, as `f32`, that an operator with these arguments clamps its only operand to; infinities where there is none. `None` for
/// other operators, and where bounds are not known or cross.
pub fn bounds(op: &OpDef, args: &[Arg]) -> Option<(f32, f32)> {
    let number = |i: usize, none: f32| match args.get(i) {
        Some(Arg::Float(x)) => Some(*x as f32),
        Some(Arg::Int(n)) => n.known().map(|n| n as f32),
        Some(Arg::None) | None => Some(none),
        _ => None,
    };
    let (low, high) = match op {
        op if *op == RELU => (0.0, f32::INFINITY),
        op if *op == RELU6 => (0.0, 6.0),
        op if *op == HARDTANH => (number(1, -1.0)?, number(2, 1.0)?),
        op if *op == CLAMP => (number(1, f32::NEG_INFINITY)?, number(2, f32::INFINITY)?),
        _ => return None,
    };
    (low <= high).then_some((low, high))
}

/// Halves a dimension.
fn glu(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let mut shape = x.shape.clone();
    let Some(size) = shape.get_mut(d) else { return c.error("a scalar cannot be halved") };
    *size = size.floor_div(&2.into());
    one(x.dtype, shape)
}

/// Softmax: argument `i` may name another element type.
fn softmax(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    c.dim(1, x.rank())?;
    one(c.opt_dtype(2).unwrap_or(x.dtype), x.shape.clone())
}

/// `_softmax` with `half_to_float`.
fn softmax_core(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    c.dim(1, x.rank())?;
    one(if c.bool(2)? { DType::F32 } else { x.dtype }, x.shape.clone())
}

fn native_dropout(c: &Call<'_>) -> Result<Vec<crate::ir::TensorType>, InferError> {
    let x = c.tensor(0)?;
    Ok(vec![x.clone(), crate::ir::TensorType { dtype: DType::Bool, shape: x.shape.clone() }])
}

fn prelu(c: &Call<'_>) -> Types {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    let channels = x.shape.get(1).cloned().unwrap_or_else(|| 1.into());
    match w.numel().known() {
        Some(1) => {}
        _ if w.numel() == channels => {}
        _ => return c.error(format!("input {x} has {channels} channels, weight is {w}")),
    }
    same(c)
}
