//! Attention as products and a softmax: XNNPACK's own node is not one that the delegate's compiler knows.

use super::linear::right_operand;
use super::{Builder, Emit, Row, flag, tensor};
use crate::lowering::layout::{Layout, upper_bound};
use crate::subgraph::{Binary, FLAG_TRANSPOSE_WEIGHTS, Op};
use lowbit_core::ir::{NodeId, Program, ValueId};
use lowbit_core::ops::{self, views};

pub static ROWS: &[Row] =
    &[Row { ops: &[&ops::SCALED_DOT_PRODUCT_ATTENTION], take: |p, n| plan(p, n).map(|_| Vec::new()), emit }];

struct Plan {
    query: ValueId,
    key: ValueId,
    value: ValueId,
    mask: Option<ValueId>,
    causal: bool,
    scale: f64,
}

/// `scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, *, scale, enable_gqa)`
fn plan(program: &Program, n: NodeId) -> Result<Plan, String> {
    super::check_values(program, n)?;
    let g = &program.graph;
    let node = g.node(n);
    let (query, key, value) = (tensor(program, n, 0)?, tensor(program, n, 1)?, tensor(program, n, 2)?);
    let mask = views::value(node.arg(3));
    for v in [query, key, value] {
        if g.ty(v).rank() < 3 || program.frozen(v).is_some() {
            return Err(format!("%{} is {}; XNNPACK takes computed batches", g.value(v).name, g.ty(v)));
        }
    }
    if g.ty(query).rank() != g.ty(key).rank() || flag(program, n, 7) {
        return Err("XNNPACK multiplies equally many heads".into());
    }
    if views::float(node.arg(4)).is_some_and(|p| p != 0.0) {
        return Err("it drops out at random".into());
    }
    let causal = flag(program, n, 5);
    let (rows, columns) = (length(program, query), length(program, key));
    if causal && (rows.is_none() || columns.is_none()) {
        return Err("its causal mask depends on symbols".into());
    }
    let depth = g.ty(query).shape.last().and_then(|d| d.known());
    let scale = match (views::float(node.arg(6)), depth) {
        (Some(s), _) => s,
        (None, Some(d)) => 1.0 / (d as f64).sqrt(),
        (None, None) => return Err("its scale depends on a symbol".into()),
    };
    Ok(Plan { query, key, value, mask, causal, scale })
}

fn length(program: &Program, v: ValueId) -> Option<i64> {
    let ty = program.graph.ty(v);
    ty.shape[ty.rank() - 2].known()
}

/// `softmax(query · scale · keyᵀ + mask) · value`
fn emit(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let p = plan(b.part, n)?;
    let y = b.part.graph.node(n).output();
    let (query, rank) = (Layout::plain(b.ty(p.query)), b.ty(p.query).rank());
    let x = b.get(p.query, &query)?;
    let scale = b.number(p.scale, y);
    let dims = query.dims(b.part, b.ty(p.query));
    let x = b.binary(Op::Multiply, x, scale, y, &dims);
    // Keys are wanted with rows and columns swapped, so as they lie.
    let key_type = b.ty(p.key);
    let (key, flags) = right_operand(b, p.key, key_type);
    let key = b.get(p.key, &key)?;
    let mut scores_dims = dims.clone();
    scores_dims[rank - 1] = upper_bound(b.part, &key_type.shape[rank - 2]);
    let scores = b.scratch(y, scores_dims.clone());
    let flags = flags ^ FLAG_TRANSPOSE_WEIGHTS;
    b.push(Op::BatchMatrixMultiply(Binary { input1: x, input2: key, output: scores, flags }), None);
    let mut x = scores;
    if let Some(mask) = p.mask {
        let mask = b.get(mask, &Layout::plain(b.ty(mask)))?;
        x = b.binary(Op::Add, x, mask, y, &scores_dims);
    }
    if p.causal {
        let (rows, columns) = (scores_dims[rank - 2], scores_dims[rank - 1]);
        let mask: Vec<f32> = (0..rows)
            .flat_map(|r| (0..columns).map(move |c| if c <= r { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        let (datatype, data) = super::super::build::float_bytes(&mask, b.ty(y).dtype);
        let mask = b.literal(datatype, vec![rows, columns], None, data);
        x = b.binary(Op::Add, x, mask, y, &scores_dims);
    }
    let x = b.unary(Op::Softmax, x, y, &scores_dims);
    let (value, flags) = right_operand(b, p.value, b.ty(p.value));
    let value = b.get(p.value, &value)?;
    let output = b.define(y, &Layout::plain(b.ty(y)))?;
    b.push(Op::BatchMatrixMultiply(Binary { input1: x, input2: value, output, flags }), None);
    Ok(())
}
