//! [`WeightQuantizer`]: the weights of layers as integers, tables or half floats, without calibration: torchao's `quantize_`.
//!
//! ```
//! use lowbit_core::quantizer::{Intx, Scope, WeightConfig, WeightQuantizer};
//!
//! # fn main() -> Result<(), lowbit_core::quant::QuantError> {
//! let int4 = WeightConfig::IntxWeightOnly(Intx { bits: 4, group: Some(32), ..Intx::default() });
//! let quantizer = WeightQuantizer::new(int4) // all linear layers
//!     .set(Scope::regex(r"layers\.\d+\.mlp\..*")?, WeightConfig::Int8WeightOnly)
//!     .set(Scope::ModuleType("Embedding".into()), WeightConfig::Int8WeightOnly)
//!     .skip(Scope::ModuleName("head".into()));
//! # let _ = quantizer; Ok(()) }
//! ```

use super::chooser::{Chooser, Weight};
use super::intx::{Intx, least_normal};
use super::layer::Layer;
use super::{NodeFilter, Quantizer, Scope};
use crate::dtype::DType;
use crate::ir::{Key, NodeId, Program, ValueId};
use crate::ops;
use crate::passes::{PassError, Pipeline, Recompose, fold_constants};
use crate::quant::{
    Annotations, Blocks, Codebook, Mapping, ObserverKind, QRange, QuantError, QuantSpec, Site, Spec,
};
use std::fmt;

/// How the weight of a layer is stored, and whether what it is multiplied with is quantized too.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightConfig {
    /// Symmetric int8, a scale for each output channel (`Int8WeightOnlyConfig`).
    Int8WeightOnly,
    /// Integers of fewer bits (`IntxWeightOnlyConfig`).
    IntxWeightOnly(Intx),
    /// The same in linear layers whose inputs are quantized to int8 while running, row by row
    /// (`Int8DynamicActivationIntxWeightConfig`; with 4 bits "8da4w").
    Int8DynamicActivationIntxWeight(Intx),
    /// Indices into tables (`CodebookWeightOnlyConfig`, Core ML's palettization).
    CodebookWeightOnly(Codebook),
    /// What a function makes of each weight: a backend's own layouts.
    Chosen(Chooser),
    /// Every floating-point constant in a half type, cast back where it is read; if `activations`, what passes through the
    /// layer is rounded to that type as well.
    Half {
        /// `f16` or `bf16`.
        dtype: DType,
        /// Inputs and outputs too.
        activations: bool,
    },
}

/// What is set for a scope.
#[derive(Clone, Debug)]
enum Setting {
    Config(WeightConfig),
    Float,
    /// Another quantizer's business.
    Others,
}

/// Quantizes the weights of linear layers, convolutions and embeddings. Which layers, and each how, is said by scopes: the
/// first one that a layer is in, in the order of [`Scope`]'s kinds and of setting them, has its way (torchao's
/// `FqnToConfig`). Operators without weights are left alone.
#[derive(Clone, Default)]
pub struct WeightQuantizer {
    settings: Vec<(Scope, Setting)>,
    filters: Vec<NodeFilter>,
    /// `None`: [`Recompose`] alone.
    prepare: Option<fn() -> Pipeline>,
}

impl fmt::Debug for WeightQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightQuantizer").field("settings", &self.settings).finish()
    }
}

/// Sites and how each is quantized, and a remark.
type Sites = (Vec<(Site, Spec)>, Option<String>);

impl WeightQuantizer {
    /// All linear layers, as `quantize_` does when told nothing else. [`Default`] quantizes nothing.
    pub fn new(config: WeightConfig) -> Self {
        Self::default().set(Scope::Operator("aten.linear".into()), config)
    }

    /// Configures the layers in a scope.
    pub fn set(self, scope: Scope, config: WeightConfig) -> Self {
        self.with(scope, Setting::Config(config))
    }

    /// Leaves the layers in a scope in floating point.
    pub fn skip(self, scope: Scope) -> Self {
        self.with(scope, Setting::Float)
    }

    /// Says nothing of what is in a scope: another quantizer will.
    pub fn pass_over(self, scope: Scope) -> Self {
        self.with(scope, Setting::Others)
    }

    /// Passes that bring a program into the form with layers in it; [`Recompose`] when nothing is said.
    pub fn prepare(mut self, passes: fn() -> Pipeline) -> Self {
        self.prepare = Some(passes);
        self
    }

    fn with(mut self, scope: Scope, setting: Setting) -> Self {
        let at = self.settings.partition_point(|(s, _)| s.rank() <= scope.rank());
        self.settings.insert(at, (scope, setting));
        self
    }

