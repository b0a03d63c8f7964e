//! `lowbit run`: a program on the CPU.

use super::import::import;
use crate::args::Run;
use crate::data::{Dataset, npy};
use crate::error::CliError;
use crate::output::{check_writable, progress, write_with};
use bytes::Bytes;
use lowbit_core::Tensor;
use lowbit_core::executor::Executor;
use lowbit_cpu::CpuExecutor;
use std::io::BufWriter;

pub fn run(args: &Run, quiet: bool) -> Result<(), CliError> {
    check_writable(&args.out)?;
    let program = import(&args.model)?;
    let data = Dataset::open(&args.data, None)?;
    let mut session = CpuExecutor::default().load(&program, &[])?;
    let bar = progress("running", quiet);
    let mut results: Vec<Vec<Tensor>> = Vec::new();
    for call in data.calls(&program) {
        results.push(session.run(&call?.inputs, &mut |_, _| {})?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut arrays = Vec::new();
    for i in 0..program.signature.outputs.len() {
        let column: Vec<&Tensor> = results.iter().map(|r| &r[i]).collect();
        arrays.push((format!("out{i}"), stack(i, &column)?));
    }
    write_with(&args.out, |f| npy::write(BufWriter::new(f), &arrays).map(drop))
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
