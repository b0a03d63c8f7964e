//! Arithmetic, comparison and logic, element by element, with broadcasting.

use super::Table;
use crate::kernel::{KernelCall, KernelError, Number, TensorMut, TensorRef, broadcast_strides, for_each_row};
use lowbit_core::DType;
use std::borrow::Cow;

type Result = std::result::Result<(), KernelError>;

/// Runs a generic expression at the Rust type that computes `dtype`: half types in `f32`, bool as bytes.
macro_rules! at_dtype {
    ($dtype:expr, $T:ident => $e:expr) => {
        match $dtype {
            DType::F64 => {
                type $T = f64;
                $e
            }
            DType::F32 | DType::F16 | DType::BF16 => {
                type $T = f32;
                $e
            }
            DType::I64 => {
                type $T = i64;
                $e
            }
            DType::I32 => {
                type $T = i32;
                $e
            }
            DType::I16 => {
                type $T = i16;
                $e
            }
            DType::U16 => {
                type $T = u16;
                $e
            }
            DType::I8 => {
                type $T = i8;
                $e
            }
            _ => {
                type $T = u8;
                $e
            }
        }
    };
}
pub(super) use at_dtype;

/// The operations a binary kernel needs of its element type, wrapping for integers.
pub(super) trait Arith: Number {
    /// Whether loops over this type are compiled for each instruction set.
    const COMMON: bool;
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    /// True division; of integers: truncated (used only through the rounding modes).
    fn div(self, o: Self) -> Self;
    fn floordiv(self, o: Self) -> Self;
    fn truncdiv(self, o: Self) -> Self;
    /// Remainder with the sign of the divisor (Python's `%`).
    fn rem(self, o: Self) -> Self;
    /// Remainder with the sign of the dividend (C's `fmod`).
    fn fmod(self, o: Self) -> Self;
    fn pow(self, o: Self) -> Self;
    /// NaN wins, as in PyTorch.
    fn larger(self, o: Self) -> Self;
    fn smaller(self, o: Self) -> Self;
}

macro_rules! arith_float { ($($t:ty: $common:expr),*) => { $(impl Arith for $t {
    const COMMON: bool = $common;
    fn add(self, o: Self) -> Self { self + o }
    fn sub(self, o: Self) -> Self { self - o }
    fn mul(self, o: Self) -> Self { self * o }
    fn div(self, o: Self) -> Self { self / o }
    fn floordiv(self, o: Self) -> Self {
        // Python's: exact where the quotient rounds up to an integer it does not reach.
        if o == 0.0 { return self / o }
        let m = self % o;
        let mut d = (self - m) / o;
        if m != 0.0 && ((o < 0.0) != (m < 0.0)) { d -= 1.0 }
        if d == 0.0 { return (0.0 as $t).copysign(self / o) }
        let f = d.floor();
        if d - f > 0.5 { f + 1.0 } else { f }
    }
    fn truncdiv(self, o: Self) -> Self { (self / o).trunc() }
    fn rem(self, o: Self) -> Self { let m = self % o; if m != 0.0 && ((o < 0.0) != (m < 0.0)) { m + o } else { m } }
    fn fmod(self, o: Self) -> Self { self % o }
    fn pow(self, o: Self) -> Self {
        if o == 2.0 { self * self } else if o == 0.5 { self.sqrt() } else if o == -1.0 { 1.0 / self } else { self.powf(o) }
    }
    fn larger(self, o: Self) -> Self { if self.is_nan() || self > o { self } else { o } }
    fn smaller(self, o: Self) -> Self { if self.is_nan() || self < o { self } else { o } }
})* } }
macro_rules! arith_int { ($($t:ty),*) => { $(impl Arith for $t {
    const COMMON: bool = false;
    fn add(self, o: Self) -> Self { self.wrapping_add(o) }
    fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
    fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
    fn div(self, o: Self) -> Self { self.truncdiv(o) }
    fn floordiv(self, o: Self) -> Self {
        let q = self.truncdiv(o);
        if o != 0 && self.fmod(o) != 0 && ((self < 0) != (o < 0)) { q.wrapping_sub(1) } else { q }
    }
    fn truncdiv(self, o: Self) -> Self { if o == 0 { 0 } else { self.wrapping_div(o) } }
    fn rem(self, o: Self) -> Self { let m = self.fmod(o); if m != 0 && ((o < 0) != (m < 0)) { m.wrapping_add(o) } else { m } }
    fn fmod(self, o: Self) -> Self { if o == 0 { 0 } else { self.wrapping_rem(o) } }
    fn pow(self, o: Self) -> Self {
        let (mut base, mut n, mut out) = (self, o.to_i64(), 1 as $t);
        if n < 0 { return match self.to_i64() { 1 => 1, -1 if n % 2 == 0 => 1, -1 => (0 as $t).wrapping_sub(1), _ => 0 } }
        while n > 0 { if n & 1 == 1 { out = out.wrapping_mul(base) } base = base.wrapping_mul(base); n >>= 1 }
        out
    }
    fn larger(self, o: Self) -> Self { self.max(o) }
    fn smaller(self, o: Self) -> Self { self.min(o) }
})* } }
arith_float!(f32: true, f64: false);
#[allow(unused_comparisons)] // unsigned types share the signed ones' formulas
mod ints {
    use super::{Arith, Number};
    arith_int!(i8, u8, i16, u16, i32, i64);
}

