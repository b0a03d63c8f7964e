//! XNNPACK backend: quantizer and lowering to the delegate that ExecuTorch loads.
//!
//! Recipes: `int8-static-per-channel` (default), `int8-static-per-tensor`, `int8-dynamic-per-channel`.
#![forbid(unsafe_code)]

pub mod quantizer;
pub mod subgraph;
