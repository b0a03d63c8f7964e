//! [`EmbeddingQuantizer`]: tables of embeddings as integers.

use super::{NodeFilter, Quantizer};
use crate::ir::{NodeId, Program};
use crate::ops;
use crate::quant::{
    Annotations, Blocks, Granularity, Mapping, ObserverKind, QRange, QuantError, QuantSpec, Site,
};
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
    /// With another spec.
    pub fn new(spec: QuantSpec) -> Self {
        EmbeddingQuantizer { spec, filters: vec![] }
    }

    /// As torchao's `IntxWeightOnlyConfig`, in the forms that ExecuTorch has kernels for: integers of 8, 4 or 2 bits
    /// ([`QRange::INT8`], [`QRange::INT4`], [`QRange::INT2`]), symmetric or affine, with a scale and zero point for each
    /// row, or for each run of `group` elements of a row.
    pub fn intx(range: QRange, mapping: Mapping, group: Option<u32>) -> Self {
        let blocks = group.map_or(Blocks::Token, Blocks::Group);
        Self::new(QuantSpec::intx(range, mapping, ObserverKind::MinMax, blocks))
    }

    /// Why the rows of a table cannot be cut and packed as the spec says.
    fn misfit(&self, program: &Program, n: NodeId) -> Option<String> {
        let row = program.graph.ty(program.graph.node(n).operands().next()?).shape.last()?.known()?;
        if let Granularity::Blocks(Blocks::Group(size)) = self.spec.scheme.granularity
            && row % i64::from(size) != 0
        {
            return Some(format!("its rows of {row} are no multiple of the group of {size}"));
        }
        let range = self.spec.range;
        let a_byte = [(QRange::INT4, 2), (QRange::INT2, 4)].into_iter().find(|(r, _)| *r == range);
        a_byte
            .filter(|(_, count)| row % count != 0)
            .map(|(_, count)| format!("its rows of {row} do not fill bytes of {count} integers"))
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
            let filtered = || self.filters.iter().find_map(|f| f(program, n).err());
            match filtered().or_else(|| self.misfit(program, n)) {
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
