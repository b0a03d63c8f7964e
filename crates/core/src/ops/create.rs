//! Tensors out of nothing: constants, ranges, random numbers.

use super::Call;
use super::rules::{Types, dtype_or, one};
use crate::dtype::DType;
use crate::ir::Arg;
use crate::symint::SymInt;

ops! {
    EMPTY = "aten.empty.memory_format" "(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", sized;
    ZEROS = "aten.zeros.default" "(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", sized;
    ONES = "aten.ones.default" "(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", sized;
    RAND = "aten.rand.default" "(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", sized, random;
    RANDN = "aten.randn.default" "(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", sized, random;
    RANDN_GENERATOR = "aten.randn.generator" "(SymInt[] size, *, Generator? generator, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", sized, random;
    FULL = "aten.full.default" "(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", full;
    SCALAR_TENSOR = "aten.scalar_tensor.default" "(Scalar s, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", scalar_tensor;
    FULL_LIKE = "aten.full_like.default" "(Tensor self, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like;
    EMPTY_LIKE = "aten.empty_like.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like;
    ZEROS_LIKE = "aten.zeros_like.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like;
    ONES_LIKE = "aten.ones_like.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like;
    ZERO = "aten.zero.default" "(Tensor self) -> Tensor", like;
    FILL_SCALAR = "aten.fill.Scalar" "(Tensor self, Scalar value) -> Tensor", like;
    FILL = "aten.fill.Tensor" "(Tensor self, Tensor value) -> Tensor", like;
    RAND_LIKE = "aten.rand_like.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like, random;
    RANDN_LIKE = "aten.randn_like.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor", like, random;
    NEW_FULL = "aten.new_full.default" "(Tensor self, SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", new_sized;
    NEW_EMPTY = "aten.new_empty.default" "(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", new_sized;
    NEW_ONES = "aten.new_ones.default" "(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", new_sized;
    NEW_ZEROS = "aten.new_zeros.default" "(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", new_sized;
    ARANGE = "aten.arange.default" "(Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", arange;
    ARANGE_START = "aten.arange.start" "(Scalar start, Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", arange;
    ARANGE_START_STEP = "aten.arange.start_step" "(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", arange;
    LINSPACE = "aten.linspace.default" "(Scalar start, Scalar end, int steps, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", linspace;
    TRIL_INDICES = "aten.tril_indices.default" "(int row, int col, int offset=0, *, ScalarType? dtype=long, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", |c| triangle(c, true);
    TRIU_INDICES = "aten.triu_indices.default" "(int row, int col, int offset=0, *, ScalarType? dtype=long, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor", |c| triangle(c, false);
}

/// Of size argument 0, float unless a dtype is given.
fn sized(c: &Call<'_>) -> Types {
    one(dtype_or(c, "dtype", DType::F32), c.syms(0)?.to_vec())
}

/// The natural element type of a Python number.
fn of_number(arg: &Arg) -> DType {
    match arg {
        Arg::Bool(_) => DType::Bool,
        Arg::Int(_) => DType::I64,
        _ => DType::F32,
    }
}

/// `full(size, value)`
fn full(c: &Call<'_>) -> Types {
    one(dtype_or(c, "dtype", of_number(c.arg(1))), c.syms(0)?.to_vec())
}

/// `scalar_tensor(value)` is float, whatever the value.
fn scalar_tensor(c: &Call<'_>) -> Types {
    one(dtype_or(c, "dtype", DType::F32), vec![])
}

/// Like argument 0.
fn like(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    one(dtype_or(c, "dtype", x.dtype), x.shape.clone())
}

/// Of size argument 1, typed like argument 0.
fn new_sized(c: &Call<'_>) -> Types {
    one(dtype_or(c, "dtype", c.tensor(0)?.dtype), c.syms(1)?.to_vec())
}

/// `arange([start,] end[, step])`: int64 when all numbers are integers.
fn arange(c: &Call<'_>) -> Types {
    let numbers: Vec<&Arg> = c.args.iter().take(c.op.schema().args.iter().take_while(|a| !a.kwarg_only).count()).collect();
    let all_int = numbers.iter().all(|a| matches!(a, Arg::Int(_)));
    let dtype = dtype_or(c, "dtype", if all_int { DType::I64 } else { DType::F32 });
    let zero = Arg::Int(0.into());
    let one_step = Arg::Int(1.into());
    let (start, end, step) = match numbers[..] {
        [end] => (&zero, end, &one_step),
        [start, end] => (start, end, &one_step),
        [start, end, step] => (start, end, step),
        _ => return c.error("start, end and step are the numbers of a range"),
    };
    if let (Arg::Int(a), Arg::Int(b), Arg::Int(s)) = (start, end, step) {
        let Some(s) = s.known().filter(|s| *s != 0) else { return c.error("the step must be a number other than 0") };
        let n = if s > 0 { (b.clone() - a).ceil_div(&s.into()) } else { (a.clone() - b).ceil_div(&s.saturating_neg().into()) };
        return one(dtype, vec![n.known().map_or(n, |n| n.max(0).into())]);
    }
    let number = |a: &Arg| super::views::float(a);
    let (Some(a), Some(b), Some(s)) = (number(start), number(end), number(step)) else {
        return c.error("a range of floats has no symbols");
    };
    if s == 0.0 || !(b - a).is_finite() {
        return c.error("the step must not be 0, the ends must be finite");
    }
    one(dtype, vec![SymInt::Known((((b - a) / s).ceil().max(0.0)) as i64)])
}

/// `linspace(start, end, steps)`
fn linspace(c: &Call<'_>) -> Types {
    one(dtype_or(c, "dtype", DType::F32), vec![c.sym(2)?])
}

/// `tril_indices(row, col, offset)` and `triu_indices`: a row number and a column number for each entry of the triangle.
fn triangle(c: &Call<'_>, lower: bool) -> Types {
    let (rows, cols, offset) = (c.int(0)?, c.int(1)?, c.int(2)?);
    if rows < 0 || cols < 0 {
        return c.error(format!("a matrix of {rows} rows and {cols} columns has no triangle"));
    }
    // Row `i` has `cols - offset - i` entries at or above the diagonal, at least none and at most all. The lower triangle
    // is what the upper one beyond its diagonal leaves.
    let width = cols - offset - i64::from(lower);
    let whole = (width - cols + 1).clamp(0, rows);
    let end = width.clamp(whole, rows);
    let above = whole * cols + (end - whole) * width - (end * (end - 1) - whole * (whole - 1)) / 2;
    one(dtype_or(c, "dtype", DType::I64), vec![2.into(), (if lower { rows * cols - above } else { above }).into()])
}
