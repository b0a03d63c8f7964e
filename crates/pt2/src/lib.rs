//! Reads the `.pt2` archives that `torch.export.save` writes into a [`Program`], and writes programs as such archives.
//!
//! ```no_run
//! let program = lowbit_pt2::read("model.pt2".as_ref())?;
//! println!("{} nodes", program.graph.nodes().len());
//! lowbit_pt2::write(&program, std::fs::File::create("copy.pt2")?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A `.pt2` file is a zip archive: `models/model.json` holds the graph, its signature and the type of every value;
//! `data/weights/` and `data/constants/` hold one uncompressed file a storage and a JSON table that says which
//! parameter is where. Weights are not copied: tensors point into the memory map of the file.
//!
//! The graph may be as exported (in-place operators, views that share memory) or as `run_decompositions()` leaves it.
//! Either way the program is purely functional: `src/import/memory.rs` says how memory sharing is resolved.
//! The type PyTorch recorded for each value is compared with the one lowbit's shape rules give; a difference is an
//! error.
//!
//! Files may come from strangers: a truncated or tampered archive gives an [`ImportError`]; what is allocated is
//! bounded by the size of the file.
#![deny(unsafe_code)]

mod archive;
mod error;
mod import;
mod map;
mod schema;
mod srepr;
mod write;

pub use error::{ExportError, ImportError, Place, UnknownOp};
pub use write::Export;

use archive::Archive;
use bytes::Bytes;
use lowbit_core::ir::Program;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::Path;

/// Reads a `.pt2` file. Weights stay in the file's memory map, which lives as long as a tensor points into it; the file
/// must not be changed meanwhile.
///
/// # Errors
/// [`ImportError`]: the file cannot be read, is no intact `.pt2` archive, or holds a program that lowbit cannot take.
pub fn read(path: &Path) -> Result<Program, ImportError> {
    import::program(&mut Archive::open(path)?)
}

/// Reads a `.pt2` archive from memory. Weights share `bytes`.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: Bytes) -> Result<Program, ImportError> {
    import::program(&mut Archive::from_bytes("the archive".into(), bytes)?)
}

/// Writes a program as a `.pt2` archive that `torch.export.load` reads. Operators of `quantized_decomposed` and `torchao`
/// keep their names; PyTorch knows them once their library is imported. The same program gives the same bytes.
///
/// # Errors
/// [`ExportError`]: the program holds what PyTorch has no form for, or `out` fails. See [`Export`] for finding out before
/// anything is written.
pub fn write<W: Write + Seek>(program: &Program, out: W) -> Result<W, ExportError> {
    Ok(Export::new(program, &BTreeMap::new())?.write(out)?)
}
