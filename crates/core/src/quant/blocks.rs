//! Blocks: the parts of a tensor that share a scale and a zero point, as torchao's affine family cuts them.

use super::scheme::Granularity;
use crate::symint::SymInt;
use std::ops::Range;

/// How a tensor is cut into blocks. The operators of this family (`torchao.quantize_affine` …) name the size of a block in
/// every dimension.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// One block: the whole tensor (`PerTensor`).
    Tensor,
    /// A block for each index of this axis (`PerAxis`).
    Axis(u32),
    /// Blocks are lines along this axis (`PerRow`).
    Row(u32),
    /// Blocks are lines along the last axis (`PerToken`).
    Token,
    /// Blocks are runs of this many elements along the last axis (`PerGroup`).
    Group(u32),
    /// Blocks are runs of `size` neighbouring indices of an axis, with all that lies in them (Core ML's
    /// `per_grouped_channel`).
    Channels {
        /// The axis, counted from the front.
        axis: u32,
        /// Indices that go together.
        size: u32,
    },
    /// Blocks of these sizes in the last four dimensions, and of size 1 in any before them (`PerBlock`).
    Sizes([u32; 4]),
}

impl Blocks {
    /// Blocks of these sizes in the last dimensions: `[32, 64]`, or `[1, 32, 1, 1]` for the channels of a convolution's
    /// weight. `None` for more than four sizes.
    pub fn sizes(last: &[u32]) -> Option<Blocks> {
        let mut sizes = [1; 4];
        sizes[4usize.checked_sub(last.len())?..].copy_from_slice(last);
        Some(Blocks::Sizes(sizes))
    }
}

impl Granularity {
    /// The size of a block in each dimension of `shape`.
    ///
    /// # Errors
    /// When an axis is missing, or blocks do not divide a dimension.
    pub fn block_sizes(self, shape: &[SymInt]) -> Result<Vec<SymInt>, String> {
        let one = SymInt::Known(1);
        let rank = shape.len();
        let axis = |a: u32| match a as usize {
            a if a < rank => Ok(a),
            _ => Err(format!("axis {a} is none of {rank} dimensions")),
        };
        let last = || rank.checked_sub(1).ok_or_else(|| "a scalar has no last axis".to_string());
        let only = |d: usize, size: SymInt| {
            let mut block = vec![one.clone(); rank];
            block[d] = size;
            block
        };
        let block = match self {
            Granularity::Tensor | Granularity::Blocks(Blocks::Tensor) => shape.to_vec(),
            Granularity::Channel { axis: a } | Granularity::Blocks(Blocks::Axis(a)) => {
                let mut block = shape.to_vec();
                block[axis(a)?] = one;
                block
            }
            Granularity::Blocks(Blocks::Channels { axis: a, size }) => {
                let mut block = shape.to_vec();
                block[axis(a)?] = i64::from(size).into();
                block
            }
            Granularity::Blocks(Blocks::Row(a)) => only(axis(a)?, shape[axis(a)?].clone()),
            Granularity::Blocks(Blocks::Token) => only(last()?, shape[last()?].clone()),
            Granularity::Blocks(Blocks::Group(size)) => only(last()?, i64::from(size).into()),
            Granularity::Blocks(Blocks::Sizes(sizes)) => {
                let (front, back) = sizes.split_at(4usize.saturating_sub(rank));
                if front.iter().any(|&s| s != 1) {
                    return Err(format!("blocks of {sizes:?} need more than {rank} dimensions"));
                }
                let mut block = vec![one; rank - back.len()];
                block.extend(back.iter().map(|&s| SymInt::from(i64::from(s))));
                block
            }
        };
        for (n, b) in shape.iter().zip(&block) {
            let fits = match (n.known(), b.known()) {
                (Some(n), Some(b)) => n == b || (b > 0 && n % b == 0),
                // What holds of every size is guarded by export.
                _ => true,
            };
            if !fits {
                return Err(format!("blocks of {block:?} do not divide {shape:?}"));
            }
        }
        Ok(block)
    }

