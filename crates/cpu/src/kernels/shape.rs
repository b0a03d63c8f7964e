//! Data movement: reshaping, permuting, joining, splitting, repeating, padding. Works on bytes of any element type.

use super::Table;
use super::elementwise::copy_bytes;
use crate::kernel::{
    ConcreteArg, KernelCall, KernelError, TensorMut, TensorRef, for_each_row, strides, wrap,
};
use crate::parallel::Threads;
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// A strided reading of some bytes: `steps` and `start` count elements and may go backwards.
struct Strided<'a> {
    src: &'a [u8],
    /// Of an element.
    size: usize,
    start: usize,
    shape: &'a [usize],
    steps: &'a [isize],
}

impl Strided<'_> {
    /// Copies it into dense bytes.
    fn copy(&self, threads: &Threads, out: &mut [u8]) {
        let row = self.shape.last().copied().unwrap_or(1);
        if self.shape.contains(&0) {
            return;
        }
        let rows = self.shape.iter().product::<usize>() / row;
        let part = threads.together(rows, row);
        let parts = out.chunks_mut(part * row * self.size).enumerate();
        threads.for_each(parts, || (), |(), (i, out)| self.copy_rows(i * part, out));
    }

    /// Copies rows from this one on.
    fn copy_rows(&self, first: usize, out: &mut [u8]) {
        let (src, size) = (self.src, self.size);
        let (n, step) = (self.shape.last().copied().unwrap_or(1), self.steps.last().copied().unwrap_or(1));
        let shape = &self.shape[..self.shape.len().saturating_sub(1)];
        // Offsets are kept in `usize` with wrapping, which is exact for negative steps too.
        let outer: Vec<usize> = self.steps.iter().map(|&s| s as usize).collect();
        let mut at = vec![0usize; shape.len()];
        let (mut offset, mut left) = (self.start, first);
        for (d, at) in at.iter_mut().enumerate().rev() {
            (*at, left) = (left % shape[d], left / shape[d]);
            offset = offset.wrapping_add(outer[d].wrapping_mul(*at));
        }
        for row in out.chunks_exact_mut(n * size) {
            match (step, size) {
                (1, _) => row.copy_from_slice(&src[offset * size..(offset + n) * size]),
                (_, 4) => strided_row::<4>(src, offset, step, row),
                (_, 1) => strided_row::<1>(src, offset, step, row),
                (_, 2) => strided_row::<2>(src, offset, step, row),
                _ => strided_row::<8>(src, offset, step, row),
            }
            for (d, at) in at.iter_mut().enumerate().rev() {
                *at += 1;
                offset = offset.wrapping_add(outer[d]);
                if *at < shape[d] {
                    break;
                }
                offset = offset.wrapping_sub(outer[d].wrapping_mul(shape[d]));
                *at = 0;
            }
        }
    }
}

/// Copies a strided reading of `x`, which has the shape of `out`.
fn copy_strided(threads: &Threads, x: TensorRef<'_>, start: usize, steps: &[isize], out: &mut TensorMut<'_>) {
    let strided = Strided { src: x.bytes, size: x.dtype.size(), start, shape: out.shape, steps };
    strided.copy(threads, out.bytes);
}

fn strided_row<const S: usize>(src: &[u8], start: usize, step: isize, row: &mut [u8]) {
    let mut o = start;
    for e in row.chunks_exact_mut(S) {
        e.copy_from_slice(&src[o * S..o * S + S]);
        o = o.wrapping_add(step as usize);
    }
}

fn signed(s: &[usize]) -> Vec<isize> {
    s.iter().map(|&x| x as isize).collect()
}

/// The same bytes under another shape.
fn keep(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    copy_bytes(c.tensor(0)?, &mut outs[0])
}

/// Output dimension `i` is input dimension `order[i]`.
fn permuted(c: &KernelCall<'_>, order: &[usize], out: &mut TensorMut<'_>) -> Result {
    let x = c.tensor(0)?;
    let s = signed(&strides(x.shape));
    let steps: Vec<isize> = order.iter().map(|&d| s[d]).collect();
    copy_strided(c.threads, x, 0, &steps, out);
    Ok(())
}

