//! What is done to a program before it is partitioned.

use super::{Builder, emit};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::passes::{DeadCode, Decompose, DuplicateDequantize, FoldBatchNorm, FoldMoves, Pipeline, Recompose};

/// Brings a program, in whichever form it was saved, into operators that the chip has.
pub fn pipeline(half: bool) -> Pipeline {
    let keep: fn(&Program, NodeId) -> bool = match half {
        true => |p, n| keep(p, n, true),
        false => |p, n| keep(p, n, false),
    };
    let wholes = Pipeline::default().then(Recompose).then(FoldBatchNorm);
    wholes.then(Decompose { keep }).then(FoldMoves).then(DuplicateDequantize).then(DeadCode)
}

/// What can be expressed as it is stays whole.
fn keep(program: &Program, n: NodeId, half: bool) -> bool {
    emit::node(&mut Builder::rehearsal(program), n, half).is_ok()
}
