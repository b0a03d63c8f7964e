//! Masks: tensors that rule elements out by adding a huge number to them, as those of attention do.
//!
//! An observer that sees one gives it all integers but a few, and what the mask is added to is lost; one that leaves −∞ out
//! gives it nothing. So a quantizer leaves the sum in floating point ([`mask`]), or gives a mask, and what it masks, ranges of
//! their own ([`is_mask`], [`scores`]). Exported models make their masks with `where`, `full`, `masked_fill` or products with
//! zeros and ones, of any shape.

use crate::ir::{Arg, Node, Program, ValueId};
use crate::ops::{self, OpDef, views};
use std::collections::HashMap;

/// From here on a number is far from all that scores are.
const HUGE: f64 = 1e4;
/// Beyond this, one of 256 integers is more than activations have: torchao's limit for histograms.
const LIMIT: f64 = 3.4028235e15;
/// A mask is made by at most so many nodes in a row.
const DEEPEST: usize = 64;

/// What only moves or casts a mask, or clears a part of it.
static HANDS_ON: &[&OpDef] = &[&ops::TO_DTYPE, &ops::TO_DTYPE_LAYOUT, &ops::TO_COPY, &ops::TRIL, &ops::TRIU];
/// What is made of a literal.
static FILLED: &[&OpDef] = &[&ops::FULL, &ops::FULL_LIKE, &ops::NEW_FULL];
/// What is one or the other, element by element, of its tensors and literals.
static CHOICES: &[&OpDef] = &[
    &ops::WHERE,
    &ops::WHERE_SCALAR_SELF,
    &ops::WHERE_SCALAR_OTHER,
    &ops::WHERE_SCALAR,
    &ops::MASKED_FILL,
    &ops::MASKED_FILL_SCALAR,
];
static PRODUCTS: &[&OpDef] = &[&ops::MUL, &ops::MUL_SCALAR];
/// What takes zeros and ones from one.
static FROM_ONE: &[&OpDef] = &[&ops::RSUB, &ops::RSUB_SCALAR, &ops::SUB];

/// The numbers of a tensor.
#[derive(Copy, Clone, Debug, Default)]
struct Numbers {
    /// The furthest from zero of those that are huge.
    huge: Option<f64>,
    /// Whether all others are known, and from 0 to 1, and those that are huge are negative.
    plain: bool,
}

impl Numbers {
    const UNKNOWN: Numbers = Numbers { huge: None, plain: false };

    fn of(x: f64) -> Numbers {
        let huge = (x.abs() >= HUGE).then_some(x);
        Numbers { huge, plain: x <= -HUGE || (0.0..=1.0).contains(&x) }
    }

    fn and(self, other: Numbers) -> Numbers {
        let further = |a: f64, b: f64| if b.abs() > a.abs() { b } else { a };
        let huge = match (self.huge, other.huge) {
            (Some(a), Some(b)) => Some(further(a, b)),
            (a, b) => a.or(b),
        };
        Numbers { huge, plain: self.plain && other.plain }
    }

    fn all(list: impl IntoIterator<Item = Numbers>) -> Numbers {
        list.into_iter().reduce(Numbers::and).unwrap_or(Numbers::UNKNOWN)
    }
}

/// The huge number of a mask, if the value holds one that would take all integers: from a constant, or a literal of what
/// makes it.
pub fn mask(program: &Program, v: ValueId) -> Option<f64> {
    numbers(program, v).huge.filter(|x| x.abs() > LIMIT)
}

/// Whether a value holds nothing but what masks, and zeros or ones.
pub fn is_mask(program: &Program, v: ValueId) -> bool {
    let held = numbers(program, v);
    held.plain && held.huge.is_some()
}

/// The argument of a node that holds scores, some of which it masks.
pub fn scores(program: &Program, n: &Node) -> Option<usize> {
    let mask = |i: usize| views::value(n.arg(i)).is_some_and(|v| is_mask(program, v));
    let other = |a: usize, b: usize| match (mask(a), mask(b)) {
        (false, true) => Some(a),
        (true, false) => Some(b),
        _ => None,
    };
    match n.op() {
        op if *op == ops::ADD => other(0, 1),
        op if *op == ops::WHERE => other(1, 2),
        op if *op == ops::MASKED_FILL_SCALAR => {
            views::float(n.arg(2)).is_some_and(|x| x <= -HUGE).then_some(0)
        }
        _ => None,
    }
}

