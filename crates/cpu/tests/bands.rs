//! Convolutions of large images take turns, some rows at a time: results and extremes are those of whole steps, which threads share.

mod net;

use lowbit_core::executor::{Executor, Watchlist};
use lowbit_core::ir::{Arg, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::quant::observer::extremes;
use lowbit_core::{DType, Tensor};
use lowbit_cpu::{CpuExecutor, Isa};
use net::Net;
use std::collections::BTreeMap;

const SIZE: usize = 96;
const CHANNELS: usize = 24;

impl Net {
    /// A convolution; positive weights are those of `|random|`.
    fn conv(&mut self, x: ValueId, shape: [usize; 4], stride: i64, groups: i64, positive: bool) -> ValueId {
        let n: usize = shape.iter().product();
        let fan: f32 = shape[1..].iter().product::<usize>() as f32;
        let values: Vec<f32> =
            self.random(n).map(|v| if positive { v.abs() } else { v } / fan.sqrt()).collect();
        let (w, b) = (self.constant(Tensor::new(&shape, values).unwrap()), self.bias(shape[0]));
        let pair = |n: i64| Arg::ints([n, n]);
        let rest = [pair(stride), pair(shape[2] as i64 / 2), pair(1), Arg::from(groups)];
        let args = [x.into(), w.into(), b.into()].into_iter().chain(rest).collect();
        self.op(&ops::CONV2D, args)
    }
}

/// Filters with few channels, one with many and a residual in between, depthwise ones of both strides, pointwise ones.
fn network(batch: usize, positive: bool) -> Program {
    let mut net = Net::new();
    let x = net.input(&[batch, 3, SIZE, SIZE]);
    let c = CHANNELS;
    let residual = net.conv(x, [c, 3, 3, 3], 1, 1, positive);
    let mut y = net.conv(residual, [c, c, 1, 1], 1, 1, positive);
    y = net.op(&ops::ADD, vec![y.into(), residual.into()]);
    y = net.op(&ops::HARDTANH, vec![y.into(), Arg::Float(0.0), Arg::Float(0.5)]);
    y = net.conv(y, [c, 1, 3, 3], 1, c as i64, positive);
    y = net.op(&ops::RELU, vec![y.into()]);
    y = net.conv(y, [4 * c, c, 1, 1], 1, 1, positive);
    y = net.conv(y, [4 * c, 1, 5, 5], 2, 4 * c as i64, positive);
    y = net.conv(y, [40, 4 * c, 1, 1], 1, 1, positive);
    net.finish(y)
}

fn input(batch: usize) -> Tensor {
    let shape = [batch, 3, SIZE, SIZE];
    let values: Vec<f32> = Net::seeded(31).random(shape.iter().product()).collect();
    Tensor::new(&shape, values).unwrap()
}

fn output(executor: &CpuExecutor, program: &Program, x: &Tensor) -> Tensor {
    executor.load(program, &[]).unwrap().run(std::slice::from_ref(x), &mut |_, _| {}).unwrap().remove(0)
}

#[test]
fn turns_compute_what_whole_steps_do() {
    for batch in [1, 2] {
        let (program, x) = (network(batch, false), input(batch));
        for isa in Isa::available() {
            let executor = CpuExecutor::with_isa(isa);
            let whole = output(&executor.clone().threads(2).unwrap(), &program, &x);
            assert!(whole.bytes() == output(&executor, &program, &x).bytes(), "{isa:?}, batch of {batch}");
        }
    }
}

/// The extremes of every value: as the executor finds them, and of the elements.
fn seen(program: &Program, x: &Tensor) -> [BTreeMap<ValueId, (Option<(f32, f32)>, usize)>; 2] {
    let g = &program.graph;
    let values = g.nodes().map(|n| g.node(n).output()).filter(|&v| g.ty(v).dtype == DType::F32).collect();
    let extremes_only = Watchlist { extremes: values, ..Watchlist::default() };
    let elements = Watchlist { elements: extremes_only.extremes.clone(), ..Watchlist::default() };
    [extremes_only, elements].map(|watch| {
        let (executor, mut found) = (CpuExecutor::default(), BTreeMap::new());
        let mut session = executor.load_watching(program, &watch).unwrap();
        session
            .run(std::slice::from_ref(x), &mut |v, seen| {
                let known = seen.extremes.filter(|_| watch.extremes.contains(&v));
                let known = known.unwrap_or_else(|| extremes(&seen.view.to_tensor().to_f32()));
                assert!(found.insert(v, (known.range, known.not_finite)).is_none(), "shown twice");
            })
            .unwrap();
        found
    })
}

#[test]
fn extremes_are_those_of_all_elements() {
    for positive in [false, true] {
        let program = network(1, positive);
        let mut x = input(1);
        if positive {
            // What has one sign is looked at as a whole.
            let values: Vec<f32> = x.to_f32().iter().map(|v| v.abs() + 1.0).collect();
            x = Tensor::new(x.shape(), values).unwrap();
        }
        let [found, all] = seen(&program, &x);
        assert_eq!(found, all);
        assert!(
            all.len() >= program.graph.nodes().count()
                && (positive || all.values().any(|x| x.0.unwrap().0 < 0.0))
        );
    }
}

#[test]
fn what_is_not_finite_is_counted() {
    let (program, x) = (network(1, false), input(1));
    let mut values = x.to_f32().into_owned();
    values[SIZE * SIZE / 2] = f32::NAN;
    let [found, all] = seen(&program, &Tensor::new(x.shape(), values).unwrap());
    assert_eq!(found, all);
    assert!(all.values().all(|(_, not_finite)| *not_finite > 0));
}
