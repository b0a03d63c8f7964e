//! Reductions, sorting and running sums.

use super::rules::{Types, broadcast, dtype_or, floated, one, reduce_shape, reduced};
use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::{Arg, TensorType};

ops! {
    SUM = "aten.sum.default" "(Tensor self, *, ScalarType? dtype=None) -> Tensor", sum;
    SUM_DIM = "aten.sum.dim_IntList" "(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", sum;
    PROD = "aten.prod.default" "(Tensor self, *, ScalarType? dtype=None) -> Tensor", sum;
    PROD_DIM_INT = "aten.prod.dim_int" "(Tensor self, int dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", sum;
    MEAN = "aten.mean.default" "(Tensor self, *, ScalarType? dtype=None) -> Tensor", mean, shares_qparams;
    MEAN_DIM = "aten.mean.dim" "(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", mean, shares_qparams;
    AMAX = "aten.amax.default" "(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor", extreme, shares_qparams;
    AMIN = "aten.amin.default" "(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor", extreme, shares_qparams;
    MAX = "aten.max.default" "(Tensor self) -> Tensor", extreme, shares_qparams;
    MIN = "aten.min.default" "(Tensor self) -> Tensor", extreme, shares_qparams;
    MEDIAN = "aten.median.default" "(Tensor self) -> Tensor", extreme, shares_qparams;
    ANY = "aten.any.default" "(Tensor self) -> Tensor", any_all;
    ANY_DIM = "aten.any.dim" "(Tensor self, int dim, bool keepdim=False) -> Tensor", any_all;
    ALL = "aten.all.default" "(Tensor self) -> Tensor", any_all;
    ALL_DIM = "aten.all.dim" "(Tensor self, int dim, bool keepdim=False) -> Tensor", any_all;
    ARGMAX = "aten.argmax.default" "(Tensor self, int? dim=None, bool keepdim=False) -> Tensor", arg_extreme;
    ARGMIN = "aten.argmin.default" "(Tensor self, int? dim=None, bool keepdim=False) -> Tensor", arg_extreme;
    MAX_DIM = "aten.max.dim" "(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)", with_indices, shares_qparams;
    MIN_DIM = "aten.min.dim" "(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)", with_indices, shares_qparams;
    MEDIAN_DIM = "aten.median.dim" "(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)", with_indices, shares_qparams;
    VAR_CORRECTION = "aten.var.correction" "(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor", deviation;
    VAR_DIM = "aten.var.dim" "(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> Tensor", deviation;
    STD_CORRECTION = "aten.std.correction" "(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor", deviation;
    VAR_MEAN_CORRECTION = "aten.var_mean.correction" "(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> (Tensor, Tensor)", deviation_mean;
    NORM_SCALAR_OPT_DIM = "aten.norm.ScalarOpt_dim" "(Tensor self, Scalar? p, int[1] dim, bool keepdim=False) -> Tensor", norm;
    LINALG_VECTOR_NORM = "aten.linalg_vector_norm.default" "(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", norm;
    CUMSUM = "aten.cumsum.default" "(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor", cumulative;
    TOPK = "aten.topk.default" "(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor, Tensor)", topk, shares_qparams;
    SORT = "aten.sort.default" "(Tensor self, int dim=-1, bool descending=False) -> (Tensor, Tensor)", sort, shares_qparams;
    DIFF = "aten.diff.default" "(Tensor self, int n=1, int dim=-1, Tensor? prepend=None, Tensor? append=None) -> Tensor", diff;
    COSINE_SIMILARITY = "aten.cosine_similarity.default" "(Tensor x1, Tensor x2, int dim=1, float eps=1e-08) -> Tensor", cosine;
    CROSS = "aten.cross.default" "(Tensor self, Tensor other, int? dim=None) -> Tensor", cross;
}

/// Over the dimensions of argument 1 (none: all), keeping them if argument 2 says so.
fn over(c: &Call<'_>, dtype: DType) -> Result<TensorType, InferError> {
    let x = c.tensor(0)?;
    let flags = match c.op.schema().args.get(1) {
        Some(a) if a.name.starts_with("dim") => reduced(c, 1, x.rank())?,
        _ => vec![true; x.rank()],
    };
    let keepdim = match c.op.schema().index_of("keepdim") {
        Some(i) => c.bool(i)?,
        None => false,
    };
    Ok(TensorType { dtype, shape: reduce_shape(&x.shape, &flags, keepdim) })
}

