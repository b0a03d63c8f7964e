//! Keeps two patterns from XNNPACK that its fusion of elementwise operators into a table of 256 bytes gets wrong.
//!
//! `xnn_subgraph_fuse_unary_quantized_into_lut` follows up to ten elementwise operators from an 8-bit tensor and replaces
//! them, up to the last 8-bit result, by a table. Then it looks on from the table. Before April 2026 (and so in
//! ExecuTorch 1.4) what it tries there ends with the table freed but in use, and freed again when the program is unloaded:
//! - after an operator with two inputs, constant or table, it takes tensor 0 for a part of the chain, and so `x + gelu(…)`
//!   with tensor 0 for `x`;
//! - when the chain goes on to another 8-bit result behind its tenth operator.
//!
//! A slice of the whole ends a chain. (XNNPACK takes a copy out again before it looks for chains.)

use crate::subgraph::{Binary, Datatype, Graph, NO_VALUE, Node, Op, Slice, Unary, Value};

/// Operators that XNNPACK follows, `XNN_MAX_UNARY_FUSION_NODES`.
const LONGEST: usize = 10;

/// A tensor that is an elementwise function of an 8-bit one.
#[derive(Copy, Clone)]
struct Chain {
    start: u32,
    length: usize,
}

/// Puts the slices in.
pub fn guard(graph: &mut Graph) {
    let first = graph.values.iter().position(|v| v.external_id == 0).map(|i| i as u32);
    let mut chains: Vec<Option<Chain>> = vec![None; graph.values.len()];
    let mut apart = None;
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        let mut longer = None;
        if let Some(Binary { input1, input2, output, .. }) = binary(&mut node.op) {
            let operands = [*input1, *input2];
            for (other, along) in [(input1, operands[1]), (input2, operands[0])] {
                let Some(c) = chain(graph, &chains, along) else { continue };
                if Some(*other) == first && *other != along && *other != c.start && c.length > 1 {
                    *other = *apart.get_or_insert_with(|| copied(graph, *other, node.debug_handle));
                } else if is_number(&graph.values[*other as usize]) || *other == c.start {
                    longer = Some((c, *output));
                }
            }
        } else if let Some((input, output)) = unary(&mut node.op)
            && let Some(mut c) = chain(graph, &chains, *input)
        {
            if c.length == LONGEST {
                *input = copied(graph, *input, node.debug_handle);
                c = Chain { start: *input, length: 0 };
            }
            longer = is_8_bit(graph, c.start).then_some((c, output));
        }
        chains.resize(graph.values.len(), None);
        if let Some((c, output)) = longer {
            chains[output as usize] = Some(Chain { length: c.length + 1, ..c });
        }
        graph.nodes.push(node);
    }
}

fn is_8_bit(graph: &Graph, id: u32) -> bool {
    graph.values[id as usize].datatype == Datatype::Qint8
}

/// The chain that a tensor ends, or starts.
fn chain(graph: &Graph, chains: &[Option<Chain>], id: u32) -> Option<Chain> {
    let start = || is_8_bit(graph, id).then_some(Chain { start: id, length: 0 });
    chains.get(id as usize).copied().flatten().or_else(start)
}

/// Whether a tensor is a constant of one element.
fn is_number(v: &Value) -> bool {
    v.constant != 0 && v.dims.iter().all(|&d| d == 1)
}

/// A copy of a tensor: the slice that is the whole, whatever its size.
fn copied(graph: &mut Graph, input: u32, debug_handle: u32) -> u32 {
    let value = graph.values[input as usize].clone();
    let whole = vec![0; value.dims.len()];
    graph.values.push(Value { external_id: NO_VALUE, flags: 0, ..value });
    let output = u32::try_from(graph.values.len() - 1).expect("few values");
    let num_dims = u32::try_from(whole.len()).expect("few dimensions");
    let slice = Slice { num_dims, offsets: whole.clone(), sizes: whole, input, output, flags: 0 };
    graph.nodes.push(Node { op: Op::StaticSlice(slice), clamp: None, debug_handle });
    output
}

/// The tensors of an elementwise operator of two.
fn binary(op: &mut Op) -> Option<&mut Binary> {
    match op {
        Op::Add(b)
        | Op::Subtract(b)
        | Op::Multiply(b)
        | Op::Div(b)
        | Op::Minimum(b)
        | Op::Maximum(b)
        | Op::PReLU(b) => Some(b),
        _ => None,
    }
}