/// An operand of type `T`: a tensor, or a number that stands for one of a single element.
fn operand<'a, T: Number>(
    c: &KernelCall<'a>,
    i: usize,
) -> std::result::Result<(Cow<'a, [T]>, &'a [usize]), KernelError> {
    match c.opt_tensor(i) {
        Some(t) => Ok((t.as_vec(), t.shape)),
        None => Ok((vec![number::<T>(c, i)?].into(), &[])),
    }
}

/// A number argument as `T`; integers stay exact.
pub(super) fn number<T: Number>(c: &KernelCall<'_>, i: usize) -> std::result::Result<T, KernelError> {
    match c.arg(i) {
        crate::kernel::ConcreteArg::Int(n) => Ok(T::cast(*n)),
        _ => Ok(T::cast(c.float(i)?)),
    }
}

/// The type arguments 0 and 1 are computed in.
fn common(c: &KernelCall<'_>, i: usize, j: usize) -> DType {
    let kind = |i: usize| match (c.opt_tensor(i), c.arg(i)) {
        (Some(t), _) => (t.dtype, if t.shape.is_empty() { 1 } else { 2 }),
        (None, crate::kernel::ConcreteArg::Float(_)) => (DType::F32, 0),
        (None, crate::kernel::ConcreteArg::Int(_)) => (DType::I64, 0),
        _ => (DType::Bool, 0),
    };
    let ((a, ra), (b, rb)) = (kind(i), kind(j));
    let category = |d: DType| if d == DType::Bool { 0 } else { 1 + u8::from(d.is_float()) };
    match ra.cmp(&rb) {
        std::cmp::Ordering::Equal => a.promote(b),
        std::cmp::Ordering::Greater if category(b) <= category(a) => a,
        std::cmp::Ordering::Less if category(a) <= category(b) => b,
        _ => a.promote(b),
    }
}

