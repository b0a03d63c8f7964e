//! Shared memory made functional.
//!
//! In an exported graph a view (`slice`, `permute`, …) shares memory with its base, and in-place operators write into
//! either. Here every tensor of the file is an entry that knows its current value and, for a view, its base and the
//! step that makes it from the base. Writing a view writes the base too (the step's inverse, outwards to the root);
//! reading a tensor whose root was written since makes it anew from its base. Nodes are only emitted where a program
//! really writes into shared memory.

use lowbit_core::SymInt;
use lowbit_core::ir::{Arg, ModuleStack, NewNode, NodeId, Program, ValueId};
use lowbit_core::ops::{OpDef, lookup};
use std::sync::Arc;

/// Views of views through which writes are followed. Real programs have a handful; without a limit, writes through long
/// chains in a hostile file would make far more nodes than it has.
const MAX_DEPTH: u32 = 64;

/// A tensor of the file.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TensorId(usize);

struct Tensor {
    value: ValueId,
    /// The tensor that owns the memory; itself when it is no view.
    root: TensorId,
    /// For a root: how often its memory was written. For a view: the root's count when `value` was made.
    version: u32,
    view: Option<View>,
    depth: u32,
}

/// How a view is made from its base.
struct View {
    base: TensorId,
    step: Step,
    name: Arc<str>,
    module: ModuleStack,
}

/// One step from base to view, with its inverse: what [`Memory::write`] emits.
#[derive(Clone, Debug)]
pub enum Step {
    /// The same elements in the same shape; inverse: the same.
    Same,
    /// The same elements in order under another shape; inverse: the base's shape.
    Reshape(Vec<SymInt>),
    /// Dimensions in another order; inverse: the inverse order.
    Permute(Vec<usize>),
    /// `slice.Tensor(dim, start, end, step)`; inverse: `slice_scatter`.
    Slice { dim: usize, start: SymInt, end: SymInt, step: i64 },
    /// `select.int(dim, index)`; inverse: `select_scatter`.
    Select { dim: usize, index: SymInt },
    /// Any other operator over the base (argument 0), without an inverse.
    Opaque(&'static OpDef, Vec<Arg>),
}

/// All tensors of the file.
#[derive(Default)]
pub struct Memory {
    tensors: Vec<Tensor>,
    /// Nodes that were emitted here; some may turn out unused.
    pub emitted: Vec<NodeId>,
}

impl Memory {
    /// A tensor with memory of its own.
    pub fn own(&mut self, value: ValueId) -> TensorId {
        let id = TensorId(self.tensors.len());
        self.tensors.push(Tensor { value, root: id, version: 0, view: None, depth: 0 });
        id
    }

    /// A view of `base`, whose current value is `value`. The name and module are for nodes that make it anew.
    pub fn view(
        &mut self,
        base: TensorId,
        step: Step,
        value: ValueId,
        name: Arc<str>,
        module: ModuleStack,
    ) -> TensorId {
        let id = TensorId(self.tensors.len());
        let (root, depth) = (self.tensors[base.0].root, self.tensors[base.0].depth + 1);
        let version = self.tensors[root.0].version;
        let view = Some(View { base, step, name, module });
        self.tensors.push(Tensor { value, root, version, view, depth });
        id
    }

    /// An error for tensors at the end of too long a chain of views.
    fn check_depth(&self, t: TensorId) -> Result<(), String> {
        match self.tensors[t.0].depth {
            depth if depth > MAX_DEPTH => Err(format!(
                "shares memory that is written through {depth} views; lowbit follows {MAX_DEPTH}"
            )),
            _ => Ok(()),
        }
    }

    /// Whether the tensor's memory was written in place.
    pub fn was_written(&self, t: TensorId) -> bool {
        self.tensors[self.tensors[t.0].root.0].version > 0
    }

