//! Resampling of images and sequences.

use super::Table;
use crate::kernel::{ConcreteArg, KernelCall, KernelError, Number, TensorMut};

type Result = std::result::Result<(), KernelError>;

/// The step in the input for one step in the output, of spatial dimension `i`: from the scale factor if one was given,
/// from the sizes otherwise.
fn step(c: &KernelCall<'_>, i: usize, input: usize, out: usize, align: bool) -> f32 {
    if align {
        return if out > 1 { (input - 1) as f32 / (out - 1) as f32 } else { 0.0 };
    }
    let factor = match c.index_of("scale_factors").map(|k| c.arg(k)) {
        Some(ConcreteArg::Floats(f)) => f.get(i).copied(),
        _ => c.index_of(if i == 0 { "scales_h" } else { "scales_w" }).and_then(|k| c.opt_float(k)),
    };
    match factor {
        Some(f) if f > 0.0 => (1.0 / f) as f32,
        _ => input as f32 / out as f32,
    }
}

fn aligned(c: &KernelCall<'_>) -> bool {
    c.index_of("align_corners").is_some_and(|i| matches!(c.bool(i), Ok(true)))
}

/// For one dimension: which inputs each output mixes, with weights.
type Taps = Vec<Vec<(usize, f32)>>;

fn nearest_taps(step: f32, input: usize, out: usize) -> Taps {
    (0..out).map(|o| vec![(((o as f32 * step) as usize).min(input - 1), 1.0)]).collect()
}

fn linear_taps(step: f32, input: usize, out: usize, align: bool) -> Taps {
    (0..out)
        .map(|o| {
            let s = if align { o as f32 * step } else { ((o as f32 + 0.5) * step - 0.5).max(0.0) };
            let i = (s as usize).min(input - 1);
            let w = (s - i as f32).clamp(0.0, 1.0);
            vec![(i, 1.0 - w), ((i + 1).min(input - 1), w)]
        })
        .collect()
}

/// Keys' cubic convolution with a = −0.75, as OpenCV and PyTorch have it.
fn cubic_taps(step: f32, input: usize, out: usize, align: bool) -> Taps {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    (0..out)
        .map(|o| {
            let s = if align { o as f32 * step } else { (o as f32 + 0.5) * step - 0.5 };
            let (i, t) = (s.floor(), s - s.floor());
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            (0..4)
                .map(|k| ((i as i64 - 1 + k as i64).clamp(0, input as i64 - 1) as usize, weights[k]))
                .collect()
        })
        .collect()
}

/// What an antialiased resize mixes: a filter of `width` inputs, stretched over all inputs that an output covers.
fn smooth_taps(filter: fn(f32) -> f32, width: f32, step: f32, input: usize, out: usize) -> Taps {
    let stretch = step.max(1.0);
    let reach = width / 2.0 * stretch;
    (0..out)
        .map(|o| {
            let center = step * (o as f32 + 0.5);
            let first = (center - reach + 0.5).max(0.0) as usize;
            let end = ((center + reach + 0.5).max(0.0) as usize).min(input);
            let weights: Vec<f32> =
                (first..end).map(|i| filter((i as f32 - center + 0.5) * (1.0 / stretch))).collect();
            let total: f32 = weights.iter().sum();
            let share = |w: f32| if total == 0.0 { w } else { w / total };
            (first..end).zip(weights).map(|(i, w)| (i, share(w))).collect()
        })
        .collect()
}
fn triangle(x: f32) -> f32 {
    (1.0 - x.abs()).max(0.0)
}
/// Keys' cubic with a = −0.5, as Pillow has it, and PyTorch where it smooths.
fn smooth_cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    }
}