    /// What is quantized around `n`, or why nothing is.
    fn sites(
        &self,
        program: &Program,
        n: NodeId,
        config: &WeightConfig,
        fixed: &[bool],
    ) -> Result<Sites, String> {
        let g = &program.graph;
        let node = g.node(n);
        if let WeightConfig::Half { dtype, activations } = *config {
            return half(program, n, dtype, activations, fixed);
        }
        let layer = Layer::of(node).ok_or("it has no weight")?;
        let weight = layer.weight(node).ok_or("it has no weight")?;
        let slot = node.slot_of_arg(layer.arg).ok_or("it has no weight")?;
        let Layer { output_axis, input_axis, .. } = *layer;
        let ty = g.ty(weight);
        if !fixed[weight.index()] {
            return Err("its weight is computed from inputs".into());
        }
        if !ty.dtype.is_float() {
            return Err(format!("its weight is {ty}, not floats"));
        }
        let mut remark = None;
        let spec: Spec = match config {
            WeightConfig::Int8WeightOnly => {
                let blocks = Blocks::Axis(output_axis);
                let spec = QuantSpec::intx(QRange::INT8, Mapping::Symmetric, ObserverKind::MinMax, blocks);
                spec.eps(f64::from(f32::EPSILON)).into()
            }
            WeightConfig::IntxWeightOnly(_) if input_axis != 1 => {
                return Err(
                    "groups go over axis 1, where a transposed convolution has output channels".into()
                );
            }
            WeightConfig::IntxWeightOnly(intx) | WeightConfig::Int8DynamicActivationIntxWeight(intx) => {
                intx.spec(ty.dtype, &ty.shape)?.into()
            }
            WeightConfig::Chosen(chooser) => {
                let chosen = chooser.choose(&Weight { program, layer: n, ty, output_axis, input_axis })?;
                remark = chosen.1;
                chosen.0
            }
            WeightConfig::CodebookWeightOnly(codebook) => {
                codebook.granularity().block_sizes(&ty.shape)?;
                Spec::Codebook(*codebook)
            }
            WeightConfig::Half { .. } => return Err("it has no weight".into()),
        };
        let mut sites = vec![(Site::input(n, slot), spec)];
        if let WeightConfig::Int8DynamicActivationIntxWeight(_) = config {
            if *node.op() != ops::LINEAR {
                return Err("only linear layers take inputs that are quantized row by row".into());
            }
            let input = node.operands().next().ok_or("it has no input")?;
            let rows =
                QuantSpec::intx(QRange::INT8, Mapping::Affine, ObserverKind::Placeholder, Blocks::Token);
            let rows = rows.eps(least_normal(g.ty(input).dtype)).dynamic();
            sites.push((Site::input(n, 0), rows.into()));
        }
        Ok((sites, remark))
    }
}

/// Constants, and if so told all else, that `n` reads or makes in a wider type.
fn half(
    program: &Program,
    n: NodeId,
    dtype: DType,
    activations: bool,
    fixed: &[bool],
) -> Result<Sites, String> {
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return Err(format!("{dtype} is no half type"));
    }
    let g = &program.graph;
    let wide = |v: ValueId| g.ty(v).dtype.is_float() && g.ty(v).dtype.size() > dtype.size();
    let mut sites = vec![];
    for (slot, v) in g.node(n).operands().enumerate().filter(|(_, v)| wide(*v)) {
        if !fixed[v.index()] && !activations {
            continue;
        }
        let large = |x: &&f32| x.is_finite() && x.abs() > 65504.0;
        let lost = program.frozen(v).map_or(0, |t| t.to_f32().iter().filter(large).count());
        if lost > 0 && dtype == DType::F16 {
            return Err(format!("{lost} elements of %{} are too large for f16", g.value(v).name));
        }
        sites.push((Site::input(n, slot as u32), Spec::Cast(dtype)));
    }
    let made = g.node(n).outputs().iter().filter(|v| activations && wide(**v));
    sites.extend(made.map(|&v| (Site::Output(v), Spec::Cast(dtype))));
    if sites.is_empty() { Err(format!("it has no constants wider than {dtype}")) } else { Ok((sites, None)) }
}

impl Quantizer for WeightQuantizer {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        match self.prepare {
            Some(passes) => passes().run(program),
            None => Pipeline::run_one(&Recompose, program),
        }
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        out.set_rule("weights");
        for (scope, _) in &self.settings {
            let broad = matches!(scope, Scope::Operator(_) | Scope::Global);
            if !broad && !program.graph.nodes().any(|n| scope.holds(program, n)) {
                return Err(QuantError::Config(format!(
                    "a configuration is set for {scope}, which nothing in the program belongs to"
                )));
            }
        }
        let fixed = fold_constants::constant_values(program);
        for n in program.graph.nodes() {
            if out.is_claimed(n) {
                continue;
            }
            let Some((scope, setting)) = self.settings.iter().find(|(s, _)| s.holds(program, n)) else {
                continue;
            };
            if matches!(setting, Setting::Others) {
                continue;
            }
            if let Some(why) = self.filters.iter().find_map(|f| f(program, n).err()) {
                out.leave(n, why);
                continue;
            }
            let Setting::Config(config) = setting else {
                out.leave(n, format!("{scope} is set to floating point"));
                continue;
            };
            match self.sites(program, n, config, &fixed) {
                Ok((sites, remark)) => {
                    for (site, spec) in sites {
                        out.set(site, spec);
                    }
                    out.claim(&[n]);
                    if let Some(why) = remark {
                        out.remark(n, why);
                    }
                }
                Err(why) => out.leave(n, why),
            }
        }
        Ok(())
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        self.filters.push(keep);
        Ok(())
    }
}
