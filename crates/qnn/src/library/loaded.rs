//! [`Loaded`]: a context binary on the library's emulation of the chip.

use super::abi::{self, BINARY_INFO, BinaryInfo, GraphInfo, Handle, Status, place};
use super::error::{Failure, LibraryError};
use super::held;
use super::session::{Context, Session, done};
use crate::graph::DType;
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

/// A tensor that the caller passes in or gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// The size of each dimension.
    pub dims: Vec<u32>,
}

impl Port {
    /// Bytes of all elements.
    pub fn size(&self) -> usize {
        self.dims.iter().map(|&d| d as usize).product::<usize>() * self.dtype.size()
    }
}

/// A compiled graph, ready to run.
#[derive(Debug)]
pub struct Loaded {
    context: Context,
    graph: Handle,
    /// What it takes, in the binary's order.
    pub inputs: Vec<Port>,
    /// What it gives, in the binary's order.
    pub outputs: Vec<Port>,
    raw: [Vec<RawPort>; 2],
}

/// The library's description of a port, with the memory that it points into.
#[derive(Debug)]
struct RawPort {
    tensor: held::Raw,
    name: std::ffi::CString,
    dims: Vec<u32>,
}

impl Session {
    /// Loads the graph of a context binary.
    ///
    /// # Errors
    /// When the binary is none, or holds no or several graphs.
    pub fn load(&self, binary: &[u8]) -> Result<Loaded, LibraryError> {
        let system = self.0.library.system()?;
        let heard = self.begin()?;
        type Create = unsafe extern "C" fn(*mut Handle) -> Status;
        type Info =
            unsafe extern "C" fn(Handle, *const c_void, u64, *mut *const BinaryInfo, *mut u64) -> Status;
        type Free = unsafe extern "C" fn(Handle) -> Status;
        let (mut handle, mut info, mut size) = (null_mut(), null(), 0u64);
        // SAFETY: the types are those of the functions. What they tell is copied before it is freed.
        let described = unsafe {
            let create: Create = system.function("systemContextCreate", place::SYSTEM_CREATE)?;
            let get: Info = system.function("systemContextGetBinaryInfo", place::SYSTEM_BINARY_INFO)?;
            let free: Free = system.function("systemContextFree", place::SYSTEM_FREE)?;
            done("systemContextCreate", create(&raw mut handle), &heard)?;
            let bytes = binary.as_ptr().cast();
            let status = get(handle, bytes, binary.len() as u64, &raw mut info, &raw mut size);
            let described = done("systemContextGetBinaryInfo", status, &heard).and_then(|()| describe(info));
            free(handle);
            described?
        };
        let Described { name, ports } = described;
        let context = Context::from_binary(self, binary, &heard)?;
        type Retrieve = unsafe extern "C" fn(Handle, *const std::ffi::c_char, *mut Handle) -> Status;
        let mut graph = null_mut();
        // SAFETY: the type is the function's.
        unsafe {
            let retrieve: Retrieve = self.0.library.function("graphRetrieve", place::GRAPH_RETRIEVE)?;
            done("graphRetrieve", retrieve(context.handle, name.as_ptr(), &raw mut graph), &heard)?;
        }
        let of = |list: &[(Port, RawPort)]| list.iter().map(|(p, _)| p.clone()).collect();
        let (inputs, outputs) = (of(&ports[0]), of(&ports[1]));
        let raw = ports.map(|list| list.into_iter().map(|(_, r)| r).collect());
        Ok(Loaded { context, graph, inputs, outputs, raw })
    }
}

struct Described {
    name: std::ffi::CString,
    ports: [Vec<(Port, RawPort)>; 2],
}

/// Copies what the system library tells of a binary.
///
/// # Safety
/// `info` is what `systemContextGetBinaryInfo` gave, and has not been freed.
unsafe fn describe(info: *const BinaryInfo) -> Result<Described, Failure> {
    let fail =
        |why: String| Failure { call: "systemContextGetBinaryInfo", code: 0, op: None, messages: vec![why] };
    if info.is_null() {
        return Err(fail("it tells nothing".into()));
    }
    // SAFETY: every version begins with its number; fields are only read of the version that has them.
    unsafe {
        if (*info).version != BINARY_INFO {
            let found = (*info).version;
            return Err(fail(format!(
                "it describes binaries in version {found}; lowbit reads version {BINARY_INFO}"
            )));
        }
        let (count, graphs) = ((*info).graph_count, (*info).graphs);
        if count != 1 || graphs.is_null() {
            return Err(fail(format!("the binary holds {count} graphs; lowbit runs one")));
        }
        let GraphInfo { name, input_count, inputs, output_count, outputs, .. } = &*graphs;
        let ports = |count: u32, list: *const abi::Tensor| {
            let list = if count == 0 { &[][..] } else { std::slice::from_raw_parts(list, count as usize) };
            list.iter().map(|t| port(t)).collect::<Result<Vec<_>, String>>().map_err(fail)
        };
        Ok(Described {
            name: CStr::from_ptr(*name).to_owned(),
            ports: [ports(*input_count, *inputs)?, ports(*output_count, *outputs)?],
        })
    }
}

