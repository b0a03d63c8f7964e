//! [`Recompose`]: Core-ATen operators back to those that `torch.export` writes without decompositions.
//!
//! `run_decompositions()` turns a linear layer into `permute`, `view`, `addmm`, `view`, and a convolution of any kind
//! into `convolution`. Rules and lowerings know the operators that people write; this pass makes both forms one.

mod activation;
mod attention;

use super::{DeadCode, Pass, PassFailure};
use crate::ir::{Arg, Graph, NodeId, Program, ValueId};
use crate::ops::views::{bool, float, int, ints, value};
use crate::ops::{self, OpDef};
use crate::symint::SymInt;

/// Core-ATen operators back to the ones without decompositions, wherever nothing is lost.
#[derive(Copy, Clone, Debug, Default)]
pub struct Recompose;

impl Pass for Recompose {
    fn name(&self) -> &'static str {
        "recompose"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let mut changed = false;
        for n in program.graph.nodes().collect::<Vec<_>>() {
            let Some((op, args)) = rewritten(program, n) else { continue };
            program.graph.rewrite(n, op, args)?;
            changed = true;
        }
        // Whole patterns, from the last node on: what leads up to it is left without readers. Pieces come before the
        // wholes that they are part of, since program order does.
        for n in program.graph.nodes().collect::<Vec<_>>() {
            let (g, node) = (&program.graph, program.graph.node(n));
            let whole = activation::activation(g, node).or_else(|| attention::attention(g, node));
            let Some((op, args)) = whole else { continue };
            program.graph.rewrite(n, op, args)?;
            changed = true;
        }
        // A linear layer over more than two dimensions is flattened for `addmm` and brought back after it.
        for n in program.graph.nodes().collect::<Vec<_>>() {
            let Some((view, args)) = unflattened(program, n) else { continue };
            program.graph.set_module(view, program.graph.node(n).module.clone());
            program.graph.rewrite(view, &ops::LINEAR, args)?;
            changed = true;
        }
        if changed {
            DeadCode.run(program)?;
        }
        Ok(changed)
    }
}

fn rewritten(program: &Program, n: NodeId) -> Option<(&'static OpDef, Vec<Arg>)> {
    let g = &program.graph;
    let node = g.node(n);
    let args = node.args();
    let only_first = || node.outputs()[1..].iter().all(|&v| g.value(v).uses().is_empty() && !g.is_output(v));
    match node.op() {
        op if *op == ops::CONVOLUTION => convolution(g, args),
        op if *op == ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING && only_first() => {
            let mut new = args[..5].to_vec();
            new.extend([Arg::Bool(false), args[5].clone(), args[6].clone(), Arg::Bool(false)]);
            Some((&ops::BATCH_NORM, new))
        }
        op if *op == ops::NATIVE_BATCH_NORM && only_first() && bool(&args[5]) == Some(false) => {
            let mut new = args.to_vec();
            new.push(Arg::Bool(false));
            Some((&ops::BATCH_NORM, new))
        }
        op if *op == ops::NATIVE_LAYER_NORM && only_first() => {
            let mut new = args.to_vec();
            new.push(Arg::Bool(true));
            Some((&ops::LAYER_NORM, new))
        }
        op if *op == ops::MAX_POOL2D_WITH_INDICES && only_first() => Some((&ops::MAX_POOL2D, args.to_vec())),
        op if *op == ops::ADAPTIVE_AVG_POOL2D_CORE => Some((&ops::ADAPTIVE_AVG_POOL2D, args.to_vec())),
        op if *op == ops::SOFTMAX_CORE && bool(&args[2]) == Some(false) => {
            Some((&ops::SOFTMAX, vec![args[0].clone(), args[1].clone(), Arg::None]))
        }
        op if *op == ops::LOG_SOFTMAX_CORE && bool(&args[2]) == Some(false) => {
            Some((&ops::LOG_SOFTMAX, vec![args[0].clone(), args[1].clone(), Arg::None]))
        }
        op if *op == ops::MM => {
            let w = transposed(g, value(&args[1])?)?;
            Some((&ops::LINEAR, vec![args[0].clone(), w.into(), Arg::None]))
        }
        op if *op == ops::ADDMM && float(&args[3]) == Some(1.0) && float(&args[4]) == Some(1.0) => {
            let (w, bias) = (transposed(g, value(&args[2])?)?, value(&args[0])?);
            // A bias is one number a feature; anything else that broadcasts is an addition.
            let features = g.ty(w).shape.first()?;
            let is_bias = g.ty(bias).shape.len() == 1 && g.ty(bias).shape.first() == Some(features);
            is_bias.then(|| (&ops::LINEAR, vec![args[1].clone(), w.into(), bias.into()]))
        }
        op if *op == ops::SLICE => step_of_flipped(g, args),
        _ => None,
    }
}

