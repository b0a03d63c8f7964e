//! Qualcomm's library, loaded at run time: the only unsafe code of this crate.
//!
//! lowbit declares just what it calls ([`abi`]), takes the library from where the user has it ([`find`]), and keeps what it
//! logs, which is all the reasons it gives ([`words`] makes sentences of them). The library on a PC compiles for a chip *and*
//! emulates it.

mod abi;
mod error;
pub mod find;
mod held;
mod loaded;
mod log;
mod open;
mod session;
pub mod words;

pub use error::{Failure, LibraryError};
pub use loaded::{Loaded, Port};
pub use open::{Library, NEWEST, OLDEST};
pub use session::{Session, Tuning};

use crate::graph::Graph;

/// A graph in Qualcomm's deep learning container (`.dlc`).
///
/// The back end that writes it names the file after the graph and puts it where the process is, so the process goes to a
/// folder of its own meanwhile.
///
/// # Errors
/// What the library or the system said.
pub fn container(session: &Session, name: &str, graph: &Graph) -> Result<Vec<u8>, LibraryError> {
    let fail = |what: &str, e: std::io::Error| LibraryError::Missing(format!("{what}: {e}"));
    let back = std::env::current_dir().map_err(|e| fail("where this process is", e))?;
    let folder = std::env::temp_dir().join(format!("lowbit-qnn-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| fail("a folder for the container", e))?;
    std::env::set_current_dir(&folder).map_err(|e| fail("a folder for the container", e))?;
    let written = session.write(name, graph);
    let bytes = std::fs::read(folder.join(format!("{name}.dlc")));
    let returned = std::env::set_current_dir(&back);
    let _ = std::fs::remove_dir_all(&folder);
    returned.map_err(|e| fail("the way back", e))?;
    written?;
    bytes.map_err(|e| fail("the container that Qualcomm's library should have written", e))
}
