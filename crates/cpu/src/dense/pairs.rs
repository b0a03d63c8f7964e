//! Dense filters of integers, where pairs are multiplied: what rows read is widened to `i16`, zero points taken off
//! ([`crate::simd::pair_strip`]).

use super::blocks::blocks;
use super::geometry::Geometry;
use super::strips::{Packing, Work, pieces};
use crate::simd::{COLUMNS, PairStrip, Places, ROWS, pair_strip};

/// Rows that pass by a block of a panel together, while their partial sums wait.
const TOGETHER: usize = 16 * ROWS;

/// Bytes of a block of a panel: most of a first-level cache.
const BLOCK: usize = 24 * 1024;

const PACKING: Packing = Packing { columns: COLUMNS, unit: 2 };

/// The packed weights.
#[derive(Debug)]
pub(super) struct Pairs(Vec<i16>);

impl Pairs {
    /// Packs integers `[out channels, in channels / groups, taps…]`, zero points taken off.
    pub fn new(g: &Geometry, w: &[i16]) -> Pairs {
        let mut panels = vec![0; PACKING.len(g)];
        PACKING.pack(g, w, &mut panels, |v| v);
        Pairs(panels)
    }

    /// Computes a strip of the result. `wide` has room for what it reads.
    pub fn run(&self, Work { isa, g, rescale, x, strip, out }: Work<'_>, wide: &mut [i16]) {
        strip.fill(
            isa,
            g,
            x,
            wide,
            0,
            #[inline(always)]
            |x, to| x.centred(to, |v| v),
        );
        let (ic, oc) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let rows = strip.windows(g, TOGETHER);
        // What each block of a panel reads, and where it starts.
        let depth = PACKING.depth(g) / 2;
        let blocks = blocks(BLOCK, pieces(g).1, depth, COLUMNS).into_iter().map(|b| {
            let places = Places::new(b.pieces.clone().map(|i| strip.piece(g, i) + 2 * b.from).collect());
            (places, b.len, (b.pieces.start * depth + b.from) * 2 * COLUMNS)
        });
        let blocks: Vec<(Places, usize, usize)> = blocks.collect();
        let (size, count, panel) = (rescale.size(), PACKING.panels(g), PACKING.panel(g));
        let mut partial = [[0; COLUMNS]; TOGETHER];
        for (i, panel) in self.0.chunks_exact(panel).enumerate() {
            let (group, p) = (i / count, i % count);
            let channel = group * oc + p * COLUMNS;
            for (i, rows) in rows.iter().enumerate() {
                let from = (i * TOGETHER * g.out_channels + channel) * size;
                for (k, (pieces, depth, at)) in blocks.iter().enumerate() {
                    let s = PairStrip {
                        x: &wide[group * ic..],
                        rows,
                        pieces,
                        depth: *depth,
                        panel: &panel[*at..],
                        columns: COLUMNS.min(oc - p * COLUMNS),
                        partial: &mut partial,
                        first: k == 0,
                        last: k + 1 == blocks.len(),
                        finish: rescale.scaled(&mut out[from..]),
                        channel,
                        stride: g.out_channels,
                    };
                    pair_strip(isa, s);
                }
            }
        }
    }
}
