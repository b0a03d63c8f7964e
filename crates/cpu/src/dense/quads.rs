//! Dense filters of integers, where bytes are multiplied by fours: what rows read stays bytes ([`crate::simd::quad_strip`]).

use super::geometry::Geometry;
use super::strips::{Packing, Work, pieces};
use crate::memory::Aligned;
use crate::simd::{
    Isa, Places, QUAD_COLUMNS as COLUMNS, QUAD_DEPTH as DEPTH, QuadStrip, has_quads, quad_strip,
};

const PACKING: Packing = Packing { columns: COLUMNS, unit: DEPTH };

/// The packed weights.
#[derive(Debug)]
pub(super) struct Quads {
    panels: Aligned,
    /// The sum of the weights of each channel, and zeros for the columns that are left: of each panel.
    sums: Vec<[i32; COLUMNS]>,
}

impl Quads {
    /// Packs integers `[out channels, in channels / groups, taps…]`, zero points taken off. `None` where they do not fit bytes,
    /// or the instruction set multiplies none.
    pub fn new(isa: Isa, g: &Geometry, w: &[i16]) -> Option<Quads> {
        if !has_quads(isa) || !w.iter().all(|&w| i8::try_from(w).is_ok()) {
            return None;
        }
        let mut panels = Aligned::lasting(PACKING.len(g));
        PACKING.pack(g, w, panels.bytes_mut(), |v| v as u8);
        let (oc, count) = (g.out_channels / g.groups, PACKING.panels(g));
        let mut sums = vec![[0; COLUMNS]; g.groups * count];
        for (n, w) in w.chunks_exact(w.len() / g.out_channels).enumerate() {
            let (group, n) = (n / oc, n % oc);
            sums[group * count + n / COLUMNS][n % COLUMNS] = w.iter().map(|&w| i32::from(w)).sum();
        }
        Some(Quads { panels, sums })
    }

    /// Computes a strip of the result. `bytes` has room for what it reads.
    pub fn run(&self, Work { isa, g, rescale, x, strip, out }: Work<'_>, bytes: &mut [u8]) {
        let zero = x.unsigned_zero();
        strip.fill(
            isa,
            g,
            x,
            bytes,
            zero as u8,
            #[inline(always)]
            |x, to| x.unsigned(to),
        );
        let (ic, oc) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let places = Places::new((0..pieces(g).1).map(|i| strip.piece(g, i)).collect());
        let (count, panel) = (PACKING.panels(g), PACKING.panel(g));
        let panels = bytemuck::cast_slice(self.panels.bytes()).chunks_exact(panel);
        for rows in strip.windows(g, usize::MAX) {
            for (i, (panel, sums)) in panels.clone().zip(&self.sums).enumerate() {
                let (group, p) = (i / count, i % count);
                let channel = group * oc + p * COLUMNS;
                let s = QuadStrip {
                    x: &bytes[group * ic..],
                    rows: &rows,
                    pieces: &places,
                    depth: PACKING.depth(g),
                    panel,
                    starts: &sums.map(|sum| -zero * sum),
                    columns: COLUMNS.min(oc - p * COLUMNS),
                    finish: rescale.scaled(&mut out[channel * rescale.size()..]),
                    channel,
                    stride: g.out_channels,
                };
                quad_strip(isa, s);
            }
        }
    }
}
