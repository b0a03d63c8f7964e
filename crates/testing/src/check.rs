//! The checks, in the order of the flow. The first that fails ends its case.

use crate::cases::{CASES, Case};
use crate::{FLOAT, Kit, data};
use lowbit_core::Tensor;
use lowbit_core::backend::{Claim, Lowering};
use lowbit_core::executor::{Executor, RunError};
use lowbit_core::flow::run_lowered;
use lowbit_core::flow::{self, Evaluator, Lowered, Place};
use lowbit_core::ir::{Key, NodeId, Program, text, verify};
use lowbit_core::ops;
use lowbit_core::passes::{FoldBatchNorm, Pipeline};
use lowbit_core::quant::{Annotations, Site};
use lowbit_core::quantizer::Quantizer;
use lowbit_cpu::CpuExecutor;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Calls that calibrate, and those that evaluate: some of the same, for with so few numbers a range says little of others.
const CALIBRATION: std::ops::Range<usize> = 0..6;
const EVALUATION: std::ops::Range<usize> = 2..6;

/// Least SQNR in dB of a program against itself before a pass: rounding in another order, and no more.
const SAME_DB: f64 = 80.0;
/// The same when the program is quantized: another rounding may move an element by a step.
const SAME_QUANTIZED_DB: f64 = 40.0;

/// One failed check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The recipe, or [`FLOAT`].
    pub recipe: String,
    /// The case; empty when it is about all of them.
    pub case: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub cure: String,
}

/// Everything that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failures {
    /// The backend.
    pub backend: &'static str,
    /// One entry a recipe and case.
    pub failures: Vec<Failure>,
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {} fails {} checks", self.backend, self.failures.len())?;
        for Failure { recipe, case, what, cure } in &self.failures {
            let place = [&**recipe, &**case].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
            let place = if place.is_empty() { "in general".to_string() } else { place.join("/") };
            write!(f, "\n{place}: {what}\n  cure: {cure}")?;
        }
        Ok(())
    }
}

/// What a passed check saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Recipes, [`FLOAT`] included, times cases.
    pub checked: usize,
    /// Quantized sites.
    pub sites: usize,
    /// Delegates compiled.
    pub delegates: usize,
    /// Nodes in delegates.
    pub delegated: usize,
    /// Nodes outside.
    pub outside: usize,
    /// Calls run on the device.
    pub device_runs: usize,
    /// The least SQNR in dB of an output against the float program, by recipe, with its case.
    pub worst: BTreeMap<String, (f64, String)>,
}

/// A failure's text: what is wrong, and what to do.
type Fault = (String, String);

fn fault(what: impl Into<String>, cure: impl Into<String>) -> Fault {
    (what.into(), cure.into())
}

pub fn all(kit: &Kit<'_>) -> Result<Summary, Failures> {
    let mut found: Vec<Failure> = Vec::new();
    let mut summary = Summary::default();
    let recipes = kit.backend.recipes();
    if recipes.is_empty() {
        found.push(failure("", "", fault("it has no recipes", "name one at least in `Backend::recipes`")));
    }
    let unknown = "no such recipe";
    if kit.backend.quantizer(unknown, &kit.options).is_ok() {
        let cure = "return `BackendError::UnknownRecipe` for names that are not in `recipes()`";
        found.push(failure("", "", fault(format!("it takes {unknown:?} for a recipe"), cure)));
    }
    for recipe in recipes.iter().map(|r| Some(r.name)).chain([None]) {
        let name = recipe.unwrap_or(FLOAT);
        let before = summary.clone();
        let mut failed = false;
        for case in CASES {
            let checked = match recipe {
                Some(r) => quantized(kit, r, case, &mut summary),
                None => floating(kit, case, &mut summary),
            };
            summary.checked += 1;
            if let Err(f) = checked {
                failed = true;
                found.push(failure(name, case.name, f));
            }
        }
        if recipe.is_some() && !failed && summary.sites == before.sites {
            let cure = "see that its rules match some operator of the cases";
            found.push(failure(name, "", fault("quantizes nothing in any case", cure)));
        }
        if recipe.is_some() && !failed && summary.delegates == before.delegates {
            let cure = "see that `Lowering::claim` takes what the recipe quantizes";
            found.push(failure(name, "", fault("no case has a delegate", cure)));
        }
    }
    let excused = |f: &Failure| {
        let full = format!("{}/{}", f.recipe, f.case);
        kit.skipped.iter().any(|s| !f.case.is_empty() && (*s == f.case || *s == full))
    };
    let stale =
        |s: &&String| !found.iter().any(|f| **s == f.case || **s == format!("{}/{}", f.recipe, f.case));
    let stale: Vec<Failure> = kit
        .skipped
        .iter()
        .filter(stale)
        .map(|s| {
            let case = s.rsplit('/').next().unwrap_or(s);
            let (what, cure) = match CASES.iter().any(|c| c.name == case) {
                true => ("is listed as an exception and passes", "take it off the list".to_string()),
                false => {
                    let names: Vec<&str> = CASES.iter().map(|c| c.name).collect();
                    ("is listed as an exception and is no case", format!("there are: {}", names.join(", ")))
                }
            };
            failure("", s, fault(what, cure))
        })
        .collect();
    found.retain(|f| !excused(f));
    found.extend(stale);
    match found.is_empty() {
        true => Ok(summary),
        false => Err(Failures { backend: kit.backend.name(), failures: found }),
    }
}

