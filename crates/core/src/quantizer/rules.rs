//! [`RuleQuantizer`]: a quantizer from a table of rules. Rules say *where*, an [`OpConfig`] says *how*.

use super::config::{OpConfig, Scope};
use super::{NodeFilter, Quantizer};
use crate::dtype::DType;
use crate::ir::{Key, NodeId, Program, ValueId};
use crate::ops::OpDef;
use crate::passes::{PassError, Pipeline};
use crate::quant::{Annotations, QuantError, Site, Spec};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A chain of operators, and which of its tensors are quantized.
#[derive(Copy, Clone, Debug)]
pub struct Rule {
    /// Its name in reports: `conv_relu`.
    pub name: &'static str,
    /// The operators allowed at each step. A step reads the one before as operand 0, and nobody else reads that.
    pub chain: &'static [&'static [&'static OpDef]],
    /// Whether dynamic configurations use it too.
    pub dynamic: bool,
    /// Annotates a match, or says why it cannot, before it annotates anything; the configuration's alternative is tried
    /// then, and later rules.
    pub annotate: fn(&Match<'_>, &OpConfig, &mut Annotations) -> Result<(), String>,
}

/// Nodes that a rule's chain matched.
#[derive(Copy, Clone, Debug)]
pub struct Match<'a> {
    /// The program.
    pub program: &'a Program,
    /// One node a step.
    pub nodes: &'a [NodeId],
}

impl<'a> Match<'a> {
    /// The first node of the chain.
    pub fn first(&self) -> NodeId {
        self.nodes[0]
    }

    /// The last one.
    pub fn last(&self) -> NodeId {
        self.nodes[self.nodes.len() - 1]
    }

    /// What the chain makes.
    pub fn output(&self) -> Site {
        Site::Output(self.program.graph.node(self.last()).output())
    }

    /// Where argument `i` of the first node is read; `None` when it holds no tensor.
    pub fn arg(&self, i: usize) -> Option<Site> {
        let slot = self.program.graph.node(self.first()).slot_of_arg(i)?;
        Some(Site::input(self.first(), slot))
    }

    /// The tensor of argument `i` of the first node.
    pub fn value(&self, i: usize) -> Option<ValueId> {
        self.program.graph.node(self.first()).arg(i).values().next()
    }

    /// The sizes of the tensor of argument `i` of the first node, when no symbol is involved.
    pub fn shape(&self, i: usize) -> Option<Vec<usize>> {
        self.program.graph.ty(self.value(i)?).known_shape()
    }
}

#[derive(Clone, Debug)]
struct Setting {
    scope: Scope,
    config: OpConfig,
}

/// A quantizer from a table of rules.
///
/// Each node takes the configuration of the first scope it is in: nodes, module names in the order they were set, then
/// module types, operators, and the global one. For each configuration in that order, the rules are tried in order over the
/// whole program; a node that a rule took is out of reach of later ones. At last, operators that hand on quantization
/// parameters (`shares`) take those of what they read.
#[derive(Clone)]
pub struct RuleQuantizer {
    rules: &'static [Rule],
    shares: &'static [&'static OpDef],
    settings: Vec<Setting>,
    filters: Vec<NodeFilter>,
    prepare: fn() -> Pipeline,
    dynamic_dims: fn(&Program, NodeId) -> Option<Vec<usize>>,
    finish: fn(&Program, &mut Annotations),
    least_fit: Option<f64>,
    fallback: OpConfig,
    /// Whether rules look at element types themselves.
    mixed: bool,
    folds_constants: bool,
    /// Nodes that calibration showed not to fit, and why each does not.
    unfit: BTreeMap<NodeId, String>,
}

impl fmt::Debug for RuleQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<&str> = self.rules.iter().map(|r| r.name).collect();
        f.debug_struct("RuleQuantizer").field("rules", &rules).field("settings", &self.settings).finish()
    }
}

impl RuleQuantizer {
    /// A quantizer with these rules and a configuration for everything.
    pub fn new(rules: &'static [Rule], global: OpConfig) -> Self {
        Self::unset(rules).set(Scope::Global, global)
    }