/// `out[i] = f(a[i], b[i])` over the broadcast shape.
#[inline(always)]
pub(super) fn zip<T: Copy, O>(
    (a, sa): (&[T], &[usize]),
    (b, sb): (&[T], &[usize]),
    shape: &[usize],
    out: &mut [O],
    f: impl Fn(T, T) -> O,
) {
    if sa == shape && sb == shape {
        out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (&x, &y))| *o = f(x, y));
        return;
    }
    if let ([y], true) = (b, sa == shape) {
        out.iter_mut().zip(a).for_each(|(o, &x)| *o = f(x, *y));
        return;
    }
    let (ta, tb) = (broadcast_strides(sa, shape), broadcast_strides(sb, shape));
    let n = shape.last().copied().unwrap_or(1);
    let (ia, ib) = (ta.last().copied().unwrap_or(0), tb.last().copied().unwrap_or(0));
    let mut rows = out.chunks_exact_mut(n.max(1));
    for_each_row(shape, [&ta, &tb], |[oa, ob]| {
        let Some(row) = rows.next() else { return };
        match (ia, ib) {
            (1, 1) => row.iter_mut().zip(a[oa..].iter().zip(&b[ob..])).for_each(|(o, (&x, &y))| *o = f(x, y)),
            (1, _) => row.iter_mut().zip(&a[oa..]).for_each(|(o, &x)| *o = f(x, b[ob])),
            (_, 1) => row.iter_mut().zip(&b[ob..]).for_each(|(o, &y)| *o = f(a[oa], y)),
            _ => row.iter_mut().for_each(|o| *o = f(a[oa], b[ob])),
        }
    });
}

/// As [`zip`], compiled once.
#[inline(never)]
fn zip_slow<T: Copy, O>(
    a: (&[T], &[usize]),
    b: (&[T], &[usize]),
    shape: &[usize],
    out: &mut [O],
    f: impl Fn(T, T) -> O,
) {
    zip(a, b, shape, out, f);
}

/// Runs a binary operation at type `T` and stores it in the output's type.
fn run<T: Arith>(c: &KernelCall<'_>, out: &mut TensorMut<'_>, f: impl Fn(T, T) -> T) -> Result {
    let (a, sa) = operand::<T>(c, 0)?;
    let (b, sb) = operand::<T>(c, 1)?;
    let shape = out.shape;
    if let Some(o) = out.slice::<T>().filter(|_| out_is_plain::<T>()) {
        // The type that programs compute in; others would be compiled for every instruction set for nothing.
        if T::COMMON {
            c.isa.vectorize(
                #[inline(always)]
                || zip((&a, sa), (&b, sb), shape, o, f),
            );
        } else {
            zip_slow((&a, sa), (&b, sb), shape, o, f);
        }
        return Ok(());
    }
    let mut tmp = vec![T::default(); out.numel()];
    zip_slow((&a, sa), (&b, sb), shape, &mut tmp, f);
    out.store(tmp);
    Ok(())
}

/// Bytes may be booleans, which must stay 0 or 1: those go through `store`.
fn out_is_plain<T: Number>() -> bool {
    T::DTYPES.len() == 1
}

macro_rules! binary { ($($name:ident => $f:expr),* $(,)?) => { $(
    fn $name(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
        at_dtype!(outs[0].dtype, T => run::<T>(c, &mut outs[0], $f))
    }
)* } }
binary! {
    maximum => |x, y| x.larger(y), minimum => |x, y| x.smaller(y), fmod => |x, y| x.fmod(y),
    remainder => |x, y| x.rem(y), floor_divide => |x, y| x.floordiv(y), mul => |x, y| x.mul(y),
    pow => Arith::pow,
}

/// `self ± alpha·other`; `alpha` is the last argument.
fn scaled(c: &KernelCall<'_>, out: &mut TensorMut<'_>, sign: i64, reverse: bool) -> Result {
    at_dtype!(out.dtype, T => {
        let alpha = Arith::mul(number::<T>(c, 2)?, T::cast(sign));
        let plain = alpha == T::cast(1i64);
        match (plain, reverse) {
            (true, _) => run::<T>(c, out, Arith::add),
            (_, false) => run::<T>(c, out, move |x, y| Arith::add(x, Arith::mul(alpha, y))),
            // other − alpha·self
            (_, true) => run::<T>(c, out, move |x, y| Arith::add(y, Arith::mul(alpha, x))),
        }
    })
}
fn add(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    scaled(c, &mut outs[0], 1, false)
}
fn sub(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    scaled(c, &mut outs[0], -1, false)
}
fn rsub(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    scaled(c, &mut outs[0], -1, true)
}

