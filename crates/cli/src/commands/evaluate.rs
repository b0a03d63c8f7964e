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
use lowbit_cpu::CpuExecutor;

/// The backend that packages are for, in reports.
const PACKAGES: &str = "coreml";

pub fn run(args: &Evaluate, quiet: bool) -> Result<(), CliError> {
    // The backend whose arithmetic is predicted.
    let backend = match (kind(&args.quantized), &args.backend) {
        (Kind::Exported, name) => Some(backend(name.as_deref())?),
        (Kind::Package, None) => None,
        (Kind::Package, Some(_)) => {
            let why = "--backend says how a .pt2 is computed; a package says that itself: leave it out";
            return Err(CliError::Usage(why.into()));
        }
    };
    args.report.as_deref().map(check_writable).transpose()?;
    let data = Dataset::open(&args.data, args.labels.as_deref())?;
    if data.is_empty() {
        return Err(CliError::Usage("there are no calls in the data to evaluate on".into()));
    }
    let name = backend.map_or(PACKAGES, |b| b.name());
    let mut report = Report { backend: name.into(), ..Report::default() };
    let mut timer = Timer::start();
    let (float, quantized) = (exported(&args.float)?, import(&args.quantized)?);
    report.seconds.import = timer.lap();
    report.add_program(&quantized, None);
    let executor = CpuExecutor::default();
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

/// The backend of this name; without one, the only one there is.
pub(super) fn backend(name: Option<&str>) -> Result<&'static dyn Backend, CliError> {
    let registry = Registry::linked()?;
    let all: Vec<&'static dyn Backend> = registry.iter().collect();
    match (name, &all[..]) {
        (Some(name), _) => Ok(registry.get(name)?),
        (None, [only]) => Ok(*only),
        (None, _) => {
            let names: Vec<&str> = all.iter().map(|b| b.name()).collect();
            let names = names.join(", ");
            Err(CliError::Usage(format!(
                "backends differ in how they compute: name one with --backend ({names})"
            )))
        }
    }
}
