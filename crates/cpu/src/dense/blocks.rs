//! Products of rows in pieces with panels, in blocks that stay in the caches: a block of a panel in the first level (of tall tiles
//! the second) while all tiles of some rows pass by it, these rows in the second while all panels do. Meanwhile the next block is
//! fetched. Partial sums wait in the result, so every element sums in the order of its row.

use super::panels::Panels;
use super::{Epilogue, Watch};
use crate::math::clamp_nan;
use crate::memory::Scratch;
use crate::parallel::Threads;
use crate::simd::{Floats, GreatestBits, Isa, Lines, Seen, Stages, Strip, Tiles, UNBOUNDED, strip};
use lowbit_core::quant::observer::extremes;
use std::ops::Range;

/// Bytes of the rows whose tiles pass by a block: most of a second-level cache.
const ROWS: usize = 384 * 1024;

/// Bytes of panels that stay in a second-level cache while rows pass by them.
const STAYS: usize = 512 * 1024;

/// With fewer tiles, what is computed with a panel takes little longer than to read it.
const FEW_TILES: usize = 16;

/// How many tiles these are, at least and at most. With fewer, all panels come from far away too often.
const TILES: [usize; 2] = [16, 48];

/// Rows made of `pieces` pieces of `depth` elements.
#[derive(Copy, Clone)]
pub(super) struct Rows<'a> {
    /// What they are made of.
    pub x: &'a [f32],
    /// The first of them that is meant.
    pub first: usize,
    pub pieces: usize,
    pub depth: usize,
    pub places: Places<'a>,
}

/// Where the pieces of rows lie.
#[derive(Copy, Clone)]
pub(super) enum Places<'a> {
    /// Each row is one piece, and this far from the next.
    Apart(usize),
    /// `f(row, count, list)` writes down where the pieces of some rows lie: entry `piece · count + i`.
    Listed(&'a (dyn Fn(usize, usize, &mut [usize]) + Sync)),
}

/// A part of the depth: some whole pieces, or a part of one.
pub(super) struct Block {
    pub pieces: Range<usize>,
    pub from: usize,
    pub len: usize,
}

