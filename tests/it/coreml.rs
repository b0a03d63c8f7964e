//! Core ML packages, read back: what was lowered computes what the program did, evaluated without Core ML.

use super::op_calls::{self, OpCall};
use bytes::Bytes;
use lowbit_core::backend::{Artifact, Backend, Options};
use lowbit_core::executor::Executor;
use lowbit_core::flow::{fit, package, prepare};
use lowbit_core::ir::{ConstKind, MutationTarget, Program, text, verify};
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_core::{DType, Tensor};
use lowbit_coreml::lowering::CoreMl;
use lowbit_coreml::package::Package;
use lowbit_coreml::raise::{Rounding, raise};
use lowbit_coreml::{Precision, Settings, Target, quantizer};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::{CASES, data};
use std::collections::BTreeSet;
use std::path::Path;

const CALLS: &str = include_str!("../data/op_calls.txt");

fn settings(target: Target, precision: Precision) -> Settings {
    Settings { target, precision, ..Settings::default() }
}

/// The package of a program, through its files; none when Core ML does not take all of it.
fn packaged(program: &Program, settings: Settings) -> Option<Package> {
    let executor = CpuExecutor::default();
    let mut program = program.clone();
    Pipeline::run_one(&FoldConstants { executor: &executor }, &mut program).unwrap();
    let made = package(program, &CoreMl { settings }, &lowbit_coreml::MLPACKAGE).ok()?;
    let Artifact::Folder(files) = made.artifact else { panic!("a package is a folder") };
    let read = Package::read(&mut |name| files.get(name).map(|b| Bytes::from(b.clone())));
    Some(read.unwrap_or_else(|e| panic!("{e}")))
}

fn raised(package: &Package, rounding: Rounding) -> Result<Program, String> {
    let program = raise(package, rounding).map_err(|e| e.to_string())?;
    verify(&program).map_err(|e| e.to_string())?;
    Ok(program)
}

