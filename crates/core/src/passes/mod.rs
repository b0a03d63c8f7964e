//! Passes: transformations that keep what a program computes. Each finds on an immutable program, then edits.

mod batch_norm_to_conv;
mod dead_code;
pub mod decompose;
mod duplicate_dequantize;
mod fewer_dimensions;
mod fold_batch_norm;
pub(crate) mod fold_constants;
mod fold_moves;
mod masks_last;
mod pack_embeddings;
mod products_to_linear;
mod recompose;
mod scalars_to_tensors;
mod scatter_to_gather;

pub use batch_norm_to_conv::BatchNormToConv;
pub use dead_code::DeadCode;
pub use decompose::{Decompose, IntegerArithmetic, Unroll};
pub use duplicate_dequantize::DuplicateDequantize;
pub use fewer_dimensions::FewerDimensions;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constants::FoldConstants;
pub use fold_moves::FoldMoves;
pub use masks_last::MasksLast;
pub use pack_embeddings::PackEmbeddings;
pub use products_to_linear::ProductsToLinear;
pub use recompose::Recompose;
pub use scalars_to_tensors::ScalarsToTensors;
pub use scatter_to_gather::ScatterToGather;

use crate::ir::{Program, VerifyErrors, verify};
use crate::ops::InferError;
use std::fmt::Debug;

/// A transformation that keeps what a program computes.
pub trait Pass: Debug {
    /// Its name in errors: `fold_batch_norm`.
    fn name(&self) -> &'static str;

    /// Transforms; says whether anything changed.
    ///
    /// # Errors
    /// A sentence naming the node that stands in the way.
    fn run(&self, program: &mut Program) -> Result<bool, PassFailure>;
}

/// What stopped a pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PassFailure(pub String);

impl From<InferError> for PassFailure {
    fn from(e: InferError) -> Self {
        PassFailure(e.message)
    }
}

/// A pass that failed, or left an invalid program (a bug in lowbit or in the backend that brought the pass).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// It could not do its work.
    #[error("pass {pass}: {reason}")]
    Failed {
        /// The pass.
        pass: &'static str,
        /// Why.
        reason: PassFailure,
    },
    /// It broke the program.
    #[error("pass {pass} left an {errors}")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// The broken rules.
        errors: VerifyErrors,
    },
}

/// Passes in order; the program is verified after each.
#[derive(Debug, Default)]
pub struct Pipeline(Vec<Box<dyn Pass>>);

impl Pipeline {
    /// Adds a pass at the end.
    pub fn then(mut self, pass: impl Pass + 'static) -> Self {
        self.0.push(Box::new(pass));
        self
    }

    /// Runs them all.
    ///
    /// # Errors
    /// The first pass that fails or breaks the program.
    pub fn run(&self, program: &mut Program) -> Result<(), PassError> {
        self.0.iter().try_for_each(|p| Self::run_one(&**p, program))
    }

    /// Runs one pass, and verifies what it leaves.
    ///
    /// # Errors
    /// When it fails or breaks the program.
    pub fn run_one(p: &dyn Pass, program: &mut Program) -> Result<(), PassError> {
        let pass = p.name();
        if p.run(program).map_err(|reason| PassError::Failed { pass, reason })? {
            verify(program).map_err(|errors| PassError::Invalid { pass, errors })?;
        }
        Ok(())
    }
}
