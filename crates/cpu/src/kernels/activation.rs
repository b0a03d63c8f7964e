//! Activation functions, softmax, dropout.

use super::Table;
use super::elementwise::{copy_bytes, float_unary, map_float};
use crate::kernel::{KernelCall, KernelError, TensorMut};
use crate::math::{self, clamp_nan};
use crate::simd::Isa;
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

fn sigmoid(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    map_float(c, &mut outs[0], math::sigmoid, |x| 1.0 / (1.0 + (-x).exp()))
}
fn tanh(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    map_float(c, &mut outs[0], math::tanh, f64::tanh)
}
fn silu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    map_float(
        c,
        &mut outs[0],
        #[inline(always)]
        |x| x / (1.0 + math::exp(-x)),
        |x| x / (1.0 + (-x).exp()),
    )
}

float_unary! {
    log_sigmoid => |x| x.min(0.0) - (-x.abs()).exp().ln_1p(),
    relu6 => |x| clamp_nan(x, 0.0, 6.0),
    hardswish => |x| x * clamp_nan(x + 3.0, 0.0, 6.0) / 6.0,
    hardsigmoid => |x| clamp_nan(x + 3.0, 0.0, 6.0) / 6.0,
}

/// `scale · (x, or alpha·(e^x − 1) below zero)` with the constants of the paper.
fn selu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    const ALPHA: f64 = 1.673_263_242_354_377_2;
    const SCALE: f64 = 1.050_700_987_355_480_5;
    let f = |x: f64| SCALE * if x > 0.0 { x } else { ALPHA * x.exp_m1() };
    map_float(c, &mut outs[0], |x| f(f64::from(x)) as f32, f)
}

/// `x · tanh(softplus(x))`
fn mish(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let f = |x: f64| x * if x > 20.0 { x } else { x.exp().ln_1p() }.tanh();
    map_float(c, &mut outs[0], |x| f(f64::from(x)) as f32, f)
}

fn relu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    if x.dtype.is_float() {
        // NaN stays, as in PyTorch.
        return map_float(
            c,
            &mut outs[0],
            |x| if x < 0.0 { 0.0 } else { x },
            |x| if x < 0.0 { 0.0 } else { x },
        );
    }
    let v = x.as_vec::<i64>();
    outs[0].store(v.iter().map(|&x| x.max(0)));
    Ok(())
}

fn hardtanh(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (lo, hi) = (c.float(1)?, c.float(2)?);
    map_float(c, &mut outs[0], |x| clamp_nan(x, lo as f32, hi as f32), |x| clamp_nan(x, lo, hi))
}

fn leaky_relu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let a = c.float(1)?;
    map_float(
        c,
        &mut outs[0],
        |x| if x > 0.0 { x } else { x * a as f32 },
        |x| if x > 0.0 { x } else { x * a },
    )
}

/// `elu(self, alpha, scale, input_scale)`
fn elu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (alpha, scale, inner) = (c.float(1)?, c.float(2)?, c.float(3)?);
    let f = |x: f64| scale * if x > 0.0 { x } else { alpha * (x * inner).exp_m1() };
    map_float(c, &mut outs[0], |x| f(f64::from(x)) as f32, f)
}

/// `max(0, x) + min(0, alpha·(e^(x/alpha) − 1))`
fn celu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let alpha = c.float(1)?;
    let f = |x: f64| if x > 0.0 { x } else { alpha * (x / alpha).exp_m1() };
    map_float(c, &mut outs[0], |x| f(f64::from(x)) as f32, f)
}

fn gelu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    if c.str(1) == Some("tanh") {
        let k = (2.0 / std::f64::consts::PI).sqrt();
        let f = |x: f64| 0.5 * x * (1.0 + (k * (x + 0.044715 * x * x * x)).tanh());
        return map_float(c, &mut outs[0], math::gelu_tanh, f);
    }
    let f = |x: f64| 0.5 * x * (1.0 + math::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    map_float(c, &mut outs[0], math::gelu, f)
}

