//! What ExecuTorch's Core ML delegate reads: a folder as one run of bytes.
//!
//! The files' contents behind one another, then a table of files and folders as JSON, its bytes in *reverse* order, so that
//! a reader can start at the end. Children come before the folder they are in; the last entry is the root.
//! (`executorch/backends/apple/coreml/runtime/inmemoryfs`.)

use super::{Files, Package};
use crate::mil::read::ReadError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The folder's name.
const ROOT: &str = "lowered_module";
/// Above this, the runtime maps files into memory, which wants them at the start of pages.
const LARGE: usize = 1 << 30;
const PAGE: usize = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    name: String,
    #[serde(rename = "dataRegion")]
    region: Region,
    children: BTreeMap<String, usize>,
    /// 0: a file, 1: a folder.
    kind: u8,
}

#[derive(Copy, Clone, Debug, Default, Serialize, Deserialize)]
struct Region {
    offset: u64,
    size: u64,
}

/// The payload for a package: its files, and the names of inputs and outputs in the order of the delegate's arguments. The
/// identifier, by which the device keeps the compiled model, follows from the contents.
pub fn of(package: &Package) -> Vec<u8> {
    let files = package.files();
    let parts: Vec<&[u8]> = files.iter().flat_map(|(path, bytes)| [path.as_bytes(), &bytes[..]]).collect();
    let names = |l: &[super::Feature]| l.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
    let metadata = json!({
        "inputNames": names(&package.border.inputs),
        "outputNames": names(&package.border.outputs),
        "identifier": format!("executorch_{}", super::identifier(&parts).to_lowercase()),
    });
    let mut all: Files = files.into_iter().map(|(path, b)| (format!("model.mlpackage/{path}"), b)).collect();
    all.insert("metadata.json".into(), metadata.to_string().into_bytes());
    flatten(&all)
}

/// A folder's files in one run of bytes.
pub fn flatten(files: &Files) -> Vec<u8> {
    let total: usize = files.values().map(Vec::len).sum();
    let alignment = if total > LARGE { PAGE } else { 1 };
    let (mut data, mut nodes) = (Vec::with_capacity(total), vec![]);
    let paths: Vec<(Vec<&str>, &[u8])> =
        files.iter().map(|(p, b)| (p.split('/').collect(), &b[..])).collect();
    let root = folder(ROOT, &paths, 0, alignment, &mut data, &mut nodes);
    nodes.push(root);
    data.resize(data.len().next_multiple_of(alignment), 0);
    let table = serde_json::to_vec(&Table { nodes }).expect("a table of names and numbers");
    data.extend(table.iter().rev());
    data
}

/// The entry of a folder with these files, whose paths share their first `depth` parts; what is in it is put before.
fn folder(
    name: &str,
    files: &[(Vec<&str>, &[u8])],
    depth: usize,
    alignment: usize,
    data: &mut Vec<u8>,
    nodes: &mut Vec<Node>,
) -> Node {
    let mut children = BTreeMap::new();
    for group in files.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
        let (path, bytes) = &group[0];
        let child = path[depth];
        let node = if path.len() == depth + 1 {
            data.resize(data.len().next_multiple_of(alignment), 0);
            let region = Region { offset: data.len() as u64, size: bytes.len() as u64 };
            data.extend_from_slice(bytes);
            Node { name: child.into(), region, children: BTreeMap::new(), kind: 0 }
        } else {
            folder(child, group, depth + 1, alignment, data, nodes)
        };
        nodes.push(node);
        children.insert(child.to_string(), nodes.len() - 1);
    }
    Node { name: name.into(), region: Region::default(), children, kind: 1 }
}

/// The files in a payload, by path.
///
/// # Errors
/// When it has no table, or the table points outside.
pub fn unflatten(payload: &Bytes) -> Result<BTreeMap<String, Bytes>, ReadError> {
    let fail = |reason: &str| ReadError { place: "delegate payload".into(), reason: reason.into() };
    // Zeros may follow.
    let end = payload.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
    let mut reversed = serde_json::Deserializer::from_reader(Backwards(&payload[..end])).into_iter::<Table>();
    let table =
        reversed.next().and_then(Result::ok).ok_or_else(|| fail("there is no table of files at its end"))?;
    let mut files = BTreeMap::new();
    let root = table.nodes.len().checked_sub(1).ok_or_else(|| fail("its table is empty"))?;
    let mut open = vec![(String::new(), root)];
    while let Some((path, i)) = open.pop() {
        let node = &table.nodes[i];
        if node.kind == 0 {
            let range = usize::try_from(node.region.offset).ok().zip(usize::try_from(node.region.size).ok());
            let range =
                range.and_then(|(o, n)| Some(o..o.checked_add(n)?)).filter(|r| r.end <= payload.len());
            files.insert(path, payload.slice(range.ok_or_else(|| fail("a file lies outside"))?));
            continue;
        }
        for (name, &child) in &node.children {
            // Children lie before their folder, so this ends.
            if child >= i {
                return Err(fail("its table runs in a circle"));
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            open.push((path, child));
        }
    }
    Ok(files)
}

/// Reads bytes from the last to the first.
struct Backwards<'a>(&'a [u8]);

impl std::io::Read for Backwards<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = out.len().min(self.0.len());
        let (rest, last) = self.0.split_at(self.0.len() - n);
        for (to, from) in out.iter_mut().zip(last.iter().rev()) {
            *to = *from;
        }
        self.0 = rest;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_back() {
        let files: Files =
            [("b/c/d.bin", &b"123"[..]), ("a.json", b"{}"), ("b/c.txt", b""), ("b/e", b"\0\0")]
                .map(|(p, b)| (p.to_string(), b.to_vec()))
                .into();
        let payload = flatten(&files);
        assert_eq!(payload.last(), Some(&b'{'));
        let mut padded = payload.clone();
        padded.extend([0; 9]);
        for bytes in [payload, padded] {
            let back = unflatten(&bytes.into()).unwrap();
            assert_eq!(back.iter().map(|(p, b)| (p.clone(), b.to_vec())).collect::<Files>(), files);
        }
    }

    #[test]
    fn broken_tables_are_errors() {
        for bytes in [&b""[..], b"abc", b"}{", b"\0\0"] {
            assert!(unflatten(&Bytes::copy_from_slice(bytes)).is_err());
        }
        for table in [
            r#"{"nodes":[]}"#,
            r#"{"nodes":[{"name":"r","dataRegion":{"offset":0,"size":0},"children":{"a":0},"kind":1}]}"#,
            r#"{"nodes":[{"name":"r","dataRegion":{"offset":9,"size":900},"children":{},"kind":0}]}"#,
        ] {
            let bytes: Vec<u8> = table.bytes().rev().collect();
            assert!(unflatten(&bytes.into()).is_err(), "{table}");
        }
    }
}
