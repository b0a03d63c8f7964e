//! Shape changes: reshaping, permuting, joining, splitting, repeating, padding. No arithmetic on elements.

use super::call::wrap_dim;
use super::rules::{Promotion, Types, broadcast, one, same};
use super::{Call, InferError};
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;

ops! {
    VIEW = "aten.view.default" "(Tensor self, SymInt[] size) -> Tensor", view, moves_data, rearranges, shares_qparams;
    RESHAPE = "aten.reshape.default" "(Tensor self, SymInt[] shape) -> Tensor", view, moves_data, rearranges, shares_qparams;
    UNSAFE_VIEW = "aten._unsafe_view.default" "(Tensor self, SymInt[] size) -> Tensor", view, moves_data, rearranges, shares_qparams;
    VIEW_COPY = "aten.view_copy.default" "(Tensor self, SymInt[] size) -> Tensor", view, moves_data, rearranges, shares_qparams;
    VIEW_AS = "aten.view_as.default" "(Tensor self, Tensor other) -> Tensor", shaped_as, moves_data, rearranges, shares_qparams;
    RESHAPE_AS = "aten.reshape_as.default" "(Tensor self, Tensor other) -> Tensor", shaped_as, moves_data, rearranges, shares_qparams;
    FLATTEN = "aten.flatten.using_ints" "(Tensor self, int start_dim=0, int end_dim=-1) -> Tensor", flatten, moves_data, rearranges, shares_qparams;
    UNFLATTEN = "aten.unflatten.int" "(Tensor self, int dim, SymInt[] sizes) -> Tensor", unflatten, moves_data, rearranges, shares_qparams;
    PERMUTE = "aten.permute.default" "(Tensor self, int[] dims) -> Tensor", permute, moves_data, rearranges, shares_qparams;
    PERMUTE_COPY = "aten.permute_copy.default" "(Tensor self, int[] dims) -> Tensor", permute, moves_data, rearranges, shares_qparams;
    TRANSPOSE = "aten.transpose.int" "(Tensor self, int dim0, int dim1) -> Tensor", transpose, moves_data, rearranges, shares_qparams;
    SWAPAXES = "aten.swapaxes.default" "(Tensor self, int axis0, int axis1) -> Tensor", transpose, moves_data, rearranges, shares_qparams;
    T = "aten.t.default" "(Tensor self) -> Tensor", reverse, moves_data, rearranges, shares_qparams;
    NUMPY_T = "aten.numpy_T.default" "(Tensor self) -> Tensor", reverse, moves_data, rearranges, shares_qparams;
    MOVEDIM = "aten.movedim.int" "(Tensor self, int source, int destination) -> Tensor", movedim, moves_data, rearranges, shares_qparams;
    SQUEEZE = "aten.squeeze.default" "(Tensor self) -> Tensor", squeeze, moves_data, rearranges, shares_qparams;
    SQUEEZE_DIM = "aten.squeeze.dim" "(Tensor self, int dim) -> Tensor", squeeze, moves_data, rearranges, shares_qparams;
    SQUEEZE_DIMS = "aten.squeeze.dims" "(Tensor self, int[] dim) -> Tensor", squeeze, moves_data, rearranges, shares_qparams;
    SQUEEZE_COPY_DIM = "aten.squeeze_copy.dim" "(Tensor self, int dim) -> Tensor", squeeze, moves_data, rearranges, shares_qparams;
    SQUEEZE_COPY_DIMS = "aten.squeeze_copy.dims" "(Tensor self, int[] dim) -> Tensor", squeeze, moves_data, rearranges, shares_qparams;
    UNSQUEEZE = "aten.unsqueeze.default" "(Tensor self, int dim) -> Tensor", unsqueeze, moves_data, rearranges, shares_qparams;
    UNSQUEEZE_COPY = "aten.unsqueeze_copy.default" "(Tensor self, int dim) -> Tensor", unsqueeze, moves_data, rearranges, shares_qparams;
    EXPAND = "aten.expand.default" "(Tensor self, SymInt[] size, *, bool implicit=False) -> Tensor", expand, moves_data, shares_qparams;
    EXPAND_COPY = "aten.expand_copy.default" "(Tensor self, SymInt[] size, *, bool implicit=False) -> Tensor", expand, moves_data, shares_qparams;
    EXPAND_AS = "aten.expand_as.default" "(Tensor self, Tensor other) -> Tensor", expand_as, moves_data, shares_qparams;
    REPEAT = "aten.repeat.default" "(Tensor self, SymInt[] repeats) -> Tensor", repeat, moves_data, shares_qparams;
    REPEAT_INTERLEAVE_SELF_INT = "aten.repeat_interleave.self_int" "(Tensor self, SymInt repeats, int? dim=None, *, SymInt? output_size=None) -> Tensor", repeat_interleave, moves_data, shares_qparams;
    CAT = "aten.cat.default" "(Tensor[] tensors, int dim=0) -> Tensor", cat, shares_qparams;
    STACK = "aten.stack.default" "(Tensor[] tensors, int dim=0) -> Tensor", stack, shares_qparams;
    SPLIT = "aten.split.Tensor" "(Tensor self, SymInt split_size, int dim=0) -> Tensor[]", split, moves_data, shares_qparams;
    SPLIT_WITH_SIZES = "aten.split_with_sizes.default" "(Tensor self, SymInt[] split_sizes, int dim=0) -> Tensor[]", split_with_sizes, moves_data, shares_qparams;
    CHUNK = "aten.chunk.default" "(Tensor self, int chunks, int dim=0) -> Tensor[]", chunk, moves_data, shares_qparams;
    TENSOR_SPLIT_SECTIONS = "aten.tensor_split.sections" "(Tensor self, SymInt sections, int dim=0) -> Tensor[]", tensor_split, moves_data, shares_qparams;
    UNBIND = "aten.unbind.int" "(Tensor self, int dim=0) -> Tensor[]", unbind, moves_data, shares_qparams;
    MESHGRID = "aten.meshgrid.indexing" "(Tensor[] tensors, *, str indexing) -> Tensor[]", meshgrid;
    PAD = "aten.pad.default" "(Tensor self, SymInt[] pad, str mode=\"constant\", float? value=None) -> Tensor", pad;
    CONSTANT_PAD_ND = "aten.constant_pad_nd.default" "(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor", pad;
    REFLECTION_PAD1D = "aten.reflection_pad1d.default" "(Tensor self, SymInt[2] padding) -> Tensor", pad, moves_data, shares_qparams;
    REFLECTION_PAD2D = "aten.reflection_pad2d.default" "(Tensor self, SymInt[4] padding) -> Tensor", pad, moves_data, shares_qparams;
    REPLICATION_PAD2D = "aten.replication_pad2d.default" "(Tensor self, SymInt[4] padding) -> Tensor", pad, moves_data, shares_qparams;
    PIXEL_SHUFFLE = "aten.pixel_shuffle.default" "(Tensor self, int upscale_factor) -> Tensor", pixel_shuffle, moves_data, rearranges, shares_qparams;
    PIXEL_UNSHUFFLE = "aten.pixel_unshuffle.default" "(Tensor self, int downscale_factor) -> Tensor", pixel_unshuffle, moves_data, rearranges, shares_qparams;
    CHANNEL_SHUFFLE = "aten.channel_shuffle.default" "(Tensor self, SymInt groups) -> Tensor", same, moves_data, rearranges, shares_qparams;
    FLIP = "aten.flip.default" "(Tensor self, int[] dims) -> Tensor", same, moves_data, rearranges, shares_qparams;
    ROLL = "aten.roll.default" "(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor", same, moves_data, rearranges, shares_qparams;
    UNFOLD = "aten.unfold.default" "(Tensor self, int dimension, int size, int step) -> Tensor", unfold, moves_data, shares_qparams;
}