fn permute(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let order: Vec<usize> = c.ints(1)?.iter().map(|&d| wrap(d, x.shape.len())).collect();
    permuted(c, &order, &mut outs[0])
}

fn transpose(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let mut order: Vec<usize> = (0..x.shape.len()).collect();
    if !order.is_empty() {
        order.swap(c.dim(1, x.shape.len())?, c.dim(2, x.shape.len())?);
    }
    permuted(c, &order, &mut outs[0])
}

fn reverse(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let order: Vec<usize> = (0..x.shape.len()).rev().collect();
    permuted(c, &order, &mut outs[0])
}

fn movedim(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let mut order: Vec<usize> = (0..x.shape.len()).collect();
    if !order.is_empty() {
        let d = order.remove(c.dim(1, x.shape.len())?);
        order.insert(c.dim(2, x.shape.len())?, d);
    }
    permuted(c, &order, &mut outs[0])
}

/// Repeats along broadcast dimensions.
pub(super) fn expanded(threads: &Threads, x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result {
    let steps = signed(&crate::kernel::broadcast_strides(x.shape, out.shape));
    copy_strided(threads, x, 0, &steps, out);
    Ok(())
}

fn expand(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    expanded(c.threads, c.tensor(0)?, &mut outs[0])
}

/// `repeat(self, repeats)`: input index is output index modulo size.
fn repeat(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let out = &mut outs[0];
    let new = out.shape.len() - x.shape.len();
    let mut padded = vec![1; new];
    padded.extend_from_slice(x.shape);
    let (sx, so) = (strides(&padded), strides(out.shape));
    let size = x.dtype.size();
    for i in 0..out.numel() {
        let from: usize = (0..padded.len()).map(|d| i / so[d] % out.shape[d] % padded[d] * sx[d]).sum();
        out.bytes[i * size..(i + 1) * size].copy_from_slice(&x.bytes[from * size..(from + 1) * size]);
    }
    Ok(())
}

fn repeat_interleave(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let times = c.int(1)? as usize;
    let inner = match c.arg(2) {
        ConcreteArg::None => x.dtype.size(),
        _ => x.shape[c.dim(2, x.shape.len())? + 1..].iter().product::<usize>() * x.dtype.size(),
    };
    if inner == 0 || times == 0 {
        return Ok(());
    }
    for (block, out) in x.bytes.chunks_exact(inner).zip(outs[0].bytes.chunks_exact_mut(inner * times)) {
        out.chunks_exact_mut(inner).for_each(|o| o.copy_from_slice(block));
    }
    Ok(())
}

/// Bytes of a tensor converted to another element type.
fn converted(x: TensorRef<'_>, dtype: DType) -> std::borrow::Cow<'_, [u8]> {
    if x.dtype == dtype {
        return x.bytes.into();
    }
    let mut words = vec![0u64; (x.numel() * dtype.size()).div_ceil(8)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..x.numel() * dtype.size()];
    let mut out = TensorMut { dtype, shape: x.shape, bytes };
    super::cast::convert(x, &mut out);
    out.bytes.to_vec().into()
}

/// Joins along dimension argument 1.
fn cat(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let out = &mut outs[0];
    let d = c.dim(1, out.shape.len())?;
    let size = out.dtype.size();
    let inner: usize = out.shape[d + 1..].iter().product::<usize>() * size;
    let total = out.shape[d] * inner;
    let mut start = 0;
    for x in c.tensors(0)? {
        if x.shape.len() != out.shape.len() {
            continue;
        }
        let run = x.shape[d] * inner;
        if run == 0 || total == 0 {
            continue;
        }
        let bytes = converted(x, out.dtype);
        for (from, to) in bytes.chunks_exact(run).zip(out.bytes.chunks_exact_mut(total)) {
            to[start..start + run].copy_from_slice(from);
        }
        start += run;
    }
    Ok(())
}

fn stack(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let out = &mut outs[0];
    let d = c.dim(1, out.shape.len())?;
    let run: usize = out.shape[d + 1..].iter().product::<usize>() * out.dtype.size();
    let total = out.shape[d] * run;
    if total == 0 {
        return Ok(());
    }
    for (i, x) in c.tensors(0)?.into_iter().enumerate() {
        let bytes = converted(x, out.dtype);
        for (from, to) in bytes.chunks_exact(run).zip(out.bytes.chunks_exact_mut(total)) {
            to[i * run..(i + 1) * run].copy_from_slice(from);
        }
    }
    Ok(())
}

/// Where each output of a call that cuts its operand starts in it, in elements, if all are pieces of it as it lies: cut along a
/// dimension that only ones are in front of. `None` for other calls. Looks at shapes only.
pub(crate) fn starts(c: &KernelCall<'_>, outs: &[Vec<usize>]) -> Option<Vec<usize>> {
    let x = c.tensor(0).ok().filter(|x| !x.shape.is_empty())?;
    let dim = |i: usize| c.dim(i, x.shape.len()).ok();
    let (d, first) = match c.op.short_name() {
        "split" | "split_with_sizes" | "chunk" | "tensor_split" => (dim(2)?, 0),
        "unbind" => (dim(1)?, 0),
        "slice" | "slice_copy" if c.int_or(4, 1).is_ok_and(|step| step == 1) => {
            (dim(1)?, slice_start(c.int_or(2, 0).ok()?, x.shape[dim(1)?]))
        }
        "narrow" => (dim(1)?, slice_start(c.int(2).ok()?, x.shape[dim(1)?])),
        "select" | "select_copy" => (dim(1)?, index_in(c.int(2).ok()?, x.shape[dim(1)?]).ok()?),
        _ => return None,
    };
    if x.shape[..d].iter().any(|&n| n != 1) {
        return None;
    }
    let mut next = first * x.shape[d + 1..].iter().product::<usize>();
    let starts = outs.iter().map(|out| {
        let start = next;
        next += out.iter().product::<usize>();
        start
    });
    Some(starts.collect())
}

/// Cuts into the outputs, in order along dimension `d`.
fn pieces(x: TensorRef<'_>, d: usize, outs: &mut [TensorMut<'_>], sizes: &[usize]) -> Result {
    let inner: usize = x.shape[d + 1..].iter().product::<usize>() * x.dtype.size();
    let total = x.shape[d] * inner;
    let mut start = 0;
    for (out, n) in outs.iter_mut().zip(sizes) {
        let run = n * inner;
        if run > 0 {
            for (from, to) in x.bytes.chunks_exact(total).zip(out.bytes.chunks_exact_mut(run)) {
                to.copy_from_slice(&from[start..start + run]);
            }
        }
        start += run;
    }
    Ok(())
}

/// `split`, `chunk`, …: dimension is argument 2.
fn split(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(2, x.shape.len())?;
    let sizes: Vec<usize> = outs.iter().map(|o| o.shape[d]).collect();
    pieces(x, d, outs, &sizes)
}

fn unbind(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    let ones = vec![1; outs.len()];
    pieces(x, d, outs, &ones)
}

/// `meshgrid(tensors, indexing)`
fn meshgrid(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let swap = c.str(1) == Some("xy");
    for (i, x) in c.tensors(0)?.into_iter().enumerate() {
        let axis = match i {
            0 if swap && outs.len() > 1 => 1,
            1 if swap => 0,
            _ => i,
        };
        let mut steps = vec![0isize; outs[i].shape.len()];
        steps[axis] = 1;
        let out = &mut outs[i];
        copy_strided(c.threads, x, 0, &steps, out);
    }
    Ok(())
}

/// How a padded index outside the input is answered.
#[derive(Copy, Clone, PartialEq)]
enum Edge {
    Constant,
    Reflect,
    Replicate,
    Circular,
}

fn padded(c: &KernelCall<'_>, out: &mut TensorMut<'_>, edge: Edge, value: f64) -> Result {
    let x = c.tensor(0)?;
    let pad = c.ints(1)?;
    let rank = x.shape.len();
    let size = x.dtype.size();
    let mut before = vec![0i64; rank];
    for (i, p) in pad.chunks(2).enumerate() {
        before[rank - 1 - i] = p[0];
    }
    // For each dimension: which input index an output index reads, if any.
    let maps: Vec<Vec<Option<usize>>> = (0..rank)
        .map(|d| {
            let n = x.shape[d] as i64;
            (0..out.shape[d] as i64)
                .map(|o| {
                    let i = o - before[d];
                    match edge {
                        _ if (0..n).contains(&i) => Some(i),
                        Edge::Constant => None,
                        Edge::Replicate => Some(i.clamp(0, n - 1)),
                        Edge::Circular => Some(i.rem_euclid(n)),
                        Edge::Reflect => Some(if i < 0 { -i } else { 2 * (n - 1) - i }),
                    }
                    .map(|i| i as usize)
                })
                .collect()
        })
        .collect();
    let mut fill = [0u64; 1];
    let fill_bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut fill)[..size];
    TensorMut { dtype: out.dtype, shape: &[1], bytes: fill_bytes }.store([value]);
    let fill: Vec<u8> = fill_bytes.to_vec();
    let (sx, so) = (strides(x.shape), strides(out.shape));
    let last = out.shape.last().copied().unwrap_or(1);
    if out.numel() == 0 {
        return Ok(());
    }
    for (r, row) in out.bytes.chunks_exact_mut(last.max(1) * size).enumerate() {
        let i = r * last;
        let base: Option<usize> =
            (0..rank.saturating_sub(1)).map(|d| maps[d][i / so[d] % out.shape[d]].map(|k| k * sx[d])).sum();
        for (j, e) in row.chunks_exact_mut(size).enumerate() {
            match base.zip(maps.last().map_or(Some(0), |m| m[j])) {
                Some((b, k)) => e.copy_from_slice(&x.bytes[(b + k) * size..(b + k + 1) * size]),
                None => e.copy_from_slice(&fill),
            }
        }
    }
    Ok(())
}

