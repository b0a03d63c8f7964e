//! The quantizer: which tensors XNNPACK takes as integers, and how.

mod config;
mod rules;

pub use config::{RECIPES, Symmetric, range, recipe};
pub use rules::{RULES, SHARES};

use lowbit_core::passes::{Pipeline, Recompose, ScalarsToTensors};
use lowbit_core::quant::Granularity;
use lowbit_core::quantizer::RuleQuantizer;

/// A quantizer with XNNPACK's rules and nothing configured yet.
pub fn quantizer() -> RuleQuantizer {
    RuleQuantizer::unset(RULES)
        .shares(SHARES)
        .prepare(|| Pipeline::default().then(Recompose).then(ScalarsToTensors))
        // Programs say per tensor, the runtime computes a scale a row.
        .dynamic_granularity(Granularity::Token)
}
