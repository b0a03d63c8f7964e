//! Changes of element type, and copies.

use super::Call;
use super::rules::{Types, dtype_or, one, same};

ops! {
    ALIAS = "aten.alias.default" "(Tensor self) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    ALIAS_COPY = "aten.alias_copy.default" "(Tensor self) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    CLONE = "aten.clone.default" "(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    CONTIGUOUS = "aten.contiguous.default" "(Tensor self, *, MemoryFormat memory_format=contiguous_format) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    DETACH = "aten.detach.default" "(Tensor self) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    LIFT_FRESH_COPY = "aten.lift_fresh_copy.default" "(Tensor self) -> Tensor", same, elementwise, moves_data, rearranges, shares_qparams;
    TO_DTYPE = "aten.to.dtype" "(Tensor self, ScalarType dtype, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor", to, elementwise;
    TO_DEVICE = "aten.to.device" "(Tensor self, Device device, ScalarType dtype, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor", to, elementwise;
    TO_DTYPE_LAYOUT = "aten.to.dtype_layout" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor", to, elementwise;
    TO_COPY = "aten._to_copy.default" "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, bool non_blocking=False, MemoryFormat? memory_format=None) -> Tensor", to, elementwise;
    TYPE_AS = "aten.type_as.default" "(Tensor self, Tensor other) -> Tensor", as_other, elementwise;
    TO_OTHER = "aten.to.other" "(Tensor self, Tensor other, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor", as_other, elementwise;
    COPY = "aten.copy.default" "(Tensor self, Tensor src, bool non_blocking=False) -> Tensor", copy, elementwise;
    CONVERT_ELEMENT_TYPE = "quantized_decomposed.convert_element_type.no_fuse" "(Tensor input, ScalarType dtype) -> Tensor", to, elementwise;
}

/// To the element type named by `dtype`, if any.
fn to(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    one(dtype_or(c, "dtype", x.dtype), x.shape.clone())
}

/// To the element type of argument 1.
fn as_other(c: &Call<'_>) -> Types {
    one(c.tensor(1)?.dtype, c.tensor(0)?.shape.clone())
}

/// `copy(self, src)`: shape and element type of argument 0.
fn copy(c: &Call<'_>) -> Types {
    let (x, src) = (c.tensor(0)?, c.tensor(1)?);
    if super::rules::broadcast(&x.shape, &src.shape)? != x.shape {
        return c.error(format!("{src} cannot be copied into {x}"));
    }
    one(x.dtype, x.shape.clone())
}
