//! The integer product kernel: rows of `i16`, given by where they start, times one panel of packed weights, summed in `i32`.
//!
//! Neighbours along the depth are multiplied and added in pairs (`vpmaddwd`), which cannot overflow for what these rows
//! hold: 8-bit integers less their zero points. The sums are exact, so all instruction sets agree.

use super::{Isa, Kind};

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 16;

/// Rows computed together: their sums fit the registers.
pub(crate) const ROWS: usize = 6;

/// Up to [`ROWS`] rows by one panel.
#[derive(Debug)]
pub(crate) struct Pairs<'a> {
    /// What the rows are made of.
    pub x: &'a [i16],
    /// Where each row starts in `x`.
    pub rows: &'a [usize],
    /// Where each piece of a row lies, from its start.
    pub pieces: &'a [usize],
    /// Pairs of a piece.
    pub depth: usize,
    /// Weights `[pieces · depth][COLUMNS][2]`.
    pub panel: &'a [i16],
}

/// Sums of a tile.
pub(crate) type Sums = [[i32; COLUMNS]; ROWS];

/// Computes the sums of each row; rows that are not there keep what they held.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn pairs(isa: Isa, t: &Pairs<'_>, sums: &mut Sums) {
    let furthest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
    let end = furthest(t.rows).checked_add(furthest(t.pieces)).and_then(|o| o.checked_add(2 * t.depth));
    assert!(end.is_some_and(|end| end <= t.x.len()) && (1..=ROWS).contains(&t.rows.len()));
    assert!(t.panel.len() >= t.pieces.len() * t.depth * 2 * COLUMNS);
    match isa.0 {
        // SAFETY: an `Isa` exists only where its features were detected, and AVX-512 comes with AVX2; rows and panel reach as
        // far as was checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx2 => unsafe {
            match t.rows.len() {
                1 => avx2::<1>(t, sums),
                2 => avx2::<2>(t, sums),
                3 => avx2::<3>(t, sums),
                4 => avx2::<4>(t, sums),
                5 => avx2::<5>(t, sums),
                _ => avx2::<6>(t, sums),
            }
        },
        Kind::Portable => portable(t, sums),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const M: usize>(t: &Pairs<'_>, out: &mut Sums) {
    use std::arch::x86_64::*;
    // SAFETY: `pairs` has checked how far rows and panel reach; reads are unaligned.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        let mut panel = t.panel.as_ptr();
        for &piece in t.pieces {
            let mut rows = [t.x.as_ptr(); M];
            for (m, row) in rows.iter_mut().enumerate() {
                *row = t.x.as_ptr().add(t.rows[m] + piece);
            }
            for k in 0..t.depth {
                let left = _mm256_loadu_si256(panel.cast());
                let right = _mm256_loadu_si256(panel.add(COLUMNS).cast());
                panel = panel.add(2 * COLUMNS);
                for m in 0..M {
                    let x = _mm256_set1_epi32(rows[m].add(2 * k).cast::<i32>().read_unaligned());
                    sums[m][0] = _mm256_add_epi32(sums[m][0], _mm256_madd_epi16(x, left));
                    sums[m][1] = _mm256_add_epi32(sums[m][1], _mm256_madd_epi16(x, right));
                }
            }
        }
        for m in 0..M {
            _mm256_storeu_si256(out[m].as_mut_ptr().cast(), sums[m][0]);
            _mm256_storeu_si256(out[m].as_mut_ptr().add(COLUMNS / 2).cast(), sums[m][1]);
        }
    }
}

fn portable(t: &Pairs<'_>, out: &mut Sums) {
    for (&row, out) in t.rows.iter().zip(out) {
        let mut sums = [0i32; COLUMNS];
        let mut panel = t.panel.chunks_exact(2 * COLUMNS);
        for &piece in t.pieces {
            let x = &t.x[row + piece..][..2 * t.depth];
            for (x, w) in x.chunks_exact(2).zip(panel.by_ref().take(t.depth)) {
                let (a, b) = (i32::from(x[0]), i32::from(x[1]));
                for (s, w) in sums.iter_mut().zip(w.chunks_exact(2)) {
                    *s += a * i32::from(w[0]) + b * i32::from(w[1]);
                }
            }
        }
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_sums_exactly() {
        let number = |i: usize| ((i * 7919) % 511) as i16 - 255;
        for (m, pieces, depth) in [(1, 1, 1), (6, 3, 5), (4, 2, 40), (5, 1, 2), (2, 9, 3), (3, 1, 7)] {
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
            for isa in Isa::available() {
                let mut sums = [[0; COLUMNS]; ROWS];
                pairs(isa, &Pairs { x: &x, rows: &rows, pieces: &offsets, depth, panel: &panel }, &mut sums);
                for (row, sums) in sums.iter().enumerate().take(m) {
                    for (column, &sum) in sums.iter().enumerate() {
                        assert_eq!(sum, want(row, column), "{isa:?} {m} {pieces} {depth}");
                    }
                }
            }
        }
    }
}
