//! Convolutions over one and two dimensions, depthwise and transposed ones. XNNPACK's have channels last.

use super::{Builder, Emit, Row, check_values, int, ints, to_u32};
use crate::lowering::build::permuted;
use crate::lowering::gemm::{Abilities, Layer, Share};
use crate::lowering::layout::Layout;
use crate::lowering::quant::sole_reader;
use crate::subgraph::{Conv, FullyConnected, Op};
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};

pub static ROWS: &[Row] = &[
    Row {
        ops: &[
            &ops::CONV1D,
            &ops::CONV1D_PADDING,
            &ops::CONV2D,
            &ops::CONV2D_PADDING,
            &ops::CONV_TRANSPOSE1D,
            &ops::CONV_TRANSPOSE2D,
        ],
        take: |p, n| Ok(plan(p, n)?.along),
        emit,
    },
    Row {
        ops: &[&ops::CONV3D, &ops::CONV3D_PADDING, &ops::CONV_TRANSPOSE3D],
        take: |_, _| Err("XNNPACK has no convolution over three dimensions".into()),
        emit: |_, _| Err("XNNPACK has no convolution over three dimensions".into()),
    },
];

/// Everything about a convolution; a spatial pair is `[height, width]`, and one over one dimension has height 1.
struct Plan {
    layer: Layer,
    transposed: bool,
    spatial: usize,
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    adjustment: [i64; 2],
    /// Top, right, bottom, left.
    padding: [i64; 4],
    groups: i64,
    /// Input channels of a group.
    inputs: i64,
    /// Output channels of a group.
    outputs: i64,
    /// XNNPACK computes it as a linear layer.
    fully_connected: bool,
    along: Vec<NodeId>,
}

/// Whether XNNPACK makes this convolution a linear layer over the channels of each pixel.
pub fn is_fully_connected(program: &Program, n: NodeId) -> bool {
    plan(program, n).is_ok_and(|p| p.fully_connected)
}

impl Plan {
    fn is_depthwise(&self) -> bool {
        self.inputs == 1 && self.groups > 1 && !self.transposed
    }
}

fn is_transposed(op: &OpDef) -> bool {
    [&ops::CONV_TRANSPOSE1D, &ops::CONV_TRANSPOSE2D].contains(&op)
}

/// One number a dimension as a pair; a missing height is `missing`.
fn pair(list: &[i64], missing: i64) -> [i64; 2] {
    match *list {
        [w] => [missing, w],
        [h, w, ..] => [h, w],
        [] => [missing; 2],
    }
}

fn plan(program: &Program, n: NodeId) -> Result<Plan, String> {
    check_values(program, n)?;
    let g = &program.graph;
    let node = g.node(n);
    let (x, w) = (views::value(node.arg(0)), views::value(node.arg(1)));
    let (Some(x), Some(w)) = (x, w) else { return Err("it lacks input or weight".into()) };
    let Some(shape) = g.ty(w).known_shape() else {
        return Err("its weight's size depends on symbols".into());
    };
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let Some(spatial) = shape.len().checked_sub(2) else { return Err("it is no convolution".into()) };
    let transposed = is_transposed(node.op());
    let (stride, dilation_arg, groups_arg) = if transposed { (3, 7, 6) } else { (3, 5, 6) };
    let list = |i: usize, default: i64| ints(program, n, i, spatial, &vec![default; spatial]);
    let stride = pair(&list(stride, 1)?, 1);
    let dilation = pair(&list(dilation_arg, 1)?, 1);
    let groups = int(program, n, groups_arg)?;
    let kernel = pair(&shape[2..], 1);
    let adjustment = if transposed { pair(&list(5, 0)?, 0) } else { [0; 2] };
    let mut padding = match node.arg(4) {
        // As much as keeps the size, the odd one at the end.
        Arg::Str(s) if &**s == "same" => {
            let total = [dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)];
            let first = [total[0] / 2, total[1] / 2];
            [first[0], total[1] - first[1], total[0] - first[0], first[1]]
        }
        Arg::Str(_) => [0; 4],
        _ => {
            let [h, w] = pair(&list(4, 0)?, 0);
            [h, w, h, w]
        }
    };
    let (inputs, outputs) = match transposed {
        true => (shape[0] / groups.max(1), shape[1]),
        false => (shape[1], shape[0] / groups.max(1)),
    };
    let depthwise = inputs == 1 && groups > 1 && !transposed;
    let mut along = Vec::new();
    let mut input = x;
    if !transposed && let Some((pad, before, sides)) = absorbed_pad(program, x, spatial) {
        padding = [0, 1, 2, 3].map(|i| padding[i] + sides[i]);
        input = before;
        along.push(pad);
    }
    let fully_connected = !transposed
        && groups == 1
        && (kernel, stride, padding) == ([1; 2], [1; 2], [0; 4])
        && inputs + outputs > 2;
    let dynamic = spatial == 2 && !depthwise && !(transposed && groups > 1);
    let abilities = Abilities {
        dynamic: dynamic.then_some(if fully_connected { Share::Pixel } else { Share::Image }),
        four_bits: fully_connected,
        weight_only: false,
        channel_axis: match transposed {
            true => (groups == 1).then_some(1),
            false => Some(0),
        },
    };
    let layer = Layer::of(program, n, input, abilities)?;
    along.extend(&layer.along);
    for x in [stride, dilation, kernel].iter().flatten() {
        if *x < 1 {
            return Err(format!(
                "kernel {kernel:?}, stride {stride:?} and dilation {dilation:?} must be positive"
            ));
        }
    }
    Ok(Plan {
        layer,
        transposed,
        spatial,
        kernel,
        stride,
        dilation,
        adjustment,
        padding,
        groups,
        inputs,
        outputs,
        fully_connected,
        along,
    })
}

