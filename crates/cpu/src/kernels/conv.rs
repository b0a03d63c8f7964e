//! Convolutions, in C order: patches as a matrix, then a product; depthwise ones directly.

use super::Table;
use crate::dense::gemm::{Mat, gemm};
use crate::dense::geometry::Geometry;
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef};
use crate::simd::Isa;

type Result = std::result::Result<(), KernelError>;

fn add_bias(out: &mut [f32], bias: Option<&[f32]>, channels: usize, positions: usize) {
    let Some(bias) = bias else { return };
    for (i, plane) in out.chunks_exact_mut(positions.max(1)).enumerate() {
        let b = bias[i % channels];
        plane.iter_mut().for_each(|o| *o += b);
    }
}

/// A convolution of dense `f32`.
pub(crate) fn forward(
    isa: Isa,
    g: &Geometry,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result {
    let (plane, positions): (usize, usize) = (g.input.iter().product(), g.output.iter().product());
    let (ic, oc) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let taps = g.taps();
    if out.is_empty() {
        return Ok(());
    }
    let mut cols = vec![0f32; if g.is_pointwise() || ic == 1 && oc == 1 { 0 } else { ic * taps * positions }];
    for b in 0..g.batch {
        for group in 0..g.groups {
            let image = &x[(b * g.in_channels + group * ic) * plane..][..ic * plane];
            let weight = &w[group * oc * ic * taps..][..oc * ic * taps];
            let result = &mut out[(b * g.out_channels + group * oc) * positions..][..oc * positions];
            if ic == 1 && oc == 1 {
                result.fill(0.0);
                g.for_each_row(|t, row, inside, from, step| {
                    let k = weight[t];
                    let to = &mut result[row + inside.start..row + inside.end];
                    if step == 1 {
                        to.iter_mut().zip(&image[from..]).for_each(|(o, x)| *o += k * x);
                    } else {
                        to.iter_mut().enumerate().for_each(|(i, o)| *o += k * image[from + i * step]);
                    }
                });
                continue;
            }
            let patches = if g.is_pointwise() {
                image
            } else {
                g.columns(image, ic, &mut cols);
                &cols
            };
            gemm(isa, Mat::dense(weight, oc, ic * taps), Mat::dense(patches, ic * taps, positions), result)?;
        }
    }
    add_bias(out, bias, g.out_channels, positions);
    Ok(())
}

/// A transposed convolution: the adjoint of [`forward`] with input and output exchanged. `g` describes that forward
/// convolution, from the result (its input) to `x` (its output).
fn backward(isa: Isa, g: &Geometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> Result {
    let (plane, positions): (usize, usize) = (g.input.iter().product(), g.output.iter().product());
    let (big, small) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let taps = g.taps();
    out.fill(0.0);
    let mut cols = vec![0f32; big * taps * positions];
    for b in 0..g.batch {
        for group in 0..g.groups {
            let source = &x[(b * g.out_channels + group * small) * positions..][..small * positions];
            let weight = &w[group * small * big * taps..][..small * big * taps];
            let image = &mut out[(b * g.in_channels + group * big) * plane..][..big * plane];
            let weight = Mat::dense(weight, small, big * taps).t();
            gemm(isa, weight, Mat::dense(source, small, positions), &mut cols)?;
            g.scatter(&cols, big, image);
        }
    }
    add_bias(out, bias, g.in_channels, plane);
    Ok(())
}

fn run(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    f: impl FnOnce(&[f32], &[f32], Option<&[f32]>, &mut [f32]) -> Result,
) -> Result {
    let (x, w) = (c.tensor(0)?.as_vec::<f32>(), c.tensor(1)?.as_vec::<f32>());
    let bias = c.opt_tensor(2).map(|b| b.as_vec::<f32>());
    if let Some(o) = out.slice::<f32>() {
        return f(&x, &w, bias.as_deref(), o);
    }
    let mut tmp = vec![0f32; out.numel()];
    f(&x, &w, bias.as_deref(), &mut tmp)?;
    out.store(tmp);
    Ok(())
}

/// The geometry of a forward convolution; `None` for a transposed one. Looks at shapes only.
///
/// `conv(input, weight, bias, stride, padding, dilation, groups)`, where padding may be `"same"` or `"valid"`, or
/// `convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`.
pub(crate) fn geometry(
    c: &KernelCall<'_>,
    out: &[usize],
) -> std::result::Result<Option<Geometry>, KernelError> {
    let core = c.op.short_name() == "convolution";
    if core && c.bool(6)? {
        return Ok(None);
    }
    let w = c.tensor(1)?.shape;
    let n = w.len() - 2;
    let (stride, dilation) = (c.widened(3, n, &vec![1; n])?, c.widened(5, n, &vec![1; n])?);
    let padding = match c.str(4) {
        // "same" puts the odd element behind.
        Some("same") => (0..n).map(|d| dilation[d] * (w[2 + d] as i64 - 1) / 2).collect(),
        Some(_) => vec![0; n],
        None => c.widened(4, n, &vec![0; n])?,
    };
    let groups = c.int(if core { 8 } else { 6 })?;
    Ok(Some(Geometry::new(c.tensor(0)?.shape, w, out, &stride, &padding, &dilation, groups)))
}

fn conv(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let Some(g) = geometry(c, outs[0].shape)? else {
        // A transposed `convolution`.
        let n = c.tensor(1)?.shape.len() - 2;
        let (stride, padding, dilation) =
            (c.widened(3, n, &vec![1; n])?, c.widened(4, n, &vec![0; n])?, c.widened(5, n, &vec![1; n])?);
        return transposed(c, &mut outs[0], &stride, &padding, &dilation, c.int(8)?);
    };
    if !outs[0].dtype.is_float() {
        return integers(c, &g, &mut outs[0]);
    }
    run(c, &mut outs[0], |x, w, b, o| forward(c.isa, &g, x, w, b, o))
}

/// A convolution of integers, which floats do not hold.
fn integers(c: &KernelCall<'_>, g: &Geometry, out: &mut TensorMut<'_>) -> Result {
    let (x, w) = (c.tensor(0)?.as_vec::<i64>(), c.tensor(1)?.as_vec::<i64>());
    let bias = c.opt_tensor(2).map(|b| b.as_vec::<i64>());
    let (ic, oc) = (g.in_channels / g.groups.max(1), g.out_channels / g.groups.max(1));
    let (plane, positions): (usize, usize) = (g.input.iter().product(), g.output.iter().product());
    let taps = g.taps();
    let mut y = vec![0i64; out.numel()];
    for (k, y) in y.chunks_exact_mut(positions.max(1)).enumerate() {
        let (image, o) = (k / g.out_channels, k % g.out_channels);
        y.fill(bias.as_ref().map_or(0, |b| b[o]));
        for i in 0..ic {
            let from = &x[(image * g.in_channels + o / oc * ic + i) * plane..];
            let weight = &w[(o * ic + i) * taps..];
            g.for_each_row(|t, row, inside, first, step| {
                let to = y[row + inside.start..row + inside.end].iter_mut().enumerate();
                to.for_each(|(j, y)| *y = y.wrapping_add(weight[t].wrapping_mul(from[first + j * step])));
            });
        }
    }
    out.store(y);
    Ok(())
}

fn transposed(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    stride: &[i64],
    padding: &[i64],
    dilation: &[i64],
    groups: i64,
) -> Result {
    let (x, w) = (c.tensor(0)?.shape, c.tensor(1)?.shape);
    let g = Geometry::new(out.shape, w, x, stride, padding, dilation, groups);
    run(c, out, |x, w, b, o| backward(c.isa, &g, x, w, b, o))
}

/// `conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)`
fn conv_transpose(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let n = c.tensor(1)?.shape.len() - 2;
    let (ones, zeros) = (vec![1; n], vec![0; n]);
    let (stride, padding, dilation) =
        (c.widened(3, n, &ones)?, c.widened(4, n, &zeros)?, c.widened(7, n, &ones)?);
    transposed(c, &mut outs[0], &stride, &padding, &dilation, c.int(6)?)
}

/// The geometry of `im2col`/`col2im`, whose windows are arguments `first..first + 4` (kernel, dilation, padding, stride).
fn unfolding(
    c: &KernelCall<'_>,
    first: usize,
    image: [usize; 2],
) -> std::result::Result<Geometry, KernelError> {
    let v = |i: usize| c.widened(first + i, 2, &[1, 1]);
    let (kernel, dilation, padding, stride) = (v(0)?, v(1)?, v(2)?, v(3)?);
    let out: Vec<usize> = (0..2)
        .map(|d| {
            ((image[d] as i64 + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1) as usize
        })
        .collect();
    let w = [1, 1, kernel[0] as usize, kernel[1] as usize];
    Ok(Geometry::new(
        &[1, 1, image[0], image[1]],
        &w,
        &[1, 1, out[0], out[1]],
        &stride,
        &padding,
        &dilation,
        1,
    ))
}

fn planes(x: TensorRef<'_>, rank: usize) -> (usize, usize) {
    let batch = if x.shape.len() == rank { x.shape[0] } else { 1 };
    (batch, x.shape[x.shape.len() - rank + 1])
}

fn im2col(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let [.., h, w] = x.shape[..] else { return Err(KernelError::new("height and width are needed")) };
    let g = unfolding(c, 1, [h, w])?;
    let (batch, channels) = planes(x, 4);
    let v = x.as_vec::<f32>();
    let size = channels * g.taps() * g.output.iter().product::<usize>();
    let mut cols = vec![0f32; batch * size];
    for (image, cols) in v.chunks_exact((channels * h * w).max(1)).zip(cols.chunks_exact_mut(size.max(1))) {
        g.columns(image, channels, cols);
    }
    outs[0].store(cols);
    Ok(())
}

fn col2im(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let size = c.ints(1)?;
    let (h, w) = (size[0] as usize, size[1] as usize);
    let g = unfolding(c, 2, [h, w])?;
    let (batch, rows) = planes(x, 3);
    let channels = rows / g.taps();
    let v = x.as_vec::<f32>();
    let mut images = vec![0f32; batch * channels * h * w];
    let block = rows * g.output.iter().product::<usize>();
    for (cols, image) in v.chunks_exact(block.max(1)).zip(images.chunks_exact_mut((channels * h * w).max(1)))
    {
        g.scatter(cols, channels, image);
    }
    outs[0].store(images);
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.conv1d.default", conv),
    ("aten.conv1d.padding", conv),
    ("aten.conv2d.default", conv),
    ("aten.conv2d.padding", conv),
    ("aten.conv3d.default", conv),
    ("aten.conv3d.padding", conv),
    ("aten.conv_transpose1d.default", conv_transpose),
    ("aten.conv_transpose2d.input", conv_transpose),
    ("aten.conv_transpose3d.input", conv_transpose),
    ("aten.convolution.default", conv),
    ("aten.im2col.default", im2col),
    ("aten.col2im.default", col2im),
];