    /// A quantizer with these rules; what no [`set`](Self::set) mentions is left alone.
    pub fn unset(rules: &'static [Rule]) -> Self {
        RuleQuantizer {
            rules,
            shares: &[],
            settings: Vec::new(),
            filters: Vec::new(),
            prepare: Pipeline::default,
            dynamic_dims: |_, _| None,
            finish: |_, _| (),
            least_fit: None,
            fallback: OpConfig::float(),
            mixed: false,
            folds_constants: false,
            unfit: BTreeMap::new(),
        }
    }

    /// Operators that hand on the parameters of what they read: reshapes, pools, relu …
    pub fn shares(mut self, ops: &'static [&'static OpDef]) -> Self {
        self.shares = ops;
        self
    }

    /// Passes that bring a program into the form the rules expect.
    pub fn prepare(mut self, passes: fn() -> Pipeline) -> Self {
        self.prepare = passes;
        self
    }

    /// What shares a range where the device quantizes at run time; see [`Quantizer::dynamic_dims`].
    pub fn dynamic_dims(mut self, dims: fn(&Program, NodeId) -> Option<Vec<usize>>) -> Self {
        self.dynamic_dims = dims;
        self
    }

    /// Looks over all annotations when the rules have made theirs.
    pub fn finish(mut self, finish: fn(&Program, &mut Annotations)) -> Self {
        self.finish = finish;
        self
    }

    /// The rules look at element types themselves: operators that read or make other than floats are shown to them, too
    /// (an embedding reads integers). They annotate `f32` alone.
    pub fn mixed(mut self) -> Self {
        self.mixed = true;
        self
    }

    /// Weights that the program computes are constants before they are quantized; see [`Quantizer::folds_constants`].
    pub fn fold_constants(mut self) -> Self {
        self.folds_constants = true;
        self
    }

    /// After calibration, operators with a tensor that its integers hold with less than `least_fit` dB (see
    /// [`Observer::fit`](crate::quant::Observer::fit)) are quantized at run time, as `fallback` says, or stay in floating
    /// point where no rule does that.
    pub fn fallback(mut self, least_fit: f64, fallback: OpConfig) -> Self {
        (self.least_fit, self.fallback) = (Some(least_fit), fallback);
        self
    }

    /// Sets the configuration of a scope; a scope that was set before gets the new one in its old place.
    pub fn set(mut self, scope: Scope, config: OpConfig) -> Self {
        match self.settings.iter_mut().find(|s| s.scope == scope) {
            Some(s) => s.config = config,
            None => self.settings.push(Setting { scope, config }),
        }
        // Stable: within a rank, in the order they were set.
        self.settings.sort_by_key(|s| s.scope.rank());
        self
    }

    /// The configuration of the module at `path` (see [`Scope::ModuleName`]).
    pub fn module_name(self, path: &str, config: OpConfig) -> Self {
        self.set(Scope::ModuleName(path.into()), config)
    }

    /// The configuration of modules of a type (see [`Scope::ModuleType`]).
    pub fn module_type(self, name: &str, config: OpConfig) -> Self {
        self.set(Scope::ModuleType(name.into()), config)
    }

    /// The configuration of an operator (see [`Scope::Operator`]).
    pub fn operator(self, name: &str, config: OpConfig) -> Self {
        self.set(Scope::Operator(name.into()), config)
    }

    /// The setting that applies to each node, by place; `Err` says why a filter leaves it in floating point.
    fn resolve(&self, program: &Program) -> Vec<Result<Option<usize>, String>> {
        let mut out = vec![Ok(None); program.graph.table_sizes().0];
        for n in program.graph.nodes() {
            out[n.index()] = match self.filters.iter().find_map(|f| f(program, n).err()) {
                Some(why) => Err(why),
                None => Ok(self.settings.iter().position(|s| s.scope.holds(program, n))),
            };
        }
        out
    }

    /// Whether a later node of a chain may go with a first one of setting `first`: it may not be set to floating point,
    /// unless only the rest is, and the first was picked by its operator.
    fn goes_with(&self, first: usize, later: &Result<Option<usize>, String>) -> bool {
        let Ok(later) = later else { return false };
        let by_operator = |i: &usize| matches!(self.settings[*i].scope, Scope::Operator(_));
        match later {
            Some(l) if !self.settings[*l].config.is_float() => true,
            Some(l) => by_operator(&first) && self.settings[*l].scope == Scope::Global,
            None => by_operator(&first),
        }
    }

    fn hand_on(&self, program: &Program, resolved: &[Result<Option<usize>, String>], out: &mut Annotations) {
        let g = &program.graph;
        out.set_rule("shared");
        for n in g.nodes() {
            let node = g.node(n);
            let float = match &resolved[n.index()] {
                Err(_) => true,
                Ok(i) => i.is_some_and(|i| self.settings[i].config.is_float()),
            };
            if float || out.is_claimed(n) || !self.shares.contains(&node.op()) {
                continue;
            }
            let Some(from) = node.operands().next() else { continue };
            if g.producer(from).is_none() || out.get(Site::Output(from)).is_none() {
                continue;
            }
            let shared = Spec::SharedWith(Site::Output(from));
            out.set(Site::input(n, 0), shared.clone()).set(Site::Output(node.output()), shared);
            out.claim(&[n]);
        }
    }

    fn explain(&self, program: &Program, resolved: &[Result<Option<usize>, String>], out: &mut Annotations) {
        let g = &program.graph;
        for n in g.nodes() {
            if out.is_claimed(n) {
                continue;
            }
            let node = g.node(n);
            let why = match &resolved[n.index()] {
                Err(why) => why.clone(),
                _ if self.unfit.contains_key(&n) => self.unfit[&n].clone(),
                Ok(None) => "no configuration applies to it".into(),
                Ok(Some(i)) if self.settings[*i].config.is_float() => {
                    format!("{} is set to floating point", self.settings[*i].scope)
                }
                _ if out.reason(n).is_some() => continue,
                _ if self.shares.contains(&node.op()) => {
                    "it hands on what it reads, which is not quantized".into()
                }
                Ok(Some(i)) => {
                    let dynamic = self.settings[*i].config.is_dynamic();
                    let known = |r: &&Rule| r.chain.iter().any(|step| step.contains(&node.op()));
                    match self.rules.iter().filter(known).any(|r| r.dynamic || !dynamic) {
                        true => format!("no rule for {} applies here", node.op().name),
                        false if dynamic => format!("{} has no dynamic rule", node.op().name),
                        false => format!("there is no rule for {}", node.op().name),
                    }
                }
            };
            out.leave(n, why);
        }
    }
}

