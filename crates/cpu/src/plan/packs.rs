//! Packed weights that sessions of one executor have in common: a float program and what was made of it hold most of their weights
//! in the same memory, and a large model need be packed only once.

use crate::dense::panels::Panels;
use lowbit_core::Tensor;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The packed weights of all sessions that there are.
#[derive(Clone, Debug, Default)]
pub struct Packs(Arc<Mutex<BTreeMap<Key, Weak<Packed>>>>);

/// Where a matrix lies in memory, its shape, and whether it is packed transposed.
type Key = (usize, Vec<usize>, bool);

/// A packed matrix.
#[derive(Debug)]
pub struct Packed {
    pub panels: Panels,
    /// What it was made of, if others may share it: nothing else can lie there as long as this does.
    _of: Option<Tensor>,
}

impl Packed {
    /// A matrix that nobody else has.
    pub fn own(panels: Panels) -> Arc<Packed> {
        Arc::new(Packed { panels, _of: None })
    }
}

impl Packs {
    /// `weight`, packed by `pack` unless another session has it.
    pub fn share(&self, weight: &Tensor, transposed: bool, pack: impl FnOnce() -> Panels) -> Arc<Packed> {
        let key = (weight.bytes().as_ptr() as usize, weight.shape().to_vec(), transposed);
        let mut packs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = packs.get(&key).and_then(Weak::upgrade) {
            return packed;
        }
        packs.retain(|_, packed| packed.strong_count() > 0);
        let packed = Arc::new(Packed { panels: pack(), _of: Some(weight.clone()) });
        packs.insert(key, Arc::downgrade(&packed));
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::gemm::Mat;
    use crate::simd::Isa;

    #[test]
    fn weights_are_packed_once_as_long_as_they_are_needed() {
        let packs = Packs::default();
        let weight = Tensor::new(&[2, 3], vec![1.0f32; 6]).unwrap();
        let pack = || Panels::new(Isa::best(), Mat::dense(&[1.0; 6], 2, 3));
        let first = packs.share(&weight, false, pack);
        assert!(Arc::ptr_eq(&first, &packs.share(&weight.clone(), false, || unreachable!("it is there"))));
        assert!(!Arc::ptr_eq(&first, &packs.share(&weight, true, pack)));
        let other = Tensor::new(&[2, 3], vec![1.0f32; 6]).unwrap();
        assert!(!Arc::ptr_eq(&first, &packs.share(&other, false, pack)));
        drop(first);
        let mut packed = false;
        packs.share(&weight, false, || {
            packed = true;
            pack()
        });
        assert!(packed);
    }
}
