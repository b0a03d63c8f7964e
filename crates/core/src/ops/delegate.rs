//! What lowering puts into programs: calls of delegates, where a region went to a backend, and loops.

use super::{Call, InferError};
use crate::ir::TensorType;

ops! {
    CALL_DELEGATE = "lowbit.call_delegate.default" "(int delegate, Tensor[] inputs) -> Tensor[]", undeclared, declared_types;
    LOOP = "lowbit.loop.default" "(int body, Tensor[] carry, Tensor[] xs, Tensor[] captured, bool reverse) -> Tensor[]", undeclared, declared_types;
}

fn undeclared(_: &Call<'_>) -> Result<Vec<TensorType>, InferError> {
    Err(InferError::new("calls of delegates and loops declare their types"))
}
