//! Recurrent layers and cells. A stack becomes its layers; a layer becomes the product with the inputs of all steps and its
//! steps, which lowering makes a loop of: nothing grows with the number of steps.

use super::{Build, PassFailure, Table, Values, integer};
use crate::ir::{Arg, Node, NodeId, Program, ValueId};
use crate::ops::{self, OpDef};
use crate::passes::Pass;
use crate::symint::SymInt;

#[derive(Copy, Clone, PartialEq)]
enum Kind {
    Lstm,
    Gru,
    Tanh,
    Relu,
}

/// What a state is multiplied with.
struct Hidden {
    weight: ValueId,
    bias: Arg,
    /// Makes the state of an LSTM smaller.
    projection: Option<ValueId>,
}

fn linear(b: &mut Build<'_>, x: ValueId, w: ValueId, bias: &Arg) -> Result<ValueId, PassFailure> {
    b.op(&ops::LINEAR, [x.into(), w.into(), bias.clone()])
}

/// Cuts the last dimension into equal parts.
fn gates(b: &mut Build<'_>, x: ValueId, count: i64) -> Result<Vec<ValueId>, PassFailure> {
    if count == 1 {
        return Ok(vec![x]);
    }
    let last = b.ty(x).rank() - 1;
    let size = b.ty(x).shape[last].floor_div(&count.into());
    b.all(&ops::SPLIT_WITH_SIZES, [x.into(), Arg::Ints(vec![size; count as usize]), last.into()])
}

/// One step: gates from the input are given. Gives the new state and, for an LSTM, the new cell.
fn step(
    b: &mut Build<'_>,
    kind: Kind,
    w: &Hidden,
    x: ValueId,
    h: ValueId,
    c: Option<ValueId>,
) -> Result<(ValueId, Option<ValueId>), PassFailure> {
    let y = linear(b, h, w.weight, &w.bias)?;
    match (kind, c) {
        (Kind::Lstm, Some(c)) => {
            let sum = b.op(&ops::ADD, [y.into(), x.into()])?;
            let g = gates(b, sum, 4)?;
            let i = b.op(&ops::SIGMOID, [g[0].into()])?;
            let f = b.op(&ops::SIGMOID, [g[1].into()])?;
            let n = b.op(&ops::TANH, [g[2].into()])?;
            let o = b.op(&ops::SIGMOID, [g[3].into()])?;
            let kept = b.op(&ops::MUL, [f.into(), c.into()])?;
            let new = b.op(&ops::MUL, [i.into(), n.into()])?;
            let c = b.op(&ops::ADD, [kept.into(), new.into()])?;
            let t = b.op(&ops::TANH, [c.into()])?;
            let h = b.op(&ops::MUL, [o.into(), t.into()])?;
            let h = match w.projection {
                Some(p) => linear(b, h, p, &Arg::None)?,
                None => h,
            };
            Ok((h, Some(c)))
        }
        (Kind::Gru, _) => {
            let (gx, gh) = (gates(b, x, 3)?, gates(b, y, 3)?);
            let r = b.op(&ops::ADD, [gh[0].into(), gx[0].into()])?;
            let r = b.op(&ops::SIGMOID, [r.into()])?;
            let z = b.op(&ops::ADD, [gh[1].into(), gx[1].into()])?;
            let z = b.op(&ops::SIGMOID, [z.into()])?;
            let n = b.op(&ops::MUL, [gh[2].into(), r.into()])?;
            let n = b.op(&ops::ADD, [gx[2].into(), n.into()])?;
            let n = b.op(&ops::TANH, [n.into()])?;
            let d = b.op(&ops::SUB, [h.into(), n.into()])?;
            let d = b.op(&ops::MUL, [d.into(), z.into()])?;
            Ok((b.op(&ops::ADD, [d.into(), n.into()])?, None))
        }
        _ => {
            let sum = b.op(&ops::ADD, [y.into(), x.into()])?;
            Ok((b.op(if kind == Kind::Relu { &ops::RELU } else { &ops::TANH }, [sum.into()])?, None))
        }
    }
}

