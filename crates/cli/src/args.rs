//! Commands and their options.

use crate::error::CliError;
use clap::{Args as ClapArgs, Parser, Subcommand};
use lowbit_cpu::CpuExecutor;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

/// Quantize PyTorch models and write files that device runtimes load.
#[derive(Debug, Parser)]
#[command(name = "lowbit", version, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// No progress, only results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a model with calibration data and lower it to a backend
    Quantize(Quantize),
    /// Lower a program as it is: float, or already quantized
    Lower(Lower),
    /// Compare a quantized program with the float one on data
    Evaluate(Evaluate),
    /// Find the nodes that spoil a quantized program
    Debug(Debug),
    /// Run a program on the CPU, or on what stands in for a device
    Run(Run),
    /// Measure how long a program takes on this CPU, operator by operator
    Bench(Bench),
    /// Show what a program holds, or its text form
    Inspect(Inspect),
    /// List the linked backends and their recipes
    Backends(Backends),
    /// Quantize, evaluate and lower the embedded example model
    Demo(Demo),
}

/// Which backend, and its options.
#[derive(Debug, ClapArgs)]
pub struct Target {
    /// The backend to lower to; `lowbit backends` lists them
    #[arg(long)]
    pub backend: String,
    /// The oldest device or system to run on, where the backend has a choice: `ios17`, say
    #[arg(long)]
    pub target: Option<String>,
    /// An option of the backend
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = name_value)]
    pub options: Vec<(String, String)>,
}

/// How programs run on this CPU.
#[derive(Debug, Default, ClapArgs)]
pub struct Execution {
    /// Threads to compute with; one a processor by default. Results do not depend on it
    #[arg(long, value_name = "N", env = "LOWBIT_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Compute quantized layers in floating point, as PyTorch runs such programs, rather than on integers
    #[arg(long)]
    pub simulate: bool,
}

impl Execution {
    /// What runs programs this way.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn executor(&self) -> Result<CpuExecutor, CliError> {
        let threads = self.threads.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let executor = CpuExecutor::default().threads(threads)?;
        Ok(if self.simulate { executor.simulated() } else { executor })
    }
}

