//! What becomes of integer sums: they are scaled, and rounded to integers again or left as floats.

use crate::memory::Aligned;
use crate::simd::{Isa, QUAD_COLUMNS as WIDEST, ROUNDER, Scaled};

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

/// Real numbers, in steps of a grid and from its zero, as its bytes.
#[derive(Copy, Clone, Debug)]
pub(super) struct Rounding {
    low: f32,
    high: f32,
    zero: i32,
}

impl Rounding {
    /// To `grid`, of real numbers bounded by `clamp`.
    pub fn new(grid: Grid, clamp: (f32, f32)) -> Rounding {
        let Grid { min, max, zero, .. } = grid.clamped(clamp.0, clamp.1);
        Rounding { low: (min - zero) as f32, high: (max - zero) as f32, zero }
    }

    #[inline(always)]
    pub fn byte(self, v: f32) -> u8 {
        rounded(v, self.low, self.high).wrapping_add(self.zero as u32) as u8
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
    rounding: Rounding,
}

impl Addition {
    /// Adds values of grids `x` and `y`; bounded by `clamp`, stored on `to`.
    pub fn new(x: (Grid, bool), y: (Grid, bool), clamp: (f32, f32), to: Grid) -> Addition {
        let [a, b] = [x, y].map(|(g, _)| g.scale / to.scale);
        Addition {
            factors: [a as f32, b as f32],
            signed: [x.1, y.1],
            offset: (-a * f64::from(x.0.zero) - b * f64::from(y.0.zero)) as f32,
            rounding: Rounding::new(to, clamp),
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
                    *o = self.rounding.byte(v);
                }
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
