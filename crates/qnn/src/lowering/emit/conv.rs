//! Convolutions. The chip convolves over two dimensions, channels last; one dimension is two with a height of 1.

use super::weight::{Weight, bias};
use super::{Builder, Emitted, Made, Node, Table, int, list, out, pairs, sizes, widened};
use crate::graph::{Param, TensorId};
use crate::lowering::builder::Layout;
use crate::lowering::kind::Kind;
use lowbit_core::ir::Arg;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::CONV1D, conv),
    (&ops::CONV2D, conv),
    (&ops::CONV1D_PADDING, conv),
    (&ops::CONV2D_PADDING, conv),
    (&ops::CONV_TRANSPOSE1D, transposed),
    (&ops::CONV_TRANSPOSE2D, transposed),
];

/// Applies an operator for pictures `[batch, height, width, channels]` to the node's input, which may be a line.
pub(super) fn pictures(
    b: &mut Builder<'_>,
    n: &Node,
    apply: impl FnOnce(&mut Builder<'_>, TensorId, (Kind, Vec<u32>)) -> Emitted<TensorId>,
) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let x = b.arg(n, 0, Layout::Last)?;
    let (kind, dims) = out(b, n, Layout::Last)?;
    let t = match (rank, &b.get(x).dims.clone()[..]) {
        (4, _) => apply(b, x, (kind, dims))?,
        (3, &[batch, width, channels]) => {
            let x = b.reshape(x, vec![batch, 1, width, channels]);
            let y = apply(b, x, (kind, vec![dims[0], 1, dims[1], dims[2]]))?;
            b.reshape(y, dims)
        }
        _ => return Err("HTP takes batches of pictures and lines".into()),
    };
    Ok(vec![(t, Layout::Last)])
}

/// A list for height and width: a line has a height of 1, which `one` stands for.
pub(super) fn both(list: Vec<i64>, one: i64) -> Vec<i64> {
    if list.len() == 1 { vec![one, list[0]] } else { list }
}

/// Two dimensions of a kernel of one: `[out, in, width]` is `[out, in, 1, width]`. The order of dimensions for
/// [`Weight::add`], where the chip's is height, width, and the two others as given.
fn kernel(b: &mut Builder<'_>, w: &Weight<'_>, [first, second]: [usize; 2]) -> Emitted<TensorId> {
    match w.shape().len() {
        4 => w.add(b, &[2, 3, first, second]),
        3 => {
            let t = w.add(b, &[2, first, second])?;
            b.lift(t);
            Ok(t)
        }
        rank => Err(format!("HTP has no kernels of {rank} dimensions")),
    }
}

fn conv(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Last)?;
    let groups = int(n, 6)?;
    let mut w = Weight::read(b, n, 1)?;
    let depthwise = groups > 1 && w.shape()[1] == 1 && b.get(x).dims.last() == Some(&(groups as u32));
    if groups == 1 {
        w = w.finer(b, x);
    }
    // The few weights of depthwise convolutions are worth their bytes in any case.
    if depthwise || b.settings.exact {
        w = w.in_bytes(b, n, 2, x);
    }
    let dims = w.shape().len() - 2;
    let (stride, dilation) = (both(widened(n, 3, dims, &[])?, 1), both(widened(n, 5, dims, &[])?, 1));
    let size: Vec<i64> = both(w.shape()[2..].iter().map(|&k| k as i64).collect(), 1);
    // "same" puts the odd one at the end.
    let around: Vec<i64> = match n.arg(4) {
        Arg::Str(s) if &**s == "same" => {
            (0..2).map(|i| dilation[i] * (size[i] - 1)).flat_map(|t| [t / 2, t - t / 2]).collect()
        }
        Arg::Str(_) => vec![0; 4],
        _ => both(widened(n, 4, dims, &[])?, 0).iter().flat_map(|&p| [p, p]).collect(),
    };
    if w.has_blocks() && size.iter().any(|&k| k != 1) {
        return Err("HTP's order of blocks in kernels larger than 1x1 is not settled; quantize this layer by channels".into());
    }
    let (stride, around, dilation) = (sizes(&stride)?, sizes(&around)?, sizes(&dilation)?);
    pictures(b, n, |b, x, to| {
        let kernel = kernel(b, &w, [1, 0])?;
        let mut inputs = vec![x, kernel];
        inputs.extend(bias(b, n, 2, x, &w)?);
        let mut params =
            vec![("stride", list(stride)), ("pad_amount", pairs(around)), ("dilation", list(dilation))];
        if depthwise {
            return Ok(b.one("DepthWiseConv2d", params, inputs, to));
        }
        params.push(("group", Param::U32(groups as u32)));
        Ok(b.one("Conv2d", params, inputs, to))
    })
}

/// A convolution of single points: input, kernel and perhaps a bias.
pub(super) fn pointwise(b: &mut Builder<'_>, inputs: Vec<TensorId>, to: (Kind, Vec<u32>)) -> TensorId {
    let around = pairs(vec![0; 4]);
    let params = vec![("stride", list(vec![1, 1])), ("pad_amount", around), ("dilation", list(vec![1, 1]))];
    b.one("Conv2d", params, inputs, to)
}

fn transposed(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let mut w = Weight::read(b, n, 1)?;
    if b.settings.exact {
        let x = b.arg(n, 0, Layout::Last)?;
        w = w.in_bytes(b, n, 2, x);
    }
    let dims = w.shape().len() - 2;
    let [stride, pads, extra, dilation] =
        [(3, 1), (4, 0), (5, 0), (7, 1)].map(|(i, one)| widened(n, i, dims, &[]).map(|l| both(l, one)));
    if dilation?.iter().any(|&d| d != 1) {
        return Err("HTP's transposed convolutions have no dilation".into());
    }
    if w.has_blocks() {
        return Err("HTP's order of blocks in kernels is not settled; quantize this layer by channels".into());
    }
    let around: Vec<i64> = pads?.iter().flat_map(|&p| [p, p]).collect();
    let (stride, around, extra) = (sizes(&stride?)?, sizes(&around)?, sizes(&extra?)?);
    let groups = int(n, 6)? as u32;
    pictures(b, n, |b, x, to| {
        let kernel = kernel(b, &w, [0, 1])?;
        let mut inputs = vec![x, kernel];
        inputs.extend(bias(b, n, 2, x, &w)?);
        let params = vec![
            ("stride", list(stride)),
            ("pad_amount", pairs(around)),
            ("output_padding", list(extra)),
            ("group", Param::U32(groups)),
        ];
        Ok(b.one("TransposeConv2d", params, inputs, to))
    })
}
