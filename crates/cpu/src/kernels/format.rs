//! Changes of memory format, alone or with a quantize node.

use super::quantized::Affine;
use crate::dense::conv::interleave;
use crate::kernel::{KernelCall, KernelError};
use crate::simd::Isa;

/// Moves elements of `size` bytes between the layouts of `shape`.
pub(crate) fn reorder(
    isa: Isa,
    shape: &[usize],
    size: usize,
    from: &[u8],
    to: &mut [u8],
    to_channels_last: bool,
) {
    let (channels, positions) = (shape[1], shape[2..].iter().product::<usize>());
    let (rows, columns) = if to_channels_last { (channels, positions) } else { (positions, channels) };
    isa.vectorize(
        #[inline(always)]
        || match size {
            1 => transpose::<1>(rows, columns, from, to),
            2 => transpose::<2>(rows, columns, from, to),
            4 => transpose::<4>(rows, columns, from, to),
            _ => transpose::<8>(rows, columns, from, to),
        },
    );
}

/// `quantize_per_tensor` of `f32` in C order, `[N, C, …]`, to bytes channels last.
pub(crate) fn quantize_channels_last(c: &KernelCall<'_>, out: &mut [u8]) -> Result<(), KernelError> {
    /// Bytes of some pixels: they stay in the first-level cache.
    const BLOCK: usize = 8 * 1024;
    let (x, affine) = (c.tensor(0)?, Affine::of(c)?);
    let (channels, positions) = (x.shape[1], x.shape[2..].iter().product::<usize>());
    let x = x.slice::<f32>().ok_or_else(|| KernelError::new("only f32 is quantized to channels last"))?;
    if x.is_empty() {
        return Ok(());
    }
    let pixels = (BLOCK / channels).max(1);
    let images = x.chunks_exact(channels * positions).zip(out.chunks_exact_mut(channels * positions));
    let parts = images.flat_map(|(x, out)| {
        let parts = out.chunks_mut(pixels * channels).enumerate();
        parts.map(move |(i, out)| (x, i * pixels, out))
    });
    c.threads.for_each(
        parts,
        || vec![0; pixels * channels],
        |rows, (x, first, out)| {
            c.isa.vectorize(
                #[inline(always)]
                || {
                    let n = out.len() / channels;
                    for (row, x) in rows.chunks_exact_mut(n).zip(x.chunks_exact(positions)) {
                        affine.bytes(&x[first..first + n], row);
                    }
                    transpose::<1>(channels, n, &rows[..out.len()], out);
                },
            );
        },
    );
    Ok(())
}

/// Transposes matrices of `rows × columns` elements of `S` bytes, in blocks that stay in the cache.
#[inline(always)]
fn transpose<const S: usize>(rows: usize, columns: usize, from: &[u8], to: &mut [u8]) {
    const BLOCK: usize = 16;
    let (from, _) = from.as_chunks::<S>();
    let (to, _) = to.as_chunks_mut::<S>();
    let size = (rows * columns).max(1);
    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
        if rows == 3 {
            interleave(std::array::from_fn(|r| &from[r * columns..][..columns]), to);
            continue;
        }
        for r0 in (0..rows).step_by(BLOCK) {
            for c0 in (0..columns).step_by(BLOCK) {
                for c in c0..columns.min(c0 + BLOCK) {
                    for r in r0..rows.min(r0 + BLOCK) {
                        to[c * rows + r] = from[r * columns + c];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ConcreteArg, TensorRef};
    use lowbit_core::{DType, ops};

    #[test]
    fn reordering_and_back() {
        Isa::available().into_iter().for_each(there_and_back);
    }

    fn there_and_back(isa: Isa) {
        let picture = [2, 3, 5, 1];
        let x: Vec<u8> = (0..2 * 3 * 5 * 2).collect();
        let (mut there, mut back) = (vec![0; x.len()], vec![0; x.len()]);
        reorder(isa, &picture, 2, &x, &mut there, true);
        assert_eq!(there[..8], [0, 1, 10, 11, 20, 21, 2, 3]);
        reorder(isa, &picture, 2, &there, &mut back, false);
        assert_eq!(back, x);
        let shape = [2, 19, 3, 7];
        let x: Vec<u8> = (0..2 * 19 * 21 * 4).map(|i| (i % 251) as u8).collect();
        let (mut there, mut back) = (vec![0; x.len()], vec![0; x.len()]);
        reorder(isa, &shape, 4, &x, &mut there, true);
        // Element (1, 5, 2, 3), by hand.
        let at = |i: usize| i * 4..i * 4 + 4;
        assert_eq!(there[at(((3 + 2) * 7 + 3) * 19 + 5)], x[at((19 + 5) * 21 + 2 * 7 + 3)]);
        reorder(isa, &shape, 4, &there, &mut back, false);
        assert_eq!(back, x);
    }

    #[test]
    fn quantized_and_reordered_in_one_pass() {
        for shape in
            [[1, 3, 61, 47], [2, 3, 5, 1], [1, 19, 8, 60], [2, 1, 3, 3], [1, 9000, 1, 2], [0, 3, 2, 2]]
        {
            let count = shape.iter().product::<usize>();
            let x: Vec<f32> = (0..count).map(|i| ((i * 7919) % 4001) as f32 * 0.01 - 20.0).collect();
            let x = TensorRef { dtype: DType::F32, shape: &shape, bytes: bytemuck::cast_slice(&x) };
            for isa in Isa::available() {
                let (float, int) = (ConcreteArg::Float, ConcreteArg::Int);
                let args = [
                    ConcreteArg::Tensor(0),
                    float(0.1),
                    int(-3),
                    int(-128),
                    int(127),
                    ConcreteArg::DType(DType::I8),
                ];
                let c = KernelCall::alone(&ops::QUANTIZE_PER_TENSOR, &args, &[], isa);
                let inputs = [x];
                let c = KernelCall { inputs: &inputs, ..c };
                let (mut plain, mut want, mut out) = (vec![0; count], vec![0; count], vec![9; count]);
                Affine::of(&c).unwrap().bytes(x.slice::<f32>().unwrap(), &mut plain);
                reorder(isa, &shape, 1, &plain, &mut want, true);
                quantize_channels_last(&c, &mut out).unwrap();
                assert_eq!(out, want, "{isa:?} {shape:?}");
            }
        }
    }
}
