//! Options of the quantizer: what they change in a recipe, and for which part of a program.

use super::activations::{AVERAGE, HISTOGRAM};
use super::recipes::{How, never, recipe};
use super::weights::{Form, Scales, Side};
use crate::Settings;
use crate::settings::{bad_option, choice};
use lowbit_core::backend::{BackendError, Options};
use lowbit_core::quant::{Mapping, ObserverKind, QRange};
use lowbit_core::quantizer::Scope;
use std::num::NonZeroU32;

/// The options, for messages.
pub(crate) const NAMES: &str = "scheme, weight-dtype, weight-granularity, activation-dtype, observer, requantize, \
                                group-size, block-size, weight-threshold, lut-granularity, channel-group-size, channel-axis, \
                                module-name:PATH, module-type:TYPE, operator:NAME";

/// Whether the quantizer has an option of this name.
pub fn is_option(option: &str) -> bool {
    Scope::of_option(option).is_some() || NAMES.split(", ").any(|name| name == option)
}

type Read = fn(&str) -> Result<Change, String>;

/// What an option changes; `false`: nothing in this recipe.
type Change = Box<dyn Fn(&mut How) -> bool>;

/// Options that change recipes, and which recipes they are for.
static CHANGES: &[(&str, Read, &str)] = &[
    ("scheme", scheme, "recipes with integers"),
    ("weight-dtype", weight_dtype, "recipe int8-static"),
    ("weight-granularity", weight_granularity, "recipes with one scale a channel"),
    ("activation-dtype", activation_dtype, "recipe int8-static"),
    ("observer", observer, "recipe int8-static"),
    ("requantize", requantize, "recipe int8-static"),
    ("group-size", group_size, "recipes by groups"),
    ("block-size", block_size, "recipes by groups"),
    ("weight-threshold", weight_threshold, "recipes of weights"),
    // In this order: what a group is, is of no use before there are groups.
    ("lut-granularity", lut_granularity, "look-up tables"),
    ("channel-group-size", channel_group_size, "look-up tables with lut-granularity=per-grouped-channel"),
    ("channel-axis", channel_axis, "look-up tables with lut-granularity=per-grouped-channel"),
];

/// What recipes mean with the options given.
pub(super) struct Recipes {
    target: crate::Target,
    /// Whether values may be rounded twice, as ExecuTorch's quantizer has it.
    pub requantize: bool,
    changes: Vec<(&'static str, Change, &'static str)>,
}

impl Recipes {
    /// Reads the options.
    ///
    /// # Errors
    /// For unknown options, values that make no sense, and options that contradict each other.
    pub fn read(options: &Options) -> Result<Self, BackendError> {
        let target = Settings::read(options, is_option)?.target;
        if options.contains_key("group-size") && options.contains_key("block-size") {
            return Err(bad_option("group-size", "block-size says the same and more; give one of them"));
        }
        let mut changes = vec![];
        for &(name, read, whose) in CHANGES {
            let Some(text) = options.get(name) else { continue };
            changes.push((name, read(text.trim()).map_err(|why| bad_option(name, why))?, whose));
        }
        let requantize = options.get("requantize").is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
        Ok(Recipes { target, requantize, changes })
    }

    /// What a recipe means here; `option` is where it was named.
    ///
    /// # Errors
    /// When the target lacks what it needs. `Ok(None)`: there is no such recipe.
    pub fn get(&self, option: &str, name: &str) -> Result<Option<How>, BackendError> {
        let Some(mut how) = recipe(name) else {
            return never(name).map_or(Ok(None), |why| Err(bad_option(option, why)));
        };
        for (_, change, _) in &self.changes {
            change(&mut how);
        }
        super::recipes::fits(&how, self.target).map_err(|why| bad_option(option, why))?;
        Ok(Some(how))
    }

    /// Refuses options that change none of these recipes.
    ///
    /// # Errors
    /// Names the recipes that an option is for.
    pub fn check(&self, names: &[&str]) -> Result<(), BackendError> {
        for (i, (option, _, whose)) in self.changes.iter().enumerate() {
            let changed = |name: &&str| {
                let mut how = recipe(name)?;
                // Those before it make it possible.
                self.changes[..=i].iter().map(|(_, change, _)| change(&mut how)).last()
            };
            if !names.iter().any(|name| changed(name) == Some(true)) {
                return Err(bad_option(option, format!("it is for {whose} only")));
            }
        }
        Ok(())
    }
}

fn scheme(text: &str) -> Result<Change, String> {
    let mapping = choice(text, &[("symmetric", Mapping::Symmetric), ("affine", Mapping::Affine)])?;
    Ok(Box::new(move |how| match how {
        How::Static(s) => {
            s.mapping = mapping;
            true
        }
        How::Weights(c) => match &mut c.form {
            Form::Integers { mapping: m, .. } => {
                *m = mapping;
                true
            }
            Form::Table { .. } => false,
        },
    }))
}

