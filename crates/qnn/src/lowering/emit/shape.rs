//! Reshaping, moving, joining, cutting, repeating.

use super::{Builder, Emitted, Made, Node, Table, dim, finished, int, ints, list, out, pairs, sizes};
use crate::graph::{Param, TensorId};
use crate::lowering::builder::Layout;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, views, wrap_dim};

pub static TABLE: Table = &[
    (&ops::VIEW, reshape),
    (&ops::RESHAPE, reshape),
    (&ops::VIEW_COPY, reshape),
    (&ops::UNSAFE_VIEW, reshape),
    (&ops::FLATTEN, reshape),
    (&ops::UNFLATTEN, reshape),
    (&ops::UNSQUEEZE, reshape),
    (&ops::UNSQUEEZE_COPY, reshape),
    (&ops::SQUEEZE, reshape),
    (&ops::SQUEEZE_DIM, reshape),
    (&ops::SQUEEZE_DIMS, reshape),
    (&ops::SQUEEZE_COPY_DIM, reshape),
    (&ops::SQUEEZE_COPY_DIMS, reshape),
    (&ops::CLONE, same),
    (&ops::CONTIGUOUS, same),
    (&ops::ALIAS, same),
    (&ops::DETACH, same),
    (&ops::DROPOUT, same),
    (&ops::PERMUTE, permute),
    (&ops::PERMUTE_COPY, permute),
    (&ops::TRANSPOSE, swap),
    (&ops::SWAPAXES, swap),
    (&ops::CAT, cat),
    (&ops::STACK, stack),
    (&ops::SLICE, |b, n| slice(b, n, [2, 3], true)),
    (&ops::SLICE_COPY, |b, n| slice(b, n, [2, 3], true)),
    (&ops::NARROW, |b, n| slice(b, n, [2, 3], false)),
    (&ops::SELECT, select),
    (&ops::SELECT_COPY, select),
    (&ops::SPLIT, split),
    (&ops::SPLIT_WITH_SIZES, split),
    (&ops::CHUNK, split),
    (&ops::UNBIND, unbind),
    (&ops::EXPAND, expand),
    (&ops::EXPAND_COPY, expand),
    (&ops::EXPAND_AS, expand),
    (&ops::REPEAT, repeat),
    (&ops::FLIP, flip),
    (&ops::PIXEL_SHUFFLE, |b, n| pixels(b, n, "DepthToSpace")),
    (&ops::PIXEL_UNSHUFFLE, |b, n| pixels(b, n, "SpaceToDepth")),
    (&ops::CONSTANT_PAD_ND, |b, n| pad(b, n, CONSTANT)),
    (&ops::PAD, |b, n| match n.arg(2) {
        Arg::Str(s) if &**s == "constant" => pad(b, n, CONSTANT),
        Arg::Str(s) if &**s == "reflect" => pad(b, n, REFLECT),
        Arg::Str(s) if &**s == "replicate" => pad(b, n, EDGE),
        other => Err(format!("HTP has no padding {other:?}")),
    }),
    (&ops::REFLECTION_PAD1D, |b, n| pad(b, n, REFLECT)),
    (&ops::REFLECTION_PAD2D, |b, n| pad(b, n, REFLECT)),
    (&ops::REPLICATION_PAD2D, |b, n| pad(b, n, EDGE)),
];

/// Schemes of `Pad`.
const CONSTANT: u32 = 0;
const REFLECT: u32 = 2;
const EDGE: u32 = 3;

fn operand(n: &Node, i: usize) -> Emitted<ValueId> {
    views::value(n.arg(i)).ok_or_else(|| format!("argument {i} is no tensor"))
}

fn reshape(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let shape = b.shape(n.output())?;
    let y = b.reshape(x, shape);
    finished(b, n, y, Layout::Plain)
}

fn same(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let at = super::layout(b, n);
    let x = b.arg(n, 0, at)?;
    finished(b, n, x, at)
}

