//! Lowering: which nodes the chip takes, and the graph of a region or of a whole program.

mod builder;
mod device;
mod emit;
mod imprecise;
mod kind;
mod oracle;
mod passes;

pub use crate::settings::Settings;
pub use builder::{Builder, Emitted, Layout, Made};
pub use device::Emulator;
pub(crate) use emit::MAX_RANK;
pub use emit::operators;
pub use kind::Kind;
pub use oracle::Oracle;

use crate::graph::Graph;
use crate::library::{Failure, Library, LibraryError, Session, Tuning, find};
use crate::{NAME, payload};
use lowbit_core::backend::{Artifact, BackendError, Blob, Claim, Description, Device, Format, Lowering};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::passes::Pipeline;
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A graph's digest, the chip, and whether floats are halves.
type Key = ([u8; 32], u32, bool);

/// What was compiled in this process. The library numbers what it makes, so that it would not give the same bytes twice; and a
/// refused node has all regions compiled anew, most of them as they were.
static COMPILED: Mutex<BTreeMap<Key, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// The lowering to QNN.
#[derive(Debug, Default)]
pub struct Qnn {
    /// What is asked of it.
    pub settings: Settings,
    oracle: OnceCell<Oracle>,
    /// What the library took to finalize graphs.
    finalizing: Cell<Duration>,
}

impl Qnn {
    /// The lowering with these settings. The library is looked for when it is first needed.
    pub fn new(settings: Settings) -> Self {
        Qnn { settings, ..Qnn::default() }
    }

    /// Who judges operators.
    pub fn oracle(&self) -> &Oracle {
        self.oracle.get_or_init(|| Oracle::open(&self.settings))
    }

    /// The library, which compiling needs.
    fn session(&self) -> Result<&Session, BackendError> {
        match self.oracle() {
            Oracle::Library(session) => Ok(session),
            Oracle::Table(e) => Err(compile_error("library", e.to_string())),
        }
    }

    /// Whether a node can be expressed and is judged well, as a node by itself.
    fn rehearse(&self, program: &Program, n: NodeId) -> Result<(), String> {
        let mut b = Builder::rehearsal(program, &self.settings);
        emit::node(&mut b, n)?;
        self.oracle().judge(b.graph(), self.settings.soc)?;
        match self.settings.exact.then(|| imprecise::of(b.graph())).flatten() {
            Some(known) => Err(format!("by exact=true: {}", known.why)),
            None => Ok(()),
        }
    }

    /// The graph of a region, and the node that each operator is for.
    ///
    /// # Errors
    /// [`BackendError::Refused`] names a node that cannot be expressed.
    pub fn graph(&self, part: &Program) -> Result<(Graph, Vec<NodeId>), BackendError> {
        let mut b = Builder::new(part, &self.settings);
        let border = |reason: String| match part.graph.nodes().next() {
            Some(node) => BackendError::Refused { node, reason },
            None => compile_error("region", reason),
        };
        b.inputs().map_err(border)?;
        for n in part.graph.nodes() {
            emit::node(&mut b, n).map_err(|reason| BackendError::Refused { node: n, reason })?;
        }
        b.outputs().map_err(border)?;
        b.prune();
        Ok(b.into_parts())
    }

    /// The context binary of a region.
    fn binary(&self, part: &Program) -> Result<Vec<u8>, BackendError> {
        let (graph, origins) = self.graph(part)?;
        let digest = graph.digest();
        let key = (digest, self.settings.soc.id, self.settings.half());
        let compiled = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = compiled().get(&key) {
            return Ok(known.clone());
        }
        let tuning = Tuning { half: self.settings.half() };
        let made = self.session()?.compile(payload::GRAPH, &graph, self.settings.soc, tuning);
        let made = made.map_err(|f| blame(part, &origins, &f))?;
        self.finalizing.set(self.finalizing.get() + made.finalizing);
        compiled().insert(key, made.binary.clone());
        Ok(made.binary)
    }
}

fn compile_error(node: &str, reason: String) -> BackendError {
    BackendError::Compile { backend: NAME, node: node.into(), reason }
}

/// A failed compilation: of a node, where one is known, which then stays outside.
fn blame(part: &Program, origins: &[NodeId], failure: &Failure) -> BackendError {
    match failure.op.and_then(|i| origins.get(i)) {
        Some(&node) if part.graph.nodes().len() > 1 => {
            BackendError::Refused { node, reason: failure.to_string() }
        }
        Some(&node) => compile_error(&part.graph.node(node).name, failure.to_string()),
        None => compile_error("graph", failure.to_string()),
    }
}

