//! The steps of recurrent layers become loops: the program of one step, lowered like any other, and a node that repeats it.

use super::outline::Copier;
use super::{Lowered, Place, lower_from};
use crate::backend::Lowering;
use crate::flow::LowerError;
use crate::ir::{Arg, Key, NewNode, Node, NodeId, Program, TensorType, ValueId};
use crate::ops::{self, views};
use crate::passes::{DeadCode, Decompose, PassError, PassFailure, Pipeline, decompose, fold_constants};
use std::sync::Arc;

/// Makes loops of all recurrent layers that no backend has taken. Delegates are numbered from `first`.
pub fn run(lowered: &mut Lowered, backends: &[&dyn Lowering], first: usize) -> Result<(), LowerError> {
    let layers = Decompose { keep: |p, n| !decompose::is_sequence(p.graph.node(n).op()) };
    Pipeline::run_one(&layers, &mut lowered.program)?;
    let g = &lowered.program.graph;
    let steps: Vec<NodeId> = g.nodes().filter(|&n| decompose::is_steps(g.node(n).op())).collect();
    for &n in &steps {
        repeat(lowered, backends, n, first)?;
    }
    if !steps.is_empty() {
        Pipeline::run_one(&DeadCode, &mut lowered.program)?;
    }
    Ok(())
}

/// Replaces steps by a loop.
fn repeat(
    lowered: &mut Lowered,
    backends: &[&dyn Lowering],
    n: NodeId,
    first: usize,
) -> Result<(), LowerError> {
    let node = lowered.program.graph.node(n).clone();
    let failed = |reason: PassFailure| PassError::Failed { pass: "loops", reason };
    let broken = |e: ops::InferError| failed(PassFailure(format!("{}: {}", node.name, e.message)));
    let (body, captured) = body(&lowered.program, &node)?;
    let inner = lower_from(body, backends, first + lowered.delegates.len())?;
    // The steps are where their body went, and weights are with it.
    for p in lowered.nodes.iter_mut().filter(|p| matches!(p.place, Place::Outside(_))) {
        let within = inner.nodes.iter().find(|q| q.name == p.name && q.op == p.op);
        if p.name == node.name {
            p.place = place(&inner);
        } else if let Some(q) = within {
            p.place = q.place.clone();
        }
    }

    let g = &mut lowered.program.graph;
    let reverse = node.arg(5).clone();
    let (outputs, states) = (node.outputs()[0], &node.outputs()[1..]);
    let args = [
        Arg::from(lowered.bodies.len()),
        Arg::Values(node.arg(1).values().collect()),
        Arg::Values(node.arg(0).values().collect()),
        Arg::Values(captured),
        reverse.clone(),
    ];
    let mut repeated = NewNode::new(&ops::LOOP, args).like(&node);
    repeated.types = Some(states.iter().chain([&outputs]).map(|&v| g.ty(v).clone()).collect());
    let repeated = g.insert_before(n, repeated).map_err(broken)?;
    let made = g.node(repeated).outputs().to_vec();
    states.iter().zip(&made).for_each(|(&from, &to)| g.replace_uses(from, to, None));
    let mut stacked = made[states.len()];
    // A loop stacks its results in the order they come.
    if views::bool(&reverse) == Some(true) {
        let turned = NewNode::new(&ops::FLIP, [stacked.into(), Arg::ints([0])]).in_module(&node.module);
        let turned = g.insert_before(n, turned).map_err(broken)?;
        stacked = g.node(turned).output();
    }
    g.replace_uses(outputs, stacked, None);
    g.erase(n);
    lowered.delegates.extend(inner.delegates);
    lowered.bodies.push(inner.program);
    Ok(())
}

/// One step as a program, and what it reads from outside. Its inputs are the states, the step's part of the products with
/// the inputs, and these; its outputs are the new states and what is stacked: the first of them.
fn body(program: &Program, node: &Node) -> Result<(Program, Vec<ValueId>), LowerError> {
    let g = &program.graph;
    let mut body = Copier::new(program);
    let states: Vec<ValueId> = node
        .arg(1)
        .values()
        .zip(["h", "c"])
        .map(|(v, name)| body.fresh_input(name, g.ty(v).clone()))
        .collect();
    let gates = node.arg(0).values().next().map(|v| g.ty(v));
    let step = gates.map(|ty| TensorType { dtype: ty.dtype, shape: ty.shape[1..].to_vec() });
    let failed = |reason: PassFailure| PassError::Failed { pass: "loops", reason };
    let step = step.ok_or_else(|| failed(PassFailure(format!("{} reads no gates", node.name))))?;
    let x = body.fresh_input("x", step);
    let fixed = fold_constants::constant_values(program);
    let mut captured = vec![];
    let mut weights = [None; 3];
    for (weight, i) in weights.iter_mut().zip(2..) {
        if let Some(v) = views::value(node.arg(i)) {
            *weight = Some(bring(&mut body, &fixed, v, &mut captured)?);
        }
    }
    let mut made = decompose::one_step(&mut body.to, node, x, &states, weights).map_err(failed)?;
    made.extend(made.first().copied());
    let name = |&v: &ValueId| body.to.graph.value(v).name.clone();
    body.to.signature.outputs = made.iter().map(name).collect::<Vec<Arc<str>>>();
    body.to.graph.set_outputs(made);
    Ok((body.to, captured))
}

