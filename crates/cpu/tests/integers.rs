//! Quantized operators on integers beside their simulation in floating point: fed the same inputs, no result is further off
//! than one step, and nearly none is off at all. Portable code and several threads give the same bytes.

mod net;

use lowbit_core::executor::Executor;
use lowbit_core::ir::{Arg, Program, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::{CpuExecutor, Isa};
use net::Net;

impl Net {
    fn affine(&mut self, op: &'static OpDef, x: ValueId, scale: f64, zero: i64, dtype: DType) -> ValueId {
        let (min, max) = dtype.int_bounds().expect("integers");
        let bounds = [Arg::from(min), max.into(), Arg::DType(dtype)];
        self.op(op, [x.into(), Arg::Float(scale), zero.into()].into_iter().chain(bounds).collect())
    }

    /// Quantized and dequantized again.
    fn rounded(&mut self, x: ValueId, scale: f64, zero: i64, dtype: DType) -> ValueId {
        let q = self.affine(&ops::QUANTIZE_PER_TENSOR, x, scale, zero, dtype);
        self.affine(&ops::DEQUANTIZE_PER_TENSOR, q, scale, zero, dtype)
    }

    /// Weights with a scale a channel.
    fn weights(&mut self, shape: &[usize]) -> ValueId {
        let n: usize = shape.iter().product();
        let integers: Vec<i8> = self.random(n).map(|v| (v * 127.0) as i8).collect();
        let fan = shape[1..].iter().product::<usize>() as f32;
        let scales: Vec<f64> =
            self.random(shape[0]).map(|v| f64::from((v + 1.5) / 127.0 / fan.sqrt())).collect();
        let q = self.constant(Tensor::new(shape, integers).unwrap());
        let scales = self.constant(Tensor::new(&[shape[0]], scales).unwrap());
        let zeros = self.constant(Tensor::new(&[shape[0]], vec![0i64; shape[0]]).unwrap());
        let rest = [Arg::from(0), Arg::from(-127), Arg::from(127), Arg::DType(DType::I8)];
        let args = [q.into(), scales.into(), zeros.into()].into_iter().chain(rest).collect();
        self.op(&ops::DEQUANTIZE_PER_CHANNEL, args)
    }
}

/// How many results differ from the simulation's, of how many; none by more than a step of size `step`.
fn compare(what: &str, program: &Program, step: f64) -> (usize, usize) {
    let run = |executor: &CpuExecutor, inputs: &[Tensor]| {
        let mut session = executor.load(program, &[]).unwrap();
        session.run(inputs, &mut |_, _| {}).unwrap().remove(0)
    };
    let g = &program.graph;
    let inputs: Vec<Tensor> = g
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let shape: Vec<usize> = g.ty(v).shape.iter().map(|d| d.known().unwrap() as usize).collect();
            let mut source = Net::seeded(31 + i as u64);
            let values: Vec<f32> = source.random(shape.iter().product()).collect();
            Tensor::new(&shape, values).unwrap()
        })
        .collect();
    let integers = run(&CpuExecutor::default(), &inputs);
    let simulated = run(&CpuExecutor::default().simulated(), &inputs);
    let portable = run(&CpuExecutor::with_isa(Isa::PORTABLE), &inputs);
    let threaded = run(&CpuExecutor::default().threads(3).unwrap(), &inputs);
    assert_eq!(integers.bytes(), portable.bytes(), "{what}: portable code computes something else");
    assert_eq!(integers.bytes(), threaded.bytes(), "{what}: threads compute something else");
    let (a, b) = (integers.to_f64(), simulated.to_f64());
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= step, "{what}: {worst} off, a step is {step}");
    // It has not all been clamped to one number.
    assert!(a.iter().any(|v| *v != a[0]), "{what}: all results are the same");
    (a.iter().zip(&b).filter(|(a, b)| a != b).count(), a.len())
}