fn weight_dtype(text: &str) -> Result<Change, String> {
    if ["int4", "uint4"].contains(&text) {
        let cure = "take recipe int4-weight-only-per-group or int4-weight-only-per-channel";
        return Err(format!("4-bit weights go with activations in floating point; {cure}"));
    }
    let dtypes = [("int8", Some(QRange::INT8)), ("uint8", Some(QRange::UINT8)), ("float32", None)];
    let range = choice(text, &dtypes)?;
    Ok(Box::new(move |how| match how {
        How::Static(s) => {
            s.weight = range;
            true
        }
        How::Weights(_) => false,
    }))
}

fn weight_granularity(text: &str) -> Result<Change, String> {
    let per_channel = choice(text, &[("per-channel", true), ("per-tensor", false)])?;
    Ok(Box::new(move |how| match how {
        How::Static(s) => {
            s.per_channel = per_channel;
            true
        }
        How::Weights(c) => match &mut c.form {
            Form::Integers { scales: s @ (Scales::Channel | Scales::Tensor), .. } => {
                *s = if per_channel { Scales::Channel } else { Scales::Tensor };
                true
            }
            _ => false,
        },
    }))
}

fn activation_dtype(text: &str) -> Result<Change, String> {
    match text {
        "int8" => return Err("say uint8: with zero point 128 it is what Core ML has as int8".into()),
        "int16" | "uint16" => return Err("Core ML quantizes to 8 bits; say uint8 or float32".into()),
        _ => {}
    }
    let activations = choice(text, &[("uint8", true), ("float32", false)])?;
    Ok(Box::new(move |how| match how {
        How::Static(s) => {
            s.activations = activations;
            true
        }
        How::Weights(_) => false,
    }))
}

fn observer(text: &str) -> Result<Change, String> {
    let kinds = [("histogram", 0), ("min-max", 1), ("moving-average-min-max", 2)];
    let observer = [HISTOGRAM, ObserverKind::MinMax, AVERAGE][choice(text, &kinds)?].clone();
    Ok(Box::new(move |how| match how {
        How::Static(s) => {
            s.observer = observer.clone();
            true
        }
        How::Weights(_) => false,
    }))
}

/// It is for the rules as a whole: of a recipe it changes nothing.
fn requantize(text: &str) -> Result<Change, String> {
    choice(text, &[("false", false), ("true", true)])?;
    Ok(Box::new(|how| matches!(how, How::Static(_))))
}

fn size(text: &str) -> Result<u32, String> {
    text.parse().map(NonZeroU32::get).map_err(|_| format!("{text:?} is no number of channels"))
}

fn blocks(output: u32, input: u32) -> Change {
    Box::new(move |how| match how {
        How::Weights(c) => match &mut c.form {
            Form::Integers { scales: s @ Scales::Blocks { .. }, .. } => {
                *s = Scales::Blocks { output, input };
                true
            }
            _ => false,
        },
        How::Static(_) => false,
    })
}

fn group_size(text: &str) -> Result<Change, String> {
    Ok(blocks(1, size(text)?))
}

fn block_size(text: &str) -> Result<Change, String> {
    let wrong = || format!("{text:?} is no size of a block such as 4x32: output channels by input channels");
    let (output, input) = text.split_once('x').ok_or_else(wrong)?;
    let part = |t: &str| size(t.trim()).map_err(|_| wrong());
    Ok(blocks(part(output)?, part(input)?))
}

fn weight_threshold(text: &str) -> Result<Change, String> {
    let threshold = text.parse().map_err(|_| format!("{text:?} is no number of elements"))?;
    Ok(Box::new(move |how| match how {
        How::Weights(c) => {
            c.threshold = threshold;
            true
        }
        How::Static(_) => false,
    }))
}

/// Channels that share a table unless `channel-group-size` says otherwise.
const GROUP: u32 = 32;

fn lut_granularity(text: &str) -> Result<Change, String> {
    let grouped = choice(text, &[("per-tensor", false), ("per-grouped-channel", true)])?;
    Ok(Box::new(move |how| match how {
        How::Weights(c) => match &mut c.form {
            Form::Table { channels, .. } => {
                *channels = grouped.then_some((Side::Output, GROUP));
                true
            }
            Form::Integers { .. } => false,
        },
        How::Static(_) => false,
    }))
}

fn grouped(change: impl Fn(&mut (Side, u32)) + 'static) -> Change {
    Box::new(move |how| match how {
        How::Weights(c) => match &mut c.form {
            Form::Table { channels: Some(channels), .. } => {
                change(channels);
                true
            }
            _ => false,
        },
        How::Static(_) => false,
    })
}

fn channel_group_size(text: &str) -> Result<Change, String> {
    let size = size(text)?;
    Ok(grouped(move |channels| channels.1 = size))
}

fn channel_axis(text: &str) -> Result<Change, String> {
    let side = choice(text, &[("output", Side::Output), ("input", Side::Input)])?;
    Ok(grouped(move |channels| channels.0 = side))
}
