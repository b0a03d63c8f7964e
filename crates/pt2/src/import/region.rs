//! Nodes that leave none in the program: arithmetic on sizes, checks, and regions, whose graphs take their place.

use super::scope::{Binding, Scope};
use super::{Importer, MAX_REGIONS, bound_name, node_error, targets};
use crate::error::ImportError;
use crate::schema::{
    Argument, Graph, Node, SymBool, SymBoolArgument, SymFloat, SymFloatArgument, SymIntArgument,
};
use lowbit_core::ir::ModuleStack;

impl<'a> Importer<'a> {
    /// A node over sizes: the file records its result.
    pub(super) fn sizes(&mut self, graph: &'a Graph<'a>, scope: &mut Scope<'a>, node: &'a Node<'a>) {
        for output in &node.outputs {
            match output {
                Argument::SymInt(SymIntArgument::Name(n)) => {
                    let size = match graph.sym_int_values.get(&**n) {
                        Some(v) => self.symbols.size(v),
                        None => Err("it has no recorded value".into()),
                    };
                    let size = size.and_then(|v| match v.symbols().iter().find(|s| crate::srepr::is_unbacked(s)) {
                        None => Ok(v),
                        Some(_) => Err(format!(
                            "an integer that depends on the data (made by {}); lowbit needs sizes that follow from the \
                             input shapes",
                            targets::short(&node.target)
                        )),
                    });
                    scope.bind(n, Binding::Int(size));
                }
                Argument::SymFloat(SymFloatArgument::Name(n)) => {
                    let value = match graph.sym_float_values.get(&**n) {
                        Some(SymFloat::Float(x)) => Some(x.0),
                        _ => None,
                    };
                    scope.bind(n, Binding::Float(value));
                }
                Argument::SymBool(SymBoolArgument::Name(n)) => {
                    let value = match graph.sym_bool_values.get(&**n) {
                        Some(SymBool::Bool(b)) => Some(*b),
                        _ => None,
                    };
                    scope.bind(n, Binding::Bool(value));
                }
                _ => {}
            }
        }
    }

    /// A check: what only it read becomes unread.
    pub(super) fn drop_check(&mut self, scope: &Scope<'a>, node: &'a Node<'a>) {
        for input in &node.inputs {
            if let Argument::Tensor(t) = &input.arg
                && let Ok(t) = scope.tensor(&t.name)
                && let Ok(v) = self.memory.read(&mut self.program, t)
            {
                self.unread.extend(self.program.graph.producer(v));
            }
        }
    }

    /// A region: its graph's inputs are the arguments after the graph, its outputs the node's.
    pub(super) fn region(
        &mut self,
        scope: &mut Scope<'a>,
        node: &'a Node<'a>,
        at: usize,
        module: &ModuleStack,
    ) -> Result<(), ImportError> {
        let fail = |reason: String| node_error(node, module, reason);
        let Some(Argument::Graph(inner)) = node.inputs.get(at).map(|i| &i.arg) else {
            return Err(fail("holds no graph".into()));
        };
        let inner = &*inner.graph;
        // wrap_with_autocast(device_type, dtype, enabled, cache_enabled, graph, …)
        if at == 4 && !matches!(node.inputs.get(2).map(|i| &i.arg), Some(Argument::Bool(false))) {
            return Err(fail(
                "runs under autocast, which lowbit does not apply; export outside of torch.autocast".into(),
            ));
        }
        self.depth += 1;
        if self.depth > MAX_REGIONS {
            return Err(fail(format!("is a region inside {MAX_REGIONS} others")));
        }
        let operands = &node.inputs[at + 1..];
        if operands.len() != inner.inputs.len() {
            return Err(fail(format!(
                "gives {} inputs to a graph of {}",
                operands.len(),
                inner.inputs.len()
            )));
        }
        let mut names = Scope::default();
        for (operand, input) in operands.iter().zip(&inner.inputs) {
            if let Some(name) = bound_name(input) {
                names.bind(name, self.operand(scope, &operand.arg).map_err(fail)?);
            }
        }
        self.graph(inner, &mut names)?;
        let mut results = vec![];
        for output in &node.outputs {
            match output {
                Argument::Tensors(l) => results.extend(l.iter().map(|t| Some(&*t.name))),
                other => results.push(bound_name(other)),
            }
        }
        if results.len() != inner.outputs.len() {
            return Err(fail(format!("has {} results, its graph {}", results.len(), inner.outputs.len())));
        }
        for (result, output) in results.into_iter().zip(&inner.outputs) {
            if let Some(name) = result {
                scope.bind(name, self.operand(&names, output).map_err(fail)?);
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// What a region takes in or gives out.
    fn operand(&mut self, scope: &Scope<'a>, arg: &'a Argument<'a>) -> Result<Binding, String> {
        Ok(match arg {
            Argument::Tensor(t) => Binding::Tensor(scope.tensor(&t.name)?),
            Argument::Int(n) => Binding::Int(Ok((*n).into())),
            Argument::SymInt(s) => Binding::Int(scope.int(s)),
            Argument::Float(x) => Binding::Float(Some(x.0)),
            Argument::SymFloat(s) => Binding::Float(scope.float(s).ok()),
            Argument::Bool(b) => Binding::Bool(Some(*b)),
            Argument::SymBool(s) => Binding::Bool(scope.bool(s).ok()),
            _ => Binding::Constant,
        })
    }
}
