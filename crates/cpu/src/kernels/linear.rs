//! Matrix products, einsum, attention.

use super::Table;
use crate::dense::gemm::{Mat, gemm};
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef, broadcast_strides, strides};
use crate::simd::Isa;
use lowbit_core::DType;
use std::collections::BTreeMap;

type Result = std::result::Result<(), KernelError>;

/// Runs `f` on the output as `f32`, converting back where it is another type.
pub(super) fn with_f32(out: &mut TensorMut<'_>, f: impl FnOnce(&mut [f32]) -> Result) -> Result {
    if let Some(o) = out.slice::<f32>() {
        return f(o);
    }
    let mut tmp = vec![0f32; out.numel()];
    f(&mut tmp)?;
    out.store(tmp);
    Ok(())
}

/// `x · wᵀ + bias` over the last dimension.
fn linear(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    let bias = c.opt_tensor(2);
    let (n, k) = (w.shape[0], w.shape[1]);
    if outs[0].dtype == DType::F64 {
        let (x, w) = (x.as_vec::<f64>(), w.as_vec::<f64>());
        let b = bias.map(|b| b.as_vec::<f64>());
        let rows = x.chunks_exact(k.max(1)).flat_map(|row| {
            let b = &b;
            let w = &w;
            (0..n).map(move |j| {
                let dot: f64 = row.iter().zip(&w[j * k..(j + 1) * k]).map(|(x, w)| x * w).sum();
                dot + b.as_ref().map_or(0.0, |b| b[j])
            })
        });
        outs[0].store(rows);
        return Ok(());
    }
    if !outs[0].dtype.is_float() {
        let (x, w) = (x.as_vec::<i64>(), w.as_vec::<i64>());
        let b = bias.map(|b| b.as_vec::<i64>());
        let mut y = Vec::with_capacity(outs[0].numel());
        for row in x.chunks_exact(k.max(1)) {
            let dot = |j: usize| {
                row.iter().zip(&w[j * k..]).map(|(x, w)| x.wrapping_mul(*w)).fold(0, i64::wrapping_add)
            };
            y.extend((0..n).map(|j| dot(j).wrapping_add(b.as_ref().map_or(0, |b| b[j]))));
        }
        outs[0].store(y);
        return Ok(());
    }
    let m = x.numel() / k.max(1);
    let (x, w) = (x.as_vec::<f32>(), w.as_vec::<f32>());
    let b = bias.map(|b| b.as_vec::<f32>());
    with_f32(&mut outs[0], |out| {
        gemm(c.isa, Mat::dense(&x, m, k), Mat::dense(&w, n, k).t(), out)?;
        if let Some(b) = b {
            out.chunks_exact_mut(n.max(1))
                .for_each(|row| row.iter_mut().zip(b.iter()).for_each(|(o, b)| *o += b));
        }
        Ok(())
    })
}

