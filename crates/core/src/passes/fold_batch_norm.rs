//! Folds a batch norm into the convolution or linear layer before it: `W' = W·γ/√(var + eps)`,
//! `b' = (b − mean)·γ/√(var + eps) + β`, in torchao's order of f32 operations.
//!
//! A layer is folded only if nobody else reads its output. The new weight and bias are constants of their own, so a
//! weight that two layers share stays right under two batch norms. Grouped transposed convolutions scale the right
//! axis: their weight is `[in, out / groups, …]`.

use super::{Pass, PassFailure};
use crate::ir::{Arg, ConstKind, NewNode, NodeId, Program, ValueId};
use crate::ops;
use crate::tensor::Tensor;

/// The pass.
#[derive(Debug)]
pub struct FoldBatchNorm;

/// A batch norm and the layer it follows.
struct Found {
    layer: NodeId,
    norm: NodeId,
    layout: Layout,
}

/// Where a layer's arguments and output channels are.
#[derive(Copy, Clone)]
struct Layout {
    weight: usize,
    bias: usize,
    /// Weight axis of output channels; `None`: transposed convolution in this many groups (axis 1 within a group).
    axis: Option<usize>,
    groups: usize,
}

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold_batch_norm"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<Found> = program.graph.nodes().filter_map(|n| find(program, n)).collect();
        for f in &found {
            fold(program, f)?;
        }
        Ok(!found.is_empty())
    }
}

/// The layer's arguments, if it is one that can absorb a batch norm.
fn layout(program: &Program, n: NodeId) -> Option<Layout> {
    let node = program.graph.node(n);
    let op = node.op();
    let layer = |axis, groups| Some(Layout { weight: 1, bias: 2, axis, groups });
    let int = |i: usize| ops::views::int(node.arg(i)).and_then(|g| usize::try_from(g).ok());
    let rank = |i: usize| match node.arg(i) {
        Arg::Value(v) => program.graph.ty(*v).rank(),
        _ => 0,
    };
    match op.packet() {
        "aten.conv1d" | "aten.conv2d" | "aten.conv3d" => layer(Some(0), 1),
        "aten.conv_transpose1d" | "aten.conv_transpose2d" | "aten.conv_transpose3d" => layer(None, int(6)?),
        "aten.convolution" if ops::views::bool(node.arg(6))? => layer(None, int(8)?),
        "aten.convolution" => layer(Some(0), 1),
        // A batch norm's channels are dimension 1: a linear layer's last one only for matrices.
        "aten.linear" if rank(0) == 2 => layer(Some(0), 1),
        "aten.addmm"
            if ops::views::float(node.arg(3))? == 1.0
                && ops::views::float(node.arg(4))? == 1.0
                && rank(0) == 1 =>
        {
            Some(Layout { weight: 2, bias: 0, axis: Some(1), groups: 1 })
        }
        _ => None,
    }
}

/// Constant arguments of an evaluation-mode batch norm: weight, bias, mean, variance, and eps.
pub(super) fn norm_parts(program: &Program, n: NodeId) -> Option<([Option<Tensor>; 4], f64)> {
    let node = program.graph.node(n);
    let eps = match node.op().packet() {
        "aten.batch_norm" if ops::views::bool(node.arg(5)) == Some(false) => 7,
        "aten.native_batch_norm" if ops::views::bool(node.arg(5)) == Some(false) => 7,
        "aten._native_batch_norm_legit_no_training" => 6,
        _ => return None,
    };
    let mut parts = [const { None }; 4];
    for (i, part) in parts.iter_mut().enumerate() {
        *part = match node.arg(1 + i) {
            Arg::Value(v) => Some(program.frozen(*v)?.clone()),
            _ => None,
        };
    }
    (parts[2].is_some() && parts[3].is_some()).then_some((parts, ops::views::float(node.arg(eps))?))
}

/// What the constants of a batch norm do to each channel of a layer with this bias: `x · scale + shift`, in torchao's order.
pub(super) fn affine(
    parts: &[Option<Tensor>; 4],
    eps: f64,
    bias: Option<&[f32]>,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let [gamma, beta, mean, var] = parts.each_ref().map(|p| p.as_ref().map(|t| t.to_f32().into_owned()));
    let (mean, var) = mean.zip(var)?;
    let inv: Vec<f32> = var.iter().map(|v| 1.0 / (v + eps as f32).sqrt()).collect();
    let or = |t: &Option<Vec<f32>>, c: usize, none: f32| t.as_ref().map_or(none, |t| t[c]);
    let scale = (0..inv.len()).map(|c| or(&gamma, c, 1.0) * inv[c]).collect();
    let shift = (0..inv.len())
        .map(|c| {
            let b = bias.map_or(0.0, |b| b[c]);
            (b - mean[c]) * inv[c] * or(&gamma, c, 1.0) + or(&beta, c, 0.0)
        })
        .collect();
    Some((scale, shift))
}

