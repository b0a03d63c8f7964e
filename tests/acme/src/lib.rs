//! Quantizer and lowering for the Acme NPU: linear layers and sums in 8-bit integers, with or without relu.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod blob;
pub mod interpreter;
mod lowering;

use lowbit_core::backend::{Backend, BackendError, Lowering, Options, Recipe};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::{Pipeline, Recompose};
use lowbit_core::quant::{Annotations, Mapping, ObserverKind, QRange, QuantSpec};
use lowbit_core::quantizer::{Match, OpConfig, Quantizer, Rule, RuleQuantizer};

/// The backend.
#[derive(Copy, Clone, Debug)]
pub struct Acme;

lowbit_core::register_backend!(Acme);

static RECIPES: &[Recipe] = &[
    Recipe { name: "int8", help: "8-bit activations from calibration; 8-bit weights, one scale a channel" },
    Recipe { name: "int8-per-tensor", help: "the same with one scale a weight" },
];

static LINEAR: &[&OpDef] = &[&ops::LINEAR];
static ADD: &[&OpDef] = &[&ops::ADD];
static RELU: &[&OpDef] = &[&ops::RELU];

/// The first rule that takes a node wins, so the longer chain comes first.
static RULES: &[Rule] = &[
    Rule { name: "linear_relu", chain: &[LINEAR, RELU], dynamic: false, annotate: linear },
    Rule { name: "linear", chain: &[LINEAR], dynamic: false, annotate: linear },
    Rule { name: "add_relu", chain: &[ADD, RELU], dynamic: false, annotate: add },
    Rule { name: "add", chain: &[ADD], dynamic: false, annotate: add },
];

fn linear(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Result<(), String> {
    for (site, spec) in [(m.arg(0), &how.input_activation), (m.arg(1), &how.weight)] {
        if let Some(site) = site {
            out.set(site, spec.clone());
        }
    }
    out.set(m.output(), how.output_activation.clone());
    Ok(())
}

fn add(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Result<(), String> {
    lowering::plain_sum(m.program, m.first())?;
    for i in 0..2 {
        if let Some(site) = m.arg(i) {
            out.set(site, how.input_activation.clone());
        }
    }
    out.set(m.output(), how.output_activation.clone());
    Ok(())
}

impl Backend for Acme {
    fn name(&self) -> &'static str {
        "acme"
    }

    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    fn recipes(&self) -> &'static [Recipe] {
        RECIPES
    }

    fn quantizer(&self, recipe: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
        no_options(options)?;
        let weight = QuantSpec::new(QRange::INT8_SYM, Mapping::Symmetric, ObserverKind::MinMax);
        let weight = match recipe {
            "int8" => weight.per_channel(0),
            "int8-per-tensor" => weight,
            _ => {
                return Err(BackendError::UnknownRecipe {
                    backend: self.name(),
                    recipe: recipe.into(),
                    known: RECIPES.iter().map(|r| r.name).collect(),
                });
            }
        };
        let activation =
            QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::Histogram { bins: 2048 });
        let rules = RuleQuantizer::new(RULES, OpConfig::new(activation, weight));
        // Programs saved after `run_decompositions()` get their linear layers back.
        Ok(Box::new(rules.prepare(|| Pipeline::default().then(Recompose))))
    }

    fn lowering(&self, options: &Options) -> Result<Box<dyn Lowering>, BackendError> {
        no_options(options)?;
        Ok(Box::new(lowering::AcmeLowering))
    }
}

fn no_options(options: &Options) -> Result<(), BackendError> {
    match options.keys().next() {
        None => Ok(()),
        Some(option) => Err(BackendError::BadOption {
            backend: Acme.name(),
            option: option.clone(),
            reason: "the Acme NPU has no options".into(),
        }),
    }
}