/// The input and output of an elementwise operator of one.
fn unary(op: &mut Op) -> Option<(&mut u32, u32)> {
    match op {
        Op::Sigmoid(Unary { input, output, .. })
        | Op::Clamp(Unary { input, output, .. })
        | Op::Floor(Unary { input, output, .. })
        | Op::Convert(Unary { input, output, .. })
        | Op::SquareRoot(Unary { input, output, .. })
        | Op::Ceiling(Unary { input, output, .. })
        | Op::Hardswish(Unary { input, output, .. })
        | Op::Negate(Unary { input, output, .. })
        | Op::Square(Unary { input, output, .. })
        | Op::Abs(Unary { input, output, .. })
        | Op::ReciprocalSquareRoot(Unary { input, output, .. })
        | Op::Log(Unary { input, output, .. })
        | Op::Gelu(Unary { input, output, .. })
        | Op::Tanh(Unary { input, output, .. })
        | Op::Exp(Unary { input, output, .. })
        | Op::Sin(Unary { input, output, .. })
        | Op::Cos(Unary { input, output, .. }) => Some((input, *output)),
        Op::LeakyReLU(o) => Some((&mut o.input, o.output)),
        Op::ELU(o) => Some((&mut o.input, o.output)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subgraph::{EXTERNAL_INPUT, EXTERNAL_OUTPUT};

    fn graph(datatypes: &[Datatype]) -> Graph {
        let value = |(i, &datatype): (usize, &Datatype)| Value {
            datatype,
            dims: vec![2, 3],
            quant: None,
            constant: 0,
            external_id: if i < 2 { i as u32 } else { NO_VALUE },
            flags: [EXTERNAL_INPUT, EXTERNAL_OUTPUT, 0][i.min(2)],
        };
        Graph { values: datatypes.iter().enumerate().map(value).collect(), ..Graph::default() }
    }

    fn unary(op: fn(Unary) -> Op, input: u32, output: u32) -> Node {
        Node { op: op(Unary { input, output, flags: 0 }), clamp: None, debug_handle: 0 }
    }

    fn names(graph: &Graph) -> Vec<&'static str> {
        graph.nodes.iter().map(|n| n.op.name()).collect()
    }

    #[test]
    fn tensor_0_does_not_meet_a_table() {
        use Datatype::{Fp32, Qint8};
        let build = |x: u32, y: u32| {
            let mut g = graph(&[Qint8, Qint8, Qint8, Fp32, Fp32, Qint8]);
            g.nodes = vec![unary(Op::Convert, y, 3), unary(Op::Gelu, 3, 4), unary(Op::Convert, 4, 5)];
            let add = Op::Add(Binary { input1: x, input2: 5, output: 1, flags: 0 });
            g.nodes.push(Node { op: add, clamp: None, debug_handle: 0 });
            guard(&mut g);
            g
        };
        let g = build(0, 2);
        assert_eq!(names(&g), ["Convert", "Gelu", "Convert", "StaticSlice", "Add"]);
        let Op::Add(add) = &g.nodes[4].op else { panic!("{g:?}") };
        assert_eq!((add.input1, add.input2), (6, 5));
        assert_eq!((g.values[6].datatype, g.values[6].external_id, g.values[6].flags), (Qint8, NO_VALUE, 0));
        assert_eq!(names(&build(2, 0)), ["Convert", "Gelu", "Convert", "Add"]);
    }

    #[test]
    fn long_chains_are_cut() {
        use Datatype::{Fp32, Qint8};
        let types: Vec<Datatype> = (0..30).map(|i| if i % 2 == 0 { Qint8 } else { Fp32 }).collect();
        let mut g = graph(&types);
        g.nodes = (2..25).map(|i| unary(Op::Convert, i, i + 1)).collect();
        guard(&mut g);
        let cuts: Vec<usize> =
            (0..g.nodes.len()).filter(|&i| g.nodes[i].op.name() == "StaticSlice").collect();
        assert_eq!(cuts, [10, 21]);
        // Floats alone make no table.
        let mut g = graph(&[Fp32; 30]);
        g.nodes = (2..25).map(|i| unary(Op::Exp, i, i + 1)).collect();
        guard(&mut g);
        assert_eq!(g.nodes.len(), 23);
    }
}
