//! Convolutions.

use super::rules::{Types, differ, one, widened};
use super::{Call, InferError, OpDef};
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;

ops! {
    CONV1D = "aten.conv1d.default" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[1] stride=[1], SymInt[1] padding=[0], SymInt[1] dilation=[1], SymInt groups=1) -> Tensor", conv;
    CONV1D_PADDING = "aten.conv1d.padding" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[1] stride=[1], str padding=\"valid\", SymInt[1] dilation=[1], SymInt groups=1) -> Tensor", conv;
    CONV2D = "aten.conv2d.default" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1, 1], SymInt[2] padding=[0, 0], SymInt[2] dilation=[1, 1], SymInt groups=1) -> Tensor", conv;
    CONV2D_PADDING = "aten.conv2d.padding" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1, 1], str padding=\"valid\", SymInt[2] dilation=[1, 1], SymInt groups=1) -> Tensor", conv;
    CONV3D = "aten.conv3d.default" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[3] stride=[1, 1, 1], SymInt[3] padding=[0, 0, 0], SymInt[3] dilation=[1, 1, 1], SymInt groups=1) -> Tensor", conv;
    CONV3D_PADDING = "aten.conv3d.padding" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[3] stride=[1, 1, 1], str padding=\"valid\", SymInt[3] dilation=[1, 1, 1], SymInt groups=1) -> Tensor", conv;
    CONV_TRANSPOSE1D = "aten.conv_transpose1d.default" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[1] stride=[1], SymInt[1] padding=[0], SymInt[1] output_padding=[0], SymInt groups=1, SymInt[1] dilation=[1]) -> Tensor", conv_transpose;
    CONV_TRANSPOSE2D = "aten.conv_transpose2d.input" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1, 1], SymInt[2] padding=[0, 0], SymInt[2] output_padding=[0, 0], SymInt groups=1, SymInt[2] dilation=[1, 1]) -> Tensor", conv_transpose;
    CONV_TRANSPOSE3D = "aten.conv_transpose3d.input" "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[3] stride=[1, 1, 1], SymInt[3] padding=[0, 0, 0], SymInt[3] output_padding=[0, 0, 0], SymInt groups=1, SymInt[3] dilation=[1, 1, 1]) -> Tensor", conv_transpose;
    CONVOLUTION = "aten.convolution.default" "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor", convolution;
    IM2COL = "aten.im2col.default" "(Tensor self, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor", im2col;
    COL2IM = "aten.col2im.default" "(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor", col2im;
}

/// Convolutions over one to three dimensions, with numbers or words for the padding; transposed ones are not among them.
pub static CONVOLUTIONS: &[&OpDef] =
    &[&CONV1D, &CONV1D_PADDING, &CONV2D, &CONV2D_PADDING, &CONV3D, &CONV3D_PADDING];

/// The numbers of a convolution, one entry a spatial dimension.
struct Window {
    stride: Vec<i64>,
    dilation: Vec<i64>,
    groups: i64,
}

/// Batch (if any) and channels of the input against the weight, spatial rank `n`.
fn checked<'a>(
    c: &Call<'a>,
    n: usize,
    groups: i64,
    transposed: bool,
) -> Result<(&'a TensorType, &'a TensorType), InferError> {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    if w.rank() != n + 2 || !(x.rank() == n + 1 || x.rank() == n + 2) {
        return c.error(format!("input is {x}, weight is {w}; {n} spatial dimensions are convolved"));
    }
    let channels = &x.shape[x.rank() - n - 1];
    let takes = if transposed { w.shape[0].clone() } else { w.shape[1].clone() * groups };
    if differ(channels, &takes) {
        return c.error(format!("input {x} has {channels} channels, weight {w} takes {takes}"));
    }
    if let Some(b) = c.opt_tensor(2) {
        let out = if transposed { w.shape[1].clone() * groups } else { w.shape[0].clone() };
        if b.shape != [out.clone()] {
            return c.error(format!("bias is {b}, there are {out} output channels"));
        }
    }
    Ok((x, w))
}

/// `floor((size + 2·padding − dilation·(kernel − 1) − 1) / stride) + 1`
fn forward(c: &Call<'_>, n: usize, w: &Window, padding: impl Fn(usize) -> Padding) -> Types {
    let (x, weight) = checked(c, n, w.groups, false)?;
    let first = x.rank() - n;
    let mut shape = x.shape[..first].to_vec();
    shape[first - 1] = weight.shape[0].clone();
    for i in 0..n {
        let size = &x.shape[first + i];
        let span = (weight.shape[2 + i].clone() - 1) * w.dilation[i] + 1;
        let stride = SymInt::from(w.stride[i]);
        let out = match padding(i) {
            Padding::Both(p) => (size.clone() + 2 * p - span).floor_div(&stride) + 1,
            // Output positions as if stride were 1, then every stride-th.
            Padding::Same => (size.clone() - 1).floor_div(&stride) + 1,
        };
        if out.known().is_some_and(|n| n < 0 || (n == 0 && size.known() != Some(0))) {
            return c.error(format!("the kernel of weight {weight} is larger than the padded input {x}"));
        }
        shape.push(out);
    }
    one(x.dtype, shape)
}

