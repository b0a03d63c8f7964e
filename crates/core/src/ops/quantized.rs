//! Quantize, dequantize and the choice of parameters (`torch.ops.quantized_decomposed`).

use super::rules::differ;
use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::{Arg, TensorType};
use crate::quant::block_counts;
use crate::symint::SymInt;

ops! {
    QUANTIZE_PER_TENSOR = "quantized_decomposed.quantize_per_tensor.default" "(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5), elementwise;
    QUANTIZE_PER_TENSOR_TENSOR = "quantized_decomposed.quantize_per_tensor.tensor" "(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5);
    QUANTIZE_PER_TENSOR_TENSOR2 = "quantized_decomposed.quantize_per_tensor.tensor2" "(Tensor input, Tensor scale, Tensor zero_point, Tensor quant_min, Tensor quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5);
    DEQUANTIZE_PER_TENSOR = "quantized_decomposed.dequantize_per_tensor.default" "(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| dequantize(c, 5), elementwise;
    DEQUANTIZE_PER_TENSOR_TENSOR = "quantized_decomposed.dequantize_per_tensor.tensor" "(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| dequantize(c, 5);
    DEQUANTIZE_PER_TENSOR_TENSOR2 = "quantized_decomposed.dequantize_per_tensor.tensor2" "(Tensor input, Tensor scale, Tensor zero_point, Tensor quant_min, Tensor quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| dequantize(c, 5);
    QUANTIZE_PER_CHANNEL = "quantized_decomposed.quantize_per_channel.default" "(Tensor input, Tensor scales, Tensor zero_points, int axis, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| per_channel(c).and_then(|()| quantize(c, 6));
    DEQUANTIZE_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default" "(Tensor input, Tensor scales, Tensor? zero_points, int axis, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor", |c| per_channel(c).and_then(|()| dequantize(c, 6));
    QUANTIZE_PER_CHANNEL_GROUP = "quantized_decomposed.quantize_per_channel_group.default" "(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype, int group_size) -> Tensor", |c| quantize(c, 5);
    QUANTIZE_PER_TOKEN = "quantized_decomposed.quantize_per_token.default" "(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype) -> Tensor", |c| quantize(c, 5);
    DEQUANTIZE_PER_CHANNEL_GROUP = "quantized_decomposed.dequantize_per_channel_group.default" "(Tensor input, Tensor scales, Tensor? zero_points, int quant_min, int quant_max, ScalarType dtype, int group_size, ScalarType output_dtype) -> Tensor", |c| dequantize_to(c, 5, 7);
    DEQUANTIZE_PER_TOKEN = "quantized_decomposed.dequantize_per_token.default" "(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype, ScalarType output_dtype) -> Tensor", |c| dequantize_to(c, 5, 6);
    CHOOSE_QPARAMS = "quantized_decomposed.choose_qparams.tensor" "(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype) -> (Tensor, Tensor)", choose_qparams;
    CHOOSE_QPARAMS_SYMMETRIC = "quantized_decomposed.choose_qparams_symmetric.tensor" "(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype) -> (Tensor, Tensor)", choose_qparams;
    CHOOSE_QPARAMS_PER_TOKEN = "quantized_decomposed.choose_qparams_per_token.default" "(Tensor input, ScalarType dtype) -> (Tensor, Tensor)", choose_per_token;
    CHOOSE_QPARAMS_PER_TOKEN_ASYMMETRIC = "quantized_decomposed.choose_qparams_per_token_asymmetric.default" "(Tensor input, ScalarType dtype) -> (Tensor, Tensor)", choose_per_token;
    QUANTIZE_AFFINE = "torchao.quantize_affine.default" "(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, ScalarType output_dtype, Scalar? quant_min=None, Scalar? quant_max=None) -> Tensor", |c| quantize(c, 4);
    DEQUANTIZE_AFFINE = "torchao.dequantize_affine.default" "(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, ScalarType input_dtype, Scalar? quant_min=None, Scalar? quant_max=None, ScalarType output_dtype=float) -> Tensor", |c| dequantize_to(c, 4, 7);
    DEQUANTIZE_CODEBOOK = "quant.dequantize_codebook.default" "(Tensor codes, Tensor codebook, SymInt nbits, SymInt[] block_size, ScalarType output_dtype=float) -> Tensor", codebook;
    CHOOSE_QPARAMS_AFFINE = "torchao.choose_qparams_affine.default" "(Tensor? input, str mapping_type, SymInt[] block_size, ScalarType target_dtype, Scalar? quant_min=None, Scalar? quant_max=None, float? eps=None, ScalarType? scale_dtype=None, ScalarType? zero_point_dtype=None, bool keepdim=False) -> (Tensor, Tensor)", choose_affine;
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
fn per_channel(c: &Call<'_>) -> Result<(), InferError> {
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

/// As [`dequantize`], to the element type of argument `out`.
fn dequantize_to(c: &Call<'_>, dtype: usize, out: usize) -> Result<Vec<TensorType>, InferError> {
    let mut t = dequantize(c, dtype)?;
    t[0].dtype = c.opt_dtype(out).unwrap_or(DType::F32);
    Ok(t)
}

/// Tables for each block of codes: as many along each dimension as there are blocks, then `2^nbits` vectors.
fn codebook(c: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    let (codes, tables, bits, block) = (c.tensor(0)?, c.tensor(1)?, c.int(2)?, c.syms(3)?);
    if !codes.dtype.is_int() {
        return c.error(format!("codes are integers, not {codes}"));
    }
    if !(1..=8).contains(&bits) {
        return c.error(format!("codes have 1 to 8 bits, not {bits}"));
    }
    // −1 stands for the whole dimension.
    let whole = SymInt::Known(-1);
    let blocks = codes.shape.iter().zip(block).map(|(n, b)| if *b == whole { n } else { b });
    let mut want: Vec<SymInt> = codes.shape.iter().zip(blocks).map(|(n, b)| n.floor_div(b)).collect();
    want.push((1 << bits).into());
    let fits = |(a, b): (&SymInt, &SymInt)| !differ(a, b);
    let [parts @ .., vector] = &tables.shape[..] else { return c.error("the codebook is a scalar") };
    if block.len() != codes.rank() || parts.len() != want.len() || !want.iter().zip(parts).all(fits) {
        return c.error(format!("tables {tables} do not fit codes {codes} of {bits} bits in blocks of {block:?}"));
    }
    let mut shape = codes.shape.clone();
    if *vector != 1 {
        shape.push(vector.clone());
    }
    Ok(vec![TensorType { dtype: c.opt_dtype(4).unwrap_or(DType::F32), shape }])
}

/// One scale and zero point a row.
fn choose_per_token(c: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    let mut shape = c.tensor(0)?.shape.clone();
    let Some(last) = shape.last_mut() else { return c.error("a scalar has no rows") };
    *last = 1.into();
    let of = |dtype| TensorType { dtype, shape: shape.clone() };
    Ok(vec![of(DType::F64), of(DType::I64)])
}

/// One scale and zero point a block; arguments 7, 8 and 9 are their element types and `keepdim`.
fn choose_affine(c: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    let (x, block) = (c.tensor(0)?, c.syms(2)?);
    if block.len() != x.rank() {
        return c.error(format!("block size {block:?} does not fit {x}"));
    }
    // Without `keepdim`, dimensions that one block fills are left out.
    let shape = match c.bool(9)? {
        true => x.shape.iter().zip(block).map(|(n, b)| n.floor_div(b)).collect(),
        false => block_counts(&x.shape, block),
    };
    let of = |dtype| TensorType { dtype, shape: shape.clone() };
    // A symmetric zero point is filled in like the scale, and stays a float unless asked for otherwise.
    let asymmetric = matches!(c.arg(1), Arg::Str(s) if **s == *"ASYMMETRIC");
    let zero = if asymmetric { DType::I32 } else { x.dtype };
    Ok(vec![of(c.opt_dtype(7).unwrap_or(x.dtype)), of(c.opt_dtype(8).unwrap_or(zero))])
}
