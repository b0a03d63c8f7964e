//! Reductions, sorting and running sums.

use super::Table;
use super::elementwise::{Arith, at_dtype};
use crate::kernel::{ConcreteArg, KernelCall, KernelError, Number, TensorMut, TensorRef, strides, wrap};
use lowbit_core::DType;
use std::cmp::Ordering;

type Result = std::result::Result<(), KernelError>;

/// The input regrouped for a reduction: kept dimensions in order, reduced ones behind them.
struct Groups {
    /// Offset of each output element's group.
    outer: Vec<usize>,
    /// Offsets inside a group.
    inner: Vec<usize>,
}

fn offsets(shape: &[usize], s: &[usize], dims: &[usize]) -> Vec<usize> {
    dims.iter().fold(vec![0], |acc, &d| {
        acc.iter().flat_map(|&a| (0..shape[d]).map(move |i| (a, i))).map(|(a, i)| a + i * s[d]).collect()
    })
}

fn groups(shape: &[usize], reduced: &[bool]) -> Groups {
    let s = strides(shape);
    let (gone, kept): (Vec<usize>, Vec<usize>) = (0..shape.len()).partition(|&d| reduced[d]);
    Groups { outer: offsets(shape, &s, &kept), inner: offsets(shape, &s, &gone) }
}

/// The dimensions argument `i` names; absent or empty: all.
fn dims(c: &KernelCall<'_>, i: usize, rank: usize) -> Vec<bool> {
    let list = match c.arg(i) {
        ConcreteArg::Int(d) => vec![*d],
        ConcreteArg::Ints(l) => l.clone(),
        _ => vec![],
    };
    let mut flags = vec![list.is_empty(); rank];
    for d in list {
        if let Some(f) = flags.get_mut(wrap(d, rank)) {
            *f = true;
        }
    }
    flags
}

/// The groups of the operator's `dim` argument, if it has one.
fn own_groups(c: &KernelCall<'_>, x: TensorRef<'_>) -> Groups {
    let by_dim = c.op.schema().args.get(1).is_some_and(|a| a.name.starts_with("dim"));
    groups(x.shape, &if by_dim { dims(c, 1, x.shape.len()) } else { vec![true; x.shape.len()] })
}

/// Sums `n` numbers pairwise, so that long sums keep their precision.
fn pairwise(n: usize, at: &dyn Fn(usize) -> f64) -> f64 {
    // f64 accumulation of f32 data needs no pairing; it is exact to far below f32's last bit.
    (0..n).map(at).sum()
}

fn each(
    c: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
    f: impl Fn(usize, &dyn Fn(usize) -> f64) -> f64,
) -> Result {
    let x = c.tensor(0)?;
    let g = own_groups(c, x);
    let v = x.as_vec::<f64>();
    out.store(g.outer.iter().map(|&o| f(g.inner.len(), &|k| v[o + g.inner[k]])));
    Ok(())
}

fn sum(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    if outs[0].dtype.is_float() {
        return each(c, &mut outs[0], pairwise);
    }
    fold_ints(c, &mut outs[0], 0, i64::wrapping_add)
}

fn prod(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    if outs[0].dtype.is_float() {
        return each(c, &mut outs[0], |n, at| (0..n).map(at).product());
    }
    fold_ints(c, &mut outs[0], 1, i64::wrapping_mul)
}

fn fold_ints(c: &KernelCall<'_>, out: &mut TensorMut<'_>, zero: i64, f: impl Fn(i64, i64) -> i64) -> Result {
    let x = c.tensor(0)?;
    let g = own_groups(c, x);
    let v = x.as_vec::<i64>();
    out.store(g.outer.iter().map(|&o| g.inner.iter().fold(zero, |a, i| f(a, v[o + i]))));
    Ok(())
}

fn mean(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    each(c, &mut outs[0], |n, at| pairwise(n, at) / n as f64)
}

