//! Recurrent layers: their products are quantized, what lies between stays in floating point.
//!
//! The product with the inputs, of all steps at once, takes inputs and weights as integers. The product with the state, step
//! by step, takes only the weights as integers: it waits for memory, not for arithmetic, and its errors would add up. Both
//! forms of a program are treated alike: a layer that is whole, and the pieces `run_decompositions()` leaves of one, which
//! the modules and the names of weights give away.

use super::STATIC;
use super::rules::{Outcome, eight_bits};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::decompose::{is_sequence, is_stack};
use lowbit_core::quant::{Annotations, ObserverKind, QRange, QuantSpec, Site, Spec};
use lowbit_core::quantizer::{Match, OpConfig};

/// Layers over all steps of a sequence.
pub static SEQUENCES: &[&OpDef] = &[&ops::LSTM, &ops::GRU, &ops::RNN_TANH, &ops::RNN_RELU];

/// One step each, which quantizers take apart.
pub static CELLS: &[&OpDef] = &[&ops::LSTM_CELL, &ops::GRU_CELL, &ops::RNN_TANH_CELL, &ops::RNN_RELU_CELL];

const SEQUENCE_MODULES: &[&str] =
    &["torch.nn.modules.rnn.LSTM", "torch.nn.modules.rnn.GRU", "torch.nn.modules.rnn.RNN"];

const CELL_MODULES: &[&str] =
    &["torch.nn.modules.rnn.LSTMCell", "torch.nn.modules.rnn.GRUCell", "torch.nn.modules.rnn.RNNCell"];

fn is_in(program: &Program, n: NodeId, modules: &[&str]) -> bool {
    program.graph.node(n).module.frames().iter().any(|f| modules.contains(&&*f.type_name))
}

/// Input and weights of a layer that is whole.
pub fn layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    let (g, n) = (&m.program.graph, m.first());
    if is_stack(m.program, n) {
        return Err("it is a stack of layers; the inputs of all but the first are inside".into());
    }
    eight_bits(how)?;
    if let Some(x) = m.arg(0) {
        out.set(x, how.input_activation.clone());
    }
    let first = g.node(n).slot_of_arg(2).unwrap_or(0);
    for (v, slot) in g.node(n).arg(2).values().zip(first..) {
        // The others are biases.
        if g.ty(v).rank() == 2 {
            out.set(Site::input(n, slot), how.weight.clone());
        }
    }
    Ok(())
}

/// As [`layer`], where the device takes the ranges of inputs while running.
pub fn dynamic_layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    layer(m, &while_running(how), out)
}

