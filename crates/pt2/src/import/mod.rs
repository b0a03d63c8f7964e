//! From the file's graph to a [`Program`].
//!
//! 1. Unknown operators are collected first, so that one error lists all of them.
//! 2. Inputs of the graph become inputs or constants ([`border`], [`weights`]).
//! 3. Each node becomes a node of the program ([`node`]): its operator ([`targets`], [`rewrite`]), its arguments
//!    ([`args`]), its module ([`modules`]). Nodes over sizes become expressions ([`symbols`]); checks are dropped; regions
//!    are put in place ([`region`]). In-place operators and views are made functional ([`memory`], [`views`]).
//! 4. The types of the results are compared with the recorded ones.
//! 5. Outputs and mutations close the signature ([`border`]); nodes made in step 3 that nobody reads are removed.

mod args;
mod border;
mod memory;
mod modules;
mod node;
mod region;
mod rewrite;
mod scope;
mod symbols;
mod targets;
mod views;
mod weights;

use crate::archive::Archive;
use crate::error::{ImportError, Place};
use crate::schema::{
    self, Argument, ExportedProgram, Graph, ModuleCallEntry, Node, SymBoolArgument, SymFloatArgument,
    SymIntArgument, Versions,
};
use lowbit_core::ir::{CallSpec, ConstId, ModuleStack, NodeId, Program, ValueId};
pub use memory::Step;
use memory::{Memory, TensorId};
use modules::Modules;
use scope::Scope;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use symbols::Symbols;
use targets::Target;
pub use views::{Shared, contiguous, view_strides};
use weights::Weights;

/// Reads the program of an archive.
pub fn program(archive: &mut Archive) -> Result<Program, ImportError> {
    let entry = format!("models/{}.json", archive.model());
    let json = archive.read(&entry)?;
    let exported = parse(archive, &entry, &json)?;
    let unknown = targets::unknown(&exported.graph_module.graph);
    if !unknown.is_empty() {
        return Err(ImportError::UnknownOperators(unknown));
    }
    let tables = weights::read_tables(archive)?;
    let mut importer = Importer {
        weights: Weights::parse(archive, &tables)?,
        program: Program::default(),
        symbols: Symbols::new(&exported.range_constraints),
        modules: Modules::default(),
        memory: Memory::default(),
        constants: HashMap::new(),
        roots: vec![],
        unread: vec![],
        call: CallSpec::default(),
        depth: 0,
    };
    let module = &exported.graph_module;
    let mut scope = Scope::default();
    importer.inputs(archive, &module.graph, &module.signature.input_specs, &mut scope)?;
    importer.graph(&module.graph, &mut scope)?;
    importer.outputs(&module.signature.output_specs, &scope)?;
    importer.remove_unread();
    importer.close(&module.module_call_graph);
    Ok(importer.program)
}

fn parse<'a>(archive: &Archive, entry: &str, json: &'a [u8]) -> Result<ExportedProgram<'a>, ImportError> {
    let result = serde_json::from_slice::<ExportedProgram<'a>>(json);
    // Another version is the likelier reason for JSON that does not fit.
    let versions = match &result {
        Ok(p) => Some((p.schema_version, p.torch_version.clone())),
        Err(_) => {
            serde_json::from_slice::<Versions<'_>>(json).ok().map(|v| (v.schema_version, v.torch_version))
        }
    };
    if let Some((version, torch)) = versions
        && version.is_none_or(|v| v.major != schema::MAJOR)
    {
        let found = version.map_or("unknown".into(), |v| format!("{}.{}", v.major, v.minor));
        let torch = torch.map_or("unknown".into(), |t| t.to_string());
        return Err(ImportError::Version { file: archive.file().into(), found, torch });
    }
    result.map_err(|e| archive.error(entry, format!("is not the JSON of an exported program: {e}")))
}

/// Regions inside regions that are still followed.
const MAX_REGIONS: u32 = 16;

/// Terms and factors a size may have. Sizes of real models stay far below; without a limit a hostile file could make them
/// grow from node to node.
const MAX_SIZE_TERMS: usize = 512;

