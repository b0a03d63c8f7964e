//! [`BatchNormToConv`]: batch norms that no layer absorbs become layers of their own.

use super::fold_batch_norm::{affine, norm_parts};
use super::{Pass, PassFailure};
use crate::ir::{Arg, ConstKind, NewNode, NodeId, Program};
use crate::ops;
use crate::tensor::Tensor;

/// A batch norm in evaluation mode becomes a convolution of single points, each channel with itself (`groups` is their
/// number). With a scale for each output channel its integer weights are exact, so it quantizes as well as what it stands
/// for; devices that have no batch norm run it as any depthwise convolution. To be run after
/// [`FoldBatchNorm`](super::FoldBatchNorm), which costs nothing.
#[derive(Copy, Clone, Debug, Default)]
pub struct BatchNormToConv;

impl Pass for BatchNormToConv {
    fn name(&self) -> &'static str {
        "batch_norm_to_conv"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let mut changed = false;
        for n in program.graph.nodes().collect::<Vec<_>>() {
            changed |= convert(program, n)?;
        }
        Ok(changed)
    }
}

fn convert(program: &mut Program, n: NodeId) -> Result<bool, PassFailure> {
    let Some((parts, eps)) = norm_parts(program, n) else { return Ok(false) };
    let node = program.graph.node(n).clone();
    let g = &program.graph;
    let unused = |&v: &_| g.value(v).uses().is_empty() && !g.is_output(v);
    let Arg::Value(x) = *node.arg(0) else { return Ok(false) };
    let (rank, dtype) = (g.ty(x).rank(), g.ty(x).dtype);
    let (op, spatial) = match rank {
        2 | 3 => (&ops::CONV1D, 1),
        4 => (&ops::CONV2D, 2),
        _ => return Ok(false),
    };
    if !node.outputs()[1..].iter().all(unused) {
        return Ok(false);
    }
    let Some((scale, shift)) = affine(&parts, eps, None) else { return Ok(false) };
    let channels = scale.len();
    let shape: Vec<usize> = [channels, 1].into_iter().chain(vec![1; spatial]).collect();
    let tensor = |shape: &[usize], data: &[f32]| {
        Tensor::from_f32(dtype, shape, data).map_err(|e| PassFailure(format!("{}: {e}", node.name)))
    };
    let (weight, bias) = (tensor(&shape, &scale)?, tensor(&[channels], &shift)?);
    let weight = program.add_constant(&format!("{}_weight", node.name), ConstKind::Parameter, weight);
    let bias = program.add_constant(&format!("{}_bias", node.name), ConstKind::Parameter, bias);

    let mut x = x;
    if rank == 2 {
        let wide = NewNode::new(&ops::UNSQUEEZE, [x.into(), 2.into()]).in_module(&node.module);
        let wide = program.graph.insert_before(n, wide)?;
        x = program.graph.node(wide).output();
    }
    let all = |x: i64| Arg::ints(vec![x; spatial]);
    let args = [x.into(), weight.into(), bias.into(), all(1), all(0), all(1), (channels as i64).into()];
    let conv = program.graph.insert_before(n, NewNode::new(op, args).like(&node))?;
    let mut y = program.graph.node(conv).output();
    if rank == 2 {
        let narrow = NewNode::new(&ops::SQUEEZE_DIM, [y.into(), 2.into()]).in_module(&node.module);
        let narrow = program.graph.insert_before(n, narrow)?;
        y = program.graph.node(narrow).output();
    }
    program.graph.replace_uses(node.output(), y, None);
    program.graph.erase(n);
    // The layer keeps its name.
    program.graph.rename_node(conv, &node.name);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn a_batch_norm_is_a_depthwise_convolution() {
        for (shape, op) in [("1, 2, 4, 4", "conv2d"), ("1, 2, 4", "conv1d"), ("3, 2", "conv1d")] {
            let mut p = text::parse(&format!(
                "program {{
                  %x : f32[{shape}] = input
                  %g : f32[2] = constant \"g\" [2.0, 3.0]
                  %b : f32[2] = constant \"b\" [1.0, -1.0]
                  %m : f32[2] = constant \"m\" [0.5, 0.25]
                  %v : f32[2] = constant \"v\" [4.0, 1.0]
                  %y : f32[{shape}] = aten.batch_norm.default(%x, %g, %b, %m, %v, false, 0.1, 0.0, false)
                  return %y
                }}"
            ))
            .unwrap();
            assert!(BatchNormToConv.run(&mut p).unwrap());
            verify(&p).unwrap();
            let conv = p.graph.nodes().map(|n| p.graph.node(n)).find(|n| n.op().short_name() == op).unwrap();
            let data = |i: usize| match conv.arg(i) {
                Arg::Value(v) => p.frozen(*v).unwrap().to_f32().into_owned(),
                _ => vec![],
            };
            assert_eq!((data(1), data(2)), (vec![1.0, 3.0], vec![0.5, -1.75]));
            assert_eq!(ops::views::int(conv.arg(6)), Some(2));
        }
    }
}
