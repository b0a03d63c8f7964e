//! Element types and shapes of MIL values.

use lowbit_core::SymInt;
use lowbit_core::dtype::DType as CoreType;
use std::fmt;

/// An element type.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    Bool,
    Str,
    F16,
    F32,
    I4,
    I8,
    I16,
    I32,
    U1,
    U2,
    U3,
    U4,
    U6,
    U8,
    U16,
    U32,
}

/// One row an element type: its name in text, its number in `MIL.proto` (`DataType`), its number in the constants' file
/// (`MILBlob`'s `BlobDataType`), and its bits.
static ROWS: &[(DType, &str, i32, Option<u32>, u32)] = &[
    (DType::Bool, "bool", 1, None, 8),
    (DType::Str, "string", 2, None, 0),
    (DType::F16, "fp16", 10, Some(1), 16),
    (DType::F32, "fp32", 11, Some(2), 32),
    (DType::I4, "int4", 25, Some(8), 4),
    (DType::I8, "int8", 21, Some(4), 8),
    (DType::I16, "int16", 22, Some(6), 16),
    (DType::I32, "int32", 23, Some(14), 32),
    (DType::U1, "uint1", 37, Some(9), 1),
    (DType::U2, "uint2", 36, Some(10), 2),
    (DType::U3, "uint3", 39, Some(12), 3),
    (DType::U4, "uint4", 35, Some(11), 4),
    (DType::U6, "uint6", 38, Some(13), 6),
    (DType::U8, "uint8", 31, Some(3), 8),
    (DType::U16, "uint16", 32, Some(7), 16),
    (DType::U32, "uint32", 33, Some(15), 32),
];

impl DType {
    fn row(self) -> &'static (DType, &'static str, i32, Option<u32>, u32) {
        ROWS.iter().find(|r| r.0 == self).expect("every type has its row")
    }

    /// Its name in operators' arguments: `fp16`, `int8`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its number in messages.
    pub fn code(self) -> i32 {
        self.row().2
    }

    /// Its number in the constants' file, when it can lie there.
    pub fn blob_code(self) -> Option<u32> {
        self.row().3
    }

    /// Bits of an element as it is stored; none for strings.
    pub fn bits(self) -> u32 {
        self.row().4
    }

    /// The type of this number in messages.
    pub fn from_code(code: i32) -> Option<DType> {
        ROWS.iter().find(|r| r.2 == code).map(|r| r.0)
    }

    /// The type of this number in the constants' file.
    pub fn from_blob_code(code: u32) -> Option<DType> {
        ROWS.iter().find(|r| r.3 == Some(code)).map(|r| r.0)
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<DType> {
        ROWS.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// Unsigned integers of so many bits.
    pub fn unsigned(bits: u32) -> Option<DType> {
        ROWS.iter().find(|r| r.1.strip_prefix("uint") == Some(&bits.to_string())).map(|r| r.0)
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::F32)
    }

    /// Bytes that `n` elements take, packed.
    pub fn bytes(self, n: usize) -> usize {
        (n * self.bits() as usize).div_ceil(8)
    }

    /// The type that holds the elements of one of lowbit's; integers of 64 bits are cut to 32, as Core ML has no others.
    pub fn of(ty: CoreType) -> Option<DType> {
        Some(match ty {
            CoreType::Bool => DType::Bool,
            CoreType::F16 => DType::F16,
            CoreType::F32 | CoreType::F64 => DType::F32,
            CoreType::I8 => DType::I8,
            CoreType::I16 => DType::I16,
            CoreType::I32 | CoreType::I64 => DType::I32,
            CoreType::U8 => DType::U8,
            CoreType::U16 => DType::U16,
            _ => return None,
        })
    }
}

/// Element type and shape of a value. Sizes may depend on those of inputs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Size of each dimension, outermost first.
    pub shape: Vec<SymInt>,
}

impl Type {
    /// A type from anything that makes dimensions.
    pub fn new<D: Into<SymInt>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> Self {
        Type { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// A single element.
    pub fn scalar(dtype: DType) -> Self {
        Type { dtype, shape: vec![] }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements, when no size depends on inputs.
    pub fn numel(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(d.known()?).ok()?))
    }

    /// The same shape with other elements.
    pub fn with(&self, dtype: DType) -> Self {
        Type { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype.name(), self.shape)
    }
}

/// Packs integers of `bits` bits, lowest bits first, with no gaps: `uint3[1, 2, 3]` becomes `d1 00` (measured with Apple's
/// writer). Higher bits of the integers are dropped.
pub fn pack(values: impl IntoIterator<Item = u8>, bits: u32) -> Vec<u8> {
    let mask = (1u32 << bits) - 1;
    let (mut out, mut word, mut filled) = (vec![], 0u32, 0);
    for v in values {
        word |= (u32::from(v) & mask) << filled;
        filled += bits;
        while filled >= 8 {
            out.push(word as u8);
            word >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(word as u8);
    }
    out
}

/// The `n` integers of `bits` bits that [`pack`] packed; signed ones are widened with their sign if so told.
pub fn unpack(bytes: &[u8], bits: u32, n: usize, signed: bool) -> Vec<u8> {
    let bits = bits as usize;
    let at = |i: usize| {
        let (byte, shift) = (i * bits / 8, i * bits % 8);
        let word = u32::from(bytes[byte]) | u32::from(bytes.get(byte + 1).copied().unwrap_or(0)) << 8;
        let v = (word >> shift) as u8 & (0xff >> (8 - bits));
        if signed && v >> (bits - 1) == 1 { v | 0xffu8.checked_shl(bits as u32).unwrap_or(0) } else { v }
    };
    (0..n).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Apple's writer makes of them.
    #[test]
    fn packing_is_apples() {
        for (bits, values, packed) in [
            (1, &[1u8, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0x01u8, 0x01][..]),
            (2, &[1, 2, 3, 0, 1], &[0x39, 0x01]),
            (3, &[1, 2, 3, 4, 5, 6, 7, 0, 1], &[0xd1, 0x58, 0x1f, 0x01]),
            (4, &[1, 2, 3], &[0x21, 0x03]),
            (6, &[1, 2, 3, 63, 5], &[0x81, 0x30, 0xfc, 0x05]),
            (8, &[7, 255], &[7, 255]),
        ] {
            assert_eq!(pack(values.iter().copied(), bits), packed, "{bits} bits");
            assert_eq!(unpack(packed, bits, values.len(), false), values, "{bits} bits");
        }
        let signed = [-1i8, 1, -8].map(|v| v as u8);
        assert_eq!(pack(signed, 4), [0x1f, 0x08]);
        assert_eq!(unpack(&[0x1f, 0x08], 4, 3, true), signed);
    }

    #[test]
    fn numbers_are_unique() {
        for (d, name, code, blob, _) in ROWS {
            assert_eq!(DType::from_code(*code), Some(*d));
            assert_eq!(DType::from_name(name), Some(*d));
            if let Some(b) = blob {
                assert_eq!(DType::from_blob_code(*b), Some(*d));
            }
        }
        assert_eq!(DType::unsigned(6), Some(DType::U6));
        assert_eq!(DType::unsigned(5), None);
    }
}
