//! Operators that put tensors together or around: concatenation, stacking, padding with a constant.

use super::{Builder, Emit, Integers, Io, Row, check_values, dim, float, int, tensor, to_u32};
use crate::lowering::layout::{Layout, is_unit, upper_bound};
use crate::subgraph::{Cat, NO_VALUE, Op, StaticPad};
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops::{self, views};

pub static ROWS: &[Row] = &[
    Row { ops: &[&ops::CAT, &ops::STACK], take: |p, n| Ok(cat(p, n)?.io.along), emit: emit_cat },
    Row { ops: &[&ops::CONSTANT_PAD_ND, &ops::PAD], take: |p, n| Ok(pad(p, n)?.io.along), emit: emit_pad },
];

struct Joined {
    io: Io,
    dim: usize,
    /// The dimension is new.
    stacked: bool,
}

fn cat(program: &Program, n: NodeId) -> Result<Joined, String> {
    check_values(program, n)?;
    let node = program.graph.node(n);
    let operands: Vec<ValueId> = node.operands().collect();
    if operands.len() < 2 {
        return Err("XNNPACK puts two or more tensors together".into());
    }
    if operands.iter().all(|&v| program.frozen(v).is_some()) {
        return Err("all its operands are constant".into());
    }
    let rank = program.graph.ty(node.output()).rank();
    let stacked = *node.op() == ops::STACK;
    if !stacked && operands.iter().any(|&v| program.graph.ty(v).rank() != rank) {
        return Err("its operands differ in their number of dimensions".into());
    }
    let dim = dim(int(program, n, 1)?, rank)?;
    Ok(Joined { io: Io::of(program, n, &operands, Integers::Same, false), dim, stacked })
}

/// The layout of the result that leaves most operands where they are, and those of the operands.
fn arrange(
    b: &Builder<'_>,
    y: ValueId,
    operands: &[ValueId],
    name: impl Fn(usize) -> Option<usize>,
) -> (Layout, Vec<Layout>) {
    let out = b.ty(y);
    let mut candidates = vec![Layout::plain(out)];
    if out.rank() == 4 {
        candidates.push(Layout::channels_last(out, 2));
    }
    if out.rank() == 3 {
        candidates.push(Layout::channels_last(out, 1));
        candidates.push(Layout::new(out, [Some(0), Some(2), Some(1)]));
    }
    let of = |l: &Layout, v: ValueId| {
        let ty = b.ty(v);
        l.renamed(|d| name(d).filter(|&d| !is_unit(&ty.shape[d])))
    };
    let cost = |l: &Layout| -> u64 {
        let moved = |&v: &ValueId| {
            let want = of(l, v);
            let free = b.is_constant(v) || b.layouts(v).contains(&want);
            if free { 0 } else { b.ty(v).shape.iter().map(|d| u64::from(upper_bound(b.part, d))).product() }
        };
        operands.iter().map(moved).sum()
    };
    let best = candidates.iter().min_by_key(|l| cost(l)).cloned().unwrap_or_else(|| Layout::plain(out));
    let layouts = operands.iter().map(|&v| of(&best, v)).collect();
    (best, layouts)
}

fn emit_cat(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let Joined { io, dim, stacked } = cat(b.part, n)?;
    let y = io.exit.value;
    let name = |d: usize| match stacked {
        true if d == dim => None,
        true if d > dim => Some(d - 1),
        _ => Some(d),
    };
    let (layout, layouts) = arrange(b, y, &io.inputs, name);
    // Two or more tensors make the dimension larger than 1.
    let axis = layout.position(dim).ok_or("its dimension has size 1")?;
    let mut ids = Vec::new();
    for (&v, l) in io.inputs.iter().zip(&layouts) {
        ids.push(b.get(v, l)?);
    }
    let sizes: Vec<u32> = io
        .inputs
        .iter()
        .map(|&v| if stacked { 1 } else { upper_bound(b.part, &b.ty(v).shape[dim]) })
        .collect();
    // A node takes up to five: the first five, then what they make and four more.
    let mut dims = layout.dims(b.part, b.ty(y));
    let (mut done, mut length) = (1, sizes[0]);
    let mut first = ids[0];
    while done < ids.len() {
        let next = (ids.len() - done).min(4);
        length += sizes[done..done + next].iter().sum::<u32>();
        let output = if done + next == ids.len() {
            b.define(y, &layout)?
        } else {
            dims[axis] = length;
            b.scratch(y, dims.clone())
        };
        let input = |i: usize| if i < next { ids[done + i] } else { NO_VALUE };
        let cat = Cat {
            axis: to_u32(axis as i64)?,
            input1: first,
            input2: input(0),
            input3: input(1),
            input4: input(2),
            input5: input(3),
            output,
            flags: 0,
        };
        let op = [Op::Concatenate2, Op::Concatenate3, Op::Concatenate4, Op::Concatenate5][next - 1];
        b.push(op(cat), None);
        first = output;
        done += next;
    }
    Ok(())
}

struct Padded {
    io: Io,
    /// Before and after each dimension.
    amounts: Vec<(u32, u32)>,
    value: f64,
}

fn pad(program: &Program, n: NodeId) -> Result<Padded, String> {
    check_values(program, n)?;
    let node = program.graph.node(n);
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let value = match node.op() {
        op if *op == ops::CONSTANT_PAD_ND => float(program, n, 2)?,
        _ if *node.arg(2) != Arg::from("constant") => return Err("XNNPACK pads with constants only".into()),
        _ if *node.arg(3) == Arg::None => 0.0,
        _ => float(program, n, 3)?,
    };
    let list = views::ints(node.arg(1)).ok_or("its amounts depend on symbols")?;
    if list.iter().any(|&a| a < 0) {
        return Err("XNNPACK pads, it does not crop".into());
    }
    let rank = program.graph.ty(x).rank();
    let mut amounts = vec![(0, 0); rank];
    // Pairs of the last dimension, the one before, and so on.
    for (i, pair) in list.chunks_exact(2).enumerate() {
        let d = rank.checked_sub(i + 1).ok_or("it pads more dimensions than there are")?;
        amounts[d] = (to_u32(pair[0])?, to_u32(pair[1])?);
    }
    // A quantized pad holds what the value rounds to.
    let exact = if value == 0.0 { Integers::Same } else { Integers::Never };
    Ok(Padded { io: Io::of(program, n, &[x], exact, false), amounts, value })
}

fn emit_pad(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let Padded { io, amounts, value } = pad(b.part, n)?;
    let (x, y) = (io.inputs[0], io.exit.value);
    if amounts.iter().all(|&a| a == (0, 0)) {
        let layout = b.home(x);
        let id = b.get(x, &layout)?;
        b.alias(y, layout, id);
        return Ok(());
    }
    let (layout, layouts) = arrange(b, y, &[x], Some);
    let input = b.get(x, &layouts[0])?;
    let output = b.define(y, &layout)?;
    let of = |pick: fn(&(u32, u32)) -> u32| {
        layout.axes().iter().map(|a| a.map_or(0, |d| pick(&amounts[d]))).collect()
    };
    let pad = StaticPad {
        pre_paddings: of(|a| a.0),
        post_paddings: of(|a| a.1),
        padding_value: value as f32,
        input,
        output,
        flags: 0,
    };
    b.push(Op::StaticConstantPad(pad), None);
    Ok(())
}
