//! Quantize, dequantize and the choice of parameters, in torchao's order of floating-point operations.

use super::Table;
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef, strides};
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// Stores integers computed from floats; `quant_min..=quant_max` always fits.
fn store(out: &mut TensorMut<'_>, values: impl Iterator<Item = f32>) {
    match out.dtype {
        DType::I8 => bytemuck::cast_slice_mut::<u8, i8>(out.bytes)
            .iter_mut()
            .zip(values)
            .for_each(|(o, v)| *o = v as i8),
        DType::U8 => out.bytes.iter_mut().zip(values).for_each(|(o, v)| *o = v as u8),
        _ => out.store(values),
    }
}

/// `clamp(round(x · (1/scale)) + zero_point)`, ties to even; the reciprocal is taken in f64 and rounded to f32.
fn quantize_at(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    scale: f64,
    zero: f32,
    min: f64,
    max: f64,
) -> Result {
    let inv = (1.0 / scale) as f32;
    let x = c.tensor(0)?.as_vec::<f32>();
    store(out, x.iter().map(|&x| ((x * inv).round_ties_even() + zero).clamp(min as f32, max as f32)));
    Ok(())
}

/// `(q − zero_point) · scale`
fn dequantize_at(c: &KernelCall<'_>, out: &mut TensorMut<'_>, scale: f32, zero: f32) -> Result {
    let q = c.tensor(0)?;
    match (q.dtype, out.slice::<f32>()) {
        (DType::I8, Some(o)) => {
            let q = bytemuck::cast_slice::<u8, i8>(q.bytes);
            o.iter_mut().zip(q).for_each(|(o, &q)| *o = (f32::from(q) - zero) * scale);
        }
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
    quantize_at(c, &mut outs[0], c.float(1)?, c.int(2)? as f32, c.float(3)?, c.float(4)?)
}
fn quantize_per_tensor_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (scale, zero) = (scalar(c.tensor(1)?), scalar(c.tensor(2)?) as f32);
    let bound = |i: usize| c.opt_tensor(i).map(scalar).or_else(|| c.opt_float(i)).unwrap_or(0.0);
    quantize_at(c, &mut outs[0], scale, zero, bound(3), bound(4))
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
        .map(|(i, &x)| ((x * inv[ch(i)]).round_ties_even() + zeros[ch(i)]).clamp(min, max));
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
fn range(x: impl Iterator<Item = f32>) -> (f32, f32) {
    x.fold((0.0, 0.0), |(lo, hi), v| (lo.min(v), hi.max(v)))
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
    let (scale, zero) = affine(range(x.iter().copied()), c.int(1)?, c.int(2)?, c.float(3)? as f32);
    outs[0].store([scale]);
    outs[1].store([zero]);
    Ok(())
}
fn choose_qparams_symmetric(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let (lo, hi) = range(x.iter().copied());
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
        let (lo, hi) = range(row.iter().copied());
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

/// The block of each element, for block sizes one a dimension.
fn blocks(shape: &[usize], block: &[i64]) -> Vec<usize> {
    let size = |d: usize| block.get(d).map_or(1, |&b| usize::try_from(b).unwrap_or(1).max(1));
    let counts: Vec<usize> = (0..shape.len()).map(|d| shape[d] / size(d)).collect();
    let steps = strides(&counts);
    let Some((&row, outer)) = shape.split_last() else { return vec![0] };
    let mut out = Vec::with_capacity(shape.iter().product());
    // The outer dimensions count like the wheels of an odometer; within a row it is one division an element at most.
    let mut index = vec![0; outer.len()];
    for _ in 0..outer.iter().product() {
        let first: usize = index.iter().enumerate().map(|(d, i)| i / size(d) * steps[d]).sum();
        match size(outer.len()) {
            1 => out.extend(first..first + row),
            s if s == row => out.extend(std::iter::repeat_n(first, row)),
            s => out.extend((0..row).map(|i| first + i / s)),
        }
        for d in (0..outer.len()).rev() {
            index[d] += 1;
            if index[d] < outer[d] {
                break;
            }
            index[d] = 0;
        }
    }
    out
}

/// Bounds given as arguments, or those of the integer type.
fn bounds(c: &KernelCall<'_>, i: usize, dtype: DType) -> (f64, f64) {
    let (lo, hi) = dtype.int_bounds().unwrap_or((-128, 127));
    (c.opt_float(i).unwrap_or(lo as f64), c.opt_float(i + 1).unwrap_or(hi as f64))
}

/// `quantize_affine(input, block_size, scale, zero_point, output_dtype, quant_min, quant_max)`
fn quantize_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let at = blocks(x.shape, c.ints(1)?);
    let scales = c.tensor(2)?.as_vec::<f32>();
    let zeros = c.opt_tensor(3).map(|z| z.as_vec::<f32>());
    let (min, max) = bounds(c, 5, outs[0].dtype);
    let v = x.as_vec::<f32>();
    let q = v.iter().zip(&at).map(|(&x, &b)| {
        ((x * (1.0 / scales[b])).round_ties_even() + zeros.as_ref().map_or(0.0, |z| z[b]))
            .clamp(min as f32, max as f32)
    });
    store(&mut outs[0], q);
    Ok(())
}

/// `dequantize_affine(input, block_size, scale, zero_point, …)`
fn dequantize_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let q = c.tensor(0)?;
    let at = blocks(q.shape, c.ints(1)?);
    let scales = c.tensor(2)?.as_vec::<f32>();
    let zeros = c.opt_tensor(3).map(|z| z.as_vec::<f32>());
    let v = q.as_vec::<f32>();
    outs[0].store(v.iter().zip(&at).map(|(&q, &b)| (q - zeros.as_ref().map_or(0.0, |z| z[b])) * scales[b]));
    Ok(())
}

