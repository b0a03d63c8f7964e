//! The rules of `int8-static`: a value is quantized where XNNPACK rounds it. An activation that runs with an operator is
//! in the range that is observed; operators on integers take integers whenever they come.

use super::recurrent::{self, SEQUENCES};
use super::rules::{
    CAT, CONV, CONV_TRANSPOSE, LINEAR, Outcome, POOL, binary, cat, conv, conv_transpose, dynamic, layer,
    linear, pool, rule,
};
use lowbit_core::ir::{Program, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::quant::{Annotations, QParams, QRange, Site, Spec};
use lowbit_core::quantizer::{Match, OpConfig, Rule};
use std::collections::BTreeSet;

/// Activations that XNNPACK runs with the operator before.
static CLAMP: &[&OpDef] =
    &[&ops::RELU, &ops::RELU6, &ops::HARDTANH, &ops::CLAMP, &ops::CLAMP_MIN, &ops::CLAMP_MAX];
static BINARY: &[&OpDef] = &[&ops::ADD, &ops::SUB, &ops::MUL];
/// A function of one int8 is a table. Functions that stretch their input (square, exp, log …) are not here: most of
/// what they make would share few integers.
static UNARY: &[&OpDef] = &[
    &ops::SIGMOID,
    &ops::TANH,
    &ops::HARDSWISH,
    &ops::LEAKY_RELU,
    &ops::ELU,
    &ops::GELU,
    &ops::ABS,
    &ops::NEG,
];

/// Where XNNPACK rounds.
pub static ROUNDING: &[Rule] = &[
    dynamic(rule("recurrent", &[SEQUENCES], recurrent::dynamic_layer)),
    rule("linear_clamp", &[LINEAR, CLAMP], layer),
    dynamic(rule("linear", &[LINEAR], linear_layer)),
    rule("conv_clamp", &[CONV, CLAMP], layer),
    dynamic(rule("conv", &[CONV], conv)),
    rule("conv_transpose_clamp", &[CONV_TRANSPOSE, CLAMP], conv_transpose),
    dynamic(rule("conv_transpose", &[CONV_TRANSPOSE], conv_transpose)),
    rule("binary_clamp", &[BINARY, CLAMP], binary_of_integers),
    rule("binary", &[BINARY], binary_of_integers),
    rule("unary", &[UNARY], unary),
    rule("adaptive_avg_pool2d", &[POOL], pool),
    rule("cat", &[CAT], cat_of_integers),
];

/// What hands on integers as they are.
pub static ROUNDING_SHARES: &[&OpDef] = &[
    &ops::RELU,
    &ops::RELU6,
    &ops::HARDTANH,
    &ops::CLAMP,
    &ops::CLAMP_MIN,
    &ops::CLAMP_MAX,
    &ops::MAX_POOL1D,
    &ops::MAX_POOL2D,
    &ops::MEAN,
    &ops::MEAN_DIM,
    &ops::AMAX,
    &ops::ADAPTIVE_AVG_POOL1D,
    &ops::ADAPTIVE_AVG_POOL2D,
    &ops::CONSTANT_PAD_ND,
    &ops::PERMUTE,
    &ops::PERMUTE_COPY,
    &ops::TRANSPOSE,
    &ops::T,
    &ops::VIEW,
    &ops::VIEW_COPY,
    &ops::UNSAFE_VIEW,
    &ops::RESHAPE,
    &ops::FLATTEN,
    &ops::UNFLATTEN,
    &ops::SQUEEZE,
    &ops::SQUEEZE_DIM,
    &ops::SQUEEZE_COPY_DIM,
    &ops::UNSQUEEZE,
    &ops::SLICE,
    &ops::SLICE_COPY,
    &ops::SELECT,
    &ops::SELECT_COPY,
    &ops::CLONE,
    &ops::CONTIGUOUS,
    &ops::DROPOUT,
];

/// Whether integers reach `v`: from a layer, through operators that take them.
fn is_integer(program: &Program, v: ValueId, out: &Annotations) -> bool {
    let g = &program.graph;
    let (mut todo, mut seen) = (vec![v], BTreeSet::from([v]));
    while let Some(v) = todo.pop() {
        if out.get(Site::Output(v)).is_some() {
            return true;
        }
        let Some(n) = g.producer(v) else { continue };
        let node = g.node(n);
        let through = [ROUNDING_SHARES, BINARY, UNARY, CAT].iter().any(|ops| ops.contains(&node.op()));
        if through && out.reason(n).is_none() {
            todo.extend(node.operands().filter(|&o| seen.insert(o)));
        }
    }
    false
}

/// A linear layer. A piece of a recurrent one has its ranges taken while running.
fn linear_layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    recurrent::piece(m, &recurrent::while_running(how), out).unwrap_or_else(|| linear(m, how, out))
}

fn reached(m: &Match<'_>, out: &Annotations) -> Outcome {
    let node = m.program.graph.node(m.first());
    match node.operands().any(|v| is_integer(m.program, v, out)) {
        true => Ok(()),
        false => Err("all it reads is in floating point".into()),
    }
}

fn binary_of_integers(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    reached(m, out)?;
    let node = m.program.graph.node(m.first());
    if node.op().schema().index_of("alpha").is_some_and(|i| *node.arg(i) != 1.into()) {
        return Err("XNNPACK adds integers without a factor".into());
    }
    binary(m, how, out)
}

fn cat_of_integers(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    reached(m, out)?;
    cat(m, how, out)
}

/// Results of sigmoid and tanh lie in a range that is known; XNNPACK demands it.
fn unary(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    reached(m, out)?;
    if m.program.graph.is_output(m.program.graph.node(m.first()).output()) {
        return Err("its result leaves the program, in floating point".into());
    }
    let result = match m.program.graph.node(m.first()).op() {
        op if *op == ops::SIGMOID => Some(Spec::Fixed(QParams::per_tensor(QRange::INT8, 1.0 / 256.0, -128))),
        op if *op == ops::TANH => Some(Spec::Fixed(QParams::per_tensor(QRange::INT8, 1.0 / 128.0, 0))),
        _ => how.output_activation.clone(),
    };
    out.set(Site::input(m.first(), 0), how.input_activation.clone());
    out.set(m.output(), result);
    Ok(())
}