/// Batched product of the last two dimensions; leading ones broadcast.
fn product(isa: Isa, a: TensorRef<'_>, b: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result {
    let a_shape = if a.shape.len() == 1 { vec![1, a.shape[0]] } else { a.shape.to_vec() };
    let b_shape = if b.shape.len() == 1 { vec![b.shape[0], 1] } else { b.shape.to_vec() };
    let (ra, rb) = (a_shape.len(), b_shape.len());
    let (m, k, n) = (a_shape[ra - 2], a_shape[ra - 1], b_shape[rb - 1]);
    let (batch_a, batch_b) = (&a_shape[..ra - 2], &b_shape[..rb - 2]);
    let r = batch_a.len().max(batch_b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(r).map_or(1, |k| s[k]);
    let batch: Vec<usize> =
        (0..r).map(|i| if at(batch_a, i) == 1 { at(batch_b, i) } else { at(batch_a, i) }).collect();
    let (sa, sb, so) =
        (broadcast_strides(batch_a, &batch), broadcast_strides(batch_b, &batch), strides(&batch));
    let count: usize = batch.iter().product();
    let place = |i: usize, s: &[usize]| (0..r).map(|d| i / so[d] % batch[d] * s[d]).sum::<usize>();
    if !out.dtype.is_float() {
        let (va, vb) = (a.as_vec::<i64>(), b.as_vec::<i64>());
        let mut result = Vec::with_capacity(count * m * n);
        for i in 0..count {
            let (oa, ob) = (place(i, &sa) * m * k, place(i, &sb) * k * n);
            for p in 0..m * n {
                let (row, col) = (p / n, p % n);
                result.push(
                    (0..k).map(|q| va[oa + row * k + q].wrapping_mul(vb[ob + q * n + col])).sum::<i64>(),
                );
            }
        }
        out.store(result);
        return Ok(());
    }
    let (va, vb) = (a.as_vec::<f32>(), b.as_vec::<f32>());
    with_f32(out, |out| {
        // One right-hand matrix for all: a single tall product.
        if sb.iter().all(|&s| s == 0) && batch_a.iter().product::<usize>() == count {
            return gemm(isa, Mat::dense(&va, count * m, k), Mat::dense(&vb, k, n), out);
        }
        for i in 0..count {
            let (oa, ob) = (place(i, &sa) * m * k, place(i, &sb) * k * n);
            let (a, b) = (Mat::dense(&va[oa..oa + m * k], m, k), Mat::dense(&vb[ob..ob + k * n], k, n));
            gemm(isa, a, b, &mut out[i * m * n..(i + 1) * m * n])?;
        }
        Ok(())
    })
}

fn matmul(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    product(c.isa, c.tensor(0)?, c.tensor(1)?, &mut outs[0])
}

/// `beta·self + alpha·(mat1 · mat2)`
fn addmm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let bias = c.tensor(0)?;
    let (beta, alpha) = (c.float(3)? as f32, c.float(4)? as f32);
    product(c.isa, c.tensor(1)?, c.tensor(2)?, &mut outs[0])?;
    let shape = outs[0].shape.to_vec();
    let v = bias.as_vec::<f32>();
    let s = broadcast_strides(bias.shape, &shape);
    let so = strides(&shape);
    let product: Vec<f32> = match outs[0].slice::<f32>() {
        Some(o) => o.to_vec(),
        None => TensorRef { dtype: outs[0].dtype, shape: &shape, bytes: outs[0].bytes }.as_vec().into_owned(),
    };
    outs[0].store(product.into_iter().enumerate().map(|(i, p)| {
        let at: usize = (0..shape.len()).map(|d| i / so[d] % shape[d] * s[d]).sum();
        // beta = 0 must hide whatever the bias holds.
        alpha * p + if beta == 0.0 { 0.0 } else { beta * v[at] }
    }));
    Ok(())
}

/// `einsum(equation, tensors)`: operands are folded in one by one as batched products.
fn einsum(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let equation: String = c.str(0).unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
    let operands = c.tensors(1)?;
    let (inputs, output) = match equation.split_once("->") {
        Some((i, o)) => (i.to_string(), Some(o.to_string())),
        None => (equation, None),
    };
    // `...` becomes upper-case letters that the equation does not use, aligned at the last broadcast dimension.
    let spare: Vec<char> = ('A'..='Z').filter(|l| !inputs.contains(*l)).collect();
    let ranks =
        inputs.split(',').zip(&operands).map(|(t, x)| x.shape.len() + 3 - t.len().min(x.shape.len() + 3));
    let dots = if inputs.contains("...") { ranks.max().unwrap_or(0) } else { 0 };
    if dots > spare.len() {
        return Err(KernelError::new("the equation has too many indices"));
    }
    let expand =
        |term: &str, n: usize| term.replace("...", &spare[dots - n..dots].iter().collect::<String>());
    let terms: Vec<Vec<char>> = inputs
        .split(',')
        .zip(&operands)
        .map(|(t, x)| {
            let n = if t.contains("...") { x.shape.len() + 3 - t.len() } else { 0 };
            expand(t, n).chars().collect()
        })
        .collect();
    let mut sizes: BTreeMap<char, (usize, usize)> = BTreeMap::new();
    for (term, x) in terms.iter().zip(&operands) {
        for (l, &n) in term.iter().zip(x.shape) {
            let e = sizes.entry(*l).or_insert((1, 0));
            e.0 = e.0.max(n);
            e.1 += 1;
        }
    }
    let result: Vec<char> = match output {
        Some(o) => expand(&o, dots).chars().collect(),
        None => {
            let once =
                sizes.iter().filter(|(l, (_, n))| *n == 1 && !spare[..dots].contains(l)).map(|(l, _)| *l);
            spare[..dots].iter().copied().chain(once).collect()
        }
    };
    let size = |l: &char| sizes.get(l).map_or(1, |s| s.0);
    // Fold: the accumulated tensor keeps the indices that the result or a later operand needs.
    let mut acc: (Vec<char>, Vec<f32>) = (vec![], vec![1.0]);
    for (i, (term, x)) in terms.iter().zip(&operands).enumerate() {
        let needed: Vec<char> = result.iter().chain(terms[i + 1..].iter().flatten()).copied().collect();
        let (letters, data) = diagonal(term, x, &size);
        acc = contract(c.isa, acc, (letters, data), &needed, &size)?;
    }
    let order = reorder(&acc.0, &acc.1, &result, &size);
    outs[0].store(order);
    Ok(())
}

