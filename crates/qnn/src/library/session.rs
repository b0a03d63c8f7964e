//! [`Session`]: the library with a chip chosen. It judges operators and compiles graphs.

use super::abi::{self, Config, DeviceSoc, GraphSetting, Handle, Status, graph_option, place};
use super::error::{Failure, LibraryError};
use super::held::{self, HeldOp};
use super::log::{self, Listening};
use super::open::Library;
use crate::graph::{DType, Graph, Op, Role};
use crate::soc::Soc;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

type Configs = *const *const Config;

/// How a graph is compiled.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Floating-point operators compute in half floats.
    pub half: bool,
}

/// A graph that was compiled.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Its context binary.
    pub binary: Vec<u8>,
    /// How long the library took to finalize it.
    pub finalizing: Duration,
}

/// The library, a back end of it, and the chip that graphs are for. Clones are the same session.
#[derive(Clone, Debug)]
pub struct Session(pub(super) Rc<Handles>);

/// What a session has of the library's; freed in reverse order.
#[derive(Debug)]
pub(super) struct Handles {
    pub library: &'static Library,
    pub log: Handle,
    pub backend: Handle,
    pub device: Handle,
    /// The chip's number.
    pub soc: Option<u32>,
}

/// The result of a call.
pub(super) fn done(call: &'static str, status: Status, heard: &Listening) -> Result<(), Failure> {
    match status {
        0 => Ok(()),
        code => Err(Failure { call, code, op: None, messages: heard.messages() }),
    }
}

impl Session {
    /// A session for a chip; `None` for back ends that know none (the one that writes `.dlc`).
    ///
    /// # Errors
    /// What the library said.
    pub fn open(library: &'static Library, soc: Option<&Soc>) -> Result<Session, LibraryError> {
        let heard = Listening::begin();
        let soc = soc.map(|s| s.id);
        let mut session = Handles { library, log: null_mut(), backend: null_mut(), device: null_mut(), soc };
        let created = session.create(&heard);
        // What there is of the session is freed in its own turn.
        drop(heard);
        created?;
        Ok(Session(Rc::new(session)))
    }

    /// The right to call the library, with this session's chip as the one it thinks of: what it judges by is the chip of the
    /// device that the process made last, whichever back end is asked.
    ///
    /// # Errors
    /// What the library said.
    pub(super) fn begin(&self) -> Result<Listening, Failure> {
        let heard = Listening::begin();
        if let Some(soc) = self.0.soc.filter(|&soc| self.0.library.chip.load(Ordering::Relaxed) != soc) {
            let device = self.0.create_device(soc, &heard)?;
            self.0.free("deviceFree", place::DEVICE_FREE, device);
        }
        Ok(heard)
    }

