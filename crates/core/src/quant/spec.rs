//! Specs: how one site is to be quantized, and the contract of observers.

use super::annotations::Site;
use super::blocks::Blocks;
use super::codebook::Codebook;
use super::observer::Batch;
use super::scheme::{Granularity, Mapping, ParamTypes, QParams, QRange, QScheme};
use crate::dtype::DType;
use crate::ir::{NodeWriter, ValueId};
use crate::ops::InferError;
use ndarray::ArrayViewD;
use std::fmt::Debug;
use std::sync::Arc;

/// How one site is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// An observer finds the range (`QuantizationSpec`).
    Observed(QuantSpec),
    /// Known parameters (`FixedQParamsQuantizationSpec`).
    Fixed(QParams),
    /// The same parameters as another site (`SharedQuantizationSpec`); chains are followed, order does not matter.
    SharedWith(Site),
    /// Computed from other sites' parameters (`DerivedQuantizationSpec`).
    Derived {
        /// The sites computed from.
        from: Vec<Site>,
        /// How.
        rule: DeriveRule,
        /// The integers.
        range: QRange,
        /// Granularity and mapping of the result.
        scheme: QScheme,
    },
    /// Rounded to another floating-point type, and cast back where it is read (`PlaceholderObserver` with float16).
    /// Constants are stored in that type.
    Cast(DType),
    /// A constant that becomes indices into tables.
    Codebook(Codebook),
}

impl From<QuantSpec> for Spec {
    fn from(s: QuantSpec) -> Self {
        Spec::Observed(s)
    }
}

/// How derived parameters are computed.
#[derive(Copy, Clone)]
#[non_exhaustive]
pub enum DeriveRule {
    /// A bias: scale is the product of the activation's and the weight's, zero point 0.
    BiasScale,
    /// As `BiasScale`, of sites `[activation, weight]`, for a constant that has to fit: the scales of weights so small that
    /// the bias would be beyond half of its integers are raised.
    FittingBias,
    /// Any function of the parameters of `from`, in order.
    Custom(fn(&[QParams]) -> QParams),
}

impl PartialEq for DeriveRule {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (DeriveRule::BiasScale, DeriveRule::BiasScale)
            | (DeriveRule::FittingBias, DeriveRule::FittingBias) => true,
            (DeriveRule::Custom(a), DeriveRule::Custom(b)) => std::ptr::fn_addr_eq(*a, *b),
            _ => false,
        }
    }
}

impl Debug for DeriveRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DeriveRule::BiasScale => "BiasScale",
            DeriveRule::FittingBias => "FittingBias",
            DeriveRule::Custom(_) => "Custom",
        })
    }
}

/// Observe, then quantize.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantSpec {
    /// The integers.
    pub range: QRange,
    /// Granularity and mapping.
    pub scheme: QScheme,
    /// What watches the values.
    pub observer: ObserverKind,
    /// Least scale.
    pub eps: f64,
    /// Parameters are chosen at run time, from each input; the observer only carries the spec.
    pub dynamic: bool,
    /// Element types of scales and zero points of blocks.
    pub types: ParamTypes,
}

impl QuantSpec {
    /// Per tensor, static, with the least scale of the ExecuTorch backends (2⁻¹²).
    pub fn new(range: QRange, mapping: Mapping, observer: ObserverKind) -> Self {
        let scheme = QScheme { granularity: Granularity::Tensor, mapping };
        QuantSpec {
            range,
            scheme,
            observer,
            eps: 2f64.powi(-12),
            dynamic: false,
            types: ParamTypes::default(),
        }
    }

    /// One scale for each index of `axis`.
    pub fn per_channel(mut self, axis: u32) -> Self {
        self.scheme.granularity = Granularity::Channel { axis };
        self
    }

    /// One scale for each block.
    pub fn blocks(mut self, blocks: Blocks) -> Self {
        self.scheme.granularity = Granularity::Blocks(blocks);
        self
    }

    /// Another least scale.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// The integers, parameters and arithmetic that torchao's weight tensors and dynamic activations share
    /// (`IntxUnpackedToInt8Tensor`): blocks with scales of the values' type, int8 zero points, and no least scale but the
    /// least normal number.
    pub fn intx(range: QRange, mapping: Mapping, observer: ObserverKind, blocks: Blocks) -> Self {
        let types = ParamTypes { scale: None, zero_point: Some(DType::I8) };
        let spec = Self::new(range, mapping, observer).blocks(blocks).eps(f64::from(f32::MIN_POSITIVE));
        QuantSpec { types, ..spec }
    }

