//! The matrix product kernel: some rows of `f32`, given by where they start, times one panel of packed weights.
//!
//! A row may come in pieces ("taps") that lie anywhere, which makes a convolution a product without copying patches
//! ("indirect GEMM"; Dukhan, The Indirect Convolution Algorithm, 2019). Each output element sums in the order of its
//! row, starting from the bias, by fused multiply-add.

use super::finish::{Finish, Floats, UNBOUNDED};
use super::vector::{Portable, Vector};
use super::{Ahead, Isa, Kind, LINE, SECOND, TO_WRITE, ZEROS, fetch, fetch_line, shares};
use std::ops::Range;
use std::slice::Chunks;

/// The most columns that a panel has on any instruction set.
pub(crate) const WIDEST: usize = 32;

/// The offset of a piece of zeros.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// Where the pieces of some rows start, tile by tile; or [`OUTSIDE`]. How far they reach is found once, for all panels that
/// the rows meet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tiles {
    /// Entry `t·m + i` of a tile of `m` rows for piece `t` of its row `i`.
    list: Vec<usize>,
    /// For the first row of each tile, whether one of the tile's pieces is outside.
    outside: Vec<bool>,
    rows: usize,
    pieces: usize,
    /// Rows of the highest tiles.
    tall: usize,
    /// One more than the greatest offset; 0 when all are outside.
    reach: usize,
}

impl Tiles {
    /// Has `rows` rows of `pieces` pieces listed anew: `fill(row, m, entries)` writes those of a tile of `m` rows from `row` on.
    pub fn list(&mut self, isa: Isa, rows: usize, pieces: usize, fill: impl Fn(usize, usize, &mut [usize])) {
        (self.rows, self.pieces, self.tall, self.reach) = (rows, pieces, isa.rows(), 0);
        self.list.resize(rows * pieces, OUTSIDE);
        self.outside.clear();
        self.outside.resize(rows, false);
        let (whole, lower) = heights(rows, self.tall);
        let mut row = 0;
        while row < rows {
            let height = match row {
                _ if row < whole => self.tall,
                _ if row < whole + lower => self.tall - 1,
                _ => rows - row,
            };
            let tile = &mut self.list[row * pieces..][..height * pieces];
            fill(row, height, tile);
            // `OUTSIDE` is the greatest number there is, and becomes 0.
            let (least, greatest) = isa.vectorize(
                #[inline(always)]
                || {
                    // A loop: `fold` might be left outside.
                    let (mut least, mut greatest) = (usize::MAX, 0);
                    for &mut o in tile {
                        let next = o.wrapping_add(1);
                        (least, greatest) = (least.min(next), greatest.max(next));
                    }
                    (least, greatest)
                },
            );
            self.reach = self.reach.max(greatest);
            self.outside[row] = least == 0;
            row += height;
        }
    }
}

/// How many rows are in tiles of `tall` rows, and how many in tiles that are one row lower, so that no tile is much lower: one or two
/// rows take as long as four, for each sum waits for itself. Where rows are too few for that, the others are one tile.
pub(super) fn heights(rows: usize, tall: usize) -> (usize, usize) {
    let lower = rows.next_multiple_of(tall) - rows;
    match rows.div_ceil(tall).checked_sub(lower) {
        Some(whole) => (whole * tall, lower * (tall - 1)),
        None => (rows / tall * tall, 0),
    }
}

/// Where rows lie.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Lines<'a> {
    /// Rows of one piece each, at this distance.
    Apart { rows: usize, distance: usize },
    /// Wherever they are listed.
    Listed(&'a Tiles),
}

impl Lines<'_> {
    /// How many there are.
    fn count(self) -> usize {
        match self {
            Lines::Apart { rows, .. } => rows,
            Lines::Listed(tiles) => tiles.rows,
        }
    }
}

