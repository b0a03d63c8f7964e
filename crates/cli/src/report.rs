//! The report: everything about a run as data; `--report` writes it, `--json` prints it.

use crate::error::CliError;
use lowbit_core::backend::Imprecise;
use lowbit_core::dtype::DType;
use lowbit_core::flow::{Converted, Evaluation, Measure, Place, Placement};
use lowbit_core::ir::Program;
use lowbit_core::quant::{Blocks, Granularity, QRange};
use serde::{Serialize, Serializer};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub backend: String,
    pub recipe: Option<String>,
    pub calibration: Calibration,
    pub sites: Vec<Site>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<Output>,
    pub metrics: BTreeMap<String, f64>,
    pub warnings: Vec<String>,
    pub files: Vec<File>,
    pub seconds: Seconds,
    pub peak_rss_bytes: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
pub struct Calibration {
    pub samples: usize,
}

/// One quantized place.
#[derive(Debug, Serialize)]
pub struct Site {
    pub value: String,
    #[serde(rename = "use")]
    pub user: Option<Use>,
    pub dtype: DType,
    /// `None` where it is stored as floats.
    pub quant_min: Option<i64>,
    pub quant_max: Option<i64>,
    pub axis: Option<u32>,
    /// Empty when the device chooses at run time.
    pub scale: Numbers,
    pub zero_point: Numbers,
    pub observer: String,
    /// Signal to quantization noise of the values that are no outliers, in dB; `null` where nothing was observed.
    pub fit_db: Option<f64>,
    pub rule: String,
}

#[derive(Debug, Serialize)]
pub struct Use {
    pub node: String,
    pub operand: u32,
}

#[derive(Debug, Serialize)]
pub struct Node {
    pub name: String,
    pub op: String,
    pub module: String,
    pub quantized: bool,
    pub why_not: Option<String>,
    /// Why it is quantized in another way than the recipe has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    pub delegate: Option<usize>,
    pub why_not_delegated: Option<String>,
    /// What it becomes in the delegate, where the backend says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub becomes: Option<String>,
    /// Where the device's kernel is known to be less exact than the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imprecise: Option<Imprecise>,
    /// Against the float program; only where evaluated.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "decibels_option")]
    pub sqnr_db: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    pub name: String,
    #[serde(serialize_with = "decibels")]
    pub sqnr_db: f64,
    pub cosine: f64,
    pub max_abs: f64,
}

#[derive(Debug, Serialize)]
pub struct File {
    pub path: String,
    pub bytes: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Seconds {
    pub import: f64,
    pub prepare: f64,
    pub calibrate: f64,
    pub convert: f64,
    pub evaluate: f64,
    pub save: f64,
    pub lower: f64,
    /// How much of it the vendor's own compiler took, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_in_tool: Option<f64>,
}

/// JSON has no infinity: equal tensors are 999 dB apart, more than any arithmetic gives.
pub fn decibels<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(x.clamp(-999.0, 999.0))
}

#[allow(clippy::ref_option)] // serde gives a reference to the field
fn decibels_option<S: Serializer>(x: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
    decibels(&x.unwrap_or(999.0), s)
}

/// The most numbers that a report lists of one site. A weight in groups of 32 has millions; the quantized program has them all.
const LISTED: usize = 4096;

/// Scales or zero points: each, or of many how many there are, the least and the greatest.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Numbers {
    All(Vec<serde_json::Number>),
    Range { count: usize, min: serde_json::Number, max: serde_json::Number },
}

