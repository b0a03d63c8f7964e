//! An XNNPACK subgraph as the ExecuTorch delegate stores it, and its bytes.
//!
//! The format is the FlatBuffer of `backends/xnnpack/serialization/runtime_schema.fbs` (file identifier `XN00`) behind
//! a 30-byte header. [`Graph`] holds the same tables as plain Rust values; [`Graph::to_bytes`] writes them.

mod header;
mod node;
#[cfg(test)]
mod read;
mod table;
mod value;
mod write;

pub use node::{
    ArgMaxPool2d, Binary, Cat, Clamp, Conv, Elu, FullyConnected, LeakyRelu, Node, Op, Pool2d, Reshape,
    Resize, Sdpa, Slice, StaticPad, Transpose, Unary,
};
pub use value::{Datatype, Quant, Value};

/// The id of a value that is not there (`XNN_INVALID_VALUE_ID`): the bias of a convolution without one.
pub const NO_VALUE: u32 = u32::MAX;
/// Most dimensions of a tensor (`XNN_MAX_TENSOR_DIMS`).
pub const MAX_DIMS: usize = 6;
/// Most inputs and outputs of a graph; the runtime refuses more.
pub const MAX_EXTERNS: usize = 4096;

/// [`Value::flags`]: the caller provides it.
pub const EXTERNAL_INPUT: u32 = 1;
/// [`Value::flags`]: the caller gets it.
pub const EXTERNAL_OUTPUT: u32 = 2;

/// Node flag: weights are `[in, out]`, the right matrix of a product `[.., n, k]`.
pub const FLAG_TRANSPOSE_WEIGHTS: u32 = 1;
/// Node flag of a resize: corners of input and output coincide.
pub const FLAG_ALIGN_CORNERS: u32 = 8;
/// Node flag of reductions and pools: reduced dimensions stay, with size 1.
pub const FLAG_KEEP_DIMS: u32 = 0x40;

/// Constants start at multiples of this many bytes.
pub const CONSTANT_ALIGNMENT: u32 = 16;

/// Data that values point at by index, stored beside the blob under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstantData {
    /// Bytes of data.
    pub size: u64,
    /// Where the runtime finds them.
    pub key: String,
}

/// A subgraph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Operators in the order they run.
    pub nodes: Vec<Node>,
    /// Tensors; the id of each is its place here.
    pub values: Vec<Value>,
    /// Number of inputs and outputs; their external ids are `0..num_externs`, inputs first.
    pub num_externs: u32,
    /// Ids of values that are inputs, in order.
    pub inputs: Vec<u32>,
    /// Ids of values that are outputs, in order.
    pub outputs: Vec<u32>,
    /// Data of constants; a value's [`Value::constant`] is a place here.
    pub constants: Vec<ConstantData>,
}