/// Mixes rows, then columns.
fn separable(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    taps: impl Fn(f32, usize, usize, bool) -> Taps,
) -> Result {
    let x = c.tensor(0)?;
    let align = aligned(c);
    let spatial = x.shape.len() - 2;
    let (h, w) = if spatial == 1 { (1, x.shape[2]) } else { (x.shape[2], x.shape[3]) };
    let (oh, ow) = if spatial == 1 { (1, out.shape[2]) } else { (out.shape[2], out.shape[3]) };
    let rows = if spatial == 1 { vec![vec![(0, 1.0)]] } else { taps(step(c, 0, h, oh, align), h, oh, align) };
    let cols = taps(step(c, spatial - 1, w, ow, align), w, ow, align);
    let v = x.as_vec::<f32>();
    let mut result = Vec::with_capacity(out.numel());
    for plane in v.chunks_exact((h * w).max(1)) {
        for row in &rows {
            for col in &cols {
                let at = |r: usize| col.iter().map(|&(k, a)| a * plane[r * w + k]).sum::<f32>();
                result.push(row.iter().map(|&(r, b)| b * at(r)).sum::<f32>());
            }
        }
    }
    out.store(result);
    Ok(())
}

/// Picks elements, of any type.
fn nearest(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    if !x.dtype.is_float() {
        return picked::<i64>(c, &mut outs[0]);
    }
    picked::<f32>(c, &mut outs[0])
}
fn picked<T: Number>(c: &KernelCall<'_>, out: &mut TensorMut<'_>) -> Result {
    let x = c.tensor(0)?;
    let spatial = x.shape.len() - 2;
    let (h, w) = if spatial == 1 { (1, x.shape[2]) } else { (x.shape[2], x.shape[3]) };
    let (oh, ow) = if spatial == 1 { (1, out.shape[2]) } else { (out.shape[2], out.shape[3]) };
    let rows = nearest_taps(if spatial == 1 { 1.0 } else { step(c, 0, h, oh, false) }, h, oh);
    let cols = nearest_taps(step(c, spatial - 1, w, ow, false), w, ow);
    let v = x.as_vec::<T>();
    let mut result: Vec<T> = Vec::with_capacity(out.numel());
    for plane in v.chunks_exact((h * w).max(1)) {
        for r in &rows {
            result.extend(cols.iter().map(|k| plane[r[0].0 * w + k[0].0]));
        }
    }
    out.store(result);
    Ok(())
}
fn linear(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    separable(c, &mut outs[0], linear_taps)
}
fn cubic(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    separable(c, &mut outs[0], cubic_taps)
}

fn smooth_linear(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    separable(c, &mut outs[0], |step, input, out, _| smooth_taps(triangle, 2.0, step, input, out))
}
fn smooth_bicubic(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    separable(c, &mut outs[0], |step, input, out, _| smooth_taps(smooth_cubic, 4.0, step, input, out))
}

/// Places of `n` points between −1 and 1: the first and last on the ends, or half a step inside.
fn places(n: usize, align: bool) -> Vec<f32> {
    if n <= 1 {
        return vec![0.0; n];
    }
    let step = 2.0 / (n - 1) as f32;
    (0..n)
        .map(|i| if i < n / 2 { -1.0 + step * i as f32 } else { 1.0 - step * (n - 1 - i) as f32 })
        .map(|x| if align { x } else { x * (n - 1) as f32 / n as f32 })
        .collect()
}

/// `affine_grid_generator(theta, size, align_corners)`: each point `(x, y, (z,) 1)` of the output, times its theta.
fn affine_grid(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (theta, align) = (c.tensor(0)?, c.bool(2)?);
    let sizes = &outs[0].shape[1..outs[0].shape.len() - 1];
    let axes: Vec<Vec<f32>> = sizes.iter().map(|&n| places(n, align)).collect();
    let (dims, points) = (axes.len(), sizes.iter().product::<usize>());
    let mut result = Vec::with_capacity(outs[0].numel());
    for theta in theta.as_vec::<f32>().chunks_exact(dims * (dims + 1)) {
        for p in 0..points {
            // The last axis is the first coordinate.
            let mut rest = p;
            let at: Vec<f32> = axes
                .iter()
                .rev()
                .map(|axis| {
                    let x = axis[rest % axis.len()];
                    rest /= axis.len();
                    x
                })
                .collect();
            for row in theta.chunks_exact(dims + 1) {
                let moved: f32 = at.iter().zip(row).map(|(x, t)| x * t).sum();
                result.push(moved + row[dims]);
            }
        }
    }
    outs[0].store(result);
    Ok(())
}

