//! Lowering: which nodes Core ML takes, and the ML Program of a region or of a whole program.

mod builder;
mod emit;
mod passes;

pub use builder::{Builder, Emitted, In, Var};

use crate::mil::Program as Mil;
use crate::package::{Border, Package, payload};
use crate::settings::UNITS;
use crate::{NAME, Precision, Settings};
use lowbit_core::backend::{Artifact, BackendError, Blob, Claim, Format, Lowering};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Def, MutationTarget, NodeId, Program, ValueId};
use lowbit_core::passes::Pipeline;

/// The lowering to Core ML.
#[derive(Clone, Debug, Default)]
pub struct CoreMl {
    /// What is asked of it.
    pub settings: Settings,
}

impl Lowering for CoreMl {
    fn delegate_id(&self) -> &'static str {
        "CoreMLBackend"
    }

    fn passes(&self) -> Pipeline {
        passes::pipeline(&self.settings)
    }

    fn whole(&self) -> bool {
        self.settings.whole
    }

    /// A node is taken when it can be expressed: that is tried, and what stands in the way is the reason.
    fn claim(&self, program: &Program, node: NodeId) -> Claim {
        let mut rehearsal = Builder::rehearsal(program, &self.settings);
        match emit::node(&mut rehearsal, node).and_then(|_| together(program, node)) {
            Ok(with) => Claim::Take(with),
            Err(why) => Claim::Leave(why.into()),
        }
    }

    fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
        let package = build(part, &self.settings, false)?;
        let text = |s: &str| s.as_bytes().to_vec();
        let precision = match self.settings.precision {
            Precision::Float16 => "float16",
            Precision::Float32 => "float32",
        };
        let units = UNITS.iter().find(|(_, u)| *u == self.settings.compute_units).map_or("all", |(n, _)| n);
        let compile_specs = vec![
            ("compute_units".into(), text(&units.replace('-', "_"))),
            ("min_deployment_target".into(), text(&self.settings.target.specification().to_string())),
            ("model_compute_precision".into(), text(precision)),
            ("model_type".into(), text("model")),
        ];
        Ok(Blob { bytes: payload::of(&package), compile_specs, named_data: vec![] })
    }

    fn artifact(&self, program: &Program, _format: &Format) -> Result<Artifact, BackendError> {
        Ok(Artifact::Folder(build(program, &self.settings, true)?.files()))
    }
}

/// The package of a program. A delegate's buffers lie outside; a model of its own keeps them as state.
fn build(program: &Program, settings: &Settings, states: bool) -> Result<Package, BackendError> {
    let g = &program.graph;
    let fail =
        |place: &str, reason: String| BackendError::Compile { backend: NAME, node: place.into(), reason };
    let mut b = Builder::new(program, settings);
    let mut border = Border::default();
    b.inputs(&mut border).map_err(|why| fail("inputs", why))?;
    if border.inputs.is_empty() && settings.target < crate::Target::Ios18 {
        let why = "Core ML runs programs without inputs from target ios18 on".to_string();
        return Err(match g.nodes().next() {
            Some(node) if !states => BackendError::Refused { node, reason: why },
            _ => fail("inputs", why),
        });
    }
    let unknown =
        settings.shapes.keys().find(|name| !program.signature.inputs.iter().any(|i| **i == ***name));
    if let Some(name) = unknown.filter(|_| states) {
        let inputs = program.signature.inputs.join(", ");
        return Err(fail(
            "inputs",
            format!("option shapes:{name}: there is no such input; there are {inputs}"),
        ));
    }
    let mut kept = vec![];
    for (target, new) in program.mutations().filter(|_| states) {
        let MutationTarget::Buffer(c) = target else {
            return Err(fail(
                "inputs",
                "the program overwrites an input; Core ML's inputs are read only".into(),
            ));
        };
        if settings.target < crate::Target::Ios18 {
            let name = &program.constants[c].name;
            return Err(fail(
                name,
                "the program overwrites this buffer; Core ML has state from target ios18 on".into(),
            ));
        }
        let constant = &program.constants[c];
        if constant.tensor.bytes().iter().any(|b| *b != 0) {
            return Err(fail(
                &constant.name,
                "the program overwrites this buffer, which is not zero at first; Core ML's states are".into(),
            ));
        }
        kept.push((
            b.state(constant.value, &constant.name, &mut border).map_err(|why| fail(&constant.name, why))?,
            new,
        ));
    }
    for n in g.nodes() {
        let vars = emit::node(&mut b, n).map_err(|reason| match states {
            true => fail(&g.node(n).name, reason),
            false => BackendError::Refused { node: n, reason },
        })?;
        for (&v, var) in g.node(n).outputs().iter().zip(vars) {
            b.set(v, var);
        }
    }
    for (state, new) in kept {
        b.keep(state, new).map_err(|why| fail("state", why))?;
    }
    b.outputs(&mut border).map_err(|why| fail("outputs", why))?;
    let program = Mil { functions: vec![("main".into(), b.finish())] };
    Ok(Package { target: settings.target, border, program })
}

/// The nodes that share a tensor with `node` that cannot leave the model: 8-bit integers, which Core ML takes and gives only
/// from iOS 26 on.
fn together(program: &Program, node: NodeId) -> Result<Vec<NodeId>, String> {
    let (g, n) = (&program.graph, program.graph.node(node));
    let inner = |v: &ValueId| matches!(g.ty(*v).dtype, CoreType::I8 | CoreType::U8 | CoreType::U16);
    let mut with = vec![];
    for v in n.operands().filter(|v| inner(v)) {
        match g.value(v).def() {
            Def::Node(p, _) => with.push(p),
            Def::Const(_) => {}
            Def::Input(_) => {
                return Err(format!(
                    "it reads input %{}, {}, which Core ML does not take",
                    g.value(v).name,
                    g.ty(v)
                ));
            }
        }
    }
    for &v in n.outputs().iter().filter(|v| inner(v)) {
        if g.is_output(v) {
            return Err(format!(
                "it makes output %{}, {}, which Core ML does not give",
                g.value(v).name,
                g.ty(v)
            ));
        }
        with.extend(g.users(v));
    }
    Ok(with)
}

/// The most dimensions that Core ML's tensors have.
pub const MAX_RANK: usize = 5;
