//! Convolutions.

use super::linear::is_constant;
use super::shape::reshape;
use super::{Emitted, Table, int, narrow, out, widened};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::CONV1D, conv),
    (&ops::CONV2D, conv),
    (&ops::CONV3D, conv),
    (&ops::CONV1D_PADDING, conv),
    (&ops::CONV2D_PADDING, conv),
    (&ops::CONV3D_PADDING, conv),
    (&ops::CONV_TRANSPOSE1D, transposed),
    (&ops::CONV_TRANSPOSE2D, transposed),
    (&ops::CONV_TRANSPOSE3D, transposed),
];

/// Input, weight and bias, and the number of dimensions that are convolved over. Biases are constants, and so are weights.
fn operands(b: &mut Builder<'_>, n: &Node) -> Emitted<(Var, Var, Option<Var>, usize)> {
    let (x, w, bias) = (b.arg(n, 0)?, b.arg(n, 1)?, b.opt(n, 2)?);
    if !is_constant(b, n, 1) || bias.is_some() && b.frozen(n, 2).is_none() {
        return Err("Core ML takes constant weights and biases only".into());
    }
    let dims = w.ty.rank() - 2;
    if x.ty.rank() != dims + 2 && x.ty.rank() != dims + 1 {
        return Err(format!("it convolves {dims} dimensions of {:?}", x.ty));
    }
    Ok((x, w, bias, dims))
}

/// Applies an operator for batches to what may be a single picture.
pub(super) fn batched(
    b: &mut Builder<'_>,
    x: Var,
    rank: usize,
    ty: Type,
    apply: impl FnOnce(&mut Builder<'_>, Var, Type) -> Var,
) -> Emitted<Var> {
    if x.ty.rank() == rank {
        return Ok(apply(b, x, ty));
    }
    let batch = |shape: &[_]| [&[1.into()][..], shape].concat();
    let shape = batch(&x.ty.shape);
    let x = reshape(b, x, shape)?;
    let y = apply(b, x, Type { dtype: ty.dtype, shape: batch(&ty.shape) });
    reshape(b, y, ty.shape)
}

fn conv(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, w, bias, dims) = operands(b, n)?;
    let (stride, dilation) = (widened(n, 3, dims, &[])?, widened(n, 5, dims, &[])?);
    // "same" puts the odd one at the end in PyTorch, and so do Core ML's pads.
    let pads = match n.arg(4) {
        Arg::Str(s) if &**s == "same" => {
            let kernel = w.ty.shape[2..]
                .iter()
                .map(|k| k.known())
                .collect::<Option<Vec<_>>>()
                .ok_or("its kernel is open")?;
            let total = (0..dims).map(|i| dilation[i] * (kernel[i] - 1));
            total.flat_map(|t| [t / 2, t - t / 2]).collect()
        }
        Arg::Str(_) => vec![0; 2 * dims],
        _ => widened(n, 4, dims, &[])?.iter().flat_map(|&p| [p, p]).collect(),
    };
    let groups = int(n, 6)? as i32;
    let (stride, pads, dilation) = (narrow(&stride)?, narrow(&pads)?, narrow(&dilation)?);
    batched(b, x, dims + 2, out(b, n)?, |b, x, ty| {
        let mut inputs: Vec<(&str, In)> = vec![
            ("x", x.into()),
            ("weight", w.into()),
            ("strides", stride.into()),
            ("pad_type", "custom".into()),
            ("pad", pads.into()),
            ("dilations", dilation.into()),
            ("groups", groups.into()),
        ];
        inputs.extend(bias.map(|v| ("bias", In::Var(v))));
        b.op("conv", inputs, ty)
    })
    .map(|y| vec![y])
}

/// What PyTorch adds at the end of the result (`output_padding`) is cut there less; what goes beyond is zero before the bias.
fn transposed(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, w, bias, dims) = operands(b, n)?;
    let [stride, pads, extra] =
        [widened(n, 3, dims, &[])?, widened(n, 4, dims, &[])?, widened(n, 5, dims, &[])?];
    let dilation = widened(n, 7, dims, &[])?;
    let around: Vec<i64> = pads.iter().zip(&extra).flat_map(|(&p, &e)| [p, (p - e).max(0)]).collect();
    let missing: Vec<i64> = pads.iter().zip(&extra).map(|(&p, &e)| (e - p).max(0)).collect();
    let whole = missing.iter().all(|&m| m == 0);
    let groups = int(n, 6)? as i32;
    let (stride, around, dilation) = (narrow(&stride)?, narrow(&around)?, narrow(&dilation)?);
    let ends = narrow(&missing)?;
    batched(b, x, dims + 2, out(b, n)?, |b, x, ty| {
        let mut made = ty.clone();
        for i in 0..dims {
            made.shape[2 + i] = made.shape[2 + i].clone() - missing[i];
        }
        let mut inputs: Vec<(&str, In)> = vec![
            ("x", x.into()),
            ("weight", w.into()),
            ("strides", stride.into()),
            ("pad_type", "custom".into()),
            ("pad", around.into()),
            ("dilations", dilation.into()),
            ("groups", groups.into()),
        ];
        if whole {
            inputs.extend(bias.map(|v| ("bias", In::Var(v))));
            return b.op("conv_transpose", inputs, ty);
        }
        let y = b.op("conv_transpose", inputs, made);
        let list: Vec<i32> = [0; 4].into_iter().chain(ends.iter().flat_map(|&e| [0, e])).collect();
        let zero = Constant::float(ty.dtype, 0.0);
        let inputs = vec![
            ("x", y.into()),
            ("pad", list.into()),
            ("mode", "constant".into()),
            ("constant_val", zero.into()),
        ];
        let y = b.op("pad", inputs, ty);
        let Some(bias) = bias else { return y };
        let axes: Vec<i32> = (1..=dims as i32).collect();
        let mut wide = bias.ty.clone();
        wide.shape.extend((0..dims).map(|_| 1.into()));
        let bias = b.op("expand_dims", vec![("x", bias.into()), ("axes", axes.into())], wide);
        super::binary::apply(b, "add", y, bias)
    })
    .map(|y| vec![y])
}