/// `(input, state, w_ih, w_hh, b_ih, b_hh)`
fn cell(b: &mut Build<'_>, n: &Node, kind: Kind) -> Values {
    let states: Vec<ValueId> = n.arg(1).values().collect();
    let w = Hidden { weight: b.tensor(n, 3)?, bias: n.arg(5).clone(), projection: None };
    let (x, weight) = (b.tensor(n, 0)?, b.tensor(n, 2)?);
    let x = linear(b, x, weight, n.arg(4))?;
    let (h, c) = step(b, kind, &w, x, states[0], states.get(1).copied())?;
    Ok(Some([Some(h), c].into_iter().flatten().collect()))
}

/// Arguments of `(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`.
struct Stack {
    x: ValueId,
    states: Vec<ValueId>,
    params: Vec<ValueId>,
    layers: usize,
    directions: usize,
    biases: bool,
    batch_first: bool,
}

impl Stack {
    fn of(b: &Build<'_>, n: &Node) -> Result<Stack, PassFailure> {
        let flag = |i: usize| ops::views::bool(n.arg(i)).unwrap_or(false);
        let layers = usize::try_from(integer(n, 4)?).map_err(|_| PassFailure("it has no layers".into()))?;
        let dropout = ops::views::float(n.arg(5)).unwrap_or(0.0);
        if flag(6) && dropout > 0.0 && layers > 1 {
            let why = "it drops out at random; export in evaluation mode, after model.eval()";
            return Err(PassFailure(why.into()));
        }
        let stack = Stack {
            x: b.tensor(n, 0)?,
            states: n.arg(1).values().collect(),
            params: n.arg(2).values().collect(),
            layers,
            directions: 1 + usize::from(flag(7)),
            biases: flag(3),
            batch_first: flag(8),
        };
        let (count, least) = (stack.layers * stack.directions, if stack.biases { 4 } else { 2 });
        if count == 0 || !stack.params.len().is_multiple_of(count) || stack.params.len() / count < least {
            let got = stack.params.len();
            return Err(PassFailure(format!("{got} weights do not fit {count} layers and directions")));
        }
        Ok(stack)
    }

    /// Weights of one layer in one direction.
    fn per(&self) -> usize {
        self.params.len() / (self.layers * self.directions)
    }
}

/// Whether a node is a recurrent layer, or a stack of them, over all steps of a sequence.
pub fn is_sequence(op: &OpDef) -> bool {
    [&ops::LSTM, &ops::GRU, &ops::RNN_TANH, &ops::RNN_RELU].contains(&op)
}

/// Whether a node is a stack of more than one recurrent layer. The inputs of all but the first are inside.
pub fn is_stack(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    is_sequence(node.op()) && ops::views::int(node.arg(4)) != Some(1)
}

/// A stack as layers: each reads what the one before gives.
fn stack(b: &mut Build<'_>, n: &Node, s: &Stack) -> Values {
    let per = s.per() * s.directions;
    let (mut x, mut last) = (s.x, vec![vec![]; s.states.len()]);
    for layer in 0..s.layers {
        let at = [layer, layer + 1].map(|l| SymInt::from(l * s.directions));
        let states: Result<Vec<ValueId>, PassFailure> =
            s.states.iter().map(|&h| b.slice(h, 0, at[0].clone(), at[1].clone())).collect();
        let mut args = n.args().to_vec();
        args[0] = x.into();
        args[1] = match (&args[1], &states?[..]) {
            (Arg::Value(_), [h]) => (*h).into(),
            (_, list) => Arg::Values(list.to_vec()),
        };
        args[2] = Arg::Values(s.params[layer * per..(layer + 1) * per].to_vec());
        args[4] = 1.into();
        let made = b.all(n.op(), args)?;
        x = made[0];
        made[1..].iter().zip(&mut last).for_each(|(&v, list)| list.push(v));
    }
    let mut out = vec![x];
    for list in last {
        out.push(b.cat(list, 0)?);
    }
    Ok(Some(out))
}

