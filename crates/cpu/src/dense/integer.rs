//! Convolutions and products of 8-bit integers, channels last.
//!
//! What a strip of the result reads is widened first, zero points taken off and borders filled in: padding is then zeros,
//! and every window lies at the same offsets from where it starts. Dense filters sum pairs of `i16`
//! ([`crate::simd::pairs`]); depthwise ones go through the `f32` kernel, whose sums of few small integers are exact.

use super::geometry::Geometry;
use super::rescale::Rescale;
use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::simd::{COLUMNS, DepthwiseRow, Isa, Pairs, ROWS, Sums, depthwise_row, pairs};

/// Elements of a widened strip: half of a small second-level cache.
const STRIP: usize = 48 * 1024;

/// The packed integers of a filter or of a matrix.
#[derive(Debug)]
pub(crate) struct IntegerFilter {
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// `[taps][padded channels]`
    Depthwise { weights: Aligned, padded: usize, bias: Aligned },
    /// For each group panels `[pieces · depth][COLUMNS][2]`, and how many `i16` a panel has.
    Dense { panels: Vec<i16>, panel: usize },
}

/// Whether a filter row is one piece: its pixels lie behind one another.
fn merges(g: &Geometry) -> bool {
    g.groups == 1 && g.dilation[2] == 1
}

/// Elements of a piece, and how many there are.
fn pieces(g: &Geometry) -> (usize, usize) {
    let (ic, [kd, kh, kw]) = (g.in_channels / g.groups, g.kernel);
    if merges(g) { (kw * ic, kd * kh) } else { (ic, kd * kh * kw) }
}

impl IntegerFilter {
    /// Packs integers `[out channels, in channels / groups, taps…]`, zero points taken off: within 8 bits and a sign. `None`
    /// where sums could overflow, or the general kernel is needed.
    pub fn new(g: &Geometry, w: &[i16]) -> Option<IntegerFilter> {
        let (ic, oc, taps) = (g.in_channels / g.groups, g.out_channels / g.groups, g.taps());
        let depth = ic * taps;
        let fits = w.iter().all(|w| w.unsigned_abs() <= 255) && depth <= (i32::MAX as usize) / (255 * 255);
        if !fits || w.is_empty() || g.padding.iter().any(|&p| p < 0) {
            return None;
        }
        if g.groups > 1 && ic == 1 && oc == 1 && taps * 255 * 255 < 1 << 24 {
            let padded = g.out_channels.next_multiple_of(COLUMNS);
            let mut weights = Aligned::floats(taps * padded);
            for (i, &v) in w.iter().enumerate() {
                weights.f32_mut()[i % taps * padded + i / taps] = f32::from(v);
            }
            let weights = Weights::Depthwise { weights, padded, bias: Aligned::floats(padded) };
            return Some(IntegerFilter { weights });
        }
        let (length, count) = pieces(g);
        let kw = if merges(g) { g.kernel[2] } else { 1 };
        let depth = length.div_ceil(2);
        let panel = count * depth * 2 * COLUMNS;
        let mut panels = vec![0i16; g.groups * oc.div_ceil(COLUMNS) * panel];
        for (n, w) in w.chunks_exact(ic * taps).enumerate() {
            let (group, n) = (n / oc, n % oc);
            let to = &mut panels[(group * oc.div_ceil(COLUMNS) + n / COLUMNS) * panel..][..panel];
            for (i, &v) in w.iter().enumerate() {
                let (channel, tap) = (i / taps, i % taps);
                let (piece, k) = (tap / kw, tap % kw * ic + channel);
                to[((piece * depth + k / 2) * COLUMNS + n % COLUMNS) * 2 + k % 2] = v;
            }
        }
        Some(IntegerFilter { weights: Weights::Dense { panels, panel } })
    }
}

/// A quantized image to read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Quantized<'a> {
    /// Integers, channels last.
    pub data: &'a [u8],
    /// Whether they are `i8`.
    pub signed: bool,
    /// What stands for zero.
    pub zero: i32,
}

impl<'a> Quantized<'a> {
    fn part(self, from: usize, len: usize) -> Quantized<'a> {
        Quantized { data: &self.data[from..from + len], ..self }
    }

    /// The integers less their zero point.
    #[inline(always)]
    fn widen<T>(self, out: &mut [T], to: impl Fn(i16) -> T) {
        let zero = self.zero as i16;
        let pairs = out.iter_mut().zip(self.data);
        match self.signed {
            true => pairs.for_each(|(o, &b)| *o = to(i16::from(b as i8) - zero)),
            false => pairs.for_each(|(o, &b)| *o = to(i16::from(b) - zero)),
        }
    }
}

