//! What some rows of a result read of a quantized image, copied together with its borders filled in: every window then lies at
//! the same offsets from where it starts, and padding is like anything else.

use super::geometry::Geometry;
use super::rescale::Rescale;
use crate::simd::{Isa, Places};
use std::ops::Range;

/// Elements that kernels may read beyond a strip's last window.
const BEYOND: usize = 4;

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
    /// Some of the integers.
    pub fn part(self, from: usize, len: usize) -> Quantized<'a> {
        Quantized { data: &self.data[from..from + len], ..self }
    }

    /// The integers less their zero point.
    #[inline(always)]
    pub fn centred<T>(self, out: &mut [T], to: impl Fn(i16) -> T) {
        let zero = self.zero as i16;
        let pairs = out.iter_mut().zip(self.data);
        match self.signed {
            true => pairs.for_each(|(o, &b)| *o = to(i16::from(b as i8) - zero)),
            false => pairs.for_each(|(o, &b)| *o = to(i16::from(b) - zero)),
        }
    }

    /// What is added to the integers to make bytes without a sign of them; in a byte, adding it and flipping the sign are one.
    fn shift(self) -> u8 {
        if self.signed { 128 } else { 0 }
    }

    /// The integers as bytes without a sign.
    #[inline(always)]
    pub fn unsigned(self, out: &mut [u8]) {
        let shift = self.shift();
        out.iter_mut().zip(self.data).for_each(|(o, &b)| *o = b ^ shift);
    }

    /// What stands for zero among [those](Self::unsigned).
    pub fn unsigned_zero(self) -> i32 {
        self.zero + i32::from(self.shift())
    }
}

/// Rows of the result that are computed together, of plane `z` of its depth.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub z: usize,
    pub rows: Range<usize>,
}

impl Strip {
    /// A single row, all there is.
    pub const ROW: Strip = Strip { z: 0, rows: 0..1 };

    /// Where the windows of this strip start, in parts of some of them. A strip has its planes, their lines and the channels of
    /// their pixels behind one another.
    pub fn windows(&self, g: &Geometry, together: usize) -> Vec<Places> {
        // Row by row: to divide takes longer than a window of few channels.
        let (line, pixel) = (g.stride[1] * line_length(g), g.stride[2] * g.in_channels);
        let mut places = Vec::with_capacity(self.rows.len() * g.output[2]);
        for y in 0..self.rows.len() {
            places.extend((0..g.output[2]).map(|x| y * line + x * pixel));
        }
        places.chunks(together).map(|part| Places::new(part.to_vec())).collect()
    }

    /// Where piece `i` of a window lies, from its start.
    pub fn piece(&self, g: &Geometry, i: usize) -> usize {
        let [_, kh, kw] = g.kernel;
        let columns = if merges(g) { 1 } else { kw };
        let (plane, row, column) = (i / (kh * columns), i / columns % kh, i % columns);
        let line = plane * lines(g, self.rows.len()) + row * g.dilation[1];
        line * line_length(g) + column * g.dilation[2] * g.in_channels
    }

    /// Copies what this strip reads to `out`. `zero` is what is outside of the image; `copy` makes elements of integers.
    #[inline(always)]
    pub fn fill<T: Copy>(
        &self,
        isa: Isa,
        g: &Geometry,
        x: Quantized<'_>,
        out: &mut [T],
        zero: T,
        copy: impl Fn(Quantized<'_>, &mut [T]),
    ) {
        let (line, count) = (line_length(g), lines(g, self.rows.len()));
        isa.vectorize(
            #[inline(always)]
            || {
                for (i, to) in out.chunks_exact_mut(line).take(g.kernel[0] * count).enumerate() {
                    let z = (self.z * g.stride[0] + i / count * g.dilation[0]) as i64 - g.padding[0];
                    let y = (self.rows.start * g.stride[1] + i % count) as i64 - g.padding[1];
                    // Lines between those of a dilated or strided filter are not read, but copying them is simple.
                    if !fill_line(g, x, z, y, to, zero, &copy) {
                        to.fill(zero);
                    }
                }
            },
        );
    }
}

/// A strip of a result, to be computed.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub isa: Isa,
    pub g: &'a Geometry,
    /// What becomes of the sums.
    pub rescale: &'a Rescale,
    /// The image.
    pub x: Quantized<'a>,
    pub strip: Strip,
    pub out: &'a mut [u8],
}

/// Whether a filter row is one piece: its pixels lie behind one another.
fn merges(g: &Geometry) -> bool {
    g.groups == 1 && g.dilation[2] == 1
}

/// Elements of a piece, and how many there are.
pub(super) fn pieces(g: &Geometry) -> (usize, usize) {
    let (ic, [kd, kh, kw]) = (g.in_channels / g.groups, g.kernel);
    if merges(g) { (kw * ic, kd * kh) } else { (ic, kd * kh * kw) }
}

