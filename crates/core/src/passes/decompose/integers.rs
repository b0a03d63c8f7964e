//! [`IntegerArithmetic`]: quantized programs as the integers that a device computes with (torchao's
//! `use_reference_representation`).
//!
//! Layers multiply integers and add them up in int32; one factor, the scales of what they read over that of what they make, is
//! applied to the sum, which is rounded. torchao cuts off what is behind the point, at every step, and is up to a step
//! further from what the scales say for each of them.

use super::{Build, Pass, PassFailure, Rule, Values, expand, one, out_type};
use crate::dtype::DType;
use crate::ir::{Arg, Node, NodeId, Program, ValueId};
use crate::ops::{self, OpDef, views};
use crate::passes::DeadCode;
use crate::symint::SymInt;
use crate::tensor::Tensor;

/// Rewrites quantize and dequantize nodes, and what is between them, to integer arithmetic: linear layers and convolutions
/// of quantized inputs (static, quantized while running, or by rows with weights by groups), additions, max-pools and
/// moves of elements; other operators stay in floating point, between conversions that are written out.
///
/// As a pass it does not keep what a program computes to the bit: a rounded sum may be one step apart.
#[derive(Copy, Clone, Debug, Default)]
pub struct IntegerArithmetic;

impl Pass for IntegerArithmetic {
    fn name(&self) -> &'static str {
        "integer_arithmetic"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let whole = expand(program, |p, n| whole(p.graph.node(n).op()))?;
        DeadCode.run(program)?;
        let rest = expand(program, |p, n| conversion(p.graph.node(n).op()))?;
        DeadCode.run(program)?;
        Ok(whole || rest)
    }
}

fn whole(op: &OpDef) -> Option<Rule> {
    match op {
        _ if *op == ops::QUANTIZE_PER_TENSOR => Some(quantized),
        _ if *op == ops::LINEAR => Some(linear),
        _ if ops::CONVOLUTIONS.contains(&op) => Some(layer),
        _ => None,
    }
}

fn conversion(op: &OpDef) -> Option<Rule> {
    match op {
        _ if *op == ops::QUANTIZE_PER_TENSOR || *op == ops::QUANTIZE_PER_TENSOR_TENSOR => Some(quantize),
        _ if *op == ops::QUANTIZE_PER_CHANNEL => Some(quantize),
        _ if *op == ops::DEQUANTIZE_PER_TENSOR || *op == ops::DEQUANTIZE_PER_TENSOR_TENSOR => {
            Some(dequantize)
        }
        _ if *op == ops::DEQUANTIZE_PER_CHANNEL => Some(dequantize),
        _ => None,
    }
}

/// A number known now, or a tensor that broadcasts to what it is used with.
#[derive(Copy, Clone, PartialEq)]
enum Number {
    Known(f64),
    Tensor(ValueId),
}

/// What `real = (integer − zero) · scale` is computed from.
#[derive(Copy, Clone)]
struct Affine {
    integers: ValueId,
    scale: Number,
    zero: Number,
    /// The axis along which parameters differ.
    axis: Option<usize>,
    min: f64,
    max: f64,
}

/// The parameters of a quantize or dequantize node.
fn affine(node: &Node) -> Option<Affine> {
    let number = |i: usize| match node.arg(i) {
        Arg::Value(v) => Some(Number::Tensor(*v)),
        Arg::None => Some(Number::Known(0.0)),
        other => views::float(other).map(Number::Known),
    };
    let channel = *node.op() == ops::DEQUANTIZE_PER_CHANNEL || *node.op() == ops::QUANTIZE_PER_CHANNEL;
    let bounds = if channel { 4 } else { 3 };
    Some(Affine {
        integers: views::value(node.arg(0))?,
        scale: number(1)?,
        zero: number(2)?,
        axis: if channel { Some(usize::try_from(views::int(node.arg(3))?).ok()?) } else { None },
        min: views::float(node.arg(bounds))?,
        max: views::float(node.arg(bounds + 1))?,
    })
}

/// What a value is dequantized from.
fn dequantized(b: &Build<'_>, v: ValueId) -> Option<Affine> {
    let node = b.program.graph.node(b.program.graph.producer(v)?);
    conversion(node.op()).filter(|_| node.op().short_name().starts_with("dequantize"))?;
    affine(node)
}

