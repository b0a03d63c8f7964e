//! Decompositions: operators expressed by simpler ones, for runtimes that lack a kernel.
//!
//! One function an operator, in the file of its family. Whoever lowers says which operators to keep; everything else
//! that has a decomposition is expanded, and what comes out is expanded again.

mod activation;
mod attention;
mod conv;
mod create;
mod einsum;
mod index;
mod integers;
mod matmul;
mod norm;
mod pad;
mod pool;
mod pool3d;
mod quantized;
mod reduce;
mod resize;
mod rnn;
mod shape;
mod sort;

pub use integers::IntegerArithmetic;
pub use pad::NARROW;
pub use rnn::{Unroll, is_sequence, is_stack};
pub(crate) use rnn::{is_steps, one_step};

use super::{Pass, PassFailure};
use crate::dtype::DType;
use crate::ir::{Arg, ConstKind, ModuleStack, NewNode, Node, NodeId, Program, TensorType, ValueId};
use crate::ops::{self, OpDef};
use crate::symint::SymInt;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The values that replace a node's outputs, or fewer when nobody reads the rest; `None` when this call cannot be
/// expressed, which leaves the node as it is.
type Values = Result<Option<Vec<ValueId>>, PassFailure>;

/// Expresses one node.
type Rule = fn(&mut Build<'_>, &Node) -> Values;

type Table = &'static [(&'static str, Rule)];

static TABLES: &[Table] = &[
    activation::TABLE,
    attention::TABLE,
    conv::TABLE,
    create::TABLE,
    einsum::TABLE,
    index::TABLE,
    matmul::TABLE,
    norm::TABLE,
    pad::TABLE,
    pool::TABLE,
    pool3d::TABLE,
    quantized::TABLE,
    reduce::TABLE,
    resize::TABLE,
    rnn::TABLE,
    shape::TABLE,
    sort::TABLE,
];

/// One value in place of the only, or the first, output.
fn one(v: ValueId) -> Values {
    Ok(Some(vec![v]))
}

/// Expands operators until only kept ones are left, or ones without a decomposition.
#[derive(Copy, Clone)]
pub struct Decompose {
    /// Whether a node stays as it is.
    pub keep: fn(&Program, NodeId) -> bool,
}

impl std::fmt::Debug for Decompose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompose")
    }
}

/// Whether there is a decomposition of this operator.
pub fn exists(op: &OpDef) -> bool {
    rule(op).is_some()
}

/// Names of the operators that have a decomposition.
pub fn operators() -> impl Iterator<Item = &'static str> {
    TABLES.iter().flat_map(|t| t.iter().map(|(name, _)| *name))
}

fn rule(op: &OpDef) -> Option<Rule> {
    static BY_NAME: LazyLock<HashMap<&str, Rule>> =
        LazyLock::new(|| TABLES.iter().flat_map(|t| t.iter().copied()).collect());
    BY_NAME.get(op.name).copied()
}

impl Pass for Decompose {
    fn name(&self) -> &'static str {
        "decompose"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        expand(program, |p, n| if (self.keep)(p, n) { None } else { rule(p.graph.node(n).op()) })
    }
}

/// Puts what rules make in the place of nodes, and in the place of nodes in that, until no node has a rule.
fn expand(
    program: &mut Program,
    rule_of: impl Fn(&Program, NodeId) -> Option<Rule>,
) -> Result<bool, PassFailure> {
    let mut work: Vec<NodeId> = program.graph.nodes().rev().collect();
    let mut changed = false;
    // Expansions get simpler step by step; the bound only guards against a circle in the tables.
    let mut budget = 1_000_000usize;
    while let Some(n) = work.pop() {
        let Some(rule) = rule_of(program, n) else { continue };
        let node = program.graph.node(n).clone();
        budget = budget
            .checked_sub(1)
            .ok_or_else(|| PassFailure("decompositions do not come to an end".into()))?;
        let mut build = Build { program, at: Some(n), module: node.module.clone(), made: vec![] };
        let fail = |e: PassFailure| PassFailure(format!("{} ({}): {}", node.name, node.op().name, e.0));
        let result = rule(&mut build, &node).map_err(fail)?;
        let made = build.made;
        let Some(outputs) = result else {
            program.graph.erase_all(&made);
            continue;
        };
        for (&from, &to) in node.outputs().iter().zip(&outputs) {
            program.graph.replace_uses(from, to, None);
        }
        program.graph.erase(n);
        work.extend(made.into_iter().rev());
        changed = true;
    }
    Ok(changed)
}