    /// The same for a shape of plain sizes.
    ///
    /// # Errors
    /// As [`block_sizes`](Self::block_sizes).
    pub fn known_block_sizes(self, shape: &[usize]) -> Result<Vec<usize>, String> {
        let sizes = |n: &usize| SymInt::Known(i64::try_from(*n).unwrap_or(i64::MAX));
        let block = self.block_sizes(&shape.iter().map(sizes).collect::<Vec<_>>())?;
        Ok(block.iter().map(|b| b.known().and_then(|b| usize::try_from(b).ok()).unwrap_or(0)).collect())
    }
}

/// The shape of scales and zero points: how many blocks lie along each dimension, dimensions that one block fills left out.
pub fn block_counts(shape: &[SymInt], block: &[SymInt]) -> Vec<SymInt> {
    let pairs = shape.iter().zip(block);
    pairs.filter(|(n, b)| **b == 1 || n != b).map(|(n, b)| n.floor_div(b)).collect()
}

/// Calls `f` for every run of neighbouring elements in C order that belong to one block, with the block's number.
pub fn runs(shape: &[usize], block: &[usize], mut f: impl FnMut(usize, Range<usize>)) {
    let Some((&row, outer)) = shape.split_last() else { return f(0, 0..1) };
    let size = block[outer.len()].max(1);
    for r in 0..outer.iter().product() {
        // The number of the row's first block, from the last dimension to the first.
        let (mut first, mut rest, mut step) = (0, r, row / size);
        for (n, b) in outer.iter().zip(block).rev() {
            first += rest % n / b * step;
            rest /= n;
            step *= n / b;
        }
        for k in 0..row / size {
            f(first + k, r * row + k * size..r * row + (k + 1) * size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(block: &[usize]) -> Vec<usize> {
        let mut out = vec![usize::MAX; 16];
        runs(&[2, 2, 4], block, |b, run| out[run].fill(b));
        out
    }

    #[test]
    fn every_element_has_its_block() {
        // Channels of a pixel, images, rows, pieces of rows, everything.
        assert_eq!(numbers(&[1, 2, 1]), [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]);
        assert_eq!(numbers(&[1, 2, 4]), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(numbers(&[1, 1, 4]), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(numbers(&[2, 2, 2]), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(numbers(&[2, 2, 4]), [0; 16]);
        let mut one = vec![];
        runs(&[], &[], |b, run| one.push((b, run)));
        assert_eq!(one, [(0, 0..1)]);
    }

    #[test]
    fn sizes_and_counts_are_torchaos() {
        let shape: Vec<SymInt> = [3, 4, 10].map(SymInt::Known).into();
        let of = |g: Granularity| {
            let block = g.block_sizes(&shape).unwrap();
            let known = |v: &[SymInt]| v.iter().map(|n| n.known().unwrap()).collect::<Vec<_>>();
            (known(&block), known(&block_counts(&shape, &block)))
        };
        let by = |b: Blocks| of(Granularity::Blocks(b));
        assert_eq!(of(Granularity::Tensor), (vec![3, 4, 10], vec![]));
        assert_eq!(of(Granularity::Channel { axis: 1 }), (vec![3, 1, 10], vec![4]));
        assert_eq!(by(Blocks::Axis(0)), (vec![1, 4, 10], vec![3]));
        assert_eq!(by(Blocks::Row(1)), (vec![1, 4, 1], vec![3, 10]));
        assert_eq!(by(Blocks::Token), (vec![1, 1, 10], vec![3, 4]));
        assert_eq!(by(Blocks::Group(5)), (vec![1, 1, 5], vec![3, 4, 2]));
        assert_eq!(by(Blocks::Channels { axis: 1, size: 2 }), (vec![3, 2, 10], vec![2]));
        assert_eq!(by(Blocks::sizes(&[2, 5]).unwrap()), (vec![1, 2, 5], vec![3, 2, 2]));
        for bad in [Blocks::Group(3), Blocks::Axis(3), Blocks::Sizes([2, 1, 1, 1])] {
            assert!(Granularity::Blocks(bad).block_sizes(&shape).is_err(), "{bad:?}");
        }
        assert_eq!(Blocks::sizes(&[1; 5]), None);
    }
}
