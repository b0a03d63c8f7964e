//! [`Call`]: what a shape rule sees, with typed accessors by argument index.

use super::OpDef;
use crate::dtype::DType;
use crate::ir::{Arg, Graph, TensorType, ValueId};
use crate::symint::SymInt;

/// Arguments that an operator cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InferError {
    /// What does not fit.
    pub message: String,
}

impl InferError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        InferError { message: message.into() }
    }
}

/// The largest plain integer that arguments such as strides, dimensions and counts may be.
pub const MAX_INT: i64 = 1 << 31;

/// An operator with its arguments, and the graph that types its operands.
#[derive(Copy, Clone)]
pub struct Call<'a> {
    /// The operator.
    pub op: &'static OpDef,
    /// Complete arguments in schema order, kinds already checked against the schema.
    pub args: &'a [Arg],
    /// Where operands have their types.
    pub graph: &'a Graph,
}

impl<'a> Call<'a> {
    fn bad<T>(&self, i: usize, want: &str) -> Result<T, InferError> {
        let name = self.op.schema().args.get(i).map_or("?", |a| &a.name[..]).to_string();
        Err(InferError::new(format!("argument {name} should be {want}")))
    }

    /// The argument itself.
    pub fn arg(&self, i: usize) -> &'a Arg {
        self.args.get(i).unwrap_or(&Arg::None)
    }

    /// The type of tensor argument `i`.
    ///
    /// # Errors
    /// When it is no tensor (likewise below).
    pub fn tensor(&self, i: usize) -> Result<&'a TensorType, InferError> {
        match self.arg(i) {
            Arg::Value(v) => Ok(self.graph.ty(*v)),
            _ => self.bad(i, "a tensor"),
        }
    }

    /// The type of tensor argument `i`, or `None`.
    pub fn opt_tensor(&self, i: usize) -> Option<&'a TensorType> {
        match self.arg(i) {
            Arg::Value(v) => Some(self.graph.ty(*v)),
            _ => None,
        }
    }

    /// The types of a tensor list.
    pub fn tensors(&self, i: usize) -> Result<Vec<&'a TensorType>, InferError> {
        match self.arg(i) {
            Arg::Values(vs) => Ok(vs.iter().map(|v| self.graph.ty(*v)).collect()),
            _ => self.bad(i, "a list of tensors"),
        }
    }

    /// The value of tensor argument `i`.
    pub fn value(&self, i: usize) -> Option<ValueId> {
        match self.arg(i) {
            Arg::Value(v) => Some(*v),
            _ => None,
        }
    }

    /// An integer that may depend on symbols.
    pub fn sym(&self, i: usize) -> Result<SymInt, InferError> {
        match self.arg(i) {
            Arg::Int(n) => Ok(n.clone()),
            _ => self.bad(i, "an integer"),
        }
    }

    /// A plain integer, small enough ([`MAX_INT`]) that shape rules may multiply two.
    pub fn int(&self, i: usize) -> Result<i64, InferError> {
        match self.arg(i) {
            Arg::Int(SymInt::Known(n)) if (-MAX_INT..=MAX_INT).contains(n) => Ok(*n),
            Arg::Int(SymInt::Known(n)) => {
                self.bad(i, &format!("no further from 0 than {MAX_INT}; it is {n}"))
            }
            _ => self.bad(i, "an integer without symbols"),
        }
    }

    /// A plain integer, or `None`.
    pub fn opt_int(&self, i: usize) -> Result<Option<i64>, InferError> {
        match self.arg(i) {
            Arg::None => Ok(None),
            _ => self.int(i).map(Some),
        }
    }

    /// A list of integers that may depend on symbols.
    pub fn syms(&self, i: usize) -> Result<&'a [SymInt], InferError> {
        match self.arg(i) {
            Arg::Ints(l) => Ok(l),
            _ => self.bad(i, "a list of integers"),
        }
    }

    /// A list of plain integers, each at most [`MAX_INT`].
    pub fn ints(&self, i: usize) -> Result<Vec<i64>, InferError> {
        match self.syms(i)?.iter().map(SymInt::known).collect::<Option<Vec<i64>>>() {
            Some(l) => match l.iter().find(|n| !(-MAX_INT..=MAX_INT).contains(*n)) {
                Some(n) => self.bad(i, &format!("no further from 0 than {MAX_INT}; it holds {n}")),
                None => Ok(l),
            },
            None => self.bad(i, "a list of integers without symbols"),
        }
    }

    /// A list of plain integers, or `None`.
    pub fn opt_ints(&self, i: usize) -> Result<Option<Vec<i64>>, InferError> {
        match self.arg(i) {
            Arg::None => Ok(None),
            _ => self.ints(i).map(Some),
        }
    }

    /// A boolean.
    pub fn bool(&self, i: usize) -> Result<bool, InferError> {
        match self.arg(i) {
            Arg::Bool(b) => Ok(*b),
            _ => self.bad(i, "a boolean"),
        }
    }

    /// An element type, or `None`.
    pub fn opt_dtype(&self, i: usize) -> Option<DType> {
        match self.arg(i) {
            Arg::DType(d) => Some(*d),
            _ => None,
        }
    }

    /// `dim` counted from the front, for a tensor of `rank` dimensions (a scalar counts as one).
    pub fn dim(&self, i: usize, rank: usize) -> Result<usize, InferError> {
        wrap_dim(self.int(i)?, rank)
    }

    /// An error about this call.
    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, InferError> {
        Err(InferError::new(message))
    }
}

/// A dimension number counted from the front; negative ones count from the back.
///
/// # Errors
/// When it is outside `-rank..rank` (of at least one dimension).
pub fn wrap_dim(dim: i64, rank: usize) -> Result<usize, InferError> {
    let r = rank.max(1) as i64;
    if dim < -r || dim >= r {
        return Err(InferError::new(format!("dimension {dim} is outside a tensor of {rank} dimensions")));
    }
    Ok(if dim < 0 { dim + r } else { dim } as usize)
}