fn find(program: &Program, norm: NodeId) -> Option<Found> {
    norm_parts(program, norm)?;
    let g = &program.graph;
    // Only the normalized values may be in use, not the statistics of the core forms.
    let unused = |v: &ValueId| g.value(*v).uses().is_empty() && !g.is_output(*v);
    if !g.node(norm).outputs()[1..].iter().all(unused) {
        return None;
    }
    let layer = g.sole_producer(norm, 0)?;
    let layout = layout(program, layer)?;
    let constant = |i: usize| match g.node(layer).arg(i) {
        Arg::Value(v) => program.frozen(*v).is_some_and(|t| t.dtype().is_float()),
        _ => true,
    };
    (constant(layout.weight) && constant(layout.bias)).then_some(Found { layer, norm, layout })
}

fn fold(program: &mut Program, f: &Found) -> Result<(), PassFailure> {
    let fail = |m: &str| PassFailure(format!("{}: {m}", program.graph.node(f.norm).name));
    let (parts, eps) = norm_parts(program, f.norm).ok_or_else(|| fail("its constants are gone"))?;
    let node = program.graph.node(f.layer).clone();
    let value = |i: usize| match node.arg(i) {
        Arg::Value(v) => Some(*v),
        _ => None,
    };
    let weight =
        value(f.layout.weight).and_then(|v| program.constant(v)).ok_or_else(|| fail("no constant weight"))?;
    let (weight_name, old) = (weight.name.clone(), weight.tensor.clone());
    let bias = value(f.layout.bias).and_then(|v| program.constant(v));
    let bias_name = bias.map_or_else(|| format!("{weight_name}_bias"), |b| b.name.to_string());
    let old_bias = bias.map(|b| b.tensor.to_f32().into_owned());

    let (scale, new_bias) =
        affine(&parts, eps, old_bias.as_deref()).ok_or_else(|| fail("its statistics are gone"))?;
    let shape = old.shape().to_vec();
    let channel = channel_of(f.layout, &shape, scale.len())
        .ok_or_else(|| fail("its channels do not fit the weight"))?;
    let new: Vec<f32> = old.to_f32().iter().enumerate().map(|(i, w)| w * scale[channel(i)]).collect();

    let weight = program.add_constant(&weight_name, ConstKind::Parameter, like(&old, &shape, new));
    let count = new_bias.len();
    let bias = program.add_constant(&bias_name, ConstKind::Parameter, like(&old, &[count], new_bias));
    let mut args = node.args().to_vec();
    args[f.layout.weight] = weight.into();
    args[f.layout.bias] = bias.into();
    let n = program.graph.insert_before(f.layer, NewNode::new(node.op(), args).like(&node))?;
    let (from, to) = (program.graph.node(f.norm).output(), program.graph.node(n).output());
    program.graph.replace_uses(from, to, None);
    program.graph.erase(f.norm);
    program.graph.erase(f.layer);
    // The layer keeps its name.
    program.graph.rename_node(n, &node.name);
    Ok(())
}

/// The output channel of each weight element.
fn channel_of(layout: Layout, shape: &[usize], channels: usize) -> Option<impl Fn(usize) -> usize> {
    let axis = layout.axis.unwrap_or(1);
    let inner: usize = shape.get(axis + 1..)?.iter().product();
    let along = *shape.get(axis)?;
    let transposed = layout.axis.is_none();
    let per_group = shape[0] / layout.groups.max(1);
    let fits = if transposed { along * layout.groups == channels } else { along == channels };
    let block = along * inner;
    (fits && inner > 0 && per_group > 0).then_some(move |i: usize| {
        let c = i / inner % along;
        if transposed { i / block / per_group * along + c } else { c }
    })
}

/// Values in the element type of `old`.
fn like(old: &Tensor, shape: &[usize], data: Vec<f32>) -> Tensor {
    Tensor::from_f32(old.dtype(), shape, &data).expect("one value an element")
}
