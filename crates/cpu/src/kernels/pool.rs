//! Pooling in one, two and three dimensions.

use super::Table;
use crate::kernel::{KernelCall, KernelError, Number, TensorMut, TensorRef};
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// One pooled dimension: for each output index, the window in the input as start, end and step, and how many places it
/// covers with padding counted.
pub(super) struct Axis {
    pub input: usize,
    pub windows: Vec<(usize, usize, usize, usize)>,
}

impl Axis {
    fn sliding(input: usize, out: usize, kernel: i64, stride: i64, pad: i64, dilation: i64) -> Axis {
        let n = input as i64;
        let windows = (0..out as i64)
            .map(|o| {
                let start = o * stride - pad;
                let end = start + dilation * (kernel - 1) + 1;
                // A window that hangs over the right padding counts only what padding there is.
                let covered = end.min(n + pad) - start;
                let first =
                    if start < 0 { start + (-start + dilation - 1) / dilation * dilation } else { start };
                (first as usize, end.min(n).max(0) as usize, dilation as usize, covered as usize)
            })
            .collect();
        Axis { input, windows }
    }

    /// Windows of an adaptive pool: `floor(o·n/out) .. ceil((o+1)·n/out)`.
    fn adaptive(input: usize, out: usize) -> Axis {
        let windows = (0..out)
            .map(|o| {
                let (start, end) = (o * input / out, ((o + 1) * input).div_ceil(out));
                (start, end, 1, end - start)
            })
            .collect();
        Axis { input, windows }
    }
}

/// Three axes; fewer are padded with whole ones in front.
fn axes(list: Vec<Axis>) -> [Axis; 3] {
    let mut all: Vec<Axis> = (list.len()..3).map(|_| Axis::adaptive(1, 1)).collect();
    all.extend(list);
    let [a, b, c] = all.try_into().unwrap_or_else(|_| [(); 3].map(|()| Axis::adaptive(1, 1)));
    [a, b, c]
}

/// The sliding windows of a pool with arguments kernel, stride, padding (1, 2, 3) and dilation (4, max pools only).
pub(super) fn sliding(
    c: &KernelCall<'_>,
    out: &[usize],
    dilated: bool,
) -> std::result::Result<[Axis; 3], KernelError> {
    let x = c.tensor(0)?;
    let name = c.op.short_name();
    let n = if name.contains("1d") {
        1
    } else if name.contains("2d") {
        2
    } else {
        3
    };
    let kernel = c.widened(1, n, &[])?;
    let stride = c.widened(2, n, &kernel)?;
    let padding = c.widened(3, n, &vec![0; n])?;
    let dilation = if dilated { c.widened(4, n, &vec![1; n])? } else { vec![1; n] };
    let first = x.shape.len() - n;
    let list = (0..n)
        .map(|i| {
            Axis::sliding(x.shape[first + i], out[first + i], kernel[i], stride[i], padding[i], dilation[i])
        })
        .collect();
    Ok(axes(list))
}

pub(super) fn adaptive_axes(
    c: &KernelCall<'_>,
    out: &[usize],
) -> std::result::Result<[Axis; 3], KernelError> {
    let x = c.tensor(0)?;
    let n = c.ints(1)?.len();
    let first = x.shape.len() - n;
    Ok(axes((0..n).map(|i| Axis::adaptive(x.shape[first + i], out[first + i])).collect()))
}

/// Calls `f(output index, plane offset, windows)` for every output element.
fn for_each_window(
    x: TensorRef<'_>,
    a: &[Axis; 3],
    mut f: impl FnMut(usize, usize, [(usize, usize, usize, usize); 3]),
) {
    let plane: usize = a.iter().map(|a| a.input).product();
    let planes = x.numel().checked_div(plane).unwrap_or(0);
    let mut i = 0;
    for p in 0..planes {
        for &z in &a[0].windows {
            for &y in &a[1].windows {
                for &w in &a[2].windows {
                    f(i, p * plane, [z, y, w]);
                    i += 1;
                }
            }
        }
    }
}