/// A stack, or one layer in one or both directions.
fn layers(b: &mut Build<'_>, n: &Node, op: &'static OpDef) -> Values {
    let s = Stack::of(b, n)?;
    if s.layers > 1 {
        return stack(b, n, &s);
    }
    let per = s.per();
    let projected = per % 2 == 1;
    let (mut sides, mut last) = (vec![], vec![vec![]; s.states.len()]);
    for (d, p) in s.params.chunks(per).enumerate() {
        let bias = |i: usize| if s.biases { Arg::Value(p[i]) } else { Arg::None };
        // Before anything is moved: backends look for the quantized input right here.
        let mut gates = linear(b, s.x, p[0], &bias(2))?;
        if s.batch_first {
            gates = b.permute(gates, &[1, 0, 2])?;
        }
        let states: Result<Vec<ValueId>, PassFailure> =
            s.states.iter().map(|&h| b.select(h, 0, d as i64)).collect();
        let projection = if projected { Arg::Value(p[per - 1]) } else { Arg::None };
        let args = [gates.into(), Arg::Values(states?), p[1].into(), bias(3), projection, Arg::Bool(d == 1)];
        let made = b.all(op, args)?;
        sides.push(made[0]);
        for (&v, list) in made[1..].iter().zip(&mut last) {
            list.push(b.op(&ops::UNSQUEEZE, [v.into(), 0.into()])?);
        }
    }
    let mut y = b.cat(sides, 2)?;
    if s.batch_first {
        y = b.permute(y, &[1, 0, 2])?;
    }
    let mut out = vec![y];
    for list in last {
        out.push(b.cat(list, 0)?);
    }
    Ok(Some(out))
}

fn kind(steps: &OpDef) -> Option<Kind> {
    Some(match steps {
        op if *op == ops::LSTM_STEPS => Kind::Lstm,
        op if *op == ops::GRU_STEPS => Kind::Gru,
        op if *op == ops::RNN_TANH_STEPS => Kind::Tanh,
        op if *op == ops::RNN_RELU_STEPS => Kind::Relu,
        _ => return None,
    })
}

/// Whether a node is the steps of a recurrent layer.
pub(crate) fn is_steps(op: &OpDef) -> bool {
    kind(op).is_some()
}

/// One of the steps that `n` takes, at the end of `program`: `x` and `states` are this step's, `w_hh`, `b_hh` and `w_hr`
/// the arguments of `n` as `program` has them. Gives the new states.
pub(crate) fn one_step(
    program: &mut Program,
    n: &Node,
    x: ValueId,
    states: &[ValueId],
    [w_hh, b_hh, w_hr]: [Option<ValueId>; 3],
) -> Result<Vec<ValueId>, PassFailure> {
    let missing = |what: &str| PassFailure(format!("{} has no {what}", n.name));
    let kind = kind(n.op()).ok_or_else(|| missing("steps"))?;
    let (&h, hidden) = states.first().zip(w_hh).ok_or_else(|| missing("state or weight"))?;
    let w = Hidden { weight: hidden, bias: b_hh.map_or(Arg::None, Arg::Value), projection: w_hr };
    let mut b = Build { program, at: None, module: n.module.clone(), made: vec![] };
    let (h, c) = step(&mut b, kind, &w, x, h, states.get(1).copied())?;
    Ok([Some(h), c].into_iter().flatten().collect())
}

fn lstm(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, &ops::LSTM_STEPS)
}
fn gru(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, &ops::GRU_STEPS)
}
fn rnn_tanh(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, &ops::RNN_TANH_STEPS)
}
fn rnn_relu(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, &ops::RNN_RELU_STEPS)
}
fn lstm_cell(b: &mut Build<'_>, n: &Node) -> Values {
    cell(b, n, Kind::Lstm)
}
fn gru_cell(b: &mut Build<'_>, n: &Node) -> Values {
    cell(b, n, Kind::Gru)
}
fn rnn_tanh_cell(b: &mut Build<'_>, n: &Node) -> Values {
    cell(b, n, Kind::Tanh)
}
fn rnn_relu_cell(b: &mut Build<'_>, n: &Node) -> Values {
    cell(b, n, Kind::Relu)
}

pub(super) const TABLE: Table = &[
    ("aten.lstm.input", lstm),
    ("aten.gru.input", gru),
    ("aten.rnn_tanh.input", rnn_tanh),
    ("aten.rnn_relu.input", rnn_relu),
    ("aten.lstm_cell.default", lstm_cell),
    ("aten.gru_cell.default", gru_cell),
    ("aten.rnn_tanh_cell.default", rnn_tanh_cell),
    ("aten.rnn_relu_cell.default", rnn_relu_cell),
];

/// Steps of recurrent layers one after another, for runtimes that have no loop: as long as there are no more than `most`,
/// and it is known how many.
#[derive(Copy, Clone, Debug)]
pub struct Unroll {
    /// The most steps.
    pub most: i64,
}

