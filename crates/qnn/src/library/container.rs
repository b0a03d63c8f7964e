//! Qualcomm's deep learning container (`.dlc`), as the library's back end for it writes one.

use super::error::LibraryError;
use super::session::Session;
use crate::graph::Graph;
use std::io::Error;

/// A graph in a container.
///
/// The back end that writes it names the file after the graph and puts it where the process is, so the process goes to a
/// folder of its own meanwhile.
///
/// # Errors
/// What the library or the system said.
pub fn container(session: &Session, name: &str, graph: &Graph) -> Result<Vec<u8>, LibraryError> {
    let fail = |what: &str, e: Error| LibraryError::Missing(format!("{what}: {e}"));
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
    let bytes = bytes.map_err(|e| fail("the container that Qualcomm's library should have written", e))?;
    Ok(without_clock(bytes))
}

/// What the library puts before the time in a container's descriptions, which are JSON in a zip archive without checksums.
const STAMP: &[u8] = b"\"timestamp\": \"";
/// The time that stands there instead, as long as any: the same model gives the same bytes.
const NEVER: &[u8] = b"1980-01-01 00:00:00 UTC";

/// The container without the time it was made at.
fn without_clock(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(STAMP.len()).position(|w| w == STAMP) {
        at += found + STAMP.len();
        if let Some(time) = bytes.get_mut(at..at + NEVER.len()).filter(|t| t.ends_with(b" UTC")) {
            time.copy_from_slice(NEVER);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_out() {
        let one = b"{\"timestamp\": \"2026-11-28 02:18:32 UTC\"} x \"timestamp\": \"2026".to_vec();
        let want = b"{\"timestamp\": \"1980-01-01 00:00:00 UTC\"} x \"timestamp\": \"2026".to_vec();
        assert_eq!(without_clock(one), want);
        assert_eq!(without_clock(vec![]), b"");
    }
}
