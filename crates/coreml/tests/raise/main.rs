//! Raising, operator by operator: lines of MIL in `cases.txt`, and the program that each becomes.

mod mutants;
mod notation;

use lowbit_core::ir::{Program, SymbolRange, text, verify};
use lowbit_coreml::mil::DType;
use lowbit_coreml::package::{Package, Sizes};
use lowbit_coreml::raise::{Rounding, operators, raise};
use notation::Case;

const CASES: &str = include_str!("cases.txt");

/// What a case becomes, as it stands in the file: constants and nodes, or an error.
fn raised(case: &Case) -> String {
    match raise(&case.package, case.rounding) {
        Ok(program) => body(&program),
        Err(e) => format!("  error {e}\n"),
    }
}

/// The text form without what every program has.
fn body(program: &Program) -> String {
    if let Err(e) = verify(program) {
        return format!("  invalid {e}\n");
    }
    let text = text::print(program);
    let kept = |l: &&str| !l.ends_with("= input") && *l != "program {" && *l != "}";
    // Constants with their elements, where those are few.
    let elements = |l: &str| {
        let (_, name) = l.split_once(" = constant ")?;
        let c = program.constants.iter().find(|(_, c)| format!("{:?}", c.name) == name)?.1;
        (c.tensor.numel() <= 12).then(|| format!(" {:?}", c.tensor.to_f64()))
    };
    text.lines().filter(kept).map(|l| format!("{l}{}\n", elements(l).unwrap_or_default())).collect()
}

#[test]
fn operators_become_what_the_file_says() {
    let mut wrong = vec![];
    for case in notation::cases(CASES) {
        let got = raised(&case);
        if got != case.expected {
            wrong.push(format!("{}\ngives\n{got}", case.source));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_operator_has_a_case() {
    let cases: Vec<Case> = notation::cases(CASES).collect();
    let used = |name: &str| {
        let mut all = cases.iter().filter(|c| !c.expected.starts_with("  error"));
        all.any(|c| c.package.program.functions[0].1.operations.iter().any(|o| o.op == name))
    };
    let missing: Vec<&str> = operators().filter(|name| !used(name)).collect();
    assert!(missing.is_empty(), "there is no case of {missing:?}");
}

/// What was written as a package is the same read back, and raises to the same.
#[test]
fn packages_read_back_raise_to_the_same() {
    for case in notation::cases(CASES) {
        let files = case.package.files();
        let read = Package::read(&mut |name| files.get(name).map(|b| b.clone().into()));
        let read = read.unwrap_or_else(|e| panic!("{}\n{e}", case.source));
        let again = Case { package: read, ..case };
        assert_eq!(raised(&again), again.expected, "{}", again.source);
    }
}

#[test]
fn functions_are_chosen_by_name() {
    let case = notation::cases(CASES).next().unwrap();
    let mut package = case.package;
    package.program.functions[0].0 = "decode".into();
    assert!(raise(&package, Rounding::Exact).is_ok(), "the only one");
    let mut other = package.program.functions[0].clone();
    other.0 = "prefill".into();
    package.program.functions.push(other);
    let e = raise(&package, Rounding::Exact).unwrap_err().to_string();
    assert_eq!(e, "program: there is no function main; there are: decode, prefill");
    package.program.functions[1].0 = "main".into();
    assert!(raise(&package, Rounding::Exact).is_ok());
}

/// The sizes that a model lists bound its symbols.
#[test]
fn sizes_are_bounded_as_described() {
    let line = "relu(x=%fp32[?,3]) -> fp32[?,3]\n  nothing";
    let mut package = notation::cases(line).next().unwrap().package;
    let range = |package: &Package| raise(package, Rounding::Exact).map(|p| p.symbols["s0"]);
    let of = |min, max, hint| Ok(SymbolRange { min, max, hint: Some(hint) });
    assert_eq!(range(&package), of(1, 8, 4));
    package.border.inputs[0].sizes = Sizes::Enumerated(vec![vec![4, 3], vec![2, 3], vec![16, 3]]);
    assert_eq!(range(&package), of(2, 16, 4));
    package.border.inputs[0].sizes = Sizes::Range(vec![(2, None), (3, Some(3))], vec![5, 3]);
    assert_eq!(range(&package), of(2, i64::MAX, 5));
    package.border.inputs[0].sizes = Sizes::Fixed(vec![4, 3]);
    let e = range(&package).unwrap_err().to_string();
    assert_eq!(e, "input x: the model's description gives no range for dimension 0");
    package.border.inputs[0].dtype = DType::F16;
    let e = range(&package).unwrap_err().to_string();
    assert_eq!(e, "input x: it is fp16 in the model's description, fp32 in the function");
    package.border.inputs.clear();
    let e = range(&package).unwrap_err().to_string();
    assert_eq!(e, "input x: the model's description does not list it");
}
