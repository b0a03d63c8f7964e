//! Minimum and maximum, running or averaged, of the tensor or of each channel.

use super::{Observer, ObserverError, ObserverState, elements, field, finite_range};
use crate::quant::{Granularity, QParams, QuantSpec};
use ndarray::{ArrayViewD, Axis};

#[derive(Debug)]
pub(super) struct MinMax {
    spec: QuantSpec,
    /// Weight of the newest batch; `None`: the running extremes.
    average: Option<f32>,
    /// One range, or one a channel; empty before the first batch.
    ranges: Vec<(f32, f32)>,
}

impl MinMax {
    pub(super) fn new(spec: &QuantSpec, average: Option<f32>) -> Self {
        MinMax { spec: spec.clone(), average, ranges: vec![] }
    }

    fn update(&mut self, new: Vec<(f32, f32)>) {
        if self.ranges.len() != new.len() {
            self.ranges = new;
            return;
        }
        for ((lo, hi), (l, h)) in self.ranges.iter_mut().zip(new) {
            match self.average {
                None => (*lo, *hi) = (lo.min(l), hi.max(h)),
                Some(c) => {
                    *lo += c * (l - *lo);
                    *hi += c * (h - *hi);
                }
            }
        }
    }
}

impl Observer for MinMax {
    fn name(&self) -> &'static str {
        match (self.average, self.spec.scheme.granularity) {
            (None, Granularity::Tensor) => "min_max",
            (None, _) => "per_channel_min_max",
            (Some(_), Granularity::Tensor) => "moving_average_min_max",
            (Some(_), _) => "moving_average_per_channel_min_max",
        }
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        let new = match self.spec.scheme.granularity {
            Granularity::Channel { axis } if (axis as usize) < x.ndim() => x
                .axis_iter(Axis(axis as usize))
                // A channel without finite elements keeps its range: (∞, −∞) changes no extreme.
                .map(|c| finite_range(&elements(&c.view())).unwrap_or((f32::INFINITY, f32::NEG_INFINITY)))
                .collect(),
            _ => finite_range(&elements(&x)).into_iter().collect::<Vec<_>>(),
        };
        if !new.is_empty() && !x.is_empty() {
            self.update(new);
        }
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        let (min, max) = (field(later, self.name(), "min")?, field(later, self.name(), "max")?);
        if !min.is_empty() {
            self.update(min.iter().copied().zip(max.iter().copied()).collect());
        }
        Ok(())
    }

    fn state(&self) -> ObserverState {
        let (min, max) = self.ranges.iter().copied().unzip();
        ObserverState {
            observer: self.name().into(),
            fields: [("min".to_string(), min), ("max".to_string(), max)].into(),
        }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        let valid = |&(lo, hi): &(f32, f32)| lo <= hi;
        if self.ranges.is_empty() || !self.ranges.iter().any(valid) {
            return Err(ObserverError::SawNothing);
        }
        // Channels that saw nothing finite get the smallest scale.
        let ranges: Vec<_> = self.ranges.iter().map(|r| if valid(r) { *r } else { (0.0, 0.0) }).collect();
        Ok(self.spec.qparams(&ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Mapping, ObserverKind, QRange};
    use ndarray::{ArrayD, IxDyn};

    fn view(x: &ArrayD<f32>) -> ArrayViewD<'_, f32> {
        x.view()
    }

    #[test]
    fn averages_start_with_the_first_batch() {
        let spec =
            QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::MovingAverage { constant: 0.5 });
        let mut o = MinMax::new(&spec, Some(0.5));
        o.observe(view(&ArrayD::from_shape_vec(IxDyn(&[2]), vec![-1.0, 1.0]).unwrap()));
        o.observe(view(&ArrayD::from_shape_vec(IxDyn(&[2]), vec![-3.0, 2.0]).unwrap()));
        assert_eq!(o.ranges, [(-2.0, 1.5)]);
    }

    #[test]
    fn channels_and_merging() {
        let spec = QuantSpec::new(QRange::INT8_SYM, Mapping::Symmetric, ObserverKind::MinMax).per_channel(1);
        let mut a = MinMax::new(&spec, None);
        let mut b = MinMax::new(&spec, None);
        a.observe(view(&ArrayD::from_shape_vec(IxDyn(&[2, 2]), vec![1.0, -2.0, 3.0, 4.0]).unwrap()));
        b.observe(view(&ArrayD::from_shape_vec(IxDyn(&[1, 2]), vec![-5.0, 0.0]).unwrap()));
        a.merge(&b.state()).unwrap();
        assert_eq!(a.ranges, [(-5.0, 3.0), (-2.0, 4.0)]);
        let q = a.qparams().unwrap();
        assert_eq!(q.scale, [f64::from(5.0f32 / 127.0), f64::from(4.0f32 / 127.0)]);
        assert!(matches!(MinMax::new(&spec, None).qparams(), Err(ObserverError::SawNothing)));
    }
}
