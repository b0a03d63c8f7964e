//! How values are quantized: ranges and schemes, specs, annotations, observers, parameters.

mod annotations;
mod blocks;
mod codebook;
mod groups;
pub mod observer;
mod qparams;
mod scheme;
mod spec;

pub use annotations::{Annotation, Annotations, Site};
pub use blocks::{Blocks, block_counts, runs};
pub use codebook::Codebook;
pub use groups::{Group, Groups};
pub use qparams::{QuantizeError, choose_qparams};
pub use scheme::{Granularity, Mapping, ParamTypes, QParams, QRange, QScheme};
pub use spec::{
    DeriveRule, Observer, ObserverError, ObserverFactory, ObserverKind, ObserverState, QuantSpec, Spec,
};

use crate::ir::NodeId;

/// Why a program could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A site's spec makes no sense, or the backend cannot do it.
    #[error("{site}: {reason}")]
    BadSpec {
        /// The site's text form, with its module.
        site: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A later rule or quantizer changed what an earlier one had settled.
    #[error("{site}: {first} and {second} annotate it differently")]
    Conflict {
        /// The site's text form.
        site: String,
        /// The rule that came first.
        first: String,
        /// The rule that came second.
        second: String,
    },
    /// A configuration that names nothing in the program, or an impossible combination.
    #[error("{0}")]
    Config(String),
    /// An edit failed: a bug of the pass or quantizer named here.
    #[error("{place}: {source} ({node:?})")]
    Edit {
        /// The pass or quantizer.
        place: &'static str,
        /// The node at hand.
        node: NodeId,
        /// What the operator said.
        source: crate::ops::InferError,
    },
}
