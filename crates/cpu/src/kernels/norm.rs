//! Normalization.

use super::Table;
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef};
use lowbit_core::DType;
use std::borrow::Cow;

type Result = std::result::Result<(), KernelError>;

fn channels<'a>(c: &KernelCall<'a>, i: usize) -> Option<Cow<'a, [f32]>> {
    c.opt_tensor(i).map(|t| t.as_vec::<f32>())
}

/// `(x − mean)/√(var + eps) · weight + bias` with one of each a channel.
fn scale_channels(x: TensorRef<'_>, out: &mut TensorMut<'_>, scale: &[f32], shift: &[f32]) {
    let v = x.as_vec::<f32>();
    let inner: usize = x.shape.iter().skip(2).product();
    let n = scale.len();
    match out.slice::<f32>() {
        Some(o) if inner > 0 => {
            for (k, (o, x)) in o.chunks_exact_mut(inner).zip(v.chunks_exact(inner)).enumerate() {
                let (a, b) = (scale[k % n], shift[k % n]);
                o.iter_mut().zip(x).for_each(|(o, &x)| *o = x * a + b);
            }
        }
        _ => out.store(
            v.iter().enumerate().map(|(i, &x)| x * scale[i / inner.max(1) % n] + shift[i / inner.max(1) % n]),
        ),
    }
}

/// Scale and shift of each channel from running statistics.
fn affine(
    mean: &[f32],
    var: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f64,
) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f32> = (0..mean.len())
        .map(|i| weight.map_or(1.0, |w| w[i]) * (1.0 / (f64::from(var[i]) + eps).sqrt()) as f32)
        .collect();
    let shift = (0..mean.len()).map(|i| bias.map_or(0.0, |b| b[i]) - mean[i] * scale[i]).collect();
    (scale, shift)
}

/// `batch_norm(input, weight, bias, mean, var, training, momentum, eps)` and the core forms.
fn batch_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    match running_affine(c)? {
        Some((scale, shift)) => {
            scale_channels(x, &mut outs[0], &scale, &shift);
            Ok(())
        }
        None => {
            let (weight, bias) = (channels(c, 1), channels(c, 2));
            let eps = c.float(c.index_of("eps").unwrap_or(7))?;
            batch_statistics(x, outs, weight.as_deref(), bias.as_deref(), eps)
        }
    }
}

/// Scale and shift of a `batch_norm` call with running statistics; `None` where it uses those of the batch itself.
pub(super) fn running_affine(
    c: &KernelCall<'_>,
) -> std::result::Result<Option<(Vec<f32>, Vec<f32>)>, KernelError> {
    let eps = c.float(c.index_of("eps").unwrap_or(7))?;
    let training = c.index_of("training").is_some_and(|i| matches!(c.bool(i), Ok(true)));
    let stats_given = c.index_of("running_mean").is_some_and(|i| c.opt_tensor(i).is_some());
    if training || !stats_given {
        return Ok(None);
    }
    let (Some(mean), Some(var)) = (channels(c, 3), channels(c, 4)) else {
        return Err(KernelError::new("running mean and variance are needed"));
    };
    let (weight, bias) = (channels(c, 1), channels(c, 2));
    Ok(Some(affine(&mean, &var, weight.as_deref(), bias.as_deref(), eps)))
}

/// Statistics of the batch itself, over all but the channel dimension.
fn batch_statistics(
    x: TensorRef<'_>,
    outs: &mut [TensorMut<'_>],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f64,
) -> Result {
    let n = x.shape[1];
    let inner: usize = x.shape.iter().skip(2).product();
    let v = x.as_vec::<f32>();
    let count = (v.len() / n.max(1)) as f64;
    let (mut sums, mut squares) = (vec![0f64; n], vec![0f64; n]);
    let of = |i: usize| i / inner.max(1) % n;
    v.iter().enumerate().for_each(|(i, &x)| sums[of(i)] += f64::from(x));
    let mean: Vec<f64> = sums.iter().map(|s| s / count).collect();
    v.iter().enumerate().for_each(|(i, &x)| squares[of(i)] += (f64::from(x) - mean[of(i)]).powi(2));
    let var: Vec<f32> = squares.iter().map(|s| (s / count) as f32).collect();
    let mean: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
    let (scale, shift) = affine(&mean, &var, weight, bias, eps);
    scale_channels(x, &mut outs[0], &scale, &shift);
    if let [_, m, s] = outs
        && m.numel() == n
    {
        m.store(mean);
        s.store(var.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32));
    }
    Ok(())
}

