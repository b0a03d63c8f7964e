//! Quantize, dequantize and the choice of parameters, in torchao's order of floating-point operations.

use super::Table;
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef};
use crate::simd::{Isa, ROUNDER};
use half::{bf16, f16};
use lowbit_core::DType;
use lowbit_core::quant::runs;

type Result = std::result::Result<(), KernelError>;

/// Stores integers computed from floats; `quant_min..=quant_max` always fits.
#[inline(always)]
fn store(out: &mut TensorMut<'_>, values: impl Iterator<Item = f32>) {
    match out.dtype {
        DType::I8 | DType::U8 => out.bytes.iter_mut().zip(values).for_each(|(o, v)| *o = byte(v)),
        _ => out.store(values),
    }
}

/// A whole number as a byte, signed or not; NaN becomes 0, as by `as`. An addition moves it to the low bits, for which every CPU
/// has vector instructions.
#[inline(always)]
fn byte(v: f32) -> u8 {
    let v = if v.is_nan() { 0.0 } else { v };
    (v + ROUNDER).to_bits() as u8
}

/// `clamp(round(x · (1/scale)) + zero_point)`, ties to even; the reciprocal is taken in f64 and rounded to f32.
#[derive(Copy, Clone, Debug)]
pub(super) struct Affine {
    inverse: f32,
    zero: f32,
    min: f32,
    max: f32,
}

impl Affine {
    fn new(scale: f64, zero: f32, min: f64, max: f64) -> Self {
        Affine { inverse: (1.0 / scale) as f32, zero, min: min as f32, max: max as f32 }
    }

    /// That of a `quantize_per_tensor(input, scale, zero_point, quant_min, quant_max, dtype)`.
    pub fn of(c: &KernelCall<'_>) -> std::result::Result<Self, KernelError> {
        Ok(Affine::new(c.float(1)?, c.int(2)? as f32, c.float(3)?, c.float(4)?))
    }

    #[inline(always)]
    fn quantize(self, x: f32) -> f32 {
        ((x * self.inverse).round_ties_even() + self.zero).clamp(self.min, self.max)
    }

    /// Quantizes to bytes.
    #[inline(always)]
    pub fn bytes(self, x: &[f32], to: &mut [u8]) {
        to.iter_mut().zip(x).for_each(|(to, &x)| *to = byte(self.quantize(x)));
    }
}

fn quantize_at(c: &KernelCall<'_>, out: &mut TensorMut<'_>, affine: Affine) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    c.isa.vectorize(
        #[inline(always)]
        || match out.dtype {
            DType::I8 | DType::U8 => affine.bytes(&x, out.bytes),
            _ => out.store(x.iter().map(|&x| affine.quantize(x))),
        },
    );
    Ok(())
}

/// `(q − zero_point) · scale`
fn dequantize_at(c: &KernelCall<'_>, out: &mut TensorMut<'_>, scale: f32, zero: f32) -> Result {
    let q = c.tensor(0)?;
    match (q.dtype, out.slice::<f32>()) {
        (DType::I8, Some(o)) => {
            let q = bytemuck::cast_slice::<u8, i8>(q.bytes);
            c.isa.vectorize(
                #[inline(always)]
                || o.iter_mut().zip(q).for_each(|(o, &q)| *o = (f32::from(q) - zero) * scale),
            );
        }
        (DType::U8, Some(o)) => c.isa.vectorize(
            #[inline(always)]
            || o.iter_mut().zip(q.bytes).for_each(|(o, &q)| *o = (f32::from(q) - zero) * scale),
        ),
        _ => {
            let v = q.as_vec::<f32>();
            out.store(v.iter().map(|&q| (q - zero) * scale));
        }
    }
    Ok(())
}

fn scalar(t: TensorRef<'_>) -> f64 {
    t.as_vec::<f64>().first().copied().unwrap_or(0.0)
}

