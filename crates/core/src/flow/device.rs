//! The converted program as the device computes it, where that is not what the program says.
//!
//! torchao writes dynamic quantization with one range for the whole tensor. A device may take one for each row or each
//! image; evaluating that here keeps its predictions true.

use super::Error;
use super::convert::Converted;
use crate::ir::{Arg, NewNode, NodeId, Program, Use, ValueId, verify};
use crate::ops::{self, InferError};
use crate::passes::{DeadCode, Pass, PassError};
use crate::symint::SymInt;
use std::collections::BTreeMap;

impl Converted {
    /// The program as the *device* computes it: every reader for which the quantizer named
    /// [`dynamic_dims`](crate::quantizer::Quantizer::dynamic_dims) gets its input quantized with a range for each index
    /// of the other dimensions. The same as [`program`](Self::program) for everything else.
    ///
    /// # Errors
    /// When the rewritten program is invalid (a bug).
    pub fn device_program(&self) -> Result<Program, Error> {
        device_program(&self.program, &|_, n| self.dynamic.get(&n).cloned())
    }
}

/// As [`Converted::device_program`] for a quantized program from elsewhere. `dims` names the dimensions that share a range
/// where a node's input is quantized at run time; see [`Lowering::dynamic_dims`](crate::backend::Lowering::dynamic_dims).
///
/// # Errors
/// When the rewritten program is invalid (a bug).
pub fn device_program(
    program: &Program,
    dims: &dyn Fn(&Program, NodeId) -> Option<Vec<usize>>,
) -> Result<Program, Error> {
    let mut out = program.clone();
    let mut done = BTreeMap::new();
    for reader in program.graph.nodes() {
        let found = chains(&out, reader);
        let Some(dims) = (!found.is_empty()).then(|| dims(program, reader)).flatten() else { continue };
        for (slot, chain) in found {
            let key = (chain.choose, dims.clone());
            let value = match done.get(&key) {
                Some(&v) => v,
                None => {
                    let v = by_blocks(&mut out, &chain, &dims)
                        .map_err(|e| Error::Fold { value: "choose_qparams".into(), reason: e.message })?;
                    *done.entry(key).or_insert(v)
                }
            };
            out.graph.redirect(Use { node: reader, slot }, value);
        }
    }
    let dead = DeadCode;
    dead.run(&mut out).map_err(|reason| PassError::Failed { pass: dead.name(), reason })?;
    verify(&out).map_err(|errors| PassError::Invalid { pass: "device_program", errors })?;
    Ok(out)
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

/// Quantizes and dequantizes the chain's value with one range for each index of the dimensions outside `dims`.
fn by_blocks(program: &mut Program, chain: &Chain, dims: &[usize]) -> Result<ValueId, InferError> {
    let g = &program.graph;
    let module = g.node(chain.choose).module.clone();
    let (choose, dequantize) = (g.node(chain.choose).clone(), g.node(chain.dequantize).clone());
    let x = choose.operands().next().unwrap_or_else(|| choose.output());
    let (shape, float) = (&g.ty(x).shape, g.ty(x).dtype);
    let size = |(d, n): (usize, &SymInt)| if dims.contains(&d) { n.clone() } else { 1.into() };
    let block = Arg::Ints(shape.iter().enumerate().map(size).collect());
    let [min, max, dtype] = [3, 4, 5].map(|i| dequantize.arg(i).clone());

    let mut at = chain.dequantize;
    let mut push = |op, args: Vec<Arg>| {
        at = program.graph.insert_after(at, NewNode::new(op, args).in_module(&module))?;
        Ok::<_, InferError>(program.graph.node(at).outputs().to_vec())
    };
    // Devices know no least scale: any range that is not empty is spread over all integers.
    let eps = Arg::Float(f64::from(f32::MIN_POSITIVE));
    let head = [x.into(), "ASYMMETRIC".into(), block.clone(), dtype.clone()];
    let tail = [min.clone(), max.clone(), eps];
    let chosen = push(&ops::CHOOSE_QPARAMS_AFFINE, head.into_iter().chain(tail).collect())?;
    let args = |v: ValueId| {
        let by = [block.clone(), chosen[0].into(), chosen[1].into()];
        let range = [dtype.clone(), min.clone(), max.clone()];
        [v.into()].into_iter().chain(by).chain(range).collect::<Vec<Arg>>()
    };
    let q = push(&ops::QUANTIZE_AFFINE, args(x))?[0];
    let mut args = args(q);
    args.push(float.into());
    Ok(push(&ops::DEQUANTIZE_AFFINE, args)?[0])
}
