//! Tensors of a subgraph.

/// Element types (`XNNDatatype`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Datatype {
    /// 32-bit float.
    Fp32 = 1,
    /// 16-bit float.
    Fp16 = 2,
    /// Signed 8-bit, one scale and zero point.
    Qint8 = 3,
    /// Unsigned 8-bit, one scale and zero point.
    Quint8 = 4,
    /// Signed 32-bit, one scale: the bias of `Qint8` weights.
    Qint32 = 5,
    /// Signed 8-bit, a scale a channel.
    Qcint8 = 6,
    /// Signed 32-bit, a scale a channel: the bias of `Qcint8` weights.
    Qcint32 = 7,
    /// Signed 4-bit, a scale a channel; stored as 0 to 15, two to a byte, low half first.
    Qcint4 = 8,
    /// Signed 8-bit, quantized while running, a scale and zero point a row.
    Qdint8 = 9,
    /// Signed 4-bit, a scale for each block of a row.
    Qbint4 = 10,
    /// As `Qdint8`, packed.
    Qpint8 = 11,
    /// Signed 32-bit integer, not quantized.
    Int32 = 12,
    /// 32-bit float, packed.
    Pfp32 = 13,
    /// The upper half of a 32-bit float.
    Bf16 = 14,
}

impl Datatype {
    /// Every element type.
    pub const ALL: [Datatype; 14] = [
        Datatype::Fp32,
        Datatype::Fp16,
        Datatype::Qint8,
        Datatype::Quint8,
        Datatype::Qint32,
        Datatype::Qcint8,
        Datatype::Qcint32,
        Datatype::Qcint4,
        Datatype::Qdint8,
        Datatype::Qbint4,
        Datatype::Qpint8,
        Datatype::Int32,
        Datatype::Pfp32,
        Datatype::Bf16,
    ];
}

/// Quantization parameters of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Quant {
    /// One scale and zero point.
    PerTensor {
        /// Finite, normal and positive.
        scale: f32,
        /// 0 for weights and biases.
        zero_point: i32,
    },
    /// A scale a channel; zero points are 0 (8 for stored 4-bit values).
    PerChannel {
        /// One entry for each index of `channel_dim`.
        scales: Vec<f32>,
        /// Counted in the value's own dimensions.
        channel_dim: i32,
    },
    /// Chosen while running.
    PerToken {
        /// How many trailing dimensions share a scale: 1 for linear, 3 for convolution.
        num_nonbatch_dims: i32,
    },
    /// A scale for each block of `group_size` input channels of each output channel.
    PerChannelGroup {
        /// Place of the scales (bf16, `[out, in / group_size]`) among the graph's constants.
        scale_constant: u32,
        /// Number of scales.
        num_scales: u32,
        /// The dimension of output channels.
        channel_dim: i32,
        /// Input channels in a block.
        group_size: i32,
    },
}

/// A tensor of a subgraph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Element type.
    pub datatype: Datatype,
    /// Sizes as XNNPACK sees them (channels last for images). What depends on a symbol is an upper bound: the runtime
    /// takes the real size from the inputs.
    pub dims: Vec<u32>,
    /// Quantization parameters.
    pub quant: Option<Quant>,
    /// Place of its data among the graph's constants, from 1; 0: not constant.
    pub constant: u32,
    /// Its number among the inputs and outputs, or [`NO_VALUE`](super::NO_VALUE).
    pub external_id: u32,
    /// [`EXTERNAL_INPUT`](super::EXTERNAL_INPUT), [`EXTERNAL_OUTPUT`](super::EXTERNAL_OUTPUT).
    pub flags: u32,
}
