//! [`FoldMoves`]: constants that are only reshaped, permuted or cut become constants of the new shape.

use super::{DeadCode, Pass, PassFailure};
use crate::ir::{Arg, ConstKind, NodeId, Program};
use crate::ops::views::{int, ints, value};
use crate::ops::{self, wrap_dim};
use crate::tensor::Tensor;
use bytes::Bytes;

/// Folds operators that move the elements of a constant and compute nothing, as long as the result is no larger than
/// the constant: expanded tensors would make files grow.
#[derive(Copy, Clone, Debug, Default)]
pub struct FoldMoves;

impl Pass for FoldMoves {
    fn name(&self) -> &'static str {
        "fold_moves"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let mut changed = false;
        for n in program.graph.nodes().collect::<Vec<_>>() {
            let Some(moved) = moved(program, n).map(|t| vec![t]).or_else(|| parts(program, n)) else {
                continue;
            };
            let node = program.graph.node(n);
            let (from, name) = (node.outputs().to_vec(), format!("{}_folded", node.name));
            for (from, moved) in from.into_iter().zip(moved) {
                let to = program.add_constant(&name, ConstKind::Tensor, moved);
                program.graph.replace_uses(from, to, None);
            }
            changed = true;
        }
        if changed {
            DeadCode.run(program)?;
        }
        Ok(changed)
    }
}

/// What a node makes of a constant.
fn moved(program: &Program, n: NodeId) -> Option<Tensor> {
    let node = program.graph.node(n);
    let op = node.op();
    let from = program.frozen(value(node.arg(0))?)?;
    if !op.traits.moves_data || node.outputs().len() != 1 {
        return None;
    }
    let ty = program.graph.ty(node.output());
    let shape = ty.known_shape()?;
    let rank = from.shape().len();
    if shape.iter().product::<usize>() > from.numel() || ty.dtype != from.dtype() {
        return None;
    }
    let mut dims: Vec<usize> = (0..rank).collect();
    let at = |i: usize| wrap_dim(int(node.arg(i))?, rank).ok();
    if [&ops::PERMUTE, &ops::PERMUTE_COPY].contains(&op) {
        let order = ints(node.arg(1))?.into_iter().map(|d| wrap_dim(d, rank).ok());
        return permuted(from, &order.collect::<Option<Vec<_>>>()?);
    }
    if [&ops::T, &ops::NUMPY_T].contains(&op) {
        dims.reverse();
        return permuted(from, &dims);
    }
    if [&ops::TRANSPOSE, &ops::SWAPAXES].contains(&op) {
        dims.swap(at(1)?, at(2)?);
        return permuted(from, &dims);
    }
    if [&ops::SLICE, &ops::SLICE_COPY].contains(&op) {
        let (d, step) = (at(1)?, int(node.arg(4))?);
        let size = i64::try_from(from.shape()[d]).ok()?;
        let start = if *node.arg(2) == Arg::None { 0 } else { int(node.arg(2))? };
        let start = if start < 0 { (start + size).max(0) } else { start.min(size) };
        return (step == 1).then(|| cut(from, d, start as usize, shape[d])).flatten();
    }
    if [&ops::SELECT, &ops::SELECT_COPY].contains(&op) {
        let (d, i) = (at(1)?, int(node.arg(2))?);
        let size = i64::try_from(from.shape()[d]).ok()?;
        let i = if i < 0 { i + size } else { i };
        return cut(from, d, usize::try_from(i).ok()?, 1)?.reshape(&shape).ok();
    }
    let same_order = [
        &ops::VIEW,
        &ops::RESHAPE,
        &ops::UNSAFE_VIEW,
        &ops::VIEW_COPY,
        &ops::VIEW_AS,
        &ops::RESHAPE_AS,
        &ops::FLATTEN,
        &ops::UNFLATTEN,
        &ops::SQUEEZE,
        &ops::SQUEEZE_DIM,
        &ops::SQUEEZE_DIMS,
        &ops::SQUEEZE_COPY_DIM,
        &ops::SQUEEZE_COPY_DIMS,
        &ops::UNSQUEEZE,
        &ops::UNSQUEEZE_COPY,
        &ops::EXPAND,
        &ops::EXPAND_COPY,
        &ops::EXPAND_AS,
        &ops::ALIAS,
        &ops::ALIAS_COPY,
        &ops::CLONE,
        &ops::CONTIGUOUS,
        &ops::DETACH,
        &ops::LIFT_FRESH_COPY,
    ];
    // An expansion that adds no elements only adds dimensions of size 1.
    same_order.contains(&op).then(|| from.reshape(&shape).ok()).flatten()
}

