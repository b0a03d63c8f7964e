//! The quantizer: which tensors XNNPACK takes as integers, and how.

mod config;
mod rounding;
mod rules;

pub use config::{RECIPES, STATIC, Symmetric, range, recipe};
pub use rounding::{ROUNDING, ROUNDING_SHARES};
pub use rules::{RULES, SHARES};

use crate::lowering::is_fully_connected;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::{Decompose, Pipeline, Recompose, ScalarsToTensors};
use lowbit_core::quantizer::RuleQuantizer;

/// A quantizer with the rules of ExecuTorch's and nothing configured yet.
pub fn quantizer() -> RuleQuantizer {
    RuleQuantizer::unset(RULES).shares(SHARES).prepare(prepare).dynamic_dims(dynamic_dims)
}

/// With fewer dB, what is no outlier in a tensor has less than five of the eight bits. Trained and random networks alike
/// lie above 30 nearly everywhere; where one tensor does not, the outputs suffer from it more than from all others.
const LEAST_FIT: f64 = 30.0;

/// A quantizer that quantizes wherever XNNPACK rounds, and there only; nothing is configured yet.
pub fn rounding() -> RuleQuantizer {
    fn passes() -> Pipeline {
        // XNNPACK has no silu, but both its pieces on integers.
        let keep = |p: &Program, n: NodeId| *p.graph.node(n).op() != ops::SILU && not_recurrent(p, n);
        Pipeline::default().then(Recompose).then(Decompose { keep }).then(ScalarsToTensors)
    }
    let dynamic = Symmetric { per_channel: true, dynamic: true, ..Symmetric::default() };
    RuleQuantizer::unset(ROUNDING)
        .shares(ROUNDING_SHARES)
        .prepare(passes)
        .fallback(LEAST_FIT, dynamic.config())
        .dynamic_dims(dynamic_dims)
}

/// Brings both forms that programs are saved in to the same operators, so that the rules find the same in them: what
/// `run_decompositions()` took apart and has a rule as a whole is put together, and recurrent layers, which it gives as
/// linear layers step by step, are taken apart.
fn prepare() -> Pipeline {
    Pipeline::default().then(Recompose).then(Decompose { keep: not_recurrent }).then(ScalarsToTensors)
}

fn not_recurrent(program: &Program, n: NodeId) -> bool {
    !RECURRENT.contains(&program.graph.node(n).op())
}

static RECURRENT: &[&OpDef] = &[
    &ops::LSTM,
    &ops::GRU,
    &ops::RNN_TANH,
    &ops::RNN_RELU,
    &ops::LSTM_CELL,
    &ops::GRU_CELL,
    &ops::RNN_TANH_CELL,
    &ops::RNN_RELU_CELL,
];

/// XNNPACK takes one range for each row of a linear layer, for each pixel of a pointwise convolution (a linear layer to
/// it), and for each image of any other.
fn dynamic_dims(program: &Program, reader: NodeId) -> Option<Vec<usize>> {
    let node = program.graph.node(reader);
    let rank = program.graph.ty(node.operands().next()?).rank();
    match node.op() {
        op if *op == ops::LINEAR => Some(vec![rank - 1]),
        _ if is_fully_connected(program, reader) => Some(vec![1]),
        _ => Some((1..rank).collect()),
    }
}
