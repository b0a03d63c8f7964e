//! Convolutions and products of 8-bit integers, channels last.
//!
//! Dense filters pass over strips: [`super::quads`] where the processor multiplies bytes, [`super::pairs`] elsewhere, with the
//! same results. Depthwise filters pass over the few lines that a row of the result reads: [`super::depthwise_quads`] where the
//! processor multiplies bytes, elsewhere and for odd filters the `f32` kernel, whose sums of few small integers are exact.

use super::depthwise_quads::DepthwiseQuads;
use super::geometry::Geometry;
use super::pairs::Pairs;
use super::quads::Quads;
use super::rescale::Rescale;
use super::strips::{Held, Quantized, Strip, Work, line_length, strip_length};
use crate::memory::{Aligned, Scratch};
use crate::parallel::Threads;
use crate::simd::{COLUMNS, DepthwiseRow, Isa, depthwise_row};

/// Elements of a strip: half of a small second-level cache, if they are of two bytes.
const STRIP: usize = 48 * 1024;

/// The packed integers of a filter or of a matrix.
#[derive(Debug)]
pub(crate) struct IntegerFilter {
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// `[taps][padded channels]`
    Depthwise {
        weights: Aligned,
        padded: usize,
        bias: Aligned,
    },
    DepthwiseQuads(DepthwiseQuads),
    Pairs(Pairs),
    Quads(Quads),
}

impl IntegerFilter {
    /// Packs integers `[out channels, in channels / groups, taps…]`, zero points taken off: within 8 bits and a sign. `None`
    /// where sums could overflow, or the general kernel is needed.
    pub fn new(isa: Isa, g: &Geometry, w: &[i16]) -> Option<IntegerFilter> {
        let (ic, oc, taps) = (g.in_channels / g.groups, g.out_channels / g.groups, g.taps());
        let depth = ic * taps;
        let fits = w.iter().all(|w| w.unsigned_abs() <= 255) && depth <= (i32::MAX as usize) / (255 * 255);
        if !fits || w.is_empty() || g.padding.iter().any(|&p| p < 0) {
            return None;
        }
        if g.groups > 1 && ic == 1 && oc == 1 && taps * 255 * 255 < 1 << 24 {
            if let Some(quads) = DepthwiseQuads::new(isa, g, w) {
                return Some(IntegerFilter { weights: Weights::DepthwiseQuads(quads) });
            }
            let padded = g.out_channels.next_multiple_of(COLUMNS);
            let mut weights = Aligned::lasting(taps * padded * size_of::<f32>());
            for (i, &v) in w.iter().enumerate() {
                weights.f32_mut()[i % taps * padded + i / taps] = f32::from(v);
            }
            let weights = Weights::Depthwise { weights, padded, bias: Aligned::floats(padded) };
            return Some(IntegerFilter { weights });
        }
        let weights = match Quads::new(isa, g, w) {
            Some(quads) => Weights::Quads(quads),
            None => Weights::Pairs(Pairs::new(g, w)),
        };
        Some(IntegerFilter { weights })
    }

    /// Bytes of scratch for strips of so many rows of the result.
    fn room(&self, g: &Geometry, rows: usize) -> usize {
        match self.weights {
            Weights::Depthwise { .. } => Held::count(g) * line_length(g) * size_of::<f32>(),
            Weights::DepthwiseQuads(_) => DepthwiseQuads::room(g),
            Weights::Pairs(_) => strip_length(g, rows) * size_of::<i16>(),
            Weights::Quads(_) => strip_length(g, rows),
        }
    }

    /// Computes a strip of the result.
    fn run(&self, work: Work<'_>, scratch: &mut Scratch) {
        match &self.weights {
            Weights::Depthwise { weights, padded, bias } => {
                depthwise((weights.f32(), *padded, bias.f32()), work, scratch.f32_mut());
            }
            Weights::DepthwiseQuads(quads) => quads.run(work, scratch.bytes_mut()),
            Weights::Pairs(pairs) => pairs.run(work, bytemuck::cast_slice_mut(scratch.bytes_mut())),
            Weights::Quads(quads) => quads.run(work, scratch.bytes_mut()),
        }
    }
}

