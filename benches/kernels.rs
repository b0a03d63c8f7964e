//! How fast are convolutions, linear layers and attention in f32, and what of these there is in 8-bit integers? Throughput
//! counts multiplications, so `elem/s` times two is FLOPS.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowbit_benches::{Net, sample};
use lowbit_core::backend::{Backend, Options};
use lowbit_core::executor::Executor;
use lowbit_core::flow;
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

/// The program as a recipe of XNNPACK's quantizes it.
fn quantized(program: &Program, recipe: &str, shape: &[usize]) -> Program {
    let quantizer = lowbit_xnnpack::Xnnpack.quantizer(recipe, &Options::new()).expect("its own recipe");
    let executor = CpuExecutor::default();
    let mut prepared = flow::prepare(program.clone(), &*quantizer).expect("it can be quantized");
    if prepared.needs_data() {
        let mut session = prepared.load(&executor).expect("it can be run");
        prepared.calibrate(&mut *session, &[sample(shape, 4)]).expect("it runs");
    }
    prepared.convert(&executor).expect("it was calibrated").program
}

/// The same in f32 and in integers, which include what quantizes the input and dequantizes the result.
fn run_both(c: &mut Criterion, name: &str, program: &Program, shape: &[usize], products: u64) {
    run(c, name, program, shape, products);
    let integers = quantized(program, "int8-static-per-channel", shape);
    run(c, &format!("{name}_integers"), &integers, shape, products);
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
        run_both(c, name, &program, &shape, products);
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
        let (program, shape, products) = (net.finish(y), [rows, from], (rows * from * to) as u64);
        run_both(c, name, &program, &shape, products);
        // Rows quantized while running; weights of 8 bits, and of 4 in groups of 32.
        for (kind, recipe) in
            [("dynamic", "int8-dynamic-per-channel"), ("dynamic_int4", "int8-dynamic-int4-per-group")]
        {
            run(c, &format!("{name}_{kind}"), &quantized(&program, recipe, &shape), &shape, products);
        }
    }
}

fn attention(c: &mut Criterion) {
    let shape = [1, 6, 197, 64];
    let mut net = Net::default();
    let x = net.input(&shape);
    let y = net.op(&ops::SCALED_DOT_PRODUCT_ATTENTION, vec![x.into(), x.into(), x.into()]);
    run(c, "attention_6x197x64", &net.finish(y), &shape, 2 * 6 * 197 * 197 * 64);
}

criterion_group!(benches, convolutions, linears, attention);
criterion_main!(benches);
