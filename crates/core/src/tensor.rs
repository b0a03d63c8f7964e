//! [`Tensor`]: a dense array of one [`DType`], always contiguous, cheap to clone.

use crate::dtype::DType;
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use ndarray::{ArrayViewD, IxDyn};
use std::fmt;
use std::sync::Arc;

/// A Rust type that stores the elements of one or more [`DType`]s.
pub trait Element: Pod + Send + Sync + 'static {
    /// The element types this Rust type stores; the first is the default one.
    const DTYPES: &'static [DType];
}

macro_rules! elements { ($($t:ty => $($d:ident)|+),* $(,)?) => {
    $(impl Element for $t { const DTYPES: &'static [DType] = &[$(DType::$d),+]; })*
} }
elements! { f32 => F32, f16 => F16, bf16 => BF16, f64 => F64, i8 => I8, u8 => U8 | Bool, i16 => I16, u16 => U16,
i32 => I32, i64 => I64 }

/// Why a tensor could not be made or read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The number of bytes does not fit shape and element type.
    #[error("a {dtype} tensor of shape {shape:?} takes {want} bytes, {got} were given")]
    Size {
        /// Element type asked for.
        dtype: DType,
        /// Shape asked for.
        shape: Vec<usize>,
        /// Bytes that shape and type need.
        want: usize,
        /// Bytes given.
        got: usize,
    },
    /// Floats were to be stored in another type.
    #[error("{0} is no floating-point type")]
    NotFloat(DType),
    /// The shape's element count overflows.
    #[error("shape {0:?} has too many elements")]
    TooLarge(Vec<usize>),
}

/// What tensors lie in whose elements can be read again at any time: a mapped file.
pub trait Backing: Send + Sync {
    /// Gives the memory of these bytes back to the system. What they hold stays the same: it is read again when it is needed.
    fn release(&self, bytes: &[u8]);
}

/// A dense array in C order. Elements are shared between clones and may lie in a memory map.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
    backing: Option<Arc<dyn Backing>>,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.data == other.data
    }
}

