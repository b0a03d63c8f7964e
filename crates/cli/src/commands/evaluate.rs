//! `lowbit evaluate`: a quantized program against the float one, as the device will compute it. A package says itself how;
//! its nodes are others than the float program's, so that outputs alone are compared.

use super::import::{Kind, exported, import, kind};
use super::quantize::compare;
use super::{Timer, emit_report};
use crate::args::Evaluate;
use crate::data::Dataset;
use crate::error::CliError;
use crate::output::check_writable;
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::Evaluator;
use lowbit_core::ir::Program;

pub fn run(args: &Evaluate, quiet: bool) -> Result<(), CliError> {
    // What a backend's own file computes is said by the file.
    let owner = match kind(&args.quantized)? {
        Kind::Artifact(backend, _) => Some(backend),
        Kind::Exported => None,
    };
    if owner.is_some() && args.backend.is_some() {
        let why = "--backend says how a .pt2 is computed; this file says that itself: leave it out";
        return Err(CliError::Usage(why.into()));
    }
    let named = named(args.backend.as_deref())?;
    args.report.as_deref().map(check_writable).transpose()?;
    let data = Dataset::open(&args.data, args.labels.as_deref())?;
    if data.is_empty() {
        return Err(CliError::Usage("there are no calls in the data to evaluate on".into()));
    }
    let mut timer = Timer::start();
    let (float, quantized) = (exported(&args.float)?, import(&args.quantized)?);
    // The backend whose arithmetic is predicted.
    let backend = match named {
        _ if owner.is_some() => None,
        Some(b) => Some(b),
        None => Some(chosen(&quantized)?),
    };
    let name = owner.or(backend).map(|b| b.name().to_string());
    let mut report = Report { backend: name.unwrap_or_default(), ..Report::default() };
    report.seconds.import = timer.lap();
    report.add_program(&quantized, None);
    let executor = args.execution.executor()?;
    let evaluator = match backend {
        Some(b) => {
            let lowering = b.lowering(&Options::new())?;
            Evaluator::of_programs(&float, &quantized, &*lowering, &executor)?
        }
        None => Evaluator::of_outputs(&float, &quantized, &executor)?,
    };
    compare(evaluator, &float, &data, quiet, &mut report)?;
    report.seconds.evaluate = timer.lap();
    emit_report(&mut report, args.report.as_deref(), args.json)
}

/// The backend of this name, if there is one of it.
pub(super) fn named(name: Option<&str>) -> Result<Option<&'static dyn Backend>, CliError> {
    let registry = Registry::linked()?;
    Ok(name.map(|name| registry.get(name)).transpose()?)
}

/// The backend whose arithmetic a program is shown in when none is named: the one that quantizes some of it at run time by
/// rules of its own. Where there is none, all compute alike.
pub(super) fn chosen(program: &Program) -> Result<&'static dyn Backend, CliError> {
    let registry = Registry::linked()?;
    let (mut all, mut own) = (registry.iter(), vec![]);
    for backend in registry.iter() {
        let lowering = backend.lowering(&Options::new())?;
        if program.graph.nodes().any(|n| lowering.dynamic_dims(program, n).is_some()) {
            own.push(backend);
        }
    }
    match (&own[..], all.next()) {
        ([one], _) => Ok(*one),
        ([], Some(any)) => Ok(any),
        ([], None) => Err(CliError::Usage("no backend is linked into this program".into())),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|b| b.name()).collect();
            let names = names.join(", ");
            Err(CliError::Usage(format!(
                "backends differ in how they compute: name one with --backend ({names})"
            )))
        }
    }
}
