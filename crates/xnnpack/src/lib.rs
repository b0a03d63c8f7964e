//! XNNPACK backend: quantizer and lowering to the delegate that ExecuTorch loads.
#![forbid(unsafe_code)]

pub mod subgraph;
