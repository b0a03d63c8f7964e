//! [`Chooser`]: a function that says how a weight is stored.

use crate::ir::{NodeId, Program, TensorType};
use crate::quant::Spec;
use std::fmt;
use std::sync::Arc;

/// A weight that a [`Chooser`] looks at.
#[derive(Copy, Clone, Debug)]
pub struct Weight<'a> {
    /// The program.
    pub program: &'a Program,
    /// The layer that reads it.
    pub layer: NodeId,
    /// Element type and sizes.
    pub ty: &'a TensorType,
    /// The axis of output channels; of an embedding's rows.
    pub output_axis: u32,
    /// The axis of input channels; of what a row of an embedding holds.
    pub input_axis: u32,
}

impl Weight<'_> {
    /// Its sizes, when no symbol is involved.
    pub fn shape(&self) -> Option<Vec<usize>> {
        self.ty.known_shape()
    }
}

/// How a weight is stored, and, where that is not what was asked for, why; `Err` says why it stays in floating point.
pub type Choice = Result<(Spec, Option<String>), String>;

/// A function that says how a weight is stored.
#[derive(Clone)]
pub struct Chooser(Arc<dyn Fn(&Weight<'_>) -> Choice + Send + Sync>);

impl Chooser {
    /// This function.
    pub fn new(choose: impl Fn(&Weight<'_>) -> Choice + Send + Sync + 'static) -> Self {
        Chooser(Arc::new(choose))
    }

    /// What it says of this weight.
    ///
    /// # Errors
    /// Why the weight stays in floating point.
    pub fn choose(&self, weight: &Weight<'_>) -> Choice {
        (self.0)(weight)
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chooser")
    }
}

impl PartialEq for Chooser {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
