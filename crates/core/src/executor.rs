//! The contract of executors; `lowbit-cpu` implements it.

use crate::ir::{BindError, Program, ValueId};
use crate::quant::observer::{Extremes, Plain, Scan};
use crate::tensor::{Tensor, TensorView};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Receives each watched value once a run, in program order.
pub type Probe<'a> = dyn FnMut(ValueId, Watched<'_>) + 'a;

/// A watched value.
#[derive(Debug)]
pub struct Watched<'a> {
    /// Its elements; none where only the extremes were asked for, and are there.
    pub view: TensorView<'a>,
    /// Their extremes, where the executor found them on the way.
    pub extremes: Option<Extremes>,
}

/// What a probe needs to see.
#[derive(Clone, Debug, Default)]
pub struct Watchlist {
    /// Values whose elements it looks at.
    pub elements: BTreeSet<ValueId>,
    /// Values of which it needs the extremes only: an executor need not keep their elements, if it finds these on the way.
    pub extremes: BTreeSet<ValueId>,
}

impl Watchlist {
    /// The elements of these values.
    pub fn elements(values: &[ValueId]) -> Watchlist {
        Watchlist { elements: values.iter().copied().collect(), extremes: BTreeSet::new() }
    }

    /// Whether a value is shown.
    pub fn contains(&self, v: ValueId) -> bool {
        self.elements.contains(&v) || self.extremes.contains(&v)
    }

    /// Whether no value is shown.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.extremes.is_empty()
    }
}

/// Runs programs.
pub trait Executor: std::fmt::Debug + Sync {
    /// Prepares a program; the session keeps what it needs of it (constants are shared, not copied).
    /// Values in `watch` are shown to the probe of every run, inputs and constants included.
    ///
    /// # Errors
    /// When the program holds something this executor cannot run.
    fn load(&self, program: &Program, watch: &[ValueId]) -> Result<Box<dyn Session>, RunError>;

    /// As [`load`](Self::load), for a probe that does not need the elements of every value.
    ///
    /// # Errors
    /// As there.
    fn load_watching(&self, program: &Program, watch: &Watchlist) -> Result<Box<dyn Session>, RunError> {
        let all: Vec<ValueId> = watch.elements.union(&watch.extremes).copied().collect();
        self.load(program, &all)
    }
}

/// A loaded program. Mutated buffers keep their state from run to run.
pub trait Session: std::fmt::Debug + Send {
    /// Passes over many elements as fast as this executor does them, for observers.
    fn scan(&self) -> Arc<dyn Scan> {
        Arc::new(Plain)
    }

    /// Sessions of the same program for several samples at once, `most` or fewer, which share this one's threads and all that it
    /// has made ready. None where there is one thread, where memory would not do, or where what a run leaves in the program's
    /// buffers is read by the next.
    fn apart(&self, most: usize) -> Vec<Box<dyn Session>> {
        let _ = most;
        vec![]
    }

    /// Runs once; gives the user's outputs. Mutated *inputs* are not written back: their new values are lost unless the
    /// program also returns them.
    ///
    /// # Errors
    /// When inputs do not fit, or a kernel fails on their contents (an index out of range).
    fn run(&mut self, inputs: &[Tensor], probe: &mut Probe<'_>) -> Result<Vec<Tensor>, RunError>;
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Inputs do not fit the program.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A node failed.
    #[error("{node} ({module}): {reason}\n  in: {text}")]
    Node {
        /// Name of the node.
        node: String,
        /// Path of its module.
        module: String,
        /// What is wrong.
        reason: String,
        /// The node's text form.
        text: String,
    },
    /// The program needs something this executor does not have.
    #[error("{0}")]
    Unsupported(String),
}

impl RunError {
    /// An error of this node.
    pub fn node(program: &Program, n: crate::ir::NodeId, reason: impl Into<String>) -> Self {
        let node = program.graph.node(n);
        RunError::Node {
            node: node.name.to_string(),
            module: node.module.path().to_string(),
            reason: reason.into(),
            text: crate::ir::text::node_line(program, n),
        }
    }
}
