//! QNN backend: quantizer, and lowering to Qualcomm's tensor processor (HTP) with Qualcomm's own library.
//!
//! Options, of the quantizer and of the lowering, are in [`Settings`] and [`quantizer`]. The library is the user's: it is
//! looked for and loaded when it is first needed ([`library`]).
#![deny(unsafe_code)]

pub mod graph;
#[allow(unsafe_code)]
pub mod library;
pub mod lowering;
pub mod payload;
pub mod quantizer;
mod settings;
pub mod soc;

pub use settings::{Float, Settings};

use lowbit_core::backend::{Backend, BackendError, Format, Lowering, Options, Recipe};
use lowbit_core::quantizer::Quantizer;

/// The backend's name.
pub const NAME: &str = "qnn";

/// Context binaries, and containers of graphs that are not yet compiled for a device.
pub const FORMATS: &[Format] =
    &[Format { extension: "bin", mark: None }, Format { extension: "dlc", mark: None }];

/// The backend.
#[derive(Copy, Clone, Debug)]
pub struct Qnn;

lowbit_core::register_backend!(Qnn);

impl Backend for Qnn {
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
        Ok(Box::new(lowering::Qnn::new(settings)))
    }

    fn formats(&self) -> &'static [Format] {
        FORMATS
    }
}