    /// The library's build: `v2.51.0.260929181845`.
    pub fn build(&self) -> Option<String> {
        type Get = unsafe extern "C" fn(*mut *const c_char) -> Status;
        let _heard = Listening::begin();
        let mut text = null();
        // SAFETY: the type is the function's; the text is the library's own and constant.
        unsafe {
            let get: Get = self.0.library.function("backendGetBuildId", place::BACKEND_BUILD_ID).ok()?;
            (get(&raw mut text) == 0 && !text.is_null())
                .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    /// The library that is in use.
    pub fn library(&self) -> &'static Library {
        self.0.library
    }

    /// Whether the chip runs an operator of the graph, as far as the library can tell from one operator alone.
    ///
    /// # Errors
    /// What it objects to.
    pub fn validate(&self, graph: &Graph, op: &Op) -> Result<(), Failure> {
        type Validate = unsafe extern "C" fn(Handle, abi::Op) -> Status;
        let tensors = held::tensors(graph);
        let held = HeldOp::new(op, &tensors);
        let heard = self.begin()?;
        // SAFETY: the type is the function's; the operator and all that it points to live through the call.
        let status = unsafe {
            let validate: Validate =
                self.0.library.function("backendValidateOpConfig", place::BACKEND_VALIDATE)?;
            validate(self.0.backend, held.raw())
        };
        done("backendValidateOpConfig", status, &heard)
    }

    /// Compiles a graph for the chip.
    ///
    /// # Errors
    /// What the library said, and of which operator if that is known.
    pub fn compile(&self, name: &str, graph: &Graph, soc: &Soc, tuning: Tuning) -> Result<Compiled, Failure> {
        let heard = self.begin()?;
        let context = Context::create(self, &heard)?;
        let setting = |option, value| GraphSetting { option, pad: 0, value, room: [0; 8] };
        let effort = setting(graph_option::OPTIMIZATION, [graph_option::FINALIZE, 3f32.to_bits()]);
        let memory = setting(graph_option::VTCM, [soc.vtcm, 0]);
        let half = setting(graph_option::PRECISION, [1, 0]);
        let mut settings = vec![&effort, &memory];
        settings.extend(tuning.half.then_some(&half));
        // With few input channels the chip's matrix unit loses bits of 16-bit weights: 66 steps of 65536, else 1.
        let exact = setting(graph_option::SHORT_DEPTH_WITHOUT_HMX, [1, 0]);
        let wide = graph.tensors.iter().any(|t| t.role == Role::Static && t.dtype == DType::S16);
        settings.extend(wide.then_some(&exact));
        let made = context.graph(name, &settings, &heard)?;
        context.fill(made, graph, &heard)?;
        let begin = Instant::now();
        context.finalize(made, graph, &heard)?;
        let finalizing = begin.elapsed();
        Ok(Compiled { binary: context.binary(&heard)?, finalizing })
    }

    /// Writes a graph in the library's own format; the back end that does this names the file after the graph and puts it
    /// where the process is.
    ///
    /// # Errors
    /// What the library said.
    pub fn write(&self, name: &str, graph: &Graph) -> Result<(), Failure> {
        let heard = Listening::begin();
        let context = Context::create(self, &heard)?;
        let made = context.graph(name, &[], &heard)?;
        context.fill(made, graph, &heard)?;
        context.finalize(made, graph, &heard)
    }
}

impl Handles {
    fn create(&mut self, heard: &Listening) -> Result<(), Failure> {
        type LogCreate = unsafe extern "C" fn(
            unsafe extern "C" fn(*const c_char, u32, u64, *mut c_void),
            u32,
            *mut Handle,
        ) -> Status;
        type Create = unsafe extern "C" fn(Handle, Configs, *mut Handle) -> Status;
        // SAFETY: the types are those of the functions; all pointers are to places that live through the calls.
        unsafe {
            let create: LogCreate = self.library.function("logCreate", place::LOG_CREATE)?;
            done("logCreate", create(log::callback, log::LEVEL, &raw mut self.log), heard)?;
            let create: Create = self.library.function("backendCreate", place::BACKEND_CREATE)?;
            done("backendCreate", create(self.log, null(), &raw mut self.backend), heard)?;
        }
        if let Some(soc) = self.soc {
            self.device = self.create_device(soc, heard)?;
        }
        Ok(())
    }

    /// A device of a chip, which the library judges by from now on.
    fn create_device(&self, soc: u32, heard: &Listening) -> Result<Handle, Failure> {
        type Create = unsafe extern "C" fn(Handle, Configs, *mut Handle) -> Status;
        let chip = DeviceSoc { option: 0, soc, soc_again: soc, zero: 0 };
        let config = Config { option: 0, custom: (&raw const chip).cast() };
        let list = [&raw const config, null()];
        let mut device = null_mut();
        // SAFETY: the type is the function's; all pointers are to places that live through the call.
        let status = unsafe {
            let create: Create = self.library.function("deviceCreate", place::DEVICE_CREATE)?;
            create(self.log, list.as_ptr(), &raw mut device)
        };
        done("deviceCreate", status, heard)?;
        self.library.chip.store(soc, Ordering::Relaxed);
        Ok(device)
    }

