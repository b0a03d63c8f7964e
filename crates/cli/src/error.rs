//! What can go wrong in a command, and the exit code it means.

use std::path::PathBuf;

/// Why a command failed. Every variant exits with 1; wrong usage (2) is clap's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The model file.
    #[error("{}: {source}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: lowbit_pt2::ImportError,
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
    /// An output file.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything the other variants do not say better.
    #[error("{0}")]
    Other(String),
}
