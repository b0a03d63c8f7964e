//! The file of large constants, `weights/weight.bin`: MILBlob storage, version 2.
//!
//! A header of 64 bytes: the number of records and the version, 4 bytes each. Then records at multiples of 64: metadata of
//! 64 bytes (sentinel, type, size in bytes, offset of the data, bits of padding at its end), and the data behind it. All
//! numbers are little-endian. (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`.)

use super::types::DType;
use std::collections::HashMap;

const ALIGNMENT: usize = 64;
const SENTINEL: u32 = 0xDEAD_BEEF;
const VERSION: u32 = 2;

/// Writes the file, each constant once.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    records: u32,
    known: HashMap<(DType, usize, contents::Digest), u64>,
}

mod contents {
    //! Contents by their hash, so that equal constants are found without being kept twice.
    pub type Digest = [u8; 32];

    pub fn digest(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        sha2::Sha256::digest(bytes).into()
    }
}

impl Default for Writer {
    fn default() -> Self {
        Writer { bytes: vec![0; ALIGNMENT], records: 0, known: HashMap::new() }
    }
}

impl Writer {
    /// Stores `n` elements of a type and says where: the offset of the metadata, which a program refers to. Equal
    /// constants are stored once.
    pub fn add(&mut self, dtype: DType, n: usize, data: &[u8]) -> Option<u64> {
        let code = dtype.blob_code()?;
        let key = (dtype, n, contents::digest(data));
        if let Some(&at) = self.known.get(&key) {
            return Some(at);
        }
        let at = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(at, 0);
        let padding = (data.len() * 8 - n * dtype.bits() as usize) as u64;
        self.bytes.extend(SENTINEL.to_le_bytes());
        self.bytes.extend(code.to_le_bytes());
        for field in [data.len() as u64, (at + ALIGNMENT) as u64, padding, 0, 0, 0, 0] {
            self.bytes.extend(field.to_le_bytes());
        }
        self.bytes.extend_from_slice(data);
        self.records += 1;
        self.known.insert(key, at as u64);
        Some(at as u64)
    }

    /// The file; none when nothing was stored.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.bytes[..4].copy_from_slice(&self.records.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        (self.records > 0).then_some(self.bytes)
    }
}

/// Why a constants' file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("weight.bin: {0}")]
pub struct BlobError(pub String);

/// The type and the bytes of the record whose metadata is at `offset`.
///
/// # Errors
/// When there is none, or it reaches beyond the file.
pub fn record(file: &[u8], offset: u64) -> Result<(DType, std::ops::Range<usize>), BlobError> {
    let bad = |what: &str| BlobError(format!("{what} at offset {offset}"));
    let at = usize::try_from(offset).map_err(|_| bad("there is no record"))?;
    let meta = at
        .checked_add(ALIGNMENT)
        .and_then(|end| file.get(at..end))
        .ok_or_else(|| bad("there is no record"))?;
    let u32_at = |i: usize| u32::from_le_bytes(meta[i..i + 4].try_into().expect("4 bytes"));
    let u64_at = |i: usize| u64::from_le_bytes(meta[i..i + 8].try_into().expect("8 bytes"));
    if u32_at(0) != SENTINEL {
        return Err(bad("there is no record"));
    }
    let dtype = DType::from_blob_code(u32_at(4)).ok_or_else(|| bad("an unknown type"))?;
    let start = usize::try_from(u64_at(16)).ok();
    let size = usize::try_from(u64_at(8)).ok();
    let range = start.zip(size).and_then(|(s, n)| Some(s..s.checked_add(n)?)).filter(|r| r.end <= file.len());
    Ok((dtype, range.ok_or_else(|| bad("data that reaches beyond the file"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let mut w = Writer::default();
        let a = w.add(DType::F16, 3, &[1, 2, 3, 4, 5, 6]).unwrap();
        let b = w.add(DType::U4, 3, &[0x21, 0x03]).unwrap();
        assert_eq!(w.add(DType::F16, 3, &[1, 2, 3, 4, 5, 6]), Some(a), "stored once");
        assert_ne!(w.add(DType::I8, 2, &[0x21, 0x03]), Some(b), "another type");
        assert_eq!(w.add(DType::Str, 1, &[]), None);
        let file = w.finish().unwrap();
        assert_eq!((a, b, file.len()), (64, 192, 64 + 3 * 128 - 62));
        assert_eq!(file[..8], [3, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(record(&file, a), Ok((DType::F16, 128..134)));
        assert_eq!(record(&file, b), Ok((DType::U4, 256..258)));
        assert_eq!(file[192 + 24], 4, "bits of padding");
        assert!(record(&file, 128).is_err() && record(&file, u64::MAX).is_err());
        assert!(record(&file[..150], a).is_ok() && record(&file[..130], a).is_err());
        assert_eq!(Writer::default().finish(), None);
    }
}
