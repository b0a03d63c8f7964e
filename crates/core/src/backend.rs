//! The plug-in contract: what a backend crate implements and how it registers.

use crate::ir::{NodeId, Program};
use crate::passes::Pipeline;
use crate::quantizer::Quantizer;
use crate::tensor::Tensor;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// A named configuration of a backend's quantizer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// `int8-static-per-channel`
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// Options of a backend as text, by name; unknown ones are an error of the backend.
pub type Options = BTreeMap<String, String>;

/// A kind of device or runtime.
pub trait Backend: Debug + Sync {
    /// Its name on the command line: `xnnpack`.
    fn name(&self) -> &'static str;

    /// The version of the crate that brings it: `env!("CARGO_PKG_VERSION")`.
    fn version(&self) -> &'static str;

    /// What its quantizer can be configured to do; the first is the default.
    fn recipes(&self) -> &'static [Recipe];

    /// The quantizer of a recipe.
    ///
    /// # Errors
    /// [`BackendError::UnknownRecipe`], [`BackendError::BadOption`].
    fn quantizer(&self, recipe: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError>;

    /// The lowering to this backend.
    ///
    /// # Errors
    /// [`BackendError::BadOption`].
    fn lowering(&self, options: &Options) -> Result<Box<dyn Lowering>, BackendError>;

    /// Kinds of files other than `.pte` that its lowering makes of whole programs; see [`Lowering::artifact`].
    fn formats(&self) -> &'static [Format] {
        &[]
    }

    /// The program in a file of one of its formats, with values rounded as the device rounds them. `open` gives what lies at a
    /// path inside a folder, with `/`; a file of its own is at the empty path.
    ///
    /// # Errors
    /// [`BackendError::Import`] says what is wrong with the file, or that the format is for devices only.
    fn import(&self, format: &Format, _open: &mut Open<'_>) -> Result<Program, BackendError> {
        let reason = format!("lowbit writes .{} files for devices, and does not read them", format.extension);
        Err(BackendError::Import { reason })
    }
}

/// A kind of file, or of folder, that holds a whole program for a device's own tools.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// What its names end in: `mlpackage`.
    pub extension: &'static str,
    /// Of folders: a file that each of them has, by which it is told from other folders: `Manifest.json`. `None`: a file.
    pub mark: Option<&'static str>,
}

/// Gives the contents of a file by its path, if there is one.
pub type Open<'a> = dyn FnMut(&str) -> Option<Bytes> + 'a;

/// Takes parts of programs and compiles them.
pub trait Lowering: Debug {
    /// The delegate's name in an ExecuTorch program: `XnnpackBackend`.
    fn delegate_id(&self) -> &'static str;

    /// Passes to run before partitioning.
    fn passes(&self) -> Pipeline {
        Pipeline::default()
    }

    /// What is to be done with `node`.
    fn claim(&self, program: &Program, node: NodeId) -> Claim;

    /// The dimensions of `reader`'s input that share a range where the device quantizes it at run time, when that is not
    /// the whole tensor, as the program says; see [`Quantizer::dynamic_dims`].
    fn dynamic_dims(&self, _program: &Program, _reader: NodeId) -> Option<Vec<usize>> {
        None
    }

    /// What a node that was claimed becomes, for the report.
    fn describe(&self, _program: &Program, _node: NodeId) -> Option<Description> {
        None
    }

    /// Compiles a region that was claimed: inputs and outputs are those of the delegate call, in order.
    ///
    /// # Errors
    /// [`BackendError::Refused`] leaves one node outside; [`BackendError::Compile`] ends the lowering.
    fn compile(&self, part: &Program) -> Result<Blob, BackendError>;

    /// Seconds that the vendor's own compiler has taken in all that this lowering compiled; nothing where there is no such thing.
    fn tool_seconds(&self) -> Option<f64> {
        None
    }

    /// Whether a node that stays outside is an error; see [`LowerError::Outside`](crate::flow::LowerError::Outside).
    fn whole(&self) -> bool {
        false
    }

    /// A whole program as a file of one of the backend's [formats](Backend::formats), which needs no ExecuTorch; see
    /// [`flow::package`](crate::flow::package). All nodes were claimed.
    ///
    /// # Errors
    /// [`BackendError::Compile`] names what stands in the way.
    fn artifact(&self, _program: &Program, format: &Format) -> Result<Artifact, BackendError> {
        let reason = format!("{} makes no .{} files", self.delegate_id(), format.extension);
        Err(BackendError::Compile { backend: self.delegate_id(), node: "program".into(), reason })
    }

