//! Half-quadratic quantization: scales, or zero points, that are searched for in the values of one constant.
//!
//! For symmetric mappings torchao's `_choose_qparams_and_quantize_scale_only_hqq`: scales by least squares, in turn with the
//! integers. For fractional zero points its `_choose_qparams_and_quantize_affine_hqq`: zero points by a proximal solver for an
//! error that outliers do not dominate. Sums are f64 here, and f32 in another order there.

use super::{Observer, ObserverError, ObserverState};
use crate::quant::{Mapping, QParams, QuantSpec, runs};
use ndarray::ArrayViewD;

/// Most rounds of both searches.
const ROUNDS: usize = 20;

#[derive(Debug)]
pub(super) struct Hqq {
    spec: QuantSpec,
    /// The constant, each part's values on their own.
    parts: Vec<Vec<f32>>,
    misfit: Option<String>,
}

impl Hqq {
    pub(super) fn new(spec: &QuantSpec) -> Self {
        Hqq { spec: spec.clone(), parts: vec![], misfit: None }
    }

    fn bounds(&self) -> (f32, f32) {
        (self.spec.range.min() as f32, self.spec.range.max() as f32)
    }

    /// `min ‖w − s·q‖²` for `q = clamp(round(w / s))`, each in turn. All parts stop together.
    fn scales(&self) -> Vec<f32> {
        let (min, max) = self.bounds();
        let most = min.abs().max(max.abs());
        let start = |part: &Vec<f32>| part.iter().fold(0f32, |m, w| m.max(w.abs())) / most;
        let mut scales: Vec<f32> = self.parts.iter().map(|p| start(p).max(f32::EPSILON)).collect();
        for _ in 0..ROUNDS {
            let mut moved = 0f32;
            for (part, scale) in self.parts.iter().zip(&mut scales) {
                let (mut num, mut den) = (0f64, 0f64);
                for w in part {
                    let q = (w / *scale).round_ties_even().clamp(min, max);
                    num += f64::from(w * q);
                    den += f64::from(q * q);
                }
                let before = *scale;
                if den > 0.0 {
                    *scale = (num as f32 / den as f32).max(f32::EPSILON);
                }
                moved = moved.max((*scale - before).abs() / before);
            }
            if moved < 1e-5 {
                break;
            }
        }
        scales
    }

    /// Steps per unit, and zero points among integers from 0 up.
    fn zero_points(&self) -> Vec<(f32, f32)> {
        let (min, max) = self.bounds();
        let top = max - min;
        let range = |part: &Vec<f32>| {
            part.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &w| (l.min(w), h.max(w)))
        };
        let first = |part: &Vec<f32>| {
            let (low, high) = range(part);
            let steps = (top / (high - low)).min(2e4);
            // Whole for 4 bits, as in AWQ.
            let zero = if top == 15.0 { (-low * steps).round_ties_even() } else { -low * steps };
            (steps, zero)
        };
        let mut found: Vec<(f32, f32)> = self.parts.iter().map(first).collect();
        let count = self.parts.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let (mut beta, mut least) = (10f64, 1e4f32);
        for _ in 0..ROUNDS {
            let mut error = 0f64;
            let threshold = (1.0 / beta) as f32;
            for (part, (steps, zero)) in self.parts.iter().zip(&mut found) {
                let mut sum = 0f64;
                for &w in part {
                    let q = (w * *steps + *zero).round_ties_even().clamp(0.0, top);
                    let off = w - (q - *zero) / *steps;
                    error += f64::from(off.abs());
                    // What the 0.7-norm lets through of the error.
                    let kept = (off.abs() - threshold * off.abs().powf(-0.3)).max(0.0);
                    let kept = if off == 0.0 { 0.0 } else { off.signum() * kept };
                    sum += f64::from(q - (w - kept) * *steps);
                }
                *zero = (sum / part.len().max(1) as f64) as f32;
            }
            beta *= 1.01;
            let error = (error / count) as f32;
            if error >= least {
                break;
            }
            least = error;
        }
        found
    }
}