/// A shape in which one entry may be −1: whatever is left of `numel`.
fn inferred(c: &Call<'_>, numel: &SymInt, wanted: &[SymInt]) -> Result<Vec<SymInt>, InferError> {
    let holes = wanted.iter().filter(|d| **d == -1).count();
    if holes > 1 {
        return c.error(format!("shape {wanted:?} has more than one -1"));
    }
    let known: SymInt = wanted.iter().filter(|d| **d != -1).cloned().product();
    let mut shape = wanted.to_vec();
    if holes == 1 {
        let fill = numel.floor_div(&known);
        if let (Some(n), Some(k)) = (numel.known(), known.known())
            && (k == 0 || n % k != 0)
        {
            return c.error(format!("{numel} elements do not fit shape {wanted:?}"));
        }
        shape.iter_mut().filter(|d| **d == -1).for_each(|d| *d = fill.clone());
    } else if let (Some(n), Some(k)) = (numel.known(), known.known())
        && n != k
    {
        return c.error(format!("{numel} elements do not fit shape {wanted:?}"));
    }
    Ok(shape)
}

fn view(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    one(x.dtype, inferred(c, &x.numel(), c.syms(1)?)?)
}

/// The shape of argument 1.
fn shaped_as(c: &Call<'_>) -> Types {
    one(c.tensor(0)?.dtype, c.tensor(1)?.shape.clone())
}

