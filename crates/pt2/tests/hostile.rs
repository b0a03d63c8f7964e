//! Files that are damaged or lie: an error that names the file and the entry, never a panic, a hang or much memory.

use bytes::Bytes;
use lowbit_pt2::{ImportError, read_bytes};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn entries(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = ZipArchive::new(Cursor::new(file)).unwrap();
    (0..zip.len())
        .map(|i| {
            let mut entry = zip.by_index(i).unwrap();
            let mut data = vec![];
            entry.read_to_end(&mut data).unwrap();
            (entry.name().unwrap().into_owned(), data)
        })
        .collect()
}

fn pack(entries: &[(String, Vec<u8>)], method: CompressionMethod) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, data) in entries {
        zip.start_file(name.as_str(), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner().into()
}

/// `file` with the entry that ends in `name` changed.
fn edited(file: &[u8], name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut all = entries(file);
    edit(&mut all.iter_mut().find(|(n, _)| n.ends_with(name)).expect(name).1);
    pack(&all, CompressionMethod::Stored)
}

fn edited_json(file: &[u8], name: &str, edit: impl FnOnce(&mut Value)) -> Bytes {
    edited(file, name, |data| {
        let mut json: Value = serde_json::from_slice(data).unwrap();
        edit(&mut json);
        *data = serde_json::to_vec(&json).unwrap();
    })
}

fn refused(bytes: Bytes, wants: &[&str]) {
    let message = match read_bytes(bytes) {
        Ok(_) => panic!("was read; wanted an error with {wants:?}"),
        Err(e) => e.to_string(),
    };
    for want in wants {
        assert!(message.contains(want), "{message:?} does not say {want:?}");
    }
}

const MODEL: &str = "models/model.json";
const WEIGHTS: &str = "model_weights_config.json";

#[test]
fn repacked_archives_are_read() {
    let mut all = entries(&file("weights.pt2"));
    assert!(read_bytes(pack(&all, CompressionMethod::Deflated)).is_ok());
    for (name, _) in &mut all {
        *name = name.split_once('/').unwrap().1.into();
    }
    assert!(read_bytes(pack(&all, CompressionMethod::Stored)).is_ok(), "without a top folder");
}

/// The end records as PyTorch writes them: those for large archives too, in archives of any size.
fn with_both_ends(zip: Bytes) -> Bytes {
    let (front, end) = zip.split_at(zip.len() - 22);
    let field =
        |at: usize, size: usize| end[at..at + size].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let mut out = front.to_vec();
    out.extend(b"PK\x06\x06");
    out.extend(44u64.to_le_bytes());
    out.extend([0; 12]);
    for number in [field(10, 2), field(10, 2), field(12, 4), field(16, 4)] {
        out.extend(number.to_le_bytes());
    }
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend((front.len() as u64).to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(end);
    out.into()
}

#[test]
fn a_name_of_any_length_may_come_first() {
    let all = entries(&file("weights.pt2"));
    for length in 20..60 {
        let mut all = all.clone();
        let (_, first) = all[0].0.split_once('/').unwrap();
        let root = "m".repeat(length - 1 - first.len().min(length - 2));
        for (name, _) in &mut all {
            *name = format!("{root}/{}", name.split_once('/').unwrap().1);
        }
        let file = with_both_ends(pack(&all, CompressionMethod::Stored));
        assert!(read_bytes(file).is_ok(), "first entry {:?}", all[0].0);
    }
}

#[test]
fn other_files_are_told_apart() {
    refused(Bytes::new(), &["not a .pt2 archive"]);
    refused(Bytes::from_static(b"hello"), &["no intact zip"]);
    let zip = |names: &[&str]| {
        let all: Vec<_> = names.iter().map(|n| (n.to_string(), b"x".to_vec())).collect();
        pack(&all, CompressionMethod::Stored)
    };
    refused(zip(&["a/data.pkl", "a/constants.pkl"]), &["TorchScript"]);
    refused(zip(&["a/data.pkl", "a/data/0"]), &["torch.save"]);
    refused(zip(&["serialized_exported_program.json"]), &["PyTorch 2.7"]);
    refused(zip(&["a/models/x.json", "a/models/y.json"]), &["several programs (x, y)"]);
    refused(zip(&["readme"]), &["no models/model.json"]);
}

#[test]
fn markers_are_checked() {
    let f = file("numbers.pt2");
    refused(edited(&f, "byteorder", |d| *d = b"big".to_vec()), &["byteorder", "\"big\"", "little-endian"]);
    refused(edited(&f, "archive_version", |d| *d = b"7".to_vec()), &["archive_version", "\"7\""]);
    refused(edited(&f, "archive_format", |d| *d = b"\xff\xff".to_vec()), &["archive_format"]);
}

#[test]
fn versions_are_checked() {
    let f = file("numbers.pt2");
    let newer = edited_json(&f, MODEL, |j| {
        j["schema_version"]["minor"] = json!(99);
        j["news"] = json!({"x": [1, 2]});
        j["graph_module"]["graph"]["nodes"][0]["news"] = json!(null);
    });
    assert!(read_bytes(newer).is_ok(), "newer minor versions and unknown fields are fine");
    let other = |n: i64| edited_json(&f, MODEL, |j| j["schema_version"]["major"] = json!(n));
    refused(other(9), &["9.", "version 8", "PyTorch 2.13", "export the model again"]);
    refused(other(7), &["7."]);
    let changed = edited_json(&f, MODEL, |j| {
        j["schema_version"]["major"] = json!(9);
        j["graph_module"] = json!([]);
    });
    refused(changed, &["version 8"]);
    refused(edited_json(&f, MODEL, |j| j["graph_module"] = json!([])), &[MODEL, "not the JSON"]);
}

#[test]
fn damage_names_the_entry() {
    let f = file("weights.pt2");
    // Flip a byte of a weight: the checksum tells.
    let mut zip = ZipArchive::new(Cursor::new(&f)).unwrap();
    let at = zip.by_name("weights/data/weights/weight_0").unwrap().data_start().unwrap();
    let mut broken = f.clone();
    broken[at as usize + 3] ^= 1;
    refused(broken.into(), &["weights/data/weights/weight_0", "damaged"]);

    let without = |name: &str| {
        let mut all = entries(&f);
        all.retain(|(n, _)| !n.ends_with(name));
        pack(&all, CompressionMethod::Stored)
    };
    refused(without("weight_0"), &["weight_0", "is missing"]);
    refused(without(WEIGHTS), &["parameter", "has no data"]);
    refused(edited(&f, "weight_0", |d| d.truncate(d.len() / 2)), &["reach beyond", "weight_0"]);
    refused(edited(&f, "weight_0", Vec::clear), &["has no data", "fake tensors"]);

    // Two entries of one name: the directory's second name is made the first's.
    let mut twice = f.clone();
    let (old, new) = (b"data/weights/weight_1", b"data/weights/weight_0");
    let places: Vec<usize> = (0..f.len() - old.len()).filter(|&i| &f[i..i + old.len()] == old).collect();
    for i in places {
        twice[i..i + new.len()].copy_from_slice(new);
    }
    refused(twice.into(), &["two entries"]);
}

#[test]
fn overlapping_entries_are_refused() {
    // In the directory at the file's end, every weight gets the place of the largest entry, the program.
    let mut f = file("weights.pt2");
    let directory: Vec<usize> = (0..f.len() - 46).filter(|&i| &f[i..i + 4] == b"PK\x01\x02").collect();
    let name = |f: &[u8], at: usize| {
        let n = u16::from_le_bytes([f[at + 28], f[at + 29]]) as usize;
        String::from_utf8(f[at + 46..at + 46 + n].to_vec()).unwrap()
    };
    let program = *directory.iter().find(|&&at| name(&f, at).ends_with(MODEL)).unwrap();
    let weights: Vec<usize> = directory.into_iter().filter(|&at| name(&f, at).contains("/weight_")).collect();
    for at in weights {
        // Checksum and sizes; offset.
        f.copy_within(program + 16..program + 28, at + 16);
        f.copy_within(program + 42..program + 46, at + 42);
    }
    refused(f.into(), &["weight_", "overlaps"]);
}

#[test]
fn lying_weights_are_refused() {
    let f = file("weights.pt2");
    let lie = |path: &[&str], to: Value| {
        edited_json(&f, WEIGHTS, |j| {
            let mut at = &mut j["config"]["one.weight"];
            for p in path {
                at = match p.parse::<usize>() {
                    Ok(i) => &mut at[i],
                    Err(_) => &mut at[*p],
                };
            }
            *at = to;
        })
    };
    let meta = "tensor_meta";
    refused(lie(&[meta, "sizes", "0", "as_int"], json!(1i64 << 40)), &["one.weight", "reach beyond"]);
    refused(lie(&[meta, "strides", "0", "as_int"], json!(i64::MAX)), &["one.weight", "reach beyond"]);
    refused(lie(&[meta, "strides", "0", "as_int"], json!(-1)), &["one.weight", "-1"]);
    refused(
        lie(&[meta, "sizes", "0"], json!({"as_expr": {"expr_str": "s0"}})),
        &["one.weight", "no plain integer"],
    );
    refused(lie(&[meta, "dtype"], json!(10)), &["one.weight", "torch.complex64"]);
    refused(lie(&[meta, "dtype"], json!(5)), &["one.weight", "reach beyond"]);
    refused(lie(&[meta, "layout"], json!(1)), &["one.weight", "sparse"]);
    refused(lie(&["use_pickle"], json!(true)), &["one.weight", "pickled"]);
    // Elements that share memory may not grow without bound.
    let wide = edited_json(&f, WEIGHTS, |j| {
        j["config"]["wide"]["tensor_meta"]["strides"] = json!([{"as_int": 0}, {"as_int": 0}]);
        j["config"]["wide"]["tensor_meta"]["sizes"] = json!([{"as_int": 1 << 20}, {"as_int": 1 << 20}]);
    });
    refused(wide, &["wide", "expanded"]);
}

#[test]
fn bombs_are_refused() {
    let mut all = entries(&file("weights.pt2"));
    all.iter_mut().find(|(n, _)| n.ends_with("weight_0")).unwrap().1 = vec![0; 100 << 20];
    refused(pack(&all, CompressionMethod::Deflated), &["weight_0", "inflates"]);
    let deep = edited(&file("numbers.pt2"), MODEL, |d| *d = "[".repeat(1 << 20).into_bytes());
    refused(deep, &[MODEL]);
}

#[test]
fn graphs_that_do_not_fit_are_refused() {
    let f = file("numbers.pt2");
    let node = |i: usize, edit: &dyn Fn(&mut Value)| {
        edited_json(&f, MODEL, |j| edit(&mut j["graph_module"]["graph"]["nodes"][i]))
    };
    let unknown = edited_json(&f, MODEL, |j| {
        for i in [0, 1, 2] {
            j["graph_module"]["graph"]["nodes"][i]["target"] = json!("torch.ops.aten.frobnicate.default");
        }
        j["graph_module"]["graph"]["nodes"][3]["target"] = json!("torch.ops.my.own.default");
    });
    refused(
        unknown,
        &["2 operators", "aten.frobnicate.default (3 times)", "my.own.default (once)", "root module"],
    );
    refused(node(0, &|n| n["inputs"][0]["arg"]["as_tensor"]["name"] = json!("nobody")), &["%nobody", "%add"]);
    refused(node(0, &|n| n["inputs"][1]["arg"] = json!({"as_string": "x"})), &["argument other", "string"]);
    refused(node(0, &|n| n["inputs"][1]["arg"] = json!({"as_hologram": 1})), &["as_hologram"]);
    refused(node(0, &|n| n["inputs"][1]["name"] = json!("othr")), &["argument othr is not one of"]);
    refused(
        node(0, &|n| n["outputs"] = json!([{"as_sym_int": {"as_name": "n"}}, {"as_none": true}])),
        &["returns"],
    );
    let recorded = |name: &str, to: Value| {
        edited_json(&f, MODEL, |j| j["graph_module"]["graph"]["tensor_values"]["add"][name] = to)
    };
    refused(recorded("dtype", json!(7)), &["%add", "aten.add.Tensor", "f32[3, 4]", "f16[3, 4]"]);
    refused(recorded("sizes", json!([{"as_int": 3}])), &["recorded as f16[3]"]);
    let symbol = json!([{"as_expr": {"expr_str": "Symbol('u0', integer=True)"}}, {"as_int": 4}]);
    refused(recorded("sizes", symbol), &["u0", "depends on the data"]);
    let export = edited_json(&f, MODEL, |j| j["graph_module"]["graph"]["tensor_values"] = json!({}));
    assert!(matches!(read_bytes(export), Err(ImportError::Signature { .. })));
}

/// A place in a JSON tree, picked by `seed`.
fn pick<'v>(value: &'v mut Value, seed: &mut u64, depth: u32) -> &'v mut Value {
    let n = match value {
        Value::Array(a) => a.len(),
        Value::Object(o) => o.len(),
        _ => 0,
    };
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    let r = (*seed >> 33) as usize;
    if n == 0 || (depth > 2 && r.is_multiple_of(7)) {
        return value;
    }
    match value {
        Value::Array(a) => pick(&mut a[r % n], seed, depth + 1),
        Value::Object(o) => pick(o.values_mut().nth(r % n).expect("within its length"), seed, depth + 1),
        _ => value,
    }
}

