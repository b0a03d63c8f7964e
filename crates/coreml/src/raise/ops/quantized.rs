//! Quantized activations, and the parameters they share with weights.

use super::{Table, kept, new, one};
use crate::mil::DType;
use crate::raise::call::Call;
use crate::raise::{Raised, Value, constants};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;

pub static TABLE: Table = &[
    kept("quantize", quantize),
    new("dequantize", |c| {
        let q = c.tensor("input")?;
        let range = Range::of(c.ty(q).dtype)?;
        let p = Parameters::read(c)?;
        one(p.dequantize(c, q, range)?)
    }),
];

fn quantize(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let x = c.tensor("input")?;
    let name = c.str("output_dtype", "")?;
    let dtype = DType::from_name(&name).filter(|d| *d == DType::I8 || *d == DType::U8);
    let dtype = dtype.ok_or_else(|| format!("argument output_dtype is {name:?}"))?;
    let range = Range::of(constants::inside(dtype)?)?;
    let p = Parameters::read(c)?;
    if let ([scale], [zero], None) = (&p.scales[..], &p.zeros[..], p.axis) {
        let numbers = [Arg::Float((*scale).into()), (*zero).into()];
        return one(c.node(&ops::QUANTIZE_PER_TENSOR, [&[x.into()], &numbers[..], &range.args()].concat())?);
    }
    let axis = p.axis(c, x)?;
    let (scales, zeros) = p.tensors(c)?;
    let args = [&[x.into(), scales.into(), zeros.into(), axis.into()], &range.args()[..]].concat();
    one(c.node(&ops::QUANTIZE_PER_CHANNEL, args)?)
}

/// The integers that are used.
#[derive(Copy, Clone)]
pub(super) struct Range {
    pub min: i64,
    pub max: i64,
    pub dtype: CoreType,
}

impl Range {
    /// All integers of a type of 8 bits.
    pub fn of(dtype: CoreType) -> Raised<Self> {
        match (dtype, dtype.int_bounds()) {
            (CoreType::I8 | CoreType::U8, Some((min, max))) => Ok(Range { min, max, dtype }),
            _ => Err(format!("{dtype} where integers of 8 bits are needed")),
        }
    }

    /// The integers of a type as it is stored.
    pub fn stored(dtype: DType) -> Raised<Self> {
        let whole = Range::of(constants::inside(dtype)?)?;
        Ok(match dtype {
            DType::I4 => Range { min: -8, max: 7, ..whole },
            d => Range { max: whole.max.min((1 << d.bits().min(8)) - 1), ..whole },
        })
    }

    /// As arguments `quant_min`, `quant_max`, `dtype`.
    pub fn args(self) -> [Arg; 3] {
        [self.min.into(), self.max.into(), self.dtype.into()]
    }
}

/// Scales and zero points, of a tensor or of the channels of an axis.
pub(super) struct Parameters {
    pub scales: Vec<f32>,
    pub zeros: Vec<i64>,
    pub axis: Option<i64>,
}

impl Parameters {
    /// The arguments `scale`, `zero_point` and `axis`.
    pub fn read(c: &Call<'_>) -> Raised<Self> {
        let scale = c.constant("scale")?;
        let scales = constants::floats(&scale).map_err(|e| format!("argument scale is {e}"))?;
        let n = scales.len();
        let zeros = match c.opt_constant("zero_point")? {
            None => vec![0; n],
            Some(z) => match z.as_floats() {
                // Floats are allowed, and mean integers.
                Some(l) if l.iter().all(|z| z.fract() == 0.0 && z.abs() <= 256.0) => {
                    l.iter().map(|&z| z as i64).collect()
                }
                Some(_) => return Err("argument zero_point holds fractions".into()),
                None => constants::ints(&z).map_err(|e| format!("argument zero_point is {e}"))?,
            },
        };
        let zeros = if zeros.len() == 1 { vec![zeros[0]; n] } else { zeros };
        if scale.ty.rank() > 1 || zeros.len() != n || n == 0 {
            return Err(format!("{n} scales and {} zero points", zeros.len()));
        }
        let axis = c.opt_int("axis")?.filter(|_| scale.ty.rank() == 1);
        if axis.is_none() && n != 1 {
            return Err(format!("{n} scales, and argument axis is missing"));
        }
        Ok(Parameters { scales, zeros, axis })
    }

    /// The axis, counted from the front.
    fn axis(&self, c: &Call<'_>, x: ValueId) -> Raised<i64> {
        let axis = lowbit_core::ops::wrap_dim(self.axis.unwrap_or(0), c.rank(x));
        axis.map(|d| d as i64).map_err(|e| format!("argument axis: {}", e.message))
    }

    /// As constants of the program.
    fn tensors(&self, c: &mut Call<'_>) -> Raised<(ValueId, ValueId)> {
        let scales = Tensor::new(&[self.scales.len()], self.scales.clone()).map_err(|e| e.to_string())?;
        let zeros = Tensor::new(&[self.zeros.len()], self.zeros.clone()).map_err(|e| e.to_string())?;
        Ok((c.constant_tensor("scale", scales), c.constant_tensor("zero_point", zeros)))
    }

    /// Floats of integers.
    pub fn dequantize(&self, c: &mut Call<'_>, q: ValueId, range: Range) -> Raised<ValueId> {
        if let ([scale], [zero], None) = (&self.scales[..], &self.zeros[..], self.axis) {
            let numbers = [Arg::Float((*scale).into()), (*zero).into()];
            return c.node(&ops::DEQUANTIZE_PER_TENSOR, [&[q.into()], &numbers[..], &range.args()].concat());
        }
        let axis = self.axis(c, q)?;
        let (scales, zeros) = self.tensors(c)?;
        let args = [&[q.into(), scales.into(), zeros.into(), axis.into()], &range.args()[..]].concat();
        c.node(&ops::DEQUANTIZE_PER_CHANNEL, args)
    }
}
