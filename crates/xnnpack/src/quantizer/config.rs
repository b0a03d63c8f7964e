//! The symmetric configurations, and the recipes that name them.

use lowbit_core::backend::Recipe;
use lowbit_core::dtype::DType;
use lowbit_core::quant::{Mapping, ObserverKind, QRange, QuantSpec};
use lowbit_core::quantizer::OpConfig;

/// The recipe with lowbit's own placement ([`ROUNDING`](super::ROUNDING)).
pub const STATIC: &str = "int8-static";

/// The recipe without calibration.
pub const DYNAMIC: &str = "int8-dynamic-per-channel";

/// What there is, the default first.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: STATIC,
        help: "8-bit activations with ranges from calibration, where XNNPACK rounds; 8-bit weights, one scale a \
               channel; what 8 bits cannot hold stays in floating point",
    },
    Recipe { name: "int8-static-per-channel", help: "the same at the places of ExecuTorch's quantizer" },
    Recipe { name: "int8-static-per-tensor", help: "the same with one scale a weight tensor" },
    Recipe {
        name: DYNAMIC,
        help: "8-bit activations with ranges taken while running, no calibration; 8-bit weights, one scale a channel",
    },
];

/// The parameters of `get_symmetric_quantization_config`: activations are affine, weights symmetric.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Symmetric {
    /// A scale for each output channel of a weight, or one for all.
    pub per_channel: bool,
    /// Activation ranges are taken while the program runs.
    pub dynamic: bool,
    /// The integers of activations.
    pub activation: QRange,
    /// The integers of weights; −8 to 7 is stored in 4 bits.
    pub weight: QRange,
}

impl Default for Symmetric {
    fn default() -> Self {
        Symmetric { per_channel: false, dynamic: false, activation: QRange::INT8, weight: QRange::INT8_SYM }
    }
}

/// The configuration of a recipe.
pub fn recipe(name: &str) -> Option<Symmetric> {
    let base = Symmetric::default();
    Some(match name {
        STATIC | "int8-static-per-channel" => Symmetric { per_channel: true, ..base },
        "int8-static-per-tensor" => base,
        DYNAMIC => Symmetric { per_channel: true, dynamic: true, ..base },
        _ => return None,
    })
}

impl Symmetric {
    /// The specs: histograms for static activations, minimum and maximum for weights, least scale 2⁻¹².
    pub fn config(&self) -> OpConfig {
        let observer =
            if self.dynamic { ObserverKind::Placeholder } else { ObserverKind::Histogram { bins: 2048 } };
        let mut activation = QuantSpec::new(self.activation, Mapping::Affine, observer);
        activation.dynamic = self.dynamic;
        let weight = QuantSpec::new(self.weight, Mapping::Symmetric, ObserverKind::MinMax);
        let weight = if self.per_channel { weight.per_channel(0) } else { weight };
        let mut config = OpConfig::new(activation, weight);
        if self.dynamic {
            config.output_activation = None;
        }
        config
    }
}

/// Reads `-128..127` as a range of int8.
///
/// # Errors
/// A sentence saying what would be right.
pub fn range(text: &str) -> Result<QRange, String> {
    let parts =
        text.split_once("..").and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    let Some((min, max)) = parts else { return Err(format!("{text:?} is no range such as -127..127")) };
    QRange::new(DType::I8, min, max).map_err(|e| e.to_string())
}