/// `flatten(self, start, end)`
fn flatten(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    if x.rank() == 0 {
        return one(x.dtype, vec![1.into()]);
    }
    let (start, end) = (c.dim(1, x.rank())?, c.dim(2, x.rank())?);
    if start > end {
        return c.error(format!("dimensions {start} to {end} are no range"));
    }
    let mut shape = x.shape[..start].to_vec();
    shape.push(x.shape[start..=end].iter().cloned().product());
    shape.extend_from_slice(&x.shape[end + 1..]);
    one(x.dtype, shape)
}

/// `unflatten(self, dim, sizes)`
fn unflatten(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let Some(size) = x.shape.get(d) else { return c.error("a scalar has no dimension to split") };
    let parts = inferred(c, size, c.syms(2)?)?;
    let mut shape = x.shape.clone();
    shape.splice(d..=d, parts);
    one(x.dtype, shape)
}

fn permute(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let dims = c.ints(1)?;
    let mut seen = vec![false; x.rank()];
    let mut shape = vec![];
    for d in &dims {
        let d = wrap_dim(*d, x.rank())?;
        let Some(size) = x.shape.get(d) else { return c.error("a scalar has no dimensions to permute") };
        if std::mem::replace(&mut seen[d], true) {
            return c.error(format!("dimension {d} occurs twice in {dims:?}"));
        }
        shape.push(size.clone());
    }
    if dims.len() != x.rank() {
        return c.error(format!("{dims:?} does not permute {x}"));
    }
    one(x.dtype, shape)
}

fn transpose(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let (a, b) = (c.dim(1, x.rank())?, c.dim(2, x.rank())?);
    let mut shape = x.shape.clone();
    if x.rank() > 0 {
        shape.swap(a, b);
    }
    one(x.dtype, shape)
}

/// All dimensions reversed (`t` of at most two, `numpy_T`).
fn reverse(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    one(x.dtype, x.shape.iter().rev().cloned().collect())
}

/// `movedim(self, source, destination)`
fn movedim(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let (from, to) = (c.dim(1, x.rank())?, c.dim(2, x.rank())?);
    let mut shape = x.shape.clone();
    if x.rank() > 0 {
        let d = shape.remove(from);
        shape.insert(to, d);
    }
    one(x.dtype, shape)
}

/// Removes dimensions of size 1: all, or those that argument 1 names.
fn squeeze(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let flags = match c.args.get(1) {
        None => vec![true; x.rank()],
        Some(Arg::Ints(l)) if l.is_empty() => vec![false; x.rank()],
        Some(_) => super::rules::reduced(c, 1, x.rank())?,
    };
    let shape = x.shape.iter().zip(flags).filter(|(d, f)| !(*f && **d == 1)).map(|(d, _)| d.clone());
    one(x.dtype, shape.collect())
}

fn unsqueeze(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank() + 1)?;
    let mut shape = x.shape.clone();
    shape.insert(d, 1.into());
    one(x.dtype, shape)
}

/// `expand(self, size)`: −1 keeps a size.
fn expand(c: &Call<'_>) -> Types {
    let (x, size) = (c.tensor(0)?, c.syms(1)?);
    let Some(new) = size.len().checked_sub(x.rank()) else {
        return c.error(format!("{x} cannot be expanded to {size:?}, which has fewer dimensions"));
    };
    let mut shape = vec![];
    for (i, want) in size.iter().enumerate() {
        let have = i.checked_sub(new).map(|k| &x.shape[k]);
        shape.push(match have {
            Some(h) if *want == -1 => h.clone(),
            None if *want == -1 => return c.error(format!("-1 in {size:?} stands for no dimension of {x}")),
            Some(h) if *h != 1 && h != want && h.known().is_some() && want.known().is_some() => {
                return c.error(format!("{x} cannot be expanded to {size:?}"));
            }
            _ => want.clone(),
        });
    }
    one(x.dtype, shape)
}

fn expand_as(c: &Call<'_>) -> Types {
    let (x, y) = (c.tensor(0)?, c.tensor(1)?);
    if broadcast(&x.shape, &y.shape)?.len() != y.rank() {
        return c.error(format!("{x} cannot be expanded to {y}"));
    }
    one(x.dtype, y.shape.clone())
}

fn repeat(c: &Call<'_>) -> Types {
    let (x, times) = (c.tensor(0)?, c.syms(1)?);
    let Some(new) = times.len().checked_sub(x.rank()) else {
        return c.error(format!("{x} needs a repeat count for each dimension, {times:?} has fewer"));
    };
    let one_dim = SymInt::Known(1);
    let shape = times.iter().enumerate().map(|(i, t)| {
        t.clone() * i.checked_sub(new).map_or(&one_dim, |k| &x.shape[k])
    });
    one(x.dtype, shape.collect())
}

