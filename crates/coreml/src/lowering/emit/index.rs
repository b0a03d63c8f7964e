//! Parts of tensors, and elements at computed places.

use super::shape::{concat, reshape, transpose};
use super::{Emitted, Table, dim, int, out, sizes, truth};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, DType, Type};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, Node, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::SLICE, slice),
    (&ops::SLICE_COPY, slice),
    (&ops::NARROW, |b, n| {
        let x = b.arg(n, 0)?;
        let d = dim(n, 1, x.ty.rank())?;
        let (Arg::Int(start), Arg::Int(length)) = (n.arg(2), n.arg(3)) else {
            return Err("its place is no integer".into());
        };
        let start = if start.known().is_some_and(|s| s < 0) {
            x.ty.shape[d].clone() + start.clone()
        } else {
            start.clone()
        };
        let end = start.clone() + length.clone();
        part(b, x, d, &start, &end, 1, out(b, n)?).map(|y| vec![y])
    }),
    (&ops::SELECT, select),
    (&ops::SELECT_COPY, select),
    (&ops::SPLIT, split),
    (&ops::SPLIT_WITH_SIZES, split),
    (&ops::CHUNK, split),
    (&ops::TENSOR_SPLIT_SECTIONS, split),
    (&ops::UNBIND, |b, n| {
        let x = b.arg(n, 0)?;
        let d = dim(n, 1, x.ty.rank())?;
        (0..n.outputs().len()).map(|i| entry(b, x.clone(), d, &SymInt::from(i))).collect()
    }),
    (&ops::EMBEDDING, |b, n| {
        let (table, places) = (b.arg(n, 0)?, b.arg(n, 1)?);
        Ok(vec![gather(b, table, places, 0)])
    }),
    (&ops::INDEX_SELECT, |b, n| {
        let (x, places) = (b.arg(n, 0)?, b.arg(n, 2)?);
        let d = dim(n, 1, x.ty.rank())?;
        Ok(vec![gather(b, x, places, d)])
    }),
    (&ops::GATHER, |b, n| {
        let (x, places, ty) = (b.arg(n, 0)?, b.arg(n, 2)?, out(b, n)?);
        let axis = dim(n, 1, x.ty.rank())? as i32;
        Ok(vec![numbers_of(b, x, ty, |b, x, ty| {
            let inputs = vec![("x", x.into()), ("indices", places.into()), ("axis", axis.into())];
            b.op("gather_along_axis", inputs, ty)
        })])
    }),
    (&ops::INDEX, index),
    (&ops::INDEX_PUT, index_put),
    (&ops::SCATTER, |b, n| scatter(b, n, "update")),
    (&ops::SCATTER_ADD, |b, n| scatter(b, n, "add")),
    (&ops::SLICE_SCATTER, slice_scatter),
    (&ops::SELECT_SCATTER, |b, n| {
        let (x, new, ty) = (b.arg(n, 0)?, b.arg(n, 1)?, out(b, n)?);
        let d = dim(n, 2, ty.rank())?;
        let size = ty.shape[d].known().ok_or("it writes into a dimension of open size")?;
        let at = int(n, 3)?;
        let at = if at < 0 { at + size } else { at };
        let mut shape = ty.shape.clone();
        shape[d] = 1.into();
        let new = reshape(b, new, shape)?;
        Ok(vec![replace(b, x, new, d, (at, at + 1), ty)])
    }),
    (&ops::UNFOLD, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        let rank = x.ty.rank();
        let d = dim(n, 1, rank)?;
        let (size, step) = (int(n, 2)?, int(n, 3)?);
        let count = ty.shape[d].known().ok_or("it unfolds a dimension of open size")?;
        let places: Vec<i32> =
            (0..count).flat_map(|i| (0..size).map(move |j| (i * step + j) as i32)).collect();
        let bytes: Vec<u8> = places.iter().flat_map(|p| p.to_le_bytes()).collect();
        let places = b.constant("windows", Constant::new(DType::I32, [count, size], bytes));
        let y = gather(b, x, places, d);
        // The windows' elements go last.
        let mut order: Vec<usize> = (0..=rank).filter(|&i| i != d + 1).collect();
        order.push(d + 1);
        Ok(vec![transpose(b, y, &order)])
    }),
    (&ops::TRIL, |b, n| {
        let (x, k) = (b.arg(n, 0)?, int(n, 1)?);
        if k < 0 {
            return Err("Core ML keeps no band without the diagonal".into());
        }
        Ok(vec![band(b, x, -1, k)])
    }),
    (&ops::TRIU, |b, n| {
        let (x, k) = (b.arg(n, 0)?, int(n, 1)?);
        if k > 0 {
            return Err("Core ML keeps no band without the diagonal".into());
        }
        Ok(vec![band(b, x, -k, -1)])
    }),
];

