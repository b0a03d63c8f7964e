//! A QNN graph as data: what the library is told, and what tests look at.
//!
//! Names and numbers are those of Qualcomm's AI Engine Direct API, as ExecuTorch (`backends/qualcomm`, BSD) and ONNX Runtime
//! (`providers/qnn`, MIT) use them.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// An element type. Fixed-point types go with an [`Encoding`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum DType {
    /// Plain 32-bit integers: indices, axes with signs.
    Int32 = 0x32,
    /// Plain 64-bit integers.
    Int64 = 0x64,
    /// Plain unsigned 32-bit integers: sizes and strides among parameters.
    UInt32 = 0x132,
    /// Half floats.
    F16 = 0x216,
    /// Single floats.
    F32 = 0x232,
    /// Signed 8-bit fixed point: weights.
    S8 = 0x308,
    /// Signed 16-bit fixed point: weights of 16 bits.
    S16 = 0x316,
    /// Signed 32-bit fixed point: biases.
    S32 = 0x332,
    /// Unsigned 8-bit fixed point: activations.
    U8 = 0x408,
    /// Unsigned 16-bit fixed point: activations of 16 bits.
    U16 = 0x416,
    /// Truth values, a byte each.
    Bool = 0x508,
}

impl DType {
    /// All of them.
    pub const ALL: [DType; 11] = [
        DType::Int32,
        DType::Int64,
        DType::UInt32,
        DType::F16,
        DType::F32,
        DType::S8,
        DType::S16,
        DType::S32,
        DType::U8,
        DType::U16,
        DType::Bool,
    ];

    /// The number that the library knows it by.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The type of that number.
    pub fn of_code(code: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.code() == code)
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::S8 | DType::U8 | DType::Bool => 1,
            DType::F16 | DType::S16 | DType::U16 => 2,
            DType::Int32 | DType::UInt32 | DType::F32 | DType::S32 => 4,
            DType::Int64 => 8,
        }
    }

    /// What people call it: `u8`.
    pub fn name(self) -> &'static str {
        match self {
            DType::Int32 => "int32",
            DType::Int64 => "int64",
            DType::UInt32 => "uint32",
            DType::F16 => "f16",
            DType::F32 => "f32",
            DType::S8 => "s8",
            DType::S16 => "s16",
            DType::S32 => "s32",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::Bool => "bool",
        }
    }

    /// Whether integers of this type stand for real numbers.
    pub fn is_fixed(self) -> bool {
        matches!(self, DType::S8 | DType::S16 | DType::S32 | DType::U8 | DType::U16)
    }
}

/// What the integers of a tensor stand for: `real = scale · (integer + offset)`, so that an offset is a zero point's negative.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoding {
    /// Nothing but themselves.
    None,
    /// One scale for all. With `bits`, integers of so many bits, each in a byte.
    Tensor {
        /// The step between two integers.
        scale: f32,
        /// Added to an integer.
        offset: i32,
        /// The true width, if less than the element type's.
        bits: Option<u32>,
    },
    /// A scale for each index of an axis.
    Axis {
        /// The axis.
        axis: u32,
        /// Steps.
        scales: Vec<f32>,
        /// Added to integers.
        offsets: Vec<i32>,
        /// The true width, if less than the element type's.
        bits: Option<u32>,
    },
    /// 4-bit integers with a scale a channel times a small integer a block (low-power block quantization).
    Blocks {
        /// The axis of channels.
        axis: u32,
        /// The scale of each channel.
        scales: Vec<f32>,
        /// Blocks of a channel.
        blocks: u32,
        /// What a block multiplies its channel's scale with, 1 to 16: blocks of a channel behind one another.
        multipliers: Vec<u8>,
    },
}

/// What a tensor is to the graph.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Role {
    /// The caller fills it.
    Input = 0,
    /// The caller reads it.
    Output = 1,
    /// It stays inside.
    Native = 3,
    /// A constant.
    Static = 4,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, unique in the graph.
    pub name: String,
    /// What it is to the graph.
    pub role: Role,
    /// Its element type.
    pub dtype: DType,
    /// The size of each dimension, outermost first.
    pub dims: Vec<u32>,
    /// What its integers stand for.
    pub encoding: Encoding,
    /// The elements of a constant, little-endian, in C order; empty for all others, and for constants of a rehearsal.
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.dims.iter().map(|&d| d as usize).product()
    }

    /// Bytes of all elements.
    pub fn size(&self) -> usize {
        self.numel() * self.dtype.size()
    }
}

/// The place of a tensor in a graph's list.
pub type TensorId = usize;

/// A named setting of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// An unsigned integer: an axis, a mode.
    U32(u32),
    /// A signed integer.
    I32(i32),
    /// A number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// Several unsigned integers, with their shape.
    U32s(Vec<u32>, Vec<u32>),
    /// Several signed integers, with their shape.
    I32s(Vec<i32>, Vec<u32>),
}

/// An operator applied to tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Its name, unique in the graph.
    pub name: String,
    /// The operator, of package `qti.aisw`: `Conv2d`.
    pub kind: &'static str,
    /// Settings.
    pub params: Vec<(&'static str, Param)>,
    /// What it reads.
    pub inputs: Vec<TensorId>,
    /// What it makes.
    pub outputs: Vec<TensorId>,
}

/// Operators in the order they run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// All operators.
    pub ops: Vec<Op>,
}

impl Graph {
    /// The tensors of a role, in the order they were added.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().filter(move |t| t.role == role)
    }

    /// A digest of all of it: equal graphs have equal ones.
    pub fn digest(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        for t in &self.tensors {
            let Tensor { name, role, dtype, dims, encoding, data } = t;
            sha.update(format!("{:?}", (name, role, dtype, dims, encoding, data.len())));
            sha.update(data);
        }
        sha.update(format!("{:?}", self.ops));
        sha.finalize().into()
    }

    /// An operator with the types of what it reads and makes, for messages: `Conv2d(u8[1, 8, 8, 3], s8[…]) → u8[…]`.
    pub fn describe(&self, op: &Op) -> String {
        let list = |ids: &[TensorId]| {
            let one = |&i: &TensorId| format!("{}{:?}", self.tensors[i].dtype.name(), self.tensors[i].dims);
            ids.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        format!("{}({}) -> {}", op.kind, list(&op.inputs), list(&op.outputs))
    }
}
