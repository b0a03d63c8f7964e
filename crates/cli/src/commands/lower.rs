//! `lowbit lower`: a program as it is, to a file a device loads.

use super::{Timer, emit_report, import};
use crate::args::{Lower, Target};
use crate::error::CliError;
use crate::output::{check_writable, write_file};
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::{Lowering, Options};
use lowbit_core::flow::{Converted, lower};
use lowbit_core::ir::Program;
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_cpu::CpuExecutor;
use std::path::Path;

pub fn run(args: &Lower) -> Result<(), CliError> {
    let backend = Registry::linked()?.get(&args.target.backend)?;
    let lowering = backend.lowering(&options(&args.target))?;
    check_writable(&args.out)?;
    args.report.as_deref().map(check_writable).transpose()?;
    let mut report = Report { backend: backend.name().into(), ..Report::default() };
    let mut timer = Timer::start();
    let program = import(&args.model)?;
    lowbit_pte::check_inputs(&program)?;
    report.seconds.import = timer.lap();
    write_lowered(program, None, &*lowering, &args.out, &mut report, &mut timer)?;
    emit_report(&mut report, args.report.as_deref(), args.json)
}

/// Options as the backend takes them; the last of a name wins.
pub(super) fn options(target: &Target) -> Options {
    target.options.iter().cloned().collect()
}

/// Lowers what conversion made, and writes it.
pub(super) fn lower_and_write(
    converted: &Converted,
    lowering: &dyn Lowering,
    out: &Path,
    report: &mut Report,
    timer: &mut Timer,
) -> Result<(), CliError> {
    write_lowered(converted.program.clone(), Some(converted), lowering, out, report, timer)
}

fn write_lowered(
    mut program: Program,
    converted: Option<&Converted>,
    lowering: &dyn Lowering,
    out: &Path,
    report: &mut Report,
    timer: &mut Timer,
) -> Result<(), CliError> {
    let executor = CpuExecutor::default();
    let fold = FoldConstants { executor: &executor };
    Pipeline::run_one(&fold, &mut program).map_err(lowbit_core::flow::Error::from)?;
    let lowered = lower(program, &[lowering]).map_err(lowbit_core::flow::Error::from)?;
    report.add_nodes(&lowered, converted);
    let bytes = lowbit_pte::write(&lowered)?;
    write_file(out, &bytes)?;
    report.add_file(out)?;
    report.seconds.lower = timer.lap();
    Ok(())
}