/// `choose_qparams_affine(input, mapping, block_size, dtype, quant_min, quant_max, eps, …)`
fn choose_qparams_affine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let at = blocks(x.shape, c.ints(2)?);
    let crate::kernel::ConcreteArg::DType(target) = c.arg(3) else {
        return Err(KernelError::new("target_dtype is missing"));
    };
    let (min, max) = bounds(c, 4, *target);
    // The least normal number of the input's type.
    let least = if x.dtype == DType::F16 { 2f64.powi(-14) } else { f64::from(f32::MIN_POSITIVE) };
    let eps = c.opt_float(6).unwrap_or(least) as f32;
    let n = outs[0].numel();
    let v = x.as_vec::<f32>();
    let mut ranges = vec![(0f32, 0f32); n];
    let mut raw = vec![(f32::INFINITY, f32::NEG_INFINITY); n];
    for (&x, &b) in v.iter().zip(&at) {
        ranges[b] = (ranges[b].0.min(x), ranges[b].1.max(x));
        raw[b] = (raw[b].0.min(x), raw[b].1.max(x));
    }
    let (mut scales, mut zeros) = (vec![], vec![]);
    for (i, &(lo, hi)) in ranges.iter().enumerate() {
        match c.str(1) {
            Some("ASYMMETRIC") => {
                let (s, z) = affine((lo, hi), min as i64, max as i64, eps);
                scales.push(s);
                zeros.push(z);
            }
            Some("SYMMETRIC_NO_CLIPPING_ERR") => {
                scales.push((lo / min as f32).max(hi / max as f32).max(eps));
                zeros.push(((min + max + 1.0) / 2.0) as i64);
            }
            _ => {
                let (a, b) = raw[i];
                scales.push((a.abs().max(b.abs()) / ((max - min) / 2.0) as f32).max(eps));
                zeros.push(((min + max + 1.0) / 2.0) as i64);
            }
        }
    }
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
];

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_of_every_kind() {
        // [2, 2, 4]: channels of a pixel, images, rows, pieces of rows, everything.
        let of = |block: &[i64]| super::blocks(&[2, 2, 4], block);
        assert_eq!(of(&[1, 2, 1]), [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]);
        assert_eq!(of(&[1, 2, 4]), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(of(&[1, 1, 4]), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(of(&[2, 2, 2]), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(of(&[2, 2, 4]), [0; 16]);
        assert_eq!(super::blocks(&[], &[]), [0]);
    }
}
