//! Networks built node by node.

use lowbit_core::ir::{Arg, ConstKind, NewNode, Program, TensorType, ValueId};
use lowbit_core::ops::OpDef;
use lowbit_core::{DType, Tensor};

/// A program in the making, and random numbers for it.
pub struct Net {
    program: Program,
    seed: u64,
}

impl Net {
    pub fn new() -> Net {
        Net::seeded(7)
    }

    pub fn seeded(seed: u64) -> Net {
        Net { program: Program::default(), seed }
    }

    pub fn random(&mut self, n: usize) -> impl Iterator<Item = f32> {
        let mut seed = self.seed;
        self.seed += 1000;
        (0..n).map(move |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
    }

    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("x{}", self.program.signature.inputs.len());
        self.program.signature.inputs.push(name.as_str().into());
        self.program.graph.add_input(&name, TensorType::new(DType::F32, shape.iter().copied()))
    }

    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("c{}", self.program.constants.len());
        self.program.add_constant(&name, ConstKind::Parameter, tensor)
    }

    pub fn op(&mut self, op: &'static OpDef, args: Vec<Arg>) -> ValueId {
        self.node(op, args)[0]
    }

    pub fn node(&mut self, op: &'static OpDef, args: Vec<Arg>) -> Vec<ValueId> {
        let left = op.schema().args[args.len()..].iter();
        let defaults = left.map(|a| a.default.clone().expect("only defaults are left out"));
        let args: Vec<Arg> = args.into_iter().chain(defaults).collect();
        let n = self.program.graph.append(NewNode::new(op, args)).expect("the arguments fit");
        self.program.graph.node(n).outputs().to_vec()
    }

    pub fn bias(&mut self, n: usize) -> ValueId {
        let values: Vec<f32> = self.random(n).collect();
        self.constant(Tensor::new(&[n], values).unwrap())
    }

    pub fn finish(mut self, output: ValueId) -> Program {
        self.program.signature.outputs = vec!["out".into()];
        self.program.graph.set_outputs(vec![output]);
        self.program
    }
}
