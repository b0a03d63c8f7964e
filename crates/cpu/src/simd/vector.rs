//! Registers of `f32` lanes, one type an instruction set, so that each kernel is written once.
//!
//! Every operation rounds as the scalar one does, and `fma` rounds once everywhere: a kernel that gives each output
//! element its own lane computes the same bits on every instruction set.

use lowbit_core::quant::observer::Bins;

/// A register of `f32` lanes.
///
/// # Safety
/// Implementations may need CPU features; their methods may only be called where those are enabled and detected.
/// Pointers must be valid for [`LANES`](Vector::LANES) elements, or for `n` elements in the `_part` methods.
pub(crate) unsafe trait Vector: Copy {
    /// Elements in a register.
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `n` lanes, zeros behind; `n` of `LANES` or more means all.
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_part(self, to: *mut f32, n: usize);
    /// The nearest integers, ties to even, plus `zero`; the low byte of each. Lanes are far below 2²².
    unsafe fn store_bytes(self, zero: i32, to: *mut u8);
    /// The same of two registers, side by side.
    #[inline(always)]
    unsafe fn store_bytes_of_two([a, b]: [Self; 2], zero: i32, to: *mut u8) {
        // SAFETY: the caller vouches for twice as many elements.
        unsafe {
            a.store_bytes(zero, to);
            b.store_bytes(zero, to.add(Self::LANES));
        }
    }
    /// The same of the first `n` lanes.
    #[inline(always)]
    unsafe fn store_bytes_part(self, zero: i32, to: *mut u8, n: usize) {
        let mut bytes = [0u8; 16];
        const { assert!(Self::LANES <= 16) };
        // SAFETY: the caller vouches for `n` elements.
        unsafe {
            self.store_bytes(zero, bytes.as_mut_ptr());
            bytes.as_ptr().copy_to_nonoverlapping(to, n.min(Self::LANES));
        }
    }
    /// The lanes in their order, and how many they are: without those that are zero, where there is an instruction for it. What is
    /// written behind them, up to [`LANES`](Vector::LANES), has no meaning.
    #[inline(always)]
    unsafe fn store_not_zero(self, to: *mut f32) -> usize {
        // SAFETY: the caller's.
        unsafe { self.store(to) };
        Self::LANES
    }
    /// The places of the lanes among bins, as [`Bins::place`] finds them.
    unsafe fn store_places(self, bins: &Bins, to: *mut u32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// Whether all lanes are zero.
    unsafe fn all_zero(self) -> bool;
    /// `self · b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The greater of both, of their bits as integers with a sign.
    unsafe fn greater_bits(self, other: Self) -> Self;
    /// The greater of both, of their bits as integers without a sign.
    unsafe fn greater_bits_unsigned(self, other: Self) -> Self;
    /// `lo` where `self < lo`, `hi` where `self > hi`; NaN stays NaN, as PyTorch's activations keep it.
    unsafe fn clamp(self, lo: Self, hi: Self) -> Self;
}

/// Adding this rounds to the nearest integer, ties to even, below 2²²; the integer is in the low bits then.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// Lanes in plain Rust, for every CPU.
#[derive(Copy, Clone)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    /// Lanes from integers.
    pub(super) fn of_integers(integers: [i32; 8]) -> Self {
        Portable(integers.map(|x| x as f32))
    }
}

