//! Batch normalization that is not folded into a layer, and softmax.

use super::{Builder, Emit, Integers, Io, Row, check_values, dim, float, int, tensor};
use crate::lowering::build::float_bytes;
use crate::lowering::layout::Layout;
use crate::lowering::quant::exit;
use crate::subgraph::{Conv, Op, Unary};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops::{self, views};

pub static ROWS: &[Row] = &[
    Row { ops: &[&ops::BATCH_NORM], take: take_batch_norm, emit: emit_batch_norm },
    Row { ops: &[&ops::SOFTMAX, &ops::SAFE_SOFTMAX], take: take_softmax, emit: emit_softmax },
];

/// `batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)`
fn take_batch_norm(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    check_values(program, n)?;
    factors(program, n)?;
    Ok(exit(program, n, false, true).activation.into_iter().collect())
}

/// What each channel is multiplied with, and what is added then.
fn factors(program: &Program, n: NodeId) -> Result<(Vec<f32>, Vec<f32>), String> {
    let node = program.graph.node(n);
    let x = program.graph.ty(tensor(program, n, 0)?);
    if !(2..=4).contains(&x.rank()) {
        return Err(format!("XNNPACK normalizes images, this is {x}"));
    }
    if super::flag(program, n, 5) {
        return Err("it takes the statistics of each batch".into());
    }
    let channels =
        x.shape[1].known().and_then(|c| usize::try_from(c).ok()).ok_or("its channels depend on a symbol")?;
    let list = |i: usize, missing: f64| -> Result<Vec<f64>, String> {
        match node.arg(i) {
            Arg::None => Ok(vec![missing; channels]),
            arg => {
                let t = views::value(arg).and_then(|v| program.frozen(v));
                Ok(t.ok_or("its parameters are computed, not constant")?.to_f64())
            }
        }
    };
    let (gamma, beta, mean, var) = (list(1, 1.0)?, list(2, 0.0)?, list(3, 0.0)?, list(4, 1.0)?);
    if *node.arg(3) == Arg::None || *node.arg(4) == Arg::None {
        return Err("it has no running statistics".into());
    }
    let eps = float(program, n, 7)?;
    let scale: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + eps).sqrt()).collect();
    let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| (b - m * s) as f32).collect();
    Ok((scale.into_iter().map(|s| s as f32).collect(), shift))
}

/// A depthwise convolution with a kernel of one pixel.
fn emit_batch_norm(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (scale, shift) = factors(b.part, n)?;
    let x = tensor(b.part, n, 0)?;
    let exit = exit(b.part, n, false, true);
    let spatial = b.ty(x).rank() - 2;
    let layout = Layout::channels_last(b.ty(x), spatial);
    let input = b.get(x, &layout)?;
    let channels = u32::try_from(scale.len()).map_err(|_| "it has too many channels")?;
    let (datatype, data) = float_bytes(&scale, DType::F32);
    let filter = b.literal(datatype, vec![1, 1, 1, channels], None, data);
    let (datatype, data) = float_bytes(&shift, DType::F32);
    let bias = b.literal(datatype, vec![channels], None, data);
    let output = b.define(exit.value, &layout)?;
    let conv = Conv {
        kernel_height: 1,
        kernel_width: 1,
        subsampling_height: 1,
        subsampling_width: 1,
        dilation_height: 1,
        dilation_width: 1,
        group_input_channels: 1,
        group_output_channels: 1,
        groups: channels,
        input,
        filter,
        bias,
        output,
        ..Conv::default()
    };
    b.push(Op::DepthwiseConv2d(conv), exit.clamp);
    Ok(())
}

struct Softmax {
    x: ValueId,
    y: ValueId,
    dim: usize,
}

fn softmax(program: &Program, n: NodeId) -> Result<Softmax, String> {
    check_values(program, n)?;
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let io = Io::of(program, n, &[x], Integers::Never, false);
    let dim = dim(int(program, n, 1)?, program.graph.ty(x).rank())?;
    Ok(Softmax { x, y: io.exit.value, dim })
}

fn take_softmax(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    if *program.graph.node(n).op() == ops::SAFE_SOFTMAX {
        return Err("XNNPACK's softmax of a row of minus infinities is no row of zeros".into());
    }
    softmax(program, n).map(|_| Vec::new())
}

/// XNNPACK's is over the innermost axis.
fn emit_softmax(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let s = softmax(b.part, n)?;
    let ty = b.ty(s.x);
    let innermost = |l: &Layout| l.position(s.dim).is_some_and(|p| p + 1 == l.rank());
    let layout = b.layouts(s.x).into_iter().find(innermost).unwrap_or_else(|| {
        let others = (0..ty.rank()).filter(|&d| d != s.dim);
        Layout::new(ty, others.chain([s.dim]).map(Some))
    });
    let input = b.get(s.x, &layout)?;
    let output = b.define(s.y, &layout)?;
    b.push(Op::Softmax(Unary { input, output, flags: 0 }), None);
    Ok(())
}
