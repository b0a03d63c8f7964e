//! What is asked of the device: deployment target, precision, compute units, and how much must be lowered.

use crate::NAME;
use lowbit_core::backend::{BackendError, Options};
use std::collections::BTreeMap;
use std::fmt;

/// The oldest system a model shall run on; later ones know more operators. Macs, watches and TVs of the same year know the
/// same.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// iOS 16, macOS 13.
    Ios16,
    /// iOS 17, macOS 14: the first with quantized activations.
    Ios17,
    /// iOS 18, macOS 15: the first with 4-bit integers, scales by blocks, and state.
    #[default]
    Ios18,
}

impl Target {
    /// All of them, oldest first.
    pub const ALL: [Target; 3] = [Target::Ios16, Target::Ios17, Target::Ios18];

    /// What it is called: `ios17`.
    pub fn name(self) -> &'static str {
        match self {
            Target::Ios16 => "ios16",
            Target::Ios17 => "ios17",
            Target::Ios18 => "ios18",
        }
    }

    /// The version of the model format (`specificationVersion`).
    pub fn specification(self) -> i32 {
        match self {
            Target::Ios16 => 7,
            Target::Ios17 => 8,
            Target::Ios18 => 9,
        }
    }

    /// The version of the operators: `CoreML7`.
    pub fn opset(self) -> &'static str {
        match self {
            Target::Ios16 => "CoreML6",
            Target::Ios17 => "CoreML7",
            Target::Ios18 => "CoreML8",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type that floating-point operators compute in.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Half floats: all that the neural engine has.
    #[default]
    Float16,
    /// Single floats, on CPU and GPU.
    Float32,
}

/// What a model may run on.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum ComputeUnits {
    /// Whatever Core ML finds best.
    #[default]
    All,
    /// The CPU.
    CpuOnly,
    /// CPU and GPU.
    CpuAndGpu,
    /// CPU and neural engine.
    CpuAndNe,
}

/// The lowering's options.
///
/// | option | value | |
/// |---|---|---|
/// | `target` | `ios18` | or `ios17`, `ios16`: the oldest system to run on |
/// | `precision` | `float16` | or `float32` |
/// | `compute-units` | `all` | or `cpu-only`, `cpu-and-gpu`, `cpu-and-ne`: for ExecuTorch's delegate |
/// | `sparsity` | none | the share of each large weight, its smallest elements, that the quantizer makes zero; weights that are half zeros or more are stored without them (0: only that) |
/// | `shapes:INPUT` | a range | `1x3x224x224,1x3x256x256`: the only shapes that an input of open size may have, the usual one first |
/// | `whole` | `false` | `true`: an operator that Core ML lacks is an error, not a reason to split a `.pte` |
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The oldest system a model shall run on.
    pub target: Target,
    /// The type of floating-point operators.
    pub precision: Precision,
    /// What ExecuTorch's delegate may use.
    pub compute_units: ComputeUnits,
    /// Whether nothing may stay outside.
    pub whole: bool,
    /// The share of large weights that becomes zero, if any; weights that are half zeros are then stored without them.
    pub sparsity: Option<f64>,
    /// The shapes that inputs of open size may have, by the input's name; the first is the usual one.
    pub shapes: BTreeMap<String, Vec<Vec<i64>>>,
}

/// The lowering's options, for messages.
const NAMES: &str = "target, precision, compute-units, whole, sparsity, shapes:INPUT";

impl Settings {
    /// Reads options; those that `other` knows are the quantizer's.
    ///
    /// # Errors
    /// [`BackendError::BadOption`] for unknown options and values.
    pub fn read(options: &Options, other: fn(&str) -> bool) -> Result<Self, BackendError> {
        let mut s = Settings::default();
        for (name, value) in options {
            let known = match &**name {
                "target" => target(value).map(|t| s.target = t),
                "precision" => choice(value, PRECISIONS).map(|p| s.precision = p),
                "compute-units" => choice(value, UNITS).map(|u| s.compute_units = u),
                "whole" => choice(value, SWITCH).map(|w| s.whole = w),
                "sparsity" => share(value).map(|x| s.sparsity = Some(x)),
                _ if name.starts_with(SHAPES) => shapes(value).map(|list| {
                    s.shapes.insert(name[SHAPES.len()..].into(), list);
                }),
                _ if other(name) => Ok(()),
                _ => Err(format!("there is no such option; there are: {NAMES}, {}", crate::quantizer::NAMES)),
            };
            known.map_err(|why| bad_option(name, why))?;
        }
        if s.shapes.len() > 1 && s.target < Target::Ios18 {
            let target = s.target;
            let why = format!(
                "target {target} takes lists of shapes for one input, not for {}; say target=ios18",
                s.shapes.len()
            );
            return Err(bad_option("shapes", why));
        }
        Ok(s)
    }
}

