//! The rules as data: ExecuTorch's HTP rule table, and what lowbit does with each row.
//!
//! `targets` are PyTorch's names; those that lowbit's programs do not hold (in-place forms, Python operators) match nothing.

/// How the tensors of an operator are quantized.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Input, weight, bias and result.
    Layer,
    /// Input and result, each with its own range.
    Unary,
    /// Input, and a result from 0 to 1.
    Fixed,
    /// Input, and a result from −1 to 1 where there are 16 bits.
    Tanh,
    /// Inputs and result, each with its own range.
    Binary,
    /// As `Binary`; of 16 bits, the second operand has signs.
    MatMul,
    /// The result has the range of what it is made from.
    Shared,
    /// All inputs and the result have one range.
    Cat,
    /// Input, factors, summands, result.
    Norm,
    /// Two inputs are picked from; both and the result have ranges.
    Select,
    /// Inputs with ranges, a result of truth values.
    Compare,
    /// An input with a range, a result of integers.
    Read,
    /// Nothing: it is made of other operators before, or lowbit has no lowering of it.
    Nothing,
}

/// A row.
#[derive(Copy, Clone, Debug)]
pub struct Row {
    /// The rule's name in reports.
    pub name: &'static str,
    /// The operators it is for.
    pub targets: &'static [&'static str],
    /// The chip's operator, where it is one.
    pub op: Option<&'static str>,
    /// What is quantized.
    pub how: How,
}

const fn row(
    name: &'static str,
    targets: &'static [&'static str],
    op: Option<&'static str>,
    how: How,
) -> Row {
    Row { name, targets, op, how }
}

