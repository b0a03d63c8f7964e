//! Products of rows in pieces with panels, in blocks that stay in the caches: a block of a panel in the first level while
//! all tiles of some rows pass by it. Partial sums wait in the result, so every element sums in the order of its row.

use super::Epilogue;
use super::panels::Panels;
use crate::simd::{Isa, Tile, tile};
use std::ops::Range;

/// Bytes of a block of a panel: half of a first-level cache.
const PANEL: usize = 16 * 1024;

/// Tiles that pass by a block.
const TILES: usize = 16;

/// Rows made of `pieces` pieces of `depth` elements.
#[derive(Copy, Clone, Debug)]
pub(super) struct Rows<'a> {
    /// What they are made of.
    pub x: &'a [f32],
    pub pieces: usize,
    pub depth: usize,
}

/// A part of the depth: some whole pieces, or a part of one.
struct Block {
    pieces: Range<usize>,
    from: usize,
    len: usize,
}

fn blocks(pieces: usize, depth: usize, width: usize) -> Vec<Block> {
    let room = (PANEL / 4 / width).max(1);
    if depth <= room {
        let together = room / depth.max(1);
        let starts = (0..pieces).step_by(together);
        return starts.map(|p| Block { pieces: p..pieces.min(p + together), from: 0, len: depth }).collect();
    }
    // Parts of about the same length.
    let len = depth.div_ceil(depth.div_ceil(room));
    let parts = |p: usize| {
        let starts = (0..depth).step_by(len);
        starts.map(move |from| Block { pieces: p..p + 1, from, len: len.min(depth - from) })
    };
    (0..pieces).flat_map(parts).collect()
}

/// `out[row · stride + first + column]` becomes the product of every row with the panels, plus bias, and the epilogue.
/// `offsets(row, count, list)` lists where the pieces of some rows lie: entry `piece · count + i`.
pub(super) fn product(
    isa: Isa,
    rows: Rows<'_>,
    mut offsets: impl FnMut(usize, usize, &mut Vec<usize>),
    panels: &Panels,
    bias: &[f32],
    first: usize,
    stride: usize,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let count = out.len() / stride.max(1);
    let (tall, width) = (isa.rows(), panels.width);
    let blocks = blocks(rows.pieces, rows.depth, width);
    let mut lists: Vec<Vec<usize>> = vec![vec![]; TILES];
    for top in (0..count).step_by(TILES * tall) {
        let tiles = (top..count.min(top + TILES * tall)).step_by(tall);
        for (row, list) in tiles.clone().zip(&mut lists) {
            offsets(row, tall.min(count - row), list);
        }
        for (k, block) in blocks.iter().enumerate() {
            let from = (block.pieces.start * rows.depth + block.from) * width;
            let len = block.pieces.len() * block.len * width;
            for p in 0..panels.count() {
                let panel = &panels.panel(p)[from..from + len];
                for (row, list) in tiles.clone().zip(&lists) {
                    let m = tall.min(count - row);
                    let at = row * stride + first + p * width;
                    let t = Tile {
                        x: &rows.x[block.from..],
                        m,
                        offsets: &list[block.pieces.start * m..block.pieces.end * m],
                        depth: block.len,
                        panel,
                        bias: &bias[p * width..],
                        out: &mut out[at..],
                        stride,
                        cols: width.min(panels.columns - p * width),
                        first: k == 0,
                        last: k + 1 == blocks.len(),
                        residual: epilogue.residual.map(|r| &r[at..]),
                        clamp: epilogue.clamp,
                    };
                    tile(isa, t);
                }
            }
        }
    }
}