struct Owned<T>(Vec<T>);
impl<T: Pod> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Tensor {
    /// Takes elements in C order; `T`'s first [`DType`] becomes the element type.
    ///
    /// # Errors
    /// When `data` does not hold as many elements as `shape` says.
    pub fn new<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPES[0], shape, Bytes::from_owner(Owned(data)))
    }

    /// A tensor of booleans from bytes 0 and 1.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bools(shape: &[usize], data: Vec<bool>) -> Result<Self, TensorError> {
        let data: Vec<u8> = data.into_iter().map(u8::from).collect();
        Self::from_bytes(DType::Bool, shape, Bytes::from_owner(Owned(data)))
    }

    /// Takes little-endian bytes in C order. Misaligned bytes are copied once, others are kept as they are.
    ///
    /// # Errors
    /// When the number of bytes does not fit.
    pub fn from_bytes(dtype: DType, shape: &[usize], data: Bytes) -> Result<Self, TensorError> {
        let want = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
            .ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        if data.len() != want {
            return Err(TensorError::Size { dtype, shape: shape.to_vec(), want, got: data.len() });
        }
        let aligned = (data.as_ptr() as usize).is_multiple_of(dtype.size());
        // Copied into 8-byte words, whose alignment suits every element type.
        let data = if aligned {
            data
        } else {
            let mut words = vec![0u64; want.div_ceil(8)];
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..want].copy_from_slice(&data);
            Bytes::from_owner(Owned(words)).slice(..want)
        };
        Ok(Tensor { dtype, shape: shape.to_vec(), data, backing: None })
    }

    /// Floats in any floating-point type, rounded to it.
    ///
    /// # Errors
    /// When `data` does not hold as many elements as `shape` says, or `dtype` is no floating-point type.
    pub fn from_f32(dtype: DType, shape: &[usize], data: &[f32]) -> Result<Self, TensorError> {
        match dtype {
            DType::F32 => Self::new(shape, data.to_vec()),
            DType::F16 => Self::new(shape, data.iter().map(|&x| f16::from_f32(x)).collect()),
            DType::BF16 => Self::new(shape, data.iter().map(|&x| bf16::from_f32(x)).collect()),
            DType::F64 => Self::new(shape, data.iter().map(|&x| f64::from(x)).collect()),
            _ => Err(TensorError::NotFloat(dtype)),
        }
    }

    /// A tensor of one element and no dimensions.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::new(&[], vec![value]).expect("one element is what a scalar has")
    }

    /// All zeros (false for bool).
    ///
    /// # Errors
    /// When the shape's byte size overflows.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
            .ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        let words = Bytes::from_owner(Owned(vec![0u64; bytes.div_ceil(8)]));
        Self::from_bytes(dtype, shape, words.slice(..bytes))
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as little-endian bytes in C order, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The elements, when `T` stores this tensor's element type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::DTYPES.contains(&self.dtype).then(|| bytemuck::cast_slice(&self.data))
    }

    /// The elements as an array view, when `T` stores this tensor's element type.
    pub fn view<T: Element>(&self) -> Option<ArrayViewD<'_, T>> {
        let s = self.as_slice()?;
        Some(ArrayViewD::from_shape(IxDyn(&self.shape), s).expect("bytes fit the shape"))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the element counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, TensorError> {
        let reshaped = Self::from_bytes(self.dtype, shape, self.data.clone())?;
        Ok(Tensor { backing: self.backing.clone(), ..reshaped })
    }

    /// The same elements, which lie in `backing`.
    pub fn backed_by(self, backing: Arc<dyn Backing>) -> Self {
        Tensor { backing: Some(backing), ..self }
    }

    /// Says that the elements will not be read for a while, so that models need not fit in memory as a whole. Nothing else
    /// changes: elements of a mapped file are read again when they are needed, others stay where they are.
    pub fn release(&self) {
        if let Some(backing) = &self.backing {
            backing.release(&self.data);
        }
    }

    /// All elements as `f64` (integers above 2^53 round).
    pub fn to_f64(&self) -> Vec<f64> {
        fn conv<T: Element>(t: &Tensor, f: impl Fn(T) -> f64) -> Vec<f64> {
            bytemuck::cast_slice::<u8, T>(&t.data).iter().map(|&x| f(x)).collect()
        }
        match self.dtype {
            DType::F32 => conv(self, |x: f32| x as f64),
            DType::F16 => conv(self, f16::to_f64),
            DType::BF16 => conv(self, bf16::to_f64),
            DType::F64 => conv(self, |x: f64| x),
            DType::I8 => conv(self, |x: i8| x as f64),
            DType::U8 | DType::Bool => conv(self, |x: u8| x as f64),
            DType::I16 => conv(self, |x: i16| x as f64),
            DType::U16 => conv(self, |x: u16| x as f64),
            DType::I32 => conv(self, |x: i32| x as f64),
            DType::I64 => conv(self, |x: i64| x as f64),
        }
    }

    /// All elements as `f32`; borrowed when they are `f32` already.
    pub fn to_f32(&self) -> std::borrow::Cow<'_, [f32]> {
        match self.dtype {
            DType::F32 => bytemuck::cast_slice(&self.data).into(),
            DType::F16 => {
                let s: &[f16] = bytemuck::cast_slice(&self.data);
                s.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into()
            }
            DType::BF16 => {
                let s: &[bf16] = bytemuck::cast_slice(&self.data);
                s.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into()
            }
            _ => self.to_f64().into_iter().map(|x| x as f32).collect::<Vec<_>>().into(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        if self.numel() <= 8 {
            write!(f, " {:?}", self.to_f64())?;
        }
        Ok(())
    }
}

