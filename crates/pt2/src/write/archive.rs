//! The zip container, laid out as PyTorch lays it out: stored entries whose contents are aligned, under one folder.

use super::Export;
use std::io::{BufWriter, Result, Seek, Write};
use zip::write::{FileOptions, SimpleFileOptions};
use zip::{CompressionMethod, DateTime, ZipWriter};

/// PyTorch aligns the contents of entries, so that they can be mapped.
const ALIGNMENT: u16 = 64;

/// The folder that PyTorch uses where a file has no name: bytes do not depend on the file's.
const ROOT: &str = "archive";

/// Entries from here on have 64-bit sizes.
const LARGE: usize = u32::MAX as usize;

/// Writes all entries.
pub fn write<W: Write + Seek>(export: &Export<'_>, out: W) -> Result<W> {
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 20, out));
    let mut entry = |name: &str, content: &[u8]| -> Result<()> {
        zip.start_file(format!("{ROOT}/{name}"), options(content.len()))?;
        zip.write_all(content)
    };
    for (folder, table, storages) in
        [("weights", "weights", &export.weights), ("constants", "constants", &export.constants)]
    {
        for (name, bytes) in &storages.files {
            entry(&format!("data/{folder}/{name}"), bytes)?;
        }
        entry(&format!("data/{folder}/model_{table}_config.json"), &storages.table())?;
    }
    entry("models/model.json", &export.model)?;
    // There are none; PyTorch wants the entry.
    entry("data/sample_inputs/model.pt", b"")?;
    entry("archive_format", b"pt2")?;
    entry("archive_version", b"0")?;
    entry(".data/version", b"6\n")?;
    entry("byteorder", b"little")?;
    zip.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)
}

fn options(size: usize) -> SimpleFileOptions {
    FileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT)
        .last_modified_time(DateTime::default())
        .large_file(size >= LARGE)
        .unix_permissions(0o644)
}
