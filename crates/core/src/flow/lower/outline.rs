//! Cuts regions out of a program: each becomes a program of its own, and a call takes its place.

use super::LowerError;
use super::regions::{Regions, Step};
use crate::ir::{Arg, ConstId, Def, Key, MutationTarget, NewNode, NodeId, Program, TensorType, ValueId};
use crate::ops;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A region as a program.
pub struct Part {
    /// Inputs and outputs are those of the call, in order.
    pub program: Program,
    /// The node of the whole program behind each node.
    origins: BTreeMap<NodeId, NodeId>,
}

impl Part {
    /// The node of the whole program behind a node of the part.
    pub fn original(&self, n: NodeId) -> NodeId {
        self.origins[&n]
    }

    /// Names of the nodes, in order.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.program.graph.nodes().map(|n| self.program.graph.node(n).name.clone()).collect()
    }
}

/// Copies nodes into a new program, bringing along the constants they read.
pub struct Copier<'a> {
    /// Where nodes come from.
    pub from: &'a Program,
    /// The new program.
    pub to: Program,
    values: Vec<Option<ValueId>>,
    constants: BTreeMap<ConstId, ConstId>,
}

impl<'a> Copier<'a> {
    /// Into an empty program.
    pub fn new(from: &'a Program) -> Self {
        let to = Program { symbols: from.symbols.clone(), ..Program::default() };
        Copier { from, to, values: vec![None; from.graph.table_sizes().1], constants: BTreeMap::new() }
    }

    /// Makes `v` an input.
    pub fn input(&mut self, v: ValueId) {
        let value = self.from.graph.value(v);
        self.values[v.index()] = Some(self.fresh_input(&value.name, value.ty.clone()));
    }

    /// An input that the old program has not.
    pub fn fresh_input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let new = self.to.graph.add_input(name, ty);
        self.to.signature.inputs.push(self.to.graph.value(new).name.clone());
        new
    }

    /// The new value of `v`, when it has one already.
    pub fn known(&self, v: ValueId) -> Option<ValueId> {
        self.values[v.index()]
    }

    /// The new value of `v`: known, or a constant.
    pub fn value(&mut self, v: ValueId) -> ValueId {
        if let Some(new) = self.known(v) {
            return new;
        }
        let c = match self.from.graph.value(v).def() {
            Def::Const(c) => Some(c),
            _ => None,
        };
        let c = c.expect("steps run after what they read, so only constants are new here");
        let constant = &self.from.constants[c];
        let new = self.to.add_constant(&constant.name, constant.kind, constant.tensor.clone());
        self.rename(new, v);
        let id = Key::new(self.to.constants.len() - 1);
        self.constants.insert(c, id);
        self.values[v.index()] = Some(new);
        new
    }

    fn rename(&mut self, new: ValueId, old: ValueId) {
        let name = &self.from.graph.value(old).name;
        if self.to.graph.value(new).name != *name {
            self.to.graph.rename(new, name);
        }
    }

    /// Copies a node; what it reads must be known or constant.
    pub fn node(&mut self, n: NodeId) -> Result<NodeId, LowerError> {
        let from = self.from;
        let old = from.graph.node(n);
        let mut args = old.args().to_vec();
        for v in args.iter_mut().flat_map(Arg::values_mut) {
            *v = self.value(*v);
        }
        let types = old.outputs().iter().map(|&v| from.graph.ty(v).clone()).collect();
        let new = NewNode {
            op: old.op(),
            args,
            name: old.name.clone(),
            module: old.module.clone(),
            types: Some(types),
        };
        let id = self.append(new)?;
        for (i, &v) in old.outputs().iter().enumerate() {
            let made = self.to.graph.node(id).outputs()[i];
            self.rename(made, v);
            self.values[v.index()] = Some(made);
        }
        Ok(id)
    }

    fn append(&mut self, new: NewNode) -> Result<NodeId, LowerError> {
        let name = new.name.clone();
        self.to.graph.append(new).map_err(|source| LowerError::Copy { node: name, source })
    }
}

/// The outer program with a call for each region, and the regions' programs. Calls are numbered from `first`.
pub fn split(program: &Program, found: &Regions, first: usize) -> Result<(Program, Vec<Part>), LowerError> {
    let g = &program.graph;
    let count = found.schedule.iter().filter(|s| matches!(s, Step::Region(_))).count();
    let mut members: Vec<Vec<NodeId>> = vec![Vec::new(); count];
    for n in g.nodes() {
        if let Some(r) = found.region_of[n.index()] {
            members[r].push(n);
        }
    }
    let mut outer = Copier::new(program);
    for &v in g.inputs() {
        outer.input(v);
    }
    outer.to.signature.inputs = program.signature.inputs.clone();
    let mut parts: Vec<Option<Part>> = (0..count).map(|_| None).collect();
    for step in &found.schedule {
        match *step {
            Step::Node(n) => {
                outer.node(n)?;
            }
            Step::Region(r) => {
                let (part, inputs, outputs) = outline(program, found, &members[r], r)?;
                let types: Vec<TensorType> = outputs.iter().map(|&v| g.ty(v).clone()).collect();
                let inputs: Vec<ValueId> = inputs.into_iter().map(|v| outer.value(v)).collect();
                let mut call = NewNode::new(&ops::CALL_DELEGATE, [Arg::from(first + r), Arg::from(inputs)])
                    .named(format!("delegate_{}", first + r));
                call.types = Some(types);
                let call = outer.append(call)?;
                for (i, &v) in outputs.iter().enumerate() {
                    let made = outer.to.graph.node(call).outputs()[i];
                    outer.rename(made, v);
                    outer.values[v.index()] = Some(made);
                }
                parts[r] = Some(part);
            }
        }
    }
    let outputs = g.outputs().iter().map(|&v| outer.value(v)).collect();
    outer.to.graph.set_outputs(outputs);
    outer.to.signature.outputs = program.signature.outputs.clone();
    for m in &program.signature.mutations {
        let m = match *m {
            MutationTarget::Buffer(c) => {
                outer.value(program.constants[c].value);
                MutationTarget::Buffer(outer.constants[&c])
            }
            input => input,
        };
        outer.to.signature.mutations.push(m);
    }
    Ok((outer.to, parts.into_iter().flatten().collect()))
}

/// A region's program, and the values of `program` that are its inputs and outputs.
fn outline(
    program: &Program,
    found: &Regions,
    members: &[NodeId],
    region: usize,
) -> Result<(Part, Vec<ValueId>, Vec<ValueId>), LowerError> {
    let g = &program.graph;
    let mut part = Copier::new(program);
    let inside = |n: NodeId| found.region_of[n.index()] == Some(region);
    let mut inputs = Vec::new();
    for &n in members {
        for v in g.node(n).operands() {
            let made_here = g.producer(v).is_some_and(inside);
            if !made_here && program.frozen(v).is_none() && part.values[v.index()].is_none() {
                part.input(v);
                inputs.push(v);
            }
        }
    }
    let mut origins = BTreeMap::new();
    let mut outputs = Vec::new();
    for &n in members {
        origins.insert(part.node(n)?, n);
        for &v in g.node(n).outputs() {
            if g.is_output(v) || g.value(v).uses().iter().any(|u| !inside(u.node)) {
                outputs.push(v);
            }
        }
    }
    let made: Vec<ValueId> = outputs.iter().map(|&v| part.value(v)).collect();
    part.to.signature.outputs = outputs.iter().map(|&v| g.value(v).name.clone()).collect();
    part.to.graph.set_outputs(made);
    Ok((Part { program: part.to, origins }, inputs, outputs))
}