fn spoiled(kind: u8, old: &Value, other: Value) -> Value {
    match kind % 16 {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(0),
        3 => json!(i64::MAX),
        4 => json!(i64::MIN),
        5 => json!(1i64 << 31),
        6 => json!(1e300),
        7 => json!(""),
        8 => json!([]),
        9 => json!({}),
        10 => json!("Infinity"),
        11 => json!(3),
        12 => match old {
            Value::Array(a) => Value::Array(a.iter().chain(a).cloned().collect()),
            Value::Number(n) => json!(n.as_i64().unwrap_or(0).wrapping_add(1)),
            _ => json!(true),
        },
        13 => json!({"as_int": 1i64 << 40}),
        _ => other,
    }
}

const FILES: &[&str] = &[
    "view_writes.pt2",
    "pieces.pt2",
    "buffers.pt2",
    "dynamic.pt2",
    "regions.pt2",
    "weights.pt2",
    "recurrent.pt2",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing but an error comes from a part of a file.
    #[test]
    fn truncated_files_are_refused(which in 0..FILES.len(), part in 0.0..1.0f64) {
        let f = file(FILES[which]);
        let end = (f.len() as f64 * part) as usize;
        prop_assert!(read_bytes(Bytes::from(f).slice(..end)).is_err());
    }

    /// Changed bytes give an error, or a program if they did not matter.
    #[test]
    fn changed_bytes_do_not_panic(
        which in 0..FILES.len(),
        changes in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..6),
    ) {
        let mut f = file(FILES[which]);
        for (at, byte) in changes {
            let at = (f.len() as f64 * at) as usize;
            f[at] = byte;
        }
        let _ = read_bytes(f.into());
    }

    /// JSON that is well-formed but wrong gives an error, or a valid program if the change makes sense.
    #[test]
    fn changed_json_does_not_panic(
        which in 0..FILES.len(),
        in_model in prop::bool::weighted(0.8),
        changes in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 1..4),
    ) {
        let f = file(FILES[which]);
        let changed = edited_json(&f, if in_model { MODEL } else { WEIGHTS }, |j| {
            for (mut at, mut from, kind) in changes {
                let other = pick(j, &mut from, 0).clone();
                let place = pick(j, &mut at, 0);
                *place = spoiled(kind, place, other);
            }
        });
        if let Ok(p) = read_bytes(changed) {
            prop_assert!(lowbit_core::ir::verify(&p).is_ok());
            // What is written of it is read again.
            if let Ok(file) = lowbit_pt2::write(&p, Cursor::new(vec![])) {
                let back = read_bytes(file.into_inner().into());
                prop_assert!(back.is_ok(), "{:?}", back.err());
            }
        }
    }
}
