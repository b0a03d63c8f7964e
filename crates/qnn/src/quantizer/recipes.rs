//! The recipes, and what each demands of the chip.

use super::blocks::SMALL_BLOCKS;
use crate::soc::{self, Arch, Soc};
use lowbit_core::backend::Recipe;
use lowbit_core::dtype::DType;
use lowbit_core::quant::{Blocks, Mapping, ObserverKind, QRange, QuantSpec};
use lowbit_core::quantizer::OpConfig;
use std::sync::Arc;

/// What there is, the default first. `16a4w`: activations of 16 bits, weights of 4.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "8a8w",
        help: "8-bit activations with ranges from calibration; 8-bit weights, one scale a channel",
    },
    Recipe { name: "8a4w", help: "the same with 4-bit weights" },
    Recipe { name: "16a8w", help: "16-bit activations, 8-bit weights" },
    Recipe { name: "16a4w", help: "16-bit activations, 4-bit weights" },
    Recipe {
        name: "16a4w-block",
        help: "the same with a scale for each block of 32 input channels, in linear layers and 1x1 convolutions (from V69 on); option block-size",
    },
    Recipe { name: "16a2w", help: "16-bit activations, 2-bit weights" },
    Recipe { name: "16a16w", help: "16-bit activations and weights (from V73 on)" },
];

/// What shares a scale in a weight.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The whole of it.
    Tensor,
    /// What makes one output channel.
    Channel,
    /// This many inputs of an output channel.
    Block(u32),
}

/// What a recipe means.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// Bits of activations: 8 or 16.
    pub activation: u8,
    /// Bits of weights: 2, 4, 8 or 16.
    pub weight: u8,
    /// What shares a scale in a weight.
    pub scales: Scales,
    /// What finds the ranges of activations; `None`: the bits' usual one.
    pub observer: Option<ObserverKind>,
    /// Whether activations lie symmetrically around zero.
    pub symmetric: bool,
}

/// The configuration of a recipe; blocks are of 32.
pub fn recipe(name: &str) -> Option<Scheme> {
    RECIPES.iter().find(|r| r.name == name)?;
    let (widths, blocks) = match name.strip_suffix("-block") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let (a, w) = widths.strip_suffix('w')?.split_once('a')?;
    let scales = if blocks { Scales::Block(32) } else { Scales::Channel };
    Some(Scheme {
        activation: a.parse().ok()?,
        weight: w.parse().ok()?,
        scales,
        observer: None,
        symmetric: false,
    })
}

/// The least scale: a ten-thousandth of the range that the integers of a tensor may span, as ExecuTorch's quantizer has it.
pub fn least_scale(range: QRange) -> f64 {
    0.0001 / (range.max() - range.min()) as f64
}

/// The usual observer of 8-bit activations: the range with the least squared error.
const HISTOGRAM: ObserverKind = ObserverKind::Histogram { bins: 2048 };

impl Scheme {
    /// The integers of weights, symmetric around zero but for 2 bits.
    fn weights(&self) -> Option<QRange> {
        match self.weight {
            2 => Some(QRange::INT2),
            4 => QRange::new(DType::I8, -7, 7).ok(),
            8 => Some(QRange::INT8_SYM),
            16 => QRange::new(DType::I16, -32767, 32767).ok(),
            _ => None,
        }
    }

    /// The specs.
    pub fn config(&self) -> OpConfig {
        let range = if self.activation == 8 { QRange::UINT8 } else { QRange::UINT16 };
        let usual = if self.activation == 8 { HISTOGRAM } else { ObserverKind::MinMax };
        let mapping = if self.symmetric { Mapping::Symmetric } else { Mapping::Affine };
        let observer = self.observer.clone().unwrap_or(usual);
        let activation = QuantSpec::new(range, mapping, observer).eps(least_scale(range));
        let Some(range) = self.weights() else { return OpConfig::float() };
        // 16-bit scales are the least of those that any channel may have.
        let weight =
            QuantSpec::new(range, Mapping::Symmetric, ObserverKind::MinMax).eps(least_scale(QRange::UINT16));
        match self.scales {
            Scales::Tensor => OpConfig::new(activation, weight),
            Scales::Channel => OpConfig::new(activation, weight.per_channel(0)),
            Scales::Block(size) => {
                let blocks =
                    QuantSpec { observer: SMALL_BLOCKS.kind(), ..weight.blocks(Blocks::Group(size)) };
                let channels = Scheme { scales: Scales::Channel, ..self.clone() };
                OpConfig { otherwise: Some(Arc::new(channels.config())), ..OpConfig::new(activation, blocks) }
            }
        }
    }
}

/// Refuses what a chip has no operators for.
///
/// # Errors
/// What it lacks, the chip that has it, and what else would do.
pub fn fits(scheme: &Scheme, soc: &Soc) -> Result<(), String> {
    let need = |least: Arch, what: &str, instead: &str| match soc.arch < least {
        true => {
            let other = soc::first_with(least);
            Err(format!("{soc} ({}) has no {what}; say soc={other} ({}) or {instead}", soc.arch, other.arch))
        }
        false => Ok(()),
    };
    if scheme.activation == 16 && scheme.weight == 16 {
        need(soc::WIDE_WEIGHTS, "16-bit weights with 16-bit activations", "take recipe 16a8w")?;
    }
    if matches!(scheme.scales, Scales::Block(_)) {
        need(soc::BLOCK_WEIGHTS, "scales by blocks of weights", "take recipe 16a4w")?;
    }
    if scheme.weight == 2 && scheme.scales == Scales::Tensor {
        return Err(
            "HTP has 2-bit weights with a scale a channel only; leave weight-granularity=per-channel".into(),
        );
    }
    Ok(())
}

/// Why there is no such recipe, where that needs more words than a list of what there is.
pub fn never(name: &str) -> Option<&'static str> {
    Some(match name {
        "fp16a8w" => {
            "Qualcomm's library refuses 8-bit weights with half-float activations; take 16a8w, or leave the program in floating point and say float=half"
        }
        _ if name.contains("dynamic") => "HTP cannot choose ranges while running; take 8a8w or 16a8w",
        _ if name.starts_with("int8") => "take 8a8w, which is what it means here",
        _ => return None,
    })
}
