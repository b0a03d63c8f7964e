//! The product kernel of [`super::quads`] for weights that have a scale a group of inputs, and rows that have a scale and a zero
//! point each: rows of bytes times one panel.
//!
//! The sums of a group are exact: those of bytes, less the sum of the weights as often as the zero point says. Groups, each times its
//! scale, are added up in floating point, from the first to the last.
//!
//! Weights of 4 bits come without a sign, 8 more than they are, so that a mask is all it takes to have them as bytes; what that adds
//! to a sum is 8 times that of the row, which is taken off as well.

use super::Isa;
use super::quads::{COLUMNS, DEPTH, has_quads};

/// Rows by one panel.
#[derive(Debug)]
pub(crate) struct QuadGroups<'a> {
    /// Rows of unsigned bytes, behind one another.
    pub x: &'a [u8],
    /// What stands for zero in each row.
    pub zeros: &'a [i32],
    /// The scale of each row.
    pub scales: &'a [f32],
    /// Elements of a row, and of a group: whole fours.
    pub depth: usize,
    pub group: usize,
    /// Weights `[depth / DEPTH][COLUMNS][DEPTH]`: bytes with a sign; or of 4 bits, those of a four in the low halves of bytes, and
    /// of the next in the other halves.
    pub panel: &'a [u8],
    /// Whether they have 4 bits. Groups are whole eights then.
    pub four: bool,
    /// What each sum starts from, `[rows][groups]`; only with weights of 4 bits.
    pub starts: &'a [i32],
    /// The sums of the weights, as they come, `[groups][COLUMNS]`.
    pub sums: &'a [[i32; COLUMNS]],
    /// The scales of the weights, likewise.
    pub factors: &'a [[f32; COLUMNS]],
    /// Added in the end.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has the kernel"))]
    pub bias: &'a [f32; COLUMNS],
    /// How many of the panel's columns there are, at least one.
    pub columns: usize,
    /// The result, from the first row's first column.
    pub out: &'a mut [f32],
    /// Distance of result rows, in elements.
    pub stride: usize,
}