fn div(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let mode = c.str(2);
    at_dtype!(outs[0].dtype, T => match mode {
        Some("floor") => run::<T>(c, &mut outs[0], |x, y| x.floordiv(y)),
        Some("trunc") => run::<T>(c, &mut outs[0], |x, y| x.truncdiv(y)),
        _ => run::<T>(c, &mut outs[0], Arith::div),
    })
}

fn atan2(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    match outs[0].dtype {
        DType::F64 => run::<f64>(c, &mut outs[0], |x, y| x.atan2(y)),
        _ => run::<f32>(c, &mut outs[0], |x, y| x.atan2(y)),
    }
}

/// A test of two operands, at their common type.
fn test<T: Number>(c: &KernelCall<'_>, out: &mut TensorMut<'_>, f: impl Fn(T, T) -> bool) -> Result {
    let (a, sa) = operand::<T>(c, 0)?;
    let (b, sb) = operand::<T>(c, 1)?;
    zip_slow((&a, sa), (&b, sb), out.shape, out.bytes, |x, y| u8::from(f(x, y)));
    Ok(())
}

macro_rules! tests { ($($name:ident => $f:expr),* $(,)?) => { $(
    fn $name(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
        at_dtype!(common(c, 0, 1), T => test::<T>(c, &mut outs[0], $f))
    }
)* } }
tests! {
    eq => |x, y| x == y, ne => |x, y| x != y, lt => |x, y| x < y, le => |x, y| x <= y, gt => |x, y| x > y, ge => |x, y| x >= y,
    logical_and => |x, y| x != T::default() && y != T::default(),
    logical_or => |x, y| x != T::default() || y != T::default(),
    logical_xor => |x, y| (x != T::default()) != (y != T::default()),
}

macro_rules! bits { ($($name:ident => $op:tt),* $(,)?) => { $(
    fn $name(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
        let (a, sa) = operand::<i64>(c, 0)?;
        let (b, sb) = operand::<i64>(c, 1)?;
        let mut tmp = vec![0i64; outs[0].numel()];
        zip_slow((&a, sa), (&b, sb), outs[0].shape, &mut tmp, |x, y| x $op y);
        outs[0].store(tmp);
        Ok(())
    }
)* } }
bits! { bit_and => &, bit_or => |, bit_xor => ^ }

fn bit_not(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    match x.dtype {
        DType::Bool => outs[0].bytes.iter_mut().zip(x.bytes).for_each(|(o, &b)| *o = 1 - b),
        _ => outs[0].bytes.iter_mut().zip(x.bytes).for_each(|(o, &b)| *o = !b),
    }
    Ok(())
}

/// Applies `f` at `f64` or `f32`, whichever the output computes in.
pub(super) fn map_float(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    single: impl Fn(f32) -> f32,
    double: impl Fn(f64) -> f64,
) -> Result {
    let x = c.tensor(0)?;
    if out.dtype == DType::F64 {
        let v = x.as_vec::<f64>();
        out.store(v.iter().map(|&x| double(x)));
        return Ok(());
    }
    let v = x.as_vec::<f32>();
    match out.slice::<f32>() {
        Some(o) => c.isa.vectorize(
            #[inline(always)]
            || o.iter_mut().zip(v.iter()).for_each(|(o, &x)| *o = single(x)),
        ),
        None => out.store(v.iter().map(|&x| single(x))),
    }
    Ok(())
}