/// Sums of integers are int64.
fn sum(c: &Call<'_>) -> Types {
    let d = c.tensor(0)?.dtype;
    let natural = if d.is_float() { d } else { DType::I64 };
    Ok(vec![over(c, dtype_or(c, "dtype", natural))?])
}

fn mean(c: &Call<'_>) -> Types {
    let d = dtype_or(c, "dtype", c.tensor(0)?.dtype);
    if !d.is_float() {
        return c.error(format!("a mean of {d} is not defined; give a floating-point dtype"));
    }
    Ok(vec![over(c, d)?])
}

fn extreme(c: &Call<'_>) -> Types {
    Ok(vec![over(c, c.tensor(0)?.dtype)?])
}

fn any_all(c: &Call<'_>) -> Types {
    // PyTorch keeps uint8 here.
    let d = c.tensor(0)?.dtype;
    Ok(vec![over(c, if d == DType::U8 { DType::U8 } else { DType::Bool })?])
}

fn arg_extreme(c: &Call<'_>) -> Types {
    Ok(vec![over(c, DType::I64)?])
}

/// `(values, indices)` along dimension 1.
fn with_indices(c: &Call<'_>) -> Types {
    let values = over(c, c.tensor(0)?.dtype)?;
    let indices = TensorType { dtype: DType::I64, shape: values.shape.clone() };
    Ok(vec![values, indices])
}

fn deviation(c: &Call<'_>) -> Types {
    Ok(vec![over(c, c.tensor(0)?.dtype)?])
}

fn deviation_mean(c: &Call<'_>) -> Types {
    let t = over(c, c.tensor(0)?.dtype)?;
    Ok(vec![t.clone(), t])
}

/// `norm(self, p, dim, keepdim)` and `linalg_vector_norm(self, ord, dim, keepdim)`
fn norm(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let shape = reduce_shape(&x.shape, &reduced(c, 2, x.rank())?, c.bool(3)?);
    one(dtype_or(c, "dtype", floated(x.dtype)), shape)
}

fn cumulative(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    c.dim(1, x.rank())?;
    let natural = if x.dtype.is_float() { x.dtype } else { DType::I64 };
    one(dtype_or(c, "dtype", natural), x.shape.clone())
}

/// `topk(self, k, dim)`
fn topk(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(2, x.rank())?;
    let mut shape = x.shape.clone();
    if let Some(size) = shape.get_mut(d) {
        *size = c.sym(1)?;
    }
    Ok(vec![TensorType { dtype: x.dtype, shape: shape.clone() }, TensorType { dtype: DType::I64, shape }])
}

fn sort(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    c.dim(1, x.rank())?;
    Ok(vec![x.clone(), TensorType { dtype: DType::I64, shape: x.shape.clone() }])
}

/// `diff(self, n, dim, prepend, append)`
fn diff(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(2, x.rank())?;
    let mut shape = x.shape.clone();
    let Some(size) = shape.get_mut(d) else { return c.error("a scalar has no differences") };
    for extra in [c.opt_tensor(3), c.opt_tensor(4)].into_iter().flatten() {
        *size = size.clone() + extra.shape.get(d).cloned().unwrap_or(1.into());
    }
    *size = (size.clone() - c.int(1)?).sym_max(&0.into());
    one(x.dtype, shape)
}

/// `cosine_similarity(x1, x2, dim)`: broadcast, then reduced over `dim`.
fn cosine(c: &Call<'_>) -> Types {
    let (a, b) = (c.tensor(0)?, c.tensor(1)?);
    let mut shape = broadcast(&a.shape, &b.shape)?;
    let d = c.dim(2, shape.len())?;
    if d < shape.len() {
        shape.remove(d);
    }
    one(floated(a.dtype.promote(b.dtype)), shape)
}

fn cross(c: &Call<'_>) -> Types {
    let (a, b) = (c.tensor(0)?, c.tensor(1)?);
    if !matches!(c.arg(2), Arg::None) {
        c.dim(2, a.rank())?;
    }
    one(a.dtype.promote(b.dtype), broadcast(&a.shape, &b.shape)?)
}