/// What comes before an input's name in the option that lists its shapes.
const SHAPES: &str = "shapes:";

/// An option that is not right.
pub(crate) fn bad_option(option: &str, reason: impl Into<String>) -> BackendError {
    BackendError::BadOption { backend: NAME, option: option.into(), reason: reason.into() }
}

const PRECISIONS: &[(&str, Precision)] = &[("float16", Precision::Float16), ("float32", Precision::Float32)];

pub(crate) const UNITS: &[(&str, ComputeUnits)] = &[
    ("all", ComputeUnits::All),
    ("cpu-only", ComputeUnits::CpuOnly),
    ("cpu-and-gpu", ComputeUnits::CpuAndGpu),
    ("cpu-and-ne", ComputeUnits::CpuAndNe),
];

const SWITCH: &[(&str, bool)] = &[("true", true), ("false", false)];

/// Reads shapes: `1x3x224x224,1x3x256x256`.
fn shapes(text: &str) -> Result<Vec<Vec<i64>>, String> {
    let size = |s: &str| s.trim().parse().ok().filter(|&n: &i64| n > 0);
    let shape = |s: &str| s.split('x').map(size).collect::<Option<Vec<_>>>();
    let all = text.split(',').map(shape).collect::<Option<Vec<_>>>();
    all.ok_or_else(|| format!("{text:?} is no list of shapes such as 1x3x224x224,1x3x256x256"))
}

/// Reads a share: from 0 on, less than 1.
fn share(text: &str) -> Result<f64, String> {
    let x = text.trim().parse().ok().filter(|x| (0.0..1.0).contains(x));
    x.ok_or_else(|| format!("{text:?} is no share of the weights, from 0 to less than 1"))
}

/// The value of that name.
pub(crate) fn choice<T: Copy>(text: &str, table: &[(&str, T)]) -> Result<T, String> {
    let found = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

/// Reads a target: `ios17`, `iOS17`, or a Mac's version of that year, `macos14`.
fn target(text: &str) -> Result<Target, String> {
    let names = Target::ALL.map(|t| (t.name(), t));
    let macs = [("macos13", Target::Ios16), ("macos14", Target::Ios17), ("macos15", Target::Ios18)];
    choice(text, &macs).or_else(|_| choice(text, &names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = |o: &[(&str, &str)]| {
            let o = o.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Settings::read(&o, |name| name == "mine").map_err(|e| e.to_string())
        };
        assert_eq!(read(&[]), Ok(Settings::default()));
        let all =
            [("target", "iOS17"), ("precision", "float32"), ("compute-units", "cpu-only"), ("mine", "?")];
        let want = Settings {
            target: Target::Ios17,
            precision: Precision::Float32,
            compute_units: ComputeUnits::CpuOnly,
            ..Settings::default()
        };
        assert_eq!(read(&all), Ok(want));
        assert_eq!(read(&[("target", "macos15")]).unwrap().target, Target::Ios18);
        for (option, value, error) in [
            ("target", "ios15", "\"ios15\" is none of ios16, ios17, ios18"),
            ("precision", "float64", "none of float16, float32"),
            ("sparsity", "1", "no share"),
            ("shapes:x", "1x0", "no list of shapes"),
            ("whole", "1", "none of true, false"),
            ("speed", "fast", "there is no such option; there are: target"),
        ] {
            let e = read(&[(option, value)]).unwrap_err();
            assert!(e.contains(error) && e.contains(option), "{e}");
        }
    }
}
