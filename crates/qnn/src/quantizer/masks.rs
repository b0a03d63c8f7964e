//! Masks of attention, in integers: numbers that rule scores out, added to these or put in their place.
//!
//! An observer takes −∞ for nothing and −10³⁸ for a range; either way the scores are lost, or what is masked is not. So what is
//! masked has a range that goes on below the least score, far enough for a softmax, and a mask has a range of its own.

use lowbit_core::quant::{DeriveRule, Mapping, QParams, QRange, QScheme, Site, Spec, choose_qparams};

/// How far what is masked lies below the least score: e⁻¹⁶ of its weight is less than 16 bits hold.
const BELOW: f64 = 16.0;
/// The lowest number of a mask in integers, further down than scores reach.
const LOWEST: f64 = -1020.0;

/// Parameters of a mask, from [`LOWEST`] to 0.
pub fn params(range: QRange) -> QParams {
    QParams::per_tensor(range, -LOWEST / (range.max() - range.min()) as f64, range.max())
}

/// Parameters of scores, some of them masked, from the scores' own.
pub fn masked(scores: Site, range: QRange, scheme: QScheme) -> Spec {
    let lowered = |from: &[QParams]| {
        let p = &from[0];
        let real = |q: i64| (q as f64 - p.zero_point[0]) * p.scale[0];
        let (min, max) = (real(p.range.min()) - BELOW, real(p.range.max()));
        let affine = QScheme { granularity: p.granularity, mapping: Mapping::Affine };
        let (scale, zero) = choose_qparams(min as f32, max as f32, p.range, affine, f32::MIN_POSITIVE);
        QParams::new(p.range, p.granularity, vec![f64::from(scale)], vec![zero])
    };
    Spec::Derived { from: vec![scores], rule: DeriveRule::Custom(lowered), range, scheme }
}
