//! What is done to a program before it is partitioned.

use super::{Builder, Settings, emit};
use crate::settings::Float;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::passes::{
    DeadCode, Decompose, DuplicateDequantize, FoldBatchNorm, FoldMoves, Pipeline, Recompose,
};

/// Brings a program, in whichever form it was saved, into operators that the chip has.
///
/// Where floats run on the chip, what it has no operator for is taken apart; where they stay outside, the pieces would, too.
pub fn pipeline(half: bool) -> Pipeline {
    let mut passes = Pipeline::default().then(Recompose).then(FoldBatchNorm);
    if half {
        passes = passes.then(Decompose { keep });
    }
    passes.then(FoldMoves).then(DuplicateDequantize).then(DeadCode)
}

/// What can be expressed as it is stays whole.
fn keep(program: &Program, n: NodeId) -> bool {
    let half = Settings { float: Float::Half, ..Settings::default() };
    super::is_quantization(program, n) || emit::node(&mut Builder::rehearsal(program, &half), n).is_ok()
}
