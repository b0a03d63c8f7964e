//! [`ProductsToLinear`]: products with constant matrices become linear layers, which quantizers have rules for.

use super::{Pass, PassFailure};
use crate::ir::{Arg, NewNode, NodeId, Program, ValueId};
use crate::ops;
use crate::ops::views::{float, value};

/// `mm`, `matmul` and `addmm` with a constant of two dimensions on the right become `linear` with its transpose: layers
/// that keep their weights as `[in, out]`, such as the `Conv1D` of GPT-2. What is between them and another `view` is left
/// for [`Recompose`](super::Recompose), which comes after.
#[derive(Copy, Clone, Debug, Default)]
pub struct ProductsToLinear;

impl Pass for ProductsToLinear {
    fn name(&self) -> &'static str {
        "products_to_linear"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<_> = program.graph.nodes().filter_map(|n| Some((n, product(program, n)?))).collect();
        for &(n, Product { x, matrix, bias }) in &found {
            let module = program.graph.node(n).module.clone();
            let transpose =
                NewNode::new(&ops::PERMUTE, [matrix.into(), Arg::ints([1, 0])]).in_module(&module);
            let t = program.graph.insert_before(n, transpose)?;
            let weight = program.graph.node(t).output();
            let bias = bias.map_or(Arg::None, Arg::from);
            program.graph.rewrite(n, &ops::LINEAR, vec![x.into(), weight.into(), bias])?;
        }
        Ok(!found.is_empty())
    }
}

#[derive(Copy, Clone)]
struct Product {
    x: ValueId,
    matrix: ValueId,
    bias: Option<ValueId>,
}

fn product(program: &Program, n: NodeId) -> Option<Product> {
    let node = program.graph.node(n);
    let (x, matrix, bias) = match node.op() {
        op if *op == ops::MM || *op == ops::MATMUL => (value(node.arg(0))?, value(node.arg(1))?, None),
        op if *op == ops::ADDMM && float(node.arg(3)) == Some(1.0) && float(node.arg(4)) == Some(1.0) => {
            (value(node.arg(1))?, value(node.arg(2))?, Some(value(node.arg(0))?))
        }
        _ => return None,
    };
    let ty = |v: ValueId| program.graph.ty(v);
    program.frozen(matrix)?;
    let fits = ty(matrix).rank() == 2
        && ty(x).rank() >= 2
        // A bias is one number a feature; anything else that broadcasts is an addition.
        && bias.is_none_or(|b| ty(b).shape[..] == ty(matrix).shape[1..]);
    fits.then_some(Product { x, matrix, bias })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn constants_on_the_right_are_weights() {
        let mut p = text::parse(
            "program {
              %x : f32[2, 5, 3] = input
              %y : f32[5, 3] = input
              %z : f32[3, 4] = input
              %w : f32[3, 4] = constant \"w\"
              %b : f32[4] = constant \"b\"
              %wide : f32[5, 4] = constant \"wide\"
              %a : f32[2, 5, 4] = aten.matmul.default(%x, %w)
              %c : f32[5, 4] = aten.addmm.default(%b, %y, %w)
              %d : f32[5, 4] = aten.mm.default(%y, %w)
              %e : f32[5, 4] = aten.mm.default(%y, %z)
              %f : f32[5, 4] = aten.addmm.default(%wide, %y, %w)
              %g : f32[5, 4] = aten.addmm.default(%b, %y, %w, beta=2)
              return %a, %c, %d, %e, %f, %g
            }",
        )
        .unwrap();
        assert!(ProductsToLinear.run(&mut p).unwrap());
        verify(&p).unwrap();
        let lines: Vec<String> = p.graph.nodes().map(|n| text::node_line(&p, n)).collect();
        assert_eq!(
            lines,
            [
                "%permute : f32[4, 3] = aten.permute.default(%w, dims=[1, 0])",
                "%a : f32[2, 5, 4] = aten.linear.default(%x, %permute)",
                "%permute_1 : f32[4, 3] = aten.permute.default(%w, dims=[1, 0])",
                "%c : f32[5, 4] = aten.linear.default(%y, %permute_1, %b)",
                "%permute_2 : f32[4, 3] = aten.permute.default(%w, dims=[1, 0])",
                "%d : f32[5, 4] = aten.linear.default(%y, %permute_2)",
                "%e : f32[5, 4] = aten.mm.default(%y, %z)",
                "%f : f32[5, 4] = aten.addmm.default(%wide, %y, %w)",
                "%g : f32[5, 4] = aten.addmm.default(%b, %y, %w, beta=2)",
            ]
        );
        assert!(!ProductsToLinear.run(&mut p).unwrap());
    }
}