// SAFETY: needs no CPU features.
unsafe impl Vector for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 8 elements; arrays of f32 read unaligned.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        let mut v = [0.0; 8];
        // SAFETY: the caller vouches for `n` elements.
        unsafe { from.copy_to_nonoverlapping(v.as_mut_ptr(), n.min(8)) };
        Portable(v)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: the caller vouches for `n` elements.
        unsafe { self.0.as_ptr().copy_to_nonoverlapping(to, n.min(8)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, zero: i32, to: *mut u8) {
        let bytes = self.0.map(|x| (x + ROUNDER).to_bits().wrapping_add(zero as u32) as u8);
        // SAFETY: the caller vouches for 8 elements.
        unsafe { to.cast::<[u8; 8]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn store_places(self, bins: &Bins, to: *mut u32) {
        // SAFETY: the caller vouches for 8 elements.
        unsafe { to.cast::<[u32; 8]>().write_unaligned(self.0.map(|x| bins.place(x))) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn all_zero(self) -> bool {
        self.0.iter().all(|x| *x == 0.0)
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }

    #[inline(always)]
    unsafe fn greater_bits(self, other: Self) -> Self {
        let bits = |x: f32| x.to_bits() as i32;
        Portable(std::array::from_fn(|i| f32::from_bits(bits(self.0[i]).max(bits(other.0[i])) as u32)))
    }

    #[inline(always)]
    unsafe fn greater_bits_unsigned(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| f32::from_bits(self.0[i].to_bits().max(other.0[i].to_bits()))))
    }

    #[inline(always)]
    unsafe fn clamp(self, lo: Self, hi: Self) -> Self {
        Portable(std::array::from_fn(|i| {
            let x = if lo.0[i] > self.0[i] { lo.0[i] } else { self.0[i] };
            if hi.0[i] < x { hi.0[i] } else { x }
        }))
    }
}

/// Two registers as one, side by side.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone)]
pub(super) struct Beside<A, B>(A, B);

// SAFETY: does what both do.
#[cfg(target_arch = "x86_64")]
unsafe impl<A: Vector, B: Vector> Vector for Beside<A, B> {
    const LANES: usize = A::LANES + B::LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: here and below, the caller vouches for the features of both, and for elements of both.
        unsafe { Beside(A::splat(x), B::splat(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Beside(A::load(from), B::load(from.add(A::LANES))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        let behind = from.wrapping_add(A::LANES);
        // SAFETY: as above.
        unsafe { Beside(A::load_part(from, n), B::load_part(behind, n.saturating_sub(A::LANES))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(A::LANES));
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: as above.
        unsafe {
            self.0.store_part(to, n);
            self.1.store_part(to.wrapping_add(A::LANES), n.saturating_sub(A::LANES));
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, zero: i32, to: *mut u8) {
        // SAFETY: as above.
        unsafe {
            self.0.store_bytes(zero, to);
            self.1.store_bytes(zero, to.add(A::LANES));
        }
    }

    #[inline(always)]
    unsafe fn store_places(self, bins: &Bins, to: *mut u32) {
        // SAFETY: as above.
        unsafe {
            self.0.store_places(bins, to);
            self.1.store_places(bins, to.add(A::LANES));
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.add(other.0), self.1.add(other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.sub(other.0), self.1.sub(other.1)) }
    }

    #[inline(always)]
    unsafe fn all_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { self.0.all_zero() && self.1.all_zero() }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.fma(b.0, c.0), self.1.fma(b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn greater_bits(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.greater_bits(other.0), self.1.greater_bits(other.1)) }
    }

    #[inline(always)]
    unsafe fn greater_bits_unsigned(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.greater_bits_unsigned(other.0), self.1.greater_bits_unsigned(other.1)) }
    }

    #[inline(always)]
    unsafe fn clamp(self, lo: Self, hi: Self) -> Self {
        // SAFETY: as above.
        unsafe { Beside(self.0.clamp(lo.0, hi.0), self.1.clamp(lo.1, hi.1)) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Bins, Vector};
    use std::arch::x86_64::*;

    /// 8 lanes; needs AVX2 and FMA.
    #[derive(Copy, Clone)]
    pub(in super::super) struct Avx2(__m256);

    impl Avx2 {
        /// Lanes from integers of 32 bits.
        ///
        /// # Safety
        /// The CPU has AVX2.
        #[inline(always)]
        pub unsafe fn of_integers(integers: __m256i) -> Self {
            // SAFETY: the caller's.
            Avx2(unsafe { _mm256_cvtepi32_ps(integers) })
        }
    }

    /// Bits of a mask register for the first `n` of 8 lanes.
    #[inline(always)]
    fn mask8(n: usize) -> [i32; 8] {
        std::array::from_fn(|i| if i < n { -1 } else { 0 })
    }

    // SAFETY: callers have detected AVX2 and FMA.
    unsafe impl Vector for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: here and below, the trait's callers vouch for the features and the pointers.
            Avx2(unsafe { _mm256_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Avx2(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, n: usize) -> Self {
            // SAFETY: as above; masked lanes are not read.
            unsafe {
                let mask = _mm256_loadu_si256(mask8(n).as_ptr().cast());
                Avx2(_mm256_maskload_ps(from, mask))
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, n: usize) {
            // SAFETY: as above; masked lanes are not written.
            unsafe {
                let mask = _mm256_loadu_si256(mask8(n).as_ptr().cast());
                _mm256_maskstore_ps(to, mask, self.0);
            }
        }

        #[inline(always)]
        unsafe fn store_bytes(self, zero: i32, to: *mut u8) {
            // SAFETY: as above.
            unsafe {
                let whole = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(zero));
                let bytes = _mm256_and_si256(whole, _mm256_set1_epi32(0xff));
                let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
                let words = _mm_packus_epi32(low, high);
                _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
            }
        }

        #[inline(always)]
        unsafe fn store_bytes_of_two([a, b]: [Self; 2], zero: i32, to: *mut u8) {
            // SAFETY: as above.
            unsafe {
                // Integers of 16 bits hold all there can be, and more; halves come interleaved.
                let words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.0), _mm256_cvtps_epi32(b.0));
                let words = _mm256_add_epi16(words, _mm256_set1_epi16(zero as i16));
                let words = _mm256_and_si256(words, _mm256_set1_epi16(0xff));
                let words = _mm256_permute4x64_epi64(words, 0b11_01_10_00);
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
                _mm_storeu_si128(to.cast(), _mm_packus_epi16(low, high));
            }
        }

        #[inline(always)]
        unsafe fn store_places(self, bins: &Bins, to: *mut u32) {
            // SAFETY: as above.
            unsafe {
                let splat = |x: f32| _mm256_set1_ps(x);
                let (low, high, count) =
                    (splat(bins.low), splat(bins.high), _mm256_set1_epi32(bins.count as i32));
                let scaled = _mm256_mul_ps(_mm256_sub_ps(self.0, low), splat(bins.count as f32));
                // What fits no integer becomes 2³¹, without a sign.
                let place = _mm256_cvttps_epi32(_mm256_div_ps(scaled, splat(bins.high - bins.low)));
                let place = _mm256_castsi256_ps(_mm256_min_epu32(place, count));
                let above = _mm256_cmp_ps::<_CMP_LE_OQ>(low, self.0);
                let inside = _mm256_and_ps(above, _mm256_cmp_ps::<_CMP_LE_OQ>(self.0, high));
                let outside = _mm256_castsi256_ps(_mm256_set1_epi32(bins.count as i32 + 1));
                _mm256_storeu_ps(to.cast(), _mm256_blendv_ps(outside, place, inside));
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn all_zero(self) -> bool {
            // SAFETY: as above.
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, _mm256_setzero_ps())) == 0 }
        }

        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        unsafe fn greater_bits(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Avx2(_mm256_castsi256_ps(_mm256_max_epi32(
                    _mm256_castps_si256(self.0),
                    _mm256_castps_si256(other.0),
                )))
            }
        }

        #[inline(always)]
        unsafe fn greater_bits_unsigned(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Avx2(_mm256_castsi256_ps(_mm256_max_epu32(
                    _mm256_castps_si256(self.0),
                    _mm256_castps_si256(other.0),
                )))
            }
        }

        #[inline(always)]
        unsafe fn clamp(self, lo: Self, hi: Self) -> Self {
            // SAFETY: as above. These instructions give their second operand when one is NaN.
            Avx2(unsafe { _mm256_min_ps(hi.0, _mm256_max_ps(lo.0, self.0)) })
        }
    }

    /// 16 lanes; needs AVX-512 F.
    #[derive(Copy, Clone)]
    pub(in super::super) struct Avx512(__m512);

    impl Avx512 {
        /// Lanes from integers of 32 bits.
        ///
        /// # Safety
        /// The CPU has AVX-512 F.
        #[inline(always)]
        pub unsafe fn of_integers(integers: __m512i) -> Self {
            // SAFETY: the caller's.
            Avx512(unsafe { _mm512_cvtepi32_ps(integers) })
        }
    }

    #[inline(always)]
    fn mask16(n: usize) -> __mmask16 {
        if n >= 16 { !0 } else { (1 << n) - 1 }
    }

    // SAFETY: callers have detected AVX-512 F.
    unsafe impl Vector for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: here and below, the trait's callers vouch for the feature and the pointers.
            Avx512(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, n: usize) -> Self {
            // SAFETY: as above; masked lanes are not read.
            Avx512(unsafe { _mm512_maskz_loadu_ps(mask16(n), from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, n: usize) {
            // SAFETY: as above; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(to, mask16(n), self.0) }
        }

        #[inline(always)]
        unsafe fn store_bytes(self, zero: i32, to: *mut u8) {
            // SAFETY: as above.
            unsafe {
                let whole = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(zero));
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(whole));
            }
        }

        #[inline(always)]
        unsafe fn store_not_zero(self, to: *mut f32) -> usize {
            // SAFETY: as above. The whole register is stored: some processors store a part of one much more slowly.
            unsafe {
                let kept = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, _mm512_setzero_ps());
                _mm512_storeu_ps(to, _mm512_maskz_compress_ps(kept, self.0));
                kept.count_ones() as usize
            }
        }

        #[inline(always)]
        unsafe fn store_places(self, bins: &Bins, to: *mut u32) {
            // SAFETY: as above.
            unsafe {
                let splat = |x: f32| _mm512_set1_ps(x);
                let (low, high, count) =
                    (splat(bins.low), splat(bins.high), _mm512_set1_epi32(bins.count as i32));
                let scaled = _mm512_mul_ps(_mm512_sub_ps(self.0, low), splat(bins.count as f32));
                let place = _mm512_cvttps_epi32(_mm512_div_ps(scaled, splat(bins.high - bins.low)));
                let above = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(low, self.0);
                let inside = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(above, self.0, high);
                let outside = _mm512_set1_epi32(bins.count as i32 + 1);
                let place = _mm512_mask_min_epu32(outside, inside, place, count);
                _mm512_storeu_si512(to.cast(), place);
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn all_zero(self) -> bool {
            // SAFETY: as above.
            unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, _mm512_setzero_ps()) == 0 }
        }

        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        unsafe fn greater_bits(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Avx512(_mm512_castsi512_ps(_mm512_max_epi32(
                    _mm512_castps_si512(self.0),
                    _mm512_castps_si512(other.0),
                )))
            }
        }

        #[inline(always)]
        unsafe fn greater_bits_unsigned(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                Avx512(_mm512_castsi512_ps(_mm512_max_epu32(
                    _mm512_castps_si512(self.0),
                    _mm512_castps_si512(other.0),
                )))
            }
        }

        #[inline(always)]
        unsafe fn clamp(self, lo: Self, hi: Self) -> Self {
            // SAFETY: as above. These instructions give their second operand when one is NaN.
            Avx512(unsafe { _mm512_min_ps(hi.0, _mm512_max_ps(lo.0, self.0)) })
        }
    }
}
