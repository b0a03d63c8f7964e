//! Arguments of nodes.

use super::graph::ValueId;
use crate::dtype::DType;
use crate::symint::SymInt;
use std::sync::Arc;

/// One argument of a node, in the place its operator's schema gives it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arg {
    /// `None`: an optional argument left out.
    None,
    /// A tensor.
    Value(ValueId),
    /// A list of tensors.
    Values(Vec<ValueId>),
    /// A list with holes (`Tensor?[]`, the indices of `aten.index`).
    OptValues(Vec<Option<ValueId>>),
    /// An integer.
    Int(SymInt),
    /// A list of integers.
    Ints(Vec<SymInt>),
    /// A float.
    Float(f64),
    /// A list of floats.
    Floats(Vec<f64>),
    /// A boolean.
    Bool(bool),
    /// A list of booleans.
    Bools(Vec<bool>),
    /// A string; also the spelling of a memory format, layout or device.
    Str(Arc<str>),
    /// An element type.
    DType(DType),
}

impl Arg {
    /// The tensors in this argument, in order; holes are skipped.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let (one, many, holes) = match self {
            Arg::Value(v) => (Some(*v), &[][..], &[][..]),
            Arg::Values(v) => (None, &v[..], &[][..]),
            Arg::OptValues(v) => (None, &[][..], &v[..]),
            _ => (None, &[][..], &[][..]),
        };
        one.into_iter().chain(many.iter().copied()).chain(holes.iter().flatten().copied())
    }

    /// The tensors in this argument, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut ValueId> + '_ {
        let (one, many, holes) = match self {
            Arg::Value(v) => (Some(v), &mut [][..], &mut [][..]),
            Arg::Values(v) => (None, &mut v[..], &mut [][..]),
            Arg::OptValues(v) => (None, &mut [][..], &mut v[..]),
            _ => (None, &mut [][..], &mut [][..]),
        };
        one.into_iter().chain(many).chain(holes.iter_mut().flatten())
    }

    /// A list of integers without symbols.
    pub fn ints<I: Into<SymInt>>(list: impl IntoIterator<Item = I>) -> Arg {
        Arg::Ints(list.into_iter().map(Into::into).collect())
    }

    /// An optional tensor.
    pub fn optional(v: Option<ValueId>) -> Arg {
        v.map_or(Arg::None, Arg::Value)
    }
}

macro_rules! from { ($($t:ty => $v:ident),* $(,)?) => {
    $(impl From<$t> for Arg { fn from(x: $t) -> Arg { Arg::$v(x.into()) } })*
} }
from! { ValueId => Value, Vec<ValueId> => Values, SymInt => Int, i64 => Int, i32 => Int, usize => Int, f64 => Float,
bool => Bool, DType => DType, &str => Str, Vec<SymInt> => Ints }
