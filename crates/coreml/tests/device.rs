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

/// Half floats round otherwise than single ones: a step more or less costs the smallest programs some decibels.
#[test]
fn delegates_in_half_floats_compute_what_they_stand_for() {
    check("float16", 30.0);
}

#[test]
fn delegates_in_single_floats_compute_the_same() {
    check("float32", 60.0);
}

fn check(precision: &str, agreement_db: f64) {
    let options = [("precision".to_string(), precision.to_string())].into();
    // How good recipes are is not asked here.
    let kit = Kit::new(&CoreMl).options(options).device(&Delegate).sqnr_floor(-10.0);
    // The first one's result is int64, which the runtime makes of Core ML's int32. In the second, means of four integers lie
    // half between two, and sums in another order fall to either side.
    let kit = kit.device_agreement(agreement_db).skip(&["integer_arithmetic", "int8-static/classifier"]);
    let summary = kit.check().unwrap_or_else(|failures| panic!("{failures}"));
    assert!(summary.delegated > summary.outside, "{summary:?}");
}
