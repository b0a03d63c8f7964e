//! Matrix products and attention.

use super::Call;
use super::rules::{Types, broadcast, broadcast_dim, differ, one};
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;
use std::collections::BTreeMap;

ops! {
    LINEAR = "aten.linear.default" "(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", linear;
    MM = "aten.mm.default" "(Tensor self, Tensor mat2) -> Tensor", |c| product(c, 0, 1, 2);
    BMM = "aten.bmm.default" "(Tensor self, Tensor mat2) -> Tensor", |c| product(c, 0, 1, 3);
    ADDMM = "aten.addmm.default" "(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", |c| added(c, 2);
    BADDBMM = "aten.baddbmm.default" "(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", |c| added(c, 3);
    MATMUL = "aten.matmul.default" "(Tensor self, Tensor other) -> Tensor", matmul;
    EINSUM = "aten.einsum.default" "(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor", einsum;
    SCALED_DOT_PRODUCT_ATTENTION = "aten.scaled_dot_product_attention.default" "(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor", attention;
}

/// `[.., in] x [out, in] -> [.., out]`
fn linear(c: &Call<'_>) -> Types {
    let (x, w) = (c.tensor(0)?, c.tensor(1)?);
    let (Some(last), [out, inner]) = (x.shape.last(), &w.shape[..]) else {
        return c.error(format!("input is {x}, weight is {w}; a weight has two dimensions, an input at least one"));
    };
    if differ(last, inner) {
        return c.error(format!("input {x} has {last} features, weight {w} takes {inner}"));
    }
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("has a last dimension") = out.clone();
    one(x.dtype, shape)
}

/// `[.., n, k] x [.., k, m]`; arguments `a` and `b` have `rank` dimensions.
fn product(c: &Call<'_>, a: usize, b: usize, rank: usize) -> Types {
    let (x, y) = (c.tensor(a)?, c.tensor(b)?);
    if x.rank() != rank || y.rank() != rank {
        return c.error(format!("{x} and {y} should both have {rank} dimensions"));
    }
    let (n, k) = (&x.shape[rank - 2], &x.shape[rank - 1]);
    let (l, m) = (&y.shape[rank - 2], &y.shape[rank - 1]);
    let batch = &x.shape[..rank - 2];
    if differ(k, l) || batch.iter().zip(&y.shape).any(|(p, q)| differ(p, q)) {
        return c.error(format!("{x} and {y} cannot be multiplied"));
    }
    one(x.dtype, batch.iter().chain([n, m]).cloned().collect())
}

/// `addmm(self, mat1, mat2)`: the product, to which argument 0 broadcasts.
fn added(c: &Call<'_>, rank: usize) -> Types {
    let out = product(c, 1, 2, rank)?;
    let bias = c.tensor(0)?;
    if broadcast(&bias.shape, &out[0].shape)?.len() != rank {
        return c.error(format!("{bias} does not broadcast to {}", out[0]));
    }
    Ok(out)
}

fn matmul(c: &Call<'_>) -> Types {
    let (x, y) = (c.tensor(0)?, c.tensor(1)?);
    let (Some(k), false) = (x.shape.last(), y.shape.is_empty()) else {
        return c.error(format!("{x} and {y} cannot be multiplied"));
    };
    let l = &y.shape[y.rank().saturating_sub(2)];
    if differ(k, l) {
        return c.error(format!("{x} and {y} cannot be multiplied"));
    }
    let batch = |t: &TensorType| t.shape[..t.rank().saturating_sub(2)].to_vec();
    let mut shape = broadcast(&batch(x), &batch(y))?;
    if x.rank() > 1 {
        shape.push(x.shape[x.rank() - 2].clone());
    }
    if y.rank() > 1 {
        shape.push(y.shape[y.rank() - 1].clone());
    }
    one(x.dtype.promote(y.dtype), shape)
}

/// `einsum("bij,bjk->bik", [a, b])`: each letter is one size; `...` stands for broadcast dimensions.
fn einsum(c: &Call<'_>) -> Types {
    let Arg::Str(equation) = c.arg(0) else { return c.error("an equation is missing") };
    let operands = c.tensors(1)?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = match equation.split_once("->") {
        Some((i, o)) => (i, Some(o.to_string())),
        None => (&equation[..], None),
    };
    let terms: Vec<&str> = inputs.split(',').collect();
    if terms.len() != operands.len() {
        return c.error(format!("{equation:?} has {} terms for {} operands", terms.len(), operands.len()));
    }
    let mut sizes: BTreeMap<char, (SymInt, usize)> = BTreeMap::new();
    let mut ellipsis: Vec<SymInt> = vec![];
    for (term, t) in terms.iter().zip(&operands) {
        let letters = term.replace("...", "");
        let extra = t.rank().checked_sub(letters.chars().count());
        let (Some(extra), true) = (extra, term.contains("...") || extra == Some(0)) else {
            return c.error(format!("term {term:?} does not fit {t}"));
        };
        let before = term.find("...").unwrap_or(0);
        let mut dims = t.shape.clone();
        let middle: Vec<SymInt> = dims.drain(before..before + extra).collect();
        ellipsis = broadcast(&ellipsis, &middle)?;
        for (l, d) in letters.chars().zip(dims) {
            let (size, count) = sizes.entry(l).or_insert_with(|| (d.clone(), 0));
            *count += 1;
            match broadcast_dim(size, &d) {
                Some(s) => *size = s,
                None => return c.error(format!("index {l} is {size} and {d} in {equation:?}")),
            }
        }
    }
    // Without an arrow: the indices that occur once, in alphabetical order.
    let output = output.unwrap_or_else(|| {
        let once = sizes.iter().filter(|(_, (_, n))| *n == 1).map(|(l, _)| *l);
        let dots = if ellipsis.is_empty() { "" } else { "..." };
        dots.chars().chain(once).collect()
    });
    let mut shape = vec![];
    let mut rest = &output[..];
    while let Some(l) = rest.chars().next() {
        if let Some(r) = rest.strip_prefix("...") {
            shape.extend(ellipsis.iter().cloned());
            rest = r;
            continue;
        }
        let Some((size, _)) = sizes.get(&l) else {
            return c.error(format!("index {l} of the result is in no operand"));
        };
        shape.push(size.clone());
        rest = &rest[l.len_utf8()..];
    }
    let dtype = operands.iter().map(|t| t.dtype).reduce(|a, b| a.promote(b));
    one(dtype.unwrap_or(crate::DType::F32), shape)
}

/// Attention: `[.., L, E], [.., S, E], [.., S, V] -> [.., L, V]`.
fn attention(c: &Call<'_>) -> Types {
    let (q, k, v) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    let fit = match (q.shape.last(), k.shape.last()) {
        (Some(a), Some(b)) => !differ(a, b),
        _ => false,
    };
    if q.rank() < 2 || k.rank() < 2 || v.rank() < 2 || !fit {
        return c.error(format!("query {q}, key {k} and value {v} do not fit"));
    }
    let mut shape = q.shape.clone();
    *shape.last_mut().expect("two dimensions") = v.shape[v.rank() - 1].clone();
    one(q.dtype, shape)
}
