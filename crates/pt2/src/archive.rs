//! The zip container: entries as shared bytes, with sizes and checksums checked.

use crate::error::ImportError;
use crate::map::Map;
use bytes::Bytes;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

/// What all compressed entries together may grow to: this, or [`INFLATE_RATIO`] times the file if that is more.
const INFLATE_MIN: u64 = 64 << 20;
/// See [`INFLATE_MIN`]. Deflate itself reaches 1032.
const INFLATE_RATIO: u64 = 256;

/// An opened `.pt2` archive. Entry names are relative to its top folder.
pub struct Archive {
    file: String,
    bytes: Bytes,
    /// What `bytes` are, if they are no others' memory.
    map: Option<Arc<Map>>,
    zip: ZipArchive<Cursor<Bytes>>,
    /// `"name/"`, or empty.
    root: String,
    /// The model's name: the stem of its JSON file.
    model: String,
    /// Bytes that may still be inflated.
    budget: u64,
    /// Bytes of the file that stored entries have not taken yet.
    untaken: u64,
}

impl Archive {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        let name = path.display().to_string();
        if file.metadata().map_err(io)?.len() == 0 {
            return Self::from_bytes(name, Bytes::new());
        }
        let map = Arc::new(Map::new(&file).map_err(io)?);
        Ok(Archive { map: Some(map.clone()), ..Self::from_bytes(name, map.bytes())? })
    }

    /// The mapped file, if these bytes are a part of it.
    pub fn backing(&self, bytes: &[u8]) -> Option<Arc<Map>> {
        self.map.clone().filter(|m| m.holds(bytes))
    }

    /// Reads an archive that is in memory; `file` names it in errors.
    pub fn from_bytes(file: String, bytes: Bytes) -> Result<Self, ImportError> {
        let fail = |reason: String| ImportError::Archive { file: file.clone(), reason };
        // PyTorch writes nothing in front of an archive. To look for the directory would also find the second entry when
        // the first is as long as the end records.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes.clone())).map_err(|e| {
            fail(format!("it is no intact zip file ({e}); if it was copied or downloaded, do that again"))
        })?;
        if zip.has_duplicate_names() {
            return Err(fail("two entries have the same name".into()));
        }
        let names: Vec<&str> = zip
            .file_names_raw()
            .map(std::str::from_utf8)
            .collect::<Result<_, _>>()
            .map_err(|_| fail("an entry's name is not UTF-8".into()))?;
        let (root, model) = find_model(&names).map_err(fail)?;
        let untaken = bytes.len() as u64;
        let budget = INFLATE_MIN.max(untaken.saturating_mul(INFLATE_RATIO));
        let mut archive = Archive { file, bytes, map: None, zip, root, model, budget, untaken };
        archive.check_markers()?;
        Ok(archive)
    }

    /// The archive's name in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The stem of the program's JSON file, which other entries carry in their names.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Number of bytes of the whole file: what allocations are measured by.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is such an entry.
    pub fn contains(&self, entry: &str) -> bool {
        self.zip.index_for_name_raw(format!("{}{entry}", self.root).as_bytes()).is_some()
    }

    /// An error about an entry.
    pub fn error(&self, entry: &str, reason: impl Into<String>) -> ImportError {
        ImportError::Entry {
            file: self.file.clone(),
            entry: format!("{}{entry}", self.root),
            reason: reason.into(),
        }
    }

    /// The content of an entry, its checksum verified: a part of the file itself when stored, inflated when compressed.
    /// To be called once for each entry.
    pub fn read(&mut self, entry: &str) -> Result<Bytes, ImportError> {
        let name = format!("{}{entry}", self.root);
        let Some(index) = self.zip.index_for_name_raw(name.as_bytes()) else {
            return Err(self.error(entry, "is missing"));
        };
        let (file, bytes, budget) = (self.file.clone(), self.bytes.clone(), self.budget);
        let fail = |reason: String| ImportError::Entry { file: file.clone(), entry: name.clone(), reason };
        let mut content = self.zip.by_index(index).map_err(|e| fail(e.to_string()))?;
        let size = content.size();
        if content.encrypted() {
            return Err(fail("is encrypted".into()));
        }
        if content.compression() == CompressionMethod::Stored {
            let start = content.data_start();
            let range = start.and_then(|s| Some((usize::try_from(s).ok()?, usize::try_from(size).ok()?)));
            let range = range.and_then(|(s, n)| Some(s..s.checked_add(n)?));
            let Some(range) = range.filter(|r| r.end <= bytes.len() && content.compressed_size() == size)
            else {
                return Err(fail(format!("claims {size} bytes, more than the file holds")));
            };
            // Without this, entries that share their bytes could make a small file take for ever to check.
            let Some(untaken) = self.untaken.checked_sub(size) else {
                return Err(fail("overlaps other entries".into()));
            };
            self.untaken = untaken;
            let stored = bytes.slice(range);
            if crc32fast::hash(&stored) != content.crc32() {
                return Err(fail("is damaged: its checksum is another".into()));
            }
            return Ok(stored);
        }
        if size > budget {
            return Err(fail(format!(
                "inflates to {size} bytes, too much for a file of {}; save the model uncompressed, \
                 as torch.export.save does",
                bytes.len()
            )));
        }
        let mut data = Vec::new();
        content.by_ref().take(size).read_to_end(&mut data).map_err(|e| fail(format!("is damaged: {e}")))?;
        let rest = content.read(&mut [0]).map_err(|e| fail(format!("is damaged: {e}")))?;
        if data.len() as u64 != size || rest != 0 {
            return Err(fail(format!("does not inflate to the {size} bytes it claims")));
        }
        self.budget -= size;
        Ok(data.into())
    }

    /// Checks the small files that say what the archive is.
    fn check_markers(&mut self) -> Result<(), ImportError> {
        for (entry, want, cure) in [
            ("archive_format", "pt2", "lowbit reads what torch.export.save writes"),
            ("archive_version", "0", "export the model again with PyTorch 2.13"),
            ("byteorder", "little", "export the model on a little-endian machine"),
        ] {
            if !self.contains(entry) {
                continue;
            }
            let found = self.read(entry)?;
            if found.trim_ascii() != want.as_bytes() {
                let found = String::from_utf8_lossy(&found[..found.len().min(40)]).into_owned();
                return Err(self.error(entry, format!("says {found:?}, should be {want:?}: {cure}")));
            }
        }
        Ok(())
    }
}

