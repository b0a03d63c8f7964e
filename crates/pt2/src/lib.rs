//! Reads the `.pt2` archives that `torch.export.save` writes into a [`Program`].
//!
//! ```no_run
//! let program = lowbit_pt2::read("model.pt2".as_ref())?;
//! println!("{} nodes", program.graph.nodes().len());
//! # Ok::<(), lowbit_pt2::ImportError>(())
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
mod schema;
mod srepr;

pub use error::{ImportError, Place, UnknownOp};

use archive::Archive;
use bytes::Bytes;
use lowbit_core::ir::Program;
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
