//! Writing a few nodes in a row.

use super::graph::{ModuleStack, NodeId, ValueId};
use super::{Arg, ConstKind, NewNode, Program};
use crate::ops::{InferError, OpDef};
use crate::tensor::Tensor;

/// Writes nodes one behind the other, after the node that makes a value.
#[derive(Debug)]
pub struct NodeWriter<'a> {
    program: &'a mut Program,
    /// The node to go behind; `None`: the start of the program.
    last: Option<NodeId>,
    module: ModuleStack,
    made: Vec<NodeId>,
}

impl<'a> NodeWriter<'a> {
    /// Starts behind what makes `v`. Nodes get the modules of `owner`.
    pub fn behind(program: &'a mut Program, v: ValueId, owner: Option<NodeId>) -> Self {
        let last = program.graph.producer(v);
        let module = owner.map_or(ModuleStack::default(), |n| program.graph.node(n).module.clone());
        NodeWriter { program, last, module, made: vec![] }
    }

    /// The program so far.
    pub fn program(&self) -> &Program {
        self.program
    }

    /// Writes a node and returns its first result. Missing arguments at the end take the schema's defaults.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn op(&mut self, op: &'static OpDef, args: impl Into<Vec<Arg>>) -> Result<ValueId, InferError> {
        let n = self.node(NewNode::new(op, args))?;
        let first = self.program.graph.node(n).outputs().first().copied();
        first.ok_or_else(|| InferError::new(format!("{} has no results", op.name)))
    }

    /// Writes a node.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn node(&mut self, new: NewNode) -> Result<NodeId, InferError> {
        let new = new.in_module(&self.module);
        let n = match self.last {
            Some(at) => self.program.graph.insert_after(at, new)?,
            None => self.program.graph.prepend(new)?,
        };
        self.last = Some(n);
        self.made.push(n);
        Ok(n)
    }

    /// Adds a constant; a number is put behind the name if it is taken.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.program.add_constant(name, ConstKind::Buffer, tensor)
    }

    /// The nodes that were written.
    pub fn made(self) -> Vec<NodeId> {
        self.made
    }
}
