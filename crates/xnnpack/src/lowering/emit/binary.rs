//! Operators that work element by element on two tensors, with broadcasting.

use super::{Builder, Emit, Integers, Io, Row, check_values, float, tensor};
use crate::lowering::build::float_bytes;
use crate::lowering::layout::{Layout, is_unit};
use crate::lowering::quant::QParams;
use crate::subgraph::{Binary, Op};
use lowbit_core::ir::{NodeId, Program, ValueId};
use lowbit_core::ops;

pub static ROWS: &[Row] = &[
    Row {
        ops: &[
            &ops::ADD,
            &ops::SUB,
            &ops::MUL,
            &ops::DIV,
            &ops::RSUB,
            &ops::MAXIMUM,
            &ops::MINIMUM,
            &ops::MAX_OTHER,
            &ops::MIN_OTHER,
        ],
        take: |p, n| Ok(two(p, n)?.io.along),
        emit: emit_two,
    },
    Row {
        ops: &[&ops::ADD_SCALAR, &ops::SUB_SCALAR, &ops::MUL_SCALAR, &ops::DIV_SCALAR, &ops::RSUB_SCALAR],
        take: |p, n| Ok(scalar(p, n)?.io.along),
        emit: emit_scalar,
    },
    Row { ops: &[&ops::PRELU], take: take_prelu, emit: emit_prelu },
];

type Make = fn(Binary) -> Op;

/// A node of two tensors.
struct Two {
    io: Io,
    op: Make,
    /// Whether the operands change places.
    swapped: bool,
    /// What the second operand is multiplied with before.
    alpha: f64,
}

/// Ratios of scales that the kernels' multipliers can hold.
fn add_agrees(reads: &[QParams], out: QParams) -> bool {
    reads.iter().all(|p| (2f32.powi(-10)..2f32.powi(8)).contains(&(p.scale / out.scale)))
}

fn mul_agrees(reads: &[QParams], out: QParams) -> bool {
    let product: f32 = reads.iter().map(|p| p.scale).product();
    (2f32.powi(-16)..2f32.powi(8)).contains(&(product / out.scale))
}

fn two(program: &Program, n: NodeId) -> Result<Two, String> {
    check_values(program, n)?;
    let node = program.graph.node(n);
    let operands = [tensor(program, n, 0)?, tensor(program, n, 1)?];
    let alpha = if node.op().schema().index_of("alpha").is_some() { float(program, n, 2)? } else { 1.0 };
    let (op, integers, clamps): (Make, _, _) = match node.op() {
        op if *op == ops::ADD => (Op::Add, Integers::If(add_agrees), true),
        op if *op == ops::SUB || *op == ops::RSUB => (Op::Subtract, Integers::If(add_agrees), true),
        op if *op == ops::MUL => (Op::Multiply, Integers::If(mul_agrees), true),
        op if *op == ops::DIV => (Op::Div, Integers::Never, true),
        op if *op == ops::MAXIMUM || *op == ops::MAX_OTHER => (Op::Maximum, Integers::Never, false),
        _ => (Op::Minimum, Integers::Never, false),
    };
    let integers = if alpha == 1.0 { integers } else { Integers::Never };
    // Two constants make a constant, which nobody folded; a tensor without an input has no layout either.
    if operands.iter().all(|&v| program.frozen(v).is_some()) {
        return Err("both its operands are constant".into());
    }
    let io = Io::of(program, n, &operands, integers, clamps);
    Ok(Two { io, op, swapped: *node.op() == ops::RSUB, alpha })
}

/// The layouts to work in: of the result, and of each operand so that broadcasting matches their axes.
pub fn meet(b: &Builder<'_>, result: ValueId, operands: &[ValueId]) -> (Layout, Vec<Layout>) {
    let out = b.ty(result);
    // An operand of the result's shape says how the result lies; of several layouts, the one that moves least.
    let mut candidates: Vec<Layout> = Vec::new();
    for &v in operands.iter().filter(|&&v| !b.is_constant(v) && b.ty(v).shape == out.shape) {
        for l in b.layouts(v) {
            if !candidates.contains(&l) {
                candidates.push(l);
            }
        }
    }
    if candidates.is_empty() {
        candidates.push(Layout::plain(out));
    }
    let wanted =
        |l: &Layout| -> Vec<Layout> { operands.iter().map(|&v| broadcast(b, out.rank(), l, v)).collect() };
    let cost = |l: &Layout| -> u64 {
        let moved = |(want, &v): (Layout, &ValueId)| {
            let free = b.is_constant(v) || b.layouts(v).iter().any(|have| have.broadcasts_as(&want));
            if free { 0 } else { want.dims(b.part, b.ty(v)).iter().map(|&d| u64::from(d)).product() }
        };
        wanted(l).into_iter().zip(operands).map(moved).sum()
    };
    let best = candidates.iter().min_by_key(|l| cost(l)).cloned().unwrap_or_else(|| Layout::plain(out));
    let mut layouts = wanted(&best);
    // Operands may lack leading axes of size 1, as long as one of them has all.
    for (want, &v) in layouts.iter_mut().zip(operands) {
        if let Some(have) =
            b.layouts(v).into_iter().find(|have| have.broadcasts_as(want) && have.rank() <= best.rank())
        {
            *want = have;
        }
    }
    if layouts.iter().all(|l| l.rank() < best.rank())
        && let Some(i) = operands.iter().position(|&v| !b.is_constant(v))
    {
        layouts[i] = broadcast(b, out.rank(), &best, operands[i]);
    }
    (best, layouts)
}

