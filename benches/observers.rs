//! What does it cost to watch a million values, and to choose a range?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowbit_benches::sample;
use lowbit_core::Tensor;
use lowbit_core::quant::{Mapping, ObserverKind, QRange, QuantSpec, observer};

const SHAPE: [usize; 4] = [1, 64, 128, 128];

fn specs() -> [(&'static str, QuantSpec); 4] {
    let spec = |kind| QuantSpec::new(QRange::INT8, Mapping::Affine, kind);
    [
        ("min_max", spec(ObserverKind::MinMax)),
        ("min_max_per_channel", spec(ObserverKind::MinMax).per_channel(1)),
        ("moving_average", spec(ObserverKind::MovingAverage { constant: 0.01 })),
        ("histogram", spec(ObserverKind::Histogram { bins: 2048 })),
    ]
}

fn observe(c: &mut Criterion) {
    let mut group = c.benchmark_group("observe");
    group.throughput(Throughput::Elements(SHAPE.iter().product::<usize>() as u64));
    let x = sample(&SHAPE, 1);
    let x = x.view::<f32>().expect("it holds f32");
    for (name, spec) in specs() {
        let mut o = observer::create(&spec).expect("the spec is sound");
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| o.observe(x.view())));
    }
}

/// A histogram whose range grows has its old counts spread over the new bins.
fn grow(c: &mut Criterion) {
    let [.., (_, spec)] = specs();
    let small = sample(&[16], 1);
    let large = Tensor::new(&[2], vec![-2f32, 2.0]).expect("two numbers");
    let view = |t: &Tensor| t.view::<f32>().expect("it holds f32").to_owned();
    let (small, large) = (view(&small), view(&large));
    c.bench_function("histogram_grows", |b| {
        b.iter(|| {
            let mut o = observer::create(&spec).expect("the spec is sound");
            o.observe(small.view());
            o.observe(large.view());
        });
    });
}

fn choose(c: &mut Criterion) {
    let x = sample(&SHAPE, 2);
    for (name, spec) in specs() {
        let mut o = observer::create(&spec).expect("the spec is sound");
        o.observe(x.view().expect("it holds f32"));
        c.bench_function(&format!("qparams/{name}"), |b| b.iter(|| o.qparams()));
    }
}

criterion_group!(benches, observe, grow, choose);
criterion_main!(benches);
