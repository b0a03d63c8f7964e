//! From ranges to scales and zero points, and from floats to integers and back: torchao's arithmetic, operation by
//! operation in f32 (`UniformQuantizationObserverBase._calculate_qparams`, `quantized_decomposed`).

use super::blocks::runs;
use super::scheme::{Granularity, Mapping, QParams, QRange, QScheme};
use super::spec::QuantSpec;
use crate::dtype::DType;
use crate::tensor::{Element, Tensor, TensorError};
use half::{bf16, f16};

/// Scale and zero point for values from `min` to `max`. Zero is always representable, unless the zero point is a fraction.
pub fn choose_qparams(min: f32, max: f32, range: QRange, scheme: QScheme, eps: f32) -> (f32, f64) {
    let (lo, hi) = (min.min(0.0), max.max(0.0));
    let (qmin, qmax) = (range.min() as f32, range.max() as f32);
    let span = (range.max() - range.min()) as f32;
    let blocks = matches!(scheme.granularity, Granularity::Blocks(_));
    match scheme.mapping {
        Mapping::Symmetric => {
            // The range's half is taken in f64 there and meets an f32 tensor.
            let half = ((range.max() - range.min()) as f64 / 2.0) as f32;
            (((-lo).max(hi) / half).max(eps), middle(range, blocks) as f64)
        }
        Mapping::SymmetricNoClipping => {
            let (low, high) = (lo / qmin, hi / qmax);
            let scale = if low > high { low } else { high };
            (scale.max(eps), middle(range, true) as f64)
        }
        Mapping::Affine => {
            let scale = ((hi - lo) / span).max(eps);
            let steps = (lo / scale).round_ties_even();
            let zero = match blocks {
                true => f64::from((qmin - steps).clamp(qmin, qmax)),
                // Rounded to int32 there.
                false => (range.min() - i64::from(steps as i32)).clamp(range.min(), range.max()) as f64,
            };
            (scale, zero)
        }
        Mapping::AffineFloat => {
            let scale = (max - min) / span;
            let scale = match blocks {
                true => scale.max(eps),
                false if scale > eps => scale,
                false => 1.0,
            };
            (scale, f64::from(qmin - min / scale))
        }
    }
}

/// The zero point of a symmetric mapping: torchao's two families round the middle of unsigned ranges differently.
fn middle(range: QRange, blocks: bool) -> i64 {
    match range.dtype() {
        _ if blocks => (range.max() + range.min() + 1) / 2,
        DType::U8 if range == QRange::UINT8 => 128,
        DType::U8 => (range.min() + range.max()).div_euclid(2),
        DType::U16 => 1 << 15,
        _ => 0,
    }
}

impl QuantSpec {
    /// Parameters for one range of values, or one a channel or block.
    pub fn qparams(&self, ranges: &[(f32, f32)]) -> QParams {
        let chosen =
            ranges.iter().map(|&(lo, hi)| choose_qparams(lo, hi, self.range, self.scheme, self.eps as f32));
        let (scale, zero_point): (Vec<_>, _) = chosen.unzip();
        let scale = scale.into_iter().map(f64::from).collect();
        let params = QParams::new(self.range, self.scheme.granularity, scale, zero_point);
        QParams { types: self.types, ..params }.rounded()
    }
}

/// Numbers as an element type holds them.
fn round_to(dtype: Option<DType>, x: Vec<f32>) -> Vec<f32> {
    match dtype {
        Some(DType::F16) => x.into_iter().map(|v| f16::from_f32(v).to_f32()).collect(),
        Some(DType::BF16) => x.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect(),
        _ => x,
    }
}

/// Why a tensor could not be quantized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantizeError(pub String);

impl QParams {
    /// With scales as their element type holds them.
    pub(super) fn rounded(mut self) -> Self {
        let scales = round_to(self.types.scale, self.scale.into_iter().map(|s| s as f32).collect());
        self.scale = scales.into_iter().map(f64::from).collect();
        self
    }

    /// Whether zero is exact, that is, every zero point is whole and lies in range.
    pub fn is_valid(&self) -> bool {
        let (min, max) = (self.range.min() as f64, self.range.max() as f64);
        self.scale.len() == self.zero_point.len()
            && self.scale.iter().all(|s| s.is_finite() && *s > 0.0)
            && self.zero_point.iter().all(|z| z.fract() == 0.0 && (min..=max).contains(z))
    }

    /// Quantizes floats: `clamp(round(x · 1/scale) + zero_point)`, ties to even. For blocks with fractional zero points
    /// these are added before rounding; for channels after it and what is left of the fraction is cut off, as PyTorch does.
    ///
    /// # Errors
    /// For tensors that are not floats, and shapes that the number of scales does not fit.
    pub fn quantize(&self, x: &Tensor) -> Result<Tensor, QuantizeError> {
        let fail = |m: String| Err(QuantizeError(m));
        if !x.dtype().is_float() {
            return fail(format!("only floating-point tensors are quantized, this one is {}", x.dtype()));
        }
        let shape = x.shape();
        let block = self.granularity.known_block_sizes(shape).map_err(QuantizeError)?;
        let count: usize = shape.iter().zip(&block).map(|(n, b)| n / (*b).max(1)).product();
        if count != self.scale.len() && x.numel() > 0 {
            let (n, g) = (self.scale.len(), self.granularity);
            return fail(format!("{n} scales for {count} parts of shape {shape:?} ({g:?})"));
        }
        let tensor = match self.range.dtype() {
            DType::I8 => self.quantize_to(x, &block, |v| low_bits(v) as i8),
            DType::U8 => self.quantize_to(x, &block, |v| low_bits(v) as u8),
            DType::I16 => self.quantize_to(x, &block, |v| low_bits(v) as i16),
            DType::U16 => self.quantize_to(x, &block, |v| low_bits(v) as u16),
            DType::I32 => self.quantize_to(x, &block, |v| v as i32),
            other => return fail(format!("{other} stores no quantized values")),
        };
        tensor.map_err(|e| QuantizeError(e.to_string()))
    }

