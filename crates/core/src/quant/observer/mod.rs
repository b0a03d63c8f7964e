//! The observers that come with lowbit. All arithmetic is torchao's, in f32.

mod histogram;
mod hqq;
mod min_max;
mod placeholder;
mod recording;
mod scan;

pub use scan::{Batch, Bins, Bounded, Extremes, Plain, Scan, extremes};

use super::spec::{Observer, ObserverError, ObserverKind, ObserverState, QuantSpec};
use super::{Granularity, Mapping, QuantizeError};
use scan::elements;

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
            Granularity::Tensor if (1..=Bins::MOST).contains(&(*bins as usize)) => {
                Ok(Box::new(histogram::Histogram::new(spec, *bins as usize)))
            }
            Granularity::Tensor => {
                Err(QuantizeError(format!("a histogram of {bins} bins; it takes 1 to {}", Bins::MOST)))
            }
            _ => Err(QuantizeError(
                "histograms observe whole tensors; use min-max for channels and blocks".into(),
            )),
        },
    }
}

/// Least and greatest finite element; `None` when there is none.
fn finite_range(x: &[f32]) -> Option<(f32, f32)> {
    extremes(x).range
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
