//! Quantizers: who decides which sites are quantized, and how.

mod chooser;
mod compose;
mod config;
mod embedding;
mod intx;
mod layer;
mod mask;
mod pattern;
mod rules;
mod weights;

pub use chooser::{Choice, Chooser, Weight};
pub use compose::Composed;
pub use config::{OpConfig, Predicate, Scope};
pub use embedding::EmbeddingQuantizer;
pub use intx::Intx;
pub use layer::Layer;
pub use mask::{is_mask, mask, scores};
pub use pattern::Pattern;
pub use rules::{Match, Rule, RuleQuantizer};
pub use weights::{WeightConfig, WeightQuantizer};

use crate::flow::Prepared;
use crate::ir::{NodeId, Program};
use crate::passes::PassError;
use crate::quant::{Annotations, QuantError, Site};
use std::fmt::Debug;
use std::sync::Arc;

/// Says of a node whether it may be quantized, or why it stays in floating point.
pub type NodeFilter = Arc<dyn Fn(&Program, NodeId) -> Result<(), String> + Send + Sync>;

/// Decides which sites of a program are quantized, and how. A backend writes one.
pub trait Quantizer: Debug {
    /// Brings the program into the form that `annotate` expects (scalars to tensors, decompositions).
    ///
    /// # Errors
    /// When a pass fails.
    fn transform(&self, _program: &mut Program) -> Result<(), PassError> {
        Ok(())
    }

    /// Whether what the program computes from constants alone is to be computed before anything is annotated: a device that
    /// takes weights as constants only would quantize a weight that the model normalizes like an activation, or not at all.
    /// torchao's quantizers see the computation, so by default it stays. [`prepare_with`](crate::flow::prepare_with) heeds it.
    fn folds_constants(&self) -> bool {
        false
    }

    /// Fills in annotations. The program cannot change here.
    ///
    /// # Errors
    /// When the configuration asks for what cannot be.
    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError>;

    /// Refuses what the backend cannot run.
    ///
    /// # Errors
    /// Names the site and the cure.
    fn validate(&self, _program: &Program, _annotations: &Annotations) -> Result<(), QuantError> {
        Ok(())
    }

    /// Looks over the prepared program, and may settle parameters with [`Prepared::pin`] (torchao's
    /// `prepare_obs_or_fq_callback`).
    ///
    /// # Errors
    /// When the sites to be settled are not there.
    fn adjust(&self, _prepared: &mut Prepared) -> Result<(), QuantError> {
        Ok(())
    }

    /// Leaves nodes in floating point that `keep` refuses, whatever else is configured (`set_filter_function`).
    ///
    /// # Errors
    /// When this quantizer has no such means.
    fn filter(&mut self, _keep: NodeFilter) -> Result<(), QuantError> {
        Err(QuantError::Config("this quantizer cannot be told to leave nodes in floating point".into()))
    }

    /// A quantizer that does better, knowing how well each group of sites fits its integers after calibration; `None` to
    /// go on with this one. It may leave out sites that this one annotated, or quantize them at run time; sites that this
    /// one did not annotate have not been observed.
    fn revise(
        &self,
        _program: &Program,
        _annotations: &Annotations,
        _fits: &[(&[Site], f64)],
    ) -> Option<Box<dyn Quantizer>> {
        None
    }

    /// The dimensions of `reader`'s input over which the *device* takes one range when it quantizes at run time, where
    /// that is not the whole tensor: the last one for a linear layer that is quantized row by row. The converted program
    /// says "per tensor", as torchao's does; evaluation computes what the device does.
    fn dynamic_dims(&self, _program: &Program, _reader: NodeId) -> Option<Vec<usize>> {
        None
    }
}
