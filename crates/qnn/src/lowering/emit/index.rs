//! Picking entries by number.

use super::{Builder, Emitted, Made, Node, Table, dim, finished, out};
use crate::graph::{DType, Param, TensorId};
use crate::lowering::builder::Layout;
use crate::lowering::kind::Kind;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::EMBEDDING, |b, n| gather(b, n, 0, 1, 0)),
    (&ops::INDEX, index),
    (&ops::GATHER, |b, n| {
        let rank = b.program.graph.ty(n.output()).rank();
        let axis = dim(n, 1, rank)?;
        let (x, i) = (b.arg(n, 0, Layout::Plain)?, b.arg(n, 2, Layout::Plain)?);
        let (_, dims) = out(b, n, Layout::Plain)?;
        let kind = b.kind_of(x);
        let params = vec![("axis", Param::U32(axis as u32))];
        let y = b.one("GatherElements", params, vec![x, i], (kind, dims));
        finished(b, n, y, Layout::Plain)
    }),
    (&ops::INDEX_SELECT, |b, n| {
        let rank = b.program.graph.ty(n.output()).rank();
        let axis = dim(n, 1, rank)?;
        gather(b, n, 0, 2, axis)
    }),
];

/// The entries of argument `from` along an axis that argument `indices` names.
fn gather(b: &mut Builder<'_>, n: &Node, from: usize, indices: usize, axis: usize) -> Emitted<Vec<Made>> {
    let x = b.arg(n, from, Layout::Plain)?;
    let i = b.arg(n, indices, Layout::Plain)?;
    let (_, dims) = out(b, n, Layout::Plain)?;
    let y = pick(b, x, i, axis, dims);
    finished(b, n, y, Layout::Plain)
}

/// The entries of `x` along an axis that `i` names, in these dimensions.
fn pick(b: &mut Builder<'_>, x: TensorId, i: TensorId, axis: usize, dims: Vec<u32>) -> TensorId {
    let (kind, rank) = (b.kind_of(x), b.get(x).dims.len());
    let one = |b: &mut Builder<'_>, x, axis: usize, dims| {
        b.one("Gather", vec![("axis", Param::I32(axis as i32))], vec![x, i], (kind.clone(), dims))
    };
    // Along the last dimension the chip takes wrong bytes where that has an odd size and much is picked (SDK 2.51: half of 3000
    // entries of 257); it goes to the front.
    if kind.dtype.size() > 1 || rank == 1 || axis + 1 < rank {
        return one(b, x, axis, dims);
    }
    let order: Vec<usize> = [axis].into_iter().chain(0..axis).collect();
    let turned = b.transpose(x, &order);
    let (kept, picked) = dims.split_at(axis);
    let y = one(b, turned, 0, [picked, kept].concat());
    let back: Vec<usize> = (picked.len()..dims.len()).chain(0..picked.len()).collect();
    b.transpose(y, &back)
}

/// `(input, indices)`, with a hole for each dimension that stays whole. One tensor of numbers picks along its dimension;
/// several constant ones, of neighbouring dimensions, along these as one.
fn index(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let slots: Vec<Option<ValueId>> = match n.arg(1) {
        Arg::OptValues(list) => list.clone(),
        Arg::Values(list) => list.iter().copied().map(Some).collect(),
        _ => return Err("argument 1 is no list of tensors".into()),
    };
    let picked: Vec<(usize, ValueId)> =
        slots.iter().enumerate().filter_map(|(d, v)| Some((d, (*v)?))).collect();
    let Some(&(axis, first)) = picked.first() else { return Err("it picks nothing".into()) };
    if picked.iter().any(|&(_, v)| !b.program.graph.ty(v).dtype.is_int()) {
        return Err("HTP picks by numbers, not by truth values".into());
    }
    let x = b.arg(n, 0, Layout::Plain)?;
    let (_, dims) = out(b, n, Layout::Plain)?;
    let have = b.get(x).dims.clone();
    let (x, i) = match picked[..] {
        [_] if b.program.frozen(first).is_none() => (x, b.value(first, Layout::Plain)?),
        _ => {
            let end = axis + picked.len();
            if picked.iter().enumerate().any(|(k, &(d, _))| d != axis + k) {
                return Err("the dimensions that it picks along are no neighbours".into());
            }
            let sizes = &have[axis..end];
            let mut merged = have[..axis].to_vec();
            merged.push(sizes.iter().product());
            merged.extend(&have[end..]);
            (b.reshape(x, merged), numbers(b, n, &picked, sizes)?)
        }
    };
    // The chip picks numbers, no truth values.
    let x = match b.kind_of(x).dtype {
        DType::Bool => b.convert(x, &Kind::plain(DType::Int32))?,
        _ => x,
    };
    let y = pick(b, x, i, axis, dims);
    finished(b, n, y, Layout::Plain)
}

/// Constant numbers of entries along dimensions of these sizes, taken as one dimension.
fn numbers(b: &mut Builder<'_>, n: &Node, picked: &[(usize, ValueId)], sizes: &[u32]) -> Emitted<TensorId> {
    let mut shape: Vec<usize> = vec![];
    let mut lists = vec![];
    for &(_, v) in picked {
        let t = b.program.frozen(v).ok_or("its numbers are computed, of several dimensions")?;
        let rank = shape.len().max(t.shape().len());
        let at = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
        shape = (0..rank).map(|d| at(&shape, d).max(at(t.shape(), d))).collect();
        lists.push((t.shape().to_vec(), t.to_f64()));
    }
    let mut data: Vec<u8> = vec![];
    for flat in 0..shape.iter().product::<usize>() {
        let mut number = 0i64;
        for ((own, list), &size) in lists.iter().zip(sizes) {
            // The place of this entry in a list that repeats along dimensions of one.
            let (mut rest, mut place, mut step) = (flat, 0, 1);
            for d in (0..shape.len()).rev() {
                let i = rest % shape[d];
                rest /= shape[d];
                if let Some(k) = (d + own.len()).checked_sub(shape.len()) {
                    place += if own[k] == 1 { 0 } else { i * step };
                    step *= own[k];
                }
            }
            let (entry, size) = (list[place] as i64, i64::from(size));
            number = number * size + if entry < 0 { entry + size } else { entry };
        }
        data.extend(i32::try_from(number).map_err(|e| e.to_string())?.to_le_bytes());
    }
    let dims = shape.iter().map(|&d| d as u32).collect();
    Ok(b.constant(&format!("{}_numbers", n.name), Kind::plain(DType::Int32), dims, data.into()))
}