fn failure(recipe: &str, case: &str, (what, cure): Fault) -> Failure {
    Failure { recipe: recipe.into(), case: case.into(), what, cure }
}

fn program_of(case: &Case) -> Result<Program, Fault> {
    case.program().map_err(|e| fault(e.to_string(), "the kit's own case is broken: report it"))
}

/// One recipe on one case, from annotating to the device.
fn quantized(kit: &Kit<'_>, recipe: &str, case: &Case, summary: &mut Summary) -> Result<(), Fault> {
    let executor = CpuExecutor::default();
    let float = program_of(case)?;
    let quantizer = kit
        .backend
        .quantizer(recipe, &kit.options)
        .map_err(|e| fault(e.to_string(), "make a quantizer for every recipe that `recipes()` lists"))?;
    annotating(&float, &*quantizer)?;

    let stage = |name: &'static str| {
        move |e: flow::Error| {
            fault(format!("{name}: {e}"), format!("annotate so that `flow::{name}` succeeds"))
        }
    };
    let mut prepared = flow::prepare_with(float.clone(), &*quantizer, &executor).map_err(stage("prepare"))?;
    if prepared.needs_data() {
        let mut session = prepared.load(&executor).map_err(stage("calibrate"))?;
        for sample in CALIBRATION {
            let inputs = data::inputs(&float, sample);
            prepared.calibrate(&mut *session, &inputs).map_err(stage("calibrate"))?;
        }
    }
    let converted = prepared.convert(&executor).map_err(stage("convert"))?;
    verify(&converted.program)
        .map_err(|e| fault(format!("convert: {e}"), "this is a bug of lowbit: report it with the recipe"))?;
    summary.sites += converted.sites.len();

    let broken = |e: flow::Error| fault(format!("evaluate: {e}"), "see that the quantized program can run");
    let mut evaluator = Evaluator::new(&float, &converted, &executor).map_err(broken)?;
    for sample in EVALUATION {
        evaluator.add(&data::inputs(&float, sample), None).map_err(broken)?;
    }
    for (name, measure) in evaluator.finish().outputs {
        let db = measure.sqnr_db;
        let worst = summary.worst.entry(recipe.into()).or_insert((f64::INFINITY, String::new()));
        if db < worst.0 {
            *worst = (db, case.name.into());
        }
        // Also false for a NaN.
        let floor = kit.floor(recipe);
        let enough = db >= floor;
        if !enough {
            let what = format!("output {name} has {db:.1} dB SQNR, {floor} are asked for");
            let cure = "quantize less here, or see that ranges, sharing and zero points are right";
            return Err(fault(what, cure));
        }
    }
    let device = converted
        .device_program()
        .map_err(|e| fault(e.to_string(), "this is a bug of lowbit: report it with the recipe"))?;
    lowering(kit, case, &converted.program, &device, SAME_QUANTIZED_DB, summary)
}

