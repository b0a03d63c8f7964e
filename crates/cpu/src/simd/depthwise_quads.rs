//! The depthwise kernel of processors that multiply bytes (AVX-512 with VNNI): one output row of a convolution in which
//! every channel has its own filter, channels last, summed in `i32`.
//!
//! Bytes of four filter rows are interleaved, channel by channel, and `vpdpbusd` sums them: a filter of three rows
//! takes one multiplication a column. Bytes that are interleaved by halves of 16 are put together again by packing the
//! same halves, so that the channels of the result are in order, though those of the sums are not. Registers are of
//! half length: fewer blocks of channels overlap, and processors that halve long ones lose nothing.
//!
//! Lines keep their zero point, as those of [`super::quads`] do. The sums are exact.

use super::Isa;
use super::finish::{Finish, Scaled};
use super::quads::has_quads;

/// Channels of a block: four registers of sums.
pub(crate) const BLOCK: usize = 32;

/// Filter rows that are summed at once.
pub(crate) const ROWS: usize = 4;

/// One row of the result.
#[derive(Debug)]
pub(crate) struct DepthwiseQuadRow<'a> {
    /// Lines of the image, `[width][channels]` each, with their borders: unsigned bytes.
    pub x: &'a [u8],
    /// Where the line for each filter row starts in `x`, filled up to whole fours: weights for what is read then are
    /// zeros.
    pub rows: &'a [usize],
    /// Channels.
    pub channels: usize,
    /// Width of the filter, and its stride along the row.
    pub kernel: usize,
    pub stride: usize,
    /// Weights `[blocks][rows / ROWS][filter columns][BLOCK][ROWS]`, channels as [`channel`] says.
    pub weights: &'a [i8],
    /// The sum of the weights of each channel, as [`channel`] says.
    pub sums: &'a [[i32; BLOCK]],
    /// What stands for zero in `x`.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has the kernel"))]
    pub zero: i32,
    /// What becomes of the sums; the result is `[output width][channels]`. Some may be finished twice, as the same.
    pub finish: Scaled<'a>,
}

/// The channel of sum `i` of block `block`, of so many; those of the last block may be in the one before as well.
pub(crate) fn channel(channels: usize, block: usize, i: usize) -> usize {
    first(channels, block) + i / 4 % 2 * 16 + i / 8 * 4 + i % 4
}

/// The first channel of a block.
fn first(channels: usize, block: usize) -> usize {
    (block * BLOCK).min(channels.saturating_sub(BLOCK))
}

/// Columns that are read for a pixel: whole strides.
fn columns(kernel: usize, stride: usize) -> usize {
    kernel.next_multiple_of(stride)
}

/// Bytes that are read beyond the last window of a line.
pub(crate) fn beyond(channels: usize, kernel: usize, stride: usize) -> usize {
    (columns(kernel, stride) - kernel) * channels + BLOCK.saturating_sub(channels)
}

/// Whether [`depthwise_quad_row`] can be called for filters of so many rows and columns, and this stride along the row.
pub(crate) fn has_depthwise_quads(isa: Isa, rows: usize, columns: usize, stride: usize) -> bool {
    let known = rows == columns && [3, 5, 7].contains(&columns) && [1, 2].contains(&stride);
    known && has_quads(isa)
}