/// `pad(self, pad, mode, value)`
fn pad(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let edge = match c.str(2) {
        Some("reflect") => Edge::Reflect,
        Some("replicate") => Edge::Replicate,
        Some("circular") => Edge::Circular,
        _ => Edge::Constant,
    };
    padded(c, &mut outs[0], edge, c.opt_float(3).unwrap_or(0.0))
}
fn constant_pad(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    padded(c, &mut outs[0], Edge::Constant, c.float(2)?)
}
fn reflection_pad(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    padded(c, &mut outs[0], Edge::Reflect, 0.0)
}
fn replication_pad(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    padded(c, &mut outs[0], Edge::Replicate, 0.0)
}

/// Reads the input as if it had dimensions `shape`, permuted by `order`.
fn regrouped(c: &KernelCall<'_>, shape: &[usize], order: &[usize], out: &mut TensorMut<'_>) -> Result {
    let x = c.tensor(0)?;
    let s = signed(&strides(shape));
    let steps: Vec<isize> = order.iter().map(|&d| s[d]).collect();
    let dims: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    Strided { src: x.bytes, size: x.dtype.size(), start: 0, shape: &dims, steps: &steps }
        .copy(c.threads, out.bytes);
    Ok(())
}

fn pixel_shuffle(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let r = c.int(1)? as usize;
    let (batch, s) = x.shape.split_at(x.shape.len() - 3);
    regrouped(
        c,
        &[batch.iter().product(), s[0] / (r * r), r, r, s[1], s[2]],
        &[0, 1, 4, 2, 5, 3],
        &mut outs[0],
    )
}