/// The lowering of a case as it is.
fn floating(kit: &Kit<'_>, case: &Case, summary: &mut Summary) -> Result<(), Fault> {
    let program = program_of(case)?;
    lowering(kit, case, &program, &program, SAME_DB, summary)
}

/// Transform, annotate and validate by hand, to see what each does.
fn annotating(float: &Program, quantizer: &dyn Quantizer) -> Result<(), Fault> {
    let mut program = float.clone();
    Pipeline::default()
        .then(FoldBatchNorm)
        .run(&mut program)
        .map_err(|e| fault(e.to_string(), "this is a bug of lowbit: report it"))?;
    quantizer
        .transform(&mut program)
        .map_err(|e| fault(format!("transform: {e}"), "let `transform` leave alone what it cannot handle"))?;
    verify(&program).map_err(|e| fault(format!("transform left an {e}"), "end each pass with `verify`"))?;
    same(float, &program, SAME_DB).map_err(|what| {
        fault(format!("transform changes what the program computes: {what}"), "transform must keep results")
    })?;

    let before = text::print(&program);
    let weights: Vec<Tensor> = program.constants.iter().map(|(_, c)| c.tensor.clone()).collect();
    let annotate = |program: &Program| -> Result<Annotations, Fault> {
        let mut out = Annotations::default();
        quantizer
            .annotate(program, &mut out)
            .map_err(|e| fault(format!("annotate: {e}"), "skip, with a reason, what cannot be quantized"))?;
        Ok(out)
    };
    let out = annotate(&program)?;
    let changed = text::print(&program) != before
        || program.constants.iter().zip(&weights).any(|((_, c), w)| c.tensor.bytes() != w.bytes());
    if changed {
        return Err(fault("annotate changes the program", "do that in `transform`"));
    }
    if describe(&program, &out) != describe(&program, &annotate(&program)?) {
        let cure = "let nothing but the program and the recipe decide; do not iterate over a `HashMap`";
        return Err(fault("annotating twice gives different annotations", cure));
    }
    let g = &program.graph;
    for (site, _) in out.iter() {
        let Some(v) = site.value(&program) else {
            let what = format!("{} is annotated and has no tensor", site.describe(&program));
            return Err(fault(what, "annotate operands that exist: `Match::arg` says whether one does"));
        };
        if !g.ty(v).dtype.is_float() {
            let what = format!("{} is annotated and holds {}", site.describe(&program), g.ty(v).dtype);
            return Err(fault(what, "annotate floating-point tensors alone"));
        }
    }
    for n in g.nodes() {
        let slots = 0..u32::try_from(g.node(n).operands().count()).unwrap_or(0);
        let outputs = g.node(n).outputs().iter().map(|&v| Site::Output(v));
        let touched = slots.map(|s| Site::input(n, s)).chain(outputs).any(|s| out.get(s).is_some());
        let explained = out.reason(n).is_some_and(|r| !r.trim().is_empty());
        if !touched && !out.is_claimed(n) && !explained {
            let what = format!("%{} is not quantized, and nothing says why", g.node(n).name);
            return Err(fault(what, "call `Annotations::leave(node, reason)`"));
        }
    }
    quantizer
        .validate(&program, &out)
        .map_err(|e| fault(format!("validate refuses what annotate made: {e}"), "make the two agree"))
}

/// Annotations as text, to compare.
fn describe(program: &Program, out: &Annotations) -> Vec<String> {
    let g = &program.graph;
    let sites = out.iter().map(|(site, a)| format!("{site:?} {:?} {}", a.spec, a.rule));
    let nodes = g.nodes().map(|n| {
        let share = out.allows_implicit_sharing(n);
        format!("{n:?} {:?} {:?} {share}", out.claimed_by(n), out.reason(n))
    });
    sites.chain(nodes).collect()
}

