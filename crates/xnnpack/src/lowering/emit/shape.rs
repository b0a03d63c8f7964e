//! Operators that move data: reshapes, permutations, slices. Most only give dimensions other names.

use super::{Builder, Emit, Integers, Io, Row, check_values, dim, int, tensor, to_u32};
use crate::lowering::layout::{Layout, is_unit};
use crate::subgraph::{Binary, Op, Reshape, Slice};
use lowbit_core::SymInt;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, views};

pub static ROWS: &[Row] = &[
    Row {
        ops: &[
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
        ],
        take: take_view,
        emit: emit_view,
    },
    Row {
        ops: &[
            &ops::PERMUTE,
            &ops::PERMUTE_COPY,
            &ops::TRANSPOSE,
            &ops::SWAPAXES,
            &ops::T,
            &ops::NUMPY_T,
            &ops::MOVEDIM,
        ],
        take: |p, n| {
            permutation(p, n)?;
            take_moved(p, n)
        },
        emit: emit_permute,
    },
    Row {
        ops: &[
            &ops::ALIAS,
            &ops::ALIAS_COPY,
            &ops::CLONE,
            &ops::CONTIGUOUS,
            &ops::DETACH,
            &ops::LIFT_FRESH_COPY,
            &ops::DROPOUT,
            &ops::FEATURE_DROPOUT,
            &ops::EXPAND,
            &ops::EXPAND_COPY,
            &ops::TO_DTYPE,
            &ops::TO_DEVICE,
            &ops::TO_DTYPE_LAYOUT,
            &ops::TO_COPY,
        ],
        take: take_same,
        emit: emit_same,
    },
    Row {
        ops: &[&ops::SLICE, &ops::SLICE_COPY],
        take: |p, n| taken_pieces(p, n, slice),
        emit: |b, n| cut(b, n, slice),
    },
    Row {
        ops: &[&ops::SELECT, &ops::SELECT_COPY],
        take: |p, n| taken_pieces(p, n, select),
        emit: |b, n| cut(b, n, select),
    },
    Row { ops: &[&ops::GLU], take: |p, n| glu(p, n).map(|_| Vec::new()), emit: emit_glu },
    Row {
        ops: &[&ops::SPLIT, &ops::SPLIT_WITH_SIZES, &ops::CHUNK, &ops::UNBIND, &ops::TENSOR_SPLIT_SECTIONS],
        take: |p, n| taken_pieces(p, n, pieces),
        emit: |b, n| cut(b, n, pieces),
    },
];

/// Input and result, as integers when both mean the same by them.
fn io(program: &Program, n: NodeId) -> Result<Io, String> {
    Ok(Io::of(program, n, &[tensor(program, n, 0)?], Integers::Same, false))
}

fn take_moved(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    check_values(program, n)?;
    computed(program, n)?;
    Ok(io(program, n)?.along)
}

/// A constant that is only moved would have been folded; moving it on the device is no use.
fn computed(program: &Program, n: NodeId) -> Result<(), String> {
    match program.frozen(tensor(program, n, 0)?) {
        Some(_) => Err("its input is constant".into()),
        None => Ok(()),
    }
}

fn take_view(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    let along = take_moved(program, n)?;
    let g = &program.graph;
    let out = g.ty(g.node(n).output());
    let from = g.ty(tensor(program, n, 0)?);
    // Names can change whatever the sizes; sizes can change only if all but one are known.
    if !renames(&from.shape, &out.shape) {
        Layout::plain(out).reshape_dims(out)?;
    }
    Ok(along)
}

/// Whether two shapes differ in sizes of 1 only.
fn renames(from: &[SymInt], to: &[SymInt]) -> bool {
    let solid = |s: &[SymInt]| s.iter().filter(|d| !is_unit(d)).cloned().collect::<Vec<_>>();
    solid(from) == solid(to)
}