    /// [`quantize`](Self::quantize) into one element type, which `store` makes of whole numbers.
    fn quantize_to<T: Element>(
        &self,
        x: &Tensor,
        block: &[usize],
        store: impl Fn(f32) -> T + Copy,
    ) -> Result<Tensor, TensorError> {
        // Per tensor the reciprocal is taken in f64 and rounded, otherwise in the type of scales.
        let inv: Vec<f32> = match self.granularity {
            Granularity::Tensor => self.scale.iter().map(|s| (1.0 / s) as f32).collect(),
            _ => round_to(self.types.scale, self.scale.iter().map(|s| 1.0 / *s as f32).collect()),
        };
        let blocks = matches!(self.granularity, Granularity::Blocks(_));
        let (lo, hi) = (self.range.min() as f32, self.range.max() as f32);
        let values = x.to_f32();
        // Half floats with scales of the same type are multiplied in it.
        let product = self.types.scale.filter(|&s| blocks && s == x.dtype());
        let narrow = self.range.dtype() != DType::I32;
        let mut ints = vec![T::zeroed(); x.numel()];
        runs(x.shape(), block, |b, run| {
            let (s, z) = (inv[b], self.zero_point[b] as f32);
            let whole = !blocks || z.fract() == 0.0;
            let held = move |x: f32, round: fn(f32) -> f32| {
                let at = if whole { round(x) + z } else { round(x + z) };
                store(at.clamp(lo, hi))
            };
            let (to, from) = (&mut ints[run.clone()], &values[run]);
            match product {
                Some(DType::F16) => {
                    each(to, from, |v| held(f16::from_f32(v * s).to_f32(), f32::round_ties_even))
                }
                Some(DType::BF16) => {
                    each(to, from, |v| held(bf16::from_f32(v * s).to_f32(), f32::round_ties_even))
                }
                _ if narrow => each(to, from, move |v| held(v * s, nearest)),
                _ => each(to, from, move |v| held(v * s, f32::round_ties_even)),
            }
        });
        Tensor::new(x.shape(), ints)
    }
}

/// `f` of every element: a loop for each `f`, so that compilers can make vectors of it.
fn each<T>(to: &mut [T], from: &[f32], f: impl Fn(f32) -> T) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*from));
}

/// Adding this to what is less than 2^22 leaves no bits for fractions; the whole number is in the low bits then. Additions are
/// vectors on every CPU, calls of `rintf` and conversions that saturate are not.
pub(in crate::quant) const NO_FRACTIONS: f32 = (3 << 22) as f32;

/// Rounds to a whole number, ties to even. Further than 2^22 from zero it is 2^22, beyond any range of 16 bits.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const REACH: f32 = (1 << 22) as f32;
    (x.clamp(-REACH, REACH) + NO_FRACTIONS) - NO_FRACTIONS
}

/// A whole number of at most 16 bits, in the low bits; NaN becomes 0, as by `as`.
#[inline(always)]
fn low_bits(x: f32) -> u32 {
    let x = if x.is_nan() { 0.0 } else { x };
    (x + NO_FRACTIONS).to_bits()
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
            let scheme = QScheme { granularity: Granularity::Tensor, mapping };
            let got = choose_qparams(min, max, range, scheme, 2f32.powi(-12));
            assert_eq!(got, (scale, f64::from(zero)), "{min} {max} {mapping:?}");
        }
    }

    #[test]
    fn rounding_is_to_even_and_clamped() {
        let p = QParams::per_tensor(QRange::INT8, 0.5, 1);
        let x = Tensor::new(&[5], vec![0.25f32, 0.75, -0.25, 1000.0, -1000.0]).unwrap();
        assert_eq!(p.quantize(&x).unwrap().as_slice::<i8>(), Some(&[1, 3, 1, 127, -128][..]));
    }

    #[test]
    fn rounding_by_additions_is_rounding() {
        let near = (-4000..4000).map(|i| i as f32 / 16.0);
        let far =
            [65534.5f32, 65535.5, 2_097_151.5, 4_194_303.5, 4_194_304.0].into_iter().flat_map(|x| [x, -x]);
        for x in near.chain(far) {
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
        }
        assert_eq!(nearest(f32::INFINITY), 4_194_304.0);
        assert!(nearest(f32::NAN).is_nan());
        for x in [-32768i32, -129, -1, 0, 1, 127, 200, 65535] {
            assert_eq!(low_bits(x as f32) as u16, x as u16);
        }
        assert_eq!(low_bits(f32::NAN) as u16, 0);
    }

    #[test]
    fn a_fractional_zero_point_fits_the_range() {
        use crate::quant::{Blocks, ObserverKind};
        // 1 to 2 in 256 steps: with a whole zero point in range, half of the integers would be lost.
        let x = Tensor::new(&[1, 4], vec![1.0f32, 1.2, 1.7, 2.0]).unwrap();
        let spec = QuantSpec::new(QRange::INT8, Mapping::AffineFloat, ObserverKind::MinMax);
        let p = spec.blocks(Blocks::Group(4)).qparams(&[(1.0, 2.0)]);
        let q = p.quantize(&x).unwrap();
        for (q, x) in q.to_f64().into_iter().zip(x.to_f64()) {
            assert!(((q - p.zero_point[0]) * p.scale[0] - x).abs() < 0.51 / 255.0, "{q} {x}");
        }
    }
}