/// The lowering of `program`; `device` is the same program in the device's granularity.
fn lowering(
    kit: &Kit<'_>,
    case: &Case,
    program: &Program,
    device: &Program,
    same_db: f64,
    summary: &mut Summary,
) -> Result<(), Fault> {
    let make = || {
        kit.backend
            .lowering(&kit.options)
            .map_err(|e| fault(e.to_string(), "make a lowering with the options that the quantizer takes"))
    };
    let lowering = make()?;
    let mut passed = program.clone();
    lowering
        .passes()
        .run(&mut passed)
        .map_err(|e| fault(e.to_string(), "let passes leave alone what they cannot handle"))?;
    same(program, &passed, same_db).map_err(|what| {
        fault(format!("the lowering's passes change results: {what}"), "passes must keep them")
    })?;
    claims(&*lowering, &passed)?;

    let lower = |by: &dyn Lowering| {
        flow::lower(program.clone(), &[by]).map_err(|e| {
            let cure =
                "return `BackendError::Refused` for a node that shows to be impossible while compiling";
            fault(format!("lower: {e}"), cure)
        })
    };
    let lowered = lower(&*lowering)?;
    let again = lower(&*make()?)?;
    let blobs = |l: &Lowered| l.delegates.iter().map(|d| d.blob.clone()).collect::<Vec<_>>();
    if blobs(&lowered) != blobs(&again) {
        let cure = "let nothing but the region decide; no clock, no addresses, no iteration over a `HashMap`";
        return Err(fault("compiling twice gives different blobs", cure));
    }
    verify(&lowered.program)
        .map_err(|e| fault(format!("lower left an {e}"), "report it: a bug of lowbit"))?;
    placed(&passed, &lowered)?;
    if let Some(i) = lowered.delegates.iter().position(|d| d.blob.bytes.is_empty()) {
        return Err(fault(format!("the blob of delegate {i} is empty"), "write what the runtime needs"));
    }
    summary.delegates += lowered.delegates.len();
    summary.outside += lowered.outside().count();
    summary.delegated += lowered.nodes.len() - lowered.outside().count();
    on_device(kit, case, program, device, &lowered, summary)
}