/// One step of a sequence that was turned round is one of the sequence: recurrent layers that run backwards.
fn step_of_flipped(g: &Graph, args: &[Arg]) -> Option<(&'static OpDef, Vec<Arg>)> {
    let flip = g.node(g.producer(value(&args[0])?)?);
    let (x, dims) = (value(flip.arg(0))?, ints(flip.arg(1)).filter(|_| *flip.op() == ops::FLIP)?);
    let (dim, rank) = (int(&args[1])?, g.ty(x).rank() as i64);
    let (start, end, step) = (int(&args[2])?, int(&args[3])?, int(&args[4])?);
    let same = dims.len() == 1 && dims[0].rem_euclid(rank) == dim.rem_euclid(rank);
    let size = g.ty(x).shape[usize::try_from(dim.rem_euclid(rank)).ok()?].known()?;
    (same && (0..size).contains(&start) && end == start + 1 && step == 1).then(|| {
        let place = [size - end, size - start].map(Arg::from);
        (&ops::SLICE, [x.into(), args[1].clone()].into_iter().chain(place).chain([args[4].clone()]).collect())
    })
}

/// `convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`
fn convolution(g: &Graph, args: &[Arg]) -> Option<(&'static OpDef, Vec<Arg>)> {
    let dims = g.ty(value(&args[1])?).rank().checked_sub(2)?;
    let wide = |i: usize| {
        let list = ints(&args[i])?;
        Some(Arg::ints(if list.len() == 1 { vec![list[0]; dims] } else { list }))
    };
    let (stride, padding, dilation, output_padding) = (wide(3)?, wide(4)?, wide(5)?, wide(7)?);
    let [input, weight, bias, ..] = args else { return None };
    let tensors = [input.clone(), weight.clone(), bias.clone()];
    let groups = args[8].clone();
    if bool(&args[6])? {
        let op = match dims {
            1 => &ops::CONV_TRANSPOSE1D,
            2 => &ops::CONV_TRANSPOSE2D,
            3 => &ops::CONV_TRANSPOSE3D,
            _ => return None,
        };
        let rest = [stride, padding, output_padding, groups, dilation];
        Some((op, tensors.into_iter().chain(rest).collect()))
    } else {
        let op = match dims {
            1 => &ops::CONV1D,
            2 => &ops::CONV2D,
            3 => &ops::CONV3D,
            _ => return None,
        };
        Some((op, tensors.into_iter().chain([stride, padding, dilation, groups]).collect()))
    }
}

/// What `v` is the transpose of, when it is one of a matrix.
fn transposed(g: &Graph, v: ValueId) -> Option<ValueId> {
    let n = g.node(g.producer(v)?);
    let of = value(n.arg(0))?;
    if g.ty(of).rank() != 2 {
        return None;
    }
    let dim = |i: usize| int(n.arg(i)).map(|d| d.rem_euclid(2));
    let swaps = match n.op() {
        op if *op == ops::T || *op == ops::NUMPY_T => true,
        op if *op == ops::PERMUTE || *op == ops::PERMUTE_COPY => {
            ints(n.arg(1))?.iter().map(|d| d.rem_euclid(2)).eq([1, 0])
        }
        op if *op == ops::TRANSPOSE || *op == ops::SWAPAXES => dim(1)? != dim(2)?,
        _ => false,
    };
    swaps.then_some(of)
}

/// What `v` is with its last two dimensions swapped.
fn swaps_last_two(g: &Graph, v: ValueId) -> Option<ValueId> {
    let n = g.node(g.producer(v)?);
    let of = value(n.arg(0))?;
    let rank = g.ty(of).rank() as i64;
    if rank < 2 {
        return None;
    }
    let dim = |i: usize| int(n.arg(i)).map(|d| d.rem_euclid(rank));
    let swaps = match n.op() {
        op if *op == ops::PERMUTE => {
            let swapped = (0..rank - 2).chain([rank - 1, rank - 2]);
            ints(n.arg(1))?.iter().map(|d| d.rem_euclid(rank)).eq(swapped)
        }
        op if *op == ops::TRANSPOSE => {
            let (a, b) = (dim(1)?, dim(2)?);
            a != b && a.min(b) == rank - 2
        }
        _ => false,
    };
    swaps.then_some(of)
}

fn is_view(op: &OpDef) -> bool {
    [&ops::VIEW, &ops::RESHAPE, &ops::UNSAFE_VIEW, &ops::VIEW_COPY].contains(&op)
}