/// Computes a row.
///
/// # Panics
/// When slices are too short for what the other fields say, or [there is no such kernel](has_depthwise_quads): a bug of the
/// caller.
pub(crate) fn depthwise_quad_row(isa: Isa, r: DepthwiseQuadRow<'_>) {
    let Some(last) = (r.finish.len() / r.channels.max(1)).checked_sub(1) else { return };
    let reach = ((last * r.stride + columns(r.kernel, r.stride) - 1) * r.channels) + r.channels.max(BLOCK);
    assert!(r.rows.iter().all(|&row| row + reach <= r.x.len()));
    assert!(r.rows.len() == r.kernel.next_multiple_of(ROWS));
    assert!(r.sums.len() == r.channels.div_ceil(BLOCK) && r.finish.takes(r.channels.max(BLOCK)));
    assert!(r.weights.len() >= r.sums.len() * r.rows.len() * r.kernel * BLOCK);
    assert!(has_depthwise_quads(isa, r.kernel, r.kernel, r.stride), "{isa:?} has no such kernel");
    match isa.0 {
        // SAFETY: an `Isa` exists only where its features were detected; lines, weights and result reach as far as was
        // checked.
        #[cfg(target_arch = "x86_64")]
        super::Kind::Vnni => unsafe { x86::row(r) },
        _ => {}
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::vector::{Avx512, Vector};
    use super::{BLOCK, DepthwiseQuadRow, Finish, ROWS, Scaled, first};
    use std::arch::x86_64::*;

    /// Lanes of a register, and registers of a block.
    const LANES: usize = 8;
    const COUNT: usize = BLOCK / LANES;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn row(mut r: DepthwiseQuadRow<'_>) {
        // SAFETY: the caller's.
        unsafe {
            match (r.kernel, r.stride) {
                (3, 1) => blocks::<3, 1, 3, true>(&mut r),
                (3, 2) => blocks::<3, 2, 2, true>(&mut r),
                (5, 1) => blocks::<5, 1, 5, false>(&mut r),
                (5, 2) => blocks::<5, 2, 3, false>(&mut r),
                (7, 1) => blocks::<7, 1, 7, false>(&mut r),
                (7, 2) => blocks::<7, 2, 4, false>(&mut r),
                _ => {}
            }
        }
    }

    /// Filters of `K` columns, block by block. A column is in the windows of `N` pixels of the result, `K / STRIDE`
    /// rounded up: it is interleaved once, and added to the sums of all. `FOUR`: there are four rows only.
    ///
    /// # Safety
    /// As [`depthwise_quad_row`](super::depthwise_quad_row) checks.
    #[inline(always)]
    unsafe fn blocks<const K: usize, const STRIDE: usize, const N: usize, const FOUR: bool>(
        r: &mut DepthwiseQuadRow<'_>,
    ) {
        let (outputs, left) = (r.finish.len() / r.channels, r.channels);
        let whole = r.finish.zero.is_some() && left >= BLOCK;
        let rows = if FOUR { &r.rows[..ROWS] } else { r.rows };
        for (b, sums) in r.sums.iter().enumerate() {
            let channel = first(r.channels, b);
            // SAFETY: there are weights, sums and factors for whole blocks, and as many columns as were checked; reads
            // and writes are unaligned.
            unsafe {
                let zero = _mm256_set1_epi32(-r.zero);
                let mut starts = block(sums.as_ptr().cast());
                for k in 0..COUNT {
                    starts[k] = _mm256_mullo_epi32(starts[k], zero);
                }
                let scale = Scale::new(&r.finish, channel);
                let weights = r.weights.as_ptr().add(b * r.rows.len() * K * BLOCK);
                let mut x = r.x.as_ptr().add(channel);
                // Of the pixels that still read a column, the newest first.
                let mut sums = [starts; N];
                for step in 0..outputs + N - 1 {
                    for n in (1..N).rev() {
                        sums[n] = sums[n - 1];
                    }
                    sums[0] = starts;
                    written_out!(column < STRIDE, {
                        for (i, rows) in rows.chunks_exact(ROWS).enumerate() {
                            let quads = interleaved([rows[0], rows[1], rows[2], rows[3]], x);
                            let w: [_; K] = columns(weights.add(i * K * BLOCK * ROWS));
                            for n in 0..N {
                                if n * STRIDE + column < K {
                                    for k in 0..COUNT {
                                        let w = w[n * STRIDE + column][k];
                                        sums[n][k] = _mm256_dpbusd_epi32(sums[n][k], quads[k], w);
                                    }
                                }
                            }
                        }
                        x = x.add(r.channels);
                    });
                    let Some(pixel) = (step + 1).checked_sub(N) else { continue };
                    let at = pixel * r.channels + channel;
                    if whole {
                        let out = r.finish.out.as_mut_ptr().add(at);
                        _mm256_storeu_si256(out.cast(), scale.bytes(sums[N - 1]));
                    } else {
                        store(&mut r.finish, sums[N - 1], at, channel, left - channel);
                    }
                }
            }
        }
    }

    /// The registers of a block.
    #[inline(always)]
    unsafe fn block(from: *const u8) -> [__m256i; COUNT] {
        // SAFETY: the caller vouches for so many bytes.
        unsafe {
            let load = |k: usize| _mm256_loadu_si256(from.add(k * LANES * ROWS).cast());
            [load(0), load(1), load(2), load(3)]
        }
    }

    /// Weights of `K` columns.
    #[inline(always)]
    unsafe fn columns<const K: usize>(from: *const i8) -> [[__m256i; COUNT]; K] {
        // SAFETY: the caller vouches for so many bytes.
        unsafe {
            let mut columns = [[_mm256_setzero_si256(); COUNT]; K];
            for (i, column) in columns.iter_mut().enumerate() {
                *column = block(from.add(i * BLOCK * ROWS).cast());
            }
            columns
        }
    }

    /// Stores what [`Scaled`] makes of a block's sums that are few, or become floats.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn store(finish: &mut Scaled<'_>, sums: [__m256i; COUNT], at: usize, channel: usize, left: usize) {
        // SAFETY: the caller's.
        unsafe {
            let [a, b] = ordered(sums);
            let (a, b) = (Avx512::of_integers(a), Avx512::of_integers(b));
            match left > Avx512::LANES {
                true => finish.store([[a, b]], at, 0, channel, left),
                false => finish.store([[a]], at, 0, channel, left),
            }
        }
    }

    /// What bytes are made of sums with.
    struct Scale {
        factors: [__m256; COUNT],
        offsets: [__m256; COUNT],
        low: __m256,
        high: __m256,
        /// Whether results may be packed before they are bounded.
        small: bool,
        /// What is added then, so that they fit bytes with a sign, their bounds as such, and which bits are flipped in
        /// the end.
        shift: __m256i,
        least: __m256i,
        greatest: __m256i,
        flip: __m256i,
        zero: __m256i,
    }

    /// Fours of a block's channels: a byte of each row.
    #[inline(always)]
    unsafe fn interleaved(rows: [usize; ROWS], x: *const u8) -> [__m256i; COUNT] {
        // SAFETY: the caller vouches for a block in each row.
        unsafe {
            let load = |row: usize| _mm256_loadu_si256(x.add(row).cast());
            let (a, b, c, d) = (load(rows[0]), load(rows[1]), load(rows[2]), load(rows[3]));
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (ef, gh) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [
                _mm256_unpacklo_epi16(ab, cd),
                _mm256_unpackhi_epi16(ab, cd),
                _mm256_unpacklo_epi16(ef, gh),
                _mm256_unpackhi_epi16(ef, gh),
            ]
        }
    }

    /// A block's sums, by channel.
    #[inline(always)]
    unsafe fn ordered([a, b, c, d]: [__m256i; COUNT]) -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe {
            let join = |ab, cd| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(ab), cd);
            let low = join(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x20>(c, d));
            let high = join(_mm256_permute2x128_si256::<0x31>(a, b), _mm256_permute2x128_si256::<0x31>(c, d));
            [low, high]
        }
    }

    impl Scale {
        /// # Safety
        /// There are factors for a block from `channel`.
        #[inline(always)]
        unsafe fn new(finish: &Scaled<'_>, channel: usize) -> Scale {
            // SAFETY: the caller's.
            unsafe {
                let mut both = [[_mm256_setzero_ps(); COUNT]; 2];
                for (list, registers) in [finish.factors, finish.offsets].iter().zip(&mut both) {
                    for (k, register) in registers.iter_mut().enumerate() {
                        let from = list.as_ptr().add(channel + k * 4);
                        *register = _mm256_set_m128(_mm_loadu_ps(from.add(16)), _mm_loadu_ps(from));
                    }
                }
                let zero = finish.zero.unwrap_or(0);
                // Bounds are integers, if the result is.
                let (low, high) = (finish.clamp.0 as i32, finish.clamp.1 as i32);
                let within = |least: i32, greatest: i32| {
                    low.saturating_add(zero) >= least && high.saturating_add(zero) <= greatest
                };
                let (signed, unsigned) = (within(-128, 127), within(0, 255));
                let shift = if signed { zero } else { zero - 128 };
                Scale {
                    factors: both[0],
                    offsets: both[1],
                    low: _mm256_set1_ps(finish.clamp.0),
                    high: _mm256_set1_ps(finish.clamp.1),
                    small: finish.small && (signed || unsigned),
                    shift: _mm256_set1_epi16(shift as i16),
                    least: _mm256_set1_epi8(low.wrapping_add(shift) as i8),
                    greatest: _mm256_set1_epi8(high.wrapping_add(shift) as i8),
                    flip: _mm256_set1_epi8(if signed { 0 } else { i8::MIN }),
                    zero: _mm256_set1_epi8(zero as i8),
                }
            }
        }

        /// What [`Scaled`] makes of a block's sums, by channel.
        #[inline(always)]
        unsafe fn bytes(&self, sums: [__m256i; COUNT]) -> __m256i {
            // SAFETY: the caller's.
            unsafe {
                let mut whole = [_mm256_setzero_si256(); COUNT];
                for k in 0..COUNT {
                    let sums = _mm256_cvtepi32_ps(sums[k]);
                    let mut scaled = _mm256_fmadd_ps(sums, self.factors[k], self.offsets[k]);
                    if !self.small {
                        scaled = _mm256_min_ps(self.high, _mm256_max_ps(self.low, scaled));
                    }
                    whole[k] = _mm256_cvtps_epi32(scaled);
                }
                let mut words =
                    [_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3])];
                if self.small {
                    // What is far beyond the bounds becomes the least or the greatest integer, which is beyond them or
                    // one of them.
                    for words in &mut words {
                        *words = _mm256_adds_epi16(*words, self.shift);
                    }
                    let bytes = _mm256_packs_epi16(words[0], words[1]);
                    let bytes = _mm256_min_epi8(_mm256_max_epi8(bytes, self.least), self.greatest);
                    return _mm256_xor_si256(bytes, self.flip);
                }
                // Integers of 16 bits hold all there can be; their low bytes count.
                for words in &mut words {
                    *words = _mm256_and_si256(*words, _mm256_set1_epi16(0xff));
                }
                _mm256_add_epi8(_mm256_packus_epi16(words[0], words[1]), self.zero)
            }
        }
    }
}
