//! Operators, one row each: the function that says it in QNN's, or why it cannot be said.
//!
//! Nothing else decides what can be expressed: a node is claimed when its function succeeds in a rehearsal and the library,
//! or the table that stands in for it, has nothing against the operators that came out.

mod activation;
mod binary;
mod conv;
mod index;
mod linear;
mod norm;
mod pool;
mod quantized;
mod reduce;
mod resize;
mod scalar;
mod shape;
mod unary;
mod weight;

use super::builder::{Builder, Emitted, Layout, Made, is_quantization};
use super::kind::Kind;
use crate::graph::{Param, TensorId};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Node, NodeId, ValueId};
use lowbit_core::ops::arguments::{dim, int, ints, number, truth, widened};
use lowbit_core::ops::{OpDef, views};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Says a node in QNN's operators: what stands for each of its results.
type Emit = fn(&mut Builder<'_>, &Node) -> Emitted<Vec<Made>>;

/// Operators of a family.
type Table = &'static [(&'static OpDef, Emit)];

static TABLES: &[Table] = &[
    activation::TABLE,
    binary::TABLE,
    conv::TABLE,
    index::TABLE,
    linear::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantized::TABLE,
    reduce::TABLE,
    resize::TABLE,
    shape::TABLE,
    unary::TABLE,
];

/// The operators that have a row.
pub fn operators() -> impl Iterator<Item = &'static OpDef> {
    TABLES.iter().flat_map(|t| t.iter().map(|(op, _)| *op))
}

/// The most dimensions of a tensor on the chip.
pub const MAX_RANK: usize = 5;

/// Says node `n`, and sets its values.
pub fn node(b: &mut Builder<'_>, n: NodeId) -> Emitted<()> {
    static BY_NAME: LazyLock<HashMap<&str, Emit>> =
        LazyLock::new(|| TABLES.iter().flat_map(|t| t.iter().map(|(op, e)| (op.name, *e))).collect());
    let program = b.program;
    let g = &program.graph;
    let node = g.node(n);
    let emit = BY_NAME.get(node.op().name).ok_or_else(|| format!("HTP has no {}", node.op().name))?;
    if !is_quantization(node) {
        check(b, node)?;
    }
    b.set_origin(n);
    let made = emit(b, node)?;
    for (&v, made) in node.outputs().iter().zip(made) {
        b.set(v, made);
    }
    Ok(())
}

/// Refuses what is too large, open, or not quantized.
fn check(b: &Builder<'_>, node: &Node) -> Emitted<()> {
    let g = &b.program.graph;
    let (mut floats, mut fixed) = (vec![], vec![]);
    let computed = node.operands().filter(|&v| b.program.frozen(v).is_none());
    let read = |v: &ValueId| !g.value(*v).uses().is_empty() || g.is_output(*v);
    for v in computed.chain(node.outputs().iter().copied().filter(read)) {
        let (ty, name) = (g.ty(v), &g.value(v).name);
        if ty.rank() > MAX_RANK {
            return Err(format!("%{name} is {ty}; HTP has at most {MAX_RANK} dimensions"));
        }
        b.shape(v)?;
        // A weight is judged by the layer that reads it.
        if weight::is_weight(b.program, v) {
            continue;
        }
        let kind = b.kind(v)?;
        if kind.is_float() {
            floats.push(name);
        } else if kind.is_fixed() {
            fixed.push(name);
        }
    }
    match (&floats[..], &fixed[..]) {
        ([f, ..], [q, ..]) => Err(format!("%{q} is quantized and %{f} is not; quantize both, or neither")),
        ([f, ..], []) if !b.settings.half() => Err(format!(
            "%{f} is not quantized; quantize it, or say option float=half to compute in half floats"
        )),
        _ => Ok(()),
    }
}

/// The layout that operators without a preference compute `node` in.
fn layout(b: &Builder<'_>, node: &Node) -> Layout {
    b.layout(&node.operands().collect::<Vec<_>>())
}

/// What the node's first result is, and its sizes in a layout.
fn out(b: &Builder<'_>, node: &Node, layout: Layout) -> Emitted<(Kind, Vec<u32>)> {
    output(b, node.output(), layout)
}

/// What a value is, and its sizes in a layout.
fn output(b: &Builder<'_>, v: ValueId, layout: Layout) -> Emitted<(Kind, Vec<u32>)> {
    let shape = b.shape(v)?;
    Ok((b.kind(v)?, layout.order(shape.len()).into_iter().map(|d| shape[d]).collect()))
}

/// An operator that computes each element from the ones at its place in these arguments.
fn elementwise(
    b: &mut Builder<'_>,
    node: &Node,
    kind: &'static str,
    args: &[usize],
    params: Vec<(&'static str, Param)>,
) -> Emitted<Vec<Made>> {
    let at = layout(b, node);
    let rank = b.program.graph.ty(node.output()).rank();
    let inputs = args
        .iter()
        .map(|&i| {
            let v = views::value(node.arg(i)).ok_or_else(|| {
                format!("argument {i} is no tensor; the quantizer makes constants of numbers")
            })?;
            b.ranked(v, at, rank)
        })
        .collect::<Emitted<Vec<TensorId>>>()?;
    let out = out(b, node, at)?;
    Ok(vec![(b.one(kind, params, inputs, out), at)])
}

/// As [`elementwise`], of bits that are truth values.
fn truths(b: &mut Builder<'_>, node: &Node, kind: &'static str, args: &[usize]) -> Emitted<Vec<Made>> {
    match b.program.graph.ty(node.output()).dtype {
        CoreType::Bool => elementwise(b, node, kind, args, vec![]),
        other => Err(format!("HTP has it for truth values, not for {other}")),
    }
}

/// Hands on a result of the same kind as its input, converted where the node's own kind is another.
fn finished(b: &mut Builder<'_>, node: &Node, t: TensorId, layout: Layout) -> Emitted<Vec<Made>> {
    let kind = b.kind(node.output())?;
    Ok(vec![(b.convert(t, &kind)?, layout)])
}

/// Sizes as the library takes them.
fn sizes(list: &[i64]) -> Emitted<Vec<u32>> {
    list.iter().map(|&n| u32::try_from(n).map_err(|_| format!("{n} is no size"))).collect()
}

/// A parameter that is a list.
fn list(values: Vec<u32>) -> Param {
    let shape = vec![values.len() as u32];
    Param::U32s(values, shape)
}

/// A parameter of pairs: before and after, for each dimension.
fn pairs(values: Vec<u32>) -> Param {
    let shape = vec![values.len() as u32 / 2, 2];
    Param::U32s(values, shape)
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
