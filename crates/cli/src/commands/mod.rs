//! One file a command.

mod backends;
mod bench;
mod debug;
mod demo;
mod evaluate;
mod import;
mod inspect;
mod lower;
mod quantize;
mod run;

use crate::args::{Args, Command};
use crate::error::CliError;
use crate::output::{peak_rss_bytes, write_file};
use crate::report::Report;
use std::path::Path;
use std::time::Instant;

/// Runs the command that was asked for.
pub fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Quantize(a) => quantize::run(&a, args.quiet),
        Command::Lower(a) => lower::run(&a),
        Command::Evaluate(a) => evaluate::run(&a, args.quiet),
        Command::Debug(a) => debug::run(&a, args.quiet),
        Command::Run(a) => run::run(&a, args.quiet),
        Command::Bench(a) => bench::run(&a),
        Command::Inspect(a) => inspect::run(&a),
        Command::Backends(a) => backends::run(&a),
        Command::Demo(a) => demo::run(&a, args.quiet),
    }
}

/// Writes the report where it was asked for, and prints it.
fn emit_report(report: &mut Report, path: Option<&Path>, json: bool) -> Result<(), CliError> {
    report.peak_rss_bytes = peak_rss_bytes();
    if let Some(path) = path {
        write_file(path, report.to_json().as_bytes())?;
    }
    if json {
        crate::output::print(format_args!("{}", report.to_json()));
    } else {
        report.print_table();
    }
    Ok(())
}

/// Seconds between stages.
pub(crate) struct Timer(Instant);

impl Timer {
    fn start() -> Self {
        Timer(Instant::now())
    }

    /// Seconds since the start or the last lap.
    fn lap(&mut self) -> f64 {
        std::mem::replace(&mut self.0, Instant::now()).elapsed().as_secs_f64()
    }
}
