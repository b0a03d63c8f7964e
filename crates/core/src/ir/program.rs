//! [`Program`]: a graph with its constants, symbols and signature.

use super::arena::Arena;
use super::arg::Arg;
use super::graph::{ConstId, Def, Graph, ValueId};
use super::types::TensorType;
use crate::symint::{Bindings, SymInt};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a constant was in the model.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConstKind {
    /// An `nn.Parameter`.
    Parameter,
    /// A registered buffer; it may be mutated.
    Buffer,
    /// A tensor literal lifted out of the code, or one that a pass made.
    Tensor,
}

/// A tensor the program carries.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Fully qualified name: `layer1.0.conv1.weight`; unique.
    pub name: Arc<str>,
    /// What it was in the model.
    pub kind: ConstKind,
    /// Whether it is part of the model's state dict, as parameters are; buffers may be registered not to be.
    pub persistent: bool,
    /// Its elements; shared, possibly in a memory map. For a mutated buffer: its initial state.
    pub tensor: Tensor,
    /// The value that stands for it in the graph.
    pub value: ValueId,
}

/// What a mutation writes to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MutationTarget {
    /// A buffer keeps the new value until the next run.
    Buffer(ConstId),
    /// The caller's input number so-and-so is overwritten.
    Input(u32),
}

/// Inclusive range of a symbol.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SymbolRange {
    /// Smallest size.
    pub min: i64,
    /// Largest size; `i64::MAX` when unbounded.
    pub max: i64,
    /// The size it had when the model was exported, where that is known.
    pub hint: Option<i64>,
}

/// Names at the program's border. Input `i` is `graph.inputs()[i]`; `graph.outputs()` holds the user's outputs first,
/// then the new value of each mutation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    /// The name of each input.
    pub inputs: Vec<Arc<str>>,
    /// The name of each output that the caller gets.
    pub outputs: Vec<Arc<str>>,
    /// What the program overwrites.
    pub mutations: Vec<MutationTarget>,
    /// How the model's caller sees inputs and outputs, where that is known: it only matters to writers of `.pt2` files.
    pub call: Option<Arc<CallSpec>>,
}

/// How a model is called: PyTorch's pytrees. The caller's arguments, flattened, are the leaves in order; so are the
/// results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallSpec {
    /// The structure of arguments and keyword arguments, as PyTorch serializes it.
    pub in_spec: Arc<str>,
    /// The structure of the results, as PyTorch serializes it.
    pub out_spec: Arc<str>,
    /// The names of the model's arguments.
    pub arg_names: Vec<Arc<str>>,
    /// What the caller passes. Tensors are the program's inputs, in order.
    pub inputs: Vec<Leaf>,
    /// What the caller gets. Tensors and numbers are the program's outputs, in order; `None` is none of them.
    pub outputs: Vec<Leaf>,
}

/// One leaf of a pytree.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A tensor.
    Tensor,
    /// A number, a string or `None`. As an input it was fixed at export, and has a name.
    Literal(Arc<str>, Arg),
}

/// A whole model: what `torch.export` calls an exported program. Cloning is cheap in constants, they are shared.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The computation.
    pub graph: Graph,
    /// Parameters, buffers, literals.
    pub constants: Arena<ConstId, Constant>,
    /// Names at the border, mutations.
    pub signature: Signature,
    /// The range of every symbol that dimensions use.
    pub symbols: BTreeMap<Arc<str>, SymbolRange>,
}

/// Inputs that do not fit the program.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Too few or too many inputs.
    #[error("the program takes {want} inputs ({names}), {got} were given")]
    Count {
        /// Inputs the program has.
        want: usize,
        /// Inputs given.
        got: usize,
        /// Their names.
        names: String,
    },
    /// A shape or element type that does not fit.
    #[error("input {name:?} is {want}, {got} was given")]
    Mismatch {
        /// The input's name.
        name: Arc<str>,
        /// Its type in the program.
        want: String,
        /// What was given.
        got: String,
    },
    /// A dynamic dimension outside its range.
    #[error("input {name:?} is {want}: {symbol} = {got} is outside its range {min} to {max}")]
    Range {
        /// The input's name.
        name: Arc<str>,
        /// Its type in the program.
        want: String,
        /// The symbol.
        symbol: Arc<str>,
        /// Its value.
        got: i64,
        /// Its least value.
        min: i64,
        /// Its greatest value.
        max: i64,
    },
}

impl Program {
    /// Adds a constant and its value; a taken name gets a number.
    pub fn add_constant(&mut self, name: &str, kind: ConstKind, tensor: Tensor) -> ValueId {
        let ty = TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
        let value = self.graph.add_const_value(super::arena::Key::new(self.constants.len()), name, ty);
        let name = self.graph.value(value).name.clone();
        self.constants.push(Constant { name, kind, persistent: true, tensor, value });
        value
    }

    /// The constant behind a value.
    pub fn constant(&self, v: ValueId) -> Option<&Constant> {
        match self.graph.value(v).def() {
            Def::Const(c) => Some(&self.constants[c]),
            _ => None,
        }
    }

