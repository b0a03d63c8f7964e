//! Numbers for weights and inputs: drawn from names, so that they are the same everywhere.

use lowbit_core::ir::{ConstId, Program};
use lowbit_core::symint::Bindings;
use lowbit_core::{DType, Tensor};

/// A stream of numbers that its seed determines.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A stream for a name.
    pub fn new(name: &str) -> Self {
        // FNV-1a.
        let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        Numbers(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    /// The next integer (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number, evenly from −1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// The next number of a bell curve, near enough: mean 0, variance 1, within ±3.5.
    pub fn bell(&mut self) -> f32 {
        (0..4).map(|_| self.uniform()).sum::<f32>() * 0.866
    }
}

/// Gives elements to floating-point constants that are all zero, which is what the text form makes of constants
/// without elements. Matrices keep the variance of what they multiply.
pub fn fill(program: &mut Program) {
    let blank: Vec<ConstId> = program
        .constants
        .iter()
        .filter(|(_, c)| c.tensor.dtype().is_float() && c.tensor.bytes().iter().all(|b| *b == 0))
        .map(|(id, _)| id)
        .collect();
    for id in blank {
        let constant = &mut program.constants[id];
        let shape = constant.tensor.shape().to_vec();
        let scale = match shape.len() {
            0 | 1 => 0.25,
            _ => (3.0 / shape[1..].iter().product::<usize>().max(1) as f32).sqrt(),
        };
        let mut numbers = Numbers::new(&constant.name);
        let data: Vec<f32> = (0..constant.tensor.numel()).map(|_| scale * numbers.uniform()).collect();
        constant.tensor =
            Tensor::from_f32(constant.tensor.dtype(), &shape, &data).expect("as many elements as before");
    }
}

/// Inputs for one call: floats of a bell curve, integers from 0 to 7. Symbols take another size with every sample, each
/// in its range.
pub fn inputs(program: &Program, sample: usize) -> Vec<Tensor> {
    let sizes: Bindings = program
        .symbols
        .iter()
        .map(|(name, r)| {
            let span = r.max.saturating_sub(r.min).clamp(0, 3) + 1;
            (name.clone(), r.min + i64::try_from(sample).unwrap_or(0) % span)
        })
        .collect();
    let types = program.graph.inputs().iter().map(|&v| program.graph.value(v));
    types
        .map(|value| {
            let shape = value.ty.resolve(&sizes).expect("the program lists every symbol of its inputs");
            let numbers = Numbers::new(&format!("{} {sample}", value.name));
            tensor(value.ty.dtype, &shape, numbers)
        })
        .collect()
}

fn tensor(dtype: DType, shape: &[usize], mut numbers: Numbers) -> Tensor {
    let n: usize = shape.iter().product();
    let mut ints = || -> Vec<u8> { (0..n).map(|_| (numbers.bits() % 8) as u8).collect() };
    let made = match dtype {
        DType::Bool => Tensor::from_bools(shape, ints().iter().map(|i| i % 2 == 0).collect()),
        DType::I8 => Tensor::new(shape, ints().iter().map(|&i| i as i8).collect()),
        DType::U8 => Tensor::new(shape, ints()),
        DType::I16 => Tensor::new(shape, ints().iter().map(|&i| i16::from(i)).collect()),
        DType::U16 => Tensor::new(shape, ints().iter().map(|&i| u16::from(i)).collect()),
        DType::I32 => Tensor::new(shape, ints().iter().map(|&i| i32::from(i)).collect()),
        DType::I64 => Tensor::new(shape, ints().iter().map(|&i| i64::from(i)).collect()),
        DType::F64 => Tensor::new(shape, (0..n).map(|_| f64::from(numbers.bell())).collect()),
        _ if dtype.is_float() => {
            Tensor::from_f32(dtype, shape, &(0..n).map(|_| numbers.bell()).collect::<Vec<_>>())
        }
        _ => Tensor::zeros(dtype, shape),
    };
    made.expect("as many elements as the shape says")
}
