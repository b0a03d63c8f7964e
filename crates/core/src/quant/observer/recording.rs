//! An observer that keeps what it sees.

use super::{Observer, ObserverError, ObserverState, field};
use crate::quant::QParams;
use ndarray::ArrayViewD;

/// Every value, batch after batch; `sizes` has the number of elements of each batch.
#[derive(Debug, Default)]
pub(super) struct Recording {
    values: Vec<f32>,
    sizes: Vec<f32>,
}

impl Observer for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        self.values.extend(x.iter());
        self.sizes.push(x.len() as f32);
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        self.values.extend(field(later, "recording", "values")?);
        self.sizes.extend(field(later, "recording", "sizes")?);
        Ok(())
    }

    fn state(&self) -> ObserverState {
        let fields = [("values".to_string(), self.values.clone()), ("sizes".to_string(), self.sizes.clone())];
        ObserverState { observer: self.name().into(), fields: fields.into() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        Err(ObserverError::OnlyRecords)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn it_keeps_everything_in_order() {
        let (mut a, mut b) = (Recording::default(), Recording::default());
        a.observe(arr1(&[1.0, f32::INFINITY]).view().into_dyn());
        b.observe(arr1(&[3.0]).view().into_dyn());
        a.merge(&b.state()).unwrap();
        assert_eq!(a.state().fields["values"], [1.0, f32::INFINITY, 3.0]);
        assert_eq!(a.state().fields["sizes"], [2.0, 1.0]);
        assert_eq!(a.qparams(), Err(ObserverError::OnlyRecords));
    }
}