fn quantize_per_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantize_at(c, &mut outs[0], Affine::of(c)?)
}
fn quantize_per_tensor_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (scale, zero) = (scalar(c.tensor(1)?), scalar(c.tensor(2)?) as f32);
    let bound = |i: usize| c.opt_tensor(i).map(scalar).or_else(|| c.opt_float(i)).unwrap_or(0.0);
    quantize_at(c, &mut outs[0], Affine::new(scale, zero, bound(3), bound(4)))
}
fn dequantize_per_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    dequantize_at(c, &mut outs[0], c.float(1)? as f32, c.int(2)? as f32)
}
fn dequantize_per_tensor_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    dequantize_at(c, &mut outs[0], scalar(c.tensor(1)?) as f32, scalar(c.tensor(2)?) as f32)
}

/// Which channel an element belongs to.
fn channel_of(shape: &[usize], axis: usize) -> impl Fn(usize) -> usize {
    let inner: usize = shape[axis + 1..].iter().product();
    let n = shape[axis];
    move |i| i / inner.max(1) % n.max(1)
}

/// `quantize_per_channel(input, scales, zero_points, axis, min, max, dtype)`: reciprocals in f32.
fn quantize_per_channel(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let inv: Vec<f32> = c.tensor(1)?.as_vec::<f32>().iter().map(|s| 1.0 / s).collect();
    let zeros = c.tensor(2)?.as_vec::<f32>();
    let (min, max) = (c.float(4)? as f32, c.float(5)? as f32);
    let ch = channel_of(x.shape, c.dim(3, x.shape.len())?);
    let v = x.as_vec::<f32>();
    let q = v
        .iter()
        .enumerate()
        .map(|(i, &x)| Affine { inverse: inv[ch(i)], zero: zeros[ch(i)], min, max }.quantize(x));
    store(&mut outs[0], q);
    Ok(())
}
fn dequantize_per_channel(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let q = c.tensor(0)?;
    let scales = c.tensor(1)?.as_vec::<f32>();
    let zeros = c.opt_tensor(2).map(|z| z.as_vec::<f32>());
    let ch = channel_of(q.shape, c.dim(3, q.shape.len())?);
    let v = q.as_vec::<f32>();
    let f =
        v.iter().enumerate().map(|(i, &q)| (q - zeros.as_ref().map_or(0.0, |z| z[ch(i)])) * scales[ch(i)]);
    outs[0].store(f);
    Ok(())
}

/// Rows, or runs of `size` elements in them: the zero point is added before rounding, unlike above.
fn quantize_runs(c: &KernelCall<'_>, out: &mut TensorMut<'_>, size: usize) -> Result {
    let (scales, zeros) = (c.tensor(1)?.as_vec::<f32>(), c.tensor(2)?.as_vec::<f32>());
    let (min, max) = (c.float(3)? as f32, c.float(4)? as f32);
    let x = c.tensor(0)?.as_vec::<f32>();
    let q = x.iter().enumerate().map(|(i, &x)| {
        let r = i / size;
        (x * (1.0 / scales[r]) + zeros[r]).round_ties_even().clamp(min, max)
    });
    store(out, q);
    Ok(())
}
fn dequantize_runs(c: &KernelCall<'_>, out: &mut TensorMut<'_>, size: usize) -> Result {
    let scales = c.tensor(1)?.as_vec::<f32>();
    let zeros = c.opt_tensor(2).map(|z| z.as_vec::<f32>());
    let v = c.tensor(0)?.as_vec::<f32>();
    out.store(
        v.iter()
            .enumerate()
            .map(|(i, &q)| (q - zeros.as_ref().map_or(0.0, |z| z[i / size])) * scales[i / size]),
    );
    Ok(())
}
fn last(c: &KernelCall<'_>) -> std::result::Result<usize, KernelError> {
    Ok(c.tensor(0)?.shape.last().copied().unwrap_or(1).max(1))
}
fn quantize_per_token(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantize_runs(c, &mut outs[0], last(c)?)
}
fn dequantize_per_token(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    dequantize_runs(c, &mut outs[0], last(c)?)
}
fn quantize_per_group(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantize_runs(c, &mut outs[0], (c.int(6)? as usize).max(1))
}
fn dequantize_per_group(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    dequantize_runs(c, &mut outs[0], (c.int(6)? as usize).max(1))
}

