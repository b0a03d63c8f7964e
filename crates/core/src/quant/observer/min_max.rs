//! Minimum and maximum, running or averaged, of the tensor or of each channel or block.

use super::{Batch, Observer, ObserverError, ObserverState, Plain, elements, field, finite_range};
use crate::quant::{Granularity, QParams, QuantSpec, runs};
use ndarray::{ArrayViewD, Axis};

type Ranges = Vec<(f32, f32)>;

/// The range of what has no finite element: it changes no extreme.
const NOTHING: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);

#[derive(Debug)]
pub(super) struct MinMax {
    spec: QuantSpec,
    /// Weight of the newest batch; `None`: the running extremes.
    average: Option<f32>,
    /// One range, or one a channel or block; empty before the first batch.
    ranges: Ranges,
    /// The first batch that did not fit.
    misfit: Option<String>,
}

impl MinMax {
    pub(super) fn new(spec: &QuantSpec, average: Option<f32>) -> Self {
        MinMax { spec: spec.clone(), average, ranges: vec![], misfit: None }
    }

    fn update(&mut self, new: Ranges) -> Result<(), String> {
        if self.ranges.is_empty() {
            self.ranges = new;
            return Ok(());
        }
        if self.ranges.len() != new.len() {
            let (was, is) = (self.ranges.len(), new.len());
            return Err(format!("it saw values of {was} parts with a scale each, then of {is}"));
        }
        for ((lo, hi), (l, h)) in self.ranges.iter_mut().zip(new) {
            match self.average {
                // What was not seen before, or is not seen now, has no part in the average.
                Some(c) if *lo <= *hi && l <= h => {
                    *lo += c * (l - *lo);
                    *hi += c * (h - *hi);
                }
                _ => (*lo, *hi) = (lo.min(l), hi.max(h)),
            }
        }
        Ok(())
    }

    /// The range of each part of one batch.
    fn ranges_of(&self, batch: &Batch<'_>) -> Result<Ranges, String> {
        let x = batch.view();
        let granularity = self.spec.scheme.granularity;
        if granularity == Granularity::Tensor {
            return Ok(batch.extremes().range.into_iter().collect());
        }
        if x.is_empty() {
            return Ok(vec![]);
        }
        let block = granularity.known_block_sizes(x.shape())?;
        if let Granularity::Channel { axis } = granularity {
            let channels = x.axis_iter(Axis(axis as usize));
            return Ok(channels.map(|c| finite_range(&elements(&c)).unwrap_or(NOTHING)).collect());
        }
        let count = x.shape().iter().zip(&block).map(|(n, b)| n / b).product();
        let mut ranges = vec![NOTHING; count];
        let ordered = x.as_standard_layout();
        let values = ordered.as_slice().unwrap_or_default();
        runs(x.shape(), &block, |b, run| {
            let (lo, hi) = finite_range(&values[run]).unwrap_or(NOTHING);
            ranges[b] = (ranges[b].0.min(lo), ranges[b].1.max(hi));
        });
        Ok(ranges)
    }
}

impl Observer for MinMax {
    fn name(&self) -> &'static str {
        match (self.average, self.spec.scheme.granularity) {
            (None, Granularity::Tensor) => "min_max",
            (None, Granularity::Channel { .. }) => "per_channel_min_max",
            (None, Granularity::Blocks(_)) => "affine_min_max",
            (Some(_), Granularity::Tensor) => "moving_average_min_max",
            (Some(_), Granularity::Channel { .. }) => "moving_average_per_channel_min_max",
            (Some(_), Granularity::Blocks(_)) => "affine_moving_average_min_max",
        }
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        self.look(&Batch::new(x, &Plain));
    }

    fn needs_elements(&self) -> bool {
        self.spec.scheme.granularity != Granularity::Tensor
    }

    fn look(&mut self, batch: &Batch<'_>) {
        let seen =
            self.ranges_of(batch).and_then(|new| if new.is_empty() { Ok(()) } else { self.update(new) });
        if let Err(why) = seen {
            self.misfit.get_or_insert(why);
        }
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        let (min, max) = (field(later, self.name(), "min")?, field(later, self.name(), "max")?);
        if !min.is_empty() {
            let later = min.iter().copied().zip(max.iter().copied()).collect();
            self.update(later).map_err(ObserverError::Shape)?;
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
        if let Some(why) = &self.misfit {
            return Err(ObserverError::Shape(why.clone()));
        }
        let valid = |&(lo, hi): &(f32, f32)| lo <= hi;
        if self.ranges.is_empty() || !self.ranges.iter().any(valid) {
            return Err(ObserverError::SawNothing);
        }
        // Parts that saw nothing finite get the smallest scale.
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

    #[test]
    fn blocks_have_ranges_of_their_own() {
        use crate::quant::Blocks;
        let spec =
            QuantSpec::new(QRange::INT4, Mapping::Symmetric, ObserverKind::MinMax).blocks(Blocks::Group(2));
        let mut o = MinMax::new(&spec, None);
        let x = ArrayD::from_shape_vec(IxDyn(&[2, 4]), vec![1.0, -2.0, 3.0, 0.5, 7.5, 0.0, f32::NAN, 1.5])
            .unwrap();
        o.observe(x.view());
        assert_eq!(o.ranges, [(-2.0, 1.0), (0.5, 3.0), (0.0, 7.5), (1.5, 1.5)]);
        // The same, whatever the memory order.
        let turned = ArrayD::from_shape_vec(IxDyn(&[4, 2]), x.t().iter().copied().collect()).unwrap();
        o.ranges.clear();
        o.observe(turned.t());
        assert_eq!(o.ranges, [(-2.0, 1.0), (0.5, 3.0), (0.0, 7.5), (1.5, 1.5)]);
        assert_eq!(o.qparams().unwrap().scale, [2.0f32 / 7.5, 3.0 / 7.5, 1.0, 1.5 / 7.5].map(f64::from));
        o.observe(ArrayD::zeros(IxDyn(&[1, 4])).view());
        assert!(
            matches!(o.qparams(), Err(ObserverError::Shape(_))),
            "rows of one batch cannot stand for another"
        );
    }
}