/// ExecuTorch's table (`backends/qualcomm/quantizer/annotators/htp_rules.py`, 1.4).
#[rustfmt::skip]
pub static HTP: &[Row] = &[
    row("Abs", &["aten.abs.default"], Some("ElementWiseAbs"), How::Unary),
    row("Add", &["aten.add", "aten.add.Tensor", "aten.add_.Tensor"], Some("ElementWiseAdd"), How::Binary),
    row("Amax", &["aten.amax.default"], Some("ReduceMax"), How::Shared),
    row("Amin", &["aten.amin.default"], Some("ReduceMin"), How::Shared),
    row("And", &["aten.__and__.Tensor", "aten.logical_and.default"], Some("ElementWiseAnd"), How::Nothing),
    row("Argmax", &["aten.argmax.default"], Some("Argmax"), How::Read),
    row("Argmin", &["aten.argmin.default"], Some("Argmin"), How::Read),
    row("Asin", &["aten.asin.default"], Some("ElementWiseAsin"), How::Unary),
    row("Atan", &["aten.atan.default"], Some("ElementWiseAtan"), How::Unary),
    row("AvgPool2d", &["aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.avg_pool1d.default", "aten.avg_pool2d.default"], Some("PoolAvg2d"), How::Unary),
    row("AvgPool3d", &["aten.avg_pool3d.default", "aten.adaptive_avg_pool3d.default"], Some("PoolAvg3d"), How::Nothing),
    row("BatchNorm", &["aten.batch_norm.default", "aten.instance_norm.default"], None, How::Nothing),
    row("Cast", &["aten.to.dtype"], Some("Cast"), How::Nothing),
    row("Cat", &["aten.cat.default", "aten.concat.default"], Some("Concat"), How::Cat),
    row("Cdist", &["aten.cdist.default"], None, How::Nothing),
    row("Ceil", &["aten.ceil.default"], Some("ElementWiseCeil"), How::Unary),
    row("ChannelShuffle", &["aten.channel_shuffle.default"], Some("ChannelShuffle"), How::Nothing),
    row("Chunk", &["aten.split_with_sizes.default", "aten.split_with_sizes_copy.default", "aten.split.Tensor", "aten.chunk.default"], Some("Split"), How::Shared),
    row("ColIm", &["aten.col2im.default", "aten.im2col.default"], None, How::Nothing),
    row("ConstantOp", &["aten.arange.default", "aten.arange.start", "aten.arange.start_step", "aten.scalar_tensor.default", "aten.full_like.default", "aten.full.default", "aten.zeros.default", "aten.zeros_like.default", "aten.ones.default", "aten.ones_like.default", "aten.rand.default", "aten.randn.default"], None, How::Nothing),
    row("Conv2d", &["aten.conv1d.default", "aten.conv2d.default", "aten.conv2d.padding", "aten.convolution.default"], Some("Conv2d"), How::Layer),
    row("Conv3d", &["aten.conv3d.default"], Some("Conv3d"), How::Nothing),
    row("Cos", &["aten.cos.default"], Some("ElementWiseCos"), How::Unary),
    row("CumSum", &["aten.cumsum.default"], Some("CumulativeSum"), How::Unary),
    row("Div", &["aten.div", "aten.div.Tensor", "aten.divide.Tensor"], Some("ElementWiseDivide"), How::Binary),
    row("Elu", &["aten.elu.default"], Some("Elu"), How::Unary),
    row("Gather", &["aten.gather.default", "aten.index.Tensor", "aten.index_select.default"], None, How::Shared),
    row("Embedding", &["aten.embedding.default"], None, How::Shared),
    row("Equal", &["aten.eq.Tensor"], Some("ElementWiseEqual"), How::Compare),
    row("Exp", &["aten.exp.default"], Some("ElementWiseExp"), How::Unary),
    row("Floor", &["aten.floor.default"], Some("ElementWiseFloor"), How::Unary),
    row("FloorDivide", &["aten.floor_divide.default"], Some("ElementWiseFloorDiv"), How::Binary),
    row("Gelu", &["aten.gelu.default"], Some("Gelu"), How::Unary),
    row("GetItem", &["operator.getitem"], None, How::Nothing),
    row("Greater", &["aten.gt.Tensor"], Some("ElementWiseGreater"), How::Compare),
    row("GreaterEqual", &["aten.ge.Tensor"], Some("ElementWiseGreaterEqual"), How::Compare),
    row("GridSample", &["aten.grid_sampler.default"], Some("GridSample"), How::Binary),
    row("GroupNorm", &["aten.group_norm.default"], Some("GroupNorm"), How::Norm),
    row("HardSigmoid", &["aten.hardsigmoid.default", "aten.hardsigmoid_.default"], Some("ElementWiseNeuron"), How::Fixed),
    row("HardSwish", &["aten.hardswish.default", "aten.hardswish_.default"], Some("HardSwish"), How::Unary),
    row("IndexCopy", &["aten.index_copy.default", "aten.index_copy_.default"], None, How::Nothing),
    row("IndexPut", &["aten.index_put.default", "aten.index_put_.default"], None, How::Nothing),
    row("LayerNorm", &["aten.layer_norm.default", "aten.native_layer_norm.default"], Some("LayerNorm"), How::Norm),
    row("Less", &["aten.lt.Tensor"], Some("ElementWiseLess"), How::Compare),
    row("LessEqual", &["aten.le.Tensor"], Some("ElementWiseLessEqual"), How::Compare),
    row("LinalgVectorNorm", &["aten.linalg_vector_norm.default"], None, How::Nothing),
    row("Linear", &["aten.linear.default"], Some("FullyConnected"), How::Layer),
    row("Log", &["aten.log.default"], Some("ElementWiseLog"), How::Unary),
    row("LogSoftmax", &["aten.log_softmax.int"], Some("LogSoftmax"), How::Unary),
    row("MaskedFill", &["aten.masked_fill.Tensor"], None, How::Nothing),
    row("MatMul", &["aten.bmm.default", "aten.matmul.default", "aten.mm.default"], Some("MatMul"), How::MatMul),
    row("HadamardTransform", &["qnn_custom.hadamard_transform.default"], Some("HadamardTransform"), How::Nothing),
    row("Max", &["aten.max.other", "aten.maximum.default"], Some("ElementWiseMaximum"), How::Binary),
    row("MaxPool2d", &["aten.max_pool2d.default", "aten.max_pool2d_with_indices.default", "aten.adaptive_max_pool2d.default"], Some("PoolMax2d"), How::Shared),
    row("Min", &["aten.min.other", "aten.minimum.default"], Some("ElementWiseMinimum"), How::Binary),
    row("Mul", &["aten.mul", "aten.mul.Tensor", "aten.mul_.Tensor"], Some("ElementWiseMultiply"), How::Binary),
    row("Neg", &["aten.neg.default"], Some("ElementWiseNeg"), How::Unary),
    row("NotEqual", &["aten.ne.Tensor"], Some("ElementWiseNotEqual"), How::Compare),
    row("Or", &["aten.bitwise_or.Tensor", "aten.__or__.Tensor"], Some("ElementWiseOr"), How::Nothing),
    row("Pad", &["aten.pad.default", "aten.reflection_pad1d.default", "aten.reflection_pad2d.default"], Some("Pad"), How::Shared),
    row("Permute", &["aten.permute.default", "aten.swapaxes.default", "aten.transpose.int"], Some("Transpose"), How::Shared),
    row("PixelShuffle", &["aten.pixel_shuffle.default"], Some("DepthToSpace"), How::Shared),
    row("PixelUnshuffle", &["aten.pixel_unshuffle.default"], Some("SpaceToDepth"), How::Shared),
    row("Pow", &["aten.pow.Tensor_Tensor", "aten.square.default"], Some("ElementWisePower"), How::Binary),
    row("PReLU", &["aten.prelu.default"], Some("Prelu"), How::Binary),
    row("ReduceMax", &["aten.max.dim"], Some("ReduceMax"), How::Shared),
    row("ReduceMean", &["aten.mean.default", "aten.mean.dim"], Some("ReduceMean"), How::Unary),
    row("ReduceMin", &["aten.min.dim"], Some("ReduceMin"), How::Shared),
    row("ReduceSum", &["aten.sum.dim_IntList"], Some("ReduceSum"), How::Unary),
    row("Relu", &["aten.relu.default", "aten.relu_.default"], Some("Relu"), How::Unary),
    row("ReluMinMax", &["aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default", "aten.hardtanh.default", "aten.hardtanh_.default"], Some("ReluMinMax"), How::Unary),
    row("Repeat", &["aten.expand.default", "aten.repeat.default"], Some("Tile"), How::Shared),
    row("ExpandAs", &["aten.expand_as.default"], None, How::Shared),
    row("Reshape", &["aten.flatten.using_ints", "aten.reshape.default", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze_copy.dims", "aten.unflatten.int", "aten._unsafe_view.default", "aten.unsqueeze.default", "aten.unsqueeze_copy.default", "aten.view_copy.default", "aten.view.default"], Some("Reshape"), How::Shared),
    row("RmsNorm", &["aten.rms_norm.default"], Some("RmsNorm"), How::Norm),
    row("Rsqrt", &["aten.rsqrt.default"], None, How::Unary),
    row("Round", &["aten.round.default", "aten.round.decimals"], Some("ElementWiseRound"), How::Unary),
    row("ScaledDotProductAttention", &["aten.scaled_dot_product_attention.default"], None, How::Nothing),
    row("ScatterElements", &["aten.scatter.src", "aten.scatter.value"], None, How::Nothing),
    row("Sort", &["aten.sort.default"], Some("TopK"), How::Nothing),
    row("Sigmoid", &["aten.sigmoid", "aten.sigmoid.default"], Some("Sigmoid"), How::Fixed),
    row("Sign", &["aten.sign.default"], Some("ElementWiseSign"), How::Unary),
    row("Sin", &["aten.sin.default"], Some("ElementWiseSin"), How::Unary),
    row("SliceScatter", &["aten.slice_scatter.default"], None, How::Nothing),
    row("Softmax", &["aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default"], Some("Softmax"), How::Unary),
    row("Sqrt", &["aten.sqrt.default"], Some("ElementWiseSquareRoot"), How::Unary),
    row("Stack", &["aten.stack.default"], Some("Pack"), How::Cat),
    row("StrideSlice", &["aten.flip.default", "aten.narrow.default", "aten.select.int", "aten.slice.Tensor"], Some("StridedSlice"), How::Shared),
    row("Sub", &["aten.sub", "aten.sub.Tensor", "aten.rsub.Tensor"], Some("ElementWiseSubtract"), How::Binary),
    row("Tanh", &["aten.tanh.default"], Some("Tanh"), How::Tanh),
    row("Topk", &["aten.topk.default"], Some("TopK"), How::Nothing),
    row("TransposeConv2d", &["aten.conv_transpose1d.default", "aten.conv_transpose2d.input"], Some("TransposeConv2d"), How::Layer),
    row("TransposeConv3d", &["aten.conv_transpose3d.input"], Some("TransposeConv3d"), How::Nothing),
    row("Ubind", &["aten.unbind.int"], Some("UnPack"), How::Shared),
    row("UpsampleBicubic2d", &["aten.upsample_bicubic2d.vec"], Some("Resize"), How::Nothing),
    row("UpsampleBilinear2d", &["aten.upsample_bilinear2d.vec"], Some("ResizeBilinear"), How::Unary),
    row("UpsampleNearest2d", &["aten.upsample_nearest2d.vec"], Some("ResizeNearestNeighbor"), How::Shared),
    row("Where", &["aten.where.self", "aten.where.ScalarSelf"], Some("ElementWiseSelect"), How::Select),
    row("Xor", &["aten.bitwise_xor.Tensor", "aten.__xor__.Tensor"], Some("ElementWiseXor"), How::Nothing),
];

/// Rows of lowbit's own: operators that ExecuTorch takes apart or writes otherwise before it quantizes.
#[rustfmt::skip]
pub static OWN: &[Row] = &[
    row("Relu6", &["aten.relu6.default"], Some("ReluMinMax"), How::Unary),
    row("LeakyRelu", &["aten.leaky_relu.default"], Some("Prelu"), How::Unary),
    row("Fill", &["aten.masked_fill.Scalar"], Some("ElementWiseSelect"), How::Unary),
    row("CompareScalar", &["aten.eq.Scalar", "aten.ne.Scalar", "aten.lt.Scalar", "aten.le.Scalar", "aten.gt.Scalar", "aten.ge.Scalar"], Some("ElementWiseLess"), How::Compare),
    row("AddScalar", &["aten.add.Scalar", "aten.sub.Scalar", "aten.rsub.Scalar"], Some("ElementWiseAdd"), How::Unary),
    row("MulScalar", &["aten.mul.Scalar", "aten.div.Scalar"], Some("ElementWiseMultiply"), How::Unary),
    row("Unfolded", &["aten.squeeze_copy.dim", "aten.permute_copy.default", "aten.slice_copy.Tensor", "aten.select_copy.int"], None, How::Shared),
    row("Copy", &["aten.clone.default", "aten.contiguous.default", "aten.alias.default", "aten.detach.default", "aten.dropout.default"], None, How::Shared),
    row("PadNd", &["aten.constant_pad_nd.default", "aten.replication_pad2d.default"], Some("Pad"), How::Shared),
    row("MaxPool1d", &["aten.max_pool1d.default"], Some("PoolMax2d"), How::Shared),
    row("Mean", &["aten.mean.dim", "aten.sum.default"], Some("ReduceMean"), How::Unary),
    row("Upsample", &["aten.upsample_nearest2d.default"], Some("ResizeNearestNeighbor"), How::Shared),
    row("GridSample2d", &["aten.grid_sampler_2d.default"], Some("GridSample"), How::Binary),
    row("UpsampleBilinear", &["aten.upsample_bilinear2d.default"], Some("ResizeBilinear"), How::Unary),
];

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::ops;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_whole() {
        assert_eq!(HTP.len(), 99);
        let targets: Vec<&str> = HTP.iter().flat_map(|r| r.targets).copied().collect();
        assert_eq!(targets.len(), 180);
        assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), 180, "each target has one rule");
        let names: BTreeSet<&str> = HTP.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), 99);
    }

    /// What lowbit's programs do not hold: in-place forms become functional ones, `Ubind` and its like have no overload.
    #[test]
    fn targets_are_known_or_never_met() {
        let absent = |t: &str| {
            let packet = t.rsplit_once('.').map_or(t, |(p, _)| p);
            let short = t.split('.').count() < 3;
            short || packet.ends_with('_') || t.contains("operator.") || t.starts_with("qnn_custom")
        };
        let unknown: Vec<&str> = HTP
            .iter()
            .chain(OWN)
            .flat_map(|r| r.targets)
            .copied()
            .filter(|t| ops::lookup(t).is_none() && !absent(t))
            .collect();
        assert_eq!(unknown, UNKNOWN);
    }

    /// Operators that lowbit has no row of: their programs are not imported.
    const UNKNOWN: &[&str] = &[
        "aten.concat.default",
        "aten.cdist.default",
        "aten.split_with_sizes_copy.default",
        "aten.divide.Tensor",
        "aten.index_copy.default",
    ];
}
