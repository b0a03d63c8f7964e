//! Masks: tensors that rule elements out by adding a huge number to them, as those of attention do.
//!
//! An observer that sees one gives it all integers but a few, and what the mask is added to is lost. So a quantizer leaves
//! the sum in floating point. (torchao's XNNPACK quantizer does for constants of one element; exported models make their
//! masks with `where`, `full` or `masked_fill`, of any shape.)

use crate::ir::{Arg, Program, ValueId};
use crate::ops::{self, OpDef, views};

/// Beyond this, one of 256 integers is more than activations have: torchao's limit for histograms.
const LIMIT: f64 = 3.4028235e15;

/// What the numbers of a mask come through.
static PASSES: &[&OpDef] = &[
    &ops::WHERE,
    &ops::WHERE_SCALAR_SELF,
    &ops::WHERE_SCALAR_OTHER,
    &ops::WHERE_SCALAR,
    &ops::MASKED_FILL,
    &ops::MASKED_FILL_SCALAR,
    &ops::MUL,
    &ops::MUL_SCALAR,
    &ops::FULL,
    &ops::FULL_LIKE,
    &ops::NEW_FULL,
    &ops::TRIL,
    &ops::TRIU,
    &ops::TO_DTYPE,
    &ops::TO_DTYPE_LAYOUT,
    &ops::TO_COPY,
];

/// The huge number of a mask, if the value is one: from a constant, or a literal of what makes it.
pub fn mask(program: &Program, v: ValueId) -> Option<f64> {
    let huge = |x: &f64| x.abs() > LIMIT;
    let g = &program.graph;
    let (mut open, mut seen) = (vec![v], vec![v]);
    while let Some(v) = open.pop() {
        if !g.ty(v).dtype.is_float() {
            continue;
        }
        if let Some(t) = program.frozen(v) {
            if let Some(x) = t.to_f64().into_iter().find(huge) {
                return Some(x);
            }
            continue;
        }
        let Some(n) = g.producer(v).map(|n| g.node(n)) else { continue };
        if !n.op().traits.moves_data && !PASSES.contains(&n.op()) {
            continue;
        }
        let literals = n.args().iter().filter(|a| matches!(a, Arg::Float(_))).filter_map(views::float);
        if let Some(x) = literals.into_iter().find(huge) {
            return Some(x);
        }
        for v in n.operands() {
            if !seen.contains(&v) {
                seen.push(v);
                open.push(v);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn masks_are_known_by_their_numbers() {
        let p = text::parse(
            "program {
              %x : f32[2, 4] = input
              %keep : bool[2, 4] = input
              %c : f32[4] = constant \"c\" [0.0, -inf, 0.0, 0.0]
              %row : f32[1, 4] = aten.unsqueeze.default(%c, dim=0)
              %zeros : f32[2, 4] = aten.full.default(size=[2, 4], fill_value=0.0, dtype=f32)
              %where : f32[2, 4] = aten.where.ScalarOther(%keep, %zeros, other=-3.4028234663852886e38)
              %cut : f32[2, 4] = aten.slice.Tensor(%where, dim=0, start=0, end=2)
              %sum : f32[2, 4] = aten.add.Tensor(%x, %cut)
              %small : f32[2, 4] = aten.mul.Scalar(%x, other=-1000.0)
              return %row, %cut, %sum, %small
            }",
        )
        .unwrap();
        let found: Vec<_> = p.graph.outputs().iter().map(|&v| mask(&p, v).map(|x| x as f32)).collect();
        assert_eq!(found, [Some(f32::NEG_INFINITY), Some(f32::MIN), None, None]);
    }
}
