//! Single operators with every recipe on the library's emulation of a chip, against the quantized program on the CPU, in
//! steps of the result's integers. These run where the library is found; CI installs it.

mod programs;

use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::{Converted, Place, lower, prepare, run_lowered};
use lowbit_core::ir::{Program, text};
use lowbit_core::ops;
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use lowbit_qnn::lowering::{Oracle, Qnn as QnnLowering};
use lowbit_qnn::{Qnn, Settings};
use lowbit_testing::data;
use programs::PROGRAMS;

/// Whether the library is here. Where it must be (`LOWBIT_QNN_REQUIRED=1`, in CI), its absence is a failure.
fn present() -> bool {
    match QnnLowering::new(Settings::default()).oracle() {
        Oracle::Library(_) => true,
        Oracle::Table(e) => {
            let required = std::env::var("LOWBIT_QNN_REQUIRED").is_ok_and(|v| v == "1");
            assert!(!required, "{e}");
            eprintln!("skipped: {e}");
            false
        }
    }
}

fn options(given: &[(&str, &str)]) -> Options {
    given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn program(text: &str) -> Program {
    let mut p = text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    data::fill(&mut p);
    p
}

fn converted(float: &Program, recipe: &str, options: &Options) -> Converted {
    let executor = CpuExecutor::default();
    let quantizer = Qnn.quantizer(recipe, options).unwrap();
    let mut prepared = prepare(float.clone(), &*quantizer).unwrap();
    let mut session = prepared.load(&executor).unwrap();
    for sample in 0..4 {
        prepared.calibrate(&mut *session, &data::inputs(float, sample)).unwrap();
    }
    drop(session);
    prepared.convert(&executor).unwrap()
}

fn folded(program: &Program) -> Program {
    let executor = CpuExecutor::default();
    let mut out = program.clone();
    Pipeline::run_one(&FoldConstants { executor: &executor }, &mut out).unwrap();
    out
}

/// The step of each result, where it is quantized.
fn steps(p: &Program) -> Vec<Option<f64>> {
    let g = &p.graph;
    let of = |v: &_| {
        let n = g.node(g.producer(*v)?);
        (*n.op() == ops::DEQUANTIZE_PER_TENSOR).then(|| ops::views::float(n.arg(1))).flatten()
    };
    p.user_outputs().iter().map(of).collect()
}

/// The largest difference, in steps where there are any.
fn apart(got: &[Tensor], want: &[Tensor], steps: &[Option<f64>]) -> Result<f64, String> {
    let mut most = 0f64;
    for ((a, b), step) in got.iter().zip(want).zip(steps) {
        if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
            return Err(format!("{a:?} is no {b:?}"));
        }
        if a.dtype() != DType::F32 {
            let same = a.to_f64() == b.to_f64();
            most = most.max(if same { 0.0 } else { f64::INFINITY });
            continue;
        }
        let step = step.ok_or("a result is not quantized")?;
        for (x, y) in a.to_f64().iter().zip(b.to_f64()) {
            most = most.max((x - y).abs() / step);
        }
    }
    Ok(most)
}

/// Steps between the emulator and the CPU, and those that the lowering says, or why the program does not run whole on the chip.
fn compare(text: &str, recipe: &str, given: &[(&str, &str)]) -> Result<(f64, u32), String> {
    let options = options(given);
    let float = program(text);
    let made = converted(&float, recipe, &options);
    let lowering = Qnn.lowering(&options).unwrap();
    let lowered = lower(folded(&made.program), &[&*lowering]).map_err(|e| e.to_string())?;
    let outside: Vec<String> = lowered
        .nodes
        .iter()
        .filter_map(|n| match &n.place {
            Place::Outside(why) => Some(format!("{}: {why}", n.name)),
            Place::Delegate(_) => None,
        })
        .collect();
    if !outside.is_empty() {
        return Err(outside.join("\n    "));
    }
    let device = lowering.device().map_err(|e| e.to_string())?;
    let executor = CpuExecutor::default();
    let mut session = lowbit_core::executor::Executor::load(&executor, &made.program, &[]).unwrap();
    let mut most = 0f64;
    for sample in 10..12 {
        let inputs = data::inputs(&float, sample);
        let want = session.run(&inputs, &mut |_, _| {}).unwrap();
        let got = run_lowered(&lowered, &*device, &executor, &inputs).map_err(|e| e.to_string())?;
        most = most.max(apart(&got, &want, &steps(&made.program))?);
    }
    let said = lowered.nodes.iter().filter_map(|n| Some(n.imprecise.as_ref()?.steps)).max();
    Ok((most, said.unwrap_or(0)))
}

