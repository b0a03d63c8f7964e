//! [`Composed`]: several quantizers as one.

use super::{NodeFilter, Quantizer};
use crate::flow::Prepared;
use crate::ir::{NodeId, Program};
use crate::passes::PassError;
use crate::quant::{Annotations, QuantError, Site};
use std::rc::Rc;

/// Quantizers one after the other (torchao's `ComposableQuantizer`). Each sees what those before it have settled and adds
/// to it; changing or removing it is an error. All of them validate and adjust, and may revise.
#[derive(Debug)]
pub struct Composed(Vec<Rc<dyn Quantizer>>);

impl Composed {
    /// These quantizers, in this order.
    pub fn new(members: Vec<Box<dyn Quantizer>>) -> Self {
        Composed(members.into_iter().map(Rc::from).collect())
    }
}

impl Quantizer for Composed {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        self.0.iter().try_for_each(|q| q.transform(program))
    }

    fn folds_constants(&self) -> bool {
        self.0.iter().any(|q| q.folds_constants())
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        for q in &self.0 {
            let before = out.clone();
            q.annotate(program, out)?;
            for (site, first) in before.iter() {
                let second = match out.get(site) {
                    Some(now) if now.spec == first.spec => continue,
                    Some(now) => now.rule.to_string(),
                    None => "a later quantizer, which takes the annotation back".into(),
                };
                return Err(QuantError::Conflict {
                    site: site.describe(program),
                    first: first.rule.to_string(),
                    second,
                });
            }
        }
        Ok(())
    }

    fn validate(&self, program: &Program, annotations: &Annotations) -> Result<(), QuantError> {
        self.0.iter().try_for_each(|q| q.validate(program, annotations))
    }

    fn adjust(&self, prepared: &mut Prepared) -> Result<(), QuantError> {
        self.0.iter().try_for_each(|q| q.adjust(prepared))
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        let late = || QuantError::Config("quantizers are filtered before they are revised".into());
        self.0.iter_mut().try_for_each(|q| Rc::get_mut(q).ok_or_else(late)?.filter(keep.clone()))
    }

    fn revise(
        &self,
        program: &Program,
        annotations: &Annotations,
        fits: &[(&[Site], f64)],
    ) -> Option<Box<dyn Quantizer>> {
        let revised: Vec<Option<Rc<dyn Quantizer>>> =
            self.0.iter().map(|q| q.revise(program, annotations, fits).map(Rc::from)).collect();
        if revised.iter().all(Option::is_none) {
            return None;
        }
        let members = revised.into_iter().zip(&self.0).map(|(new, old)| new.unwrap_or_else(|| old.clone()));
        Some(Box::new(Composed(members.collect())))
    }

    fn dynamic_dims(&self, program: &Program, reader: NodeId) -> Option<Vec<usize>> {
        self.0.iter().find_map(|q| q.dynamic_dims(program, reader))
    }
}
