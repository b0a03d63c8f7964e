//! The recipes, and what each demands of the deployment target.

use super::activations::{HISTOGRAM, Static};
use super::weights::{Compression, Form, Scales};
use crate::Target;
use lowbit_core::backend::Recipe;
use lowbit_core::quant::Mapping;

/// The recipe with quantized activations.
pub const STATIC: &str = "int8-static";

/// What there is, the default first.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: STATIC,
        help: "8-bit activations with ranges from calibration, at the places of ExecuTorch's quantizer; 8-bit weights, \
               one scale a channel",
    },
    Recipe { name: "int8-weight-only", help: "8-bit weights, one scale a channel; no calibration" },
    Recipe {
        name: "int8-weight-only-per-group",
        help: "the same with a scale for each group of 32 input channels; options group-size, block-size",
    },
    Recipe { name: "int4-weight-only-per-channel", help: "4-bit weights, one scale a channel" },
    Recipe {
        name: "int4-weight-only-per-group",
        help: "the same with a scale for each group of 32 input channels; 8 bits where groups do not fit",
    },
    Recipe { name: "lut1", help: "weights as 1-bit indices into a table of 2 values (palettization)" },
    Recipe { name: "lut2", help: "the same with 2 bits, 4 values" },
    Recipe { name: "lut3", help: "the same with 3 bits, 8 values" },
    Recipe { name: "lut4", help: "the same with 4 bits, 16 values; option lut-granularity" },
    Recipe { name: "lut6", help: "the same with 6 bits, 64 values" },
    Recipe { name: "lut8", help: "the same with 8 bits, 256 values" },
];

/// Elements of a weight up to which compressing it is not worth while, as in coremltools.
pub const THRESHOLD: usize = 2048;

/// What a recipe means.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// Activations and weights.
    Static(Static),
    /// Weights alone.
    Weights(Compression),
}

/// The configuration of a recipe; groups are of 32.
pub fn recipe(name: &str) -> Option<How> {
    let weights = |form| How::Weights(Compression { form, threshold: THRESHOLD });
    let integers = |bits, scales| weights(Form::Integers { bits, mapping: Mapping::Symmetric, scales });
    let groups = Scales::Blocks { output: 1, input: 32 };
    Some(match name {
        // ExecuTorch's average of extremes moves by a hundredth a batch: with tens of samples it cuts ranges short.
        STATIC => How::Static(Static { observer: HISTOGRAM, ..Static::default() }),
        "int8-weight-only" => integers(8, Scales::Channel),
        "int8-weight-only-per-group" => integers(8, groups),
        "int4-weight-only-per-channel" => integers(4, Scales::Channel),
        "int4-weight-only-per-group" => integers(4, groups),
        _ => {
            let bits = name.strip_prefix("lut")?.parse().ok()?;
            RECIPES.iter().find(|r| r.name == name)?;
            weights(Form::Table { bits, channels: None })
        }
    })
}

/// Why there is no such recipe, where that needs more words than a list of what there is.
pub fn never(name: &str) -> Option<&'static str> {
    Some(match name {
        "lut5" | "lut7" => {
            "Core ML has look-up tables of 1, 2, 3, 4, 6 and 8 bits at any target; take lut4, lut6 or lut8"
        }
        _ if name.contains("dynamic") => {
            "Core ML cannot choose ranges while running; take int8-static, or int8-weight-only, which needs no calibration"
        }
        _ if name.contains("int16") || name.contains("16a") => {
            "Core ML quantizes to 8 bits; take int8-static"
        }
        _ if name.contains("int4") => {
            "4-bit weights go with activations in floating point; take int4-weight-only-per-group or int4-weight-only-per-channel"
        }
        _ => return None,
    })
}

/// Refuses what a target has no operators for.
///
/// # Errors
/// What it lacks, the target that has it, and what else would do.
pub fn fits(how: &How, target: Target) -> Result<(), String> {
    let (least, what, instead) = match how {
        How::Static(s) if s.activations && s.weight.is_some() => {
            (Target::Ios17, "quantized activations".into(), "take recipe int8-weight-only")
        }
        How::Static(_) => return Ok(()),
        How::Weights(c) => match c.form {
            Form::Integers { bits: 4, .. } => {
                (Target::Ios18, "4-bit integers".into(), "take recipe int8-weight-only")
            }
            Form::Integers { scales: Scales::Blocks { .. }, .. } => {
                (Target::Ios18, "scales for groups of channels".to_string(), "take recipe int8-weight-only")
            }
            Form::Table { channels: Some(_), .. } => {
                (Target::Ios18, "tables for groups of channels".into(), "lut-granularity=per-tensor")
            }
            Form::Table { bits: 3, .. } => {
                (Target::Ios18, "look-up tables of 3 bits".into(), "take recipe lut2 or lut4")
            }
            _ => return Ok(()),
        },
    };
    match target < least {
        true => Err(format!("target {target} has no {what}; say target={least} or {instead}")),
        false => Ok(()),
    }
}
