//! Integration tests over the whole workspace.

mod cases;
mod decompose;
mod op_calls;
