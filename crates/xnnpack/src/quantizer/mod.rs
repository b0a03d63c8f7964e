//! The quantizer: which tensors XNNPACK takes as integers, and how.

mod config;
mod options;
mod recurrent;
mod rounding;
mod rules;

pub use config::{
    DYNAMIC, INT4_CHANNEL, INT4_GROUP, RECIPES, STATIC, Scales, Symmetric, group_size, range, recipe,
};
pub use options::{is_option, with_options};
pub use recurrent::nothing as nothing_recurrent;
pub use rounding::{ROUNDING, ROUNDING_SHARES};
pub use rules::{RULES, SHARES};

use crate::lowering::dynamic_dims;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::decompose::is_stack;
use lowbit_core::passes::{Decompose, Pipeline, ProductsToLinear, Recompose, ScalarsToTensors};
use lowbit_core::quantizer::{Quantizer, RuleQuantizer};
use std::sync::Arc;

/// A quantizer with the rules of ExecuTorch's and nothing configured yet; there, recurrent layers are left alone.
pub fn quantizer() -> RuleQuantizer {
    fn passes() -> Pipeline {
        let keep = |p: &Program, n: NodeId| !is_stack(p, n);
        Pipeline::default().then(Recompose).then(Decompose { keep }).then(ScalarsToTensors)
    }
    let q = RuleQuantizer::unset(RULES).shares(SHARES).prepare(passes).dynamic_dims(dynamic_dims);
    only_products(q)
}

/// As [`quantizer`], and linear layers are found in products with constants and in recurrent cells.
pub fn with_products() -> RuleQuantizer {
    fn passes() -> Pipeline {
        let wholes = Pipeline::default().then(ProductsToLinear).then(Recompose);
        wholes.then(Decompose { keep: is_layer }).then(ScalarsToTensors)
    }
    quantizer().prepare(passes)
}

fn only_products(mut q: RuleQuantizer) -> RuleQuantizer {
    q.filter(Arc::new(recurrent::only_products)).expect("rules have filters");
    q
}

/// Not a stack of recurrent layers, whose inputs are inside, nor a cell, which is one step of linear layers.
fn is_layer(program: &Program, n: NodeId) -> bool {
    !is_stack(program, n) && !recurrent::CELLS.contains(&program.graph.node(n).op())
}

/// With fewer dB, what is no outlier in a tensor has less than five of the eight bits. Trained and random networks alike
/// lie above 30 nearly everywhere; where one tensor does not, the outputs suffer from it more than from all others.
const LEAST_FIT: f64 = 30.0;

/// A quantizer that quantizes wherever XNNPACK rounds, and there only; nothing is configured yet.
pub fn rounding() -> RuleQuantizer {
    fn passes() -> Pipeline {
        // XNNPACK has no silu, but both its pieces on integers. What does nothing would be in the way of integers.
        let keep = |p: &Program, n: NodeId| {
            *p.graph.node(n).op() != ops::SILU && is_layer(p, n) && !does_nothing(p, n)
        };
        let wholes = Pipeline::default().then(ProductsToLinear).then(Recompose);
        wholes.then(Decompose { keep }).then(ScalarsToTensors)
    }
    let dynamic = Symmetric { scales: Scales::Channel, dynamic: true, ..Symmetric::default() };
    let q = RuleQuantizer::unset(ROUNDING).shares(ROUNDING_SHARES).prepare(passes);
    only_products(q.fallback(LEAST_FIT, dynamic.config()).dynamic_dims(dynamic_dims))
}

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

#[cfg(test)]
mod tests;
