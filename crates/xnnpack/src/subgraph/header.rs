//! The header before the FlatBuffer: where the parts of a blob are (`XNNHeader`).
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | zeros: a FlatBuffer's root offset would be here |
//! | 4..8 | `XH00`, where a FlatBuffer has its identifier |
//! | 8..10 | length of this header, 30 |
//! | 10..14, 14..18 | offset and size of the FlatBuffer |
//! | 18..22, 22..30 | offset and size of constant data in the blob |

const LENGTH: u16 = 30;
/// The header's length, rounded up so that what follows is aligned.
const PADDED: usize = 32;
const ALIGNMENT: usize = 16;

/// A blob of this FlatBuffer and no constant data: constants are named.
pub fn wrap(flatbuffer: &[u8]) -> Vec<u8> {
    let end = (PADDED + flatbuffer.len()).next_multiple_of(ALIGNMENT);
    let u32_of = |n: usize| u32::try_from(n).expect("a graph without its weights is smaller than 4 GiB");
    let mut out = Vec::with_capacity(end);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(b"XH00");
    out.extend_from_slice(&LENGTH.to_le_bytes());
    out.extend_from_slice(&u32_of(PADDED).to_le_bytes());
    out.extend_from_slice(&u32_of(flatbuffer.len()).to_le_bytes());
    out.extend_from_slice(&u32_of(end).to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes());
    out.resize(PADDED, 0);
    out.extend_from_slice(flatbuffer);
    out.resize(end, 0);
    out
}

/// The FlatBuffer in a blob.
#[cfg(test)]
pub fn unwrap(blob: &[u8]) -> &[u8] {
    assert_eq!(&blob[4..8], b"XH00");
    assert_eq!(u16::from_le_bytes([blob[8], blob[9]]), LENGTH);
    let at = |i: usize| u32::from_le_bytes(blob[i..i + 4].try_into().unwrap()) as usize;
    assert_eq!((at(18), blob.len() % ALIGNMENT), (blob.len(), 0));
    &blob[at(10)..at(10) + at(14)]
}
