//! The rules of ExecuTorch's quantizer. Order matters: the first one to take a node wins.

use super::recurrent::{self, SEQUENCES};
use crate::lowering::is_fully_connected;
use lowbit_core::ir::{Key, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::quant::{Annotations, Blocks, Granularity, QRange, Site, Spec};
use lowbit_core::quantizer::{Match, OpConfig, Rule};

pub(super) type Outcome = Result<(), String>;

pub(super) static LINEAR: &[&OpDef] = &[&ops::LINEAR];
static RELU: &[&OpDef] = &[&ops::RELU];
pub(super) static CONV: &[&OpDef] = ops::CONVOLUTIONS;
pub(super) static CONV_TRANSPOSE: &[&OpDef] =
    &[&ops::CONV_TRANSPOSE1D, &ops::CONV_TRANSPOSE2D, &ops::CONV_TRANSPOSE3D];
pub(super) static POOL: &[&OpDef] = &[&ops::ADAPTIVE_AVG_POOL2D];
static ADD: &[&OpDef] = &[&ops::ADD];
static MUL: &[&OpDef] = &[&ops::MUL];
pub(super) static CAT: &[&OpDef] = &[&ops::CAT];

pub(super) const fn rule(
    name: &'static str,
    chain: &'static [&'static [&'static OpDef]],
    annotate: fn(&Match<'_>, &OpConfig, &mut Annotations) -> Outcome,
) -> Rule {
    Rule { name, chain, dynamic: false, annotate }
}

pub(super) const fn dynamic(rule: Rule) -> Rule {
    Rule { dynamic: true, ..rule }
}

/// In the order of the reference quantizer, whose rules for operators alone skip what a rule with relu will take; here
/// the longer chain comes first.
pub static RULES: &[Rule] = &[
    rule("linear_relu", &[LINEAR, RELU], layer),
    dynamic(rule("linear", &[LINEAR], linear)),
    rule("conv_relu", &[CONV, RELU], layer),
    dynamic(rule("conv", &[CONV], |m, how, out| relu_takes_it(m, how).and_then(|()| conv(m, how, out)))),
    rule("conv_transpose_relu", &[CONV_TRANSPOSE, RELU], conv_transpose),
    dynamic(rule("conv_transpose", &[CONV_TRANSPOSE], |m, how, out| {
        relu_takes_it(m, how).and_then(|()| conv_transpose(m, how, out))
    })),
    rule("adaptive_avg_pool2d", &[POOL], pool),
    rule("add_relu", &[ADD, RELU], binary),
    rule("add", &[ADD], binary),
    rule("mul_relu", &[MUL, RELU], binary),
    rule("mul", &[MUL], binary),
    rule("cat", &[CAT], cat),
    dynamic(rule("recurrent", &[SEQUENCES], recurrent::layer)),
];

/// What hands on the quantization parameters of its input: XNNPACK demands equal ones, or gains nothing from others.
pub static SHARES: &[&OpDef] = &[
    &ops::RELU,
    &ops::HARDTANH,
    &ops::RELU6,
    &ops::MAX_POOL2D,
    &ops::MEAN,
    &ops::MEAN_DIM,
    &ops::PERMUTE,
    &ops::PERMUTE_COPY,
    &ops::TRANSPOSE,
    &ops::SQUEEZE_DIM,
    &ops::SQUEEZE_COPY_DIM,
    &ops::ADAPTIVE_AVG_POOL2D,
    &ops::VIEW,
    &ops::VIEW_COPY,
    &ops::RESHAPE,
    &ops::SLICE,
    &ops::SLICE_COPY,
    &ops::FLATTEN,
];

/// Input, weight, bias and output of a linear layer or convolution, with or without relu.
pub(super) fn layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    annotate_layer(m, how, how.weight.clone(), out)
}

fn annotate_layer(m: &Match<'_>, how: &OpConfig, weight: Option<Spec>, out: &mut Annotations) -> Outcome {
    for (site, spec) in [
        (m.arg(0), how.input_activation.clone()),
        (m.arg(1), weight),
        (m.arg(2), how.bias.clone()),
        (Some(m.output()), how.output_activation.clone()),
    ] {
        if let Some(site) = site {
            out.set(site, spec);
        }
    }
    Ok(())
}

/// As [`layer`], for a linear layer, which may be a piece of a recurrent one: groups have to be whole.
pub(super) fn linear(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    if let Some(piece) = recurrent::piece(m, how, out) {
        return piece;
    }
    whole_groups(m, how)?;
    layer(m, how, out)
}

pub(super) fn conv(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    if how.is_dynamic() {
        only_conv2d(m)?;
        let weight = m.shape(1).unwrap_or_default();
        if weight.get(1) == Some(&1) {
            return Err("XNNPACK has no depthwise convolution with ranges taken while running".into());
        }
    }
    if !is_fully_connected(m.program, m.first()) {
        eight_bits(how)?;
        return layer(m, how, out);
    }
    whole_groups(m, how)?;
    // Rows are pixels here, and their elements lie along axis 1.
    let mut how = how.clone();
    for spec in [&mut how.input_activation, &mut how.weight] {
        if let Some(Spec::Observed(spec)) = spec
            && let Granularity::Blocks(blocks) = &mut spec.scheme.granularity
        {
            *blocks = match *blocks {
                Blocks::Group(size) => Blocks::Sizes([1, size, 1, 1]),
                Blocks::Token => Blocks::Row(1),
                other => other,
            };
        }
    }
    layer(m, &how, out)
}

/// How many inputs of a channel share a scale.
fn group(how: &OpConfig) -> Option<u32> {
    match &how.weight {
        Some(Spec::Observed(s)) => match s.scheme.granularity {
            Granularity::Blocks(Blocks::Group(size)) => Some(size),
            _ => None,
        },
        _ => None,
    }
}

/// Whether weights are to be of 4 bits, and of 8 where XNNPACK would store them in 8.
fn four_bits(how: &OpConfig) -> bool {
    let four = matches!(&how.weight, Some(Spec::Observed(s)) if s.range == QRange::INT4);
    four && (how.otherwise.is_some() || group(how).is_some())
}

/// Refuses inputs that cannot be cut into groups, or packed by twos: XNNPACK's kernels read odd rows in two ways.
fn whole_groups(m: &Match<'_>, how: &OpConfig) -> Outcome {
    let Some(inputs) = m.shape(1).and_then(|s| s.get(1).copied()).filter(|_| four_bits(how)) else {
        return Ok(());
    };
    match group(how) {
        Some(size) if inputs % size as usize != 0 => Err(format!(
            "its {inputs} inputs are no multiple of the group of {size}; its weight takes 8 bits"
        )),
        None if inputs % 2 != 0 => {
            Err(format!("its {inputs} inputs are an odd number; its weight takes 8 bits"))
        }
        _ => Ok(()),
    }
}

/// Refuses weights of 4 bits where XNNPACK would store them in 8, if there is something better.
pub(super) fn eight_bits(how: &OpConfig) -> Outcome {
    match four_bits(how) {
        true => Err(
            "XNNPACK has 4-bit weights for linear layers and pointwise convolutions only; its weight takes \
                     8 bits"
                .into(),
        ),
        false => Ok(()),
    }
}

fn only_conv2d(m: &Match<'_>) -> Outcome {
    match m.value(1).is_some_and(|w| m.program.graph.ty(w).rank() != 4) {
        true => Err("XNNPACK takes ranges while running only for convolutions over two dimensions".into()),
        false => Ok(()),
    }
}

/// The reference keeps what a relu follows for its rule with relu, which is not dynamic.
fn relu_takes_it(m: &Match<'_>, how: &OpConfig) -> Outcome {
    let g = &m.program.graph;
    match g.value(g.node(m.last()).output()).uses() {
        [u] if how.is_dynamic() && *g.node(u.node).op() == ops::RELU => {
            Err("dynamic recipes leave a convolution that feeds a relu in floating point".into())
        }
        _ => Ok(()),
    }
}

/// Weights are `[in, out / groups, …]`, so a channel is an index of axis 1.
pub(super) fn conv_transpose(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    let groups = m.program.graph.node(m.first()).arg(6);
    if *groups != 1.into() {
        return Err("XNNPACK quantizes transposed convolutions of one group only".into());
    }
    if how.is_dynamic() {
        only_conv2d(m)?;
    }
    eight_bits(how)?;
    let mut weight = how.weight.clone();
    if let Some(Spec::Observed(spec)) = &mut weight
        && let Granularity::Channel { axis } = &mut spec.scheme.granularity
    {
        *axis = 1;
    }
    annotate_layer(m, how, weight, out)
}

/// Input and output share parameters, also with what makes the input, when that is quantized.
pub(super) fn pool(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    let input = Site::input(m.first(), 0);
    let made = m.value(0).map(Site::Output).filter(|&site| out.get(site).is_some());
    match made {
        Some(site) => out.set(input, Spec::SharedWith(site)),
        None => out.set(input, how.input_activation.clone()),
    };
    out.set(m.output(), Spec::SharedWith(input));
    Ok(())
}

/// Both operands and the result, each with its own parameters.
pub(super) fn binary(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    for i in 0..2 {
        if let Some(x) = m.value(i).and_then(|v| large_scalar(m.program, v)) {
            return Err(format!("a constant of {x} is beyond what a histogram can hold"));
        }
    }
    for i in 0..2 {
        if let Some(site) = m.arg(i) {
            out.set(site, how.input_activation.clone());
        }
    }
    out.set(m.output(), how.output_activation.clone());
    Ok(())
}

/// A constant of one element that is too large for a histogram (the mask of an attention, say).
fn large_scalar(program: &Program, v: ValueId) -> Option<f32> {
    const HISTOGRAM_LIMIT: f32 = 3.4028235e15;
    match &program.constant(v)?.tensor.to_f32()[..] {
        [x] if x.abs() > HISTOGRAM_LIMIT => Some(*x),
        _ => None,
    }
}

/// All tensors share the parameters of one input: the first that is quantized where it is made, or else the first.
pub(super) fn cat(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    let node = m.program.graph.node(m.first());
    let inputs: Vec<ValueId> = node.operands().collect();
    let owner = inputs.iter().position(|&v| is_quantized(m.program, v, out)).unwrap_or(0);
    let slot = |i: usize| Site::input(m.first(), u32::try_from(i).expect("few operands"));
    let shared = Spec::SharedWith(slot(owner));
    for (i, v) in inputs.iter().enumerate() {
        // A tensor that occurs twice has one set of parameters.
        let spec = if *v == inputs[owner] { how.input_activation.clone() } else { Some(shared.clone()) };
        out.set(slot(i), spec);
    }
    out.set(m.output(), shared);
    Ok(())
}

/// Whether a value is quantized where it is made, or handed on from one that is.
fn is_quantized(program: &Program, mut v: ValueId, out: &Annotations) -> bool {
    let g = &program.graph;
    loop {
        if out.get(Site::Output(v)).is_some() {
            return true;
        }
        let Some(n) = g.producer(v).map(|n: NodeId| g.node(n)) else { return false };
        if !SHARES.contains(&n.op()) {
            return false;
        }
        match n.operands().next() {
            // Program order rules out cycles.
            Some(from) if from.index() != v.index() => v = from,
            _ => return false,
        }
    }
}
