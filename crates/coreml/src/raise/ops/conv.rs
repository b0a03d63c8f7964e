//! Convolutions.

use super::{Table, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops::{self, OpDef};

pub static TABLE: Table = &[new("conv", conv), new("conv_transpose", transposed)];

/// How a window goes over an image, a number for each spatial dimension.
pub(super) struct Window {
    /// Its size.
    pub kernel: Vec<i64>,
    /// From one to the next.
    pub stride: Vec<i64>,
    /// From one element to the next.
    pub dilation: Vec<i64>,
    /// What is put around the image: before and behind.
    pub pads: Vec<(i64, i64)>,
}

/// Numbers above are none of a real model, and would overflow.
const LARGEST: i64 = 1 << 31;

impl Window {
    /// Reads strides, dilations and pads; `sizes` are the image's, where they are known.
    pub fn read(c: &Call<'_>, kernel: Vec<i64>, sizes: &[Option<i64>], default_kind: &str) -> Raised<Self> {
        let n = kernel.len();
        let list = |name: &str, length: usize, default: i64| match c.opt_ints(name)? {
            None => Ok(vec![default; length]),
            Some(l) if l.len() != length => {
                Err(format!("argument {name} has {} numbers for {n} dimensions", l.len()))
            }
            Some(l) if l.iter().any(|v| !(0..LARGEST).contains(v)) => {
                Err(format!("argument {name} is {l:?}, which is too small or too large"))
            }
            Some(l) => Ok(l),
        };
        let (stride, dilation) = (list("strides", n, 1)?, list("dilations", n, 1)?);
        if stride.iter().chain(&dilation).chain(&kernel).any(|&v| !(1..LARGEST).contains(&v)) {
            return Err("kernel, strides and dilations must be positive".into());
        }
        let kind = c.str("pad_type", default_kind)?;
        let pads = match &*kind {
            "valid" => vec![(0, 0); n],
            "custom" => list("pad", 2 * n, 0)?.chunks(2).map(|p| (p[0], p[1])).collect(),
            "same" | "same_lower" => (0..n)
                .map(|i| {
                    let span = dilation[i] * (kernel[i] - 1) + 1;
                    let total = match (stride[i], sizes.get(i).copied().flatten()) {
                        (1, _) => span - 1,
                        (s, Some(size)) => {
                            let last = (size.max(1) - 1) / s * s;
                            (span - (size - last)).max(0)
                        }
                        _ => {
                            return Err(format!(
                                "argument pad_type is {kind}, the size of the image is open"
                            ));
                        }
                    };
                    // The odd one is behind, or before.
                    let (less, more) = (total / 2, total - total / 2);
                    Ok(if kind == "same" { (less, more) } else { (more, less) })
                })
                .collect::<Result<_, _>>()?,
            other => return Err(format!("argument pad_type is {other:?}")),
        };
        Ok(Window { kernel, stride, dilation, pads })
    }

    /// The padding, when it is the same before and behind.
    pub fn symmetric(&self) -> Option<Vec<i64>> {
        self.pads.iter().map(|(a, b)| (a == b).then_some(*a)).collect()
    }
}

/// The sizes of an image's `n` last dimensions.
pub(super) fn spatial(c: &Call<'_>, x: ValueId, n: usize) -> Vec<Option<i64>> {
    let shape = &c.ty(x).shape;
    shape[shape.len().saturating_sub(n)..].iter().map(|d| d.known()).collect()
}

/// `x` with a number around its last dimensions.
pub(super) fn padded(c: &mut Call<'_>, x: ValueId, pads: &[(i64, i64)], value: f64) -> Raised<ValueId> {
    if pads.iter().all(|p| *p == (0, 0)) {
        return Ok(x);
    }
    // From the last dimension on.
    let list = pads.iter().rev().flat_map(|&(a, b)| [a, b]);
    c.node(&ops::PAD, [x.into(), Arg::ints(list), "constant".into(), Arg::Float(value)])
}

/// The operator for so many spatial dimensions.
pub(super) fn of_rank(n: usize, ops: [&'static OpDef; 3]) -> Raised<&'static OpDef> {
    n.checked_sub(1).and_then(|i| ops.get(i)).copied().ok_or_else(|| format!("{n} dimensions of an image"))
}

/// The sizes of a weight behind its first two.
fn kernel(c: &Call<'_>, w: ValueId) -> Raised<Vec<i64>> {
    let sizes = c.ty(w).shape.get(2..).unwrap_or_default().iter().map(|d| d.known());
    sizes.collect::<Option<_>>().ok_or_else(|| "argument weight has an open size".into())
}

fn conv(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (mut x, w, bias) = (c.tensor("x")?, c.tensor("weight")?, c.opt_tensor("bias")?);
    let kernel = kernel(c, w)?;
    let n = kernel.len();
    let op = of_rank(n, [&ops::CONV1D, &ops::CONV2D, &ops::CONV3D])?;
    let window = Window::read(c, kernel, &spatial(c, x, n), "valid")?;
    let groups = c.opt_int("groups")?.unwrap_or(1);
    let padding = match window.symmetric() {
        Some(p) => p,
        None => {
            x = padded(c, x, &window.pads, 0.0)?;
            vec![0; n]
        }
    };
    let args = [
        x.into(),
        w.into(),
        Arg::optional(bias),
        Arg::ints(window.stride),
        Arg::ints(padding),
        Arg::ints(window.dilation),
        groups.into(),
    ];
    one(c.node(op, args)?)
}

/// The whole result, cut to the size that is wanted: by the padding and the output padding of PyTorch's operator where those
/// can say it, by slices where they cannot.
fn transposed(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, w, bias) = (c.tensor("x")?, c.tensor("weight")?, c.opt_tensor("bias")?);
    let kernel = kernel(c, w)?;
    let n = kernel.len();
    let op = of_rank(n, [&ops::CONV_TRANSPOSE1D, &ops::CONV_TRANSPOSE2D, &ops::CONV_TRANSPOSE3D])?;
    let sizes = spatial(c, x, n);
    let same = c.str("pad_type", "valid")?.starts_with("same");
    // Pads of "same" follow from the size of the result here, not from that of the image.
    let window = match same {
        true => Window::read(c, kernel, &vec![Some(1); n], "valid")?,
        false => Window::read(c, kernel, &sizes, "valid")?,
    };
    let groups = c.opt_int("groups")?.unwrap_or(1);
    let wanted = c.opt_ints("output_shape")?;
    if wanted.as_ref().is_some_and(|l| l.len() != n + 2) {
        return Err(format!("argument output_shape has other than {} sizes", n + 2));
    }
    let (mut padding, mut extra, mut cut) = (vec![], vec![], vec![]);
    for i in 0..n {
        let (stride, dilation) = (window.stride[i], window.dilation[i]);
        let span = dilation * (window.kernel[i] - 1) + 1;
        let (mut before, mut behind) = window.pads[i];
        if same {
            let total = (span - stride).max(0);
            (before, behind) = (total / 2, total - total / 2);
        }
        if let Some(wanted) = &wanted {
            let size = sizes[i].ok_or("argument output_shape is given, the size of the image is open")?;
            let whole = (size - 1).saturating_mul(stride).saturating_add(span);
            behind = whole.saturating_sub(before).saturating_sub(wanted[2 + i]);
        }
        // PyTorch takes an output padding below stride or dilation.
        let largest = stride.max(dilation);
        let (pad, more, rest) = match before.saturating_sub(behind) {
            more @ 0.. if more < largest => (before, more, (0, 0)),
            _ if behind >= 0 => {
                let less = before.min(behind);
                (less, 0, (before - less, behind - less))
            }
            _ => {
                return Err(format!(
                    "pads of {before} and {behind} make a result beyond what the kernel reaches"
                ));
            }
        };
        padding.push(pad);
        extra.push(more);
        cut.push(rest);
    }
    let args = [
        x.into(),
        w.into(),
        Arg::optional(bias),
        Arg::ints(window.stride),
        Arg::ints(padding),
        Arg::ints(extra),
        groups.into(),
        Arg::ints(window.dilation),
    ];
    let mut y = c.node(op, args)?;
    for (i, (before, behind)) in cut.into_iter().enumerate().filter(|(_, c)| *c != (0, 0)) {
        let end = if behind == 0 { i64::MAX } else { -behind };
        y = c.node(&ops::SLICE, [y.into(), (i + 2).into(), before.into(), end.into(), 1.into()])?;
    }
    one(y)
}
