//! Decompositions: operators expressed by simpler ones, for runtimes that lack a kernel.
//!
//! One function an operator, in the file of its family. Whoever lowers says which operators to keep; everything else
//! that has a decomposition is expanded, and what comes out is expanded again.

mod activation;
mod layers;
mod pool;
mod reduce;
mod rnn;
mod shape;

use super::{Pass, PassFailure};
use crate::dtype::DType;
use crate::ir::{Arg, ModuleStack, NewNode, Node, NodeId, Program, TensorType, ValueId};
use crate::ops::{self, OpDef};
use crate::symint::SymInt;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Gives the values that replace a node's outputs; `None` when this call cannot be expressed.
type Rule = fn(&mut Build<'_>, &Node) -> Result<Option<Vec<ValueId>>, PassFailure>;

type Table = &'static [(&'static str, Rule)];

static TABLES: &[Table] =
    &[activation::TABLE, layers::TABLE, pool::TABLE, reduce::TABLE, rnn::TABLE, shape::TABLE];

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
        let mut work: Vec<NodeId> = program.graph.nodes().rev().collect();
        let mut changed = false;
        // Expansions get simpler step by step; the bound only guards against a circle in the tables.
        let mut budget = 1_000_000usize;
        while let Some(n) = work.pop() {
            if (self.keep)(program, n) {
                continue;
            }
            let node = program.graph.node(n).clone();
            let Some(rule) = rule(node.op()) else { continue };
            budget = budget
                .checked_sub(1)
                .ok_or_else(|| PassFailure("decompositions do not come to an end".into()))?;
            let mut build = Build { program, at: n, module: node.module.clone(), made: vec![] };
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
}

/// Makes nodes in front of the one that is being expanded.
pub(super) struct Build<'p> {
    pub(super) program: &'p mut Program,
    at: NodeId,
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
        let n = self.program.graph.insert_before(self.at, NewNode::new(op, args).in_module(&self.module))?;
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

    /// A tensor of one value.
    pub(super) fn full(
        &mut self,
        shape: Vec<SymInt>,
        value: f64,
        dtype: DType,
    ) -> Result<ValueId, PassFailure> {
        self.op(&ops::FULL, [Arg::Ints(shape), Arg::Float(value), dtype.into()])
    }
}

/// The element type of a node's first output.
pub(super) fn out_type(b: &Build<'_>, node: &Node) -> TensorType {
    b.ty(node.output()).clone()
}
