//! Convolutions: their core form, and those of three dimensions by those of two.

use super::{Build, PassFailure, Table, Values, one, widened};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;
use crate::tensor::Tensor;

/// `conv1d/2d/3d` to `convolution`; `"same"` becomes padding, with an explicit pad when it is odd.
fn conv(b: &mut Build<'_>, n: &Node) -> Values {
    let (mut x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let spatial = spatial(b, w)?;
    let (stride, dilation) = (list(n, 3, spatial)?, list(n, 5, spatial)?);
    let padding = match n.arg(4) {
        Arg::Str(s) if &**s == "same" => {
            let total: Vec<i64> = (0..spatial)
                .map(|d| Ok(dilation[d] * (known(&b.ty(w).shape[2 + d])? - 1)))
                .collect::<Result<_, PassFailure>>()?;
            if total.iter().any(|t| t % 2 != 0) {
                let pads: Vec<i64> = total.iter().rev().flat_map(|t| [0, t % 2]).collect();
                x = b.op(&ops::CONSTANT_PAD_ND, [x.into(), Arg::ints(pads), Arg::Float(0.0)])?;
            }
            total.iter().map(|t| t / 2).collect()
        }
        Arg::Str(_) => vec![0; spatial],
        _ => list(n, 4, spatial)?,
    };
    let args = [
        x.into(),
        w.into(),
        n.arg(2).clone(),
        Arg::ints(stride),
        Arg::ints(padding),
        Arg::ints(dilation),
        false.into(),
        Arg::ints(vec![0i64; spatial]),
        n.arg(6).clone(),
    ];
    batched(b, x, w, args)
}

/// How many spatial dimensions a kernel has.
fn spatial(b: &Build<'_>, w: ValueId) -> Result<usize, PassFailure> {
    let rank = b.ty(w).rank();
    rank.checked_sub(2).ok_or_else(|| PassFailure(format!("the kernel has {rank} dimensions")))
}

fn list(n: &Node, i: usize, spatial: usize) -> Result<Vec<i64>, PassFailure> {
    widened(n, i, spatial, &[])
}

fn known(size: &SymInt) -> Result<i64, PassFailure> {
    size.known().ok_or_else(|| PassFailure("a kernel size depends on a symbol".into()))
}

/// `convolution` needs a batch; one is added where the input has none.
fn batched(b: &mut Build<'_>, x: ValueId, w: ValueId, mut args: [Arg; 9]) -> Values {
    if b.ty(x).rank() == b.ty(w).rank() {
        return one(b.op(&ops::CONVOLUTION, args)?);
    }
    args[0] = b.op(&ops::UNSQUEEZE, [x.into(), 0.into()])?.into();
    let y = b.op(&ops::CONVOLUTION, args)?;
    one(b.op(&ops::SQUEEZE_DIM, [y.into(), 0.into()])?)
}

/// `conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)`
fn conv_transpose(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let spatial = spatial(b, w)?;
    let list = |i: usize| list(n, i, spatial).map(Arg::ints);
    let args = [
        x.into(),
        w.into(),
        n.arg(2).clone(),
        list(3)?,
        list(4)?,
        list(7)?,
        true.into(),
        list(5)?,
        n.arg(6).clone(),
    ];
    batched(b, x, w, args)
}

/// A three-dimensional `convolution` out of two-dimensional ones, one for each slice of the kernel's depth.
fn convolution(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    if spatial(b, w)? != 3 || b.ty(x).rank() != 5 {
        return Ok(None);
    }
    let transposed = ops::views::bool(n.arg(6)) == Some(true);
    if transposed { transposed3d(b, n, x, w) } else { conv3d(b, n, x, w) }
}

/// What a three-dimensional convolution does along its depth.
struct Depth {
    kernel: i64,
    stride: i64,
    padding: i64,
    dilation: i64,
    output_padding: i64,
}

impl Depth {
    fn of(b: &Build<'_>, n: &Node, w: ValueId) -> Result<Self, PassFailure> {
        let first = |i: usize| Ok::<i64, PassFailure>(list(n, i, 3)?[0]);
        Ok(Depth {
            kernel: known(&b.ty(w).shape[2])?,
            stride: first(3)?,
            padding: first(4)?,
            dilation: first(5)?,
            output_padding: first(7)?,
        })
    }
}

/// The two-dimensional convolution of every depth of `x` with slice `k` of the kernel: `[N, C, D, H, W]` to
/// `[N, C', D, H', W']`.
fn plane(
    b: &mut Build<'_>,
    n: &Node,
    x: ValueId,
    w: ValueId,
    k: i64,
    bias: Arg,
) -> Result<ValueId, PassFailure> {
    let shape = b.ty(x).shape.clone();
    let rows = b.permute(x, &[0, 2, 1, 3, 4])?;
    let many = shape[0].clone() * &shape[2];
    let rows = b.view(rows, vec![many, shape[1].clone(), shape[3].clone(), shape[4].clone()])?;
    let slice = b.select(w, 2, k)?;
    let rest = |i: usize| list(n, i, 3).map(|l| Arg::ints(l[1..].to_vec()));
    let args = [
        rows.into(),
        slice.into(),
        bias,
        rest(3)?,
        rest(4)?,
        rest(5)?,
        n.arg(6).clone(),
        rest(7)?,
        n.arg(8).clone(),
    ];
    let y = b.op(&ops::CONVOLUTION, args)?;
    let out = b.ty(y).shape.clone();
    let y =
        b.view(y, vec![shape[0].clone(), shape[2].clone(), out[1].clone(), out[2].clone(), out[3].clone()])?;
    b.permute(y, &[0, 2, 1, 3, 4])
}

/// Slice k of the kernel meets depth `stride·i + dilation·k − padding`.
fn conv3d(b: &mut Build<'_>, n: &Node, x: ValueId, w: ValueId) -> Values {
    let depth = Depth::of(b, n, w)?;
    let count = b.ty(n.output()).shape[2].clone();
    let padded = b.pad(x, 2, (depth.padding, depth.padding), 0.0)?;
    let mut sum = None;
    for k in 0..depth.kernel {
        let part = b.steps(padded, 2, k * depth.dilation, &count, depth.stride)?;
        let bias = if k == 0 { n.arg(2).clone() } else { Arg::None };
        let y = plane(b, n, part, w, k, bias)?;
        sum = Some(match sum {
            Some(s) => b.op(&ops::ADD, [Arg::Value(s), y.into()])?,
            None => y,
        });
    }
    Ok(sum.map(|s| vec![s]))
}

/// Depth i of the input adds to depth `stride·i + dilation·k − padding` of the output.
fn transposed3d(b: &mut Build<'_>, n: &Node, x: ValueId, w: ValueId) -> Values {
    let depth = Depth::of(b, n, w)?;
    let last = (depth.kernel - 1) * depth.dilation;
    let mut sum = None;
    for k in 0..depth.kernel {
        let y = plane(b, n, x, w, k, Arg::None)?;
        let y = spread(b, y, depth.stride)?;
        let before = k * depth.dilation;
        let y = b.pad(y, 2, (before, last - before), 0.0)?;
        sum = Some(match sum {
            Some(s) => b.op(&ops::ADD, [Arg::Value(s), y.into()])?,
            None => y,
        });
    }
    let Some(sum) = sum else { return Ok(None) };
    // Of the whole sum, `padding` is cut off in front; behind it `output_padding` less.
    let grown = b.pad(sum, 2, (0, (depth.output_padding - depth.padding).max(0)), 0.0)?;
    let count = b.ty(n.output()).shape[2].clone();
    let y = b.steps(grown, 2, depth.padding, &count, 1)?;
    match n.arg(2) {
        Arg::Value(bias) => {
            let channels = b.ty(*bias).numel();
            let bias = b.view(*bias, vec![1.into(), channels, 1.into(), 1.into(), 1.into()])?;
            one(b.op(&ops::ADD, [y.into(), bias.into()])?)
        }
        _ => one(y),
    }
}

/// Puts `stride − 1` zeros between the entries of dimension 2.
fn spread(b: &mut Build<'_>, x: ValueId, stride: i64) -> Result<ValueId, PassFailure> {
    if stride == 1 {
        return Ok(x);
    }
    let mut shape = b.ty(x).shape.clone();
    let depth = shape[2].clone();
    shape.insert(3, 1.into());
    let y = b.view(x, shape.clone())?;
    let y = b.pad(y, 3, (0, stride - 1), 0.0)?;
    shape.remove(3);
    shape[2] = depth.clone() * stride;
    let y = b.view(y, shape)?;
    b.steps(y, 2, 0, &((depth - 1) * stride + 1), 1)
}

/// Where each entry of each window lies in a padded plane of `width` columns: `[kernel, windows]` numbers.
fn places(kernel: &[i64], dilation: &[i64], stride: &[i64], out: &[i64], width: i64) -> Vec<i64> {
    let mut at = Vec::new();
    for ky in 0..kernel[0] {
        for kx in 0..kernel[1] {
            for y in 0..out[0] {
                let row = (y * stride[0] + ky * dilation[0]) * width + kx * dilation[1];
                at.extend((0..out[1]).map(|x| row + x * stride[1]));
            }
        }
    }
    at
}

/// Windows of a plane that `im2col` and `col2im` go over.
struct Windows {
    /// Channels, or batch and channels.
    lead: Vec<SymInt>,
    /// Rows and columns with padding.
    padded: [i64; 2],
    padding: Vec<i64>,
    /// Kernel size and number of windows.
    kernel: i64,
    count: i64,
    /// Numbers of `[kernel, windows]` places in the padded plane.
    places: Vec<i64>,
}

/// Reads `kernel_size, dilation, padding, stride` from arguments `first..first + 4`.
fn windows(
    n: &Node,
    first: usize,
    lead: &[SymInt],
    size: [&SymInt; 2],
) -> Result<Option<Windows>, PassFailure> {
    let (Some(h), Some(w)) = (size[0].known(), size[1].known()) else { return Ok(None) };
    let [kernel, dilation, padding, stride] = [0, 1, 2, 3].map(|i| list(n, first + i, 2));
    let (kernel, dilation, padding, stride) = (kernel?, dilation?, padding?, stride?);
    let padded = [h + 2 * padding[0], w + 2 * padding[1]];
    let out: Vec<i64> =
        (0..2).map(|d| (padded[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1).collect();
    Ok(Some(Windows {
        lead: lead.to_vec(),
        places: places(&kernel, &dilation, &stride, &out, padded[1]),
        padded,
        padding,
        kernel: kernel.iter().product(),
        count: out.iter().product(),
    }))
}

impl Windows {
    fn index(&self, b: &mut Build<'_>, n: &Node) -> Result<ValueId, PassFailure> {
        let index = Tensor::new(&[self.places.len()], self.places.clone())
            .map_err(|e| PassFailure(format!("the windows have no table: {e}")))?;
        Ok(b.constant(&format!("{}_windows", n.name), index))
    }

    fn lead_and(&self, rest: impl IntoIterator<Item = i64>) -> Vec<SymInt> {
        self.lead.iter().cloned().chain(rest.into_iter().map(SymInt::from)).collect()
    }
}

/// Each window is a column: one `index_select` from the padded plane.
fn im2col(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let shape = b.ty(x).shape.clone();
    let [lead @ .., h, w] = &shape[..] else { return Ok(None) };
    let Some(win) = windows(n, 1, lead, [h, w])? else { return Ok(None) };
    let index = win.index(b, n)?;
    let y = b.pad(x, lead.len() + 1, (win.padding[1], win.padding[1]), 0.0)?;
    let y = b.pad(y, lead.len(), (win.padding[0], win.padding[0]), 0.0)?;
    let flat = b.view(y, win.lead_and([win.padded[0] * win.padded[1]]))?;
    let y = b.op(&ops::INDEX_SELECT, [flat.into(), lead.len().into(), index.into()])?;
    let shape = b.ty(n.output()).shape.clone();
    one(b.view(y, shape)?)
}

/// Columns add up where windows overlap: one accumulating `index_put` into a padded plane of zeros.
fn col2im(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let ty = b.ty(n.output()).clone();
    let [lead @ .., h, w] = &ty.shape[..] else { return Ok(None) };
    let Some(win) = windows(n, 2, lead, [h, w])? else { return Ok(None) };
    let index = win.index(b, n)?;
    let rows: SymInt = lead.iter().cloned().product();
    let columns = b.view(x, vec![rows.clone(), (win.kernel * win.count).into()])?;
    let zeros = b.full(vec![rows, (win.padded[0] * win.padded[1]).into()], 0.0, ty.dtype)?;
    let indices = Arg::OptValues(vec![None, Some(index)]);
    let sum = b.op(&ops::INDEX_PUT, [zeros.into(), indices, columns.into(), true.into()])?;
    let y = b.view(sum, win.lead_and(win.padded))?;
    let y = b.steps(y, lead.len(), win.padding[0], h, 1)?;
    one(b.steps(y, lead.len() + 1, win.padding[1], w, 1)?)
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
    ("aten.convolution.default", convolution),
    ("aten.im2col.default", im2col),
    ("aten.col2im.default", col2im),
];
