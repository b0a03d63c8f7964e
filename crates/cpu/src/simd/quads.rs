//! The integer product kernel of processors that multiply bytes (AVX-512 with VNNI): rows of bytes, given by where they start,
//! times one panel of packed weights, summed in `i32`.
//!
//! Four neighbours along the depth are multiplied and added at once (`vpdpbusd`, unsigned by signed bytes), without
//! saturation. Rows keep their zero point: what it adds to a sum is the same for all rows of a column, and is taken off by what
//! sums start from. The sums are exact, as those of [`super::pairs`] are.

use super::Isa;
use super::finish::Finish;
use super::pairs::Places;

/// Columns of a panel: two registers.
pub(crate) const COLUMNS: usize = 32;

/// Neighbours along the depth that are multiplied at once.
pub(crate) const DEPTH: usize = 4;

/// Rows by one panel.
#[derive(Debug)]
pub(crate) struct QuadStrip<'a, F> {
    /// What the rows are made of: unsigned bytes.
    pub x: &'a [u8],
    /// Where each row starts in `x`.
    pub rows: &'a Places,
    /// Where each piece of a row lies, from its start.
    pub pieces: &'a Places,
    /// Elements of a piece, filled up to whole fours: weights for what is read beyond a piece are zeros.
    pub depth: usize,
    /// Weights `[pieces · depth / DEPTH][COLUMNS][DEPTH]`.
    pub panel: &'a [i8],
    /// What the sums of each column start from.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has the kernel"))]
    pub starts: &'a [i32; COLUMNS],
    /// How many of the panel's columns there are, at least one.
    pub columns: usize,
    /// What becomes of the sums: the result starts at the first row's first column.
    pub finish: F,
    /// The channel of the first column.
    pub channel: usize,
    /// Distance of result rows, in elements.
    pub stride: usize,
}

/// Whether [`quad_strip`] can be called.
pub(crate) fn has_quads(isa: Isa) -> bool {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        super::Kind::Vnni => true,
        _ => false,
    }
}

