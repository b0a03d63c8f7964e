//! Quantize, dequantize and the choice of parameters (`torch.ops.quantized_decomposed`).

use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::TensorType;

ops! {
    QUANTIZE_PER_TENSOR = "quantized_decomposed.quantize_per_tensor.default" "(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5), elementwise;
    DEQUANTIZE_PER_TENSOR = "quantized_decomposed.dequantize_per_tensor.default" "(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| dequantize(c, 5), elementwise;
    QUANTIZE_PER_TENSOR_TENSOR = "quantized_decomposed.quantize_per_tensor.tensor" "(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5);
    DEQUANTIZE_PER_TENSOR_TENSOR = "quantized_decomposed.dequantize_per_tensor.tensor" "(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| dequantize(c, 5);
    QUANTIZE_PER_CHANNEL = "quantized_decomposed.quantize_per_channel.default" "(Tensor input, Tensor scales, Tensor zero_points, int axis, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| per_channel(c, 6).and_then(|()| quantize(c, 6));
    DEQUANTIZE_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default" "(Tensor input, Tensor scales, Tensor? zero_points, int axis, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| per_channel(c, 6).and_then(|()| dequantize(c, 6));
    CHOOSE_QPARAMS = "quantized_decomposed.choose_qparams.tensor" "(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype) -> (Tensor, Tensor)", choose_qparams;
    CHOOSE_QPARAMS_SYMMETRIC = "quantized_decomposed.choose_qparams_symmetric.tensor" "(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype) -> (Tensor, Tensor)", choose_qparams;
}

fn quantize(c: &Call<'_>, dtype: usize) -> Result<Vec<TensorType>, InferError> {
    let x = c.tensor(0)?;
    if !x.dtype.is_float() {
        return c.error(format!("input is {x}; only floating-point tensors are quantized"));
    }
    let Some(dtype) = c.opt_dtype(dtype) else { return c.error("argument dtype is missing") };
    Ok(vec![TensorType { dtype, shape: x.shape.clone() }])
}

fn dequantize(c: &Call<'_>, dtype: usize) -> Result<Vec<TensorType>, InferError> {
    let x = c.tensor(0)?;
    let Some(want) = c.opt_dtype(dtype) else { return c.error("argument dtype is missing") };
    if x.dtype != want {
        return c.error(format!("input is {x}, argument dtype says {want}"));
    }
    Ok(vec![TensorType { dtype: c.opt_dtype(dtype + 1).unwrap_or(DType::F32), shape: x.shape.clone() }])
}

/// Scales and zero points have one entry a channel.
fn per_channel(c: &Call<'_>, _: usize) -> Result<(), InferError> {
    let x = c.tensor(0)?;
    let axis = c.dim(3, x.rank())?;
    for i in 1..3 {
        if let Some(p) = c.opt_tensor(i)
            && x.shape.get(axis) != p.shape.first()
        {
            return c.error(format!("input {x} has other channels on axis {axis} than its parameters {p}"));
        }
    }
    Ok(())
}

fn choose_qparams(_: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    // A Python float becomes f64 there, an integer i64.
    Ok(vec![TensorType::new(DType::F64, [1]), TensorType::new(DType::I64, [1])])
}
