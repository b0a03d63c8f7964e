//! The command line of lowbit. [`main`] is the whole program: a binary that links further backends calls it too.
#![forbid(unsafe_code)]
#![warn(unused_crate_dependencies)]
#![deny(clippy::print_stdout)] // it panics where nobody reads on: `say!`

#[macro_use]
mod output;

mod args;
mod commands;
pub mod data;
mod error;
mod plugins;
mod report;

use clap::Parser;
pub use error::CliError;
use std::process::ExitCode;

/// Runs the command line: exit code 0 when done, 1 when it failed, 2 for wrong usage.
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