/// `var`/`std` with argument `correction` (default 1), or `unbiased`.
fn variance(c: &KernelCall<'_>, out: &mut TensorMut<'_>, root: bool) -> Result {
    let correction = match c.arg(2) {
        ConcreteArg::Bool(b) => f64::from(u8::from(*b)),
        _ => c.opt_float(2).unwrap_or(1.0),
    };
    each(c, out, |n, at| {
        let mean = pairwise(n, at) / n as f64;
        let v = pairwise(n, &|k| (at(k) - mean) * (at(k) - mean)) / (n as f64 - correction).max(0.0);
        if root { v.sqrt() } else { v }
    })
}
fn var(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    variance(c, &mut outs[0], false)
}
fn std(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    variance(c, &mut outs[0], true)
}
fn var_mean(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    variance(c, &mut outs[0], false)?;
    each(c, &mut outs[1], |n, at| pairwise(n, at) / n as f64)
}

/// The place of the best element of each group: the first among equals; NaN is best of all.
fn best<T: Number>(v: &[T], g: &Groups, better: impl Fn(T, T) -> bool) -> Vec<usize> {
    let nan = |x: T| x.partial_cmp(&x).is_none();
    g.outer
        .iter()
        .map(|&o| {
            let mut at = 0;
            for k in 1..g.inner.len() {
                let (new, old) = (v[o + g.inner[k]], v[o + g.inner[at]]);
                if !nan(old) && (nan(new) || better(new, old)) {
                    at = k;
                }
            }
            at
        })
        .collect()
}

/// Values (and indices, if there is a second output) of the largest or smallest of each group.
fn extreme(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], max: bool) -> Result {
    let x = c.tensor(0)?;
    let g = own_groups(c, x);
    if g.inner.is_empty() && !g.outer.is_empty() {
        return Err(KernelError::new("there is no largest or smallest element of nothing"));
    }
    at_dtype!(x.dtype, T => {
        let v = x.as_vec::<T>();
        let at = best(&v, &g, |a, b| if max { a > b } else { a < b });
        outs[0].store(at.iter().zip(&g.outer).map(|(&k, &o)| v[o + g.inner[k]]));
        if let [_, indices] = outs {
            indices.store(at.iter().map(|&k| k as i64));
        }
        Ok(())
    })
}
fn max(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    extreme(c, outs, true)
}
fn min(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    extreme(c, outs, false)
}

fn arg_extreme(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], max: bool) -> Result {
    let x = c.tensor(0)?;
    let g = own_groups(c, x);
    at_dtype!(x.dtype, T => {
        let v = x.as_vec::<T>();
        let at = best(&v, &g, |a, b| if max { a > b } else { a < b });
        outs[0].store(at.iter().map(|&k| k as i64));
        Ok(())
    })
}
fn argmax(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    arg_extreme(c, outs, true)
}
fn argmin(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    arg_extreme(c, outs, false)
}

/// The lower median, and where it is.
fn median(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let g = own_groups(c, x);
    at_dtype!(x.dtype, T => {
        let v = x.as_vec::<T>();
        let at: Vec<usize> = g.outer.iter().map(|&o| {
            let mut order: Vec<usize> = (0..g.inner.len()).collect();
            order.sort_by(|&a, &b| nan_last(v[o + g.inner[a]], v[o + g.inner[b]]));
            let first_nan = order.iter().copied().find(|&k| is_nan(v[o + g.inner[k]]));
            first_nan.unwrap_or_else(|| order[(order.len() - 1) / 2])
        }).collect();
        outs[0].store(at.iter().zip(&g.outer).map(|(&k, &o)| v[o + g.inner[k]]));
        if let [_, indices] = outs {
            indices.store(at.iter().map(|&k| k as i64));
        }
        Ok(())
    })
}

fn is_nan<T: PartialOrd>(x: T) -> bool {
    x.partial_cmp(&x).is_none()
}

/// Ascending, NaN at the end.
fn nan_last<T: PartialOrd + Copy>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
}

fn any(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    each(c, &mut outs[0], |n, at| f64::from(u8::from((0..n).any(|k| at(k) != 0.0))))
}
fn all(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    each(c, &mut outs[0], |n, at| f64::from(u8::from((0..n).all(|k| at(k) != 0.0))))
}

