//! The kernel interface: what a kernel sees of one call, and the table of all kernels.

use crate::parallel::Threads;
use crate::simd::Isa;
use lowbit_core::dtype::DType;
use lowbit_core::ops::OpDef;
use lowbit_core::tensor::Element;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Computes the outputs of one call. Inputs and outputs are dense, in C order; outputs have the inferred shapes and
/// hold arbitrary bytes before.
pub type Kernel = fn(&KernelCall<'_>, &mut [TensorMut<'_>]) -> Result<(), KernelError>;

/// Inputs whose *contents* a kernel cannot take (an index out of range), or a combination it does not implement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KernelError(pub String);

impl KernelError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        KernelError(message.into())
    }
}

/// A dense tensor to read.
#[derive(Copy, Clone, Debug)]
pub struct TensorRef<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: &'a [usize],
    /// Elements.
    pub bytes: &'a [u8],
}

/// A dense tensor to fill.
#[derive(Debug)]
pub struct TensorMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: &'a [usize],
    /// Elements.
    pub bytes: &'a mut [u8],
}

impl<'a> TensorRef<'a> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements, when `T` stores this element type.
    pub fn slice<T: Element>(&self) -> Option<&'a [T]> {
        T::DTYPES.contains(&self.dtype).then(|| bytemuck::cast_slice(self.bytes))
    }

    /// The elements as `T`, converted if need be as PyTorch's `.to()` does.
    pub fn as_vec<T: Number>(&self) -> Cow<'a, [T]> {
        if let Some(s) = self.slice::<T>() {
            return s.into();
        }
        macro_rules! each {
            ($t:ty) => {
                bytemuck::cast_slice::<u8, $t>(self.bytes)
                    .iter()
                    .map(|&x| T::cast(x))
                    .collect::<Vec<T>>()
                    .into()
            };
        }
        match self.dtype {
            DType::F32 => each!(f32),
            DType::F16 => each!(half::f16),
            DType::BF16 => each!(half::bf16),
            DType::F64 => each!(f64),
            DType::I8 => each!(i8),
            DType::U8 | DType::Bool => each!(u8),
            DType::I16 => each!(i16),
            DType::U16 => each!(u16),
            DType::I32 => each!(i32),
            DType::I64 => each!(i64),
            other => unreachable_dtype(other),
        }
    }
}

/// `DType` is non-exhaustive for other crates; every one of its types has an arm where this is called.
fn unreachable_dtype<T>(d: DType) -> T {
    unreachable!("{d} has no arm here")
}

impl TensorMut<'_> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements, when `T` stores this element type.
    pub fn slice<T: Element>(&mut self) -> Option<&mut [T]> {
        T::DTYPES.contains(&self.dtype).then(|| bytemuck::cast_slice_mut(self.bytes))
    }

    /// Stores elements computed as `T`, converted to this element type.
    pub fn store<T: Number>(&mut self, values: impl IntoIterator<Item = T>) {
        macro_rules! each {
            ($t:ty) => {
                bytemuck::cast_slice_mut::<u8, $t>(self.bytes)
                    .iter_mut()
                    .zip(values)
                    .for_each(|(o, x)| *o = <$t as Number>::cast(x))
            };
        }
        match self.dtype {
            DType::F32 => each!(f32),
            DType::F16 => each!(half::f16),
            DType::BF16 => each!(half::bf16),
            DType::F64 => each!(f64),
            DType::I8 => each!(i8),
            DType::U8 => each!(u8),
            DType::Bool => {
                self.bytes.iter_mut().zip(values).for_each(|(o, x)| *o = u8::from(x.to_f64() != 0.0));
            }
            DType::I16 => each!(i16),
            DType::U16 => each!(u16),
            DType::I32 => each!(i32),
            DType::I64 => each!(i64),
            other => unreachable_dtype(other),
        }
    }
}

/// Element types as numbers, with PyTorch's conversions.
pub trait Number: Element + PartialOrd + Default {
    /// Converts any number to this type: floats to integers by truncation, integers by wrapping.
    fn cast<U: Number>(x: U) -> Self;
    /// As `f64`; integers above 2⁵³ round.
    fn to_f64(self) -> f64;
    /// As `i64`; floats truncate.
    fn to_i64(self) -> i64;
    /// Whether this is a floating-point type.
    const FLOAT: bool;
}