    /// Gives a handle back with the function that frees its kind.
    fn free(&self, call: &'static str, place: usize, handle: Handle) {
        type Free = unsafe extern "C" fn(Handle) -> Status;
        if handle.is_null() {
            return;
        }
        // SAFETY: the type is the function's; the handle was made by its counterpart and is used no more.
        unsafe {
            if let Ok(free) = self.library.function::<Free>(call, place) {
                free(handle);
            }
        }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        let _heard = Listening::begin();
        self.free("deviceFree", place::DEVICE_FREE, self.device);
        self.free("backendFree", place::BACKEND_FREE, self.backend);
        self.free("logFree", place::LOG_FREE, self.log);
    }
}

/// A context: what graphs lie in.
#[derive(Debug)]
pub(super) struct Context {
    pub session: Session,
    pub handle: Handle,
}

impl Context {
    fn create(session: &Session, heard: &Listening) -> Result<Self, Failure> {
        type Create = unsafe extern "C" fn(Handle, Handle, Configs, *mut Handle) -> Status;
        let mut context = Context { session: session.clone(), handle: null_mut() };
        // SAFETY: the type is the function's; the handles are alive.
        let status = unsafe {
            let create: Create = session.0.library.function("contextCreate", place::CONTEXT_CREATE)?;
            create(session.0.backend, session.0.device, null(), &raw mut context.handle)
        };
        done("contextCreate", status, heard)?;
        Ok(context)
    }

    /// A context from what [`binary`](Self::binary) gave.
    pub fn from_binary(session: &Session, binary: &[u8], heard: &Listening) -> Result<Self, Failure> {
        type Create =
            unsafe extern "C" fn(Handle, Handle, Configs, *const c_void, u64, *mut Handle, Handle) -> Status;
        let mut context = Context { session: session.clone(), handle: null_mut() };
        // SAFETY: the type is the function's; the library copies what it needs of the bytes.
        let status = unsafe {
            let create: Create =
                session.0.library.function("contextCreateFromBinary", place::CONTEXT_FROM_BINARY)?;
            let (bytes, size) = (binary.as_ptr().cast(), binary.len() as u64);
            create(
                session.0.backend,
                session.0.device,
                null(),
                bytes,
                size,
                &raw mut context.handle,
                null_mut(),
            )
        };
        done("contextCreateFromBinary", status, heard)?;
        Ok(context)
    }

    fn graph(&self, name: &str, settings: &[&GraphSetting], heard: &Listening) -> Result<Handle, Failure> {
        type Create = unsafe extern "C" fn(Handle, *const c_char, Configs, *mut Handle) -> Status;
        let name = held::c_string(name);
        let configs: Vec<Config> =
            settings.iter().map(|s| Config { option: 0, custom: std::ptr::from_ref(*s).cast() }).collect();
        let mut list: Vec<*const Config> = configs.iter().map(std::ptr::from_ref).collect();
        list.push(null());
        let mut graph = null_mut();
        // SAFETY: the type is the function's; names and settings live through the call.
        let status = unsafe {
            let create: Create = self.session.0.library.function("graphCreate", place::GRAPH_CREATE)?;
            create(
                self.handle,
                name.as_ptr(),
                if settings.is_empty() { null() } else { list.as_ptr() },
                &raw mut graph,
            )
        };
        done("graphCreate", status, heard)?;
        Ok(graph)
    }

    /// Adds all tensors and operators.
    fn fill(&self, made: Handle, graph: &Graph, heard: &Listening) -> Result<(), Failure> {
        type Create = unsafe extern "C" fn(Handle, *mut abi::Tensor) -> Status;
        type Add = unsafe extern "C" fn(Handle, abi::Op) -> Status;
        let library = self.session.0.library;
        if let Some(t) = graph.tensors.iter().find(|t| u32::try_from(t.size()).is_err()) {
            let why =
                format!("{} has {} bytes, and a tensor has less than 4 GiB; cut the model", t.name, t.size());
            return Err(Failure { call: "tensorCreateGraphTensor", code: 0, op: None, messages: vec![why] });
        }
        let mut tensors = held::tensors(graph);
        // SAFETY: the types are those of the functions; tensors and operators live through the calls, which copy them.
        unsafe {
            let create: Create = library.function("tensorCreateGraphTensor", place::TENSOR_CREATE)?;
            let add: Add = library.function("graphAddNode", place::GRAPH_ADD_NODE)?;
            for t in &mut tensors {
                done("tensorCreateGraphTensor", create(made, &raw mut t.raw.0), heard)?;
            }
            for (i, op) in graph.ops.iter().enumerate() {
                let of_op = |f: Failure| Failure { op: Some(i), ..f };
                let mut held = HeldOp::new(op, &tensors);
                for (_, t) in &mut held.tensors {
                    done("tensorCreateGraphTensor", create(made, &raw mut t.raw.0), heard).map_err(of_op)?;
                }
                held.settle();
                done("graphAddNode", add(made, held.raw()), heard).map_err(of_op)?;
            }
        }
        Ok(())
    }