/// Declares kernels from one expression that works at both `f32` and `f64`.
macro_rules! float_unary { ($($name:ident => |$x:ident| $e:expr),* $(,)?) => { $(
    fn $name(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> std::result::Result<(), KernelError> {
        $crate::kernels::elementwise::map_float(c, &mut outs[0], |$x: f32| $e, |$x: f64| $e)
    }
)* } }
pub(super) use float_unary;
float_unary! {
    exp => |x| x.exp(), expm1 => |x| x.exp_m1(), log => |x| x.ln(), log1p => |x| x.ln_1p(), log2 => |x| x.log2(),
    log10 => |x| x.log10(), sqrt => |x| x.sqrt(), rsqrt => |x| 1.0 / x.sqrt(), reciprocal => |x| 1.0 / x, sin => |x| x.sin(),
    cos => |x| x.cos(), tan => |x| x.tan(), sinh => |x| x.sinh(), cosh => |x| x.cosh(), asin => |x| x.asin(),
    acos => |x| x.acos(), atan => |x| x.atan(),
}

fn erf_kernel(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    map_float(c, &mut outs[0], |x| crate::math::erf(f64::from(x)) as f32, crate::math::erf)
}

/// Unary operators that keep integers as they are: at `f64`/`f32` for floats, at `i64` otherwise.
fn keep(
    c: &KernelCall<'_>,
    outs: &mut [TensorMut<'_>],
    single: impl Fn(f32) -> f32,
    double: impl Fn(f64) -> f64,
    int: impl Fn(i64) -> i64,
) -> Result {
    let x = c.tensor(0)?;
    if x.dtype.is_float() {
        return map_float(c, &mut outs[0], single, double);
    }
    let v = x.as_vec::<i64>();
    outs[0].store(v.iter().map(|&x| int(x)));
    Ok(())
}

macro_rules! keeping { ($($name:ident => |$x:ident| $e:expr, $int:expr);* $(;)?) => { $(
    fn $name(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
        keep(c, outs, |$x: f32| $e, |$x: f64| $e, $int)
    }
)* } }
keeping! {
    abs => |x| x.abs(), |x| x.wrapping_abs();
    neg => |x| -x, |x| x.wrapping_neg();
    ceil => |x| x.ceil(), |x| x;
    floor => |x| x.floor(), |x| x;
    trunc => |x| x.trunc(), |x| x;
    round => |x| x.round_ties_even(), |x| x;
    sign => |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }, |x| x.signum();
    square => |x| x * x, |x| x.wrapping_mul(x);
}

/// `round(self, decimals)`
fn round_decimals(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let d = c.int(1)? as i32;
    let scale = 10f64.powi(d.abs());
    let up = d >= 0;
    let single = |x: f32| {
        let s = scale as f32;
        if up { (x * s).round_ties_even() / s } else { (x / s).round_ties_even() * s }
    };
    let double = |x: f64| {
        if up { (x * scale).round_ties_even() / scale } else { (x / scale).round_ties_even() * scale }
    };
    keep(c, outs, single, double, |x| x)
}

fn predicate(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], f: impl Fn(f64) -> bool) -> Result {
    let v = c.tensor(0)?.as_vec::<f64>();
    outs[0].bytes.iter_mut().zip(v.iter()).for_each(|(o, &x)| *o = u8::from(f(x)));
    Ok(())
}
fn isinf(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    predicate(c, outs, f64::is_infinite)
}
fn isnan(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    predicate(c, outs, f64::is_nan)
}
fn logical_not(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    predicate(c, outs, |x| x == 0.0)
}

/// Argument `i` as `T`, repeated to fill `shape`.
fn spread<T: Number>(
    c: &KernelCall<'_>,
    i: usize,
    shape: &[usize],
) -> std::result::Result<Vec<T>, KernelError> {
    let (x, s) = operand::<T>(c, i)?;
    let n: usize = shape.iter().product();
    let mut out = vec![T::default(); n];
    zip_slow((&x, s), (&x, s), shape, &mut out, |x, _| x);
    Ok(out)
}