/// The node behind a value that nobody else reads.
fn sole(b: &Build<'_>, v: ValueId) -> Option<NodeId> {
    let g = &b.program.graph;
    g.producer(v).filter(|_| g.value(v).uses().len() == 1 && !g.is_output(v))
}

/// Parameters of an axis, shaped to go with a tensor of `rank` dimensions.
fn along(b: &mut Build<'_>, v: ValueId, axis: Option<usize>, rank: usize) -> Result<ValueId, PassFailure> {
    let Some(axis) = axis else { return Ok(v) };
    let behind = rank.saturating_sub(axis + 1);
    let mut shape = b.ty(v).shape.clone();
    shape.extend(vec![SymInt::Known(1); behind]);
    b.view(v, shape)
}

/// `integer − zero` in int32.
fn centered(b: &mut Build<'_>, a: &Affine) -> Result<ValueId, PassFailure> {
    let x = b.cast(a.integers, DType::I32)?;
    match a.zero {
        Number::Known(0.0) => Ok(x),
        Number::Known(z) => b.op(&ops::SUB_SCALAR, [x.into(), (z as i64).into()]),
        Number::Tensor(z) if nothing(b, z) => Ok(x),
        Number::Tensor(z) => {
            let z = b.cast(z, DType::I32)?;
            let z = along(b, z, a.axis, b.ty(x).rank())?;
            b.op(&ops::SUB, [x.into(), z.into()])
        }
    }
}

/// Whether a tensor is known to hold zeros only.
fn nothing(b: &Build<'_>, v: ValueId) -> bool {
    b.program.frozen(v).is_some_and(|t| t.to_f64().iter().all(|z| *z == 0.0))
}

/// The product of two scales; one of them may be of channels.
fn product(b: &mut Build<'_>, x: Number, w: Number) -> Result<Number, PassFailure> {
    Ok(match (x, w) {
        (Number::Known(x), Number::Known(w)) => Number::Known(x * w),
        (Number::Tensor(t), Number::Known(s)) | (Number::Known(s), Number::Tensor(t)) => {
            match b.program.frozen(t) {
                Some(known) => {
                    let scales = known.to_f64().into_iter().map(|w| (s * w) as f32).collect();
                    let t = Tensor::new(known.shape(), scales).map_err(|e| PassFailure(e.to_string()))?;
                    Number::Tensor(b.constant("factor", t))
                }
                None => {
                    let t = b.cast(t, DType::F32)?;
                    Number::Tensor(b.scale(t, s)?)
                }
            }
        }
        (Number::Tensor(x), Number::Tensor(w)) => {
            let (x, w) = (b.cast(x, DType::F32)?, b.cast(w, DType::F32)?);
            Number::Tensor(b.op(&ops::MUL, [x.into(), w.into()])?)
        }
    })
}

fn times(b: &mut Build<'_>, x: ValueId, by: Number) -> Result<ValueId, PassFailure> {
    match by {
        Number::Known(s) => b.scale(x, s),
        Number::Tensor(t) => {
            let t = b.cast(t, DType::F32)?;
            b.op(&ops::MUL, [x.into(), t.into()])
        }
    }
}

/// `clamp(round(x) + zero)` in the type of `node`'s result.
fn rounded(b: &mut Build<'_>, x: ValueId, to: &Affine, least: f64, node: &Node) -> Values {
    let out = out_type(b, node);
    let rank = b.ty(x).rank();
    let x = b.op(&ops::ROUND, [x.into()])?;
    let x = match to.zero {
        Number::Known(0.0) => x,
        Number::Known(z) => b.op(&ops::ADD_SCALAR, [x.into(), Arg::Float(z)])?,
        Number::Tensor(z) => {
            let z = b.cast(z, DType::F32)?;
            let z = along(b, z, to.axis, rank)?;
            b.op(&ops::ADD, [x.into(), z.into()])?
        }
    };
    let x = b.op(&ops::CLAMP, [x.into(), Arg::Float(least), Arg::Float(to.max)])?;
    one(b.cast(x, out.dtype)?)
}

/// The sums of a linear layer or convolution of quantized inputs and weights, and their scale.
struct Sums {
    /// int32.
    value: ValueId,
    scale: Number,
    /// Dimensions behind the channels.
    behind: usize,
}