/// Claims name nodes that are there, give reasons, and are the same when asked again.
fn claims(lowering: &dyn Lowering, program: &Program) -> Result<(), Fault> {
    let g = &program.graph;
    let live: BTreeSet<NodeId> = g.nodes().collect();
    for n in g.nodes() {
        let name = &g.node(n).name;
        let claim = lowering.claim(program, n);
        if claim != lowering.claim(program, n) {
            let cure = "let nothing but program and node decide";
            return Err(fault(format!("asked twice, claim says different things of %{name}"), cure));
        }
        match claim {
            Claim::Leave(why) if why.trim().is_empty() => {
                return Err(fault(format!("%{name} is left without a reason"), "say in `Claim::Leave` why"));
            }
            Claim::Take(with) if with.iter().any(|m| !live.contains(m)) => {
                let what = format!("%{name} takes along a node that is not in the program");
                return Err(fault(
                    what,
                    "list nodes of this program, found through `Graph::producer` or `users`",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every node is in one place; regions are disjoint and convex; those outside have reasons.
fn placed(passed: &Program, lowered: &Lowered) -> Result<(), Fault> {
    let g = &passed.graph;
    let report = "report it with the backend's claims: a bug of lowbit";
    let names: Vec<&str> = g.nodes().map(|n| &*g.node(n).name).collect();
    if lowered.nodes.iter().map(|p| &*p.name).collect::<Vec<_>>() != names {
        return Err(fault("the nodes that were placed are not those of the program", report));
    }
    let mut region: Vec<Option<usize>> = vec![None; g.table_sizes().0];
    for (n, p) in g.nodes().zip(&lowered.nodes) {
        match &p.place {
            Place::Delegate(d) => region[n.index()] = Some(*d),
            Place::Outside(why) if why.trim().is_empty() => {
                let what = format!("%{} is outside the delegates, and nothing says why", p.name);
                return Err(fault(what, "say in `Claim::Leave` or `BackendError::Refused` why"));
            }
            Place::Outside(_) => {}
        }
    }
    let calls = |p: &Program| -> Vec<usize> {
        let delegates = p.graph.nodes().map(|n| p.graph.node(n)).filter(|n| *n.op() == ops::CALL_DELEGATE);
        delegates.filter_map(|n| usize::try_from(ops::views::int(n.arg(0))?).ok()).collect()
    };
    // What is in the body of a loop has no place of its own in the program.
    let repeated: Vec<usize> = lowered.bodies.iter().flat_map(calls).collect();
    for (d, delegate) in lowered.delegates.iter().enumerate().filter(|(d, _)| !repeated.contains(d)) {
        let inside: Vec<&str> =
            g.nodes().filter(|n| region[n.index()] == Some(d)).map(|n| &*g.node(n).name).collect();
        if delegate.nodes.iter().map(|n| &**n).collect::<Vec<_>>() != inside {
            return Err(fault(format!("delegate {d} does not hold the nodes placed in it"), report));
        }
        // A node outside that reads from the region must not feed it, over however many steps.
        let mut tainted = vec![false; g.table_sizes().0];
        for n in g.nodes() {
            let from = || g.node(n).operands().filter_map(|v| g.producer(v));
            let here = region[n.index()] == Some(d);
            if here && from().any(|p| tainted[p.index()]) {
                let what =
                    format!("delegate {d} is not convex: %{} waits for its own results", g.node(n).name);
                return Err(fault(what, report));
            }
            tainted[n.index()] = !here && from().any(|p| tainted[p.index()] || region[p.index()] == Some(d));
        }
    }
    let calls = [calls(&lowered.program), repeated].concat();
    let once = (0..lowered.delegates.len()).all(|d| calls.iter().filter(|c| **c == d).count() == 1);
    if calls.len() != lowered.delegates.len() || !once {
        return Err(fault("not every delegate is called once", report));
    }
    Ok(())
}

/// The lowered program on the device, against the quantized one on the CPU.
fn on_device(
    kit: &Kit<'_>,
    case: &Case,
    program: &Program,
    device_program: &Program,
    lowered: &Lowered,
    summary: &mut Summary,
) -> Result<(), Fault> {
    let Some(device) = kit.device else { return Ok(()) };
    let executor = CpuExecutor::default();
    for sample in EVALUATION {
        let inputs = data::inputs(program, sample);
        let want =
            run(device_program, &inputs).map_err(|e| fault(e.to_string(), "report it: a bug of lowbit"))?;
        let got = run_lowered(lowered, device, &executor, &inputs).map_err(|e| {
            fault(format!("on the device: {e}"), "let `compile` refuse what the device cannot run")
        })?;
        compare(&want, &got, kit.agreement(case.name)).map_err(|what| {
            let cure =
                "the device must round and clamp as the quantize and dequantize nodes of the region say";
            fault(format!("the device disagrees with the CPU: {what}"), cure)
        })?;
        summary.device_runs += 1;
    }
    Ok(())
}

fn run(program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
    CpuExecutor::default().load(program, &[])?.run(inputs, &mut |_, _| {})
}

/// Whether two programs give the same outputs on the CPU.
fn same(before: &Program, after: &Program, floor_db: f64) -> Result<(), String> {
    for sample in EVALUATION {
        let inputs = data::inputs(before, sample);
        let want = run(before, &inputs).map_err(|e| format!("before: {e}"))?;
        let got = run(after, &inputs).map_err(|e| format!("after: {e}"))?;
        compare(&want, &got, floor_db)?;
    }
    Ok(())
}

/// Same types, and close enough in dB; integers are equal.
fn compare(want: &[Tensor], got: &[Tensor], floor_db: f64) -> Result<(), String> {
    if want.len() != got.len() {
        return Err(format!("{} outputs instead of {}", got.len(), want.len()));
    }
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        if (w.dtype(), w.shape()) != (g.dtype(), g.shape()) {
            let (wt, ws, gt, gs) = (w.dtype(), w.shape(), g.dtype(), g.shape());
            return Err(format!("output {i} is {gt}{gs:?} instead of {wt}{ws:?}"));
        }
        let (w, g) = (w.to_f64(), g.to_f64());
        let signal: f64 = w.iter().map(|x| x * x).sum();
        let noise: f64 = w.iter().zip(&g).map(|(x, y)| (x - y) * (x - y)).sum();
        let db = if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() };
        let floor = if want[i].dtype().is_float() { floor_db } else { f64::INFINITY };
        // Also false for a NaN.
        let enough = db >= floor;
        if !enough {
            return Err(format!("output {i} agrees to {db:.1} dB only"));
        }
    }
    Ok(())
}
