//! Kernels that read and write images channels last, `f32` and some of bytes. Shapes are as PyTorch has them; bytes lie `[N, …, C]`. Each
//! computes the same bits as the kernel for C order.

use super::norm::running_affine;
use super::pool::{Axis, adaptive_axes, sliding};
use crate::kernel::{Kernel, KernelCall, KernelError, Number, TensorMut};
use lowbit_core::DType;
use lowbit_core::ops::OpDef;
use lowbit_core::tensor::Element;

type Result = std::result::Result<(), KernelError>;

/// The kernel of an operator that has one.
pub(crate) fn kernel(op: &OpDef) -> Option<Kernel> {
    let kernel: Kernel = match op.name {
        "aten.max_pool1d.default"
        | "aten.max_pool2d.default"
        | "aten.max_pool2d_with_indices.default"
        | "aten.max_pool3d.default"
        | "aten.max_pool3d_with_indices.default" => max_pool,
        "aten.avg_pool1d.default" | "aten.avg_pool2d.default" | "aten.avg_pool3d.default" => avg_pool,
        "aten.adaptive_avg_pool1d.default"
        | "aten.adaptive_avg_pool2d.default"
        | "aten.adaptive_avg_pool3d.default"
        | "aten._adaptive_avg_pool2d.default"
        | "aten._adaptive_avg_pool3d.default" => adaptive_avg_pool,
        "aten.batch_norm.default" | "aten._native_batch_norm_legit_no_training.default" => batch_norm,
        "aten.prelu.default" => prelu,
        _ => return None,
    };
    Some(kernel)
}

/// Whether an operator's kernel takes 8-bit integers besides `f32`.
pub(crate) fn takes_bytes(op: &OpDef) -> bool {
    op.short_name().starts_with("max_pool")
}

fn other_type() -> KernelError {
    KernelError::new("images of this type are not kept channels last")
}

fn elements<'a, T: Element>(c: &KernelCall<'a>) -> std::result::Result<&'a [T], KernelError> {
    c.tensor(0)?.slice::<T>().ok_or_else(other_type)
}

fn input<'a>(c: &KernelCall<'a>) -> std::result::Result<&'a [f32], KernelError> {
    elements(c)
}

fn output<'a>(out: &'a mut TensorMut<'_>) -> std::result::Result<&'a mut [f32], KernelError> {
    out.slice::<f32>().ok_or_else(other_type)
}

/// Calls `f(output pixel, first pixel of the image, windows)` for every pixel of the result.
#[inline(always)]
fn for_each_pixel(
    batch: usize,
    a: &[Axis; 3],
    mut f: impl FnMut(usize, usize, [(usize, usize, usize, usize); 3]),
) {
    let plane: usize = a.iter().map(|a| a.input).product();
    let mut i = 0;
    for b in 0..batch {
        for &z in &a[0].windows {
            for &y in &a[1].windows {
                for &w in &a[2].windows {
                    f(i, b * plane, [z, y, w]);
                    i += 1;
                }
            }
        }
    }
}

fn averages(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    a: &[Axis; 3],
    padded: bool,
    divisor: i64,
) -> Result {
    let (x, shape) = (input(c)?, out.shape);
    let n = shape[1];
    let out = output(out)?;
    let (h, w) = (a[1].input, a[2].input);
    let mut sums = vec![0f64; n];
    for_each_pixel(shape[0], a, |i, base, [z, y, k]| {
        sums.fill(0.0);
        for d in z.0..z.1 {
            for r in y.0..y.1 {
                let row = (base + (d * h + r) * w + k.0) * n;
                let pixels = x[row..row + k.1.saturating_sub(k.0) * n].chunks_exact(n);
                pixels.for_each(|p| sums.iter_mut().zip(p).for_each(|(s, &v)| *s += f64::from(v)));
            }
        }
        let inside = (z.1 - z.0) * (y.1 - y.0) * k.1.saturating_sub(k.0);
        let count = match divisor {
            0 if padded => z.3 * y.3 * k.3,
            0 => inside,
            d => d as usize,
        } as f64;
        let out = &mut out[i * n..(i + 1) * n];
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = (s / count) as f32);
    });
    Ok(())
}

