//! What is done to a program before it is partitioned.

use super::emit;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::{Decompose, DuplicateDequantize, FoldBatchNorm, FoldMoves, Pipeline, Recompose};

/// Brings a program, in whichever form it was saved, into operators that XNNPACK has.
pub fn pipeline() -> Pipeline {
    Pipeline::default()
        .then(Recompose)
        .then(FoldBatchNorm)
        .then(Decompose { keep })
        .then(FoldMoves)
        .then(DuplicateDequantize)
}

/// Operators whose pieces XNNPACK has, unless it has the whole.
static IN_PIECES: &[&OpDef] = &[
    &ops::LSTM,
    &ops::GRU,
    &ops::RNN_TANH,
    &ops::RNN_RELU,
    &ops::LSTM_CELL,
    &ops::GRU_CELL,
    &ops::RNN_TANH_CELL,
    &ops::RNN_RELU_CELL,
    &ops::SCALED_DOT_PRODUCT_ATTENTION,
    &ops::MATMUL,
    &ops::BADDBMM,
    &ops::ADDCMUL,
    &ops::ADDCDIV,
    &ops::RMS_NORM,
    &ops::LOG_SIGMOID,
    &ops::SOFTPLUS,
    &ops::MISH,
    &ops::SELU,
    &ops::CELU,
    &ops::UPSAMPLE_BICUBIC2D_VEC,
    &ops::UPSAMPLE_BICUBIC2D,
    &ops::UPSAMPLE_BILINEAR2D_AA_VEC,
    &ops::UPSAMPLE_BILINEAR2D_AA,
    &ops::UPSAMPLE_BICUBIC2D_AA_VEC,
    &ops::UPSAMPLE_BICUBIC2D_AA,
    &ops::AFFINE_GRID_GENERATOR,
];

fn keep(program: &Program, n: NodeId) -> bool {
    let op = program.graph.node(n).op();
    !IN_PIECES.contains(&op) || emit::row(op).is_some_and(|r| (r.take)(program, n).is_ok())
}
