//! Operators of a subgraph: every node type of the schema.

use super::table::{tables, union};

tables! {
    /// Two inputs, one output.
    Binary { input1: u32, input2: u32, output: u32, flags: u32 }
    /// One input, one output.
    Unary { input: u32, output: u32, flags: u32 }
    /// `[.., in] × [out, in] + [out]`
    FullyConnected { input: u32, filter: u32, bias: u32, output: u32, flags: u32 }
    /// Output dimension `i` is input dimension `perm[i]`.
    Transpose { num_dims: u32, perm: Vec<u32>, input: u32, output: u32, flags: u32 }
    /// Bilinear, over the middle dimensions of `[N, H, W, C]`.
    Resize { new_height: u32, new_width: u32, input: u32, output: u32, flags: u32 }
    /// One entry a dimension.
    StaticPad {
        pre_paddings: Vec<u32>, post_paddings: Vec<u32>, padding_value: f32, input: u32, output: u32, flags: u32,
    }
    /// Filters are `[out, kh, kw, in / groups]`; depthwise ones `[1, kh, kw, out]`.
    Conv {
        padding_top: u32, padding_right: u32, padding_bottom: u32, padding_left: u32,
        kernel_height: u32, kernel_width: u32, subsampling_height: u32, subsampling_width: u32,
        dilation_height: u32, dilation_width: u32, group_input_channels: u32, group_output_channels: u32,
        groups: u32, adjustment_height: u32, adjustment_width: u32,
        input: u32, filter: u32, bias: u32, output: u32, flags: u32,
    }
    /// Over the middle dimensions of `[N, H, W, C]`.
    Pool2d {
        padding_top: u32, padding_right: u32, padding_bottom: u32, padding_left: u32,
        pooling_height: u32, pooling_width: u32, stride_height: u32, stride_width: u32,
        dilation_height: u32, dilation_width: u32, input: u32, output: u32, flags: u32,
    }
    /// A size of 0 stands for whatever is left; at most one is.
    Reshape { num_dims: u32, new_shape: Vec<u32>, input: u32, output: u32, flags: u32 }
    /// Maximum and its place in each window.
    ArgMaxPool2d {
        padding_top: u32, padding_right: u32, padding_bottom: u32, padding_left: u32,
        pooling_height: u32, pooling_width: u32, input: u32, output_value: u32, output_index: u32, flags: u32,
    }
    /// `x < 0 ? negative_slope · x : x`
    LeakyRelu { negative_slope: f32, input: u32, output: u32, flags: u32 }
    /// `x < 0 ? alpha · (exp(x) − 1) : x`
    Elu { alpha: f32, input: u32, output: u32, flags: u32 }
    /// Two to five inputs; the others are [`NO_VALUE`](super::NO_VALUE).
    Cat { axis: u32, input1: u32, input2: u32, input3: u32, input4: u32, output: u32, flags: u32, input5: u32 }
    /// A size of 0 at offset 0 takes the whole dimension.
    Slice { num_dims: u32, offsets: Vec<u32>, sizes: Vec<u32>, input: u32, output: u32, flags: u32 }
    /// Attention in one node; the delegate's compiler does not take it.
    Sdpa { query: u32, key: u32, value: u32, scale: u32, mask: u32, output: u32, flags: u32 }
}

union! {
    /// What a node computes.
    Op {
        1 Add(Binary),
        2 FullyConnected(FullyConnected),
        3 Softmax(Unary),
        4 Sigmoid(Unary),
        5 StaticTranspose(Transpose),
        6 Clamp(Unary),
        7 Conv2d(Conv),
        8 Div(Binary),
        9 StaticResizeBilinear2D(Resize),
        10 StaticConstantPad(StaticPad),
        11 AvgPooling2d(Pool2d),
        12 Minimum(Binary),
        13 DepthwiseConv2d(Conv),
        14 MaxPooling2d(Pool2d),
        15 Multiply(Binary),
        16 Subtract(Binary),
        17 Floor(Unary),
        18 Convert(Unary),
        19 GlobalAvgPooling2d(Unary),
        20 StaticReshape(Reshape),
        21 ArgMaxPooling2d(ArgMaxPool2d),
        22 SquareRoot(Unary),
        23 Ceiling(Unary),
        24 Hardswish(Unary),
        25 LeakyReLU(LeakyRelu),
        26 Maximum(Binary),
        27 Negate(Unary),
        28 Square(Unary),
        29 ELU(Elu),
        30 Abs(Unary),
        31 PReLU(Binary),
        32 Concatenate2(Cat),
        33 Concatenate3(Cat),
        34 Concatenate4(Cat),
        35 StaticSlice(Slice),
        36 ScaledDotProductAttention(Sdpa),
        37 BatchMatrixMultiply(Binary),
        38 Concatenate5(Cat),
        39 ConvTranspose2d(Conv),
        40 ReciprocalSquareRoot(Unary),
        41 Log(Unary),
        42 Gelu(Unary),
        43 Tanh(Unary),
        44 Exp(Unary),
        45 Sin(Unary),
        46 Copy(Unary),
        47 Cos(Unary),
    }
}

/// Bounds of a node's output, in real numbers also when it is quantized.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Clamp {
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
}

impl Clamp {
    /// The bounds of `relu`.
    pub const RELU: Clamp = Clamp { min: 0.0, max: f32::INFINITY };
}

/// An operator of a subgraph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// An activation that runs with it.
    pub clamp: Option<Clamp>,
    /// The number of the program's node that it comes from, in the region's order.
    pub debug_handle: u32,
}
