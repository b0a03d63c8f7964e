//! Normalization.

use super::{Emitted, Table, int, number, out};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::Constant;
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::SOFTMAX, softmax),
    (&ops::SOFTMAX_CORE, softmax),
    (&ops::LOG_SOFTMAX, log_softmax),
    (&ops::LOG_SOFTMAX_CORE, log_softmax),
    (&ops::LAYER_NORM, |b, n| {
        let x = b.arg(n, 0)?;
        let Arg::Ints(shape) = n.arg(1) else { return Err("argument 1 is no list of integers".into()) };
        let rank = x.ty.rank() as i32;
        let axes: Vec<i32> = (rank - shape.len() as i32..rank).collect();
        let mut inputs = vec![("x", x.into()), ("axes", axes.into()), ("epsilon", epsilon(b, n, 4)?)];
        inputs.extend(fixed(b, n, 2)?.map(|v| ("gamma", v)));
        inputs.extend(fixed(b, n, 3)?.map(|v| ("beta", v)));
        Ok(vec![b.op("layer_norm", inputs, out(b, n)?)])
    }),
    (&ops::BATCH_NORM, |b, n| {
        if super::truth(n, 5)? {
            return Err("it takes the statistics of its input".into());
        }
        batch_norm(b, n, 7)
    }),
    (&ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING, |b, n| {
        let y = batch_norm(b, n, 6)?;
        // The other results are for training, and empty.
        let read = |&v: &_| !b.program.graph.value(v).uses().is_empty() || b.program.graph.is_output(v);
        if n.outputs()[1..].iter().any(read) {
            return Err("its statistics are read".into());
        }
        Ok(y)
    }),
    (&ops::GROUP_NORM, |b, n| group_norm(b, n, [1, 2, 3, 4])),
    (&ops::NATIVE_GROUP_NORM, |b, n| group_norm(b, n, [6, 1, 2, 7])),
    (&ops::INSTANCE_NORM, |b, n| {
        let x = b.arg(n, 0)?;
        if !super::truth(n, 5)? || !(3..=4).contains(&x.ty.rank()) {
            return Err(
                "Core ML normalizes instances of one or two dimensions by their own statistics".into()
            );
        }
        let mut inputs = vec![("x", x.into()), ("epsilon", epsilon(b, n, 7)?)];
        inputs.extend(fixed(b, n, 1)?.map(|v| ("gamma", v)));
        inputs.extend(fixed(b, n, 2)?.map(|v| ("beta", v)));
        Ok(vec![b.op("instance_norm", inputs, out(b, n)?)])
    }),
];

/// Operators whose small numbers matter: they are computed in single floats where half ones would make them zero.
pub static SENSITIVE: &[&ops::OpDef] = &[
    &ops::LAYER_NORM,
    &ops::BATCH_NORM,
    &ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING,
    &ops::INSTANCE_NORM,
    &ops::GROUP_NORM,
    &ops::NATIVE_GROUP_NORM,
];

/// What keeps a division from going wrong.
fn epsilon(b: &Builder<'_>, n: &Node, i: usize) -> Emitted<In> {
    Ok(Constant::float(b.float, number(n, i)? as f32).into())
}

/// A parameter, which has to be a constant.
fn fixed(b: &mut Builder<'_>, n: &Node, i: usize) -> Emitted<Option<In>> {
    if *n.arg(i) == Arg::None {
        return Ok(None);
    }
    if b.frozen(n, i).is_none() {
        return Err("Core ML takes constant parameters only".into());
    }
    b.arg(n, i).map(|v| Some(v.into()))
}

