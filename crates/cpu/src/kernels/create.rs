//! Tensors out of nothing.

use super::Table;
use super::elementwise::{at_dtype, number};
use crate::kernel::{ConcreteArg, KernelCall, KernelError, Number, TensorMut};
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

fn filled<T: Number>(out: &mut TensorMut<'_>, value: T) {
    let n = out.numel();
    out.store(std::iter::repeat_n(value, n));
}

/// Every element is number argument `i`.
fn with_number(c: &KernelCall<'_>, out: &mut TensorMut<'_>, i: usize) -> Result {
    at_dtype!(out.dtype, T => {
        let value = number::<T>(c, i)?;
        filled(out, value);
        Ok(())
    })
}
fn full(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    with_number(c, &mut outs[0], 1)
}
fn new_full(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    with_number(c, &mut outs[0], 2)
}
fn scalar_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    with_number(c, &mut outs[0], 0)
}
fn fill_tensor(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let v = c.tensor(1)?;
    at_dtype!(outs[0].dtype, T => {
        let value = v.as_vec::<T>()[0];
        filled(&mut outs[0], value);
        Ok(())
    })
}
fn zeros(_: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    outs[0].bytes.fill(0);
    Ok(())
}
fn ones(_: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    filled(&mut outs[0], 1i64);
    Ok(())
}

/// `arange(end)`, `arange(start, end)`, `arange(start, end, step)`
fn arange(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let n = c.op.schema().args.iter().take_while(|a| !a.kwarg_only).count();
    let (start, step) = (if n > 1 { Some(0) } else { None }, if n > 2 { Some(2) } else { None });
    let ints = (0..n).all(|i| matches!(c.arg(i), ConcreteArg::Int(_)));
    let count = outs[0].numel();
    if ints {
        let start = start.map_or(Ok(0), |i| c.int(i))?;
        let step = step.map_or(Ok(1), |i| c.int(i))?;
        outs[0].store((0..count as i64).map(|i| start + i * step));
    } else {
        let start = start.map_or(Ok(0.0), |i| c.float(i))?;
        let step = step.map_or(Ok(1.0), |i| c.float(i))?;
        outs[0].store((0..count).map(|i| start + i as f64 * step));
    }
    Ok(())
}

/// `linspace(start, end, steps)`: from both ends to the middle, so that both ends are exact.
fn linspace(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (a, b, n) = (c.float(0)?, c.float(1)?, outs[0].numel());
    if outs[0].dtype == DType::F64 || !outs[0].dtype.is_float() {
        let step = if n > 1 { (b - a) / (n - 1) as f64 } else { 0.0 };
        outs[0].store(
            (0..n).map(|i| if i < n / 2 { a + step * i as f64 } else { b - step * (n - 1 - i) as f64 }),
        );
        return Ok(());
    }
    let (a, b) = (a as f32, b as f32);
    let step = if n > 1 { (b - a) / (n - 1) as f32 } else { 0.0 };
    let single = n == 1;
    outs[0].store(
        (0..n).map(|i| if i < n / 2 || single { a + step * i as f32 } else { b - step * (n - 1 - i) as f32 }),
    );
    Ok(())
}

/// `tril_indices(row, col, offset)`, `triu_indices`: row numbers, then column numbers, row by row.
fn triangle(c: &KernelCall<'_>, out: &mut TensorMut<'_>, columns: impl Fn(i64) -> (i64, i64)) -> Result {
    let (rows, cols) = (c.int(0)?, c.int(1)?);
    let entries = || {
        (0..rows).flat_map(|i| {
            let (start, end) = columns(i);
            (start.clamp(0, cols)..end.clamp(0, cols)).map(move |j| (i, j))
        })
    };
    out.store(entries().map(|(i, _)| i).chain(entries().map(|(_, j)| j)));
    Ok(())
}
fn tril_indices(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let offset = c.int(2)?;
    triangle(c, &mut outs[0], |i| (0, i + offset + 1))
}
fn triu_indices(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let offset = c.int(2)?;
    triangle(c, &mut outs[0], |i| (i + offset, i64::MAX))
}

/// Random numbers cannot equal PyTorch's: a program that draws them is refused when it runs.
fn random(_: &KernelCall<'_>, _: &mut [TensorMut<'_>]) -> Result {
    Err(KernelError::new("random numbers are not supported; pass them to the program as an input"))
}

pub(super) const TABLE: Table = &[
    ("aten.full.default", full),
    ("aten.full_like.default", full),
    ("aten.new_full.default", new_full),
    ("aten.scalar_tensor.default", scalar_tensor),
    ("aten.fill.Scalar", full),
    ("aten.fill.Tensor", fill_tensor),
    ("aten.zeros.default", zeros),
    ("aten.zeros_like.default", zeros),
    ("aten.zero.default", zeros),
    ("aten.new_zeros.default", zeros),
    ("aten.empty.memory_format", zeros),
    ("aten.empty_like.default", zeros),
    ("aten.new_empty.default", zeros),
    ("aten.ones.default", ones),
    ("aten.ones_like.default", ones),
    ("aten.new_ones.default", ones),
    ("aten.arange.default", arange),
    ("aten.arange.start", arange),
    ("aten.arange.start_step", arange),
    ("aten.linspace.default", linspace),
    ("aten.tril_indices.default", tril_indices),
    ("aten.triu_indices.default", triu_indices),
    ("aten.rand.default", random),
    ("aten.rand_like.default", random),
    ("aten.randn.default", random),
    ("aten.randn.generator", random),
    ("aten.randn_like.default", random),
];