/// Computes all rows: `Σ (sum of a group · its factor) · scale + bias`.
///
/// # Panics
/// When slices are too short for what the other fields say, or the instruction set [has no such kernel](has_quads): a bug of
/// the caller.
pub(crate) fn quad_groups(isa: Isa, s: QuadGroups<'_>) {
    let Some(below) = s.zeros.len().checked_sub(1) else { return };
    assert!(has_quads(isa) && s.scales.len() == s.zeros.len());
    assert!(s.group.is_multiple_of(DEPTH) && s.group * s.sums.len() == s.depth);
    assert!(s.factors.len() == s.sums.len() && (1..=COLUMNS).contains(&s.columns));
    let (unit, rows) = (if s.four { 2 * DEPTH } else { DEPTH }, s.zeros.len());
    assert!(s.x.len() >= rows * s.depth && s.panel.len() >= s.depth / unit * DEPTH * COLUMNS);
    assert!(!s.four || s.group.is_multiple_of(unit) && s.starts.len() >= rows * s.sums.len());
    assert!(s.out.len() >= below * s.stride + s.columns);
    // SAFETY: an `Isa` exists only where its features were detected; rows, panel and result reach as far as was checked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86::strip(s);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::tile::heights;
    use super::super::vector::{Avx512, Vector};
    use super::{COLUMNS, DEPTH, QuadGroups};
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Rows of a tile: both kinds of sums fit the registers.
    const ROWS: usize = 6;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn strip(mut s: QuadGroups<'_>) {
        let count = s.zeros.len();
        let (whole, lower) = heights(count, ROWS);
        let lower = whole + lower;
        // One instantiation for each number of rows, so that the sums stay in registers.
        macro_rules! by_rows {
            ($rows:expr, $($m:literal)*) => {
                match ($rows.1, s.columns > Avx512::LANES, s.four) {
                    $(($m, true, false) => tiles::<$m, 2, false>(&mut s, $rows.0),
                      ($m, false, false) => tiles::<$m, 1, false>(&mut s, $rows.0),
                      ($m, true, true) => tiles::<$m, 2, true>(&mut s, $rows.0),
                      ($m, false, true) => tiles::<$m, 1, true>(&mut s, $rows.0),)*
                    _ => {}
                }
            };
        }
        // SAFETY: the caller's.
        unsafe {
            by_rows!((0..whole, ROWS), 6);
            by_rows!((whole..lower, ROWS - 1), 5);
            by_rows!((lower..count, count - lower), 1 2 3 4);
        }
    }

    /// Some rows in tiles of `M`, `N` registers of columns.
    ///
    /// # Safety
    /// As [`quad_groups`](super::quad_groups) checks.
    #[inline(always)]
    unsafe fn tiles<const M: usize, const N: usize, const FOUR: bool>(
        s: &mut QuadGroups<'_>,
        rows: Range<usize>,
    ) {
        let unit = if FOUR { 2 * DEPTH } else { DEPTH };
        let (units, groups) = (s.group / unit, s.sums.len());
        // SAFETY: the caller's; reads are unaligned.
        unsafe {
            for first in rows.step_by(M) {
                let x: [*const u8; M] = std::array::from_fn(|m| s.x.as_ptr().add((first + m) * s.depth));
                let mut totals = [[Avx512::splat(0.0); N]; M];
                let (mut panel, mut at) = (s.panel.as_ptr(), 0);
                for (g, (sums, factors)) in s.sums.iter().zip(s.factors).enumerate() {
                    let (mut own, mut factor) = ([_mm512_setzero_si512(); N], [Avx512::splat(0.0); N]);
                    for n in 0..N {
                        own[n] = _mm512_loadu_si512(sums.as_ptr().add(n * Avx512::LANES).cast());
                        factor[n] = Avx512::load(factors.as_ptr().add(n * Avx512::LANES));
                    }
                    let mut acc = [[_mm512_setzero_si512(); N]; M];
                    written_out!(m < M, {
                        let zero = _mm512_set1_epi32(s.zeros.get_unchecked(first + m).wrapping_neg());
                        for n in 0..N {
                            acc[m][n] = _mm512_mullo_epi32(own[n], zero);
                        }
                        if FOUR {
                            let start = _mm512_set1_epi32(*s.starts.get_unchecked((first + m) * groups + g));
                            for n in 0..N {
                                acc[m][n] = _mm512_add_epi32(acc[m][n], start);
                            }
                        }
                    });
                    for _ in 0..units {
                        let mut w = [_mm512_setzero_si512(); N];
                        for (n, w) in w.iter_mut().enumerate() {
                            *w = _mm512_loadu_si512(panel.add(n * DEPTH * Avx512::LANES).cast());
                        }
                        panel = panel.add(DEPTH * COLUMNS);
                        macro_rules! step {
                            ($w:expr, $at:expr) => {
                                let w: [__m512i; N] = $w;
                                written_out!(m < M, {
                                    let four =
                                        _mm512_set1_epi32(x[m].add($at).cast::<i32>().read_unaligned());
                                    for n in 0..N {
                                        acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], four, w[n]);
                                    }
                                });
                            };
                        }
                        if FOUR {
                            let half = _mm512_set1_epi8(15);
                            let (mut low, mut high) = (w, w);
                            for n in 0..N {
                                low[n] = _mm512_and_si512(w[n], half);
                                high[n] = _mm512_and_si512(_mm512_srli_epi16::<4>(w[n]), half);
                            }
                            step!(low, at);
                            step!(high, at + DEPTH);
                        } else {
                            step!(w, at);
                        }
                        at += unit;
                    }
                    written_out!(m < M, {
                        for n in 0..N {
                            totals[m][n] = Avx512::of_integers(acc[m][n]).fma(factor[n], totals[m][n]);
                        }
                    });
                }
                let out = s.out.as_mut_ptr().add(first * s.stride);
                written_out!(m < M, {
                    let scale = Avx512::splat(*s.scales.get_unchecked(first + m));
                    for n in 0..N {
                        let from = n * Avx512::LANES;
                        // Rounded twice, as elsewhere: a product to which nothing is added is one.
                        let scaled = totals[m][n].fma(scale, Avx512::splat(-0.0));
                        let sum = scaled.add(Avx512::load(s.bias.as_ptr().add(from)));
                        sum.store_part(out.add(m * s.stride + from), s.columns - from);
                    }
                });
            }
        }
    }
}