fn emit_view(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let io = io(b.part, n)?;
    let (x, y) = (io.inputs[0], io.exit.value);
    let (from, to) = (b.ty(x), b.ty(y));
    if renames(&from.shape, &to.shape) {
        let solid = |s: &[SymInt]| (0..s.len()).filter(|&i| !is_unit(&s[i])).collect::<Vec<_>>();
        let (old, new) = (solid(&from.shape), solid(&to.shape));
        return b.rename(x, y, |d| old.iter().position(|&o| o == d).map(|i| new[i]));
    }
    // From a layout in which nothing has to move, if there is one.
    let moved = b.layouts(x).into_iter().find_map(|l| Some((l.reshaped(&from.shape, &to.shape)?, l)));
    let plain = || Some((Layout::plain(to), Layout::plain(from)));
    let (result, layout) =
        moved.filter(|(r, _)| r.reshape_dims(to).is_ok()).or_else(plain).ok_or("it has no layout")?;
    let input = b.get(x, &layout)?;
    let new_shape = result.reshape_dims(to)?;
    let output = b.define(y, &result)?;
    let num_dims = to_u32(new_shape.len() as i64)?;
    b.push(Op::StaticReshape(Reshape { num_dims, new_shape, input, output, flags: 0 }), None);
    Ok(())
}

/// Dimension `i` of the result is dimension `[i]` of the input.
fn permutation(program: &Program, n: NodeId) -> Result<Vec<usize>, String> {
    let node = program.graph.node(n);
    let rank = program.graph.ty(tensor(program, n, 0)?).rank();
    let mut order: Vec<usize> = (0..rank).collect();
    let at = |i: usize| dim(int(program, n, i)?, rank);
    match node.op() {
        op if *op == ops::PERMUTE || *op == ops::PERMUTE_COPY => {
            let dims = views::ints(node.arg(1)).ok_or("its order is no plain list")?;
            order = dims.into_iter().map(|d| dim(d, rank)).collect::<Result<_, _>>()?;
        }
        op if *op == ops::T || *op == ops::NUMPY_T => order.reverse(),
        op if *op == ops::MOVEDIM => {
            let (from, to) = (at(1)?, at(2)?);
            let d = order.remove(from);
            order.insert(to, d);
        }
        _ => order.swap(at(1)?, at(2)?),
    }
    Ok(order)
}

fn emit_permute(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let order = permutation(b.part, n)?;
    let io = io(b.part, n)?;
    b.rename(io.inputs[0], io.exit.value, |d| order.iter().position(|&o| o == d))
}

fn take_same(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    let g = &program.graph;
    let node = g.node(n);
    let (x, y) = (tensor(program, n, 0)?, node.output());
    if *node.op() == ops::DROPOUT || *node.op() == ops::FEATURE_DROPOUT {
        let training = super::flag(program, n, 2) && super::float(program, n, 1)? != 0.0;
        if training {
            return Err("it drops out at random".into());
        }
    }
    if g.ty(x).dtype != g.ty(y).dtype {
        return Err(format!("it converts {} to {}", g.ty(x).dtype, g.ty(y).dtype));
    }
    if g.ty(x).shape != g.ty(y).shape {
        return Err("XNNPACK has no node that repeats data; broadcasting operators do without".into());
    }
    take_moved(program, n)
}

fn emit_same(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let io = io(b.part, n)?;
    b.rename(io.inputs[0], io.exit.value, Some)
}

/// Dimension and half its size.
fn glu(program: &Program, n: NodeId) -> Result<(usize, u32), String> {
    check_values(program, n)?;
    computed(program, n)?;
    let (dim, size) = cut_dim(program, n, 1)?;
    Ok((dim, to_u32(size / 2)?))
}

/// The first half times the sigmoid of the second.
fn emit_glu(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (dim, half) = glu(b.part, n)?;
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let axis = layout.position(dim).ok_or("it halves a dimension of size 1")?;
    let input = b.get(x, &layout)?;
    let result = Layout::new(b.ty(y), layout.axes().to_vec());
    let dims = result.dims(b.part, b.ty(y));
    let mut sizes = result.slice_dims(b.ty(y));
    sizes[axis] = half;
    let num_dims = to_u32(sizes.len() as i64)?;
    let mut halves = [0; 2];
    for (i, part) in halves.iter_mut().enumerate() {
        let mut offsets = vec![0; layout.rank()];
        offsets[axis] = half * i as u32;
        *part = b.scratch(y, dims.clone());
        b.push(
            Op::StaticSlice(Slice {
                num_dims,
                offsets,
                sizes: sizes.clone(),
                input,
                output: *part,
                flags: 0,
            }),
            None,
        );
    }
    let gate = b.unary(Op::Sigmoid, halves[1], y, &dims);
    let output = b.define(y, &result)?;
    b.push(Op::Multiply(Binary { input1: halves[0], input2: gate, output, flags: 0 }), None);
    Ok(())
}

