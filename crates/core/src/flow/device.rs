//! The converted program as the device computes it, where that is not what the program says.
//!
//! torchao writes dynamic quantization with one range for the whole tensor. A device may take one for each row or each
//! image; evaluating that here keeps its predictions true.

use super::Error;
use super::convert::Converted;
use crate::dtype::DType;
use crate::ir::{Arg, NewNode, NodeId, Program, Use, ValueId, verify};
use crate::ops::{self, InferError};
use crate::passes::{DeadCode, Pass, PassError};
use crate::symint::SymInt;
use std::collections::{BTreeMap, BTreeSet};

impl Converted {
    /// The program as the *device* computes it: every reader for which the quantizer named
    /// [`dynamic_dims`](crate::quantizer::Quantizer::dynamic_dims) gets its input quantized with a range for each index
    /// of the other dimensions. The same as [`program`](Self::program) for everything else.
    ///
    /// # Errors
    /// When the rewritten program is invalid (a bug).
    pub fn device_program(&self) -> Result<Program, Error> {
        let mut program = self.program.clone();
        let mut done = BTreeMap::new();
        // What nobody reads was erased.
        let alive: BTreeSet<NodeId> = program.graph.nodes().collect();
        for (&reader, dims) in self.dynamic.iter().filter(|(n, _)| alive.contains(n)) {
            for (slot, chain) in chains(&program, reader) {
                let key = (chain.choose, dims.clone());
                let value = match done.get(&key) {
                    Some(&v) => v,
                    None => {
                        let v = by_rows(&mut program, &chain, dims)
                            .map_err(|e| Error::Fold { value: "choose_qparams".into(), reason: e.message })?;
                        *done.entry(key).or_insert(v)
                    }
                };
                program.graph.redirect(Use { node: reader, slot }, value);
            }
        }
        let dead = DeadCode;
        dead.run(&mut program).map_err(|reason| PassError::Failed { pass: dead.name(), reason })?;
        verify(&program).map_err(|errors| PassError::Invalid { pass: "device_program", errors })?;
        Ok(program)
    }
}

/// `choose_qparams → quantize → dequantize` of one value.
struct Chain {
    choose: NodeId,
    dequantize: NodeId,
}

/// The operands of `reader` that are quantized at run time.
fn chains(program: &Program, reader: NodeId) -> Vec<(u32, Chain)> {
    let g = &program.graph;
    let chain = |v: ValueId| {
        let dequantize = g.producer(v).filter(|&n| *g.node(n).op() == ops::DEQUANTIZE_PER_TENSOR_TENSOR)?;
        let scale = g.node(dequantize).arg(1).values().next()?;
        let choose = g.producer(scale).filter(|&n| *g.node(n).op() == ops::CHOOSE_QPARAMS)?;
        Some(Chain { choose, dequantize })
    };
    let operands = g.node(reader).operands().zip(0..);
    operands.filter_map(|(v, slot)| Some((slot, chain(v)?))).collect()
}

/// Quantizes and dequantizes the chain's value with one range for each index of the dimensions outside `dims`: those are
/// moved to the end and flattened to a row, since the operators know rows only.
fn by_rows(program: &mut Program, chain: &Chain, dims: &[usize]) -> Result<ValueId, InferError> {
    let g = &program.graph;
    let module = g.node(chain.choose).module.clone();
    let (choose, dequantize) = (g.node(chain.choose).clone(), g.node(chain.dequantize).clone());
    let x = choose.operands().next().unwrap_or_else(|| choose.output());
    let shape = g.ty(x).shape.clone();
    let outer: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
    let order: Vec<usize> = outer.iter().chain(dims).copied().collect();
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
    let size = |list: &[usize]| list.iter().map(|&d| shape[d].clone()).collect::<Vec<SymInt>>();
    let row = size(dims).into_iter().fold(SymInt::from(1), |a, b| a * b);
    let rows: Vec<SymInt> = size(&outer).into_iter().chain([row]).collect();

    let mut at = chain.dequantize;
    let mut push = |program: &mut Program, op, args: Vec<Arg>| {
        at = program.graph.insert_after(at, NewNode::new(op, args).in_module(&module))?;
        Ok::<_, InferError>(program.graph.node(at).outputs().to_vec())
    };
    let permuted = |order: &[usize]| Arg::Ints(order.iter().map(|&d| SymInt::from(d as i64)).collect());
    let moved = push(program, &ops::PERMUTE, vec![x.into(), permuted(&order)])?[0];
    let flat = push(program, &ops::RESHAPE, vec![moved.into(), Arg::Ints(rows)])?[0];
    let dtype = choose.arg(4).clone();
    let chosen = push(program, &ops::CHOOSE_QPARAMS_PER_TOKEN_ASYMMETRIC, vec![flat.into(), dtype])?;
    let params = |v: ValueId| -> Vec<Arg> {
        let range = dequantize.args()[3..6].iter().cloned();
        [Arg::Value(v), chosen[0].into(), chosen[1].into()].into_iter().chain(range).collect()
    };
    let q = push(program, &ops::QUANTIZE_PER_TOKEN, params(flat))?[0];
    let mut args = params(q);
    args.push(DType::F32.into());
    let float = push(program, &ops::DEQUANTIZE_PER_TOKEN, args)?[0];
    let unflat = push(program, &ops::RESHAPE, vec![float.into(), Arg::Ints(size(&order))])?[0];
    Ok(push(program, &ops::PERMUTE, vec![unflat.into(), permuted(&back)])?[0])
}
