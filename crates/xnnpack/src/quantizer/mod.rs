//! The quantizer: which tensors XNNPACK takes as integers, and how.

mod config;
mod rules;

pub use config::{RECIPES, Symmetric, range, recipe};
pub use rules::{RULES, SHARES};

use crate::lowering::is_fully_connected;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops;
use lowbit_core::passes::{Pipeline, Recompose, ScalarsToTensors};
use lowbit_core::quantizer::RuleQuantizer;

/// A quantizer with XNNPACK's rules and nothing configured yet.
pub fn quantizer() -> RuleQuantizer {
    RuleQuantizer::unset(RULES)
        .shares(SHARES)
        .prepare(|| Pipeline::default().then(Recompose).then(ScalarsToTensors))
        .dynamic_dims(dynamic_dims)
}

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
