//! Integration tests over the whole workspace.
