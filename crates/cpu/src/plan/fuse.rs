//! Which operators join a convolution or product: the sums are added to and clamped before they are stored.

use super::copies::copies;
use crate::simd::{Stages, UNBOUNDED};
use lowbit_core::DType;
use lowbit_core::executor::Watchlist;
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops;
use std::collections::{BTreeMap, BTreeSet};

/// A convolution or product and what joins it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// The convolution or product.
    pub root: NodeId,
    /// Added to the sums.
    pub residual: Option<ValueId>,
    /// Bounds of the result; infinities for none.
    pub clamp: (f32, f32),
    /// What a residual is added to, and what is bounded, where only its extremes are watched.
    pub passed: Stages<Vec<ValueId>>,
    /// What the last of them computes.
    pub output: ValueId,
}

/// All groups, by the node that completes each.
#[derive(Debug, Default)]
pub struct Fusion {
    /// Keyed by the last node of the group, at whose place it runs.
    pub groups: BTreeMap<NodeId, Fused>,
    /// Nodes that run as part of a later one.
    pub joined: BTreeSet<NodeId>,
}

impl Fusion {
    /// Groups around the nodes for which `is_root`. Nothing joins past a value whose elements are watched; extremes are found on
    /// the way.
    pub fn new(program: &Program, watch: &Watchlist, is_root: impl Fn(NodeId) -> bool) -> Fusion {
        let g = &program.graph;
        let mut fusion = Fusion::default();
        for root in g.nodes().filter(|&n| is_root(n)) {
            let mut last = root;
            let mut fused = Fused {
                root,
                residual: None,
                clamp: UNBOUNDED,
                passed: Stages::default(),
                output: g.node(root).output(),
            };
            while let Some((values, next)) = reader(program, watch, fused.output) {
                if fusion.joined.contains(&next) || fusion.groups.contains_key(&next) {
                    break;
                }
                let (v, user) = (values[values.len() - 1], g.node(next));
                let same = user.outputs().len() == 1
                    && g.ty(user.output()) == g.ty(v)
                    && g.ty(v).dtype == DType::F32;
                let bounds = ops::bounds(user.op(), user.args()).filter(|_| same);
                let watched = values.iter().copied().filter(|v| watch.extremes.contains(v)).collect();
                if same && *user.op() == ops::ADD && fused.residual.is_none() {
                    let other = user.operands().find(|&o| o != v);
                    let one = matches!(user.arg(2), Arg::Int(n) if n.known() == Some(1))
                        || matches!(user.arg(2), Arg::Float(x) if *x == 1.0);
                    match other {
                        Some(o) if one && g.ty(o) == g.ty(v) => {
                            fused.residual = Some(o);
                            fused.passed.sums = watched;
                        }
                        _ => break,
                    }
                } else if let Some(bounds) = bounds {
                    fused.clamp = bounds;
                    fused.passed.results = watched;
                } else {
                    break;
                }
                fusion.joined.insert(last);
                fusion.joined.extend(values[1..].iter().filter_map(|&v| g.producer(v)));
                (last, fused.output) = (next, user.output());
                if bounds.is_some() {
                    break;
                }
            }
            fusion.groups.insert(last, fused);
        }
        fusion
    }
}

/// Who alone reads a value, past operators that copy it: all that have this value, and whoever reads the last of them. `None` where
/// one is needed by others, or its elements are watched.
fn reader(program: &Program, watch: &Watchlist, value: ValueId) -> Option<(Vec<ValueId>, NodeId)> {
    let g = &program.graph;
    let mut values = vec![value];
    loop {
        let v = values[values.len() - 1];
        let [only] = g.value(v).uses() else { return None };
        if watch.elements.contains(&v) || g.is_output(v) {
            return None;
        }
        let user = g.node(only.node);
        let copy = copies(user.op()) && user.outputs().len() == 1 && user.operands().next() == Some(v);
        if !copy || g.ty(user.output()) != g.ty(v) {
            return Some((values, only.node));
        }
        values.push(user.output());
    }
}
