//! How fast are convolutions and linear layers in f32? Throughput counts multiplications, so `elem/s` times two is FLOPS.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowbit_benches::{Net, sample};
use lowbit_core::executor::Executor;
use lowbit_core::ir::{Arg, Program};
use lowbit_core::ops;
use lowbit_cpu::CpuExecutor;

/// A convolution on a square image: channels in and out, size, kernel, stride, groups.
fn conv(
    from: usize,
    to: usize,
    size: usize,
    kernel: usize,
    stride: i64,
    groups: usize,
) -> (Program, [usize; 4], u64) {
    let mut net = Net::default();
    let shape = [1, from, size, size];
    let x = net.input(&shape);
    let y = net.conv(x, from, to, kernel, stride, groups);
    let out = size / stride as usize;
    (net.finish(y), shape, (to * out * out * from / groups * kernel * kernel) as u64)
}

fn run(c: &mut Criterion, name: &str, program: &Program, shape: &[usize], products: u64) {
    let mut session = CpuExecutor::default().load(program, &[]).expect("it can be run");
    let x = [sample(shape, 3)];
    let mut group = c.benchmark_group("kernels");
    group.throughput(Throughput::Elements(products));
    group.bench_function(name, |b| b.iter(|| session.run(&x, &mut |_, _| {}).expect("it runs")));
}

fn convolutions(c: &mut Criterion) {
    for (name, (program, shape, products)) in [
        ("conv_3x3_64_56", conv(64, 64, 56, 3, 1, 1)),
        ("conv_3x3_first_224", conv(3, 32, 224, 3, 2, 1)),
        ("conv_1x1_96_24_56", conv(96, 24, 56, 1, 1, 1)),
        ("conv_1x1_160_960_7", conv(160, 960, 7, 1, 1, 1)),
        ("depthwise_3x3_144_56", conv(144, 144, 56, 3, 1, 144)),
        ("depthwise_3x3_stride_2_144_56", conv(144, 144, 56, 3, 2, 144)),
    ] {
        run(c, name, &program, &shape, products);
    }
}

fn linears(c: &mut Criterion) {
    for (name, rows, from, to) in
        [("linear_1x1280x1000", 1, 1280, 1000), ("linear_128x768x3072", 128, 768, 3072)]
    {
        let mut net = Net::default();
        let x = net.input(&[rows, from]);
        let w = net.weight(&[to, from]);
        let y = net.op(&ops::LINEAR, vec![Arg::from(x), w.into()]);
        run(c, name, &net.finish(y), &[rows, from], (rows * from * to) as u64);
    }
}

criterion_group!(benches, convolutions, linears);
criterion_main!(benches);
