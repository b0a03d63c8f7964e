//! Picking and placing elements: indexing, gathers, scatters, embeddings.

use super::Table;
use super::elementwise::{at_dtype, copy_bytes};
use super::shape::index_in;
use crate::kernel::{ConcreteArg, KernelCall, KernelError, TensorMut, broadcast_strides, strides};
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// The source offset of every element that `indices` pick from a tensor of `shape`, in output order, with the number of
/// trailing elements each stands for.
fn picked(
    c: &KernelCall<'_>,
    indices: &[Option<usize>],
    shape: &[usize],
) -> std::result::Result<(Vec<usize>, usize), KernelError> {
    let s = strides(shape);
    // Dimensions after the last index stay together as one run.
    let last = indices.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
    let run: usize = shape[last..].iter().product();
    let tensors: Vec<(usize, crate::kernel::TensorRef<'_>)> =
        indices.iter().enumerate().filter_map(|(d, i)| Some((d, c.inputs[(*i)?]))).collect();
    let mut index_shape: Vec<usize> = vec![];
    for (_, t) in &tensors {
        index_shape = broadcast(&index_shape, t.shape);
    }
    let count: usize = index_shape.iter().product();
    let si = strides(&index_shape);
    let mut offsets = vec![0usize; count];
    for (d, t) in &tensors {
        let v = t.as_vec::<i64>();
        let st = broadcast_strides(t.shape, &index_shape);
        for (i, o) in offsets.iter_mut().enumerate() {
            let at: usize = (0..index_shape.len()).map(|k| i / si[k] % index_shape[k] * st[k]).sum();
            *o += index_in(v[at], shape[*d])? * s[*d];
        }
    }
    let neighbours = tensors.windows(2).all(|w| w[1].0 == w[0].0 + 1);
    let first = tensors.first().map_or(0, |t| t.0);
    // Dimensions before `last` that are not indexed: outside the picked block, or inside if indices are apart.
    let free: Vec<usize> = (0..last).filter(|&d| indices[d].is_none()).collect();
    let (outer, inner): (Vec<usize>, Vec<usize>) =
        if neighbours { free.into_iter().partition(|&d| d < first) } else { (vec![], free) };
    let all = |dims: &[usize]| -> Vec<usize> {
        dims.iter().fold(vec![0], |acc, &d| {
            acc.iter().flat_map(|&a| (0..shape[d]).map(move |i| (a, i))).map(|(a, i)| a + i * s[d]).collect()
        })
    };
    let (outer, inner) = (all(&outer), all(&inner));
    let mut out = Vec::with_capacity(outer.len() * count * inner.len());
    for a in &outer {
        for b in &offsets {
            out.extend(inner.iter().map(|i| a + b + i));
        }
    }
    Ok((out, run))
}

fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let n = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(n).map_or(1, |k| s[k]);
    (0..n).map(|i| if at(a, i) == 1 { at(b, i) } else { at(a, i) }).collect()
}

fn index(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let ConcreteArg::OptTensors(indices) = c.arg(1) else {
        return Err(KernelError::new("indices are missing"));
    };
    let (offsets, run) = picked(c, indices, x.shape)?;
    let (size, bytes) = (x.dtype.size(), run * x.dtype.size());
    if bytes == 0 {
        return Ok(());
    }
    for (o, out) in offsets.into_iter().zip(outs[0].bytes.chunks_exact_mut(bytes)) {
        out.copy_from_slice(&x.bytes[o * size..o * size + bytes]);
    }
    Ok(())
}

/// `index_put(self, indices, values, accumulate)`
fn index_put(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, values) = (c.tensor(0)?, c.tensor(2)?);
    let ConcreteArg::OptTensors(indices) = c.arg(1) else {
        return Err(KernelError::new("indices are missing"));
    };
    let accumulate = c.bool(3)?;
    let masked: Option<Vec<usize>> = match &indices[..] {
        // A mask over the leading dimensions: every true element is written.
        [Some(m)] if c.inputs[*m].dtype == DType::Bool => {
            let m = c.inputs[*m];
            Some(m.bytes.iter().enumerate().filter(|(_, b)| **b != 0).map(|(i, _)| i).collect())
        }
        _ => None,
    };
    let (offsets, run) = match masked {
        Some(hits) => {
            let ConcreteArg::OptTensors(i) = c.arg(1) else {
                return Err(KernelError::new("indices are missing"));
            };
            let rank = i[0].map_or(0, |m| c.inputs[m].shape.len());
            let run: usize = x.shape[rank..].iter().product();
            (hits.into_iter().map(|h| h * run).collect(), run)
        }
        None => picked(c, indices, x.shape)?,
    };
    copy_bytes(x, &mut outs[0])?;
    let n = values.numel();
    // Values broadcast to the picked block: from the right, so repeating them whole covers the usual cases.
    let total = offsets.len() * run;
    if total == 0 {
        return Ok(());
    }
    if n == 0 || total % n != 0 {
        return Err(KernelError(format!("{n} values do not broadcast to {total} places")));
    }
    at_dtype!(outs[0].dtype, T => {
        let v = values.as_vec::<T>();
        let mut all = outs[0].slice::<T>().map(|s| s.to_vec()).unwrap_or_else(|| x.as_vec::<T>().into_owned());
        for (k, o) in offsets.iter().enumerate() {
            for j in 0..run {
                let value = v[(k * run + j) % n];
                let place = &mut all[o + j];
                *place = if accumulate { super::elementwise::Arith::add(*place, value) } else { value };
            }
        }
        outs[0].store(all);
        Ok(())
    })
}