fn turned(b: &mut Builder<'_>, n: &Node, order: &[usize]) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let y = b.transpose(x, order);
    finished(b, n, y, Layout::Plain)
}

fn permute(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let wrap = |d: &i64| wrap_dim(*d, rank).map_err(|e| e.message);
    let order = ints(n, 1)?.iter().map(wrap).collect::<Emitted<Vec<usize>>>()?;
    turned(b, n, &order)
}

fn swap(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(dim(n, 1, rank)?, dim(n, 2, rank)?);
    turned(b, n, &order)
}

fn parts(n: &Node) -> Emitted<Vec<ValueId>> {
    match n.arg(0) {
        Arg::Values(parts) => Ok(parts.clone()),
        _ => Err("argument 0 is no list of tensors".into()),
    }
}

/// Parts of other scales than the result's are converted by the operator itself.
fn cat(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let mut parts = parts(n)?;
    // PyTorch leaves out lists that are empty, whatever their shape.
    parts.retain(|&v| b.program.graph.ty(v).rank() == rank);
    let at = b.layout(&parts);
    let axis = at.place(dim(n, 1, rank)?, rank) as u32;
    let inputs = parts.iter().map(|&v| b.value(v, at)).collect::<Emitted<Vec<TensorId>>>()?;
    if let [one] = inputs[..] {
        return finished(b, n, one, at);
    }
    let to = out(b, n, at)?;
    Ok(vec![(b.one("Concat", vec![("axis", Param::U32(axis))], inputs, to), at)])
}

fn stack(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let axis = dim(n, 1, b.program.graph.ty(n.output()).rank())? as u32;
    let inputs = parts(n)?.iter().map(|&v| b.value(v, Layout::Plain)).collect::<Emitted<Vec<TensorId>>>()?;
    let to = out(b, n, Layout::Plain)?;
    Ok(vec![(b.one("Pack", vec![("axis", Param::U32(axis))], inputs, to), Layout::Plain)])
}

/// Every `step`th entry from `begin` on of each dimension, up to `end`.
fn cut(b: &mut Builder<'_>, x: TensorId, ranges: &[[i32; 3]], dims: Vec<u32>) -> TensorId {
    let flat: Vec<i32> = ranges.iter().flatten().copied().collect();
    let params = vec![
        ("ranges", Param::I32s(flat, vec![ranges.len() as u32, 3])),
        ("begin_mask", Param::U32(0)),
        ("end_mask", Param::U32(0)),
        ("shrink_axes", Param::U32(0)),
        ("new_axes_mask", Param::U32(0)),
    ];
    let kind = b.kind_of(x);
    b.one("StridedSlice", params, vec![x], (kind, dims))
}

/// The whole of each dimension.
fn whole(dims: &[u32]) -> Vec<[i32; 3]> {
    dims.iter().map(|&d| [0, i32::try_from(d).unwrap_or(i32::MAX), 1]).collect()
}

/// Entry `i` of an argument as a place in a dimension of `size`; counted from the end when it is negative.
fn place(n: &Node, i: usize, size: i64, default: i64) -> Emitted<i64> {
    let at = match n.arg(i) {
        Arg::None => default,
        _ => int(n, i)?,
    };
    Ok(if at < 0 { at.saturating_add(size) } else { at }.clamp(0, size))
}

