//! Plans: a program with its shapes known, as steps over one arena.
//!
//! Planning decides, once for each set of input shapes, what a run only carries out: which operators join a convolution
//! or product (`fuse`), which run on integers (`integers`), in which memory format each value is kept (`layout`), what is the same in every run
//! (`constants`), which convolutions take turns (`bands`), and which values share memory (`memory`).

mod bands;
mod build;
mod constants;
mod copies;
mod fuse;
mod in_place;
mod integer_steps;
mod integers;
mod layout;
mod memory;
mod packs;

pub use bands::{Group, Turn};
pub use constants::constant_values;
pub use integer_steps::{IntegerStep, Layer, RowLayer};
pub use layout::Layout;
pub use packs::{Packed, Packs};

use crate::dense::conv::Filter;
use crate::dense::geometry::Geometry;
use crate::kernel::{ConcreteArg, Kernel};
use crate::memory::Aligned;
use crate::simd::{Isa, Stages, UNBOUNDED};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType;
use lowbit_core::executor::{RunError, Watchlist};
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::symint::Bindings;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a value's elements are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The caller's input.
    Input(usize),
    /// A constant of the program, or the current state of a buffer.
    Const(usize),
    /// A value that is the same in every run, computed when planning.
    Folded(usize),
    /// In the arena, from this byte on.
    Arena(usize),
    /// In another slot, from this byte on.
    Alias(usize, usize),
    /// Not decided yet.
    Nowhere,
}

/// A value in one memory format.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Where it is.
    pub place: Place,
    /// Element type.
    pub dtype: DType,
    /// Sizes as the program has them.
    pub shape: Vec<usize>,
    /// Order of its elements.
    pub layout: Layout,
    /// Sizes in the order of memory.
    pub dims: Vec<usize>,
}

impl Slot {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.dtype.size()
    }
}

/// What a step does.
#[derive(Debug)]
pub enum Run {
    /// Nothing: the output is another slot.
    Nothing,
    /// Changes the memory format.
    Reorder,
    /// Quantizes, and puts the result channels last.
    QuantizeLast,
    /// Calls a kernel; it is told sizes in the order of memory.
    Kernel(Kernel),
    /// Calls a kernel that knows channels last; it is told sizes as the program has them.
    ChannelsLast(Kernel),
    /// A convolution, channels last; the second input is the residual.
    Convolve(Geometry, Arc<Filter>, (f32, f32)),
    /// `x · weights + bias`; the second input is the residual.
    Multiply(Arc<Product>, (f32, f32)),
    /// Bounds its output, which holds the input.
    Bound(f32, f32),
    /// Something on quantized integers.
    Integer(IntegerStep),
}

/// The packed weights of a matrix product.
#[derive(Debug)]
pub struct Product {
    pub(crate) packed: Arc<Packed>,
    pub(crate) bias: Aligned,
}

/// One thing to do.
#[derive(Debug)]
pub struct Step {
    /// The node it is for.
    pub node: NodeId,
    /// What to do.
    pub run: Run,
    /// Arguments with symbols resolved.
    pub args: Vec<ConcreteArg>,
    /// Operands, by slot.
    pub inputs: Vec<usize>,
    /// Outputs, by slot.
    pub outputs: Vec<usize>,
    /// Watched values that exist once this step has run.
    pub watched: Vec<(ValueId, usize)>,
    /// What a residual is added to and what is bounded within the step, where the extremes are watched.
    pub(crate) passed: Stages<Vec<ValueId>>,
}

impl Step {
    /// The bounds of the result of a step that finds extremes on the way.
    pub fn clamp(&self) -> (f32, f32) {
        match self.run {
            Run::Convolve(_, _, clamp) | Run::Multiply(_, clamp) => clamp,
            _ => UNBOUNDED,
        }
    }
}

/// A program made ready for certain input shapes.
#[derive(Debug)]
pub struct Plan {
    /// Values and their formats.
    pub slots: Vec<Slot>,
    /// In order.
    pub steps: Vec<Step>,
    /// All of them, in groups.
    pub groups: Vec<Group>,
    /// Bytes of the arena that computed values lie in.
    pub arena: usize,
    /// Watched inputs and constants: there before the first step.
    pub watched_first: Vec<(ValueId, usize)>,
    /// The user's outputs, then what is written back, in C order.
    pub results: Vec<usize>,
    /// Values computed when planning.
    pub folded: Vec<Tensor>,
}