    /// What runs blobs on this machine, where the backend has such a thing; see
    /// [`flow::run_lowered`](crate::flow::run_lowered).
    ///
    /// # Errors
    /// [`BackendError::NoDevice`] when there is none, and what is missing where there could be one.
    fn device(&self) -> Result<Box<dyn Device + '_>, BackendError> {
        let reason = "nothing of it runs on this machine".to_string();
        Err(BackendError::NoDevice { backend: self.delegate_id(), reason })
    }
}

/// Executes what a backend compiled: an interpreter, a simulator, or the device itself.
pub trait Device: Debug {
    /// Runs a blob once; inputs and outputs are those of the delegate call, in order.
    ///
    /// # Errors
    /// A sentence saying what was wrong with the blob or the inputs.
    fn run(&self, blob: &Blob, inputs: &[Tensor]) -> Result<Vec<Tensor>, String>;
}

/// What a device's own tools load.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifact {
    /// One file.
    File(Vec<u8>),
    /// A folder; paths inside it, with `/`.
    Folder(BTreeMap<String, Vec<u8>>),
}

/// What a backend says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It goes to the backend together with the others listed here (the q/dq nodes around it); the list may hold the
    /// node itself or not.
    Take(Vec<NodeId>),
    /// It stays outside, and why.
    Leave(Cow<'static, str>),
}

/// What a backend tells of a node that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The device's operators, and who says that it runs them.
    pub becomes: String,
    /// Where the device's kernel is known to compute something else than the program says, by more than rounding.
    pub imprecise: Option<Imprecise>,
}

/// How far a device's kernel is from what the program says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Imprecise {
    /// The most steps of the result's integers that were measured.
    pub steps: u32,
    /// A sentence: which kernel, what it does, and how that is known.
    pub why: String,
}

/// A compiled region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blob {
    /// What the runtime's delegate reads.
    pub bytes: Vec<u8>,
    /// Key and value pairs handed to the delegate.
    pub compile_specs: Vec<(String, Vec<u8>)>,
    /// Constants stored beside the blob by key; equal keys are stored once.
    pub named_data: Vec<NamedData>,
}

/// A constant that a delegate finds by key.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedData {
    /// The key; derived from the contents, so that equal constants are shared.
    pub key: String,
    /// The contents.
    pub bytes: Arc<[u8]>,
    /// Alignment in the file, in bytes; a power of two.
    pub alignment: u32,
}

/// Why a backend did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No such recipe.
    #[error("backend {backend} has no recipe {recipe:?}; it has: {}", known.join(", "))]
    UnknownRecipe {
        /// The backend.
        backend: &'static str,
        /// What was asked for.
        recipe: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// An option it does not know, or a value it does not take.
    #[error("backend {backend}: option {option:?}: {reason}")]
    BadOption {
        /// The backend.
        backend: &'static str,
        /// The option.
        option: String,
        /// What would be right.
        reason: String,
    },
    /// No backend of that name in this binary.
    #[error("no backend {name:?} is linked into this program (linked: {}); add the crate and \"use lowbit_{name} as _;\"", if linked.is_empty() { "none".to_string() } else { linked.join(", ") })]
    NotLinked {
        /// What was asked for.
        name: String,
        /// What there is.
        linked: Vec<&'static str>,
    },
    /// Two crates register the same name.
    #[error("two backends are named {0:?}; link only one of them")]
    Duplicate(&'static str),
    /// A node cannot be compiled after all, which only shows when its region is laid out: it stays outside, and the
    /// rest is tried again. The node is one of the program given to [`Lowering::compile`].
    #[error("{node:?} is refused: {reason}")]
    Refused {
        /// The node.
        node: NodeId,
        /// Why, for the report.
        reason: String,
    },
    /// A file of one of its formats could not be read.
    #[error("{reason}")]
    Import {
        /// What is wrong, and where in the file.
        reason: String,
    },
    /// There is nothing here that runs what the backend compiles.
    #[error("{backend} has no device to run on: {reason}")]
    NoDevice {
        /// The delegate.
        backend: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A region could not be compiled.
    #[error("backend {backend}: {node}: {reason}")]
    Compile {
        /// The backend.
        backend: &'static str,
        /// The node, with its module path.
        node: String,
        /// What is wrong, and the cure.
        reason: String,
    },
}

/// What [`register_backend!`](crate::register_backend) collects.
#[derive(Debug)]
pub struct Plugin(pub &'static dyn Backend);
inventory::collect!(Plugin);

/// Registers a backend: `register_backend!(Acme);` with a unit struct, once in its crate. It expands to one
/// `inventory::submit!`; [`Registry::linked`](crate::Registry::linked) finds it in every program that names the crate.
#[macro_export]
macro_rules! register_backend {
    ($backend:expr) => {
        $crate::inventory::submit! { $crate::backend::Plugin(&$backend) }
    };
}