/// `softplus(self, beta, threshold)`
fn softplus(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (beta, limit) = (c.float(1)?, c.float(2)?);
    let f = |x: f64| if x * beta > limit { x } else { (x * beta).exp().ln_1p() / beta };
    map_float(c, &mut outs[0], |x| f(f64::from(x)) as f32, f)
}

/// `threshold(self, threshold, value)`
fn threshold(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (t, v) = (c.float(1)?, c.float(2)?);
    map_float(c, &mut outs[0], |x| if x <= t as f32 { v as f32 } else { x }, |x| if x <= t { v } else { x })
}

/// `prelu(self, weight)`: one slope, or one a channel (dimension 1).
fn prelu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    let (v, slopes) = (x.as_vec::<f32>(), w.as_vec::<f32>());
    let inner: usize = x.shape.iter().skip(2).product();
    let n = slopes.len();
    outs[0].store(
        v.iter().enumerate().map(|(i, &x)| if x > 0.0 { x } else { x * slopes[i / inner.max(1) % n] }),
    );
    Ok(())
}

/// `glu(self, dim)`: first half times the sigmoid of the second.
fn glu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    let v = x.as_vec::<f32>();
    let inner: usize = x.shape[d + 1..].iter().product();
    let half = x.shape[d] / 2 * inner;
    let gated = v.chunks_exact((2 * half).max(1)).flat_map(|b| {
        let (a, g) = b.split_at(half);
        a.iter().zip(g).map(|(&a, &g)| a / (1.0 + (-g).exp()))
    });
    outs[0].store(gated);
    Ok(())
}

/// Along dimension argument 1; `log` gives the logarithm, `safe` gives zeros where a row is all −∞.
fn along(c: &KernelCall<'_>, out: &mut TensorMut<'_>, log: bool, safe: bool) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    if x.shape.is_empty() {
        out.store([if log { 0f32 } else { 1.0 }]);
        return Ok(());
    }
    let (n, inner) = (x.shape[d], x.shape[d + 1..].iter().product::<usize>());
    if out.dtype == DType::F64 {
        let v = x.as_vec::<f64>();
        let mut r = vec![0f64; v.len()];
        rows(&v, &mut r, n, inner, log, safe);
        out.store(r);
        return Ok(());
    }
    let v = x.as_vec::<f32>();
    match out.slice::<f32>() {
        Some(o) if inner == 1 && !log => {
            for (x, o) in v.chunks_exact(n.max(1)).zip(o.chunks_exact_mut(n.max(1))) {
                o.copy_from_slice(x);
                softmax_row(c.isa, o, safe);
            }
        }
        Some(o) => rows(&v, o, n, inner, log, safe),
        None => {
            let mut r = vec![0f32; v.len()];
            rows(&v, &mut r, n, inner, log, safe);
            out.store(r);
        }
    }
    Ok(())
}

/// The softmax, in place; a row of −∞ alone gives zeros where `safe`, NaN otherwise.
fn softmax_row(isa: Isa, x: &mut [f32], safe: bool) {
    let share = exponentials(isa, x, 1.0, safe);
    x.iter_mut().for_each(|v| *v *= share);
}

/// Puts `e^(x · scale − greatest)` in the place of each `x`, and gives what makes their sum one; a row of −∞ alone gives zeros
/// where `safe`, NaN otherwise.
pub(super) fn exponentials(isa: Isa, x: &mut [f32], scale: f32, safe: bool) -> f32 {
    const LANES: usize = 16;
    isa.vectorize(
        #[inline(always)]
        || {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            // NaN is left out here; it comes back with its exponential.
            let larger = |m: &mut f32, v: f32| *m = if v * scale > *m { v * scale } else { *m };
            let (whole, rest) = x.as_chunks_mut::<LANES>();
            for chunk in whole.iter() {
                for (m, &v) in lanes.iter_mut().zip(chunk) {
                    larger(m, v);
                }
            }
            rest.iter().for_each(|&v| larger(&mut lanes[0], v));
            let max = lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            if safe && max == f32::NEG_INFINITY {
                x.fill(0.0);
                return 0.0;
            }
            let mut sums = [0f32; LANES];
            for chunk in whole.iter_mut() {
                for (s, v) in sums.iter_mut().zip(chunk) {
                    *v = math::exp_of_negative(*v * scale - max);
                    *s += *v;
                }
            }
            for v in rest.iter_mut() {
                *v = math::exp_of_negative(*v * scale - max);
                sums[0] += *v;
            }
            1.0 / sums.into_iter().sum::<f32>()
        },
    )
}

