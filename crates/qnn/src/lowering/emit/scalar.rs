//! Numbers that stand in a program's text, as constants of the chip.

use super::{Builder, Emitted};
use crate::graph::{DType, Encoding, TensorId};
use crate::lowering::kind::Kind;

/// A number as a constant that goes with `x`: the last of its integers, with zero at the other end, as an observer of this
/// one number would have it. (With coarse steps, where few integers are of use, the library does not come to an end.)
///
/// # Errors
/// When it is not finite.
pub fn number(b: &mut Builder<'_>, wish: &str, value: f32, x: TensorId) -> Emitted<TensorId> {
    if !value.is_finite() {
        return Err(format!("{value} is no number that HTP has"));
    }
    let kind = b.kind_of(x);
    if kind.dtype == DType::Int32 {
        if value.fract() != 0.0 || value.abs() > 16_777_216.0 {
            return Err(format!("{value} meets integers, and is none that is exact"));
        }
        return Ok(b.constant(wish, kind, vec![1], (value as i32).to_le_bytes().to_vec().into()));
    }
    if !kind.is_fixed() {
        return Ok(b.constant(wish, kind, vec![1], value.to_le_bytes().to_vec().into()));
    }
    let (dtype, last) = match kind.dtype.size() {
        1 => (DType::U8, 255u16),
        _ => (DType::U16, 65535),
    };
    let scale = if value == 0.0 { 1.0 } else { value.abs() } / f32::from(last);
    let (integer, offset) = match value {
        v if v > 0.0 => (last, 0),
        v if v < 0.0 => (0, -i32::from(last)),
        _ => (0, 0),
    };
    let data = integer.to_le_bytes()[..dtype.size()].to_vec();
    let encoding = Encoding::Tensor { scale, offset, bits: None };
    Ok(b.constant(wish, Kind { dtype, encoding }, vec![1], data.into()))
}

/// A constant of this kind that is as near to a number as its integers are.
///
/// # Errors
/// When the kind has no integers that stand for numbers, or there is no number.
pub fn nearest(b: &mut Builder<'_>, wish: &str, value: f64, kind: Kind) -> Emitted<TensorId> {
    if kind.dtype == DType::F32 && value.is_finite() {
        return Ok(b.constant(wish, kind, vec![1], (value as f32).to_le_bytes().to_vec().into()));
    }
    if value.is_nan() {
        return Err("NaN is no number that HTP has".into());
    }
    let within = kind.bounds().map(|(min, max)| value.clamp(f64::from(min), f64::from(max)));
    let integer = within.and_then(|x| kind.integer(x));
    let integer = integer.ok_or_else(|| format!("{value} is no {}", kind.dtype.name()))?;
    let data = integer.to_le_bytes()[..kind.dtype.size()].to_vec();
    Ok(b.constant(wish, kind, vec![1], data.into()))
}
