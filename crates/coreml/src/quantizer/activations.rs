//! [`Static`]: the configuration of `int8-static`, with the choices of coremltools' `ModuleLinearQuantizerConfig`.

use lowbit_core::quant::{Mapping, ObserverKind, QRange, QuantSpec};
use lowbit_core::quantizer::OpConfig;

/// How activations and the weights that go with them are quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Static {
    /// Symmetric or affine, for activations and weights.
    pub mapping: Mapping,
    /// The integers of weights; `None` leaves everything in floating point, as coremltools does.
    pub weight: Option<QRange>,
    /// Whether each output channel of a weight has a scale of its own.
    pub per_channel: bool,
    /// Whether activations are quantized, or weights alone.
    pub activations: bool,
    /// What finds the ranges.
    pub observer: ObserverKind,
}

impl Default for Static {
    /// What ExecuTorch's quantizer does when told nothing.
    fn default() -> Self {
        Static {
            mapping: Mapping::Symmetric,
            weight: Some(QRange::INT8),
            per_channel: true,
            activations: true,
            observer: AVERAGE,
        }
    }
}

/// The range with the least squared error.
pub(super) const HISTOGRAM: ObserverKind = ObserverKind::Histogram { bins: 2048 };

/// The average of extremes over batches, as PyTorch takes it.
pub(super) const AVERAGE: ObserverKind = ObserverKind::MovingAverage { constant: 0.01 };

impl Static {
    /// The specs.
    pub fn config(&self) -> OpConfig {
        let Some(range) = self.weight else { return OpConfig::float() };
        let spec =
            |range, observer: &ObserverKind| QuantSpec::new(range, self.mapping, observer.clone()).eps(LEAST);
        // All of a weight counts.
        let of_weights = if self.observer == HISTOGRAM { &ObserverKind::MinMax } else { &self.observer };
        let weight = spec(range, of_weights);
        let weight = if self.per_channel { weight.per_channel(0) } else { weight };
        let config = OpConfig::new(spec(QRange::UINT8, &self.observer), weight);
        match self.activations {
            true => config,
            false => OpConfig { input_activation: None, output_activation: None, ..config },
        }
    }
}

/// The least scale of PyTorch's observers.
const LEAST: f64 = f32::EPSILON as f64;
