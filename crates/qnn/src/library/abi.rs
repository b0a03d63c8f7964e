//! The library's binary interface: structures and the numbers of its functions.
//!
//! Written for lowbit from the facts that openly licensed programs show (ExecuTorch's and ONNX Runtime's QNN back ends): the
//! order of fields, their sizes, the numbers of options. On 64-bit systems only.

use std::ffi::{c_char, c_void};

/// 0, or an error: the low 16 bits say which.
pub type Status = u64;

/// Something of the library's.
pub type Handle = *mut c_void;

/// `major.minor.patch`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

/// What `QnnInterface_getProviders` lists. The table of functions grows from version to version; those called here are the
/// first ones, which have kept their places.
#[repr(C)]
pub struct Provider {
    pub backend: u32,
    pub name: *const c_char,
    pub core: Version,
    pub backend_version: Version,
    pub functions: [Handle; FUNCTIONS],
}

/// What `QnnSystemInterface_getProviders` lists.
#[repr(C)]
pub struct SystemProvider {
    pub system: u32,
    pub name: *const c_char,
    pub version: Version,
    pub functions: [Handle; 4],
}

/// Functions of the table that are known here.
pub const FUNCTIONS: usize = 44;

/// The places of functions in the table.
pub mod place {
    pub const BACKEND_CREATE: usize = 1;
    pub const BACKEND_BUILD_ID: usize = 4;
    pub const BACKEND_VALIDATE: usize = 7;
    pub const BACKEND_FREE: usize = 8;
    pub const CONTEXT_CREATE: usize = 9;
    pub const CONTEXT_BINARY_SIZE: usize = 11;
    pub const CONTEXT_BINARY: usize = 12;
    pub const CONTEXT_FROM_BINARY: usize = 13;
    pub const CONTEXT_FREE: usize = 14;
    pub const GRAPH_CREATE: usize = 15;
    pub const GRAPH_ADD_NODE: usize = 18;
    pub const GRAPH_FINALIZE: usize = 19;
    pub const GRAPH_RETRIEVE: usize = 20;
    pub const GRAPH_EXECUTE: usize = 21;
    pub const TENSOR_CREATE: usize = 24;
    pub const LOG_CREATE: usize = 25;
    pub const LOG_FREE: usize = 27;
    pub const DEVICE_CREATE: usize = 40;
    pub const DEVICE_FREE: usize = 43;
    /// Of the system library's table.
    pub const SYSTEM_CREATE: usize = 0;
    pub const SYSTEM_BINARY_INFO: usize = 1;
    pub const SYSTEM_FREE: usize = 3;
}

