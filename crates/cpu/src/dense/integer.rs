//! Convolutions and products of 8-bit integers, channels last.
//!
//! What the result reads is widened first, zero points taken off. For dense filters that is all of a strip, borders filled in:
//! padding is then zeros, every window lies at the same offsets from where it starts, and pairs of `i16` are summed
//! ([`crate::simd::pair_strip`]). Depthwise filters go through the `f32` kernel, whose sums of few small integers are exact,
//! with the few lines that a row of the result reads.

use super::blocks::blocks;
use super::geometry::Geometry;
use super::rescale::Rescale;
use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::simd::{COLUMNS, DepthwiseRow, Isa, PairStrip, Places, ROWS, depthwise_row, pair_strip};

/// Elements of a widened strip: half of a small second-level cache.
const STRIP: usize = 48 * 1024;

/// Rows that pass by a block of a panel together, while their partial sums wait.
const TOGETHER: usize = 16 * ROWS;

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

/// Elements of a widened line: as far as the last window reaches, borders included.
fn line_length(g: &Geometry) -> usize {
    let reach = (g.output[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1;
    reach * g.in_channels
}

/// Lines from the first to the last that a window reads.
fn span(g: &Geometry) -> usize {
    (g.kernel[1] - 1) * g.dilation[1] + 1
}

/// Widens line `y` of plane `z`, with zeros for what is outside; `false` where all of it is, which is left alone.
#[inline(always)]
fn widen_line<T: Copy>(
    g: &Geometry,
    x: Quantized<'_>,
    z: i64,
    y: i64,
    out: &mut [T],
    zero: T,
    to: impl Fn(i16) -> T,
) -> bool {
    let [depth, height, width] = g.input;
    if !(0..depth as i64).contains(&z) || !(0..height as i64).contains(&y) {
        return false;
    }
    let left = g.padding[2] as usize * g.in_channels;
    // Columns that the last window does not reach are left out.
    let inside = (width * g.in_channels).min(out.len().saturating_sub(left));
    let from = (z as usize * height + y as usize) * width * g.in_channels;
    let (border, rest) = out.split_at_mut(left.min(out.len()));
    border.fill(zero);
    x.part(from, inside).widen(&mut rest[..inside], to);
    rest[inside..].fill(zero);
    true
}

/// Lines of a widened strip of so many rows.
fn lines(g: &Geometry, rows: usize) -> usize {
    (rows.max(1) - 1) * g.stride[1] + span(g)
}

/// Elements of a widened strip of so many rows, and some to read beyond the end.
fn strip_length(g: &Geometry, rows: usize) -> usize {
    g.kernel[0] * lines(g, rows) * line_length(g) + 2
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
        Weights::Dense { .. } => 1 + STRIP.saturating_sub(one) / (strip_length(g, 2) - one).max(1),
        Weights::Depthwise { .. } => g.output[1],
    };
    let rows = room.min(g.output[1].div_ceil(threads.count())).max(1);
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
            let scratch = || vec![0i16; strip_length(g, rows)];
            threads.for_each(strips.into_iter(), scratch, |wide, (x, strip, out)| {
                dense(isa, g, panels, *panel, rescale, wide, x, &strip, out);
            });
        }
        Weights::Depthwise { weights, padded, bias } => {
            let scratch = || vec![0f32; g.kernel[0] * span(g) * line_length(g)];
            threads.for_each(strips.into_iter(), scratch, |wide, (x, strip, out)| {
                depthwise(isa, g, (weights.f32(), *padded, bias.f32()), rescale, wide, x, &strip, out);
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
    let (line, count) = (line_length(g), lines(g, strip.rows.len()));
    isa.vectorize(
        #[inline(always)]
        || {
            for (i, to) in wide.chunks_exact_mut(line).take(g.kernel[0] * count).enumerate() {
                let z = (strip.z * g.stride[0] + i / count * g.dilation[0]) as i64 - g.padding[0];
                let y = (strip.rows.start * g.stride[1] + i % count) as i64 - g.padding[1];
                // Lines between those of a dilated or strided filter are not read, but copying them is simple.
                if !widen_line(g, x, z, y, to, 0, |v| v) {
                    to.fill(0);
                }
            }
        },
    );
    let (ic, oc, [kd, kh, kw]) = (g.in_channels / g.groups, g.out_channels / g.groups, g.kernel);
    let columns = if merges(g) { 1 } else { kw };
    let offset = |i: usize| {
        let (plane, row, column) = (i / (kh * columns), i / columns % kh, i % columns);
        (plane * count + row * g.dilation[1]) * line + column * g.dilation[2] * g.in_channels
    };
    let place = |p: usize| {
        let (y, x) = (p / g.output[2], p % g.output[2]);
        y * g.stride[1] * line + x * g.stride[2] * g.in_channels
    };
    let positions = strip.rows.len() * g.output[2];
    let rows = |top: usize| Places::new((top..positions.min(top + TOGETHER)).map(place).collect());
    let rows: Vec<Places> = (0..positions).step_by(TOGETHER).map(rows).collect();
    // What each block of a panel reads, and where it starts.
    let depth = pieces(g).0.div_ceil(2);
    let blocks = blocks(kd * kh * columns, depth, COLUMNS).into_iter().map(|b| {
        let places = Places::new(b.pieces.clone().map(|i| offset(i) + 2 * b.from).collect());
        (places, b.len, (b.pieces.start * depth + b.from) * 2 * COLUMNS)
    });
    let blocks: Vec<(Places, usize, usize)> = blocks.collect();
    let (size, count) = (rescale.size(), oc.div_ceil(COLUMNS));
    let mut partial = [[0; COLUMNS]; TOGETHER];
    for group in 0..g.groups {
        for p in 0..count {
            let panel = &panels[(group * count + p) * panel..][..panel];
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

fn depthwise(
    isa: Isa,
    g: &Geometry,
    (weights, padded, bias): (&[f32], usize, &[f32]),
    rescale: &Rescale,
    wide: &mut [f32],
    x: Quantized<'_>,
    strip: &Strip,
    out: &mut [u8],
) {
    let (line, span) = (line_length(g), span(g));
    // Which line of the image each widened one is; rows of the result share most of theirs with the next.
    let mut held = vec![None; g.kernel[0] * span];
    let mut rows = vec![None; g.kernel[0] * g.kernel[1]];
    for (row, out) in
        strip.rows.clone().zip(out.chunks_exact_mut(g.output[2] * g.in_channels * rescale.size()))
    {
        for (t, place) in rows.iter_mut().enumerate() {
            let (plane, tap) = (t / g.kernel[1], t % g.kernel[1]);
            let z = (strip.z * g.stride[0] + plane * g.dilation[0]) as i64 - g.padding[0];
            let y = (row * g.stride[1] + tap * g.dilation[1]) as i64 - g.padding[1];
            let slot = plane * span + y.rem_euclid(span as i64) as usize;
            let to = &mut wide[slot * line..][..line];
            let there = held[slot] == Some(y)
                || isa.vectorize(
                    #[inline(always)]
                    || widen_line(g, x, z, y, to, 0.0, f32::from),
                );
            held[slot] = there.then_some(y);
            *place = there.then_some(slot * line);
        }
        let row = DepthwiseRow {
            x: wide,
            rows: &rows,
            next: &[],
            channels: g.in_channels,
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
        wide.resize(strip_length(&g, 1), 0);
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
