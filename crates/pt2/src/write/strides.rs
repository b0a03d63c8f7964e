//! How values lie in memory when PyTorch runs the program, as far as it is certain: whether a `view` is possible there
//! depends on it.

use crate::import::{Shared, Step, contiguous, view_strides};
use lowbit_core::SymInt;
use lowbit_core::ir::{Arg, Graph, Node, NodeId, Program, ValueId};
use lowbit_core::ops::OpDef;
use std::cmp::Ordering;
use std::collections::HashMap;

/// What is known of each value.
#[derive(Debug, Default)]
pub struct Strides {
    /// Strides; absent where they are not certain.
    known: HashMap<ValueId, Vec<SymInt>>,
    /// The value whose memory a view shares.
    roots: HashMap<ValueId, ValueId>,
}

/// Operators whose results are laid out in another way than the order of their dimensions, or as their operands happen to
/// be: attention returns heads where it computed them, recurrent layers with the batch first turn their result, and so on.
const OTHERWISE: &[&str] = &[
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_attention_math",
    "aten.index",
    "aten.lstm",
    "aten.gru",
    "aten.rnn_tanh",
    "aten.rnn_relu",
    "aten.einsum",
    "aten.tensordot",
];

/// Operators that make their result in order whatever their operands are.
const IN_ORDER: &[&str] = &[
    "aten.mm",
    "aten.bmm",
    "aten.addmm",
    "aten.baddbmm",
    "aten.linear",
    "aten.embedding",
    "aten.reshape",
    "aten.flatten",
    "aten.native_layer_norm",
];

/// Operators that repeat their operand without moving it.
const EXPANDS: &[&str] = &["aten.expand", "aten.expand_as", "aten.broadcast_to"];

/// Operators whose result is laid out as operand 0 is.
const KEEP_FIRST: &[&str] = &["aten.slice_scatter", "aten.select_scatter", "aten.copy"];

impl Strides {
    /// Inputs and constants are in order.
    pub fn new(program: &Program) -> Strides {
        let mut s = Strides::default();
        let g = &program.graph;
        for v in g.inputs().iter().copied().chain(program.constants.iter().map(|(_, c)| c.value)) {
            s.known.insert(v, contiguous(&g.ty(v).shape));
        }
        s
    }

    /// The strides of a value, if they are certain.
    pub fn of(&self, v: ValueId) -> Option<&[SymInt]> {
        self.known.get(&v).map(|s| &s[..])
    }

    /// The value that owns the memory of `v`.
    pub fn root(&self, v: ValueId) -> ValueId {
        self.roots.get(&v).copied().unwrap_or(v)
    }

    /// Whether a `view` of operand 0 under the result's shape is surely possible.
    pub fn can_view(&self, g: &Graph, node: &Node) -> bool {
        let Some(x) = node.operands().next() else { return false };
        let (from, to) = (&g.ty(x).shape, &g.ty(node.output()).shape);
        self.of(x).is_some_and(|strides| view_strides(from, strides, to).is_some())
    }

    /// Follows a node.
    pub fn node(&mut self, g: &Graph, n: NodeId) {
        let node = g.node(n);
        let to: Vec<_> = node.outputs().iter().map(|&v| g.ty(v).clone()).collect();
        let none = vec![None; to.len()];
        if let Some(Arg::Value(x)) = node.args().first() {
            if EXPANDS.contains(&node.op().packet()) {
                self.roots.insert(node.output(), self.root(*x));
                let found = self.of(*x).map(|s| expanded(&g.ty(*x).shape, s, &to[0].shape));
                self.known.extend(found.map(|s| (node.output(), s)));
                return;
            }
            let (op, args) = (node.op(), node.args());
            let shared = Shared { op, args, from: g.ty(*x), from_meta: None, to: &to, to_meta: &none };
            let steps = shared.steps();
            if !steps.is_empty() {
                for (&v, step) in node.outputs().iter().zip(&steps) {
                    self.roots.insert(v, self.root(*x));
                    let found = self.of(*x).and_then(|s| after(step, op, &g.ty(*x).shape, s));
                    self.known.extend(found.map(|s| (v, s)));
                }
                return;
            }
        }
        for (&v, t) in node.outputs().iter().zip(&to) {
            let found = self.fresh(g, node, &t.shape);
            self.known.extend(found.map(|s| (v, s)));
        }
    }

    /// The strides of a result with memory of its own.
    fn fresh(&self, g: &Graph, node: &Node, shape: &[SymInt]) -> Option<Vec<SymInt>> {
        let in_order = contiguous(shape);
        if let Some(Arg::Str(format)) = argument(node, "memory_format") {
            match &**format {
                "contiguous_format" => return Some(in_order),
                "preserve_format" => {}
                _ => return None,
            }
        }
        let packet = node.op().packet();
        if IN_ORDER.contains(&packet) {
            return Some(in_order);
        }
        let ranks: Vec<usize> = node.operands().map(|v| g.ty(v).rank()).collect();
        if OTHERWISE.contains(&packet) || (packet == "aten.matmul" && ranks.first() < ranks.get(1)) {
            return None;
        }
        let is_in_order = |v| self.of(v).is_some_and(|s| is_contiguous(&g.ty(v).shape, s));
        if node.operands().all(is_in_order) {
            return Some(in_order);
        }
        let first = node.operands().next()?;
        if KEEP_FIRST.contains(&packet) {
            return self.of(first).filter(|s| is_dense(&g.ty(first).shape, s)).map(<[_]>::to_vec);
        }
        node.op().traits.elementwise.then(|| self.pointwise(g, node, shape)).flatten()
    }

