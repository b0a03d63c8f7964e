//! Programs of the Model Intermediate Language as values.

use super::types::{DType, Type};
use bytes::Bytes;
use lowbit_core::SymInt;
use std::borrow::Cow;
use std::sync::Arc;

/// A name of an operator or of one of its arguments.
pub type Name = Cow<'static, str>;

/// The functions of a model; the one that runs when none is asked for is called `main`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// By name.
    pub functions: Vec<(String, Function)>,
}

/// A function: operators in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// The version of the operators: `CoreML7`.
    pub opset: String,
    /// What the caller gives.
    pub inputs: Vec<Input>,
    /// Each reads what earlier ones made.
    pub operations: Vec<Operation>,
    /// The names of the values that the caller gets.
    pub outputs: Vec<String>,
}

/// What a function takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its type; of a state, that of what the state holds.
    pub ty: Type,
    /// Whether it is kept from run to run, read by `read_state` and written by `coreml_update_state`.
    pub state: bool,
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Which: `conv`, `constexpr_blockwise_shift_scale`.
    pub op: Name,
    /// Arguments by name; one that takes a list has several.
    pub inputs: Vec<(Name, Vec<Arg>)>,
    /// Constants that are no arguments: the value of `const`, the parameters of `constexpr_*` before iOS 18.
    pub attributes: Vec<(Name, Constant)>,
    /// What it makes: names, unique in the function, and types.
    pub outputs: Vec<(String, Type)>,
}

/// An argument of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The value of that name.
    Name(String),
    /// A constant in place.
    Const(Constant),
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its type; all sizes are known.
    pub ty: Type,
    /// Its elements.
    pub data: Data,
}

/// The elements of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// In C order, little-endian, types of less than a byte [packed](super::pack); a boolean is a byte.
    Bytes(Bytes),
    /// Strings.
    Strs(Vec<Arc<str>>),
}

impl Function {
    /// The type of a value.
    pub fn ty(&self, name: &str) -> Option<&Type> {
        let inputs = self.inputs.iter().map(|i| (&i.name, &i.ty));
        let made = self.operations.iter().flat_map(|o| o.outputs.iter().map(|(n, t)| (n, t)));
        inputs.chain(made).find(|(n, _)| *n == name).map(|(_, t)| t)
    }
}

impl Operation {
    /// The argument of that name, when it has exactly one value.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        match self.inputs.iter().find(|(n, _)| n == name).map(|(_, a)| &a[..]) {
            Some([one]) => Some(one),
            _ => None,
        }
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Constant> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, c)| c)
    }
}

impl Constant {
    /// A constant of elements as they are stored.
    pub fn new<D: Into<SymInt>>(
        dtype: DType,
        shape: impl IntoIterator<Item = D>,
        bytes: impl Into<Bytes>,
    ) -> Self {
        Constant { ty: Type::new(dtype, shape), data: Data::Bytes(bytes.into()) }
    }

    /// A string.
    pub fn str(s: &str) -> Self {
        Constant { ty: Type::scalar(DType::Str), data: Data::Strs(vec![s.into()]) }
    }

    /// An integer.
    pub fn i32(n: i32) -> Self {
        Constant::new(DType::I32, [0i64; 0], n.to_le_bytes().to_vec())
    }

    /// A list of integers.
    pub fn i32s(list: &[i32]) -> Self {
        Constant::new(DType::I32, [list.len()], list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
    }

    /// A truth value.
    pub fn bool(b: bool) -> Self {
        Constant::new(DType::Bool, [0i64; 0], vec![u8::from(b)])
    }

    /// A number in a floating-point type.
    pub fn float(dtype: DType, x: f32) -> Self {
        Constant::floats(dtype, &[0usize; 0], &[x])
    }

    /// Numbers in a floating-point type, rounded to it.
    pub fn floats(dtype: DType, shape: &[usize], x: &[f32]) -> Self {
        let bytes: Vec<u8> = match dtype {
            DType::F16 => x.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
            _ => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Constant::new(if dtype == DType::F16 { DType::F16 } else { DType::F32 }, shape.iter().copied(), bytes)
    }

    /// The stored elements; none of strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(b) => b,
            Data::Strs(_) => &[],
        }
    }

    /// The string, when it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::Strs(s) if s.len() == 1 => Some(&s[0]),
            _ => None,
        }
    }

    /// The elements as integers, whatever integer type or bool they have.
    pub fn as_ints(&self) -> Option<Vec<i64>> {
        let (b, n) = (self.bytes(), self.ty.numel()?);
        let wide = |size: usize, f: fn(&[u8]) -> i64| b.chunks_exact(size).map(f).collect();
        Some(match self.ty.dtype {
            DType::Bool | DType::U8 => b.iter().map(|&x| x.into()).collect(),
            DType::I8 => b.iter().map(|&x| (x as i8).into()).collect(),
            DType::I16 => wide(2, |c| i16::from_le_bytes([c[0], c[1]]).into()),
            DType::U16 => wide(2, |c| u16::from_le_bytes([c[0], c[1]]).into()),
            DType::I32 => wide(4, |c| i32::from_le_bytes([c[0], c[1], c[2], c[3]]).into()),
            DType::U32 => wide(4, |c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]).into()),
            DType::I4 => super::unpack(b, 4, n, true).iter().map(|&x| (x as i8).into()).collect(),
            DType::U1 | DType::U2 | DType::U3 | DType::U4 | DType::U6 => {
                super::unpack(b, self.ty.dtype.bits(), n, false).iter().map(|&x| x.into()).collect()
            }
            DType::Str | DType::F16 | DType::F32 => return None,
        })
    }

    /// The elements as floats, when they are.
    pub fn as_floats(&self) -> Option<Vec<f32>> {
        let b = self.bytes();
        match self.ty.dtype {
            DType::F32 => {
                Some(b.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
            }
            DType::F16 => {
                Some(b.chunks_exact(2).map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()).collect())
            }
            _ => None,
        }
    }
}
