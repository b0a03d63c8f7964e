//! `lowbit quantize`: the whole chain from a model and data to a file a device loads.

use super::import::exported;
use super::lower::{Output, lower_and_write, options};
use super::{Timer, emit_report};
use crate::args::Quantize;
use crate::data::{Call, Dataset};
use crate::error::CliError;
use crate::output::{check_writable, progress, write_with};
use crate::report::Report;
use globset::{Glob, GlobSet, GlobSetBuilder};
use lowbit_core::Registry;
use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::{Converted, Evaluator, Sample, prepare, prepare_with};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::quantizer::Quantizer;
use lowbit_cpu::CpuExecutor;
use lowbit_pt2::Export;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub fn run(args: &Quantize, quiet: bool) -> Result<(), CliError> {
    // What can be wrong without any work is said first.
    let backend = Registry::linked()?.get(&args.target.backend)?;
    let recipe =
        args.recipe.clone().unwrap_or_else(|| backend.recipes().first().map_or("", |r| r.name).into());
    let options = options(&args.target);
    let mut quantizer = backend.quantizer(&recipe, &options)?;
    let lowering = backend.lowering(&options)?;
    if args.out.is_none() && args.save_quantized.is_none() {
        let what = "there is nothing to write: give --out MODEL.pte, --save-quantized Q.pt2, or both";
        return Err(CliError::Usage(what.into()));
    }
    let out = args.out.as_deref().map(|path| Output::of(path, backend)).transpose()?;
    args.save_quantized.as_deref().map(check_writable).transpose()?;
    args.report.as_deref().map(check_writable).transpose()?;
    let calibration = Dataset::open(&args.calibrate, None)?;
    let evaluation = Dataset::open(&args.evaluate, args.labels.as_deref())?;

    let mut report = Report { backend: backend.name().into(), recipe: Some(recipe), ..Report::default() };
    let mut timer = Timer::start();
    let float = exported(&args.model)?;
    out.as_ref().map(|out| out.check_inputs(&float)).transpose()?;
    report.seconds.import = timer.lap();

    if !args.skip.is_empty() {
        let skip = globs(&args.skip)?;
        check_skips(&args.skip, &float, &*quantizer)?;
        let filter = move |p: &Program, n: NodeId| match skipped(&skip, p, n) {
            Some(why) => Err(why),
            None => Ok(()),
        };
        quantizer.filter(Arc::new(filter)).map_err(lowbit_core::flow::Error::from)?;
    }
    quantize(
        &args.execution.executor()?,
        &float,
        &*quantizer,
        &mut report,
        &mut timer,
        quiet,
        &calibration,
        &evaluation,
        |converted, report, timer| {
            if let Some(path) = &args.save_quantized {
                save(converted, path, report)?;
                report.seconds.save = timer.lap();
            }
            match &out {
                Some(out) => lower_and_write(converted, &*lowering, out, report, timer),
                None => {
                    report.add_program(&converted.program, Some(converted));
                    Ok(())
                }
            }
        },
    )?;
    emit_report(&mut report, args.report.as_deref(), args.json)
}

/// Writes the quantized program as `torch.export.save` would.
fn save(converted: &Converted, path: &Path, report: &mut Report) -> Result<(), CliError> {
    let export = Export::new(&converted.program, &converted.sources)?;
    write_with(path, |f| export.write(f).map(drop))?;
    report.add_file(path)
}

/// Prepare, calibrate, convert, evaluate; `finish` lowers. Also what the demo runs.
pub(super) fn quantize(
    executor: &CpuExecutor,
    float: &Program,
    quantizer: &dyn Quantizer,
    report: &mut Report,
    timer: &mut Timer,
    quiet: bool,
    calibration: &dyn Calls,
    evaluation: &dyn Calls,
    finish: impl FnOnce(&Converted, &mut Report, &mut Timer) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut prepared = prepare_with(float.clone(), quantizer, executor)?;
    report.seconds.prepare = timer.lap();

    if prepared.needs_data() {
        if calibration.is_empty() {
            return Err(no_data(report, float));
        }
        let mut session = prepared.load(executor)?;
        let bar = progress("calibrating", quiet);
        let mut files = vec![];
        let samples = calibration.calls(float)?.map(|call| {
            let call = call?;
            files.push(call.file);
            bar.inc(1);
            Ok(call.inputs)
        });
        let done = prepared.calibrate_all(&mut *session, samples);
        bar.finish_and_clear();
        done.map_err(|stopped| CliError::stopped(stopped, &files))?;
    }
    for (place, count) in prepared.not_finite() {
        report
            .warnings
            .push(format!("{place}: {count} NaN or infinite elements during calibration were left out"));
    }
    report.seconds.calibrate = timer.lap();
    let converted = prepared.revise(quantizer)?.convert(executor)?;
    report.add_sites(&converted);
    report.seconds.convert = timer.lap();

    finish(&converted, report, timer)?;
    if !evaluation.is_empty() {
        compare(Evaluator::new(float, &converted, executor)?, float, evaluation, quiet, report)?;
        report.seconds.evaluate = timer.lap();
    }
    Ok(())
}