/// Steps that are allowed: 2 of 8 bits, 4 of 16, but for kernels that the lowering calls imprecise.
fn limit(recipe: &str, name: &str, said: u32) -> f64 {
    let plain: f64 = match recipe {
        // A step of the sum is more of the softmax behind it.
        "8a8w" | "8a4w" if name == "masked" => 5.01,
        _ if recipe.starts_with("16") => 4.01,
        _ => 2.01,
    };
    plain.max(f64::from(said) + 0.01)
}

/// Runs a recipe over all programs, and compares what happened with what is known: refusals by name.
fn run(recipe: &str) {
    if !present() {
        return;
    }
    let only = std::env::var("LOWBIT_QNN_ONLY").unwrap_or_default();
    let mut failed = vec![];
    for p in PROGRAMS.iter().filter(|p| only.is_empty() || p.name == only) {
        let result = compare(p.text, recipe, &[]);
        // What is less exact can be had exact, or is refused.
        if matches!(result, Ok((_, said)) if said > 0) {
            match compare(p.text, recipe, &[("exact", "true")]) {
                Ok((most, 0)) if most <= limit(recipe, p.name, 0) => {}
                Ok((most, said)) => {
                    failed.push(format!("{}, exact: {most:.2} steps, {said} are known", p.name))
                }
                Err(why) if why.contains("by exact=true: the chip's") => {}
                Err(why) => failed.push(format!("{}, exact:\n    {why}", p.name)),
            }
        }
        let known = p.refused.iter().find(|(r, _)| *r == recipe || *r == "*");
        match (result, known) {
            (Ok((most, said)), None) if most <= limit(recipe, p.name, said) => {}
            (Ok((most, said)), _) => failed.push(format!("{}: {most:.2} steps, {said} are known", p.name)),
            (Err(why), Some((_, words))) if why.contains(words) => {}
            (Err(why), _) => failed.push(format!("{}:\n    {why}", p.name)),
        }
    }
    assert!(failed.is_empty(), "{recipe}\n  {}", failed.join("\n  "));
}

macro_rules! recipes {
    ($($name:ident $recipe:literal;)*) => { $(#[test] fn $name() { run($recipe); })* };
}
recipes! {
    operators_8a8w "8a8w";
    operators_8a4w "8a4w";
    operators_16a8w "16a8w";
    operators_16a4w "16a4w";
    operators_16a4w_block "16a4w-block";
    operators_16a2w "16a2w";
    operators_16a16w "16a16w";
}

/// What 4-bit weights are summed up in for more precision is right at all widths that it is taken for.
#[test]
fn finer_sums_have_any_width() {
    if !present() {
        return;
    }
    for (channels, features) in [(16, 8), (48, 24), (80, 33), (768, 8), (1280, 33)] {
        let text = format!(
            "program {{
              %x : f32[5, {channels}] = input
              %w : f32[{features}, {channels}] = constant \"w\"
              %b : f32[{features}] = constant \"b\"
              %y : f32[5, {features}] = aten.linear.default(%x, %w, %b)
              return %y
            }}"
        );
        let (steps, said) = compare(&text, "16a4w", &[]).unwrap();
        assert!(steps <= 4.01 && said == 0, "{channels} to {features}: {steps} steps");
    }
}

