//! Resizing: lines as planes of one row, bicubic as products with two interpolation matrices.

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

/// Keys' cubic with a = −0.75, as PyTorch has it: weights of the four neighbours at distance `t` from the second.
fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// The matrix that takes `from` samples to `to` samples. Beyond the ends the last sample counts.
fn interpolation(from: i64, to: i64, align_corners: bool, factor: Option<f64>) -> Vec<f32> {
    let scale = match factor {
        _ if align_corners => {
            if to > 1 {
                (from - 1) as f32 / (to - 1) as f32
            } else {
                0.0
            }
        }
        Some(f) if f > 0.0 => (1.0 / f) as f32,
        _ => from as f32 / to as f32,
    };
    let mut matrix = vec![0f32; (from * to) as usize];
    for i in 0..to {
        let at = if align_corners { scale * i as f32 } else { scale * (i as f32 + 0.5) - 0.5 };
        let first = at.floor();
        for (k, w) in cubic(at - first).into_iter().enumerate() {
            let j = (first as i64 + k as i64 - 1).clamp(0, from - 1);
            matrix[(i * from + j) as usize] += w;
        }
    }
    matrix
}

fn bicubic(b: &mut Build<'_>, n: &Node, factors: [Option<f64>; 2]) -> Values {
    let x = b.tensor(n, 0)?;
    let align = ops::views::bool(n.arg(2)) == Some(true);
    let (from, to) = (b.ty(x).clone(), out_type(b, n));
    let mut matrices = vec![];
    for d in 0..2 {
        let (Some(f), Some(t)) = (from.shape[2 + d].known(), to.shape[2 + d].known()) else {
            return Err(PassFailure("its sizes depend on symbols; export with fixed ones".into()));
        };
        let m = interpolation(f, t, align, factors[d]);
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
fn bicubic_vec(b: &mut Build<'_>, n: &Node) -> Values {
    let factors = match n.arg(3) {
        Arg::Floats(l) if l.len() == 2 => [Some(l[0]), Some(l[1])],
        _ => [None, None],
    };
    bicubic(b, n, factors)
}
fn bicubic_size(b: &mut Build<'_>, n: &Node) -> Values {
    bicubic(b, n, [ops::views::float(n.arg(3)), ops::views::float(n.arg(4))])
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
    ("aten.upsample_bicubic2d.vec", bicubic_vec),
    ("aten.upsample_bicubic2d.default", bicubic_size),
    ("aten.grid_sampler.default", grid_sampler),
];
