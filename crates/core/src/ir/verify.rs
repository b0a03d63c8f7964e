//! [`verify`]: the rules every program keeps, checked after each pass.
//!
//! 1. Arguments fit the operator's schema in number and kind.
//! 2. Every operand is an input, a constant, or made by an earlier node.
//! 3. Use lists say exactly who reads what.
//! 4. The recorded type of each output is the inferred one; a constant's is its tensor's.
//! 5. Names of live values are unique.
//! 6. The signature has one name an input, and one name or mutation an output.
//! 7. Per-channel parameters have one entry a channel (the shape rules of the q/dq operators check this).

use super::arena::Key;
use super::graph::{Def, NodeId, Use};
use super::program::Program;
use crate::ops::Call;
use std::collections::HashSet;
use std::fmt;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyError {
    /// The node, when one is to blame.
    pub node: Option<NodeId>,
    /// The node's text form, or what else is to blame.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// All broken rules of a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid program")?;
        for e in &self.0 {
            write!(f, "\n{}\n  in: {}", e.message, e.place)?;
        }
        Ok(())
    }
}

/// Checks the module's rules.
///
/// # Errors
/// All broken rules, in program order.
pub fn verify(program: &Program) -> Result<(), VerifyErrors> {
    let g = &program.graph;
    let mut errors = Vec::new();
    let (node_count, value_count) = g.table_sizes();
    let mut seen = vec![false; node_count];
    let mut reads: Vec<HashSet<Use>> = vec![HashSet::new(); value_count];
    let mut names = HashSet::new();

    for n in g.nodes() {
        let node = g.node(n);
        let mut fail = |message: String| {
            errors.push(VerifyError { node: Some(n), place: super::text::node_line(program, n), message });
        };
        if let Err(e) = node.op().schema().check(node.args()) {
            fail(e.to_string());
            continue;
        }
        for (slot, v) in node.operands().enumerate() {
            reads[v.index()].insert(Use { node: n, slot: u32::try_from(slot).unwrap_or(u32::MAX) });
            if let Def::Node(p, _) = g.value(v).def()
                && !seen[p.index()]
            {
                fail(format!("%{} is used before it is made", g.value(v).name));
            }
        }
        if !node.op().traits.declared_types {
            match (node.op().infer)(&Call { op: node.op(), args: node.args(), graph: g }) {
                Err(e) => fail(e.to_string()),
                Ok(types) if types.len() != node.outputs().len() => {
                    fail(format!("has {} outputs, the operator makes {}", node.outputs().len(), types.len()));
                }
                Ok(types) => {
                    for (t, &v) in types.iter().zip(node.outputs()) {
                        if *t != g.value(v).ty {
                            fail(format!(
                                "%{} is recorded as {}, inferred is {t}",
                                g.value(v).name,
                                g.value(v).ty
                            ));
                        }
                    }
                }
            }
        }
        for &v in node.outputs() {
            if !names.insert(g.value(v).name.clone()) {
                fail(format!("the name %{} is taken twice", g.value(v).name));
            }
        }
        seen[n.index()] = true;
    }

    let mut fail = |place: &str, message: String| {
        errors.push(VerifyError { node: None, place: place.into(), message });
    };
    for (v, value) in g.values() {
        let live = match value.def() {
            Def::Node(n, _) => seen[n.index()],
            _ => true,
        };
        let listed: HashSet<Use> = value.uses().iter().copied().collect();
        if live && (listed != reads[v.index()] || listed.len() != value.uses().len()) {
            fail(&value.name, format!("use list {:?} does not say who reads it", value.uses()));
        }
        if !live && (g.is_output(v) || !value.uses().is_empty()) {
            fail(&value.name, "an erased node's value is still in use".into());
        }
    }
    for (_, c) in program.constants.iter() {
        let ty = super::TensorType::new(c.tensor.dtype(), c.tensor.shape().iter().copied());
        if g.value(c.value).ty != ty {
            fail(&c.name, format!("constant is {ty}, its value says {}", g.value(c.value).ty));
        }
    }
    let s = &program.signature;
    if s.inputs.len() != g.inputs().len() || s.outputs.len() + s.mutations.len() != g.outputs().len() {
        let message = format!(
            "{} inputs, {} outputs, {} mutations do not fit a graph of {} inputs and {} outputs",
            s.inputs.len(),
            s.outputs.len(),
            s.mutations.len(),
            g.inputs().len(),
            g.outputs().len()
        );
        fail("signature", message);
    }
    if errors.is_empty() { Ok(()) } else { Err(VerifyErrors(errors)) }
}