/// Minimum and maximum of a run, zero included.
fn range(isa: Isa, x: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut lo, mut hi) = ([0f32; LANES], [0f32; LANES]);
    isa.vectorize(
        #[inline(always)]
        || {
            let (whole, rest) = x.as_chunks::<LANES>();
            let mut last = [0f32; LANES];
            last[..rest.len()].copy_from_slice(rest);
            for x in whole.iter().chain([&last]) {
                for i in 0..LANES {
                    // NaN is neither less nor greater.
                    lo[i] = if x[i] < lo[i] { x[i] } else { lo[i] };
                    hi[i] = if x[i] > hi[i] { x[i] } else { hi[i] };
                }
            }
        },
    );
    (lo.into_iter().fold(0.0, f32::min), hi.into_iter().fold(0.0, f32::max))
}

/// Affine parameters of a range, as observers compute them.
fn affine((lo, hi): (f32, f32), min: i64, max: i64, eps: f32) -> (f32, i64) {
    let scale = ((hi - lo) / (max - min) as f32).max(eps);
    let zero = min - (lo / scale).round_ties_even() as i64;
    (scale, zero.clamp(min, max))
}

/// `choose_qparams(input, quant_min, quant_max, eps, dtype)`
fn choose_qparams(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let (scale, zero) = affine(range(c.isa, &x), c.int(1)?, c.int(2)?, c.float(3)? as f32);
    outs[0].store([scale]);
    outs[1].store([zero]);
    Ok(())
}
fn choose_qparams_symmetric(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let (lo, hi) = range(c.isa, &x);
    let span = (c.int(2)? - c.int(1)?) as f32 / 2.0;
    outs[0].store([((-lo).max(hi) / span).max(c.float(3)? as f32)]);
    let zero = if c.arg(4) == &crate::kernel::ConcreteArg::DType(DType::U8) { 128 } else { 0 };
    outs[1].store([zero as i64]);
    Ok(())
}

/// Symmetric int8 parameters of each row.
fn choose_per_token(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let rows = x
        .chunks_exact(last(c)?)
        .map(|r| (r.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-5) / 127.0) as f64);
    outs[0].store(rows.collect::<Vec<_>>());
    outs[1].bytes.fill(0);
    Ok(())
}

/// Asymmetric int8 parameters of each row; the zero point is chosen where the larger of the two rounding errors is
/// smaller.
fn choose_per_token_asymmetric(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let (mut scales, mut zeros) = (vec![], vec![]);
    for row in x.chunks_exact(last(c)?) {
        let (lo, hi) = range(c.isa, row);
        let scale = ((hi - lo) / 255.0).max(f32::EPSILON);
        let (low, high) = (lo / scale, hi / scale);
        let zero = if (-128.0 + low) + (127.0 + high) > 0.0 { -128.0 - low } else { 127.0 - high };
        scales.push(f64::from(scale));
        zeros.push(zero.clamp(-128.0, 127.0).round_ties_even() as i64);
    }
    outs[0].store(scales);
    outs[1].store(zeros);
    Ok(())
}

/// Block sizes of argument `i`.
fn block_sizes(c: &KernelCall<'_>, i: usize) -> std::result::Result<Vec<usize>, KernelError> {
    fitting(c.ints(i)?, c.tensor(0)?.shape)
}

fn fitting(block: &[i64], shape: &[usize]) -> std::result::Result<Vec<usize>, KernelError> {
    // A dimension of size zero is its own block.
    let size = |&b: &i64| usize::try_from(b).ok().map(|b| b.max(1));
    let block: Option<Vec<usize>> = block.iter().map(size).collect();
    let fits =
        |block: &Vec<usize>| block.len() == shape.len() && shape.iter().zip(block).all(|(n, b)| n % b == 0);
    block.filter(fits).ok_or_else(|| KernelError::new("block sizes do not divide the input"))
}

