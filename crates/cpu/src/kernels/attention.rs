//! Attention, head by head.

use super::Table;
use super::activation::exponentials;
use super::linear::with_f32;
use crate::dense::Epilogue;
use crate::dense::gemm::{Mat, multiply};
use crate::dense::panels::{Panels, padded_bias};
use crate::kernel::{KernelCall, KernelError, TensorMut, TensorRef, broadcast_strides, strides};
use crate::parallel::Threads;
use lowbit_core::DType;

type Result = std::result::Result<(), KernelError>;

/// What is added to the scores, or decides which count.
struct Mask {
    values: Vec<f32>,
    /// Distances in `values` of the score tensor's dimensions, and that tensor's own.
    steps: Vec<usize>,
    own: Vec<usize>,
    shape: Vec<usize>,
    boolean: bool,
}

impl Mask {
    /// Applies it to a row of the scores, `row` rows behind the first.
    #[inline(always)]
    fn apply(&self, row: usize, scores: &mut [f32]) {
        let (last, flat) = (self.shape.len() - 1, row * scores.len());
        if scores.is_empty() {
            return;
        }
        let place = |d: usize| flat / self.own[d] % self.shape[d] * self.steps[d];
        let values = &self.values[(0..last).map(place).sum::<usize>()..];
        let keep = |x: f32, m: f32| if m == 0.0 { f32::NEG_INFINITY } else { x };
        // One value for the row, or one an element.
        match (self.boolean, self.steps[last] == 0) {
            (true, true) => scores.iter_mut().for_each(|x| *x = keep(*x, values[0])),
            (true, false) => scores.iter_mut().zip(values).for_each(|(x, &m)| *x = keep(*x, m)),
            (false, true) => scores.iter_mut().for_each(|x| *x += values[0]),
            (false, false) => scores.iter_mut().zip(values).for_each(|(x, &m)| *x += m),
        }
    }
}

/// `scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale, enable_gqa)`
fn attention(c: &KernelCall<'_>, outs: &mut [TensorMut<'_>]) -> Result {
    let (q, k, v) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    let causal = c.bool(5)?;
    let rank = q.shape.len();
    let (l, e) = (q.shape[rank - 2], q.shape[rank - 1]);
    let (s, ev) = (k.shape[k.shape.len() - 2], v.shape[v.shape.len() - 1]);
    let scale = c.opt_float(6).unwrap_or(1.0 / (e as f64).sqrt()) as f32;
    let batch = &q.shape[..rank - 2];
    let heads = |t: &TensorRef<'_>, i: usize| -> usize {
        // Grouped queries: several query heads read one key head; other batch dimensions broadcast.
        let own = &t.shape[..t.shape.len() - 2];
        let (so, st) = (strides(batch), strides(own));
        let new = batch.len() - own.len();
        (0..own.len())
            .map(|d| {
                let at = i / so[d + new] % batch[d + new];
                (if own[d] == 1 { 0 } else { at * own[d] / batch[d + new] }) * st[d]
            })
            .sum()
    };
    let (vq, vk, vv) = (q.as_vec::<f32>(), k.as_vec::<f32>(), v.as_vec::<f32>());
    let mask = c.opt_tensor(3).map(|m| {
        let shape: Vec<usize> = batch.iter().copied().chain([l, s]).collect();
        Mask {
            values: m.as_vec::<f32>().into_owned(),
            steps: broadcast_strides(m.shape, &shape),
            own: strides(&shape),
            shape,
            boolean: m.dtype == DType::Bool,
        }
    });
    // Puts exponentials of the scores of row `r` of head `i` in their place; what makes their sum one.
    let exponentials_of = |i: usize, r: usize, row: &mut [f32]| {
        let mut scale = scale;
        if causal || mask.is_some() {
            c.isa.vectorize(
                #[inline(always)]
                || {
                    row.iter_mut().for_each(|x| *x *= scale);
                    if causal {
                        row.iter_mut().skip(r + 1).for_each(|x| *x = f32::NEG_INFINITY);
                    }
                    if let Some(mask) = &mask {
                        mask.apply(i * l + r, row);
                    }
                },
            );
            scale = 1.0;
        }
        // A row that sees nothing gives zeros.
        exponentials(c.isa, row, scale, true)
    };
    let none = padded_bias(None, s.max(ev));
    with_f32(&mut outs[0], |out| {
        if out.is_empty() {
            return Ok(());
        }
        let empty = || Panels::empty(c.isa);
        c.threads.for_each(
            out.chunks_exact_mut(l * ev).enumerate(),
            || (vec![0f32; l * s], vec![0f32; l], empty(), empty()),
            |(scores, shares, keys, values), (i, out)| {
                let (ik, iv) = (heads(&k, i) * s * e, heads(&v, i) * s * ev);
                let query = &vq[i * l * e..(i + 1) * l * e];
                keys.pack(Mat::dense(&vk[ik..ik + s * e], s, e).t());
                multiply(c.isa, Threads::ALONE, query, l, e, keys, &none, scores, Epilogue::NONE);
                let rows = scores.chunks_exact_mut(s.max(1)).zip(&mut shares[..]).enumerate();
                rows.for_each(|(r, (row, share))| *share = exponentials_of(i, r, row));
                values.pack(Mat::dense(&vv[iv..iv + s * ev], s, ev));
                multiply(c.isa, Threads::ALONE, scores, l, s, values, &none, out, Epilogue::NONE);
                // Here rather than in the scores: of these there are more.
                for (out, share) in out.chunks_exact_mut(ev).zip(&*shares) {
                    out.iter_mut().for_each(|x| *x *= share);
                }
            },
        );
        Ok(())
    })
}

pub(super) const TABLE: Table = &[("aten.scaled_dot_product_attention.default", attention)];