/// Annotates a match with the first of a configuration and its alternatives that the rule does not refuse.
fn annotate(rule: &Rule, m: &Match<'_>, config: &OpConfig, out: &mut Annotations) -> Result<(), String> {
    let refused = match (rule.annotate)(m, config, out) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    let mut next = &config.otherwise;
    while let Some(config) = next {
        if (rule.annotate)(m, config, out).is_ok() {
            out.remark(m.first(), refused);
            return Ok(());
        }
        next = &config.otherwise;
    }
    Err(refused)
}

/// The nodes that a rule's chain matches from `first` on.
fn follow(program: &Program, rule: &Rule, first: NodeId) -> Option<Vec<NodeId>> {
    let g = &program.graph;
    let mut nodes = vec![first];
    if !rule.chain.first()?.contains(&g.node(first).op()) {
        return None;
    }
    for step in &rule.chain[1..] {
        let last = nodes[nodes.len() - 1];
        let v = g.node(last).output();
        let [u] = g.value(v).uses() else { return None };
        if u.slot != 0 || g.is_output(v) || !step.contains(&g.node(u.node).op()) {
            return None;
        }
        nodes.push(u.node);
    }
    Some(nodes)
}

/// Only `f32` is observed: why a chain cannot be quantized for its types.
fn wrong_type(program: &Program, nodes: &[NodeId]) -> Option<String> {
    let g = &program.graph;
    let values = nodes.iter().flat_map(|&n| g.node(n).operands().chain(g.node(n).outputs().iter().copied()));
    let bad = values.into_iter().find(|&v| g.ty(v).dtype != DType::F32)?;
    Some(format!("%{} is {}; only f32 is quantized", g.value(bad).name, g.ty(bad).dtype))
}

