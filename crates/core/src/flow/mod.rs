//! The stages: `prepare → calibrate → convert → evaluate → lower`. Each consumes the one before.

pub mod lower;

pub use lower::{Delegate, LowerError, Lowered, Place, Placement, lower};