    /// The current value of a tensor.
    pub fn read(&mut self, program: &mut Program, t: TensorId) -> Result<ValueId, String> {
        let now = self.tensors[self.tensors[t.0].root.0].version;
        if self.tensors[t.0].version != now {
            self.check_depth(t)?;
        }
        // Views that were made before the last write, innermost last.
        let mut stale = vec![];
        let mut at = t;
        while self.tensors[at.0].version != now {
            stale.push(at);
            at = self.tensors[at.0].view.as_ref().expect("a root is never stale").base;
        }
        for &t in stale.iter().rev() {
            let View { base, step, name, module } =
                self.tensors[t.0].view.as_ref().expect("a root is never stale");
            let x = self.tensors[base.0].value;
            let (op, args) = match step {
                Step::Same => {
                    (self.tensors[t.0].value, self.tensors[t.0].version) = (x, now);
                    continue;
                }
                Step::Reshape(shape) => ("aten.view.default", vec![x.into(), Arg::Ints(shape.clone())]),
                Step::Permute(order) => {
                    ("aten.permute.default", vec![x.into(), Arg::ints(order.iter().copied())])
                }
                Step::Slice { dim, start, end, step } => (
                    "aten.slice.Tensor",
                    vec![x.into(), (*dim).into(), start.clone().into(), end.clone().into(), (*step).into()],
                ),
                Step::Select { dim, index } => {
                    ("aten.select.int", vec![x.into(), (*dim).into(), index.clone().into()])
                }
                Step::Opaque(op, args) => {
                    let mut args = args.clone();
                    args[0] = x.into();
                    (op.name, args)
                }
            };
            let (name, module) = (name.clone(), module.clone());
            let value = self.emit(program, op, args, name, module)?;
            (self.tensors[t.0].value, self.tensors[t.0].version) = (value, now);
        }
        Ok(self.tensors[t.0].value)
    }

    /// Overwrites a tensor's elements with `value`, which has its type. `name` and `module` are those of the writer.
    pub fn write(
        &mut self,
        program: &mut Program,
        t: TensorId,
        value: ValueId,
        name: &Arc<str>,
        module: &ModuleStack,
    ) -> Result<(), String> {
        self.check_depth(t)?;
        self.read(program, t)?;
        let (mut at, mut value) = (t, value);
        let mut path = vec![t];
        self.tensors[t.0].value = value;
        while let Some(View { base, step, .. }) = &self.tensors[at.0].view {
            let base = *base;
            let old = self.tensors[base.0].value;
            let (op, args) = match step {
                Step::Same => ("", vec![]),
                Step::Reshape(_) => {
                    ("aten.view.default", vec![value.into(), Arg::Ints(program.graph.ty(old).shape.clone())])
                }
                Step::Permute(order) => {
                    let mut inverse = vec![0; order.len()];
                    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
                    ("aten.permute.default", vec![value.into(), Arg::ints(inverse)])
                }
                Step::Slice { dim, start, end, step } => (
                    "aten.slice_scatter.default",
                    vec![
                        old.into(),
                        value.into(),
                        (*dim).into(),
                        start.clone().into(),
                        end.clone().into(),
                        (*step).into(),
                    ],
                ),
                Step::Select { dim, index } => (
                    "aten.select_scatter.default",
                    vec![old.into(), value.into(), (*dim).into(), index.clone().into()],
                ),
                Step::Opaque(op, _) => {
                    return Err(format!(
                        "writes into a view made by {}, which lowbit cannot write back to its base; use an operator that \
                         is not in place",
                        op.name
                    ));
                }
            };
            if !op.is_empty() {
                value = self.emit(program, op, args, name.clone(), module.clone())?;
            }
            self.tensors[base.0].value = value;
            path.push(base);
            at = base;
        }
        let root = &mut self.tensors[at.0];
        root.version += 1;
        let now = root.version;
        path.iter().for_each(|t| self.tensors[t.0].version = now);
        Ok(())
    }

    /// Adds a node for shared memory's sake; it goes again if nobody comes to read it.
    pub fn emit(
        &mut self,
        program: &mut Program,
        op: &str,
        args: Vec<Arg>,
        name: Arc<str>,
        module: ModuleStack,
    ) -> Result<ValueId, String> {
        let op = lookup(op).ok_or_else(|| format!("needs {op}, which lowbit does not have"))?;
        let new = NewNode { module, ..NewNode::new(op, args).named(name) };
        let node = program.graph.append(new).map_err(|e| format!("{}: {e}", op.name))?;
        self.emitted.push(node);
        Ok(program.graph.node(node).output())
    }
}
