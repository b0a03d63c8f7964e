//! The kit passes a good backend and says of bad ones what is wrong with them.

use lowbit_core::Tensor;
use lowbit_core::backend::{Backend, BackendError, Blob, Claim, Lowering, Options, Recipe};
use lowbit_core::executor::Executor;
use lowbit_core::ir::{NodeId, Program, text};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::{Pass, PassFailure, Pipeline};
use lowbit_core::quant::{Annotations, Mapping, ObserverKind, QRange, QuantError, QuantSpec, Site};
use lowbit_core::quantizer::{Match, OpConfig, Quantizer, Rule, RuleQuantizer};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::{Device, FLOAT, Kit, check_backend};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is wrong with a backend.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Defect {
    Nothing,
    AnyRecipe,
    QuantizesNothing,
    TakesNothing,
    NoReasonInQuantizer,
    NoReasonInClaim,
    AnnotatesIntegers,
    AnnotatesAnew,
    RefusesItself,
    TooFewBits,
    TransformChanges,
    PassChanges,
    ClaimsAnew,
    CompilesAnew,
    EmptyBlob,
    WrongAnswer,
}
use Defect::*;

/// Takes linear layers with their q/dq; a blob is a text, and the programs behind the texts are remembered.
#[derive(Debug)]
struct Fake(Defect);

static RULES: &[Rule] = &[Rule { name: "linear", chain: &[&[&ops::LINEAR]], dynamic: false, annotate }];
static COUNTER: AtomicU32 = AtomicU32::new(0);
static COMPILED: Mutex<Vec<(Vec<u8>, Program)>> = Mutex::new(Vec::new());

fn annotate(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Result<(), String> {
    for (site, spec) in [(m.arg(0), &how.input_activation), (m.arg(1), &how.weight)] {
        if let Some(site) = site {
            out.set(site, spec.clone());
        }
    }
    out.set(m.output(), how.output_activation.clone());
    Ok(())
}

fn spec(range: QRange) -> QuantSpec {
    QuantSpec::new(range, Mapping::Affine, ObserverKind::MinMax)
}

#[derive(Debug)]
struct FakeQuantizer(Defect, RuleQuantizer);

impl Quantizer for FakeQuantizer {
    fn transform(&self, program: &mut Program) -> Result<(), lowbit_core::passes::PassError> {
        if self.0 == TransformChanges {
            Pipeline::default().then(DropRelu).run(program)?;
        }
        Ok(())
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        let g = &program.graph;
        match self.0 {
            QuantizesNothing => g.nodes().for_each(|n| out.leave(n, "no")),
            NoReasonInQuantizer => {
                for n in g.nodes().filter(|n| *g.node(*n).op() == ops::LINEAR) {
                    out.set(Site::input(n, 0), Some(spec(QRange::INT8).into()));
                }
            }
            AnnotatesIntegers => {
                self.1.annotate(program, out)?;
                for n in g.nodes().filter(|n| *g.node(*n).op() == ops::EMBEDDING) {
                    out.set(Site::input(n, 1), Some(spec(QRange::INT8).into()));
                }
            }
            _ => self.1.annotate(program, out)?,
        }
        if self.0 == AnnotatesAnew {
            out.set_rule(&format!("rule {}", COUNTER.fetch_add(1, Ordering::Relaxed)));
            g.nodes().for_each(|n| out.claim(&[n]));
        }
        Ok(())
    }

    fn validate(&self, _: &Program, annotations: &Annotations) -> Result<(), QuantError> {
        match self.0 {
            RefusesItself if !annotations.is_empty() => Err(QuantError::Config("never".into())),
            _ => Ok(()),
        }
    }
}

/// A pass that is wrong.
#[derive(Debug)]
struct DropRelu;

impl Pass for DropRelu {
    fn name(&self) -> &'static str {
        "drop_relu"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let g = &program.graph;
        let found: Vec<NodeId> = g.nodes().filter(|n| *g.node(*n).op() == ops::RELU).collect();
        for n in &found {
            let node = program.graph.node(*n);
            let (from, to) = (node.output(), node.operands().next().expect("it has one operand"));
            program.graph.replace_uses(from, to, None);
            program.graph.erase(*n);
        }
        Ok(!found.is_empty())
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn version(&self) -> &'static str {
        "0"
    }
    fn recipes(&self) -> &'static [Recipe] {
        &[Recipe { name: "int8", help: "linear layers" }]
    }
    fn quantizer(&self, recipe: &str, _: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
        if recipe != "int8" && self.0 != AnyRecipe {
            let (backend, known) = (self.name(), vec!["int8"]);
            return Err(BackendError::UnknownRecipe { backend, recipe: recipe.into(), known });
        }
        let bits =
            if self.0 == TooFewBits { QRange::new(lowbit_core::DType::I8, -1, 1) } else { Ok(QRange::INT8) };
        let range = bits.expect("int8 holds it");
        let quantizer = RuleQuantizer::new(RULES, OpConfig::new(spec(range), spec(range)));
        Ok(Box::new(FakeQuantizer(self.0, quantizer)))
    }
    fn lowering(&self, _: &Options) -> Result<Box<dyn Lowering>, BackendError> {
        Ok(Box::new(Fake(self.0)))
    }
}

