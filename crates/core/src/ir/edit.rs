//! Writing graphs: the only code that changes one. Find on an immutable program first, then edit.

use super::arena::Key;
use super::arg::Arg;
use super::graph::{ConstId, Def, Graph, ModuleStack, Node, NodeId, Use, Value, ValueId};
use super::types::TensorType;
use crate::ops::{Call, InferError, OpDef};
use std::sync::Arc;

/// A node to be inserted.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The operator.
    pub op: &'static OpDef,
    /// Arguments in schema order; missing ones at the end take the schema's defaults.
    pub args: Vec<Arg>,
    /// Wanted name; a number is added if it is taken. Empty: made from the operator's name.
    pub name: Arc<str>,
    /// The modules it belongs to.
    pub module: ModuleStack,
    /// Output types, for operators whose types cannot be inferred (delegate calls) and for checking at import.
    pub types: Option<Vec<TensorType>>,
}

impl NewNode {
    /// A node of `op` with these leading arguments.
    pub fn new(op: &'static OpDef, args: impl Into<Vec<Arg>>) -> Self {
        NewNode { op, args: args.into(), name: "".into(), module: ModuleStack::default(), types: None }
    }

    /// Sets the wanted name.
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the modules it belongs to.
    pub fn in_module(mut self, module: &ModuleStack) -> Self {
        self.module = module.clone();
        self
    }

    /// Takes the modules of `node`, and its name as the wanted one: for a node that replaces or extends another.
    pub fn like(mut self, node: &Node) -> Self {
        self.module = node.module.clone();
        if self.name.is_empty() {
            self.name = node.name.clone();
        }
        self
    }
}

