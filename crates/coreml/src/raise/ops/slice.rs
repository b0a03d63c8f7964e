//! Slices, and writing into them.

use super::{Table, kept, one};
use crate::raise::Raised;
use crate::raise::call::Call;
use lowbit_core::Tensor;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    kept("slice_by_index", |c| {
        let x = c.tensor("x")?;
        let cuts = cuts(c, x)?;
        let mut y = x;
        for (d, cut) in cuts.iter().enumerate() {
            y = cut.of(c, y, d)?;
        }
        // From the last on: dimensions before keep their numbers.
        for d in (0..cuts.len()).rev().filter(|&d| cuts[d].single) {
            let begin = cuts[d].begin.clone();
            y = c.node(&ops::SELECT, [y.into(), d.into(), begin.into()])?;
        }
        one(y)
    }),
    kept("slice_by_size", |c| {
        let (x, begin, size) = (c.tensor("x")?, c.sizes("begin")?, c.sizes("size")?);
        let rank = c.rank(x);
        if begin.len() != rank || size.len() != rank {
            return Err(format!("arguments begin and size do not fit argument x, {}", c.ty(x)));
        }
        let mut y = x;
        for (d, (begin, size)) in begin.into_iter().zip(size).enumerate() {
            let end = if size == -1 { i64::MAX.into() } else { begin.clone() + &size };
            let cut = Cut { begin, end, stride: 1, single: false };
            y = cut.of(c, y, d)?;
        }
        one(y)
    }),
    kept("slice_update", |c| {
        let (x, update) = (c.tensor("x")?, c.tensor("update")?);
        let cuts = cuts(c, x)?;
        if cuts.iter().any(|c| c.stride < 1) {
            return Err("it writes backwards".into());
        }
        // Dimensions that are single ones in `x` are none of the update.
        let mut update = update;
        for d in (0..cuts.len()).filter(|&d| cuts[d].single) {
            update = c.node(&ops::UNSQUEEZE, [update.into(), d.into()])?;
        }
        one(put(c, x, update, &cuts, 0)?)
    }),
];

/// What is taken of a dimension.
struct Cut {
    begin: SymInt,
    end: SymInt,
    stride: i64,
    /// Only the element at `begin`, and the dimension goes.
    single: bool,
}

impl Cut {
    /// Whether all of the dimension is taken.
    fn is_whole(&self) -> bool {
        self.begin == 0 && self.end == i64::MAX && self.stride == 1 && !self.single
    }

    /// Takes it of dimension `d`; single elements are taken later.
    fn of(&self, c: &mut Call<'_>, x: ValueId, d: usize) -> Raised<ValueId> {
        if self.single || self.is_whole() {
            return Ok(x);
        }
        if self.stride > 0 {
            let args =
                [x.into(), d.into(), self.begin.clone().into(), self.end.clone().into(), self.stride.into()];
            return c.node(&ops::SLICE, args);
        }
        let size = c.ty(x).shape[d].clone();
        if self.stride == -1 && self.begin == i64::MAX && self.end == i64::MIN {
            return c.node(&ops::FLIP, [x.into(), Arg::ints([d])]);
        }
        let (Some(n), Some(begin), Some(end)) = (size.known(), self.begin.known(), self.end.known()) else {
            return Err("it goes backwards over an open size".into());
        };
        let inside = |at: i64| if at < 0 { at.saturating_add(n).max(-1) } else { at.min(n - 1) };
        let end = if end == i64::MIN { -1 } else { inside(end) };
        let (mut at, mut index) = (inside(begin), vec![]);
        while at > end && index.len() < LONGEST {
            index.push(at);
            at = at.saturating_add(self.stride);
        }
        if at > end {
            return Err(format!("it goes backwards over {n} elements"));
        }
        let index = Tensor::new(&[index.len()], index).map_err(|e| e.to_string())?;
        let index = c.constant_tensor("places", index);
        c.node(&ops::INDEX_SELECT, [x.into(), d.into(), index.into()])
    }
}

/// Elements that are gone over backwards are listed; more are refused.
const LONGEST: usize = 1 << 20;

/// The arguments begin, end, stride and their masks, for each dimension of `x`.
fn cuts(c: &Call<'_>, x: ValueId) -> Raised<Vec<Cut>> {
    let rank = c.rank(x);
    let fits = |name: &str, n: usize| match n == rank {
        true => Ok(()),
        false => Err(format!("argument {name} has {n} entries, argument x is {}", c.ty(x))),
    };
    let (begin, end) = (c.sizes("begin")?, c.sizes("end")?);
    let list = |name: &str, default: i64| -> Raised<Vec<i64>> {
        let l = c.opt_ints(name)?.unwrap_or_else(|| vec![default; rank]);
        fits(name, l.len())?;
        Ok(l)
    };
    let strides = list("stride", 1)?;
    let [first, last, single] = ["begin_mask", "end_mask", "squeeze_mask"].map(|name| list(name, 0));
    let (first, last, single) = (first?, last?, single?);
    fits("begin", begin.len())?;
    fits("end", end.len())?;
    let cut = |i: usize| {
        let stride = strides[i];
        let back = stride < 0;
        if stride == 0 || stride == i64::MIN {
            return Err(format!("argument stride holds {stride}"));
        }
        let open = |mask: i64, given: &SymInt, all: i64| if mask != 0 { all.into() } else { given.clone() };
        Ok(Cut {
            begin: open(first[i], &begin[i], if back { i64::MAX } else { 0 }),
            end: open(last[i], &end[i], if back { i64::MIN } else { i64::MAX }),
            stride,
            single: single[i] != 0,
        })
    };
    (0..rank).map(cut).collect()
}

/// `x` with `update` in what the cuts of dimensions `d..` take.
fn put(c: &mut Call<'_>, x: ValueId, update: ValueId, cuts: &[Cut], d: usize) -> Raised<ValueId> {
    let Some(at) = (d..cuts.len()).find(|&d| !cuts[d].is_whole()) else { return Ok(update) };
    let cut = &cuts[at];
    let (begin, end) = match cut.single {
        false => (cut.begin.clone(), cut.end.clone()),
        // The last element has no end behind it.
        true if cut.begin == -1 => (cut.begin.clone(), i64::MAX.into()),
        true => (cut.begin.clone(), cut.begin.clone() + 1),
    };
    let place = [at.into(), begin.into(), end.into(), cut.stride.into()];
    let part = c.node(&ops::SLICE, [&[x.into()], &place[..]].concat())?;
    let part = put(c, part, update, cuts, at + 1)?;
    c.node(&ops::SLICE_SCATTER, [&[x.into(), part.into()], &place[..]].concat())
}