impl Lowering for Fake {
    fn delegate_id(&self) -> &'static str {
        "Fake"
    }

    fn passes(&self) -> Pipeline {
        if self.0 == PassChanges { Pipeline::default().then(DropRelu) } else { Pipeline::default() }
    }

    fn claim(&self, program: &Program, node: NodeId) -> Claim {
        let taken: &[&OpDef] = &[&ops::LINEAR, &ops::QUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_TENSOR];
        let op = program.graph.node(node).op();
        if taken.contains(&op) && self.0 != TakesNothing {
            return Claim::Take(vec![]);
        }
        match self.0 {
            NoReasonInClaim => Claim::Leave("".into()),
            ClaimsAnew => Claim::Leave(COUNTER.fetch_add(1, Ordering::Relaxed).to_string().into()),
            _ => Claim::Leave(format!("no {}", op.name).into()),
        }
    }

    fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
        let mut bytes = text::print(part).into_bytes();
        match self.0 {
            EmptyBlob => bytes.clear(),
            CompilesAnew => bytes.extend(COUNTER.fetch_add(1, Ordering::Relaxed).to_ne_bytes()),
            _ => {}
        }
        COMPILED.lock().unwrap().push((bytes.clone(), part.clone()));
        Ok(Blob { bytes, ..Blob::default() })
    }
}

impl Device for Fake {
    fn run(&self, blob: &Blob, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let compiled = COMPILED.lock().unwrap();
        // The last of the same text: constants are not in it.
        let (_, part) = compiled.iter().rev().find(|(b, _)| *b == blob.bytes).ok_or("never compiled")?;
        let mut session = CpuExecutor::default().load(part, &[]).map_err(|e| e.to_string())?;
        let mut out = session.run(inputs, &mut |_, _| {}).map_err(|e| e.to_string())?;
        if self.0 == WrongAnswer {
            for t in out.iter_mut().filter(|t| t.dtype().is_float()) {
                let less: Vec<f32> = t.to_f32().iter().map(|x| 0.9 * x).collect();
                *t = Tensor::new(t.shape(), less).unwrap();
            }
        }
        Ok(out)
    }
}

/// One at a time: what was compiled is kept in one place.
static ONE: Mutex<()> = Mutex::new(());

fn fails(defect: Defect) -> String {
    let fake = Fake(defect);
    Kit::new(&fake).device(&fake).check().unwrap_err().to_string()
}

#[test]
fn a_good_backend_passes() {
    let _one = ONE.lock().unwrap();
    check_backend(&Fake(Nothing), &[]);
    let fake = Fake(Nothing);
    let summary = Kit::new(&fake).device(&fake).check().unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.device_runs > 100 && summary.delegates > 20, "{summary:?}");
}

#[test]
fn what_is_wrong_is_named() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    for (defect, place, what) in [
        (AnyRecipe, "in general:", "no such recipe"),
        (QuantizesNothing, "int8:", "quantizes nothing"),
        (TakesNothing, "int8:", "no case has a delegate"),
        (NoReasonInQuantizer, "int8/add:", "nothing says why"),
        (NoReasonInClaim, "int8/add:", "left without a reason"),
        (AnnotatesIntegers, "int8/integer_inputs:", "holds i64"),
        (AnnotatesAnew, "int8/add:", "annotating twice"),
        (RefusesItself, "int8/linear:", "validate refuses"),
        (TooFewBits, "int8/linear:", "dB SQNR"),
        (TransformChanges, "int8/add_relu:", "transform changes what the program computes"),
        (PassChanges, "float/add_relu:", "passes change results"),
        (ClaimsAnew, "int8/add:", "claim says different things"),
        (CompilesAnew, "int8/linear:", "compiling twice"),
        (EmptyBlob, "int8/linear:", "is empty"),
        (WrongAnswer, "float/linear:", "disagrees with the CPU"),
    ] {
        let e = fails(defect);
        let line = e.lines().find(|l| l.starts_with(place) && l.contains(what));
        assert!(line.is_some() && e.contains("\n  cure: "), "{defect:?}: {e}");
    }
}

#[test]
fn exceptions_must_occur() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut fake = Fake(EmptyBlob);
    let bad: Vec<String> = Kit::new(&fake)
        .check()
        .unwrap_err()
        .failures
        .iter()
        .filter(|f| !f.case.is_empty())
        .map(|f| format!("{}/{}", f.recipe, f.case))
        .collect();
    assert!(bad.len() > 20);
    let names: Vec<&str> = bad.iter().map(|b| &**b).collect();
    Kit::new(&fake).skip(&names).check().unwrap_or_else(|e| panic!("{e}"));
    fake.0 = Nothing;
    let e = Kit::new(&fake).skip(&["linear", "nonsense"]).check().unwrap_err().to_string();
    assert!(e.contains("linear: is listed as an exception and passes"), "{e}");
    assert!(e.contains("nonsense: is listed as an exception and is no case"), "{e}");
    let float = format!("{FLOAT}/linear");
    let e = Kit::new(&fake).skip(&[&float]).check().unwrap_err().to_string();
    assert!(e.contains("float/linear: is listed as an exception and passes"), "{e}");
}