/// Rows of dimension `d` that `index` names.
fn index_select(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, i) = (c.tensor(0)?, c.tensor(2)?);
    if x.shape.is_empty() {
        return copy_bytes(x, &mut outs[0]);
    }
    rows(x, c.dim(1, x.shape.len())?, &i.as_vec::<i64>(), &mut outs[0])
}

fn rows(x: crate::kernel::TensorRef<'_>, d: usize, index: &[i64], out: &mut TensorMut<'_>) -> Result {
    let run: usize = x.shape[d + 1..].iter().product::<usize>() * x.dtype.size();
    let block = x.shape[d] * run;
    if run == 0 || index.is_empty() {
        return Ok(());
    }
    for (b, o) in out.bytes.chunks_exact_mut(index.len() * run).enumerate() {
        for (&i, o) in index.iter().zip(o.chunks_exact_mut(run)) {
            let at = b * block + index_in(i, x.shape[d])? * run;
            o.copy_from_slice(&x.bytes[at..at + run]);
        }
    }
    Ok(())
}

/// `embedding(weight, indices)`
fn embedding(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    rows(c.tensor(0)?, 0, &c.tensor(1)?.as_vec::<i64>(), &mut outs[0])
}

/// The offset in `self` of each element of `index`, whose dimension `d` is replaced by its contents.
fn along(
    index: crate::kernel::TensorRef<'_>,
    shape: &[usize],
    d: usize,
) -> std::result::Result<Vec<usize>, KernelError> {
    let (si, s) = (strides(index.shape), strides(shape));
    let v = index.as_vec::<i64>();
    v.iter()
        .enumerate()
        .map(|(i, &at)| {
            let mut o = index_in(at, shape.get(d).copied().unwrap_or(1))? * s.get(d).copied().unwrap_or(0);
            for k in (0..index.shape.len()).filter(|&k| k != d) {
                o += i / si[k] % index.shape[k] * s[k];
            }
            Ok(o)
        })
        .collect()
}

fn gather(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, i) = (c.tensor(0)?, c.tensor(2)?);
    let size = x.dtype.size();
    let offsets = along(i, x.shape, c.dim(1, x.shape.len())?)?;
    for (o, out) in offsets.into_iter().zip(outs[0].bytes.chunks_exact_mut(size)) {
        out.copy_from_slice(&x.bytes[o * size..(o + 1) * size]);
    }
    Ok(())
}

/// `scatter(self, dim, index, src)`, `scatter(self, dim, index, value)`, `scatter_add(self, dim, index, src)`
fn scattered(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], add: bool) -> Result {
    let (x, i) = (c.tensor(0)?, c.tensor(2)?);
    let offsets = along(i, x.shape, c.dim(1, x.shape.len())?)?;
    copy_bytes(x, &mut outs[0])?;
    at_dtype!(outs[0].dtype, T => {
        let mut all = x.as_vec::<T>().into_owned();
        let values: Vec<T> = match c.opt_tensor(3) {
            Some(src) => {
                // `src` may be larger than `index`: the same places are read.
                let v = src.as_vec::<T>();
                let (si, ss) = (strides(i.shape), strides(src.shape));
                (0..i.numel())
                    .map(|k| v[(0..i.shape.len()).map(|d| k / si[d] % i.shape[d] * ss[d]).sum::<usize>()])
                    .collect()
            }
            None => vec![super::elementwise::number::<T>(c, 3)?; i.numel()],
        };
        for (o, v) in offsets.into_iter().zip(values) {
            all[o] = if add { super::elementwise::Arith::add(all[o], v) } else { v };
        }
        outs[0].store(all);
        Ok(())
    })
}
fn scatter(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    scattered(c, outs, false)
}
fn scatter_add(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    scattered(c, outs, true)
}

fn triangle(c: &KernelCall<'_>, out: &mut TensorMut<'_>, keep: impl Fn(i64) -> bool) -> Result {
    let x = c.tensor(0)?;
    let diagonal = c.int(1)?;
    let [.., h, w] = x.shape[..] else { return Err(KernelError::new("two dimensions are needed")) };
    copy_bytes(x, out)?;
    let size = x.dtype.size();
    for (i, e) in out.bytes.chunks_exact_mut(size).enumerate() {
        let (row, col) = (i / w % h, i % w);
        if !keep(col as i64 - row as i64 - diagonal) {
            e.fill(0);
        }
    }
    Ok(())
}
fn tril(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    triangle(c, &mut outs[0], |d| d <= 0)
}
fn triu(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    triangle(c, &mut outs[0], |d| d >= 0)
}

