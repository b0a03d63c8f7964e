//! Lowering: which nodes XNNPACK takes, and the subgraph of a region.

mod build;
mod emit;
mod gemm;
mod layout;
mod passes;
mod quant;
mod tables;
mod weight;

use build::Builder;
pub use emit::is_fully_connected;
use lowbit_core::backend::{BackendError, Blob, Claim, Lowering};
use lowbit_core::ir::{Key, NodeId, Program};
use lowbit_core::ops;
use lowbit_core::passes::Pipeline;
use lowbit_core::passes::decompose::is_sequence;

/// The lowering to XNNPACK.
#[derive(Copy, Clone, Debug, Default)]
pub struct Xnnpack;

impl Lowering for Xnnpack {
    fn delegate_id(&self) -> &'static str {
        "XnnpackBackend"
    }

    fn passes(&self) -> Pipeline {
        passes::pipeline()
    }

    fn claim(&self, program: &Program, node: NodeId) -> Claim {
        let op = program.graph.node(node).op();
        let Some(row) = emit::row(op) else {
            return Claim::Leave(format!("XNNPACK has no {}", op.name).into());
        };
        match (row.take)(program, node) {
            Ok(along) => Claim::Take(along),
            Err(why) => Claim::Leave(why.into()),
        }
    }

    fn dynamic_dims(&self, program: &Program, reader: NodeId) -> Option<Vec<usize>> {
        dynamic_dims(program, reader)
    }

    fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
        let g = &part.graph;
        // Activations, pads and quantize nodes that an operator absorbs are not emitted once more.
        let mut absorbed = vec![false; g.table_sizes().0];
        for n in g.nodes() {
            let along = emit::row(g.node(n).op()).and_then(|r| (r.take)(part, n).ok());
            along.into_iter().flatten().for_each(|m| absorbed[m.index()] = true);
        }
        let refused = |node: NodeId, reason: String| BackendError::Refused { node, reason };
        let mut b = Builder::new(part);
        for (i, n) in g.nodes().enumerate() {
            if absorbed[n.index()] {
                continue;
            }
            b.set_debug_handle(i);
            let row = emit::row(g.node(n).op());
            let row = row.ok_or_else(|| refused(n, format!("XNNPACK has no {}", g.node(n).op().name)))?;
            (row.emit)(&mut b, n).map_err(|why| refused(n, why))?;
        }
        let (graph, named_data) = b.finish().map_err(|(v, why)| match g.producer(v) {
            Some(n) => refused(n, why),
            None => {
                BackendError::Compile { backend: "xnnpack", node: g.value(v).name.to_string(), reason: why }
            }
        })?;
        Ok(Blob { bytes: graph.to_bytes(), compile_specs: Vec::new(), named_data })
    }
}

/// XNNPACK takes one range for each row of a linear layer, recurrent ones included, for each pixel of a pointwise convolution
/// (a linear layer to it), and for each image of any other.
pub fn dynamic_dims(program: &Program, reader: NodeId) -> Option<Vec<usize>> {
    let node = program.graph.node(reader);
    let rank = program.graph.ty(node.operands().next()?).rank();
    match node.op() {
        op if *op == ops::LINEAR || is_sequence(op) => Some(vec![rank - 1]),
        op if !op.packet().starts_with("aten.conv") => None,
        _ if is_fully_connected(program, reader) => Some(vec![1]),
        _ => Some((1..rank).collect()),
    }
}
