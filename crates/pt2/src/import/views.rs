//! Which operators return a view of their first operand, as [`Step`]s.

use super::memory::Step;
use crate::schema::{SymInt as SchemaInt, TensorMeta};
use lowbit_core::SymInt;
use lowbit_core::ir::{Arg, TensorType};
use lowbit_core::ops::OpDef;

/// What is known of a node with one tensor operand that may be shared.
pub struct Shared<'a> {
    pub op: &'static OpDef,
    pub args: &'a [Arg],
    /// The operand's type.
    pub from: &'a TensorType,
    /// The operand as recorded, for its strides.
    pub from_meta: Option<&'a TensorMeta<'a>>,
    /// The results' types.
    pub to: &'a [TensorType],
    /// The results as recorded.
    pub to_meta: &'a [Option<&'a TensorMeta<'a>>],
}

impl Shared<'_> {
    /// The step to each result; empty when the results have memory of their own.
    pub fn steps(&self) -> Vec<Step> {
        let one = |s: Step| vec![s];
        let shape = || Step::Reshape(self.to[0].shape.clone());
        if self.to.is_empty() {
            return vec![];
        }
        match self.op.packet() {
            "aten.alias" | "aten.detach" | "aten.lift" | "aten.positive" | "aten.real"
            | "aten.resolve_conj" | "aten.resolve_neg" => one(Step::Same),
            "aten.dropout" | "aten.feature_dropout" | "aten.alpha_dropout" | "aten.feature_alpha_dropout"
                if self.flag(2) == Some(false) || self.args.get(1) == Some(&Arg::Float(0.0)) =>
            {
                one(Step::Same)
            }
            "aten.to" | "aten.type_as" | "aten.contiguous" | "aten._to_copy" if self.is_same_storage() => {
                one(Step::Same)
            }
            "aten.view" | "aten._unsafe_view" | "aten.view_as" | "aten._reshape_alias"
                if self.from.dtype == self.to[0].dtype =>
            {
                one(shape())
            }
            "aten.squeeze" | "aten.unsqueeze" | "aten.unflatten" => one(shape()),
            "aten.reshape" | "aten.flatten" | "aten.reshape_as" | "aten.ravel" if self.reshape_shares() => {
                one(shape())
            }
            "aten.permute" => self.ints(1).map_or(self.opaque(), |order| self.permute(&order)),
            "aten.t" | "aten.numpy_T" | "aten.mT" | "aten.matrix_H" | "aten.adjoint" => {
                match self.from.rank() {
                    0 | 1 => one(Step::Same),
                    2 => self.permute(&[1, 0]),
                    _ => self.opaque(),
                }
            }
            "aten.transpose" | "aten.swapaxes" | "aten.swapdims" => {
                let mut order: Vec<i64> = (0..self.from.rank() as i64).collect();
                match (self.dim(1), self.dim(2)) {
                    (Some(a), Some(b)) if a < order.len() && b < order.len() => {
                        order.swap(a, b);
                        self.permute(&order)
                    }
                    _ => one(Step::Same),
                }
            }
            "aten.slice" => {
                let Some(dim) = self.dim(1) else { return self.opaque() };
                let (start, end) = match (self.args.get(2), self.args.get(3)) {
                    (Some(s), Some(e)) => (bound(s, 0), bound(e, i64::MAX)),
                    _ => return self.opaque(),
                };
                let step = match self.args.get(4) {
                    Some(Arg::Int(SymInt::Known(n))) => *n,
                    _ => 1,
                };
                one(Step::Slice { dim, start, end, step })
            }
            "aten.narrow" => match (self.dim(1), self.args.get(2), self.args.get(3)) {
                (Some(dim), Some(Arg::Int(start)), Some(Arg::Int(n))) => {
                    // A start counted from the end would wrap past it in `start + length`.
                    let start = match start.known() {
                        Some(s) if s < 0 => self.from.shape[dim].clone() + s,
                        _ => start.clone(),
                    };
                    one(Step::Slice { dim, end: start.clone() + n.clone(), start, step: 1 })
                }
                _ => self.opaque(),
            },
            "aten.select" => match (self.dim(1), self.args.get(2)) {
                (Some(dim), Some(Arg::Int(index))) => one(Step::Select { dim, index: index.clone() }),
                _ => self.opaque(),
            },
            "aten.unbind" => match self.dim(1) {
                Some(dim) => (0..self.to.len()).map(|i| Step::Select { dim, index: i.into() }).collect(),
                None => self.opaque(),
            },
            "aten.split"
            | "aten.split_with_sizes"
            | "aten.chunk"
            | "aten.tensor_split"
            | "aten.unsafe_chunk"
            | "aten.unsafe_split" => {
                // Only `tensor_split` and the sizes of `split` differ in how they cut; the results' sizes tell.
                let Some(dim) = self.dim(2) else { return self.opaque() };
                let mut start = SymInt::Known(0);
                let piece = |t: &TensorType| {
                    let end = start.clone() + t.shape[dim].clone();
                    let step = Step::Slice { dim, start: start.clone(), end: end.clone(), step: 1 };
                    start = end;
                    step
                };
                self.to.iter().map(piece).collect()
            }
            "aten.expand" | "aten.expand_as" | "aten.broadcast_to" => {
                match self.from.shape == self.to[0].shape {
                    true => one(Step::Same),
                    false => self.opaque(),
                }
            }
            "aten.movedim" | "aten.moveaxis" | "aten.diagonal" | "aten.unfold" | "aten.as_strided"
            | "aten.view_as_real" | "aten.view" => self.opaque(),
            _ => vec![],
        }
    }

    fn opaque(&self) -> Vec<Step> {
        match self.to.len() {
            1 => vec![Step::Opaque(self.op, self.args.to_vec())],
            _ => vec![],
        }
    }

    fn permute(&self, order: &[i64]) -> Vec<Step> {
        let rank = self.from.rank() as i64;
        let order = order.iter().map(|&d| usize::try_from(if d < 0 { d + rank } else { d }));
        match order.collect::<Result<Vec<_>, _>>() {
            Ok(order) if order.iter().all(|&d| d < order.len()) => vec![Step::Permute(order)],
            _ => self.opaque(),
        }
    }

    fn flag(&self, i: usize) -> Option<bool> {
        match self.args.get(i) {
            Some(Arg::Bool(b)) => Some(*b),
            _ => None,
        }
    }

    fn ints(&self, i: usize) -> Option<Vec<i64>> {
        match self.args.get(i) {
            Some(Arg::Ints(l)) => l.iter().map(SymInt::known).collect(),
            _ => None,
        }
    }

    /// Argument `i` as a dimension of the operand, counted from the front.
    fn dim(&self, i: usize) -> Option<usize> {
        let Some(Arg::Int(d)) = self.args.get(i) else { return None };
        let (d, rank) = (d.known()?, self.from.rank() as i64);
        usize::try_from(if d < 0 { d + rank } else { d }).ok().filter(|&d| d < rank as usize)
    }

    /// Whether a conversion had nothing to do and gave its operand back: no other type, device or order of elements, and
    /// no copy asked for.
    fn is_same_storage(&self) -> bool {
        let copy = self.op.schema().index_of("copy").and_then(|i| self.flag(i)) == Some(true);
        let strides = |m: &TensorMeta<'_>| numbers(&m.strides);
        let same_order = match (self.from_meta, self.to_meta.first()) {
            (Some(a), Some(Some(b))) => strides(a) == strides(b),
            _ => true,
        };
        self.op.packet() != "aten._to_copy" && !copy && self.from.dtype == self.to[0].dtype && same_order
    }

    /// Whether a reshape could be done without moving elements, so that the result shares memory.
    fn reshape_shares(&self) -> bool {
        let (Some(from), Some(Some(to))) = (self.from_meta, self.to_meta.first()) else { return true };
        let known = |l| numbers(l).map(|l| l.into_iter().map(SymInt::Known).collect::<Vec<_>>());
        match (known(&from.sizes), known(&from.strides), known(&to.sizes)) {
            (Some(sizes), Some(strides), Some(new)) => view_strides(&sizes, &strides, &new).is_some(),
            _ => true,
        }
    }
}

