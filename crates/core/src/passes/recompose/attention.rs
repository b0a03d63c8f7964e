//! Scaled dot product attention, from the matrix products that `run_decompositions()` makes of it.

use super::{is_view, swaps_last_two};
use crate::ir::{Arg, Graph, Node, ValueId};
use crate::ops::views::{bool, float, int, value};
use crate::ops::{self, OpDef};

/// For the view behind the second product of an attention: the attention.
///
/// The decomposition multiplies query and key by the root of the scale each, so that halves do not overflow, and writes
/// the weights of rows that are masked from end to end as zeros:
/// `where(~any(scores != -inf), 0, softmax(scores)) @ value` with `scores = (query·√s) @ (keyᵀ·√s) + mask`.
pub(super) fn attention(g: &Graph, node: &Node) -> Option<(&'static OpDef, Vec<Arg>)> {
    if !is_view(node.op()) {
        return None;
    }
    let product = made_by(g, value(node.arg(0))?, &ops::BMM)?;
    let (weights, values) = (batched(g, value(product.arg(0))?), batched(g, value(product.arg(1))?));
    let scores = softmaxed(g, weights)?;
    // A view holds the scores when there is no mask, and one operand of a sum when there is.
    let (scores, mask) = match made_by(g, scores, &ops::ADD) {
        Some(sum) if float(sum.arg(2)) == Some(1.0) => (value(sum.arg(0))?, Some(value(sum.arg(1))?)),
        _ => (scores, None),
    };
    let view = g.node(g.producer(scores)?);
    if !is_view(view.op()) {
        return None;
    }
    let product = made_by(g, value(view.arg(0))?, &ops::BMM)?;
    let (query, s) = scaled(g, batched(g, value(product.arg(0))?))?;
    let (key, t) = scaled(g, batched(g, value(product.arg(1))?))?;
    let key = swaps_last_two(g, key)?;

    let (q, k, v) = (&g.ty(query).shape, &g.ty(key).shape, &g.ty(values).shape);
    let rank = q.len();
    if rank < 3 || k.len() != rank || v.len() != rank || g.ty(scores).shape.len() != rank {
        return None;
    }
    let lead = &q[..rank - 2];
    let fits = k[..rank - 2] == *lead
        && v[..rank - 2] == *lead
        && g.ty(scores).shape[..rank - 1] == q[..rank - 1]
        && g.ty(node.output()).shape[..rank - 1] == q[..rank - 1]
        && g.ty(node.output()).shape.last() == v.last();
    if !fits || mask.is_some_and(|m| g.ty(m).shape.len() > rank || g.ty(m).dtype != g.ty(query).dtype) {
        return None;
    }
    // The default is written as such: a root squared is off by a bit.
    let width = q[rank - 1].known()? as f64;
    let usual = 1.0 / width.sqrt();
    let scale = if (s * t - usual).abs() <= 1e-12 * usual { Arg::None } else { Arg::Float(s * t) };
    let args = vec![
        query.into(),
        key.into(),
        values.into(),
        Arg::optional(mask),
        Arg::Float(0.0),
        Arg::Bool(false),
        scale,
        Arg::Bool(false),
    ];
    Some((&ops::SCALED_DOT_PRODUCT_ATTENTION, args))
}

/// The node that makes `v`, when it is this operator.
fn made_by<'g>(g: &'g Graph, v: ValueId, op: &OpDef) -> Option<&'g Node> {
    let node = g.node(g.producer(v)?);
    (*node.op() == *op).then_some(node)
}

/// What a product's operand was before its batch dimensions were made one: past a view, copies and an expansion that
/// changes nothing.
fn batched(g: &Graph, v: ValueId) -> ValueId {
    let same = |n: &Node, x: ValueId| g.ty(x).shape == g.ty(n.output()).shape;
    let step = |v: ValueId, views: bool| {
        let n = g.node(g.producer(v)?);
        let x = value(n.arg(0))?;
        let copies = *n.op() == ops::CLONE || *n.op() == ops::EXPAND && same(n, x);
        (copies || views && is_view(n.op()) && g.ty(x).rank() > 2).then_some(x)
    };
    let Some(mut x) = step(v, true) else { return v };
    // The matrices themselves stay as they are.
    let matrix = |v: ValueId| g.ty(v).shape[g.ty(v).rank() - 2..].to_vec();
    if matrix(x) != matrix(v) {
        return v;
    }
    while let Some(before) = step(x, false) {
        x = before;
    }
    x
}

