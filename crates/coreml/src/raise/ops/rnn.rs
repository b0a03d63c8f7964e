//! Recurrent layers. Core ML orders gates otherwise than PyTorch, has the states of both directions side by side, and one bias.

use super::{Table, all, new};
use crate::raise::call::Call;
use crate::raise::{Raised, Value, constants};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    new("lstm", |c| {
        for name in ["peephole", "peephole_back", "clip"] {
            if c.has(name) {
                return Err(format!("argument {name} has no counterpart in PyTorch"));
            }
        }
        activations(
            c,
            &[("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh")],
        )?;
        layer(c, &ops::LSTM, &["initial_h", "initial_c"], &[0, 1, 3, 2])
    }),
    new("gru", |c| {
        activations(c, &[("recurrent_activation", "sigmoid"), ("activation", "tanh")])?;
        if !c.truth("reset_after", false)? {
            return Err(
                "argument reset_after is false; PyTorch resets after the product with the state".into()
            );
        }
        layer(c, &ops::GRU, &["initial_h"], &[0, 2, 1])
    }),
    new("rnn", |c| {
        let op = match &*c.str("activation", "tanh")? {
            "tanh" => &ops::RNN_TANH,
            "relu" => &ops::RNN_RELU,
            other => return Err(format!("argument activation is {other:?}, which PyTorch has not")),
        };
        layer(c, op, &["initial_h"], &[0])
    }),
];

/// Refuses what is not PyTorch's choice.
fn activations(c: &Call<'_>, usual: &[(&str, &str)]) -> Raised<()> {
    for (name, usual) in usual {
        let found = c.str(name, usual)?;
        if found != *usual {
            return Err(format!("argument {name} is {found:?}; PyTorch has {usual}"));
        }
    }
    Ok(())
}

/// A layer, of one direction or two. `order` says where PyTorch's gates are among Core ML's.
fn layer(c: &mut Call<'_>, op: &'static OpDef, states: &[&str], order: &[i64]) -> Raised<Vec<Value>> {
    let mut x = c.tensor("x")?;
    let direction = c.str("direction", "forward")?;
    let (both, reverse) = match &*direction {
        "forward" => (false, false),
        "reverse" => (false, true),
        "bidirectional" if op == &ops::LSTM => (true, false),
        other => return Err(format!("argument direction is {other:?}")),
    };
    let biased = ["bias", "bias_back", "input_bias"].iter().any(|name| c.has(name));
    let mut params = vec![];
    for back in ["", "_back"].into_iter().take(1 + usize::from(both)) {
        let [ih, hh] = ["weight_ih", "weight_hh"].map(|name| gates(c, &format!("{name}{back}"), order));
        let (ih, hh) = (ih?, hh?);
        let rows =
            c.ty(ih).shape.first().and_then(|d| d.known()).ok_or("argument weight_ih has an open size")?;
        params.extend([ih, hh]);
        if biased {
            // One bias for the inputs, and for a GRU one for the states.
            let names = if op == &ops::GRU { ["input_bias", "bias"] } else { ["bias", ""] };
            for name in names {
                let name = format!("{name}{back}");
                params.push(if c.has(&name) { gates(c, &name, order)? } else { zeros(c, rows)? });
            }
        }
    }
    let directions = 1 + i64::from(both);
    let mut given = vec![];
    for name in states {
        // `[batch, directions · size]` to `[directions, batch, size]`
        let s = c.tensor(name)?;
        let [batch, size] = &c.ty(s).shape[..] else {
            return Err(format!("argument {name} is {}; batch and size are needed", c.ty(s)));
        };
        let shape: Vec<SymInt> = vec![batch.clone(), directions.into(), size.floor_div(&directions.into())];
        let s = c.reshape(s, shape)?;
        given.push(c.permute(s, &[1, 0, 2])?);
    }
    let flip = |c: &mut Call<'_>, v: ValueId| c.node(&ops::FLIP, [v.into(), Arg::ints([0])]);
    if reverse {
        x = flip(c, x)?;
    }
    let hx: Arg = if op == &ops::LSTM { given.into() } else { given[0].into() };
    let args = [
        x.into(),
        hx,
        params.into(),
        biased.into(),
        1.into(),
        Arg::Float(0.0),
        false.into(),
        both.into(),
        false.into(),
    ];
    let made = c.nodes(op, args)?;
    let mut results = vec![];
    for &s in &made[1..] {
        let shape = c.ty(s).shape.clone();
        let s = c.permute(s, &[1, 0, 2])?;
        results.push(c.reshape(s, vec![shape[1].clone(), shape[2].clone() * directions])?);
    }
    let sequence = match (c.truth("output_sequence", false)?, reverse) {
        (true, false) => made[0],
        (true, true) => flip(c, made[0])?,
        (false, _) => c.node(&ops::UNSQUEEZE, [results[0].into(), 0.into()])?,
    };
    all(std::iter::once(sequence).chain(results))
}

/// A bias that is not there.
fn zeros(c: &mut Call<'_>, rows: i64) -> Raised<ValueId> {
    let t = Tensor::zeros(DType::F32, &[usize::try_from(rows).unwrap_or(0)]).map_err(|e| e.to_string())?;
    Ok(c.constant_tensor("zeros", t))
}

/// A weight or bias with its gates in PyTorch's order: those of a constant are moved, those of what is dequantized are cut and
/// joined.
fn gates(c: &mut Call<'_>, name: &str, order: &[i64]) -> Raised<ValueId> {
    if order.len() == 1 {
        return c.tensor(name);
    }
    let n = order.len();
    if let Ok(Some(k)) = c.opt_constant(name) {
        let t = constants::tensor(&k).map_err(|e| format!("argument {name}: {e}"))?;
        let rows = t.shape().first().filter(|r| *r % n == 0);
        rows.ok_or_else(|| format!("argument {name} is {:?}, it has no {n} gates", k.ty))?;
        let size = t.bytes().len() / n;
        let parts: Vec<&[u8]> = order.iter().map(|&i| &t.bytes()[i as usize * size..][..size]).collect();
        let moved = Tensor::from_bytes(t.dtype(), t.shape(), parts.concat().into());
        return Ok(c.constant_tensor(name, moved.map_err(|e| e.to_string())?));
    }
    let w = c.tensor(name)?;
    let rows = c.ty(w).shape.first().and_then(|d| d.known()).filter(|r| r % n as i64 == 0);
    let size = rows.ok_or_else(|| format!("argument {name} is {}, it has no {n} gates", c.ty(w)))? / n as i64;
    let sizes = Arg::ints(vec![size; n]);
    let parts = c.nodes(&ops::SPLIT_WITH_SIZES, [w.into(), sizes, 0.into()])?;
    let parts: Vec<ValueId> = order.iter().map(|&i| parts[i as usize]).collect();
    c.node(&ops::CAT, [parts.into(), 0.into()])
}
