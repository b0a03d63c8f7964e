//! Patterns on the names of modules and parameters.

use crate::quant::QuantError;
use globset::Glob;
use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// A glob or a regular expression. It stands for names that it matches as a whole.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl Pattern {
    /// `*` stands for any characters, dots too, `?` for one, `{a,b}` for either: `encoder.*.attn`.
    ///
    /// # Errors
    /// When it is no glob.
    pub fn glob(glob: &str) -> Result<Self, QuantError> {
        let parsed = Glob::new(glob).map_err(|e| QuantError::Config(format!("glob {glob:?}: {e}")))?;
        // Made for bytes of paths; names are text.
        Self::new(glob, parsed.regex().trim_start_matches("(?-u)"))
    }

    /// A regular expression: `layers\.\d+\.mlp` (a key `re:…` of torchao's `FqnToConfig`).
    ///
    /// # Errors
    /// When it is none.
    pub fn regex(regex: &str) -> Result<Self, QuantError> {
        Self::new(regex, &format!("^(?:{regex})$"))
    }

    fn new(text: &str, regex: &str) -> Result<Self, QuantError> {
        let regex = Regex::new(regex).map_err(|e| QuantError::Config(format!("pattern {text:?}: {e}")))?;
        Ok(Pattern { text: text.into(), regex })
    }

    /// Whether it stands for this name.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}
impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_a_whole() {
        let glob = Pattern::glob("encoder.*.attn").unwrap();
        assert!(glob.matches("encoder.0.attn") && glob.matches("encoder.layers.3.attn"));
        assert!(!glob.matches("encoder.0.attn.q") && !glob.matches("my.encoder.0.attn"));
        assert!(Pattern::glob("block{1,2}.?").unwrap().matches("block2.é"));
        let regex = Pattern::regex(r"layers\.\d+|head").unwrap();
        assert!(regex.matches("layers.12") && regex.matches("head"));
        assert!(!regex.matches("layers.1.mlp") && !regex.matches("overhead"));
        for bad in [Pattern::glob("a[").unwrap_err(), Pattern::regex("(").unwrap_err()] {
            assert!(matches!(bad, QuantError::Config(_)), "{bad}");
        }
    }
}