/// What a node cuts a constant into.
fn parts(program: &Program, n: NodeId) -> Option<Vec<Tensor>> {
    let node = program.graph.node(n);
    let known = [&ops::SPLIT, &ops::SPLIT_WITH_SIZES, &ops::CHUNK, &ops::UNBIND].contains(&node.op());
    let from = program.frozen(value(node.arg(0))?).filter(|_| known)?;
    let along = if *node.op() == ops::UNBIND { 1 } else { 2 };
    let d = wrap_dim(int(node.arg(along))?, from.shape().len()).ok()?;
    let mut start = 0;
    let part = |&v: &_| {
        let shape = program.graph.ty(v).known_shape()?;
        let len = if *node.op() == ops::UNBIND { 1 } else { shape[d] };
        start += len;
        cut(from, d, start - len, len)?.reshape(&shape).ok()
    };
    node.outputs().iter().map(part).collect()
}

/// Dimension `i` of the result is dimension `order[i]`.
fn permuted(t: &Tensor, order: &[usize]) -> Option<Tensor> {
    let size = t.dtype().size();
    let mut strides = vec![size; t.shape().len()];
    for d in (0..strides.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * t.shape()[d + 1];
    }
    let shape: Vec<usize> = order.iter().map(|&d| t.shape()[d]).collect();
    let strides: Vec<usize> = order.iter().map(|&d| strides[d]).collect();
    let mut out = Vec::with_capacity(t.bytes().len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..t.numel() {
        out.extend_from_slice(&t.bytes()[at..at + size]);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
    Tensor::from_bytes(t.dtype(), &shape, Bytes::from(out)).ok()
}

/// `start..start + len` of dimension `d`.
fn cut(t: &Tensor, d: usize, start: usize, len: usize) -> Option<Tensor> {
    let inner = t.shape()[d + 1..].iter().product::<usize>() * t.dtype().size();
    let row = t.shape()[d] * inner;
    let rows = t.bytes().len().checked_div(row).unwrap_or(0);
    let mut out = Vec::with_capacity(rows * len * inner);
    for r in 0..rows {
        out.extend_from_slice(t.bytes().get(r * row + start * inner..r * row + (start + len) * inner)?);
    }
    let mut shape = t.shape().to_vec();
    shape[d] = len;
    Tensor::from_bytes(t.dtype(), &shape, Bytes::from(out)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn moves_of_constants_are_folded() {
        let mut p = text::parse(
            "program {
              %x : f32[3, 2] = input
              %w : f32[2, 3] = constant \"w\" [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
              %t : f32[3, 2] = aten.t.default(%w)
              %s : f32[2, 2] = aten.slice.Tensor(%t, dim=0, start=-2)
              %u : f32[1, 2, 2] = aten.unsqueeze.default(%s, dim=0)
              %e : f32[1, 2, 2] = aten.expand.default(%u, size=[1, -1, -1])
              %big : f32[4, 2, 2] = aten.expand.default(%u, size=[4, -1, -1])
              %r : f32[2] = aten.select.int(%w, dim=1, index=-1)
              %a : f32[3, 2] = aten.add.Tensor(%x, %r)
              %p : f32[2, 1], %q : f32[2, 2] = aten.split_with_sizes.default(%w, split_sizes=[1, 2], dim=1)
              %f : f32[3], %l : f32[3] = aten.unbind.int(%w)
              return %a, %e, %big, %q, %l
            }",
        )
        .unwrap();
        assert!(FoldMoves.run(&mut p).unwrap());
        verify(&p).unwrap();
        let ops: Vec<&str> = p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect();
        assert_eq!(ops, ["expand", "add"]);
        let data = |v| p.frozen(v).unwrap().to_f32().into_owned();
        assert_eq!(data(p.graph.outputs()[1]), [2.0, 5.0, 3.0, 6.0]);
        assert_eq!(data(p.graph.outputs()[3]), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(data(p.graph.outputs()[4]), [4.0, 5.0, 6.0]);
        let add = p.graph.node(p.graph.producer(p.graph.outputs()[0]).unwrap());
        assert_eq!(data(value(add.arg(1)).unwrap()), [3.0, 6.0]);
    }
}