enum Padding {
    Both(i64),
    Same,
}

/// `(size − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1`
fn backward(c: &Call<'_>, n: usize, w: &Window, padding: &[i64], extra: &[i64]) -> Types {
    let (x, weight) = checked(c, n, w.groups, true)?;
    let first = x.rank() - n;
    let mut shape = x.shape[..first].to_vec();
    shape[first - 1] = weight.shape[1].clone() * w.groups;
    for i in 0..n {
        let span = (weight.shape[2 + i].clone() - 1) * w.dilation[i] + 1;
        shape.push((x.shape[first + i].clone() - 1) * w.stride[i] - 2 * padding[i] + span + extra[i]);
    }
    one(x.dtype, shape)
}

fn spatial(c: &Call<'_>) -> Result<usize, InferError> {
    Ok(c.tensor(1)?.rank().saturating_sub(2))
}

fn positive(c: &Call<'_>, w: Window) -> Result<Window, InferError> {
    if w.groups < 1 || w.stride.iter().chain(&w.dilation).any(|&v| v < 1) {
        return c.error("stride, dilation and groups must be positive");
    }
    Ok(w)
}

/// `conv1d/2d/3d(input, weight, bias, stride, padding, dilation, groups)`
fn conv(c: &Call<'_>) -> Types {
    let n = spatial(c)?;
    let ones = vec![1; n];
    let w = Window { stride: widened(c, 3, n, &ones)?, dilation: widened(c, 5, n, &ones)?, groups: c.int(6)? };
    let w = positive(c, w)?;
    if let Arg::Str(mode) = c.arg(4) {
        let same = match &**mode {
            "same" => true,
            "valid" => false,
            other => return c.error(format!("padding {other:?} is neither \"same\" nor \"valid\"")),
        };
        return forward(c, n, &w, |_| if same { Padding::Same } else { Padding::Both(0) });
    }
    let padding = widened(c, 4, n, &vec![0; n])?;
    forward(c, n, &w, |i| Padding::Both(padding[i]))
}

/// `conv_transpose1d/2d/3d(input, weight, bias, stride, padding, output_padding, groups, dilation)`
fn conv_transpose(c: &Call<'_>) -> Types {
    let n = spatial(c)?;
    let (ones, zeros) = (vec![1; n], vec![0; n]);
    let w = Window { stride: widened(c, 3, n, &ones)?, dilation: widened(c, 7, n, &ones)?, groups: c.int(6)? };
    backward(c, n, &positive(c, w)?, &widened(c, 4, n, &zeros)?, &widened(c, 5, n, &zeros)?)
}

/// `convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`
fn convolution(c: &Call<'_>) -> Types {
    let n = spatial(c)?;
    let (ones, zeros) = (vec![1; n], vec![0; n]);
    let w = Window { stride: widened(c, 3, n, &ones)?, dilation: widened(c, 5, n, &ones)?, groups: c.int(8)? };
    let w = positive(c, w)?;
    let padding = widened(c, 4, n, &zeros)?;
    if c.bool(6)? {
        backward(c, n, &w, &padding, &widened(c, 7, n, &zeros)?)
    } else {
        forward(c, n, &w, |i| Padding::Both(padding[i]))
    }
}

/// Columns of patches: `[N, C·kernel, positions]`.
fn im2col(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let [kernel, dilation, padding, stride] = [1, 2, 3, 4].map(|i| widened(c, i, 2, &[1, 1]));
    let (kernel, dilation, padding, stride) = (kernel?, dilation?, padding?, stride?);
    let first = match x.rank() {
        3 | 4 => x.rank() - 3,
        _ => return c.error(format!("input is {x}; three or four dimensions are unfolded")),
    };
    let positions: SymInt = (0..2)
        .map(|i| {
            let span = dilation[i] * (kernel[i] - 1) + 1;
            (x.shape[first + 1 + i].clone() + 2 * padding[i] - span).floor_div(&stride[i].into()) + 1
        })
        .product();
    let mut shape = x.shape[..first].to_vec();
    shape.extend([x.shape[first].clone() * (kernel[0] * kernel[1]), positions]);
    one(x.dtype, shape)
}

/// The inverse of [`im2col`], overlaps summed.
fn col2im(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let (size, kernel) = (c.syms(1)?, widened(c, 2, 2, &[1, 1])?);
    let (2 | 3, [h, w]) = (x.rank(), size) else {
        return c.error(format!("input is {x}; two or three dimensions are folded to a size of two"));
    };
    let first = x.rank() - 2;
    let mut shape = x.shape[..first].to_vec();
    shape.extend([x.shape[first].floor_div(&(kernel[0] * kernel[1]).into()), h.clone(), w.clone()]);
    one(x.dtype, shape)
}
