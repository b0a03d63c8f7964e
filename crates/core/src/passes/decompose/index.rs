//! Embeddings, triangles and repetition.

use super::{Build, PassFailure, Table, Values, dim, one, out_type};
use crate::Tensor;
use crate::dtype::DType;
use crate::ir::{Arg, Node, ValueId};
use crate::ops;

/// `embedding_bag(weight, indices, offsets, scale_grad, mode, sparse, per_sample_weights, include_last_offset,
/// padding_idx)`. Every index gets the number of its bag; rows are then added up, or compared, by that number.
fn embedding_bag(b: &mut Build<'_>, n: &Node) -> Values {
    if (1..4).any(|i| b.is_read(n, i)) {
        return Err(PassFailure("only its first result can be computed".into()));
    }
    let (weight, indices, offsets) = (b.tensor(n, 0)?, b.tensor(n, 1)?, b.tensor(n, 2)?);
    let out = out_type(b, n);
    let (bags, width) = (out.shape[0].clone(), out.shape[1].clone());
    let count = b.ty(indices).numel();
    let number = bag_numbers(b, n, offsets, &out.shape[0], &count)?;
    let mut rows = b.op(&ops::EMBEDDING, [weight.into(), indices.into()])?;
    if let Arg::Value(scale) = n.arg(6) {
        let scale = b.op(&ops::UNSQUEEZE, [(*scale).into(), 1.into()])?;
        rows = b.op(&ops::MUL, [rows.into(), scale.into()])?;
    }
    // Padding counts for nothing.
    let padding = match ops::views::int(n.arg(8)) {
        Some(p) if p >= 0 => Some(b.op(&ops::EQ_SCALAR, [indices.into(), p.into()])?),
        _ => None,
    };
    let past = past_the_end(b, n, offsets, &out.shape[0], &count)?;
    let unused = match (padding, past) {
        (Some(a), Some(c)) => Some(b.op(&ops::LOGICAL_OR, [a.into(), c.into()])?),
        (a, c) => a.or(c),
    };
    if ops::views::int(n.arg(4)) == Some(2) {
        let all = b.op(&ops::ARANGE, [Arg::Int(bags.clone()), DType::I64.into()])?;
        let all = b.view(all, vec![bags.clone(), 1.into()])?;
        let row = b.view(number, vec![1.into(), count.clone()])?;
        let mut outside = b.op(&ops::NE, [all.into(), row.into()])?;
        if let Some(p) = unused {
            outside = b.op(&ops::LOGICAL_OR, [outside.into(), p.into()])?;
        }
        return one(largest(b, rows, outside)?);
    }
    if let Some(p) = unused {
        let p = b.op(&ops::UNSQUEEZE, [p.into(), 1.into()])?;
        rows = b.op(&ops::MASKED_FILL_SCALAR, [rows.into(), p.into(), 0.into()])?;
    }
    let each_its_own = b.program.frozen(number).is_some_and(|t| {
        t.numel() as i64 == bags.known().unwrap_or(-1)
            && t.to_f64().iter().enumerate().all(|(i, &x)| x == i as f64)
    });
    // Bags of one index each: their sums and means are the rows.
    if each_its_own {
        return one(rows);
    }
    let column = b.view(number, vec![count.clone(), 1.into()])?;
    let places = b.expand(column, vec![count.clone(), width])?;
    let zeros = b.full(out.shape.clone(), 0.0, out.dtype)?;
    let sum = b.op(&ops::SCATTER_ADD, [zeros.into(), 0.into(), places.into(), rows.into()])?;
    if ops::views::int(n.arg(4)) == Some(0) {
        return one(sum);
    }
    // As PyTorch counts, indices past the end belong to the last bag, though they are not summed.
    let mut ones = b.full(vec![count, 1.into()], 1.0, out.dtype)?;
    if let Some(p) = padding {
        let p = b.op(&ops::UNSQUEEZE, [p.into(), 1.into()])?;
        ones = b.op(&ops::MASKED_FILL_SCALAR, [ones.into(), p.into(), 0.into()])?;
    }
    let none = b.full(vec![bags, 1.into()], 0.0, out.dtype)?;
    let sizes = b.op(&ops::SCATTER_ADD, [none.into(), 0.into(), column.into(), ones.into()])?;
    let sizes = b.op(&ops::CLAMP, [sizes.into(), Arg::Float(1.0), Arg::None])?;
    one(b.op(&ops::DIV, [sum.into(), sizes.into()])?)
}