fn numbers(program: &Program, v: ValueId) -> Numbers {
    if !program.graph.ty(v).dtype.is_float() {
        return Numbers::UNKNOWN;
    }
    within(program, v, DEEPEST, &mut HashMap::new())
}

/// The numbers of a value that is made by at most `room` nodes in a row. Values that were looked at are in `known`.
fn within(program: &Program, v: ValueId, room: usize, known: &mut HashMap<ValueId, Numbers>) -> Numbers {
    let g = &program.graph;
    if !g.ty(v).dtype.is_float() {
        // Truth values, and integers that stand for them.
        return Numbers { huge: None, plain: true };
    }
    if let Some(&held) = known.get(&v) {
        return held;
    }
    let held = match (program.frozen(v), g.producer(v)) {
        (Some(t), _) => Numbers::all(t.to_f64().into_iter().map(Numbers::of)),
        (None, Some(n)) if room > 0 => made_by(program, g.node(n), room - 1, known),
        _ => Numbers::UNKNOWN,
    };
    known.insert(v, held);
    held
}

/// The numbers of what a node makes, of values made by at most `room` nodes in a row.
fn made_by(program: &Program, n: &Node, room: usize, known: &mut HashMap<ValueId, Numbers>) -> Numbers {
    let op = n.op();
    let is = |list: &[&OpDef]| list.contains(&op);
    let literals = literals(n).map(Numbers::of);
    if is(FILLED) {
        return Numbers::all(literals);
    }
    if op.traits.moves_data || is(HANDS_ON) {
        return Numbers::all(n.operands().next().map(|v| within(program, v, room, known)));
    }
    if ![CHOICES, PRODUCTS, FROM_ONE].into_iter().any(is) {
        return Numbers::UNKNOWN;
    }
    let literals: Vec<Numbers> = literals.collect();
    let tensors = n.operands().map(|v| within(program, v, room, known));
    let parts: Vec<Numbers> = literals.into_iter().chain(tensors).collect();
    let huge = parts.iter().filter(|p| p.huge.is_some()).count();
    let mut held = Numbers::all(parts);
    // Of two that are huge, or of one less one that is, something positive is made.
    held.plain &= !(is(PRODUCTS) && huge > 1 || is(FROM_ONE) && huge > 0);
    held
}

/// The numbers among a node's arguments.
fn literals(n: &Node) -> impl Iterator<Item = f64> {
    n.args().iter().filter(|a| matches!(a, Arg::Float(_) | Arg::Int(_))).filter_map(views::float)
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

    #[test]
    fn pure_masks_hold_nothing_else() {
        let p = text::parse(
            "program {
              %x : f32[1, 4] = input
              %m : i64[1, 4] = input
              %k : bool[1, 4] = input
              %c : f32[1, 4] = constant \"c\" [0.0, -inf, 2.5, 0.0]
              %n : f32[1, 4] = constant \"n\" [0.0, -10000.0, 0.0, 0.0]
              %f : f32[1, 4] = aten._to_copy.default(%m, dtype=f32)
              %r : f32[1, 4] = aten.rsub.Scalar(%f, 1.0)
              %a : f32[1, 4] = aten.mul.Scalar(%r, -10000.0)
              %b : f32[1, 4] = aten.mul.Scalar(%x, -10000.0)
              %d : f32[1, 4] = aten.mul.Tensor(%a, %n)
              %e : f32[1, 4] = aten.rsub.Scalar(%n, 1.0)
              %l : f32[1, 4] = aten.full_like.default(%x, -inf)
              %w : f32[1, 4] = aten.where.self(%k, %n, %l)
              %v : f32[1, 4] = aten.where.self(%k, %x, %l)
              return %c, %n, %a, %b, %d, %e, %l, %w, %v
            }",
        )
        .unwrap();
        let found: Vec<bool> = p.graph.outputs().iter().map(|&v| is_mask(&p, v)).collect();
        assert_eq!(found, [false, true, true, false, false, false, true, true, false]);
        // Scores that are masked are no mask, and hold numbers that would take all integers.
        let last = *p.graph.outputs().last().unwrap();
        assert_eq!(mask(&p, last), Some(f64::NEG_INFINITY));
        assert_eq!(scores(&p, p.graph.node(p.graph.producer(last).unwrap())), Some(1));
    }
}
