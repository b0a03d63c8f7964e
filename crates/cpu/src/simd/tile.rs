//! The matrix product kernel: some rows of `f32`, given by where they start, times one panel of packed weights.
//!
//! A row may come in pieces ("taps") that lie anywhere, which makes a convolution a product without copying patches
//! ("indirect GEMM"; Dukhan, The Indirect Convolution Algorithm, 2019). Each output element sums in the order of its
//! row, starting from the bias, by fused multiply-add.

use super::vector::{Portable, Vector};
use super::{Isa, Kind, ZEROS, fetch, shares};
use std::ops::Range;

/// The most columns that a panel has on any instruction set.
pub(crate) const WIDEST: usize = 32;

/// The offset of a piece of zeros.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// Where the pieces of some rows start: entry `t·m + i` for piece `t` of row `i` of `m`, or [`OUTSIDE`]. How far they reach is
/// found once, for all panels that the rows meet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    list: Vec<usize>,
    /// One more than the greatest offset; 0 when all are outside.
    reach: usize,
    /// Whether one is outside.
    outside: bool,
}

impl Pieces {
    /// Has them listed anew.
    pub fn set(&mut self, fill: impl FnOnce(&mut Vec<usize>)) {
        fill(&mut self.list);
        // `OUTSIDE` is the greatest number there is, and becomes 0.
        let next = |o: &usize| o.wrapping_add(1);
        self.reach = self.list.iter().map(next).fold(0, usize::max);
        self.outside = self.list.iter().map(next).fold(usize::MAX, usize::min) == 0;
    }
}

/// A product of some rows by one panel, with what follows it: `clamp(rows · panel + bias + residual)`. It is computed in tiles
/// of [`Isa::rows`] rows, the last one with what is left.
#[derive(Debug)]
pub(crate) struct Strip<'a> {
    /// What the rows are made of.
    pub x: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Where the rows' pieces start in `x`, tile by tile.
    pub tiles: &'a [Pieces],
    /// Which of the pieces are multiplied.
    pub pieces: Range<usize>,
    /// Elements of a piece.
    pub depth: usize,
    /// Weights `[pieces · depth][`[`Isa::width`]`]`.
    pub panel: &'a [f32],
    /// What is multiplied next, to be fetched meanwhile.
    pub next: &'a [f32],
    /// As many elements as the panel has columns.
    pub bias: &'a [f32],
    /// The first result row.
    pub out: &'a mut [f32],
    /// Distance of result rows; of the residual's as well.
    pub stride: usize,
    /// How many of the panel's columns there are, at least one.
    pub cols: usize,
    /// Whether sums start from the bias, rather than from what `out` holds.
    pub first: bool,
    /// Whether sums are whole now, rather than partial: residual and bounds are for these.
    pub last: bool,
    /// Added to the sums.
    pub residual: Option<&'a [f32]>,
    /// Bounds of the result; infinities for none.
    pub clamp: (f32, f32),
}

/// A tile of a [`Strip`] that was checked, as pointers.
struct Raw {
    x: *const f32,
    offsets: *const usize,
    taps: usize,
    rows: usize,
    depth: usize,
    panel: *const f32,
    out: *mut f32,
    stride: usize,
    cols: usize,
    /// What sums start from, and the distance of its rows.
    start: *const f32,
    start_stride: usize,
    residual: *const f32,
    clamp: (f32, f32),
}

/// Computes a strip.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn strip(isa: Isa, s: Strip<'_>) {
    let (tall, width, count) = (isa.rows(), isa.width(), s.pieces.len());
    let needed = (s.rows - 1) * s.stride + s.cols;
    assert!((1..=width).contains(&s.cols) && s.bias.len() >= width && s.tiles.len() == s.rows.div_ceil(tall));
    assert!(s.out.len() >= needed && s.residual.is_none_or(|r| r.len() >= needed));
    assert!(s.panel.len() >= count * s.depth * width);
    for (i, p) in s.tiles.iter().enumerate() {
        assert!(p.list.len() >= s.pieces.end * tall.min(s.rows - i * tall));
        assert!(p.reach == 0 || p.reach - 1 + s.depth <= s.x.len());
        assert!(!p.outside || s.depth <= ZEROS.len());
    }
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `run` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512(s, tall, width),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(s, tall, width),
            Kind::Portable => portable(s, tall, width),
        }
    }
}

