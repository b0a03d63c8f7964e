//! [`Pruned`]: small elements of weights become zero before anything is quantized.

use lowbit_core::Tensor;
use lowbit_core::dtype::DType;
use lowbit_core::flow::Prepared;
use lowbit_core::ir::{ConstId, Def, NodeId, Program};
use lowbit_core::passes::{Pass, PassError, PassFailure, Pipeline};
use lowbit_core::quant::{Annotations, QuantError, Site};
use lowbit_core::quantizer::{Layer, NodeFilter, Quantizer};
use std::collections::BTreeSet;

/// A quantizer that first makes a share of each large weight zero: the elements that are smallest (magnitude pruning).
#[derive(Debug)]
pub struct Pruned {
    /// What quantizes.
    pub inner: Box<dyn Quantizer>,
    /// The share of elements that become zero.
    pub share: f64,
}

#[derive(Debug)]
struct Prune(f64);

impl Pass for Prune {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let g = &program.graph;
        let weight = |n: NodeId| {
            let node = g.node(n);
            match g.value(Layer::of(node)?.weight(node)?).def() {
                Def::Const(c) => Some(c),
                _ => None,
            }
        };
        let weights: BTreeSet<ConstId> = g.nodes().filter_map(weight).collect();
        let mut changed = false;
        for c in weights {
            let t = &program.constants[c].tensor;
            if t.dtype() == DType::F32 && t.numel() > super::THRESHOLD {
                program.constants[c].tensor = pruned(t, self.0)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

/// The tensor without its smallest elements; of equal ones the first go.
fn pruned(t: &Tensor, share: f64) -> Result<Tensor, PassFailure> {
    let mut x = t.to_f32().into_owned();
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].abs().total_cmp(&x[b].abs()).then(a.cmp(&b)));
    for &i in &order[..(x.len() as f64 * share) as usize] {
        x[i] = 0.0;
    }
    Tensor::new(t.shape(), x).map_err(|e| PassFailure(e.to_string()))
}

impl Quantizer for Pruned {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        self.inner.transform(program)?;
        Pipeline::run_one(&Prune(self.share), program)
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        self.inner.annotate(program, out)
    }

    fn validate(&self, program: &Program, annotations: &Annotations) -> Result<(), QuantError> {
        self.inner.validate(program, annotations)
    }

    fn adjust(&self, prepared: &mut Prepared) -> Result<(), QuantError> {
        self.inner.adjust(prepared)
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        self.inner.filter(keep)
    }

    fn revise(
        &self,
        program: &Program,
        annotations: &Annotations,
        fits: &[(&[Site], f64)],
    ) -> Option<Box<dyn Quantizer>> {
        // The program is pruned by then.
        self.inner.revise(program, annotations, fits)
    }

    fn folds_constants(&self) -> bool {
        self.inner.folds_constants()
    }

    fn dynamic_dims(&self, program: &Program, reader: NodeId) -> Option<Vec<usize>> {
        self.inner.dynamic_dims(program, reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go() {
        let t = Tensor::new(&[6], vec![3.0f32, -1.0, 0.5, 1.0, -4.0, 2.0]).unwrap();
        assert_eq!(*pruned(&t, 0.5).unwrap().to_f32(), [3.0, 0.0, 0.0, 0.0, -4.0, 2.0]);
        assert_eq!(*pruned(&t, 0.4).unwrap().to_f32(), [3.0, 0.0, 0.0, 1.0, -4.0, 2.0]);
        assert_eq!(pruned(&t, 0.0).unwrap(), t);
    }
}