impl Quantizer for RuleQuantizer {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        (self.prepare)().run(program)
    }

    fn folds_constants(&self) -> bool {
        self.folds_constants
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        for s in &self.settings {
            if !program.graph.nodes().any(|n| s.scope.holds(program, n)) && s.scope != Scope::Global {
                return Err(QuantError::Config(format!(
                    "a configuration is set for {}, which nothing in the program belongs to",
                    s.scope
                )));
            }
        }
        let resolved = self.resolve(program);
        for (i, setting) in self.settings.iter().enumerate() {
            if setting.config.is_float() {
                continue;
            }
            let dynamic = setting.config.is_dynamic();
            for rule in self.rules.iter().filter(|r| r.dynamic || !dynamic) {
                out.set_rule(rule.name);
                for first in program.graph.nodes() {
                    if resolved[first.index()] != Ok(Some(i)) || out.is_claimed(first) {
                        continue;
                    }
                    let Some(nodes) = follow(program, rule, first) else { continue };
                    let later = &nodes[1..];
                    if later.iter().any(|&n| out.is_claimed(n) || !self.goes_with(i, &resolved[n.index()])) {
                        continue;
                    }
                    if let Some(why) = wrong_type(program, &nodes).filter(|_| !self.mixed) {
                        out.leave(first, why);
                        continue;
                    }
                    match annotate(rule, &Match { program, nodes: &nodes }, &setting.config, out) {
                        Ok(()) => out.claim(&nodes),
                        Err(why) => match self.unfit.get(&first) {
                            Some(unfit) => out.leave(first, format!("{unfit}, and otherwise: {why}")),
                            None => out.leave(first, why),
                        },
                    }
                }
            }
        }
        self.hand_on(program, &resolved, out);
        (self.finish)(program, out);
        self.explain(program, &resolved, out);
        Ok(())
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        self.filters.push(keep);
        Ok(())
    }

    fn revise(
        &self,
        program: &Program,
        annotations: &Annotations,
        fits: &[(&[Site], f64)],
    ) -> Option<Box<dyn Quantizer>> {
        let least = self.least_fit?;
        let g = &program.graph;
        let mut unfit = BTreeMap::new();
        for (sites, fit) in fits.iter().filter(|(_, fit)| *fit < least) {
            let why = format!("8 bits hold all but the outliers of its tensors with {fit:.0} dB only");
            for &site in *sites {
                let mut at = match site {
                    Site::Input(u) => Some(u.node),
                    Site::Output(v) => g.producer(v),
                };
                // The whole of a rule's chain: what is between its nodes has no site, and was not observed.
                while let Some(n) = at.filter(|&n| annotations.is_claimed(n)) {
                    unfit.entry(n).or_insert_with(|| why.clone());
                    let read = g.node(n).operands().next();
                    let inner = |v: &ValueId| {
                        annotations.get(Site::input(n, 0)).is_none()
                            && annotations.get(Site::Output(*v)).is_none()
                    };
                    at = read.filter(inner).and_then(|v| g.producer(v));
                }
            }
        }
        if unfit.is_empty() {
            return None;
        }
        let scope = Scope::Nodes(Arc::new(unfit.keys().copied().collect()));
        let revised = self.clone().set(scope, self.fallback.clone());
        Some(Box::new(RuleQuantizer { unfit, ..revised }))
    }

    fn dynamic_dims(&self, program: &Program, reader: NodeId) -> Option<Vec<usize>> {
        (self.dynamic_dims)(program, reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;
    use crate::ops;
    use crate::quant::{Mapping, ObserverKind, QRange, QuantSpec};

    static RULES: &[Rule] = &[
        Rule {
            name: "linear_relu",
            chain: &[&[&ops::LINEAR], &[&ops::RELU]],
            dynamic: false,
            annotate: linear,
        },
        Rule { name: "linear", chain: &[&[&ops::LINEAR]], dynamic: true, annotate: linear },
    ];

    static SHARES: &[&OpDef] = &[&ops::VIEW, &ops::RELU];

    fn linear(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Result<(), String> {
        if m.shape(1).is_some_and(|s| s[0] == 1) {
            return Err("one feature is too few".into());
        }
        for (site, spec) in
            [(m.arg(0), &how.input_activation), (m.arg(1), &how.weight), (m.arg(2), &how.bias)]
        {
            if let Some(site) = site {
                out.set(site, spec.clone());
            }
        }
        out.set(m.output(), how.output_activation.clone());
        Ok(())
    }

    #[test]
    fn what_a_rule_refuses_is_done_otherwise() {
        let p = net();
        fn only(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Result<(), String> {
            match how.is_dynamic() {
                true => Err("not while running".to_string()),
                false => linear(m, how, out),
            }
        }
        static ONLY: &[Rule] =
            &[Rule { name: "linear", chain: &[&[&ops::LINEAR]], dynamic: true, annotate: only }];
        let config = OpConfig { otherwise: Some(Arc::new(int8())), ..dynamic() };
        let mut out = Annotations::default();
        RuleQuantizer::new(ONLY, config).annotate(&p, &mut out).unwrap();
        let name = |n: NodeId| p.graph.node(n).name.to_string();
        let remarks: Vec<_> = p.graph.nodes().filter_map(|n| Some((name(n), out.remarked(n)?))).collect();
        let why = "not while running";
        assert_eq!(remarks, [("a".to_string(), why), ("b".to_string(), why)]);
        // Refused either way: the first reason counts.
        let c = p.graph.nodes().find(|&n| name(n) == "c").unwrap();
        assert_eq!((out.is_claimed(c), out.reason(c)), (false, Some(why)));
    }

    fn int8() -> OpConfig {
        let spec = QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::MinMax);
        OpConfig::new(spec.clone(), spec)
    }

    fn dynamic() -> OpConfig {
        let act = QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::Placeholder).dynamic();
        OpConfig { output_activation: None, ..OpConfig::new(act.clone(), act) }
    }

    /// Two blocks of linear + relu, a view between them, a stray linear with one feature, integers.
    const NET: &str = "program {
      %x : f32[1, 4] = input
      %i : i64[1, 4] = input
      %w : f32[4, 4] = constant \"w\"
      %v : f32[1, 4] = constant \"v\"
      %a : f32[1, 4] = aten.linear.default(%x, %w)    ; m.a (Linear)
      %ar : f32[1, 4] = aten.relu.default(%a)    ; m.act (ReLU)
      %view : f32[1, 4] = aten.view.default(%ar, [1, 4])    ; m
      %b : f32[1, 4] = aten.linear.default(%view, %w)    ; m.b (Linear)
      %br : f32[1, 4] = aten.relu.default(%b)    ; m.act (ReLU)
      %c : f32[1, 1] = aten.linear.default(%br, %v)    ; m.c (Linear)
      %s : f32[1, 1] = aten.sigmoid.default(%c)    ; m
      %j : i64[1, 4] = aten.view.default(%i, [1, 4])    ; m
      return %s, %j
    }";

    fn net() -> Program {
        // The text form has no module types; here the comment names path and type.
        let mut p = text::parse(&NET.replace(" (Linear)", "").replace(" (ReLU)", "")).unwrap();
        let nodes: Vec<NodeId> = p.graph.nodes().collect();
        for n in nodes {
            let frame =
                |path: &str, ty: &str| crate::ir::ModuleFrame { path: path.into(), type_name: ty.into() };
            let path = p.graph.node(n).module.path().to_string();
            let ty = match &*path {
                "m" => "my.Net",
                "m.act" => "torch.nn.modules.activation.ReLU",
                _ => "torch.nn.modules.linear.Linear",
            };
            let mut frames = vec![frame("m", "my.Net")];
            if path != "m" {
                frames.push(frame(&path, ty));
            }
            p.graph.set_module(n, crate::ir::ModuleStack::new(frames));
        }
        p
    }

    /// Which rule took each node, `-` for none.
    fn taken(q: &RuleQuantizer) -> String {
        let p = net();
        let mut out = Annotations::default();
        q.annotate(&p, &mut out).unwrap();
        let g = &p.graph;
        g.nodes().map(|n| format!("{} ", out.claimed_by(n).unwrap_or("-"))).collect::<String>().trim().into()
    }

    #[test]
    fn scopes_and_filters_decide() {
        let q = || RuleQuantizer::new(RULES, int8()).shares(SHARES);
        let only = || RuleQuantizer::unset(RULES).shares(SHARES);
        let skip = |name: &'static str| -> RuleQuantizer {
            let mut q = q();
            let keep: NodeFilter =
                Arc::new(move |p, n| if &*p.graph.node(n).name == name { Err("no".into()) } else { Ok(()) });
            q.filter(keep).unwrap();
            q
        };
        for (what, q, want) in [
            ("all", q(), "linear_relu linear_relu shared linear_relu linear_relu - - -"),
            ("name", q().module_name("m.a", OpConfig::float()), "- - - linear_relu linear_relu - - -"),
            // The relu is not in the named module, but it is to be quantized as well.
            ("name, other", q().module_name("m.a", dynamic()), "linear - - linear_relu linear_relu - - -"),
            ("name, rest unset", only().module_name("m.a", int8()), "linear shared shared - - - - -"),
            ("type", q().module_type("ReLU", OpConfig::float()), "linear - - linear - - - -"),
            (
                "full type",
                q().module_type("torch.nn.modules.activation.ReLU", OpConfig::float()),
                "linear - - linear - - - -",
            ),
            ("packet", q().operator("aten.linear", OpConfig::float()), "- - - - - - - -"),
            (
                "overload",
                only().operator("aten.linear.default", int8()),
                "linear_relu linear_relu shared linear_relu linear_relu - - -",
            ),
            (
                "name before type before operator",
                q().operator("aten.linear", int8())
                    .module_type("Linear", OpConfig::float())
                    .module_name("m.b", int8()),
                "- - - linear_relu linear_relu - - -",
            ),
            ("filter", skip("ar"), "linear - - linear_relu linear_relu - - -"),
            ("filter on a sharer", skip("view"), "linear_relu linear_relu - linear_relu linear_relu - - -"),
            ("dynamic", RuleQuantizer::new(RULES, dynamic()), "linear - - linear - - - -"),
        ] {
            assert_eq!(taken(&q), want, "{what}");
        }
    }

    #[test]
    fn every_node_has_a_rule_or_a_reason() {
        let p = net();
        let mut out = Annotations::default();
        let q = RuleQuantizer::new(RULES, int8()).module_name("m.b", OpConfig::float());
        q.annotate(&p, &mut out).unwrap();
        let reasons: Vec<String> = p
            .graph
            .nodes()
            .filter_map(|n| Some(format!("{}: {}", p.graph.node(n).name, out.reason(n)?)))
            .collect();
        assert_eq!(
            reasons,
            [
                "view: there is no rule for aten.view.default",
                "b: module \"m.b\" is set to floating point",
                "br: no rule for aten.relu.default applies here",
                "c: one feature is too few",
                "s: there is no rule for aten.sigmoid.default",
                "j: there is no rule for aten.view.default",
            ]
        );
    }

    #[test]
    fn a_scope_of_nothing_is_an_error() {
        let q = RuleQuantizer::new(RULES, int8()).module_name("m.z", OpConfig::float());
        let e = q.annotate(&net(), &mut Annotations::default()).unwrap_err();
        assert!(e.to_string().contains("module \"m.z\""), "{e}");
    }
}
