//! Messages to programs, constants from their file included.

use super::blob;
use super::program::{Arg, Constant, Data, Function, Input, Operation, Program};
use super::proto::{self, binding, dimension, tensor_value, value, value_type};
use super::types::{DType, Type};
use super::write::WEIGHTS;
use bytes::Bytes;
use lowbit_core::SymInt;

/// Why a package is not a program lowbit can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ReadError {
    /// The function, operator or file.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

fn bad<T>(place: impl Into<String>, reason: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError { place: place.into(), reason: reason.into() })
}

/// The program in messages; `weights` is the constants' file.
///
/// # Errors
/// Names the operator and what it holds that cannot be.
pub fn program(p: &proto::Program, weights: &Bytes) -> Result<Program, ReadError> {
    let read = |(name, f): (&String, &proto::Function)| Ok((name.clone(), function(name, f, weights)?));
    Ok(Program { functions: p.functions.iter().map(read).collect::<Result<_, _>>()? })
}

fn function(name: &str, f: &proto::Function, weights: &Bytes) -> Result<Function, ReadError> {
    let Some(block) = f.block_specializations.get(&f.opset) else {
        return bad(
            format!("function {name}"),
            format!("there is no block for its operators, {:?}", f.opset),
        );
    };
    let mut symbols = 0;
    let inputs = f.inputs.iter().map(|i| {
        let (ty, state) = match i.r#type.as_ref().and_then(|t| t.r#type.as_ref()) {
            Some(value_type::Type::State(s)) => (s.wrapped_type.as_ref(), true),
            _ => (i.r#type.as_ref(), false),
        };
        let mut ty = tensor_type(&i.name, ty)?;
        // Every open size of an input is a symbol of its own: the messages do not say which are equal.
        for d in ty.shape.iter_mut().filter(|d| d.known().is_none()) {
            *d = SymInt::symbol(format!("s{symbols}"));
            symbols += 1;
        }
        Ok(Input { name: i.name.clone(), ty, state })
    });
    let inputs = inputs.collect::<Result<_, _>>()?;
    let operations = block.operations.iter().map(|o| operation(o, weights)).collect::<Result<_, _>>()?;
    Ok(Function { opset: f.opset.clone(), inputs, operations, outputs: block.outputs.clone() })
}

fn operation(o: &proto::Operation, weights: &Bytes) -> Result<Operation, ReadError> {
    let place = || {
        let first = o.outputs.first().map_or("", |v| &v.name);
        format!("operator {} ({first})", o.r#type)
    };
    if !o.blocks.is_empty() {
        return bad(place(), "it holds blocks; lowbit reads programs without control flow");
    }
    let mut inputs = vec![];
    for (name, argument) in &o.inputs {
        let mut args = vec![];
        for b in &argument.arguments {
            args.push(match &b.binding {
                Some(binding::Binding::Name(n)) => Arg::Name(n.clone()),
                Some(binding::Binding::Value(v)) => Arg::Const(constant(&place(), v, weights)?),
                None => return bad(place(), format!("argument {name} holds nothing")),
            });
        }
        inputs.push((name.clone().into(), args));
    }
    let mut attributes = vec![];
    for (name, v) in o.attributes.iter().filter(|(name, _)| *name != "name") {
        attributes.push((name.clone().into(), constant(&place(), v, weights)?));
    }
    let outputs = o.outputs.iter().map(|v| Ok((v.name.clone(), tensor_type(&v.name, v.r#type.as_ref())?)));
    let outputs = outputs.collect::<Result<_, _>>()?;
    Ok(Operation { op: o.r#type.clone().into(), inputs, attributes, outputs })
}

/// A type; open sizes become a symbol without a name, since nothing is known of them.
fn tensor_type(place: &str, ty: Option<&proto::ValueType>) -> Result<Type, ReadError> {
    let Some(value_type::Type::Tensor(t)) = ty.and_then(|t| t.r#type.as_ref()) else {
        return bad(place, "it is no tensor");
    };
    let Some(dtype) = DType::from_code(t.data_type) else {
        return bad(place, format!("there is no element type {}", t.data_type));
    };
    if usize::try_from(t.rank) != Ok(t.dimensions.len()) {
        return bad(place, format!("{} sizes for {} dimensions", t.dimensions.len(), t.rank));
    }
    let size = |d: &proto::Dimension| match d.dimension {
        Some(dimension::Dimension::Constant(c)) => i64::try_from(c.size).ok().map(SymInt::from),
        Some(dimension::Dimension::Unknown(_)) => Some(SymInt::symbol("?")),
        None => None,
    };
    match t.dimensions.iter().map(size).collect() {
        Some(shape) => Ok(Type { dtype, shape }),
        None => bad(place, "a size is missing or too large"),
    }
}

fn constant(place: &str, v: &proto::Value, weights: &Bytes) -> Result<Constant, ReadError> {
    let ty = tensor_type(place, v.r#type.as_ref())?;
    let Some(n) = ty.numel() else { return bad(place, "a constant of open size") };
    let data = match &v.value {
        Some(value::Value::File(f)) => {
            if f.file_name != WEIGHTS {
                return bad(place, format!("constants in {:?}; lowbit reads {WEIGHTS}", f.file_name));
            }
            let (dtype, range) = blob::record(weights, f.offset)
                .map_err(|e| ReadError { place: place.into(), reason: e.to_string() })?;
            if dtype != ty.dtype {
                let names = (dtype.name(), ty.dtype.name());
                return bad(place, format!("the file holds {} at {}, not {}", names.0, f.offset, names.1));
            }
            Data::Bytes(weights.slice(range))
        }
        Some(value::Value::Immediate(i)) => match i.tensor.as_ref().and_then(|t| t.value.as_ref()) {
            Some(t) => immediate(t, ty.dtype),
            None => Data::Bytes(Bytes::new()),
        },
        None => return bad(place, "a constant without a value"),
    };
    let fits = match &data {
        Data::Bytes(b) => Some(b.len()) == (n.checked_mul(ty.dtype.bits() as usize)).map(|b| b.div_ceil(8)),
        Data::Strs(s) => s.len() == n && ty.dtype == DType::Str,
    };
    if !fits {
        return bad(place, format!("a constant {ty:?} has other elements than its type says"));
    }
    Ok(Constant { ty, data })
}

fn immediate(v: &tensor_value::Value, dtype: DType) -> Data {
    let narrow = |values: &[i32]| -> Vec<u8> {
        match dtype.bits() {
            8 => values.iter().map(|&n| n as u8).collect(),
            16 => values.iter().flat_map(|&n| (n as u16).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|n| n.to_le_bytes()).collect(),
        }
    };
    Data::Bytes(match v {
        tensor_value::Value::Strings(s) => {
            return Data::Strs(s.values.iter().map(|s| (&**s).into()).collect());
        }
        tensor_value::Value::Floats(f) => {
            f.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into()
        }
        tensor_value::Value::Ints(n) => narrow(&n.values).into(),
        tensor_value::Value::Bools(b) => b.values.iter().map(|&b| u8::from(b)).collect::<Vec<_>>().into(),
        tensor_value::Value::LongInts(n) => {
            narrow(&n.values.iter().map(|&n| n as i32).collect::<Vec<_>>()).into()
        }
        tensor_value::Value::Bytes(b) => b.values.clone().into(),
    })
}
