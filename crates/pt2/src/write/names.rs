//! Names for PyTorch's graph: identifiers, each once among placeholders and nodes.

use super::border::Border;
use lowbit_core::ir::{ConstKind, Constant, MutationTarget, NodeId, Program, ValueId};
use std::collections::{HashMap, HashSet};

/// Every name of the file's graph.
#[derive(Debug, Default)]
pub struct Names {
    taken: HashSet<String>,
    values: HashMap<ValueId, String>,
    nodes: HashMap<NodeId, String>,
}

impl Names {
    /// Names for the values and nodes of a program: their own where these are identifiers, which those that PyTorch gave
    /// are.
    pub fn new(border: &Border<'_>) -> Names {
        let program = border.program;
        let (mut names, g) = (Names::default(), &program.graph);
        for (&v, name) in g.inputs().iter().zip(&program.signature.inputs) {
            let name = names.free(name);
            names.values.insert(v, name);
        }
        for n in border.nodes() {
            let node = g.node(n);
            let list = node.op().schema().returns.is_none();
            let own = names.free(&node.name);
            match node.outputs() {
                // A single result is the node itself.
                [v] if !list => _ = names.values.insert(*v, own.clone()),
                results => {
                    for v in results {
                        let name = names.free(&g.value(*v).name);
                        names.values.insert(*v, name);
                    }
                }
            }
            names.nodes.insert(n, own);
        }
        for (_, c) in border.constants() {
            let name = names.free(&format!("{}_{}", prefix(program, c), c.name));
            names.values.insert(c.value, name);
        }
        names
    }

    /// A name like `wanted` that is not taken yet.
    pub fn free(&mut self, wanted: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut name: String = wanted.chars().map(plain).collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            name.insert(0, '_');
        }
        let mut candidate = name.clone();
        for n in 1.. {
            if self.taken.insert(candidate.clone()) {
                break;
            }
            candidate = format!("{name}_{n}");
        }
        candidate
    }

    /// The name of a value.
    pub fn value(&self, v: ValueId) -> &str {
        self.values.get(&v).map_or("", |n| n)
    }

    /// The name of a node.
    pub fn node(&self, n: NodeId) -> &str {
        self.nodes.get(&n).map_or("", |n| n)
    }
}

/// What a constant is to PyTorch. A literal that the program overwrites can only be a buffer.
pub fn kind(program: &Program, c: &Constant) -> ConstKind {
    let overwritten =
        |m: &MutationTarget| matches!(m, MutationTarget::Buffer(b) if program.constants[*b].value == c.value);
    match c.kind {
        ConstKind::Tensor if program.signature.mutations.iter().any(overwritten) => ConstKind::Buffer,
        kind => kind,
    }
}

/// Whether a buffer is in the state dict. One that stands in for a literal is not.
pub fn is_persistent(c: &Constant) -> bool {
    c.persistent && c.kind != ConstKind::Tensor
}

/// Placeholders are marked as PyTorch marks them.
fn prefix(program: &Program, c: &Constant) -> &'static str {
    match kind(program, c) {
        ConstKind::Parameter => "p",
        ConstKind::Buffer => "b",
        ConstKind::Tensor => "c",
    }
}