/// `self + value·tensor1·tensor2`, `self + value·tensor1/tensor2`, `self + weight·(end − self)`
fn three(c: &KernelCall<'_>, out: &mut TensorMut<'_>, f: impl Fn(f64, f64, f64) -> f64) -> Result {
    let shape = out.shape.to_vec();
    let (a, b, d) =
        (spread::<f64>(c, 0, &shape)?, spread::<f64>(c, 1, &shape)?, spread::<f64>(c, 2, &shape)?);
    out.store(a.iter().zip(b.iter().zip(&d)).map(|(&a, (&b, &d))| f(a, b, d)));
    Ok(())
}
fn addcmul(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let value = c.float(3)?;
    three(c, &mut outs[0], |a, b, d| a + value * b * d)
}
fn addcdiv(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let value = c.float(3)?;
    three(c, &mut outs[0], |a, b, d| a + value * (b / d))
}
fn lerp(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    three(c, &mut outs[0], |a, b, w| if w < 0.5 { a + w * (b - a) } else { b - (b - a) * (1.0 - w) })
}

/// `clamp(self, min, max)`: numbers or tensors, either may be absent; NaN stays.
fn clamp(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    bounded(c, &mut outs[0], Some(1), Some(2))
}
fn clamp_min(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    bounded(c, &mut outs[0], Some(1), None)
}
fn clamp_max(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    bounded(c, &mut outs[0], None, Some(1))
}
fn bounded(c: &KernelCall<'_>, out: &mut TensorMut<'_>, min: Option<usize>, max: Option<usize>) -> Result {
    let given = |i: Option<usize>| i.filter(|&i| *c.arg(i) != crate::kernel::ConcreteArg::None);
    at_dtype!(out.dtype, T => {
        let shape = out.shape.to_vec();
        let mut x = spread::<T>(c, 0, &shape)?;
        if let Some(i) = given(min) {
            let (b, s) = operand::<T>(c, i)?;
            let a = x.clone();
            zip_slow((&a, &shape), (&b, s), &shape, &mut x, |v, lo| if v < lo { lo } else { v });
        }
        if let Some(i) = given(max) {
            let (b, s) = operand::<T>(c, i)?;
            let a = x.clone();
            zip_slow((&a, &shape), (&b, s), &shape, &mut x, |v, hi| if v > hi { hi } else { v });
        }
        out.store(x);
        Ok(())
    })
}

/// `where(condition, a, b)`
fn select(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let out = &mut outs[0];
    let shape = out.shape.to_vec();
    let cond = spread::<u8>(c, 0, &shape)?;
    at_dtype!(out.dtype, T => {
        let (a, b) = (spread::<T>(c, 1, &shape)?, spread::<T>(c, 2, &shape)?);
        out.store(cond.iter().zip(a.iter().zip(&b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }));
        Ok(())
    })
}

/// `masked_fill(self, mask, value)`
fn masked_fill(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let out = &mut outs[0];
    let shape = out.shape.to_vec();
    let mask = spread::<u8>(c, 1, &shape)?;
    at_dtype!(out.dtype, T => {
        let x = spread::<T>(c, 0, &shape)?;
        let value = operand::<T>(c, 2)?.0[0];
        out.store(mask.iter().zip(&x).map(|(&m, &x)| if m != 0 { value } else { x }));
        Ok(())
    })
}

