//! The conformance kit: what every backend of lowbit, first- or third-party, is checked with.
//!
//! ```ignore
//! #[test]
//! fn conforms() {
//!     lowbit_testing::check_backend(&lowbit_acme::Acme, &[/* exceptions, by name */]);
//! }
//! ```
//!
//! Each recipe of the backend is tried on each of some forty tiny [`CASES`], and so is the lowering of the programs in
//! floating point, under the name [`FLOAT`]:
//!
//! * `transform` leaves a valid program that computes the same;
//! * `annotate` leaves the program unchanged and says the same twice; every node is annotated or has a reason;
//! * `validate` accepts what `annotate` made;
//! * prepare, calibrate and convert give a valid program, whose outputs are close to the float program's;
//! * the passes of the lowering leave a valid program that computes the same;
//! * claims name live nodes and are the same twice; every node left outside has a reason;
//! * the regions made of the claims are disjoint and convex, and every node is in one place;
//! * compiling is deterministic;
//! * with a [`Device`]: the lowered program, run on it, agrees with the CPU.
//!
//! A recipe that never quantizes anything, or a lowering that never takes anything, is a failure too.
//!
//! Exceptions are by name: `CASE`, or `RECIPE/CASE`. One that does not occur is an error, so the list cannot rot.
#![forbid(unsafe_code)]

mod cases;
mod check;
pub mod data;

pub use cases::{CASES, Case, CaseError};
pub use check::{Failure, Failures, Summary};
pub use lowbit_core::backend::Device;
pub use lowbit_core::flow::{DeviceError, run_lowered};

use lowbit_core::backend::{Backend, Options};

/// Names the lowering of float programs where otherwise a recipe's name stands.
pub const FLOAT: &str = "float";

/// Checks a backend; see the [crate's page](crate) for what, and [`Kit`] to also execute what it compiles.
///
/// # Panics
/// With a list of what failed: recipe, case, what is wrong, and what to do.
pub fn check_backend(backend: &dyn Backend, skipped: &[&str]) {
    if let Err(failures) = Kit::new(backend).skip(skipped).check() {
        panic!("{failures}");
    }
}

/// A check to be configured: `Kit::new(&Acme).device(&Simulator).check()`.
#[derive(Debug)]
pub struct Kit<'a> {
    backend: &'a dyn Backend,
    options: Options,
    skipped: Vec<String>,
    floor_db: f64,
    floors: Vec<(String, f64)>,
    device: Option<&'a dyn Device>,
    device_db: f64,
    device_dbs: Vec<(String, f64)>,
}

impl<'a> Kit<'a> {
    /// The checks of [`check_backend`], without exceptions.
    pub fn new(backend: &'a dyn Backend) -> Self {
        Kit {
            backend,
            options: Options::new(),
            skipped: Vec::new(),
            floor_db: 25.0,
            floors: Vec::new(),
            device: None,
            device_db: 35.0,
            device_dbs: Vec::new(),
        }
    }

    /// Exceptions, `CASE` (a recipe or more may fail it) or `RECIPE/CASE`. One that nothing fails is an error.
    pub fn skip(mut self, names: &[&str]) -> Self {
        self.skipped.extend(names.iter().map(|n| n.to_string()));
        self
    }

    /// Options for the backend's quantizers and its lowering; none unless told.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The least SQNR in dB of every output of every case against the float program: 25 unless told, which 8-bit
    /// recipes keep with ease and 4-bit ones may not.
    pub fn sqnr_floor(mut self, db: f64) -> Self {
        self.floor_db = db;
        self
    }

    /// As [`sqnr_floor`](Self::sqnr_floor), for one recipe.
    pub fn sqnr_floor_of(mut self, recipe: &str, db: f64) -> Self {
        self.floors.push((recipe.into(), db));
        self
    }

    /// The floor that holds for a recipe.
    fn floor(&self, recipe: &str) -> f64 {
        self.floors.iter().rev().find(|(r, _)| r == recipe).map_or(self.floor_db, |(_, db)| *db)
    }

    /// What executes compiled regions.
    pub fn device(mut self, device: &'a dyn Device) -> Self {
        self.device = Some(device);
        self
    }

    /// The least SQNR in dB of the device's outputs against the quantized program on the CPU: 35 unless told, which is
    /// one step more or less in an element here and there.
    pub fn device_agreement(mut self, db: f64) -> Self {
        self.device_db = db;
        self
    }

    /// As [`device_agreement`](Self::device_agreement), for one case: where results feed the next step, a step's rounding
    /// goes on.
    pub fn device_agreement_of(mut self, case: &str, db: f64) -> Self {
        self.device_dbs.push((case.into(), db));
        self
    }

    /// The agreement that holds for a case.
    fn agreement(&self, case: &str) -> f64 {
        self.device_dbs.iter().rev().find(|(c, _)| c == case).map_or(self.device_db, |(_, db)| *db)
    }

    /// Runs all checks.
    ///
    /// # Errors
    /// Everything that failed and is no exception, and exceptions that do not occur.
    pub fn check(&self) -> Result<Summary, Failures> {
        check::all(self)
    }
}
