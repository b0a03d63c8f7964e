//! Parameters derived from other sites'.

use crate::quant::{DeriveRule, Granularity, QParams, QRange, QScheme};
use crate::tensor::Tensor;

/// Raises the scales of a weight where the integers of its layer's bias would be beyond half of `range`: the other half is room
/// for the sum of products. (Such weights are next to nothing beside the bias; a bias that is clamped is not.)
pub(super) fn fit_bias(bias: &Tensor, activation: &QParams, weight: &mut QParams, range: QRange) {
    let (values, channels) = (bias.to_f64(), weight.scale.len());
    for (i, b) in values.iter().enumerate() {
        let least = b.abs() / (range.max() / 2) as f64;
        let step = &mut weight.scale[if channels == values.len() { i } else { 0 }];
        let needed = least / activation.scale[0];
        if *step < needed {
            *step = f64::from(needed as f32);
        }
    }
}

/// Applies a rule to the parameters of the sites it names.
pub(super) fn derive(rule: &DeriveRule, from: &[QParams], range: QRange, scheme: QScheme) -> QParams {
    let mut params = match rule {
        DeriveRule::Custom(f) => f(from),
        DeriveRule::BiasScale | DeriveRule::FittingBias => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Mapping;

    #[test]
    fn small_weights_make_room_for_the_bias() {
        let by_channel = Granularity::Channel { axis: 0 };
        let activation = QParams::per_tensor(QRange::UINT8, 0.03125, 0);
        let mut weight = QParams::new(QRange::INT8, by_channel, vec![1e-9, 1e-3], vec![0.0; 2]);
        let bias = Tensor::new(&[2], vec![1.0f32, -2.0]).unwrap();
        fit_bias(&bias, &activation, &mut weight, QRange::INT32);
        assert_eq!(weight.scale[1], 1e-3);
        let scheme = QScheme { granularity: by_channel, mapping: Mapping::Symmetric };
        let made = derive(&DeriveRule::FittingBias, &[activation, weight], QRange::INT32, scheme);
        let integer = 1.0 / made.scale[0];
        assert!((1.07e9..1.08e9).contains(&integer), "{integer}");
    }
}
