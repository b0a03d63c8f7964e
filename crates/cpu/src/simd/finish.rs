//! What becomes of a kernel's sums on their way to memory.

use super::vector::Vector;
use lowbit_core::quant::observer::Extremes;

/// Finishes sums and stores them.
pub(crate) trait Finish {
    /// Elements of the result.
    fn len(&self) -> usize;

    /// Whether results of `padded` channels, whole registers of them, can be finished.
    fn takes(&self, padded: usize) -> bool;

    /// Stores a register of sums as the elements from `at`: the first `left` lanes, or all if there are more left. The first
    /// is of channel `channel`.
    ///
    /// # Safety
    /// `at` and what is left lie inside of the result; channels in whole registers lie inside of what [`takes`](Self::takes)
    /// was asked about.
    unsafe fn store<V: Vector>(&mut self, sums: V, at: usize, channel: usize, left: usize);

    /// Stores `M` rows of `N` whole registers, `stride` elements apart. There are no choices between one row and the next: the
    /// compiler would move sums behind them, and out of their registers.
    ///
    /// # Safety
    /// As [`store`](Self::store), for each register.
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize>(
        &mut self,
        sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
    );
}

/// The extremes of what was seen, lane by lane. Aligned: what was just stored is loaded again, which takes long across two lines.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Seen {
    least: [f32; LANES],
    greatest: [f32; LANES],
    /// Zeros, until something may not be finite.
    zeros: [f32; LANES],
}

/// Lanes of the longest registers.
const LANES: usize = 16;

impl Seen {
    /// Of nothing.
    pub const NOTHING: Seen =
        Seen { least: [f32::INFINITY; LANES], greatest: [f32::NEG_INFINITY; LANES], zeros: [0.0; LANES] };

    /// The extremes, if there was something, and all was finite for certain.
    pub fn extremes(&self) -> Option<Extremes> {
        let least = self.least.into_iter().fold(f32::INFINITY, f32::min);
        let greatest = self.greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let finite = self.zeros.iter().all(|z| *z == 0.0) && least <= greatest;
        finite.then(|| Extremes::of(least, greatest))
    }

    #[inline(always)]
    unsafe fn see<V: Vector, const M: usize, const N: usize>(&mut self, rows: &[[V; N]; M]) {
        const { assert!(V::LANES <= LANES) };
        // SAFETY: a register has no more lanes than these lists.
        unsafe {
            // Among themselves first: the next rows wait for what is in the lists only.
            let (mut least, mut greatest, mut sum) = (rows[0][0], rows[0][0], V::splat(0.0));
            written_out!(m < M, {
                for n in 0..N {
                    least = rows[m][n].lesser(least);
                    greatest = rows[m][n].greater(greatest);
                    // It is finite if all are, but for an overflow, which is looked at like something that is not.
                    sum = sum.add(rows[m][n]);
                }
            });
            let [l, g, z] = [&mut self.least, &mut self.greatest, &mut self.zeros].map(|x| x.as_mut_ptr());
            least.lesser(V::load(l)).store(l);
            greatest.greater(V::load(g)).store(g);
            sum.fma(V::splat(0.0), V::load(z)).store(z);
        }
    }

    fn see_one(&mut self, x: f32) {
        self.least[0] = if x < self.least[0] { x } else { self.least[0] };
        self.greatest[0] = if x > self.greatest[0] { x } else { self.greatest[0] };
        self.zeros[0] += x * 0.0;
    }
}

/// Floats: `clamp(sum + residual)`. `SEE`: the extremes are noted, of what is bounded.
#[derive(Debug)]
pub(crate) struct Floats<'a, const SEE: bool> {
    /// The result.
    pub out: &'a mut [f32],
    /// Added to the sums; of the result's size.
    pub residual: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: (f32, f32),
    /// Where extremes are noted.
    pub seen: &'a mut Seen,
}

impl<const SEE: bool> Finish for Floats<'_, SEE> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn takes(&self, _padded: usize) -> bool {
        self.residual.is_none_or(|r| r.len() >= self.out.len())
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(&mut self, sums: V, at: usize, _channel: usize, left: usize) {
        // SAFETY: the caller's; the residual is as long as the result.
        unsafe {
            let mut sums = sums;
            if let Some(residual) = self.residual {
                let from = residual.as_ptr().add(at);
                sums = sums.add(if left >= V::LANES { V::load(from) } else { V::load_part(from, left) });
            }
            if SEE {
                let mut lanes = [0.0; LANES];
                sums.store(lanes.as_mut_ptr());
                lanes[..left.min(V::LANES)].iter().for_each(|&x| self.seen.see_one(x));
            }
            let sums = sums.clamp(V::splat(self.clamp.0), V::splat(self.clamp.1));
            let out = self.out.as_mut_ptr().add(at);
            if left >= V::LANES { sums.store(out) } else { sums.store_part(out, left) }
        }
    }

    #[inline(always)]
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize>(
        &mut self,
        mut sums: [[V; N]; M],
        at: usize,
        stride: usize,
        _channel: usize,
    ) {
        // SAFETY: the caller's; the residual is as long as the result.
        unsafe {
            if let Some(residual) = self.residual {
                let from = residual.as_ptr().add(at);
                written_out!(m < M, {
                    for n in 0..N {
                        sums[m][n] = sums[m][n].add(V::load(from.add(m * stride + n * V::LANES)));
                    }
                });
            }
            if SEE {
                self.seen.see(&sums);
            }
            let (lo, hi) = (V::splat(self.clamp.0), V::splat(self.clamp.1));
            let out = self.out.as_mut_ptr().add(at);
            written_out!(m < M, {
                for n in 0..N {
                    sums[m][n] = sums[m][n].clamp(lo, hi);
                    sums[m][n].store(out.add(m * stride + n * V::LANES));
                }
            });
        }
    }
}

