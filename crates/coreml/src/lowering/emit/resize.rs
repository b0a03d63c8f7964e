//! Pictures in other sizes, and at other places.

use super::{Emitted, Table, int, out, truth};
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Constant, DType, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::UPSAMPLE_NEAREST2D_VEC, |b, n| nearest(b, n, scales(n, 2))),
    (&ops::UPSAMPLE_NEAREST2D, |b, n| nearest(b, n, [scale(n, 2), scale(n, 3)])),
    (&ops::UPSAMPLE_BILINEAR2D_VEC, |b, n| bilinear(b, n, scales(n, 3))),
    (&ops::UPSAMPLE_BILINEAR2D, |b, n| bilinear(b, n, [scale(n, 3), scale(n, 4)])),
    (&ops::GRID_SAMPLER, sample),
    (&ops::GRID_SAMPLER_2D, sample),
];

/// The factors in a list argument.
fn scales(n: &Node, i: usize) -> [Option<f64>; 2] {
    match n.arg(i) {
        Arg::Floats(l) if l.len() == 2 => [Some(l[0]), Some(l[1])],
        _ => [None, None],
    }
}

/// The factor in an argument.
fn scale(n: &Node, i: usize) -> Option<f64> {
    ops::views::float(n.arg(i))
}

/// Height and width of a picture.
fn size(ty: &Type) -> Emitted<[i64; 2]> {
    match &ty.shape[..] {
        [_, _, h, w] => h.known().zip(w.known()).map(|(h, w)| [h, w]).ok_or_else(|| "a size is open".into()),
        _ => Err("Core ML resizes batches of pictures only".into()),
    }
}

/// PyTorch computes places with the factors it is given; Core ML with sizes. They agree where the sizes have that ratio.
fn consistent(from: [i64; 2], to: [i64; 2], factors: [Option<f64>; 2]) -> Emitted<()> {
    let fits = |i: usize| factors[i].is_none_or(|f| (f * from[i] as f64 - to[i] as f64).abs() < 1e-6);
    if fits(0) && fits(1) { Ok(()) } else { Err("its factors are not the ratios of its sizes".into()) }
}

/// Rows and columns repeated: by a factor where that is whole, else by their places, which are constants.
fn nearest(b: &mut Builder<'_>, n: &Node, factors: [Option<f64>; 2]) -> Emitted<Vec<Var>> {
    let (mut x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let (from, to) = (size(&x.ty)?, size(&ty)?);
    consistent(from, to, factors)?;
    if to[0] % from[0] == 0 && to[1] % from[1] == 0 {
        let factor = |i: usize| Constant::float(DType::F32, (to[i] / from[i]) as f32).into();
        let inputs =
            vec![("x", x.into()), ("scale_factor_height", factor(0)), ("scale_factor_width", factor(1))];
        return Ok(vec![b.op("upsample_nearest_neighbor", inputs, ty)]);
    }
    for i in 0..2 {
        let scale = from[i] as f32 / to[i] as f32;
        let places: Vec<i32> =
            (0..to[i]).map(|k| ((k as f32 * scale).floor() as i32).min(from[i] as i32 - 1)).collect();
        let places = b.constant("rows", Constant::i32s(&places));
        x = super::index::gather(b, x, places, 2 + i);
    }
    Ok(vec![x])
}

fn bilinear(b: &mut Builder<'_>, n: &Node, factors: [Option<f64>; 2]) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let (from, to) = (size(&x.ty)?, size(&ty)?);
    let corners = truth(n, 2)?;
    if !corners {
        consistent(from, to, factors)?;
    }
    let mode = if corners { "STRICT_ALIGN_CORNERS" } else { "UNALIGN_CORNERS" };
    let inputs = vec![
        ("x", x.into()),
        ("target_size_height", (to[0] as i32).into()),
        ("target_size_width", (to[1] as i32).into()),
        ("sampling_mode", mode.into()),
    ];
    Ok(vec![b.op("resize_bilinear", inputs, ty)])
}

/// At the places of a grid, from −1 to 1.
fn sample(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, grid, ty) = (b.arg(n, 0)?, b.arg(n, 1)?, out(b, n)?);
    if ty.rank() != 4 {
        return Err("Core ML samples pictures only".into());
    }
    let mode = match int(n, 2)? {
        0 => "bilinear",
        1 => "nearest",
        _ => return Err("Core ML samples linearly, or the nearest".into()),
    };
    let padding = match int(n, 3)? {
        0 => "constant",
        1 => "border",
        _ => "reflection",
    };
    let zero = Constant::float(ty.dtype, 0.0);
    let inputs = vec![
        ("x", x.into()),
        ("coordinates", grid.into()),
        ("sampling_mode", mode.into()),
        ("padding_mode", padding.into()),
        ("padding_value", zero.into()),
        ("coordinates_mode", "normalized_minus_one_to_one".into()),
        ("align_corners", truth(n, 4)?.into()),
    ];
    Ok(vec![b.op("resample", inputs, ty)])
}