/// One run after another, so that states are kept between them.
fn run(program: &Program, calls: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, String> {
    let mut session = CpuExecutor::default().load(program, &[]).map_err(|e| e.to_string())?;
    let types: Vec<_> = program.graph.inputs().iter().map(|&v| program.graph.ty(v).clone()).collect();
    let mut results = vec![];
    for inputs in calls {
        let inputs = inputs.iter().zip(&types).map(|(t, ty)| fit(t, ty)).collect::<Result<Vec<_>, _>>()?;
        results.push(session.run(&inputs, &mut |_, _| {}).map_err(|e| e.to_string())?);
    }
    Ok(results)
}

/// Whether outputs are the same but for element types and the dimensions of single numbers.
fn same(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<(), String> {
    let shape = |t: &Tensor| if t.shape().is_empty() { vec![1] } else { t.shape().to_vec() };
    if shape(got) != shape(want) {
        return Err(format!("{:?}, expected {:?}", got.shape(), want.shape()));
    }
    for (i, (a, b)) in got.to_f64().into_iter().zip(want.to_f64()).enumerate() {
        if a != b && (a - b).abs() > tolerance * b.abs().max(1.0) && !(a.is_nan() && b.is_nan()) {
            return Err(format!("element {i} is {a}, expected {b}"));
        }
    }
    Ok(())
}

/// `20·log10(‖x‖ / ‖x − y‖)`; what is infinite in both is no error.
fn sqnr(got: &Tensor, want: &Tensor) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (a, b) in got.to_f64().into_iter().zip(want.to_f64()) {
        if a != b && !(a.is_nan() && b.is_nan()) {
            noise += (a - b) * (a - b);
        }
        signal += if b.is_finite() { b * b } else { 0.0 };
    }
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

/// A program and calls of it, lowered and raised: as close as single floats are. Whether Core ML takes it.
fn round_trip(program: &Program, calls: &[Vec<Tensor>], target: Target) -> Result<bool, String> {
    let Some(single) = packaged(program, settings(target, Precision::Float32)) else { return Ok(false) };
    let want = run(program, calls)?;
    let got = run(&raised(&single, Rounding::AsTyped)?, calls)?;
    for (i, (g, w)) in got.iter().flatten().zip(want.iter().flatten()).enumerate() {
        // States are half floats.
        let tolerance = if program.signature.mutations.is_empty() { 1e-5 } else { 1e-3 };
        same(g, w, tolerance).map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(true)
}

/// The call with all but its first input as constants, which is what weights are. The inputs stay, unread.
fn with_weights(call: &OpCall) -> Program {
    let mut program = call.program.clone();
    for (i, t) in call.inputs.iter().enumerate().skip(1) {
        let input = program.graph.inputs()[i];
        let constant = program.add_constant(&format!("weight{i}"), ConstKind::Parameter, t.clone());
        program.graph.replace_uses(input, constant, None);
    }
    program
}

/// Every operator that Core ML takes, alone.
#[test]
fn operators_compute_the_same_after_a_round_trip() {
    let (mut failures, mut taken, mut left) = (vec![], BTreeSet::new(), BTreeSet::new());
    // In single precision nothing is rounded to half floats, not even where the program says so.
    for line in op_calls::lines(CALLS).filter(|l| !l.contains(":f16")) {
        let call = op_calls::build(line, DType::F32).unwrap();
        let operator = op_calls::operator(line).unwrap().name;
        for program in [&call.program, &with_weights(&call)] {
            match round_trip(program, std::slice::from_ref(&call.inputs), Target::Ios18) {
                Ok(true) => drop(taken.insert(operator)),
                Ok(false) => drop(left.insert(operator)),
                Err(e) => failures.push(format!("{line}\n    {e}")),
            }
        }
    }
    left.retain(|operator| !taken.contains(operator));
    assert!(failures.is_empty(), "{} calls:\n{}", failures.len(), failures.join("\n"));
    println!("{} operators round trip; Core ML lacks {left:?}", taken.len());
    assert!(taken.len() > 300, "only {} operators: {taken:?}", taken.len());
}

/// In half precision, with every value rounded.
#[test]
fn operators_are_close_in_half_precision() {
    let mut failures = vec![];
    for line in op_calls::lines(CALLS) {
        let call = op_calls::build(line, DType::F32).unwrap();
        let program = with_weights(&call);
        let calls = [call.inputs];
        let Ok(want) = run(&program, &calls) else { continue };
        let Some(half) = packaged(&program, settings(Target::Ios18, Precision::Float16)) else {
            continue;
        };
        let got = raised(&half, Rounding::AsTyped).and_then(|p| run(&p, &calls));
        match got {
            Err(e) => failures.push(format!("{line}\n    {e}")),
            Ok(got) => {
                let pairs = got.iter().flatten().zip(want.iter().flatten());
                for (g, w) in pairs.filter(|(_, w)| w.dtype().is_float()) {
                    let db = sqnr(g, w);
                    if db < 40.0 {
                        failures.push(format!("{line}\n    {db:.1} dB"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} calls:\n{}", failures.len(), failures.join("\n"));
}

/// The kit's programs, several calls each: open sizes take several values, and states are kept.
#[test]
fn programs_compute_the_same_after_a_round_trip() {
    let (mut failures, mut taken) = (vec![], 0);
    for case in CASES {
        let mut program = case.program().unwrap();
        // Core ML's states are zeros at first.
        let kept: Vec<_> = program.mutations().map(|(target, _)| target).collect();
        for target in kept {
            let MutationTarget::Buffer(c) = target else { continue };
            let t = &mut program.constants[c].tensor;
            *t = Tensor::zeros(t.dtype(), t.shape()).unwrap();
        }
        let calls: Vec<_> = (0..3).map(|i| data::inputs(&program, i)).collect();
        match round_trip(&program, &calls, Target::Ios18) {
            Ok(t) => taken += usize::from(t),
            Err(e) => failures.push(format!("{}: {e}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(taken > 30, "Core ML takes only {taken} of {} programs", CASES.len());
}

/// Quantized programs, in every recipe: the package holds the same integers, scales and tables, so that single floats agree to
/// the last bit but for the order of sums.
#[test]
fn quantized_programs_compute_the_same_after_a_round_trip() {
    let executor = CpuExecutor::default();
    let (mut failures, mut taken) = (vec![], 0);
    for recipe in quantizer::RECIPES.iter().map(|r| r.name) {
        for case in CASES.iter().filter(|c| QUANTIZED.contains(&c.name)) {
            let program = case.program().unwrap();
            let calls: Vec<_> = (0..3).map(|i| data::inputs(&program, i)).collect();
            let options = match recipe.contains("static") {
                true => Options::new(),
                false => [("weight-threshold".to_string(), "1".to_string())].into(),
            };
            let made = lowbit_coreml::CoreMl.quantizer(recipe, &options).unwrap();
            let mut prepared = prepare(program, &*made).unwrap();
            let mut session = prepared.load(&executor).unwrap();
            for inputs in &calls {
                prepared.calibrate(&mut *session, inputs).unwrap();
            }
            let converted = prepared.convert(&executor).unwrap().program;
            for target in [Target::Ios17, Target::Ios18] {
                match round_trip(&converted, &calls, target) {
                    Ok(t) => taken += usize::from(t),
                    Err(e) => failures.push(format!("{recipe}/{}/{target}: {e}", case.name)),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(taken > 100, "only {taken} packages");
}

/// Programs with layers of each kind.
const QUANTIZED: &[&str] = &[
    "add_relu",
    "attention",
    "cat",
    "classifier",
    "conv_1d",
    "conv_depthwise",
    "conv_grouped",
    "conv_relu",
    "conv_transpose",
    "linear_chain",
    "recurrent",
    "residual",
    "weight_twice",
];

/// Networks that PyTorch exported.
#[test]
fn exported_programs_compute_the_same_after_a_round_trip() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let (mut failures, mut taken) = (vec![], vec![]);
    let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for path in folders.iter().filter(|p| p.join("model.pt2").exists()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(program) = lowbit_pt2::read(&path.join("model.pt2")) else { continue };
        let calls: Vec<_> = (0..2).map(|i| data::inputs(&program, i)).collect();
        match round_trip(&program, &calls, Target::Ios17) {
            Ok(true) => taken.push(name),
            Ok(false) => {}
            Err(e) => failures.push(format!("{name}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(taken.len() > 10, "only {taken:?}");
}

/// A linear layer whose weight is made three quarters zero, stored by each form without the zeros, computes the same as the
/// quantized program does.
#[test]
fn zeros_are_left_out() {
    let plain = "int8-weight-only";
    for (recipe, target, ops) in [
        (None, Target::Ios16, &["constexpr_sparse_to_dense"][..]),
        (None, Target::Ios18, &["constexpr_sparse_to_dense"]),
        (Some(plain), Target::Ios17, &["constexpr_affine_dequantize"]),
        (
            Some(plain),
            Target::Ios18,
            &["constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"],
        ),
        (
            Some("int4-weight-only-per-group"),
            Target::Ios18,
            &["constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"],
        ),
        (Some("lut4"), Target::Ios18, &["constexpr_lut_to_sparse", "constexpr_sparse_to_dense"]),
    ] {
        let options: Options = [("sparsity", "0.75"), ("target", target.name())]
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .into();
        let text = "program {
          %x : f32[2, 64] = input
          %w : f32[64, 64] = constant \"w\"
          %y : f32[2, 64] = aten.linear.default(%x, %w, none)
          return %y
        }";
        let mut program = text::parse(text).unwrap();
        let c = program.live_constants().next().unwrap().0;
        let value = |i: usize| ((i * 7919 % 4096) as f32 - 2048.0) / 1024.0;
        program.constants[c].tensor = Tensor::new(&[64, 64], (0..4096).map(value).collect()).unwrap();
        // Without a recipe nothing is quantized; the pruning is that of a recipe that leaves the layer alone.
        let skipped = [("operator:aten.linear".to_string(), "float".to_string())];
        let all =
            options.clone().into_iter().chain(recipe.is_none().then_some(skipped).into_iter().flatten());
        let quantizer = lowbit_coreml::CoreMl.quantizer(recipe.unwrap_or(plain), &all.collect()).unwrap();
        let executor = CpuExecutor::default();
        let quantized = prepare(program, &*quantizer).unwrap().convert(&executor).unwrap().program;
        let settings = Settings { sparsity: Some(0.75), ..settings(target, Precision::Float32) };
        let package = packaged(&quantized, settings).unwrap();
        let found: Vec<&str> = package.program.functions[0].1.operations.iter().map(|o| &*o.op).collect();
        let found: Vec<&str> = found.into_iter().filter(|o| o.starts_with("constexpr")).collect();
        assert_eq!(found, ops, "{recipe:?} {target}");
        let inputs = vec![vec![Tensor::new(&[2, 64], (0..128).map(|i| value(3 * i)).collect()).unwrap()]];
        let want = run(&quantized, &inputs).unwrap();
        let got = run(&raised(&package, Rounding::Exact).unwrap(), &inputs).unwrap();
        same(&got[0][0], &want[0][0], 1e-5).unwrap_or_else(|e| panic!("{recipe:?} {target}: {e}"));
        // A quarter of the elements, and a bit for each.
        let weight = package.files().remove("Data/com.apple.CoreML/weights/weight.bin").unwrap().len();
        let most = match (recipe, target) {
            (None, _) => 4096 + 512 + 1024,
            (Some(r), Target::Ios18) if r == plain => 1024 + 512 + 1024,
            (Some(_), Target::Ios18) => 512 + 512 + 1024,
            _ => usize::MAX,
        };
        assert!(weight <= most, "{recipe:?} {target}: {weight} bytes");
    }
}