/// Softmax over runs of `n` elements `inner` apart.
fn rows<T: num::Real>(x: &[T], out: &mut [T], n: usize, inner: usize, log: bool, safe: bool) {
    let block = n * inner;
    if block == 0 {
        return;
    }
    for (x, out) in x.chunks_exact(block).zip(out.chunks_exact_mut(block)) {
        for i in 0..inner {
            let at = |k: usize| k * inner + i;
            let max = (0..n).fold(T::NEG_INFINITY, |m, k| if x[at(k)] > m { x[at(k)] } else { m });
            if safe && max == T::NEG_INFINITY {
                (0..n).for_each(|k| out[at(k)] = T::ZERO);
                continue;
            }
            let mut sum = T::ZERO;
            for k in 0..n {
                let e = (x[at(k)] - max).exp();
                out[at(k)] = e;
                sum = sum + e;
            }
            if log {
                let l = sum.ln();
                (0..n).for_each(|k| out[at(k)] = x[at(k)] - max - l);
            } else {
                let inv = T::ONE / sum;
                (0..n).for_each(|k| out[at(k)] = out[at(k)] * inv);
            }
        }
    }
}

/// The few functions that softmax needs of `f32` and `f64`.
mod num {
    use std::ops::{Add, Div, Mul, Sub};

    pub trait Real:
        Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
    {
        const ZERO: Self;
        const ONE: Self;
        const NEG_INFINITY: Self;
        fn exp(self) -> Self;
        fn ln(self) -> Self;
    }
    macro_rules! real { ($($t:ty),*) => { $(impl Real for $t {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NEG_INFINITY: Self = <$t>::NEG_INFINITY;
        fn exp(self) -> Self { <$t>::exp(self) }
        fn ln(self) -> Self { <$t>::ln(self) }
    })* } }
    real!(f32, f64);
}

fn softmax(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    along(c, &mut outs[0], false, false)
}
fn log_softmax(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    along(c, &mut outs[0], true, false)
}
fn safe_softmax(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    along(c, &mut outs[0], false, true)
}

/// Dropout does nothing: programs run as in evaluation, whatever the flag says.
fn dropout(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    copy_bytes(c.tensor(0)?, &mut outs[0])
}
fn native_dropout(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    outs[1].bytes.fill(1);
    copy_bytes(c.tensor(0)?, &mut outs[0])
}

pub(super) const TABLE: Table = &[
    ("aten.relu.default", relu),
    ("aten.relu6.default", relu6),
    ("aten.hardtanh.default", hardtanh),
    ("aten.hardswish.default", hardswish),
    ("aten.hardsigmoid.default", hardsigmoid),
    ("aten.leaky_relu.default", leaky_relu),
    ("aten.elu.default", elu),
    ("aten.celu.default", celu),
    ("aten.selu.default", selu),
    ("aten.gelu.default", gelu),
    ("aten.silu.default", silu),
    ("aten.mish.default", mish),
    ("aten.softplus.default", softplus),
    ("aten.threshold.default", threshold),
    ("aten.log_sigmoid.default", log_sigmoid),
    ("aten.sigmoid.default", sigmoid),
    ("aten.tanh.default", tanh),
    ("aten.prelu.default", prelu),
    ("aten.glu.default", glu),
    ("aten.softmax.int", softmax),
    ("aten._softmax.default", softmax),
    ("aten._safe_softmax.default", safe_softmax),
    ("aten.log_softmax.int", log_softmax),
    ("aten._log_softmax.default", log_softmax),
    ("aten.dropout.default", dropout),
    ("aten.feature_dropout.default", dropout),
    ("aten.native_dropout.default", native_dropout),
];
