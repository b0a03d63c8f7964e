//! Memory formats: which values are kept channels last, and how each operator runs on them.
//!
//! Convolutions want channels last. What follows one keeps that format as long as it can, because an element-wise
//! operator does not care in which order it meets the elements, and a reduction only needs its dimensions renamed.

use crate::kernel::{ConcreteArg, Kernel, wrap};
use crate::kernels::channels_last;
use lowbit_core::ops::OpDef;

/// The order of a tensor's elements in memory; always dense.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// C order.
    Contiguous,
    /// Dimension 1 varies fastest: `[N, C, H, W]` lies as `[N, H, W, C]`. Three dimensions or more.
    ChannelsLast,
}

impl Layout {
    /// The sizes in the order of memory.
    pub fn dims(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Layout::Contiguous => shape.to_vec(),
            Layout::ChannelsLast => {
                shape[..1].iter().chain(&shape[2..]).chain(&shape[1..2]).copied().collect()
            }
        }
    }
}

/// Whether both layouts of this shape are the same bytes.
pub fn indifferent(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().product::<usize>() == 1
}

/// How an operator runs on channels-last operands.
#[derive(Copy, Clone, Debug)]
pub enum Follow {
    /// As it is: any element order will do, and the result has the operands'.
    Elementwise,
    /// Any element order will do, and results have their own.
    Whole,
    /// With the dimension in this argument renamed.
    Dim(usize),
    /// With the dimensions in this argument renamed, when it leaves them in place or sums all positions away; the
    /// next argument says which.
    Dims(usize),
    /// By a kernel of its own, which is told the shapes as PyTorch sees them.
    Kernel(Kernel),
}

/// How `op` follows; `None` when it needs C order.
pub fn follow(op: &OpDef) -> Option<Follow> {
    if let Some(kernel) = channels_last::kernel(op) {
        return Some(Follow::Kernel(kernel));
    }
    if op.traits.elementwise {
        return Some(Follow::Elementwise);
    }
    Some(match op.name {
        "aten.clone.default" | "aten.contiguous.default" | "aten.dropout.default" | "aten.detach.default" => {
            Follow::Elementwise
        }
        // Scale and zero point are single numbers.
        "quantized_decomposed.quantize_per_tensor.tensor"
        | "quantized_decomposed.dequantize_per_tensor.tensor" => Follow::Elementwise,
        "quantized_decomposed.choose_qparams.tensor"
        | "quantized_decomposed.choose_qparams_symmetric.tensor" => Follow::Whole,
        "aten.cat.default" | "aten.softmax.int" | "aten._softmax.default" => Follow::Dim(1),
        "quantized_decomposed.quantize_per_channel.default"
        | "quantized_decomposed.dequantize_per_channel.default" => Follow::Dim(3),
        "aten.mean.dim" | "aten.sum.dim_IntList" | "aten.amax.default" | "aten.amin.default" => {
            Follow::Dims(1)
        }
        _ => return None,
    })
}

/// Where logical dimension `d` of a tensor of `rank` dimensions lies in channels-last memory.
fn renamed(d: i64, rank: usize) -> i64 {
    match wrap(d, rank) {
        0 => 0,
        1 => rank as i64 - 1,
        d => d as i64 - 1,
    }
}

/// The arguments with the dimensions in argument `at` renamed.
pub fn rename(mut args: Vec<ConcreteArg>, at: usize, rank: usize) -> Vec<ConcreteArg> {
    match args.get_mut(at) {
        Some(ConcreteArg::Int(d)) => *d = renamed(*d, rank),
        Some(ConcreteArg::Ints(list)) => list.iter_mut().for_each(|d| *d = renamed(*d, rank)),
        _ => {}
    }
    args
}

/// Whether a reduction's dimensions (argument `at`, `keepdim` behind it) are all positions of each channel, or stay.
pub fn reduces_positions(args: &[ConcreteArg], at: usize, rank: usize) -> bool {
    if matches!(args.get(at + 1), Some(ConcreteArg::Bool(true))) {
        return matches!(args.get(at), Some(ConcreteArg::Ints(list)) if !list.is_empty());
    }
    matches!(args.get(at), Some(ConcreteArg::Ints(list)) if are_positions(list, rank))
}

/// Whether these are all dimensions of a tensor of `rank` but the batch's and the channels'.
pub fn are_positions(dims: &[i64], rank: usize) -> bool {
    let mut dims: Vec<usize> = dims.iter().map(|&d| wrap(d, rank)).collect();
    dims.sort_unstable();
    dims.into_iter().eq(2..rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_renamed() {
        let dims = |rank| (0..rank as i64).map(|d| renamed(d, rank)).collect::<Vec<_>>();
        assert_eq!(dims(4), [0, 3, 1, 2]);
        assert_eq!(renamed(-1, 4), 2);
        assert_eq!(Layout::ChannelsLast.dims(&[2, 3, 4, 5]), [2, 4, 5, 3]);
    }
}