impl Graph {
    /// Adds an input at the end of the list.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let def = Def::Input(u32::try_from(self.inputs.len()).expect("few inputs"));
        let v = self.new_value(name, ty, def);
        self.inputs.push(v);
        v
    }

    /// Adds the value of a constant; [`Program::add_constant`](super::Program::add_constant) calls this.
    pub(super) fn add_const_value(&mut self, c: ConstId, name: &str, ty: TensorType) -> ValueId {
        self.new_value(name, ty, Def::Const(c))
    }

    /// Says what the program returns, then the new values of what it mutates.
    pub fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        self.outputs = outputs;
    }

    /// Forgets inputs, none of which may be read: for parts of a program that constants alone feed.
    pub fn drop_inputs(&mut self) {
        debug_assert!(self.inputs.iter().all(|&v| self.values[v].uses.is_empty()), "an input is in use");
        self.inputs.clear();
    }

    /// Adds a node at the end.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn append(&mut self, new: NewNode) -> Result<NodeId, InferError> {
        self.insert(self.order.len(), new)
    }

    /// Inserts a node just before `at`.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn insert_before(&mut self, at: NodeId, new: NewNode) -> Result<NodeId, InferError> {
        self.insert(self.position(at), new)
    }

    /// Inserts a node just after `at`.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn insert_after(&mut self, at: NodeId, new: NewNode) -> Result<NodeId, InferError> {
        self.insert(self.position(at) + 1, new)
    }

    /// Inserts a node at the start: what constants and inputs alone feed.
    ///
    /// # Errors
    /// When the arguments do not fit the operator.
    pub fn prepend(&mut self, new: NewNode) -> Result<NodeId, InferError> {
        self.insert(0, new)
    }

    /// Points one operand at another value.
    pub fn redirect(&mut self, u: Use, to: ValueId) {
        let operand = self.nodes[u.node].args.iter_mut().flat_map(Arg::values_mut).nth(u.slot as usize);
        let from = std::mem::replace(operand.expect("a use names an operand of its node"), to);
        self.values[from].uses.retain(|x| *x != u);
        self.values[to].uses.push(u);
    }

    /// Points every reader of `from`, the program's outputs included, at `to`, except the node `keep`.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId, keep: Option<NodeId>) {
        for u in self.values[from].uses.clone() {
            if Some(u.node) != keep {
                self.redirect(u, to);
            }
        }
        self.outputs.iter_mut().filter(|o| **o == from).for_each(|o| *o = to);
    }

    /// Removes a node whose outputs nobody reads.
    pub fn erase(&mut self, n: NodeId) {
        debug_assert!(
            self.nodes[n].outputs.iter().all(|&v| self.values[v].uses.is_empty() && !self.is_output(v)),
            "{n:?} is still in use"
        );
        for v in self.nodes[n].operands().collect::<Vec<_>>() {
            self.values[v].uses.retain(|u| u.node != n);
        }
        self.order.remove(self.position(n));
    }

    /// Removes every listed node in one sweep; nobody outside the list may read their outputs.
    pub fn erase_all(&mut self, gone: &[NodeId]) {
        let mut dead = vec![false; self.nodes.len()];
        gone.iter().for_each(|n| dead[n.index()] = true);
        for &n in gone {
            for v in self.nodes[n].operands().collect::<Vec<_>>() {
                self.values[v].uses.retain(|u| !dead[u.node.index()]);
            }
        }
        self.order.retain(|n| !dead[n.index()]);
    }

    /// Makes a node compute its results in another way: other operator, other arguments (missing ones at the end take
    /// the schema's defaults), same names and values. Results that the new operator does not make must be unread.
    ///
    /// # Errors
    /// When the arguments do not fit the operator, or the results' types differ; nothing is changed then.
    pub fn rewrite(&mut self, n: NodeId, op: &'static OpDef, mut args: Vec<Arg>) -> Result<(), InferError> {
        complete(op, &mut args)?;
        let types = (op.infer)(&Call { op, args: &args, graph: self })?;
        let old = self.nodes[n].outputs.clone();
        let unread = |v: &ValueId| self.values[*v].uses.is_empty() && !self.is_output(*v);
        let same = types.iter().zip(&old).all(|(t, &v)| *t == self.values[v].ty);
        if types.len() > old.len() || !same || !old[types.len()..].iter().all(unread) {
            let (node, name) = (&self.nodes[n].name, op.name);
            return Err(InferError::new(format!("%{node} cannot become {name}, which makes {types:?}")));
        }
        for v in self.nodes[n].operands().collect::<Vec<_>>() {
            self.values[v].uses.retain(|u| u.node != n);
        }
        self.nodes[n].outputs.truncate(types.len());
        self.nodes[n].op = op;
        self.nodes[n].args = args;
        self.record_uses(n);
        Ok(())
    }

    fn record_uses(&mut self, n: NodeId) {
        for (slot, v) in self.nodes[n].operands().collect::<Vec<_>>().into_iter().enumerate() {
            self.values[v].uses.push(Use { node: n, slot: u32::try_from(slot).expect("few operands") });
        }
    }

    /// Says which modules a node belongs to.
    pub fn set_module(&mut self, n: NodeId, module: ModuleStack) {
        self.nodes[n].module = module;
    }

    /// Renames a value; a number is added if the name is taken.
    pub fn rename(&mut self, v: ValueId, name: &str) {
        if &*self.values[v].name != name {
            self.values[v].name = self.unique(name);
        }
    }

    /// Renames a node and its only output; a number is added if the name is taken by a live one.
    pub fn rename_node(&mut self, n: NodeId, name: &str) {
        let taken = self.names.contains_key(name)
            && self.order.iter().any(|&m| m != n && &*self.nodes[m].name == name);
        let name: Arc<str> = if taken { self.unique(name) } else { name.into() };
        self.names.entry(name.clone()).or_insert(1);
        self.nodes[n].name = name.clone();
        if let [v] = self.nodes[n].outputs[..] {
            self.values[v].name = name;
        }
    }

    fn position(&self, at: NodeId) -> usize {
        let rank = self.ranks[at.index()];
        self.order.binary_search_by_key(&rank, |n| self.ranks[n.index()]).expect("the node is scheduled")
    }

    fn insert(&mut self, at: usize, mut new: NewNode) -> Result<NodeId, InferError> {
        complete(new.op, &mut new.args)?;
        let types = match (new.op.traits.declared_types, new.types) {
            (true, Some(types)) => types,
            (true, None) => return Err(InferError::new("output types must be declared")),
            (false, _) => (new.op.infer)(&Call { op: new.op, args: &new.args, graph: self })?,
        };
        let wanted = if new.name.is_empty() { new.op.short_name() } else { &new.name };
        let name = self.unique(wanted);
        let several = types.len() > 1;
        let n = self.nodes.push(Node {
            name: name.clone(),
            module: new.module,
            op: new.op,
            args: new.args,
            outputs: vec![],
        });
        for (i, ty) in types.into_iter().enumerate() {
            let def = Def::Node(n, u32::try_from(i).expect("few outputs"));
            let v = if several {
                self.new_value(&format!("{name}_{i}"), ty, def)
            } else {
                // A single value carries its node's name.
                self.values.push(Value { name: name.clone(), ty, def, uses: vec![] })
            };
            self.nodes[n].outputs.push(v);
        }
        self.record_uses(n);
        self.schedule(at, n);
        Ok(n)
    }

    /// Puts a new node at place `at`, with a rank between its neighbours'.
    fn schedule(&mut self, at: usize, n: NodeId) {
        const GAP: u64 = 1 << 24;
        self.order.insert(at, n);
        let rank = |i: usize| self.order.get(i).map(|m| self.ranks[m.index()]);
        let before = at.checked_sub(1).and_then(rank).unwrap_or(0);
        let after = if at + 1 < self.order.len() { rank(at + 1).unwrap_or(before) } else { before + 2 * GAP };
        self.ranks.push(before + (after - before) / 2);
        if after - before < 2 {
            // No number is left in between: number them all anew.
            for (i, m) in self.order.iter().enumerate() {
                self.ranks[m.index()] = (i as u64 + 1) * GAP;
            }
        }
    }

    fn new_value(&mut self, name: &str, ty: TensorType, def: Def) -> ValueId {
        let name = self.unique(name);
        self.values.push(Value { name, ty, def, uses: vec![] })
    }

    /// `wanted`, or `wanted_1`, `wanted_2`, … if it is taken.
    fn unique(&mut self, wanted: &str) -> Arc<str> {
        let Some(taken) = self.names.get_mut(wanted) else {
            let name: Arc<str> = wanted.into();
            self.names.insert(name.clone(), 1);
            return name;
        };
        let mut n = *taken;
        loop {
            let name: Arc<str> = format!("{wanted}_{n}").into();
            n += 1;
            if !self.names.contains_key(&name) {
                self.names.insert(wanted.into(), n);
                self.names.insert(name.clone(), 1);
                return name;
            }
        }
    }
}