/// Computes the sums of all rows.
///
/// # Panics
/// When slices are too short for what the other fields say, or the instruction set [has no such kernel](has_quads): a bug of
/// the caller.
pub(crate) fn quad_strip<F: Finish>(isa: Isa, s: QuadStrip<'_, F>) {
    let Some(below) = s.rows.len().checked_sub(1) else { return };
    assert!(s.rows.furthest() + s.pieces.furthest() + s.depth <= s.x.len());
    assert!((1..=COLUMNS).contains(&s.columns) && s.depth.is_multiple_of(DEPTH));
    assert!(s.panel.len() >= s.pieces.len() * s.depth * COLUMNS);
    assert!(s.finish.len() >= below * s.stride + s.columns && s.finish.takes(s.channel + COLUMNS));
    match isa.0 {
        // SAFETY: an `Isa` exists only where its features were detected; rows, panel and result reach as far as was checked.
        #[cfg(target_arch = "x86_64")]
        super::Kind::Vnni => unsafe { x86::strip(s) },
        _ => unreachable!("{isa:?} has no kernel that multiplies bytes"),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::tile::heights;
    use super::super::vector::{Avx512, Vector};
    use super::{COLUMNS, DEPTH, Finish, QuadStrip};
    use std::arch::x86_64::*;
    use std::ops::Range;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn strip<F: Finish>(mut s: QuadStrip<'_, F>) {
        let (count, wide) = (s.rows.len(), s.columns > Avx512::LANES);
        let (whole, lower) = heights(count, 14);
        // One instantiation for each number of rows, so that the sums stay in registers.
        macro_rules! by_rows {
            ($rows:expr, $($m:literal)*) => {
                match ($rows.1, wide) {
                    $(($m, true) => tiles::<$m, 2, F>(&mut s, $rows.0),
                      ($m, false) => tiles::<$m, 1, F>(&mut s, $rows.0),)*
                    _ => {}
                }
            };
        }
        let lower = whole + lower;
        // SAFETY: the caller's.
        unsafe {
            by_rows!((0..whole, 14), 14);
            by_rows!((whole..lower, 13), 13);
            by_rows!((lower..count, count - lower), 1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }

    /// Some rows in tiles of `M`, `N` registers of columns.
    ///
    /// # Safety
    /// As [`quad_strip`](super::quad_strip) checks.
    #[inline(always)]
    unsafe fn tiles<const M: usize, const N: usize, F: Finish>(s: &mut QuadStrip<'_, F>, rows: Range<usize>) {
        let quads = s.depth / DEPTH;
        // SAFETY: the caller's; reads are unaligned.
        unsafe {
            let mut start = [_mm512_setzero_si512(); N];
            for (n, start) in start.iter_mut().enumerate() {
                *start = _mm512_loadu_si512(s.starts.as_ptr().add(n * Avx512::LANES).cast());
            }
            for first in rows.step_by(M) {
                let mut sums = [start; M];
                let mut panel = s.panel.as_ptr();
                for &piece in s.pieces.list() {
                    let x = s.x.as_ptr().add(piece);
                    let list = s.rows.list().as_ptr().add(first);
                    let rows: [*const u8; M] = std::array::from_fn(|m| x.add(*list.add(m)));
                    for k in 0..quads {
                        let mut w = [_mm512_setzero_si512(); N];
                        for (n, w) in w.iter_mut().enumerate() {
                            *w = _mm512_loadu_si512(panel.add(n * DEPTH * Avx512::LANES).cast());
                        }
                        panel = panel.add(DEPTH * COLUMNS);
                        written_out!(m < M, {
                            let four = rows[m].add(DEPTH * k).cast::<i32>().read_unaligned();
                            let four = _mm512_set1_epi32(four);
                            for n in 0..N {
                                sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], four, w[n]);
                            }
                        });
                    }
                }
                let mut floats = [[Avx512::splat(0.0); N]; M];
                written_out!(m < M, {
                    for n in 0..N {
                        floats[m][n] = Avx512::of_integers(sums[m][n]);
                    }
                });
                s.finish.store(floats, first * s.stride, s.stride, s.channel, s.columns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finish::{Scaled, UNBOUNDED};
    use super::*;

    #[test]
    fn sums_are_exact() {
        let byte = |i: usize| ((i * 7919) % 509) as u8;
        for (m, pieces, depth, columns) in
            [(1, 1, 1, 32), (14, 3, 5, 16), (27, 2, 40, 32), (13, 1, 2, 17), (33, 9, 3, 7), (53, 1, 300, 31)]
        {
            let padded = usize::next_multiple_of(depth, DEPTH);
            let x: Vec<u8> = (0..m * 11 + pieces * 13 + padded).map(byte).collect();
            let weight = |piece: usize, k: usize, column: usize| {
                if k < depth { byte((piece * depth + k) * 37 + column + 5) as i8 } else { 0 }
            };
            let panel: Vec<i8> = (0..pieces * padded * COLUMNS)
                .map(|i| {
                    let (quad, column, k) = (i / DEPTH / COLUMNS, i / DEPTH % COLUMNS, i % DEPTH);
                    let quads = padded / DEPTH;
                    weight(quad / quads, quad % quads * DEPTH + k, column)
                })
                .collect();
            let rows: Vec<usize> = (0..m).map(|i| i * 11).collect();
            let offsets: Vec<usize> = (0..pieces).map(|i| (pieces - 1 - i) * 13).collect();
            let starts = std::array::from_fn(|i| i as i32 * 1000 - 9000);
            let (first, stride) = (2, columns + 1);
            let factors = vec![0.5; first + COLUMNS];
            let added = vec![0.25; first + COLUMNS];
            for isa in Isa::available().into_iter().filter(|&isa| has_quads(isa)) {
                let mut out = vec![0f32; (m - 1) * stride + columns];
                let finish = Scaled {
                    out: bytemuck::cast_slice_mut(&mut out),
                    factors: &factors,
                    offsets: &added,
                    clamp: UNBOUNDED,
                    zero: None,
                    small: true,
                };
                let s = QuadStrip {
                    x: &x,
                    rows: &Places::new(rows.clone()),
                    pieces: &Places::new(offsets.clone()),
                    depth: padded,
                    panel: &panel,
                    starts: &starts,
                    columns,
                    finish,
                    channel: first,
                    stride,
                };
                quad_strip(isa, s);
                for row in 0..m {
                    for column in 0..columns {
                        let products = (0..pieces).flat_map(|p| (0..depth).map(move |k| (p, k)));
                        let sum = products
                            .map(|(p, k)| {
                                i32::from(x[rows[row] + offsets[p] + k]) * i32::from(weight(p, k, column))
                            })
                            .sum::<i32>();
                        let want = (starts[column] + sum) as f32 * 0.5 + 0.25;
                        assert_eq!(out[row * stride + column], want, "{isa:?} {m} {pieces} {depth}");
                    }
                }
                assert!((0..m - 1).all(|row| out[row * stride + columns] == 0.0), "written between rows");
            }
        }
    }
}
