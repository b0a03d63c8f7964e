//! Values that are the same in every run: constants that the program never overwrites, and what is computed from them
//! alone (dequantized weights, above all).

use crate::kernel::{KernelCall, TensorMut, TensorRef, kernel};
use crate::plan::concrete;
use crate::simd::Isa;
use lowbit_core::Tensor;
use lowbit_core::executor::RunError;
use lowbit_core::ir::{Arg, Def, Key, NodeId, Program, ValueId};
use lowbit_core::symint::Bindings;
use std::collections::BTreeMap;

/// By value: whether it is the same in every run.
pub fn constant_values(program: &Program) -> Vec<bool> {
    let g = &program.graph;
    let mut constant = vec![false; g.values().len()];
    for (v, value) in g.values() {
        if let Def::Const(c) = value.def() {
            constant[v.index()] = !program.is_mutated(c);
        }
    }
    for n in g.nodes() {
        let node = g.node(n);
        let known = |a: &Arg| match a {
            Arg::Int(n) => n.known().is_some(),
            Arg::Ints(l) => l.iter().all(|n| n.known().is_some()),
            _ => true,
        };
        let fixed = !node.op().traits.random
            && !node.op().name.contains("empty")
            && node.args().iter().all(known)
            && node.operands().all(|v| constant[v.index()])
            && node.outputs().iter().all(|&v| g.ty(v).resolve(&Bindings::default()).is_ok());
        if fixed {
            node.outputs().iter().for_each(|v| constant[v.index()] = true);
        }
    }
    constant
}

/// Computes a constant value, and with it whatever it is computed from; `memo` keeps those.
///
/// # Errors
/// When a kernel fails.
pub fn evaluate(
    program: &Program,
    v: ValueId,
    isa: Isa,
    memo: &mut BTreeMap<ValueId, Tensor>,
) -> Result<Tensor, RunError> {
    if let Some(t) = memo.get(&v) {
        return Ok(t.clone());
    }
    match program.graph.value(v).def() {
        Def::Const(c) => Ok(program.constants[c].tensor.clone()),
        Def::Input(_) => Err(RunError::Unsupported("an input has no value yet".into())),
        Def::Node(n, output) => {
            let results = compute(program, n, isa, memo)?;
            let result = results[output as usize].clone();
            memo.extend(program.graph.node(n).outputs().iter().copied().zip(results));
            Ok(result)
        }
    }
}

fn compute(
    program: &Program,
    n: NodeId,
    isa: Isa,
    memo: &mut BTreeMap<ValueId, Tensor>,
) -> Result<Vec<Tensor>, RunError> {
    let g = &program.graph;
    let node = g.node(n);
    let fail = |reason: String| RunError::node(program, n, reason);
    let operands: Vec<Tensor> =
        node.operands().map(|v| evaluate(program, v, isa, memo)).collect::<Result<_, RunError>>()?;
    let inputs: Vec<TensorRef<'_>> =
        operands.iter().map(|t| TensorRef { dtype: t.dtype(), shape: t.shape(), bytes: t.bytes() }).collect();
    let bindings = Bindings::default();
    let kernel = kernel(node.op()).ok_or_else(|| fail(format!("{} has no kernel", node.op().name)))?;
    let types = node.outputs().iter().map(|&v| {
        let shape = g.ty(v).resolve(&bindings).map_err(|e| fail(format!("output shape: {e}")))?;
        Ok((g.ty(v).dtype, shape))
    });
    let types: Vec<_> = types.collect::<Result<_, RunError>>()?;
    // Elements of up to 8 bytes: words keep them aligned.
    let mut memory: Vec<Vec<u64>> =
        types.iter().map(|(d, s)| vec![0; (s.iter().product::<usize>() * d.size()).div_ceil(8)]).collect();
    let mut outs: Vec<TensorMut<'_>> = types
        .iter()
        .zip(&mut memory)
        .map(|((dtype, shape), words)| {
            let len = shape.iter().product::<usize>() * dtype.size();
            TensorMut { dtype: *dtype, shape, bytes: &mut bytemuck::cast_slice_mut(words)[..len] }
        })
        .collect();
    let args = concrete(program, n, &bindings)?;
    kernel(&KernelCall::alone(node.op(), &args, &inputs, isa), &mut outs).map_err(|e| fail(e.0))?;
    let results = outs.iter().map(|out| {
        let bytes = bytes::Bytes::copy_from_slice(out.bytes);
        Tensor::from_bytes(out.dtype, out.shape, bytes).map_err(|e| fail(e.to_string()))
    });
    results.collect()
}
