//! Running what was compiled, on the library's emulation of the chip.

use crate::graph::DType;
use crate::library::{Loaded, Session};
use crate::payload;
use lowbit_core::Tensor;
use lowbit_core::backend::{Blob, Device};
use lowbit_core::dtype::DType as CoreType;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The emulated chip. What has run stays loaded.
#[derive(Debug)]
pub struct Emulator {
    session: Session,
    loaded: RefCell<BTreeMap<Vec<u8>, Loaded>>,
}

impl Emulator {
    /// The chip of a session.
    pub fn new(session: Session) -> Self {
        Emulator { session, loaded: RefCell::new(BTreeMap::new()) }
    }
}

impl Device for Emulator {
    fn run(&self, blob: &Blob, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let binary = payload::unwrap(&blob.bytes)?;
        // The header is a digest of the rest.
        let key = blob.bytes[..payload::HEADER].to_vec();
        let mut all = self.loaded.borrow_mut();
        if !all.contains_key(&key) {
            all.insert(key.clone(), self.session.load(binary).map_err(|e| e.to_string())?);
        }
        let loaded = all.get(&key).ok_or("it was not loaded")?;
        if loaded.inputs.len() != inputs.len() {
            return Err(format!("it takes {} inputs, {} were given", loaded.inputs.len(), inputs.len()));
        }
        // Names say which argument an input is.
        let mut given: Vec<&[u8]> = vec![];
        for port in &loaded.inputs {
            let number = number(&port.name, "input_").filter(|&k| k < inputs.len());
            given.push(
                inputs[number.ok_or_else(|| format!("its input {} has no number", port.name))?].bytes(),
            );
        }
        let made = loaded.run(&given).map_err(|e| e.to_string())?;
        let mut results = vec![];
        for (port, bytes) in loaded.outputs.iter().zip(made) {
            let dims: Vec<usize> = port.dims.iter().map(|&d| d as usize).collect();
            let dtype = outside(port.dtype).ok_or_else(|| format!("it gives {}", port.dtype.name()))?;
            let place = number(&port.name, "output_").unwrap_or(results.len());
            results.push((place, Tensor::from_bytes(dtype, &dims, bytes.into()).map_err(|e| e.to_string())?));
        }
        results.sort_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, t)| t).collect())
    }
}

/// The number behind a prefix: 3 in `input_3_x`.
fn number(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.split('_').next()?.parse().ok()
}

/// The program's element type for one of the chip's.
fn outside(dtype: DType) -> Option<CoreType> {
    Some(match dtype {
        DType::Int32 | DType::S32 => CoreType::I32,
        DType::Int64 => CoreType::I64,
        DType::F16 => CoreType::F16,
        DType::F32 => CoreType::F32,
        DType::S8 => CoreType::I8,
        DType::S16 => CoreType::I16,
        DType::U8 => CoreType::U8,
        DType::U16 => CoreType::U16,
        DType::Bool => CoreType::Bool,
        DType::UInt32 => return None,
    })
}
