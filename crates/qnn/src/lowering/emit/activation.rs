//! Activations.

use super::{Builder, Emitted, Made, Node, Table, dim, elementwise, layout, number, out};
use crate::graph::Param;
use crate::lowering::builder::Layout;
use crate::lowering::kind;
use lowbit_core::ops::{self, views};

pub static TABLE: Table = &[
    (&ops::RELU, clamped),
    (&ops::RELU6, clamped),
    (&ops::HARDTANH, clamped),
    (&ops::CLAMP, clamped),
    (&ops::CLAMP_MIN, clamped),
    (&ops::CLAMP_MAX, clamped),
    (&ops::GELU, |b, n| elementwise(b, n, "Gelu", &[0], vec![])),
    (&ops::HARDSIGMOID, |b, n| {
        let params = vec![
            ("operation", Param::U32(HARD_SIGMOID)),
            ("alpha", Param::F32(1.0 / 6.0)),
            ("beta", Param::F32(0.5)),
        ];
        elementwise(b, n, "ElementWiseNeuron", &[0], params)
    }),
    (&ops::ELU, |b, n| {
        if number(n, 2)? != 1.0 || number(n, 3)? != 1.0 {
            return Err("HTP's elu has no scales".into());
        }
        let params = vec![("operation", Param::U32(ELU)), ("alpha", Param::F32(number(n, 1)? as f32))];
        elementwise(b, n, "ElementWiseNeuron", &[0], params)
    }),
    (&ops::PRELU, prelu),
    (&ops::LEAKY_RELU, leaky_relu),
    (&ops::SOFTMAX, |b, n| softmax(b, n, "Softmax")),
    (&ops::SAFE_SOFTMAX, |b, n| softmax(b, n, "Softmax")),
    (&ops::LOG_SOFTMAX, |b, n| softmax(b, n, "LogSoftmax")),
];

/// Numbers of `ElementWiseNeuron`.
const ELU: u32 = 0;
const HARD_SIGMOID: u32 = 2;

/// Clamps, unless the integers of the result hold nothing else: then what makes the input has clamped already.
fn clamped(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = views::value(n.arg(0)).ok_or("argument 0 is no tensor")?;
    let bounds = kind::clamp(n).ok_or("its bounds are no plain numbers")?;
    let (from, to) = (b.kind(x)?, b.kind(n.output())?);
    if from == to && kind::within(&from, bounds) {
        let at = layout(b, n);
        return Ok(vec![(b.value(x, at)?, at)]);
    }
    match bounds {
        (0.0, f32::INFINITY) => elementwise(b, n, "Relu", &[0], vec![]),
        (low, high) => {
            let params = vec![
                ("min_value", Param::F32(low.max(f32::MIN))),
                ("max_value", Param::F32(high.min(f32::MAX))),
            ];
            elementwise(b, n, "ReluMinMax", &[0], params)
        }
    }
}

/// The slope is a constant, one for all or one a channel; the chip has channels last.
fn prelu(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let v = views::value(n.arg(1)).ok_or("argument 1 is no tensor")?;
    b.fixed_constant(v).ok_or("HTP takes a constant slope only")?;
    let x = b.arg(n, 0, Layout::Last)?;
    let slope = b.value(v, Layout::Plain)?;
    let out = out(b, n, Layout::Last)?;
    Ok(vec![(b.one("Prelu", vec![], vec![x, slope], out), Layout::Last)])
}

/// A prelu with one slope, whose integers are exact: one step is the slope.
fn leaky_relu(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let at = layout(b, n);
    let x = b.arg(n, 0, at)?;
    let slope = super::scalar::number(b, "slope", number(n, 1)? as f32, x)?;
    let out = out(b, n, at)?;
    Ok(vec![(b.one("Prelu", vec![], vec![x, slope], out), at)])
}

/// Over the last dimension, which is all that the chip has: others are turned there and back.
fn softmax(b: &mut Builder<'_>, n: &Node, kind: &'static str) -> Emitted<Vec<Made>> {
    let rank = b.program.graph.ty(n.output()).rank();
    let d = dim(n, 1, rank)?;
    let at = if rank > 2 && d == 1 { Layout::Last } else { Layout::Plain };
    let x = b.arg(n, 0, at)?;
    let last = rank.saturating_sub(1);
    let (to, dims) = out(b, n, at)?;
    let axis = at.place(d, rank);
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, last);
    let turned = b.transpose(x, &order);
    let shape = order.iter().map(|&o| dims[o]).collect();
    let params = vec![("axis", Param::U32(last as u32)), ("beta", Param::F32(1.0))];
    let y = b.one(kind, params, vec![turned], (to, shape));
    Ok(vec![(b.transpose(y, &order), at)])
}
