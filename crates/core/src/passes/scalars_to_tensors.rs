//! [`ScalarsToTensors`]: numbers added to or multiplied with tensors become constants, which can be quantized.

use super::{Pass, PassFailure};
use crate::dtype::DType;
use crate::ir::{Arg, ConstKind, NodeId, Program};
use crate::ops::views::float;
use crate::ops::{self, OpDef};
use crate::tensor::Tensor;
use half::{bf16, f16};

/// `add.Scalar` and `mul.Scalar` over floating-point tensors become `add.Tensor` and `mul.Tensor` with a constant of no
/// dimensions, `_tensor_constant_0` and so on (torchao's `transform_for_annotation`).
#[derive(Copy, Clone, Debug, Default)]
pub struct ScalarsToTensors;

impl Pass for ScalarsToTensors {
    fn name(&self) -> &'static str {
        "scalars_to_tensors"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<_> = program.graph.nodes().filter_map(|n| scalar(program, n)).collect();
        for (i, (n, op, x)) in found.iter().enumerate() {
            let c = program.add_constant(&format!("_tensor_constant_{i}"), ConstKind::Tensor, x.clone());
            let tensor = program.graph.node(*n).arg(0).clone();
            program.graph.rewrite(*n, op, vec![tensor, c.into()])?;
        }
        Ok(!found.is_empty())
    }
}

/// The operator on tensors in place of node `n`, and its second operand.
fn scalar(program: &Program, n: NodeId) -> Option<(NodeId, &'static OpDef, Tensor)> {
    let node = program.graph.node(n);
    let number = float(node.arg(1));
    let (op, x) = match node.op() {
        op if *op == ops::ADD_SCALAR => (&ops::ADD, number? * float(node.arg(2))?),
        op if *op == ops::MUL_SCALAR => (&ops::MUL, number?),
        _ => return None,
    };
    let Arg::Value(v) = node.arg(0) else { return None };
    // A result of another type would depend on what kind of number it was.
    let same_type = program.graph.ty(*v).dtype == program.graph.ty(node.output()).dtype;
    let x = match program.graph.ty(*v).dtype {
        DType::F32 => Tensor::scalar(x as f32),
        DType::F16 => Tensor::scalar(f16::from_f64(x)),
        DType::BF16 => Tensor::scalar(bf16::from_f64(x)),
        DType::F64 => Tensor::scalar(x),
        _ => return None,
    };
    same_type.then_some((n, op, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn only_float_tensors_get_constants() {
        let mut p = text::parse(
            "program {
              %x : f32[2] = input
              %i : i64[2] = input
              %a : f32[2] = aten.add.Scalar(%x, other=3, alpha=0.5)
              %b : f32[2] = aten.mul.Scalar(%a, other=2)
              %c : i64[2] = aten.mul.Scalar(%i, other=2)
              return %b, %c
            }",
        )
        .unwrap();
        assert!(ScalarsToTensors.run(&mut p).unwrap());
        verify(&p).unwrap();
        let lines: Vec<String> = p.graph.nodes().map(|n| text::node_line(&p, n)).collect();
        assert_eq!(
            lines,
            [
                "%a : f32[2] = aten.add.Tensor(%x, %_tensor_constant_0)",
                "%b : f32[2] = aten.mul.Tensor(%a, %_tensor_constant_1)",
                "%c : i64[2] = aten.mul.Scalar(%i, other=2)",
            ]
        );
        let values: Vec<f32> = p.constants.iter().map(|(_, c)| c.tensor.to_f32()[0]).collect();
        assert_eq!(values, [1.5, 2.0]);
    }
}
