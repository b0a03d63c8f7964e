//! Resizing pictures.

use super::conv::pictures;
use super::{Builder, Emitted, Made, Node, Table, truth};
use crate::graph::Param;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::UPSAMPLE_NEAREST2D_VEC, |b, n| nearest(b, n)),
    (&ops::UPSAMPLE_NEAREST2D, |b, n| nearest(b, n)),
    (&ops::UPSAMPLE_BILINEAR2D_VEC, |b, n| bilinear(b, n)),
    (&ops::UPSAMPLE_BILINEAR2D, |b, n| bilinear(b, n)),
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