/// From one place up to another, or so many entries on (`to_end` is false).
fn slice(b: &mut Builder<'_>, n: &Node, [from, to]: [usize; 2], to_end: bool) -> Emitted<Vec<Made>> {
    let v = operand(n, 0)?;
    let shape = b.shape(v)?;
    let rank = shape.len();
    let d = dim(n, 1, rank)?;
    let size = i64::from(shape[d]);
    let begin = place(n, from, size, 0)?;
    let (end, step) = match to_end {
        true => (place(n, to, size, size)?, int(n, 4)?),
        false => (begin.saturating_add(int(n, to)?), 1),
    };
    let at = b.layout(&[v]);
    let x = b.value(v, at)?;
    let (_, dims) = out(b, n, at)?;
    let mut ranges = whole(&b.get(x).dims.clone());
    let narrow = |x: i64| i32::try_from(x).map_err(|_| format!("{x} does not fit 32 bits"));
    ranges[at.place(d, rank)] = [narrow(begin)?, narrow(end)?, narrow(step)?];
    let y = if b.get(x).dims == dims { x } else { cut(b, x, &ranges, dims) };
    finished(b, n, y, at)
}

fn select(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let mut dims = b.get(x).dims.clone();
    let d = dim(n, 1, dims.len())?;
    let at = place(n, 2, i64::from(dims[d]), 0)? as i32;
    let mut ranges = whole(&dims);
    ranges[d] = [at, at + 1, 1];
    dims[d] = 1;
    let y = cut(b, x, &ranges, dims);
    let shape = b.shape(n.output())?;
    let y = b.reshape(y, shape);
    finished(b, n, y, Layout::Plain)
}

/// Neighbouring runs of a dimension: the results' sizes say how long.
fn split(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let v = operand(n, 0)?;
    let rank = b.program.graph.ty(v).rank();
    let d = dim(n, 2, rank)?;
    let at = b.layout(&[v]);
    let x = b.value(v, at)?;
    let kind = b.kind_of(x);
    let mut made = vec![];
    let (mut places, mut next) = (vec![], 0u32);
    for &o in n.outputs() {
        let shape = b.shape(o)?;
        made.push((kind.clone(), at.order(rank).into_iter().map(|d| shape[d]).collect()));
        next += shape[d];
        places.push(next);
    }
    places.pop();
    if places.is_empty() {
        return finished(b, n, x, at);
    }
    let params = vec![("axis", Param::U32(at.place(d, rank) as u32)), ("split_index", list(places))];
    let results = b.op("Split", params, vec![x], made);
    each(b, n, results, at)
}

/// Several results, each in its kind; what nobody reads has none.
fn each(b: &mut Builder<'_>, n: &Node, results: Vec<TensorId>, at: Layout) -> Emitted<Vec<Made>> {
    let g = &b.program.graph;
    let read: Vec<bool> =
        n.outputs().iter().map(|&o| g.is_output(o) || !g.value(o).uses().is_empty()).collect();
    let mut made = vec![];
    for ((&o, t), read) in n.outputs().iter().zip(results).zip(read) {
        let t = match read {
            true => {
                let kind = b.kind(o)?;
                b.convert(t, &kind)?
            }
            false => t,
        };
        made.push((t, at));
    }
    Ok(made)
}

fn unbind(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let dims = b.get(x).dims.clone();
    let d = dim(n, 1, dims.len())?;
    let kind = b.kind_of(x);
    let made = n.outputs().iter().map(|&o| Ok((kind.clone(), b.shape(o)?))).collect::<Emitted<Vec<_>>>()?;
    let results = b.op("UnPack", vec![("axis", Param::U32(d as u32))], vec![x], made);
    each(b, n, results, Layout::Plain)
}

/// So many copies along each dimension.
fn tile(b: &mut Builder<'_>, n: &Node, x: TensorId, times: Vec<u32>, dims: Vec<u32>) -> Emitted<Vec<Made>> {
    if times.iter().all(|&t| t == 1) {
        return finished(b, n, x, Layout::Plain);
    }
    let kind = b.kind_of(x);
    let y = b.one("Tile", vec![("multiples", list(times))], vec![x], (kind, dims));
    finished(b, n, y, Layout::Plain)
}

/// The same with more dimensions of one in front.
fn raised(b: &mut Builder<'_>, x: TensorId, rank: usize) -> TensorId {
    let have = b.get(x).dims.clone();
    let mut dims = vec![1; rank.saturating_sub(have.len())];
    dims.extend(have);
    b.reshape(x, dims)
}