    /// Parameters chosen at run time.
    pub fn dynamic(mut self) -> Self {
        self.dynamic = true;
        self
    }
}

/// The observers that come with lowbit, and any other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ObserverKind {
    /// Running minimum and maximum (per tensor or per channel, as the scheme says).
    MinMax,
    /// Exponential moving average of minimum and maximum.
    MovingAverage {
        /// Weight of the newest batch; PyTorch's default is 0.01.
        constant: f64,
    },
    /// A histogram, and the range with the least squared error.
    Histogram {
        /// Number of bins; PyTorch's default is 2048.
        bins: u32,
    },
    /// Searches for parameters in the values of one constant: scales for symmetric mappings, zero points for fractional ones
    /// (half-quadratic quantization).
    Hqq,
    /// Watches nothing: dynamic quantization (`PlaceholderObserver`).
    Placeholder,
    /// Keeps every value, for a look at them; it chooses no parameters (`RecordingObserver`).
    Recording,
    /// A third party's.
    Custom(Arc<dyn ObserverFactory>),
}

impl PartialEq for ObserverKind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ObserverKind::MinMax, ObserverKind::MinMax) => true,
            (ObserverKind::Placeholder, ObserverKind::Placeholder)
            | (ObserverKind::Hqq, ObserverKind::Hqq)
            | (ObserverKind::Recording, ObserverKind::Recording) => true,
            (ObserverKind::MovingAverage { constant: a }, ObserverKind::MovingAverage { constant: b }) => {
                a == b
            }
            (ObserverKind::Histogram { bins: a }, ObserverKind::Histogram { bins: b }) => a == b,
            (ObserverKind::Custom(a), ObserverKind::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Makes observers of a third party's kind.
pub trait ObserverFactory: Debug + Send + Sync {
    /// An observer for one group of sites.
    fn create(&self, spec: &QuantSpec) -> Box<dyn Observer>;
}

/// Watches the values of one group of sites and finds quantization parameters.
pub trait Observer: Debug + Send {
    /// Its name in reports: `histogram`.
    fn name(&self) -> &'static str;

    /// Looks at one batch, in any memory order. Non-finite elements are left out (and counted by calibration).
    fn observe(&mut self, x: ArrayViewD<'_, f32>);

    /// As [`observe`](Self::observe), for observers that use what is found out about a batch once for all of them.
    fn look(&mut self, batch: &Batch<'_>) {
        self.observe(batch.view());
    }

    /// Whether it looks at elements, rather than only at [`Batch::extremes`]; a batch may come without elements otherwise.
    fn needs_elements(&self) -> bool {
        true
    }

    /// Adds what another observer of the same kind and spec has seen, as if it came after what this one has seen.
    ///
    /// # Errors
    /// When the state belongs to another kind or spec.
    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError>;

    /// What a checkpoint stores.
    fn state(&self) -> ObserverState;

    /// Scales and zero points for what was seen.
    ///
    /// # Errors
    /// [`ObserverError::SawNothing`] when it has seen no data.
    fn qparams(&self) -> Result<QParams, ObserverError>;

    /// Writes nodes of its own that quantize and dequantize `x`, in place of the usual ones, and returns what readers then
    /// read. `None` (the default), before any node is written: the usual ones, from [`qparams`](Self::qparams).
    fn write(&self, _x: ValueId, _nodes: &mut NodeWriter<'_>) -> Option<Result<ValueId, InferError>> {
        None
    }

    /// How well [`qparams`](Self::qparams) hold what was seen: signal to quantization noise in dB, of all but the largest
    /// hundredth by magnitude. Outliers stretch a range; in a sum over everything they hide what that does to the rest.
    /// `None` from observers that cannot tell.
    fn fit(&self) -> Option<f64> {
        None
    }
}

/// What an observer has seen, as a value to store, ship and merge.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ObserverState {
    /// The observer's name.
    pub observer: String,
    /// Its numbers, named; f32 arrays keep their bits.
    pub fields: std::collections::BTreeMap<String, Vec<f32>>,
}

/// Why an observer has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserverError {
    /// No data.
    #[error("the observer saw no data")]
    SawNothing,
    /// Values that the granularity does not fit, or that are cut into another number of parts than the ones before.
    #[error("{0}")]
    Shape(String),
    /// A recording observer.
    #[error("the observer records values and chooses no parameters; use another one to quantize")]
    OnlyRecords,
    /// A state that does not belong here.
    #[error("a {got} state cannot be merged into a {want} observer: {reason}")]
    Merge {
        /// This observer.
        want: String,
        /// The state's observer.
        got: String,
        /// What differs.
        reason: String,
    },
}
