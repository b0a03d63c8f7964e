//! Values that are stored otherwise than as integers with a scale: casts and codebooks.

use super::Error;
use super::convert::Rewriter;
use crate::dtype::DType;
use crate::ir::{Arg, ConstKind, NewNode, NodeId, ValueId};
use crate::ops;
use crate::quant::Codebook;
use crate::tensor::Tensor;

impl Rewriter<'_> {
    /// `v` in another floating-point type and back.
    pub(super) fn cast(&mut self, v: ValueId, dtype: DType, owner: Option<NodeId>) -> Result<ValueId, Error> {
        let back = self.program.graph.ty(v).dtype;
        let narrow = match self.folded(v).map(|t| (t.shape().to_vec(), t.to_f32().into_owned())) {
            Some((shape, x)) => {
                let t = Tensor::from_f32(dtype, &shape, &x).map_err(|e| self.failed(v, e.to_string()))?;
                let lost = t.to_f32().iter().zip(&x).filter(|(t, x)| x.is_finite() && !t.is_finite()).count();
                if lost > 0 {
                    return Err(
                        self.failed(v, format!("{lost} elements are too large for {dtype}; leave it out"))
                    );
                }
                self.constant(v, &dtype.to_string(), ConstKind::Tensor, t)
            }
            None => {
                let n = self.insert(
                    NewNode::new(&ops::CONVERT_ELEMENT_TYPE, [v.into(), dtype.into()]),
                    v,
                    owner,
                )?;
                self.program.graph.node(n).output()
            }
        };
        let n = NewNode::new(&ops::CONVERT_ELEMENT_TYPE, [narrow.into(), back.into()]);
        let n = self.insert(n, narrow, owner)?;
        Ok(self.program.graph.node(n).output())
    }

    /// `v` looked up in tables by indices. As torchao exports it, these are bytes that are widened first.
    pub(super) fn look_up(
        &mut self,
        v: ValueId,
        codebook: Codebook,
        owner: Option<NodeId>,
    ) -> Result<ValueId, Error> {
        let encoded = self.constants.get(&v).map(|t| codebook.encode(t));
        let none = || self.failed(v, "codebooks are for constants, and this is computed from inputs");
        let (codes, tables) = encoded.ok_or_else(none)?.map_err(|e| self.failed(v, e.0))?;
        let shape = &self.program.graph.ty(v).shape;
        let block = codebook.granularity().block_sizes(shape).map_err(|e| self.failed(v, e))?;
        let codes = self.constant(v, "codes", ConstKind::Tensor, codes);
        let tables = self.constant(v, "codebook", ConstKind::Tensor, tables);
        let n = self.insert(NewNode::new(&ops::TO_COPY, [codes.into(), DType::I32.into()]), codes, owner)?;
        let codes = self.program.graph.node(n).output();
        let bits = i64::from(codebook.bits());
        let mut args = vec![codes.into(), tables.into(), bits.into(), Arg::Ints(block)];
        let float = self.program.graph.ty(v).dtype;
        if float != DType::F32 {
            args.push(float.into());
        }
        let n = self.insert(NewNode::new(&ops::DEQUANTIZE_CODEBOOK, args), codes, owner)?;
        Ok(self.program.graph.node(n).output())
    }
}