/// A weight in the body: with all that makes it of constants, or as an input.
fn bring(
    body: &mut Copier<'_>,
    fixed: &[bool],
    v: ValueId,
    captured: &mut Vec<ValueId>,
) -> Result<ValueId, LowerError> {
    let from = body.from;
    if body.known(v).is_none() && from.frozen(v).is_none() {
        match from.graph.producer(v).filter(|_| fixed[v.index()]) {
            Some(n) => {
                for o in from.graph.node(n).operands() {
                    bring(body, fixed, o, captured)?;
                }
                body.node(n)?;
            }
            None => {
                body.input(v);
                captured.push(v);
            }
        }
    }
    Ok(body.value(v))
}

/// Where a step went: to one delegate, or why not.
fn place(step: &Lowered) -> Place {
    let mut outside: Vec<&str> = step.outside().map(|(_, why)| why).collect();
    outside.dedup();
    match step.nodes.first().map(|p| &p.place) {
        Some(first @ Place::Delegate(_)) if outside.is_empty() => first.clone(),
        _ => Place::Outside(format!("parts of its step stay outside: {}", outside.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendError, Blob, Claim};
    use crate::ir::{text, verify};

    /// Takes everything but tanh, and dequantized weights with the layers that read them.
    #[derive(Debug)]
    struct Fake;

    impl Lowering for Fake {
        fn delegate_id(&self) -> &'static str {
            "Fake"
        }
        fn passes(&self) -> Pipeline {
            Pipeline::default().then(Decompose { keep: |p, n| !decompose::is_sequence(p.graph.node(n).op()) })
        }
        fn claim(&self, program: &Program, node: NodeId) -> Claim {
            match program.graph.node(node).op().short_name() {
                "linear" => {
                    let g = &program.graph;
                    Claim::Take(g.node(node).operands().skip(1).filter_map(|v| g.producer(v)).collect())
                }
                "dequantize_per_channel" => Claim::Leave("no weights alone".into()),
                "add" | "select" | "unsqueeze" => Claim::Take(vec![]),
                other => Claim::Leave(format!("no {other}").into()),
            }
        }
        fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
            Ok(Blob { bytes: text::print(part).into_bytes(), ..Blob::default() })
        }
    }

    /// An RNN with a weight in integers, and a bias that comes from outside.
    fn lowered(steps: usize, both: bool, backends: &[&dyn Lowering]) -> Lowered {
        let (directions, weights) =
            if both { (2, "%w, %u, %b, %b, %w, %u, %b, %b") } else { (1, "%w, %u, %b, %b") };
        let text = format!(
            "program {{
              %x : f32[{steps}, 2, 3] = input
              %h : f32[{directions}, 2, 4] = input
              %b : f32[4] = input
              %w : f32[4, 3] = constant \"w\"
              %q : i8[4, 4] = constant \"q\"
              %s : f32[4] = constant \"s\"
              %z : i64[4] = constant \"z\"
              %u : f32[4, 4] = quantized_decomposed.dequantize_per_channel.default(%q, %s, %z, axis=0, quant_min=-127, quant_max=127, dtype=i8)
              %y : f32[{steps}, 2, {width}], %hn : f32[{directions}, 2, 4] = aten.rnn_tanh.input(%x, %h, [{weights}], has_biases=true, num_layers=1, dropout=0.0, train=false, bidirectional={both}, batch_first=false)
              return %y, %hn
            }}",
            width = 4 * directions,
        );
        let l = super::super::lower(text::parse(&text).unwrap(), backends).unwrap();
        [&l.program].into_iter().chain(&l.bodies).for_each(|p| verify(p).unwrap());
        l
    }

    fn operators(p: &Program) -> Vec<&'static str> {
        p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect()
    }

    #[test]
    fn a_step_is_lowered_once_and_repeated() {
        let l = lowered(100, false, &[&Fake]);
        assert_eq!(operators(&l.program), ["call_delegate", "loop", "call_delegate"]);
        let [body] = &l.bodies[..] else { panic!("{:?}", l.bodies) };
        assert_eq!(operators(body), ["call_delegate", "tanh"]);
        // The new state is carried on and stacked; the bias is captured; the weight came along.
        let (inputs, outputs) = (body.graph.inputs(), body.graph.outputs());
        assert_eq!((inputs.len(), outputs.len(), outputs[0]), (3, 2, outputs[1]));
        assert_eq!(l.delegates[2].nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["u", "linear", "add"]);
        let call = body.graph.nodes().next().unwrap();
        assert_eq!(*body.graph.node(call).arg(0), 2.into());
        let place = |name: &str| l.nodes.iter().find(|p| &*p.name == name).map(|p| p.place.clone());
        assert_eq!(place("u"), Some(Place::Delegate(2)));
        let why = Place::Outside("parts of its step stay outside: no tanh".into());
        assert_eq!(place("rnn_tanh_steps"), Some(why));
    }

    #[test]
    fn what_goes_backwards_is_turned_round() {
        let l = lowered(5, true, &[]);
        assert!(l.delegates.is_empty());
        let g = &l.program.graph;
        let loops: Vec<NodeId> = g.nodes().filter(|&n| *g.node(n).op() == ops::LOOP).collect();
        let ways: Vec<_> = loops.iter().map(|&n| views::bool(g.node(n).arg(4))).collect();
        assert_eq!(ways, [Some(false), Some(true)]);
        let flips = g.nodes().filter(|&n| *g.node(n).op() == ops::FLIP).count();
        assert_eq!((flips, l.bodies.len()), (1, 2));
    }

    #[test]
    fn programs_do_not_grow_with_steps() {
        let count = |l: &Lowered| (l.program.graph.nodes().len(), l.bodies[0].graph.nodes().len());
        assert_eq!(count(&lowered(3, true, &[&Fake])), count(&lowered(3000, true, &[&Fake])));
    }
}
