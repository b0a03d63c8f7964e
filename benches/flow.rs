//! What does each stage cost for a network of MobileNet's size? MobileNetV2 at 224 × 224, built in code.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lowbit_benches::{mobilenet_v2, sample};
use lowbit_core::backend::{Backend, Options};
use lowbit_core::executor::Executor;
use lowbit_core::flow::{self, Prepared};
use lowbit_core::ir::Program;
use lowbit_cpu::CpuExecutor;

fn prepared(program: &Program) -> Prepared {
    let recipe = lowbit_xnnpack::Xnnpack.recipes()[0].name;
    let quantizer = lowbit_xnnpack::Xnnpack.quantizer(recipe, &Options::new()).expect("its own recipe");
    flow::prepare(program.clone(), &*quantizer).expect("it can be quantized")
}

fn stages(c: &mut Criterion) {
    let program = mobilenet_v2(224);
    let executor = CpuExecutor::default();
    let x = [sample(&[1, 3, 224, 224], 5)];
    let mut group = c.benchmark_group("mobilenet_v2");
    group.sample_size(10);
    group.bench_function("prepare", |b| b.iter(|| prepared(&program)));
    let mut watched = prepared(&program);
    let mut session = watched.load(&executor).expect("it can be run");
    group.bench_function("calibrate_one_sample", |b| {
        b.iter(|| watched.calibrate(&mut *session, &x).expect("it runs"));
    });
    let states = watched.states();
    let calibrated = || {
        let mut p = prepared(&program);
        p.merge(&states, 1).expect("the same program");
        p
    };
    group.bench_function("convert", |b| {
        b.iter_batched(
            calibrated,
            |p| p.convert(&executor).expect("it was calibrated"),
            BatchSize::PerIteration,
        );
    });
    let converted = calibrated().convert(&executor).expect("it was calibrated").program;
    for (name, program) in [("run_float", &program), ("run_integers", &converted)] {
        let mut session = executor.load(program, &[]).expect("it can be run");
        group.bench_function(name, |b| b.iter(|| session.run(&x, &mut |_, _| {}).expect("it runs")));
    }
    let lowering = lowbit_xnnpack::Xnnpack.lowering(&Options::new()).expect("no options");
    group.bench_function("lower", |b| {
        b.iter(|| flow::lower(converted.clone(), &[&*lowering]).expect("it is lowered"));
    });
    let lowered = flow::lower(converted, &[&*lowering]).expect("it is lowered");
    group.bench_function("write", |b| {
        b.iter(|| lowbit_pte::write(&lowered).expect("it can be written").len())
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
