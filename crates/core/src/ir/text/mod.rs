//! The text form of programs: for people, golden tests and tools; not a storage format.
//!
//! ```text
//! program {
//!   %x    : f32[1, 4] = input
//!   %w    : f32[3, 4] = constant "fc.weight"
//!   %fc   : f32[1, 3] = aten.linear.default(%x, %w)    ; fc
//!   return %fc
//! }
//! ```
//! Arguments that equal their defaults are left out; those that can only be given by name are `name=value`.

mod parse;
mod print;

pub use parse::{ParseError, parse};
pub use print::{node_line, print};
