//! The Model Intermediate Language: programs of Core ML, as values, as protobuf messages, and their constants' file.
//!
//! [`program`] is what the lowering builds and what a package is read into; [`write`](mod@write) and [`read`] translate to and from
//! the messages in [`proto`]; [`blob`] is the file that large constants lie in.

pub mod blob;
pub mod program;
pub mod proto;
pub mod read;
mod types;
pub mod write;

pub use program::{Arg, Constant, Data, Function, Operation, Program};
pub use types::{DType, Type, pack, unpack};
