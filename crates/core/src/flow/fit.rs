//! Tensors in the types of another form of the same model: a device's file may take narrower integers, other floats, and
//! single numbers as lists of one.

use crate::dtype::DType;
use crate::ir::TensorType;
use crate::tensor::{Tensor, TensorError};

/// The tensor in the element type and number of dimensions of `like`.
///
/// # Errors
/// When a number does not fit, or the shapes are not those of one tensor.
pub fn fit(t: &Tensor, like: &TensorType) -> Result<Tensor, String> {
    let same = |shape: &[usize]| {
        let fits = |(n, d): (&usize, &crate::SymInt)| d.known().is_none_or(|d| i64::try_from(*n) == Ok(d));
        shape.len() == like.rank() && shape.iter().zip(&like.shape).all(fits)
    };
    let shape = match t.shape() {
        s if same(s) => s.to_vec(),
        [] if same(&[1]) => vec![1],
        [1] if like.rank() == 0 => vec![],
        s => return Err(format!("{}{s:?} is no {like}", t.dtype())),
    };
    if t.dtype() == like.dtype {
        return t.reshape(&shape).map_err(|e| e.to_string());
    }
    let kind = |d: DType| (d.is_float(), d == DType::Bool);
    if kind(t.dtype()).0 != kind(like.dtype).0 {
        return Err(format!("{} is no {}", t.dtype(), like.dtype));
    }
    let made = if like.dtype.is_float() {
        Tensor::from_f32(like.dtype, &shape, &t.to_f32())
    } else {
        integers(t, like.dtype, &shape)?
    };
    made.map_err(|e| e.to_string())
}

fn integers(t: &Tensor, to: DType, shape: &[usize]) -> Result<Result<Tensor, TensorError>, String> {
    // Integers beyond 2^53 fit none of the narrower types, so that rounding them changes nothing.
    let values = t.to_f64();
    let (min, max) = to.int_bounds().unwrap_or((0, 0));
    if let Some(v) = values.iter().find(|v| **v < min as f64 || **v > max as f64) {
        return Err(format!("{v} does not fit {to}"));
    }
    macro_rules! as_type {
        ($t:ty) => {
            Tensor::new(shape, values.iter().map(|&v| v as $t).collect())
        };
    }
    Ok(match to {
        DType::I8 => as_type!(i8),
        DType::U8 => as_type!(u8),
        DType::I16 => as_type!(i16),
        DType::U16 => as_type!(u16),
        DType::I32 => as_type!(i32),
        DType::I64 => as_type!(i64),
        _ => Tensor::from_bools(shape, values.iter().map(|&v| v != 0.0).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_fitted_or_refused() {
        let fit = |t: &Tensor, dtype, shape: &[usize]| fit(t, &TensorType::new(dtype, shape.iter().copied()));
        let wide = Tensor::new(&[2], vec![7i64, -3]).unwrap();
        assert_eq!(fit(&wide, DType::I32, &[2]).unwrap().as_slice::<i32>(), Some(&[7, -3][..]));
        assert_eq!(fit(&wide, DType::U8, &[2]).unwrap_err(), "-3 does not fit u8");
        assert_eq!(fit(&wide, DType::F32, &[2]).unwrap_err(), "i64 is no f32");
        assert_eq!(fit(&wide, DType::I64, &[3]).unwrap_err(), "i64[2] is no i64[3]");
        let one = Tensor::scalar(0.1f32);
        let half = fit(&one, DType::F16, &[1]).unwrap();
        assert_eq!((half.shape(), half.to_f32()[0]), (&[1][..], half::f16::from_f32(0.1).to_f32()));
        assert_eq!(fit(&half, DType::F32, &[]).unwrap().shape(), &[0usize; 0]);
        let large = Tensor::new(&[1], vec![i64::MAX]).unwrap();
        assert!(fit(&large, DType::I32, &[1]).unwrap_err().contains("does not fit i32"));
        let flags = Tensor::new(&[2], vec![1i32, 0]).unwrap();
        assert_eq!(fit(&flags, DType::Bool, &[2]).unwrap().bytes()[..], [1, 0]);
    }
}
