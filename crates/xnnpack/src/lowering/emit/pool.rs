//! Pools over images, which have channels last here.

use super::{Builder, Emit, Integers, Io, Row, check_values, flag, int, ints, tensor, to_u32};
use crate::lowering::layout::Layout;
use crate::subgraph::{FLAG_KEEP_DIMS, Op, Pool2d, Unary};
use lowbit_core::ir::{Arg, NodeId, Program};
use lowbit_core::ops::{self, OpDef};

pub static ROWS: &[Row] = &[
    Row {
        ops: &[&ops::MAX_POOL1D, &ops::MAX_POOL2D, &ops::MAX_POOL2D_WITH_INDICES],
        take: |p, n| Ok(max(p, n)?.io.along),
        emit: |b, n| {
            let plan = max(b.part, n)?;
            emit(b, plan, Op::MaxPooling2d)
        },
    },
    Row {
        ops: &[&ops::AVG_POOL1D, &ops::AVG_POOL2D],
        take: |p, n| Ok(avg(p, n)?.io.along),
        emit: |b, n| {
            let plan = avg(b.part, n)?;
            emit(b, plan, Op::AvgPooling2d)
        },
    },
    Row {
        ops: &[&ops::ADAPTIVE_AVG_POOL1D, &ops::ADAPTIVE_AVG_POOL2D, &ops::ADAPTIVE_AVG_POOL2D_CORE],
        take: |p, n| adaptive(p, n).map(|a| a.io().along.clone()),
        emit: emit_adaptive,
    },
];

/// A window that moves over an image; pairs are `[height, width]`, and the height of a pool over one dimension is 1.
struct Plan {
    io: Io,
    spatial: usize,
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    /// Top, right, bottom, left.
    padding: [i64; 4],
}

fn spatial(op: &OpDef) -> usize {
    if [&ops::MAX_POOL1D, &ops::AVG_POOL1D, &ops::ADAPTIVE_AVG_POOL1D].contains(&op) { 1 } else { 2 }
}

fn pair(list: &[i64], missing: i64) -> [i64; 2] {
    match *list {
        [w] => [missing, w],
        [h, w, ..] => [h, w],
        [] => [missing; 2],
    }
}

/// The window of `n`; arguments are kernel, stride, padding and, if `dilated`, dilation. With `ceil`, the last window may
/// reach past the end: padding makes up for it.
fn window(program: &Program, n: NodeId, io: Io, dilated: bool, ceil: bool) -> Result<Plan, String> {
    let g = &program.graph;
    let spatial = spatial(g.node(n).op());
    let kernel = ints(program, n, 1, spatial, &[])?;
    if kernel.len() != spatial {
        return Err("its kernel size is missing".into());
    }
    // No stride means the kernel's.
    let stride = ints(program, n, 2, spatial, &kernel)?;
    let padding = ints(program, n, 3, spatial, &vec![0; spatial])?;
    let dilation = if dilated { ints(program, n, 4, spatial, &vec![1; spatial])? } else { vec![1; spatial] };
    let (kernel, stride, dilation) = (pair(&kernel, 1), pair(&stride, 1), pair(&dilation, 1));
    let [top, left] = pair(&padding, 0);
    let mut sides = [top, left, top, left];
    if (0..2).any(|i| stride[i] > kernel[i]) {
        return Err(format!(
            "its stride {stride:?} is larger than its kernel {kernel:?}, which XNNPACK does not take"
        ));
    }
    if ceil {
        let x = g.ty(tensor(program, n, 0)?);
        let y = g.ty(g.node(n).output());
        for i in 0..spatial {
            let (d, k) = (x.rank() - 1 - i, 1 - i);
            let (Some(size), Some(out)) = (x.shape[d].known(), y.shape[d].known()) else {
                return Err("rounding up depends on symbols".into());
            };
            let reach = (out - 1) * stride[k] + dilation[k] * (kernel[k] - 1) + 1;
            let end = if k == 0 { 2 } else { 1 };
            sides[end] = (reach - size - sides[if k == 0 { 0 } else { 3 }]).max(sides[end]);
        }
    }
    Ok(Plan { io, spatial, kernel, stride, dilation, padding: sides })
}

fn max(program: &Program, n: NodeId) -> Result<Plan, String> {
    let g = &program.graph;
    let node = g.node(n);
    if node.outputs()[1..].iter().any(|&v| !g.value(v).uses().is_empty() || g.is_output(v)) {
        return Err("XNNPACK gives no positions of maxima".into());
    }
    let x = tensor(program, n, 0)?;
    if node.outputs().len() == 1 {
        check_values(program, n)?;
    } else {
        super::check_shape(program, x)?;
        if !g.ty(x).dtype.is_float() {
            return Err(format!("it is over {}", g.ty(x).dtype));
        }
    }
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let io = Io::of(program, n, &[x], Integers::Same, false);
    window(program, n, io, true, flag(program, n, 5))
}

