//! Buffers that hold integers: quantization folded into what a program keeps from run to run.

use super::Error;
use crate::ir::{Arg, ConstId, ConstKind, MutationTarget, NodeId, Program, ValueId};
use crate::ops;
use crate::quant::{QParams, QRange};

/// A buffer of which only integers are read and written, all with the same parameters.
struct Cache {
    /// Its place among the mutations.
    mutation: usize,
    buffer: ConstId,
    /// Quantize nodes: all that reads it.
    readers: Vec<NodeId>,
    /// The integers of its new value.
    written: ValueId,
    params: QParams,
}

/// Scale, zero point and range in arguments 1 to 5 of a static q or dq node of whole tensors.
fn params(program: &Program, n: NodeId) -> Option<QParams> {
    let args = program.graph.node(n).args();
    let int = |i: usize| match args.get(i) {
        Some(Arg::Int(n)) => n.known(),
        _ => None,
    };
    let (Some(Arg::Float(scale)), Some(Arg::DType(dtype))) = (args.get(1), args.get(5)) else { return None };
    Some(QParams::per_tensor(QRange::new(*dtype, int(3)?, int(4)?).ok()?, *scale, int(2)?))
}

fn cache(program: &Program, mutation: usize, buffer: ConstId, new: ValueId) -> Option<Cache> {
    let g = &program.graph;
    let value = program.constants[buffer].value;
    let dequantize = g.producer(new).filter(|&n| *g.node(n).op() == ops::DEQUANTIZE_PER_TENSOR)?;
    let own = params(program, dequantize)?;
    let readers = g.users(value);
    let quantizes = |&n: &NodeId| {
        *g.node(n).op() == ops::QUANTIZE_PER_TENSOR && params(program, n).as_ref() == Some(&own)
    };
    let written = g.node(dequantize).operands().next()?;
    let all = !readers.is_empty() && readers.iter().all(quantizes) && !g.is_output(value);
    all.then_some(Cache { mutation, buffer, readers, written, params: own })
}

/// Makes buffers hold integers where every reader quantizes and what is written was dequantized, all with the same
/// parameters for the whole tensor. Other buffers stay in floating point.
pub(super) fn fold(program: &mut Program) -> Result<(), Error> {
    let targets = program.mutations().enumerate();
    let caches: Vec<Cache> = targets
        .filter_map(|(i, (target, new))| match target {
            MutationTarget::Buffer(c) => cache(program, i, c, new),
            MutationTarget::Input(_) => None,
        })
        .collect();
    for c in caches {
        let old = program.constants[c.buffer].clone();
        let ints = c
            .params
            .quantize(&old.tensor)
            .map_err(|e| Error::Fold { value: old.name.to_string(), reason: e.0 })?;
        let value = program.add_constant(&format!("{}_quantized", old.name), ConstKind::Buffer, ints);
        let (buffer, _) =
            program.constants.iter().find(|(_, c)| c.value == value).expect("it was added just now");
        for n in c.readers {
            let integers = program.graph.node(n).output();
            program.graph.replace_uses(integers, value, None);
            program.graph.erase(n);
        }
        program.signature.mutations[c.mutation] = MutationTarget::Buffer(buffer);
        let mut outputs = program.graph.outputs().to_vec();
        let place = program.user_outputs().len() + c.mutation;
        // What was written may itself have been read from the buffer: then it is the new constant now.
        outputs[place] = if program.graph.producer(c.written).is_some() { c.written } else { value };
        program.graph.set_outputs(outputs);
    }
    Ok(())
}
