//! Products.

use super::binary::apply;
use super::unary::scaled;
use super::{Emitted, Table, number, out};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::Type;
use lowbit_core::ir::Node;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::LINEAR, linear),
    (&ops::MATMUL, matmul),
    (&ops::BMM, matmul),
    (&ops::MM, matmul),
    (&ops::ADDMM, |b, n| {
        let ty = out(b, n)?;
        let (x, y, add) = (b.arg(n, 1)?, b.arg(n, 2)?, b.arg(n, 0)?);
        let made = product(b, x, y, ty);
        let made = scaled(b, made, number(n, 4)?)?;
        let add = scaled(b, add, number(n, 3)?)?;
        Ok(vec![apply(b, "add", made, add)])
    }),
];

/// Whether an argument holds what the model carries: a constant, or one that is dequantized.
pub(super) fn is_constant(b: &Builder<'_>, n: &Node, i: usize) -> bool {
    let g = &b.program.graph;
    let frozen = |v| b.program.frozen(v).is_some();
    // Indices into tables are widened first, where that was not folded.
    let widened = |v| g.producer(v).map(|p| g.node(p)).filter(|p| *p.op() == ops::TO_COPY);
    let fixed = |v| frozen(v) || widened(v).is_some_and(|p| p.operands().all(frozen));
    lowbit_core::ops::views::value(n.arg(i)).is_some_and(|v| {
        let producer = g.producer(v).map(|p| g.node(p));
        frozen(v)
            || producer.is_some_and(|p| super::quantized::is_dequantize(p.op()) && p.operands().all(fixed))
    })
}

/// Core ML's own layer where the weight is a constant, a product otherwise.
fn linear(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, w, bias) = (b.arg(n, 0)?, b.arg(n, 1)?, b.opt(n, 2)?);
    let ty = out(b, n)?;
    let layer = is_constant(b, n, 1) && (bias.is_none() || b.frozen(n, 2).is_some());
    if layer && w.ty.rank() == 2 && x.ty.rank() > 0 {
        let mut inputs = vec![("x", x.into()), ("weight", w.into())];
        inputs.extend(bias.map(|v| ("bias", In::Var(v))));
        return Ok(vec![b.op("linear", inputs, ty)]);
    }
    if w.ty.rank() != 2 || x.ty.rank() < 2 {
        return Err("Core ML multiplies matrices only".into());
    }
    let inputs =
        vec![("x", x.into()), ("y", w.into()), ("transpose_x", false.into()), ("transpose_y", true.into())];
    let y = b.op("matmul", inputs, ty);
    Ok(vec![match bias {
        Some(v) => apply(b, "add", y, v),
        None => y,
    }])
}

fn matmul(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, y) = (b.arg(n, 0)?, b.arg(n, 1)?);
    if x.ty.rank() < 2 || y.ty.rank() < 2 {
        return Err("Core ML multiplies matrices only".into());
    }
    let ty = out(b, n)?;
    Ok(vec![product(b, x, y, ty)])
}

fn product(b: &mut Builder<'_>, x: Var, y: Var, ty: Type) -> Var {
    let inputs =
        vec![("x", x.into()), ("y", y.into()), ("transpose_x", false.into()), ("transpose_y", false.into())];
    b.op("matmul", inputs, ty)
}
