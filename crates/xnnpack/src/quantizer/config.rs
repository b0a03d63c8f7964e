//! The configurations, and the recipes that name them.

use lowbit_core::backend::Recipe;
use lowbit_core::dtype::DType;
use lowbit_core::quant::{Blocks, Mapping, ObserverKind, QRange, QuantSpec};
use lowbit_core::quantizer::OpConfig;
use std::sync::Arc;

/// The recipe with lowbit's own placement ([`ROUNDING`](super::ROUNDING)).
pub const STATIC: &str = "int8-static";

/// The recipe without calibration.
pub const DYNAMIC: &str = "int8-dynamic-per-channel";

/// The recipe with 4-bit weights, a scale a channel.
pub const INT4_CHANNEL: &str = "int8-dynamic-int4-per-channel";

/// The recipe with 4-bit weights, a scale a group.
pub const INT4_GROUP: &str = "int8-dynamic-int4-per-group";

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
    Recipe {
        name: INT4_CHANNEL,
        help: "the same with 4-bit weights in linear layers and pointwise convolutions; 8 bits where 4 do not fit",
    },
    Recipe {
        name: INT4_GROUP,
        help: "the same with a scale for each group of 32 inputs (torchao's 8da4w); option group-size",
    },
];

/// What shares a scale in a weight.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The whole of it.
    Tensor,
    /// What makes one output channel.
    Channel,
    /// This many inputs of an output channel.
    Group(u32),
}

/// The parameters of `get_symmetric_quantization_config`: activations are affine, weights symmetric.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Symmetric {
    /// What shares a scale in a weight.
    pub scales: Scales,
    /// Activation ranges are taken while the program runs.
    pub dynamic: bool,
    /// The integers of activations.
    pub activation: QRange,
    /// The integers of weights; −8 to 7 is stored in 4 bits.
    pub weight: QRange,
    /// Layers whose weights do not fit get weights of 8 bits instead.
    pub otherwise: bool,
}

impl Default for Symmetric {
    fn default() -> Self {
        Symmetric {
            scales: Scales::Tensor,
            dynamic: false,
            activation: QRange::INT8,
            weight: QRange::INT8_SYM,
            otherwise: false,
        }
    }
}

/// The configuration of a recipe; groups are of 32.
pub fn recipe(name: &str) -> Option<Symmetric> {
    let base = Symmetric::default();
    let dynamic = Symmetric { scales: Scales::Channel, dynamic: true, ..base };
    let four_bits = Symmetric { weight: QRange::INT4, otherwise: true, ..dynamic };
    Some(match name {
        STATIC | "int8-static-per-channel" => Symmetric { scales: Scales::Channel, ..base },
        "int8-static-per-tensor" => base,
        DYNAMIC => dynamic,
        INT4_CHANNEL => four_bits,
        INT4_GROUP => Symmetric { scales: Scales::Group(32), ..four_bits },
        _ => return None,
    })
}

impl Symmetric {
    /// The specs: histograms for static activations, minimum and maximum for weights, least scale 2⁻¹². Weights with groups
    /// are torchao's, and so are the activations that go with them: a range for each row.
    pub fn config(&self) -> OpConfig {
        let observer =
            if self.dynamic { ObserverKind::Placeholder } else { ObserverKind::Histogram { bins: 2048 } };
        let plain = QuantSpec::new(self.activation, Mapping::Affine, observer.clone());
        let weight = QuantSpec::new(self.weight, Mapping::Symmetric, ObserverKind::MinMax);
        let (mut activation, weight) = match self.scales {
            Scales::Tensor => (plain, weight),
            Scales::Channel => (plain, weight.per_channel(0)),
            Scales::Group(size) => (
                QuantSpec::intx(self.activation, Mapping::Affine, observer, Blocks::Token),
                QuantSpec::intx(self.weight, Mapping::Symmetric, ObserverKind::MinMax, Blocks::Group(size)),
            ),
        };
        activation.dynamic = self.dynamic;
        let mut config = OpConfig::new(activation, weight);
        if self.dynamic {
            config.output_activation = None;
        }
        if self.otherwise {
            let (scales, weight) = (Scales::Channel, QRange::INT8_SYM);
            let eight_bits = Symmetric { scales, weight, otherwise: false, ..*self };
            config.otherwise = Some(Arc::new(eight_bits.config()));
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

/// Reads the size of a group: what XNNPACK takes, a multiple of 32 up to 256.
///
/// # Errors
/// A sentence saying what would be right.
pub fn group_size(text: &str) -> Result<u32, String> {
    let fits = |g: &u32| (32..=256).contains(g) && g.is_multiple_of(32);
    let bad = || format!("{text:?} is no size of a group: XNNPACK takes multiples of 32, from 32 to 256");
    text.trim().parse().ok().filter(fits).ok_or_else(bad)
}
