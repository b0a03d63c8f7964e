//! Calls of delegates, which lowering puts where a region went to a backend.

use super::{Call, InferError};
use crate::ir::TensorType;

ops! {
    CALL_DELEGATE = "lowbit.call_delegate.default" "(int delegate, Tensor[] inputs) -> Tensor[]", undeclared, declared_types;
}

fn undeclared(_: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    Err(InferError::new("a delegate call declares its types"))
}
