//! The quantizer: which tensors XNNPACK takes as integers, and how.

mod config;
mod options;
mod rounding;
mod rules;

pub use config::{
    DYNAMIC, INT4_CHANNEL, INT4_GROUP, RECIPES, STATIC, Scales, Symmetric, group_size, range, recipe,
};
pub use options::{is_option, with_options};
pub use rounding::{ROUNDING, ROUNDING_SHARES};
pub use rules::{RULES, SHARES};

use crate::lowering::dynamic_dims;
use lowbit_core::ir::{ModuleFrame, NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::{Decompose, Pipeline, ProductsToLinear, Recompose, ScalarsToTensors};
use lowbit_core::quantizer::RuleQuantizer;

/// A quantizer with the rules of ExecuTorch's and nothing configured yet. As there, recurrent layers are left alone.
pub fn quantizer() -> RuleQuantizer {
    let passes = || Pipeline::default().then(Recompose).then(ScalarsToTensors);
    RuleQuantizer::unset(RULES).shares(SHARES).prepare(passes).dynamic_dims(dynamic_dims)
}

/// As [`quantizer`], and linear layers are found in products with constants and in what recurrent layers consist of.
pub fn step_by_step() -> RuleQuantizer {
    let passes = || {
        let wholes = Pipeline::default().then(ProductsToLinear).then(Recompose);
        wholes.then(Decompose { keep: not_recurrent }).then(ScalarsToTensors)
    };
    quantizer().prepare(passes)
}

/// With fewer dB, what is no outlier in a tensor has less than five of the eight bits. Trained and random networks alike
/// lie above 30 nearly everywhere; where one tensor does not, the outputs suffer from it more than from all others.
const LEAST_FIT: f64 = 30.0;

/// A quantizer that quantizes wherever XNNPACK rounds, and there only; nothing is configured yet.
pub fn rounding() -> RuleQuantizer {
    fn passes() -> Pipeline {
        // XNNPACK has no silu, but both its pieces on integers. What does nothing would be in the way of integers.
        let keep = |p: &Program, n: NodeId| {
            *p.graph.node(n).op() != ops::SILU && not_recurrent(p, n) && !does_nothing(p, n)
        };
        let wholes = Pipeline::default().then(ProductsToLinear).then(Recompose);
        wholes.then(Decompose { keep }).then(ScalarsToTensors)
    }
    let dynamic = Symmetric { scales: Scales::Channel, dynamic: true, ..Symmetric::default() };
    RuleQuantizer::unset(ROUNDING)
        .shares(ROUNDING_SHARES)
        .prepare(passes)
        .fallback(LEAST_FIT, dynamic.config())
        .dynamic_dims(dynamic_dims)
}

/// A filter that keeps the pieces of recurrent layers, as `run_decompositions()` leaves them, in floating point like the
/// layers themselves.
pub fn leave_recurrent(program: &Program, n: NodeId) -> Result<(), String> {
    let frames = program.graph.node(n).module.frames();
    let class = |f: &ModuleFrame| RECURRENT_MODULES.iter().any(|m| *f.type_name == **m);
    match frames.iter().any(class) {
        true => Err(format!("it is a piece of a recurrent layer; recipe {STATIC} quantizes those")),
        false => Ok(()),
    }
}

static RECURRENT_MODULES: &[&str] = &[
    "torch.nn.modules.rnn.LSTM",
    "torch.nn.modules.rnn.GRU",
    "torch.nn.modules.rnn.RNN",
    "torch.nn.modules.rnn.LSTMCell",
    "torch.nn.modules.rnn.GRUCell",
    "torch.nn.modules.rnn.RNNCell",
];

/// Operators that hand on what they read, as far as the element type is the same.
static CASTS: &[&OpDef] = &[
    &ops::TO_DTYPE,
    &ops::TO_DEVICE,
    &ops::TO_DTYPE_LAYOUT,
    &ops::TO_OTHER,
    &ops::ALIAS,
    &ops::DETACH,
    &ops::DROPOUT,
    &ops::FEATURE_DROPOUT,
];

fn does_nothing(program: &Program, n: NodeId) -> bool {
    let (g, node) = (&program.graph, program.graph.node(n));
    let same = |v| g.ty(v).dtype == g.ty(node.output()).dtype;
    CASTS.contains(&node.op()) && node.operands().next().is_some_and(same)
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

#[cfg(test)]
mod tests;
