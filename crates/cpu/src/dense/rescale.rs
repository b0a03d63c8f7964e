//! What becomes of integer sums: they are scaled, and rounded to integers again or left as floats.

use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::simd::{Isa, QUAD_COLUMNS as WIDEST, ROUNDER, Scaled};

/// Bytes of a cache line.
const LINE: usize = 64;

/// The integers that a result is stored as: `real = (integer − zero) · scale`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    pub scale: f64,
    pub zero: i32,
    /// Bounds of the integers.
    pub min: i32,
    pub max: i32,
}

impl Grid {
    /// The integers that real numbers between `low` and `high` round to, within the grid's own bounds.
    pub fn clamped(self, low: f32, high: f32) -> Grid {
        let inverse = (1.0 / self.scale) as f32;
        let place = |x: f32| {
            let at = (x * inverse).round_ties_even() + self.zero as f32;
            (at.clamp(self.min as f32, self.max as f32)) as i32
        };
        Grid { min: place(low), max: place(high), ..self }
    }
}

/// The nearest integer to `v`, ties to even, in the low bits: of those from `low` to `high`, which are far below 2²².
#[inline(always)]
fn rounded(v: f32, low: f32, high: f32) -> u32 {
    let v = if v > low { v } else { low };
    let v = if v < high { v } else { high };
    (v + ROUNDER).to_bits()
}

/// `sum · factor + offset` of each column, then clamped; rounded and stored as bytes, or as floats.
#[derive(Debug)]
pub(crate) struct Rescale {
    factors: Aligned,
    offsets: Aligned,
    low: f32,
    high: f32,
    /// `None`: the result is in floating point.
    zero: Option<i32>,
    /// Whether integers of 32 bits hold all there can be before it is clamped.
    small: bool,
}

impl Rescale {
    /// Sums of the columns stand for `sum · scale + bias`; the result is bounded by `clamp` and stored on `grid`.
    pub fn new(scales: &[f64], bias: Option<&[f32]>, clamp: (f32, f32), grid: Option<Grid>) -> Rescale {
        // A panel of a group may start at any column, and reads as many as the widest panel has.
        let columns = (scales.len() + WIDEST).next_multiple_of(WIDEST);
        let (mut factors, mut offsets) = (Aligned::floats(columns), Aligned::floats(columns));
        let step = grid.map_or(1.0, |g| g.scale);
        for (i, scale) in scales.iter().enumerate() {
            factors.f32_mut()[i] = (scale / step) as f32;
            offsets.f32_mut()[i] = bias.map_or(0.0, |b| (f64::from(b[i]) / step) as f32);
        }
        let grid = grid.map(|g| g.clamped(clamp.0, clamp.1));
        let (low, high) = match grid {
            Some(g) => ((g.min - g.zero) as f32, (g.max - g.zero) as f32),
            None => clamp,
        };
        // Sums are less than 2³¹, and so is a fourth of that and another.
        let small = |list: &Aligned, most: f32| list.f32().iter().all(|x| x.abs() <= most);
        let small = small(&factors, 0.25) && small(&offsets, (1 << 29) as f32);
        Rescale { factors, offsets, low, high, zero: grid.map(|g| g.zero), small }
    }

    /// Bytes of an element of the result.
    pub fn size(&self) -> usize {
        if self.zero.is_some() { 1 } else { 4 }
    }

    /// Finishes sums into `out`.
    pub fn scaled<'a>(&'a self, out: &'a mut [u8]) -> Scaled<'a> {
        let (factors, offsets) = (self.factors.f32(), self.offsets.f32());
        Scaled { out, factors, offsets, clamp: (self.low, self.high), zero: self.zero, small: self.small }
    }
}

#[inline(always)]
fn signed(b: u8) -> f32 {
    f32::from(b as i8)
}

#[inline(always)]
fn unsigned(b: u8) -> f32 {
    f32::from(b)
}

/// `clamp(round(a · x + b · y + c))` of two quantized tensors: their sum, on a grid of its own.
#[derive(Debug)]
pub(crate) struct Addition {
    /// Factors of the two, and whether they are signed.
    factors: [f32; 2],
    signed: [bool; 2],
    offset: f32,
    low: f32,
    high: f32,
    zero: i32,
}

impl Addition {
    /// Adds values of grids `x` and `y`; bounded by `clamp`, stored on `to`.
    pub fn new(x: (Grid, bool), y: (Grid, bool), clamp: (f32, f32), to: Grid) -> Addition {
        let [a, b] = [x, y].map(|(g, _)| g.scale / to.scale);
        let grid = to.clamped(clamp.0, clamp.1);
        Addition {
            factors: [a as f32, b as f32],
            signed: [x.1, y.1],
            offset: (-a * f64::from(x.0.zero) - b * f64::from(y.0.zero)) as f32,
            low: (grid.min - grid.zero) as f32,
            high: (grid.max - grid.zero) as f32,
            zero: grid.zero,
        }
    }

    /// Adds all elements.
    pub fn run(&self, isa: Isa, x: &[u8], y: &[u8], out: &mut [u8]) {
        match self.signed {
            [true, true] => self.each(isa, x, y, out, signed, signed),
            [true, false] => self.each(isa, x, y, out, signed, unsigned),
            [false, true] => self.each(isa, x, y, out, unsigned, signed),
            [false, false] => self.each(isa, x, y, out, unsigned, unsigned),
        }
    }

    #[inline(always)]
    fn each(
        &self,
        isa: Isa,
        x: &[u8],
        y: &[u8],
        out: &mut [u8],
        fx: impl Fn(u8) -> f32,
        fy: impl Fn(u8) -> f32,
    ) {
        let [a, b] = self.factors;
        isa.vectorize(
            #[inline(always)]
            || {
                for (o, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                    let v = fx(x) * a + fy(y) * b + self.offset;
                    *o = rounded(v, self.low, self.high).wrapping_add(self.zero as u32) as u8;
                }
            },
        );
    }
}