/// Channels in and out, size, kernel, stride, padding, dilation, groups; what bounds the result.
type Conv = (usize, usize, usize, usize, i64, i64, i64, usize, Option<&'static OpDef>);

#[test]
fn layers_are_within_a_step_of_their_simulation() {
    let cases: &[Conv] = &[
        (3, 32, 65, 3, 2, 1, 1, 1, Some(&ops::HARDTANH)),
        (64, 40, 40, 3, 1, 1, 1, 1, Some(&ops::RELU)),
        (96, 24, 56, 1, 1, 0, 1, 1, None),
        (24, 70, 30, 1, 2, 0, 1, 1, None),
        (5, 9, 31, 3, 1, 2, 2, 1, None),
        (100, 100, 40, 3, 1, 1, 1, 100, Some(&ops::RELU)),
        (40, 40, 41, 5, 2, 2, 1, 40, None),
        (19, 19, 30, 3, 1, 2, 2, 19, None),
        (12, 24, 33, 3, 1, 1, 1, 3, None),
        (48, 48, 20, 3, 1, 1, 1, 4, None),
        (512, 64, 7, 3, 1, 1, 1, 1, None),
    ];
    let (mut off, mut all) = (0, 0);
    for dtype in [DType::I8, DType::U8] {
        for &case in cases {
            let (from, to, size, kernel, stride, pad, dilation, groups, bound) = case;
            let mut net = Net::new();
            let zero = if dtype == DType::I8 { -3 } else { 120 };
            let x = net.input(&[2, from, size, size]);
            let x = net.rounded(x, 0.0079, zero, dtype);
            let (w, bias) = (net.weights(&[to, from / groups, kernel, kernel]), net.bias(to));
            let pair = |n: i64| Arg::ints([n, n]);
            let rest = [pair(stride), pair(pad), pair(dilation), Arg::from(groups as i64)];
            let mut y =
                net.op(&ops::CONV2D, [x.into(), w.into(), bias.into()].into_iter().chain(rest).collect());
            if let Some(bound) = bound {
                y = net.op(bound, vec![y.into()]);
            }
            let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.031, 5, dtype);
            let found = compare(&format!("{dtype} {from} to {to} x{kernel}"), &net.finish(y), 1.0);
            (off, all) = (off + found.0, all + found.1);
        }
    }
    for (rows, from, to) in [(1, 300, 100), (197, 384, 200), (64, 7, 33)] {
        let mut net = Net::new();
        let x = net.input(&[1, rows, from]);
        let x = net.rounded(x, 0.0079, 4, DType::I8);
        let (w, bias) = (net.weights(&[to, from]), net.bias(to));
        let y = net.op(&ops::LINEAR, vec![x.into(), w.into(), bias.into()]);
        let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.025, -9, DType::I8);
        let found = compare(&format!("linear {from} to {to}"), &net.finish(y), 1.0);
        (off, all) = (off + found.0, all + found.1);
    }
    assert!(all > 1_000_000 && off * 1_000_000 <= 20 * all, "{off} of {all} results are a step off");
}

#[test]
fn a_layer_without_a_quantize_node_stays_in_floating_point() {
    let mut net = Net::new();
    let x = net.input(&[5, 60]);
    let x = net.rounded(x, 0.0079, 4, DType::I8);
    let (w, bias) = (net.weights(&[33, 60]), net.bias(33));
    let y = net.op(&ops::LINEAR, vec![x.into(), w.into(), bias.into()]);
    compare("float result", &net.finish(y), 1e-6);
}

#[test]
fn rows_that_are_quantized_while_running_are_as_exact() {
    // The whole input with one scale, and weights with one a channel.
    for dtype in [DType::I8, DType::U8] {
        let mut net = Net::new();
        let x = net.input(&[3, 20, 61]);
        let (min, max) = dtype.int_bounds().unwrap();
        let bounds = [Arg::from(min), max.into()];
        let rest = bounds.clone().into_iter().chain([Arg::Float(1e-6), Arg::DType(dtype)]);
        let chosen = net.node(&ops::CHOOSE_QPARAMS, [x.into()].into_iter().chain(rest).collect());
        let args = |x: ValueId| {
            let known = [x, chosen[0], chosen[1]].map(Arg::from);
            known.into_iter().chain(bounds.clone()).chain([Arg::DType(dtype)]).collect()
        };
        let q = net.op(&ops::QUANTIZE_PER_TENSOR_TENSOR, args(x));
        let x = net.op(&ops::DEQUANTIZE_PER_TENSOR_TENSOR, args(q));
        let (w, bias) = (net.weights(&[33, 61]), net.bias(33));
        let y = net.op(&ops::LINEAR, vec![x.into(), w.into(), bias.into()]);
        // The sums are added up in another order.
        assert!(compare("one scale", &net.finish(y), 4e-6).0 > 0, "it ran in floating point");
    }
    // A scale for each row, and weights of 4 and 8 bits with one a group.
    for (bits, mapping, reach) in [(4, "ASYMMETRIC", 7.99), (8, "SYMMETRIC", 127.99)] {
        let mut net = Net::new();
        let x = net.input(&[3, 20, 96]);
        let row = || Arg::ints([1, 1, 96]);
        let args =
            vec![x.into(), mapping.into(), row(), Arg::DType(DType::I8), Arg::from(-128), Arg::from(127)];
        let chosen = net.node(&ops::CHOOSE_QPARAMS_AFFINE, args);
        let (s, z) = (Arg::from(chosen[0]), Arg::from(chosen[1]));
        let i8 = || Arg::DType(DType::I8);
        let q = net.op(&ops::QUANTIZE_AFFINE, vec![x.into(), row(), s.clone(), z.clone(), i8()]);
        let x = net.op(&ops::DEQUANTIZE_AFFINE, vec![q.into(), row(), s, z, i8()]);
        let integers: Vec<i8> = net.random(40 * 96).map(|v| (v * reach) as i8).collect();
        let scales: Vec<f32> = net.random(40 * 3).map(|v| (v + 1.5) / 10.0 / reach).collect();
        let w = net.constant(Tensor::new(&[40, 96], integers).unwrap());
        let scales = net.constant(Tensor::new(&[40, 3], scales).unwrap());
        let zeros = net.constant(Tensor::new(&[40, 3], vec![0i8; 120]).unwrap());
        let args = vec![w.into(), Arg::ints([1, 32]), scales.into(), zeros.into(), i8()];
        let w = net.op(&ops::DEQUANTIZE_AFFINE, args);
        let y = net.op(&ops::LINEAR, vec![x.into(), w.into()]);
        assert!(compare(&format!("{bits} bits"), &net.finish(y), 4e-6).0 > 0, "it ran in floating point");
    }
}

