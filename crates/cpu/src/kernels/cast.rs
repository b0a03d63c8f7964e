//! Changes of element type, and copies.

use super::Table;
use super::elementwise::{at_dtype, copy_bytes};
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef};
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// Converts every element to the output's type.
pub(super) fn convert(x: TensorRef<'_>, out: &mut TensorMut<'_>) {
    if x.dtype == out.dtype {
        out.bytes.copy_from_slice(x.bytes);
        return;
    }
    // Half types and integers are exact in the type chosen here.
    at_dtype!(x.dtype, T => out.store(x.as_vec::<T>().iter().copied()));
}

fn to(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    convert(c.tensor(0)?, &mut outs[0]);
    Ok(())
}

fn keep(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    copy_bytes(c.tensor(0)?, &mut outs[0])
}

/// `copy(self, src)`: `src` broadcast and converted to `self`'s type.
fn copy(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let src = c.tensor(1)?;
    let mut words = vec![0u64; (src.numel() * outs[0].dtype.size()).div_ceil(8)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..src.numel() * outs[0].dtype.size()];
    let mut tmp = TensorMut { dtype: outs[0].dtype, shape: src.shape, bytes };
    convert(src, &mut tmp);
    super::shape::expanded(
        c.threads,
        TensorRef { dtype: tmp.dtype, shape: src.shape, bytes: tmp.bytes },
        &mut outs[0],
    )
}

pub(super) const TABLE: Table = &[
    ("aten.alias.default", keep),
    ("aten.alias_copy.default", keep),
    ("aten.clone.default", keep),
    ("aten.contiguous.default", keep),
    ("aten.detach.default", keep),
    ("aten.lift_fresh_copy.default", keep),
    ("aten.to.dtype", to),
    ("aten.to.device", to),
    ("aten.to.dtype_layout", to),
    ("aten.to.other", to),
    ("aten._to_copy.default", to),
    ("aten.type_as.default", to),
    ("aten.copy.default", copy),
    ("quantized_decomposed.convert_element_type.no_fuse", to),
];
