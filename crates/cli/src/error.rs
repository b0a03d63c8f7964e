//! What can go wrong in a command, and the exit code it means.

use lowbit_core::flow::Stopped;
use lowbit_pt2::ImportError;
use std::path::{Path, PathBuf};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The model file.
    #[error("{}", import(path, source))]
    Import {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImportError,
    },
    /// A backend's own file, such as `.mlpackage`.
    #[error("{}: {reason}", path.display())]
    Artifact {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Calibration or evaluation data.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A backend, recipe or option.
    #[error(transparent)]
    Backend(#[from] lowbit_core::backend::BackendError),
    /// Quantization and lowering.
    #[error(transparent)]
    Flow(#[from] lowbit_core::flow::Error),
    /// Running the program.
    #[error(transparent)]
    Run(#[from] lowbit_core::executor::RunError),
    /// Writing the ExecuTorch program.
    #[error(transparent)]
    Write(#[from] lowbit_pte::WriteError),
    /// Writing the program for PyTorch.
    #[error("the quantized program cannot be written for PyTorch: {0}")]
    Export(#[from] lowbit_pt2::ExportError),
    /// An output file.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A command line that asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Calibration or evaluation that failed on the contents of a file.
    #[error("{}: {source}", path.display())]
    Sample {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<lowbit_core::flow::Error>,
    },
    /// Anything the other variants do not say better.
    #[error("{0}")]
    Other(String),
}

impl CliError {
    /// Why samples ended early; `files`: where each comes from.
    pub(crate) fn stopped(stopped: Stopped<CliError>, files: &[PathBuf]) -> CliError {
        match stopped {
            Stopped::Source(e) => e,
            Stopped::Sample { number, error } => CliError::Sample {
                path: files.get(number).cloned().unwrap_or_default(),
                source: Box::new(error),
            },
        }
    }

    /// 2 when the command line itself is wrong, 1 when the work failed.
    pub fn exit_code(&self) -> u8 {
        use lowbit_core::backend::BackendError::{BadOption, NotLinked, UnknownRecipe};
        let usage = matches!(
            self,
            CliError::Usage(_)
                | CliError::Backend(NotLinked { .. } | UnknownRecipe { .. } | BadOption { .. })
        );
        if usage { 2 } else { 1 }
    }
}

/// The file and what is wrong with it; some errors of the reader name the file themselves.
fn import(path: &Path, source: &ImportError) -> String {
    match source {
        ImportError::Io { .. } | ImportError::Archive { .. } | ImportError::Entry { .. } => {
            source.to_string()
        }
        _ => format!("{}: {source}", path.display()),
    }
}
