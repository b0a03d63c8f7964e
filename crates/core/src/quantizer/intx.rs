//! [`Intx`]: torchao's integers of few bits, for weights.

use crate::dtype::DType;
use crate::quant::{Blocks, Mapping, ObserverKind, QRange, QuantSpec};
use crate::symint::SymInt;

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
    pub(super) fn spec(&self, dtype: DType, shape: &[SymInt]) -> Result<QuantSpec, String> {
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
        let spec = self.with_blocks(dtype, blocks)?;
        spec.scheme.granularity.block_sizes(shape)?;
        Ok(spec)
    }

    /// The spec of a weight of this type with blocks of one's own; `group` does not count.
    ///
    /// # Errors
    /// When there are no such integers.
    pub fn with_blocks(&self, dtype: DType, blocks: Blocks) -> Result<QuantSpec, String> {
        let Intx { bits, mapping, search, .. } = *self;
        let half = 1i64.checked_shl(u32::from(bits).wrapping_sub(1)).filter(|_| (1..=8).contains(&bits));
        let range = half.and_then(|half| QRange::new(DType::I8, -half, half - 1).ok());
        let range = range.ok_or_else(|| format!("integers have 1 to 8 bits, not {bits}"))?;
        if bits == 1 && mapping == Mapping::SymmetricNoClipping {
            return Err("one bit has no positive integer; use the symmetric mapping".into());
        }
        let observer = if search { ObserverKind::Hqq } else { ObserverKind::MinMax };
        let mut spec = QuantSpec::intx(range, mapping, observer, blocks).eps(least_normal(dtype));
        spec.types.scale = self.scale.or((dtype != DType::F32).then_some(dtype));
        if mapping == Mapping::AffineFloat {
            spec.types.zero_point = spec.types.scale;
        }
        Ok(spec)
    }
}

/// The least normal number of a type, torchao's least scale.
pub(super) fn least_normal(dtype: DType) -> f64 {
    if dtype == DType::F16 { 2f64.powi(-14) } else { f64::from(f32::MIN_POSITIVE) }
}