impl Numbers {
    fn of(x: &[f64]) -> Self {
        if x.len() <= LISTED {
            return Numbers::All(x.iter().copied().map(number).collect());
        }
        let (min, max) = x.iter().fold((f64::MAX, f64::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        Numbers::Range { count: x.len(), min: number(min), max: number(max) }
    }
}

/// Whole numbers without a fraction: nearly all zero points.
fn number(x: f64) -> serde_json::Number {
    match x.fract() == 0.0 && x.abs() < 2f64.powi(53) {
        true => serde_json::Number::from(x as i64),
        false => serde_json::Number::from_f64(x).unwrap_or_else(|| 0.into()),
    }
}

/// Bytes of a file, or of all files in a folder.
fn size(path: &Path) -> std::io::Result<u64> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    std::fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

/// Names of quantized values and of the nodes that read them quantized.
fn quantized_names(converted: Option<&Converted>) -> BTreeSet<&str> {
    let sites = converted.iter().flat_map(|c| &c.sites);
    sites.flat_map(|s| [Some(s.value.as_str()), s.user.as_ref().map(|u| u.0.as_str())]).flatten().collect()
}

/// A node before anything is known of where it goes.
fn node(
    name: &str,
    op: &str,
    module: &str,
    converted: Option<&Converted>,
    quantized: &BTreeSet<&str>,
) -> Node {
    let glue = ["quantize_per", "quantize_affine", "choose_qparams"].iter().any(|part| op.contains(part));
    let is_quantized = quantized.contains(name) || glue;
    let reason = |c: &Converted| {
        let unruled = || "no rule of the quantizer takes this operator".to_string();
        c.reasons.get(name).cloned().unwrap_or_else(unruled)
    };
    Node {
        name: name.into(),
        op: op.into(),
        module: module.into(),
        quantized: is_quantized,
        why_not: converted.filter(|_| !is_quantized).map(reason),
        remark: converted.and_then(|c| c.remarks.get(name)).cloned(),
        delegate: None,
        why_not_delegated: None,
        becomes: None,
        imprecise: None,
        sqnr_db: None,
    }
}

impl Report {
    /// Fills in what conversion found.
    pub fn add_sites(&mut self, converted: &Converted) {
        self.calibration.samples = converted.samples;
        for s in &converted.sites {
            let (scale, zero_point) =
                s.params.as_ref().map_or((&[][..], &[][..]), |p| (&p.scale[..], &p.zero_point[..]));
            self.sites.push(Site {
                value: s.value.clone(),
                user: s.user.clone().map(|(node, operand)| Use { node, operand }),
                dtype: s.spec.dtype,
                quant_min: s.spec.range.map(QRange::min),
                quant_max: s.spec.range.map(QRange::max),
                axis: match s.spec.granularity {
                    Granularity::Channel { axis } | Granularity::Blocks(Blocks::Axis(axis)) => Some(axis),
                    _ => None,
                },
                scale: Numbers::of(scale),
                zero_point: Numbers::of(zero_point),
                observer: s.observer.clone(),
                fit_db: s.fit,
                rule: s.rule.clone(),
            });
        }
    }

    /// Fills in where each node of the quantized program went.
    pub fn add_nodes(&mut self, nodes: &[Placement], converted: Option<&Converted>) {
        let quantized = quantized_names(converted);
        for n in nodes {
            let (delegate, why_not_delegated) = match &n.place {
                Place::Delegate(d) => (Some(*d), None),
                Place::Outside(why) => (None, Some(why.clone())),
            };
            let node = node(&n.name, n.op, n.module.path(), converted, &quantized);
            let (becomes, imprecise) = (n.becomes.clone(), n.imprecise.clone());
            self.nodes.push(Node { delegate, why_not_delegated, becomes, imprecise, ..node });
        }
    }

    /// Fills in the nodes of a program that is not lowered.
    pub fn add_program(&mut self, program: &Program, converted: Option<&Converted>) {
        let quantized = quantized_names(converted);
        for n in program.graph.nodes().map(|n| program.graph.node(n)) {
            self.nodes.push(node(&n.name, n.op().name, n.module.path(), converted, &quantized));
        }
    }

    /// Fills in a file that was written.
    pub fn add_file(&mut self, path: &Path) -> Result<(), CliError> {
        let bytes = size(path).map_err(|source| CliError::Output { path: path.into(), source })?;
        self.files.push(File { path: path.display().to_string(), bytes });
        Ok(())
    }

    /// Fills in what evaluation found.
    pub fn add_evaluation(&mut self, e: &Evaluation) {
        for (name, m) in &e.outputs {
            let Measure { sqnr_db, cosine, max_abs, .. } = *m;
            self.outputs.push(Output { name: name.clone(), sqnr_db, cosine, max_abs });
        }
        let by_name: BTreeMap<&str, f64> = e.nodes.iter().map(|(n, m)| (n.as_str(), m.sqnr_db)).collect();
        for n in &mut self.nodes {
            n.sqnr_db = by_name.get(n.name.as_str()).copied();
        }
        self.metrics = e.metrics.clone();
    }

    /// The report as JSON text.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a report holds only numbers, strings and lists");
        text.push('\n');
        text
    }

    /// A short table for people.
    pub fn print_table(&self) {
        let delegated = self.nodes.iter().filter(|n| n.delegate.is_some()).count();
        let quantized = self.nodes.iter().filter(|n| n.quantized).count();
        if let Some(recipe) = &self.recipe {
            say!("recipe      {} {recipe}, {} calibration samples", self.backend, self.calibration.samples);
        }
        let lowered = self.nodes.iter().any(|n| n.delegate.is_some() || n.why_not_delegated.is_some());
        let delegated = if lowered { format!(", {delegated} delegated") } else { String::new() };
        say!("nodes       {} in all, {quantized} quantized{delegated}", self.nodes.len());
        for o in &self.outputs {
            say!(
                "output      {}: SQNR {:.1} dB, cosine {:.5}, max error {}",
                o.name,
                o.sqnr_db,
                o.cosine,
                short(o.max_abs)
            );
        }
        for (name, value) in &self.metrics {
            say!("metric      {name} {value:.4}");
        }
        self.print_kernels();
        self.print_remarks();
        self.print_imprecise();
        for w in &self.warnings {
            say!("warning     {w}");
        }
        for f in &self.files {
            say!("file        {} ({} bytes)", f.path, f.bytes);
        }
        let s = &self.seconds;
        let tool =
            s.lower_in_tool.map_or(String::new(), |s| format!(", {s:.3} of it in the vendor's compiler"));
        say!(
            "seconds     import {:.3}, prepare {:.3}, calibrate {:.3}, convert {:.3}, evaluate {:.3}, lower {:.3}{tool}",
            s.import,
            s.prepare,
            s.calibrate,
            s.convert,
            s.evaluate,
            s.lower
        );
    }

    /// What is quantized in another way than the recipe has it.
    fn print_remarks(&self) {
        let mut remarks: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for n in &self.nodes {
            if let Some(remark) = &n.remark {
                *remarks.entry((&n.op, remark)).or_default() += 1;
            }
        }
        for ((op, remark), count) in remarks {
            say!("remark      {count} x {op}: {remark}");
        }
    }

    /// How many nodes the device computes less exactly than the program says.
    fn print_imprecise(&self) {
        let steps: Vec<u32> = self.nodes.iter().filter_map(|n| Some(n.imprecise.as_ref()?.steps)).collect();
        if let Some(most) = steps.iter().max() {
            say!(
                "imprecise   {} nodes have kernels on the device that are up to {most} steps off; --report says which, and why",
                steps.len()
            );
        }
    }

    /// What runs outside of delegates, the most frequent operators first, each with its most frequent reason.
    fn print_kernels(&self) {
        const LINES: usize = 8;
        let mut reasons: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for n in &self.nodes {
            if let Some(why) = &n.why_not_delegated {
                *reasons.entry(&n.op).or_default().entry(why).or_default() += 1;
            }
        }
        let count = |whys: &BTreeMap<&str, usize>| whys.values().sum::<usize>();
        let mut rows: Vec<_> = reasons.iter().collect();
        rows.sort_by_key(|(_, whys)| Reverse(count(whys)));
        for (op, whys) in rows.iter().take(LINES) {
            let why = whys.iter().max_by_key(|(why, n)| (**n, Reverse(**why))).map_or("", |(why, _)| why);
            say!("not in a delegate: {} x {op}: {why}", count(whys));
        }
        if let Some(rest) = rows.get(LINES..).filter(|rest| !rest.is_empty()) {
            let nodes: usize = rest.iter().map(|(_, whys)| count(whys)).sum();
            say!("not in a delegate: {nodes} more, of {} operators; --report has every reason", rest.len());
        }
    }
}

/// A magnitude in a few digits.
fn short(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x) { format!("{x:.4}") } else { format!("{x:.2e}") }
}
