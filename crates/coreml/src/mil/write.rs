//! Programs to messages, with large constants in a file beside them.

use super::blob::Writer;
use super::program::{Arg, Constant, Data, Function, Operation, Program};
use super::proto::{self, binding, dimension, tensor_value, value, value_type};
use super::types::{DType, Type};
use crate::Target;
use std::collections::BTreeMap;

/// The file that a program's large constants lie in, as programs call it.
pub const WEIGHTS: &str = "@model_path/weights/weight.bin";

/// With so many elements a constant goes to the file, as in Apple's writer.
const LARGE: usize = 10;

/// The messages of a program for a target; large constants go to `blobs`.
pub fn program(program: &Program, target: Target, blobs: &mut Writer) -> proto::Program {
    let mut w = Messages { target, blobs };
    let functions = program.functions.iter().map(|(name, f)| (name.clone(), w.function(name, f))).collect();
    proto::Program { version: 1, functions, attributes: BTreeMap::new() }
}

struct Messages<'a> {
    target: Target,
    blobs: &'a mut Writer,
}

impl Messages<'_> {
    fn function(&mut self, _name: &str, f: &Function) -> proto::Function {
        let inputs = f.inputs.iter().map(|i| {
            let ty = tensor_type(&i.ty);
            let ty = if i.state { state_type(ty) } else { ty };
            proto::NamedValueType { name: i.name.clone(), r#type: Some(ty) }
        });
        let operations = f.operations.iter().map(|o| self.operation(o)).collect();
        let block = proto::Block { inputs: vec![], outputs: f.outputs.clone(), operations };
        proto::Function {
            inputs: inputs.collect(),
            opset: f.opset.clone(),
            block_specializations: [(f.opset.clone(), block)].into(),
        }
    }

    fn operation(&mut self, o: &Operation) -> proto::Operation {
        let inputs = o.inputs.iter().map(|(name, args)| {
            let arguments = args.iter().map(|a| {
                let binding = match a {
                    Arg::Name(n) => binding::Binding::Name(n.clone()),
                    Arg::Const(c) => binding::Binding::Value(self.constant(c)),
                };
                proto::Binding { binding: Some(binding) }
            });
            (name.to_string(), proto::Argument { arguments: arguments.collect() })
        });
        let inputs = inputs.collect();
        let mut attributes: BTreeMap<String, proto::Value> =
            o.attributes.iter().map(|(name, c)| (name.to_string(), self.constant(c))).collect();
        // Apple's writer names each operator after its first result.
        if let Some((name, _)) = o.outputs.first() {
            attributes.insert("name".into(), immediate(&Constant::str(name)));
        }
        let outputs = o
            .outputs
            .iter()
            .map(|(n, t)| proto::NamedValueType { name: n.clone(), r#type: Some(tensor_type(t)) })
            .collect();
        proto::Operation { r#type: o.op.to_string(), inputs, outputs, blocks: vec![], attributes }
    }

    fn constant(&mut self, c: &Constant) -> proto::Value {
        // Before iOS 18 the file held floats and bytes alone.
        let old = matches!(c.ty.dtype, DType::F16 | DType::F32 | DType::U8 | DType::I8);
        let large = c.ty.numel().filter(|&n| n >= LARGE && (old || self.target >= Target::Ios18));
        let at = large.and_then(|n| Some((n, self.blobs.add(c.ty.dtype, n, c.bytes())?)));
        match at {
            Some((_, offset)) => {
                let file = proto::BlobFileValue { file_name: WEIGHTS.into(), offset };
                proto::Value { r#type: Some(tensor_type(&c.ty)), value: Some(value::Value::File(file)) }
            }
            None => immediate(c),
        }
    }
}

/// A constant in place. Half floats and integers of less than 16 bits are bytes, as is uint32.
fn immediate(c: &Constant) -> proto::Value {
    let ints = || c.as_ints().unwrap_or_default().into_iter().map(|n| n as i32).collect();
    let v = match (&c.data, c.ty.dtype) {
        (Data::Strs(s), _) => {
            tensor_value::Value::Strings(proto::Strings { values: s.iter().map(|s| s.to_string()).collect() })
        }
        (_, DType::Bool) => {
            tensor_value::Value::Bools(proto::Bools { values: c.bytes().iter().map(|&b| b != 0).collect() })
        }
        (_, DType::F32) => {
            tensor_value::Value::Floats(proto::Floats { values: c.as_floats().unwrap_or_default() })
        }
        (_, DType::I16 | DType::U16 | DType::I32) => {
            tensor_value::Value::Ints(proto::Ints { values: ints() })
        }
        _ => tensor_value::Value::Bytes(proto::ByteString { values: c.bytes().to_vec() }),
    };
    let tensor = Some(proto::TensorValue { value: Some(v) });
    let value = Some(value::Value::Immediate(proto::ImmediateValue { tensor }));
    proto::Value { r#type: Some(tensor_type(&c.ty)), value }
}

fn tensor_type(ty: &Type) -> proto::ValueType {
    let dimensions = ty.shape.iter().map(|d| {
        let d = match d.known() {
            Some(n) => dimension::Dimension::Constant(proto::ConstantDimension { size: n.max(0) as u64 }),
            None => dimension::Dimension::Unknown(proto::UnknownDimension { variadic: false }),
        };
        proto::Dimension { dimension: Some(d) }
    });
    let tensor = proto::TensorType {
        data_type: ty.dtype.code(),
        rank: ty.rank() as i64,
        dimensions: dimensions.collect(),
    };
    proto::ValueType { r#type: Some(value_type::Type::Tensor(tensor)) }
}

fn state_type(ty: proto::ValueType) -> proto::ValueType {
    let state = proto::StateType { wrapped_type: Some(ty) };
    proto::ValueType { r#type: Some(value_type::Type::State(Box::new(state))) }
}