    /// The order that an operator on single elements gives its result: that of its operands' strides, earlier operands
    /// first (`TensorIterator::reorder_dimensions`).
    fn pointwise(&self, g: &Graph, node: &Node, shape: &[SymInt]) -> Option<Vec<SymInt>> {
        let sizes = numbers(shape)?;
        let mut operands = vec![];
        for v in node.operands() {
            let (own, strides) = (numbers(&g.ty(v).shape)?, numbers(self.of(v)?)?);
            // A dimension that is repeated has no step.
            let step = |d: usize| match (d + own.len()).checked_sub(sizes.len()) {
                Some(k) if own[k] != 1 || sizes[d] == 1 => strides[k],
                _ => 0,
            };
            operands.push((0..sizes.len()).map(step).collect::<Vec<i64>>());
        }
        let order = |a: usize, b: usize| {
            for s in operands.iter().filter(|s| s[a] != 0 && s[b] != 0) {
                match s[a].cmp(&s[b]) {
                    Ordering::Equal if sizes[a] > sizes[b] => return Ordering::Greater,
                    Ordering::Equal => {}
                    known => return known,
                }
            }
            Ordering::Equal
        };
        // Innermost first. Not every pair is comparable, so the result depends on how PyTorch sorts: by insertion.
        let mut inner: Vec<usize> = (0..sizes.len()).rev().collect();
        for i in 1..inner.len() {
            let mut at = i;
            for below in (0..i).rev() {
                match order(inner[below], inner[at]) {
                    Ordering::Greater => {
                        inner.swap(below, at);
                        at = below;
                    }
                    Ordering::Less => break,
                    Ordering::Equal => {}
                }
            }
        }
        let mut strides = vec![SymInt::Known(1); sizes.len()];
        let mut next = 1i64;
        for d in inner {
            strides[d] = next.into();
            next = next.saturating_mul(sizes[d]);
        }
        Some(strides)
    }
}

fn numbers(list: &[SymInt]) -> Option<Vec<i64>> {
    list.iter().map(SymInt::known).collect()
}

fn argument<'n>(node: &'n Node, name: &str) -> Option<&'n Arg> {
    node.op().schema().index_of(name).and_then(|i| node.args().get(i))
}

/// The strides of a tensor that is repeated to a larger shape.
fn expanded(shape: &[SymInt], strides: &[SymInt], to: &[SymInt]) -> Vec<SymInt> {
    let stride = |d: usize| match (d + shape.len()).checked_sub(to.len()) {
        Some(k) if shape[k] == to[d] => strides[k].clone(),
        _ => 0.into(),
    };
    (0..to.len()).map(stride).collect()
}

/// The strides of a view.
fn after(step: &Step, op: &OpDef, shape: &[SymInt], strides: &[SymInt]) -> Option<Vec<SymInt>> {
    let mut out = strides.to_vec();
    match step {
        Step::Same if op.packet() == "aten.contiguous" => out = contiguous(shape),
        Step::Same => {}
        Step::Permute(order) => out = order.iter().map(|&d| strides[d].clone()).collect(),
        Step::Slice { dim, step, .. } => out[*dim] = out[*dim].clone() * *step,
        Step::Select { dim, .. } => drop(out.remove(*dim)),
        Step::Reshape(to) => {
            // Others than these are always possible; a view that is not is written as a reshape.
            const COPIES: &[&str] = &[
                "aten.reshape",
                "aten.flatten",
                "aten.reshape_as",
                "aten.ravel",
                "aten.view",
                "aten._unsafe_view",
            ];
            let known = || shape.iter().chain(strides).chain(to).all(|n| n.known().is_some());
            let in_order = || (COPIES.contains(&op.packet()) && known()).then(|| contiguous(to));
            return view_strides(shape, strides, to).or_else(in_order);
        }
        Step::Opaque(..) => return None,
    }
    Some(out)
}

fn is_contiguous(shape: &[SymInt], strides: &[SymInt]) -> bool {
    let one = SymInt::Known(1);
    contiguous(shape).iter().zip(strides).zip(shape).all(|((a, b), n)| a == b || *n == one)
}

/// Whether elements fill their memory without gaps, in whatever order.
fn is_dense(shape: &[SymInt], strides: &[SymInt]) -> bool {
    let (Some(shape), Some(strides)) = (numbers(shape), numbers(strides)) else { return false };
    let mut dims: Vec<(i64, i64)> = strides.into_iter().zip(shape).filter(|(_, n)| *n != 1).collect();
    dims.sort_unstable();
    let mut next = 1i64;
    dims.into_iter().all(|(stride, n)| {
        let fits = stride == next;
        next = next.saturating_mul(n);
        fits
    })
}
