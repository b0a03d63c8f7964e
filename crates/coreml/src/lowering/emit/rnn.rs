//! Recurrent layers: Core ML's own where it has them, step by step otherwise.

use super::binary::apply;
use super::shape::concat;
use super::unary::function;
use super::{Emitted, Table, int, out, truth};
use crate::Target;
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{Constant, DType, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::LSTM, |b, n| layer(b, n, "lstm", None)),
    (&ops::RNN_TANH, |b, n| layer(b, n, "rnn", Some("tanh"))),
    (&ops::RNN_RELU, |b, n| layer(b, n, "rnn", Some("relu"))),
    (&ops::LSTM_STEPS, steps),
    (&ops::GRU_STEPS, steps),
    (&ops::RNN_TANH_STEPS, steps),
    (&ops::RNN_RELU_STEPS, steps),
];

/// Steps that are written out, at most.
const MOST_STEPS: i64 = 256;

/// PyTorch's gates are input, forget, cell and output; Core ML has the cell last.
const GATES: [usize; 4] = [0, 1, 3, 2];

/// A layer of Core ML's own: all steps, in one direction or in both. Before iOS 17 such know single floats only.
fn layer(
    b: &mut Builder<'_>,
    n: &Node,
    op: &'static str,
    activation: Option<&'static str>,
) -> Emitted<Vec<Var>> {
    let Arg::Values(params) = n.arg(2) else { return Err("its weights are no list".into()) };
    let (biases, directions) = (truth(n, 3)?, 1 + usize::from(truth(n, 7)?));
    let per = if biases { 4 } else { 2 };
    if int(n, 4)? != 1 || params.len() != per * directions {
        return Err("Core ML has single layers, without projections".into());
    }
    let fixed = params.iter().map(|&v| b.program.frozen(v)).collect::<Option<Vec<_>>>();
    let params = fixed.ok_or("Core ML takes constant weights only")?;
    let outside = b.float;
    if b.settings.target < Target::Ios17 {
        b.float = DType::F32;
    }
    let float = b.float;
    let first = truth(n, 8)?;
    let x = b.arg(n, 0)?;
    let x = if first { super::shape::transpose(b, x, &[1, 0, 2]) } else { x };
    let states: Vec<_> = n.arg(1).values().collect();
    let (mut sides, mut last) = (vec![], vec![vec![]; states.len()]);
    for (d, p) in params.chunks(per).enumerate() {
        let gates = p[0].shape()[0] / p[1].shape()[1].max(1);
        let mut arranged = vec![];
        for t in p {
            arranged.push(if b.is_rehearsal() { vec![] } else { reordered(&t.to_f32(), gates) });
        }
        let mut inputs: Vec<(&str, In)> =
            vec![("x", if d == 0 { (&x).into() } else { reversed(b, &x).into() })];
        for (name, &v) in ["initial_h", "initial_c"].into_iter().zip(&states) {
            let state = b.value(v)?;
            inputs.push((name, super::index::entry(b, state, 0, &SymInt::from(d))?.into()));
        }
        inputs.push(("weight_ih", Constant::floats(float, p[0].shape(), &arranged[0]).into()));
        inputs.push(("weight_hh", Constant::floats(float, p[1].shape(), &arranged[1]).into()));
        if biases {
            let sum: Vec<f32> = arranged[2].iter().zip(&arranged[3]).map(|(a, b)| a + b).collect();
            inputs.push(("bias", Constant::floats(float, p[2].shape(), &sum).into()));
        }
        inputs.push(("direction", "forward".into()));
        inputs.push(("output_sequence", true.into()));
        inputs.extend(activation.map(|a| ("activation", a.into())));
        let size = SymInt::from(p[1].shape()[1]);
        let state = Type { dtype: float, shape: vec![x.ty.shape[1].clone(), size.clone()] };
        let all = Type { dtype: float, shape: vec![x.ty.shape[0].clone(), x.ty.shape[1].clone(), size] };
        let types = [vec![all], vec![state; states.len()]].concat();
        let made = b.all(op, inputs, types);
        sides.push(if d == 0 { made[0].clone() } else { reversed(b, &made[0]) });
        made[1..].iter().zip(&mut last).for_each(|(v, list)| list.push(v.clone()));
    }
    b.float = outside;
    let mut ty = sides[0].ty.clone();
    ty.shape[2] = ty.shape[2].clone() * directions as i64;
    let y = concat(b, sides, 2, ty);
    let mut results = vec![if first { super::shape::transpose(b, y, &[1, 0, 2]) } else { y }];
    for list in last {
        let mut ty = list[0].ty.clone();
        ty.shape.insert(0, directions.into());
        results.push(b.op("stack", vec![("values", list.into()), ("axis", 0.into())], ty));
    }
    Ok(results.iter().map(|v| b.cast(v, outside)).collect())
}

