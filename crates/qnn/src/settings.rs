//! What is asked of the lowering: the chip, where the library lies, and how much must be lowered.

use crate::NAME;
use crate::soc::{self, Soc};
use lowbit_core::backend::{BackendError, Options};
use std::path::PathBuf;

/// What becomes of floating-point operators.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Float {
    /// They stay outside, with the reason.
    #[default]
    Outside,
    /// The chip computes them in half floats.
    Half,
}

/// The lowering's options.
///
/// | option | value | |
/// |---|---|---|
/// | `soc`, `target` | `SM8650` | the chip to compile for |
/// | `qnn-lib` | | the folder of Qualcomm's library; else `QNN_LIB_DIR`, `QNN_SDK_ROOT`, or the installed wheel |
/// | `float` | `outside` | `half`: what is not quantized runs on the chip too, in half floats |
/// | `strict` | `false` | `true`: an operator that the chip refuses is an error, not a reason to run it outside |
/// | `exact` | `false` | `true`: kernels that are known to be less exact than integers are not used, or in a form that is |
/// | `library` | `true` | `false`: claims are judged by lowbit's table alone, as where there is no library |
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The chip.
    pub soc: &'static Soc,
    /// The folder of the library, where the user names one.
    pub library: Option<PathBuf>,
    /// What becomes of floating-point operators.
    pub float: Float,
    /// Whether nothing may stay outside.
    pub strict: bool,
    /// Whether kernels that are known to be further from exact integers than rounding explains are left alone. Weights of few
    /// bits are stored in bytes where that makes them exact.
    pub exact: bool,
    /// Whether the library is asked at all.
    pub ask: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            soc: soc::DEFAULT,
            library: None,
            float: Float::Outside,
            strict: false,
            exact: false,
            ask: true,
        }
    }
}

/// The lowering's options, for messages.
pub(crate) const NAMES: &str = "soc, qnn-lib, float, strict, exact, library";

const FLOATS: &[(&str, Float)] = &[("outside", Float::Outside), ("half", Float::Half)];
const SWITCH: &[(&str, bool)] = &[("true", true), ("false", false)];

impl Settings {
    /// Reads options; those that `other` knows are the quantizer's.
    ///
    /// # Errors
    /// [`BackendError::BadOption`] for unknown options and values.
    pub fn read(options: &Options, other: fn(&str) -> bool) -> Result<Self, BackendError> {
        let mut s = Settings::default();
        if let (Some(a), Some(b)) = (options.get("soc"), options.get("target"))
            && a != b
        {
            return Err(bad_option(
                "soc",
                format!("target says {b:?}, which is the same option; give one of them"),
            ));
        }
        for (name, value) in options {
            let known = match &**name {
                "soc" | "target" => chip(value).map(|c| s.soc = c),
                "qnn-lib" if value.trim().is_empty() => {
                    Err("it names the folder of Qualcomm's library".into())
                }
                "qnn-lib" => {
                    s.library = Some(PathBuf::from(value));
                    Ok(())
                }
                "float" => choice(value, FLOATS).map(|f| s.float = f),
                "strict" => choice(value, SWITCH).map(|w| s.strict = w),
                "exact" => choice(value, SWITCH).map(|w| s.exact = w),
                "library" => choice(value, SWITCH).map(|w| s.ask = w),
                _ if other(name) => Ok(()),
                _ => Err(format!("there is no such option; there are: {NAMES}, {}", crate::quantizer::NAMES)),
            };
            known.map_err(|why| bad_option(name, why))?;
        }
        Ok(s)
    }

    /// Whether floating-point operators run in half floats.
    pub fn half(&self) -> bool {
        self.float == Float::Half
    }
}

fn chip(text: &str) -> Result<&'static Soc, String> {
    soc::find(text).ok_or_else(|| {
        let names: Vec<&str> = soc::SOCS.iter().map(|s| s.name).collect();
        format!("{text:?} is no chip that lowbit knows; it knows {}", names.join(", "))
    })
}

/// An option that is not right.
pub(crate) fn bad_option(option: &str, reason: impl Into<String>) -> BackendError {
    BackendError::BadOption { backend: NAME, option: option.into(), reason: reason.into() }
}

/// The value of that name.
pub(crate) fn choice<T: Copy>(text: &str, table: &[(&str, T)]) -> Result<T, String> {
    let found = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
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
        let all = [
            ("soc", "sm8350"),
            ("qnn-lib", "/lib"),
            ("float", "half"),
            ("strict", "true"),
            ("exact", "true"),
            ("library", "false"),
            ("mine", "?"),
        ];
        let want = Settings {
            soc: soc::find("SM8350").unwrap(),
            library: Some("/lib".into()),
            float: Float::Half,
            strict: true,
            exact: true,
            ask: false,
        };
        assert_eq!(read(&all), Ok(want));
        assert_eq!(read(&[("target", "SM8750")]).unwrap().soc.id, 69);
        for (options, error) in [
            (&[("soc", "SM1")][..], "\"SM1\" is no chip that lowbit knows; it knows SM8350, SM8450"),
            (&[("soc", "SM8350"), ("target", "SM8450")], "the same option"),
            (&[("qnn-lib", " ")], "names the folder"),
            (&[("float", "f64")], "none of outside, half"),
            (&[("strict", "1")], "none of true, false"),
            (&[("speed", "fast")], "there is no such option; there are: soc"),
        ] {
            let e = read(options).unwrap_err();
            assert!(e.contains(error) && e.contains(options[0].0), "{e}");
        }
    }
}
