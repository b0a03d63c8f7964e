//! What ExecuTorch's QNN delegate reads: a context binary behind a header, and its options.

mod options;

pub use options::options;

use sha2::{Digest, Sha256};

/// The first bytes of a payload, little-endian.
const MAGIC: u32 = 0x5678_ABCD;
/// Where the context binary begins.
pub const HEADER: usize = 256;
/// The key of the delegate's only compile spec.
pub const SPEC: &str = "qnn_compile_spec";
/// The name of the graph: that of the method, by which the runtime looks it up.
pub const GRAPH: &str = "forward";

/// A context binary as a payload. The signature, by which the runtime tells one binary from another, follows from the
/// contents; ExecuTorch takes the time.
pub fn wrap(binary: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(binary);
    let mut signature = [0; 8];
    signature.copy_from_slice(&digest[..8]);
    // Positive, as a time is.
    let signature = i64::from_le_bytes(signature) & i64::MAX;
    let mut out = Vec::with_capacity(HEADER + binary.len());
    out.extend(MAGIC.to_le_bytes());
    out.extend(signature.to_le_bytes());
    out.extend((binary.len() as u64).to_le_bytes());
    out.resize(HEADER, 0);
    out.extend_from_slice(binary);
    out
}

/// The context binary in a payload.
///
/// # Errors
/// When it is none, or cut short.
pub fn unwrap(payload: &[u8]) -> Result<&[u8], String> {
    let header = payload.get(..HEADER).ok_or("it is shorter than the header of a QNN payload")?;
    let number = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    if header[..4] != MAGIC.to_le_bytes() {
        return Err("it does not begin like a QNN payload".into());
    }
    let size = usize::try_from(number(12)).ok().and_then(|n| HEADER.checked_add(n));
    size.and_then(|end| payload.get(HEADER..end))
        .ok_or_else(|| "the context binary in it is cut short".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_as_the_runtime_reads_it() {
        let payload = wrap(b"context");
        assert_eq!(payload.len(), HEADER + 7);
        assert_eq!(payload[..4], [0xCD, 0xAB, 0x78, 0x56]);
        assert_eq!(payload[12..20], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert!(payload[20..HEADER].iter().all(|b| *b == 0));
        assert_eq!(unwrap(&payload), Ok(&b"context"[..]));
        assert_eq!(wrap(b"context"), payload, "no clock in it");
        assert_ne!(wrap(b"contexu")[4..12], payload[4..12]);
        for cut in [0, 100, HEADER, HEADER + 6] {
            assert!(unwrap(&payload[..cut]).is_err(), "{cut}");
        }
        assert!(unwrap(&[0; 300]).unwrap_err().contains("begin"));
    }
}
