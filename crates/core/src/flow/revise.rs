//! `revise`: a second look at the annotations, after calibration.

use super::Error;
use super::prepare::{Prepared, dynamic_readers};
use crate::quant::{Annotations, Site, Spec};
use crate::quantizer::Quantizer;
use std::collections::BTreeSet;

impl Prepared {
    /// Lets the quantizer look at what calibration found, and leave out or quantize at run time what does not fit its
    /// integers. Observers keep what they saw. Most quantizers leave everything as it is.
    ///
    /// # Errors
    /// When the quantizer's second annotations contradict each other.
    pub fn revise(self, quantizer: &dyn Quantizer) -> Result<Prepared, Error> {
        let found = self.groups.groups.iter().zip(&self.observers);
        let fits: Vec<(&[Site], f64)> =
            found.filter_map(|(g, o)| Some((&g.sites[..], o.as_ref()?.fit()?))).collect();
        let Some(quantizer) = quantizer.revise(&self.program, &self.annotations, &fits) else {
            return Ok(self);
        };
        let mut annotations = Annotations::default();
        quantizer.annotate(&self.program, &mut annotations)?;
        quantizer.validate(&self.program, &annotations)?;
        let mut out = Prepared::new(self.program.clone(), annotations)?;
        out.dynamic = dynamic_readers(&out, &*quantizer);
        for (group, observer) in out.groups.groups.iter().zip(&mut out.observers) {
            let (Some(observer), Spec::Observed(_)) = (observer, &group.spec) else { continue };
            let before: BTreeSet<usize> = group.sites.iter().filter_map(|s| self.groups.of(*s)).collect();
            for old in before.into_iter().filter_map(|i| self.observers[i].as_ref()) {
                let failed = |e| Error::States(format!("{}: {e}", group.sites[0].describe(&self.program)));
                // A group that is quantized at run time from here on needs no past.
                if old.name() == observer.name() {
                    observer.merge(&old.state()).map_err(failed)?;
                }
            }
        }
        (out.samples, out.not_finite) = (self.samples, self.not_finite);
        Ok(out)
    }
}