/// Calls the kernel for each tile of `tall` rows; panels have `width` columns.
#[inline(always)]
fn each(s: Strip<'_>, tall: usize, width: usize, kernel: impl Fn(&Raw)) {
    let (residual, clamp) = match s.last {
        true => (s.residual, s.clamp),
        false => (None, (f32::NEG_INFINITY, f32::INFINITY)),
    };
    let out = s.out.as_mut_ptr();
    let mut raw = Raw {
        x: s.x.as_ptr(),
        offsets: std::ptr::null(),
        taps: s.pieces.len(),
        rows: 0,
        depth: s.depth,
        panel: s.panel.as_ptr(),
        start: s.bias.as_ptr(),
        start_stride: 0,
        out,
        stride: s.stride,
        cols: s.cols,
        residual: std::ptr::null(),
        clamp,
    };
    let mut padded: [f32; 14 * WIDEST];
    let mut next = shares(s.next, s.tiles.len());
    for (i, pieces) in s.tiles.iter().enumerate() {
        let (row, at) = (i * tall, i * tall * s.stride);
        raw.rows = tall.min(s.rows - row);
        raw.offsets = pieces.list[s.pieces.start * raw.rows..].as_ptr();
        raw.out = out.wrapping_add(at);
        raw.residual = residual.map_or(std::ptr::null(), |r| r[at..].as_ptr());
        if !s.first && s.cols == width {
            (raw.start, raw.start_stride) = (raw.out.cast_const(), s.stride);
        } else if !s.first {
            // Where sums are partial and columns few, their rows are made whole first: a choice where the sums are loaded
            // would keep them out of registers.
            padded = [0.0; 14 * WIDEST];
            for (i, to) in padded.chunks_exact_mut(WIDEST).take(raw.rows).enumerate() {
                // SAFETY: `strip` has checked that `out` holds so many rows of so many columns.
                unsafe { raw.out.add(i * s.stride).copy_to_nonoverlapping(to.as_mut_ptr(), s.cols) };
            }
            (raw.start, raw.start_stride) = (padded.as_ptr(), WIDEST);
        }
        next.next().into_iter().for_each(fetch);
        kernel(&raw);
    }
}

