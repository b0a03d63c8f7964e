//! `lowbit lower`: a program as it is, to a file a device loads.

use super::import::exported;
use super::{Timer, emit_report};
use crate::args::{Lower, Target};
use crate::error::CliError;
use crate::output::{check_folder, check_writable, write_file, write_folder};
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::{Artifact, Backend, Lowering, Options};
use lowbit_core::flow::{Converted, lower, package};
use lowbit_core::ir::Program;
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_cpu::CpuExecutor;
use std::path::Path;

pub fn run(args: &Lower) -> Result<(), CliError> {
    let backend = Registry::linked()?.get(&args.target.backend)?;
    let lowering = backend.lowering(&options(&args.target))?;
    let out = Output::of(&args.out, backend, &*lowering)?;
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
    /// The kind of the backend's own file; `None`: an ExecuTorch program.
    kind: Option<&'static str>,
}

impl<'a> Output<'a> {
    /// Chooses by the extension, and checks that the place can be written to.
    pub fn of(path: &'a Path, backend: &dyn Backend, lowering: &dyn Lowering) -> Result<Self, CliError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let kind = lowering.artifacts().iter().find(|k| k.eq_ignore_ascii_case(extension)).copied();
        match kind {
            Some(kind) if FOLDERS.contains(&kind) => check_folder(path, "Manifest.json")?,
            _ => check_writable(path)?,
        }
        if kind.is_none() && FOLDERS.iter().any(|k| k.eq_ignore_ascii_case(extension)) {
            let name = backend.name();
            return Err(CliError::Usage(format!(
                "backend {name} makes no .{extension}; give --out MODEL.pte"
            )));
        }
        Ok(Output { path, kind })
    }

    /// Refuses inputs that the file cannot have, before any work is done.
    pub fn check_inputs(&self, program: &Program) -> Result<(), CliError> {
        match self.kind {
            Some(_) => Ok(()),
            None => Ok(lowbit_pte::check_inputs(program)?),
        }
    }
}

/// Extensions that say what a file is, whichever backend makes such.
const FOLDERS: &[&str] = &["mlpackage"];

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
    if let Some(kind) = out.kind {
        let packaged = package(program, lowering, kind).map_err(lowbit_core::flow::Error::from)?;
        report.add_nodes(&packaged.nodes, converted);
        match &packaged.artifact {
            Artifact::File(bytes) => write_file(out.path, bytes)?,
            Artifact::Folder(files) => write_folder(out.path, files)?,
        }
    } else {
        let lowered = lower(program, &[lowering]).map_err(lowbit_core::flow::Error::from)?;
        report.add_nodes(&lowered.nodes, converted);
        write_file(out.path, &lowbit_pte::write(&lowered)?)?;
    }
    report.add_file(out.path)?;
    report.seconds.lower = timer.lap();
    Ok(())
}