/// A tensor's elements unchanged: for operators that only move or keep data.
pub(super) fn copy_bytes(x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result {
    out.bytes.copy_from_slice(x.bytes);
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.add.Tensor", add),
    ("aten.add.Scalar", add),
    ("aten.sub.Tensor", sub),
    ("aten.sub.Scalar", sub),
    ("aten.rsub.Tensor", rsub),
    ("aten.rsub.Scalar", rsub),
    ("aten.mul.Tensor", mul),
    ("aten.mul.Scalar", mul),
    ("aten.div.Tensor", div),
    ("aten.div.Scalar", div),
    ("aten.div.Tensor_mode", div),
    ("aten.div.Scalar_mode", div),
    ("aten.floor_divide.default", floor_divide),
    ("aten.floor_divide.Scalar", floor_divide),
    ("aten.maximum.default", maximum),
    ("aten.minimum.default", minimum),
    ("aten.max.other", maximum),
    ("aten.min.other", minimum),
    ("aten.fmod.Tensor", fmod),
    ("aten.fmod.Scalar", fmod),
    ("aten.remainder.Tensor", remainder),
    ("aten.remainder.Scalar", remainder),
    ("aten.pow.Tensor_Tensor", pow),
    ("aten.pow.Tensor_Scalar", pow),
    ("aten.pow.Scalar", pow),
    ("aten.atan2.default", atan2),
    ("aten.bitwise_and.Tensor", bit_and),
    ("aten.bitwise_and.Scalar", bit_and),
    ("aten.__and__.Tensor", bit_and),
    ("aten.bitwise_or.Tensor", bit_or),
    ("aten.bitwise_or.Scalar", bit_or),
    ("aten.__or__.Tensor", bit_or),
    ("aten.bitwise_xor.Tensor", bit_xor),
    ("aten.bitwise_xor.Scalar", bit_xor),
    ("aten.__xor__.Tensor", bit_xor),
    ("aten.bitwise_not.default", bit_not),
    ("aten.eq.Tensor", eq),
    ("aten.eq.Scalar", eq),
    ("aten.ne.Tensor", ne),
    ("aten.ne.Scalar", ne),
    ("aten.lt.Tensor", lt),
    ("aten.lt.Scalar", lt),
    ("aten.le.Tensor", le),
    ("aten.le.Scalar", le),
    ("aten.gt.Tensor", gt),
    ("aten.gt.Scalar", gt),
    ("aten.ge.Tensor", ge),
    ("aten.ge.Scalar", ge),
    ("aten.logical_and.default", logical_and),
    ("aten.logical_or.default", logical_or),
    ("aten.logical_xor.default", logical_xor),
    ("aten.logical_not.default", logical_not),
    ("aten.isinf.default", isinf),
    ("aten.isnan.default", isnan),
    ("aten.abs.default", abs),
    ("aten.neg.default", neg),
    ("aten.ceil.default", ceil),
    ("aten.floor.default", floor),
    ("aten.trunc.default", trunc),
    ("aten.round.default", round),
    ("aten.round.decimals", round_decimals),
    ("aten.sign.default", sign),
    ("aten.square.default", square),
    ("aten.exp.default", exp),
    ("aten.expm1.default", expm1),
    ("aten.log.default", log),
    ("aten.log1p.default", log1p),
    ("aten.log2.default", log2),
    ("aten.log10.default", log10),
    ("aten.sqrt.default", sqrt),
    ("aten.rsqrt.default", rsqrt),
    ("aten.reciprocal.default", reciprocal),
    ("aten.sin.default", sin),
    ("aten.cos.default", cos),
    ("aten.tan.default", tan),
    ("aten.sinh.default", sinh),
    ("aten.cosh.default", cosh),
    ("aten.asin.default", asin),
    ("aten.acos.default", acos),
    ("aten.atan.default", atan),
    ("aten.erf.default", erf_kernel),
    ("aten.addcmul.default", addcmul),
    ("aten.addcdiv.default", addcdiv),
    ("aten.lerp.Scalar", lerp),
    ("aten.clamp.default", clamp),
    ("aten.clamp.Tensor", clamp),
    ("aten.clamp_min.default", clamp_min),
    ("aten.clamp_min.Tensor", clamp_min),
    ("aten.clamp_max.default", clamp_max),
    ("aten.clamp_max.Tensor", clamp_max),
    ("aten.where.self", select),
    ("aten.where.ScalarSelf", select),
    ("aten.where.ScalarOther", select),
    ("aten.where.Scalar", select),
    ("aten.masked_fill.Scalar", masked_fill),
    ("aten.masked_fill.Tensor", masked_fill),
];
