//! Convolutions.

use super::linear::is_constant;
use super::shape::reshape;
use super::{Emitted, Table, int, narrow, out, widened};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::CONV1D, conv),
    (&ops::CONV2D, conv),
    (&ops::CONV3D, conv),
    (&ops::CONV1D_PADDING, conv),
    (&ops::CONV2D_PADDING, conv),
    (&ops::CONV3D_PADDING, conv),
    (&ops::CONV_TRANSPOSE1D, conv_transpose),
    (&ops::CONV_TRANSPOSE2D, conv_transpose),
    (&ops::CONV_TRANSPOSE3D, conv_transpose),
    // What the others are decomposed to when they cannot be expressed, and then this says why.
    (&ops::CONVOLUTION, convolution),
];

/// Input, weight and bias, and the number of dimensions that are convolved over. Biases are constants, and so are weights.
fn operands(b: &mut Builder<'_>, n: &Node) -> Emitted<(Var, Var, Option<Var>, usize)> {
    let (x, w, bias) = (b.arg(n, 0)?, b.arg(n, 1)?, b.opt(n, 2)?);
    if !is_constant(b, n, 1) || bias.is_some() && b.frozen(n, 2).is_none() {
        return Err("Core ML takes constant weights and biases only".into());
    }
    let dims = w.ty.rank() - 2;
    if x.ty.rank() != dims + 2 && x.ty.rank() != dims + 1 {
        return Err(format!("it convolves {dims} dimensions of {:?}", x.ty));
    }
    Ok((x, w, bias, dims))
}