fn sums(b: &mut Build<'_>, node: &Node) -> Result<Option<Sums>, PassFailure> {
    let (x, w) = (b.tensor(node, 0)?, b.tensor(node, 1)?);
    let (Some(x), Some(w)) = (dequantized(b, x), dequantized(b, w)) else { return Ok(None) };
    if x.axis.is_some() || !matches!(w.axis, None | Some(0)) || out_type(b, node).dtype != DType::F32 {
        return Ok(None);
    }
    let (xi, wi) = (centered(b, &x)?, centered(b, &w)?);
    let mut args = node.args().to_vec();
    (args[0], args[1], args[2]) = (xi.into(), wi.into(), Arg::None);
    let value = b.op(node.op(), args)?;
    let behind = if *node.op() == ops::LINEAR { 0 } else { b.ty(wi).rank() - 2 };
    // A scale of the whole input is shaped like none of its dimensions.
    let scale = product(b, x.scale, w.scale)?;
    let scale = match scale {
        Number::Tensor(t) if w.axis.is_some() => Number::Tensor(along(b, t, Some(0), behind + 1)?),
        other => other,
    };
    Ok(Some(Sums { value, scale, behind }))
}

/// A bias of channels.
fn bias(b: &mut Build<'_>, node: &Node, behind: usize) -> Result<Option<ValueId>, PassFailure> {
    let Some(v) = views::value(node.arg(2)) else { return Ok(None) };
    along(b, v, Some(0), behind + 1).map(Some)
}

/// A layer whose result stays in floating point: the scaled sums, plus the bias.
fn layer(b: &mut Build<'_>, node: &Node) -> Values {
    if feeds_quantize(b, node) {
        return Ok(None);
    }
    let Some(sums) = sums(b, node)? else { return Ok(None) };
    let y = b.cast(sums.value, DType::F32)?;
    let y = times(b, y, sums.scale)?;
    match bias(b, node, sums.behind)? {
        Some(v) => one(b.op(&ops::ADD, [y.into(), v.into()])?),
        None => one(y),
    }
}

/// Whether a quantize node takes the layer with it.
fn feeds_quantize(b: &Build<'_>, node: &Node) -> bool {
    let g = &b.program.graph;
    let mut v = node.output();
    loop {
        let [u] = g.value(v).uses() else { return false };
        let next = g.node(u.node);
        match next.op() {
            _ if g.is_output(v) => return false,
            op if *op == ops::QUANTIZE_PER_TENSOR => return true,
            op if *op == ops::RELU => v = next.output(),
            _ => return false,
        }
    }
}

fn linear(b: &mut Build<'_>, node: &Node) -> Values {
    match grouped(b, node)? {
        Some(v) => one(v),
        None => layer(b, node),
    }
}

/// A quantize node and what is in front of it, between dequantize nodes.
fn quantized(b: &mut Build<'_>, node: &Node) -> Values {
    let (Some(to), v) = (affine(node), b.tensor(node, 0)?) else { return Ok(None) };
    let Number::Known(scale) = to.scale else { return Ok(None) };
    let Some(mut n) = sole(b, v) else { return Ok(None) };
    let mut least = to.min;
    if *b.program.graph.node(n).op() == ops::RELU {
        let Number::Known(zero) = to.zero else { return Ok(None) };
        let read = b.tensor(&b.program.graph.node(n).clone(), 0)?;
        let Some(inner) = sole(b, read) else { return Ok(None) };
        (n, least) = (inner, least.max(zero));
    }
    let inner = b.program.graph.node(n).clone();
    let op = inner.op();
    if *op == ops::ADD && views::float(inner.arg(2)) == Some(1.0) {
        let mut total = None;
        for i in 0..2 {
            let Some(x) = dequantized(b, b.tensor(&inner, i)?) else { return Ok(None) };
            let (None, Number::Known(s)) = (x.axis, x.scale) else { return Ok(None) };
            let x = centered(b, &x)?;
            let x = b.cast(x, DType::F32)?;
            let x = b.scale(x, s / scale)?;
            total = Some(match total {
                Some(t) => b.op(&ops::ADD, [Arg::Value(t), x.into()])?,
                None => x,
            });
        }
        let Some(total) = total else { return Ok(None) };
        return rounded(b, total, &to, least, node);
    }
    if *op == ops::MAX_POOL2D || op.traits.moves_data {
        let Some(x) = inner.operands().next().and_then(|x| dequantized(b, x)) else { return Ok(None) };
        let same = (x.scale, x.zero, x.min, x.max) == (to.scale, to.zero, to.min, to.max);
        let alone = inner.operands().count() == 1 && x.axis.is_none() && least == to.min;
        if !same || !alone || b.ty(x.integers).dtype != out_type(b, node).dtype {
            return Ok(None);
        }
        let mut args = inner.args().to_vec();
        args[0] = x.integers.into();
        return one(b.op(op, args)?);
    }
    if *op != ops::LINEAR && !ops::CONVOLUTIONS.contains(&op) {
        return Ok(None);
    }
    let Some(sums) = sums(b, &inner)? else { return Ok(None) };
    let acc = match bias(b, &inner, sums.behind)? {
        Some(v) => {
            let Some(whole) = whole_bias(b, v, sums.scale)? else { return Ok(None) };
            b.op(&ops::ADD, [sums.value.into(), whole.into()])?
        }
        None => sums.value,
    };
    let y = b.cast(acc, DType::F32)?;
    let factor = product(b, sums.scale, Number::Known(1.0 / scale))?;
    let y = times(b, y, factor)?;
    rounded(b, y, &to, least, node)
}

