//! The integer product kernel: rows of `i16`, given by where they start, times one panel of packed weights, summed in `i32`.
//!
//! Neighbours along the depth are multiplied and added in pairs (`vpmaddwd`), which cannot overflow for what these rows
//! hold: 8-bit integers less their zero points. The sums are exact, so all instruction sets agree.

use super::finish::Finish;
#[cfg(target_arch = "x86_64")]
use super::tile::heights;
use super::vector::{Portable, Vector};
use super::{Isa, Kind};

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 16;

/// Rows computed together: their sums fit the registers.
pub(crate) const ROWS: usize = 6;

/// Offsets, and how far they reach, found once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    list: Vec<usize>,
    furthest: usize,
}

impl Places {
    /// These offsets.
    pub fn new(list: Vec<usize>) -> Places {
        Places { furthest: list.iter().copied().max().unwrap_or(0), list }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn list(&self) -> &[usize] {
        &self.list
    }

    /// The greatest.
    pub(super) fn furthest(&self) -> usize {
        self.furthest
    }
}

/// Some rows by one panel, or by a block of its depth.
#[derive(Debug)]
pub(crate) struct PairStrip<'a, F> {
    /// What the rows are made of.
    pub x: &'a [i16],
    /// Where each row starts in `x`.
    pub rows: &'a Places,
    /// Where each piece of a row lies, from its start.
    pub pieces: &'a Places,
    /// Pairs of a piece.
    pub depth: usize,
    /// Weights `[pieces · depth][COLUMNS][2]`.
    pub panel: &'a [i16],
    /// How many of the panel's columns there are, at least one.
    pub columns: usize,
    /// Sums of each row, between blocks.
    pub partial: &'a mut [[i32; COLUMNS]],
    /// Whether sums start from zero, rather than from the partial ones.
    pub first: bool,
    /// Whether sums are whole now, and go to the result.
    pub last: bool,
    /// What becomes of them: the result starts at the first row's first column.
    pub finish: F,
    /// The channel of the first column.
    pub channel: usize,
    /// Distance of result rows, in elements.
    pub stride: usize,
}

/// Computes the sums of all rows.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn pair_strip<F: Finish>(isa: Isa, s: PairStrip<'_, F>) {
    let Some(below) = s.rows.len().checked_sub(1) else { return };
    let end = s.rows.furthest + s.pieces.furthest + 2 * s.depth;
    assert!(end <= s.x.len() && (1..=COLUMNS).contains(&s.columns));
    assert!(s.panel.len() >= s.pieces.len() * s.depth * 2 * COLUMNS);
    assert!(s.first && s.last || s.partial.len() >= s.rows.len());
    assert!(!s.last || s.finish.len() >= below * s.stride + s.columns && s.finish.takes(s.channel + COLUMNS));
    match isa.0 {
        // SAFETY: an `Isa` exists only where its features were detected, and AVX-512 comes with AVX2; rows, panel, sums and
        // result reach as far as was checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Vnni | Kind::Avx512 | Kind::Avx2 => unsafe { avx2(s) },
        // SAFETY: as above.
        Kind::Portable => unsafe { portable(s) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<F: Finish>(mut s: PairStrip<'_, F>) {
    const LOWER: usize = ROWS - 1;
    let (count, wide) = (s.rows.len(), s.columns > COLUMNS / 2);
    let (whole, lower) = heights(count, ROWS);
    // One instantiation for each number of rows, so that the sums stay in registers.
    macro_rules! tiles {
        ($rows:expr, $m:expr) => {
            for first in $rows.step_by($m) {
                // SAFETY: the caller's.
                unsafe {
                    match wide {
                        true => tile::<{ $m }, 2, F>(&mut s, first),
                        false => tile::<{ $m }, 1, F>(&mut s, first),
                    }
                }
            }
        };
    }
    tiles!((0..whole), ROWS);
    tiles!((whole..whole + lower), LOWER);
    let rest = whole + lower..count;
    match rest.len() {
        1 => tiles!(rest, 1),
        2 => tiles!(rest, 2),
        3 => tiles!(rest, 3),
        4 => tiles!(rest, 4),
        _ => {}
    }
}

/// The kernel for AVX2: `M` rows from `first` on, `N` registers of columns.
///
/// # Safety
/// As [`pair_strip`] checks.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn tile<const M: usize, const N: usize, F: Finish>(s: &mut PairStrip<'_, F>, first: usize) {
    use super::vector::Avx2;
    use std::arch::x86_64::*;
    // SAFETY: `pair_strip` has checked how far rows, panel, sums and result reach; reads are unaligned.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); N]; M];
        if !s.first {
            for m in 0..M {
                for n in 0..N {
                    sums[m][n] = _mm256_loadu_si256(s.partial[first + m].as_ptr().add(n * 8).cast());
                }
            }
        }
        let mut panel = s.panel.as_ptr();
        for &piece in &s.pieces.list {
            let mut rows = [s.x.as_ptr(); M];
            for (m, row) in rows.iter_mut().enumerate() {
                *row = s.x.as_ptr().add(s.rows.list[first + m] + piece);
            }
            // One at a time: of several, the compiler would reorder the sums, and lose them from the registers.
            for k in 0..s.depth {
                let mut w = [_mm256_setzero_si256(); N];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = _mm256_loadu_si256(panel.add(n * COLUMNS).cast());
                }
                panel = panel.add(2 * COLUMNS);
                for m in 0..M {
                    let x = _mm256_set1_epi32(rows[m].add(2 * k).cast::<i32>().read_unaligned());
                    for n in 0..N {
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(x, w[n]));
                    }
                }
            }
        }
        if s.last {
            let mut floats = [[Avx2::splat(0.0); N]; M];
            written_out!(m < M, {
                for n in 0..N {
                    floats[m][n] = Avx2::of_integers(sums[m][n]);
                }
            });
            s.finish.store(floats, first * s.stride, s.stride, s.channel, s.columns);
            return;
        }
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sums) in sums.into_iter().enumerate() {
                let to = s.partial[first + m].as_mut_ptr().add(n * Avx2::LANES);
                _mm256_storeu_si256(to.cast(), sums);
            }
        }
    }
}

