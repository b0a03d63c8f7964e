//! Weights and biases: constants, as floats or as the integers that convert made of them.

use super::quant::{QParams, qparams};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::ops::views;
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
    Err(computed())
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
        return Err("its weight has zero points other than 0, which XNNPACK does not take".into());
    }
    if scales.iter().any(|s| !s.is_normal() || *s <= 0.0) {
        return Err("its weight has a scale that is no normal positive number".into());
    }
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
    None
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
        Scales::Channel { scales, .. } => &scales[..],
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