/// One instantiation for each number of rows, so that the sums stay in registers.
macro_rules! by_rows {
    ($r:expr, $V:ty, $($m:literal)*) => {
        match ($r.rows, $r.cols > <$V>::LANES) {
            $(($m, false) => run::<$V, $m, 1>($r), ($m, true) => run::<$V, $m, 2>($r),)*
            _ => {}
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(s: Strip<'_>, tall: usize, width: usize) {
    // SAFETY: the caller's.
    each(s, tall, width, |r| unsafe { by_rows!(r, super::vector::Avx512, 1 2 3 4 5 6 7 8 9 10 11 12 13 14) });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(s: Strip<'_>, tall: usize, width: usize) {
    // SAFETY: the caller's.
    each(s, tall, width, |r| unsafe { by_rows!(r, super::vector::Avx2, 1 2 3 4 5 6) });
}

unsafe fn portable(s: Strip<'_>, tall: usize, width: usize) {
    // SAFETY: the caller's.
    each(s, tall, width, |r| unsafe { by_rows!(r, Portable, 1 2 3 4) });
}

/// The kernel: `M` rows, `N` registers of columns.
#[inline(always)]
unsafe fn run<V: Vector, const M: usize, const N: usize>(r: &Raw) {
    // SAFETY: offsets, panel, start, result and residual reach as far as `strip` has checked; columns beyond `cols` are read
    // from the padded panel and start only, and never written.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; M];
        for (m, row) in sums.iter_mut().enumerate() {
            for (n, sum) in row.iter_mut().enumerate() {
                *sum = V::load(r.start.add(m * r.start_stride + n * V::LANES));
            }
        }
        let mut panel = r.panel;
        for tap in 0..r.taps {
            let mut a = [r.x; M];
            for (m, a) in a.iter_mut().enumerate() {
                let offset = *r.offsets.add(tap * M + m);
                *a = if offset == OUTSIDE { ZEROS.as_ptr() } else { r.x.add(offset) };
            }
            macro_rules! step {
                ($k:expr, $panel:expr) => {
                    let mut b = [V::splat(0.0); N];
                    for (n, b) in b.iter_mut().enumerate() {
                        *b = V::load($panel.add(n * V::LANES));
                    }
                    for m in 0..M {
                        let x = V::splat(*a[m].add($k));
                        for n in 0..N {
                            sums[m][n] = x.fma(b[n], sums[m][n]);
                        }
                    }
                };
            }
            // Four at a time: counting takes its share otherwise.
            let width = 2 * V::LANES;
            let mut k = 0;
            while k + 4 <= r.depth {
                for i in 0..4 {
                    step!(k + i, panel.add(i * width));
                }
                (k, panel) = (k + 4, panel.add(4 * width));
            }
            while k < r.depth {
                step!(k, panel);
                (k, panel) = (k + 1, panel.add(width));
            }
        }
        // Through memory: a loop that finishes the sums in place is not unrolled, and then they never were in registers.
        let mut done = std::mem::MaybeUninit::<[[V; N]; M]>::uninit();
        done.write(sums);
        let done = done.as_ptr().cast::<V>();
        let (lo, hi) = (V::splat(r.clamp.0), V::splat(r.clamp.1));
        for m in 0..M {
            for n in 0..N {
                let at = m * r.stride + n * V::LANES;
                let cols = r.cols - n * V::LANES;
                let mut sum = done.add(m * N + n).read();
                // Masked loads and stores cost more than whole ones.
                if cols >= V::LANES {
                    if !r.residual.is_null() {
                        sum = sum.add(V::load(r.residual.add(at)));
                    }
                    sum.clamp(lo, hi).store(r.out.add(at));
                    continue;
                }
                if !r.residual.is_null() {
                    sum = sum.add(V::load_part(r.residual.add(at), cols));
                }
                sum.clamp(lo, hi).store_part(r.out.add(at), cols);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761) | 1;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn every_instruction_set_computes_the_same_bits() {
        for isa in Isa::available() {
            for (m, taps, depth, cols) in [
                (1, 1, 7, 16),
                (4, 9, 3, 9),
                (isa.rows(), 2, 33, isa.width()),
                (isa.rows(), 1, 1, 1),
                (3, 4, 20, 13),
            ] {
                let x = numbers(taps * m * depth + 5, 1);
                let mut offsets: Vec<usize> = (0..taps * m).map(|i| (i * 7) % (x.len() - depth)).collect();
                offsets[0] = OUTSIDE;
                let (panel, bias) = (numbers(taps * depth * isa.width(), 2), numbers(WIDEST, 3));
                let stride = cols + 3;
                let residual = numbers((m - 1) * stride + cols, 4);
                let mut out = vec![9.0; residual.len()];
                let mut tiles = [Pieces::default()];
                tiles[0].set(|list| list.clone_from(&offsets));
                let tiled = Strip {
                    x: &x,
                    rows: m,
                    tiles: &tiles,
                    pieces: 0..taps,
                    depth,
                    panel: &panel,
                    next: &[],
                    bias: &bias,
                    out: &mut out,
                    stride,
                    cols,
                    first: true,
                    last: true,
                    residual: Some(&residual),
                    clamp: (-1.5, 2.0),
                };
                strip(isa, tiled);
                for i in 0..m {
                    for j in 0..stride.min(out.len() - i * stride) {
                        let at = i * stride + j;
                        if j >= cols {
                            assert_eq!(out[at], 9.0, "{isa:?} wrote behind its columns");
                            continue;
                        }
                        let mut sum = bias[j];
                        for t in 0..taps {
                            for k in 0..depth {
                                let a = match offsets[t * m + i] {
                                    OUTSIDE => 0.0,
                                    o => x[o + k],
                                };
                                sum = a.mul_add(panel[(t * depth + k) * isa.width() + j], sum);
                            }
                        }
                        assert_eq!(
                            out[at],
                            (sum + residual[at]).clamp(-1.5, 2.0),
                            "{isa:?} {m} {cols} {i} {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nan_passes_the_clamp() {
        for isa in Isa::available() {
            let mut out = [0.0];
            let panel = [1.0; WIDEST];
            let (x, bias) = ([f32::NAN], [0.0; WIDEST]);
            let mut tiles = [Pieces::default()];
            tiles[0].set(|list| list.push(0));
            let t = Strip {
                x: &x,
                rows: 1,
                tiles: &tiles,
                pieces: 0..1,
                depth: 1,
                panel: &panel,
                next: &[],
                bias: &bias,
                out: &mut out,
                stride: 1,
                cols: 1,
                first: true,
                last: true,
                residual: None,
                clamp: (0.0, 6.0),
            };
            strip(isa, t);
            assert!(out[0].is_nan(), "{isa:?}");
        }
    }
}
