//! Resizing: lines as planes of one row, bicubic and smoothed as products with two interpolation matrices.

use super::matmul::product;
use super::{Build, PassFailure, Table, Values, one, out_type};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::tensor::Tensor;

/// A list of one entry as a list of two, for a row of height 1.
fn row(arg: &Arg) -> Arg {
    match arg {
        Arg::Ints(l) => Arg::Ints([1.into()].into_iter().chain(l.iter().cloned()).collect()),
        Arg::Floats(l) => Arg::Floats([1.0].into_iter().chain(l.iter().copied()).collect()),
        other => other.clone(),
    }
}

/// `(input, output_size, scale_factors)`
fn nearest1d(b: &mut Build<'_>, n: &Node) -> Values {
    let rest = vec![row(n.arg(1)), row(n.arg(2))];
    line(b, n, &ops::UPSAMPLE_NEAREST2D_VEC, rest)
}
/// `(input, output_size, align_corners, scale_factors)`
fn linear1d(b: &mut Build<'_>, n: &Node) -> Values {
    let rest = vec![row(n.arg(1)), n.arg(2).clone(), row(n.arg(3))];
    line(b, n, &ops::UPSAMPLE_BILINEAR2D_VEC, rest)
}
fn line(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef, rest: Vec<Arg>) -> Values {
    let x = b.tensor(n, 0)?;
    let up = b.op(&ops::UNSQUEEZE, [x.into(), Arg::from(-2)])?;
    let args: Vec<Arg> = [up.into()].into_iter().chain(rest).collect();
    let y = b.op(op, args)?;
    one(b.op(&ops::SQUEEZE_DIM, [y.into(), Arg::from(-2)])?)
}

/// The form with a size and optional factors `(…, scales_h, scales_w)` in the one that takes either. Factors are used
/// when they are given: they say where to read.
fn vec_form(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef, first: usize) -> Values {
    let x = b.tensor(n, 0)?;
    let mut args = n.args()[..first].to_vec();
    args.push(Arg::None);
    if let (Some(h), Some(w)) = (ops::views::float(n.arg(first)), ops::views::float(n.arg(first + 1))) {
        let sizes = &b.ty(x).shape[2..];
        let want = &out_type(b, n).shape[2..];
        let fits =
            sizes.iter().zip(want).zip([h, w]).all(|((from, to), f)| match (from.known(), to.known()) {
                (Some(from), Some(to)) => (from as f64 * f).floor() as i64 == to,
                _ => false,
            });
        if !fits {
            return Err(PassFailure(format!("factors {h} and {w} do not give its size {want:?}")));
        }
        args[1] = Arg::None;
        args[first] = Arg::Floats(vec![h, w]);
    }
    one(b.op(op, args)?)
}
fn nearest2d(b: &mut Build<'_>, n: &Node) -> Values {
    vec_form(b, n, &ops::UPSAMPLE_NEAREST2D_VEC, 2)
}
fn bilinear2d(b: &mut Build<'_>, n: &Node) -> Values {
    vec_form(b, n, &ops::UPSAMPLE_BILINEAR2D_VEC, 3)
}

