//! Types of values.

use crate::dtype::DType;
use crate::symint::{Bindings, EvalError, SymInt};
use std::fmt;

/// Element type and shape of a value. Dimensions may depend on the program's symbols.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Size of each dimension, outermost first.
    pub shape: Vec<SymInt>,
}

impl TensorType {
    /// A type from anything that makes dimensions.
    pub fn new<D: Into<SymInt>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> Self {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The sizes, when no symbol is involved.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok())).collect()
    }

    /// Number of elements.
    pub fn numel(&self) -> SymInt {
        self.shape.iter().cloned().product()
    }

    /// The sizes under `bindings`.
    ///
    /// # Errors
    /// When a symbol has no value. A negative size becomes 0.
    pub fn resolve(&self, bindings: &Bindings) -> Result<Vec<usize>, EvalError> {
        self.shape.iter().map(|d| Ok(usize::try_from(d.eval(bindings)?).unwrap_or(0))).collect()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
