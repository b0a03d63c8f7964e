//! Parameters derived from other sites'.

use crate::quant::{DeriveRule, Granularity, QParams, QRange, QScheme};

/// Applies a rule to the parameters of the sites it names.
pub(super) fn derive(rule: &DeriveRule, from: &[QParams], range: QRange, scheme: QScheme) -> QParams {
    let mut params = match rule {
        DeriveRule::Custom(f) => f(from),
        DeriveRule::BiasScale => {
            // One scale a channel if any factor has one; products in f32, as torchao multiplies tensors.
            let n = from.iter().map(|p| p.scale.len()).max().unwrap_or(1);
            let scale = (0..n)
                .map(|i| {
                    let product =
                        from.iter().map(|p| p.scale[i % p.scale.len().max(1)] as f32).product::<f32>();
                    f64::from(product)
                })
                .collect();
            let granularity = if n > 1 { Granularity::Channel { axis: 0 } } else { scheme.granularity };
            QParams::new(range, granularity, scale, vec![0.0; n])
        }
    };
    params.range = range;
    params
}