/// `embedding_bag(weight, indices, offsets, …, mode, …, per_sample_weights, include_last_offset, padding_idx)`
fn embedding_bag(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (w, i, o) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    let mode = c.int(4)?;
    let padding = c.int_or(8, -1)?;
    let scales = c.opt_tensor(6).map(|t| t.as_vec::<f32>());
    let (table, index, starts) = (w.as_vec::<f32>(), i.as_vec::<i64>(), o.as_vec::<i64>());
    let width = w.shape[1];
    let bags = outs[0].shape[0];
    let mut result = vec![0f32; bags * width];
    let (mut bag_of, mut sizes) = (vec![0i64; index.len()], vec![0i64; bags]);
    let mut max_at = vec![-1i64; bags * width];
    for b in 0..bags {
        let start = starts[b].max(0) as usize;
        let end = starts.get(b + 1).map_or(index.len(), |&e| e.max(0) as usize).min(index.len());
        let row = &mut result[b * width..(b + 1) * width];
        for k in start.min(end)..end {
            bag_of[k] = b as i64;
            if padding >= 0 && index[k] == padding {
                continue;
            }
            let at = index_in(index[k], w.shape[0])? * width;
            let scale = scales.as_ref().map_or(1.0, |s| s[k]);
            for (j, r) in row.iter_mut().enumerate() {
                let v = table[at + j] * scale;
                if mode != 2 {
                    *r += v;
                } else if sizes[b] == 0 || v > *r {
                    *r = v;
                    max_at[b * width + j] = index[k];
                }
            }
            sizes[b] += 1;
        }
        if b + 1 == bags {
            // As PyTorch counts: indices after the last offset are not summed, but belong to the last bag.
            sizes[b] += (index.len() - end) as i64;
        }
        if mode == 1 && sizes[b] > 0 {
            row.iter_mut().for_each(|r| *r /= sizes[b] as f32);
        }
    }
    outs[0].store(result);
    outs[1].store(bag_of);
    outs[2].store(sizes);
    let n = outs[3].numel();
    if n == max_at.len() {
        outs[3].store(max_at)
    } else {
        outs[3].store(vec![0i64; n])
    }
    Ok(())
}

/// Rows of a table of `8 / per_byte`-bit numbers, dequantized: scales are one a row, or one a group of it.
fn quantized_embedding(c: &KernelCall<'_>, out: &mut TensorMut<'_>, per_byte: usize) -> Result {
    let (w, s, i) = (c.tensor(0)?, c.tensor(1)?, c.tensor(5)?);
    let zeros = c.opt_tensor(2).map(|z| z.as_vec::<f32>());
    let scales = s.as_vec::<f32>();
    let width = w.shape[1] * per_byte;
    let groups = s.numel() / w.shape[0].max(1);
    let (raw, signed) = (w.bytes, w.dtype == DType::I8);
    let bits = 8 / per_byte;
    let mut rows = Vec::with_capacity(i.numel() * width);
    for &r in i.as_vec::<i64>().iter() {
        let r = index_in(r, w.shape[0])?;
        for j in 0..width {
            let g = r * groups + j * groups / width;
            let byte = raw[r * w.shape[1] + j / per_byte];
            let q = if per_byte == 1 {
                if signed { i32::from(byte as i8) } else { i32::from(byte) }
            } else {
                // Packed with an offset of half the range; the first number of two lies in the high half, of four in
                // the low bits.
                let byte = i32::from(byte);
                let k = if per_byte == 2 { 1 - j % 2 } else { j % 4 };
                ((byte >> (k * bits)) & ((1 << bits) - 1)) - (1 << (bits - 1))
            };
            rows.push((q as f32 - zeros.as_ref().map_or(0.0, |z| z[g])) * scales[g]);
        }
    }
    out.store(rows);
    Ok(())
}
fn embedding_byte(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantized_embedding(c, &mut outs[0], 1)
}
fn embedding_4bit(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantized_embedding(c, &mut outs[0], 2)
}
fn embedding_2bit(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    quantized_embedding(c, &mut outs[0], 4)
}

pub(super) const TABLE: Table = &[
    ("aten.index.Tensor", index),
    ("aten.index_put.default", index_put),
    ("aten.index_select.default", index_select),
    ("aten.gather.default", gather),
    ("aten.scatter.src", scatter),
    ("aten.scatter.value", scatter),
    ("aten.scatter_add.default", scatter_add),
    ("aten.tril.default", tril),
    ("aten.triu.default", triu),
    ("aten.embedding.default", embedding),
    ("aten.embedding_bag.default", embedding_bag),
    ("aten.embedding_bag.padding_idx", embedding_bag),
    ("aten._embedding_bag_forward_only.default", embedding_bag),
    ("quantized_decomposed.embedding_byte.default", embedding_byte),
    ("quantized_decomposed.embedding_byte.dtype", embedding_byte),
    ("quantized_decomposed.embedding_4bit.default", embedding_4bit),
    ("quantized_decomposed.embedding_4bit.dtype", embedding_4bit),
    ("quantized_decomposed.embedding_2bit.default", embedding_2bit),
    ("quantized_decomposed.embedding_2bit.dtype", embedding_2bit),
];
