//! Recurrent layers and cells, and the steps of a layer behind the product with its inputs, which PyTorch has no name for.

use crate::dtype::DType;
use super::rules::{Types, one};
use super::{Call, InferError};
use crate::ir::TensorType;

ops! {
    LSTM = "aten.lstm.input" "(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)", lstm;
    GRU = "aten.gru.input" "(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor)", rnn;
    RNN_TANH = "aten.rnn_tanh.input" "(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor)", rnn;
    RNN_RELU = "aten.rnn_relu.input" "(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor)", rnn;
    LSTM_CELL = "aten.lstm_cell.default" "(Tensor input, Tensor[] hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> (Tensor, Tensor)", lstm_cell;
    GRU_CELL = "aten.gru_cell.default" "(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor", cell;
    RNN_TANH_CELL = "aten.rnn_tanh_cell.default" "(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor", tanh_cell;
    RNN_RELU_CELL = "aten.rnn_relu_cell.default" "(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor", cell;
    LSTM_STEPS = "lowbit.lstm_steps.default" "(Tensor gates, Tensor[] hx, Tensor w_hh, Tensor? b_hh=None, Tensor? w_hr=None, bool reverse=False) -> (Tensor, Tensor, Tensor)", steps;
    GRU_STEPS = "lowbit.gru_steps.default" "(Tensor gates, Tensor[] hx, Tensor w_hh, Tensor? b_hh=None, Tensor? w_hr=None, bool reverse=False) -> (Tensor, Tensor)", steps;
    RNN_TANH_STEPS = "lowbit.rnn_tanh_steps.default" "(Tensor gates, Tensor[] hx, Tensor w_hh, Tensor? b_hh=None, Tensor? w_hr=None, bool reverse=False) -> (Tensor, Tensor)", steps;
    RNN_RELU_STEPS = "lowbit.rnn_relu_steps.default" "(Tensor gates, Tensor[] hx, Tensor w_hh, Tensor? b_hh=None, Tensor? w_hr=None, bool reverse=False) -> (Tensor, Tensor)", steps;
}

/// Input and output of a layer stack: `(output type, state shape rank 3)`.
fn layers(c: &Call<'_>, hidden: &TensorType) -> Result<TensorType, InferError> {
    let x = c.tensor(0)?;
    let [.., size] = &hidden.shape[..] else { return c.error("the state has no dimensions") };
    let directions = 1 + i64::from(c.bool(7)?);
    if x.rank() != 3 {
        return c.error(format!("input is {x}; steps, batch and features are needed"));
    }
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("two or three dimensions") = size.clone() * directions;
    Ok(TensorType { dtype: x.dtype, shape })
}

/// `lstm(input, [h0, c0], params, …)`; with projections the output has h0's size.
fn lstm(c: &Call<'_>) -> Types {
    let state = c.tensors(1)?;
    let [h, cell] = state[..] else { return c.error("an LSTM has two states") };
    Ok(vec![layers(c, h)?, h.clone(), cell.clone()])
}

/// `gru(input, h0, params, …)` and the plain RNNs.
fn rnn(c: &Call<'_>) -> Types {
    let h = c.tensor(1)?;
    Ok(vec![layers(c, h)?, h.clone()])
}

/// `lstm_cell(input, [h, c], …)`
fn lstm_cell(c: &Call<'_>) -> Types {
    let state = c.tensors(1)?;
    let [h, cell] = state[..] else { return c.error("an LSTM cell has two states") };
    Ok(vec![h.clone(), cell.clone()])
}

/// The hyperbolic tangent of integers is `f32`.
fn tanh_cell(c: &Call<'_>) -> Types {
    let h = c.tensor(1)?;
    one(if h.dtype.is_float() { h.dtype } else { DType::F32 }, h.shape.clone())
}

fn cell(c: &Call<'_>) -> Types {
    let h = c.tensor(1)?;
    one(h.dtype, h.shape.clone())
}

/// `steps(gates, hx, …)`: products with the inputs of all steps `[steps, batch, gates]` and states `[batch, size]`; the
/// outputs `[steps, batch, size]`, in the order of the inputs, and the last states. `reverse` goes from the last step to
/// the first.
fn steps(c: &Call<'_>) -> Types {
    let (x, states) = (c.tensor(0)?, c.tensors(1)?);
    let lstm = *c.op == super::LSTM_STEPS;
    if x.rank() != 3 || states.len() != 1 + usize::from(lstm) || states.iter().any(|s| s.rank() != 2) {
        return c.error("gates [steps, batch, gates] and states [batch, size] are needed");
    }
    let shape = vec![x.shape[0].clone(), x.shape[1].clone(), states[0].shape[1].clone()];
    let outputs = TensorType { dtype: x.dtype, shape };
    Ok(std::iter::once(outputs).chain(states.into_iter().cloned()).collect())
}
