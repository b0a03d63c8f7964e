//! The programs of `tests/data` (written by its `make.py`) run as PyTorch ran them, or are refused as they say.

use lowbit::data::npy;
use lowbit_core::Tensor;
use lowbit_core::executor::Executor;
use lowbit_core::ir::Program;
use lowbit_cpu::CpuExecutor;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Tolerance of floats: |got - expected| <= ATOL + RTOL |expected|, as ExecuTorch's operator suite has it.
const RTOL: f64 = 1e-4;
const ATOL: f64 = 1e-5;

/// Folders with a `case.json`.
fn cases() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let mut found: Vec<PathBuf> = std::fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .collect();
    found.sort();
    found
}

/// The arrays called `prefix0`, `prefix1`, … .
fn numbered(arrays: &BTreeMap<String, Tensor>, prefix: &str) -> Vec<Tensor> {
    (0..).map_while(|i| arrays.get(&format!("{prefix}{i}")).cloned()).collect()
}

pub fn same(got: &Tensor, expected: &Tensor) -> Result<(), String> {
    if (got.dtype(), got.shape()) != (expected.dtype(), expected.shape()) {
        let kind = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Err(format!("{}, expected {}", kind(got), kind(expected)));
    }
    let float = expected.dtype().is_float();
    for (i, (a, b)) in got.to_f64().into_iter().zip(expected.to_f64()).enumerate() {
        let close = if float { (a - b).abs() <= ATOL + RTOL * b.abs() } else { a == b };
        if !close && a != b && !(a.is_nan() && b.is_nan()) {
            return Err(format!("element {i} is {a}, expected {b}"));
        }
    }
    Ok(())
}

fn check(case: &Path) -> Result<(), String> {
    let description = std::fs::read_to_string(case.join("case.json")).map_err(|e| e.to_string())?;
    let description: serde_json::Value = serde_json::from_str(&description).map_err(|e| e.to_string())?;
    let program = lowbit_pt2::read(&case.join("model.pt2"));
    if let Some(words) = description["error"].as_str() {
        return match program {
            Ok(_) => Err(format!("is read, though it should fail with {words:?}")),
            Err(error) if error.to_string().contains(words) => Ok(()),
            Err(error) => Err(format!("{words:?} is not in: {error}")),
        };
    }
    let program = program.map_err(|e| e.to_string())?;
    let arrays = npy::read(&case.join("io.npz"), |_| true).map_err(|e| e.to_string())?;
    let arrays: BTreeMap<String, Tensor> = arrays.into_iter().collect();
    let run = |program: &Program| {
        let mut session = CpuExecutor::default().load(program, &[]).map_err(|e| e.to_string())?;
        session.run(&numbered(&arrays, "in"), &mut |_, _| {}).map_err(|e| e.to_string())
    };
    let got = run(&program)?;
    // Written and read back, it is the same program.
    let file = lowbit_pt2::write(&program, Cursor::new(vec![])).map_err(|e| e.to_string())?;
    let copy = lowbit_pt2::read_bytes(file.into_inner().into()).map_err(|e| format!("the copy: {e}"))?;
    if run(&copy)? != got {
        return Err("the copy gives other outputs".into());
    }
    let expected = numbered(&arrays, "out");
    if got.len() != expected.len() {
        return Err(format!("{} outputs, expected {}", got.len(), expected.len()));
    }
    let differ = |(i, (a, b)): (usize, (&Tensor, &Tensor))| same(a, b).map_err(|e| format!("out{i}: {e}"));
    got.iter().zip(&expected).enumerate().try_for_each(differ)
}

#[test]
fn programs_run_as_pytorch_ran_them() {
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|e| format!("{}: {e}", case.file_name().unwrap().display())))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
