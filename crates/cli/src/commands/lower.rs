//! `lowbit lower`: a program as it is, to a file a device loads.

use super::import::exported;
use super::{Timer, emit_report};
use crate::args::{Lower, Target};
use crate::error::CliError;
use crate::output::{check_folder, check_writable, write_file, write_folder, write_with};
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::{Artifact, Backend, Format, Lowering, Options};
use lowbit_core::flow::{Converted, lower, package};
use lowbit_core::ir::Program;
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_cpu::CpuExecutor;
use std::path::Path;

pub fn run(args: &Lower) -> Result<(), CliError> {
    let backend = Registry::linked()?.get(&args.target.backend)?;
    let lowering = backend.lowering(&options(&args.target))?;
    let out = Output::of(&args.out, backend)?;
    args.report.as_deref().map(check_writable).transpose()?;
    let mut report = Report { backend: backend.name().into(), ..Report::default() };
    let mut timer = Timer::start();
    let program = exported(&args.model)?;
    out.check_inputs(&program)?;
    report.seconds.import = timer.lap();
    write_lowered(program, None, &*lowering, &out, &mut report, &mut timer)?;
    emit_report(&mut report, args.report.as_deref(), args.json)
}

/// Options as the backend takes them; the last of a name wins.
pub(super) fn options(target: &Target) -> Options {
    let named = target.target.iter().map(|t| ("target".to_string(), t.clone()));
    target.options.iter().cloned().chain(named).collect()
}

/// What is to be written.
pub(super) struct Output<'a> {
    path: &'a Path,
    /// The format of the backend's own file; `None`: an ExecuTorch program.
    format: Option<&'static Format>,
}

impl<'a> Output<'a> {
    /// Chooses by the extension, and checks that the place can be written to.
    pub fn of(path: &'a Path, backend: &dyn Backend) -> Result<Self, CliError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let of = |b: &dyn Backend| b.formats().iter().find(|f| f.extension.eq_ignore_ascii_case(extension));
        let format = of(backend);
        match format.and_then(|f| f.mark) {
            Some(mark) => check_folder(path, mark)?,
            None => check_writable(path)?,
        }
        if format.is_none() && Registry::linked()?.iter().any(|other| of(other).is_some()) {
            let name = backend.name();
            return Err(CliError::Usage(format!(
                "backend {name} makes no .{extension}; give --out MODEL.pte"
            )));
        }
        Ok(Output { path, format })
    }

    /// Refuses inputs that the file cannot have, before any work is done.
    pub fn check_inputs(&self, program: &Program) -> Result<(), CliError> {
        match self.format {
            Some(_) => Ok(()),
            None => Ok(lowbit_pte::check_inputs(program)?),
        }
    }
}

/// Lowers what conversion made, and writes it.
pub(super) fn lower_and_write(
    converted: &Converted,
    lowering: &dyn Lowering,
    out: &Output<'_>,
    report: &mut Report,
    timer: &mut Timer,
) -> Result<(), CliError> {
    write_lowered(converted.program.clone(), Some(converted), lowering, out, report, timer)
}

fn write_lowered(
    mut program: Program,
    converted: Option<&Converted>,
    lowering: &dyn Lowering,
    out: &Output<'_>,
    report: &mut Report,
    timer: &mut Timer,
) -> Result<(), CliError> {
    let executor = CpuExecutor::default();
    let fold = FoldConstants { executor: &executor };
    Pipeline::run_one(&fold, &mut program).map_err(lowbit_core::flow::Error::from)?;
    if let Some(format) = out.format {
        let packaged = package(program, lowering, format).map_err(lowbit_core::flow::Error::from)?;
        report.add_nodes(&packaged.nodes, converted);
        match &packaged.artifact {
            Artifact::File(bytes) => write_file(out.path, bytes)?,
            Artifact::Folder(files) => write_folder(out.path, files)?,
        }
    } else {
        let lowered = lower(program, &[lowering]).map_err(lowbit_core::flow::Error::from)?;
        report.add_nodes(&lowered.nodes, converted);
        let pte = lowbit_pte::Pte::new(&lowered)?;
        write_with(out.path, |f| pte.write_to(f))?;
    }
    report.add_file(out.path)?;
    report.seconds.lower = timer.lap();
    report.seconds.lower_in_tool = lowering.tool_seconds();
    Ok(())
}
