//! Arithmetic, comparison and logic, element by element.

use super::rules::{binary, binary_float, compare, division, one, predicate, same, ternary, unary_float};
use super::{Call, rules::Types};

ops! {
    ADD = "aten.add.Tensor" "(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", binary, elementwise;
    ADD_SCALAR = "aten.add.Scalar" "(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", binary, elementwise;
    SUB = "aten.sub.Tensor" "(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", binary, elementwise;
    SUB_SCALAR = "aten.sub.Scalar" "(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", binary, elementwise;
    MUL = "aten.mul.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    MUL_SCALAR = "aten.mul.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    RSUB = "aten.rsub.Tensor" "(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", binary, elementwise;
    RSUB_SCALAR = "aten.rsub.Scalar" "(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", binary, elementwise;
    MAXIMUM = "aten.maximum.default" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    MINIMUM = "aten.minimum.default" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    MAX_OTHER = "aten.max.other" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    MIN_OTHER = "aten.min.other" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    FMOD = "aten.fmod.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    FMOD_SCALAR = "aten.fmod.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    REMAINDER = "aten.remainder.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    REMAINDER_SCALAR = "aten.remainder.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    FLOOR_DIVIDE = "aten.floor_divide.default" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    FLOOR_DIVIDE_SCALAR = "aten.floor_divide.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    BITWISE_AND = "aten.bitwise_and.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    BITWISE_AND_SCALAR = "aten.bitwise_and.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    BITWISE_OR = "aten.bitwise_or.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    BITWISE_OR_SCALAR = "aten.bitwise_or.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    BITWISE_XOR = "aten.bitwise_xor.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    BITWISE_XOR_SCALAR = "aten.bitwise_xor.Scalar" "(Tensor self, Scalar other) -> Tensor", binary, elementwise;
    DUNDER_AND = "aten.__and__.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    DUNDER_OR = "aten.__or__.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    DUNDER_XOR = "aten.__xor__.Tensor" "(Tensor self, Tensor other) -> Tensor", binary, elementwise;
    POW_TENSOR_TENSOR = "aten.pow.Tensor_Tensor" "(Tensor self, Tensor exponent) -> Tensor", binary, elementwise;
    POW_TENSOR_SCALAR = "aten.pow.Tensor_Scalar" "(Tensor self, Scalar exponent) -> Tensor", binary, elementwise;
    POW_SCALAR_TENSOR = "aten.pow.Scalar" "(Scalar self, Tensor exponent) -> Tensor", binary, elementwise;
    DIV = "aten.div.Tensor" "(Tensor self, Tensor other) -> Tensor", division, elementwise;
    DIV_SCALAR = "aten.div.Scalar" "(Tensor self, Scalar other) -> Tensor", division, elementwise;
    DIV_TENSOR_MODE = "aten.div.Tensor_mode" "(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor", division, elementwise;
    DIV_SCALAR_MODE = "aten.div.Scalar_mode" "(Tensor self, Scalar other, *, str? rounding_mode) -> Tensor", division, elementwise;
    ATAN2 = "aten.atan2.default" "(Tensor self, Tensor other) -> Tensor", binary_float, elementwise;
    EQ = "aten.eq.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    EQ_SCALAR = "aten.eq.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    NE = "aten.ne.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    NE_SCALAR = "aten.ne.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    LT = "aten.lt.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    LT_SCALAR = "aten.lt.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    LE = "aten.le.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    LE_SCALAR = "aten.le.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    GT = "aten.gt.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    GT_SCALAR = "aten.gt.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    GE = "aten.ge.Tensor" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    GE_SCALAR = "aten.ge.Scalar" "(Tensor self, Scalar other) -> Tensor", compare, elementwise;
    LOGICAL_AND = "aten.logical_and.default" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    LOGICAL_OR = "aten.logical_or.default" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    LOGICAL_XOR = "aten.logical_xor.default" "(Tensor self, Tensor other) -> Tensor", compare, elementwise;
    LOGICAL_NOT = "aten.logical_not.default" "(Tensor self) -> Tensor", predicate, elementwise;
    ISINF = "aten.isinf.default" "(Tensor self) -> Tensor", predicate, elementwise;
    ISNAN = "aten.isnan.default" "(Tensor self) -> Tensor", predicate, elementwise;
    ABS = "aten.abs.default" "(Tensor self) -> Tensor", same, elementwise;
    NEG = "aten.neg.default" "(Tensor self) -> Tensor", same, elementwise;
    CEIL = "aten.ceil.default" "(Tensor self) -> Tensor", same, elementwise;
    FLOOR = "aten.floor.default" "(Tensor self) -> Tensor", same, elementwise;
    ROUND = "aten.round.default" "(Tensor self) -> Tensor", same, elementwise;
    ROUND_DECIMALS = "aten.round.decimals" "(Tensor self, *, int decimals) -> Tensor", same, elementwise;
    TRUNC = "aten.trunc.default" "(Tensor self) -> Tensor", same, elementwise;
    SIGN = "aten.sign.default" "(Tensor self) -> Tensor", same, elementwise;
    BITWISE_NOT = "aten.bitwise_not.default" "(Tensor self) -> Tensor", same, elementwise;
    SQUARE = "aten.square.default" "(Tensor self) -> Tensor", same, elementwise;
    EXP = "aten.exp.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    EXPM1 = "aten.expm1.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    LOG = "aten.log.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    LOG1P = "aten.log1p.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    LOG2 = "aten.log2.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    LOG10 = "aten.log10.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    SQRT = "aten.sqrt.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    RSQRT = "aten.rsqrt.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    RECIPROCAL = "aten.reciprocal.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    SIN = "aten.sin.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    COS = "aten.cos.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    TAN = "aten.tan.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    SINH = "aten.sinh.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    COSH = "aten.cosh.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    ASIN = "aten.asin.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    ACOS = "aten.acos.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    ATAN = "aten.atan.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    ERF = "aten.erf.default" "(Tensor self) -> Tensor", unary_float, elementwise;
    ADDCMUL = "aten.addcmul.default" "(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor", ternary, elementwise;
    ADDCDIV = "aten.addcdiv.default" "(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor", ternary, elementwise;
    LERP_SCALAR = "aten.lerp.Scalar" "(Tensor self, Tensor end, Scalar weight) -> Tensor", ternary, elementwise;
    CLAMP = "aten.clamp.default" "(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor", ternary, elementwise, shares_qparams;
    CLAMP_MIN = "aten.clamp_min.default" "(Tensor self, Scalar min) -> Tensor", ternary, elementwise, shares_qparams;
    CLAMP_MAX = "aten.clamp_max.default" "(Tensor self, Scalar max) -> Tensor", ternary, elementwise, shares_qparams;
    CLAMP_TENSOR = "aten.clamp.Tensor" "(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor", ternary, elementwise;
    CLAMP_MIN_TENSOR = "aten.clamp_min.Tensor" "(Tensor self, Tensor min) -> Tensor", ternary, elementwise;
    CLAMP_MAX_TENSOR = "aten.clamp_max.Tensor" "(Tensor self, Tensor max) -> Tensor", ternary, elementwise;
    WHERE = "aten.where.self" "(Tensor condition, Tensor self, Tensor other) -> Tensor", select, elementwise;
    WHERE_SCALAR_SELF = "aten.where.ScalarSelf" "(Tensor condition, Scalar self, Tensor other) -> Tensor", select, elementwise;
    WHERE_SCALAR_OTHER = "aten.where.ScalarOther" "(Tensor condition, Tensor self, Scalar other) -> Tensor", select, elementwise;
    WHERE_SCALAR = "aten.where.Scalar" "(Tensor condition, Scalar self, Scalar other) -> Tensor", select, elementwise;
    MASKED_FILL_SCALAR = "aten.masked_fill.Scalar" "(Tensor self, Tensor mask, Scalar value) -> Tensor", fill_masked, elementwise;
    MASKED_FILL = "aten.masked_fill.Tensor" "(Tensor self, Tensor mask, Tensor value) -> Tensor", fill_masked, elementwise;
}

/// `where` has its condition first.
fn select(c: &Call<'_>) -> Types {
    let mut p = super::rules::Promotion::default();
    let mut shape = c.tensor(0)?.shape.clone();
    for i in 1..3 {
        match c.opt_tensor(i) {
            Some(t) => {
                p = p.tensor(t);
                shape = super::rules::broadcast(&shape, &t.shape)?;
            }
            None => p = p.number(c.arg(i)),
        }
    }
    one(p.result(), shape)
}

/// The element type of argument 0, its shape broadcast with argument 1's.
fn fill_masked(c: &Call<'_>) -> Types {
    let (x, mask) = (c.tensor(0)?, c.tensor(1)?);
    one(x.dtype, super::rules::broadcast(&x.shape, &mask.shape)?)
}

