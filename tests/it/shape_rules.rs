//! Schemas and shape rules are PyTorch's: `tests/data/shape_rules.json`, written by the script beside it from `op_calls.txt`.

use crate::op_calls;
use lowbit_core::DType;
use lowbit_core::ops::{self, Schema};
use lowbit_core::symint::Bindings;
use serde_json::Value;
use std::collections::BTreeSet;

static RULES: &str = include_str!("../data/shape_rules.json");
static CALLS: &str = include_str!("../data/op_calls.txt");

/// What lowbit refuses for sizes that are not known, where PyTorch goes on.
const REFUSED: &[&str] = &["cannot be scaled by", "cannot be split into a fixed number"];

/// The types of a call's results with `s0` as given, as `f32[2,3]`.
fn types(line: &str, element: DType, open: &[(usize, usize)], size: i64) -> Result<Vec<String>, String> {
    let program = op_calls::build_open(line, element, open)?.program;
    let bindings: Bindings = [("s0".into(), size)].into();
    let ty = |v| {
        let ty = program.graph.ty(v);
        let shape = ty.resolve(&bindings).map_err(|e| e.to_string())?;
        let dims: Vec<String> = shape.iter().map(|n| n.to_string()).collect();
        Ok(format!("{}[{}]", ty.dtype, dims.join(",")))
    };
    program.graph.outputs().iter().map(|&v| ty(v)).collect()
}

fn check(call: &Value) -> Vec<String> {
    let line = call["line"].as_str().unwrap();
    let mut found = vec![];
    let mut compare = |what: String, got: Result<Vec<String>, String>, expected: &Value| {
        let expected: Vec<String> = serde_json::from_value(expected.clone()).unwrap();
        let refused = |e: &String| REFUSED.iter().any(|r| e.contains(r));
        if got.as_ref() != Ok(&expected) && !got.as_ref().is_err_and(refused) {
            found.push(format!("{line}: {what}: {got:?}, expected {expected:?}"));
        }
    };
    for (element, expected) in call["types"].as_object().unwrap() {
        let dtype = DType::from_name(element).unwrap();
        compare(element.clone(), types(line, dtype, &[], 0), expected);
    }
    for free in call["free"].as_array().unwrap() {
        let axes: Vec<(usize, usize)> = serde_json::from_value(free["axes"].clone()).unwrap();
        let sizes: Vec<i64> = serde_json::from_value(free["sizes"].clone()).unwrap();
        for (size, expected) in sizes.into_iter().zip(free["types"].as_array().unwrap()) {
            compare(format!("{axes:?} = {size}"), types(line, DType::F32, &axes, size), expected);
        }
    }
    found
}

#[test]
fn shapes_and_types_are_pytorchs() {
    let rules: Value = serde_json::from_str(RULES).unwrap();
    let calls = rules["calls"].as_array().unwrap();
    let listed: BTreeSet<&str> = calls.iter().map(|c| c["line"].as_str().unwrap()).collect();
    let known = |l: &&str| l.starts_with("lowbit.") || listed.contains(l);
    let missing: Vec<&str> = op_calls::lines(CALLS).filter(|l| !known(l)).collect();
    assert!(missing.is_empty(), "run shape_rules.py again, these are new: {missing:?}");
    let failures: Vec<String> = calls.iter().flat_map(check).collect();
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn schemas_are_pytorchs() {
    let rules: Value = serde_json::from_str(RULES).unwrap();
    let mut failures = vec![];
    for (name, text) in rules["schemas"].as_object().unwrap() {
        let ours = ops::lookup(name).unwrap();
        if Schema::parse(text.as_str().unwrap()).as_ref() != Ok(ours.schema()) {
            failures.push(format!("{name}: {}, expected {text}", ours.schema));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}
