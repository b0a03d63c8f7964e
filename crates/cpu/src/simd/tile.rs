//! The matrix product kernel: some rows of `f32`, given by where they start, times one panel of packed weights.
//!
//! A row may come in pieces ("taps") that lie anywhere, which makes a convolution a product without copying patches
//! ("indirect GEMM"; Dukhan, The Indirect Convolution Algorithm, 2019). Each output element sums in the order of its
//! row, starting from the bias, by fused multiply-add.

use super::vector::{Portable, Vector};
use super::{Isa, Kind, ZEROS};

/// The most columns that a panel has on any instruction set.
pub(crate) const WIDEST: usize = 32;

/// The offset of a piece of zeros.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// A product of up to [`Isa::rows`] rows by one panel, with what follows it: `clamp(rows · panel + bias + residual)`.
#[derive(Debug)]
pub(crate) struct Tile<'a> {
    /// What the rows are made of.
    pub x: &'a [f32],
    /// Number of rows.
    pub m: usize,
    /// Where piece `t` of row `i` starts in `x`: entry `t·m + i`, or [`OUTSIDE`].
    pub offsets: &'a [usize],
    /// Elements of a piece.
    pub depth: usize,
    /// Weights `[pieces · depth][`[`Isa::width`]`]`.
    pub panel: &'a [f32],
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

/// [`Tile`] checked, as pointers.
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

/// Computes a tile.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn tile(isa: Isa, t: Tile<'_>) {
    let needed = (t.m - 1) * t.stride + t.cols;
    assert!(t.m <= isa.rows() && (1..=isa.width()).contains(&t.cols) && t.bias.len() >= isa.width());
    assert!(t.out.len() >= needed && t.residual.is_none_or(|r| r.len() >= needed));
    assert!(
        t.offsets.len().is_multiple_of(t.m) && t.panel.len() >= t.offsets.len() / t.m * t.depth * isa.width()
    );
    let last = t.x.len().checked_sub(t.depth);
    for &o in t.offsets {
        assert!(if o == OUTSIDE { t.depth <= ZEROS.len() } else { last.is_some_and(|last| o <= last) });
    }
    let (residual, clamp) = match t.last {
        true => (t.residual, t.clamp),
        false => (None, (f32::NEG_INFINITY, f32::INFINITY)),
    };
    // Where sums are partial and columns few, their rows are made whole first: a choice where the sums are loaded would keep
    // them out of registers.
    let mut padded: [f32; 14 * WIDEST];
    let (out, start, start_stride);
    if t.first || t.cols == isa.width() {
        out = t.out.as_mut_ptr();
        (start, start_stride) = if t.first { (t.bias.as_ptr(), 0) } else { (out.cast_const(), t.stride) };
    } else {
        padded = [0.0; 14 * WIDEST];
        for (to, from) in padded.chunks_exact_mut(WIDEST).zip(t.out.chunks(t.stride)).take(t.m) {
            to[..t.cols].copy_from_slice(&from[..t.cols]);
        }
        out = t.out.as_mut_ptr();
        (start, start_stride) = (padded.as_ptr(), WIDEST);
    }
    let raw = Raw {
        x: t.x.as_ptr(),
        offsets: t.offsets.as_ptr(),
        taps: t.offsets.len() / t.m,
        rows: t.m,
        depth: t.depth,
        panel: t.panel.as_ptr(),
        start,
        start_stride,
        out,
        stride: t.stride,
        cols: t.cols,
        residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
        clamp,
    };
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `run` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512(&raw),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(&raw),
            Kind::Portable => portable(&raw),
        }
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
unsafe fn avx512(r: &Raw) {
    // SAFETY: the caller's.
    unsafe { by_rows!(r, super::vector::Avx512, 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(r: &Raw) {
    // SAFETY: the caller's.
    unsafe { by_rows!(r, super::vector::Avx2, 1 2 3 4 5 6) }
}

unsafe fn portable(r: &Raw) {
    // SAFETY: the caller's.
    unsafe { by_rows!(r, Portable, 1 2 3 4) }
}

/// The kernel: `M` rows, `N` registers of columns.
#[inline(always)]
unsafe fn run<V: Vector, const M: usize, const N: usize>(r: &Raw) {
    // SAFETY: offsets, panel, start, result and residual reach as far as `tile` has checked; columns beyond `cols` are read
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
            for k in 0..r.depth {
                let mut b = [V::splat(0.0); N];
                for (n, b) in b.iter_mut().enumerate() {
                    *b = V::load(panel.add(n * V::LANES));
                }
                panel = panel.add(2 * V::LANES);
                for m in 0..M {
                    let x = V::splat(*a[m].add(k));
                    for n in 0..N {
                        sums[m][n] = x.fma(b[n], sums[m][n]);
                    }
                }
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
                let tiled = Tile {
                    x: &x,
                    m,
                    offsets: &offsets,
                    depth,
                    panel: &panel,
                    bias: &bias,
                    out: &mut out,
                    stride,
                    cols,
                    first: true,
                    last: true,
                    residual: Some(&residual),
                    clamp: (-1.5, 2.0),
                };
                tile(isa, tiled);
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
            let offsets = [0];
            let t = Tile {
                x: &x,
                m: 1,
                offsets: &offsets,
                depth: 1,
                panel: &panel,
                bias: &bias,
                out: &mut out,
                stride: 1,
                cols: 1,
                first: true,
                last: true,
                residual: None,
                clamp: (0.0, 6.0),
            };
            tile(isa, t);
            assert!(out[0].is_nan(), "{isa:?}");
        }
    }
}
