//! The whole of prepare, calibrate and convert against torchao's PT2E: cases in the format of `tests/data/parity/pt2e.py`.
//! `LOWBIT_PT2E` names another folder of cases, whose results are printed (`cargo test pt2e -- --nocapture`).

mod fx;
mod spec;

use fx::{Fx, Operand, Pair, Source, operand, operands, quantizes, text};
use lowbit::data::npy;
use lowbit_core::Tensor;
use lowbit_core::executor::Executor;
use lowbit_core::flow::{ConvertOptions, Converted, Prepared};
use lowbit_core::ir::{Arg, NodeId, Program};
use lowbit_core::passes::{FoldBatchNorm, IntegerArithmetic, Pass};
use lowbit_core::quant::{Annotations, Site, Spec};
use lowbit_cpu::CpuExecutor;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What is compared, each on top of the one before.
pub const LEVELS: [&str; 5] = ["annotations", "groups", "parameters", "graph", "outputs"];

/// Rounds of torchao's and ExecuTorch's own tests in which lowbit means to differ, and why.
const DIFFERENCES: &[(&str, &str)] = &[
    ("silero_vad_static", "slices hand on parameters, as XNNPACK demands and later releases do"),
    (
        "composable_quantizer_linear_conv",
        "torchao's copy of the quantizer has no dynamic convolutions; ExecuTorch's has",
    ),
    (
        "quantize_in_place_index_put",
        "there is no memory that is written in place: buffers are quantized like any value",
    ),
    ("quantize_in_place_ops", "the case's file holds the buffer as calibration left it, not as it began"),
];

/// Observers that a test takes out of the prepared graph by hand: the case, and the value that is watched.
const TAKEN_OUT: (&str, &str) = ("multi_users_without_output_observer", "conv2d");

/// What differs, by level; a level that does not apply says so with `None`.
pub type Findings = [Option<Vec<String>>; 5];

type Arrays = BTreeMap<String, Tensor>;

/// One case and what lowbit makes of it.
struct Run<'a> {
    case: &'a Value,
    folder: &'a Path,
    fused: Fx<'a>,
    converted: Fx<'a>,
}

fn npz(path: &Path) -> Result<Arrays, String> {
    if !path.exists() {
        return Ok(Arrays::new());
    }
    Ok(npy::read(path, |_| true).map_err(|e| e.to_string())?.into_iter().collect())
}

/// Real models are kept beside the cases: their path goes from some folder above.
fn above(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let mut found = folder.ancestors().map(|a| a.join(name));
    found.find(|p| p.exists()).ok_or_else(|| format!("{name} is missing"))
}

/// What differs in the case of a folder.
pub fn examine(folder: &Path) -> Result<Findings, String> {
    let text = std::fs::read_to_string(folder.join("case.json")).map_err(|e| e.to_string())?;
    let case: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let constants = npz(&folder.join("constants.npz"))?;
    let (fused, converted) =
        (Fx::new(&case["fused_graph"], &constants), Fx::new(&case["converted_graph"], &constants));
    Run { case: &case, folder, fused, converted }.levels()
}

