//! What becomes of a kernel's sums on their way to memory.

use super::vector::Vector;
use lowbit_core::quant::observer::Extremes;

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
unsafe fn load<V: Vector>(whole: bool, from: *const f32, left: usize) -> V {
    // SAFETY: the caller's.
    unsafe { if whole { V::load(from) } else { V::load_part(from, left) } }
}

/// Stores a register, or its first `left` lanes.
#[inline(always)]
unsafe fn store<V: Vector>(whole: bool, x: V, to: *mut f32, left: usize) {
    // SAFETY: the caller's.
    unsafe { if whole { x.store(to) } else { x.store_part(to, left) } }
}

/// Something about the sums of a layer, if a residual is added to them, and about its results before these are bounded.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages<T> {
    /// Before the residual is added.
    pub sums: T,
    /// Before they are bounded.
    pub results: T,
}

impl<T> Stages<T> {
    /// The same of something else.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Stages<U> {
        Stages { sums: f(self.sums), results: f(self.results) }
    }
}

/// The greatest bits of some floats, as integers with and without a sign.
///
/// With a sign, those of positive numbers have the order of these, and are above those of negative ones; without, those of negative
/// numbers have the opposite of their order, and are above those of positive ones. What is not finite is beyond all that is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct GreatestBits {
    signed: i32,
    unsigned: u32,
}

/// Of nothing.
impl Default for GreatestBits {
    fn default() -> Self {
        GreatestBits { signed: i32::MIN, unsigned: 0 }
    }
}

impl GreatestBits {
    /// Of both.
    pub fn and(self, other: GreatestBits) -> GreatestBits {
        GreatestBits { signed: self.signed.max(other.signed), unsigned: self.unsigned.max(other.unsigned) }
    }

    /// Of elements that have these extremes.
    pub fn of(extremes: Extremes) -> GreatestBits {
        let one = |x: f32| GreatestBits { signed: x.to_bits() as i32, unsigned: x.to_bits() };
        match extremes.range {
            _ if extremes.not_finite > 0 => one(f32::NAN),
            Some((least, greatest)) => one(least).and(one(greatest)),
            None => GreatestBits::default(),
        }
    }

    /// The extremes, if all was finite, and on both sides of zero.
    pub fn extremes(self) -> Option<Extremes> {
        let (least, greatest) = (f32::from_bits(self.unsigned), f32::from_bits(self.signed as u32));
        let known = self.signed >= 0 && least.is_sign_negative() && least.is_finite() && greatest.is_finite();
        known.then(|| Extremes::of(least, greatest))
    }
}

/// What was seen, lane by lane.
pub(crate) type Seen = Stages<Lanes>;

impl Seen {
    /// Of nothing.
    pub const NOTHING: Seen = Stages { sums: Lanes::NOTHING, results: Lanes::NOTHING };

    /// Of all lanes.
    pub fn bits(&self) -> Stages<GreatestBits> {
        Stages { sums: self.sums.bits(), results: self.results.bits() }
    }
}

/// The greatest bits, as floats. Aligned: what was just stored is loaded again, which takes long across two lines.
///
/// Multipliers, which compare floats as well, are left to the products.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Lanes {
    /// With a sign.
    signed: [f32; LANES],
    /// Without.
    unsigned: [f32; LANES],
}

/// Lanes of the longest registers, two of them side by side.
const LANES: usize = 32;

impl Lanes {
    const NOTHING: Lanes = Lanes { signed: [-0.0; LANES], unsigned: [0.0; LANES] };

    fn bits(&self) -> GreatestBits {
        let signed = self.signed.iter().map(|x| x.to_bits() as i32).fold(i32::MIN, i32::max);
        let unsigned = self.unsigned.iter().map(|x| x.to_bits()).fold(0, u32::max);
        GreatestBits { signed, unsigned }
    }

    /// Sees rows of registers; of the last of each row all lanes if they are `WHOLE`, and the first `left` otherwise.
    #[inline(always)]
    unsafe fn see<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        rows: &[[V; N]; M],
        left: usize,
    ) {
        const { assert!(V::LANES <= LANES) };
        let whole = if WHOLE { N } else { N - 1 };
        // SAFETY: a register has no more lanes than these lists.
        unsafe {
            if whole > 0 {
                self.see_columns::<V, M, N, true>(rows, 0, whole, left);
            }
            if !WHOLE {
                self.see_columns::<V, M, N, false>(rows, N - 1, N, left);
            }
        }
    }

    /// Sees registers `from..to` of each row.
    #[inline(always)]
    unsafe fn see_columns<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        rows: &[[V; N]; M],
        from: usize,
        to: usize,
        left: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            // Among themselves first: the next rows wait for what is in the lists only.
            let (mut signed, mut unsigned) = (rows[0][from], rows[0][from]);
            written_out!(m < M, {
                for n in from..to {
                    signed = rows[m][n].greater_bits(signed);
                    unsigned = rows[m][n].greater_bits_unsigned(unsigned);
                }
            });
            // What is not stored is not seen.
            let [s, u] = [&mut self.signed, &mut self.unsigned].map(|x| x.as_mut_ptr());
            store(WHOLE, signed.greater_bits(load(WHOLE, s, left)), s, left);
            store(WHOLE, unsigned.greater_bits_unsigned(load(WHOLE, u, left)), u, left);
        }
    }
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