/// `norm(self, p, dim)` and `linalg_vector_norm(self, ord, dim)`
fn norm(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let g = groups(x.shape, &dims(c, 2, x.shape.len()));
    let p = c.opt_float(1).unwrap_or(2.0);
    let v = x.as_vec::<f64>();
    outs[0].store(g.outer.iter().map(|&o| {
        let at = g.inner.iter().map(|i| v[o + i].abs());
        if p == f64::INFINITY {
            at.fold(0.0, f64::max)
        } else if p == f64::NEG_INFINITY {
            at.fold(f64::INFINITY, f64::min)
        } else if p == 0.0 {
            at.filter(|x| *x != 0.0).count() as f64
        } else if p == 2.0 {
            at.map(|x| x * x).sum::<f64>().sqrt()
        } else {
            at.map(|x| x.powf(p)).sum::<f64>().powf(1.0 / p)
        }
    }));
    Ok(())
}

fn cumsum(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    let (n, inner) = (x.shape.get(d).copied().unwrap_or(1), x.shape.iter().skip(d + 1).product::<usize>());
    fn run<T: Number>(v: &[T], n: usize, inner: usize, add: impl Fn(T, T) -> T) -> Vec<T> {
        let mut out = v.to_vec();
        for i in inner..out.len() {
            if !(i / inner).is_multiple_of(n) {
                out[i] = add(out[i - inner], out[i]);
            }
        }
        out
    }
    if inner == 0 {
        return Ok(());
    }
    match outs[0].dtype.is_float() {
        true => outs[0].store(run(&x.as_vec::<f64>(), n, inner, |a, b| a + b)),
        false => outs[0].store(run(&x.as_vec::<i64>(), n, inner, i64::wrapping_add)),
    }
    Ok(())
}

/// Sorted runs along dimension `d`; the first `k` of each. Equal elements keep their order.
fn ordered(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>], d: usize, k: usize, descending: bool) -> Result {
    let x = c.tensor(0)?;
    at_dtype!(x.dtype, T => {
        let v = x.as_vec::<T>();
        let (n, inner) = (x.shape.get(d).copied().unwrap_or(1), x.shape.iter().skip(d + 1).product::<usize>());
        let (mut values, mut indices) = (vec![T::default(); outs[0].numel()], vec![0i64; outs[0].numel()]);
        let blocks = v.len().checked_div(n * inner).unwrap_or(0);
        for b in 0..blocks {
            for i in 0..inner {
                let at = |j: usize| v[(b * n + j) * inner + i];
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&p, &q| if descending { nan_last(at(q), at(p)) } else { nan_last(at(p), at(q)) });
                for (j, &o) in order.iter().take(k).enumerate() {
                    values[(b * k + j) * inner + i] = at(o);
                    indices[(b * k + j) * inner + i] = o as i64;
                }
            }
        }
        outs[0].store(values);
        outs[1].store(indices);
        Ok(())
    })
}
fn sort(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.shape.len())?;
    ordered(c, outs, d, x.shape.get(d).copied().unwrap_or(1), c.bool(2)?)
}
/// `topk(self, k, dim, largest, sorted)`
fn topk(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    ordered(c, outs, c.dim(2, x.shape.len())?, c.int(1)? as usize, c.bool(3)?)
}

/// `diff(self, n, dim, prepend, append)`
fn diff(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let x = c.tensor(0)?;
    let d = c.dim(2, x.shape.len())?;
    at_dtype!(outs[0].dtype, T => {
        let parts: Vec<TensorRef<'_>> = [c.opt_tensor(3), Some(x), c.opt_tensor(4)].into_iter().flatten().collect();
        let inner: usize = x.shape[d + 1..].iter().product();
        let outer: usize = x.shape[..d].iter().product();
        let data: Vec<_> = parts.iter().map(|p| (p.as_vec::<T>(), p.shape[d] * inner)).collect();
        let mut n: usize = parts.iter().map(|p| p.shape[d]).sum();
        let mut v: Vec<T> = (0..outer)
            .flat_map(|b| data.iter().flat_map(move |(p, run)| p[b * run..(b + 1) * run].iter().copied()))
            .collect();
        for _ in 0..c.int(1)? {
            if n == 0 { break }
            let block = n * inner;
            v = v.chunks_exact(block.max(1))
                .flat_map(|b| (inner..block).map(|i| {
                    // Booleans differ by exclusive or.
                    Arith::sub(b[i], b[i - inner])
                }))
                .collect();
            n -= 1;
        }
        outs[0].store(v);
        Ok(())
    })
}

