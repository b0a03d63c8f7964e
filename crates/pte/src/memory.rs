//! Memory planning: offsets for tensors from the times they live, the largest placed first.

/// A tensor to place.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Interval {
    /// First and last instruction that need it.
    pub first: usize,
    pub last: usize,
    /// Bytes.
    pub size: u64,
}

/// Alignment of every tensor in the runtime.
pub(crate) const ALIGNMENT: u64 = 16;

/// An offset for each tensor such that no two that live at once overlap, and the bytes needed in all.
pub(crate) fn plan(tensors: &[Interval]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(tensors[i].size), tensors[i].first, i));
    let mut offsets = vec![0u64; tensors.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(tensors.len());
    let mut total = 0;
    for i in order {
        let t = tensors[i];
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&j| tensors[j].first <= t.last && t.first <= tensors[j].last)
            .map(|&j| (offsets[j], offsets[j] + tensors[j].size.next_multiple_of(ALIGNMENT)))
            .collect();
        busy.sort_unstable();
        // The lowest gap that is large enough.
        let mut at = 0;
        for (start, end) in busy {
            if start >= at + t.size {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        total = total.max(at + t.size.next_multiple_of(ALIGNMENT));
        placed.push(i);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_is_reused() {
        let t = |first, last, size| Interval { first, last, size };
        let (offsets, total) = plan(&[t(0, 1, 100), t(1, 2, 50), t(2, 3, 100), t(3, 4, 7)]);
        assert_eq!(offsets[0], offsets[2]);
        assert_eq!(total, 112 + 64);
    }

    proptest! {
        #[test]
        fn nothing_that_lives_at_once_overlaps(list in prop::collection::vec((0usize..20, 0usize..20, 1u64..200), 0..40)) {
            let list: Vec<Interval> =
                list.into_iter().map(|(a, b, size)| Interval { first: a.min(b), last: a.max(b), size }).collect();
            let (offsets, total) = plan(&list);
            for i in 0..list.len() {
                prop_assert!(offsets[i] % ALIGNMENT == 0 && offsets[i] + list[i].size <= total);
                for j in 0..i {
                    let (a, b) = (list[i], list[j]);
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
