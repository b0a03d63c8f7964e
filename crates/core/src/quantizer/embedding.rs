//! [`EmbeddingQuantizer`]: tables of embeddings as integers.

use super::{NodeFilter, Quantizer};
use crate::ir::Program;
use crate::ops;
use crate::quant::{Annotations, Mapping, ObserverKind, QRange, QuantError, QuantSpec, Site};
use std::fmt;

/// Quantizes the weights of embeddings and nothing else.
#[derive(Clone)]
pub struct EmbeddingQuantizer {
    spec: QuantSpec,
    filters: Vec<NodeFilter>,
}

impl fmt::Debug for EmbeddingQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingQuantizer").field("spec", &self.spec).finish()
    }
}

impl Default for EmbeddingQuantizer {
    /// As torchao's: uint8, a scale and a fractional zero point for each row. PyTorch's operator cuts off what the fraction
    /// leaves behind the point, so that values are up to one and a half steps off; `Blocks::Axis(0)` in place of the channel
    /// rounds, and is half a step off at most.
    fn default() -> Self {
        Self::new(QuantSpec::new(QRange::UINT8, Mapping::AffineFloat, ObserverKind::MinMax).per_channel(0))
    }
}

impl EmbeddingQuantizer {
    /// With another spec: 4 or 2 bits, by row or by group.
    pub fn new(spec: QuantSpec) -> Self {
        EmbeddingQuantizer { spec, filters: vec![] }
    }
}

impl Quantizer for EmbeddingQuantizer {
    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        out.set_rule("embedding");
        let g = &program.graph;
        for n in g.nodes().filter(|&n| *g.node(n).op() == ops::EMBEDDING) {
            if out.is_claimed(n) {
                continue;
            }
            match self.filters.iter().find_map(|f| f(program, n).err()) {
                Some(why) => out.leave(n, why),
                None => {
                    out.set(Site::input(n, 0), Some(self.spec.clone().into()));
                    out.claim(&[n]);
                }
            }
        }
        Ok(())
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        self.filters.push(keep);
        Ok(())
    }
}
