//! Quantize and dequantize nodes that no operator absorbs: conversions.

use super::{Builder, Emit, Row, check_shape, tensor};
use crate::lowering::quant::qparams;
use crate::subgraph::{Clamp, Op, Unary};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops;

pub static ROWS: &[Row] = &[
    Row { ops: &[&ops::QUANTIZE_PER_TENSOR], take, emit: quantize },
    // Made when its result is asked for, in the layout that is asked for.
    Row { ops: &[&ops::DEQUANTIZE_PER_TENSOR], take, emit: |_, _| Ok(()) },
    Row {
        ops: &[&ops::DEQUANTIZE_PER_CHANNEL],
        take: |_, _| {
            Err("XNNPACK takes a scale a channel for weights of linear layers and convolutions only".into())
        },
        emit: |_, _| Ok(()),
    },
    Row {
        ops: &[
            &ops::CHOOSE_QPARAMS,
            &ops::QUANTIZE_PER_TENSOR_TENSOR,
            &ops::DEQUANTIZE_PER_TENSOR_TENSOR,
            &ops::CHOOSE_QPARAMS_AFFINE,
            &ops::QUANTIZE_AFFINE,
        ],
        take: |_, _| Err("XNNPACK quantizes while running for linear layers and convolutions only".into()),
        emit: |_, _| Ok(()),
    },
    Row {
        ops: &[&ops::DEQUANTIZE_AFFINE, &ops::DEQUANTIZE_PER_CHANNEL_GROUP],
        take: |_, _| Err("XNNPACK takes scales of groups for weights of linear layers only".into()),
        emit: |_, _| Ok(()),
    },
];

fn take(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    let g = &program.graph;
    let node = g.node(n);
    qparams(node)?;
    for v in [tensor(program, n, 0)?, node.output()] {
        if !matches!(g.ty(v).dtype, DType::F32 | DType::F16 | DType::I8) {
            return Err(format!("%{} is {}; XNNPACK converts f32 and f16", g.value(v).name, g.ty(v).dtype));
        }
        if program.frozen(v).is_none() {
            check_shape(program, v)?;
        }
    }
    Ok(Vec::new())
}

fn quantize(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let mut input = b.get(x, &layout)?;
    // The conversion cuts off at −128 and 127; a narrower range has to be cut off before.
    if let Some(Clamp { min, max }) = qparams(b.part.graph.node(n))?.bounds() {
        let clamped = b.scratch(x, layout.dims(b.part, b.ty(x)));
        b.push(Op::Clamp(Unary { input, output: clamped, flags: 0 }), Some(Clamp { min, max }));
        input = clamped;
    }
    let output = b.define(y, &layout)?;
    b.push(Op::Convert(Unary { input, output, flags: 0 }), None);
    Ok(())
}
