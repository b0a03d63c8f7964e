//! The least and greatest of what layers compute, found where it is on its way to memory.

use super::finish::{load, store};
use super::vector::Vector;
use lowbit_core::quant::observer::Extremes;

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
    ///
    /// # Safety
    /// The CPU has what `V` needs, and `left` is no more than its lanes.
    #[inline(always)]
    pub unsafe fn see<V: Vector, const M: usize, const N: usize, const WHOLE: bool>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::quant::observer::extremes;

    #[test]
    fn parts_of_one_sign_are_known_together() {
        let of = |part: &[f32]| GreatestBits::of(extremes(part));
        let parts: [&[f32]; 4] = [&[2.0, 1e-40], &[-3.0, -0.5], &[], &[0.25]];
        assert_eq!(parts.map(|part| of(part).extremes()), [None; 4]);
        let all = parts.iter().fold(GreatestBits::default(), |all, part| all.and(of(part)));
        assert_eq!(all.extremes(), Some(Extremes::of(-3.0, 2.0)));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(all.and(of(&[bad, 1.0])).extremes(), None);
        }
        assert_eq!(of(&[-0.0, 0.0]).extremes(), None);
        assert_eq!(of(&[-1.0, 0.0]).extremes(), Some(Extremes::of(-1.0, 0.0)));
    }
}
