//! The stages: `prepare → calibrate → convert → evaluate → lower`. Each consumes the one before.

mod buffers;
mod calibrate;
mod convert;
mod debug;
mod derive;
mod device;
mod evaluate;
mod fit;
pub mod lower;
mod measure;
mod prepare;
mod revise;
mod run;
mod sites;
mod stored;
mod turns;

pub use convert::{ConvertOptions, Converted, Fold};
pub use debug::{Culprit, Debugger, Findings};
pub use device::device_program;
pub use evaluate::{Evaluation, Evaluator, Sample, worst_first};
pub use fit::fit;
pub use lower::{Delegate, LowerError, Lowered, Packaged, Place, Placement, lower, package};
pub use measure::Measure;
pub use prepare::{Prepared, prepare, prepare_with};
pub use run::{DeviceError, run_lowered};
pub use sites::{SiteParams, SiteSpec};
pub use turns::Stopped;

use crate::backend::BackendError;
use crate::executor::RunError;
use crate::passes::PassError;
use crate::quant::QuantError;

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The quantizer or its specs.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A pass.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Running the program.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Lowering.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Static observers that saw no data.
    #[error("{} sites were never observed; calibrate with representative data first:\n  {}", .0.len(), .0.join("\n  "))]
    Unobserved(Vec<String>),
    /// Calibration data that is not finite.
    #[error(
        "calibration sample {sample}: input {input} holds {count} NaN or infinite elements; clean the data"
    )]
    NotFinite {
        /// Sample number, from 0.
        sample: usize,
        /// The input's name and number.
        input: String,
        /// How many elements.
        count: usize,
    },
    /// A value that could not be quantized.
    #[error("%{value}: {reason}")]
    Fold {
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
    /// Programs that are not of one model.
    #[error("{0}")]
    Models(String),
    /// Labels that do not fit.
    #[error("{0}")]
    Labels(String),
    /// Observer states that do not fit.
    #[error("{0}")]
    States(String),
}