/// Entries `from` to `to` of a dimension, both known.
pub(super) fn cut(b: &mut Builder<'_>, x: Var, d: usize, from: i64, to: i64) -> Var {
    let mut ty = x.ty.clone();
    ty.shape[d] = (to - from).into();
    window(b, x, d, vec![from as i32].into(), vec![to as i32].into(), [1, 0, 0], ty)
}

/// Every `step`-th of the entries in a range, which are `count`.
pub(super) fn steps(
    b: &mut Builder<'_>,
    x: Var,
    d: usize,
    (from, to): (i64, i64),
    step: i64,
    count: i64,
) -> Var {
    let mut ty = x.ty.clone();
    ty.shape[d] = count.into();
    window(b, x, d, vec![from as i32].into(), vec![to as i32].into(), [step as i32, 0, 0], ty)
}

/// `slice_by_index` of one dimension, whose ends are lists of one: step, whether to go to the end, whether to drop the
/// dimension.
fn window(
    b: &mut Builder<'_>,
    x: Var,
    d: usize,
    begin: In,
    end: In,
    [step, whole, drop]: [i32; 3],
    ty: Type,
) -> Var {
    let rank = x.ty.rank();
    let spread = |b: &mut Builder<'_>, i: In| -> In {
        match i {
            In::Const(c) => {
                let n = c.as_ints().and_then(|l| l.first().copied()).unwrap_or(0);
                let list: Vec<i32> = (0..rank).map(|k| if k == d { n as i32 } else { 0 }).collect();
                list.into()
            }
            In::Var(v) if rank > 1 => {
                let zero = b.constant("zero", Constant::i32s(&[0]));
                let parts: Vec<Var> =
                    (0..rank).map(|k| if k == d { v.clone() } else { zero.clone() }).collect();
                concat(b, parts, 0, Type::new(DType::I32, [rank])).into()
            }
            other => other,
        }
    };
    let (begin, end) = (spread(b, begin), spread(b, end));
    let mask = |f: &dyn Fn(usize) -> bool| {
        let bytes: Vec<u8> = (0..rank).map(|k| u8::from(f(k))).collect();
        In::Const(Constant::new(DType::Bool, [rank], bytes))
    };
    let mut inputs = vec![
        ("x", x.into()),
        ("begin", begin),
        ("end", end),
        ("begin_mask", mask(&|k| k != d)),
        ("end_mask", mask(&|k| k != d || whole == 1)),
    ];
    if step != 1 {
        let strides: Vec<i32> = (0..rank).map(|k| if k == d { step } else { 1 }).collect();
        inputs.push(("stride", strides.into()));
    }
    if drop == 1 {
        inputs.push(("squeeze_mask", mask(&|k| k == d)));
    }
    b.op("slice_by_index", inputs, ty)
}

