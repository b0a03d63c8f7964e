//! What becomes of a kernel's sums on their way to memory.

use super::seen::Seen;
use super::vector::Vector;

/// No bounds.
pub(crate) const UNBOUNDED: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

/// Finishes sums and stores them.
pub(crate) trait Finish {
    /// Elements of the result.
    fn len(&self) -> usize;

    /// Whether results of `padded` channels, whole registers of them, can be finished.
    fn takes(&self, padded: usize) -> bool;

    /// Stores `M` rows of `N` registers, `stride` elements apart, from the element `at` on: the first `columns` of each row, which
    /// reach into its last register, or all if there are more. The first is of channel `channel`.
    ///
    /// # Safety
    /// What is stored lies inside of the result; channels in whole registers lie inside of what [`takes`](Self::takes) was asked
    /// about.
    #[inline(always)]
    unsafe fn store<V: Vector, const M: usize, const N: usize>(
        &mut self,
        sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
        columns: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match columns >= N * V::LANES {
                true => self.store_rows::<V, M, N, true>(sums, at, stride, channel, V::LANES),
                false => {
                    let left = columns - (N - 1) * V::LANES;
                    self.store_rows::<V, M, N, false>(sums, at, stride, channel, left);
                }
            }
        }
    }

    /// The same; of the last register of each row all lanes if they are `WHOLE`, and the first `left` otherwise. There are no
    /// choices between one row and the next: the compiler would move sums behind them, and out of their registers.
    ///
    /// # Safety
    /// As [`store`](Self::store).
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
        left: usize,
    );
}

/// A register, or its first `left` lanes with zeros behind.
#[inline(always)]
pub(super) unsafe fn load<V: Vector>(whole: bool, from: *const f32, left: usize) -> V {
    // SAFETY: the caller's.
    unsafe { if whole { V::load(from) } else { V::load_part(from, left) } }
}

/// Stores a register, or its first `left` lanes.
#[inline(always)]
pub(super) unsafe fn store<V: Vector>(whole: bool, x: V, to: *mut f32, left: usize) {
    // SAFETY: the caller's.
    unsafe { if whole { x.store(to) } else { x.store_part(to, left) } }
}

/// Floats: `clamp(sum + residual)`. `SEE`: extremes are noted.
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
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        mut sums: [[V; N]; M],
        at: usize,
        stride: usize,
        _channel: usize,
        left: usize,
    ) {
        // SAFETY: the caller's; the residual is as long as the result.
        unsafe {
            if let Some(residual) = self.residual {
                if SEE {
                    self.seen.sums.see::<V, M, N, WHOLE>(&sums, left);
                }
                let from = residual.as_ptr().add(at);
                written_out!(m < M, {
                    for n in 0..N {
                        let from = from.add(m * stride + n * V::LANES);
                        sums[m][n] = sums[m][n].add(load(WHOLE || n + 1 < N, from, left));
                    }
                });
            }
            if SEE {
                self.seen.results.see::<V, M, N, WHOLE>(&sums, left);
            }
            let (lo, hi) = (V::splat(self.clamp.0), V::splat(self.clamp.1));
            let out = self.out.as_mut_ptr().add(at);
            written_out!(m < M, {
                for n in 0..N {
                    sums[m][n] = sums[m][n].clamp(lo, hi);
                    store(WHOLE || n + 1 < N, sums[m][n], out.add(m * stride + n * V::LANES), left);
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
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
        left: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let (out, factors) = (self.out.as_mut_ptr().add(at), self.factors.as_ptr().add(channel));
            written_out!(m < M, {
                for n in 0..N {
                    let (out, whole) = (out.add(m * stride + n * V::LANES), WHOLE || n + 1 < N);
                    let sum = sums[m][n].fma(V::load(factors.add(n * V::LANES)), load(whole, out, left));
                    store(whole, sum, out, left);
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
    unsafe fn store_rows<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        mut sums: [[V; N]; M],
        at: usize,
        stride: usize,
        channel: usize,
        left: usize,
    ) {
        // SAFETY: the caller's; an element has as many bytes as `len` says, and floats are stored unaligned.
        unsafe {
            written_out!(m < M, {
                for n in 0..N {
                    sums[m][n] = self.scaled(sums[m][n], channel + n * V::LANES);
                }
            });
            let out = self.out.as_mut_ptr();
            match self.zero {
                Some(zero) if N == 2 && WHOLE => written_out!(m < M, {
                    V::store_bytes_of_two([sums[m][0], sums[m][N - 1]], zero, out.add(at + m * stride));
                }),
                Some(zero) => written_out!(m < M, {
                    for n in 0..N {
                        let out = out.add(at + m * stride + n * V::LANES);
                        match WHOLE || n + 1 < N {
                            true => sums[m][n].store_bytes(zero, out),
                            false => sums[m][n].store_bytes_part(zero, out, left),
                        }
                    }
                }),
                None => written_out!(m < M, {
                    for n in 0..N {
                        let out = out.add(4 * (at + m * stride + n * V::LANES));
                        store(WHOLE || n + 1 < N, sums[m][n], out.cast(), left);
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