    /// The constant behind a value, unless the program overwrites it: what may be folded.
    pub fn frozen(&self, v: ValueId) -> Option<&Tensor> {
        match self.graph.value(v).def() {
            Def::Const(c) if !self.is_mutated(c) => Some(&self.constants[c].tensor),
            _ => None,
        }
    }

    /// Whether the program overwrites this buffer.
    pub fn is_mutated(&self, c: ConstId) -> bool {
        self.signature.mutations.contains(&MutationTarget::Buffer(c))
    }

    /// The values the caller gets.
    pub fn user_outputs(&self) -> &[ValueId] {
        &self.graph.outputs()[..self.signature.outputs.len().min(self.graph.outputs().len())]
    }

    /// What is overwritten, with which value.
    pub fn mutations(&self) -> impl Iterator<Item = (MutationTarget, ValueId)> + '_ {
        let values = self.graph.outputs().iter().skip(self.signature.outputs.len());
        self.signature.mutations.iter().copied().zip(values.copied())
    }

    /// Constants that the graph reads, returns or overwrites.
    pub fn live_constants(&self) -> impl Iterator<Item = (ConstId, &Constant)> {
        self.constants.iter().filter(|(c, k)| {
            !self.graph.value(k.value).uses().is_empty()
                || self.graph.is_output(k.value)
                || self.is_mutated(*c)
        })
    }

    /// The inclusive range of a symbol; sizes from 0 up when it has none.
    pub fn range(&self, symbol: &str) -> (i64, i64) {
        self.symbols.get(symbol).map_or((0, i64::MAX), |r| (r.min, r.max))
    }

    /// Checks inputs and finds the value of each symbol from their shapes.
    ///
    /// # Errors
    /// [`BindError`]: says which input, and both shapes.
    pub fn bind(&self, inputs: &[Tensor]) -> Result<Bindings, BindError> {
        let types: Vec<_> = inputs.iter().map(|t| (t.dtype(), t.shape())).collect();
        self.bind_shapes(&types)
    }

    /// As [`Program::bind`], from element types and shapes alone.
    ///
    /// # Errors
    /// [`BindError`]: says which input, and both shapes.
    pub fn bind_shapes(&self, inputs: &[(crate::DType, &[usize])]) -> Result<Bindings, BindError> {
        if inputs.len() != self.graph.inputs().len() {
            let names = self.signature.inputs.join(", ");
            return Err(BindError::Count { want: self.graph.inputs().len(), got: inputs.len(), names });
        }
        let mut bindings = Bindings::new();
        let types = || self.graph.inputs().iter().map(|&v| self.graph.value(v)).zip(inputs);
        // Plain symbols first: derived dimensions (2*s0) are then checked against them.
        for (v, (dtype, shape)) in types() {
            let mismatch = || BindError::Mismatch {
                name: v.name.clone(),
                want: v.ty.to_string(),
                got: TensorType::new(*dtype, shape.iter().copied()).to_string(),
            };
            if v.ty.rank() != shape.len() || v.ty.dtype != *dtype {
                return Err(mismatch());
            }
            for (d, &n) in v.ty.shape.iter().zip(shape.iter()) {
                let Some(s) = d.as_symbol() else { continue };
                let n = i64::try_from(n).map_err(|_| mismatch())?;
                let (min, max) = self.range(s);
                if n < min || n > max {
                    let want = v.ty.to_string();
                    return Err(BindError::Range {
                        name: v.name.clone(),
                        want,
                        symbol: s.clone(),
                        got: n,
                        min,
                        max,
                    });
                }
                if *bindings.entry(s.clone()).or_insert(n) != n {
                    return Err(mismatch());
                }
            }
        }
        for (v, (dtype, shape)) in types() {
            for (d, &n) in v.ty.shape.iter().zip(shape.iter()) {
                let n = i64::try_from(n).unwrap_or(i64::MAX);
                let fits = match d.eval(&bindings) {
                    Ok(want) => want == n,
                    // A symbol that only occurs inside an expression, such as 2*s0.
                    Err(_) => solve(d, n, &mut bindings),
                };
                if !fits {
                    return Err(BindError::Mismatch {
                        name: v.name.clone(),
                        want: v.ty.to_string(),
                        got: TensorType::new(*dtype, shape.iter().copied()).to_string(),
                    });
                }
            }
        }
        Ok(bindings)
    }
}

/// Solves `d == n` for the one unbound symbol of `d`, which must occur linearly.
fn solve(d: &SymInt, n: i64, bindings: &mut Bindings) -> bool {
    let unbound: Vec<_> = d.symbols().into_iter().filter(|s| !bindings.contains_key(s)).collect();
    let [s] = &unbound[..] else { return false };
    let mut at = |x: i64| {
        bindings.insert(s.clone(), x);
        d.eval(bindings).unwrap_or(0)
    };
    let (zero, one) = (at(0), at(1));
    let slope = one - zero;
    if slope == 0 || (n - zero) % slope != 0 {
        return false;
    }
    at((n - zero) / slope) == n
}
