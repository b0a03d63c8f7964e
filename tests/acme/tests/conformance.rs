//! The backend as lowbit sees it: linked, and passing the conformance kit on its own interpreter.

use lowbit_acme::{Acme, interpreter};
use lowbit_core::Tensor;
use lowbit_core::backend::Blob;
use lowbit_testing::{Device, Kit};

#[derive(Debug)]
struct Npu;

impl Device for Npu {
    fn run(&self, blob: &Blob, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        interpreter::run(&blob.bytes, inputs)
    }
}

#[test]
fn is_linked() {
    let registry = lowbit_core::Registry::linked().unwrap();
    assert_eq!(registry.iter().map(|b| b.name()).collect::<Vec<_>>(), ["acme"]);
    assert_eq!(registry.get("acme").unwrap().version(), "0.3.0");
}

#[test]
fn conforms() {
    let summary = Kit::new(&Acme).device(&Npu).check().unwrap_or_else(|e| panic!("{e}"));
    // Both recipes take every linear layer and every sum of equal shapes.
    assert!(summary.delegates > 50 && summary.device_runs > 400, "{summary:?}");
}