    fn finalize(&self, made: Handle, graph: &Graph, heard: &Listening) -> Result<(), Failure> {
        type Finalize = unsafe extern "C" fn(Handle, Handle, Handle) -> Status;
        // SAFETY: the type is the function's.
        let status = unsafe {
            let finalize: Finalize =
                self.session.0.library.function("graphFinalize", place::GRAPH_FINALIZE)?;
            finalize(made, null_mut(), null_mut())
        };
        done("graphFinalize", status, heard).map_err(|f| {
            // The operator is only known by what was said of it.
            let named = |op: &Op| f.messages.iter().any(|m| has_word(m, &op.name));
            Failure { op: graph.ops.iter().position(named), ..f }
        })
    }

    fn binary(&self, heard: &Listening) -> Result<Vec<u8>, Failure> {
        type Size = unsafe extern "C" fn(Handle, *mut u64) -> Status;
        type Get = unsafe extern "C" fn(Handle, *mut c_void, u64, *mut u64) -> Status;
        let library = self.session.0.library;
        let (mut size, mut written) = (0u64, 0u64);
        // SAFETY: the types are those of the functions; the buffer is as long as said.
        unsafe {
            let get: Size = library.function("contextGetBinarySize", place::CONTEXT_BINARY_SIZE)?;
            done("contextGetBinarySize", get(self.handle, &raw mut size), heard)?;
            let mut bytes = room(size)?;
            let get: Get = library.function("contextGetBinary", place::CONTEXT_BINARY)?;
            let status = get(self.handle, bytes.as_mut_ptr().cast(), size, &raw mut written);
            done("contextGetBinary", status, heard)?;
            bytes.truncate(usize::try_from(written).unwrap_or(usize::MAX));
            Ok(bytes)
        }
    }
}

/// A buffer of zeros, of a size that the library says.
fn room(size: u64) -> Result<Vec<u8>, Failure> {
    let fits = |n: &usize| Vec::<u8>::new().try_reserve_exact(*n).is_ok();
    usize::try_from(size).ok().filter(fits).map(|n| vec![0; n]).ok_or_else(|| {
        let why = format!("the compiled graph has {size} bytes, more than there is memory; cut the model");
        Failure { call: "contextGetBinarySize", code: 0, op: None, messages: vec![why] }
    })
}

/// Whether a text has this name in it, not as a part of another.
fn has_word(text: &str, name: &str) -> bool {
    let inner = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(name).any(|(at, _)| {
        !inner(text[..at].chars().next_back()) && !inner(text[at + name.len()..].chars().next())
    })
}

impl Drop for Context {
    fn drop(&mut self) {
        type Free = unsafe extern "C" fn(Handle, Handle) -> Status;
        if self.handle.is_null() {
            return;
        }
        // SAFETY: the type is the function's; the handle is used no more. Whoever drops this holds `Listening`, or is alone.
        unsafe {
            if let Ok(free) = self.session.0.library.function::<Free>("contextFree", place::CONTEXT_FREE) {
                free(self.handle, null_mut());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::has_word;

    #[test]
    fn names_are_found_whole() {
        assert!(has_word("Failed op conv_1: x", "conv_1"));
        assert!(!has_word("Failed op conv_12", "conv_1") && !has_word("my_conv_1", "conv_1"));
    }
}
