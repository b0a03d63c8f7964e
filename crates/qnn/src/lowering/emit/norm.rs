//! Normalizations.

use super::scalar::number;
use super::weight::{Weight, bias};
use super::{Builder, Emitted, Made, Node, Table, ints, list, out};
use crate::graph::{DType, Encoding, Param, TensorId};
use crate::lowering::builder::Layout;
use crate::lowering::kind::Kind;
use lowbit_core::ir::Arg;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::LAYER_NORM, |b, n| norm(b, n, "LayerNorm", 4)),
    (&ops::GROUP_NORM, group_norm),
    (&ops::RMS_NORM, |b, n| norm(b, n, "RmsNorm", 3)),
];

/// Over the last dimensions. `epsilon` is the argument of that number.
fn norm(b: &mut Builder<'_>, n: &Node, kind: &'static str, epsilon: usize) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let count = ints(n, 1)?.len();
    if count != 1 {
        return Err(format!("HTP normalizes over one dimension, not over {count}"));
    }
    let x = b.arg(n, 0, Layout::Plain)?;
    let to = out(b, n, Layout::Plain)?;
    let size = *b.get(x).dims.last().ok_or("its input has no dimensions")?;
    let eps = match n.arg(epsilon) {
        Arg::None => f64::from(f32::EPSILON),
        _ => super::number(n, epsilon)?,
    };
    let mut inputs = vec![x];
    if *n.arg(2) == Arg::None {
        let one = number(b, "gamma", 1.0, x)?;
        inputs.push(repeat(b, one, size));
    } else {
        let w = Weight::read(b, n, 2)?;
        inputs.push(w.add(b, &[0])?);
        if kind == "LayerNorm" {
            inputs.extend(bias(b, n, 3, x, &w)?);
        }
    }
    let axes = list(vec![rank as u32 - 1]);
    let params = vec![("epsilon", Param::F32(eps as f32)), ("axes", axes)];
    Ok(vec![(b.one(kind, params, inputs, to), Layout::Plain)])
}

/// Over the channels of a group and all places: `(input, num_groups, weight, bias, eps, …)`.
fn group_norm(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = b.arg(n, 0, Layout::Last)?;
    let to = out(b, n, Layout::Last)?;
    let channels = *b.get(x).dims.last().ok_or("its input has no dimensions")?;
    let groups = super::sizes(&[super::int(n, 1)?])?[0];
    let mut inputs = vec![x];
    if *n.arg(2) == Arg::None {
        let one = number(b, "gamma", 1.0, x)?;
        inputs.push(repeat(b, one, channels));
    } else {
        let w = Weight::read(b, n, 2)?;
        inputs.push(w.add(b, &[0])?);
        inputs.extend(bias(b, n, 3, x, &w)?);
    }
    if inputs.len() == 2 {
        inputs.push(no_bias(b, x, inputs[1], channels));
    }
    let params = vec![("epsilon", Param::F32(super::number(n, 4)? as f32)), ("group", Param::U32(groups))];
    Ok(vec![(b.one("GroupNorm", params, inputs, to), Layout::Last)])
}

/// Zeros as a bias, where the chip wants one.
fn no_bias(b: &mut Builder<'_>, x: TensorId, weight: TensorId, size: u32) -> TensorId {
    let (x, weight) = (b.kind_of(x), b.kind_of(weight));
    let kind = match x.scale_offset().zip(weight.scale_offset()) {
        Some(((x, _), (w, _))) => {
            Kind { dtype: DType::S32, encoding: Encoding::Tensor { scale: x * w, offset: 0, bits: None } }
        }
        None => x,
    };
    let data = vec![0u8; kind.dtype.size() * size as usize];
    b.constant("beta", kind, vec![size], data.into())
}

/// A constant of one element, so many times.
fn repeat(b: &mut Builder<'_>, t: TensorId, times: u32) -> TensorId {
    let tensor = b.get(t);
    let data: Vec<u8> = tensor.data.repeat(times as usize);
    let kind = b.kind_of(t);
    b.constant("gamma", kind, vec![times], data.into())
}