/// Runs all evaluation data through the programs and reports how they differ.
pub(super) fn compare(
    mut evaluator: Evaluator,
    float: &Program,
    data: &dyn Calls,
    quiet: bool,
    report: &mut Report,
) -> Result<(), CliError> {
    let bar = progress("evaluating", quiet);
    let mut files = vec![];
    let samples = data.calls(float)?.map(|call| {
        let Call { inputs, labels, file, .. } = call?;
        files.push(file);
        bar.inc(1);
        Ok(Sample { inputs, labels })
    });
    let done = evaluator.add_all(samples);
    bar.finish_and_clear();
    done.map_err(|stopped| CliError::stopped(stopped, &files))?;
    report.add_evaluation(&evaluator.finish());
    Ok(())
}

/// A recipe wants data and there is none: says so, and which recipes of the backend do without.
fn no_data(report: &Report, float: &Program) -> CliError {
    let without = |backend: &dyn Backend| {
        let needs_none = |recipe: &&str| {
            let quantizer = backend.quantizer(recipe, &Options::new()).ok();
            quantizer.and_then(|q| prepare(float.clone(), &*q).ok()).is_some_and(|p| !p.needs_data())
        };
        backend.recipes().iter().map(|r| r.name).filter(needs_none).collect::<Vec<_>>().join(", ")
    };
    let backend = Registry::linked().ok().and_then(|r| r.get(&report.backend).ok());
    let cure = match backend.map(without) {
        Some(names) if !names.is_empty() => format!(", or take a recipe that needs none: {names}"),
        _ => String::new(),
    };
    let recipe = report.recipe.as_deref().unwrap_or_default();
    CliError::Usage(format!("recipe {recipe} finds ranges from data: give some with --calibrate{cure}"))
}

/// Calls, or why one could not be read.
pub(super) type AllCalls<'a> = Box<dyn Iterator<Item = Result<Call, CliError>> + 'a>;

/// A source of calls: files, or what the demo embeds.
pub(super) trait Calls {
    /// Whether there is nothing.
    fn is_empty(&self) -> bool;
    /// All of them, in order.
    fn calls<'a>(&'a self, program: &'a Program) -> Result<AllCalls<'a>, CliError>;
}

impl Calls for Dataset {
    fn is_empty(&self) -> bool {
        Dataset::is_empty(self)
    }

    fn calls<'a>(&'a self, program: &'a Program) -> Result<AllCalls<'a>, CliError> {
        Ok(Box::new(Dataset::calls(self, program).map(|call| Ok(call?))))
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, CliError> {
    let bad = |e: globset::Error| CliError::Usage(format!("--skip: {e}"));
    let mut set = GlobSetBuilder::new();
    for p in patterns {
        set.add(Glob::new(p).map_err(bad)?);
        // A module is left out with everything in it.
        set.add(Glob::new(&format!("{p}.*")).map_err(bad)?);
    }
    set.build().map_err(bad)
}

/// Why a node is skipped, if it is: for the module it is in, its own name, or that of one of its results.
fn skipped(skip: &GlobSet, program: &Program, n: NodeId) -> Option<String> {
    let node = program.graph.node(n);
    let path = node.module.path();
    if skip.is_match(path) {
        return Some(format!("module {path:?} is skipped"));
    }
    let results = node.outputs().iter().map(|&v| &*program.graph.value(v).name);
    let name = [&*node.name].into_iter().chain(results).find(|name| skip.is_match(name))?;
    Some(format!("{name} is skipped"))
}

/// A pattern that matches nothing in the program, as it will be quantized, is most likely a slip.
fn check_skips(patterns: &[String], float: &Program, quantizer: &dyn Quantizer) -> Result<(), CliError> {
    let prepared = prepare(float.clone(), quantizer)?;
    let (program, g) = (prepared.program(), &prepared.program().graph);
    for p in patterns {
        let set = globs(std::slice::from_ref(p))?;
        if !g.nodes().any(|n| skipped(&set, program, n).is_some()) {
            let paths: BTreeSet<&str> = g.nodes().map(|n| g.node(n).module.path()).collect();
            return Err(CliError::Usage(format!(
                "--skip {p:?} matches no module and no operator; modules are: {}; the operators' names are in the \
                 report, and in what `lowbit inspect --text` prints",
                Vec::from_iter(paths.into_iter().filter(|p| !p.is_empty())).join(", ")
            )));
        }
    }
    Ok(())
}