/// For a linear node between views that flatten all dimensions but the last and bring them back: the second view, and
/// the arguments of the linear node that takes its place.
fn unflattened(program: &Program, n: NodeId) -> Option<(NodeId, Vec<Arg>)> {
    let g = &program.graph;
    let node = g.node(n);
    if *node.op() != ops::LINEAR {
        return None;
    }
    let before = g.node(g.producer(value(node.arg(0))?)?);
    let [after] = g.value(node.output()).uses() else { return None };
    let after = after.node;
    if !is_view(before.op()) || !is_view(g.node(after).op()) || g.is_output(node.output()) {
        return None;
    }
    let x = value(before.arg(0))?;
    let (from, flat, to) = (g.ty(x), g.ty(before.output()), g.ty(g.node(after).output()));
    let (from_lead, from_last) = (&from.shape[..from.rank().checked_sub(1)?], from.shape.last()?);
    let (to_lead, to_last) = (&to.shape[..to.rank().checked_sub(1)?], to.shape.last()?);
    let numel: SymInt = from_lead.iter().cloned().product();
    let fits = from.rank() != 2
        && flat.shape[..] == [numel, from_last.clone()]
        && from_lead == to_lead
        && g.ty(node.output()).shape.last() == Some(to_last);
    fits.then(|| (after, vec![x.into(), node.arg(1).clone(), node.arg(2).clone()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    #[test]
    fn core_aten_becomes_what_it_was() {
        let mut p = text::parse(
            "program {
              symbol s0 in 1..8
              %x : f32[s0, 3, 8, 8] = input
              %w : f32[4, 3, 3, 3] = constant \"w\"
              %c : f32[4] = constant \"c\"
              %fc : f32[5, 36] = constant \"fc\"
              %b : f32[5] = constant \"b\"
              %conv : f32[s0, 4, 8, 8] = aten.convolution.default(%x, %w, none, stride=[1, 1], padding=[1, 1], dilation=[1, 1], transposed=false, output_padding=[0, 0], groups=1)
              %bn_0 : f32[s0, 4, 8, 8], %bn_1 : f32[0], %bn_2 : f32[0] = aten._native_batch_norm_legit_no_training.default(%conv, %c, %c, %c, %c, momentum=0.1, eps=0.001)
              %mp_0 : f32[s0, 4, 3, 3], %mp_1 : i64[s0, 4, 3, 3] = aten.max_pool2d_with_indices.default(%bn_0, kernel_size=[2, 2], stride=[2, 2], ceil_mode=false, padding=[0, 0], dilation=[2, 2])
              %v : f32[s0, 1, 36] = aten.view.default(%mp_0, size=[s0, 1, 36])
              %flat : f32[s0, 36] = aten.view.default(%v, size=[s0, 36])
              %t : f32[36, 5] = aten.permute.default(%fc, dims=[1, 0])
              %mm : f32[s0, 5] = aten.addmm.default(%b, %flat, %t)
              %back : f32[s0, 1, 5] = aten.view.default(%mm, size=[s0, 1, 5])
              %t2 : f32[5, 36] = aten.permute.default(%t, dims=[1, 0])
              %no : f32[s0, 36] = aten.mm.default(%mm, %fc)
              %soft : f32[s0, 1, 5] = aten._softmax.default(%back, dim=-1, half_to_float=false)
              return %soft, %no
            }",
        )
        .unwrap();
        assert!(Recompose.run(&mut p).unwrap());
        verify(&p).unwrap();
        let g = &p.graph;
        let nodes: Vec<String> =
            g.nodes().map(|n| format!("{} {}", g.node(n).name, g.node(n).op().name)).collect();
        // `mm` is read by `no` as well, so it keeps its two dimensions.
        assert_eq!(
            nodes,
            [
                "conv aten.conv2d.default",
                "bn aten.batch_norm.default",
                "mp aten.max_pool2d.default",
                "v aten.view.default",
                "flat aten.view.default",
                "mm aten.linear.default",
                "back aten.view.default",
                "no aten.mm.default",
                "soft aten.softmax.int",
            ]
        );
        assert!(!Recompose.run(&mut p).unwrap());
    }

    #[test]
    fn steps_of_a_flipped_sequence() {
        let mut p = text::parse(
            "program {
              %x : f32[5, 3] = input
              %f : f32[5, 3] = aten.flip.default(%x, dims=[0])
              %a : f32[1, 3] = aten.slice.Tensor(%f, start=1, end=2)
              %b : f32[2, 3] = aten.slice.Tensor(%f, start=1, end=3)
              %c : f32[5, 1] = aten.slice.Tensor(%f, dim=1, start=1, end=2)
              return %a, %b, %c
            }",
        )
        .unwrap();
        assert!(Recompose.run(&mut p).unwrap());
        verify(&p).unwrap();
        let text = text::print(&p);
        assert!(text.contains("%a : f32[1, 3] = aten.slice.Tensor(%x, start=3, end=4)"), "{text}");
        assert!(text.contains("%b : f32[2, 3] = aten.slice.Tensor(%f, start=1, end=3)"), "{text}");
        assert!(text.contains("%c : f32[5, 1] = aten.slice.Tensor(%f, dim=1, start=1, end=2)"), "{text}");
    }

    #[test]
    fn views_around_a_linear_go() {
        let mut p = text::parse(
            "program {
              %x : f32[2, 3, 4] = input
              %w : f32[5, 4] = constant \"w\"
              %flat : f32[6, 4] = aten.view.default(%x, size=[6, 4])
              %t : f32[4, 5] = aten.t.default(%w)
              %mm : f32[6, 5] = aten.mm.default(%flat, %t)
              %back : f32[2, 3, 5] = aten.view.default(%mm, size=[2, 3, 5])
              return %back
            }",
        )
        .unwrap();
        assert!(Recompose.run(&mut p).unwrap());
        verify(&p).unwrap();
        let lines: Vec<String> = p.graph.nodes().map(|n| text::node_line(&p, n)).collect();
        assert_eq!(lines, ["%back : f32[2, 3, 5] = aten.linear.default(%x, %w)"]);
    }
}