/// Every `step`-th entry from `start` to `end`.
fn part(
    b: &mut Builder<'_>,
    x: Var,
    d: usize,
    start: &SymInt,
    end: &SymInt,
    step: i64,
    ty: Type,
) -> Emitted<Var> {
    let whole = *end == x.ty.shape[d];
    if whole && start.known() == Some(0) && step == 1 {
        return Ok(x);
    }
    let begin = sizes::list(b, std::slice::from_ref(start))?;
    let end = if whole { vec![0].into() } else { sizes::list(b, std::slice::from_ref(end))? };
    let step = i32::try_from(step).map_err(|e| e.to_string())?;
    Ok(window(b, x, d, begin, end, [step, i32::from(whole), 0], ty))
}

fn slice(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let d = dim(n, 1, ty.rank())?;
    let size = x.ty.shape[d].clone();
    // Places from the end are made ones from the front; those beyond an end are the end.
    let place = |i: usize, default: SymInt| match n.arg(i) {
        Arg::None => Ok(default),
        Arg::Int(k) => Ok(match (k.known(), size.known()) {
            (Some(k), Some(size)) => SymInt::from(if k < 0 { (k + size).max(0) } else { k.min(size) }),
            (Some(k), None) if k < 0 => size.clone() + k,
            (Some(k), None) if k > i64::from(i32::MAX) => size.clone(),
            _ => k.clone(),
        }),
        _ => Err("its place is no integer".to_string()),
    };
    let (start, end) = (place(2, 0.into())?, place(3, size.clone())?);
    part(b, x, d, &start, &end, int(n, 4)?, ty).map(|y| vec![y])
}

/// Entry `at` of dimension `d`, which disappears.
pub(super) fn entry(b: &mut Builder<'_>, x: Var, d: usize, at: &SymInt) -> Emitted<Var> {
    let mut ty = x.ty.clone();
    ty.shape.remove(d);
    let begin = sizes::list(b, std::slice::from_ref(at))?;
    let end = sizes::list(b, &[at.clone() + 1])?;
    Ok(window(b, x, d, begin, end, [1, 0, 1], ty))
}

fn select(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let d = dim(n, 1, x.ty.rank())?;
    let Arg::Int(at) = n.arg(2) else { return Err("its place is no integer".into()) };
    let at = if at.known().is_some_and(|k| k < 0) { x.ty.shape[d].clone() + at.clone() } else { at.clone() };
    entry(b, x, d, &at).map(|y| vec![y])
}

fn split(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let d = dim(n, 2, x.ty.rank())?;
    let types = n.outputs().iter().map(|&v| b.type_of(v)).collect::<Emitted<Vec<_>>>()?;
    if types.len() == 1 {
        return Ok(vec![x]);
    }
    let sizes: Option<Vec<i64>> = types.iter().map(|t| t.shape[d].known()).collect();
    let sizes = super::narrow(&sizes.ok_or("it splits a dimension of open size")?)?;
    let inputs = vec![("x", x.into()), ("split_sizes", sizes.into()), ("axis", (d as i32).into())];
    Ok(b.all("split", inputs, types))
}

/// The entries of dimension `d` at places.
pub(super) fn gather(b: &mut Builder<'_>, x: Var, places: Var, d: usize) -> Var {
    let mut shape = x.ty.shape.clone();
    shape.splice(d..=d, places.ty.shape.iter().cloned());
    let ty = Type { dtype: x.ty.dtype, shape };
    let axis = d as i32;
    numbers_of(b, x, ty, |b, x, ty| {
        b.op("gather", vec![("x", x.into()), ("indices", places.into()), ("axis", axis.into())], ty)
    })
}