/// The blocks, of so many bytes, of rows of `pieces` pieces of `depth` elements, in panels of `width` columns of four bytes.
pub(super) fn blocks(bytes: usize, pieces: usize, depth: usize, width: usize) -> Vec<Block> {
    let room = (bytes / 4 / width).max(1);
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

/// Whether threads should share the panels rather than the rows: where there are no tiles for all of them.
pub(super) fn shares_columns(isa: Isa, threads: &Threads, rows: usize) -> bool {
    threads.count() > 1 && rows.div_ceil(threads.count()) < isa.rows()
}

/// How many rows a thread takes at a time: two parts for each, in whole tiles. Each part reads all panels; where these come from far
/// away and meet few rows, there is one part a thread.
pub(super) fn rows_together(isa: Isa, threads: &Threads, rows: usize, panels: &Panels) -> usize {
    let each = rows.div_ceil(threads.count());
    match threads.count() == 1 || panels.bytes() > STAYS && each < FEW_TILES * isa.rows() {
        true => each,
        false => rows.div_ceil(2 * threads.count()).next_multiple_of(isa.rows()),
    }
}

/// The [`product`] of few rows with all panels, which threads share.
pub(super) fn product_by_columns(
    isa: Isa,
    threads: &Threads,
    rows: Rows<'_>,
    panels: &Panels,
    bias: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let (columns, width) = (panels.columns, panels.width);
    let count = out.len() / columns.max(1);
    let step = panels.count().div_ceil(2 * threads.count()).max(1);
    let mut scratch = Scratch::of(count * columns * size_of::<f32>());
    let sums = scratch.f32_mut()[..count * columns].chunks_mut((count * step * width).max(1));
    let watch = Watch::default();
    let inner = Epilogue { watch: epilogue.watch.map(|_| &watch), ..Epilogue::NONE };
    let part = |(i, sums)| {
        let some = i * step..panels.count().min((i + 1) * step);
        let columns = columns.min(some.end * width) - some.start * width;
        (some, columns, sums)
    };
    let mut parts: Vec<(Range<usize>, usize, &mut [f32])> = sums.enumerate().map(part).collect();
    threads.for_each(
        parts.iter_mut(),
        || (),
        |(), (some, columns, sums)| {
            product(isa, rows, panels, some.clone(), bias, 0, *columns, sums, inner);
        },
    );
    let (low, high) = epilogue.clamp;
    let some_rows = count.div_ceil(threads.count()).max(1);
    threads.for_each(
        out.chunks_mut((some_rows * columns).max(1)).enumerate(),
        || (),
        |(), (i, out)| {
            for (some, part_columns, sums) in &parts {
                let sums = sums.chunks_exact(*part_columns).skip(i * some_rows);
                for (row, (out, sums)) in out.chunks_exact_mut(columns).zip(sums).enumerate() {
                    let residual =
                        epilogue.residual.map(|r| &r[(i * some_rows + row) * columns + some.start * width..]);
                    for (k, (out, &sum)) in out[some.start * width..].iter_mut().zip(sums).enumerate() {
                        *out = residual.map_or(sum, |r| sum + r[k]);
                    }
                }
            }
            isa.vectorize(
                #[inline(always)]
                || {
                    if let (Some(watch), Some(_)) = (epilogue.watch, epilogue.residual) {
                        let results = GreatestBits::of(extremes(out));
                        watch.add(Stages { results, ..Stages::default() });
                    }
                    if epilogue.clamp != UNBOUNDED {
                        out.iter_mut().for_each(|x| *x = clamp_nan(*x, low, high));
                    }
                },
            );
        },
    );
    if let Some(to) = epilogue.watch {
        // Nothing was added to these.
        let sums = watch.seen().results;
        to.add(match epilogue.residual {
            Some(_) => Stages { sums, ..Stages::default() },
            None => Stages { results: sums, ..Stages::default() },
        });
    }
}

/// `out[row · stride + first + column]` becomes the product of every row with some panels, plus bias, and the epilogue.
pub(super) fn product(
    isa: Isa,
    rows: Rows<'_>,
    panels: &Panels,
    some: Range<usize>,
    bias: &[f32],
    first: usize,
    stride: usize,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let count = out.len() / stride.max(1);
    let (tall, width) = (isa.rows(), panels.width);
    let blocks = blocks(isa.panel_bytes(), rows.pieces, rows.depth, width);
    // Windows of a convolution overlap: their pieces are other windows' pieces.
    let apart = rows.pieces.min(2) * rows.depth;
    let most = (ROWS / 4 / (apart * tall).max(1)).clamp(TILES[0], TILES[1]);
    // Groups of about the same size: the panels pass by each.
    let tiles = count.div_ceil(tall);
    let group = tiles.div_ceil(tiles.div_ceil(most).max(1)).max(1);
    let (mut tiles, mut seen) = (Tiles::default(), Seen::NOTHING);
    let weights = |p: usize, b: &Block| {
        let from = (b.pieces.start * rows.depth + b.from) * width;
        &panels.panel(p)[from..][..b.pieces.len() * b.len * width]
    };
    for top in (0..count).step_by(group * tall) {
        let height = (count - top).min(group * tall);
        let (from, lines) = match rows.places {
            Places::Apart(distance) => {
                ((rows.first + top) * distance, Lines::Apart { rows: height, distance })
            }
            Places::Listed(list) => {
                tiles.list(isa, height, rows.pieces, |row, m, entries| {
                    list(rows.first + top + row, m, entries)
                });
                (0, Lines::Listed(&tiles))
            }
        };
        for p in some.clone() {
            let at = top * stride + first + (p - some.start) * width;
            for (k, block) in blocks.iter().enumerate() {
                let panel = weights(p, block);
                let next = match blocks.get(k + 1) {
                    Some(next) => weights(p, next),
                    None if p + 1 < some.end => weights(p + 1, &blocks[0]),
                    None => &[],
                };
                let s = Strip {
                    x: &rows.x[from + block.from..],
                    lines,
                    pieces: block.pieces.clone(),
                    depth: block.len,
                    panel,
                    next,
                    bias: &bias[p * width..],
                    stride,
                    cols: width.min(panels.columns - p * width),
                    first: k == 0,
                    last: k + 1 == blocks.len(),
                };
                let (out, residual, clamp) =
                    (&mut out[at..], epilogue.residual.map(|r| &r[at..]), epilogue.clamp);
                match epilogue.watch {
                    Some(_) if s.last => {
                        strip(isa, s, Floats::<true> { out, residual, clamp, seen: &mut seen });
                    }
                    _ => strip(isa, s, Floats::<false> { out, residual, clamp, seen: &mut seen }),
                }
            }
        }
    }
    if let Some(watch) = epilogue.watch {
        watch.add(seen.bits());
    }
}