/// What the weights are the softmax of, over the last dimension, with or without the care for masked rows.
fn softmaxed(g: &Graph, weights: ValueId) -> Option<ValueId> {
    let mut softmax = g.node(g.producer(weights)?);
    if *softmax.op() == ops::WHERE {
        let (empty, zeros) = (value(softmax.arg(0))?, value(softmax.arg(1))?);
        softmax = g.node(g.producer(value(softmax.arg(2))?)?);
        let scores = value(softmax.arg(0))?;
        let any = made_by(g, value(made_by(g, empty, &ops::LOGICAL_NOT)?.arg(0))?, &ops::ANY_DIM)?;
        let seen = made_by(g, value(any.arg(0))?, &ops::LOGICAL_NOT)?;
        let hidden = made_by(g, value(seen.arg(0))?, &ops::EQ_SCALAR)?;
        let zeros = g.node(g.producer(zeros)?);
        let is_zero = *zeros.op() == ops::FULL_LIKE && float(zeros.arg(1)) == Some(0.0);
        let rows = is_last(g, scores, any) && bool(any.arg(2)) == Some(true);
        let all = value(hidden.arg(0))? == scores && float(hidden.arg(1)) == Some(f64::NEG_INFINITY);
        if !is_zero || !rows || !all {
            return None;
        }
    }
    let scores = value(softmax.arg(0))?;
    (*softmax.op() == ops::SOFTMAX && is_last(g, scores, softmax) && *softmax.arg(2) == Arg::None)
        .then_some(scores)
}

/// Whether argument 1 of a node is the last dimension of `x`.
fn is_last(g: &Graph, x: ValueId, node: &Node) -> bool {
    let rank = g.ty(x).rank() as i64;
    int(node.arg(1)).is_some_and(|d| d == -1 || d == rank - 1)
}

/// A product with a number.
fn scaled(g: &Graph, v: ValueId) -> Option<(ValueId, f64)> {
    let n = made_by(g, v, &ops::MUL_SCALAR)?;
    Some((value(n.arg(0))?, float(n.arg(1))?))
}

#[cfg(test)]
mod tests {
    use crate::ir::{text, verify};
    use crate::passes::{Pass, Recompose};

    /// What `run_decompositions()` writes for two heads of width 4; `%s` is the scores behind `before`.
    fn decomposed(before: &str, scale: &str) -> String {
        format!(
            "program {{
              %q : f32[1, 2, 3, 4] = input
              %k : f32[1, 2, 5, 4] = input
              %v : f32[1, 2, 5, 6] = input
              %m : f32[1, 1, 3, 5] = input
              %qs : f32[1, 2, 3, 4] = aten.mul.Scalar(%q, other={scale})
              %kt : f32[1, 2, 4, 5] = aten.permute.default(%k, dims=[0, 1, 3, 2])
              %ks : f32[1, 2, 4, 5] = aten.mul.Scalar(%kt, other={scale})
              %qe : f32[1, 2, 3, 4] = aten.expand.default(%qs, size=[1, 2, 3, 4])
              %qv : f32[2, 3, 4] = aten.view.default(%qe, size=[2, 3, 4])
              %ke : f32[1, 2, 4, 5] = aten.expand.default(%ks, size=[1, 2, 4, 5])
              %kv : f32[2, 4, 5] = aten.view.default(%ke, size=[2, 4, 5])
              %p : f32[2, 3, 5] = aten.bmm.default(%qv, %kv)
              %pv : f32[1, 2, 3, 5] = aten.view.default(%p, size=[1, 2, 3, 5])
              {before}
              %soft : f32[1, 2, 3, 5] = aten._softmax.default(%s, dim=-1, half_to_float=false)
              %eq : bool[1, 2, 3, 5] = aten.eq.Scalar(%s, other=-inf)
              %seen : bool[1, 2, 3, 5] = aten.logical_not.default(%eq)
              %any : bool[1, 2, 3, 1] = aten.any.dim(%seen, dim=-1, keepdim=true)
              %none : bool[1, 2, 3, 1] = aten.logical_not.default(%any)
              %zero : f32[1, 2, 3, 5] = aten.full_like.default(%soft, fill_value=0)
              %w : f32[1, 2, 3, 5] = aten.where.self(%none, %zero, %soft)
              %we : f32[1, 2, 3, 5] = aten.expand.default(%w, size=[1, 2, 3, 5])
              %wv : f32[2, 3, 5] = aten.view.default(%we, size=[2, 3, 5])
              %ve : f32[1, 2, 5, 6] = aten.expand.default(%v, size=[1, 2, 5, 6])
              %vv : f32[2, 5, 6] = aten.view.default(%ve, size=[2, 5, 6])
              %o : f32[2, 3, 6] = aten.bmm.default(%wv, %vv)
              %out : f32[1, 2, 3, 6] = aten.view.default(%o, size=[1, 2, 3, 6])
              return %out
            }}"
        )
    }

    fn lines(source: &str) -> Vec<String> {
        let mut p = text::parse(source).unwrap();
        Recompose.run(&mut p).unwrap();
        verify(&p).unwrap();
        p.graph.nodes().map(|n| text::node_line(&p, n)).collect()
    }

    #[test]
    fn attention_becomes_one_node() {
        let plain = decomposed("", "0.7071067811865476").replace("%s,", "%pv,");
        let out = "%out : f32[1, 2, 3, 6] = aten.scaled_dot_product_attention.default";
        assert_eq!(lines(&plain), [format!("{out}(%q, %k, %v)")]);
        let masked = decomposed("%s : f32[1, 2, 3, 5] = aten.add.Tensor(%pv, %m)", "0.5");
        assert_eq!(lines(&masked), [format!("{out}(%q, %k, %v, %m, scale=0.25)")]);
        // Some other care for some other rows is left alone.
        let other = masked.replace("fill_value=0", "fill_value=1");
        assert!(lines(&other).len() > 10);
    }
}