/// `repeat_interleave(self, repeats, dim)`; without `dim` the input is flattened.
fn repeat_interleave(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    if matches!(c.arg(2), Arg::None) {
        return one(x.dtype, vec![x.numel() * c.sym(1)?]);
    }
    let d = c.dim(2, x.rank())?;
    let mut shape = x.shape.clone();
    if let Some(size) = shape.get_mut(d) {
        *size = size.clone() * c.sym(1)?;
    }
    one(x.dtype, shape)
}

/// `cat(tensors, dim)`: one-dimensional empty tensors are skipped, as PyTorch does.
fn cat(c: &Call<'_>) -> Types {
    let all = c.tensors(0)?;
    let mut p = Promotion::default();
    for t in &all {
        p = p.tensor(t);
    }
    let parts: Vec<_> = all.iter().filter(|t| !(t.rank() == 1 && t.shape[0] == 0)).collect();
    let Some(first) = parts.first().or(all.first().as_ref()).copied() else {
        return c.error("there is nothing to join");
    };
    let d = c.dim(1, first.rank())?;
    let mut shape = first.shape.clone();
    if shape.is_empty() {
        return c.error("scalars cannot be joined");
    }
    for t in parts.iter().skip(1) {
        let agree = t.rank() == first.rank()
            && t.shape.iter().zip(&first.shape).enumerate().all(|(i, (a, b))| {
                i == d || a == b || a.known().is_none() || b.known().is_none()
            });
        if !agree {
            return c.error(format!("{first} and {t} differ outside dimension {d}"));
        }
    }
    if !parts.is_empty() {
        shape[d] = parts.iter().map(|t| t.shape[d].clone()).sum();
    }
    one(p.result(), shape)
}

fn stack(c: &Call<'_>) -> Types {
    let all = c.tensors(0)?;
    let Some(first) = all.first() else { return c.error("there is nothing to stack") };
    if let Some(t) = all.iter().find(|t| t.rank() != first.rank()) {
        return c.error(format!("{first} and {t} differ"));
    }
    let mut p = Promotion::default();
    for t in &all {
        p = p.tensor(t);
    }
    let d = c.dim(1, first.rank() + 1)?;
    let mut shape = first.shape.clone();
    shape.insert(d, all.len().into());
    one(p.result(), shape)
}

/// Pieces of these sizes along dimension `d`.
fn pieces(x: &TensorType, d: usize, sizes: impl IntoIterator<Item = SymInt>) -> Types {
    Ok(sizes
        .into_iter()
        .map(|s| {
            let mut shape = x.shape.clone();
            shape[d] = s;
            TensorType { dtype: x.dtype, shape }
        })
        .collect())
}

/// The size of dimension argument `i`, which must be known to be cut.
fn cut(c: &Call<'_>, i: usize) -> Result<(usize, i64), InferError> {
    let x = c.tensor(0)?;
    let d = c.dim(i, x.rank())?;
    match x.shape.get(d).and_then(SymInt::known) {
        Some(n) => Ok((d, n)),
        None => c.error(format!("dimension {d} of {x} depends on a symbol; it cannot be split into a fixed number")),
    }
}

/// Most results of one operator: more comes from a damaged file, not from a model.
const MAX_PIECES: i64 = 1 << 16;

fn count(n: i64) -> Result<i64, InferError> {
    if n > MAX_PIECES { Err(InferError::new(format!("{n} pieces are more than the {MAX_PIECES} allowed"))) } else { Ok(n) }
}

/// Sizes of the pieces when every one but the last is `size` (at least 1) long.
fn every(n: i64, size: i64) -> Result<Vec<SymInt>, InferError> {
    let pieces = count(if n == 0 { 1 } else { n / size + i64::from(n % size != 0) })?;
    Ok((0..pieces).map(|i| size.min(n - i * size).into()).collect())
}

/// `split(self, size, dim)`
fn split(c: &Call<'_>) -> Types {
    let (d, n) = cut(c, 2)?;
    let size = c.int(1)?;
    if size < 1 && n != 0 {
        return c.error("pieces must be at least 1 long");
    }
    pieces(c.tensor(0)?, d, every(n, size.max(1))?)
}