impl Observer for Hqq {
    fn name(&self) -> &'static str {
        "hqq"
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        if !self.parts.is_empty() {
            self.misfit = Some("half-quadratic quantization is for one constant; observe values".into());
            return;
        }
        match self.spec.scheme.granularity.known_block_sizes(x.shape()) {
            Ok(block) => {
                let count = x.shape().iter().zip(&block).map(|(n, b)| n / (*b).max(1)).product();
                self.parts = vec![vec![]; count];
                let ordered = x.as_standard_layout();
                let values = ordered.as_slice().unwrap_or_default();
                runs(x.shape(), &block, |b, run| self.parts[b].extend(&values[run]));
            }
            Err(why) => self.misfit = Some(why),
        }
        if x.iter().any(|v| !v.is_finite()) {
            self.misfit = Some("it holds NaN or infinities".into());
        }
    }

    fn merge(&mut self, _: &ObserverState) -> Result<(), ObserverError> {
        Ok(())
    }

    /// Constants are looked at anew.
    fn state(&self) -> ObserverState {
        ObserverState { observer: self.name().into(), fields: Default::default() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        if let Some(why) = &self.misfit {
            return Err(ObserverError::Shape(why.clone()));
        }
        if self.parts.iter().all(Vec::is_empty) {
            return Err(ObserverError::SawNothing);
        }
        let (scale, zero): (Vec<f32>, Vec<f32>) = match self.spec.scheme.mapping {
            Mapping::AffineFloat => {
                let shifted = |(steps, zero): (f32, f32)| (1.0 / steps, zero + self.bounds().0);
                self.zero_points().into_iter().map(shifted).unzip()
            }
            _ => self.scales().into_iter().map(|s| (s, 0.0)).unzip(),
        };
        let params = QParams::new(
            self.spec.range,
            self.spec.scheme.granularity,
            scale.into_iter().map(f64::from).collect(),
            zero.into_iter().map(f64::from).collect(),
        );
        Ok(QParams { types: self.spec.types, ..params }.rounded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Blocks, ObserverKind, QRange, observer};
    use crate::tensor::Tensor;

    fn weight() -> Tensor {
        let values = (0..256).map(|i| ((i * 7919 % 251) as f32 / 125.0 - 1.0).powi(3)).collect();
        Tensor::new(&[8, 32], values).unwrap()
    }

    /// The error of a constant that is quantized with some parameters, in the square.
    fn error(x: &Tensor, params: &QParams) -> f64 {
        let q = params.quantize(x).unwrap().to_f64();
        let block = params.granularity.known_block_sizes(x.shape()).unwrap();
        let mut sum = 0.0;
        runs(x.shape(), &block, |b, run| {
            let (s, z) = (params.scale[b], params.zero_point[b]);
            sum += x.to_f64()[run.clone()]
                .iter()
                .zip(&q[run])
                .map(|(x, q)| (x - (q - z) * s).powi(2))
                .sum::<f64>();
        });
        sum
    }

    #[test]
    fn a_search_finds_better_parameters_than_extremes() {
        for mapping in [Mapping::Symmetric, Mapping::AffineFloat] {
            let found = |kind| {
                let spec = QuantSpec::new(QRange::INT4, mapping, kind).blocks(Blocks::Group(32)).eps(1e-30);
                let mut o = observer::create(&spec).unwrap();
                o.observe(weight().view::<f32>().unwrap());
                error(&weight(), &o.qparams().unwrap())
            };
            let (searched, plain) = (found(ObserverKind::Hqq), found(ObserverKind::MinMax));
            assert!(searched < plain, "{mapping:?}: {searched} {plain}");
        }
    }

    #[test]
    fn it_is_for_one_constant() {
        let spec = QuantSpec::new(QRange::INT4, Mapping::Symmetric, ObserverKind::Hqq).per_channel(0);
        let mut o = Hqq::new(&spec);
        assert_eq!(o.qparams(), Err(ObserverError::SawNothing));
        o.observe(weight().view::<f32>().unwrap());
        assert_eq!(o.qparams().unwrap().scale.len(), 8);
        o.observe(weight().view::<f32>().unwrap());
        assert!(matches!(o.qparams(), Err(ObserverError::Shape(_))));
    }
}
