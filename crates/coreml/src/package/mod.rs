//! Packages: the folder `.mlpackage`, as files in memory.
//!
//! ```text
//! Manifest.json
//! Data/com.apple.CoreML/model.mlmodel          the messages
//! Data/com.apple.CoreML/weights/weight.bin     large constants, if there are any
//! ```

mod description;
pub mod payload;

pub use description::{Border, Feature, Sizes};

use crate::Target;
use crate::mil::{self, blob, proto, read::ReadError};
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const MODEL: &str = "Data/com.apple.CoreML/model.mlmodel";
const WEIGHTS: &str = "Data/com.apple.CoreML/weights/weight.bin";
pub(crate) const MANIFEST: &str = "Manifest.json";

/// A model as Core ML stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The oldest system it runs on.
    pub target: Target,
    /// Names, types and sizes at its border.
    pub border: Border,
    /// What it computes.
    pub program: mil::Program,
}

/// Files by path, `/` between folders.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Package {
    /// The files of the package. Identifiers follow from contents, so that equal models are equal files.
    pub fn files(&self) -> Files {
        let mut blobs = blob::Writer::default();
        let program = mil::write::program(&self.program, self.target, &mut blobs);
        let model = proto::Model {
            specification_version: self.target.specification(),
            description: Some(self.border.message()),
            ml_program: Some(program),
        };
        let (model, weights) = (model.encode_to_vec(), blobs.finish());
        let mut files = Files::from([(MANIFEST.into(), manifest(&model, weights.as_deref()))]);
        files.insert(MODEL.into(), model);
        files.extend(weights.map(|w| (WEIGHTS.into(), w)));
        files
    }

    /// Reads a package; `file` gives the contents of a file, when there is one of that path.
    ///
    /// # Errors
    /// Names the file, function or operator that is missing, broken, or of a kind that lowbit does not read.
    pub fn read(file: &mut dyn FnMut(&str) -> Option<Bytes>) -> Result<Package, ReadError> {
        let fail = |place: &str, reason: String| ReadError { place: place.into(), reason };
        let manifest =
            file(MANIFEST).ok_or_else(|| fail(MANIFEST, "it is missing; is this an .mlpackage?".into()))?;
        let root = root(&manifest).map_err(|why| fail(MANIFEST, why))?;
        let model = file(&root).ok_or_else(|| fail(&root, "it is missing".into()))?;
        let weights = file(WEIGHTS).unwrap_or_default();
        let model = proto::Model::decode(model).map_err(|e| fail(&root, format!("no model: {e}")))?;
        let target = Target::ALL.into_iter().find(|t| t.specification() == model.specification_version);
        let target = target.ok_or_else(|| {
            let versions =
                (Target::ALL[0].specification(), Target::ALL[Target::ALL.len() - 1].specification());
            let found = model.specification_version;
            fail(
                &root,
                format!("specification version {found}; lowbit reads {} to {}", versions.0, versions.1),
            )
        })?;
        let program = model.ml_program.as_ref().ok_or_else(|| fail(&root, "it is no ML Program".into()))?;
        let description = model.description.unwrap_or_default();
        Ok(Package {
            target,
            border: Border::read(&description)?,
            program: mil::read::program(program, &weights)?,
        })
    }
}

/// The table of contents. Both items have an identifier in the form of a UUID, made from their contents.
fn manifest(model: &[u8], weights: Option<&[u8]>) -> Vec<u8> {
    let entry = |name: &str, what: &str, path: &str| json!({"author": "com.apple.CoreML", "description": what, "name": name, "path": path});
    let root = identifier(&[b"model", model, weights.unwrap_or_default()]);
    let mut items = serde_json::Map::new();
    let (name, what) = ("model.mlmodel", "CoreML Model Specification");
    items.insert(root.clone(), entry(name, what, "com.apple.CoreML/model.mlmodel"));
    if let Some(w) = weights {
        items.insert(
            identifier(&[b"weights", w]),
            entry("weights", "CoreML Model Weights", "com.apple.CoreML/weights"),
        );
    }
    let manifest =
        json!({"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": root});
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a tree of strings");
    text.push(b'\n');
    text
}

/// The path of the model in a manifest.
fn root(manifest: &[u8]) -> Result<String, String> {
    let m: serde_json::Value = serde_json::from_slice(manifest).map_err(|e| e.to_string())?;
    let id = m["rootModelIdentifier"].as_str().ok_or("rootModelIdentifier is missing")?;
    let path = m["itemInfoEntries"][id]["path"].as_str().ok_or("the root model has no entry")?;
    Ok(format!("Data/{path}"))
}

/// A UUID (version 8, "custom") from a hash of contents.
pub(crate) fn identifier(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for p in parts {
        hash.update((p.len() as u64).to_le_bytes());
        hash.update(p);
    }
    let mut b: [u8; 16] = hash.finalize()[..16].try_into().expect("16 of 32 bytes");
    (b[6], b[8]) = (b[6] & 0x0f | 0x80, b[8] & 0x3f | 0x80);
    let hex: String = b.iter().map(|b| format!("{b:02X}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
