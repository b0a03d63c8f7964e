//! Functions of two or three tensors, element by element.

use super::{Builder, Emitted, Made, Node, Table, elementwise, layout, number, out, truths};
use lowbit_core::ops;

macro_rules! rows {
    ($($op:ident $kind:literal;)*) => { &[
        $((&ops::$op, |b, n| elementwise(b, n, $kind, &[0, 1], vec![])),)*
        (&ops::ADD, |b, n| unscaled(n).and_then(|()| elementwise(b, n, "ElementWiseAdd", &[0, 1], vec![]))),
        (&ops::SUB, |b, n| unscaled(n).and_then(|()| elementwise(b, n, "ElementWiseSubtract", &[0, 1], vec![]))),
        (&ops::RSUB, |b, n| unscaled(n).and_then(|()| elementwise(b, n, "ElementWiseSubtract", &[1, 0], vec![]))),
        (&ops::SQUARE, |b, n| elementwise(b, n, "ElementWiseMultiply", &[0, 0], vec![])),
        (&ops::ADD_SCALAR, |b, n| scalar(b, n, "ElementWiseAdd", false)),
        (&ops::SUB_SCALAR, |b, n| scalar(b, n, "ElementWiseSubtract", false)),
        (&ops::RSUB_SCALAR, |b, n| scalar(b, n, "ElementWiseSubtract", true)),
        (&ops::MUL_SCALAR, |b, n| scalar(b, n, "ElementWiseMultiply", false)),
        (&ops::DIV_SCALAR, |b, n| scalar(b, n, "ElementWiseDivide", false)),
        (&ops::EQ_SCALAR, |b, n| scalar(b, n, "ElementWiseEqual", false)),
        (&ops::NE_SCALAR, |b, n| scalar(b, n, "ElementWiseNotEqual", false)),
        (&ops::LT_SCALAR, |b, n| scalar(b, n, "ElementWiseLess", false)),
        (&ops::LE_SCALAR, |b, n| scalar(b, n, "ElementWiseLessEqual", false)),
        (&ops::GT_SCALAR, |b, n| scalar(b, n, "ElementWiseGreater", false)),
        (&ops::GE_SCALAR, |b, n| scalar(b, n, "ElementWiseGreaterEqual", false)),
        (&ops::POW_TENSOR_SCALAR, |b, n| match number(n, 1)? {
            2.0 => elementwise(b, n, "ElementWiseMultiply", &[0, 0], vec![]),
            _ => scalar(b, n, "ElementWisePower", false),
        }),
        (&ops::BITWISE_AND, |b, n| truths(b, n, "ElementWiseAnd", &[0, 1])),
        (&ops::BITWISE_OR, |b, n| truths(b, n, "ElementWiseOr", &[0, 1])),
        (&ops::BITWISE_XOR, |b, n| truths(b, n, "ElementWiseXor", &[0, 1])),
        (&ops::DUNDER_AND, |b, n| truths(b, n, "ElementWiseAnd", &[0, 1])),
        (&ops::DUNDER_OR, |b, n| truths(b, n, "ElementWiseOr", &[0, 1])),
        (&ops::DUNDER_XOR, |b, n| truths(b, n, "ElementWiseXor", &[0, 1])),
        (&ops::MASKED_FILL_SCALAR, fill),
        (&ops::WHERE, |b, n| elementwise(b, n, "ElementWiseSelect", &[0, 1, 2], vec![])),
    ] };
}

pub static TABLE: Table = rows! {
    MUL "ElementWiseMultiply";
    DIV "ElementWiseDivide";
    FLOOR_DIVIDE "ElementWiseFloorDiv";
    POW_TENSOR_TENSOR "ElementWisePower";
    MAXIMUM "ElementWiseMaximum";
    MAX_OTHER "ElementWiseMaximum";
    MINIMUM "ElementWiseMinimum";
    MIN_OTHER "ElementWiseMinimum";
    EQ "ElementWiseEqual";
    NE "ElementWiseNotEqual";
    LT "ElementWiseLess";
    LE "ElementWiseLessEqual";
    GT "ElementWiseGreater";
    GE "ElementWiseGreaterEqual";
    LOGICAL_AND "ElementWiseAnd";
    LOGICAL_OR "ElementWiseOr";
    LOGICAL_XOR "ElementWiseXor";
};

/// Sums and differences with a factor are no operators of the chip's.
fn unscaled(n: &Node) -> Emitted<()> {
    match number(n, 2)? {
        1.0 => Ok(()),
        alpha => Err(format!("HTP adds without a factor, here it is {alpha}")),
    }
}

/// A number where the mask is true: the nearest that the result's integers have.
fn fill(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let at = layout(b, n);
    let (x, mask) = (b.arg(n, 0, at)?, b.arg(n, 1, at)?);
    let out = out(b, n, at)?;
    let value = super::scalar::nearest(b, "fill", number(n, 2)?, out.0.clone())?;
    Ok(vec![(b.one("ElementWiseSelect", vec![], vec![mask, value, x], out), at)])
}

/// With a number in place of the second operand, which is exact.
fn scalar(b: &mut Builder<'_>, n: &Node, kind: &'static str, reversed: bool) -> Emitted<Vec<Made>> {
    if n.args().len() > 2 {
        unscaled(n)?;
    }
    let at = layout(b, n);
    let x = b.arg(n, 0, at)?;
    let y = super::scalar::number(b, "number", number(n, 1)? as f32, x)?;
    let out = out(b, n, at)?;
    let inputs = if reversed { vec![y, x] } else { vec![x, y] };
    Ok(vec![(b.one(kind, vec![], inputs, out), at)])
}
