//! Special functions: those that the standard library lacks, and those whose loops should become vector instructions.
//!
//! The `f32` functions are branch-free and use nothing but operations that round once (additions, products, divisions, and
//! `fma`), so they give the same bits on every instruction set. They are good to a few units in the last place.

/// `x` between `lo` and `hi`; NaN stays NaN.
#[inline(always)]
pub fn clamp_nan<T: PartialOrd>(x: T, lo: T, hi: T) -> T {
    if x < lo {
        lo
    } else if x > hi {
        hi
    } else {
        x
    }
}

/// The error function, to about 1e-16 relative: a Maclaurin series near zero, a continued fraction of `erfc` beyond.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    if a < 2.5 {
        // erf x = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1)): all terms positive, so nothing cancels.
        let (mut term, mut sum, mut n) = (a, a, 1.0);
        while term > sum * 1e-17 {
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        return (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).copysign(x);
    }
    // erfc x = e^(−x²)/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))), evaluated from the inside.
    let mut f = a;
    for k in (1..=60).rev() {
        f = a + (f64::from(k) / 2.0) / f;
    }
    (1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * f)).copysign(x)
}

/// Adding and taking this away rounds to the nearest integer, ties to even, below 2²².
const ROUNDER: f32 = 12_582_912.0;

/// `a · b + c`, rounded once: half the operations of a polynomial, one instruction where the machine has it.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// `x` as `n · ln 2` and a rest: `r`, and `n` in the low bits, above [`ROUNDER`]. Reduction, and the polynomial of `e^r`, are those
/// of Cephes' `expf` (S. Moshier).
#[inline(always)]
fn reduced(x: f32) -> (f32, f32) {
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    (fma(n, 2.121_944_4e-4, fma(n, -0.693_359_4, x)), shifted)
}

/// `e^x`
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let (r, shifted) = reduced(x);
    let mut p = 1.987_569_1e-4;
    p = fma(p, r, 1.398_2e-3);
    p = fma(p, r, 8.333_452e-3);
    p = fma(p, r, 4.166_579_6e-2);
    p = fma(p, r, 1.666_666_5e-1);
    p = fma(p, r, 0.5);
    let p = fma(p, r * r, r + 1.0);
    // 2ⁿ in two factors: n reaches from −150 to 128, an exponent from −126 to 127.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

/// `e^x` for what is not much above zero, zero for results below 1.6e-38: less work than [`exp`].
#[inline(always)]
pub fn exp_of_negative(x: f32) -> f32 {
    let (r, shifted) = reduced(x);
    // Terms in pairs: fewer wait for one another.
    let square = r * r;
    let p = fma(1.987_569_1e-4, r, 1.398_2e-3);
    let p = fma(p, square, fma(8.333_452e-3, r, 4.166_579_6e-2));
    let p = fma(p, square, fma(1.666_666_5e-1, r, 0.5));
    let p = fma(p, square, r + 1.0);
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    let e = p * f32::from_bits(exponent << 23);
    if x < -87.0 { 0.0 } else { e }
}

/// `x · Φ(x)`: less than the greater of `x` and zero by `|x|/2 · erfc(|x|/√2)`, to 1e-7.
///
/// `erfc(a/√2)` is written as `p(a)⁻⁴` (the form of Abramowitz & Stegun 7.1.28), with `p` fitted for the least greatest error of the product
/// below 6; beyond, the product is less than 1e-8.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let mut p = 1.117_427_6e-6;
    p = fma(p, a, -1.492_333_8e-5);
    p = fma(p, a, 9.808_868e-5);
    p = fma(p, a, -3.482_567e-4);
    p = fma(p, a, 8.735_879e-4);
    p = fma(p, a, -9.774_792e-4);
    p = fma(p, a, 2.622_907_3e-3);
    p = fma(p, a, 4.679_531e-3);
    p = fma(p, a, 2.655_255_6e-2);
    p = fma(p, a, 9.942_043e-2);
    p = fma(p, a, 0.199_474_86);
    p = fma(p, a, 1.0);
    let square = p * p;
    let less = 0.5 * a / (square * square);
    let less = if a > 6.0 { 0.0 } else { less };
    if x > 0.0 { x - less } else { -less }
}

/// `tanh(x)`: Cephes' polynomial near zero, exponentials beyond.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = fma(p, z, 2.063_908_8e-2);
    p = fma(p, z, -5.373_971_6e-2);
    p = fma(p, z, 1.333_144_2e-1);
    p = fma(p, z, -3.333_328e-1);
    let near = fma(p * z, x, x);
    let far = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let far = if x < 0.0 { -far } else { far };
    if a < 0.625 { near } else { far }
}

/// `1 / (1 + e^(−x))`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// GELU by its approximation with `tanh`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const K: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(K * (x + 0.044_715 * x * x * x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of `f`, relative to what is right (or absolute below `floor`), over many arguments.
    fn worst(f: impl Fn(f32) -> f32, right: impl Fn(f64) -> f64, from: f32, to: f32, floor: f64) -> f64 {
        let at = |i: u32| from + (to - from) * (i as f32 / 200_000.0);
        let error = |x: f32| {
            let want = right(f64::from(x));
            (f64::from(f(x)) - want).abs() / want.abs().max(floor)
        };
        (0..=200_000).map(at).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn vector_functions_are_exact_to_a_few_units() {
        let least = f64::from(f32::MIN_POSITIVE);
        assert!(worst(exp, f64::exp, -87.0, 88.7, least) < 3e-7);
        assert!(worst(exp_of_negative, f64::exp, -87.0, 1.0, least) < 3e-7);
        assert!(worst(tanh, f64::tanh, -12.0, 12.0, 1e-30) < 4e-7);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0, least) < 4e-7);
        // Beside values of order one; the tail below is far smaller than any tolerance.
        let right = |x: f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
        assert!(worst(gelu, right, -10.0, 10.0, 0.1) < 1e-6);
        let k = (2.0 / std::f64::consts::PI).sqrt();
        let right = |x: f64| 0.5 * x * (1.0 + (k * (x + 0.044_715 * x * x * x)).tanh());
        assert!(worst(gelu_tanh, right, -10.0, 10.0, 0.1) < 1e-6);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!([exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)], [1.0, 0.0, 0.0]);
        assert_eq!([exp(f32::INFINITY), exp(89.5)], [f32::INFINITY; 2]);
        assert!(exp(-100.0) > 0.0 && exp(f32::NAN).is_nan() && exp_of_negative(f32::NAN).is_nan());
        assert_eq!([0.0, -88.0, f32::NEG_INFINITY].map(exp_of_negative), [1.0, 0.0, 0.0]);
        assert_eq!([tanh(f32::INFINITY), tanh(-100.0), tanh(0.0)], [1.0, -1.0, 0.0]);
        assert_eq!([sigmoid(f32::INFINITY), sigmoid(f32::NEG_INFINITY)], [1.0, 0.0]);
        assert_eq!([gelu(-100.0), gelu(100.0), gelu(0.0)], [0.0, 100.0, 0.0]);
        assert!(tanh(f32::NAN).is_nan() && gelu(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn erf_matches_tables() {
        // Abramowitz & Stegun, table 7.1, and symmetry.
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (-1.5, -0.966_105_146_475_310_8),
        ] {
            assert!((erf(x) - want).abs() < 2e-15, "{x}: {}", erf(x));
        }
    }
}
