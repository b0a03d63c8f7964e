//! `lowbit debug`: which nodes spoil a quantized program.

use super::evaluate::{chosen, named};
use super::import::exported;
use crate::args::Debug;
use crate::data::Dataset;
use crate::error::CliError;
use crate::output::progress;
use crate::report::decibels;
use lowbit_core::backend::Options;
use lowbit_core::flow::{Culprit, Debugger, Findings, Measure, device_program};
use serde::Serialize;

/// Rows of the table, unless told otherwise.
const ROWS: usize = 20;

pub fn run(args: &Debug, quiet: bool) -> Result<(), CliError> {
    let named = named(args.backend.as_deref())?;
    let data = Dataset::open(&args.data, None)?;
    let (float, quantized) = (exported(&args.float)?, exported(&args.quantized)?);
    let backend = named.map_or_else(|| chosen(&quantized), Ok)?;
    let lowering = backend.lowering(&Options::new())?;
    let quantized = device_program(&quantized, &|p, n| lowering.dynamic_dims(p, n))?;
    let mut debugger = Debugger::new(&float, &quantized, &args.execution.executor()?)?;
    let bar = progress("comparing", quiet);
    for call in data.calls(&float) {
        let call = call?;
        let done = debugger.add(&call.inputs);
        done.map_err(|source| CliError::Sample { path: call.file, source: Box::new(source) })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let findings = debugger.finish();
    if findings.samples == 0 {
        return Err(CliError::Other("the data holds no calls".into()));
    }
    let shown = args.top.unwrap_or(if args.json { usize::MAX } else { ROWS });
    match args.json {
        true => print_json(&findings, shown),
        false => print_table(&findings, shown),
    }
    Ok(())
}

fn print_table(findings: &Findings, shown: usize) {
    let rows = findings.worst_first();
    say!(
        "{} values compared over {} samples, the worst first by their own error",
        rows.len(),
        findings.samples
    );
    if !findings.unmatched.is_empty() {
        say!(
            "{} values are of the quantized program alone; their errors show in what is made of them",
            findings.unmatched.len()
        );
    }
    say!("{:>9} {:>8} {:>9}  {:>9} {:>8} {:>9}  node", "own dB", "cosine", "mse", "run dB", "cosine", "mse");
    for c in rows.iter().take(shown) {
        let of = |m: &Measure| format!("{:>9.1} {:>8.5} {:>9.2e}", m.sqnr_db, m.cosine, m.mse);
        let module = if c.module.is_empty() { "-" } else { &c.module };
        say!("{}  {}  {}  {}  {module}", of(&c.own), of(&c.run), c.value, c.op);
    }
    if rows.len() > shown {
        say!("… and {} more (--top, --json)", rows.len() - shown);
    }
}

#[derive(Serialize)]
struct Output<'a> {
    samples: usize,
    /// The worst first by their own error.
    nodes: Vec<Row<'a>>,
    /// Values of the quantized program alone.
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    value: &'a str,
    node: &'a str,
    op: &'a str,
    module: &'a str,
    own: Errors,
    run: Errors,
}

#[derive(Serialize)]
struct Errors {
    #[serde(serialize_with = "decibels")]
    sqnr_db: f64,
    cosine: f64,
    mse: f64,
    max_abs: f64,
}

impl From<&Measure> for Errors {
    fn from(m: &Measure) -> Self {
        Errors { sqnr_db: m.sqnr_db, cosine: m.cosine, mse: m.mse, max_abs: m.max_abs }
    }
}

impl<'a> From<&'a Culprit> for Row<'a> {
    fn from(c: &'a Culprit) -> Self {
        let (own, run) = (Errors::from(&c.own), Errors::from(&c.run));
        Row { value: &c.value, node: &c.node, op: c.op, module: &c.module, own, run }
    }
}

fn print_json(findings: &Findings, shown: usize) {
    let nodes = findings.worst_first().into_iter().take(shown).map(Row::from).collect();
    let output = Output { samples: findings.samples, nodes, unmatched: &findings.unmatched };
    say!("{}", serde_json::to_string_pretty(&output).expect("it holds only numbers, strings and lists"));
}
