//! Activations and pools, from the arithmetic that `run_decompositions()` makes of them.

use crate::ir::{Arg, Graph, Node, ValueId};
use crate::ops::views::{bool, float, ints, value};
use crate::ops::{self, OpDef};

type Rewritten = Option<(&'static OpDef, Vec<Arg>)>;

/// For the last node of an activation: the activation.
pub(super) fn activation(g: &Graph, node: &Node) -> Rewritten {
    let same = |v: ValueId| g.ty(v) == g.ty(node.output());
    match node.op() {
        // x · sigmoid(x)
        op if *op == ops::MUL => {
            let (a, b) = (value(node.arg(0))?, value(node.arg(1))?);
            let sigmoid_of = |v: ValueId| {
                let n = g.node(g.producer(v)?);
                if *n.op() == ops::SIGMOID { value(n.arg(0)) } else { None }
            };
            let x = if sigmoid_of(b) == Some(a) { a } else { b };
            let other = if x == a { b } else { a };
            (sigmoid_of(other) == Some(x) && same(x)).then(|| (&ops::SILU, vec![x.into()]))
        }
        // clamp(x + 3, 0, 6) / 6, and x times that.
        op if *op == ops::DIV_SCALAR && float(node.arg(1)) == Some(6.0) => {
            let v = value(node.arg(0))?;
            if let Some(x) = raised_and_clamped(g, v) {
                return same(x).then(|| (&ops::HARDSIGMOID, vec![x.into()]));
            }
            let product = g.node(g.producer(v)?);
            if *product.op() != ops::MUL {
                return None;
            }
            let (a, b) = (value(product.arg(0))?, value(product.arg(1))?);
            let x = if raised_and_clamped(g, b) == Some(a) { a } else { b };
            let other = if x == a { b } else { a };
            (raised_and_clamped(g, other) == Some(x) && same(x)).then(|| (&ops::HARDSWISH, vec![x.into()]))
        }
        // The mean of an image is what `adaptive_avg_pool2d` to one pixel becomes, dimensions in this order.
        op if *op == ops::MEAN_DIM => {
            let image = g.ty(value(node.arg(0))?).rank() == 4 && ints(node.arg(1))? == [-1, -2];
            let keeps = bool(node.arg(2)) == Some(true) && *node.arg(3) == Arg::None;
            (image && keeps)
                .then(|| (&ops::ADAPTIVE_AVG_POOL2D, vec![node.arg(0).clone(), Arg::ints([1i64, 1])]))
        }
        _ => None,
    }
}

/// The `x` of `clamp(x + 3, 0, 6)`, bounds at once or one after the other.
fn raised_and_clamped(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (mut v, mut low, mut high) = (v, None, None);
    loop {
        let n = g.node(g.producer(v)?);
        match n.op() {
            op if *op == ops::CLAMP || *op == ops::HARDTANH => {
                // None of the bounds 0 and 6 comes twice, so their order does not matter.
                for (bound, at) in [(&mut low, 1), (&mut high, 2)] {
                    match (float(n.arg(at)), &bound) {
                        (Some(x), None) => *bound = Some(x),
                        (None, _) => {}
                        _ => return None,
                    }
                }
            }
            op if *op == ops::RELU6 && low.is_none() && high.is_none() => {
                (low, high) = (Some(0.0), Some(6.0))
            }
            op if *op == ops::ADD_SCALAR => {
                let three = float(n.arg(1)) == Some(3.0) && float(n.arg(2)) == Some(1.0);
                return if three && (low, high) == (Some(0.0), Some(6.0)) { value(n.arg(0)) } else { None };
            }
            _ => return None,
        }
        v = value(n.arg(0))?;
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{text, verify};
    use crate::passes::{Pass, Recompose};

    #[test]
    fn arithmetic_becomes_what_it_was() {
        let mut p = text::parse(
            "program {
              %x : f32[1, 4, 6, 6] = input
              %add : f32[1, 4, 6, 6] = aten.add.Scalar(%x, other=3)
              %low : f32[1, 4, 6, 6] = aten.clamp.default(%add, min=0)
              %high : f32[1, 4, 6, 6] = aten.clamp.default(%low, max=6)
              %mul : f32[1, 4, 6, 6] = aten.mul.Tensor(%x, %high)
              %swish : f32[1, 4, 6, 6] = aten.div.Scalar(%mul, other=6)
              %raised : f32[1, 4, 6, 6] = aten.add.Scalar(%swish, other=3)
              %both : f32[1, 4, 6, 6] = aten.hardtanh.default(%raised, min_val=0, max_val=6)
              %hard : f32[1, 4, 6, 6] = aten.div.Scalar(%both, other=6)
              %s : f32[1, 4, 6, 6] = aten.sigmoid.default(%hard)
              %silu : f32[1, 4, 6, 6] = aten.mul.Tensor(%s, %hard)
              %mean : f32[1, 4, 1, 1] = aten.mean.dim(%silu, dim=[-1, -2], keepdim=true)
              %t : f32[1, 4, 1, 1] = aten.sigmoid.default(%mean)
              %gate : f32[1, 4, 6, 6] = aten.mul.Tensor(%t, %silu)
              %plus : f32[1, 4, 6, 6] = aten.add.Scalar(%gate, other=2)
              %clamp : f32[1, 4, 6, 6] = aten.clamp.default(%plus, min=0, max=6)
              %other : f32[1, 4, 6, 6] = aten.div.Scalar(%clamp, other=6)
              return %other
            }",
        )
        .unwrap();
        assert!(Recompose.run(&mut p).unwrap());
        verify(&p).unwrap();
        let g = &p.graph;
        let nodes: Vec<String> =
            g.nodes().map(|n| format!("{} {}", g.node(n).name, g.node(n).op().packet())).collect();
        assert_eq!(
            nodes,
            [
                "swish aten.hardswish",
                "hard aten.hardsigmoid",
                "silu aten.silu",
                "mean aten.adaptive_avg_pool2d",
                "t aten.sigmoid",
                "gate aten.mul",
                "plus aten.add",
                "clamp aten.clamp",
                "other aten.div",
            ]
        );
    }
}
