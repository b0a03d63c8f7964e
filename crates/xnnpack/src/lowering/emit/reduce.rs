//! Means and maxima over one or two dimensions, as pools over an image made of them.

use super::{Builder, Emit, Integers, Io, Row, check_shape, check_values, dim, flag, tensor, to_u32};
use crate::lowering::layout::{Axis, Layout, is_unit};
use crate::subgraph::{FLAG_KEEP_DIMS, MAX_DIMS, Op, Pool2d, Unary};
use lowbit_core::ir::{Arg, NodeId, Program, TensorType};
use lowbit_core::ops::{self, views};

pub static ROWS: &[Row] = &[
    Row { ops: &[&ops::MEAN_DIM], take: |p, n| Ok(mean(p, n)?.io.along), emit: emit_mean },
    Row { ops: &[&ops::AMAX, &ops::MAX_DIM], take: |p, n| Ok(maximum(p, n)?.io.along), emit: emit_maximum },
];

struct Reduced {
    io: Io,
    /// The dimensions that go, in order.
    dims: Vec<usize>,
    keep: bool,
}

/// The dimensions of argument 1 that hold data.
fn dims(program: &Program, n: NodeId) -> Result<Vec<usize>, String> {
    let node = program.graph.node(n);
    let ty = program.graph.ty(tensor(program, n, 0)?);
    let list = match node.arg(1) {
        Arg::None => vec![],
        Arg::Int(d) => vec![d.known().ok_or("its dimension depends on a symbol")?],
        arg => views::ints(arg).ok_or("its dimensions depend on symbols")?,
    };
    let mut out: Vec<usize> = list.into_iter().map(|d| dim(d, ty.rank())).collect::<Result<_, _>>()?;
    if out.is_empty() {
        out = (0..ty.rank()).collect();
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// `[rest …, reduced, reduced, last]`: the image that is pooled to one pixel.
fn image(ty: &TensorType, dims: &[usize]) -> Result<Vec<Axis>, String> {
    let solid: Vec<usize> = dims.iter().copied().filter(|&d| !is_unit(&ty.shape[d])).collect();
    if solid.len() > 2 {
        return Err(format!("it reduces {} dimensions, XNNPACK reduces two at a time", solid.len()));
    }
    let rest: Vec<usize> = (0..ty.rank()).filter(|d| !dims.contains(d)).collect();
    // What follows the last reduced dimension stays innermost; nothing does when that is the last one.
    let (outer, last): (&[usize], Axis) = match rest.split_last() {
        Some((&last, outer)) if solid.iter().all(|&d| d < last) => (outer, Some(last)),
        _ => (&rest, None),
    };
    let mut axes: Vec<Axis> = outer.iter().map(|&d| Some(d)).collect();
    axes.extend(std::iter::repeat_n(None, 2 - solid.len()));
    axes.extend(solid.into_iter().map(Some));
    axes.push(last);
    if axes.len() < 4 {
        axes.splice(0..0, std::iter::repeat_n(None, 4 - axes.len()));
    }
    if axes.len() > MAX_DIMS {
        return Err(format!("{ty} has too many dimensions for this"));
    }
    Ok(axes)
}

/// The image's axes after pooling, by the names that dimensions have in the result.
fn pooled(ty: &TensorType, axes: &[Axis], r: &Reduced) -> Layout {
    let name = |d: usize| {
        if r.dims.contains(&d) {
            return None;
        }
        Some(if r.keep { d } else { d - r.dims.iter().filter(|&&gone| gone < d).count() })
    };
    Layout::new(ty, axes.iter().map(|a| a.and_then(name)))
}

fn mean(program: &Program, n: NodeId) -> Result<Reduced, String> {
    check_values(program, n)?;
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let dims = dims(program, n)?;
    image(program.graph.ty(x), &dims)?;
    let io = Io::of(program, n, &[x], Integers::If(|_, out| out.bounds().is_none()), false);
    Ok(Reduced { io, dims, keep: flag(program, n, 2) })
}

fn emit_mean(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let r = mean(b.part, n)?;
    let (x, y) = (r.io.inputs[0], r.io.exit.value);
    let axes = image(b.ty(x), &r.dims)?;
    let input = b.get(x, &Layout::new(b.ty(x), axes.iter().copied()))?;
    let output = b.define(y, &pooled(b.ty(y), &axes, &r))?;
    b.push(Op::GlobalAvgPooling2d(Unary { input, output, flags: FLAG_KEEP_DIMS }), None);
    Ok(())
}

fn maximum(program: &Program, n: NodeId) -> Result<Reduced, String> {
    let g = &program.graph;
    let node = g.node(n);
    let x = tensor(program, n, 0)?;
    if *node.op() == ops::MAX_DIM {
        if node.outputs()[1..].iter().any(|&v| !g.value(v).uses().is_empty() || g.is_output(v)) {
            return Err("XNNPACK gives no positions of maxima".into());
        }
        check_shape(program, x)?;
        check_shape(program, node.output())?;
        if !matches!(g.ty(x).dtype, lowbit_core::DType::F32 | lowbit_core::DType::F16) {
            return Err(format!("it is over {}; XNNPACK computes with f32 and f16", g.ty(x).dtype));
        }
    } else {
        check_values(program, n)?;
    }
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let dims = dims(program, n)?;
    let ty = g.ty(x);
    if dims.iter().any(|&d| ty.shape[d].known().is_none()) {
        return Err("the size of what it reduces depends on symbols".into());
    }
    if image(ty, &dims)?.len() != 4 {
        return Err(format!("{ty} has too many dimensions for a pool"));
    }
    let io = Io::of(program, n, &[x], Integers::Same, false);
    Ok(Reduced { io, dims, keep: flag(program, n, 2) })
}

fn emit_maximum(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let r = maximum(b.part, n)?;
    let (x, y) = (r.io.inputs[0], r.io.exit.value);
    let axes = image(b.ty(x), &r.dims)?;
    let layout = Layout::new(b.ty(x), axes.iter().copied());
    let input = b.get(x, &layout)?;
    let size = |i: usize| layout.axes()[i].map_or(Ok(1), |d| to_u32(b.ty(x).shape[d].known().unwrap_or(0)));
    let (height, width) = (size(1)?, size(2)?);
    let result = pooled(b.ty(y), &axes, &r);
    if (height, width) == (1, 1) {
        b.alias(y, result, input);
        return Ok(());
    }
    let output = b.define(y, &result)?;
    let pool = Pool2d {
        pooling_height: height,
        pooling_width: width,
        stride_height: height,
        stride_width: width,
        dilation_height: 1,
        dilation_width: 1,
        input,
        output,
        ..Pool2d::default()
    };
    b.push(Op::MaxPooling2d(pool), None);
    Ok(())
}
