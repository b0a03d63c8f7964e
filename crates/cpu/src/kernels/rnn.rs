//! Recurrent layers, their steps, and cells.

use super::Table;
use crate::dense::Epilogue;
use crate::dense::gemm::{Mat, multiply};
use crate::dense::panels::{Panels, padded_bias};
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef};
use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::simd::Isa;

type Result = std::result::Result<(), KernelError>;

/// Which recurrence.
#[derive(Copy, Clone, PartialEq)]
enum Kind {
    Lstm,
    Gru,
    Tanh,
    Relu,
}

impl Kind {
    /// Rows of the weights for one hidden unit.
    fn gates(self) -> usize {
        match self {
            Kind::Lstm => 4,
            Kind::Gru => 3,
            _ => 1,
        }
    }
}

/// `x · wᵀ + b`, packed once for all steps.
struct Affine {
    isa: Isa,
    panels: Panels,
    bias: Aligned,
}

impl Affine {
    /// From `w` of `[n, k]`.
    fn new(isa: Isa, w: TensorRef<'_>, bias: Option<TensorRef<'_>>) -> Affine {
        let (n, k) = (w.shape[0], w.shape[1]);
        let bias = bias.map(|b| b.as_vec::<f32>());
        Affine {
            isa,
            panels: Panels::new(isa, Mat::dense(&w.as_vec::<f32>(), n, k).t()),
            bias: padded_bias(bias.as_deref(), n),
        }
    }

    /// Of `rows` rows.
    fn of(&self, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        out.clear();
        out.resize(rows * self.panels.columns, 0.0);
        multiply(
            self.isa,
            Threads::ALONE,
            x,
            rows,
            self.panels.depth,
            &self.panels,
            &self.bias,
            out,
            Epilogue::NONE,
        );
    }
}

/// What states are multiplied with.
struct Weights {
    hidden: Affine,
    /// Projects the output of an LSTM to a smaller state.
    projection: Option<Affine>,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// One step: gates from the input are given, those from the state are computed; `h` (and `c`) are updated.
fn step(kind: Kind, w: &Weights, x_gates: &[f32], batch: usize, h: &mut Vec<f32>, c: &mut [f32]) {
    let mut g = vec![];
    w.hidden.of(h, batch, &mut g);
    let n = w.hidden.panels.columns / kind.gates();
    let mut next = vec![0f32; batch * n];
    for b in 0..batch {
        let (x, g) = (&x_gates[b * kind.gates() * n..], &g[b * kind.gates() * n..]);
        for j in 0..n {
            let at = |k: usize| x[k * n + j] + g[k * n + j];
            next[b * n + j] = match kind {
                Kind::Lstm => {
                    let (i, f, o) = (sigmoid(at(0)), sigmoid(at(1)), sigmoid(at(3)));
                    let cell = &mut c[b * n + j];
                    *cell = f * *cell + i * at(2).tanh();
                    o * cell.tanh()
                }
                Kind::Gru => {
                    let (r, z) = (sigmoid(at(0)), sigmoid(at(1)));
                    let new = (x[2 * n + j] + r * g[2 * n + j]).tanh();
                    (h[b * n + j] - new) * z + new
                }
                Kind::Tanh => at(0).tanh(),
                Kind::Relu => at(0).max(0.0),
            };
        }
    }
    match &w.projection {
        Some(p) => p.of(&next, batch, h),
        None => *h = next,
    }
}

/// All steps, the last one first if `reverse`; `show` gets each new state.
#[expect(clippy::too_many_arguments, reason = "a loop over what one step takes")]
fn run(
    kind: Kind,
    w: &Weights,
    gates: &[f32],
    [steps, batch]: [usize; 2],
    reverse: bool,
    h: &mut Vec<f32>,
    cell: &mut [f32],
    mut show: impl FnMut(usize, &[f32]),
) {
    let length = gates.len() / steps.max(1);
    for t in 0..steps {
        let t = if reverse { steps - 1 - t } else { t };
        step(kind, w, &gates[t * length..(t + 1) * length], batch, h, cell);
        show(t, h);
    }
}

/// `(gates, hx, w_hh, b_hh, w_hr, reverse)`
fn steps(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], kind: Kind) -> Result {
    let (x, states) = (c.tensor(0)?, c.tensors(1)?);
    let w = Weights {
        hidden: Affine::new(c.isa, c.tensor(2)?, c.opt_tensor(3)),
        projection: c.opt_tensor(4).map(|p| Affine::new(c.isa, p, None)),
    };
    let mut state = states.iter().map(|t| t.as_vec::<f32>().into_owned());
    let (mut h, mut cell) = (state.next().unwrap_or_default(), state.next().unwrap_or_default());
    let (gates, size) = (x.as_vec::<f32>(), h.len());
    let mut result = vec![0f32; x.shape[0] * size];
    run(kind, &w, &gates, [x.shape[0], x.shape[1]], c.bool(5)?, &mut h, &mut cell, |t, h| {
        result[t * size..(t + 1) * size].copy_from_slice(h);
    });
    outs[0].store(result);
    outs[1].store(h);
    if let Some(out) = outs.get_mut(2) {
        out.store(cell);
    }
    Ok(())
}
fn lstm_steps(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    steps(c, outs, Kind::Lstm)
}
fn gru_steps(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    steps(c, outs, Kind::Gru)
}
fn rnn_tanh_steps(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    steps(c, outs, Kind::Tanh)
}
fn rnn_relu_steps(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    steps(c, outs, Kind::Relu)
}