/// A bias in the steps of the sums, int32. `None` when it does not fit.
fn whole_bias(b: &mut Build<'_>, v: ValueId, scale: Number) -> Result<Option<ValueId>, PassFailure> {
    let steps = match scale {
        Number::Known(s) => b.scale(v, 1.0 / s)?,
        Number::Tensor(t) => b.op(&ops::DIV, [v.into(), t.into()])?,
    };
    // A constant is looked at; one that is dequantized from int32 fits.
    let source =
        b.program.graph.producer(v).map_or(v, |n| b.program.graph.node(n).operands().next().unwrap_or(v));
    if let (Some(bias), Some(scales)) = (b.program.frozen(source), known(b, scale)) {
        let smallest = scales.into_iter().fold(f64::INFINITY, f64::min);
        let largest = bias.to_f64().into_iter().map(f64::abs).fold(0.0, f64::max);
        if bias.dtype().is_float() && largest / smallest >= f64::from(i32::MAX) {
            return Ok(None);
        }
    }
    let steps = b.op(&ops::ROUND, [steps.into()])?;
    b.cast(steps, DType::I32).map(Some)
}

fn known(b: &Build<'_>, n: Number) -> Option<Vec<f64>> {
    match n {
        Number::Known(s) => Some(vec![s]),
        Number::Tensor(t) => {
            let g = &b.program.graph;
            let behind = g.producer(t).and_then(|n| g.node(n).operands().next()).unwrap_or(t);
            b.program.frozen(behind).map(Tensor::to_f64)
        }
    }
}

/// What a value of the affine family is dequantized from: integers, block sizes, scales and zero points.
fn dequantized_blocks(b: &Build<'_>, v: ValueId) -> Option<(ValueId, Vec<SymInt>, ValueId, Option<ValueId>)> {
    let node = b.program.graph.node(b.program.graph.producer(v)?);
    let (Arg::Ints(block), true) = (node.arg(1), *node.op() == ops::DEQUANTIZE_AFFINE) else { return None };
    Some((views::value(node.arg(0))?, block.clone(), views::value(node.arg(2))?, views::value(node.arg(3))))
}

