//! What can go wrong with the library.

/// Why there is no session with the library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// It is nowhere.
    #[error("{0}")]
    Missing(String),
    /// It cannot be loaded.
    #[error("{path} cannot be loaded: {reason}")]
    Load {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// It speaks another version of the interface.
    #[error(
        "{path} has interface {found}; lowbit knows {known}: install a version that has it ({})",
        super::find::INSTALL
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: String,
        /// What would do.
        known: String,
    },
    /// A call failed.
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// A call of the library that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was called: `graphFinalize`.
    pub call: &'static str,
    /// The number it gave.
    pub code: u64,
    /// The operator at hand, where there is one: its place in the graph.
    pub op: Option<usize>,
    /// What the library said meanwhile.
    pub messages: Vec<String>,
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { call, code, messages, .. } = self;
        let said = super::words::sentence(messages);
        let low = code & 0xffff;
        if *code == 0 {
            // Nothing was called.
            return write!(f, "the library's {call}: {said}");
        }
        match said.is_empty() {
            true => write!(f, "the library's {call} gave error {low} ({})", meaning(low)),
            false => write!(f, "the library's {call} gave error {low} ({}): {said}", meaning(low)),
        }
    }
}

/// What a number means, by its range.
fn meaning(code: u64) -> &'static str {
    match code {
        3110 => "the operator is not valid",
        4005 => "there is no such operator",
        1000..2000 => "a general error",
        2000..3000 => "a property",
        3000..4000 => "an operator",
        4000..5000 => "the back end",
        5000..6000 => "the context",
        6000..7000 => "the graph",
        7000..8000 => "a tensor",
        14000..15000 => "the device",
        _ => "of a kind unknown here",
    }
}