/// `avg_pool(input, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)`
fn avg(program: &Program, n: NodeId) -> Result<Plan, String> {
    check_values(program, n)?;
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let io = Io::of(program, n, &[x], Integers::Never, false);
    let plan = window(program, n, io, false, flag(program, n, 4))?;
    let padded = plan.padding != [0; 4];
    if padded && flag(program, n, 5) && ints(program, n, 3, 2, &[0, 0])?.iter().any(|&p| p != 0) {
        return Err("XNNPACK does not count padding in averages".into());
    }
    if *program.graph.node(n).arg(6) != Arg::None {
        let divisor = int(program, n, 6)?;
        if padded || divisor != plan.kernel[0] * plan.kernel[1] {
            return Err(format!("XNNPACK divides by the size of the window, not by {divisor}"));
        }
    }
    Ok(plan)
}

fn emit(b: &mut Builder<'_>, p: Plan, op: fn(Pool2d) -> Op) -> Emit {
    let (x, y) = (p.io.inputs[0], p.io.exit.value);
    let layout = Layout::channels_last(b.ty(x), p.spatial);
    let input = b.get(x, &layout)?;
    if p.kernel == [1, 1] && p.stride == [1, 1] && p.padding == [0; 4] {
        b.alias(y, layout, input);
        return Ok(());
    }
    let output = b.define(y, &Layout::channels_last(b.ty(y), p.spatial))?;
    let pool = Pool2d {
        padding_top: to_u32(p.padding[0])?,
        padding_right: to_u32(p.padding[1])?,
        padding_bottom: to_u32(p.padding[2])?,
        padding_left: to_u32(p.padding[3])?,
        pooling_height: to_u32(p.kernel[0])?,
        pooling_width: to_u32(p.kernel[1])?,
        stride_height: to_u32(p.stride[0])?,
        stride_width: to_u32(p.stride[1])?,
        dilation_height: to_u32(p.dilation[0])?,
        dilation_width: to_u32(p.dilation[1])?,
        input,
        output,
        flags: 0,
    };
    b.push(op(pool), None);
    Ok(())
}

enum Adaptive {
    /// The whole image becomes one pixel.
    Global(Io, usize),
    /// Windows of equal size.
    Even(Plan),
}

impl Adaptive {
    fn io(&self) -> &Io {
        match self {
            Adaptive::Global(io, _) => io,
            Adaptive::Even(p) => &p.io,
        }
    }
}

fn adaptive(program: &Program, n: NodeId) -> Result<Adaptive, String> {
    check_values(program, n)?;
    let g = &program.graph;
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let spatial = spatial(g.node(n).op());
    let (from, to) = (g.ty(x), g.ty(g.node(n).output()));
    let first = from.rank() - spatial;
    if to.shape[first..].iter().all(|d| d.known() == Some(1)) {
        let io = Io::of(program, n, &[x], Integers::If(|_, out| out.bounds().is_none()), false);
        return Ok(Adaptive::Global(io, spatial));
    }
    let mut kernel = Vec::new();
    for d in first..from.rank() {
        let (Some(size), Some(out)) = (from.shape[d].known(), to.shape[d].known()) else {
            return Err("the size of its windows depends on symbols".into());
        };
        if out < 1 || size % out != 0 {
            return Err(format!("{size} is no multiple of {out}: its windows would differ in size"));
        }
        kernel.push(size / out);
    }
    let kernel = pair(&kernel, 1);
    let io = Io::of(program, n, &[x], Integers::Never, false);
    Ok(Adaptive::Even(Plan { io, spatial, kernel, stride: kernel, dilation: [1; 2], padding: [0; 4] }))
}

fn emit_adaptive(b: &mut Builder<'_>, n: NodeId) -> Emit {
    match adaptive(b.part, n)? {
        Adaptive::Even(plan) => emit(b, plan, Op::AvgPooling2d),
        Adaptive::Global(io, spatial) => {
            let (x, y) = (io.inputs[0], io.exit.value);
            let input = b.get(x, &Layout::channels_last(b.ty(x), spatial))?;
            let output = b.define(y, &Layout::channels_last(b.ty(y), spatial))?;
            b.push(Op::GlobalAvgPooling2d(Unary { input, output, flags: FLAG_KEEP_DIMS }), None);
            Ok(())
        }
    }
}
