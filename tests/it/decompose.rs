//! Decompositions compute what the operator computes, on lowbit's own executor.

use crate::cases::same;
use crate::op_calls;
use lowbit_core::executor::Executor;
use lowbit_core::ir::{Program, verify};
use lowbit_core::passes::{Decompose, Pass, decompose};
use lowbit_core::{DType, Tensor, ops};
use lowbit_cpu::CpuExecutor;
use std::collections::BTreeSet;

static CALLS: &str = include_str!("../data/op_calls.txt");

/// Operators whose results are random, or what the delegate makes them.
fn has_fixed_results(op: &ops::OpDef) -> bool {
    !op.traits.random && !op.traits.declared_types
}

fn run(program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut session = CpuExecutor::default().load(program, &[]).map_err(|e| e.to_string())?;
    session.run(inputs, &mut |_, _| {}).map_err(|e| e.to_string())
}

/// Decomposes as far as it goes and compares; says whether anything was decomposed.
fn check(line: &str) -> Result<bool, String> {
    let call = op_calls::build(line, DType::F32)?;
    let mut simple = call.program.clone();
    let changed = Decompose { keep: |_, _| false }.run(&mut simple).map_err(|e| e.to_string())?;
    verify(&simple).map_err(|e| e.to_string())?;
    let op = op_calls::operator(line)?;
    if !has_fixed_results(op) {
        return Ok(changed);
    }
    let (expected, got) = (run(&call.program, &call.inputs)?, run(&simple, &call.inputs)?);
    // Uninitialized memory holds anything.
    if op.name.contains("empty") {
        return Ok(changed);
    }
    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
        same(a, b).map_err(|e| format!("out{i}: {e}"))?;
    }
    if got.len() != expected.len() { Err("a result is missing".into()) } else { Ok(changed) }
}

#[test]
fn decompositions_compute_the_same() {
    let mut failures = vec![];
    let mut seen = BTreeSet::new();
    for line in op_calls::lines(CALLS) {
        match check(line) {
            Ok(true) => drop(seen.insert(op_calls::operator(line).unwrap().name)),
            Ok(false) => {}
            Err(e) => failures.push(format!("{line}: {e}")),
        }
    }
    for name in decompose::operators().filter(|name| !seen.contains(name)) {
        failures.push(format!("{name}: no line of op_calls.txt has it decomposed"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_operator_has_a_call() {
    let named: BTreeSet<&str> = op_calls::lines(CALLS).filter_map(|l| l.split(' ').next()).collect();
    let missing: Vec<&str> = ops::all()
        .filter(|o| !o.traits.declared_types)
        .map(|o| o.name)
        .filter(|n| !named.contains(n))
        .collect();
    assert!(missing.is_empty(), "without a line in op_calls.txt: {missing:?}");
}