fn pixel_unshuffle(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let r = c.int(1)? as usize;
    let (batch, s) = x.shape.split_at(x.shape.len() - 3);
    regrouped(c, &[batch.iter().product(), s[0], s[1] / r, r, s[2] / r, r], &[0, 1, 3, 5, 2, 4], &mut outs[0])
}

fn channel_shuffle(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let g = c.int(1)? as usize;
    let inner: usize = x.shape[2..].iter().product();
    regrouped(c, &[x.shape[0], g, x.shape[1] / g, inner], &[0, 2, 1, 3], &mut outs[0])
}

fn flip(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let mut steps = signed(&strides(x.shape));
    let mut start = 0usize;
    for &d in c.ints(1)? {
        let d = wrap(d, x.shape.len());
        start += x.shape[d].saturating_sub(1) * steps[d] as usize;
        steps[d] = -steps[d];
    }
    let out = &mut outs[0];
    copy_strided(c.threads, x, start, &steps, out);
    Ok(())
}

/// `roll(self, shifts, dims)`; without dims over the flattened tensor.
fn roll(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let (shifts, dims) = (c.ints(1)?, c.ints(2)?);
    let size = x.dtype.size();
    let (shape, moves): (Vec<usize>, Vec<(usize, i64)>) = if dims.is_empty() {
        (vec![x.numel()], vec![(0, shifts.first().copied().unwrap_or(0))])
    } else {
        (x.shape.to_vec(), dims.iter().map(|&d| wrap(d, x.shape.len())).zip(shifts.iter().copied()).collect())
    };
    let s = strides(&shape);
    for i in 0..x.numel() {
        let mut from = i;
        for &(d, shift) in &moves {
            let n = shape[d] as i64;
            let at = (from / s[d] % shape[d]) as i64;
            let source = (at - shift).rem_euclid(n);
            from = (from as i64 + (source - at) * s[d] as i64) as usize;
        }
        outs[0].bytes[i * size..(i + 1) * size].copy_from_slice(&x.bytes[from * size..(from + 1) * size]);
    }
    Ok(())
}

