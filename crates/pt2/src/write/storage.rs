//! Storages: what tensors lie in, each written once however many tensors share it.

use super::border::Border;
use super::names;
use crate::import::contiguous;
use crate::schema;
use bytes::Bytes;
use lowbit_core::SymInt;
use lowbit_core::ir::{ConstKind, Constant, MutationTarget};
use lowbit_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The files of one folder of the archive, and the table that says which tensor is where.
#[derive(Debug, Default)]
pub struct Storages<'p> {
    /// `weight_0`, `weight_1`, …
    pub files: Vec<(String, &'p Bytes)>,
    config: Map<String, Value>,
    /// Place, length and element type in memory, to the file that holds it.
    places: HashMap<(usize, usize, DType), usize>,
}

/// Parameters and persistent buffers, then all other constants that the program needs.
pub fn collect<'p>(border: &Border<'p>) -> (Storages<'p>, Storages<'p>) {
    let program = border.program;
    let (mut weights, mut constants) = (Storages::default(), Storages::default());
    for (id, c) in border.constants() {
        // What the program overwrites must not show in another tensor.
        let alone = program.signature.mutations.contains(&MutationTarget::Buffer(id));
        match names::kind(program, c) {
            ConstKind::Tensor => constants.add("tensor", c, alone, false),
            ConstKind::Buffer if !names::is_persistent(c) => constants.add("tensor", c, alone, false),
            kind => weights.add("weight", c, alone, kind == ConstKind::Parameter),
        }
    }
    (weights, constants)
}

impl<'p> Storages<'p> {
    fn add(&mut self, prefix: &str, c: &'p Constant, alone: bool, parameter: bool) {
        let bytes = c.tensor.bytes();
        let next = self.files.len();
        let key = (bytes.as_ptr() as usize, bytes.len(), c.tensor.dtype());
        let shared = if alone || bytes.is_empty() { next } else { *self.places.entry(key).or_insert(next) };
        if shared == next {
            self.files.push((format!("{prefix}_{next}"), bytes));
        }
        let payload = json!({
            "path_name": self.files[shared].0,
            "is_param": parameter,
            "use_pickle": false,
            "tensor_meta": meta(&c.tensor),
        });
        self.config.insert(c.name.to_string(), payload);
    }

    /// The table as JSON.
    pub fn table(&self) -> Vec<u8> {
        serde_json::to_vec(&json!({"config": self.config})).expect("JSON values are serializable")
    }
}

fn meta(t: &Tensor) -> Value {
    let sizes: Vec<SymInt> = t.shape().iter().map(|&n| n.into()).collect();
    let known = |list: &[SymInt]| list.iter().map(|n| json!({"as_int": n.known()})).collect::<Vec<_>>();
    description(t.dtype(), &known(&sizes), &known(&contiguous(&sizes)))
}

/// A `TensorMeta`.
pub fn description(dtype: DType, sizes: &[Value], strides: &[Value]) -> Value {
    json!({
        "dtype": schema::dtype_number(dtype),
        "sizes": sizes,
        "requires_grad": false,
        "device": {"type": "cpu", "index": null},
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "layout": schema::STRIDED,
    })
}
