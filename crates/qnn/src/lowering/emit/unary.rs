//! Functions of one tensor, element by element.

use super::{Table, elementwise};
use lowbit_core::ops;

macro_rules! rows {
    ($($op:ident $kind:literal;)*) => { &[$((&ops::$op, |b, n| elementwise(b, n, $kind, &[0], vec![])),)*] };
}

pub static TABLE: Table = rows! {
    ABS "ElementWiseAbs";
    NEG "ElementWiseNeg";
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