impl Run<'_> {
    fn program(&self) -> Result<Program, String> {
        let model = self.case["model"].as_str();
        let path = model.map_or(Ok(self.folder.join("model.pt2")), |m| above(self.folder, m))?;
        let mut program = lowbit_pt2::read(&path).map_err(|e| e.to_string())?;
        FoldBatchNorm.run(&mut program).map_err(|e| format!("{e:?}"))?;
        Ok(program)
    }

    /// Calibration calls in order.
    fn calls(&self) -> Result<Vec<Vec<Tensor>>, String> {
        if let Some(text) = self.case["calibration"].as_str() {
            // "models/x/calib.npz, the first 16 calls"
            let (file, rest) = text.split_once(',').unwrap_or((text, ""));
            let count = rest.split(' ').find_map(|w| w.parse::<usize>().ok()).unwrap_or(usize::MAX);
            let arrays = npz(&above(self.folder, file)?)?;
            let inputs: Vec<&Tensor> = (0..).map_while(|i| arrays.get(&format!("in{i}"))).collect();
            let n = inputs.first().map_or(0, |t| t.shape()[0]).min(count);
            return (0..n).map(|k| inputs.iter().map(|t| row(t, k)).collect()).collect();
        }
        let arrays = npz(&self.folder.join("calib.npz"))?;
        let call = |k: usize| numbered(&arrays, &format!("c{k}_in_"));
        Ok((0..).map(call).take_while(|inputs| !inputs.is_empty()).collect())
    }

    fn levels(&self) -> Result<Findings, String> {
        let mut findings: Findings = Default::default();
        let mut program = self.program()?;
        let quantizer = spec::quantizer(&self.case["recipe"])?;
        if let Some(q) = &quantizer {
            q.transform(&mut program).map_err(|e| e.to_string())?;
        }
        let mut expected = spec::annotations(self.case, &program, &self.fused)?;
        if let Some(q) = &quantizer {
            let mut ours = Annotations::default();
            q.annotate(&program, &mut ours).map_err(|e| e.to_string())?;
            findings[0] = Some(annotations_differ(&program, &ours, &expected));
        }
        if self.folder.to_string_lossy().contains(TAKEN_OUT.0) {
            let watched =
                |s: &Site| s.value(&program).is_some_and(|v| *program.graph.value(v).name == *TAKEN_OUT.1);
            let sites: Vec<Site> = expected.iter().map(|(s, _)| s).filter(watched).collect();
            sites.into_iter().for_each(|s| drop(expected.remove(s)));
        }
        let prepared = Prepared::new(program, expected).map_err(|e| e.to_string())?;
        findings[1] = Some(self.groups_differ(&prepared));
        if self.case["convert_kwargs"]["use_reference_representation"] == true {
            let options = ConvertOptions { integers: true, ..ConvertOptions::default() };
            findings[4] = Some(self.integers_differ(&self.convert(prepared, options)?)?);
            return Ok(findings);
        }
        let annotations = prepared.annotations().clone();
        let converted = self.convert(prepared, ConvertOptions::default())?;
        let mut pairs = vec![];
        let (parameters, mut graph) = self.graphs_differ(&converted, &mut pairs);
        graph.extend(sources_differ(&converted, &annotations));
        let same_graph = graph.is_empty();
        findings[2] = Some(parameters);
        findings[3] = Some(graph);
        if same_graph {
            findings[4] = Some(self.outputs_differ(converted, &pairs)?);
        }
        Ok(findings)
    }

    fn convert(&self, mut prepared: Prepared, options: ConvertOptions) -> Result<Converted, String> {
        let executor = CpuExecutor::default();
        let mut session = prepared.load(&executor).map_err(|e| e.to_string())?;
        for call in self.calls()? {
            prepared.calibrate(&mut *session, &call).map_err(|e| e.to_string())?;
        }
        prepared.convert_with(&executor, options).map_err(|e| e.to_string())
    }

    /// In integer arithmetic: outputs at most one step apart, as far as the same scales go. Nothing of torchao's program is put
    /// into ours.
    fn integers_differ(&self, ours: &Converted) -> Result<Vec<String>, String> {
        let io = npz(&self.folder.join("io.npz"))?;
        let mut session = CpuExecutor::default().load(&ours.program, &[]).map_err(|e| e.to_string())?;
        let got = session.run(&numbered(&io, "in_"), &mut |_, _| {}).map_err(|e| e.to_string())?;
        let mut found = vec![];
        for (i, (got, expected)) in got.iter().zip(numbered(&io, "out_")).enumerate() {
            let name = &ours.reference.graph.value(ours.reference.user_outputs()[i]).name;
            let site = ours.sites.iter().find(|s| s.value == **name).and_then(|s| s.params.as_ref());
            let step = site.map_or(1e-5, |p| p.scale[0]);
            let pairs = || got.to_f64().into_iter().zip(expected.to_f64());
            let apart = pairs().filter(|(a, b)| (a - b).abs() > step * 1.001 + 2e-3 * b.abs()).count();
            if got.shape() != expected.shape() || apart > 0 {
                let largest = pairs().map(|(a, b)| (a - b).abs() / step).fold(0.0, f64::max);
                found.push(format!(
                    "output {i}: {apart} of {} differ, {largest:.2} steps at most",
                    got.numel()
                ));
            }
        }
        Ok(found)
    }

    fn groups_differ(&self, prepared: &Prepared) -> Vec<String> {
        let program = prepared.program();
        let mut theirs: BTreeMap<Site, u64> = BTreeMap::new();
        for g in self.case["groups"].as_array().into_iter().flatten() {
            for site in spec::sites(program, &self.fused, g) {
                theirs.insert(site, g["group"].as_u64().unwrap_or(0));
            }
        }
        // The two numberings must be one to one.
        let (mut there, mut here) = (BTreeMap::new(), BTreeMap::new());
        let mut found = vec![];
        for (i, group) in prepared.groups().groups.iter().enumerate() {
            for site in &group.sites {
                let Some(&t) = theirs.get(site) else {
                    found.push(format!("{} has no group there", site.describe(program)));
                    continue;
                };
                if *there.entry(i).or_insert(t) != t || *here.entry(t).or_insert(i) != i {
                    found.push(format!("{} is in another group", site.describe(program)));
                }
            }
        }
        found
    }

    /// What differs in parameters, and in all the rest; collects the pairs that belong together.
    fn graphs_differ(&self, ours: &Converted, pairs: &mut Vec<(Pair, Pair)>) -> (Vec<String>, Vec<String>) {
        let program = &ours.program;
        let mut c = Compare { histograms: histograms(ours), parameters: vec![], graph: vec![], pairs };
        let mut seen = BTreeSet::new();
        for node in self.converted.computing() {
            let name = text(&node["name"]);
            let Some(n) = self.converted.find(program, name) else {
                c.graph.push(format!("%{name} is missing"));
                continue;
            };
            seen.insert(n);
            // The importer gives numbers and in-place operators their own spelling.
            let op = program.graph.node(n).op().name.replace(".Scalar", ".Tensor");
            let target = text(&node["target"]).replace("_.", ".");
            if target != op && !op.starts_with(&format!("{target}.")) {
                c.graph.push(format!("%{name} is {op}, {target} there"));
            }
            let theirs = operands(node);
            let mine: Vec<_> = program.graph.node(n).operands().collect();
            if mine.len() != theirs.len() {
                c.graph.push(format!("%{name} reads {} tensors, {} there", mine.len(), theirs.len()));
            }
            for (i, (m, t)) in mine.iter().zip(theirs).enumerate() {
                c.operands(&format!("%{name}#{i}"), &operand(program, *m), &self.converted.operand(t));
            }
        }
        for n in program.graph.nodes().filter(|n| !seen.contains(n)) {
            let node = program.graph.node(n);
            if !quantizes(node.op().name) {
                c.graph.push(format!("%{} is not there", node.name));
            }
        }
        let last = self.converted.nodes.last().map(operands).unwrap_or_default();
        for (i, (m, t)) in program.user_outputs().iter().zip(last).enumerate() {
            c.operands(&format!("output {i}"), &operand(program, *m), &self.converted.operand(t));
        }
        (c.parameters, c.graph)
    }

    /// With torchao's parameters in place: integers at most one step apart, or for networks as far from the float program
    /// as torchao's outputs are.
    fn outputs_differ(&self, ours: Converted, pairs: &[(Pair, Pair)]) -> Result<Vec<String>, String> {
        let io = npz(&self.folder.join("io.npz"))?;
        let inputs = numbered(&io, "in_");
        let mut program = ours.program;
        for (mine, theirs) in pairs {
            let literal = mine.axis.is_none() && mine.block.is_empty() && !mine.scale.is_empty();
            for &n in mine.nodes.iter().filter(|_| literal) {
                let node = program.graph.node(n);
                let (op, mut args) = (node.op(), node.args().to_vec());
                args[1] = Arg::Float(theirs.scale[0]);
                args[2] = (theirs.zero_point[0] as i64).into();
                program.graph.rewrite(n, op, args).map_err(|e| e.message)?;
            }
        }
        let run = |p: &Program| -> Result<Vec<Tensor>, String> {
            let mut session = CpuExecutor::default().load(p, &[]).map_err(|e| e.to_string())?;
            session.run(&inputs, &mut |_, _| {}).map_err(|e| e.to_string())
        };
        let (float, got) = (run(&ours.reference)?, run(&program)?);
        let mut found = vec![];
        // In integers some sums round the other way. Over a network that must stay below what quantization itself does.
        let mut integers = program.clone();
        IntegerArithmetic.run(&mut integers).map_err(|e| e.to_string())?;
        for (i, whole) in run(&integers)?.iter().enumerate() {
            let (forms, quantized) = (sqnr(&got[i], whole), sqnr(&float[i], &got[i]));
            if forms < quantized && forms < 100.0 {
                found.push(format!(
                    "output {i}: {forms:.2} dB from itself in integers, {quantized:.2} from floats"
                ));
            }
        }
        for (i, expected) in numbered(&io, "out_").iter().enumerate() {
            let Some(got) = got.get(i) else { break };
            let step = match operand(&program, program.user_outputs()[i]) {
                Operand::Quantized(p) => p.scale.iter().copied().fold(0.0, f64::max),
                Operand::Float(_) => 1e-5,
            };
            let apart = |(a, b): (f64, f64)| (a - b).abs() > step * 1.001 + 1e-4 * b.abs();
            if got.shape() == expected.shape() && !got.to_f64().into_iter().zip(expected.to_f64()).any(apart)
            {
                continue;
            }
            let (mine, theirs) = (sqnr(&float[i], got), sqnr(&float[i], expected));
            if (mine - theirs).abs() > 0.3 {
                found.push(format!("output {i}: {mine:.2} dB from the float program, {theirs:.2} dB there"));
            }
        }
        Ok(found)
    }
}