/// The layout in which `v` broadcasts to a result of `rank` dimensions in `layout`.
fn broadcast(b: &Builder<'_>, rank: usize, layout: &Layout, v: ValueId) -> Layout {
    let ty = b.ty(v);
    let missing = rank - ty.rank();
    layout.renamed(|d| d.checked_sub(missing).filter(|&d| !is_unit(&ty.shape[d])))
}

fn emit_two(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let Two { io, op, swapped, alpha } = two(b.part, n)?;
    let (layout, layouts) = meet(b, io.exit.value, &io.inputs);
    let mut ids = [b.get(io.inputs[0], &layouts[0])?, b.get(io.inputs[1], &layouts[1])?];
    if alpha != 1.0 {
        // The factor belongs to the operand that is added, also where operands change places.
        let i = 1 - usize::from(swapped);
        let (factor, dims) = (b.number(alpha, io.exit.value), layouts[i].dims(b.part, b.ty(io.inputs[i])));
        ids[i] = b.binary(Op::Multiply, ids[i], factor, io.exit.value, &dims);
    }
    if swapped {
        ids.swap(0, 1);
    }
    let output = b.define(io.exit.value, &layout)?;
    b.push(op(Binary { input1: ids[0], input2: ids[1], output, flags: 0 }), io.exit.clamp);
    Ok(())
}

/// A node of a tensor and a number.
struct Scalar {
    io: Io,
    op: Make,
    x: f64,
    number_first: bool,
}

fn scalar(program: &Program, n: NodeId) -> Result<Scalar, String> {
    check_values(program, n)?;
    let node = program.graph.node(n);
    let alpha = if node.op().schema().index_of("alpha").is_some() { float(program, n, 2)? } else { 1.0 };
    let x = float(program, n, 1)?;
    let (op, x, number_first): (Make, _, _) = match node.op() {
        op if *op == ops::ADD_SCALAR => (Op::Add, x * alpha, false),
        op if *op == ops::SUB_SCALAR => (Op::Subtract, x * alpha, false),
        op if *op == ops::MUL_SCALAR => (Op::Multiply, x, false),
        op if *op == ops::DIV_SCALAR => (Op::Div, x, false),
        _ if alpha != 1.0 => return Err("XNNPACK subtracts without a factor".into()),
        _ => (Op::Subtract, x, true),
    };
    let io = Io::of(program, n, &[tensor(program, n, 0)?], Integers::Never, true);
    Ok(Scalar { io, op, x, number_first })
}

fn emit_scalar(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let Scalar { io, op, x, number_first } = scalar(b.part, n)?;
    let layout = b.home(io.inputs[0]);
    let tensor = b.get(io.inputs[0], &layout)?;
    let number = b.number(x, io.exit.value);
    let (input1, input2) = if number_first { (number, tensor) } else { (tensor, number) };
    let output = b.define(io.exit.value, &layout)?;
    b.push(op(Binary { input1, input2, output, flags: 0 }), io.exit.clamp);
    Ok(())
}

fn take_prelu(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    check_values(program, n)?;
    match program.frozen(tensor(program, n, 1)?) {
        Some(_) => Ok(Vec::new()),
        None => Err("its slopes are computed, not constant".into()),
    }
}

/// One slope, or one a channel (dimension 1).
fn emit_prelu(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (x, w) = (tensor(b.part, n, 0)?, tensor(b.part, n, 1)?);
    let y = b.part.graph.node(n).output();
    let slopes = b.part.frozen(w).ok_or("its slopes are computed, not constant")?;
    let layout = b.home(x);
    let count = u32::try_from(slopes.numel()).map_err(|_| "it has too many slopes")?;
    let dims: Vec<u32> = layout.axes().iter().map(|a| if *a == Some(1) { count } else { 1 }).collect();
    if count != 1 && !dims.contains(&count) {
        return Err(format!("it has {count} slopes, its input is {}", b.ty(x)));
    }
    let floats = slopes.to_f32().into_owned();
    let (datatype, bytes) = float_bytes(&floats, b.ty(y).dtype);
    let input2 = b.literal(datatype, dims, None, bytes);
    let input1 = b.get(x, &layout)?;
    let output = b.define(y, &layout)?;
    b.push(Op::PReLU(Binary { input1, input2, output, flags: 0 }), None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::ir::text;

    #[test]
    fn operands_meet_in_the_layout_that_moves_least() {
        let part = text::parse(
            "program {
              %x : f32[2, 8, 4, 4] = input
              %y : f32[2, 8, 1, 1] = input
              %z : f32[4] = input
              %s : f32[2, 8, 4, 4] = aten.mul.Tensor(%x, %y)
              %t : f32[2, 8, 4, 4] = aten.mul.Tensor(%s, %z)
              return %t
            }",
        )
        .unwrap();
        let mut b = Builder::new(&part);
        let [x, y, z] = *part.graph.inputs() else { panic!() };
        let s = part.graph.node(part.graph.nodes().next().unwrap()).output();
        let last = Layout::channels_last(part.graph.ty(x), 2);
        let plain = Layout::plain(part.graph.ty(x));
        // Both are plain: nothing has to move.
        assert_eq!(meet(&b, s, &[x, y]).0, plain);
        // Once both exist with channels last only, the product does so as well.
        let made = b.get(x, &last).unwrap();
        let other = b.get(y, &Layout::channels_last(part.graph.ty(y), 2)).unwrap();
        b.alias(s, last.clone(), made);
        let (layout, of) = meet(&b, s, &[s, y]);
        assert_eq!((layout, of[1].clone()), (last.clone(), Layout::channels_last(part.graph.ty(y), 2)));
        let _ = other;
        // A row broadcasts over another axis then.
        let (layout, of) = meet(&b, s, &[s, z]);
        assert_eq!(layout, last);
        assert_eq!(of[1].axes(), [None, None, Some(0), None]);
    }
}