/// A field that says nothing.
pub const UNDEFINED: u32 = 0x7fff_ffff;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ScaleOffset {
    pub scale: f32,
    pub offset: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Axis {
    pub axis: i32,
    pub count: u32,
    pub values: *const ScaleOffset,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct NarrowTensor {
    pub bits: u32,
    pub scale: f32,
    pub offset: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct NarrowAxis {
    pub bits: u32,
    pub axis: i32,
    pub count: u32,
    pub scales: *const f32,
    pub offsets: *const i32,
}

/// A scale a channel, and a small integer a block that multiplies it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Expansion {
    pub axis: i32,
    pub pad: u32,
    pub values: *const ScaleOffset,
    pub blocks: u32,
    pub bits: u32,
    pub storage: u32,
    pub pad_again: u32,
    pub multipliers: *const u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union Parameters {
    pub tensor: ScaleOffset,
    pub axis: Axis,
    pub narrow_tensor: NarrowTensor,
    pub narrow_axis: NarrowAxis,
    pub expansion: *const Expansion,
    /// Newer encodings, with more fields, take as much.
    pub room: [u64; 4],
}

impl Parameters {
    /// Parameters with no byte undefined: what is not of the encoding is zero.
    pub fn of(set: impl FnOnce(&mut Parameters)) -> Self {
        let mut all = Parameters { room: [0; 4] };
        set(&mut all);
        all
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Quantization {
    pub definition: u32,
    pub encoding: u32,
    pub parameters: Parameters,
}

/// Numbers of encodings.
pub mod encoding {
    pub const TENSOR: u32 = 0;
    pub const AXIS: u32 = 1;
    pub const NARROW_TENSOR: u32 = 2;
    pub const NARROW_AXIS: u32 = 3;
    pub const EXPANSION: u32 = 5;
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    pub data: *mut c_void,
    pub size: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sparse {
    pub kind: u32,
    pub a: u32,
    pub b: u32,
}

/// A tensor in its second version.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tensor {
    pub version: u32,
    pub pad: u32,
    pub id: u32,
    pub name: *const c_char,
    pub role: u32,
    pub format: u32,
    pub dtype: u32,
    pub quantization: Quantization,
    pub rank: u32,
    pub dims: *const u32,
    pub memory: u32,
    pub buffer: Buffer,
    pub dynamic: *const u8,
    pub sparse: Sparse,
    pub produced: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union Number {
    pub u32: u32,
    pub i32: i32,
    pub f32: f32,
    pub u8: u8,
    pub u64: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scalar {
    pub dtype: u32,
    pub value: Number,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union ParamValue {
    pub scalar: Scalar,
    pub tensor: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Param {
    /// 0: a scalar, 1: a tensor.
    pub kind: u32,
    pub name: *const c_char,
    pub value: ParamValue,
}

/// An operator. It is passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Op {
    pub version: u32,
    pub name: *const c_char,
    pub package: *const c_char,
    pub kind: *const c_char,
    pub param_count: u32,
    pub params: *const Param,
    pub input_count: u32,
    pub inputs: *const Tensor,
    pub output_count: u32,
    pub outputs: *const Tensor,
}

/// An entry of a list of settings, which ends with a null pointer. Option 0: the back end's own.
#[repr(C)]
pub struct Config {
    pub option: u32,
    pub custom: *const c_void,
}

/// The chip to compile for. Where its number stands differs between versions of the library, so it stands at both places.
#[repr(C, align(8))]
pub struct DeviceSoc {
    pub option: u32,
    pub soc: u32,
    pub soc_again: u32,
    pub zero: u32,
}

/// A setting of a graph for the HTP.
#[repr(C)]
pub struct GraphSetting {
    pub option: u32,
    pub pad: u32,
    pub value: [u32; 2],
    pub room: [u32; 8],
}

/// Settings of a graph.
pub mod graph_option {
    /// `value`: which optimization (below), its strength as a float.
    pub const OPTIMIZATION: u32 = 1;
    /// `value`: 1 for half floats.
    pub const PRECISION: u32 = 2;
    /// `value`: megabytes of tightly coupled memory.
    pub const VTCM: u32 = 3;
    /// `value`: 1 to keep convolutions of few channels off the matrix unit.
    pub const SHORT_DEPTH_WITHOUT_HMX: u32 = 5;
    /// How hard the library works on a graph: 3.
    pub const FINALIZE: u32 = 3;
}

/// What the system library tells of a context binary: version 3.
#[repr(C)]
pub struct BinaryInfo {
    pub version: u32,
    pub pad: u32,
    pub backend: u32,
    pub build: *const c_char,
    pub core: Version,
    pub backend_version: Version,
    pub soc: *const c_char,
    pub blob_version: Version,
    pub blob_size: u64,
    pub context_tensor_count: u32,
    pub context_tensors: *const Tensor,
    pub graph_count: u32,
    pub graphs: *const GraphInfo,
}

/// The version of [`BinaryInfo`] that has these fields.
pub const BINARY_INFO: u32 = 3;

/// What the system library tells of a graph. Entries have more fields in later versions.
#[repr(C)]
pub struct GraphInfo {
    pub version: u32,
    pub name: *const c_char,
    pub input_count: u32,
    pub inputs: *const Tensor,
    pub output_count: u32,
    pub outputs: *const Tensor,
}

// A wrong size would corrupt memory: better not to compile.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Quantization>() == 40);
    assert!(size_of::<Expansion>() == 40);
    assert!(size_of::<Tensor>() == 144);
    assert!(offset_of!(Tensor, id) == 8);
    assert!(offset_of!(Tensor, quantization) == 40);
    assert!(offset_of!(Tensor, dims) == 88);
    assert!(size_of::<Scalar>() == 16);
    assert!(size_of::<Param>() == 160);
    assert!(size_of::<Op>() == 80);
    assert!(size_of::<Config>() == 16);
    assert!(size_of::<DeviceSoc>() == 16);
    assert!(size_of::<GraphSetting>() == 48);
    assert!(offset_of!(GraphSetting, value) == 8);
    assert!(offset_of!(Provider, functions) == 40);
    assert!(offset_of!(SystemProvider, functions) == 32);
    assert!(offset_of!(BinaryInfo, graphs) == 104);
    assert!(offset_of!(GraphInfo, outputs) == 40);
};
