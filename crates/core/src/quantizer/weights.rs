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

use super::{NodeFilter, Quantizer, Scope};
use crate::dtype::DType;
use crate::ir::{Key, NodeId, Program, ValueId};
use crate::ops::{self, OpDef};
use crate::passes::{PassError, Pipeline, Recompose, fold_constants};
use crate::quant::{
    Annotations, Blocks, Codebook, Mapping, ObserverKind, QRange, QuantError, QuantSpec, Site, Spec,
};
use crate::symint::SymInt;
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
    /// Every floating-point constant in a half type, cast back where it is read; if `activations`, what passes through the
    /// layer is rounded to that type as well.
    Half {
        /// `f16` or `bf16`.
        dtype: DType,
        /// Inputs and outputs too.
        activations: bool,
    },
}

/// Integers of 1 to 8 bits, in int8.
#[derive(Clone, Debug, PartialEq)]
pub struct Intx {
    /// Bits of an integer.
    pub bits: u8,
    /// Input channels that share a scale (`PerGroup`); `None`: all of them (`PerAxis(0)`).
    pub group: Option<u32>,
    /// Symmetric, symmetric without clipping, affine, or with fractional zero points, so that zero need not be exact
    /// (`Int4WeightOnlyConfig`; its packing is for GPUs).
    pub mapping: Mapping,
    /// The element type of scales; `None`: the weight's.
    pub scale: Option<DType>,
    /// Scales, or fractional zero points, are searched for (`HQQ_SCALE_ONLY`, `hqq`) instead of taken from extremes.
    pub search: bool,
}

impl Default for Intx {
    /// As torchao's `IntxWeightOnlyConfig`: 8 bits, symmetric, by channels.
    fn default() -> Self {
        Intx { bits: 8, group: None, mapping: Mapping::Symmetric, scale: None, search: false }
    }
}

impl Intx {
    /// The spec of a weight of this type. Groups go over input channels, axis 1; whatever lies behind has scales of its own.
    fn spec(&self, dtype: DType, shape: &[SymInt]) -> Result<QuantSpec, String> {
        let Intx { bits, mapping, search, .. } = *self;
        let half = 1i64.checked_shl(u32::from(bits).wrapping_sub(1)).filter(|_| (1..=8).contains(&bits));
        let range = half.and_then(|half| QRange::new(DType::I8, -half, half - 1).ok());
        let range = range.ok_or_else(|| format!("integers have 1 to 8 bits, not {bits}"))?;
        if bits == 1 && mapping == Mapping::SymmetricNoClipping {
            return Err("one bit has no positive integer; use the symmetric mapping".into());
        }
        let [_, channels, behind @ ..] = shape else { return Err("its weight has no input channels".into()) };
        let group = match (self.group, channels.known().and_then(|n| u32::try_from(n).ok())) {
            (Some(group), _) => group,
            (None, Some(all)) => all,
            (None, None) => return Err("the size of its weight is open".into()),
        };
        let mut sizes = vec![group];
        sizes.extend(behind.iter().map(|_| 1));
        let blocks = Blocks::sizes(&sizes).ok_or("its weight has more than five dimensions")?;
        let blocks = if behind.is_empty() { Blocks::Group(group) } else { blocks };
        let observer = if search { ObserverKind::Hqq } else { ObserverKind::MinMax };
        let mut spec = QuantSpec::intx(range, mapping, observer, blocks).eps(least_normal(dtype));
        spec.types.scale = self.scale.or((dtype != DType::F32).then_some(dtype));
        if mapping == Mapping::AffineFloat {
            spec.types.zero_point = spec.types.scale;
        }
        spec.scheme.granularity.block_sizes(shape)?;
        Ok(spec)
    }
}

/// The least normal number of a type, torchao's least scale.
fn least_normal(dtype: DType) -> f64 {
    if dtype == DType::F16 { 2f64.powi(-14) } else { f64::from(f32::MIN_POSITIVE) }
}

/// Layers with a weight, and the argument it is in.
static LAYERS: &[(&OpDef, usize)] = &[
    (&ops::LINEAR, 1),
    (&ops::CONV1D, 1),
    (&ops::CONV1D_PADDING, 1),
    (&ops::CONV2D, 1),
    (&ops::CONV2D_PADDING, 1),
    (&ops::CONV3D, 1),
    (&ops::CONV3D_PADDING, 1),
    (&ops::EMBEDDING, 0),
];

/// Quantizes the weights of linear layers, convolutions and embeddings. Which layers, and each how, is said by scopes: the
/// first one that a layer is in, in the order of [`Scope`]'s kinds and of setting them, has its way (torchao's
/// `FqnToConfig`). Operators without weights are left alone.
#[derive(Clone, Default)]
pub struct WeightQuantizer {
    settings: Vec<(Scope, Option<WeightConfig>)>,
    filters: Vec<NodeFilter>,
}

impl fmt::Debug for WeightQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightQuantizer").field("settings", &self.settings).finish()
    }
}

/// A site and how it is quantized.
type Sites = Vec<(Site, Spec)>;

impl WeightQuantizer {
    /// All linear layers, as `quantize_` does when told nothing else. [`Default`] quantizes nothing.
    pub fn new(config: WeightConfig) -> Self {
        Self::default().set(Scope::Operator("aten.linear".into()), config)
    }

    /// Configures the layers in a scope.
    pub fn set(self, scope: Scope, config: WeightConfig) -> Self {
        self.with(scope, Some(config))
    }

    /// Leaves the layers in a scope in floating point.
    pub fn skip(self, scope: Scope) -> Self {
        self.with(scope, None)
    }

    fn with(mut self, scope: Scope, config: Option<WeightConfig>) -> Self {
        let at = self.settings.partition_point(|(s, _)| s.rank() <= scope.rank());
        self.settings.insert(at, (scope, config));
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
        let layer = LAYERS.iter().find(|(op, _)| *op == node.op());
        let &(_, arg) = layer.ok_or("it has no weight")?;
        let weight = ops::views::value(node.arg(arg)).ok_or("it has no weight")?;
        let slot = node.slot_of_arg(arg).ok_or("it has no weight")?;
        let ty = g.ty(weight);
        if !fixed[weight.index()] {
            return Err("its weight is computed from inputs".into());
        }
        if !ty.dtype.is_float() {
            return Err(format!("its weight is {ty}, not floats"));
        }
        let spec: Spec = match config {
            WeightConfig::Int8WeightOnly => {
                let spec =
                    QuantSpec::intx(QRange::INT8, Mapping::Symmetric, ObserverKind::MinMax, Blocks::Axis(0));
                spec.eps(f64::from(f32::EPSILON)).into()
            }
            WeightConfig::IntxWeightOnly(intx) | WeightConfig::Int8DynamicActivationIntxWeight(intx) => {
                intx.spec(ty.dtype, &ty.shape)?.into()
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
        Ok(sites)
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
    if sites.is_empty() { Err(format!("it has no constants wider than {dtype}")) } else { Ok(sites) }
}

impl Quantizer for WeightQuantizer {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        Pipeline::run_one(&Recompose, program)
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
            let Some((scope, config)) = self.settings.iter().find(|(s, _)| s.holds(program, n)) else {
                continue;
            };
            if let Some(why) = self.filters.iter().find_map(|f| f(program, n).err()) {
                out.leave(n, why);
                continue;
            }
            let Some(config) = config else {
                out.leave(n, format!("{scope} is set to floating point"));
                continue;
            };
            match self.sites(program, n, config, &fixed) {
                Ok(sites) => {
                    for (site, spec) in sites {
                        out.set(site, spec);
                    }
                    out.claim(&[n]);
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
