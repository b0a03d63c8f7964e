//! Ranges, granularities and parameters of quantized integers.

use super::blocks::Blocks;
use crate::dtype::DType;

/// What shares one scale and zero point.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// The whole tensor.
    Tensor,
    /// Each index of one axis.
    Channel {
        /// The axis, counted from the front.
        axis: u32,
    },
    /// Blocks of any shape; torchao's affine family, with operators of its own.
    Blocks(Blocks),
}

/// How a range of floats is laid over the integers.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The zero point follows the data's range.
    Affine,
    /// The zero point is fixed: 0 for signed types, the middle for unsigned ones.
    Symmetric,
    /// As symmetric, but each side takes all integers it has (−8 to 7, not −7.5 to 7.5), so that nothing is clipped
    /// (`SYMMETRIC_NO_CLIPPING_ERR`).
    SymmetricNoClipping,
    /// The zero point is a fraction, so that the range fits exactly and need not hold zero (`affine_float_qparams`,
    /// `preserve_zero=False`): for constants.
    AffineFloat,
}

/// Granularity and mapping: PyTorch's `qscheme` with its `ch_axis`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct QScheme {
    pub granularity: Granularity,
    pub mapping: Mapping,
}

/// The integers a quantized value may take, in the type that stores them.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct QRange {
    dtype: DType,
    min: i64,
    max: i64,
}

/// A range that its type cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{min} to {max} is no range of {dtype}; an integer type with min < max is needed")]
pub struct RangeError {
    dtype: DType,
    min: i64,
    max: i64,
}

impl QRange {
    /// −128 to 127 in int8.
    pub const INT8: QRange = QRange { dtype: DType::I8, min: -128, max: 127 };
    /// −127 to 127 in int8: symmetric around zero.
    pub const INT8_SYM: QRange = QRange { dtype: DType::I8, min: -127, max: 127 };
    /// 0 to 255 in uint8.
    pub const UINT8: QRange = QRange { dtype: DType::U8, min: 0, max: 255 };
    /// −8 to 7 in int8.
    pub const INT4: QRange = QRange { dtype: DType::I8, min: -8, max: 7 };
    /// −2 to 1 in int8.
    pub const INT2: QRange = QRange { dtype: DType::I8, min: -2, max: 1 };
    /// −32768 to 32767 in int16.
    pub const INT16: QRange = QRange { dtype: DType::I16, min: -32768, max: 32767 };
    /// 0 to 65535 in uint16.
    pub const UINT16: QRange = QRange { dtype: DType::U16, min: 0, max: 65535 };
    /// All of int32: what biases are stored in.
    pub const INT32: QRange = QRange { dtype: DType::I32, min: i32::MIN as i64, max: i32::MAX as i64 };

    /// A range of an integer type.
    ///
    /// # Errors
    /// When `min >= max`, or the type cannot hold them.
    pub fn new(dtype: DType, min: i64, max: i64) -> Result<Self, RangeError> {
        let fits = dtype.is_int() && dtype.int_bounds().is_some_and(|(lo, hi)| lo <= min && max <= hi);
        if fits && min < max { Ok(QRange { dtype, min, max }) } else { Err(RangeError { dtype, min, max }) }
    }

    /// The type that stores the integers.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The least integer (`quant_min`).
    pub fn min(self) -> i64 {
        self.min
    }

    /// The greatest integer (`quant_max`).
    pub fn max(self) -> i64 {
        self.max
    }
}

/// Scales and zero points, one of each per tensor, channel or block: `real = (quantized − zero_point) × scale`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QParams {
    /// The integers.
    pub range: QRange,
    /// What shares a scale.
    pub granularity: Granularity,
    /// Scales; f32 values, widened as PyTorch does when it makes Python floats of them.
    pub scale: Vec<f64>,
    /// Zero points, as many as scales: whole numbers, but for [`Mapping::AffineFloat`].
    pub zero_point: Vec<f64>,
    /// Element types of their tensors.
    #[serde(default)]
    pub types: ParamTypes,
}

/// Element types of the tensors that hold scales and zero points of blocks. `None`: f32, or when parameters are chosen at run
/// time what the operator chooses. Other granularities have fixed types.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ParamTypes {
    /// Of scales; scales are rounded to it.
    pub scale: Option<DType>,
    /// Of zero points.
    pub zero_point: Option<DType>,
}

impl QParams {
    /// One scale and zero point for the whole tensor.
    pub fn per_tensor(range: QRange, scale: f64, zero_point: i64) -> Self {
        Self::new(range, Granularity::Tensor, vec![scale], vec![zero_point as f64])
    }

    /// Parameters with tensors of the usual types.
    pub fn new(range: QRange, granularity: Granularity, scale: Vec<f64>, zero_point: Vec<f64>) -> Self {
        QParams { range, granularity, scale, zero_point, types: ParamTypes::default() }
    }
}