/// Averages; `divisor` 0 means the window: with its padding if `padded`.
fn averages(x: TensorRef<'_>, a: &[Axis; 3], out: &mut TensorMut<'_>, padded: bool, divisor: i64) {
    let v = x.as_vec::<f32>();
    let mut result = vec![0f32; out.numel()];
    let (h, w) = (a[1].input, a[2].input);
    for_each_window(x, a, |i, base, [z, y, k]| {
        let mut sum = 0f64;
        for d in z.0..z.1 {
            for r in y.0..y.1 {
                let row = base + (d * h + r) * w;
                sum += v[row + k.0..row + k.1.max(k.0)].iter().map(|&v| f64::from(v)).sum::<f64>();
            }
        }
        let inside = (z.1 - z.0) * (y.1 - y.0) * k.1.saturating_sub(k.0);
        let n = match divisor {
            0 if padded => z.3 * y.3 * k.3,
            0 => inside,
            d => d as usize,
        };
        result[i] = (sum / n as f64) as f32;
    });
    out.store(result);
}

/// `avg_pool(input, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)`
fn avg_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = sliding(c, outs[0].shape, false)?;
    averages(c.tensor(0)?, &a, &mut outs[0], c.bool(5)?, c.int_or(6, 0)?);
    Ok(())
}

fn adaptive_avg_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = adaptive_axes(c, outs[0].shape)?;
    averages(c.tensor(0)?, &a, &mut outs[0], false, 0);
    Ok(())
}

fn maxima<T: Number>(x: TensorRef<'_>, a: &[Axis; 3], outs: &mut [TensorMut<'_>], lowest: T) {
    let v = x.as_vec::<T>();
    let n = outs[0].numel();
    let (mut values, mut indices) = (vec![lowest; n], vec![0i64; if outs.len() > 1 { n } else { 0 }]);
    let (h, w) = (a[1].input, a[2].input);
    for_each_window(x, a, |i, base, [z, y, k]| {
        let mut best = lowest;
        // The first place in the window, for windows of −∞ alone.
        let mut at = (z.0 * h + y.0) * w + k.0;
        for d in (z.0..z.1).step_by(z.2) {
            for r in (y.0..y.1).step_by(y.2) {
                for s in (k.0..k.1).step_by(k.2) {
                    let o = (d * h + r) * w + s;
                    let x = v[base + o];
                    if x > best || x.partial_cmp(&x).is_none() {
                        (best, at) = (x, o);
                    }
                }
            }
        }
        values[i] = best;
        if let Some(slot) = indices.get_mut(i) {
            *slot = at as i64;
        }
    });
    outs[0].store(values);
    if let [_, out] = outs {
        out.store(indices);
    }
}

fn max_of(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], a: &[Axis; 3]) -> Result {
    let x = c.tensor(0)?;
    match x.dtype {
        DType::F64 => maxima::<f64>(x, a, outs, f64::NEG_INFINITY),
        d if d.is_float() => maxima::<f32>(x, a, outs, f32::NEG_INFINITY),
        _ => maxima::<i64>(x, a, outs, i64::MIN),
    }
    Ok(())
}
fn max_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = sliding(c, outs[0].shape, true)?;
    max_of(c, outs, &a)
}
fn adaptive_max_pool(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = adaptive_axes(c, outs[0].shape)?;
    max_of(c, outs, &a)
}

pub(super) const TABLE: Table = &[
    ("aten.max_pool1d.default", max_pool),
    ("aten.max_pool2d.default", max_pool),
    ("aten.max_pool2d_with_indices.default", max_pool),
    ("aten.max_pool3d.default", max_pool),
    ("aten.max_pool3d_with_indices.default", max_pool),
    ("aten.avg_pool1d.default", avg_pool),
    ("aten.avg_pool2d.default", avg_pool),
    ("aten.avg_pool3d.default", avg_pool),
    ("aten.adaptive_avg_pool1d.default", adaptive_avg_pool),
    ("aten.adaptive_avg_pool2d.default", adaptive_avg_pool),
    ("aten.adaptive_avg_pool3d.default", adaptive_avg_pool),
    ("aten._adaptive_avg_pool2d.default", adaptive_avg_pool),
    ("aten._adaptive_avg_pool3d.default", adaptive_avg_pool),
    ("aten.adaptive_max_pool1d.default", adaptive_max_pool),
    ("aten.adaptive_max_pool2d.default", adaptive_max_pool),
    ("aten.adaptive_max_pool3d.default", adaptive_max_pool),
];
