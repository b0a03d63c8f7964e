//! Integration tests over the whole workspace.

mod cases;