/// Makes nodes in front of the one that is being expanded, or at the end.
pub(super) struct Build<'p> {
    pub(super) program: &'p mut Program,
    at: Option<NodeId>,
    module: ModuleStack,
    made: Vec<NodeId>,
}

impl Build<'_> {
    /// All outputs of an operator.
    pub(super) fn all(
        &mut self,
        op: &'static OpDef,
        args: impl Into<Vec<Arg>>,
    ) -> Result<Vec<ValueId>, PassFailure> {
        let new = NewNode::new(op, args).in_module(&self.module);
        let n = match self.at {
            Some(at) => self.program.graph.insert_before(at, new)?,
            None => self.program.graph.append(new)?,
        };
        self.made.push(n);
        Ok(self.program.graph.node(n).outputs().to_vec())
    }

    /// The first output of an operator.
    pub(super) fn op(
        &mut self,
        op: &'static OpDef,
        args: impl Into<Vec<Arg>>,
    ) -> Result<ValueId, PassFailure> {
        Ok(self.all(op, args)?[0])
    }

    /// The type of a value.
    pub(super) fn ty(&self, v: ValueId) -> &TensorType {
        self.program.graph.ty(v)
    }

    /// The tensor in an argument.
    pub(super) fn tensor(&self, node: &Node, i: usize) -> Result<ValueId, PassFailure> {
        ops::views::value(node.arg(i)).ok_or_else(|| PassFailure(format!("argument {i} is no tensor")))
    }

    /// A tensor argument under another shape.
    pub(super) fn view(&mut self, x: ValueId, shape: Vec<SymInt>) -> Result<ValueId, PassFailure> {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.op(&ops::VIEW, [x.into(), Arg::Ints(shape)])
    }

    /// Dimensions in another order.
    pub(super) fn permute(&mut self, x: ValueId, order: &[usize]) -> Result<ValueId, PassFailure> {
        if order.iter().enumerate().all(|(i, &d)| i == d) {
            return Ok(x);
        }
        self.op(&ops::PERMUTE, [x.into(), Arg::ints(order.iter().copied())])
    }

    /// A tensor times a number.
    pub(super) fn scale(&mut self, x: ValueId, by: f64) -> Result<ValueId, PassFailure> {
        if by == 1.0 {
            return Ok(x);
        }
        self.op(&ops::MUL_SCALAR, [x.into(), Arg::Float(by)])
    }

    /// `start..end` of dimension `d`.
    pub(super) fn slice(
        &mut self,
        x: ValueId,
        d: usize,
        start: SymInt,
        end: SymInt,
    ) -> Result<ValueId, PassFailure> {
        self.op(&ops::SLICE, [x.into(), d.into(), Arg::Int(start), Arg::Int(end)])
    }

    /// Every `step`-th of `count` entries of dimension `d`, from `start` on.
    pub(super) fn steps(
        &mut self,
        x: ValueId,
        d: usize,
        start: i64,
        count: &SymInt,
        step: i64,
    ) -> Result<ValueId, PassFailure> {
        let end = (count.clone() - 1) * step + 1 + start;
        if start == 0 && step == 1 && self.ty(x).shape[d] == end {
            return Ok(x);
        }
        self.op(&ops::SLICE, [x.into(), d.into(), start.into(), Arg::Int(end), step.into()])
    }

    /// Entry `i` of dimension `d`, which disappears.
    pub(super) fn select(&mut self, x: ValueId, d: usize, i: i64) -> Result<ValueId, PassFailure> {
        self.op(&ops::SELECT, [x.into(), d.into(), i.into()])
    }

    /// `before` and `after` copies of `value` around dimension `d`.
    pub(super) fn pad(
        &mut self,
        x: ValueId,
        d: usize,
        (before, after): (i64, i64),
        value: f64,
    ) -> Result<ValueId, PassFailure> {
        if before == 0 && after == 0 {
            return Ok(x);
        }
        // Pairs for the dimensions from the last one down to `d`.
        let mut pads = vec![0; 2 * (self.ty(x).rank() - d)];
        let last = pads.len() - 2;
        (pads[last], pads[last + 1]) = (before, after);
        self.op(&ops::CONSTANT_PAD_ND, [x.into(), Arg::ints(pads), Arg::Float(value)])
    }

    /// Tensors joined along dimension `d`.
    pub(super) fn cat(&mut self, parts: Vec<ValueId>, d: usize) -> Result<ValueId, PassFailure> {
        match parts[..] {
            [only] => Ok(only),
            _ => self.op(&ops::CAT, [Arg::Values(parts), d.into()]),
        }
    }

    /// A tensor in another element type.
    pub(super) fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, PassFailure> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.op(&ops::TO_COPY, [x.into(), dtype.into()])
    }

    /// A tensor repeated up to `shape`.
    pub(super) fn expand(&mut self, x: ValueId, shape: Vec<SymInt>) -> Result<ValueId, PassFailure> {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.op(&ops::EXPAND, [x.into(), Arg::Ints(shape)])
    }

    /// A tensor of one value.
    pub(super) fn full(
        &mut self,
        shape: Vec<SymInt>,
        value: f64,
        dtype: DType,
    ) -> Result<ValueId, PassFailure> {
        self.op(&ops::FULL, [Arg::Ints(shape), Arg::Float(value), dtype.into()])
    }

    /// A tensor that the program carries from now on.
    pub(super) fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.program.add_constant(name, ConstKind::Tensor, tensor)
    }

    /// Whether anybody reads output `i` of the node.
    pub(super) fn is_read(&self, node: &Node, i: usize) -> bool {
        let g = &self.program.graph;
        node.outputs().get(i).is_some_and(|&v| !g.value(v).uses().is_empty() || g.is_output(v))
    }
}