fn batch_norm(b: &mut Builder<'_>, n: &Node, eps: usize) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let ty = out(b, n)?;
    if !(2..=5).contains(&x.ty.rank()) {
        return Err("Core ML normalizes batches".into());
    }
    // Core ML wants a dimension behind the channels.
    let mut wide = ty.clone();
    let narrow = x.ty.rank() == 2;
    if narrow {
        wide.shape.push(1.into());
    }
    let x = super::shape::reshape(b, x, wide.shape.clone())?;
    let mut inputs = vec![("x", x.into()), ("epsilon", epsilon(b, n, eps)?)];
    for (name, i) in [("gamma", 1), ("beta", 2), ("mean", 3), ("variance", 4)] {
        inputs.extend(fixed(b, n, i)?.map(|v| (name, v)));
    }
    if inputs.iter().filter(|(name, _)| matches!(*name, "mean" | "variance")).count() < 2 {
        return Err("it has no running statistics".into());
    }
    let y = b.op("batch_norm", inputs, wide);
    let mut made = vec![super::shape::reshape(b, y, ty.shape)?];
    for &v in &n.outputs()[1..] {
        let ty = b.type_of(v)?;
        made.push(Var { name: "".into(), ty });
    }
    Ok(made)
}

/// Groups of channels, each as one row that is normalized; then a factor and a term for each channel. The places of the
/// number of groups, weight, bias and epsilon are given.
fn group_norm(b: &mut Builder<'_>, n: &Node, [groups, weight, bias, eps]: [usize; 4]) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let groups = int(n, groups)?;
    let read = |&v: &_| !b.program.graph.value(v).uses().is_empty() || b.program.graph.is_output(v);
    if n.outputs()[1..].iter().any(read) {
        return Err("its statistics are read".into());
    }
    let [batch, channels, rest @ ..] = &ty.shape[..] else { return Err("Core ML normalizes batches".into()) };
    let channels = channels
        .known()
        .filter(|c| groups > 0 && c % groups == 0)
        .ok_or("its channels are no multiple of its groups")?;
    let row = rest.iter().cloned().product::<SymInt>() * (channels / groups);
    let rows = super::shape::reshape(b, x, vec![batch.clone(), groups.into(), row])?;
    let rows_ty = rows.ty.clone();
    let inputs = vec![("x", rows.into()), ("axes", vec![2].into()), ("epsilon", epsilon(b, n, eps)?)];
    let y = b.op("layer_norm", inputs, rows_ty);
    let mut y = super::shape::reshape(b, y, ty.shape.clone())?;
    for (op, i) in [("mul", weight), ("add", bias)] {
        if let Some(p) = b.opt(n, i)? {
            let mut shape = vec![SymInt::from(channels)];
            shape.extend(rest.iter().map(|_| SymInt::from(1)));
            let p = super::shape::reshape(b, p, shape)?;
            y = super::binary::apply(b, op, y, p);
        }
    }
    let mut made = vec![y];
    for &v in &n.outputs()[1..] {
        made.push(Var { name: "".into(), ty: b.type_of(v)? });
    }
    Ok(made)
}

/// The input of a softmax, in the type of the result, and its dimension.
fn operand(b: &mut Builder<'_>, n: &Node) -> Emitted<(Var, i32)> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let x = b.cast(&x, ty.dtype);
    if x.ty.rank() == 0 {
        return Err("Core ML has no softmax of a single number".into());
    }
    let rank = x.ty.rank();
    let d = int(n, 1)?;
    Ok((x, ops::wrap_dim(d, rank).map_err(|e| e.message)? as i32))
}

fn softmax(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, axis) = operand(b, n)?;
    let ty = x.ty.clone();
    Ok(vec![b.op("softmax", vec![("x", x.into()), ("axis", axis.into())], ty)])
}

/// `x − log Σ exp x`, which does not overflow.
fn log_softmax(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, axis) = operand(b, n)?;
    let mut ty = x.ty.clone();
    ty.shape[axis as usize] = 1.into();
    let inputs = vec![("x", (&x).into()), ("axes", vec![axis].into()), ("keep_dims", true.into())];
    let sum = b.op("reduce_log_sum_exp", inputs, ty);
    Ok(vec![super::binary::apply(b, "sub", x, sum)])
}
