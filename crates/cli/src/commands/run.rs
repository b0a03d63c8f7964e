//! `lowbit run`: a program on the CPU, or lowered, on what a backend has in place of the device.

use super::import::{exported, import};
use super::lower::options;
use crate::args::{Run, Target};
use crate::data::{Dataset, npy};
use crate::error::CliError;
use crate::output::{check_writable, progress, write_with};
use bytes::Bytes;
use lowbit_core::backend::Lowering;
use lowbit_core::executor::Executor;
use lowbit_core::flow::{DeviceError, Place, lower, run_lowered};
use lowbit_core::ir::Program;
use lowbit_core::passes::{FoldConstants, Pipeline};
use lowbit_core::{Registry, Tensor};
use lowbit_cpu::CpuExecutor;
use std::io::BufWriter;

pub fn run(args: &Run, quiet: bool) -> Result<(), CliError> {
    check_writable(&args.out)?;
    let data = Dataset::open(&args.data, None)?;
    let (program, results) = match &args.on {
        Some(backend) => {
            let backend = Registry::linked()?.get(backend)?;
            let target = Target {
                backend: backend.name().into(),
                target: args.target.clone(),
                options: args.options.clone(),
            };
            let lowering = backend.lowering(&options(&target))?;
            let program = exported(&args.model)?;
            let results = on_device(&args.execution.executor()?, &program, &*lowering, &data, quiet)?;
            (program, results)
        }
        None => {
            let program = import(&args.model)?;
            let mut session = args.execution.executor()?.load(&program, &[])?;
            let results =
                all(&program, &data, quiet, &mut |inputs| Ok(session.run(inputs, &mut |_, _| {})?))?;
            (program, results)
        }
    };
    let mut arrays = Vec::new();
    for i in 0..program.signature.outputs.len() {
        let column: Vec<&Tensor> = results.iter().map(|r| &r[i]).collect();
        arrays.push((format!("out{i}"), stack(i, &column)?));
    }
    write_with(&args.out, |f| npy::write(BufWriter::new(f), &arrays).map(drop))
}

/// The outputs of each call.
fn all(
    program: &Program,
    data: &Dataset,
    quiet: bool,
    run: &mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>, CliError>,
) -> Result<Vec<Vec<Tensor>>, CliError> {
    let bar = progress("running", quiet);
    let mut results: Vec<Vec<Tensor>> = Vec::new();
    for call in data.calls(program) {
        results.push(run(&call?.inputs)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}

/// Lowers the program and runs it: delegates on the backend's device, what stays outside on the CPU.
fn on_device(
    executor: &CpuExecutor,
    program: &Program,
    lowering: &dyn Lowering,
    data: &Dataset,
    quiet: bool,
) -> Result<Vec<Vec<Tensor>>, CliError> {
    let device = lowering.device()?;
    let mut folded = program.clone();
    let fold = FoldConstants { executor };
    Pipeline::run_one(&fold, &mut folded).map_err(lowbit_core::flow::Error::from)?;
    let lowered = lower(folded, &[lowering]).map_err(lowbit_core::flow::Error::from)?;
    let outside = lowered.nodes.iter().filter(|n| matches!(n.place, Place::Outside(_))).count();
    if !quiet {
        let (all, delegates) = (lowered.nodes.len(), lowered.delegates.len());
        eprintln!("{} of {all} nodes in {delegates} delegates, {outside} on the CPU", all - outside);
    }
    all(program, data, quiet, &mut |inputs| {
        run_lowered(&lowered, &*device, executor, inputs).map_err(|e| match e {
            DeviceError::Outside(e) => e.into(),
            other => CliError::Other(other.to_string()),
        })
    })
}

/// One call's output as it is, several along a new first axis.
fn stack(output: usize, tensors: &[&Tensor]) -> Result<Tensor, CliError> {
    let [first, rest @ ..] = tensors else {
        return Err(CliError::Other("the data holds no calls".into()));
    };
    if rest.is_empty() {
        return Ok((*first).clone());
    }
    if let Some(other) = rest.iter().find(|t| t.shape() != first.shape()) {
        return Err(CliError::Other(format!(
            "output {output} is {:?} in one call and {:?} in another; run calls of different shapes one by one",
            first.shape(),
            other.shape()
        )));
    }
    let shape: Vec<usize> = [tensors.len()].into_iter().chain(first.shape().iter().copied()).collect();
    let bytes: Vec<u8> = tensors.iter().flat_map(|t| t.bytes().iter().copied()).collect();
    Tensor::from_bytes(first.dtype(), &shape, Bytes::from(bytes)).map_err(|e| CliError::Other(e.to_string()))
}
