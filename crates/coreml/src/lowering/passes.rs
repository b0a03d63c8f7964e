//! What is done to a program before it is partitioned.

use super::{Builder, MAX_RANK, emit};
use crate::{Settings, Target};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::passes::{
    DeadCode, Decompose, FewerDimensions, FoldBatchNorm, FoldMoves, Pipeline, Recompose,
};

/// Brings a program, in whichever form it was saved, into operators that Core ML has.
pub fn pipeline(settings: &Settings) -> Pipeline {
    let keep: fn(&Program, NodeId) -> bool = match settings.target {
        Target::Ios16 => |p, n| keep(p, n, Target::Ios16),
        Target::Ios17 => |p, n| keep(p, n, Target::Ios17),
        Target::Ios18 => |p, n| keep(p, n, Target::Ios18),
    };
    // Weights are looked for behind moves that can be done at once, so these go first as well.
    let wholes = Pipeline::default().then(Recompose).then(FoldBatchNorm).then(FoldMoves);
    wholes.then(Decompose { keep }).then(FoldMoves).then(FewerDimensions { most: MAX_RANK }).then(DeadCode)
}

/// What can be expressed as it is stays whole.
fn keep(program: &Program, n: NodeId, target: Target) -> bool {
    let settings = Settings { target, ..Settings::default() };
    emit::node(&mut Builder::rehearsal(program, &settings), n).is_ok()
}