/// Top folder and model name, from the place of `models/<name>.json`.
fn find_model(names: &[&str]) -> Result<(String, String), String> {
    let mut found: Vec<(&str, &str)> = names
        .iter()
        .filter_map(|n| {
            let (path, stem) = n.strip_suffix(".json")?.rsplit_once('/')?;
            let root = path.strip_suffix("models")?;
            let one_folder = root.is_empty() || root.find('/') == Some(root.len() - 1);
            one_folder.then_some((root, stem))
        })
        .collect();
    found.sort();
    match &found[..] {
        [(root, model)] => Ok((root.to_string(), model.to_string())),
        [] => Err(what_else(names)),
        several => match several.iter().find(|(_, m)| *m == "model") {
            Some((root, model)) => Ok((root.to_string(), model.to_string())),
            None => {
                let list: Vec<&str> = several.iter().map(|(_, m)| *m).collect();
                Err(format!(
                    "it holds several programs ({}): save each to a file of its own",
                    list.join(", ")
                ))
            }
        },
    }
}

/// What an archive without a program seems to be.
fn what_else(names: &[&str]) -> String {
    let has = |end: &str| names.iter().any(|n| n.ends_with(end));
    if has("serialized_exported_program.json") {
        "it has the layout of PyTorch 2.7 and older: export the model again with PyTorch 2.13".into()
    } else if has("constants.pkl") {
        "it is a TorchScript file: export the model with torch.export.export and torch.export.save".into()
    } else if has("data.pkl") {
        "it was written by torch.save (weights, or a pickled module): export the model with torch.export.export \
         and torch.export.save"
            .into()
    } else if names.iter().any(|n| n.contains("data/aotinductor/")) {
        "it holds compiled code and no program: save it with torch.export.save".into()
    } else {
        "there is no models/model.json in it".into()
    }
}
