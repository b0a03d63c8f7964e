//! Resampling of images.

use super::{Table, kept, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    kept("upsample_nearest_neighbor", |c| {
        let factors = factors(c)?;
        images(c, |c, x| {
            c.node(&ops::UPSAMPLE_NEAREST2D_VEC, [x.into(), Arg::None, Arg::Floats(factors.to_vec())])
        })
    }),
    kept("resize_nearest_neighbor", |c| {
        let size = target(c)?;
        images(c, |c, x| nearest(c, x, size))
    }),
    new("upsample_bilinear", |c| {
        let factors = factors(c)?;
        let corners = c.truth("align_corners", true)?;
        if !corners && !c.truth("half_pixel_centers", true)? {
            return Err("arguments align_corners and half_pixel_centers are both false".into());
        }
        images(c, |c, x| {
            // Core ML takes the factor from the sizes, which are rounded down.
            let size = [2, 3].map(|d| scaled(&c.ty(x).shape[d], factors[d - 2]));
            let [h, w] = size;
            linear(c, x, [h?, w?], corners)
        })
    }),
    new("resize_bilinear", |c| {
        let (size, mode) = (target(c)?, c.str("sampling_mode", "DEFAULT")?);
        images(c, |c, x| sampled(c, x, size, &mode))
    }),
    new("resize", |c| {
        let (shape, dims) = (c.sizes("shape")?, c.int("resized_dims")?);
        let (kind, mode) = (c.str("interpolation_mode", "LINEAR")?, c.str("sampling_mode", "DEFAULT")?);
        let (2, [.., h, w]) = (dims, &shape[..]) else {
            return Err(format!("argument resized_dims is {dims}; lowbit resizes the last two"));
        };
        let (h, w) = (h.clone(), w.clone());
        images(c, |c, x| {
            // A zero keeps the size.
            let kept = |wish: SymInt, d: usize| if wish == 0 { c.ty(x).shape[d].clone() } else { wish };
            let size = [kept(h, 2), kept(w, 3)];
            match &*kind {
                "LINEAR" => sampled(c, x, size, &mode),
                "NEAREST_NEIGHBOR" if &*mode == "DEFAULT" => nearest(c, x, size),
                other => Err(format!("argument interpolation_mode is {other:?}, sampling_mode is {mode:?}")),
            }
        })
    }),
    kept("crop", |c| {
        let mut x = c.tensor("x")?;
        for (name, d) in [("crop_height", -2), ("crop_width", -1)] {
            let (before, behind) = match c.ints(name)?[..] {
                [a, b] if a >= 0 && b >= 0 => (a, b),
                _ => return Err(format!("argument {name} is no pair of sizes")),
            };
            let end = if behind == 0 { i64::MAX } else { -behind };
            x = c.node(&ops::SLICE, [x.into(), d.into(), before.into(), end.into(), 1.into()])?;
        }
        one(x)
    }),
    new("resample", resample),
];

/// Resamples the last two dimensions; what has other than four is brought to four and back.
fn images(c: &mut Call<'_>, f: impl FnOnce(&mut Call<'_>, ValueId) -> Raised<ValueId>) -> Raised<Vec<Value>> {
    let x = c.tensor("x")?;
    let shape = c.ty(x).shape.clone();
    let [outer @ .., h, w] = &shape[..] else {
        return Err(format!("argument x is {}, no image", c.ty(x)));
    };
    if let [_, _] = outer {
        return one(f(c, x)?);
    }
    let image = vec![1.into(), outer.iter().cloned().product(), h.clone(), w.clone()];
    let image = c.reshape(x, image)?;
    let y = f(c, image)?;
    let size = c.ty(y).shape[2..].iter();
    let back = outer.iter().chain(size).cloned().collect();
    one(c.reshape(y, back)?)
}

fn factors(c: &Call<'_>) -> Raised<[f64; 2]> {
    let factor = |name: &str| match c.opt_float(name)?.unwrap_or(1.0) {
        f if f.is_finite() && f > 0.0 => Ok(f),
        f => Err(format!("argument {name} is {f}")),
    };
    Ok([factor("scale_factor_height")?, factor("scale_factor_width")?])
}

/// `floor(n · factor)`
fn scaled(n: &SymInt, factor: f64) -> Raised<SymInt> {
    match n.known() {
        Some(n) => Ok(SymInt::Known((n as f64 * factor) as i64)),
        None if factor.fract() == 0.0 => Ok(n.clone() * factor as i64),
        None => Err(format!("an open size {n} is scaled by {factor}")),
    }
}

fn target(c: &Call<'_>) -> Raised<[SymInt; 2]> {
    Ok([c.int("target_size_height")?.into(), c.int("target_size_width")?.into()])
}

/// Which of two neighbours is the nearest is documented nowhere; of whole factors all rules say the same.
fn nearest(c: &mut Call<'_>, x: ValueId, size: [SymInt; 2]) -> Raised<ValueId> {
    for (before, after) in c.ty(x).shape[2..].iter().zip(&size) {
        let whole = match (before.known(), after.known()) {
            (Some(a), Some(b)) => a > 0 && b > 0 && (a % b == 0 || b % a == 0),
            _ => before == after,
        };
        if !whole {
            return Err(format!("it picks the nearest of {before} pixels for {after}"));
        }
    }
    c.node(&ops::UPSAMPLE_NEAREST2D, [x.into(), Arg::Ints(size.into())])
}

fn linear(c: &mut Call<'_>, x: ValueId, size: [SymInt; 2], corners: bool) -> Raised<ValueId> {
    c.node(&ops::UPSAMPLE_BILINEAR2D, [x.into(), Arg::Ints(size.into()), corners.into()])
}

/// Between pixels, at the points that a mode says.
fn sampled(c: &mut Call<'_>, x: ValueId, size: [SymInt; 2], mode: &str) -> Raised<ValueId> {
    let corners = match mode {
        "STRICT_ALIGN_CORNERS" => true,
        "ALIGN_CORNERS" if size.iter().all(|n| *n != 1) => true,
        "UNALIGN_CORNERS" => false,
        other => {
            return Err(format!(
                "argument sampling_mode is {other:?}, whose points PyTorch does not sample at"
            ));
        }
    };
    linear(c, x, size, corners)
}

/// At the points of a grid.
fn resample(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, mut grid) = (c.tensor("x")?, c.tensor("coordinates")?);
    let corners = c.truth("align_corners", false)?;
    let kind = match &*c.str("sampling_mode", "bilinear")? {
        "bilinear" => 0,
        "nearest" => 1,
        other => return Err(format!("argument sampling_mode is {other:?}")),
    };
    let padding = match &*c.str("padding_mode", "constant")? {
        "constant" if c.opt_float("padding_value")?.unwrap_or(0.0) == 0.0 => 0,
        "constant" => return Err("argument padding_value is not zero".into()),
        "border" => 1,
        "reflection" => 2,
        other => return Err(format!("argument padding_mode is {other:?}, which PyTorch has not")),
    };
    match &*c.str("coordinates_mode", "normalized_minus_one_to_one")? {
        "normalized_minus_one_to_one" => {}
        "normalized_zero_to_one" => {
            grid = c.scaled(grid, 2.0)?;
            grid = c.shifted(grid, -1.0)?;
        }
        other => return Err(format!("argument coordinates_mode is {other:?}; lowbit takes normalized ones")),
    }
    one(c.node(&ops::GRID_SAMPLER, [x.into(), grid.into(), kind.into(), padding.into(), corners.into()])?)
}
