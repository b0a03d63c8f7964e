//! Which operator a node of the file calls.

use super::rewrite;
use crate::error::UnknownOp;
use crate::schema::{Argument, Graph, Node};
use lowbit_core::ops::{self, OpDef};
use std::collections::{HashMap, HashSet};

/// What a node is to the importer.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Target {
    /// An operator of the table. `in_place`: the node writes the result into its first operand.
    Op { op: &'static OpDef, in_place: bool },
    /// Arithmetic on sizes; the file holds the result as an expression.
    Symbolic,
    /// A check that has no result, or a hint to the compiler; dropped.
    Assertion,
    /// A region under some global setting: its graph is put in its place. `graph` counts the argument that holds it.
    Region { graph: usize },
    /// None of these.
    Unknown,
}

const ASSERTIONS: &[&str] = &[
    "aten._assert_async.default",
    "aten._assert_async.msg",
    "aten._assert_scalar.default",
    "aten._assert_tensor_metadata.default",
    "aten._print.default",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
];

const REGIONS: &[(&str, usize)] =
    &[("higher_order.wrap_with_set_grad_enabled", 1), ("higher_order.wrap_with_autocast", 4)];

/// Operators under another name than the table's: name, name in the table, whether it works in place.
const RENAMED: &[(&str, &str, bool)] = &[
    ("aten.__and__.Scalar", "aten.bitwise_and.Scalar", false),
    ("aten.__or__.Scalar", "aten.bitwise_or.Scalar", false),
    ("aten.__xor__.Scalar", "aten.bitwise_xor.Scalar", false),
    ("aten.__iand__.Tensor", "aten.bitwise_and.Tensor", true),
    ("aten.__iand__.Scalar", "aten.bitwise_and.Scalar", true),
    ("aten.__ior__.Tensor", "aten.bitwise_or.Tensor", true),
    ("aten.__ior__.Scalar", "aten.bitwise_or.Scalar", true),
    ("aten.__ixor__.Tensor", "aten.bitwise_xor.Tensor", true),
    ("aten.__ixor__.Scalar", "aten.bitwise_xor.Scalar", true),
    ("aten.transpose_.default", "aten.transpose.int", true),
    ("aten.floor_divide_.Tensor", "aten.floor_divide.default", true),
    // `pow.Scalar` has the number first.
    ("aten.pow_.Scalar", "aten.pow.Tensor_Scalar", true),
    ("aten.pow_.Tensor", "aten.pow.Tensor_Tensor", true),
];

/// The name without `torch.ops.`: `aten.relu.default`.
pub fn short(target: &str) -> &str {
    target.strip_prefix("torch.ops.").unwrap_or(target)
}

/// An operator of the table, or one that is rewritten to one.
fn lookup(name: &str) -> Option<&'static OpDef> {
    ops::lookup(name).or_else(|| rewrite::find(name))
}

/// What `node` calls.
pub fn resolve(node: &Node<'_>) -> Target {
    let name = short(&node.target);
    if ASSERTIONS.contains(&name) {
        return Target::Assertion;
    }
    if let Some((_, graph)) = REGIONS.iter().find(|(n, _)| *n == name) {
        return Target::Region { graph: *graph };
    }
    let symbolic =
        |o: &Argument<'_>| matches!(o, Argument::SymInt(_) | Argument::SymFloat(_) | Argument::SymBool(_));
    if !node.outputs.is_empty() && node.outputs.iter().all(symbolic) {
        return Target::Symbolic;
    }
    if let Some(op) = lookup(name) {
        return Target::Op { op, in_place: false };
    }
    if let Some((_, name, in_place)) = RENAMED.iter().find(|(n, ..)| *n == name) {
        return lookup(name).map_or(Target::Unknown, |op| Target::Op { op, in_place: *in_place });
    }
    // `aten.relu_.default` writes what `aten.relu.default` returns.
    if let Some((packet, overload)) = name.rsplit_once('.')
        && let Some(twin) = packet.strip_suffix('_').filter(|t| !t.ends_with('_'))
        && let Some(op) = lookup(&format!("{twin}.{overload}"))
    {
        return Target::Op { op, in_place: true };
    }
    Target::Unknown
}

/// Every call of an unknown operator, regions included, in program order.
pub fn unknown(graph: &Graph<'_>) -> Vec<UnknownOp> {
    let mut found = Found::default();
    found.visit(graph, "");
    found.ops
}

#[derive(Default)]
struct Found {
    ops: Vec<UnknownOp>,
    place: HashMap<String, usize>,
    seen: HashSet<(usize, String)>,
}

impl Found {
    fn visit(&mut self, graph: &Graph<'_>, outer: &str) {
        for node in &graph.nodes {
            let path = module_path(node).unwrap_or(outer);
            match resolve(node) {
                Target::Region { graph } => {
                    if let Some(Argument::Graph(g)) = node.inputs.get(graph).map(|i| &i.arg) {
                        self.visit(&g.graph, path);
                    }
                }
                Target::Unknown => {
                    let target = short(&node.target);
                    let at = *self.place.entry(target.to_string()).or_insert_with(|| {
                        self.ops.push(UnknownOp { target: target.into(), count: 0, modules: vec![] });
                        self.ops.len() - 1
                    });
                    self.ops[at].count += 1;
                    if self.seen.insert((at, path.to_string())) {
                        self.ops[at].modules.push(path.to_string());
                    }
                }
                _ => {}
            }
        }
    }
}

/// The path of the innermost module a node was traced in.
fn module_path<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    let stack = node.metadata.nn_module_stack.as_deref()?;
    let (_, rest) = stack.rsplit(';').next()?.split_once(',')?;
    Some(rest.rsplit_once(',')?.0)
}
