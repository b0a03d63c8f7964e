//! The kit's checks, with what the delegate would run evaluated on the CPU: the payload, its package, the program in it.

use lowbit_core::Tensor;
use lowbit_core::backend::Blob;
use lowbit_core::executor::Executor;
use lowbit_core::flow::fit;
use lowbit_coreml::CoreMl;
use lowbit_coreml::package::{Package, payload};
use lowbit_coreml::raise::{Rounding, raise};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::{Device, Kit};

/// Core ML's delegate, but for Core ML.
#[derive(Debug)]
struct Delegate;

impl Device for Delegate {
    fn run(&self, blob: &Blob, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let files = payload::unflatten(&blob.bytes.clone().into()).map_err(|e| e.to_string())?;
        let mut file = |name: &str| files.get(&format!("model.mlpackage/{name}")).cloned();
        let package = Package::read(&mut file).map_err(|e| e.to_string())?;
        let program = raise(&package, Rounding::AsTyped).map_err(|e| e.to_string())?;
        let types = program.graph.inputs().iter().map(|&v| program.graph.ty(v));
        let inputs = inputs.iter().zip(types).map(|(t, ty)| fit(t, ty)).collect::<Result<Vec<_>, _>>()?;
        let mut session = CpuExecutor::default().load(&program, &[]).map_err(|e| e.to_string())?;
        session.run(&inputs, &mut |_, _| {}).map_err(|e| e.to_string())
    }
}

#[test]
fn delegates_compute_what_they_stand_for() {
    // How good recipes are is not asked here. A step more or less, where half floats round otherwise than single ones, costs
    // the smallest programs some decibels.
    let kit = Kit::new(&CoreMl).device(&Delegate).sqnr_floor(-10.0).device_agreement(30.0);
    // The first one's result is int64, which the runtime makes of Core ML's int32. In the second, means of four integers lie
    // half between two, and sums in another order fall to either side.
    let kit = kit.skip(&["integer_arithmetic", "classifier"]);
    let summary = kit.check().unwrap_or_else(|failures| panic!("{failures}"));
    assert!(summary.delegated > summary.outside, "{summary:?}");
}