/// Elements of a line: as far as the last window reaches, borders included.
pub(super) fn line_length(g: &Geometry) -> usize {
    let reach = (g.output[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1;
    reach * g.in_channels
}

/// Lines from the first to the last that a window reads.
pub(super) fn span(g: &Geometry) -> usize {
    (g.kernel[1] - 1) * g.dilation[1] + 1
}

/// Lines of a plane of a strip of so many rows.
fn lines(g: &Geometry, rows: usize) -> usize {
    (rows.max(1) - 1) * g.stride[1] + span(g)
}

/// Elements of a strip of so many rows.
pub(super) fn strip_length(g: &Geometry, rows: usize) -> usize {
    g.kernel[0] * lines(g, rows) * line_length(g) + BEYOND
}

/// Copies line `y` of plane `z`, with zeros for what is outside; `false` where all of it is, which is left alone.
#[inline(always)]
pub(super) fn fill_line<T: Copy>(
    g: &Geometry,
    x: Quantized<'_>,
    z: i64,
    y: i64,
    out: &mut [T],
    zero: T,
    copy: impl Fn(Quantized<'_>, &mut [T]),
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
    copy(x.part(from, inside), &mut rest[..inside]);
    rest[inside..].fill(zero);
    true
}

/// The lines that a row of the result reads, each copied when it is first read: rows share most of theirs with the next.
#[derive(Debug)]
pub(super) struct Held {
    /// Which line of the image each copy is.
    lines: Vec<Option<i64>>,
    /// Where the line of each filter row starts; `None` outside of the image.
    rows: Vec<Option<usize>>,
}

impl Held {
    /// How many lines there is to be room for.
    pub fn count(g: &Geometry) -> usize {
        g.kernel[0] * span(g)
    }

    /// None so far.
    pub fn new(g: &Geometry) -> Held {
        Held { lines: vec![None; Held::count(g)], rows: vec![None; g.kernel[0] * g.kernel[1]] }
    }

    /// Copies to `wide` what row `row` of plane `z` of the result reads and was not held; where the lines start, by filter row.
    #[inline(always)]
    pub fn hold<T: Copy>(
        &mut self,
        isa: Isa,
        g: &Geometry,
        x: Quantized<'_>,
        (z, row): (usize, usize),
        wide: &mut [T],
        zero: T,
        copy: impl Fn(Quantized<'_>, &mut [T]),
    ) -> &[Option<usize>] {
        let (line, span) = (line_length(g), span(g));
        for (t, place) in self.rows.iter_mut().enumerate() {
            let (plane, tap) = (t / g.kernel[1], t % g.kernel[1]);
            let z = (z * g.stride[0] + plane * g.dilation[0]) as i64 - g.padding[0];
            let y = (row * g.stride[1] + tap * g.dilation[1]) as i64 - g.padding[1];
            let slot = plane * span + y.rem_euclid(span as i64) as usize;
            let to = &mut wide[slot * line..][..line];
            let there = self.lines[slot] == Some(y)
                || isa.vectorize(
                    #[inline(always)]
                    || fill_line(g, x, z, y, to, zero, &copy),
                );
            self.lines[slot] = there.then_some(y);
            *place = there.then_some(slot * line);
        }
        &self.rows
    }
}

/// How a dense filter's weights lie in panels `[pieces · depth / unit][columns][unit]`, for each group those of all its
/// channels.
#[derive(Copy, Clone, Debug)]
pub(super) struct Packing {
    /// Channels of a panel.
    pub columns: usize,
    /// Neighbours along the depth that are multiplied at once; pieces are filled up to whole ones.
    pub unit: usize,
}

impl Packing {
    /// Elements of a piece, filled up.
    pub fn depth(self, g: &Geometry) -> usize {
        pieces(g).0.next_multiple_of(self.unit)
    }

    /// Elements of a panel.
    pub fn panel(self, g: &Geometry) -> usize {
        pieces(g).1 * self.depth(g) * self.columns
    }

    /// Panels of a group.
    pub fn panels(self, g: &Geometry) -> usize {
        (g.out_channels / g.groups).div_ceil(self.columns)
    }

    /// Elements of all panels.
    pub fn len(self, g: &Geometry) -> usize {
        g.groups * self.panels(g) * self.panel(g)
    }

    /// Writes weights `[out channels, in channels / groups, taps…]` to zeroed panels.
    pub fn pack<T>(self, g: &Geometry, w: &[i16], out: &mut [T], to: impl Fn(i16) -> T) {
        let (ic, oc, taps) = (g.in_channels / g.groups, g.out_channels / g.groups, g.taps());
        let (depth, panel, kw) = (self.depth(g), self.panel(g), if merges(g) { g.kernel[2] } else { 1 });
        for (n, w) in w.chunks_exact(ic * taps).enumerate() {
            let (group, n) = (n / oc, n % oc);
            let out = &mut out[(group * self.panels(g) + n / self.columns) * panel..][..panel];
            for (i, &v) in w.iter().enumerate() {
                let (channel, tap) = (i / taps, i % taps);
                let k = tap / kw * depth + tap % kw * ic + channel;
                out[(k / self.unit * self.columns + n % self.columns) * self.unit + k % self.unit] = to(v);
            }
        }
    }
}
