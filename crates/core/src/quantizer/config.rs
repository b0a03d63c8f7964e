//! How operators are quantized, and which configuration applies to which node.

use super::pattern::Pattern;
use crate::ir::{NodeId, Program};
use crate::quant::{QuantError, Spec};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// How the tensors of an operator are quantized (torchao's `QuantizationConfig`). `None` leaves a tensor in floating
/// point; the default leaves all of them.
#[derive(Clone, Debug, Default)]
pub struct OpConfig {
    /// Activations read.
    pub input_activation: Option<Spec>,
    /// Activations made; a dynamic configuration has none.
    pub output_activation: Option<Spec>,
    /// Weights.
    pub weight: Option<Spec>,
    /// Biases.
    pub bias: Option<Spec>,
    /// What to take instead for operators that a rule refuses this configuration: 8 bits where 4 do not fit, say.
    pub otherwise: Option<Arc<OpConfig>>,
}

impl OpConfig {
    /// Nothing is quantized: opts a module or operator out.
    pub fn float() -> Self {
        OpConfig::default()
    }

    /// Activations read and made with one spec, weights with another, biases in floating point.
    pub fn new(activation: impl Into<Spec>, weight: impl Into<Spec>) -> Self {
        let activation = activation.into();
        OpConfig {
            input_activation: Some(activation.clone()),
            output_activation: Some(activation),
            weight: Some(weight.into()),
            bias: None,
            otherwise: None,
        }
    }

    /// Whether nothing is quantized.
    pub fn is_float(&self) -> bool {
        let OpConfig { input_activation, output_activation, weight, bias, otherwise: _ } = self;
        [input_activation, output_activation, weight, bias].iter().all(|s| s.is_none())
    }

    /// Whether activations are quantized while the program runs.
    pub fn is_dynamic(&self) -> bool {
        matches!(&self.input_activation, Some(Spec::Observed(s)) if s.dynamic)
    }
}

/// A function that picks nodes.
#[derive(Clone)]
pub struct Predicate(Arc<dyn Fn(&Program, NodeId) -> bool + Send + Sync>);

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
impl Eq for Predicate {}

/// What a configuration is set for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Single nodes, by id.
    Nodes(Arc<BTreeSet<NodeId>>),
    /// What reads this parameter: `layer1.0.conv1.weight`.
    Parameter(Arc<str>),
    /// Everything in the module of this path, and in its submodules: `layer1.0.conv1`.
    ModuleName(Arc<str>),
    /// Everything in modules that a pattern stands for, and in their submodules, and what reads such parameters.
    Pattern(Pattern),
    /// What a function picks.
    Where(Predicate),
    /// Everything in modules of this type, and in their submodules: `torch.nn.modules.conv.Conv2d`, or `Conv2d`.
    ModuleType(Arc<str>),
    /// An operator, with or without overload: `aten.linear`, `aten.linear.default`.
    Operator(Arc<str>),
    /// Everything else.
    Global,
}

impl Scope {
    /// What `picks` picks.
    pub fn picked(picks: impl Fn(&Program, NodeId) -> bool + Send + Sync + 'static) -> Self {
        Scope::Where(Predicate(Arc::new(picks)))
    }

    /// The scope that an option of a backend names: `module-name:PATH`, `module-type:TYPE`, `operator:NAME`. `None` for
    /// options of other kinds.
    pub fn of_option(option: &str) -> Option<Self> {
        match option.split_once(':')? {
            ("module-name", path) => Some(Scope::ModuleName(path.into())),
            ("module-type", name) => Some(Scope::ModuleType(name.into())),
            ("operator", name) => Some(Scope::Operator(name.into())),
            _ => None,
        }
    }

    /// Modules by a glob: `encoder.*.attn`.
    ///
    /// # Errors
    /// When it is no glob.
    pub fn glob(glob: &str) -> Result<Self, QuantError> {
        Pattern::glob(glob).map(Scope::Pattern)
    }

    /// Modules by a regular expression: `layers\.\d+\.mlp`.
    ///
    /// # Errors
    /// When it is none.
    pub fn regex(regex: &str) -> Result<Self, QuantError> {
        Pattern::regex(regex).map(Scope::Pattern)
    }

    /// The order of precedence: nodes before names before patterns before functions before types before operators before
    /// the rest.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Scope::Nodes(_) => 0,
            Scope::Parameter(_) => 1,
            Scope::ModuleName(_) => 2,
            Scope::Pattern(_) => 3,
            Scope::Where(_) => 4,
            Scope::ModuleType(_) => 5,
            Scope::Operator(_) => 6,
            Scope::Global => 7,
        }
    }

    /// Whether `node` is in this scope.
    pub fn holds(&self, program: &Program, node: NodeId) -> bool {
        let n = program.graph.node(node);
        let parameter = |v| program.constant(v).map(|c| &*c.name);
        match self {
            Scope::Nodes(nodes) => nodes.contains(&node),
            Scope::Parameter(name) => n.operands().filter_map(parameter).any(|p| *p == **name),
            Scope::Pattern(pattern) => {
                n.module.frames().iter().any(|f| pattern.matches(&f.path))
                    || n.operands().filter_map(parameter).any(|p| pattern.matches(p))
            }
            Scope::Where(Predicate(picks)) => picks(program, node),
            Scope::ModuleName(path) => n.module.frames().iter().any(|f| f.path == *path),
            Scope::ModuleType(name) => n.module.frames().iter().any(|f| {
                // The full name, or the class alone.
                f.type_name == *name || f.type_name.rsplit('.').next() == Some(&**name)
            }),
            Scope::Operator(name) => *n.op().name == **name || *n.op().packet() == **name,
            Scope::Global => true,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Nodes(nodes) => write!(f, "{} nodes", nodes.len()),
            Scope::Parameter(s) => write!(f, "parameter {s:?}"),
            Scope::ModuleName(s) => write!(f, "module {s:?}"),
            Scope::Pattern(s) => write!(f, "the pattern {s}"),
            Scope::Where(_) => f.write_str("what a function picks"),
            Scope::ModuleType(s) => write!(f, "modules of type {s}"),
            Scope::Operator(s) => write!(f, "operator {s}"),
            Scope::Global => f.write_str("everything"),
        }
    }
}