/// What picks elements picks numbers: truth values go through it as integers.
fn numbers_of(
    b: &mut Builder<'_>,
    x: Var,
    ty: Type,
    pick: impl FnOnce(&mut Builder<'_>, Var, Type) -> Var,
) -> Var {
    if x.ty.dtype != DType::Bool {
        return pick(b, x, ty);
    }
    let x = b.cast(&x, DType::I32);
    let y = pick(b, x, ty.with(DType::I32));
    b.cast(&y, DType::Bool)
}

/// The index tensors of a node and the dimension that the first of them is for; they have to be neighbours.
fn indices(b: &mut Builder<'_>, n: &Node) -> Emitted<(Vec<Var>, usize)> {
    let Arg::OptValues(list) = n.arg(1) else { return Err("argument 1 is no list of tensors".into()) };
    let is_mask = |v: &ValueId| matches!(b.program.graph.ty(*v).dtype, CoreType::Bool | CoreType::U8);
    if list.iter().flatten().any(is_mask) {
        return Err("Core ML picks elements by their places, not by a mask".into());
    }
    let given: Vec<usize> = (0..list.len()).filter(|&i| list[i].is_some()).collect();
    let first = *given.first().ok_or("it has no index")?;
    if given.windows(2).any(|w| w[1] != w[0] + 1) {
        return Err("its indices are for dimensions apart".into());
    }
    let vars = list.iter().flatten().map(|&v| b.value(v)).collect::<Emitted<Vec<_>>>()?;
    Ok((vars, first))
}

/// Index tensors as places of several dimensions: the last dimension says where in each.
fn places(b: &mut Builder<'_>, vars: Vec<Var>) -> Emitted<Var> {
    let shape = vars.iter().fold(vec![], |s, v| super::broadcast(&s, &v.ty.shape));
    let mut wide = vec![];
    for v in vars {
        if v.ty.shape == shape {
            wide.push(v);
            continue;
        }
        // Sums with zeros of the whole shape broadcast whatever the shapes are.
        let whole = shape
            .iter()
            .map(SymInt::known)
            .collect::<Option<Vec<_>>>()
            .ok_or("its indices have open sizes")?;
        let n: i64 = whole.iter().product();
        let zeros = b.constant("zeros", Constant::new(DType::I32, whole, vec![0; 4 * n as usize]));
        wide.push(super::binary::apply(b, "add", zeros, v));
    }
    let mut ty = Type { dtype: DType::I32, shape: shape.clone() };
    ty.shape.push(wide.len().into());
    Ok(b.op("stack", vec![("values", wide.into()), ("axis", (shape.len() as i32).into())], ty))
}

fn index(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let (mut vars, first) = indices(b, n)?;
    if vars.len() == 1 {
        return Ok(vec![gather(b, x, vars.remove(0), first)]);
    }
    let (rank, picked) = (x.ty.rank(), vars.len());
    let mut order: Vec<usize> = (first..first + picked).collect();
    order.extend((0..rank).filter(|d| !(first..first + picked).contains(d)));
    let x = transpose(b, x, &order);
    let places = places(b, vars)?;
    let front = places.ty.rank() - 1;
    let mut shape = places.ty.shape[..front].to_vec();
    shape.extend(x.ty.shape[picked..].iter().cloned());
    let ty = Type { dtype: x.ty.dtype, shape };
    let y = numbers_of(b, x, ty, |b, x, ty| {
        b.op("gather_nd", vec![("x", x.into()), ("indices", places.into())], ty)
    });
    // What was picked goes where the first index was.
    let back: Vec<usize> = (front..front + first).chain(0..front).chain(front + first..y.ty.rank()).collect();
    Ok(vec![transpose(b, y, &back)])
}

fn index_put(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, new, ty) = (b.arg(n, 0)?, b.arg(n, 2)?, out(b, n)?);
    let (vars, first) = indices(b, n)?;
    let (rank, picked) = (ty.rank(), vars.len());
    let places = places(b, vars)?;
    // The values have the places' dimensions where the first index is; Core ML wants both in front.
    let at = places.ty.rank() - 1;
    let mut shape = ty.shape[..first].to_vec();
    shape.extend(places.ty.shape[..at].iter().cloned());
    shape.extend(ty.shape[first + picked..].iter().cloned());
    let new = super::shape::expanded(b, new, &shape)?;
    let front = |from: usize, count: usize, all: usize| -> Vec<usize> {
        (from..from + count).chain(0..from).chain(from + count..all).collect()
    };
    let order = front(first, picked, rank);
    let new = transpose(b, new, &front(first, at, shape.len()));
    let x = transpose(b, x, &order);
    let moved = x.ty.clone();
    let mode = if truth(n, 3)? { "add" } else { "update" };
    let inputs =
        vec![("data", x.into()), ("indices", places.into()), ("updates", new.into()), ("mode", mode.into())];
    let y = b.op("scatter_nd", inputs, moved);
    let back: Vec<usize> = (0..rank).map(|d| order.iter().position(|&o| o == d).unwrap_or(d)).collect();
    Ok(vec![transpose(b, y, &back)])
}