#[derive(Debug, ClapArgs)]
pub struct Quantize {
    /// The model: what torch.export.save wrote
    pub model: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// How to quantize; the backend's first recipe by default
    #[arg(long)]
    pub recipe: Option<String>,
    /// Leave modules or single operators in float: a glob on module paths, such as `encoder.*.attn`, or on node names,
    /// such as `add_1`
    #[arg(long, value_name = "GLOB")]
    pub skip: Vec<String>,
    /// Calibration data: .npz or .npy files, or folders of them
    #[arg(long, value_name = "DATA", num_args = 1..)]
    pub calibrate: Vec<PathBuf>,
    /// Compare with the float model on this data
    #[arg(long, value_name = "DATA", num_args = 1..)]
    pub evaluate: Vec<PathBuf>,
    /// The array of class numbers in the evaluation data
    #[arg(long, value_name = "KEY")]
    pub labels: Option<String>,
    /// The file to write for the device: a .pte, or what the backend makes for its own tools, such as .mlpackage
    #[arg(long, value_name = "MODEL.pte")]
    pub out: Option<PathBuf>,
    /// Write the quantized program, which torch.export.load and lowbit read; without --out, nothing is lowered
    #[arg(long, value_name = "Q.pt2")]
    pub save_quantized: Option<PathBuf>,
    #[command(flatten)]
    pub execution: Execution,
    /// Write a report
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Evaluate {
    /// The float program
    pub float: PathBuf,
    /// The quantized program, or a package
    pub quantized: PathBuf,
    /// Evaluation data: .npz or .npy files, or folders of them
    #[arg(long, value_name = "DATA", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// The array of class numbers in the data
    #[arg(long, value_name = "KEY")]
    pub labels: Option<String>,
    /// The backend whose arithmetic is predicted; needed where several have their own for what is quantized at run time
    #[arg(long)]
    pub backend: Option<String>,
    #[command(flatten)]
    pub execution: Execution,
    /// Write a report
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Lower {
    /// The program
    pub model: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// The file to write: a .pte, or what the backend makes for its own tools, such as .mlpackage
    #[arg(long, value_name = "MODEL.pte")]
    pub out: PathBuf,
    /// Write a report
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Debug {
    /// The float program
    #[arg(value_name = "FLOAT.pt2")]
    pub float: PathBuf,
    /// The quantized program that was made of it
    #[arg(value_name = "Q.pt2")]
    pub quantized: PathBuf,
    /// Inputs to compare on: .npz or .npy files, or folders of them
    #[arg(long, value_name = "DATA", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// The backend whose arithmetic is shown; needed where several have their own for what is quantized at run time
    #[arg(long)]
    pub backend: Option<String>,
    /// Show so many nodes; 20 in the table and all in JSON by default
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    #[command(flatten)]
    pub execution: Execution,
    /// Print as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The program: a .pt2, or a package such as .mlpackage
    pub model: PathBuf,
    /// Inputs: arrays in0, in1, … or named like the program's inputs
    #[arg(long, value_name = "IN.npz", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// Where outputs go, as arrays out0, out1, …; several calls are stacked along a new first axis
    #[arg(long, value_name = "OUT.npz")]
    pub out: PathBuf,
    /// Lower to this backend and run that on the device it has on this machine, such as the emulation of `qnn`
    #[arg(long, value_name = "BACKEND")]
    pub on: Option<String>,
    /// The oldest device or system to run on, where the backend has a choice
    #[arg(long, requires = "on")]
    pub target: Option<String>,
    /// An option of the backend
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = name_value, requires = "on")]
    pub options: Vec<(String, String)>,
    #[command(flatten)]
    pub execution: Execution,
}

#[derive(Debug, ClapArgs)]
pub struct Bench {
    /// The program, float or quantized: a .pt2, or a package such as .mlpackage
    pub model: PathBuf,
    /// Inputs, taken in turns: .npz or .npy files, or folders of them; random numbers by default
    #[arg(long, value_name = "DATA", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Measure calibration with these observers of activations instead of plain runs
    #[arg(long, value_name = "OBSERVER")]
    pub calibrate: Option<Observer>,
    /// The backend whose recipe is calibrated; the first one linked by default
    #[arg(long, requires = "calibrate")]
    pub backend: Option<String>,
    /// The recipe that is calibrated; the backend's first by default
    #[arg(long, requires = "calibrate")]
    pub recipe: Option<String>,
    /// Runs that are measured, after two that are not
    #[arg(long, value_name = "N", default_value = "10")]
    pub runs: NonZeroUsize,
    /// Show so many operators in the table
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// Threads in all
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
    /// Compute quantized layers in floating point, as PyTorch runs such programs, rather than on integers
    #[arg(long)]
    pub simulate: bool,
    /// Use no instructions but those that every CPU of this kind has; results are the same
    #[arg(long)]
    pub portable: bool,
    /// Write a report
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What watches activations.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Observer {
    /// As the recipe has it
    Recipe,
    /// Least and greatest value
    MinMax,
    /// Their moving averages
    MovingAverage,
    /// Histograms of 2048 bins
    Histogram,
}

#[derive(Debug, ClapArgs)]
pub struct Inspect {
    /// A .pt2 program, or a package such as .mlpackage
    pub model: PathBuf,
    /// Print the program's text form
    #[arg(long)]
    pub text: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Backends {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Keep the .pte here
    #[arg(long, value_name = "MODEL.pte")]
    pub out: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((n, v)) if !n.is_empty() => Ok((n.into(), v.into())),
        _ => Err("NAME=VALUE expected".into()),
    }
}