/// Results of a node as pieces of its input along one dimension.
struct Pieces {
    dim: usize,
    /// Offset and length of each.
    spans: Vec<(i64, i64)>,
    /// The dimension is gone in the results.
    dropped: bool,
}

type Cut = fn(&Program, NodeId) -> Result<Pieces, String>;

/// Dimension and known size to cut.
fn cut_dim(program: &Program, n: NodeId, i: usize) -> Result<(usize, i64), String> {
    let ty = program.graph.ty(tensor(program, n, 0)?);
    let d = dim(int(program, n, i)?, ty.rank())?;
    let size = ty.shape[d]
        .known()
        .ok_or_else(|| format!("it cuts dimension {d} of {ty}, which depends on symbols"))?;
    Ok((d, size))
}

fn slice(program: &Program, n: NodeId) -> Result<Pieces, String> {
    let node = program.graph.node(n);
    let (dim, size) = cut_dim(program, n, 1)?;
    if int(program, n, 4)? != 1 {
        return Err("XNNPACK slices without steps".into());
    }
    let bound = |i: usize, missing: i64| match node.arg(i) {
        lowbit_core::ir::Arg::None => Ok(missing),
        _ => int(program, n, i).map(|x| if x < 0 { (x + size).max(0) } else { x.min(size) }),
    };
    let (start, end) = (bound(2, 0)?, bound(3, size)?);
    Ok(Pieces { dim, spans: vec![(start, end - start)], dropped: false })
}

fn select(program: &Program, n: NodeId) -> Result<Pieces, String> {
    let (dim, size) = cut_dim(program, n, 1)?;
    let i = int(program, n, 2)?;
    Ok(Pieces { dim, spans: vec![(if i < 0 { i + size } else { i }, 1)], dropped: true })
}

/// Pieces that follow each other, as long as the results say.
fn pieces(program: &Program, n: NodeId) -> Result<Pieces, String> {
    let node = program.graph.node(n);
    let dropped = *node.op() == ops::UNBIND;
    let (dim, _) = cut_dim(program, n, if dropped { 1 } else { 2 })?;
    let mut at = 0;
    let mut spans = Vec::new();
    for &v in node.outputs() {
        let ty = program.graph.ty(v);
        let len = if dropped { Some(1) } else { ty.shape[dim].known() };
        let len = len.ok_or("the lengths of its pieces depend on symbols")?;
        spans.push((at, len));
        at += len;
    }
    Ok(Pieces { dim, spans, dropped })
}

fn taken_pieces(program: &Program, n: NodeId, cut: Cut) -> Result<Vec<NodeId>, String> {
    let along = take_moved(program, n)?;
    let p = cut(program, n)?;
    for (start, len) in p.spans {
        to_u32(start)?;
        if len < 1 {
            return Err("it cuts out nothing, XNNPACK takes no empty tensors".into());
        }
    }
    // Results of several pieces are handled one by one, as floats.
    Ok(if program.graph.node(n).outputs().len() > 1 { Vec::new() } else { along })
}

fn cut(b: &mut Builder<'_>, n: NodeId, how: Cut) -> Emit {
    let p = how(b.part, n)?;
    let node = b.part.graph.node(n);
    let several = node.outputs().len() > 1;
    let (x, results) = match several {
        true => (tensor(b.part, n, 0)?, node.outputs().to_vec()),
        false => {
            let io = io(b.part, n)?;
            (io.inputs[0], vec![io.exit.value])
        }
    };
    let from = b.ty(x);
    let layout = b.home(x);
    let rename_dim = |d: usize| match p.dropped {
        true if d == p.dim => None,
        true if d > p.dim => Some(d - 1),
        _ => Some(d),
    };
    for (&y, &(start, len)) in results.iter().zip(&p.spans) {
        let to = b.ty(y);
        let result = Layout::new(to, layout.renamed(rename_dim).axes().to_vec());
        let Some(axis) = layout.position(p.dim) else {
            // The dimension has size 1: all of it.
            let id = b.get(x, &layout)?;
            b.alias(y, result, id);
            continue;
        };
        let input = b.get(x, &layout)?;
        let mut offsets = vec![0; layout.rank()];
        let mut sizes = layout.slice_dims(from);
        (offsets[axis], sizes[axis]) = (to_u32(start)?, to_u32(len)?);
        let output = b.define(y, &result)?;
        let num_dims = to_u32(sizes.len() as i64)?;
        b.push(Op::StaticSlice(Slice { num_dims, offsets, sizes, input, output, flags: 0 }), None);
    }
    Ok(())
}