/// `unfold(self, dim, size, step)`
fn unfold(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let out = &mut outs[0];
    if x.shape.is_empty() {
        return copy_bytes(x, out);
    }
    let d = c.dim(1, x.shape.len())?;
    let mut steps = signed(&strides(x.shape));
    let along = steps[d];
    steps[d] = along * c.int(3)? as isize;
    steps.push(along);
    copy_strided(c.threads, x, 0, &steps, out);
    Ok(())
}

/// `slice(self, dim, start, end, step)`
fn slice(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    let start = slice_start(c.int_or(2, 0)?, x.shape[d]);
    part(c, d, start, c.int_or(4, 1)?, &mut outs[0])
}

/// A slice's start inside `0..=n`.
pub(super) fn slice_start(start: i64, n: usize) -> usize {
    let n = n as i64;
    (if start < 0 { (start + n).max(0) } else { start.min(n) }) as usize
}

/// Every `step`-th index of dimension `d` from `start`.
fn part(c: &KernelCall<'_>, d: usize, start: usize, step: i64, out: &mut TensorMut<'_>) -> Result {
    let x = c.tensor(0)?;
    let mut steps = signed(&strides(x.shape));
    let offset = start * steps[d] as usize;
    steps[d] *= step as isize;
    copy_strided(c.threads, x, offset, &steps, out);
    Ok(())
}

fn narrow(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    part(c, d, slice_start(c.int(2)?, x.shape[d]), 1, &mut outs[0])
}

fn select(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    let i = index_in(c.int(2)?, x.shape[d])?;
    let mut steps = signed(&strides(x.shape));
    let offset = i * steps.remove(d) as usize;
    let out = &mut outs[0];
    copy_strided(c.threads, x, offset, &steps, out);
    Ok(())
}

/// An index counted from the front.
pub(super) fn index_in(i: i64, n: usize) -> std::result::Result<usize, KernelError> {
    let at = if i < 0 { i + n as i64 } else { i };
    if at < 0 || at >= n as i64 {
        return Err(KernelError(format!("index {i} is out of range for a dimension of size {n}")));
    }
    Ok(at as usize)
}