/// A borrowed tensor of any element type and any strides (an executor may keep images channels-last).
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // one variant an element type, each a view of it
pub enum TensorView<'a> {
    F32(ArrayViewD<'a, f32>),
    F16(ArrayViewD<'a, f16>),
    BF16(ArrayViewD<'a, bf16>),
    F64(ArrayViewD<'a, f64>),
    I8(ArrayViewD<'a, i8>),
    U8(ArrayViewD<'a, u8>),
    I16(ArrayViewD<'a, i16>),
    U16(ArrayViewD<'a, u16>),
    I32(ArrayViewD<'a, i32>),
    I64(ArrayViewD<'a, i64>),
    Bool(ArrayViewD<'a, u8>),
}

macro_rules! each_view {
    ($self:expr, $v:ident => $e:expr) => {
        match $self {
            TensorView::F32($v) => $e,
            TensorView::F16($v) => $e,
            TensorView::BF16($v) => $e,
            TensorView::F64($v) => $e,
            TensorView::I8($v) => $e,
            TensorView::U8($v) => $e,
            TensorView::I16($v) => $e,
            TensorView::U16($v) => $e,
            TensorView::I32($v) => $e,
            TensorView::I64($v) => $e,
            TensorView::Bool($v) => $e,
        }
    };
}

impl<'a> TensorView<'a> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            TensorView::F32(_) => DType::F32,
            TensorView::F16(_) => DType::F16,
            TensorView::BF16(_) => DType::BF16,
            TensorView::F64(_) => DType::F64,
            TensorView::I8(_) => DType::I8,
            TensorView::U8(_) => DType::U8,
            TensorView::I16(_) => DType::I16,
            TensorView::U16(_) => DType::U16,
            TensorView::I32(_) => DType::I32,
            TensorView::I64(_) => DType::I64,
            TensorView::Bool(_) => DType::Bool,
        }
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        each_view!(self, v => v.shape())
    }

    /// The view, when elements are `f32`.
    pub fn f32(&self) -> Option<ArrayViewD<'_, f32>> {
        match self {
            TensorView::F32(v) => Some(v.view()),
            _ => None,
        }
    }

    /// A copy in C order.
    pub fn to_tensor(&self) -> Tensor {
        fn copy<T: Element>(dtype: DType, v: &ArrayViewD<'_, T>) -> Tensor {
            let data: Vec<T> = match v.as_slice() {
                Some(s) => s.to_vec(),
                // By rows: an iterator over elements finds the place of each anew.
                None => v.rows().into_iter().flat_map(|row| row.to_vec()).collect(),
            };
            Tensor::from_bytes(dtype, v.shape(), Bytes::from_owner(Owned(data)))
                .expect("a view's elements fit its shape")
        }
        each_view!(self, v => copy(self.dtype(), v))
    }
}

impl Tensor {
    /// A borrowed view of this tensor.
    pub fn as_view(&self) -> TensorView<'_> {
        macro_rules! view {
            ($variant:ident) => {
                TensorView::$variant(self.view().expect("matched on the element type"))
            };
        }
        match self.dtype {
            DType::F32 => view!(F32),
            DType::F16 => view!(F16),
            DType::BF16 => view!(BF16),
            DType::F64 => view!(F64),
            DType::I8 => view!(I8),
            DType::U8 => view!(U8),
            DType::I16 => view!(I16),
            DType::U16 => view!(U16),
            DType::I32 => view!(I32),
            DType::I64 => view!(I64),
            DType::Bool => view!(Bool),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(Tensor::new(&[2, 3], vec![0f32; 5]).is_err());
        assert!(Tensor::zeros(DType::F64, &[usize::MAX, 2]).is_err());
    }

    #[test]
    fn misaligned_bytes_are_copied() {
        let bytes = Bytes::from(vec![0u8; 9]).slice(1..);
        let t = Tensor::from_bytes(DType::F32, &[2], bytes).unwrap();
        assert_eq!(t.as_slice::<f32>(), Some(&[0.0, 0.0][..]));
    }

    #[test]
    fn views_keep_strides() {
        let t = Tensor::new(&[2, 3], vec![1i32, 2, 3, 4, 5, 6]).unwrap();
        let v = TensorView::I32(t.view::<i32>().unwrap().reversed_axes());
        assert_eq!(v.to_tensor().as_slice::<i32>(), Some(&[1, 4, 2, 5, 3, 6][..]));
    }
}