macro_rules! number {
    (int $($t:ty),*) => { $(impl Number for $t {
        fn cast<U: Number>(x: U) -> Self { x.to_i64() as $t }
        fn to_f64(self) -> f64 { self as f64 }
        fn to_i64(self) -> i64 { self as i64 }
        const FLOAT: bool = false;
    })* };
    (float $($t:ty),*) => { $(impl Number for $t {
        fn cast<U: Number>(x: U) -> Self { if U::FLOAT { x.to_f64() as $t } else { x.to_i64() as $t } }
        fn to_f64(self) -> f64 { self as f64 }
        fn to_i64(self) -> i64 { self as i64 }
        const FLOAT: bool = true;
    })* };
    (half $($t:ty),*) => { $(impl Number for $t {
        // Through f32, as PyTorch rounds twice there.
        fn cast<U: Number>(x: U) -> Self { <$t>::from_f32(f32::cast(x)) }
        fn to_f64(self) -> f64 { <$t>::to_f64(self) }
        fn to_i64(self) -> i64 { <$t>::to_f32(self) as i64 }
        const FLOAT: bool = true;
    })* };
}
number!(int i8, u8, i16, u16, i32, i64);
number!(float f32, f64);
number!(half half::f16, half::bf16);

/// An argument with its symbols resolved; tensors are operand numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum ConcreteArg {
    /// Left out.
    None,
    /// Operand.
    Tensor(usize),
    /// Operands.
    Tensors(Vec<usize>),
    /// Operands with holes.
    OptTensors(Vec<Option<usize>>),
    /// Integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// Float.
    Float(f64),
    /// Floats.
    Floats(Vec<f64>),
    /// Boolean.
    Bool(bool),
    /// Booleans.
    Bools(Vec<bool>),
    /// String.
    Str(Arc<str>),
    /// Element type.
    DType(DType),
}

/// One call of an operator.
#[derive(Copy, Clone, Debug)]
pub struct KernelCall<'a> {
    /// The operator.
    pub op: &'static OpDef,
    /// Its arguments in schema order.
    pub args: &'a [ConcreteArg],
    /// Its operands, by slot.
    pub inputs: &'a [TensorRef<'a>],
    /// What the CPU has, or is allowed to use.
    pub isa: Isa,
    /// Who may help.
    pub(crate) threads: &'a Threads,
}