/// `(input − zero point of its row) · (weight − zero point of its group)`, summed in int32 over each group; the sums of all
/// groups with their scales are added in floating point.
fn grouped(b: &mut Build<'_>, node: &Node) -> Result<Option<ValueId>, PassFailure> {
    let (Some((x, rows, xs, xz)), Some((w, blocks, ws, wz))) =
        (dequantized_blocks(b, b.tensor(node, 0)?), dequantized_blocks(b, b.tensor(node, 1)?))
    else {
        return Ok(None);
    };
    let out = out_type(b, node);
    let one = SymInt::Known(1);
    let (Some((row, front)), [n, k]) = (rows.split_last(), &b.ty(w).shape.clone()[..]) else {
        return Ok(None);
    };
    if out.dtype != DType::F32 || row != k || front.iter().any(|f| *f != one) || blocks[0] != one {
        return Ok(None);
    }
    let (size, count) = (blocks[1].clone(), k.floor_div(&blocks[1]));
    let m = front.iter().zip(&b.ty(x).shape.clone()).fold(one.clone(), |m, (_, d)| m * d.clone());
    let center =
        |b: &mut Build<'_>, q: ValueId, zero: Option<ValueId>, shape: [SymInt; 3], params: [SymInt; 3]| {
            let q = b.cast(q, DType::I32)?;
            let q = b.view(q, shape.into())?;
            match zero.filter(|&z| !nothing(b, z)) {
                Some(z) => {
                    let z = b.cast(z, DType::I32)?;
                    let z = b.view(z, params.into())?;
                    b.op(&ops::SUB, [q.into(), z.into()])
                }
                None => Ok(q),
            }
        };
    let (rows, groups) = ([m.clone(), one.clone(), one.clone()], [n.clone(), count.clone(), one.clone()]);
    let x = center(b, x, xz, [m.clone(), count.clone(), size.clone()], rows)?;
    let w = center(b, w, wz, [n.clone(), count.clone(), size], groups)?;
    let (x, w) = (b.permute(x, &[1, 0, 2])?, b.permute(w, &[1, 2, 0])?);
    let acc = b.op(&ops::BMM, [x.into(), w.into()])?;
    let acc = b.cast(acc, DType::F32)?;
    let ws = b.cast(ws, DType::F32)?;
    let ws = b.view(ws, vec![n.clone(), count.clone()])?;
    let ws = b.permute(ws, &[1, 0])?;
    let ws = b.view(ws, vec![count, one.clone(), n.clone()])?;
    let acc = b.op(&ops::MUL, [acc.into(), ws.into()])?;
    let y = b.op(&ops::SUM_DIM, [acc.into(), Arg::ints([0])])?;
    let xs = b.cast(xs, DType::F32)?;
    let xs = b.view(xs, vec![m, one])?;
    let y = b.op(&ops::MUL, [y.into(), xs.into()])?;
    let y = b.view(y, out.shape)?;
    match bias(b, node, 0)? {
        Some(v) => b.op(&ops::ADD, [y.into(), v.into()]).map(Some),
        None => Ok(Some(y)),
    }
}

/// `clamp(round(x · (1 / scale)) + zero)`
fn quantize(b: &mut Build<'_>, node: &Node) -> Values {
    let Some(to) = affine(node) else { return Ok(None) };
    let x = b.cast(to.integers, DType::F32)?;
    let rank = b.ty(x).rank();
    let x = match to.scale {
        Number::Known(s) => b.scale(x, f64::from((1.0 / s) as f32))?,
        Number::Tensor(s) => {
            // The whole tensor's reciprocal is taken in f64, channels' in f32.
            let s = if to.axis.is_some() { b.cast(s, DType::F32)? } else { b.cast(s, DType::F64)? };
            let inverse = b.op(&ops::RECIPROCAL, [s.into()])?;
            let inverse = b.cast(inverse, DType::F32)?;
            let inverse = along(b, inverse, to.axis, rank)?;
            b.op(&ops::MUL, [x.into(), inverse.into()])?
        }
    };
    rounded(b, x, &to, to.min, node)
}

/// `(q − zero) · scale`
fn dequantize(b: &mut Build<'_>, node: &Node) -> Values {
    let Some(from) = affine(node) else { return Ok(None) };
    let out = out_type(b, node);
    let rank = out.shape.len();
    let fractions = matches!(from.zero, Number::Tensor(z) if b.ty(z).dtype.is_float());
    let x = match fractions {
        // Zero points of embeddings.
        true => {
            let Number::Tensor(z) = from.zero else { return Ok(None) };
            let x = b.cast(from.integers, DType::F32)?;
            let z = along(b, z, from.axis, rank)?;
            b.op(&ops::SUB, [x.into(), z.into()])?
        }
        false => {
            let x = centered(b, &from)?;
            b.cast(x, DType::F32)?
        }
    };
    let scale = match from.scale {
        Number::Tensor(s) => Number::Tensor(along(b, s, from.axis, rank)?),
        known => known,
    };
    let x = times(b, x, scale)?;
    one(b.cast(x, out.dtype)?)
}