fn bound(arg: &Arg, default: i64) -> SymInt {
    match arg {
        Arg::Int(n) => n.clone(),
        _ => default.into(),
    }
}

/// Sizes or strides as they were when the model was exported.
fn numbers(list: &[SchemaInt<'_>]) -> Option<Vec<i64>> {
    use crate::schema::Hint;
    list.iter()
        .map(|n| match n {
            SchemaInt::Int(n) => Some(*n),
            SchemaInt::Expr(e) => match e.hint {
                Some(Hint::Int(n)) => Some(n),
                _ => None,
            },
            SchemaInt::Other(_) => None,
        })
        .collect()
}

/// The strides under which elements of these sizes and strides are seen as `new` sizes without moving any: each group of
/// dimensions that merge must step evenly. `None` where elements would have to move, or where open sizes leave that open.
pub fn view_strides(sizes: &[SymInt], strides: &[SymInt], new: &[SymInt]) -> Option<Vec<SymInt>> {
    let known = |list: &[SymInt]| list.iter().map(SymInt::known).collect::<Option<Vec<i64>>>();
    if sizes.contains(&SymInt::Known(0)) || strides == contiguous(sizes) {
        return Some(contiguous(new));
    }
    let (sizes, strides, new) = (known(sizes)?, known(strides)?, known(new)?);
    // Runs of dimensions that step evenly, innermost first: elements, and the step between them.
    let mut runs: Vec<(i64, i64)> = vec![];
    let mut next = None;
    for (&n, &stride) in sizes.iter().zip(&strides).rev().filter(|(n, _)| **n != 1) {
        match runs.last_mut() {
            Some((run, _)) if next == Some(stride) => *run = run.saturating_mul(n),
            _ => runs.push((n, stride)),
        }
        next = Some(stride.saturating_mul(n));
    }
    // New dimensions must fill each run exactly.
    let mut out = vec![SymInt::Known(1); new.len()];
    let mut dims = (0..new.len()).rev().filter(|&d| new[d] != 1);
    for (run, step) in runs {
        let mut filled = 1i64;
        while filled < run {
            let d = dims.next()?;
            out[d] = filled.saturating_mul(step).into();
            filled = filled.saturating_mul(new[d]);
        }
        if filled != run {
            return None;
        }
    }
    // A single element's stride means nothing: that of what it encloses.
    for d in (0..new.len().saturating_sub(1)).rev().filter(|&d| new[d] == 1) {
        out[d] = out[d + 1].clone() * new[d + 1];
    }
    dims.next().is_none().then_some(out)
}

/// The strides of elements that lie in the order of their dimensions. A dimension of none counts as one.
pub fn contiguous(shape: &[SymInt]) -> Vec<SymInt> {
    let mut strides = vec![SymInt::Known(1); shape.len()];
    for d in (1..shape.len()).rev() {
        let n = if shape[d] == SymInt::Known(0) { SymInt::Known(1) } else { shape[d].clone() };
        strides[d - 1] = strides[d].clone() * n;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_have_pytorchs_strides() {
        for (sizes, strides, new, want) in [
            (&[4, 6][..], &[12, 2][..], &[2, 2, 3, 2][..], &[24, 12, 4, 2][..]),
            (&[3, 2], &[1, 3], &[3, 1, 2], &[1, 6, 3]),
            (&[4, 5], &[0, 1], &[2, 2, 5], &[0, 0, 1]),
            (&[2, 3], &[6, 1], &[2, 3, 1], &[6, 1, 1]),
        ] {
            let [a, b, c, d] =
                [sizes, strides, new, want].map(|l| l.iter().map(|&n| n.into()).collect::<Vec<SymInt>>());
            assert_eq!(view_strides(&a, &b, &c), Some(d), "{sizes:?} {strides:?} -> {new:?}");
        }
    }

    #[test]
    fn reshapes_share_memory_as_in_pytorch() {
        for (sizes, strides, new, want) in [
            (&[2, 3, 4][..], &[12, 4, 1][..], &[6, 4][..], true),
            (&[2, 3, 4], &[12, 4, 1], &[24], true),
            (&[3, 2], &[1, 3], &[6], false),
            (&[3, 2], &[1, 3], &[3, 1, 2], true),
            (&[2, 3], &[6, 1], &[2, 3, 1], true),
            (&[2, 3], &[6, 1], &[6], false),
            (&[4, 5], &[0, 1], &[2, 2, 5], true),
            (&[4, 5], &[0, 1], &[20], false),
            (&[4, 6], &[12, 2], &[2, 2, 3, 2], true),
            (&[4, 6], &[13, 2], &[8, 3], false),
            (&[1, 1], &[7, 9], &[1], true),
            (&[0, 3], &[3, 1], &[3, 0], true),
        ] {
            let [a, b, c] =
                [sizes, strides, new].map(|l| l.iter().map(|&n| n.into()).collect::<Vec<SymInt>>());
            assert_eq!(view_strides(&a, &b, &c).is_some(), want, "{sizes:?} {strides:?} -> {new:?}");
        }
    }
}