/// `slice_scatter(self, src, dim, start, end, step)` and `select_scatter(self, src, dim, index)`
fn slice_scatter(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, src) = (c.tensor(0)?, c.tensor(1)?);
    let d = c.dim(2, x.shape.len())?;
    let start = slice_start(c.int_or(3, 0)?, x.shape[d]);
    scatter_part(x, src, src.shape, d, start, c.int_or(5, 1)? as usize, &mut outs[0])
}
fn select_scatter(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, src) = (c.tensor(0)?, c.tensor(1)?);
    let d = c.dim(2, x.shape.len())?;
    let start = index_in(c.int(3)?, x.shape[d])?;
    let mut shape = src.shape.to_vec();
    shape.insert(d, 1);
    scatter_part(x, src, &shape, d, start, 1, &mut outs[0])
}
fn scatter_part(
    x: TensorRef<'_>,
    src: TensorRef<'_>,
    src_shape: &[usize],
    d: usize,
    start: usize,
    step: usize,
    out: &mut TensorMut<'_>,
) -> Result {
    copy_bytes(x, out)?;
    let size = x.dtype.size();
    let mut so = strides(x.shape);
    let offset = start * so[d];
    so[d] *= step;
    let ss = strides(src_shape);
    let (n, inc) = (src_shape.last().copied().unwrap_or(1), so.last().copied().unwrap_or(1));
    let bytes = converted(src, out.dtype);
    for_each_row(src_shape, [&ss, &so], |[from, to]| {
        for k in 0..n {
            let (f, t) = ((from + k) * size, (offset + to + k * inc) * size);
            out.bytes[t..t + size].copy_from_slice(&bytes[f..f + size]);
        }
    });
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.view.default", keep),
    ("aten.reshape.default", keep),
    ("aten._unsafe_view.default", keep),
    ("aten.view_copy.default", keep),
    ("aten.view_as.default", keep),
    ("aten.reshape_as.default", keep),
    ("aten.flatten.using_ints", keep),
    ("aten.unflatten.int", keep),
    ("aten.squeeze.default", keep),
    ("aten.squeeze.dim", keep),
    ("aten.squeeze.dims", keep),
    ("aten.squeeze_copy.dim", keep),
    ("aten.squeeze_copy.dims", keep),
    ("aten.unsqueeze.default", keep),
    ("aten.unsqueeze_copy.default", keep),
    ("aten.permute.default", permute),
    ("aten.permute_copy.default", permute),
    ("aten.transpose.int", transpose),
    ("aten.swapaxes.default", transpose),
    ("aten.t.default", reverse),
    ("aten.numpy_T.default", reverse),
    ("aten.movedim.int", movedim),
    ("aten.expand.default", expand),
    ("aten.expand_copy.default", expand),
    ("aten.expand_as.default", expand),
    ("aten.repeat.default", repeat),
    ("aten.repeat_interleave.self_int", repeat_interleave),
    ("aten.cat.default", cat),
    ("aten.stack.default", stack),
    ("aten.split.Tensor", split),
    ("aten.split_with_sizes.default", split),
    ("aten.chunk.default", split),
    ("aten.tensor_split.sections", split),
    ("aten.unbind.int", unbind),
    ("aten.meshgrid.indexing", meshgrid),
    ("aten.pad.default", pad),
    ("aten.constant_pad_nd.default", constant_pad),
    ("aten.reflection_pad1d.default", reflection_pad),
    ("aten.reflection_pad2d.default", reflection_pad),
    ("aten.replication_pad2d.default", replication_pad),
    ("aten.pixel_shuffle.default", pixel_shuffle),
    ("aten.pixel_unshuffle.default", pixel_unshuffle),
    ("aten.channel_shuffle.default", channel_shuffle),
    ("aten.flip.default", flip),
    ("aten.roll.default", roll),
    ("aten.unfold.default", unfold),
    ("aten.slice.Tensor", slice),
    ("aten.slice_copy.Tensor", slice),
    ("aten.narrow.default", narrow),
    ("aten.select.int", select),
    ("aten.select_copy.int", select),
    ("aten.slice_scatter.default", slice_scatter),
    ("aten.select_scatter.default", select_scatter),
];