fn scatter(b: &mut Builder<'_>, n: &Node, mode: &'static str) -> Emitted<Vec<Var>> {
    let (x, places, new, ty) = (b.arg(n, 0)?, b.arg(n, 2)?, b.arg(n, 3)?, out(b, n)?);
    if places.ty.shape != new.ty.shape {
        return Err("it writes only some of its elements".into());
    }
    let axis = dim(n, 1, ty.rank())? as i32;
    // Core ML wants the other dimensions whole.
    let others = (0..ty.rank()).filter(|&d| d != axis as usize);
    if others.into_iter().any(|d| places.ty.shape[d] != ty.shape[d]) {
        return Err("it leaves out entries of other dimensions".into());
    }
    let inputs = vec![
        ("data", x.into()),
        ("indices", places.into()),
        ("updates", new.into()),
        ("axis", axis.into()),
        ("mode", mode.into()),
    ];
    Ok(vec![b.op("scatter_along_axis", inputs, ty)])
}

/// `new` in the place of every so-manyth entry.
fn slice_scatter(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, new, ty) = (b.arg(n, 0)?, b.arg(n, 1)?, out(b, n)?);
    let d = dim(n, 2, ty.rank())?;
    let size = ty.shape[d].known().ok_or("it writes into a dimension of open size")?;
    let at = |i: usize, default: i64| match n.arg(i) {
        Arg::None => Ok(default),
        _ => int(n, i).map(|k| if k < 0 { (k + size).max(0) } else { k.min(size) }),
    };
    let (start, end, step) = (at(3, 0)?, at(4, size)?, int(n, 5)?);
    if step == 1 {
        return Ok(vec![replace(b, x, new, d, (start, end.max(start)), ty)]);
    }
    if end <= start {
        return Ok(vec![x]);
    }
    // Every entry takes some entry of the new ones; a mask says which are meant.
    let is_new = |k: i64| k >= start && k < end && (k - start) % step == 0;
    let from: Vec<i32> = (0..size).map(|k| if is_new(k) { ((k - start) / step) as i32 } else { 0 }).collect();
    let from = b.constant("places", Constant::i32s(&from));
    let wide = gather(b, new, from, d);
    let mask: Vec<u8> = (0..size).map(|k| u8::from(is_new(k))).collect();
    let shape: Vec<i64> = (0..ty.rank()).map(|k| if k == d { size } else { 1 }).collect();
    let mask = b.constant("mask", Constant::new(DType::Bool, shape, mask));
    super::binary::select(b, mask, wide, x, ty).map(|y| vec![y])
}

/// `new` in the place of entries `from` to `to`.
fn replace(b: &mut Builder<'_>, x: Var, new: Var, d: usize, (from, to): (i64, i64), ty: Type) -> Var {
    let size = ty.shape[d].known().unwrap_or(to);
    let mut parts = vec![];
    if from > 0 {
        parts.push(cut(b, x.clone(), d, 0, from));
    }
    if to > from {
        parts.push(new);
    }
    if to < size {
        parts.push(cut(b, x, d, to, size));
    }
    concat(b, parts, d, ty)
}

/// So many diagonals below and above the main one; −1: all.
fn band(b: &mut Builder<'_>, x: Var, lower: i64, upper: i64) -> Var {
    let ty = x.ty.clone();
    let inputs = vec![("x", x.into()), ("lower", (lower as i32).into()), ("upper", (upper as i32).into())];
    b.op("band_part", inputs, ty)
}
