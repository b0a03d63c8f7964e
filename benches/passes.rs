//! How do verify, annotate and convert grow with the graph? A tower of 5,000 nodes, and a tenth of it.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use lowbit_benches::{sample, tower};
use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::{self, Prepared};
use lowbit_core::ir::{Program, verify};
use lowbit_core::quantizer::Quantizer;
use lowbit_cpu::CpuExecutor;

const BLOCKS: [usize; 2] = [56, 560];

fn quantizer() -> Box<dyn Quantizer> {
    let recipe = lowbit_xnnpack::Xnnpack.recipes()[0].name;
    lowbit_xnnpack::Xnnpack.quantizer(recipe, &Options::new()).expect("its own recipe")
}

fn prepared(program: &Program) -> Prepared {
    flow::prepare(program.clone(), &*quantizer()).expect("the tower can be quantized")
}

fn calibrated(program: &Program) -> Prepared {
    let mut p = prepared(program);
    let mut session = p.load(&CpuExecutor::default()).expect("it can be run");
    p.calibrate(&mut *session, &[sample(&[1, 4, 4, 4], 4)]).expect("it runs");
    p
}

fn passes(c: &mut Criterion) {
    let mut group = c.benchmark_group("passes");
    group.sample_size(10);
    for blocks in BLOCKS {
        let program = tower(blocks);
        let nodes = program.graph.nodes().len();
        group.bench_with_input(BenchmarkId::new("verify", nodes), &program, |b, p| b.iter(|| verify(p)));
        group.bench_with_input(BenchmarkId::new("prepare", nodes), &program, |b, p| b.iter(|| prepared(p)));
        let executor = CpuExecutor::default();
        group.bench_with_input(BenchmarkId::new("convert", nodes), &program, |b, p| {
            let convert = |p: Prepared| p.convert(&executor).expect("it was calibrated");
            b.iter_batched(|| calibrated(p), convert, BatchSize::PerIteration);
        });
        let converted = calibrated(&program).convert(&executor).expect("it was calibrated").program;
        let lowering = lowbit_xnnpack::Xnnpack.lowering(&Options::new()).expect("no options");
        group.bench_with_input(BenchmarkId::new("lower", nodes), &converted, |b, p| {
            b.iter(|| flow::lower(p.clone(), &[&*lowering]).expect("it is lowered"));
        });
    }
}

criterion_group!(benches, passes);
criterion_main!(benches);
