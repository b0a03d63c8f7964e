//! One node over tensors: arguments, results, what it writes, and the check of its types.

use super::args::{Call, describe, training};
use super::memory::{Step, TensorId};
use super::scope::{Binding, Scope};
use super::{Importer, MAX_SIZE_TERMS, node_error, node_name, place, rewrite, views};
use crate::error::ImportError;
use crate::schema::{Argument, Graph, Node, TensorMeta};
use lowbit_core::ir::{Arg, ModuleStack, NewNode, NodeId, TensorType, ValueId};
use lowbit_core::ops::OpDef;
use std::sync::Arc;

impl<'a> Importer<'a> {
    /// A node over tensors.
    pub(super) fn node(
        &mut self,
        graph: &'a Graph<'a>,
        scope: &mut Scope<'a>,
        node: &'a Node<'a>,
        op: &'static OpDef,
        in_place: bool,
        module: ModuleStack,
    ) -> Result<(), ImportError> {
        let name = node_name(node);
        let fail = |reason: String| node_error(node, &module, reason);
        let Call { op, args, first } = self.call(scope, op, &node.inputs, name, &module).map_err(fail)?;

        if let Some(what) = training(op, &args) {
            return Err(fail(format!("{what}, as in training; call model.eval() before the export")));
        }
        let (op, args) = match rewrite::is_rewritten(op) {
            true => self.rewrite(graph, node, op, args, &module).map_err(fail)?,
            false => (op, args),
        };

        // Where the results go, and what was recorded of them.
        let mut results: Vec<Option<&'a str>> = vec![];
        for output in &node.outputs {
            match output {
                Argument::Tensor(t) => results.push(Some(&t.name)),
                Argument::Tensors(l) => results.extend(l.iter().map(|t| Some(&*t.name))),
                Argument::None(_) => results.push(None),
                other => {
                    return Err(fail(format!(
                        "returns {}; lowbit's operators return tensors",
                        describe(other)
                    )));
                }
            }
        }
        let meta = |name: &Option<&'a str>| name.and_then(|n| graph.tensor_values.get(n));
        let metas: Vec<Option<&'a TensorMeta<'a>>> = results.iter().map(meta).collect();

        let new = NewNode { module: module.clone(), ..NewNode::new(op, args).named(name) };
        let id = self.program.graph.append(new).map_err(|e| fail(e.to_string()))?;
        let made = self.program.graph.node(id).outputs().to_vec();
        if made.len() != results.len() && !results.is_empty() {
            return Err(fail(format!(
                "has {} results, lowbit's operator makes {}",
                results.len(),
                made.len()
            )));
        }

        let steps = self.view_steps(graph, node, id, &metas);
        // An in-place operator that only changes the shape (`unsqueeze_`) gives a view; others write.
        if in_place && steps.is_empty() {
            let (Some(target), [value]) = (first, &made[..]) else {
                return Err(fail("does not write one result into one tensor".into()));
            };
            let value = self.fit(target, *value, &module).map_err(fail)?;
            let label: Arc<str> = name.into();
            self.memory.write(&mut self.program, target, value, &label, &module).map_err(fail)?;
            if let Some(Some(result)) = results.first() {
                self.check(node, &module, value, result, metas[0])?;
                scope.bind(result, Binding::Tensor(target));
            }
            return Ok(());
        }
        for (i, (&value, result)) in made.iter().zip(&results).enumerate() {
            let Some(result) = result else { continue };
            self.check(node, &module, value, result, metas[i])?;
            if made.len() > 1 {
                self.program.graph.rename(value, result);
            }
            let t = match (first, steps.get(i)) {
                (Some(base), Some(step)) => {
                    let label = self.program.graph.value(value).name.clone();
                    self.memory.view(base, step.clone(), value, label, module.clone())
                }
                _ => self.memory.own(value),
            };
            scope.bind(result, Binding::Tensor(t));
        }
        Ok(())
    }

    /// The operator of the table that does what `op` does.
    fn rewrite(
        &mut self,
        graph: &'a Graph<'a>,
        node: &'a Node<'a>,
        op: &'static OpDef,
        args: Vec<Arg>,
        module: &ModuleStack,
    ) -> Result<(&'static OpDef, Vec<Arg>), String> {
        let strides = match operand_meta(graph, node) {
            Some(m) => Some(m.strides.iter().map(|s| self.symbols.size(s)).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let (program, memory) = (&mut self.program, &mut self.memory);
        let mut site =
            rewrite::Site { program, memory, name: node_name(node).into(), module: module.clone(), strides };
        rewrite::apply(&mut site, op, args)
    }

    /// How the results of a node share memory with its first operand.
    fn view_steps(
        &self,
        graph: &'a Graph<'a>,
        node: &'a Node<'a>,
        id: NodeId,
        metas: &[Option<&'a TensorMeta<'a>>],
    ) -> Vec<Step> {
        let g = &self.program.graph;
        let n = g.node(id);
        let Some(Arg::Value(first)) = n.args().first() else { return vec![] };
        let to: Vec<_> = n.outputs().iter().map(|&v| g.ty(v).clone()).collect();
        let from_meta = operand_meta(graph, node);
        views::Shared { op: n.op(), args: n.args(), from: g.ty(*first), from_meta, to: &to, to_meta: metas }
            .steps()
    }

    /// `value` as it lands in the memory of `target`: converted to its type and repeated to its shape.
    fn fit(&mut self, target: TensorId, mut value: ValueId, module: &ModuleStack) -> Result<ValueId, String> {
        let old = self.memory.read(&mut self.program, target)?;
        let want = self.program.graph.ty(old).clone();
        let got = self.program.graph.ty(value).clone();
        if got.dtype != want.dtype {
            let name = self.program.graph.value(value).name.clone();
            let args = vec![value.into(), Arg::DType(want.dtype)];
            value =
                self.memory.emit(&mut self.program, "aten._to_copy.default", args, name, module.clone())?;
        }
        if !self.symbols.agree(&TensorType { dtype: want.dtype, ..got }, &want) {
            return Err(format!("writes {} into a tensor of type {want}", self.program.graph.ty(value)));
        }
        Ok(value)
    }

    /// Compares a value's type with the recorded one.
    fn check(
        &mut self,
        node: &Node<'a>,
        module: &ModuleStack,
        value: ValueId,
        name: &str,
        meta: Option<&'a TensorMeta<'a>>,
    ) -> Result<(), ImportError> {
        let Some(meta) = meta else {
            return Err(node_error(node, module, format!("its result %{name} has no recorded type")));
        };
        let recorded = self
            .symbols
            .tensor_type(meta)
            .map_err(|e| node_error(node, module, format!("its result %{name} {e}")))?;
        let inferred = self.program.graph.ty(value);
        if self.symbols.agree(inferred, &recorded) {
            return match inferred.shape.iter().find(|d| !d.is_at_most(MAX_SIZE_TERMS)) {
                None => Ok(()),
                Some(_) => Err(node_error(
                    node,
                    module,
                    format!("a size of its result %{name} is too long a formula"),
                )),
            };
        }
        Err(ImportError::TypeMismatch {
            at: place(node, module),
            value: name.into(),
            recorded: recorded.to_string(),
            inferred: inferred.to_string(),
        })
    }
}

/// What was recorded of a node's first argument, when that is a tensor.
fn operand_meta<'a>(graph: &'a Graph<'a>, node: &'a Node<'a>) -> Option<&'a TensorMeta<'a>> {
    match &node.inputs.first()?.arg {
        Argument::Tensor(t) => graph.tensor_values.get(&*t.name),
        _ => None,
    }
}
