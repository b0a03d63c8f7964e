//! Functions of one tensor, element by element.

use super::{Builder, Emitted, Made, Node, Table, elementwise, layout, out, truths};
use crate::graph::DType;
use lowbit_core::ops;

macro_rules! rows {
    ($($op:ident $kind:literal;)*) => { &[
        $((&ops::$op, |b, n| elementwise(b, n, $kind, &[0], vec![])),)*
        (&ops::NEG, negative),
        (&ops::BITWISE_NOT, |b, n| truths(b, n, "ElementWiseNot", &[0])),
    ] };
}

pub static TABLE: Table = rows! {
    ABS "ElementWiseAbs";
    CEIL "ElementWiseCeil";
    FLOOR "ElementWiseFloor";
    ROUND "ElementWiseRound";
    SIGN "ElementWiseSign";
    EXP "ElementWiseExp";
    LOG "ElementWiseLog";
    SQRT "ElementWiseSquareRoot";
    RSQRT "ElementWiseRsqrt";
    SIN "ElementWiseSin";
    COS "ElementWiseCos";
    ASIN "ElementWiseAsin";
    ATAN "ElementWiseAtan";
    SIGMOID "Sigmoid";
    TANH "Tanh";
    HARDSWISH "HardSwish";
    LOGICAL_NOT "ElementWiseNot";
};

/// Of integers it is a difference: the chip has the other for real numbers only.
fn negative(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    if b.kind(n.output())?.dtype != DType::Int32 {
        return elementwise(b, n, "ElementWiseNeg", &[0], vec![]);
    }
    let at = layout(b, n);
    let x = b.arg(n, 0, at)?;
    let zero = super::scalar::number(b, "zero", 0.0, x)?;
    let out = out(b, n, at)?;
    Ok(vec![(b.one("ElementWiseSubtract", vec![], vec![zero, x], out), at)])
}
