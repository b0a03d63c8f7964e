//! `lowbit demo`: the whole chain on a small embedded model and handwritten digits.

use super::lower::{Output, lower_and_write};
use super::quantize::{AllCalls, Calls, quantize};
use super::{Timer, emit_report};
use crate::args::{Demo, Execution};
use crate::data::Dataset;
use crate::error::CliError;
use crate::report::Report;
use lowbit_core::Registry;
use lowbit_core::backend::Options;
use lowbit_core::ir::Program;
use std::path::PathBuf;

/// A residual network with depthwise convolutions, trained on MNIST digits by `demo/train.py`.
static MODEL: &[u8] = include_bytes!("../../demo/model.pt2");
static CALIBRATION: &[u8] = include_bytes!("../../demo/calib.npz");
static EVALUATION: &[u8] = include_bytes!("../../demo/eval.npz");

pub fn run(args: &Demo, quiet: bool) -> Result<(), CliError> {
    let backend = Registry::linked()?.get("xnnpack")?;
    let recipe = backend.recipes()[0].name;
    let quantizer = backend.quantizer(recipe, &Options::new())?;
    let lowering = backend.lowering(&Options::new())?;
    let mut report =
        Report { backend: backend.name().into(), recipe: Some(recipe.into()), ..Report::default() };
    let mut timer = Timer::start();
    let path = PathBuf::from("(embedded model)");
    let float = lowbit_pt2::read_bytes(bytes::Bytes::from_static(MODEL))
        .map_err(|source| CliError::Import { path, source })?;
    report.seconds.import = timer.lap();
    let folder =
        tempfile::tempdir().map_err(|source| CliError::Output { path: std::env::temp_dir(), source })?;
    let out = args.out.clone().unwrap_or_else(|| folder.path().join("demo.pte"));
    let out = Output::of(&out, backend)?;
    let (calibration, evaluation) = (Embedded(CALIBRATION), Embedded(EVALUATION));
    quantize(
        &Execution::default().executor()?,
        &float,
        &*quantizer,
        &mut report,
        &mut timer,
        quiet,
        &calibration,
        &evaluation,
        |c, report, timer| lower_and_write(c, &*lowering, &out, report, timer),
    )?;
    if args.out.is_none() {
        // The file is gone when this ends: say its size, not its place.
        report.files.iter_mut().for_each(|f| f.path = "demo.pte (not kept; use --out)".into());
    }
    emit_report(&mut report, None, args.json)
}

/// An embedded `.npz` archive.
struct Embedded(&'static [u8]);

impl Calls for Embedded {
    fn is_empty(&self) -> bool {
        false
    }

    fn calls<'a>(&'a self, program: &'a Program) -> Result<AllCalls<'a>, CliError> {
        let fail = |source| CliError::Output { path: std::env::temp_dir(), source };
        let file = tempfile::Builder::new().suffix(".npz").tempfile().map_err(fail)?;
        std::fs::write(file.path(), self.0).map_err(fail)?;
        let data = Dataset::open(&[file.path().to_path_buf()], None)?;
        let calls = data.calls(program).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(calls.into_iter().map(Ok)))
    }
}
