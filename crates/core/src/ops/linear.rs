//! Matrix products.

use super::{Call, InferError};
use crate::ir::TensorType;

ops! {
    LINEAR = "aten.linear.default" "(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", linear;
}

/// `[.., in] x [out, in] -> [.., out]`
fn linear(c: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    let (Some(last), [out, inner]) = (x.shape.last(), &w.shape[..]) else {
        return c.error(format!("input is {x}, weight is {w}; a weight has two dimensions, an input at least one"));
    };
    if last != inner {
        return c.error(format!("input {x} has {last} features, weight {w} takes {inner}"));
    }
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("has a last dimension") = out.clone();
    Ok(vec![TensorType { dtype: x.dtype, shape }])
}
