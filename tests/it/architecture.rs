//! Who may depend on whom, and where `unsafe` may stand: the invariants of ARCHITECTURE.md that manifests and sources show.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the root").to_path_buf()
}

/// lowbit's packages that each package of a workspace depends on: those of its code, and with those of its tests.
fn dependencies(manifest: &str) -> BTreeMap<String, [BTreeSet<String>; 2]> {
    let path = root().join(manifest);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]).arg(path);
    let out = cargo.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let [mut code, mut all] = [BTreeSet::new(), BTreeSet::new()];
        for d in package["dependencies"].as_array().unwrap() {
            let name = text(&d["name"]);
            if name.starts_with("lowbit") {
                all.insert(name.clone());
                if d["kind"] != "dev" {
                    code.insert(name);
                }
            }
        }
        found.insert(text(&package["name"]), [code, all]);
    }
    found
}

#[test]
fn dependencies_go_one_way() {
    let all = dependencies("Cargo.toml");
    let backends = ["lowbit-coreml", "lowbit-qnn", "lowbit-xnnpack"];
    let may: BTreeMap<&str, Vec<&str>> = [
        ("lowbit-core", vec![]),
        ("lowbit-cpu", vec!["lowbit-core"]),
        ("lowbit-pt2", vec!["lowbit-core"]),
        ("lowbit-pte", vec!["lowbit-core"]),
        ("lowbit-testing", vec!["lowbit-core", "lowbit-cpu"]),
    ]
    .into_iter()
    .chain(backends.map(|b| (b, vec!["lowbit-core"])))
    .collect();
    for (package, [code, tests]) in &all {
        if ["lowbit-tests", "lowbit-benches"].contains(&&**package) {
            continue;
        }
        assert!(!tests.contains("lowbit"), "{package} depends on the command line");
        let Some(allowed) = may.get(&**package) else {
            assert_eq!(package, "lowbit", "say here what {package} may depend on");
            continue;
        };
        let extra: Vec<_> = code.iter().filter(|d| !allowed.contains(&&***d)).collect();
        assert!(extra.is_empty(), "{package} depends on {extra:?}");
    }
    assert!(may.keys().all(|p| all.contains_key(*p)), "a package is gone: {:?}", all.keys());
    assert!(all["lowbit-core"][1].is_empty(), "core is tested without the others");
}

#[test]
fn a_backend_from_elsewhere_needs_core_alone() {
    let all = dependencies("tests/acme/Cargo.toml");
    let [code, tests] = &all["lowbit-acme"];
    assert!(code.iter().eq(["lowbit-core"]), "{code:?}");
    assert!(tests.iter().eq(["lowbit-core", "lowbit-testing"]), "{tests:?}");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_lies_in_four_places() {
    let crates = root().join("crates");
    let mut found = vec![];
    sources(&crates, &mut found);
    assert!(found.len() > 100);
    let key = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    for file in found {
        let place = file.strip_prefix(&crates).unwrap();
        let folders = ["cpu/src/simd", "qnn/src/library"];
        let files = ["cpu/src/pages.rs", "pt2/src/map.rs"];
        let allowed =
            folders.iter().any(|f| place.starts_with(f)) || files.iter().any(|f| place == Path::new(f));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(allowed || !key.iter().any(|k| text.contains(k)), "{} holds unsafe code", place.display());
    }
    for safe in ["core", "coreml", "pte", "xnnpack", "cli", "testing"] {
        let text = std::fs::read_to_string(crates.join(safe).join("src/lib.rs")).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{safe} does not forbid unsafe code");
    }
}