/// Compares what operands read.
struct Compare<'a> {
    /// Names of values whose range came from a histogram.
    histograms: BTreeSet<String>,
    parameters: Vec<String>,
    graph: Vec<String>,
    pairs: &'a mut Vec<(Pair, Pair)>,
}

impl Compare<'_> {
    fn operands(&mut self, place: &str, mine: &Operand, theirs: &Operand) {
        match (mine, theirs) {
            (Operand::Float(a), Operand::Float(b)) if a == b => {}
            (Operand::Quantized(a), Operand::Quantized(b)) => {
                if (a.axis, &a.block, a.range, a.scale.len()) != (b.axis, &b.block, b.range, b.scale.len()) {
                    self.graph.push(format!("{place}: axis, block or range is another"));
                    return;
                }
                self.numbers(place, a, b);
                self.pairs.push(((**a).clone(), (**b).clone()));
                match (&a.from, &b.from) {
                    (Some(x), Some(y)) => self.operands(place, x, y),
                    (None, None) => {}
                    _ => self.graph.push(format!("{place}: only one of the two is folded")),
                }
            }
            _ => self.graph.push(format!("{place} reads {mine:?}, {theirs:?} there")),
        }
    }

    fn numbers(&mut self, place: &str, a: &Pair, b: &Pair) {
        // Parameters of constants and inputs are equal to the bit; those of computed values hang on the order of sums.
        let (scale, zero) = match &a.from {
            None | Some(Operand::Float(Source::Input(_) | Source::Constant)) => (0.0, 0.0),
            Some(Operand::Float(Source::Value(n))) if !self.histograms.contains(n) => (1e-5, 1.0),
            _ => (2e-3, 1.0),
        };
        let far = |(x, y): (&f64, &f64)| (x - y).abs() > scale * y.abs();
        let wide = |(x, y): (&f64, &f64)| (x - y).abs() > zero;
        if a.scale.iter().zip(&b.scale).any(far) || a.zero_point.iter().zip(&b.zero_point).any(wide) {
            let short = |p: &Pair| format!("{:?} {:?}", &p.scale[..1], &p.zero_point[..1]);
            self.parameters.push(format!("{place}: {}, {} there", short(a), short(b)));
        }
        if let (Some(x), Some(y)) = (&a.integers, &b.integers) {
            let differ = x.to_f64().into_iter().zip(y.to_f64()).filter(|(x, y)| x != y).count();
            if x.shape() != y.shape() || differ > 0 {
                self.parameters.push(format!("{place}: {differ} of {} integers", x.numel()));
            }
        }
    }
}

