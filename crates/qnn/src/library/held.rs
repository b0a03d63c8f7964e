//! A graph's tensors and operators in the library's structures, with the memory that they point into.

use super::abi::{self, encoding};
use crate::graph::{Encoding, Graph, Op, Param, Role, Tensor};
use bytes::Bytes;
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

/// The package that the HTP's operators are in.
const PACKAGE: &std::ffi::CStr = c"qti.aisw";

/// A tensor in the library's form.
///
/// The pointers in `raw` lead to the heap, into what the other fields hold: moving the whole does not move that, and nothing
/// changes it.
#[derive(Debug)]
pub struct HeldTensor {
    pub raw: Raw,
    _name: CString,
    _dims: Vec<u32>,
    _data: Bytes,
    _pairs: Vec<abi::ScaleOffset>,
    _scales: Vec<f32>,
    _offsets: Vec<i32>,
    _bytes: Vec<u8>,
    _expansion: Option<Box<abi::Expansion>>,
}

/// The library's tensor; it prints as nothing, being full of unions.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Raw(pub abi::Tensor);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw")
    }
}

/// A name without what C strings cannot hold.
pub fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "_")).expect("it holds no zero byte")
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl HeldTensor {
    /// A tensor of a graph.
    pub fn new(t: &Tensor) -> Self {
        let name = c_string(&t.name);
        let dims = t.dims.clone();
        let data = t.data.clone();
        let (mut pairs, mut all, mut zeros, mut bytes) = (vec![], vec![], vec![], vec![]);
        let pair = |(&scale, &offset): (&f32, &i32)| abi::ScaleOffset { scale, offset };
        let mut expansion = None;
        let none = (abi::UNDEFINED, abi::Parameters::of(|_| {}));
        let (kind, parameters) = match &t.encoding {
            Encoding::None => none,
            Encoding::Tensor { scale, offset, bits: None } => {
                let tensor = abi::ScaleOffset { scale: *scale, offset: *offset };
                (encoding::TENSOR, abi::Parameters::of(|p| p.tensor = tensor))
            }
            Encoding::Tensor { scale, offset, bits: Some(bits) } => {
                let narrow_tensor = abi::NarrowTensor { bits: *bits, scale: *scale, offset: *offset };
                (encoding::NARROW_TENSOR, abi::Parameters::of(|p| p.narrow_tensor = narrow_tensor))
            }
            Encoding::Axis { axis, scales, offsets, bits: None } => {
                pairs = scales.iter().zip(offsets).map(pair).collect();
                let axis =
                    abi::Axis { axis: *axis as i32, count: count(pairs.len()), values: pairs.as_ptr() };
                (encoding::AXIS, abi::Parameters::of(|p| p.axis = axis))
            }
            Encoding::Axis { axis, scales, offsets, bits: Some(bits) } => {
                (all, zeros) = (scales.clone(), offsets.clone());
                let narrow_axis = abi::NarrowAxis {
                    bits: *bits,
                    axis: *axis as i32,
                    count: count(all.len()),
                    scales: all.as_ptr(),
                    offsets: zeros.as_ptr(),
                };
                (encoding::NARROW_AXIS, abi::Parameters::of(|p| p.narrow_axis = narrow_axis))
            }
            Encoding::Blocks { axis, scales, blocks, multipliers } => {
                pairs = scales.iter().map(|&scale| abi::ScaleOffset { scale, offset: 0 }).collect();
                bytes = multipliers.clone();
                let boxed = expansion.insert(Box::new(abi::Expansion {
                    axis: *axis as i32,
                    pad: 0,
                    values: pairs.as_ptr(),
                    blocks: *blocks,
                    bits: 4,
                    storage: 0,
                    pad_again: 0,
                    multipliers: bytes.as_ptr(),
                }));
                (encoding::EXPANSION, abi::Parameters::of(|p| p.expansion = &raw const **boxed))
            }
        };
        let definition = if kind == abi::UNDEFINED { abi::UNDEFINED } else { 1 };
        let is_static = t.role == Role::Static;
        let raw = abi::Tensor {
            version: 2,
            pad: 0,
            id: 0,
            name: name.as_ptr(),
            role: t.role as u32,
            format: 0,
            dtype: t.dtype.code(),
            quantization: abi::Quantization { definition, encoding: kind, parameters },
            rank: count(dims.len()),
            dims: dims.as_ptr(),
            memory: 0,
            buffer: abi::Buffer {
                data: if is_static { data.as_ptr().cast_mut().cast::<c_void>() } else { null_mut() },
                size: if is_static { count(data.len()) } else { 0 },
            },
            dynamic: null(),
            sparse: abi::Sparse { kind: abi::UNDEFINED, a: 0, b: 0 },
            produced: 0,
        };
        HeldTensor {
            raw: Raw(raw),
            _name: name,
            _dims: dims,
            _data: data,
            _pairs: pairs,
            _scales: all,
            _offsets: zeros,
            _bytes: bytes,
            _expansion: expansion,
        }
    }
}

