//! Annotations: a table beside the program that says which sites are quantized, how, and which rule said so.

use super::QuantError;
use super::spec::Spec;
use crate::ir::{NodeId, Program, Use, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A place that can be quantized: PyTorch's edge or node, with one edge for each operand.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// A value where it is made.
    Output(ValueId),
    /// One operand where it is read.
    Input(Use),
}

impl Site {
    /// Operand `slot` of `node`.
    pub fn input(node: NodeId, slot: u32) -> Self {
        Site::Input(Use { node, slot })
    }

    /// The value seen there.
    pub fn value(self, program: &Program) -> Option<ValueId> {
        match self {
            Site::Output(v) => Some(v),
            Site::Input(u) => program.graph.operand(u),
        }
    }

    /// For messages: `%relu` or `%conv#0`, with the module path.
    pub fn describe(self, program: &Program) -> String {
        let g = &program.graph;
        let (text, node) = match self {
            Site::Output(v) => (format!("%{}", g.value(v).name), g.producer(v)),
            Site::Input(u) => (format!("%{}#{}", g.node(u.node).name, u.slot), Some(u.node)),
        };
        match node.map(|n| g.node(n).module.path()) {
            Some(path) if !path.is_empty() => format!("{text} ({path})"),
            _ => text,
        }
    }
}

/// One annotated site.
#[derive(Clone, Debug)]
pub struct Annotation {
    /// How it is quantized.
    pub spec: Spec,
    /// The rule that said so.
    pub rule: Arc<str>,
}

/// Annotated sites, with the rule that annotated each, and why other nodes were left alone.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    sites: BTreeMap<Site, Annotation>,
    /// Nodes a rule has settled, with that rule's name.
    claimed: BTreeMap<NodeId, Arc<str>>,
    /// Nodes whose inputs must not be shared implicitly with other readers' (`allow_implicit_sharing = False`).
    unshared: BTreeSet<NodeId>,
    /// Why a node was left in floating point, where a rule knows.
    reasons: BTreeMap<NodeId, String>,
    /// Why a node is quantized in another way than it was configured.
    remarks: BTreeMap<NodeId, String>,
    rule: Arc<str>,
}

impl Annotations {
    /// Names the rule that the following calls speak for.
    pub fn set_rule(&mut self, rule: &str) -> &mut Self {
        if &*self.rule != rule {
            self.rule = rule.into();
        }
        self
    }

    /// Records how `site` is quantized; `None` leaves it in floating point.
    pub fn set(&mut self, site: Site, spec: impl Into<Option<Spec>>) -> &mut Self {
        if let Some(spec) = spec.into() {
            self.sites.insert(site, Annotation { spec, rule: self.rule.clone() });
        }
        self
    }

    /// Takes an annotation back.
    pub fn remove(&mut self, site: Site) -> Option<Annotation> {
        self.sites.remove(&site)
    }

    /// The annotation of a site.
    pub fn get(&self, site: Site) -> Option<&Annotation> {
        self.sites.get(&site)
    }

    /// All annotated sites in a fixed order that has no meaning; grouping goes by program order.
    pub fn iter(&self) -> impl Iterator<Item = (Site, &Annotation)> {
        self.sites.iter().map(|(s, a)| (*s, a))
    }

    /// Number of annotated sites.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether no site is annotated.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Marks nodes as settled, so that no later rule takes them.
    pub fn claim(&mut self, nodes: &[NodeId]) {
        for &n in nodes {
            self.claimed.entry(n).or_insert_with(|| self.rule.clone());
        }
    }

    /// Whether a rule has settled this node.
    pub fn is_claimed(&self, n: NodeId) -> bool {
        self.claimed.contains_key(&n)
    }

    /// The rule that settled this node.
    pub fn claimed_by(&self, n: NodeId) -> Option<&str> {
        self.claimed.get(&n).map(|r| &**r)
    }

    /// Forbids sharing this node's inputs with other readers of the same values.
    pub fn forbid_implicit_sharing(&mut self, n: NodeId) {
        self.unshared.insert(n);
    }

    /// Whether this node's inputs may share observers with other readers of the same values.
    pub fn allows_implicit_sharing(&self, n: NodeId) -> bool {
        !self.unshared.contains(&n)
    }

    /// Says why a node stays in floating point; the first reason is kept.
    pub fn leave(&mut self, n: NodeId, reason: impl Into<String>) {
        self.reasons.entry(n).or_insert_with(|| reason.into());
    }

    /// Why a node stays in floating point.
    pub fn reason(&self, n: NodeId) -> Option<&str> {
        self.reasons.get(&n).map(|r| &**r)
    }

    /// Says why a node is quantized in another way than it was configured: in more bits, say.
    pub fn remark(&mut self, n: NodeId, why: impl Into<String>) {
        self.remarks.insert(n, why.into());
    }

    /// Why a node is quantized in another way than it was configured.
    pub fn remarked(&self, n: NodeId) -> Option<&str> {
        self.remarks.get(&n).map(|r| &**r)
    }

    /// An error about a site.
    pub fn bad_spec(program: &Program, site: Site, reason: impl Into<String>) -> QuantError {
        QuantError::BadSpec { site: site.describe(program), reason: reason.into() }
    }
}