impl Pass for Unroll {
    fn name(&self) -> &'static str {
        "unroll"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let few = |p: &Program, n: &Node| {
            let gates = n.arg(0).values().next();
            gates.is_some_and(|v| p.graph.ty(v).shape[0].known().is_some_and(|c| 0 < c && c <= self.most))
        };
        super::expand(program, |p, n| {
            let n = p.graph.node(n);
            (is_steps(n.op()) && few(p, n)).then_some(unrolled as super::Rule)
        })
    }
}

/// `steps(gates, hx, w_hh, b_hh, w_hr, reverse)` with a node for each operator of each step.
fn unrolled(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, Some(kind)) = (b.tensor(n, 0)?, kind(n.op())) else { return Ok(None) };
    let mut states = n.arg(1).values();
    let (Some(mut h), mut c) = (states.next(), states.next()) else { return Ok(None) };
    let w =
        Hidden { weight: b.tensor(n, 2)?, bias: n.arg(3).clone(), projection: ops::views::value(n.arg(4)) };
    let Some(count) = b.ty(x).shape[0].known() else { return Ok(None) };
    let reverse = ops::views::bool(n.arg(5)) == Some(true);
    let mut all = vec![];
    for i in 0..count {
        let x = b.select(x, 0, if reverse { count - 1 - i } else { i })?;
        (h, c) = step(b, kind, &w, x, h, c)?;
        all.push(b.op(&ops::UNSQUEEZE, [h.into(), 0.into()])?);
    }
    if reverse {
        all.reverse();
    }
    let outputs = b.cat(all, 0)?;
    Ok(Some([Some(outputs), Some(h), c].into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};
    use crate::passes::Decompose;

    const STACK: &str = "program {
      %x : f32[7, 2, 3] = input
      %h : f32[2, 2, 4] = input
      %w0 : f32[12, 3] = constant \"w0\"
      %u0 : f32[12, 4] = constant \"u0\"
      %w1 : f32[12, 4] = constant \"w1\"
      %u1 : f32[12, 4] = constant \"u1\"
      %y : f32[7, 2, 4], %hn : f32[2, 2, 4] = aten.gru.input(%x, %h, [%w0, %u0, %w1, %u1], has_biases=false, num_layers=2, dropout=0.0, train=false, bidirectional=false, batch_first=false)
      return %y, %hn
    }";

    fn operators(p: &Program) -> Vec<&'static str> {
        p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect()
    }

    #[test]
    fn stacks_become_layers_and_layers_steps() {
        let mut p = text::parse(STACK).unwrap();
        assert!(Decompose { keep: |p, n| !is_stack(p, n) }.run(&mut p).unwrap());
        verify(&p).unwrap();
        assert_eq!(operators(&p), ["slice", "gru", "slice", "gru", "cat"]);
        assert!(!Decompose { keep: |p, n| !is_stack(p, n) }.run(&mut p).unwrap());
        assert!(Decompose { keep: |p, n| !is_sequence(p.graph.node(n).op()) }.run(&mut p).unwrap());
        verify(&p).unwrap();
        let layer = ["slice", "linear", "select", "gru_steps", "unsqueeze"];
        assert_eq!(operators(&p), [&layer[..], &layer, &["cat"]].concat());
    }

    #[test]
    fn few_steps_are_unrolled() {
        let mut p = text::parse(STACK).unwrap();
        Decompose { keep: |p, n| is_steps(p.graph.node(n).op()) }.run(&mut p).unwrap();
        assert!(!Unroll { most: 6 }.run(&mut p).unwrap());
        assert!(Unroll { most: 7 }.run(&mut p).unwrap());
        verify(&p).unwrap();
        let names = operators(&p);
        let count = |name: &str| names.iter().filter(|n| **n == name).count();
        assert_eq!((count("gru_steps"), count("tanh"), count("sigmoid")), (0, 14, 28));
    }

    #[test]
    fn weights_that_do_not_fit_are_refused() {
        let mut p = text::parse(&STACK.replace("%u0, %w1, %u1", "%u0, %w1")).unwrap();
        let e = Decompose { keep: |_, _| false }.run(&mut p).unwrap_err();
        assert!(e.0.contains("3 weights do not fit 2 layers"), "{}", e.0);
    }
}