fn avg_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = sliding(c, outs[0].shape, false)?;
    averages(c, &mut outs[0], &a, c.bool(5)?, c.int_or(6, 0)?)
}

fn adaptive_avg_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = adaptive_axes(c, outs[0].shape)?;
    averages(c, &mut outs[0], &a, false, 0)
}

fn max_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    match outs[0].dtype {
        DType::I8 => maxima(c, outs, i8::MIN, |v, best| v > best),
        DType::U8 => maxima(c, outs, u8::MIN, |v, best| v > best),
        // NaN wins, and the first of equals.
        _ => maxima(c, outs, f32::NEG_INFINITY, |v: f32, best| v > best || v.is_nan()),
    }
}

/// The largest of each window, by `wins`.
fn maxima<T: Number>(
    c: &KernelCall<'_>,
    outs: &mut [TensorMut<'_>],
    lowest: T,
    wins: impl Fn(T, T) -> bool,
) -> Result {
    let a = sliding(c, outs[0].shape, true)?;
    let (x, shape) = (elements::<T>(c)?, outs[0].shape);
    let n = shape[1];
    let (values, indices) = outs.split_at_mut(1);
    let values = values[0].slice::<T>().ok_or_else(other_type)?;
    let (h, w) = (a[1].input, a[2].input);
    let pixels = |z: (usize, usize, usize, usize),
                  y: (usize, usize, usize, usize),
                  k: (usize, usize, usize, usize)| {
        (z.0..z.1).step_by(z.2).flat_map(move |d| {
            (y.0..y.1)
                .step_by(y.2)
                .flat_map(move |r| (k.0..k.1).step_by(k.2).map(move |s| (d * h + r) * w + s))
        })
    };
    let Some(indices) = indices.first_mut().and_then(|t| t.slice::<i64>()) else {
        c.isa.vectorize(
            #[inline(always)]
            || {
                for_each_pixel(shape[0], &a, |i, base, [z, y, k]| {
                    let out = &mut values[i * n..(i + 1) * n];
                    out.fill(lowest);
                    // Plain loops: adapters are not always inlined, and then not vectorized.
                    for d in (z.0..z.1).step_by(z.2) {
                        for r in (y.0..y.1).step_by(y.2) {
                            for s in (k.0..k.1).step_by(k.2) {
                                let pixel = &x[(base + (d * h + r) * w + s) * n..][..n];
                                for (b, &v) in out.iter_mut().zip(pixel) {
                                    *b = if wins(v, *b) { v } else { *b };
                                }
                            }
                        }
                    }
                });
            },
        );
        return Ok(());
    };
    for_each_pixel(shape[0], &a, |i, base, [z, y, k]| {
        let (out, at) = (&mut values[i * n..(i + 1) * n], &mut indices[i * n..(i + 1) * n]);
        out.fill(lowest);
        // The first place in the window, for windows of −∞ alone.
        at.fill(((z.0 * h + y.0) * w + k.0) as i64);
        for o in pixels(z, y, k) {
            let pixel = &x[(base + o) * n..(base + o + 1) * n];
            for ((b, at), &v) in out.iter_mut().zip(at.iter_mut()).zip(pixel) {
                if wins(v, *b) {
                    (*b, *at) = (v, o as i64);
                }
            }
        }
    });
    Ok(())
}

fn batch_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let Some((scale, shift)) = running_affine(c)? else {
        return Err(KernelError::new("statistics of the batch itself are computed in C order"));
    };
    let x = input(c)?;
    let pixels = output(&mut outs[0])?.chunks_exact_mut(scale.len()).zip(x.chunks_exact(scale.len()));
    for (o, x) in pixels {
        o.iter_mut().zip(x).zip(scale.iter().zip(&shift)).for_each(|((o, &x), (a, b))| *o = x * a + b);
    }
    Ok(())
}

fn prelu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, slope, n) = (input(c)?, c.tensor(1)?.as_vec::<f32>(), outs[0].shape[1]);
    let of = |i: usize| slope[if slope.len() == 1 { 0 } else { i }];
    for (o, x) in output(&mut outs[0])?.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
        o.iter_mut().zip(x).enumerate().for_each(|(i, (o, &x))| *o = if x > 0.0 { x } else { x * of(i) });
    }
    Ok(())
}
