//! [`ImportError`]: why a `.pt2` file was not read.

use std::fmt;
use std::path::PathBuf;

/// An operator that lowbit does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownOp {
    /// Its name as exported, without `torch.ops.`: `aten.fft_rfft.default`.
    pub target: String,
    /// How many nodes call it.
    pub count: usize,
    /// Paths of the modules it is called in, each once, in program order; the root is `""`.
    pub modules: Vec<String>,
}

impl fmt::Display for UnknownOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        let times = if self.count == 1 { "once".into() } else { format!("{} times", self.count) };
        write!(f, "{} ({times}) in ", self.target)?;
        for (i, m) in self.modules.iter().take(SHOWN).enumerate() {
            let m = if m.is_empty() { "the root module" } else { m };
            write!(f, "{}{m}", if i > 0 { ", " } else { "" })?;
        }
        match self.modules.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            n => write!(f, " and {n} more"),
        }
    }
}

/// Why a `.pt2` file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The operating system does not let us read the file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No intact zip archive, or one that `torch.export.save` did not write.
    #[error("{file} is not a .pt2 archive that lowbit can read: {reason}")]
    Archive {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A file inside the archive is missing, damaged or not what it should be.
    #[error("{file}: entry {entry}: {reason}")]
    Entry {
        /// The archive.
        file: String,
        /// The entry's name in it.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// The program is stored in another major version of PyTorch's schema.
    #[error(
        "{file}: the program has schema version {found} (written by PyTorch {torch}), lowbit reads version 8: \
         export the model again with PyTorch 2.13 (torch.export.export, torch.export.save)"
    )]
    Version {
        /// The archive.
        file: String,
        /// `major.minor` as found.
        found: String,
        /// The version of PyTorch that wrote it.
        torch: String,
    },
    /// Operators without a row in lowbit's table: all of them.
    #[error("{}", list_unknown(.0))]
    UnknownOperators(Vec<UnknownOp>),
    /// A parameter, buffer or constant that cannot be taken.
    #[error("{kind} {name:?}: {reason}")]
    Weight {
        /// `parameter`, `buffer`, `constant`.
        kind: &'static str,
        /// Its name in the model.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The program's inputs, outputs or symbols cannot be taken.
    #[error("{what}: {reason}")]
    Signature {
        /// `input "x"`, `output "add"`, …
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A node whose arguments cannot be taken.
    #[error("{at}: {reason}")]
    Node {
        /// The node.
        at: Box<Place>,
        /// What is wrong.
        reason: String,
    },
    /// PyTorch recorded another type for a value than lowbit's shape rule gives.
    #[error("{at}: %{value} is recorded as {recorded}, lowbit's shape rule gives {inferred}")]
    TypeMismatch {
        /// The node that makes the value.
        at: Box<Place>,
        /// The value.
        value: String,
        /// The type in the file.
        recorded: String,
        /// The type by lowbit's rule.
        inferred: String,
    },
}

/// A node of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its operator: `aten.relu.default`.
    pub target: String,
    /// Path of the module it belongs to; empty for the root.
    pub module: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module[..] {
            "" => write!(f, "%{} ({})", self.node, self.target),
            module => write!(f, "%{} ({}, in {module})", self.node, self.target),
        }
    }
}

fn list_unknown(ops: &[UnknownOp]) -> String {
    let mut text = match ops.len() {
        1 => "lowbit does not have an operator of this program:".to_string(),
        n => format!("lowbit does not have {n} operators of this program:"),
    };
    for op in ops {
        text += &format!("\n  {op}");
    }
    text
}

/// Why a program cannot be written as a `.pt2` file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A node that PyTorch has no form for.
    #[error("{at}: {reason}")]
    Node {
        /// The node.
        at: Box<Place>,
        /// What is wrong.
        reason: String,
    },
    /// An input or output that PyTorch has no form for.
    #[error("{what}: {reason}")]
    Signature {
        /// `input "x"`, `output 0`.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The output.
    #[error("cannot write the archive: {0}")]
    Io(#[from] std::io::Error),
}
