//! Operators that compute nothing, as long as the element type stays: their output is another name for their first operand.

use lowbit_core::ops::OpDef;

/// The bytes as they are, in C order.
const VIEWS: &[&str] = &[
    "view",
    "reshape",
    "_unsafe_view",
    "view_copy",
    "view_as",
    "reshape_as",
    "flatten",
    "unflatten",
    "squeeze",
    "squeeze_copy",
    "unsqueeze",
    "unsqueeze_copy",
];

/// The same elements and shape, in any memory format.
const COPIES: &[&str] = &[
    "alias",
    "alias_copy",
    "clone",
    "contiguous",
    "detach",
    "lift_fresh_copy",
    "dropout",
    "feature_dropout",
    "to",
    "_to_copy",
    "type_as",
];

/// Whether the output has the operand's bytes in C order.
pub fn views(op: &OpDef) -> bool {
    VIEWS.contains(&op.short_name())
}

/// Whether the output has the operand's elements and shape.
pub fn copies(op: &OpDef) -> bool {
    COPIES.contains(&op.short_name())
}