/// An operand with each index once, broadcast to full size.
fn diagonal(term: &[char], x: &TensorRef<'_>, size: &dyn Fn(&char) -> usize) -> (Vec<char>, Vec<f32>) {
    let mut letters: Vec<char> = vec![];
    term.iter().for_each(|l| {
        if !letters.contains(l) {
            letters.push(*l);
        }
    });
    let s = strides(x.shape);
    let steps: Vec<usize> = letters
        .iter()
        .map(|l| (0..term.len()).filter(|&d| term[d] == *l && x.shape[d] != 1).map(|d| s[d]).sum())
        .collect();
    let shape: Vec<usize> = letters.iter().map(size).collect();
    let v = x.as_vec::<f32>();
    let so = strides(&shape);
    let n: usize = shape.iter().product();
    let data =
        (0..n).map(|i| v[(0..shape.len()).map(|d| i / so[d] % shape[d] * steps[d]).sum::<usize>()]).collect();
    (letters, data)
}

/// Elements in another order of indices.
fn reorder(from: &[char], data: &[f32], to: &[char], size: &dyn Fn(&char) -> usize) -> Vec<f32> {
    let shape: Vec<usize> = from.iter().map(size).collect();
    let s = strides(&shape);
    let target: Vec<usize> = to.iter().map(size).collect();
    let so = strides(&target);
    let steps: Vec<usize> = to.iter().map(|l| from.iter().position(|f| f == l).map_or(0, |p| s[p])).collect();
    let n: usize = target.iter().product();
    (0..n).map(|i| data[(0..to.len()).map(|d| i / so[d] % target[d] * steps[d]).sum::<usize>()]).collect()
}

/// One pairwise contraction as a batched matrix product.
fn contract(
    isa: Isa,
    (la, a): (Vec<char>, Vec<f32>),
    (lb, b): (Vec<char>, Vec<f32>),
    needed: &[char],
    size: &dyn Fn(&char) -> usize,
) -> std::result::Result<(Vec<char>, Vec<f32>), KernelError> {
    let both = |l: &&char| la.contains(l) && lb.contains(l);
    let batch: Vec<char> = la.iter().filter(|l| both(l) && needed.contains(l)).copied().collect();
    let summed: Vec<char> = la.iter().filter(|l| both(l) && !needed.contains(l)).copied().collect();
    let only_a: Vec<char> = la.iter().filter(|l| !lb.contains(l)).copied().collect();
    let only_b: Vec<char> = lb.iter().filter(|l| !la.contains(l)).copied().collect();
    let len = |ls: &[char]| ls.iter().map(size).product::<usize>();
    let (n, m, k, p) = (len(&batch), len(&only_a), len(&summed), len(&only_b));
    let a = reorder(&la, &a, &[&batch[..], &only_a, &summed].concat(), size);
    let b = reorder(&lb, &b, &[&batch[..], &summed, &only_b].concat(), size);
    let mut out = vec![0f32; n * m * p];
    for i in 0..n {
        let (x, y) = (&a[i * m * k..(i + 1) * m * k], &b[i * k * p..(i + 1) * k * p]);
        gemm(isa, Mat::dense(x, m, k), Mat::dense(y, k, p), &mut out[i * m * p..(i + 1) * m * p])?;
    }
    let letters = [batch, only_a, only_b].concat();
    // Indices that nobody needs any more and that only one side had: summed away.
    let kept: Vec<char> = letters.iter().filter(|l| needed.contains(l)).copied().collect();
    if kept.len() == letters.len() {
        return Ok((letters, out));
    }
    let gone: Vec<char> = letters.iter().filter(|l| !needed.contains(l)).copied().collect();
    let rows = reorder(&letters, &out, &[&kept[..], &gone].concat(), size);
    let g = len(&gone).max(1);
    Ok((kept, rows.chunks_exact(g).map(|r| r.iter().sum()).collect()))
}

pub(super) const TABLE: Table = &[
    ("aten.linear.default", linear),
    ("aten.mm.default", matmul),
    ("aten.bmm.default", matmul),
    ("aten.matmul.default", matmul),
    ("aten.addmm.default", addmm),
    ("aten.baddbmm.default", addmm),
    ("aten.einsum.default", einsum),
];
