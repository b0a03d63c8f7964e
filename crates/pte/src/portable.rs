//! Brings what is outside delegates into the form that the runtime has kernels for.

use crate::WriteError;
use crate::emit::describe;
use crate::kernels::kernel;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NewNode, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::passes::{DeadCode, Decompose, PackEmbeddings, Pass, PassError};

/// Decomposes, removes what is not needed, and checks that every node has a kernel.
///
/// # Errors
/// [`WriteError::NoKernel`] lists every node that has none.
pub(crate) fn prepare(program: &mut Program) -> Result<(), WriteError> {
    for pass in [&PackEmbeddings as &dyn Pass, &Decompose { keep: has_kernel }] {
        pass.run(program).map_err(|reason| PassError::Failed { pass: pass.name(), reason })?;
    }
    DeadCode.run(program).map_err(|reason| PassError::Failed { pass: "dead_code", reason })?;
    own_outputs(program)?;
    let missing: Vec<String> =
        program.graph.nodes().filter(|&n| !has_kernel(program, n)).map(|n| describe(program, n)).collect();
    if missing.is_empty() { Ok(()) } else { Err(WriteError::NoKernel(missing)) }
}

/// Whether the runtime can run this very call.
fn has_kernel(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    if *node.op() == ops::CONVOLUTION {
        // Kernels for one and two spatial dimensions only.
        return node.operands().next().is_some_and(|x| program.graph.ty(x).rank() <= 4);
    }
    if *node.op() == ops::QUANTIZE_PER_CHANNEL {
        // The kernel takes the process down when parameters are of other types.
        let is = |i: usize, d| node.arg(i).values().all(|v| program.graph.ty(v).dtype == d);
        return is(1, DType::F64) && is(2, DType::I64);
    }
    [&ops::CALL_DELEGATE, &ops::LOOP].contains(&node.op()) || kernel(node.op().name).is_some()
}

/// Outputs that are the state of a buffer before it is overwritten, or constants, need a copy of their own.
fn own_outputs(program: &mut Program) -> Result<(), WriteError> {
    let mut outputs = program.graph.outputs().to_vec();
    let users = program.signature.outputs.len();
    for out in outputs.iter_mut().take(users) {
        if program.constant(*out).is_some() {
            *out = copy(program, *out)?;
        }
    }
    program.graph.set_outputs(outputs);
    Ok(())
}

/// A copy of a value, made at the start: before anything is overwritten.
fn copy(program: &mut Program, v: ValueId) -> Result<ValueId, WriteError> {
    let dtype = program.graph.ty(v).dtype;
    let new = NewNode::new(&ops::TO_COPY, [Arg::Value(v), dtype.into()]);
    let n = program.graph.prepend(new).map_err(|e| WriteError::Internal(e.message))?;
    Ok(program.graph.node(n).output())
}