/// Rows as the kernel finds them.
trait Find: Copy {
    /// Where the pieces of `M` rows from `row` on start.
    ///
    /// # Safety
    /// There are so many rows, only pieces that they have are asked for, and `x` holds them: [`strip`] checks.
    unsafe fn find<const M: usize>(self, x: *const f32, row: usize) -> impl Fn(usize) -> [*const f32; M];
}

/// [`Lines::Apart`], the distance.
#[derive(Copy, Clone)]
struct Apart(usize);

impl Find for Apart {
    #[inline(always)]
    unsafe fn find<const M: usize>(self, x: *const f32, row: usize) -> impl Fn(usize) -> [*const f32; M] {
        // SAFETY: the caller's.
        move |_piece| std::array::from_fn(|m| unsafe { x.add((row + m) * self.0) })
    }
}

/// [`Lines::Listed`].
#[derive(Copy, Clone)]
struct Listed<'a>(&'a Tiles);

impl Find for Listed<'_> {
    #[inline(always)]
    unsafe fn find<const M: usize>(self, x: *const f32, row: usize) -> impl Fn(usize) -> [*const f32; M] {
        let Listed(tiles) = self;
        // SAFETY: the caller's; pieces outside are not looked at.
        let (offsets, outside) =
            unsafe { (tiles.list.as_ptr().add(row * tiles.pieces), *tiles.outside.get_unchecked(row)) };
        move |piece| {
            // SAFETY: as above.
            let at: [usize; M] = std::array::from_fn(|m| unsafe { *offsets.add(piece * M + m) });
            let inside = at.map(|o| x.wrapping_add(o));
            if !outside {
                return inside;
            }
            std::array::from_fn(|m| if at[m] == OUTSIDE { ZEROS.as_ptr() } else { inside[m] })
        }
    }
}

/// A product of some rows by one panel, with what follows it: `clamp(rows · panel + bias + residual)`. It is computed in tiles of
/// [`Isa::rows`] rows or a little fewer.
#[derive(Debug)]
pub(crate) struct Strip<'a> {
    /// What the rows are made of.
    pub x: &'a [f32],
    /// Where the rows lie in `x`.
    pub lines: Lines<'a>,
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
    /// Distance of result rows; of the residual's as well.
    pub stride: usize,
    /// How many of the panel's columns there are, at least one.
    pub cols: usize,
    /// Whether sums start from the bias, rather than from what the result holds.
    pub first: bool,
    /// Whether sums are whole now, rather than partial: residual and bounds are for these.
    pub last: bool,
}

/// Calls the kernel for each tile. There is one instantiation for each number of rows, so that the sums stay in registers, and
/// whole tiles follow one another without a choice between them. Of tiles of `$tall` and `$lower` rows, there is one for each kind
/// of registers as well, for so many columns at most; `$V` are the panel's.
macro_rules! by_rows {
    ($s:ident, $finish:ident, $V:ty, $tall:literal, $lower:literal, ($($m:literal)*), $($kinds:tt)*) => {
        match $s.lines {
            Lines::Apart { distance, .. } => {
                by_rows!(@ $s, $finish, $V, $tall, $lower, Apart(distance), ($($m)*), $($kinds)*)
            }
            Lines::Listed(tiles) => by_rows!(@ $s, $finish, $V, $tall, $lower, Listed(tiles), ($($m)*), $($kinds)*),
        }
    };
    (@ $s:ident, $finish:ident, $V:ty, $tall:literal, $lower:literal, $find:expr, ($($m:literal)*),
     $($columns:literal: $R:ty, $n:literal;)*) => {{
        const WIDTH: usize = 2 * <$V>::LANES;
        let (find, rows) = ($find, $s.lines.count());
        let (whole, lower) = heights(rows, $tall);
        let (lower, s, mut to) = (whole + lower, $s, $finish);
        let next = &mut shares(s.next, rows.div_ceil($tall));
        $(if s.cols <= $columns {
            tiles::<$R, $tall, $n, WIDTH, SEE>(&s, &mut to, find, next, 0..whole);
            tiles::<$R, $lower, $n, WIDTH, SEE>(&s, &mut to, find, next, whole..lower);
        } else)* {}
        match (rows - lower, s.cols > <$V>::LANES) {
            $(($m, true) => tiles::<$V, $m, 2, WIDTH, SEE>(&s, &mut to, find, next, lower..rows),
              ($m, false) => tiles::<$V, $m, 1, WIDTH, SEE>(&s, &mut to, find, next, lower..rows),)*
            _ => {}
        }
    }};
}