/// `cosine_similarity(x1, x2, dim, eps)`
fn cosine(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (a, b) = (c.tensor(0)?, c.tensor(1)?);
    let rank = a.shape.len().max(b.shape.len());
    let d = c.dim(2, rank)?;
    let eps = c.float(3)?;
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |k| s[k]);
    let shape: Vec<usize> = (0..rank).map(|i| at(a.shape, i).max(at(b.shape, i))).collect();
    let mut reduced = vec![false; rank];
    reduced[d] = true;
    let g = groups(&shape, &reduced);
    let s = strides(&shape);
    let (sa, sb) = (
        crate::kernel::broadcast_strides(a.shape, &shape),
        crate::kernel::broadcast_strides(b.shape, &shape),
    );
    let (va, vb) = (a.as_vec::<f64>(), b.as_vec::<f64>());
    let map = |i: usize, t: &[usize]| (0..rank).map(|k| i / s[k] % shape[k] * t[k]).sum::<usize>();
    outs[0].store(g.outer.iter().map(|&o| {
        let (mut dot, mut na, mut nb) = (0.0, 0.0, 0.0);
        for i in &g.inner {
            let (x, y) = (va[map(o + i, &sa)], vb[map(o + i, &sb)]);
            dot += x * y;
            na += x * x;
            nb += y * y;
        }
        dot / (na.sqrt().max(eps) * nb.sqrt().max(eps))
    }));
    Ok(())
}

/// `cross(self, other, dim)`
fn cross(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (a, b) = (c.tensor(0)?, c.tensor(1)?);
    if a.shape != b.shape {
        return Err(KernelError::new("cross products of broadcast tensors are not implemented"));
    }
    let d = match c.arg(2) {
        ConcreteArg::None => a.shape.iter().position(|&n| n == 3).unwrap_or(0),
        _ => c.dim(2, a.shape.len())?,
    };
    let inner: usize = a.shape[d + 1..].iter().product();
    let (va, vb) = (a.as_vec::<f64>(), b.as_vec::<f64>());
    outs[0].store((0..va.len()).map(|i| {
        let (base, k, j) = (i / (3 * inner) * 3 * inner, i / inner % 3, i % inner);
        let at = |k: usize| base + k % 3 * inner + j;
        va[at(k + 1)] * vb[at(k + 2)] - va[at(k + 2)] * vb[at(k + 1)]
    }));
    Ok(())
}

pub(super) const TABLE: Table = &[
    ("aten.sum.default", sum),
    ("aten.sum.dim_IntList", sum),
    ("aten.prod.default", prod),
    ("aten.prod.dim_int", prod),
    ("aten.mean.default", mean),
    ("aten.mean.dim", mean),
    ("aten.var.correction", var),
    ("aten.var.dim", var),
    ("aten.var_mean.correction", var_mean),
    ("aten.std.correction", std),
    ("aten.amax.default", max),
    ("aten.amin.default", min),
    ("aten.max.default", max),
    ("aten.min.default", min),
    ("aten.max.dim", max),
    ("aten.min.dim", min),
    ("aten.median.default", median),
    ("aten.median.dim", median),
    ("aten.argmax.default", argmax),
    ("aten.argmin.default", argmin),
    ("aten.any.default", any),
    ("aten.any.dim", any),
    ("aten.all.default", all),
    ("aten.all.dim", all),
    ("aten.norm.ScalarOpt_dim", norm),
    ("aten.linalg_vector_norm.default", norm),
    ("aten.cumsum.default", cumsum),
    ("aten.sort.default", sort),
    ("aten.topk.default", topk),
    ("aten.diff.default", diff),
    ("aten.cosine_similarity.default", cosine),
    ("aten.cross.default", cross),
];
