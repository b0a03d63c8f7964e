//! The rules of `int8-static`: the patterns of ExecuTorch's `CoreMLQuantizer`. Order matters: the first one to take a node
//! wins, and a layer is read with the parameters of what earlier rules have annotated.

use lowbit_core::ir::{Node, Program};
use lowbit_core::ops::{self, OpDef, views::float};
use lowbit_core::quant::{Annotation, Annotations, Mapping, QParams, QRange, Site, Spec};
use lowbit_core::quantizer::{Match, OpConfig, Rule, mask};

type Outcome = Result<(), String>;

static CONV: &[&OpDef] = ops::CONVOLUTIONS;
static LINEAR: &[&OpDef] = &[&ops::LINEAR];
static ADD: &[&OpDef] = &[&ops::ADD, &ops::ADD_SCALAR];
static MUL: &[&OpDef] = &[&ops::MUL, &ops::MUL_SCALAR];
static MATMUL: &[&OpDef] = &[&ops::MATMUL];

/// What hands on the parameters of its input. Means are pools over whole dimensions.
static POOLS: &[&OpDef] = &[
    &ops::MAX_POOL1D,
    &ops::MAX_POOL2D,
    &ops::MAX_POOL3D,
    &ops::ADAPTIVE_AVG_POOL1D,
    &ops::ADAPTIVE_AVG_POOL2D,
    &ops::ADAPTIVE_AVG_POOL3D,
    &ops::AVG_POOL1D,
    &ops::AVG_POOL2D,
    &ops::AVG_POOL3D,
    &ops::MEAN,
    &ops::MEAN_DIM,
    &ops::FLATTEN,
];

const fn rule(
    name: &'static str,
    chain: &'static [&'static [&'static OpDef]],
    annotate: fn(&Match<'_>, &OpConfig, &mut Annotations) -> Outcome,
) -> Rule {
    Rule { name, chain, dynamic: false, annotate }
}

/// Rules for each kind of operator with each of the activations that Core ML runs with it, and without.
macro_rules! with_activations {
    ($($act:ident)*) => {
        &[
            $(rule("conv_act", &[CONV, &[&ops::$act]], layer),)*
            rule("conv", &[CONV], layer),
            $(rule("linear_act", &[LINEAR, &[&ops::$act]], layer),)*
            rule("linear", &[LINEAR], layer),
            $(rule("add_act", &[ADD, &[&ops::$act]], binary),)*
            rule("add", &[ADD], binary),
            $(rule("mul_act", &[MUL, &[&ops::$act]], binary),)*
            rule("mul", &[MUL], binary),
            $(rule("matmul_act", &[MATMUL, &[&ops::$act]], binary),)*
            rule("matmul", &[MATMUL], binary),
            rule("pool", &[POOLS], pool),
        ]
    };
}

/// One rule an activation, as the reference quantizer has them: what it has annotated before decides how a layer reads.
pub static RULES: &[Rule] = with_activations![
    RELU RELU6 LEAKY_RELU SILU ELU CELU SELU MISH HARDTANH HARDSWISH HARDSIGMOID GELU SIGMOID LOG_SIGMOID TANH
];

/// Input, weight and result of a linear layer or convolution; biases stay in floating point.
fn layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    let made = m.value(0).and_then(|v| out.get(Site::Output(v))).map(|a| a.spec.clone());
    for (site, spec) in [
        (m.arg(0), made.or_else(|| how.input_activation.clone())),
        (m.arg(1), how.weight.clone()),
        (Some(m.output()), result(m, how)),
    ] {
        if let Some(site) = site {
            out.set(site, spec);
        }
    }
    Ok(())
}

/// Both operands, as far as they are tensors, and the result.
fn binary(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    if how.input_activation.is_none() {
        return Err("activations are set to floating point, and it has no weight".into());
    }
    if let Some(x) = [m.value(0), m.value(1)].into_iter().flatten().find_map(|v| mask(m.program, v)) {
        return Err(format!("a mask with {x:e} would take all integers"));
    }
    for site in [m.arg(0), m.arg(1)].into_iter().flatten() {
        out.set(site, how.input_activation.clone());
    }
    out.set(m.output(), result(m, how));
    Ok(())
}

/// The result has the parameters of what it is made from. That is quantized where it is made, so reading it takes no site.
fn pool(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    if how.input_activation.is_none() {
        return Err("activations are set to floating point, and it has no weight".into());
    }
    let made = m.value(0).filter(|&v| m.program.graph.producer(v).is_some()).map(Site::Output);
    match made.filter(|&site| out.get(site).is_some()) {
        Some(site) => out.set(m.output(), Spec::SharedWith(site)),
        None => return Err("it hands on what it reads, which is not quantized".into()),
    };
    Ok(())
}

/// What an operator makes as integers, all others read as these. The rules let sums, and layers before what comes later in
/// the table, read with parameters of their own: such values would be rounded twice, what is positive to half the integers.
pub(super) fn read_as_made(program: &Program, out: &mut Annotations) {
    let twice = |(site, a): (Site, &Annotation)| {
        let (Site::Input(_), Spec::Observed(_)) = (site, &a.spec) else { return None };
        let made = Site::Output(site.value(program)?);
        out.get(made).filter(|m| m.spec != a.spec).map(|_| (site, made, a.rule.clone()))
    };
    for (site, made, rule) in out.iter().filter_map(twice).collect::<Vec<_>>() {
        out.set_rule(&rule).set(site, Spec::SharedWith(made));
    }
}

/// How a result is quantized. What cannot be negative takes all integers; what lies in a range that is known has the
/// parameters of that range.
fn result(m: &Match<'_>, how: &OpConfig) -> Option<Spec> {
    let spec = how.output_activation.clone()?;
    let last = m.program.graph.node(m.last());
    let known = |scale, zero_point| Spec::Fixed(QParams::per_tensor(QRange::UINT8, scale, zero_point));
    Some(match (last.op(), spec) {
        (op, _) if *op == ops::SIGMOID || *op == ops::HARDSIGMOID => known(1.0 / 256.0, 0),
        (op, _) if *op == ops::TANH => known(2.0 / 256.0, 128),
        (_, Spec::Observed(mut spec)) if is_positive(last) => {
            spec.scheme.mapping = Mapping::Affine;
            spec.into()
        }
        (_, spec) => spec,
    })
}

/// Whether it is relu or relu6, under whichever name.
fn is_positive(node: &Node) -> bool {
    let bounds = || (float(node.arg(1)), float(node.arg(2)));
    [&ops::RELU, &ops::RELU6].contains(&node.op())
        || *node.op() == ops::HARDTANH && bounds() == (Some(0.0), Some(6.0))
}