/// Mean and inverse deviation of a group, summed in `f64` in lanes side by side.
#[inline(always)]
fn moments(x: &[f32], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = sum(x, |v| v) / n;
    let var = sum(x, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

/// The sum of `f` of every element.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(s, &v)| *s += f(f64::from(v)));
    }
    lanes.iter_mut().zip(rest).for_each(|(s, &v)| *s += f(f64::from(v)));
    lanes.into_iter().sum()
}

/// Normalizes runs of `size`; parameter of element `i` of run `r` is `place(r, i)`.
fn runs(
    c: &KernelCall<'_>,
    outs: &mut [TensorMut<'_>],
    size: usize,
    weight: Option<Cow<'_, [f32]>>,
    bias: Option<Cow<'_, [f32]>>,
    eps: f64,
    place: impl Fn(usize, usize) -> usize,
) -> Result {
    let v = c.tensor(0)?.as_vec::<f32>();
    let mut result = vec![0f32; v.len()];
    let mut stats = vec![];
    for (r, (x, o)) in v.chunks_exact(size.max(1)).zip(result.chunks_exact_mut(size.max(1))).enumerate() {
        let (mean, inv) = c.isa.vectorize(
            #[inline(always)]
            || moments(x, eps),
        );
        stats.push((mean, inv));
        let (mean, inv) = (mean as f32, inv as f32);
        for (i, (o, &x)) in o.iter_mut().zip(x).enumerate() {
            let p = place(r, i);
            *o = (x - mean) * inv * weight.as_ref().map_or(1.0, |w| w[p])
                + bias.as_ref().map_or(0.0, |b| b[p]);
        }
    }
    outs[0].store(result);
    store_stats(outs, &stats);
    Ok(())
}

fn store_stats(outs: &mut [TensorMut<'_>], stats: &[(f64, f64)]) {
    if let [_, m, s] = outs {
        m.store(stats.iter().map(|s| s.0));
        s.store(stats.iter().map(|s| s.1));
    }
}

/// Layer norm of `f32` rows, the common case: vectorized.
fn rows(
    c: &KernelCall<'_>,
    outs: &mut [TensorMut<'_>],
    size: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f64,
) -> Result {
    let x = c.tensor(0)?.as_vec::<f32>();
    let rows = x.len() / size;
    let mut stats = vec![(0.0, 0.0); rows];
    if let Some(out) = outs[0].slice::<f32>() {
        let part = c.threads.together(rows, size);
        let (xs, outs) = (x.chunks(part * size), out.chunks_mut(part * size));
        c.threads.for_each(
            xs.zip(outs).zip(stats.chunks_mut(part)),
            || (),
            |(), ((x, out), stats)| {
                for ((x, o), stats) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)).zip(stats) {
                    *stats = c.isa.vectorize(
                        #[inline(always)]
                        || {
                            let (mean, inv) = moments(x, eps);
                            let (m, s) = (mean as f32, inv as f32);
                            let parameters = weight.iter().zip(bias);
                            for ((o, &x), (&w, &b)) in o.iter_mut().zip(x).zip(parameters) {
                                *o = (x - m) * s * w + b;
                            }
                            (mean, inv)
                        },
                    );
                }
            },
        );
    }
    store_stats(outs, &stats);
    Ok(())
}

/// `layer_norm(input, shape, weight, bias, eps)` and its core form.
fn layer_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let size = c.ints(1)?.iter().product::<i64>() as usize;
    let (weight, bias, eps) = (channels(c, 2), channels(c, 3), c.float(4)?);
    match (&weight, &bias) {
        (Some(w), Some(b)) if outs[0].dtype == DType::F32 && size > 0 => rows(c, outs, size, w, b, eps),
        _ => runs(c, outs, size, weight, bias, eps, |_, i| i),
    }
}

