//! Core ML backend: quantizer, weight compression, and ML Programs as `.mlpackage` or as ExecuTorch's Core ML delegate.
//!
//! Options, of the quantizer and of the lowering, are in [`Settings`]; recipes in [`quantizer`].
#![forbid(unsafe_code)]

pub mod lowering;
pub mod mil;
pub mod package;
pub mod quantizer;
pub mod raise;
mod settings;

pub use settings::{ComputeUnits, Precision, Settings, Target};

use lowbit_core::backend::{Backend, BackendError, Format, Lowering, Open, Options, Recipe};
use lowbit_core::ir::Program;
use lowbit_core::quantizer::Quantizer;

/// The backend's name.
pub const NAME: &str = "coreml";

/// Packages: folders that hold a whole model.
pub const MLPACKAGE: Format = Format { extension: "mlpackage", mark: Some(package::MANIFEST) };

/// The backend.
#[derive(Copy, Clone, Debug)]
pub struct CoreMl;

lowbit_core::register_backend!(CoreMl);

impl Backend for CoreMl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    fn recipes(&self) -> &'static [Recipe] {
        quantizer::RECIPES
    }

    fn quantizer(&self, recipe: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
        quantizer::with_options(recipe, options)
    }

    fn lowering(&self, options: &Options) -> Result<Box<dyn Lowering>, BackendError> {
        let settings = Settings::read(options, quantizer::is_option)?;
        Ok(Box::new(lowering::CoreMl { settings }))
    }

    fn formats(&self) -> &'static [Format] {
        &[MLPACKAGE]
    }

    fn import(&self, _format: &Format, open: &mut Open<'_>) -> Result<Program, BackendError> {
        let package = package::Package::read(open);
        let package = package.map_err(|e| BackendError::Import { reason: e.to_string() })?;
        let program = raise::raise(&package, raise::Rounding::AsTyped);
        program.map_err(|e| BackendError::Import { reason: e.to_string() })
    }
}