/// Annotates a linear layer that is a piece of a recurrent one; `None` when it is none.
pub fn piece(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Option<Outcome> {
    if !is_in(m.program, m.first(), SEQUENCE_MODULES) {
        return None;
    }
    if let Err(why) = eight_bits(how) {
        return Some(Err(why));
    }
    let name = m.value(1).and_then(|w| m.program.constant(w)).map_or("", |c| &c.name);
    let reads_inputs = name.rsplit('.').next().is_some_and(|n| n.starts_with("weight_ih"));
    let input = how.input_activation.clone().filter(|_| reads_inputs);
    for (site, spec) in [(m.arg(0), input), (m.arg(1), how.weight.clone())] {
        if let Some(site) = site {
            out.set(site, spec);
        }
    }
    Some(Ok(()))
}

/// The same configuration with ranges of inputs taken while running, from all integers, as XNNPACK demands.
pub fn while_running(how: &OpConfig) -> OpConfig {
    let input_activation = how.input_activation.clone().map(|spec| match spec {
        Spec::Observed(spec) => {
            let (range, observer) = (QRange::INT8, ObserverKind::Placeholder);
            Spec::Observed(QuantSpec { range, observer, dynamic: true, ..spec })
        }
        other => other,
    });
    OpConfig { input_activation, ..how.clone() }
}

/// A filter that leaves what is no product in a recurrent layer.
pub fn only_products(program: &Program, n: NodeId) -> Result<(), String> {
    let product = *program.graph.node(n).op() == ops::LINEAR || is_sequence(program.graph.node(n).op());
    match product || !is_in(program, n, SEQUENCE_MODULES) {
        true => Ok(()),
        false => Err("it is a piece of a recurrent layer, of which the products are quantized".into()),
    }
}

/// A filter that leaves recurrent layers, whole or in pieces.
pub fn nothing(program: &Program, n: NodeId) -> Result<(), String> {
    let op = program.graph.node(n).op();
    let whole = SEQUENCES.contains(&op) || CELLS.contains(&op);
    match whole || is_in(program, n, SEQUENCE_MODULES) || is_in(program, n, CELL_MODULES) {
        true => Err(format!("it is recurrent; recipe {STATIC} quantizes such layers")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::quantizer::{quantizer, recipe, rounding, with_products};
    use lowbit_core::ir::{ModuleFrame, ModuleStack, Program, text};
    use lowbit_core::quant::{Annotations, Spec};
    use lowbit_core::quantizer::{OpConfig, Quantizer, RuleQuantizer, Scope};

    const WHOLE: &str = "program {
      %x : f32[5, 1, 3] = input
      %h : f32[2, 1, 4] = input
      %w0 : f32[12, 3] = constant \"rnn.weight_ih_l0\"
      %u0 : f32[12, 4] = constant \"rnn.weight_hh_l0\"
      %b : f32[12] = constant \"rnn.bias\"
      %w1 : f32[12, 4] = constant \"rnn.weight_ih_l1\"
      %u1 : f32[12, 4] = constant \"rnn.weight_hh_l1\"
      %y : f32[5, 1, 4], %hn : f32[2, 1, 4] = aten.gru.input(%x, %h, [%w0, %u0, %b, %b, %w1, %u1, %b, %b], has_biases=true, num_layers=2, dropout=0.0, train=false, bidirectional=false, batch_first=false)
      return %y, %hn
    }";

    /// The start of a layer as `run_decompositions()` leaves it.
    const PIECES: &str = "program {
      %x : f32[5, 1, 3] = input
      %h : f32[1, 4] = input
      %w : f32[12, 3] = constant \"rnn.weight_ih_l0\"
      %u : f32[12, 4] = constant \"rnn.weight_hh_l0\"
      %b : f32[12] = constant \"rnn.bias\"
      %all : f32[5, 1, 12] = aten.linear.default(%x, %w, %b)
      %first : f32[1, 12] = aten.select.int(%all, dim=0, index=0)
      %state : f32[1, 12] = aten.linear.default(%h, %u, %b)
      %sum : f32[1, 12] = aten.add.Tensor(%state, %first)
      return %sum
    }";

    fn in_module(text: &str, type_name: &str) -> Program {
        let mut p = text::parse(text).unwrap();
        let frame = ModuleFrame { path: "rnn".into(), type_name: type_name.into() };
        for n in p.graph.nodes().collect::<Vec<_>>() {
            p.graph.set_module(n, ModuleStack::new(vec![frame.clone()]));
        }
        p
    }

    fn config(name: &str) -> OpConfig {
        recipe(name).unwrap().config()
    }

    /// Annotated sites, with `~` where ranges are taken while running.
    fn sites(mut program: Program, q: &RuleQuantizer) -> Vec<String> {
        q.transform(&mut program).unwrap();
        let mut out = Annotations::default();
        q.annotate(&program, &mut out).unwrap();
        let mut found: Vec<String> = out
            .iter()
            .map(|(site, a)| {
                let dynamic = matches!(&a.spec, Spec::Observed(s) if s.dynamic);
                let value = program.graph.value(site.value(&program).unwrap()).name.clone();
                format!("{}{value}", if dynamic { "~" } else { "" })
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn inputs_and_weights_of_every_layer_are_quantized() {
        let whole = || in_module(WHOLE, "torch.nn.modules.rnn.GRU");
        let (dynamic, fixed) = (config("int8-dynamic-per-channel"), config("int8-static"));
        // The second layer reads what the first one makes.
        let want = ["u0", "u1", "w0", "w1", "~gru_0", "~x"];
        assert_eq!(sites(whole(), &with_products().set(Scope::Global, dynamic.clone())), want);
        assert_eq!(sites(whole(), &rounding().set(Scope::Global, fixed.clone())), want);
        let observed = ["gru_0", "u0", "u1", "w0", "w1", "x"];
        assert_eq!(sites(whole(), &quantizer().set(Scope::Global, fixed.clone())), observed);
        let weights = OpConfig { weight: fixed.weight, ..OpConfig::float() };
        let only = ["u0", "u1", "w0", "w1"];
        assert_eq!(sites(whole(), &quantizer().set(Scope::Global, weights.clone())), only);
        assert_eq!(sites(whole(), &rounding().set(Scope::Global, weights)), only);
    }

    #[test]
    fn pieces_are_known_by_their_module() {
        let (dynamic, fixed) = (config("int8-dynamic-per-channel"), config("int8-static"));
        let gru = || in_module(PIECES, "torch.nn.modules.rnn.GRU");
        let running = ["u", "w", "~x"];
        assert_eq!(sites(gru(), &with_products().set(Scope::Global, dynamic.clone())), running);
        assert_eq!(sites(gru(), &rounding().set(Scope::Global, fixed.clone())), running);
        // In any other module they are linear layers.
        let found = sites(in_module(PIECES, "Other"), &with_products().set(Scope::Global, dynamic));
        assert_eq!(found, ["u", "w", "~h", "~x"]);
        assert!(
            sites(in_module(PIECES, "Other"), &rounding().set(Scope::Global, fixed))
                .contains(&"sum".to_string())
        );
    }
}