/// Convolves `x` into `out`, both channels last and dense.
pub(crate) fn convolve(
    isa: Isa,
    threads: &Threads,
    g: &Geometry,
    filter: &IntegerFilter,
    rescale: &Rescale,
    x: Quantized<'_>,
    out: &mut [u8],
) {
    let image = g.input.iter().product::<usize>() * g.in_channels;
    let row = g.output[2] * g.out_channels * rescale.size();
    let plane = g.output[1] * row;
    if image == 0 || plane == 0 || g.output[0] == 0 {
        return;
    }
    // As many rows as a widened strip has room for, and strips for every thread.
    let one = strip_length(g, 1);
    let room = match filter.weights {
        Weights::Depthwise { .. } | Weights::DepthwiseQuads(_) => g.output[1],
        _ => 1 + STRIP.saturating_sub(one) / (strip_length(g, 2) - one).max(1),
    };
    let rows = room.min(g.output[1].div_ceil(threads.count())).max(1);
    let strips =
        out.chunks_exact_mut(plane).enumerate().take(g.batch * g.output[0]).flat_map(|(p, plane)| {
            let x = x.part(p / g.output[0] * image, image);
            plane.chunks_mut(rows * row).enumerate().map(move |(s, out)| {
                let first = s * rows;
                (x, Strip { z: p % g.output[0], rows: first..first + out.len() / row }, out)
            })
        });
    threads.for_each(
        strips,
        || Scratch::of(filter.room(g, rows)),
        |scratch, (x, strip, out)| filter.run(Work { isa, g, rescale, x, strip, out }, scratch),
    );
}

fn depthwise(
    (weights, padded, bias): (&[f32], usize, &[f32]),
    Work { isa, g, rescale, x, strip, out }: Work<'_>,
    wide: &mut [f32],
) {
    let line = line_length(g);
    let mut held = Held::new(g);
    for (row, out) in
        strip.rows.clone().zip(out.chunks_exact_mut(g.output[2] * g.in_channels * rescale.size()))
    {
        let rows = held.hold(
            isa,
            g,
            x,
            (strip.z, row),
            wide,
            0.0,
            #[inline(always)]
            |x, to| x.centred(to, f32::from),
        );
        let row = DepthwiseRow {
            x: wide,
            rows,
            next: &[],
            channels: g.in_channels,
            some: 0..g.in_channels,
            width: line / g.in_channels,
            kernel: g.kernel[2],
            stride: g.stride[2],
            dilation: g.dilation[2],
            padding: 0,
            weights,
            bias,
            padded,
            finish: rescale.scaled(out),
        };
        depthwise_row(isa, row);
    }
}

/// `x · weights`: rows of `depth` integers each; `filter` is that of a convolution of one position.
pub(crate) fn multiply(
    isa: Isa,
    threads: &Threads,
    filter: &IntegerFilter,
    rescale: &Rescale,
    x: Quantized<'_>,
    depth: usize,
    columns: usize,
    out: &mut [u8],
) {
    let Some(rows) = x.data.len().checked_div(depth).filter(|&rows| rows > 0) else { return };
    // Rows are the pixels of a line: a pointwise convolution of an image one row high for each strip.
    let strip = (STRIP / depth.max(1)).clamp(1, rows).min(rows.div_ceil(threads.count()));
    let size = rescale.size();
    let parts = out.chunks_mut((strip * columns * size).max(1)).enumerate().map(|(i, out)| {
        let rows = strip.min(rows - i * strip);
        (x.part(i * strip * depth, rows * depth), rows, out)
    });
    let line = |rows| line(rows, depth, columns);
    threads.for_each(
        parts,
        || Scratch::of(filter.room(&line(strip), 1)),
        |scratch, (x, rows, out)| {
            let work = Work { isa, g: &line(rows), rescale, x, strip: Strip::ROW, out };
            filter.run(work, scratch);
        },
    );
}

/// A product as a pointwise convolution of a line of `rows` pixels.
pub(crate) fn line(rows: usize, depth: usize, columns: usize) -> Geometry {
    let one = [1; 3];
    Geometry {
        batch: 1,
        groups: 1,
        in_channels: depth,
        out_channels: columns,
        input: [1, 1, rows],
        output: [1, 1, rows],
        kernel: one,
        stride: one,
        dilation: one,
        padding: [0; 3],
    }
}