/// Inserted nodes that belong to another node than torchao's rules for porting metadata say: to the annotated reader what
/// dequantizes for it, and what chooses parameters for it while running; to the annotated maker what quantizes its result.
fn sources_differ(c: &Converted, annotations: &Annotations) -> Vec<String> {
    let g = &c.program.graph;
    let mut found = vec![];
    let mut belongs = |n, to| {
        if c.sources.get(&n) != Some(&to) {
            found.push(format!("%{} does not belong to %{}", g.node(n).name, g.node(to).name));
        }
    };
    let chooses = |n: &NodeId| g.node(*n).op().name.contains("choose_qparams");
    for (site, _) in annotations.iter() {
        match site {
            Site::Input(u) => {
                let dequantize = g.operand(u).and_then(|v| g.producer(v));
                let Some(n) = dequantize.filter(|n| c.sources.contains_key(n)) else { continue };
                belongs(n, u.node);
                let quantize = g.node(n).operands().next().and_then(|v| g.producer(v));
                let made =
                    quantize.into_iter().flat_map(|q| g.node(q).operands().skip(1).map(move |v| (q, v)));
                for (q, choose) in made.filter_map(|(q, v)| Some((q, g.producer(v).filter(chooses)?))) {
                    belongs(q, u.node);
                    belongs(choose, u.node);
                }
            }
            Site::Output(v) => {
                let Some(maker) = g.producer(v) else { continue };
                let mut users = g.users(v).into_iter().filter(|n| quantizes(g.node(*n).op().name));
                if let Some(first) = users.next().filter(|_| annotations.is_claimed(maker)) {
                    let own = [first].into_iter().chain(users).find(|n| c.sources.get(n) == Some(&maker));
                    belongs(own.unwrap_or(first), maker);
                }
            }
        }
    }
    found
}

