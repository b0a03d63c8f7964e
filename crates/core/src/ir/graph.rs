//! The graph: values and nodes in arenas, a schedule, and maintained use lists. Reading; see `edit` for writing.

use super::arena::{Arena, Key, id};
use super::arg::Arg;
use super::types::TensorType;
use crate::ops::OpDef;
use std::collections::HashMap;
use std::sync::Arc;

id!(
    /// A node of a [`Graph`].
    NodeId, "n"
);
id!(
    /// A value of a [`Graph`].
    ValueId, "v"
);
id!(
    /// A constant of a [`Program`](super::Program).
    ConstId, "c"
);

/// One place where a value is read: tensor operand `slot` of `node`. Slots count the tensors among a node's arguments,
/// lists flattened, holes skipped.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Use {
    pub node: NodeId,
    pub slot: u32,
}

/// Where a value comes from.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Def {
    /// The program's input number so-and-so.
    Input(u32),
    /// A constant: parameter, buffer or literal tensor.
    Const(ConstId),
    /// Output number so-and-so of a node.
    Node(NodeId, u32),
}

/// A tensor that flows through the program.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique in the graph; the name PyTorch gave it, where it did.
    pub name: Arc<str>,
    /// Element type and shape.
    pub ty: TensorType,
    pub(super) def: Def,
    pub(super) uses: Vec<Use>,
}

impl Value {
    /// Where it comes from.
    pub fn def(&self) -> Def {
        self.def
    }

    /// Who reads it, in no meaningful order; the program's outputs are not listed (see [`Graph::is_output`]).
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }
}

/// One level of the module hierarchy that a node was traced in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleFrame {
    /// Dotted path from the root module: `layer1.0.conv1`; empty for the root.
    pub path: Arc<str>,
    /// Qualified type: `torch.nn.modules.conv.Conv2d`.
    pub type_name: Arc<str>,
}

/// The modules a node was traced in, outermost first (PyTorch's `nn_module_stack`). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ModuleStack(Option<Arc<[ModuleFrame]>>);

impl ModuleStack {
    /// A stack of these frames.
    pub fn new(frames: Vec<ModuleFrame>) -> Self {
        ModuleStack((!frames.is_empty()).then(|| frames.into()))
    }

    /// The frames, outermost first.
    pub fn frames(&self) -> &[ModuleFrame] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The innermost module's path; empty for the root or when unknown.
    pub fn path(&self) -> &str {
        self.frames().last().map_or("", |f| &f.path)
    }
}

/// An operator applied to arguments.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique among nodes; the name PyTorch gave it, where it did.
    pub name: Arc<str>,
    /// The modules it was traced in.
    pub module: ModuleStack,
    pub(super) op: &'static OpDef,
    pub(super) args: Vec<Arg>,
    pub(super) outputs: Vec<ValueId>,
}

impl Node {
    /// The operator.
    pub fn op(&self) -> &'static OpDef {
        self.op
    }

    /// The arguments: complete, in the order of the operator's schema.
    pub fn args(&self) -> &[Arg] {
        &self.args
    }

    /// Argument `i`; [`Arg::None`] past the end.
    pub fn arg(&self, i: usize) -> &Arg {
        self.args.get(i).unwrap_or(&Arg::None)
    }

    /// The only output, or the first of several. A node has at least one.
    pub fn output(&self) -> ValueId {
        self.outputs[0]
    }

    /// All outputs, in schema order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The tensors it reads: operand `slot` of [`Use`] is entry `slot` here.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.args.iter().flat_map(Arg::values)
    }

    /// The slot of the first tensor in argument `arg`; `None` when that argument holds no tensor.
    pub fn slot_of_arg(&self, arg: usize) -> Option<u32> {
        self.arg(arg).values().next()?;
        let before: usize = self.args[..arg].iter().map(|a| a.values().count()).sum();
        Some(u32::try_from(before).expect("few operands"))
    }
}

/// Nodes in program order over SSA values.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) nodes: Arena<NodeId, Node>,
    pub(super) values: Arena<ValueId, Value>,
    pub(super) order: Vec<NodeId>,
    /// A number for each node, growing along `order`: places are compared and found without a scan.
    pub(super) ranks: Vec<u64>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    /// How often each base name was taken; lookups only, never iterated.
    pub(super) names: HashMap<Arc<str>, u32>,
}

impl Graph {
    /// The nodes in program order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + '_ {
        self.order.iter().copied()
    }

    /// A node. Erased nodes can still be read.
    pub fn node(&self, n: NodeId) -> &Node {
        &self.nodes[n]
    }

    /// A value.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.values[v]
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        &self.values[v].ty
    }

    /// Every value ever made, those of erased nodes included: for side tables.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Value)> + ExactSizeIterator {
        self.values.iter()
    }

    /// The program's inputs.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The program's outputs, then the new values of what it mutates.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Whether the program returns this value (or stores it).
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// The node that makes this value.
    pub fn producer(&self, v: ValueId) -> Option<NodeId> {
        match self.values[v].def {
            Def::Node(n, _) => Some(n),
            _ => None,
        }
    }

    /// The value that operand `slot` of `node` reads.
    pub fn operand(&self, u: Use) -> Option<ValueId> {
        self.nodes[u.node].operands().nth(u.slot as usize)
    }

    /// The node that makes operand `slot`, when nobody else reads its result (for chain patterns).
    pub fn sole_producer(&self, n: NodeId, slot: usize) -> Option<NodeId> {
        let v = self.node(n).operands().nth(slot)?;
        match self.value(v).def {
            Def::Node(p, 0) if self.value(v).uses.len() == 1 && !self.is_output(v) => Some(p),
            _ => None,
        }
    }

    /// The readers of a value in program order, each once.
    pub fn users(&self, v: ValueId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> = self.values[v].uses.iter().map(|u| u.node).collect();
        users.sort_by_key(|n| self.ranks[n.index()]);
        users.dedup();
        users
    }

    /// Whether `a` comes before `b` in program order.
    pub fn is_before(&self, a: NodeId, b: NodeId) -> bool {
        self.ranks[a.index()] < self.ranks[b.index()]
    }

    /// The place of every node in the schedule, indexed by [`NodeId`]; `usize::MAX` for erased ones.
    pub fn positions(&self) -> Vec<usize> {
        let mut place = vec![usize::MAX; self.nodes.len()];
        for (i, n) in self.order.iter().enumerate() {
            place[n.index()] = i;
        }
        place
    }

    /// How many nodes and values were ever made: the lengths of side tables.
    pub fn table_sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.values.len())
    }
}