/// `rms_norm(input, shape, weight, eps)`; without eps the type's epsilon.
fn rms_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let size = c.ints(1)?.iter().product::<i64>() as usize;
    let (weight, eps) = (channels(c, 2), c.opt_float(3).unwrap_or(f64::from(f32::EPSILON)));
    let v = x.as_vec::<f32>();
    let normal = v.chunks_exact(size.max(1)).flat_map(|x| {
        let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / size as f64;
        let inv = (1.0 / (square + eps).sqrt()) as f32;
        let weight = &weight;
        x.iter().enumerate().map(move |(i, &v)| v * inv * weight.as_ref().map_or(1.0, |w| w[i]))
    });
    outs[0].store(normal);
    Ok(())
}

fn grouped(
    c: &KernelCall<'_>,
    outs: &mut [TensorMut<'_>],
    groups: usize,
    weight: Option<Cow<'_, [f32]>>,
    bias: Option<Cow<'_, [f32]>>,
    eps: f64,
) -> Result {
    let x = c.tensor(0)?;
    let inner: usize = x.shape.iter().skip(2).product();
    let per = x.shape[1] / groups;
    runs(c, outs, per * inner, weight, bias, eps, |r, i| r % groups * per + i / inner.max(1))
}

/// `group_norm(input, groups, weight, bias, eps)`
fn group_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    grouped(c, outs, c.int(1)? as usize, channels(c, 2), channels(c, 3), c.float(4)?)
}

/// `native_group_norm(input, weight, bias, N, C, HxW, group, eps)`
fn native_group_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    grouped(c, outs, c.int(6)? as usize, channels(c, 1), channels(c, 2), c.float(7)?)
}

/// `instance_norm(input, weight, bias, mean, var, use_input_stats, momentum, eps)`
fn instance_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    if c.bool(5)? {
        return grouped(c, outs, x.shape[1], channels(c, 1), channels(c, 2), c.float(7)?);
    }
    let (Some(mean), Some(var)) = (channels(c, 3), channels(c, 4)) else {
        return Err(KernelError::new("running mean and variance are needed"));
    };
    let (scale, shift) =
        affine(&mean, &var, channels(c, 1).as_deref(), channels(c, 2).as_deref(), c.float(7)?);
    scale_channels(x, &mut outs[0], &scale, &shift);
    Ok(())
}

/// `_weight_norm(v, g, dim)`: `v · g/‖v‖`, norms over all dimensions but `dim`.
fn weight_norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, g) = (c.tensor(0)?, c.tensor(1)?);
    let d = c.int(2)?;
    let (v, g) = (x.as_vec::<f32>(), g.as_vec::<f32>());
    let n = if d < 0 { 1 } else { x.shape[d as usize] };
    let inner: usize = if d < 0 { v.len() } else { x.shape[d as usize + 1..].iter().product() };
    let of = |i: usize| i / inner.max(1) % n;
    let mut squares = vec![0f64; n];
    v.iter().enumerate().for_each(|(i, &x)| squares[of(i)] += f64::from(x).powi(2));
    let scale: Vec<f32> =
        squares.iter().zip(g.iter()).map(|(s, &g)| (f64::from(g) / s.sqrt()) as f32).collect();
    outs[0].store(v.iter().enumerate().map(|(i, &x)| x * scale[of(i)]));
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.batch_norm.default", batch_norm),
    ("aten.native_batch_norm.default", batch_norm),
    ("aten._native_batch_norm_legit_no_training.default", batch_norm),
    ("aten._native_batch_norm_legit.no_stats", batch_norm),
    ("aten.layer_norm.default", layer_norm),
    ("aten.native_layer_norm.default", layer_norm),
    ("aten.rms_norm.default", rms_norm),
    ("aten.group_norm.default", group_norm),
    ("aten.native_group_norm.default", native_group_norm),
    ("aten.instance_norm.default", instance_norm),
    ("aten._weight_norm.default", weight_norm),
];
