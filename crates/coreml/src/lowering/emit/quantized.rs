//! Quantize and dequantize, and weights at their true width.
//!
//! Activations go through `quantize` and `dequantize` (from iOS 17 on); what a constant is dequantized from is stored as it
//! is, and made floating point by a `constexpr` operator, which Core ML's compiler understands.

use super::weight::{Weight, affine, codebook, per_channel, per_group, width};
use super::{Emitted, Table, number, out};
use crate::Target;
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, DType};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg as CoreArg, Node};
use lowbit_core::ops::{self, OpDef};

pub static TABLE: Table = &[
    (&ops::QUANTIZE_PER_TENSOR, quantize),
    (&ops::DEQUANTIZE_PER_TENSOR, dequantize),
    (&ops::DEQUANTIZE_PER_CHANNEL, per_channel),
    (&ops::DEQUANTIZE_PER_CHANNEL_GROUP, per_group),
    (&ops::DEQUANTIZE_AFFINE, affine),
    (&ops::DEQUANTIZE_CODEBOOK, codebook),
];

/// Whether an operator makes floats of integers with parameters.
pub fn is_dequantize(op: &OpDef) -> bool {
    TABLE.iter().any(|(o, _)| *o == op && *o != &ops::QUANTIZE_PER_TENSOR)
}

/// What Core ML's activations are stored as: all the integers of 8 bits.
fn whole_range(n: &Node) -> Emitted<CoreType> {
    let CoreArg::DType(dtype) = n.arg(5) else { return Err("argument dtype is missing".into()) };
    let range = (super::int(n, 3)?, super::int(n, 4)?);
    match dtype {
        CoreType::U8 | CoreType::I8 if Some(range) == dtype.int_bounds() => Ok(*dtype),
        CoreType::U8 | CoreType::I8 => {
            Err(format!("Core ML quantizes to all of {dtype}, not to {} to {}", range.0, range.1))
        }
        _ => Err(format!("Core ML has no activations of {dtype}")),
    }
}

/// The element type of quantized activations, and the zero point, that Apple's own passes leave: unsigned ones around 128
/// become signed ones around 0, which the neural engine likes better.
fn nullified(dtype: CoreType, zero_point: i64) -> (DType, i64) {
    match (dtype, zero_point) {
        (CoreType::U8, 128) => (DType::I8, 0),
        (CoreType::U8, z) => (DType::U8, z),
        (_, z) => (DType::I8, z),
    }
}

/// The type of floats that a scale is given in, which is that of the values: half floats where they have the scale, within the
/// rounding of their normal numbers. Below 6e-5 they have fewer digits and above 65504 none.
fn float_of(scale: f64, float: DType) -> DType {
    let half = half::f16::from_f64(scale).to_f64();
    let near = (half - scale).abs() <= scale.abs() / 2048.0;
    if float == DType::F16 && !near { DType::F32 } else { float }
}

/// The arguments that `quantize` and `dequantize` share, with the type of the integers: `x`, and the parameters, the scale in
/// the type of the floats.
fn parameters(b: &Builder<'_>, n: &Node, x: &Var, float: DType) -> Emitted<(DType, Vec<(&'static str, In)>)> {
    if b.settings.target < Target::Ios17 {
        return Err("Core ML quantizes activations from target ios17 on".into());
    }
    let (dtype, zero_point) = nullified(whole_range(n)?, super::int(n, 2)?);
    let scale = Constant::float(float, number(n, 1)? as f32);
    let mut inputs = vec![("input", x.into()), ("scale", scale.into())];
    if zero_point != 0 {
        inputs.push(("zero_point", Constant::new(dtype, [0i64; 0], vec![zero_point as u8]).into()));
    }
    Ok((dtype, inputs))
}

fn quantize(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let float = float_of(number(n, 1)?, x.ty.dtype);
    let x = b.cast(&x, float);
    let (dtype, mut inputs) = parameters(b, n, &x, float)?;
    inputs.push(("output_dtype", dtype.name().into()));
    Ok(vec![b.op("quantize", inputs, x.ty.with(dtype))])
}

fn dequantize(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    if let Some(q) = b.frozen(n, 0) {
        let (scale, zero_point) = (number(n, 1)? as f32, super::int(n, 2)?);
        // Core ML compresses tensors of one dimension and more.
        if ty.rank() == 0 {
            let value = q.to_f64().first().map_or(0.0, |&x| (x as f32 - zero_point as f32) * scale);
            return Ok(vec![b.constant(&n.name, Constant::float(ty.dtype, value))]);
        }
        let w = Weight {
            data: q,
            bits: width(super::int(n, 3)?, super::int(n, 4)?),
            scale: vec![scale],
            zero_points: vec![zero_point],
            blocks: vec![1; ty.rank()],
        };
        return Ok(vec![w.emit(b, ty)?]);
    }
    let x = b.arg(n, 0)?;
    let float = float_of(number(n, 1)?, ty.dtype);
    let (_, inputs) = parameters(b, n, &x, float)?;
    let y = b.op("dequantize", inputs, ty.with(float));
    Ok(vec![b.cast(&y, ty.dtype)])
}