impl Lowering for Qnn {
    fn delegate_id(&self) -> &'static str {
        "QnnBackend"
    }

    fn passes(&self) -> Pipeline {
        passes::pipeline(self.settings.half())
    }

    fn whole(&self) -> bool {
        self.settings.strict
    }

    /// A node is taken when it can be expressed and nothing is said against it; what stands in the way is the reason.
    fn claim(&self, program: &Program, node: NodeId) -> Claim {
        match self.take(program, node) {
            Ok(with) => Claim::Take(with),
            Err(why) => Claim::Leave(why.into()),
        }
    }

    fn describe(&self, program: &Program, node: NodeId) -> Option<Description> {
        let mut b = Builder::rehearsal(program, &self.settings);
        emit::node(&mut b, node).ok()?;
        let ops: Vec<String> = b.graph().ops.iter().map(|op| b.graph().describe(op)).collect();
        if ops.is_empty() {
            return None;
        }
        let judge = self.oracle().name();
        let becomes = format!("{}; validated for {} by {judge}", ops.join(", "), self.settings.soc);
        Some(Description { becomes, imprecise: imprecise::of(b.graph()) })
    }

    fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
        let binary = self.binary(part)?;
        let compile_specs = vec![(payload::SPEC.into(), payload::options(&self.settings))];
        Ok(Blob { bytes: payload::wrap(&binary), compile_specs, named_data: vec![] })
    }

    fn tool_seconds(&self) -> Option<f64> {
        Some(self.finalizing.get().as_secs_f64())
    }

    fn device(&self) -> Result<Box<dyn Device + '_>, BackendError> {
        match self.oracle() {
            Oracle::Library(session) => Ok(Box::new(Emulator::new(session.clone()))),
            Oracle::Table(e) => {
                Err(BackendError::NoDevice { backend: self.delegate_id(), reason: e.to_string() })
            }
        }
    }

    fn artifact(&self, program: &Program, format: &Format) -> Result<Artifact, BackendError> {
        match format.extension {
            "bin" => self.binary(program).map(Artifact::File),
            _ => self.container(program).map(Artifact::File),
        }
    }
}

static QUANTIZATION: &[&OpDef] = &[
    &ops::QUANTIZE_PER_TENSOR,
    &ops::DEQUANTIZE_PER_TENSOR,
    &ops::DEQUANTIZE_PER_CHANNEL,
    &ops::DEQUANTIZE_AFFINE,
];

/// Whether a node only says how a value is stored.
fn is_quantization(program: &Program, n: NodeId) -> bool {
    QUANTIZATION.contains(&program.graph.node(n).op())
}

impl Qnn {
    /// The nodes that `node` goes together with: those that say what its tensors are.
    fn take(&self, program: &Program, node: NodeId) -> Result<Vec<NodeId>, String> {
        let (g, n) = (&program.graph, program.graph.node(node));
        if is_quantization(program, node) {
            return self.beside(program, node);
        }
        self.rehearse(program, node)?;
        let mut with = vec![];
        for v in n.operands() {
            let Some(p) = g.producer(v) else { continue };
            if is_quantization(program, p) {
                with.push(p);
            } else if kind::clamp(n).is_some() && kind::of(program, v)?.is_fixed() {
                // What it clamps is no value of its own.
                let name = &g.node(p).name;
                self.rehearse(program, p)
                    .map_err(|_| format!("it clamps what %{name} makes, which stays outside"))?;
                with.push(p);
            }
        }
        for &v in n.outputs() {
            with.extend(kind::exits(program, v));
        }
        Ok(with)
    }

    /// Quantize and dequantize go with an operator that is taken: one that reads what they make, or makes what they read.
    fn beside(&self, program: &Program, node: NodeId) -> Result<Vec<NodeId>, String> {
        let (g, n) = (&program.graph, program.graph.node(node));
        let is_quantization = |m: NodeId| is_quantization(program, m);
        let makers = |n: NodeId| g.node(n).operands().filter_map(|v| g.producer(v)).collect::<Vec<_>>();
        let mut around = makers(node);
        // What is dequantized was quantized before.
        around.extend(makers(node).into_iter().filter(|&m| is_quantization(m)).flat_map(makers));
        for &v in n.outputs() {
            for u in g.users(v) {
                around.push(u);
                // Behind a quantize node there is a dequantize node for each reader.
                if is_quantization(u) {
                    around.extend(g.node(u).outputs().iter().flat_map(|&v| g.users(v)));
                }
            }
        }
        let weights = n.operands().all(|v| program.frozen(v).is_some());
        let taken = around.iter().any(|&m| !is_quantization(m) && self.rehearse(program, m).is_ok());
        if !taken {
            return Err("no operator that HTP takes reads or makes it".into());
        }
        if !weights {
            self.rehearse(program, node)?;
        }
        Ok(vec![])
    }

    /// A program in Qualcomm's deep learning container.
    fn container(&self, program: &Program) -> Result<Vec<u8>, BackendError> {
        let (graph, origins) = self.graph(program)?;
        let fail = |e: LibraryError| compile_error("library", e.to_string());
        let library = Library::open(self.folder()?.as_path(), find::IR).map_err(fail)?;
        let session = Session::open(library, None).map_err(fail)?;
        crate::library::container(&session, payload::GRAPH, &graph).map_err(|e| match e {
            LibraryError::Failed(f) => blame(program, &origins, &f),
            other => compile_error("library", other.to_string()),
        })
    }

    /// The folder of the library.
    fn folder(&self) -> Result<std::path::PathBuf, BackendError> {
        let path = &self.session()?.library().path;
        Ok(path.parent().map(std::path::Path::to_path_buf).unwrap_or_default())
    }
}