/// How one dimension of `from` samples becomes one of `to`: a row for each output, with the weights of the inputs.
type Matrix = fn(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> Vec<f32>;

/// Inputs that one step of the output goes on by.
fn step(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> f32 {
    match factor {
        _ if align_corners => {
            if to > 1 {
                (from - 1) as f32 / (to - 1) as f32
            } else {
                0.0
            }
        }
        Some(f) if f > 0.0 => (1.0 / f) as f32,
        _ => from as f32 / to as f32,
    }
}

/// Keys' cubic at distance `x` from its middle.
fn keys(x: f32, a: f32) -> f32 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

/// Bicubic: a = −0.75, as PyTorch has it. Beyond the ends the last sample counts.
fn cubic(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> Vec<f32> {
    let step = step(from, to, align_corners, factor);
    let mut matrix = vec![0f32; (from * to) as usize];
    for i in 0..to {
        let at = if align_corners { step * i as f32 } else { step * (i as f32 + 0.5) - 0.5 };
        let first = at.floor();
        for k in -1..=2i64 {
            let j = (first as i64 + k).clamp(0, from - 1);
            matrix[(i * from + j) as usize] += keys(at - first - k as f32, -0.75);
        }
    }
    matrix
}

/// Antialiased: the filter, which reaches `width / 2` inputs each way, is stretched over what an output covers; its
/// weights inside the input are brought to a sum of 1. The cubic filter has a = −0.5 here.
fn smooth(step: f32, from: i64, to: i64, width: f32, filter: fn(f32) -> f32) -> Vec<f32> {
    let stretch = step.max(1.0);
    let reach = width / 2.0 * stretch;
    let mut matrix = vec![0f32; (from * to) as usize];
    for (i, row) in matrix.chunks_exact_mut(from.max(1) as usize).enumerate() {
        let center = step * (i as f32 + 0.5);
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5).max(0.0) as usize).min(row.len());
        for j in first..end {
            row[j] = filter((j as f32 - center + 0.5) * (1.0 / stretch));
        }
        let total: f32 = row.iter().sum();
        if total != 0.0 {
            row.iter_mut().for_each(|w| *w /= total);
        }
    }
    matrix
}
fn smooth_linear(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> Vec<f32> {
    smooth(step(from, to, align_corners, factor), from, to, 2.0, |x| (1.0 - x.abs()).max(0.0))
}
fn smooth_cubic(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> Vec<f32> {
    smooth(step(from, to, align_corners, factor), from, to, 4.0, |x| keys(x, -0.5))
}

/// Rows and columns are mixed one after the other, each by a product with a constant matrix.
fn separable(b: &mut Build<'_>, n: &Node, matrix: Matrix) -> Values {
    let x = b.tensor(n, 0)?;
    let align = ops::views::bool(n.arg(2)) == Some(true);
    let factors = match n.arg(3) {
        Arg::Floats(l) if l.len() == 2 => [Some(l[0]), Some(l[1])],
        _ => [3, 4].map(|i| n.args().get(i).and_then(ops::views::float)),
    };
    let (from, to) = (b.ty(x).clone(), out_type(b, n));
    let mut matrices = vec![];
    for d in 0..2 {
        let (Some(f), Some(t)) = (from.shape[2 + d].known(), to.shape[2 + d].known()) else {
            return Err(PassFailure("its sizes depend on symbols; export with fixed ones".into()));
        };
        let m = matrix(f, t, align, factors[d]);
        let m = Tensor::from_f32(to.dtype, &[t as usize, f as usize], &m)
            .map_err(|e| PassFailure(e.to_string()))?;
        matrices.push(b.constant(&format!("{}_{}", n.name, ["rows", "columns"][d]), m));
    }
    let columns = b.permute(matrices[1], &[1, 0])?;
    let wide = product(b, x, columns)?;
    // Rows are brought to the end, multiplied, and brought back.
    let turned = b.permute(wide, &[0, 1, 3, 2])?;
    let rows = b.permute(matrices[0], &[1, 0])?;
    let y = product(b, turned, rows)?;
    one(b.permute(y, &[0, 1, 3, 2])?)
}
fn bicubic(b: &mut Build<'_>, n: &Node) -> Values {
    separable(b, n, cubic)
}
fn bilinear_smooth(b: &mut Build<'_>, n: &Node) -> Values {
    separable(b, n, smooth_linear)
}
fn bicubic_smooth(b: &mut Build<'_>, n: &Node) -> Values {
    separable(b, n, smooth_cubic)
}

/// Places of `n` points between −1 and 1: the first and last on the ends, or half a step inside.
fn places(n: usize, align_corners: bool) -> Vec<f32> {
    let span = if align_corners { n.saturating_sub(1) } else { n };
    (0..n).map(|i| if n == 1 { 0.0 } else { (2.0 * i as f32 - (n - 1) as f32) / span as f32 }).collect()
}

/// `(theta, size, align_corners)`: the points of the output, as columns `(x, y, (z,) 1)`, times the rows of theta.
fn affine_grid(b: &mut Build<'_>, n: &Node) -> Values {
    let (theta, to) = (b.tensor(n, 0)?, out_type(b, n));
    let align = ops::views::bool(n.arg(2)) == Some(true);
    let dims = to.rank() - 2;
    let sizes: Option<Vec<usize>> =
        to.shape[1..=dims].iter().map(|s| s.known().and_then(|s| usize::try_from(s).ok())).collect();
    let Some(sizes) = sizes else {
        return Err(PassFailure("its sizes depend on symbols; export with fixed ones".into()));
    };
    let points: usize = sizes.iter().product();
    let mut base = vec![];
    let mut run = 1;
    for &size in sizes.iter().rev() {
        let axis = places(size, align);
        base.extend((0..points).map(|p| axis[p / run % size]));
        run *= size;
    }
    base.extend(vec![1.0; points]);
    let base =
        Tensor::from_f32(to.dtype, &[dims + 1, points], &base).map_err(|e| PassFailure(e.to_string()))?;
    let base = b.constant(&format!("{}_points", n.name), base);
    let moved = product(b, theta, base)?;
    let moved = b.permute(moved, &[0, 2, 1])?;
    one(b.view(moved, to.shape)?)
}

fn grid_sampler(b: &mut Build<'_>, n: &Node) -> Values {
    let x: ValueId = b.tensor(n, 0)?;
    if b.ty(x).rank() != 4 {
        return Ok(None);
    }
    one(b.op(&ops::GRID_SAMPLER_2D, n.args().to_vec())?)
}

pub(super) const TABLE: Table = &[
    ("aten.upsample_nearest1d.vec", nearest1d),
    ("aten.upsample_linear1d.vec", linear1d),
    ("aten.upsample_nearest2d.default", nearest2d),
    ("aten.upsample_bilinear2d.default", bilinear2d),
    ("aten.upsample_bicubic2d.vec", bicubic),
    ("aten.upsample_bicubic2d.default", bicubic),
    ("aten._upsample_bilinear2d_aa.vec", bilinear_smooth),
    ("aten._upsample_bilinear2d_aa.default", bilinear_smooth),
    ("aten._upsample_bicubic2d_aa.vec", bicubic_smooth),
    ("aten._upsample_bicubic2d_aa.default", bicubic_smooth),
    ("aten.affine_grid_generator.default", affine_grid),
    ("aten.grid_sampler.default", grid_sampler),
];