/// Sums of parts of the depth, each part with scales of its own: `result + sum · factor`.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The result so far.
    pub out: &'a mut [f32],
    /// By channel.
    pub factors: &'a [f32],
}

impl Finish for Parts<'_> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn takes(&self, padded: usize) -> bool {
        self.factors.len() >= padded
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(&mut self, sums: V, at: usize, channel: usize, left: usize) {
        // SAFETY: the caller's.
        unsafe {
            let (out, factors) = (self.out.as_mut_ptr().add(at), V::load(self.factors.as_ptr().add(channel)));
            if left >= V::LANES {
                sums.fma(factors, V::load(out)).store(out);
            } else {
                sums.fma(factors, V::load_part(out, left)).store_part(out, left);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize>(
        &mut self,
        sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let (out, factors) = (self.out.as_mut_ptr().add(at), self.factors.as_ptr().add(channel));
            written_out!(m < M, {
                for n in 0..N {
                    let out = out.add(m * stride + n * V::LANES);
                    sums[m][n].fma(V::load(factors.add(n * V::LANES)), V::load(out)).store(out);
                }
            });
        }
    }
}

/// Sums of integers: `clamp(sum · factor + offset)`, rounded to integers of a byte or left as floats.
#[derive(Debug)]
pub(crate) struct Scaled<'a> {
    /// The result: a byte an element, or four.
    pub out: &'a mut [u8],
    /// By channel.
    pub factors: &'a [f32],
    /// By channel.
    pub offsets: &'a [f32],
    /// Bounds of the result, before the zero point is added.
    pub clamp: (f32, f32),
    /// What is added to the rounded integers; `None`: the result is in floating point.
    pub zero: Option<i32>,
    /// Whether integers of 32 bits hold `sum · factor + offset` of every sum, rounded: bounds may wait until then, and all is finite.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only a kernel of x86-64 packs first")
    )]
    pub small: bool,
}

impl Finish for Scaled<'_> {
    fn len(&self) -> usize {
        self.out.len() / if self.zero.is_some() { 1 } else { 4 }
    }

    fn takes(&self, padded: usize) -> bool {
        self.factors.len() >= padded && self.offsets.len() >= padded
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(&mut self, sums: V, at: usize, channel: usize, left: usize) {
        // SAFETY: the caller's; an element has as many bytes as `len` says, and floats are stored unaligned.
        unsafe {
            let scaled = self.scaled(sums, channel);
            let out = self.out.as_mut_ptr();
            match (self.zero, left >= V::LANES) {
                (Some(zero), true) => scaled.store_bytes(zero, out.add(at)),
                (Some(zero), false) => {
                    let mut bytes = [0u8; 16];
                    scaled.store_bytes(zero, bytes.as_mut_ptr());
                    bytes.as_ptr().copy_to_nonoverlapping(out.add(at), left);
                }
                (None, true) => scaled.store(out.add(4 * at).cast()),
                (None, false) => scaled.store_part(out.add(4 * at).cast(), left),
            }
        }
    }

    #[inline(always)]
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize>(
        &mut self,
        mut sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            written_out!(m < M, {
                for n in 0..N {
                    sums[m][n] = self.scaled(sums[m][n], channel + n * V::LANES);
                }
            });
            let out = self.out.as_mut_ptr();
            match self.zero {
                Some(zero) if N == 2 => written_out!(m < M, {
                    V::store_bytes_of_two([sums[m][0], sums[m][N - 1]], zero, out.add(at + m * stride));
                }),
                Some(zero) => written_out!(m < M, {
                    for n in 0..N {
                        sums[m][n].store_bytes(zero, out.add(at + m * stride + n * V::LANES));
                    }
                }),
                None => written_out!(m < M, {
                    for n in 0..N {
                        sums[m][n].store(out.add(4 * (at + m * stride + n * V::LANES)).cast());
                    }
                }),
            }
        }
    }
}

impl Scaled<'_> {
    /// # Safety
    /// There are factors for a register from `channel`.
    #[inline(always)]
    unsafe fn scaled<V: Vector>(&self, sums: V, channel: usize) -> V {
        // SAFETY: the caller's.
        unsafe {
            let load = |list: &[f32]| V::load(list.as_ptr().add(channel));
            let scaled = sums.fma(load(self.factors), load(self.offsets));
            scaled.clamp(V::splat(self.clamp.0), V::splat(self.clamp.1))
        }
    }
}
