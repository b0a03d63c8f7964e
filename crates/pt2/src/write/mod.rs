//! From a [`Program`] to the archive that `torch.export.save` would write of it.
//!
//! 1. Names ([`names`]): FX wants identifiers, each once; constants become placeholders in front of the inputs.
//! 2. Each node is a call of PyTorch's operator with its arguments ([`calls`]); sizes that depend on symbols are computed by
//!    nodes of their own ([`sizes`]). Strides are followed ([`strides`]), because a `view` of memory that does not step evenly
//!    is an error in PyTorch: such a one is written as `reshape`.
//! 3. The signature ([`border`]): parameters, buffers, constants, the caller's inputs and outputs in their pytree form, and
//!    mutations as outputs, as in every functional exported program.
//! 4. Storages ([`storage`]) go to the file as they lie in memory ([`archive`]): nothing is copied.

mod archive;
mod border;
mod calls;
mod names;
mod sizes;
mod storage;
mod strides;

use crate::error::ExportError;
use crate::schema;
use border::Border;
use calls::Calls;
use lowbit_core::ir::{NodeId, Program};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use storage::Storages;

/// The version of ATen's operators that PyTorch 2.13 records; it is not checked when a file is read.
const OPSET: i64 = 10;

/// A program in the terms of a `.pt2` file, ready to be written. Weights are borrowed from the program.
#[derive(Debug)]
pub struct Export<'p> {
    /// `models/model.json`
    model: Vec<u8>,
    /// Parameters and persistent buffers.
    weights: Storages<'p>,
    /// Other buffers and lifted constants.
    constants: Storages<'p>,
}

impl<'p> Export<'p> {
    /// Translates a program. `sources`: the node that a quantize or dequantize node belongs to (see
    /// [`Converted::sources`](lowbit_core::flow::Converted::sources)), which the file keeps as its `from_node`; may be empty.
    ///
    /// # Errors
    /// [`ExportError`] names the node or the part of the signature that PyTorch has no form for.
    pub fn new(program: &'p Program, sources: &BTreeMap<NodeId, NodeId>) -> Result<Self, ExportError> {
        let border = Border::new(program);
        let (weights, constants) = storage::collect(&border);
        let mut calls = Calls::new(&border, sources);
        calls.nodes()?;
        let (signature, call) = border.write(&mut calls)?;
        let model = json!({
            "graph_module": {
                "graph": calls.finish(&signature)?,
                "signature": {"input_specs": signature.input_specs, "output_specs": signature.output_specs},
                "module_call_graph": [{"fqn": "", "signature": call}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": OPSET},
            "range_constraints": sizes::ranges(program),
            "schema_version": {"major": schema::MAJOR, "minor": schema::MINOR},
            // Functional operators before decomposition: what PyTorch calls the training dialect.
            "verifiers": ["TRAINING"],
            "torch_version": concat!("2.13.0 (lowbit ", env!("CARGO_PKG_VERSION"), ")"),
            "guards_code": [],
        });
        let model = serde_json::to_vec(&model).expect("JSON values are serializable");
        Ok(Export { model, weights, constants })
    }

    /// Writes the archive; the same program gives the same bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write<W: Write + Seek>(&self, out: W) -> std::io::Result<W> {
        archive::write(self, out)
    }
}