/// Fills in defaults and checks arguments against the schema.
fn complete(op: &'static OpDef, args: &mut Vec<Arg>) -> Result<(), InferError> {
    let schema = op.schema();
    for i in args.len()..schema.args.len() {
        match &schema.args[i].default {
            Some(d) => args.push(d.clone()),
            None => return Err(InferError::new(format!("argument {} is missing", schema.args[i].name))),
        }
    }
    schema.check(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::ir::{Program, verify};
    use crate::ops::{DEQUANTIZE_PER_TENSOR, QUANTIZE_PER_TENSOR};

    fn quantize(x: ValueId) -> NewNode {
        let args = [x.into(), Arg::Float(0.5), 0.into(), (-128).into(), 127.into(), DType::I8.into()];
        NewNode::new(&QUANTIZE_PER_TENSOR, args)
    }

    #[test]
    fn insertion_keeps_order_however_dense() {
        let mut p = Program::default();
        let x = p.graph.add_input("x", TensorType::new(DType::F32, [4]));
        p.signature.inputs.push("x".into());
        let last = p.graph.append(quantize(x)).unwrap();
        // Always at the same place: ranks run out after some 24 halvings.
        for _ in 0..200 {
            p.graph.insert_before(last, quantize(x)).unwrap();
        }
        let first = p.graph.prepend(quantize(x)).unwrap();
        let order: Vec<_> = p.graph.nodes().collect();
        assert_eq!((order[0], order[201]), (first, last));
        assert!(order.windows(2).all(|w| p.graph.is_before(w[0], w[1])));
        assert_eq!(p.graph.users(x), order);
        verify(&p).unwrap();
        p.graph.erase_all(&order[5..]);
        p.graph.erase(order[2]);
        assert_eq!(p.graph.nodes().len(), 4);
        verify(&p).unwrap();
    }

    #[test]
    fn edits_keep_use_lists() {
        let mut p = Program::default();
        let x = p.graph.add_input("x", TensorType::new(DType::F32, [4]));
        p.signature.inputs.push("x".into());
        let q = p.graph.append(quantize(x)).unwrap();
        let qv = p.graph.node(q).output();
        let args = [qv.into(), Arg::Float(0.5), 0.into(), (-128).into(), 127.into(), DType::I8.into()];
        let dq = p.graph.append(NewNode::new(&DEQUANTIZE_PER_TENSOR, args)).unwrap();
        p.graph.set_outputs(vec![x]);
        p.signature.outputs.push("x".into());
        let dqv = p.graph.node(dq).output();
        p.graph.replace_uses(x, dqv, Some(q));
        assert_eq!(p.graph.outputs(), [dqv]);
        assert_eq!(p.graph.value(x).uses(), [Use { node: q, slot: 0 }]);
        verify(&p).unwrap();
    }
}