/// Bounds given as arguments, or those of the integer type.
fn bounds(c: &KernelCall<'_>, i: usize, dtype: DType) -> (f64, f64) {
    let (lo, hi) = dtype.int_bounds().unwrap_or((-128, 127));
    (c.opt_float(i).unwrap_or(lo as f64), c.opt_float(i + 1).unwrap_or(hi as f64))
}

/// The reciprocals of scales, in their own type.
fn reciprocals(scales: TensorRef<'_>) -> Vec<f32> {
    let inv = scales.as_vec::<f32>().iter().map(|s| 1.0 / s).collect::<Vec<f32>>();
    match scales.dtype {
        DType::F16 => inv.into_iter().map(|v| f16::from_f32(v).to_f32()).collect(),
        DType::BF16 => inv.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect(),
        _ => inv,
    }
}

/// Zero points of argument `i`, 0 where there are none.
fn zeros(c: &KernelCall<'_>, i: usize, count: usize) -> Vec<f32> {
    let given = c.opt_tensor(i).map(|z| z.as_vec::<f32>().to_vec());
    given.filter(|z| !z.is_empty()).unwrap_or_else(|| vec![0.0; count])
}

/// `quantize_affine(input, block_size, scale, zero_point, output_dtype, quant_min, quant_max)`
fn quantize_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let inv = reciprocals(c.tensor(2)?);
    let zeros = zeros(c, 3, inv.len());
    let (min, max) = bounds(c, 5, outs[0].dtype);
    let (min, max) = (min as f32, max as f32);
    let v = x.as_vec::<f32>();
    let (out, block) = (&mut outs[0], block_sizes(c, 1)?);
    let bytes = out.dtype.size() == 1;
    let mut wide = vec![0f32; if bytes { 0 } else { v.len() }];
    runs(x.shape, &block, |b, run| {
        // By value: what lies behind references would be read again after every byte that is written.
        let affine = Affine { inverse: inv[b], zero: zeros[b], min, max };
        c.isa.vectorize(
            #[inline(always)]
            || {
                let x = &v[run.clone()];
                match bytes {
                    true => affine.bytes(x, &mut out.bytes[run]),
                    false => wide[run].iter_mut().zip(x).for_each(|(o, &x)| *o = affine.quantize(x)),
                }
            },
        );
    });
    if !bytes {
        store(out, wide.into_iter());
    }
    Ok(())
}

/// `dequantize_affine(input, block_size, scale, zero_point, …)`
fn dequantize_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let q = c.tensor(0)?;
    let scales = c.tensor(2)?.as_vec::<f32>();
    let zeros = zeros(c, 3, scales.len());
    let v = q.as_vec::<f32>();
    let (shape, block) = (q.shape, block_sizes(c, 1)?);
    let each = |x: &mut [f32]| {
        runs(shape, &block, |b, run| {
            let (scale, zero) = (scales[b], zeros[b]);
            c.isa.vectorize(
                #[inline(always)]
                || x[run.clone()].iter_mut().zip(&v[run]).for_each(|(x, q)| *x = (q - zero) * scale),
            );
        });
    };
    match outs[0].slice::<f32>() {
        Some(x) => each(x),
        None => {
            let mut x = vec![0f32; v.len()];
            each(&mut x);
            outs[0].store(x);
        }
    }
    Ok(())
}

/// `dequantize_codebook(codes, codebook, nbits, block_size, …)`: element `i` of block `b` is vector `codes[i]` of table `b`.
fn dequantize_codebook(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (codes, tables) = (c.tensor(0)?, c.tensor(1)?);
    let whole = c.ints(3)?.iter().zip(codes.shape).map(|(&b, &n)| if b == -1 { n as i64 } else { b });
    let block = fitting(&whole.collect::<Vec<_>>(), codes.shape)?;
    let [.., length, vector] = *tables.shape else {
        return Err(KernelError::new("the codebook has no vectors"));
    };
    let (codes, entries) = (codes.as_vec::<i64>(), tables.as_vec::<f32>());
    if let Some(bad) = codes.iter().find(|c| !(0..length as i64).contains(c)) {
        return Err(KernelError::new(format!("code {bad} is outside a table of {length}")));
    }
    let mut x = vec![0f32; codes.len() * vector];
    runs(c.tensor(0)?.shape, &block, |b, run| {
        for i in run {
            let at = (b * length + codes[i] as usize) * vector;
            x[i * vector..(i + 1) * vector].copy_from_slice(&entries[at..at + vector]);
        }
    });
    outs[0].store(x);
    Ok(())
}

