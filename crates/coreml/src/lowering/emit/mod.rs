//! Operators, one row each: the function that says it in MIL, or why it cannot be said.
//!
//! Nothing else decides what Core ML takes: a node is claimed when its function succeeds in a rehearsal, where values have
//! types and no elements.

mod attention;
mod binary;
mod conv;
mod create;
mod index;
mod linear;
mod norm;
mod pool;
mod quantized;
mod reduce;
mod resize;
mod rnn;
mod shape;
mod sizes;
pub(super) mod sparse;
mod unary;
mod weight;

use super::builder::{Builder, Emitted, Var};
use crate::mil::{DType, Type};
use lowbit_core::ir::{Node, NodeId};
use lowbit_core::ops::arguments::{dim, int, ints, number, truth, widened};
use lowbit_core::ops::{OpDef, views};
use lowbit_core::symint::SymInt;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Says a node in MIL: a value for each of its results.
type Emit = fn(&mut Builder<'_>, &Node) -> Emitted<Vec<Var>>;

/// Operators of a family.
type Table = &'static [(&'static OpDef, Emit)];

static TABLES: &[Table] = &[
    attention::TABLE,
    binary::TABLE,
    conv::TABLE,
    create::TABLE,
    index::TABLE,
    linear::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantized::TABLE,
    reduce::TABLE,
    resize::TABLE,
    rnn::TABLE,
    shape::TABLE,
    unary::TABLE,
];

/// The operators that have a row.
#[cfg(test)]
fn operators() -> impl Iterator<Item = &'static OpDef> {
    TABLES.iter().flat_map(|t| t.iter().map(|(op, _)| *op))
}

/// The values that a node makes.
pub fn node(b: &mut Builder<'_>, n: NodeId) -> Emitted<Vec<Var>> {
    static BY_NAME: LazyLock<HashMap<&str, Emit>> =
        LazyLock::new(|| TABLES.iter().flat_map(|t| t.iter().map(|(op, e)| (op.name, *e))).collect());
    let (program, normal) = (b.program, b.settings.float());
    let g = &program.graph;
    let node = g.node(n);
    let emit = BY_NAME.get(node.op().name).ok_or_else(|| format!("Core ML has no {}", node.op().name))?;
    // Tables of weights have two dimensions more than the weights.
    let computed = node.operands().filter(|&v| program.frozen(v).is_none());
    for v in computed.chain(node.outputs().iter().copied()) {
        let ty = g.ty(v);
        if ty.rank() > super::MAX_RANK {
            return Err(format!(
                "%{} is {ty}; Core ML has at most {} dimensions",
                g.value(v).name,
                super::MAX_RANK
            ));
        }
    }
    // Numbers that half floats do not have (the masks of attention, say) are computed with in single floats.
    let numbers = node.op().traits.elementwise || norm::SENSITIVE.contains(&node.op());
    let wide = normal == DType::F16 && numbers && beyond_half(b, node);
    if wide {
        b.float = DType::F32;
    }
    let made = emit(b, node);
    b.float = normal;
    let made = made?;
    Ok(if wide { made.into_iter().map(|v| narrowed(b, v)).collect() } else { made })
}

/// Whether a node reads a constant, or a number, that half floats do not have.
fn beyond_half(b: &Builder<'_>, node: &Node) -> bool {
    let large = |x: f64| {
        x.is_finite() && (x.abs() > 65504.0 || x != 0.0 && half::f16::from_f64(x) == half::f16::ZERO)
    };
    let beyond = |t: &lowbit_core::Tensor| t.to_f32().iter().any(|x| x.is_finite() && x.abs() > 65504.0);
    let numbers = node.args().iter().filter_map(views::float);
    let is_float = b.program.graph.ty(node.output()).dtype.is_float();
    let constants = node.operands().filter_map(|v| b.program.frozen(v)).filter(|t| t.dtype().is_float());
    is_float && (numbers.into_iter().any(large) || constants.into_iter().any(beyond))
}

/// A single float as a half one; what is too large becomes the largest, so that a row of a mask is not all infinite.
fn narrowed(b: &mut Builder<'_>, x: Var) -> Var {
    if x.ty.dtype != DType::F32 {
        return x;
    }
    let limit = |x: f32| crate::mil::Constant::float(DType::F32, x).into();
    let inputs = vec![("x", (&x).into()), ("alpha", limit(-65504.0)), ("beta", limit(65504.0))];
    let x = b.op("clip", inputs, x.ty.clone());
    b.cast(&x, DType::F16)
}

/// The type of a node's first result.
fn out(b: &Builder<'_>, node: &Node) -> Emitted<Type> {
    b.type_of(node.output())
}

/// Integers as Core ML has them.
fn narrow(list: &[i64]) -> Emitted<Vec<i32>> {
    list.iter().map(|&n| i32::try_from(n).map_err(|_| format!("{n} does not fit 32 bits"))).collect()
}

/// The shape that two shapes broadcast to.
fn broadcast(a: &[SymInt], b: &[SymInt]) -> Vec<SymInt> {
    let rank = a.len().max(b.len());
    let one = SymInt::from(1);
    let at = |s: &[SymInt], i: usize| (i + s.len()).checked_sub(rank).map_or(one.clone(), |j| s[j].clone());
    (0..rank).map(|i| if at(a, i) == one { at(b, i) } else { at(a, i) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_one_row() {
        let mut names: Vec<&str> = operators().map(|o| o.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
    }
}
