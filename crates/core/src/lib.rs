//! Quantization of `torch.export` programs: the representation, operators, observers, quantizers, passes and the
//! plug-in contract of lowbit. No I/O happens here: bytes in, bytes out.
//!
//! The flow is `import → annotate → prepare → calibrate → convert → evaluate → lower`; see [`flow`].
#![forbid(unsafe_code)]

pub mod backend;
pub mod dtype;
pub mod executor;
pub mod flow;
pub mod ir;
pub mod ops;
pub mod passes;
pub mod quant;
pub mod quantizer;
pub mod registry;
pub mod symint;
pub mod tensor;

pub use dtype::DType;
pub use registry::Registry;
pub use symint::SymInt;
pub use tensor::{Tensor, TensorView};

#[doc(hidden)]
pub use inventory;