fn split_with_sizes(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(2, x.rank())?;
    let sizes = c.syms(1)?;
    let total: SymInt = sizes.iter().cloned().sum();
    if x.shape.get(d).is_none_or(|n| n.known().is_some() && total.known().is_some() && *n != total) {
        return c.error(format!("sizes {sizes:?} do not add up to dimension {d} of {x}"));
    }
    pieces(x, d, sizes.to_vec())
}

/// `chunk(self, chunks, dim)`: at most so many, all but the last of one size.
fn chunk(c: &Call<'_>) -> Types {
    let (d, n) = cut(c, 2)?;
    let chunks = c.int(1)?;
    if chunks < 1 {
        return c.error("there must be at least one chunk");
    }
    if n == 0 {
        return pieces(c.tensor(0)?, d, vec![SymInt::Known(0); count(chunks)? as usize]);
    }
    pieces(c.tensor(0)?, d, every(n, n / chunks + i64::from(n % chunks != 0))?)
}

/// `tensor_split(self, sections, dim)`: exactly so many, the first ones one longer.
fn tensor_split(c: &Call<'_>) -> Types {
    let (d, n) = cut(c, 2)?;
    let k = c.int(1)?;
    if k < 1 {
        return c.error("there must be at least one section");
    }
    count(k)?;
    pieces(c.tensor(0)?, d, (0..k).map(|i| SymInt::from(n / k + i64::from(i < n % k))))
}

/// `unbind(self, dim)`
fn unbind(c: &Call<'_>) -> Types {
    let (d, n) = cut(c, 1)?;
    let x = c.tensor(0)?;
    let mut shape = x.shape.clone();
    shape.remove(d);
    Ok(vec![TensorType { dtype: x.dtype, shape }; usize::try_from(count(n)?).unwrap_or(0)])
}

/// `meshgrid(tensors, indexing)`
fn meshgrid(c: &Call<'_>) -> Types {
    let all = c.tensors(0)?;
    let mut shape: Vec<SymInt> = all.iter().map(|t| t.numel()).collect();
    if matches!(c.arg(1), Arg::Str(s) if &**s == "xy") && shape.len() > 1 {
        shape.swap(0, 1);
    }
    Ok(all.iter().map(|t| TensorType { dtype: t.dtype, shape: shape.clone() }).collect())
}

/// `pad(self, [left, right, top, bottom, …])`, from the last dimension on; negative numbers crop.
fn pad(c: &Call<'_>) -> Types {
    let (x, pad) = (c.tensor(0)?, c.syms(1)?);
    if !pad.len().is_multiple_of(2) || pad.len() / 2 > x.rank() {
        return c.error(format!("padding {pad:?} does not fit {x}"));
    }
    let mut shape = x.shape.clone();
    for (i, p) in pad.chunks(2).enumerate() {
        let d = x.rank() - 1 - i;
        shape[d] = shape[d].clone() + &p[0] + &p[1];
        if shape[d].known().is_some_and(|n| n < 0) {
            return c.error(format!("padding {pad:?} leaves nothing of {x}"));
        }
    }
    one(x.dtype, shape)
}

/// `pixel_shuffle(self, factor)`: channels to space.
fn pixel_shuffle(c: &Call<'_>) -> Types {
    pixels(c, |ch, h, w, r| (ch.floor_div(&(r * r).into()), h.clone() * r, w.clone() * r))
}

/// `pixel_unshuffle(self, factor)`: space to channels.
fn pixel_unshuffle(c: &Call<'_>) -> Types {
    pixels(c, |ch, h, w, r| (ch.clone() * (r * r), h.floor_div(&r.into()), w.floor_div(&r.into())))
}

fn pixels(c: &Call<'_>, f: impl Fn(&SymInt, &SymInt, &SymInt, i64) -> (SymInt, SymInt, SymInt)) -> Types {
    let x = c.tensor(0)?;
    let r = c.int(1)?;
    let [batch @ .., ch, h, w] = &x.shape[..] else {
        return c.error(format!("input is {x}; channels, height and width are needed"));
    };
    if r < 1 {
        return c.error("the factor must be positive");
    }
    let (ch, h, w) = f(ch, h, w, r);
    one(x.dtype, batch.iter().cloned().chain([ch, h, w]).collect())
}

/// `unfold(self, dim, size, step)`: windows along a new last dimension.
fn unfold(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let (size, step) = (c.int(2)?, c.int(3)?);
    if x.rank() == 0 {
        return one(x.dtype, vec![size.into()]);
    }
    if step < 1 {
        return c.error("the step must be positive");
    }
    let mut shape = x.shape.clone();
    shape[d] = (shape[d].clone() - size).floor_div(&step.into()) + 1;
    shape.push(size.into());
    one(x.dtype, shape)
}
