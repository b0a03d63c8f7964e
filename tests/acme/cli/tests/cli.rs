//! The `lowbit` binary of a vendor: it has the vendor's backend, and writes files for the vendor's delegate.

use lowbit_acme::interpreter;
use lowbit_core::Tensor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn lowbit(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowbit")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/linear/model.pt2")
}

/// A `.npy` file of f32.
fn npy(path: &Path, shape: &[usize], data: &[f32]) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}")
        .replace('[', "(")
        .replace(']', ")");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    data.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn backends_lists_acme_beside_the_others() {
    let out = lowbit(&["backends"]);
    let list = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(list.contains("acme 0.3.0\n  int8 ") && list.contains("xnnpack "), "{list}");
}

#[test]
fn quantize_writes_a_file_with_an_acme_delegate() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (data, pte) = (folder.join("calibration.npy"), folder.join("model.pte"));
    // Five calls of the model's [4, 10], from −1 to 1.
    let ramp: Vec<f32> = (0..200).map(|i| (i * 37 % 200) as f32 / 100.0 - 1.0).collect();
    npy(&data, &[5, 4, 10], &ramp);
    let out = lowbit(&[
        "quantize",
        model().to_str().unwrap(),
        "--backend",
        "acme",
        "--calibrate",
        data.to_str().unwrap(),
        "--out",
        pte.to_str().unwrap(),
        "--json",
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let report = text(&out.stdout);
    assert!(report.contains("\"delegate\": 0"), "{report}");

    let bytes = std::fs::read(&pte).unwrap();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    assert_eq!(&bytes[4..8], b"ET12");
    assert!(find(b"AcmeBackend\0").is_some(), "the delegate's name is missing");
    let blob = find(b"ACME").expect("the file holds the compiled region");
    // The file's own bytes run on the interpreter: the first layer, on any integers of its shape.
    let x = Tensor::new(&[4, 10], (0..40).map(|i| (i * 6) as u8 as i8).collect::<Vec<i8>>()).unwrap();
    let out = interpreter::run(&bytes[blob..], &[x]).unwrap();
    assert_eq!((out.len(), out[0].shape()[0]), (1, 4));
    let y = out[0].as_slice::<i8>().unwrap();
    assert!(y.iter().any(|v| *v != y[0]), "{y:?}");
}

#[test]
fn other_names_are_refused_with_the_cure() {
    let model = model();
    let out = lowbit(&["lower", model.to_str().unwrap(), "--backend", "acmee", "--out", "/dev/null"]);
    let error = text(&out.stderr);
    assert!(!out.status.success() && error.contains("linked: acme, coreml, qnn, xnnpack"), "{error}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = Command::new(env!("CARGO_BIN_EXE_lowbit")).arg("backends").stdout(writer).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
#[cfg(target_os = "linux")]
fn what_cannot_be_printed_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_lowbit")).arg("backends").stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("standard output cannot be written"), "{said}");
}