impl<'a> KernelCall<'a> {
    /// A call outside of a run: nobody helps.
    pub(crate) fn alone(
        op: &'static OpDef,
        args: &'a [ConcreteArg],
        inputs: &'a [TensorRef<'a>],
        isa: Isa,
    ) -> Self {
        KernelCall { op, args, inputs, isa, threads: Threads::ALONE }
    }

    fn missing<T>(&self, i: usize, what: &str) -> Result<T, KernelError> {
        let name = self.op.schema().args.get(i).map_or("?", |a| &a.name[..]);
        Err(KernelError(format!("argument {name} should be {what}")))
    }

    /// The argument; [`ConcreteArg::None`] past the end.
    pub fn arg(&self, i: usize) -> &'a ConcreteArg {
        self.args.get(i).unwrap_or(&ConcreteArg::None)
    }

    /// Tensor argument `i`.
    ///
    /// # Errors
    /// When the argument is of another kind (likewise below); the schema check makes that impossible.
    pub fn tensor(&self, i: usize) -> Result<TensorRef<'a>, KernelError> {
        match self.arg(i) {
            ConcreteArg::Tensor(s) => Ok(self.inputs[*s]),
            _ => self.missing(i, "a tensor"),
        }
    }

    /// Tensor argument `i`, or `None`.
    pub fn opt_tensor(&self, i: usize) -> Option<TensorRef<'a>> {
        match self.arg(i) {
            ConcreteArg::Tensor(s) => Some(self.inputs[*s]),
            _ => None,
        }
    }

    /// A list of tensors.
    pub fn tensors(&self, i: usize) -> Result<Vec<TensorRef<'a>>, KernelError> {
        match self.arg(i) {
            ConcreteArg::Tensors(s) => Ok(s.iter().map(|&s| self.inputs[s]).collect()),
            _ => self.missing(i, "a list of tensors"),
        }
    }

    /// An integer.
    pub fn int(&self, i: usize) -> Result<i64, KernelError> {
        match self.arg(i) {
            ConcreteArg::Int(n) => Ok(*n),
            _ => self.missing(i, "an integer"),
        }
    }

    /// An integer, or `default` when left out.
    pub fn int_or(&self, i: usize, default: i64) -> Result<i64, KernelError> {
        match self.arg(i) {
            ConcreteArg::None => Ok(default),
            _ => self.int(i),
        }
    }

    /// A list of integers; empty when left out.
    pub fn ints(&self, i: usize) -> Result<&'a [i64], KernelError> {
        match self.arg(i) {
            ConcreteArg::Ints(l) => Ok(l),
            ConcreteArg::None => Ok(&[]),
            _ => self.missing(i, "a list of integers"),
        }
    }

    /// A list of integers widened to `n` entries: one stands for all, none for `default`.
    pub fn widened(&self, i: usize, n: usize, default: &[i64]) -> Result<Vec<i64>, KernelError> {
        Ok(match self.ints(i)? {
            [] => default.to_vec(),
            [one] => vec![*one; n],
            all => all.to_vec(),
        })
    }

    /// A number as float.
    pub fn float(&self, i: usize) -> Result<f64, KernelError> {
        match self.opt_float(i) {
            Some(x) => Ok(x),
            None => self.missing(i, "a number"),
        }
    }

    /// A number as float, or `None`.
    pub fn opt_float(&self, i: usize) -> Option<f64> {
        match self.arg(i) {
            ConcreteArg::Float(x) => Some(*x),
            ConcreteArg::Int(n) => Some(*n as f64),
            ConcreteArg::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    /// A boolean.
    pub fn bool(&self, i: usize) -> Result<bool, KernelError> {
        match self.arg(i) {
            ConcreteArg::Bool(b) => Ok(*b),
            _ => self.missing(i, "a boolean"),
        }
    }

    /// A string, or `None`.
    pub fn str(&self, i: usize) -> Option<&'a str> {
        match self.arg(i) {
            ConcreteArg::Str(s) => Some(s),
            _ => None,
        }
    }

    /// Dimension argument `i`, counted from the front, of a tensor of `rank` dimensions.
    pub fn dim(&self, i: usize, rank: usize) -> Result<usize, KernelError> {
        Ok(wrap(self.int(i)?, rank))
    }

    /// The place of the argument called `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.op.schema().index_of(name)
    }
}

/// A dimension counted from the front; shape rules have checked its range.
pub fn wrap(dim: i64, rank: usize) -> usize {
    (if dim < 0 { dim + rank.max(1) as i64 } else { dim }) as usize
}

/// The kernel of an operator.
pub fn kernel(op: &OpDef) -> Option<Kernel> {
    static BY_NAME: LazyLock<HashMap<&str, Kernel>> =
        LazyLock::new(|| crate::kernels::all().map(|&(name, k)| (name, k)).collect());
    BY_NAME.get(op.name).copied()
}

/// Row-major strides, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut s = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        s[i] = s[i + 1] * shape[i + 1];
    }
    s
}

/// Strides of a tensor read as if broadcast to `out`: 0 along repeated dimensions.
pub fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let new = out.len() - shape.len();
    (0..out.len())
        .map(|i| match i.checked_sub(new) {
            Some(k) if shape[k] != 1 => own[k],
            _ => 0,
        })
        .collect()
}

/// Calls `f` with the offsets of each row (all indices but the last dimension's) for several stride sets.
pub fn for_each_row<const N: usize>(shape: &[usize], strides: [&[usize]; N], mut f: impl FnMut([usize; N])) {
    let outer = shape.len().saturating_sub(1);
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0usize; outer];
    let mut offsets = [0usize; N];
    loop {
        f(offsets);
        let mut d = outer;
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            at[d] += 1;
            for (o, s) in offsets.iter_mut().zip(strides) {
                *o += s[d];
            }
            if at[d] < shape[d] {
                break;
            }
            for (o, s) in offsets.iter_mut().zip(strides) {
                *o -= s[d] * shape[d];
            }
            at[d] = 0;
        }
    }
}