/// Applies an operator for batches to what may be a single picture.
pub(super) fn batched(
    b: &mut Builder<'_>,
    x: Var,
    rank: usize,
    ty: Type,
    apply: impl FnOnce(&mut Builder<'_>, Var, Type) -> Var,
) -> Emitted<Var> {
    if x.ty.rank() == rank {
        return Ok(apply(b, x, ty));
    }
    let batch = |shape: &[_]| [&[1.into()][..], shape].concat();
    let shape = batch(&x.ty.shape);
    let x = reshape(b, x, shape)?;
    let y = apply(b, x, Type { dtype: ty.dtype, shape: batch(&ty.shape) });
    reshape(b, y, ty.shape)
}

/// How a kernel moves: a number for each dimension that is convolved over.
struct Moves {
    stride: Vec<i64>,
    /// At the start and the end of each.
    pads: Vec<i64>,
    dilation: Vec<i64>,
    groups: i32,
}

/// The same at both ends.
fn both(padding: Vec<i64>) -> Vec<i64> {
    padding.into_iter().flat_map(|p| [p, p]).collect()
}

fn conv(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (_, w, _, dims) = operands(b, n)?;
    let (stride, dilation) = (widened(n, 3, dims, &[])?, widened(n, 5, dims, &[])?);
    // "same" puts the odd one at the end in PyTorch, and so do Core ML's pads.
    let pads = match n.arg(4) {
        Arg::Str(s) if &**s == "same" => {
            let kernel = w.ty.shape[2..]
                .iter()
                .map(|k| k.known())
                .collect::<Option<Vec<_>>>()
                .ok_or("its kernel is open")?;
            let total = (0..dims).map(|i| dilation[i] * (kernel[i] - 1));
            total.flat_map(|t| [t / 2, t - t / 2]).collect()
        }
        Arg::Str(_) => vec![0; 2 * dims],
        _ => both(widened(n, 4, dims, &[])?),
    };
    forward(b, n, &Moves { stride, pads, dilation, groups: int(n, 6)? as i32 })
}

fn conv_transpose(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let dims = operands(b, n)?.3;
    let [stride, padding, extra, dilation] = [3, 4, 5, 7].map(|i| widened(n, i, dims, &[]));
    let moves =
        Moves { stride: stride?, pads: both(padding?), dilation: dilation?, groups: int(n, 6)? as i32 };
    backward(b, n, &moves, &extra?)
}

fn convolution(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let dims = operands(b, n)?.3;
    let [stride, padding, dilation] = [3, 4, 5].map(|i| widened(n, i, dims, &[]));
    let moves =
        Moves { stride: stride?, pads: both(padding?), dilation: dilation?, groups: int(n, 8)? as i32 };
    match n.arg(6) {
        Arg::Bool(true) => backward(b, n, &moves, &widened(n, 7, dims, &[])?),
        _ => forward(b, n, &moves),
    }
}

fn forward(b: &mut Builder<'_>, n: &Node, moves: &Moves) -> Emitted<Vec<Var>> {
    let (x, w, bias, dims) = operands(b, n)?;
    let [stride, pads, dilation] = [&moves.stride, &moves.pads, &moves.dilation].map(|l| narrow(l));
    let (stride, pads, dilation) = (stride?, pads?, dilation?);
    batched(b, x, dims + 2, out(b, n)?, |b, x, ty| {
        let mut inputs: Vec<(&str, In)> = vec![
            ("x", x.into()),
            ("weight", w.into()),
            ("strides", stride.into()),
            ("pad_type", "custom".into()),
            ("pad", pads.into()),
            ("dilations", dilation.into()),
            ("groups", moves.groups.into()),
        ];
        inputs.extend(bias.map(|v| ("bias", In::Var(v))));
        b.op("conv", inputs, ty)
    })
    .map(|y| vec![y])
}

/// What PyTorch adds at the end of the result (`output_padding`) is cut there less; what goes beyond is zero before the bias.
fn backward(b: &mut Builder<'_>, n: &Node, moves: &Moves, extra: &[i64]) -> Emitted<Vec<Var>> {
    let (x, w, bias, dims) = operands(b, n)?;
    let ends = moves.pads.chunks_exact(2).map(|p| (p[0], p[1])).zip(extra);
    let around: Vec<i64> = ends.clone().flat_map(|((p, end), &e)| [p, (end - e).max(0)]).collect();
    let missing: Vec<i64> = ends.map(|((_, end), &e)| (e - end).max(0)).collect();
    let whole = missing.iter().all(|&m| m == 0);
    let [stride, around, dilation] = [&moves.stride, &around, &moves.dilation].map(|l| narrow(l));
    let (stride, around, dilation) = (stride?, around?, dilation?);
    let ends = narrow(&missing)?;
    batched(b, x, dims + 2, out(b, n)?, |b, x, ty| {
        let mut made = ty.clone();
        for i in 0..dims {
            made.shape[2 + i] = made.shape[2 + i].clone() - missing[i];
        }
        let mut inputs: Vec<(&str, In)> = vec![
            ("x", x.into()),
            ("weight", w.into()),
            ("strides", stride.into()),
            ("pad_type", "custom".into()),
            ("pad", around.into()),
            ("dilations", dilation.into()),
            ("groups", moves.groups.into()),
        ];
        if whole {
            inputs.extend(bias.map(|v| ("bias", In::Var(v))));
            return b.op("conv_transpose", inputs, ty);
        }
        let y = b.op("conv_transpose", inputs, made);
        let list: Vec<i32> = [0; 4].into_iter().chain(ends.iter().flat_map(|&e| [0, e])).collect();
        let zero = Constant::float(ty.dtype, 0.0);
        let inputs = vec![
            ("x", y.into()),
            ("pad", list.into()),
            ("mode", "constant".into()),
            ("constant_val", zero.into()),
        ];
        let y = b.op("pad", inputs, ty);
        let Some(bias) = bias else { return y };
        let axes: Vec<i32> = (1..=dims as i32).collect();
        let mut wide = bias.ty.clone();
        wide.shape.extend((0..dims).map(|_| 1.into()));
        let bias = b.op("expand_dims", vec![("x", bias.into()), ("axes", axes.into())], wide);
        super::binary::apply(b, "add", y, bias)
    })
    .map(|y| vec![y])
}
