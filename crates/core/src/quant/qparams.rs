//! From ranges to scales and zero points, and from floats to integers and back: torchao's arithmetic, operation by
//! operation in f32 (`UniformQuantizationObserverBase._calculate_qparams`, `quantized_decomposed`).

use super::scheme::{Granularity, Mapping, QParams, QRange};
use super::spec::QuantSpec;
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Scale and zero point for values from `min` to `max`. Zero is always representable.
pub fn choose_qparams(min: f32, max: f32, range: QRange, mapping: Mapping, eps: f32) -> (f32, i64) {
    let (lo, hi) = (min.min(0.0), max.max(0.0));
    let span = (range.max() - range.min()) as f32;
    match mapping {
        Mapping::Symmetric => {
            // The range's half is taken in f64 there and meets an f32 tensor.
            let half = ((range.max() - range.min()) as f64 / 2.0) as f32;
            let scale = ((-lo).max(hi) / half).max(eps);
            let zero = match range.dtype() {
                DType::U8 if range == QRange::UINT8 => 128,
                DType::U8 => (range.min() + range.max()).div_euclid(2),
                DType::U16 => 1 << 15,
                _ => 0,
            };
            (scale, zero)
        }
        Mapping::Affine => {
            let scale = ((hi - lo) / span).max(eps);
            // Rounded to int32 there, ties to even.
            let zero = range.min() - i64::from((lo / scale).round_ties_even() as i32);
            (scale, zero.clamp(range.min(), range.max()))
        }
    }
}

impl QuantSpec {
    /// Parameters for one range of values, or one a channel.
    pub fn qparams(&self, ranges: &[(f32, f32)]) -> QParams {
        let chosen = ranges
            .iter()
            .map(|&(lo, hi)| choose_qparams(lo, hi, self.range, self.scheme.mapping, self.eps as f32));
        let (scale, zero_point) = chosen.map(|(s, z)| (f64::from(s), z)).unzip();
        QParams { range: self.range, granularity: self.scheme.granularity, scale, zero_point }
    }
}

/// Why a tensor could not be quantized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantizeError(pub String);

impl QParams {
    /// Whether zero is exact, that is, every zero point lies in range.
    pub fn is_valid(&self) -> bool {
        self.scale.len() == self.zero_point.len()
            && self.scale.iter().all(|s| s.is_finite() && *s > 0.0)
            && self.zero_point.iter().all(|z| (self.range.min()..=self.range.max()).contains(z))
    }

    /// Quantizes floats, per tensor or per channel: `clamp(round(x · 1/scale) + zero_point)`, ties to even.
    ///
    /// # Errors
    /// For other granularities, tensors that are not floats, and channel counts that do not fit.
    pub fn quantize(&self, x: &Tensor) -> Result<Tensor, QuantizeError> {
        let fail = |m: String| Err(QuantizeError(m));
        if !x.dtype().is_float() {
            return fail(format!("only floating-point tensors are quantized, this one is {}", x.dtype()));
        }
        let inner = match self.granularity {
            Granularity::Tensor => x.numel(),
            Granularity::Channel { axis } => {
                let axis = axis as usize;
                match x.shape().get(axis) {
                    Some(&n) if n == self.scale.len() => x.shape()[axis + 1..].iter().product(),
                    _ => {
                        return fail(format!(
                            "{} scales for axis {axis} of shape {:?}",
                            self.scale.len(),
                            x.shape()
                        ));
                    }
                }
            }
            other => return fail(format!("{other:?} is not folded")),
        };
        // Per tensor the reciprocal is taken in f64 and rounded, per channel in f32.
        let inv: Vec<f32> = match self.granularity {
            Granularity::Tensor => self.scale.iter().map(|s| (1.0 / s) as f32).collect(),
            _ => self.scale.iter().map(|s| 1.0 / *s as f32).collect(),
        };
        let (lo, hi) = (self.range.min() as f32, self.range.max() as f32);
        let n = inv.len();
        let mut ints = Vec::with_capacity(x.numel());
        for (k, run) in x.to_f32().chunks(inner.max(1)).enumerate() {
            let (s, z) = (inv[k % n], self.zero_point[k % n] as f32);
            ints.extend(run.iter().map(|&v| ((v * s).round_ties_even() + z).clamp(lo, hi) as i32));
        }
        let shape = x.shape();
        let tensor = match self.range.dtype() {
            DType::I8 => Tensor::new(shape, ints.into_iter().map(|v| v as i8).collect()),
            DType::U8 => Tensor::new(shape, ints.into_iter().map(|v| v as u8).collect()),
            DType::I16 => Tensor::new(shape, ints.into_iter().map(|v| v as i16).collect()),
            DType::U16 => Tensor::new(shape, ints.into_iter().map(|v| v as u16).collect()),
            DType::I32 => Tensor::new(shape, ints),
            other => return fail(format!("{other} stores no quantized values")),
        };
        tensor.map_err(|e| QuantizeError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_torchaos() {
        // Values printed by torchao's MinMaxObserver.
        for (min, max, range, mapping, scale, zero) in [
            (-1.0f32, 3.0f32, QRange::INT8, Mapping::Affine, 4.0f32 / 255.0, -64),
            (0.5, 2.0, QRange::INT8, Mapping::Affine, 2.0 / 255.0, -128),
            (-3.0, 1.0, QRange::INT8_SYM, Mapping::Symmetric, 3.0 / 127.0, 0),
            (-3.0, 1.0, QRange::UINT8, Mapping::Symmetric, 3.0 / 127.5, 128),
            (0.0, 0.0, QRange::INT8, Mapping::Affine, 0.000_244_140_62, -128),
        ] {
            let got = choose_qparams(min, max, range, mapping, 2f32.powi(-12));
            assert_eq!(got, (scale, zero), "{min} {max} {mapping:?}");
        }
    }

    #[test]
    fn rounding_is_to_even_and_clamped() {
        let p = QParams {
            range: QRange::INT8,
            granularity: Granularity::Tensor,
            scale: vec![0.5],
            zero_point: vec![1],
        };
        let x = Tensor::new(&[5], vec![0.25f32, 0.75, -0.25, 1000.0, -1000.0]).unwrap();
        assert_eq!(p.quantize(&x).unwrap().as_slice::<i8>(), Some(&[1, 3, 1, 127, -128][..]));
    }
}