/// Computes a strip. `to`: what becomes of the sums; the result starts at the first row's first column.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn strip<const SEE: bool>(isa: Isa, s: Strip<'_>, mut to: Floats<'_, SEE>) {
    let (width, rows) = (isa.width(), s.lines.count());
    let Some(below) = rows.checked_sub(1) else { return };
    let needed = below * s.stride + s.cols;
    assert!((1..=width).contains(&s.cols) && s.bias.len() >= width);
    assert!(to.out.len() >= needed && to.residual.is_none_or(|r| r.len() >= needed));
    assert!(s.panel.len() >= s.pieces.len() * s.depth * width);
    match s.lines {
        Lines::Apart { distance, .. } => {
            assert!(s.pieces.end <= 1 && below * distance + s.depth <= s.x.len());
        }
        Lines::Listed(t) => {
            assert!(t.tall == isa.rows() && t.list.len() == rows * t.pieces && t.outside.len() == rows);
            assert!(s.pieces.end <= t.pieces && (t.reach == 0 || t.reach - 1 + s.depth <= s.x.len()));
            assert!(s.depth <= ZEROS.len() || !t.outside.contains(&true));
        }
    }
    if !s.last {
        (to.residual, to.clamp) = (None, UNBOUNDED);
    }
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `tiles` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => avx512(s, to),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(s, to),
            Kind::Portable => portable(s, to),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn avx512<const SEE: bool>(s: Strip<'_>, to: Floats<'_, SEE>) {
    use super::vector::{Avx2, Avx512, Beside};
    // A register of half the length takes half the time, for a processor that has one multiplier of the whole length.
    // SAFETY: the caller's.
    unsafe {
        by_rows!(s, to, Avx512, 14, 13, (1 2 3 4 5 6 7 8 9 10 11 12),
            8: Avx2, 1; 16: Avx512, 1; 24: Beside<Avx512, Avx2>, 1; 32: Avx512, 2;)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const SEE: bool>(s: Strip<'_>, to: Floats<'_, SEE>) {
    use super::vector::Avx2;
    // SAFETY: the caller's.
    unsafe { by_rows!(s, to, Avx2, 6, 5, (1 2 3 4), 8: Avx2, 1; 16: Avx2, 2;) }
}

unsafe fn portable<const SEE: bool>(s: Strip<'_>, to: Floats<'_, SEE>) {
    // SAFETY: the caller's.
    unsafe { by_rows!(s, to, Portable, 4, 3, (1 2), 8: Portable, 1; 16: Portable, 2;) }
}

/// Rows of a tile that are few: there are registers for more than one step along the depth, and little work to hide a fetch behind.
pub(super) const FEW: usize = 6;

/// How far ahead a panel is fetched that is read once, in elements: what is multiplied while a line comes from memory.
const DISTANCE: usize = 4096;

/// Products of at most so many elements store results faster than far memory takes them.
const SHORT: usize = 48;

/// The kernel: some rows in tiles of `M`, `N` registers of columns, of panels that have `WIDTH` columns.
#[inline(always)]
unsafe fn tiles<V: Vector, const M: usize, const N: usize, const WIDTH: usize, const SEE: bool>(
    s: &Strip<'_>,
    to: &mut Floats<'_, SEE>,
    find: impl Find,
    next: &mut Chunks<'_, f32>,
    rows: Range<usize>,
) {
    let (depth, stride, cols) = (s.depth, s.stride, s.cols);
    // A panel that meets no other rows is read from far away as it is multiplied, and so is the one behind it.
    let once = rows.len() <= M;
    let short = s.first && s.pieces.len() * depth <= SHORT;
    let mut padded: [f32; 14 * WIDEST];
    // SAFETY: rows, panel, bias, result and residual reach as far as `strip` has checked; columns beyond `cols` are read from
    // the padded panel and bias only, and never written.
    unsafe {
        for row in rows.step_by(M) {
            let share = next.next().unwrap_or_default();
            let mut ahead = Ahead::new(share);
            if M <= FEW && !once {
                fetch(share);
            }
            let out = to.out.as_mut_ptr().add(row * stride);
            // The processor sees too late that these lines come next: a tile's rows lie far apart.
            let lines = || (0..M).flat_map(|m| (0..N * V::LANES).step_by(LINE).map(move |n| m * stride + n));
            if short {
                lines().for_each(|at| fetch_line::<TO_WRITE>(out.wrapping_add(2 * M * stride + at)));
            }
            if let Some(residual) = to.residual {
                // These were written long ago, or never.
                let residual = residual.as_ptr().wrapping_add(row * stride);
                lines().for_each(|at| fetch_line::<SECOND>(residual.wrapping_add(at)));
                lines().for_each(|at| fetch_line::<TO_WRITE>(out.wrapping_add(at)));
            }
            let (mut start, mut start_stride) = (s.bias.as_ptr(), 0);
            if !s.first {
                (start, start_stride) = (out.cast_const(), stride);
            }
            if !s.first && cols < N * V::LANES {
                // Where sums are partial and columns few, their rows are made whole first: a choice where the sums are loaded
                // would keep them out of registers.
                padded = [0.0; 14 * WIDEST];
                for (i, to) in padded.chunks_exact_mut(WIDEST).take(M).enumerate() {
                    out.add(i * stride).copy_to_nonoverlapping(to.as_mut_ptr(), cols);
                }
                (start, start_stride) = (padded.as_ptr(), WIDEST);
            }
            let mut sums = [[V::splat(0.0); N]; M];
            for (m, row) in sums.iter_mut().enumerate() {
                for (n, sum) in row.iter_mut().enumerate() {
                    *sum = V::load(start.add(m * start_stride + n * V::LANES));
                }
            }
            let mut panel = s.panel.as_ptr();
            let starts = find.find::<M>(s.x.as_ptr(), row);
            for piece in s.pieces.clone() {
                let a = starts(piece);
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
                // Four at a time: counting takes its share otherwise. Of many rows, the compiler would reorder four steps, and lose
                // sums from the registers.
                let mut k = 0;
                while M <= FEW && k + 4 <= depth {
                    if once {
                        for line in 0..4 * WIDTH / LINE {
                            fetch_line::<SECOND>(panel.wrapping_add(DISTANCE + line * LINE));
                        }
                    }
                    for i in 0..4 {
                        step!(k + i, panel.add(i * WIDTH));
                    }
                    (k, panel) = (k + 4, panel.add(4 * WIDTH));
                }
                while k < depth {
                    if M > FEW {
                        ahead.fetch();
                    }
                    step!(k, panel);
                    (k, panel) = (k + 1, panel.add(WIDTH));
                }
            }
            to.store(sums, row * stride, stride, 0, cols);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Seen;
    use lowbit_core::quant::observer::{Extremes, extremes};

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
                let mut tiles = Tiles::default();
                tiles.list(isa, m, taps, |_, _, list| list.copy_from_slice(&offsets));
                let tiled = Strip {
                    x: &x,
                    lines: Lines::Listed(&tiles),
                    pieces: 0..taps,
                    depth,
                    panel: &panel,
                    next: &[],
                    bias: &bias,
                    stride,
                    cols,
                    first: true,
                    last: true,
                };
                let (clamp, mut seen) = ((-1.5, 2.0), Seen::NOTHING);
                let to = Floats::<true> { out: &mut out, residual: Some(&residual), clamp, seen: &mut seen };
                strip(isa, tiled, to);
                let mut sums = vec![];
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
                        sums.push(sum + residual[at]);
                        assert_eq!(
                            out[at],
                            (sum + residual[at]).clamp(-1.5, 2.0),
                            "{isa:?} {m} {cols} {i} {j}"
                        );
                    }
                }
                assert_eq!(seen.bits().results.extremes(), Some(extremes(&sums)));
            }
        }
    }

    #[test]
    fn no_tile_is_much_lower_where_rows_are_many() {
        for tall in [4, 6, 14] {
            for rows in 0..300 {
                let (whole, lower) = heights(rows, tall);
                let rest = rows - whole - lower;
                assert!(whole % tall == 0 && lower % (tall - 1) == 0 && rest + 1 < tall, "{rows} {tall}");
                assert!(rest == 0 || rows < tall * tall, "{rows} {tall}");
            }
        }
        assert_eq!(heights(49, 6), (24, 25));
    }

    #[test]
    fn extremes_are_told_only_where_they_are_certain() {
        for isa in Isa::available() {
            for (x, want) in [
                (vec![-1.0, 2.5, 0.0], Some((-1.0, 2.5))),
                (vec![-0.0, 0.0, 3.0], Some((0.0, 3.0))),
                (vec![1.0, 2.0, 3.0], None),
                (vec![-1.0, -2.0, -3.0], None),
                (vec![-1.0, f32::NAN, 2.0], None),
                (vec![-1.0, -f32::NAN, 2.0], None),
                (vec![-1.0, f32::INFINITY, 2.0], None),
                (vec![f32::NEG_INFINITY, 1.0, 2.0], None),
            ] {
                // Rows of one element by a column of one, beside others that are not there.
                let (rows, mut out, mut seen) = (40, vec![0.0; 40], Seen::NOTHING);
                let x: Vec<f32> = x.into_iter().cycle().take(rows).collect();
                let mut panel = [f32::NAN; WIDEST];
                panel[0] = 1.0;
                let t = Strip {
                    x: &x,
                    lines: Lines::Apart { rows, distance: 1 },
                    pieces: 0..1,
                    depth: 1,
                    panel: &panel,
                    next: &[],
                    bias: &[-0.0; WIDEST],
                    stride: 1,
                    cols: 1,
                    first: true,
                    last: true,
                };
                let clamp = UNBOUNDED;
                strip(isa, t, Floats::<true> { out: &mut out, residual: None, clamp, seen: &mut seen });
                let want = want.map(|(least, greatest)| Extremes::of(least, greatest));
                assert_eq!(seen.bits().results.extremes(), want, "{isa:?} {:?}", &x[..3]);
            }
        }
    }

    #[test]
    fn nan_passes_the_clamp() {
        for isa in Isa::available() {
            let mut out = [0.0];
            let panel = [1.0; WIDEST];
            let (x, bias) = ([f32::NAN], [0.0; WIDEST]);
            let mut tiles = Tiles::default();
            tiles.list(isa, 1, 1, |_, _, list| list[0] = 0);
            let t = Strip {
                x: &x,
                lines: Lines::Listed(&tiles),
                pieces: 0..1,
                depth: 1,
                panel: &panel,
                next: &[],
                bias: &bias,
                stride: 1,
                cols: 1,
                first: true,
                last: true,
            };
            let (clamp, mut seen) = ((0.0, 6.0), Seen::NOTHING);
            strip(isa, t, Floats::<true> { out: &mut out, residual: None, clamp, seen: &mut seen });
            assert_eq!(seen.bits().results.extremes(), None);
            assert!(out[0].is_nan(), "{isa:?}");
        }
    }
}
