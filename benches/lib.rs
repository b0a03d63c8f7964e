//! Networks for the benchmarks, built in code with random weights.

use lowbit_core::ir::{Arg, ConstKind, NewNode, Program, TensorType, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::{DType, Tensor};

/// A program that grows.
#[derive(Debug, Default)]
pub struct Net {
    /// What there is so far.
    pub program: Program,
    seed: u64,
}

impl Net {
    /// Adds an input of f32.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        self.program.signature.inputs.push("x".into());
        self.program.graph.add_input("x", TensorType::new(DType::F32, shape.iter().copied()))
    }

    /// Random numbers around 0, of the variance that keeps a layer's outputs as large as its inputs.
    pub fn weight(&mut self, shape: &[usize]) -> ValueId {
        let fan: usize = shape[1..].iter().product();
        let values = random(&mut self.seed, shape.iter().product(), (6.0 / fan.max(1) as f32).sqrt());
        self.constant(shape, values)
    }

    fn constant(&mut self, shape: &[usize], values: Vec<f32>) -> ValueId {
        let name = format!("w{}", self.program.constants.len());
        let tensor = Tensor::new(shape, values).expect("as many numbers as the shape says");
        self.program.add_constant(&name, ConstKind::Parameter, tensor)
    }

    /// Adds an operator; arguments that are not given take their defaults.
    pub fn op(&mut self, op: &'static OpDef, args: Vec<Arg>) -> ValueId {
        let left = op.schema().args[args.len()..].iter();
        let defaults = left.map(|a| a.default.clone().expect("only defaults are left out"));
        let args: Vec<Arg> = args.into_iter().chain(defaults).collect();
        let n = self.program.graph.append(NewNode::new(op, args)).expect("the arguments fit");
        self.program.graph.node(n).outputs()[0]
    }

    /// A convolution of square kernels that keeps the size at stride 1.
    pub fn conv(
        &mut self,
        x: ValueId,
        from: usize,
        to: usize,
        kernel: usize,
        stride: i64,
        groups: usize,
    ) -> ValueId {
        let w = self.weight(&[to, from / groups, kernel, kernel]);
        let pad = kernel as i64 / 2;
        let pair = |n: i64| Arg::ints([n, n]);
        let args =
            vec![x.into(), w.into(), Arg::None, pair(stride), pair(pad), pair(1), Arg::from(groups as i64)];
        self.op(&ops::CONV2D, args)
    }

    fn batch_norm(&mut self, x: ValueId, n: usize) -> ValueId {
        let (ones, zeros) = (self.constant(&[n], vec![1.0; n]), self.constant(&[n], vec![0.0; n]));
        let parts = [ones, zeros, zeros, ones].map(Arg::from);
        let rest = [Arg::Bool(false), Arg::Float(0.1), Arg::Float(1e-5), Arg::Bool(true)];
        self.op(&ops::BATCH_NORM, [Arg::from(x)].into_iter().chain(parts).chain(rest).collect())
    }

    fn relu6(&mut self, x: ValueId) -> ValueId {
        self.op(&ops::HARDTANH, vec![x.into(), Arg::from(0), Arg::from(6)])
    }

    /// Expand, filter each channel, project; with a shortcut where the shapes allow.
    pub fn block(&mut self, x: ValueId, from: usize, to: usize, stride: i64, expand: usize) -> ValueId {
        let wide = from * expand;
        let mut y = x;
        if expand > 1 {
            y = self.conv(y, from, wide, 1, 1, 1);
            y = self.batch_norm(y, wide);
            y = self.relu6(y);
        }
        y = self.conv(y, wide, wide, 3, stride, wide);
        y = self.batch_norm(y, wide);
        y = self.relu6(y);
        y = self.conv(y, wide, to, 1, 1, 1);
        y = self.batch_norm(y, to);
        if from == to && stride == 1 { self.op(&ops::ADD, vec![x.into(), y.into()]) } else { y }
    }

    /// The program with this result.
    pub fn finish(mut self, output: ValueId) -> Program {
        self.program.signature.outputs = vec!["out".into()];
        self.program.graph.set_outputs(vec![output]);
        self.program
    }
}

/// MobileNetV2 with an input of `[1, 3, size, size]`.
pub fn mobilenet_v2(size: usize) -> Program {
    let mut net = Net::default();
    let mut x = net.input(&[1, 3, size, size]);
    x = net.conv(x, 3, 32, 3, 2, 1);
    x = net.batch_norm(x, 32);
    x = net.relu6(x);
    let mut from = 32;
    for (expand, to, blocks, stride) in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ] {
        for i in 0..blocks {
            x = net.block(x, from, to, if i == 0 { stride } else { 1 }, expand);
            from = to;
        }
    }
    x = net.conv(x, from, 1280, 1, 1, 1);
    x = net.batch_norm(x, 1280);
    x = net.relu6(x);
    x = net.op(&ops::ADAPTIVE_AVG_POOL2D, vec![x.into(), Arg::ints([1, 1])]);
    x = net.op(&ops::FLATTEN, vec![x.into(), Arg::from(1)]);
    let w = net.weight(&[1000, 1280]);
    x = net.op(&ops::LINEAR, vec![x.into(), w.into()]);
    net.finish(x)
}

/// Blocks of nine nodes in a row, as small as can be.
pub fn tower(blocks: usize) -> Program {
    let mut net = Net::default();
    let mut x = net.input(&[1, 4, 4, 4]);
    for _ in 0..blocks {
        x = net.block(x, 4, 4, 1, 2);
    }
    net.finish(x)
}

/// A random tensor between −1 and 1.
pub fn sample(shape: &[usize], seed: u64) -> Tensor {
    let values = random(&mut { seed }, shape.iter().product(), 1.0);
    Tensor::new(shape, values).expect("as many numbers as the shape says")
}

fn random(seed: &mut u64, n: usize, scale: f32) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    (0..n).map(|_| next()).collect()
}
