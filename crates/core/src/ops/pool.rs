//! Pooling.

use super::rules::{Types, widened};
use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::TensorType;
use crate::symint::SymInt;

ops! {
    MAX_POOL1D = "aten.max_pool1d.default" "(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0], int[1] dilation=[1], bool ceil_mode=False) -> Tensor", |c| max(c, 1), shares_qparams;
    AVG_POOL1D = "aten.avg_pool1d.default" "(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0], bool ceil_mode=False, bool count_include_pad=True) -> Tensor", |c| avg(c, 1), shares_qparams;
    ADAPTIVE_AVG_POOL1D = "aten.adaptive_avg_pool1d.default" "(Tensor self, int[1] output_size) -> Tensor", |c| adaptive(c, 1), shares_qparams;
    ADAPTIVE_MAX_POOL1D = "aten.adaptive_max_pool1d.default" "(Tensor self, int[1] output_size) -> (Tensor, Tensor)", |c| adaptive_indices(c, 1), shares_qparams;
    MAX_POOL2D = "aten.max_pool2d.default" "(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) -> Tensor", |c| max(c, 2), shares_qparams;
    MAX_POOL2D_WITH_INDICES = "aten.max_pool2d_with_indices.default" "(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)", |c| max_indices(c, 2), shares_qparams;
    AVG_POOL2D = "aten.avg_pool2d.default" "(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor", |c| avg(c, 2), shares_qparams;
    ADAPTIVE_AVG_POOL2D = "aten.adaptive_avg_pool2d.default" "(Tensor self, SymInt[2] output_size) -> Tensor", |c| adaptive(c, 2), shares_qparams;
    ADAPTIVE_MAX_POOL2D = "aten.adaptive_max_pool2d.default" "(Tensor self, int[2] output_size) -> (Tensor, Tensor)", |c| adaptive_indices(c, 2), shares_qparams;
    MAX_POOL3D = "aten.max_pool3d.default" "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1, bool ceil_mode=False) -> Tensor", |c| max(c, 3), shares_qparams;
    MAX_POOL3D_WITH_INDICES = "aten.max_pool3d_with_indices.default" "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)", |c| max_indices(c, 3), shares_qparams;
    AVG_POOL3D = "aten.avg_pool3d.default" "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor", |c| avg(c, 3), shares_qparams;
    ADAPTIVE_AVG_POOL3D = "aten.adaptive_avg_pool3d.default" "(Tensor self, SymInt[3] output_size) -> Tensor", |c| adaptive(c, 3), shares_qparams;
    ADAPTIVE_MAX_POOL3D = "aten.adaptive_max_pool3d.default" "(Tensor self, int[3] output_size) -> (Tensor, Tensor)", |c| adaptive_indices(c, 3), shares_qparams;
    ADAPTIVE_AVG_POOL2D_CORE = "aten._adaptive_avg_pool2d.default" "(Tensor self, SymInt[2] output_size) -> Tensor", |c| adaptive(c, 2), shares_qparams;
    ADAPTIVE_AVG_POOL3D_CORE = "aten._adaptive_avg_pool3d.default" "(Tensor self, SymInt[3] output_size) -> Tensor", |c| adaptive(c, 3), shares_qparams;
}

/// Output size of one pooled dimension. With `ceil`, a last window may start in the input or its left padding, not in
/// the right padding (`pooling_output_shape` of ATen).
fn pooled(size: &SymInt, kernel: i64, pad: i64, stride: i64, dilation: i64, ceil: bool) -> Result<SymInt, InferError> {
    if kernel < 1 || stride < 1 || dilation < 1 || pad < 0 || pad > kernel / 2 {
        return Err(InferError::new(format!(
            "kernel {kernel}, stride {stride}, dilation {dilation}, padding {pad}: kernel, stride and dilation must be \
             positive, padding at most half the kernel"
        )));
    }
    let span = dilation * (kernel - 1) + 1;
    let free = size.clone() + 2 * pad - span;
    let steps = if ceil { free.ceil_div(&stride.into()) } else { free.floor_div(&stride.into()) };
    let mut out = steps + 1;
    // Only where a window starts that late at all.
    if ceil && stride + pad > span {
        out = out.sym_min(&((size.clone() + pad - 1).floor_div(&stride.into()) + 1));
    }
    if out.known().is_some_and(|o| o < 1) {
        return Err(InferError::new(format!("a window of {span} does not fit a size of {size} padded by {pad}")));
    }
    Ok(out)
}

fn spatial_start<'a>(c: &Call<'a>, n: usize) -> Result<(&'a TensorType, usize), InferError> {
    let x = c.tensor(0)?;
    if x.rank() != n + 1 && x.rank() != n + 2 {
        return c.error(format!("input is {x}; {n} spatial dimensions are pooled"));
    }
    Ok((x, x.rank() - n))
}

fn window(c: &Call<'_>, n: usize, dilation: &[i64], ceil: bool) -> Result<TensorType, InferError> {
    let (x, first) = spatial_start(c, n)?;
    let kernel = widened(c, 1, n, &[])?;
    if kernel.len() != n {
        return c.error("a kernel size is missing");
    }
    // No stride means the kernel's size.
    let stride = widened(c, 2, n, &kernel)?;
    let padding = widened(c, 3, n, &vec![0; n])?;
    let mut shape = x.shape[..first].to_vec();
    for i in 0..n {
        shape.push(pooled(&x.shape[first + i], kernel[i], padding[i], stride[i], dilation[i], ceil)?);
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

fn avg(c: &Call<'_>, n: usize) -> Types {
    Ok(vec![window(c, n, &vec![1; n], c.bool(4)?)?])
}

fn max(c: &Call<'_>, n: usize) -> Types {
    Ok(vec![window(c, n, &widened(c, 4, n, &vec![1; n])?, c.bool(5)?)?])
}

/// Values and their positions.
fn with_indices(values: TensorType) -> Types {
    let indices = TensorType { dtype: DType::I64, shape: values.shape.clone() };
    Ok(vec![values, indices])
}

fn max_indices(c: &Call<'_>, n: usize) -> Types {
    with_indices(max(c, n)?.remove(0))
}

fn adaptive(c: &Call<'_>, n: usize) -> Types {
    let (x, first) = spatial_start(c, n)?;
    let size = c.syms(1)?;
    if size.len() != n {
        return c.error(format!("output size {size:?} should have {n} entries"));
    }
    let shape = x.shape[..first].iter().chain(size).cloned().collect();
    Ok(vec![TensorType { dtype: x.dtype, shape }])
}

fn adaptive_indices(c: &Call<'_>, n: usize) -> Types {
    with_indices(adaptive(c, n)?.remove(0))
}