#[test]
fn sums_functions_and_moves_are_as_exact() {
    let shape = [2, 20, 33, 33];
    let mut net = Net::new();
    let (x, y) = (net.input(&shape), net.input(&shape));
    let (x, y) = (net.rounded(x, 0.0079, 4, DType::I8), net.rounded(y, 0.0101, -7, DType::I8));
    let sum = net.op(&ops::ADD, vec![x.into(), y.into()]);
    let sum = net.op(&ops::RELU, vec![sum.into()]);
    let sum = net.affine(&ops::QUANTIZE_PER_TENSOR, sum, 0.013, -128, DType::I8);
    let (off, all) = compare("sum", &net.finish(sum), 1.0);
    // Sums of two grids come near the middle between integers more often than layers do.
    assert!(off * 1000 <= all, "{off} of {all}");

    for op in [&ops::GELU, &ops::HARDSWISH, &ops::SIGMOID, &ops::RELU] {
        let mut net = Net::new();
        let x = net.input(&shape);
        let x = net.rounded(x, 0.0079, 4, DType::I8);
        let y = net.op(op, vec![x.into()]);
        let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.004, -10, DType::I8);
        assert_eq!(compare(op.name, &net.finish(y), 0.0).0, 0, "a table is exact");
    }

    let mut net = Net::new();
    let x = net.input(&shape);
    let x = net.rounded(x, 0.0079, 4, DType::I8);
    let y = net.op(&ops::MAX_POOL2D, vec![x.into(), Arg::ints([3, 3]), Arg::ints([2, 2]), Arg::ints([1, 1])]);
    let y = net.rounded(y, 0.0079, 4, DType::I8);
    let y = net.op(&ops::PERMUTE, vec![y.into(), Arg::ints([0, 2, 3, 1])]);
    let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.0079, 4, DType::I8);
    assert_eq!(compare("moves", &net.finish(y), 0.0).0, 0, "nothing is computed");
}

#[test]
fn means_are_as_exact() {
    let pool: (&OpDef, fn() -> Vec<Arg>) = (&ops::ADAPTIVE_AVG_POOL2D, || vec![Arg::ints([1, 1])]);
    let mean: (&OpDef, fn() -> Vec<Arg>) = (&ops::MEAN_DIM, || vec![Arg::ints([-1, 2]), Arg::Bool(false)]);
    for ((op, rest), shape, scale, zero, dtype) in [
        (pool, [2, 200, 33, 31], 0.0079, 4, DType::I8),
        (pool, [2, 3, 3, 5], 0.0079, 117, DType::U8),
        (mean, [3, 77, 7, 7], 0.0079, -128, DType::I8),
        (mean, [1, 1280, 9, 9], 0.004, 255, DType::U8),
    ] {
        let mut net = Net::new();
        let x = net.input(&shape);
        let x = net.rounded(x, scale, zero, dtype);
        let y = net.op(op, [x.into()].into_iter().chain(rest()).collect());
        let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.003, 3, DType::I8);
        let (off, all) = compare(op.name, &net.finish(y), 1.0);
        assert!(off * 100 <= all, "{}: {off} of {all}", op.name);
    }
}

#[test]
fn bounds_behind_a_quantize_node_are_exact() {
    // A layer, quantized, then clamped on the same grid: one narrower range.
    let mut net = Net::new();
    let x = net.input(&[1, 8, 20, 20]);
    let x = net.rounded(x, 0.0079, 4, DType::I8);
    let (w, bias) = (net.weights(&[16, 8, 1, 1]), net.bias(16));
    let y = net.op(&ops::CONV2D, vec![x.into(), w.into(), bias.into()]);
    let y = net.rounded(y, 0.02, -20, DType::I8);
    let y = net.op(&ops::HARDTANH, vec![y.into(), Arg::Float(-0.3), Arg::Float(0.61)]);
    let y = net.affine(&ops::QUANTIZE_PER_TENSOR, y, 0.02, -20, DType::I8);
    let (off, all) = compare("bounded", &net.finish(y), 1.0);
    assert!(off * 1000 <= all, "{off} of {all}");
}
