//! `einsum`: operands are multiplied from left to right, each pair as a batch of matrix products.

use super::{Build, PassFailure, Table, Values, one, out_type};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;
use std::collections::BTreeSet;

/// An index of the equation. Dimensions under `...` are numbered from the last one on.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Index {
    Dots(usize),
    Letter(char),
}

/// A tensor with the index of each of its dimensions.
struct Term {
    value: ValueId,
    indices: Vec<Index>,
}

/// Indices of `term` for a tensor of `rank` dimensions; `None` when it does not fit.
fn indices(term: &str, rank: usize) -> Option<Vec<Index>> {
    let (before, after) = match term.split_once("...") {
        Some((a, b)) => (a, Some(b)),
        None => (term, None),
    };
    let letters = |s: &str| s.chars().map(Index::Letter).collect::<Vec<_>>();
    let (mut out, tail) = (letters(before), letters(after.unwrap_or("")));
    let dots = rank.checked_sub(out.len() + tail.len())?;
    if after.is_none() && dots > 0 {
        return None;
    }
    out.extend((0..dots).rev().map(Index::Dots));
    out.extend(tail);
    Some(out)
}

fn einsum(b: &mut Build<'_>, n: &Node) -> Values {
    let Arg::Str(equation) = n.arg(0) else { return Ok(None) };
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = match equation.split_once("->") {
        Some((i, o)) => (i, Some(o)),
        None => (&equation[..], None),
    };
    let dtype = out_type(b, n).dtype;
    let mut terms = vec![];
    for (text, value) in inputs.split(',').zip(n.arg(1).values()) {
        let Some(indices) = indices(text, b.ty(value).rank()) else { return Ok(None) };
        if indices.iter().collect::<BTreeSet<_>>().len() != indices.len() {
            return Err(PassFailure(format!(
                "{text:?} in {equation:?} takes a diagonal; take it with torch.diagonal first"
            )));
        }
        terms.push(Term { value: b.cast(value, dtype)?, indices });
    }
    let rank = b.ty(n.output()).rank();
    let wanted = match output {
        Some(o) => indices(o, rank),
        None => Some(implicit(&terms)),
    };
    let Some(wanted) = wanted.filter(|w| w.len() == rank) else { return Ok(None) };
    let mut rest = terms.into_iter();
    let Some(mut left) = rest.next() else { return Ok(None) };
    let mut rest: Vec<Term> = rest.collect();
    while !rest.is_empty() {
        let right = rest.remove(0);
        let needed: BTreeSet<Index> =
            wanted.iter().chain(rest.iter().flat_map(|t| &t.indices)).copied().collect();
        left = multiply(b, left, right, &needed)?;
    }
    let left = keep(b, left, &wanted.iter().copied().collect())?;
    let order: Option<Vec<usize>> =
        wanted.iter().map(|i| left.indices.iter().position(|have| have == i)).collect();
    match order {
        Some(order) => one(b.permute(left.value, &order)?),
        None => Ok(None),
    }
}

/// Without an arrow: dots, then the letters that occur once, in alphabetical order.
fn implicit(terms: &[Term]) -> Vec<Index> {
    let all: Vec<Index> = terms.iter().flat_map(|t| t.indices.iter().copied()).collect();
    let dots: BTreeSet<Index> = all.iter().copied().filter(|i| matches!(i, Index::Dots(_))).collect();
    let mut out: Vec<Index> = dots.into_iter().rev().collect();
    let letters: BTreeSet<Index> = all.iter().copied().filter(|i| matches!(i, Index::Letter(_))).collect();
    out.extend(letters.into_iter().filter(|l| all.iter().filter(|i| *i == l).count() == 1));
    out
}

/// Sums over indices that nobody needs any more.
fn keep(b: &mut Build<'_>, t: Term, needed: &BTreeSet<Index>) -> Result<Term, PassFailure> {
    let gone: Vec<usize> = (0..t.indices.len()).filter(|&d| !needed.contains(&t.indices[d])).collect();
    if gone.is_empty() {
        return Ok(t);
    }
    let value = b.op(&ops::SUM_DIM, [t.value.into(), Arg::ints(gone)])?;
    let indices = t.indices.into_iter().filter(|i| needed.contains(i)).collect();
    Ok(Term { value, indices })
}

/// The product of two terms over the indices that are `needed` later.
fn multiply(b: &mut Build<'_>, x: Term, y: Term, needed: &BTreeSet<Index>) -> Result<Term, PassFailure> {
    let of = |t: &Term| t.indices.iter().copied().collect::<BTreeSet<Index>>();
    let (in_x, in_y) = (of(&x), of(&y));
    let x = keep(b, x, &needed.union(&in_y).copied().collect())?;
    let y = keep(b, y, &needed.union(&in_x).copied().collect())?;
    let both = |i: &&Index| in_x.contains(i) && in_y.contains(i);
    let batch: Vec<Index> = x.indices.iter().filter(both).filter(|i| needed.contains(i)).copied().collect();
    let summed: Vec<Index> = x.indices.iter().filter(both).filter(|i| !needed.contains(i)).copied().collect();
    let only_x: Vec<Index> = x.indices.iter().filter(|i| !in_y.contains(i)).copied().collect();
    let only_y: Vec<Index> = y.indices.iter().filter(|i| !in_x.contains(i)).copied().collect();
    // Either side of a shared index may have size 1.
    let size = |b: &Build<'_>, i: &Index| {
        let at = |t: &Term| {
            let d = t.indices.iter().position(|have| have == i)?;
            Some(b.ty(t.value).shape[d].clone())
        };
        match (at(&x), at(&y)) {
            (Some(a), Some(c)) if a == 1 => c,
            (Some(a), _) | (None, Some(a)) => a,
            (None, None) => SymInt::Known(1),
        }
    };
    let product = |b: &Build<'_>, list: &[Index]| list.iter().map(|i| size(b, i)).product::<SymInt>();
    let (bs, ms, ks, ns) =
        (product(b, &batch), product(b, &only_x), product(b, &summed), product(b, &only_y));
    let shape: Vec<SymInt> = batch.iter().chain(&only_x).chain(&only_y).map(|i| size(b, i)).collect();
    let px = arranged(b, &x, &[&batch, &only_x, &summed], &size)?;
    let px = b.view(px, vec![bs.clone(), ms, ks.clone()])?;
    let py = arranged(b, &y, &[&batch, &summed, &only_y], &size)?;
    let py = b.view(py, vec![bs, ks, ns])?;
    let value = b.op(&ops::BMM, [px.into(), py.into()])?;
    let value = b.view(value, shape)?;
    Ok(Term { value, indices: [batch, only_x, only_y].concat() })
}

/// A term's dimensions in this order, each at its full size.
fn arranged(
    b: &mut Build<'_>,
    t: &Term,
    order: &[&[Index]],
    size: &dyn Fn(&Build<'_>, &Index) -> SymInt,
) -> Result<ValueId, PassFailure> {
    let wanted: Vec<Index> = order.concat();
    let dims: Vec<usize> =
        wanted.iter().filter_map(|i| t.indices.iter().position(|have| have == i)).collect();
    let shape = wanted.iter().map(|i| size(b, i)).collect();
    let y = b.permute(t.value, &dims)?;
    b.expand(y, shape)
}

pub(super) const TABLE: Table = &[("aten.einsum.default", einsum)];