/// An operator in the library's form.
#[derive(Debug)]
pub struct HeldOp {
    raw: RawOp,
    /// Parameters that are tensors: their place among the parameters, and the tensor.
    pub tensors: Vec<(usize, HeldTensor)>,
    params: Vec<RawParam>,
    inputs: Vec<Raw>,
    outputs: Vec<Raw>,
    _names: Vec<CString>,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawOp(abi::Op);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawParam(abi::Param);

impl std::fmt::Debug for RawOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawOp")
    }
}
impl std::fmt::Debug for RawParam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawParam")
    }
}

impl HeldOp {
    /// An operator of a graph. `tensors` are the graph's, as the library knows them by now.
    pub fn new(op: &Op, tensors: &[HeldTensor]) -> Self {
        let name = c_string(&op.name);
        let kind = c_string(op.kind);
        let mut names = vec![];
        let mut params = vec![];
        let mut held = vec![];
        for (i, (param, value)) in op.params.iter().enumerate() {
            let label = c_string(param);
            let scalar =
                |dtype: u32, value: abi::Number| abi::ParamValue { scalar: abi::Scalar { dtype, value } };
            let (kind, value) = match value {
                Param::U32(n) => (0, scalar(0x132, abi::Number { u32: *n })),
                Param::I32(n) => (0, scalar(0x32, abi::Number { i32: *n })),
                Param::F32(x) => (0, scalar(0x232, abi::Number { f32: *x })),
                Param::Bool(b) => (0, scalar(0x508, abi::Number { u64: u64::from(*b) })),
                Param::U32s(list, dims) => {
                    let bytes: Vec<u8> = list.iter().flat_map(|n| n.to_le_bytes()).collect();
                    (1, list_param(op, param, crate::graph::DType::UInt32, dims, bytes, i, &mut held))
                }
                Param::I32s(list, dims) => {
                    let bytes: Vec<u8> = list.iter().flat_map(|n| n.to_le_bytes()).collect();
                    (1, list_param(op, param, crate::graph::DType::Int32, dims, bytes, i, &mut held))
                }
            };
            params.push(RawParam(abi::Param { kind, name: label.as_ptr(), value }));
            names.push(label);
        }
        let of = |ids: &[usize]| ids.iter().map(|&i| tensors[i].raw).collect::<Vec<Raw>>();
        let (inputs, outputs) = (of(&op.inputs), of(&op.outputs));
        let raw = abi::Op {
            version: 1,
            name: name.as_ptr(),
            package: PACKAGE.as_ptr(),
            kind: kind.as_ptr(),
            param_count: 0,
            params: null(),
            input_count: 0,
            inputs: null(),
            output_count: 0,
            outputs: null(),
        };
        names.extend([name, kind]);
        HeldOp { raw: RawOp(raw), tensors: held, params, inputs, outputs, _names: names }
    }

    /// The library's structure, which points into this one.
    pub fn raw(&self) -> abi::Op {
        abi::Op {
            param_count: count(self.params.len()),
            params: self.params.as_ptr().cast(),
            input_count: count(self.inputs.len()),
            inputs: self.inputs.as_ptr().cast(),
            output_count: count(self.outputs.len()),
            outputs: self.outputs.as_ptr().cast(),
            ..self.raw.0
        }
    }

    /// Takes over what the library said of a parameter that is a tensor: its number.
    pub fn settle(&mut self) {
        for (i, t) in &self.tensors {
            self.params[*i].0.value = abi::ParamValue { tensor: t.raw.0 };
        }
    }
}

fn list_param(
    op: &Op,
    param: &str,
    dtype: crate::graph::DType,
    dims: &[u32],
    bytes: Vec<u8>,
    at: usize,
    held: &mut Vec<(usize, HeldTensor)>,
) -> abi::ParamValue {
    let tensor = HeldTensor::new(&Tensor {
        name: format!("{}_{param}", op.name),
        role: Role::Static,
        dtype,
        dims: dims.to_vec(),
        encoding: Encoding::None,
        data: bytes.into(),
    });
    let value = abi::ParamValue { tensor: tensor.raw.0 };
    held.push((at, tensor));
    value
}

/// All tensors of a graph.
pub fn tensors(graph: &Graph) -> Vec<HeldTensor> {
    graph.tensors.iter().map(HeldTensor::new).collect()
}