/// The type of a node's first output.
fn out_type(b: &Build<'_>, node: &Node) -> TensorType {
    b.ty(node.output()).clone()
}

/// The number in an argument.
fn number(n: &Node, i: usize) -> Result<f64, PassFailure> {
    ops::views::float(n.arg(i)).ok_or_else(|| PassFailure(format!("argument {i} is no number")))
}

/// The integer in an argument.
fn integer(n: &Node, i: usize) -> Result<i64, PassFailure> {
    ops::views::int(n.arg(i)).ok_or_else(|| PassFailure(format!("argument {i} is no plain integer")))
}

/// A dimension in an argument, counted from the front.
fn dim(n: &Node, i: usize, rank: usize) -> Result<usize, PassFailure> {
    Ok(ops::wrap_dim(integer(n, i)?, rank)?)
}

/// A list argument widened to `n` entries; an empty one becomes `default`.
fn widened(node: &Node, i: usize, n: usize, default: &[i64]) -> Result<Vec<i64>, PassFailure> {
    match ops::views::ints(node.arg(i)) {
        Some(l) if l.is_empty() => Ok(default.to_vec()),
        Some(l) if l.len() == 1 => Ok(vec![l[0]; n]),
        Some(l) => Ok(l),
        None => Err(PassFailure(format!("argument {i} is no list of integers"))),
    }
}