/// The number of each index's bag: how many bags start at or before it, less one.
fn bag_numbers(
    b: &mut Build<'_>,
    n: &Node,
    offsets: ValueId,
    bags: &crate::SymInt,
    count: &crate::SymInt,
) -> Result<ValueId, PassFailure> {
    // Known offsets are counted here, and not while the program runs.
    if let (Some(offsets), Some(count), Some(bags)) = (b.program.frozen(offsets), count.known(), bags.known())
    {
        let mut numbers = vec![0i64; usize::try_from(count).unwrap_or(0)];
        for start in offsets.to_f64().iter().take(usize::try_from(bags).unwrap_or(0)) {
            if let Some(first) = numbers.get_mut(start.max(0.0) as usize) {
                *first += 1;
            }
        }
        let mut begun = -1;
        for number in &mut numbers {
            begun += *number;
            *number = begun;
        }
        let numbers = Tensor::new(&[numbers.len()], numbers).map_err(|e| PassFailure(e.to_string()))?;
        return Ok(b.constant("bags", numbers));
    }
    let mut starts = b.cast(offsets, DType::I64)?;
    if ops::views::bool(n.arg(7)) == Some(true) {
        // The last offset is the end of the last bag.
        starts = b.slice(starts, 0, 0.into(), bags.clone())?;
    }
    let starts = b.view(starts, vec![1.into(), bags.clone()])?;
    let places = b.op(&ops::ARANGE, [Arg::Int(count.clone()), DType::I64.into()])?;
    let places = b.view(places, vec![count.clone(), 1.into()])?;
    let begun = b.op(&ops::LE, [starts.into(), places.into()])?;
    let begun = b.cast(begun, DType::I64)?;
    let begun = b.op(&ops::SUM_DIM, [begun.into(), Arg::ints([1])])?;
    b.op(&ops::SUB_SCALAR, [begun.into(), 1.into()])
}

/// Indices from the last offset on, when that is the end of the last bag.
fn past_the_end(
    b: &mut Build<'_>,
    n: &Node,
    offsets: ValueId,
    bags: &crate::SymInt,
    count: &crate::SymInt,
) -> Result<Option<ValueId>, PassFailure> {
    if ops::views::bool(n.arg(7)) != Some(true) {
        return Ok(None);
    }
    let end = b.slice(offsets, 0, bags.clone(), bags.clone() + 1)?;
    let end = b.cast(end, DType::I64)?;
    let places = b.op(&ops::ARANGE, [Arg::Int(count.clone()), DType::I64.into()])?;
    Ok(Some(b.op(&ops::GE, [places.into(), end.into()])?))
}

/// The largest of the rows that are not `outside` each bag; zeros for an empty one.
fn largest(b: &mut Build<'_>, rows: ValueId, outside: ValueId) -> Result<ValueId, PassFailure> {
    let (r, o) = (b.ty(rows).clone(), b.ty(outside).shape.clone());
    let rows = b.view(rows, vec![1.into(), r.shape[0].clone(), r.shape[1].clone()])?;
    let rows = b.expand(rows, vec![o[0].clone(), r.shape[0].clone(), r.shape[1].clone()])?;
    let outside = b.op(&ops::UNSQUEEZE, [outside.into(), 2.into()])?;
    let seen =
        b.op(&ops::MASKED_FILL_SCALAR, [rows.into(), outside.into(), Arg::Float(f64::NEG_INFINITY)])?;
    let most = b.op(&ops::AMAX, [seen.into(), Arg::ints([1])])?;
    let numbers = b.cast(outside, DType::F32)?;
    let empty = b.op(&ops::AMIN, [numbers.into(), Arg::ints([1])])?;
    let empty = b.op(&ops::GT_SCALAR, [empty.into(), 0.into()])?;
    b.op(&ops::MASKED_FILL_SCALAR, [most.into(), empty.into(), 0.into()])
}

/// The upper triangle is what is not in the lower one.
fn triu(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let shape = b.ty(x).shape.clone();
    let (Some(r), Arg::Int(diagonal)) = (shape.len().checked_sub(2), n.arg(1)) else { return Ok(None) };
    let ones = b.full(shape[r..].to_vec(), 1.0, DType::F32)?;
    let below = b.op(&ops::TRIL, [ones.into(), Arg::Int(diagonal.clone() - 1)])?;
    let below = b.op(&ops::GT_SCALAR, [below.into(), 0.into()])?;
    one(b.op(&ops::MASKED_FILL_SCALAR, [x.into(), below.into(), 0.into()])?)
}

/// `repeat_interleave(self, repeats, dim)`: a new dimension behind `dim`, expanded and folded in.
fn repeat_interleave(b: &mut Build<'_>, n: &Node) -> Values {
    let Arg::Int(times) = n.arg(1) else { return Ok(None) };
    let mut x = b.tensor(n, 0)?;
    if b.ty(x).rank() == 0 || *n.arg(2) == Arg::None {
        let count = b.ty(x).numel();
        x = b.view(x, vec![count])?;
    }
    let mut shape = b.ty(x).shape.clone();
    let d = if *n.arg(2) == Arg::None { 0 } else { dim(n, 2, shape.len())? };
    let y = b.op(&ops::UNSQUEEZE, [x.into(), (d + 1).into()])?;
    shape.insert(d + 1, times.clone());
    let y = b.expand(y, shape)?;
    one(b.op(&ops::VIEW, [y.into(), Arg::Ints(out_type(b, n).shape)])?)
}

pub(super) const TABLE: Table = &[
    ("aten.embedding_bag.default", embedding_bag),
    ("aten.embedding_bag.padding_idx", embedding_bag),
    ("aten._embedding_bag_forward_only.default", embedding_bag),
    ("aten.triu.default", triu),
    ("aten.repeat_interleave.self_int", repeat_interleave),
];