/// A pad with zeros around the image before a convolution, which has its own padding: the node, its input, and the
/// amounts at the top, right, bottom and left.
fn absorbed_pad(program: &Program, x: ValueId, spatial: usize) -> Option<(NodeId, ValueId, [i64; 4])> {
    let g = &program.graph;
    let n = g.producer(x)?;
    let node = g.node(n);
    let zero = match node.op() {
        op if *op == ops::CONSTANT_PAD_ND => views::float(node.arg(2))? == 0.0,
        op if *op == ops::PAD => {
            *node.arg(2) == Arg::from("constant")
                && (*node.arg(3) == Arg::None || views::float(node.arg(3))? == 0.0)
        }
        _ => false,
    };
    let amounts = views::ints(node.arg(1))?;
    let inner = amounts.len().min(2 * spatial);
    let image_only = amounts[inner..].iter().all(|&a| a == 0);
    if !zero || !image_only || amounts.iter().any(|&a| a < 0) {
        return None;
    }
    let before = views::value(node.arg(0))?;
    // Somebody else may want the padded image.
    sole_reader(program, x)?;
    // Pairs of the last dimension, then of the one before.
    let at = |i: usize| amounts.get(i).copied().unwrap_or(0);
    let (left, right) = (at(0), at(1));
    let (top, bottom) = if spatial == 2 { (at(2), at(3)) } else { (0, 0) };
    Some((n, before, [top, right, bottom, left]))
}

fn emit(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let p = plan(b.part, n)?;
    let layer = &p.layer;
    let layout = Layout::channels_last(b.ty(layer.input), p.spatial);
    // XNNPACK makes a pointwise convolution a linear layer, and turns its input to ranges a pixel; another convolution that
    // reads the same tensor, with ranges an image, would then compute nonsense. So each gets its own.
    let input = layer.input(b, &layout, if p.fully_connected { 1 } else { 3 })?;
    let [kh, kw] = [to_u32(p.kernel[0])?, to_u32(p.kernel[1])?];
    let (groups, inputs, outputs) = (to_u32(p.groups)?, to_u32(p.inputs)?, to_u32(p.outputs)?);
    let all = groups * outputs;
    if p.fully_connected && layer.four_bits {
        // XNNPACK has no weights of 4 bits in convolutions. Pixels are rows here.
        let filter = layer.filter(b, vec![outputs, inputs], &[0, 1], 0, false)?;
        let bias = layer.bias(b, false)?;
        let result = Layout::channels_last(b.ty(layer.exit.value), p.spatial);
        let output = b.define(layer.exit.value, &result)?;
        let linear = FullyConnected { input, filter, bias, output, flags: 0 };
        b.push(Op::FullyConnected(linear), layer.exit.clamp);
        return Ok(());
    }
    // The weight is [out, in / groups, …], a transposed one [in, out / groups, …].
    let image: Vec<usize> = (2..2 + p.spatial).collect();
    let filter = if p.is_depthwise() {
        let order: Vec<usize> = [1].into_iter().chain(image).chain([0]).collect();
        layer.filter(b, vec![1, kh, kw, all], &order, 3, false)?
    } else if p.transposed && groups > 1 {
        grouped_transposed(b, &p, vec![all, kh, kw, inputs])?
    } else if p.transposed {
        let order: Vec<usize> = [1].into_iter().chain(image).chain([0]).collect();
        layer.filter(b, vec![all, kh, kw, inputs], &order, 0, false)?
    } else {
        let order: Vec<usize> = [0].into_iter().chain(image).chain([1]).collect();
        layer.filter(b, vec![all, kh, kw, inputs], &order, 0, false)?
    };
    let bias = layer.bias(b, false)?;
    let result = Layout::channels_last(b.ty(layer.exit.value), p.spatial);
    let output = b.define(layer.exit.value, &result)?;
    let conv = Conv {
        padding_top: to_u32(p.padding[0])?,
        padding_right: to_u32(p.padding[1])?,
        padding_bottom: to_u32(p.padding[2])?,
        padding_left: to_u32(p.padding[3])?,
        kernel_height: kh,
        kernel_width: kw,
        subsampling_height: to_u32(p.stride[0])?,
        subsampling_width: to_u32(p.stride[1])?,
        dilation_height: to_u32(p.dilation[0])?,
        dilation_width: to_u32(p.dilation[1])?,
        group_input_channels: inputs,
        group_output_channels: outputs,
        groups,
        adjustment_height: to_u32(p.adjustment[0])?,
        adjustment_width: to_u32(p.adjustment[1])?,
        input,
        filter,
        bias,
        output,
        flags: 0,
    };
    let op = match (p.transposed, p.is_depthwise()) {
        (true, _) => Op::ConvTranspose2d(conv),
        (_, true) => Op::DepthwiseConv2d(conv),
        _ => Op::Conv2d(conv),
    };
    b.push(op, layer.exit.clamp);
    Ok(())
}

/// `[groups · in, out, kh, kw]` to `[groups · out, kh, kw, in]`: input and output change places inside each group.
fn grouped_transposed(b: &mut Builder<'_>, p: &Plan, dims: Vec<u32>) -> Emit<u32> {
    let groups = usize::try_from(p.groups).map_err(|_| "its number of groups is negative")?;
    p.layer.filter_with(b, dims, 0, false, |bytes, shape, size| {
        let image: usize = shape[2..].iter().product();
        permuted(bytes, &[groups, shape[0] / groups, shape[1], image], &[0, 2, 3, 1], size)
    })
}
