//! Recurrent layers and cells, step by step. The products with the inputs of all steps are one matrix product; the
//! program grows with the number of steps.
//!
//! The pieces are those of PyTorch's `run_decompositions()`, down to slices, joints and the order of operands: a quantizer
//! finds the same places in both forms.

use super::{Build, PassFailure, Table, Values};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

#[derive(Copy, Clone, PartialEq)]
enum Kind {
    Lstm,
    Gru,
    Tanh,
    Relu,
}

/// Weights of one layer in one direction.
struct Weights {
    input: ValueId,
    hidden: ValueId,
    input_bias: Arg,
    hidden_bias: Arg,
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
    w: &Weights,
    x: ValueId,
    h: ValueId,
    c: Option<ValueId>,
) -> Result<(ValueId, Option<ValueId>), PassFailure> {
    let y = linear(b, h, w.hidden, &w.hidden_bias)?;
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
    let w = Weights {
        input: b.tensor(n, 2)?,
        hidden: b.tensor(n, 3)?,
        input_bias: n.arg(4).clone(),
        hidden_bias: n.arg(5).clone(),
        projection: None,
    };
    let x = b.tensor(n, 0)?;
    let x = linear(b, x, w.input, &w.input_bias)?;
    let (h, c) = step(b, kind, &w, x, states[0], states.get(1).copied())?;
    Ok(Some([Some(h), c].into_iter().flatten().collect()))
}

/// Entry `i` of dimension 0, which stays.
fn slice(b: &mut Build<'_>, x: ValueId, i: usize) -> Result<ValueId, PassFailure> {
    b.op(&ops::SLICE, [x.into(), 0.into(), i.into(), (i + 1).into()])
}

/// As [`slice`], without dimension 0.
fn select(b: &mut Build<'_>, x: ValueId, i: usize) -> Result<ValueId, PassFailure> {
    let one = slice(b, x, i)?;
    squeeze(b, one)
}

fn squeeze(b: &mut Build<'_>, x: ValueId) -> Result<ValueId, PassFailure> {
    b.op(&ops::SQUEEZE_DIMS, [x.into(), Arg::ints([0])])
}

fn cat(b: &mut Build<'_>, list: Vec<ValueId>, dim: usize) -> Result<ValueId, PassFailure> {
    b.op(&ops::CAT, [Arg::Values(list), dim.into()])
}

/// `(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`
fn layers(b: &mut Build<'_>, n: &Node, kind: Kind) -> Values {
    let int = |i: usize| ops::views::int(n.arg(i)).and_then(|v| usize::try_from(v).ok());
    let flag = |i: usize| ops::views::bool(n.arg(i)).unwrap_or(false);
    let (Some(count), biases, both, batch_first) = (int(4), flag(3), flag(7), flag(8)) else {
        return Ok(None);
    };
    let dropout = ops::views::float(n.arg(5)).unwrap_or(0.0);
    if flag(6) && dropout > 0.0 && count > 1 {
        return Err(PassFailure(
            "it drops out at random; export in evaluation mode, after model.eval()".into(),
        ));
    }
    let (states, params): (Vec<ValueId>, Vec<ValueId>) =
        (n.arg(1).values().collect(), n.arg(2).values().collect());
    let mut x = b.tensor(n, 0)?;
    let batched = b.ty(x).rank() == 3;
    if batched && batch_first {
        x = b.permute(x, &[1, 0, 2])?;
    }
    let Some(steps) = b.ty(x).shape[0].known() else {
        return Err(PassFailure("the number of steps is dynamic; export with a fixed one".into()));
    };
    let directions = 1 + usize::from(both);
    let per = params.len() / (count * directions).max(1);
    let projected = per == 3 || per == 5;
    let (mut last_h, mut last_c) = (vec![], vec![]);
    for layer in 0..count {
        let mut sides = vec![];
        for d in 0..directions {
            let k = layer * directions + d;
            let p = &params[k * per..(k + 1) * per];
            let bias = |i: usize| if biases { Arg::Value(p[i]) } else { Arg::None };
            let w = Weights {
                input: p[0],
                hidden: p[1],
                input_bias: bias(2),
                hidden_bias: bias(3),
                projection: projected.then(|| p[per - 1]),
            };
            let all = linear(b, x, w.input, &w.input_bias)?;
            // States keep their dimension 0, in which the steps are joined.
            let mut h = slice(b, states[0], k)?;
            let mut c = match states.get(1) {
                Some(&c) => Some(slice(b, c, k)?),
                None => None,
            };
            let mut outs = vec![None; steps as usize];
            for t in 0..steps {
                let t = if d == 1 { steps - 1 - t } else { t };
                let xt = select(b, all, t as usize)?;
                (h, c) = step(b, kind, &w, xt, h, c)?;
                outs[t as usize] = Some(h);
            }
            sides.push(cat(b, outs.into_iter().flatten().collect(), 0)?);
            last_h.push(h);
            last_c.extend(c);
        }
        x = match sides[..] {
            [one] => one,
            _ => {
                let last = b.ty(sides[0]).rank() - 1;
                cat(b, sides, last)?
            }
        };
    }
    if batched && batch_first {
        x = b.permute(x, &[1, 0, 2])?;
    }
    let mut out = vec![x];
    for list in [last_h, last_c] {
        if list.is_empty() {
            continue;
        }
        // A stack, as PyTorch decomposes it: joined, then given its dimensions.
        let mut shape = b.ty(list[0]).shape.clone();
        shape[0] = SymInt::Known(list.len() as i64);
        let parts: Result<Vec<ValueId>, PassFailure> = list.into_iter().map(|v| squeeze(b, v)).collect();
        let joined = cat(b, parts?, 0)?;
        out.push(b.op(&ops::VIEW, [joined.into(), Arg::Ints(shape)])?);
    }
    Ok(Some(out))
}

fn lstm(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, Kind::Lstm)
}
fn gru(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, Kind::Gru)
}
fn rnn_tanh(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, Kind::Tanh)
}
fn rnn_relu(b: &mut Build<'_>, n: &Node) -> Values {
    layers(b, n, Kind::Relu)
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
