//! What becomes of a kernel's sums on their way to memory.

use super::vector::Vector;

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

    /// Stores two whole registers side by side.
    ///
    /// # Safety
    /// As [`store`](Self::store).
    #[inline(always)]
    unsafe fn store_two<V: Vector>(&mut self, [a, b]: [V; 2], at: usize, channel: usize) {
        // SAFETY: the caller's.
        unsafe {
            self.store(a, at, channel, V::LANES);
            self.store(b, at + V::LANES, channel + V::LANES, V::LANES);
        }
    }
}

/// Floats: `clamp(sum + residual)`.
#[derive(Debug)]
pub(crate) struct Floats<'a> {
    /// The result.
    pub out: &'a mut [f32],
    /// Added to the sums; of the result's size.
    pub residual: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: (f32, f32),
}

impl Finish for Floats<'_> {
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
            let sums = sums.clamp(V::splat(self.clamp.0), V::splat(self.clamp.1));
            let out = self.out.as_mut_ptr().add(at);
            if left >= V::LANES { sums.store(out) } else { sums.store_part(out, left) }
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
    unsafe fn store_two<V: Vector>(&mut self, [a, b]: [V; 2], at: usize, channel: usize) {
        // SAFETY: the caller's.
        unsafe {
            let two = [self.scaled(a, channel), self.scaled(b, channel + V::LANES)];
            let out = self.out.as_mut_ptr();
            match self.zero {
                Some(zero) => V::store_bytes_of_two(two, zero, out.add(at)),
                None => {
                    two[0].store(out.add(4 * at).cast());
                    two[1].store(out.add(4 * (at + V::LANES)).cast());
                }
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
