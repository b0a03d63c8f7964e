//! `lowbit evaluate`: a quantized program against the float one, as the device will compute it.

use super::quantize::compare;
use super::{Timer, emit_report, import};
use crate::args::Evaluate;
use crate::data::Dataset;
use crate::error::CliError;
use crate::output::check_writable;
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::Evaluator;
use lowbit_cpu::CpuExecutor;

pub fn run(args: &Evaluate, quiet: bool) -> Result<(), CliError> {
    let backend = backend(args.backend.as_deref())?;
    let lowering = backend.lowering(&Options::new())?;
    args.report.as_deref().map(check_writable).transpose()?;
    let data = Dataset::open(&args.data, args.labels.as_deref())?;
    if data.is_empty() {
        return Err(CliError::Usage("there are no calls in the data to evaluate on".into()));
    }
    let mut report = Report { backend: backend.name().into(), ..Report::default() };
    let mut timer = Timer::start();
    let (float, quantized) = (import(&args.float)?, import(&args.quantized)?);
    report.seconds.import = timer.lap();
    report.add_program(&quantized, None);
    let evaluator = Evaluator::of_programs(&float, &quantized, &*lowering, &CpuExecutor::default())?;
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