/// Rows of the result that are computed together, and what of the image they read.
struct Strip {
    /// Of the depth dimension, and the first and last row.
    z: usize,
    rows: std::ops::Range<usize>,
}

/// How a widened strip lies in memory.
struct Lines {
    /// Elements of a line, borders included, and lines of each plane.
    line: usize,
    lines: usize,
}

impl Lines {
    fn new(g: &Geometry, rows: usize) -> Lines {
        let reach = (g.output[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1;
        let lines = (rows.max(1) - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        Lines { line: reach * g.in_channels, lines }
    }

    /// Elements in all, and some to read beyond the end.
    fn len(&self, g: &Geometry) -> usize {
        g.kernel[0] * self.lines * self.line + 2
    }

    /// Fills `out` with the lines that a strip reads: `convert` writes integers less their zero point.
    fn fill<T: Copy>(
        &self,
        g: &Geometry,
        strip: &Strip,
        x: Quantized<'_>,
        out: &mut [T],
        zero: T,
        convert: impl Fn(Quantized<'_>, &mut [T]),
    ) {
        let [_, height, width] = g.input;
        let c = g.in_channels;
        let left = g.padding[2] as usize * c;
        // Columns that the last window does not reach are left out.
        let inside = (width * c).min(self.line.saturating_sub(left));
        for plane in 0..g.kernel[0] {
            for i in 0..self.lines {
                let to = &mut out[(plane * self.lines + i) * self.line..][..self.line];
                let z = (strip.z * g.stride[0] + plane * g.dilation[0]) as i64 - g.padding[0];
                let y = (strip.rows.start * g.stride[1] + i) as i64 - g.padding[1];
                let there = (0..g.input[0] as i64).contains(&z) && (0..height as i64).contains(&y);
                // Lines between those of a dilated or strided filter are not read, but copying them is simple.
                if !there {
                    to.fill(zero);
                    continue;
                }
                let from = (z as usize * height + y as usize) * width * c;
                to[..left.min(self.line)].fill(zero);
                if inside > 0 {
                    convert(x.part(from, inside), &mut to[left..left + inside]);
                }
                to[(left + inside).min(self.line)..].fill(zero);
            }
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
    // As many rows as a strip has room for, and strips for every thread.
    let one = Lines::new(g, 1).len(g);
    let more = Lines::new(g, 2).len(g).saturating_sub(one).max(1);
    let rows = 1 + STRIP.saturating_sub(one) / more;
    let rows = rows.min(g.output[1].div_ceil(threads.count())).max(1);
    let strips: Vec<(Quantized<'_>, Strip, &mut [u8])> = out
        .chunks_exact_mut(plane)
        .enumerate()
        .take(g.batch * g.output[0])
        .flat_map(|(p, plane)| {
            let x = x.part(p / g.output[0] * image, image);
            plane.chunks_mut(rows * row).enumerate().map(move |(s, out)| {
                let first = s * rows;
                (x, Strip { z: p % g.output[0], rows: first..first + out.len() / row }, out)
            })
        })
        .collect();
    match &filter.weights {
        Weights::Dense { panels, panel } => {
            let scratch = || vec![0i16; Lines::new(g, rows).len(g)];
            threads.for_each(strips.into_iter(), scratch, |wide, (x, strip, out)| {
                dense(isa, g, panels, *panel, rescale, wide, x, &strip, out);
            });
        }
        Weights::Depthwise { weights, padded, bias } => {
            let scratch = || (vec![0f32; Lines::new(g, rows).len(g)], vec![0f32; row / rescale.size()]);
            threads.for_each(strips.into_iter(), scratch, |(wide, sums), (x, strip, out)| {
                let weights = (weights.f32(), *padded, bias.f32());
                depthwise(isa, g, weights, rescale, wide, sums, x, &strip, out);
            });
        }
    }
}

fn dense(
    isa: Isa,
    g: &Geometry,
    panels: &[i16],
    panel: usize,
    rescale: &Rescale,
    wide: &mut [i16],
    x: Quantized<'_>,
    strip: &Strip,
    out: &mut [u8],
) {
    let lines = Lines::new(g, strip.rows.len());
    isa.vectorize(
        #[inline(always)]
        || lines.fill(g, strip, x, wide, 0, |x, to| x.widen(to, |v| v)),
    );
    let (ic, oc, [kd, kh, kw]) = (g.in_channels / g.groups, g.out_channels / g.groups, g.kernel);
    let columns = if merges(g) { 1 } else { kw };
    let offsets: Vec<usize> = (0..kd * kh * columns)
        .map(|i| {
            let (plane, row, column) = (i / (kh * columns), i / columns % kh, i % columns);
            (plane * lines.lines + row * g.dilation[1]) * lines.line + column * g.dilation[2] * g.in_channels
        })
        .collect();
    let positions = strip.rows.len() * g.output[2];
    let place = |p: usize| {
        let (y, x) = (p / g.output[2], p % g.output[2]);
        y * g.stride[1] * lines.line + x * g.stride[2] * g.in_channels
    };
    let starts: Vec<usize> = (0..positions).map(place).collect();
    let depth = pieces(g).0.div_ceil(2);
    let (size, count) = (rescale.size(), oc.div_ceil(COLUMNS));
    let mut sums: Sums = [[0; COLUMNS]; ROWS];
    for group in 0..g.groups {
        let x = &wide[group * ic..];
        for p in 0..count {
            let panel = &panels[(group * count + p) * panel..][..panel];
            let first = group * oc + p * COLUMNS;
            let columns = COLUMNS.min(oc - p * COLUMNS);
            for (i, rows) in starts.chunks(ROWS).enumerate() {
                pairs(isa, &Pairs { x, rows, pieces: &offsets, depth, panel }, &mut sums);
                let out = &mut out[(i * ROWS * g.out_channels + first) * size..];
                rescale.finish(isa, &sums[..rows.len()], first, columns, g.out_channels, out);
            }
        }
    }
}

fn depthwise(
    isa: Isa,
    g: &Geometry,
    (weights, padded, bias): (&[f32], usize, &[f32]),
    rescale: &Rescale,
    wide: &mut [f32],
    sums: &mut [f32],
    x: Quantized<'_>,
    strip: &Strip,
    out: &mut [u8],
) {
    let lines = Lines::new(g, strip.rows.len());
    isa.vectorize(
        #[inline(always)]
        || lines.fill(g, strip, x, wide, 0.0, |x, to| x.widen(to, f32::from)),
    );
    let c = g.in_channels;
    for (y, out) in out.chunks_exact_mut(g.output[2] * c * rescale.size()).enumerate() {
        let row = |t: usize| {
            let (plane, row) = (t / g.kernel[1], t % g.kernel[1]);
            Some((plane * lines.lines + y * g.stride[1] + row * g.dilation[1]) * lines.line)
        };
        let rows: Vec<Option<usize>> = (0..g.kernel[0] * g.kernel[1]).map(row).collect();
        let row = DepthwiseRow {
            x: wide,
            rows: &rows,
            channels: c,
            width: lines.line / c,
            kernel: g.kernel[2],
            stride: g.stride[2],
            dilation: g.dilation[2],
            padding: 0,
            weights,
            bias,
            padded,
            out: sums,
            residual: None,
            clamp: (f32::NEG_INFINITY, f32::INFINITY),
        };
        depthwise_row(isa, row);
        rescale.rows(isa, sums, c, out);
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
    let Some(rows) = x.data.len().checked_div(depth) else { return };
    // Rows are the pixels of a line: a pointwise convolution of an image one row high for each strip.
    let strip = (STRIP / depth.max(1)).clamp(1, rows.max(1)).min(rows.div_ceil(threads.count()).max(1));
    let Weights::Dense { panels, panel } = &filter.weights else { return };
    let size = rescale.size();
    let parts: Vec<_> = out
        .chunks_mut((strip * columns * size).max(1))
        .enumerate()
        .map(|(i, out)| {
            let rows = strip.min(rows - i * strip);
            (x.part(i * strip * depth, rows * depth), rows, out)
        })
        .collect();
    threads.for_each(parts.into_iter(), Vec::new, |wide: &mut Vec<i16>, (x, rows, out)| {
        let g = line(rows, depth, columns);
        wide.resize(Lines::new(&g, 1).len(&g), 0);
        dense(isa, &g, panels, *panel, rescale, wide, x, &Strip { z: 0, rows: 0..1 }, out);
    });
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