/// `(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`
fn layers(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], kind: Kind) -> Result {
    let x = c.tensor(0)?;
    let states = if kind == Kind::Lstm { c.tensors(1)? } else { vec![c.tensor(1)?] };
    let params = c.tensors(2)?;
    let (biases, count, both, batch_first) = (c.bool(3)?, c.int(4)? as usize, c.bool(7)?, c.bool(8)?);
    let directions = 1 + usize::from(both);
    let projected = states.len() == 2 && states[0].shape.last() != states[1].shape.last();
    let per = 2 + if biases { 2 } else { 0 } + usize::from(projected);
    if params.len() != per * count * directions {
        return Err(KernelError(format!(
            "{} weights for {count} layers, {} expected",
            params.len(),
            per * count * directions
        )));
    }
    let (steps, batch) = if batch_first { (x.shape[1], x.shape[0]) } else { (x.shape[0], x.shape[1]) };
    let features = *x.shape.last().unwrap_or(&0);
    let mut sequence = x.as_vec::<f32>().into_owned();
    if batch_first {
        sequence = swap(&sequence, batch, steps, features);
    }
    let state = |t: &TensorRef<'_>| t.as_vec::<f32>().into_owned();
    let h0 = state(&states[0]);
    let c0 = states.get(1).map(state).unwrap_or_default();
    let (hn, cn) = (h0.len() / (count * directions), c0.len() / (count * directions).max(1));
    let (mut last_h, mut last_c) = (vec![], vec![]);
    let mut width = features;
    for layer in 0..count {
        let out_width = hn / batch.max(1);
        let mut result = vec![0f32; steps * batch * out_width * directions];
        for d in 0..directions {
            let k = layer * directions + d;
            let p = &params[k * per..(k + 1) * per];
            let input = Affine::new(c.isa, p[0], biases.then(|| p[2]));
            let w = Weights {
                hidden: Affine::new(c.isa, p[1], biases.then(|| p[3])),
                projection: projected.then(|| Affine::new(c.isa, p[per - 1], None)),
            };
            // Gates from the inputs of all steps at once.
            let mut gates = vec![];
            input.of(&sequence, steps * batch, &mut gates);
            let mut h = h0[k * hn..(k + 1) * hn].to_vec();
            let mut cell = c0.get(k * cn..(k + 1) * cn).unwrap_or_default().to_vec();
            run(kind, &w, &gates, [steps, batch], d == 1, &mut h, &mut cell, |t, h| {
                for b in 0..batch {
                    let at = ((t * batch + b) * directions + d) * out_width;
                    result[at..at + out_width].copy_from_slice(&h[b * out_width..(b + 1) * out_width]);
                }
            });
            last_h.extend(h);
            last_c.extend(cell);
        }
        sequence = result;
        width = out_width * directions;
    }
    if batch_first {
        sequence = swap(&sequence, steps, batch, width);
    }
    outs[0].store(sequence);
    outs[1].store(last_h);
    if let Some(out) = outs.get_mut(2) {
        out.store(last_c);
    }
    Ok(())
}

/// `[a, b, n]` to `[b, a, n]`
fn swap(x: &[f32], a: usize, b: usize, n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&x[(i * b + j) * n..(i * b + j + 1) * n]);
        }
    }
    out
}

fn lstm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    layers(c, outs, Kind::Lstm)
}
fn gru(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    layers(c, outs, Kind::Gru)
}
fn rnn_tanh(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    layers(c, outs, Kind::Tanh)
}
fn rnn_relu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    layers(c, outs, Kind::Relu)
}

/// `(input, state, w_ih, w_hh, b_ih, b_hh)`
fn cell(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], kind: Kind) -> Result {
    let x = c.tensor(0)?;
    let states = if kind == Kind::Lstm { c.tensors(1)? } else { vec![c.tensor(1)?] };
    let batch = if x.shape.len() == 2 { x.shape[0] } else { 1 };
    let input = Affine::new(c.isa, c.tensor(2)?, c.opt_tensor(4));
    let w = Weights { hidden: Affine::new(c.isa, c.tensor(3)?, c.opt_tensor(5)), projection: None };
    let mut gates = vec![];
    input.of(&x.as_vec::<f32>(), batch, &mut gates);
    let mut h = states[0].as_vec::<f32>().into_owned();
    let mut cell = states.get(1).map(|t| t.as_vec::<f32>().into_owned()).unwrap_or_default();
    step(kind, &w, &gates, batch, &mut h, &mut cell);
    outs[0].store(h);
    if let Some(out) = outs.get_mut(1) {
        out.store(cell);
    }
    Ok(())
}
fn lstm_cell(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    cell(c, outs, Kind::Lstm)
}
fn gru_cell(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    cell(c, outs, Kind::Gru)
}
fn rnn_tanh_cell(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    cell(c, outs, Kind::Tanh)
}
fn rnn_relu_cell(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    cell(c, outs, Kind::Relu)
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
    ("lowbit.lstm_steps.default", lstm_steps),
    ("lowbit.gru_steps.default", gru_steps),
    ("lowbit.rnn_tanh_steps.default", rnn_tanh_steps),
    ("lowbit.rnn_relu_steps.default", rnn_relu_steps),
];