fn expand(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let shape = b.shape(n.output())?;
    let x = raised(b, x, shape.len());
    let times = b.get(x).dims.iter().zip(&shape).map(|(h, w)| if h == w { 1 } else { *w }).collect();
    tile(b, n, x, times, shape)
}

fn repeat(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let shape = b.shape(n.output())?;
    let x = raised(b, x, shape.len());
    tile(b, n, x, sizes(&ints(n, 1)?)?, shape)
}

fn flip(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Plain)?;
    let dims = b.get(x).dims.clone();
    let mut ranges = whole(&dims);
    for d in ints(n, 1)? {
        let d = wrap_dim(d, dims.len()).map_err(|e| e.message)?;
        // From the last one down to before the first.
        ranges[d] = [ranges[d][1] - 1, -ranges[d][1] - 1, -1];
    }
    let y = cut(b, x, &ranges, dims);
    finished(b, n, y, Layout::Plain)
}

/// Channels to pixels or back, in PyTorch's order: channels first, then columns and rows of a block.
fn pixels(b: &mut Builder<'_>, n: &Node, kind: &'static str) -> Emitted<Vec<Made>> {
    const CRD: u32 = 1;
    if b.program.graph.ty(n.output()).rank() != 4 {
        return Err("HTP shuffles pixels of batches only".into());
    }
    let size = sizes(&[int(n, 1)?])?[0];
    let x = b.arg(n, 0, Layout::Last)?;
    let (_, dims) = out(b, n, Layout::Last)?;
    let params = vec![("block_size", list(vec![size, size])), ("mode", Param::U32(CRD))];
    let have = b.kind_of(x);
    let y = b.one(kind, params, vec![x], (have, dims));
    finished(b, n, y, Layout::Last)
}

/// Pads: pairs for dimensions from the last one on.
fn pad(b: &mut Builder<'_>, n: &Node, scheme: u32) -> Emitted<Vec<Made>> {
    let v = operand(n, 0)?;
    let rank = b.program.graph.ty(v).rank();
    let amounts = ints(n, 1)?;
    if amounts.iter().any(|&p| p < 0) {
        return Err("HTP's pads do not cut".into());
    }
    let at = b.layout(&[v]);
    let mut around = vec![0i64; 2 * rank];
    for (i, pair) in amounts.chunks_exact(2).enumerate() {
        let d = rank.checked_sub(i + 1).ok_or("it pads more dimensions than there are")?;
        around[2 * at.place(d, rank)..][..2].copy_from_slice(pair);
    }
    let x = b.value(v, at)?;
    let mut params = vec![("scheme", Param::U32(scheme)), ("pad_amount", pairs(sizes(&around)?))];
    if scheme == CONSTANT {
        let arg = if *n.op() == ops::PAD { 3 } else { 2 };
        let value = views::float(n.arg(arg)).unwrap_or(0.0);
        params.push(("pad_constant_value", filler(b, x, value)?));
    }
    let (_, dims) = out(b, n, at)?;
    let kind = b.kind_of(x);
    let y = b.one("Pad", params, vec![x], (kind, dims));
    finished(b, n, y, at)
}

/// A number as one of a tensor's integers.
fn filler(b: &Builder<'_>, x: TensorId, value: f64) -> Emitted<Param> {
    let kind = b.kind_of(x);
    let (Some((scale, _)), Some(integer)) = (kind.scale_offset(), kind.integer(value)) else {
        return Ok(Param::F32(value as f32));
    };
    let (min, max) = kind.bounds().ok_or("its integers have no range")?;
    if value < f64::from(min - scale / 2.0) || value > f64::from(max + scale / 2.0) {
        return Err(format!("it pads with {value}, and its integers stand for {min} to {max}"));
    }
    Ok(Param::I32(integer as i32))
}
