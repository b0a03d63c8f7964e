//! Functions of two or three tensors, element by element.

use super::{Builder, Emitted, Made, Node, Table, elementwise, layout, number, out};
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

/// With a number in place of the second operand, which is exact.
fn scalar(b: &mut Builder<'_>, n: &Node, kind: &'static str, reversed: bool) -> Emitted<Vec<Made>> {
    if n.args().len() > 2 {
        unscaled(n)?;
    }
    let at = layout(b, n);
    let x = b.arg(n, 0, at)?;
    let y = super::weight::number(b, "number", number(n, 1)? as f32, x)?;
    let out = out(b, n, at)?;
    let inputs = if reversed { vec![y, x] } else { vec![x, y] };
    Ok(vec![(b.one(kind, vec![], inputs, out), at)])
}