/// Values that a histogram watched.
fn histograms(c: &Converted) -> BTreeSet<String> {
    c.sites.iter().filter(|s| s.observer == "histogram").map(|s| s.value.clone()).collect()
}

fn annotations_differ(program: &Program, ours: &Annotations, theirs: &Annotations) -> Vec<String> {
    let all: BTreeSet<Site> = ours.iter().chain(theirs.iter()).map(|(s, _)| s).collect();
    let differs = |site: &Site| {
        let (a, b) = (ours.get(*site).map(|a| &a.spec), theirs.get(*site).map(|a| &a.spec));
        let same = match (a, b) {
            (Some(Spec::Observed(x)), Some(Spec::Observed(y))) => x == y,
            (Some(Spec::SharedWith(x)), Some(Spec::SharedWith(y))) => x == y,
            (Some(Spec::Fixed(x)), Some(Spec::Fixed(y))) => x == y,
            _ => false,
        };
        (!same).then(|| format!("{}: {a:?}, {b:?} there", site.describe(program)))
    };
    all.iter().filter_map(differs).collect()
}

fn numbered(arrays: &Arrays, prefix: &str) -> Vec<Tensor> {
    (0..).map_while(|i| arrays.get(&format!("{prefix}{i}")).cloned()).collect()
}

/// Index `k` of the first axis.
fn row(t: &Tensor, k: usize) -> Result<Tensor, String> {
    let shape = &t.shape()[1..];
    let size = shape.iter().product::<usize>() * t.dtype().size();
    Tensor::from_bytes(t.dtype(), shape, t.bytes().slice(k * size..(k + 1) * size)).map_err(|e| e.to_string())
}

/// Signal to quantization noise in decibels.
fn sqnr(float: &Tensor, other: &Tensor) -> f64 {
    let energy = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>();
    let signal = energy(&mut float.to_f64().into_iter());
    let noise = energy(&mut float.to_f64().into_iter().zip(other.to_f64()).map(|(a, b)| a - b));
    10.0 * (signal.max(1e-30) / noise.max(1e-30)).log10()
}

/// Runs every case of a folder; returns what failed, and how many passed a level of how many.
fn all(folder: &Path) -> (Vec<String>, [(usize, usize); 5]) {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|p| p.join("case.json").exists());
    cases.sort();
    let (mut failures, mut counts) = (vec![], [(0, 0); 5]);
    for case in &cases {
        let name = case.file_name().unwrap().display();
        match examine(case) {
            Err(e) => failures.push(format!("{name}: {e}")),
            Ok(findings) => {
                for (i, found) in findings.iter().enumerate() {
                    let Some(found) = found else { continue };
                    counts[i].1 += 1;
                    counts[i].0 += usize::from(found.is_empty());
                    failures.extend(found.iter().map(|f| format!("{name}: {}: {f}", LEVELS[i])));
                }
            }
        }
    }
    (failures, counts)
}

#[test]
fn rounds_are_torchaos() {
    let (failures, counts) = all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity/pt2e"));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(counts.map(|(_, of)| of), [8, 10, 10, 10, 10]);
}

#[test]
fn other_cases_are_counted() {
    let Ok(folder) = std::env::var("LOWBIT_PT2E") else { return };
    let (failures, counts) = all(Path::new(&folder));
    println!("{}", failures.join("\n"));
    let unknown: Vec<&String> =
        failures.iter().filter(|f| !DIFFERENCES.iter().any(|(name, _)| f.contains(name))).collect();
    for (level, (passed, of)) in LEVELS.iter().zip(counts) {
        println!("{level}: {passed} of {of}");
    }
    assert!(unknown.is_empty(), "{} unknown differences, the first: {}", unknown.len(), unknown[0]);
}
