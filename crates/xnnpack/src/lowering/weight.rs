//! Weights and biases: constants, as floats or as the integers that convert made of them.

use super::quant::{QParams, qparams};
use half::bf16;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};
use lowbit_core::tensor::Tensor;

/// A constant weight.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Floating-point numbers.
    Float,
    /// Integers behind a dequantize.
    Int8 {
        /// The dequantize.
        node: NodeId,
        /// The integers.
        value: ValueId,
        /// What they mean.
        scales: Scales,
        /// Least and greatest integer.
        range: (i64, i64),
    },
}

/// Scales of an integer weight; its zero points are 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One.
    Tensor(f32),
    /// One for each index of an axis.
    Channel {
        /// The axis.
        axis: usize,
        /// The scales.
        scales: Vec<f32>,
    },
    /// One for each run of `size` inputs of an output channel; inputs are on axis 1, and all other axes have size 1.
    Group {
        /// Inputs in a group.
        size: usize,
        /// The scales, by channel.
        scales: Vec<f32>,
    },
}

/// The weight that `v` is.
///
/// # Errors
/// When it is computed, or in a form XNNPACK does not know.
pub fn weight(program: &Program, v: ValueId) -> Result<Weight, String> {
    let g = &program.graph;
    let float = |d: DType| matches!(d, DType::F32 | DType::F16);
    if let Some(t) = program.frozen(v) {
        if !float(t.dtype()) {
            return Err(format!("its weight is {}; XNNPACK takes f32 and f16", t.dtype()));
        }
        return Ok(Weight::Float);
    }
    let computed = || "its weight is computed, not constant".to_string();
    let n = g.producer(v).ok_or_else(computed)?;
    let node = g.node(n);
    let value = views::value(node.arg(0)).filter(|&c| program.frozen(c).is_some());
    if *node.op() == ops::DEQUANTIZE_PER_TENSOR {
        let p = qparams(node)?;
        if p.zero_point != 0 {
            return Err("its weight has a zero point other than 0, which XNNPACK does not take".into());
        }
        let range = (p.min, p.max);
        return Ok(Weight::Int8 {
            node: n,
            value: value.ok_or_else(computed)?,
            scales: Scales::Tensor(p.scale),
            range,
        });
    }
    if *node.op() == ops::DEQUANTIZE_PER_CHANNEL {
        let (axis, scales, range) = channels(program, n)?;
        let scales = Scales::Channel { axis, scales };
        return Ok(Weight::Int8 { node: n, value: value.ok_or_else(computed)?, scales, range });
    }
    if BY_BLOCKS.contains(&node.op()) {
        let value = value.ok_or_else(computed)?;
        let (scales, range) = groups(program, n)?;
        return Ok(Weight::Int8 { node: n, value, scales, range });
    }
    Err(computed())
}

/// Scales and range of a dequantize by blocks: groups of inputs, or whole channels.
fn groups(program: &Program, n: NodeId) -> Result<(Scales, (i64, i64)), String> {
    let node = program.graph.node(n);
    let shape = node.operands().next().and_then(|v| program.graph.ty(v).known_shape()).unwrap_or_default();
    let &[rows, width, ..] = &shape[..] else { return Err("its weight is no matrix".into()) };
    // Where scales, zero points, element type and range are.
    let (block, [scales, zeros, dtype, min]) = match node.op() {
        op if *op == ops::DEQUANTIZE_AFFINE => (views::ints(node.arg(1)), [2, 3, 4, 5]),
        _ => (views::int(node.arg(6)).map(|size| vec![1, size]), [1, 2, 5, 3]),
    };
    let block: Option<Vec<usize>> =
        block.and_then(|b| b.into_iter().map(|n| usize::try_from(n).ok()).collect());
    let block = block.filter(|b| b.len() == shape.len()).ok_or("its weight's blocks have another shape")?;
    if *node.arg(dtype) != Arg::DType(DType::I8) {
        return Err("its weight is not int8".into());
    }
    let parameter = |i: usize| match views::value(node.arg(i)) {
        Some(v) => program.frozen(v).map(Some).ok_or("its weight's parameters are computed"),
        None => Ok(None),
    };
    let scales = parameter(scales)?.ok_or("its weight has no scales")?.to_f32().into_owned();
    if parameter(zeros)?.is_some_and(|z| z.to_f64().iter().any(|&z| z != 0.0)) {
        return Err(ZERO_POINTS.into());
    }
    check_scales(&scales)?;
    let bound = |i: usize, of_type: i64| views::int(node.arg(i)).unwrap_or(of_type);
    let range = (bound(min, -128), bound(min + 1, 127));
    let group = block[1];
    if block[0] == 1 && block[1..] == shape[1..] && scales.len() == rows {
        return Ok((Scales::Channel { axis: 0, scales }, range));
    }
    let whole = group > 0 && width % group == 0 && scales.len() == rows * (width / group);
    if block[0] != 1 || !whole || shape[2..].iter().chain(&block[2..]).any(|&n| n != 1) {
        return Err("its weight's blocks are no groups of inputs".into());
    }
    Ok((Scales::Group { size: group, scales }, range))
}

/// Dequantizes that have a scale for each of several parts of a channel.
static BY_BLOCKS: &[&OpDef] = &[&ops::DEQUANTIZE_AFFINE, &ops::DEQUANTIZE_PER_CHANNEL_GROUP];

const ZERO_POINTS: &str = "its weight has zero points other than 0, which XNNPACK does not take";

fn check_scales(scales: &[f32]) -> Result<(), String> {
    match scales.iter().any(|s| !s.is_normal() || *s <= 0.0) {
        true => Err("its weight has a scale that is no normal positive number".into()),
        false => Ok(()),
    }
}