/// `clamp(round(a · sum + b))`: the mean of a channel's quantized positions, on a grid of its own.
#[derive(Debug)]
pub(crate) struct Mean {
    channels: usize,
    positions: usize,
    /// What makes bytes without a sign of those of the input.
    flip: u8,
    factor: f32,
    offset: f32,
    low: f32,
    high: f32,
    zero: i32,
}

impl Mean {
    /// Of so many channels of so many positions, on grid `x`; bounded by `clamp`, stored on `to`.
    pub fn new(
        (x, signed): (Grid, bool),
        (channels, positions): (usize, usize),
        clamp: (f32, f32),
        to: Grid,
    ) -> Mean {
        let (flip, zero) = if signed { (128, x.zero + 128) } else { (0, x.zero) };
        let scale = x.scale / to.scale;
        let grid = to.clamped(clamp.0, clamp.1);
        Mean {
            channels,
            positions,
            flip,
            factor: (scale / positions as f64) as f32,
            offset: (-scale * f64::from(zero)) as f32,
            low: (grid.min - grid.zero) as f32,
            high: (grid.max - grid.zero) as f32,
            zero: grid.zero,
        }
    }

    /// Of images channels last. Sums are exact.
    pub fn run(&self, isa: Isa, threads: &Threads, x: &[u8], out: &mut [u8]) {
        /// Positions whose sum 32 bits hold.
        const SUMMED: usize = 1 << 24;
        let image = self.channels * self.positions;
        if image == 0 {
            return;
        }
        // Lines of channels, so that no two threads read the same.
        let part = threads.together(self.channels.div_ceil(LINE), LINE * self.positions) * LINE;
        let images = x.chunks_exact(image).zip(out.chunks_exact_mut(self.channels));
        let parts = images.flat_map(|(x, out)| {
            let parts = out.chunks_mut(part).enumerate();
            parts.map(move |(i, out)| (x, i * part, out))
        });
        threads.for_each(
            parts.collect::<Vec<_>>().into_iter(),
            || (vec![0u32; part.min(self.channels)], vec![0u64; part.min(self.channels)]),
            |(sums, totals), (x, first, out)| {
                isa.vectorize(
                    #[inline(always)]
                    || {
                        let (sums, totals) = (&mut sums[..out.len()], &mut totals[..out.len()]);
                        totals.fill(0);
                        for x in x.chunks(self.channels.saturating_mul(SUMMED)) {
                            sums.fill(0);
                            for pixel in x.chunks_exact(self.channels) {
                                let pixel = &pixel[first..first + sums.len()];
                                let bytes = pixel.iter().map(|b| u32::from(b ^ self.flip));
                                sums.iter_mut().zip(bytes).for_each(|(sum, b)| *sum += b);
                            }
                            totals.iter_mut().zip(&*sums).for_each(|(total, &sum)| *total += u64::from(sum));
                        }
                        for (o, &total) in out.iter_mut().zip(&*totals) {
                            let v = total as f32 * self.factor + self.offset;
                            *o = rounded(v, self.low, self.high).wrapping_add(self.zero as u32) as u8;
                        }
                    },
                );
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{COLUMNS, PairStrip, Places, pair_strip};

    #[test]
    fn ties_go_to_even_and_bounds_hold() {
        let grid = Grid { scale: 0.5, zero: 3, min: -128, max: 127 };
        let r = Rescale::new(&[0.25; 3], Some(&[0.0, 0.0, 1.0]), (f32::NEG_INFINITY, 10.0), Some(grid));
        // Rows are a pixel each, columns are pairs of numbers by ones and zeros: the sums.
        let x = [1, 0, 3, 0, -32768, 0, -1, 0, 500, 0, 2, 0];
        let panel: Vec<i16> =
            (0..3 * 2 * COLUMNS).map(|i| i16::from(i % (2 * COLUMNS) == i / (2 * COLUMNS) * 2)).collect();
        for isa in Isa::available() {
            let mut out = [9u8; 7];
            let strip = PairStrip {
                x: &x,
                rows: &Places::new(vec![0, 6]),
                pieces: &Places::new(vec![0]),
                depth: 3,
                panel: &panel,
                columns: 3,
                partial: &mut [],
                first: true,
                last: true,
                finish: r.scaled(&mut out),
                channel: 0,
                stride: 4,
            };
            pair_strip(isa, strip);
            // 0.5 → 0, 1.5 → 2, far below; −0.5 → 0, the clamp at 10 is 20 steps, 1 + 2 = 3.
            assert_eq!(out.map(|b| b as i8), [3, 5, -128, 9, 3, 23, 6], "{isa:?}");
        }
    }

    #[test]
    fn sums_of_grids() {
        let g = |scale, zero| Grid { scale, zero, min: -128, max: 127 };
        let add = Addition::new((g(0.5, 1), true), (g(0.25, -2), true), (0.0, f32::INFINITY), g(0.5, -5));
        let x: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37)).collect();
        let y: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(91)).collect();
        for isa in Isa::available() {
            let mut out = [0u8; 100];
            add.run(isa, &x, &y, &mut out);
            for i in 0..100 {
                let real = f64::from(x[i] as i8 - 1) * 0.5 + (f64::from(y[i] as i8) + 2.0) * 0.25;
                let want = ((real.max(0.0) / 0.5).round_ties_even() - 5.0).clamp(-128.0, 127.0);
                assert_eq!(f64::from(out[i] as i8), want, "{isa:?} {i}");
            }
        }
    }
}