/// `choose_qparams_affine(input, mapping, block_size, dtype, quant_min, quant_max, eps, …)`
fn choose_qparams_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let crate::kernel::ConcreteArg::DType(target) = c.arg(3) else {
        return Err(KernelError::new("target_dtype is missing"));
    };
    let (min, max) = bounds(c, 4, *target);
    // The least normal number of the input's type.
    let least = if x.dtype == DType::F16 { 2f64.powi(-14) } else { f64::from(f32::MIN_POSITIVE) };
    let eps = c.opt_float(6).unwrap_or(least) as f32;
    let v = x.as_vec::<f32>();
    // Zero included.
    let mut ranges = vec![(0f32, 0f32); outs[0].numel()];
    runs(x.shape, &block_sizes(c, 2)?, |b, run| {
        let (lo, hi) = range(c.isa, &v[run]);
        ranges[b] = (ranges[b].0.min(lo), ranges[b].1.max(hi));
    });
    let middle = ((min + max + 1.0) / 2.0) as i64;
    let choose = |(lo, hi): (f32, f32)| match c.str(1) {
        Some("ASYMMETRIC") => affine((lo, hi), min as i64, max as i64, eps),
        Some("SYMMETRIC_NO_CLIPPING_ERR") => {
            let (low, high) = (lo / min as f32, hi / max as f32);
            ((if low > high { low } else { high }).max(eps), middle)
        }
        _ => (((-lo).max(hi) / ((max - min) / 2.0) as f32).max(eps), middle),
    };
    let (scales, zeros): (Vec<f32>, Vec<i64>) = ranges.into_iter().map(choose).unzip();
    outs[0].store(scales);
    outs[1].store(zeros);
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("quantized_decomposed.quantize_per_tensor.default", quantize_per_tensor),
    ("quantized_decomposed.quantize_per_tensor.tensor", quantize_per_tensor_tensor),
    ("quantized_decomposed.quantize_per_tensor.tensor2", quantize_per_tensor_tensor),
    ("quantized_decomposed.dequantize_per_tensor.default", dequantize_per_tensor),
    ("quantized_decomposed.dequantize_per_tensor.tensor", dequantize_per_tensor_tensor),
    ("quantized_decomposed.dequantize_per_tensor.tensor2", dequantize_per_tensor_tensor),
    ("quantized_decomposed.quantize_per_channel.default", quantize_per_channel),
    ("quantized_decomposed.dequantize_per_channel.default", dequantize_per_channel),
    ("quantized_decomposed.quantize_per_channel_group.default", quantize_per_group),
    ("quantized_decomposed.dequantize_per_channel_group.default", dequantize_per_group),
    ("quantized_decomposed.quantize_per_token.default", quantize_per_token),
    ("quantized_decomposed.dequantize_per_token.default", dequantize_per_token),
    ("quantized_decomposed.choose_qparams.tensor", choose_qparams),
    ("quantized_decomposed.choose_qparams_symmetric.tensor", choose_qparams_symmetric),
    ("quantized_decomposed.choose_qparams_per_token.default", choose_per_token),
    ("quantized_decomposed.choose_qparams_per_token_asymmetric.default", choose_per_token_asymmetric),
    ("torchao.quantize_affine.default", quantize_affine),
    ("torchao.dequantize_affine.default", dequantize_affine),
    ("torchao.choose_qparams_affine.default", choose_qparams_affine),
    ("quant.dequantize_codebook.default", dequantize_codebook),
];
