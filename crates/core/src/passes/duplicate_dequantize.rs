//! [`DuplicateDequantize`]: a dequantize for each reader.

use super::{Pass, PassFailure};
use crate::ir::{NewNode, NodeId, Program, Use};
use crate::ops;

/// Gives each reader of a dequantized value a dequantize of its own, as `convert` does: a backend that absorbs one can
/// do so without regard to the others.
#[derive(Copy, Clone, Debug, Default)]
pub struct DuplicateDequantize;

impl Pass for DuplicateDequantize {
    fn name(&self) -> &'static str {
        "duplicate_dequantize"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<(NodeId, Vec<Use>)> =
            program.graph.nodes().filter_map(|n| shared(program, n)).collect();
        for (n, uses) in &found {
            for &u in uses {
                let node = program.graph.node(*n);
                let copy = NewNode::new(node.op(), node.args().to_vec()).like(node);
                // Next to its reader: nothing in between has to keep the floats.
                let copy = program.graph.insert_before(u.node, copy)?;
                program.graph.redirect(u, program.graph.node(copy).output());
            }
        }
        Ok(!found.is_empty())
    }
}

/// A dequantize with several readers, and all of its uses but one, in program order.
fn shared(program: &Program, n: NodeId) -> Option<(NodeId, Vec<Use>)> {
    let g = &program.graph;
    let node = g.node(n);
    let constant = || node.operands().next().is_some_and(|q| program.frozen(q).is_some());
    let known = match node.op() {
        op if *op == ops::DEQUANTIZE_PER_TENSOR || *op == ops::DEQUANTIZE_PER_CHANNEL => true,
        // Those of values quantized at run time belong to what chooses their parameters.
        op if *op == ops::DEQUANTIZE_AFFINE || *op == ops::DEQUANTIZE_PER_CHANNEL_GROUP => constant(),
        _ => false,
    };
    if !known {
        return None;
    }
    let v = node.output();
    let mut uses = Vec::new();
    // What chooses parameters at run time and what quantizes with them belong together: they keep the one there is.
    let (together, single): (Vec<NodeId>, _) = g
        .users(v)
        .into_iter()
        .partition(|&n| [&ops::CHOOSE_QPARAMS, &ops::QUANTIZE_PER_TENSOR_TENSOR].contains(&g.node(n).op()));
    for reader in single {
        let slots = g.node(reader).operands().enumerate().filter(|(_, o)| *o == v);
        uses.extend(slots.map(|(slot, _)| Use { node: reader, slot: slot as u32 }));
    }
    let kept = usize::from(!g.is_output(v) && together.is_empty()).min(uses.len());
    let rest = uses.split_off(kept);
    (!rest.is_empty()).then_some((n, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn quantizing_at_run_time_reads_one() {
        let mut p = text::parse(
            "program {
              %x : i8[2] = input
              %d : f32[2] = quantized_decomposed.dequantize_per_tensor.default(%x, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %s : f64[1], %z : i64[1] = quantized_decomposed.choose_qparams.tensor(%d, -128, 127, 0.001, i8)
              %q : i8[2] = quantized_decomposed.quantize_per_tensor.tensor(%d, %s, %z, -128, 127, i8)
              %r : f32[2] = aten.relu.default(%d)
              return %q, %r
            }",
        )
        .unwrap();
        assert!(DuplicateDequantize.run(&mut p).unwrap());
        verify(&p).unwrap();
        let read: Vec<&str> = p
            .graph
            .nodes()
            .skip(1)
            .filter_map(|n| p.graph.node(n).operands().next())
            .map(|v| &*p.graph.value(v).name)
            .collect();
        assert_eq!(read, ["d", "d", "x", "d_1"]);
    }

    #[test]
    fn each_reader_gets_its_own() {
        let mut p = text::parse(
            "program {
              %x : i8[2] = input
              %d : f32[2] = quantized_decomposed.dequantize_per_tensor.default(%x, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %a : f32[2] = aten.add.Tensor(%d, %d)
              %b : f32[2] = aten.relu.default(%d)
              return %a, %b
            }",
        )
        .unwrap();
        assert!(DuplicateDequantize.run(&mut p).unwrap());
        verify(&p).unwrap();
        let lines: Vec<String> =
            p.graph.nodes().map(|n| text::node_line(&p, n)).filter(|l| !l.contains("dequantize")).collect();
        assert_eq!(
            lines,
            ["%a : f32[2] = aten.add.Tensor(%d, %d_1)", "%b : f32[2] = aten.relu.default(%d_2)"]
        );
        assert!(!DuplicateDequantize.run(&mut p).unwrap());
    }
}