/// The state of an import.
struct Importer<'a> {
    program: Program,
    weights: Weights<'a>,
    symbols: Symbols<'a>,
    modules: Modules<'a>,
    memory: Memory,
    /// Parameters and buffers by their names in the model.
    constants: HashMap<&'a str, ConstId>,
    /// Inputs and constants, in the file's order: what writing into is a mutation.
    roots: Vec<(TensorId, ValueId)>,
    /// Nodes whose results only dropped checks read.
    unread: Vec<NodeId>,
    /// How the model is called; its structure is filled in last.
    call: CallSpec,
    depth: u32,
}

impl<'a> Importer<'a> {
    /// The nodes of a graph, in order.
    fn graph(&mut self, graph: &'a Graph<'a>, scope: &mut Scope<'a>) -> Result<(), ImportError> {
        for node in &graph.nodes {
            let module = self.modules.stack(node.metadata.nn_module_stack.as_deref());
            match targets::resolve(node) {
                Target::Op { op, in_place } => self.node(graph, scope, node, op, in_place, module)?,
                Target::Symbolic => self.sizes(graph, scope, node),
                Target::Assertion => self.drop_check(scope, node),
                Target::Region { graph: at } => self.region(scope, node, at, &module)?,
                Target::Unknown => return Err(ImportError::UnknownOperators(targets::unknown(graph))),
            }
        }
        Ok(())
    }

    /// Completes what only the whole file tells: the structure of arguments and results, and sizes at export.
    fn close(&mut self, modules: &[ModuleCallEntry<'_>]) {
        for (name, range) in &mut self.program.symbols {
            range.hint = self.symbols.range(name).hint;
        }
        let root = modules.iter().find(|m| m.fqn.is_empty()).and_then(|m| m.signature.as_ref());
        if let Some(root) = root {
            let names = root.forward_arg_names.iter().flatten();
            self.program.signature.call = Some(Arc::new(CallSpec {
                in_spec: (&*root.in_spec).into(),
                out_spec: (&*root.out_spec).into(),
                arg_names: names.map(|n| (&**n).into()).collect(),
                ..std::mem::take(&mut self.call)
            }));
        }
    }

    /// Removes nodes that the import made for nobody, and what fed only them.
    fn remove_unread(&mut self) {
        let graph = &mut self.program.graph;
        let mut todo = std::mem::take(&mut self.memory.emitted);
        todo.append(&mut self.unread);
        let returned: HashSet<ValueId> = graph.outputs().iter().copied().collect();
        let mut gone = HashSet::new();
        // Counted down as readers go.
        let mut readers: HashMap<ValueId, usize> = HashMap::new();
        let mut order = vec![];
        while let Some(n) = todo.pop() {
            let unread = graph.node(n).outputs().iter().all(|v| {
                !returned.contains(v)
                    && *readers.entry(*v).or_insert_with(|| graph.value(*v).uses().len()) == 0
            });
            if !unread || !gone.insert(n) {
                continue;
            }
            order.push(n);
            for v in graph.node(n).operands().collect::<Vec<_>>() {
                *readers.entry(v).or_insert_with(|| graph.value(v).uses().len()) -= 1;
                todo.extend(graph.producer(v));
            }
        }
        graph.erase_all(&order);
    }
}

/// The name a graph's input or a node's result is bound to.
fn bound_name<'a>(arg: &'a Argument<'a>) -> Option<&'a str> {
    match arg {
        Argument::Tensor(t) => Some(&t.name),
        Argument::SymInt(SymIntArgument::Name(n)) => Some(n),
        Argument::SymFloat(SymFloatArgument::Name(n)) => Some(n),
        Argument::SymBool(SymBoolArgument::Name(n)) => Some(n),
        _ => None,
    }
}

/// The node's name; older files do not have it, there the first result has it.
fn node_name<'a>(node: &'a Node<'a>) -> &'a str {
    match (&node.name, node.outputs.first()) {
        (Some(name), _) => name,
        (None, Some(Argument::Tensors(l))) => l.first().map_or("", |t| &*t.name),
        (None, Some(output)) => bound_name(output).unwrap_or_default(),
        (None, None) => "",
    }
}

fn place(node: &Node<'_>, module: &ModuleStack) -> Box<Place> {
    Box::new(Place {
        node: node_name(node).into(),
        target: targets::short(&node.target).into(),
        module: module.path().into(),
    })
}

fn node_error(node: &Node<'_>, module: &ModuleStack, reason: String) -> ImportError {
    ImportError::Node { at: place(node, module), reason }
}