/// # Safety
/// The tensor's name and sizes are alive.
unsafe fn port(t: &abi::Tensor) -> Result<(Port, RawPort), String> {
    // SAFETY: as the caller says.
    let (name, dims) = unsafe {
        (CStr::from_ptr(t.name).to_owned(), std::slice::from_raw_parts(t.dims, t.rank as usize).to_vec())
    };
    let text = name.to_string_lossy().into_owned();
    let dtype = DType::of_code(t.dtype)
        .ok_or_else(|| format!("{text} has an element type {:#x}, unknown here", t.dtype))?;
    // What it points to is copied; parameters of quantization are the graph's own affair.
    let quantization = abi::Quantization {
        definition: abi::UNDEFINED,
        encoding: abi::UNDEFINED,
        parameters: abi::Parameters { room: [0; 4] },
    };
    let sparse = abi::Sparse { kind: abi::UNDEFINED, a: 0, b: 0 };
    let tensor =
        abi::Tensor { version: 2, quantization, memory: 0, dynamic: null(), sparse, produced: 0, ..*t };
    let port = Port { name: text, dtype, dims: dims.clone() };
    Ok((port, RawPort { tensor: held::Raw(tensor), name, dims }))
}

impl Loaded {
    /// Runs the graph: bytes of the inputs in the binary's order, bytes of the outputs likewise.
    ///
    /// # Errors
    /// When sizes do not fit, or the library fails.
    pub fn run(&self, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, Failure> {
        type Execute = unsafe extern "C" fn(
            Handle,
            *const abi::Tensor,
            u32,
            *mut abi::Tensor,
            u32,
            Handle,
            Handle,
        ) -> Status;
        let fail = |why: String| Failure { call: "graphExecute", code: 0, op: None, messages: vec![why] };
        if inputs.len() != self.inputs.len() {
            return Err(fail(format!(
                "the graph takes {} inputs, {} were given",
                self.inputs.len(),
                inputs.len()
            )));
        }
        for (given, port) in inputs.iter().zip(&self.inputs) {
            if given.len() != port.size() {
                let (name, want, got) = (&port.name, port.size(), given.len());
                return Err(fail(format!("input {name} takes {want} bytes, {got} were given")));
            }
        }
        let mut outputs: Vec<Vec<u8>> = self.outputs.iter().map(|p| vec![0; p.size()]).collect();
        let with = |raw: &RawPort, data: *mut u8, size: usize| {
            let buffer = abi::Buffer { data: data.cast(), size: u32::try_from(size).unwrap_or(u32::MAX) };
            held::Raw(abi::Tensor {
                name: raw.name.as_ptr(),
                dims: raw.dims.as_ptr(),
                buffer,
                ..raw.tensor.0
            })
        };
        let given: Vec<held::Raw> =
            self.raw[0].iter().zip(inputs).map(|(r, b)| with(r, b.as_ptr().cast_mut(), b.len())).collect();
        let mut made: Vec<held::Raw> =
            self.raw[1].iter().zip(&mut outputs).map(|(r, b)| with(r, b.as_mut_ptr(), b.len())).collect();
        let heard = self.context.session.begin()?;
        // SAFETY: the type is the function's; buffers are as long as said and live through the call. Inputs are only read.
        let status = unsafe {
            let library = self.context.session.0.library;
            let execute: Execute = library.function("graphExecute", place::GRAPH_EXECUTE)?;
            let (count, results) = (given.len() as u32, made.len() as u32);
            execute(
                self.graph,
                given.as_ptr().cast(),
                count,
                made.as_mut_ptr().cast(),
                results,
                null_mut(),
                null_mut(),
            )
        };
        done("graphExecute", status, &heard)?;
        Ok(outputs)
    }
}