/// Rows of a weight, or elements of a bias, in Core ML's order of gates.
fn reordered(x: &[f32], gates: usize) -> Vec<f32> {
    match gates {
        4 => GATES.iter().flat_map(|&g| x[g * x.len() / 4..(g + 1) * x.len() / 4].iter().copied()).collect(),
        _ => x.to_vec(),
    }
}

/// The last step first.
fn reversed(b: &mut Builder<'_>, x: &Var) -> Var {
    b.op("reverse", vec![("x", x.into()), ("axes", vec![0].into())], x.ty.clone())
}

/// Steps of a layer whose products with the inputs are there, one after another.
fn steps(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (gates, w, bias, projection) = (b.arg(n, 0)?, b.arg(n, 2)?, b.opt(n, 3)?, b.opt(n, 4)?);
    let count = gates.ty.shape[0].known().filter(|&c| c <= MOST_STEPS);
    let count =
        count.ok_or_else(|| format!("Core ML has such layers of at most {MOST_STEPS} known steps"))?;
    let mut states = n.arg(1).values().map(|v| b.value(v)).collect::<Emitted<Vec<_>>>()?;
    if !super::linear::is_constant(b, n, 2) {
        return Err("Core ML takes constant weights only".into());
    }
    let types = n.outputs().iter().map(|&v| b.type_of(v)).collect::<Emitted<Vec<_>>>()?;
    let mut all = vec![];
    for i in 0..count {
        let at = if truth(n, 5)? { count - 1 - i } else { i };
        let x = super::index::entry(b, gates.clone(), 0, &at.into())?;
        let mut inputs: Vec<(&str, In)> = vec![("x", (&states[0]).into()), ("weight", (&w).into())];
        inputs.extend(bias.clone().map(|v| ("bias", In::Var(v))));
        let h = b.op("linear", inputs, x.ty.clone());
        states = step(b, n, x, h, &states)?;
        if let Some(p) = &projection {
            let ty = types[1].clone();
            states[0] = b.op("linear", vec![("x", (&states[0]).into()), ("weight", p.into())], ty);
        }
        all.push(states[0].clone());
    }
    if truth(n, 5)? {
        all.reverse();
    }
    if all.is_empty() {
        return Err("it takes no step".into());
    }
    let mut results = vec![b.op("stack", vec![("values", all.into()), ("axis", 0.into())], out(b, n)?)];
    results.extend(states);
    Ok(results)
}

/// The new states from those before, what the inputs gave (`x`) and what the state gave (`h`).
fn step(b: &mut Builder<'_>, n: &Node, x: Var, h: Var, states: &[Var]) -> Emitted<Vec<Var>> {
    let parts = |b: &mut Builder<'_>, v: Var, count: usize| -> Emitted<Vec<Var>> {
        let size = v.ty.shape[1].known().ok_or("its state has an open size")? / count as i64;
        let mut ty = v.ty.clone();
        ty.shape[1] = size.into();
        let inputs = vec![("x", v.into()), ("num_splits", (count as i32).into()), ("axis", 1.into())];
        Ok(b.all("split", inputs, vec![ty; count]))
    };
    match n.op() {
        op if *op == ops::LSTM_STEPS => {
            let sum = apply(b, "add", h, x);
            let g = parts(b, sum, 4)?;
            let [i, f, o] = [0, 1, 3].map(|k| function(b, "sigmoid", g[k].clone()));
            let new = function(b, "tanh", g[2].clone());
            let kept = apply(b, "mul", f, states[1].clone());
            let new = apply(b, "mul", i, new);
            let c = apply(b, "add", kept, new);
            let t = function(b, "tanh", c.clone());
            Ok(vec![apply(b, "mul", o, t), c])
        }
        op if *op == ops::GRU_STEPS => {
            let (gx, gh) = (parts(b, x, 3)?, parts(b, h, 3)?);
            let [r, z] = [0, 1].map(|k| {
                let sum = apply(b, "add", gh[k].clone(), gx[k].clone());
                function(b, "sigmoid", sum)
            });
            let new = apply(b, "mul", gh[2].clone(), r);
            let new = apply(b, "add", gx[2].clone(), new);
            let new = function(b, "tanh", new);
            let kept = apply(b, "sub", states[0].clone(), new.clone());
            let kept = apply(b, "mul", kept, z);
            Ok(vec![apply(b, "add", kept, new)])
        }
        op => {
            let sum = apply(b, "add", h, x);
            Ok(vec![function(b, if *op == ops::RNN_RELU_STEPS { "relu" } else { "tanh" }, sum)])
        }
    }
}