/// What all plans of a program share: it does not depend on input shapes.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Also by whether they are transformed, which depends on the image's size.
    filters: BTreeMap<(NodeId, bool), Arc<Filter>>,
    products: BTreeMap<NodeId, Arc<Product>>,
    layers: BTreeMap<NodeId, Arc<Layer>>,
    row_layers: BTreeMap<NodeId, Arc<RowLayer>>,
    folded: BTreeMap<ValueId, Tensor>,
    packs: Packs,
}

impl Shared {
    /// Nothing yet; weights that other sessions have packed are in `packs`.
    pub fn new(packs: &Packs) -> Shared {
        Shared { packs: packs.clone(), ..Shared::default() }
    }
}

impl Plan {
    /// Plans `program` for symbols of these values. `watch` values are shown to the probe, so they are all made.
    /// `constant` is [`constant_values`] of the program. With `simulate`, quantize and dequantize nodes and what is between
    /// them run as the program has them, in floating point. `alone`: no threads share steps, so that these may take turns.
    ///
    /// # Errors
    /// When an operator has no kernel, or a shape cannot be resolved.
    pub fn new(
        program: &Program,
        bindings: &Bindings,
        watch: &Watchlist,
        constant: &[bool],
        shared: &mut Shared,
        isa: Isa,
        simulate: bool,
        alone: bool,
    ) -> Result<Plan, RunError> {
        let builder = build::Builder::new(program, bindings, watch, constant, shared, isa)?;
        let mut plan = builder.finish(simulate)?;
        in_place::bound(program, &mut plan);
        plan.groups = bands::groups(&plan, watch, alone);
        memory::assign(&mut plan);
        Ok(plan)
    }

    /// The last step that needs each slot's bytes, by what [`root`](Self::root) they are of: one behind all steps for results.
    fn last_steps(&self) -> Vec<usize> {
        let mut last = vec![0; self.slots.len()];
        for (at, step) in self.steps.iter().enumerate() {
            let watched = step.watched.iter().map(|(_, s)| s);
            for &s in step.inputs.iter().chain(&step.outputs).chain(watched) {
                last[self.root(s)] = at;
            }
        }
        for &s in &self.results {
            last[self.root(s)] = self.steps.len();
        }
        last
    }

    /// The slot that this one's bytes are of.
    pub fn root(&self, s: usize) -> usize {
        self.origin(s).0
    }

    /// The slot that this one's bytes are of, and from which on.
    pub fn origin(&self, mut s: usize) -> (usize, usize) {
        let mut start = 0;
        while let Place::Alias(of, at) = self.slots[s].place {
            (s, start) = (of, start + at);
        }
        (s, start)
    }

    /// Whether two slots hold the same elements, however they are looked at.
    pub fn same(&self, a: usize, b: usize) -> bool {
        self.origin(a) == self.origin(b) && self.slots[a].bytes() == self.slots[b].bytes()
    }
}

/// The arguments of a node with symbols resolved and operands numbered.
fn concrete(program: &Program, n: NodeId, bindings: &Bindings) -> Result<Vec<ConcreteArg>, RunError> {
    let mut slot = 0;
    let mut next = || {
        slot += 1;
        slot - 1
    };
    let eval = |n: &lowbit_core::SymInt| n.eval(bindings);
    let args = program.graph.node(n).args().iter().map(|a| {
        Ok(match a {
            Arg::None => ConcreteArg::None,
            Arg::Value(_) => ConcreteArg::Tensor(next()),
            Arg::Values(vs) => ConcreteArg::Tensors(vs.iter().map(|_| next()).collect()),
            Arg::OptValues(vs) => ConcreteArg::OptTensors(vs.iter().map(|v| v.map(|_| next())).collect()),
            Arg::Int(n) => ConcreteArg::Int(eval(n)?),
            Arg::Ints(l) => ConcreteArg::Ints(l.iter().map(eval).collect::<Result<_, _>>()?),
            Arg::Float(x) => ConcreteArg::Float(*x),
            Arg::Floats(l) => ConcreteArg::Floats(l.clone()),
            Arg::Bool(b) => ConcreteArg::Bool(*b),
            Arg::Bools(l) => ConcreteArg::Bools(l.clone()),
            Arg::Str(s) => ConcreteArg::Str(s.clone()),
            Arg::DType(d) => ConcreteArg::DType(*d),
            _ => ConcreteArg::None,
        })
    });
    args.collect::<Result<_, lowbit_core::symint::EvalError>>()
        .map_err(|e| RunError::node(program, n, e.to_string()))
}
