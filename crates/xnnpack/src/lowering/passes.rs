//! What is done to a program before it is partitioned.

use super::emit;
use lowbit_core::ir::{Arg, NodeId, Program};
use lowbit_core::ops::{self, OpDef, views};
use lowbit_core::passes::{
    Decompose, DuplicateDequantize, FoldBatchNorm, FoldMoves, PackEmbeddings, Pipeline, Recompose, decompose,
};

/// Brings a program, in whichever form it was saved, into operators that XNNPACK has.
pub fn pipeline() -> Pipeline {
    Pipeline::default()
        .then(Recompose)
        .then(FoldBatchNorm)
        .then(Decompose { keep })
        .then(FoldMoves)
        .then(PackEmbeddings)
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
    &ops::DEQUANTIZE_CODEBOOK,
];

/// Pads with what lies at the borders: pieces put together, when they are narrow, or whole.
static PADS: &[&OpDef] =
    &[&ops::PAD, &ops::REFLECTION_PAD1D, &ops::REFLECTION_PAD2D, &ops::REPLICATION_PAD2D];

fn in_pieces(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    let narrow = || views::ints(node.arg(1)).is_some_and(|pads| pads.iter().all(|&p| p <= decompose::NARROW));
    let circular = || *node.op() == ops::PAD && *node.arg(2) == Arg::from("circular");
    IN_PIECES.contains(&node.op()) || PADS.contains(&node.op()) && (narrow() || circular())
}

fn keep(program: &Program, n: NodeId) -> bool {
    let op = program.graph.node(n).op();
    !in_pieces(program, n) || emit::row(op).is_some_and(|r| (r.take)(program, n).is_ok())
}
