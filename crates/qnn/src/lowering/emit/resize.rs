//! Resizing and sampling pictures.

use super::conv::pictures;
use super::{Builder, Emitted, Made, Node, Table, int, out, truth};
use crate::graph::Param;
use crate::lowering::builder::Layout;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::UPSAMPLE_NEAREST2D_VEC, |b, n| nearest(b, n)),
    (&ops::UPSAMPLE_NEAREST2D, |b, n| nearest(b, n)),
    (&ops::UPSAMPLE_BILINEAR2D_VEC, |b, n| bilinear(b, n)),
    (&ops::UPSAMPLE_BILINEAR2D, |b, n| bilinear(b, n)),
    (&ops::GRID_SAMPLER_2D, sample),
];

/// PyTorch takes the pixel at the place's floor.
fn nearest(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    resize(b, n, "ResizeNearestNeighbor", false, false)
}

/// Without aligned corners PyTorch counts from the middle of pixels.
fn bilinear(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let aligned = truth(n, 2)?;
    resize(b, n, "ResizeBilinear", aligned, !aligned)
}

fn resize(
    b: &mut Builder<'_>,
    n: &Node,
    kind: &'static str,
    aligned: bool,
    half: bool,
) -> Emitted<Vec<Made>> {
    pictures(b, n, |b, x, (to, dims)| {
        let params = vec![("align_corners", Param::Bool(aligned)), ("half_pixel_centers", Param::Bool(half))];
        let have = b.kind_of(x);
        let y = b.one(kind, params, vec![x], (have, dims));
        b.convert(y, &to)
    })
}

/// `(input, grid, mode, padding, align_corners)`: the numbers of modes and paddings are PyTorch's.
fn sample(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let (mode, padding) = (int(n, 2)?, int(n, 3)?);
    if !(0..=1).contains(&mode) {
        return Err("HTP samples bilinear or nearest, not bicubic".into());
    }
    let x = b.arg(n, 0, Layout::Last)?;
    let grid = b.arg(n, 1, Layout::Plain)?;
    let (to, dims) = out(b, n, Layout::Last)?;
    let params = vec![
        ("align_corners", Param::Bool(truth(n, 4)?)),
        ("mode", Param::U32(mode as u32)),
        ("padding_mode", Param::U32(padding as u32)),
    ];
    Ok(vec![(b.one("GridSample", params, vec![x, grid], (to, dims)), Layout::Last)])
}