/// Scales as XNNPACK stores those of groups: the nearest numbers of 16 bits.
///
/// # Errors
/// When one is too large.
pub fn bf16_scales(scales: &[f32]) -> Result<Vec<bf16>, String> {
    let rounded: Vec<bf16> = scales.iter().map(|&s| bf16::from_f32(s)).collect();
    match rounded.iter().all(|s| s.is_normal()) {
        true => Ok(rounded),
        false => Err("its weight has a scale that bf16 cannot hold".into()),
    }
}

type Channels = (usize, Vec<f32>, (i64, i64));

/// Axis, scales and range of a `dequantize_per_channel`.
fn channels(program: &Program, n: NodeId) -> Result<Channels, String> {
    let node = program.graph.node(n);
    let view = views::PerChannel::of(program, n).ok_or("its weight's parameters are no plain numbers")?;
    if *node.arg(6) != Arg::DType(DType::I8) {
        return Err("its weight is not int8".into());
    }
    let constant = |v: ValueId| program.frozen(v).ok_or("its weight's parameters are computed");
    let scales = constant(view.scales)?.to_f32().into_owned();
    if let Some(z) = view.zero_points
        && constant(z)?.to_f64().iter().any(|&z| z != 0.0)
    {
        return Err(ZERO_POINTS.into());
    }
    check_scales(&scales)?;
    let axis = usize::try_from(view.axis).map_err(|_| "its weight's axis counts from the back")?;
    Ok((axis, scales, (view.quant_min, view.quant_max)))
}

/// The numbers a constant stands for: itself, or what it is dequantized to.
pub fn as_floats(program: &Program, v: ValueId) -> Option<(Vec<usize>, Vec<f32>)> {
    if let Some(t) = program.frozen(v) {
        return t.dtype().is_float().then(|| (t.shape().to_vec(), t.to_f32().into_owned()));
    }
    let g = &program.graph;
    let n = g.producer(v)?;
    let stored = program.frozen(views::value(g.node(n).arg(0))?)?;
    let shape = stored.shape().to_vec();
    let q = stored.as_slice::<i8>()?;
    if *g.node(n).op() == ops::DEQUANTIZE_PER_TENSOR {
        let p: QParams = qparams(g.node(n)).ok()?;
        let real = q.iter().map(|&q| (i32::from(q) - p.zero_point) as f32 * p.scale);
        return Some((shape, real.collect()));
    }
    if *g.node(n).op() == ops::DEQUANTIZE_PER_CHANNEL {
        let (axis, scales, _) = channels(program, n).ok()?;
        let inner: usize = shape.get(axis + 1..)?.iter().product();
        let real = q.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / inner % scales.len()]);
        return Some((shape, real.collect()));
    }
    if !BY_BLOCKS.contains(&g.node(n).op()) {
        return None;
    }
    let (scales, run) = match groups(program, n).ok()?.0 {
        Scales::Group { size, scales } => (scales, size),
        Scales::Channel { scales, .. } => (scales, shape.get(1..)?.iter().product()),
        Scales::Tensor(_) => return None,
    };
    let real = q.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / run]);
    Some((shape, real.collect()))
}

/// A bias: a constant of one number a channel, or none.
///
/// # Errors
/// When it is computed.
pub fn bias(program: &Program, arg: &Arg) -> Result<Option<ValueId>, String> {
    let Some(v) = views::value(arg) else { return Ok(None) };
    match program.frozen(v) {
        Some(t) if t.dtype().is_float() => Ok(Some(v)),
        Some(t) => Err(format!("its bias is {}; XNNPACK takes floats", t.dtype())),
        None => Err("its bias is computed, not constant".into()),
    }
}

/// The bias of an integer layer: `bias / (input scale × weight scale)`, rounded half to even.
///
/// # Errors
/// When a value does not fit 32 bits.
pub fn int32_bias(bias: &Tensor, input_scale: f32, scales: &Scales) -> Result<(Vec<i32>, Scales), String> {
    let of = |w: f32| w * input_scale;
    let (steps, scales): (Vec<f32>, Scales) = match scales {
        Scales::Tensor(s) => (vec![of(*s)], Scales::Tensor(of(*s))),
        Scales::Channel { scales, .. } => {
            let s: Vec<f32> = scales.iter().map(|&s| of(s)).collect();
            (s.clone(), Scales::Channel { axis: 0, scales: s })
        }
        Scales::Group { .. } => return Err("a layer of integers has no groups".into()),
    };
    let mut out = Vec::with_capacity(bias.numel());
    for (i, &b) in bias.to_f32().iter().enumerate() {
        let step = steps[i % steps.len()];
        let q = (f64::from(b) / f64::from(step)).round_ties_even();
        if !step.is_normal() || q.is_nan() || q.abs() > f64::from(i32::MAX) {
            return Err(format!("bias {b} in steps of {step:e} does not fit 32 bits"));
        }
        out.push(q as i32);
    }
    Ok((out, scales))
}

/// Checks what XNNPACK multiplies accumulators with: `input scale × weight scale / output scale` below 256.
///
/// # Errors
/// When a factor is out of range.
pub fn check_requantization(input: f32, scales: &Scales, output: f32) -> Result<(), String> {
    let list = match scales {
        Scales::Tensor(s) => std::slice::from_ref(s),
        Scales::Channel { scales, .. } | Scales::Group { scales, .. } => &scales[..],
    };
    for s in list {
        let factor = input * s / output;
        // 2⁻³² and 2⁸ are what the kernels can shift by.
        if !(2f32.powi(-32)..256.0).contains(&factor) {
            return Err(format!("its scales give a factor of {factor:e}; XNNPACK takes 2^-32 to 256"));
        }
    }
    Ok(())
}