/// What a failing call leaves: an error that names call and operator, and a library that works on.
#[test]
fn failures_are_told_and_survived() {
    use lowbit_qnn::graph::{DType as QnnType, Encoding, Graph, Op, Role, Tensor};
    use lowbit_qnn::library::Tuning;
    let lowering = QnnLowering::new(Settings::default());
    let Oracle::Library(session) = lowering.oracle() else { return };
    let tensor = |name: &str, role| Tensor {
        name: name.into(),
        role,
        dtype: QnnType::U8,
        dims: vec![1, 4],
        encoding: Encoding::Tensor { scale: 0.1, offset: 0, bits: None },
        data: Vec::new().into(),
    };
    let graph = |kind| Graph {
        tensors: vec![tensor("input_0_x", Role::Input), tensor("output_0_y", Role::Output)],
        ops: vec![Op { name: "op_1".into(), kind, params: vec![], inputs: vec![0], outputs: vec![1] }],
    };
    let soc = Settings::default().soc;
    for _ in 0..3 {
        let e = session.validate(&graph("Nothing"), &graph("Nothing").ops[0]).unwrap_err();
        assert_eq!((e.call, e.code & 0xffff), ("backendValidateOpConfig", 4005), "{e}");
        let e = session.compile("forward", &graph("Nothing"), soc, Tuning::default()).unwrap_err();
        // It is only found when the graph is put together; the library's messages name it.
        assert_eq!((e.call, e.op), ("graphFinalize", Some(0)), "{e}");
        let good = session.compile("forward", &graph("Relu"), soc, Tuning::default()).unwrap();
        assert!(!good.finalizing.is_zero());
        let good = good.binary;
        assert!(session.load(&good[..good.len() / 2]).is_err() && session.load(b"none").is_err());
        let loaded = session.load(&good).unwrap();
        assert_eq!((loaded.inputs.len(), &*loaded.outputs[0].name), (1, "output_0_y"));
        assert_eq!(loaded.run(&[&[1, 2, 3, 200]]).unwrap(), [[1, 2, 3, 200]]);
        let e = loaded.run(&[&[1, 2]]).unwrap_err().to_string();
        assert!(e.contains("takes 4 bytes"), "{e}");
    }
}

/// What the table cannot know, the library can: on an old chip a product of 16 bits.
#[test]
fn refusals_are_in_words() {
    if !present() {
        return;
    }
    let matmul = PROGRAMS.iter().find(|p| p.name == "matmul").unwrap();
    let float = program(matmul.text);
    let made = converted(&float, "16a16w", &options(&[]));
    let g = &made.program.graph;
    let n = g.nodes().find(|&n| *g.node(n).op() == ops::MATMUL).unwrap();
    for (given, who) in [
        (&[("soc", "SM8350")][..], "Qualcomm's library refuses MatMul(u16"),
        (&[("soc", "SM8350"), ("library", "false")], "by lowbit's table"),
    ] {
        let lowering = Qnn.lowering(&options(given)).unwrap();
        let lowbit_core::backend::Claim::Leave(why) = lowering.claim(&made.program, n) else {
            panic!("it is taken")
        };
        assert!(why.contains(who) && why.contains("SM8350"), "{why}");
    }
    // The library judges for the chip that was chosen last in the process; each lowering for its own.
    let [old, new] = ["SM8350", "SM8650"].map(|soc| Qnn.lowering(&options(&[("soc", soc)])).unwrap());
    for _ in 0..2 {
        assert!(matches!(old.claim(&made.program, n), lowbit_core::backend::Claim::Leave(_)));
        assert!(matches!(new.claim(&made.program, n), lowbit_core::backend::Claim::Take(_)));
    }
    let e = Qnn.lowering(&options(&[("library", "false")])).unwrap().compile(&made.program).unwrap_err();
    assert!(e.to_string().contains("library=false"), "{e}");
}