/// A coordinate of the grid, −1 to 1, in pixels of the input, brought inside as the padding mode says.
fn locate(g: f32, n: usize, align: bool, padding: i64) -> f32 {
    let n = n as f32;
    let x = if align { (g + 1.0) / 2.0 * (n - 1.0) } else { ((g + 1.0) * n - 1.0) / 2.0 };
    match padding {
        1 => x.clamp(0.0, n - 1.0),
        2 => {
            let (lo, span) = if align { (0.0, n - 1.0) } else { (-0.5, n) };
            if span == 0.0 {
                return 0.0;
            }
            let d = (x - lo).abs();
            let (flips, rest) = ((d / span).floor(), d % span);
            let r = if flips % 2.0 == 0.0 { rest + lo } else { span - rest + lo };
            r.clamp(0.0, n - 1.0)
        }
        _ => x,
    }
}

/// `grid_sampler(input, grid, mode, padding, align_corners)` of images: bilinear (0) or nearest (1).
fn grid_sampler(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, g) = (c.tensor(0)?, c.tensor(1)?);
    let (mode, padding, align) = (c.int(2)?, c.int(3)?, c.bool(4)?);
    let [n, ch, h, w] = x.shape[..] else {
        return Err(KernelError::new("volumes are not sampled; only images of four dimensions are"));
    };
    if mode > 1 {
        return Err(KernelError::new("bicubic sampling is not implemented; use bilinear or nearest"));
    }
    let (v, grid) = (x.as_vec::<f32>(), g.as_vec::<f32>());
    let points = g.shape[1] * g.shape[2];
    let mut result = vec![0f32; n * ch * points];
    for b in 0..n {
        for p in 0..points {
            let at = (b * points + p) * 2;
            let (fx, fy) = (locate(grid[at], w, align, padding), locate(grid[at + 1], h, align, padding));
            let taps: Vec<(f32, f32, f32)> = if mode == 1 {
                vec![(fy.round_ties_even(), fx.round_ties_even(), 1.0)]
            } else {
                let (y, x) = (fy.floor(), fx.floor());
                let (dy, dx) = (fy - y, fx - x);
                vec![
                    (y, x, (1.0 - dy) * (1.0 - dx)),
                    (y, x + 1.0, (1.0 - dy) * dx),
                    (y + 1.0, x, dy * (1.0 - dx)),
                    (y + 1.0, x + 1.0, dy * dx),
                ]
            };
            for (y, x, weight) in taps {
                if !(y >= 0.0 && x >= 0.0 && y < h as f32 && x < w as f32) {
                    continue;
                }
                let o = y as usize * w + x as usize;
                for k in 0..ch {
                    result[(b * ch + k) * points + p] += weight * v[(b * ch + k) * h * w + o];
                }
            }
        }
    }
    outs[0].store(result);
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.upsample_nearest1d.vec", nearest),
    ("aten.upsample_nearest2d.vec", nearest),
    ("aten.upsample_nearest2d.default", nearest),
    ("aten.upsample_linear1d.vec", linear),
    ("aten.upsample_bilinear2d.vec", linear),
    ("aten.upsample_bilinear2d.default", linear),
    ("aten.upsample_bicubic2d.vec", cubic),
    ("aten.upsample_bicubic2d.default", cubic),
    ("aten._upsample_bilinear2d_aa.vec", smooth_linear),
    ("aten._upsample_bilinear2d_aa.default", smooth_linear),
    ("aten._upsample_bicubic2d_aa.vec", smooth_bicubic),
    ("aten._upsample_bicubic2d_aa.default", smooth_bicubic),
    ("aten.affine_grid_generator.default", affine_grid),
    ("aten.grid_sampler.default", grid_sampler),
    ("aten.grid_sampler_2d.default", grid_sampler),
];