/// The same in plain Rust.
///
/// # Safety
/// As [`pair_strip`] checks.
#[inline(always)]
unsafe fn portable<F: Finish>(mut s: PairStrip<'_, F>) {
    for (i, &row) in s.rows.list.iter().enumerate() {
        let mut sums = if s.first { [0; COLUMNS] } else { s.partial[i] };
        let mut panel = s.panel.chunks_exact(2 * COLUMNS);
        for &piece in &s.pieces.list {
            let x = &s.x[row + piece..][..2 * s.depth];
            for (x, w) in x.chunks_exact(2).zip(panel.by_ref().take(s.depth)) {
                let (a, b) = (i32::from(x[0]), i32::from(x[1]));
                for (s, w) in sums.iter_mut().zip(w.chunks_exact(2)) {
                    *s += a * i32::from(w[0]) + b * i32::from(w[1]);
                }
            }
        }
        if !s.last {
            s.partial[i] = sums;
            continue;
        }
        let registers = sums.as_chunks().0.iter().zip((0..s.columns).step_by(Portable::LANES));
        for (&sums, n) in registers {
            // SAFETY: result and factors reach as far as was checked.
            unsafe {
                let sums = [[Portable::of_integers(sums)]];
                s.finish.store(sums, i * s.stride + n, 0, s.channel + n, s.columns - n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finish::{Scaled, UNBOUNDED};
    use super::*;

    #[test]
    fn every_instruction_set_sums_exactly() {
        let number = |i: usize| ((i * 7919) % 511) as i16 - 255;
        for (m, pieces, depth, columns) in
            [(1, 1, 1, 16), (6, 3, 5, 3), (14, 2, 40, 8), (5, 1, 2, 9), (2, 9, 3, 13), (3, 1, 7, 16)]
        {
            let x: Vec<i16> = (0..m * 11 + pieces * 13 + 2 * depth).map(number).collect();
            let panel: Vec<i16> =
                (0..pieces * depth * 2 * COLUMNS).map(|i| number(i + 5).clamp(-128, 127)).collect();
            let rows: Vec<usize> = (0..m).map(|i| i * 11).collect();
            let offsets: Vec<usize> = (0..pieces).map(|i| (pieces - 1 - i) * 13).collect();
            let want = |row: usize, column: usize| -> i32 {
                let at = |p: usize, k: usize| i32::from(x[rows[row] + offsets[p] + k]);
                let weight = |p: usize, k: usize| {
                    i32::from(panel[((p * depth + k / 2) * COLUMNS + column) * 2 + k % 2])
                };
                (0..pieces)
                    .flat_map(|p| (0..2 * depth).map(move |k| (p, k)))
                    .map(|(p, k)| at(p, k) * weight(p, k))
                    .sum()
            };
            let (first, stride) = (2, columns + 1);
            let factors = vec![0.5; first + 2 * COLUMNS];
            let offsets_of = vec![0.25; first + 2 * COLUMNS];
            for isa in Isa::available() {
                // Whole, and piece by piece.
                for step in [pieces, 1] {
                    let mut out = vec![0f32; (m - 1) * stride + columns];
                    let mut partial = vec![[7; COLUMNS]; m];
                    for from in (0..pieces).step_by(step) {
                        let block = &offsets[from..from + step];
                        let finish = Scaled {
                            out: bytemuck::cast_slice_mut(&mut out),
                            factors: &factors,
                            offsets: &offsets_of,
                            clamp: UNBOUNDED,
                            zero: None,
                            small: true,
                        };
                        let s = PairStrip {
                            x: &x,
                            rows: &Places::new(rows.clone()),
                            pieces: &Places::new(block.to_vec()),
                            depth,
                            panel: &panel[from * depth * 2 * COLUMNS..],
                            columns,
                            partial: &mut partial,
                            first: from == 0,
                            last: from + step == pieces,
                            finish,
                            channel: first,
                            stride,
                        };
                        pair_strip(isa, s);
                    }
                    for row in 0..m {
                        for column in 0..columns {
                            let want = want(row, column) as f32 * 0.5 + 0.25;
                            assert_eq!(out[row * stride + column], want, "{isa:?} {m} {pieces} {depth}");
                        }
                    }
                    assert!((0..m - 1).all(|row| out[row * stride + columns] == 0.0), "written between rows");
                }
            }
        }
    }
}
