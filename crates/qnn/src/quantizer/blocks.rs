//! Scales by blocks as the chip has them: a scale a channel times an integer from 1 to 16.
//!
//! The greatest scale of a channel's blocks is 16 times the channel's; the others are rounded to whole multiples of it, at
//! least one (ExecuTorch's `PerBlockParamObserver` with 16 steps).

use lowbit_core::quant::{
    Observer, ObserverError, ObserverFactory, ObserverKind, ObserverState, QParams, QuantSpec, observer,
};
use ndarray::ArrayViewD;
use std::sync::{Arc, LazyLock};

/// Steps of a block's multiplier.
pub const STEPS: f32 = 16.0;

/// Makes observers whose scales the chip can hold. One for all, so that specs are equal.
#[derive(Debug)]
pub struct SmallBlocks(Arc<dyn ObserverFactory>);

/// The factory.
pub static SMALL_BLOCKS: LazyLock<SmallBlocks> = LazyLock::new(|| SmallBlocks(Arc::new(Factory)));

impl SmallBlocks {
    /// As a spec names it.
    pub fn kind(&self) -> ObserverKind {
        ObserverKind::Custom(self.0.clone())
    }
}

#[derive(Debug)]
struct Factory;

impl ObserverFactory for Factory {
    fn create(&self, spec: &QuantSpec) -> Box<dyn Observer> {
        let plain = QuantSpec { observer: ObserverKind::MinMax, ..spec.clone() };
        let inner = observer::create(&plain).expect("minimum and maximum observe any granularity");
        Box::new(Small { inner, channels: 1 })
    }
}

/// Minimum and maximum of each block.
#[derive(Debug)]
struct Small {
    inner: Box<dyn Observer>,
    channels: usize,
}

impl Observer for Small {
    fn name(&self) -> &'static str {
        "small-blocks"
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        self.channels = x.shape().first().copied().unwrap_or(1).max(1);
        self.inner.observe(x);
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        let fields = later.fields.clone();
        self.inner.merge(&ObserverState { observer: self.inner.name().into(), fields })
    }

    fn state(&self) -> ObserverState {
        ObserverState { observer: self.name().into(), ..self.inner.state() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        let mut params = self.inner.qparams()?;
        let per = (params.scale.len() / self.channels).max(1);
        for blocks in params.scale.chunks_mut(per) {
            let step = blocks.iter().fold(0f32, |m, &s| m.max(s as f32)) / STEPS;
            for s in blocks {
                *s = f64::from(step * ((*s as f32) / step).round().clamp(1.0, STEPS));
            }
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::dtype::DType;
    use lowbit_core::quant::{Blocks, Mapping, QRange};
    use ndarray::{ArrayD, IxDyn};

    #[test]
    fn scales_are_whole_multiples() {
        let range = QRange::new(DType::I8, -7, 7).unwrap();
        let spec = QuantSpec::new(range, Mapping::Symmetric, SMALL_BLOCKS.kind()).blocks(Blocks::Group(2));
        let mut o = observer::create(&spec).unwrap();
        let x = vec![16.0f32, -1.0, 0.1, 0.2, 8.4, 3.0, 2.0, -2.0, 0.5, 1.0, 0.0, 0.3];
        o.observe(ArrayD::from_shape_vec(IxDyn(&[2, 6]), x).unwrap().view());
        let scale = o.qparams().unwrap().scale;
        let times: Vec<f64> = scale.iter().enumerate().map(|(i, s)| s / (scale[i / 3 * 3] / 16.0)).collect();
        // The first channel's blocks reach 16, 0.2 and 8.4; the second's 2, 1 and 0.3.
        let want = [16.0, 1.0, 8.0, 16.0, 8.0, 2.0];
        assert!(times.iter().zip(want).all(|(t, w)| (t - w).abs() < 1e-4), "{times:?}");
        assert!((scale[0] - 16.0 / 7.0).abs() < 1e-6);
    }
}
