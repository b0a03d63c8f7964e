//! Constants of packages as tensors: half floats widened, integers of less than a byte in bytes.

use super::Raised;
use crate::mil::{Constant, DType};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;

/// The element type that stands for one of MIL's inside the program.
pub fn inside(ty: DType) -> Raised<CoreType> {
    Ok(match ty {
        DType::Bool => CoreType::Bool,
        DType::F16 | DType::F32 => CoreType::F32,
        DType::I4 | DType::I8 => CoreType::I8,
        DType::U1 | DType::U2 | DType::U3 | DType::U4 | DType::U6 | DType::U8 => CoreType::U8,
        DType::I16 => CoreType::I16,
        DType::U16 => CoreType::U16,
        DType::I32 => CoreType::I32,
        DType::U32 => CoreType::I64,
        DType::Str => return Err("a string is no tensor".into()),
    })
}

/// The shape of a constant.
pub fn shape(c: &Constant) -> Raised<Vec<usize>> {
    let sizes = c.ty.shape.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok()));
    sizes.collect::<Option<_>>().ok_or_else(|| "a constant of open size".into())
}

/// Refuses a constant that holds other elements than its type says: those of programs in memory may.
pub fn check(c: &Constant) -> Raised<()> {
    let n = c.ty.numel().ok_or("a constant of open size")?;
    if c.ty.rank() > super::MAX_RANK {
        return Err(format!("a constant of {} dimensions", c.ty.rank()));
    }
    let fits = match &c.data {
        crate::mil::Data::Strs(s) => c.ty.dtype == DType::Str && s.len() == n,
        crate::mil::Data::Bytes(b) => {
            let bits = n.checked_mul(c.ty.dtype.bits() as usize);
            c.ty.dtype != DType::Str && bits.is_some_and(|bits| bits.div_ceil(8) == b.len())
        }
    };
    if fits { Ok(()) } else { Err(format!("{:?} holds other elements than that", c.ty)) }
}

/// A constant as a tensor.
pub fn tensor(c: &Constant) -> Raised<Tensor> {
    tensor_of_shape(c, &shape(c)?)
}

/// A constant's elements in another shape.
pub fn tensor_of_shape(c: &Constant, shape: &[usize]) -> Raised<Tensor> {
    let dtype = inside(c.ty.dtype)?;
    let made = match (dtype, c.ty.dtype) {
        (CoreType::F32, DType::F16) => Tensor::new(shape, floats(c)?),
        (CoreType::Bool, _) => Tensor::from_bools(shape, c.bytes().iter().map(|&b| b != 0).collect()),
        (_, DType::F32 | DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32) => match &c.data {
            crate::mil::Data::Bytes(b) => Tensor::from_bytes(dtype, shape, b.clone()),
            crate::mil::Data::Strs(_) => return Err("a string is no tensor".into()),
        },
        (CoreType::I8, _) => Tensor::new(shape, ints(c)?.iter().map(|&n| n as i8).collect()),
        (CoreType::U8, _) => Tensor::new(shape, ints(c)?.iter().map(|&n| n as u8).collect()),
        _ => Tensor::new(shape, ints(c)?),
    };
    made.map_err(|e| e.to_string())
}

/// The elements of floats.
pub fn floats(c: &Constant) -> Raised<Vec<f32>> {
    c.as_floats().ok_or_else(|| format!("{:?} where floats are needed", c.ty))
}

/// The elements of integers or booleans.
pub fn ints(c: &Constant) -> Raised<Vec<i64>> {
    c.as_ints().ok_or_else(|| format!("{:?} where integers are needed", c.ty))
}
