//! The observers that come with lowbit. All arithmetic is torchao's, in f32.

mod histogram;
mod hqq;
mod min_max;
mod placeholder;
mod recording;

use super::spec::{Observer, ObserverError, ObserverKind, ObserverState, QuantSpec};
use super::{Granularity, Mapping, QuantizeError};
use ndarray::ArrayViewD;

/// The observer that a spec asks for.
///
/// # Errors
/// When the kind of observer cannot do the spec's granularity.
pub fn create(spec: &QuantSpec) -> Result<Box<dyn Observer>, QuantizeError> {
    match &spec.observer {
        _ if spec.dynamic => Ok(Box::new(placeholder::Placeholder)),
        ObserverKind::Placeholder => Ok(Box::new(placeholder::Placeholder)),
        ObserverKind::Hqq => match spec.scheme.mapping {
            Mapping::AffineFloat => Ok(Box::new(hqq::Hqq::new(spec))),
            Mapping::Symmetric if spec.range.min() < 0 => Ok(Box::new(hqq::Hqq::new(spec))),
            _ => Err(QuantizeError(
                "half-quadratic quantization is for symmetric signed integers, or fractional zero points"
                    .into(),
            )),
        },
        ObserverKind::Recording => Ok(Box::new(recording::Recording::default())),
        ObserverKind::Custom(factory) => Ok(factory.create(spec)),
        ObserverKind::MinMax => Ok(Box::new(min_max::MinMax::new(spec, None))),
        ObserverKind::MovingAverage { constant } => {
            Ok(Box::new(min_max::MinMax::new(spec, Some(*constant as f32))))
        }
        ObserverKind::Histogram { bins } => match spec.scheme.granularity {
            Granularity::Tensor if *bins > 0 => Ok(Box::new(histogram::Histogram::new(spec, *bins as usize))),
            Granularity::Tensor => Err(QuantizeError("a histogram needs at least one bin".into())),
            _ => Err(QuantizeError(
                "histograms observe whole tensors; use min-max for channels and blocks".into(),
            )),
        },
    }
}

/// The elements in memory order when they lie without gaps (any layout does), else a copy.
fn elements<'a>(x: &'a ArrayViewD<'_, f32>) -> std::borrow::Cow<'a, [f32]> {
    match x.as_slice_memory_order() {
        Some(s) => s.into(),
        None => x.iter().copied().collect::<Vec<_>>().into(),
    }
}

/// Least and greatest finite element; `None` when there is none.
fn finite_range(x: &[f32]) -> Option<(f32, f32)> {
    const LANES: usize = 32;
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    // Comparisons with NaN are false, so NaN never enters.
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
        }
    }
    let min = lo.iter().chain(rest).copied().filter(|v| !v.is_nan()).fold(f32::INFINITY, f32::min);
    let max = hi.iter().chain(rest).copied().filter(|v| !v.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    if min.is_finite() && max.is_finite() {
        return Some((min, max));
    }
    let finite = || x.iter().copied().filter(|v| v.is_finite());
    let range = (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
    range.0.is_finite().then_some(range)
}

/// A state's field, or an error that names it.
fn field<'a>(state: &'a ObserverState, want: &str, name: &str) -> Result<&'a [f32], ObserverError> {
    let fail = |reason: &str| {
        Err(ObserverError::Merge { want: want.into(), got: state.observer.clone(), reason: reason.into() })
    };
    if state.observer != want {
        return fail("the kinds differ");
    }
    match state.fields.get(name) {
        Some(v) => Ok(v),
        None => fail(&format!("field {name:?} is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_skip_what_is_not_finite() {
        let mut x = vec![0.5f32; 100];
        (x[3], x[50], x[99]) = (f32::NAN, -2.0, 7.0);
        assert_eq!(finite_range(&x), Some((-2.0, 7.0)));
        x[60] = f32::INFINITY;
        assert_eq!(finite_range(&x), Some((-2.0, 7.0)));
        assert_eq!(finite_range(&[f32::NAN]), None);
        assert_eq!(finite_range(&[]), None);
    }
}
