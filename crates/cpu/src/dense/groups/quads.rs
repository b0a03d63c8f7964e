//! Weights with scales a group, where bytes are multiplied by fours: rows stay bytes ([`crate::simd::quad_groups`]).

use super::{Part, QuantizedRows, Unpacked};
use crate::dense::panels::padded_bias;
use crate::memory::{Aligned, Scratch};
use crate::simd::{Isa, QUAD_COLUMNS, QUAD_DEPTH as DEPTH, QuadGroups, has_quads, quad_groups};

/// Columns of a panel.
pub(super) const WIDTH: usize = QUAD_COLUMNS;

/// Bytes of four neighbours of a panel's columns.
const QUAD: usize = WIDTH * DEPTH;

/// What is added to weights of 4 bits, so that they have no sign.
const EIGHT: i32 = 8;

/// The packed weights.
#[derive(Debug)]
pub(super) struct QuadGroupWeights {
    inputs: usize,
    columns: usize,
    /// Inputs and those of a group, filled up to whole fours, or eights of 4 bits.
    depth: usize,
    group: usize,
    /// Panels as [`QuadGroups`] has them, of so many bytes.
    weights: Aligned,
    panel: usize,
    four: bool,
    /// Sums of the weights as they are packed, of `i32`, and scales, `[panels][groups][WIDTH]`.
    sums: Aligned,
    factors: Aligned,
    /// By column, and zeros up to whole panels.
    bias: Aligned,
}

/// The same numbers, where they stay.
fn lasting<T: bytemuck::Pod>(list: &[T]) -> Aligned {
    let bytes: &[u8] = bytemuck::cast_slice(list);
    let mut lasting = Aligned::lasting(bytes.len());
    lasting.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    lasting
}

impl QuadGroupWeights {
    /// Packs. `None` where groups are no fours, weights do not fit bytes, or the instruction set multiplies none.
    pub fn new(isa: Isa, w: Unpacked<'_>) -> Option<QuadGroupWeights> {
        let (inputs, columns, size) = (w.inputs, w.columns, w.inputs / w.groups);
        if !has_quads(isa) || !w.eight() || w.groups > 1 && !size.is_multiple_of(DEPTH) {
            return None;
        }
        let four = w.four() && (w.groups == 1 || size.is_multiple_of(2 * DEPTH));
        // What is added to weights.
        let (unit, more) = if four { (2 * DEPTH, EIGHT as i16) } else { (DEPTH, 0) };
        let depth = inputs.next_multiple_of(unit);
        let panel = depth / unit * QUAD;
        let mut weights = Aligned::lasting(columns.div_ceil(WIDTH) * panel);
        let bytes = weights.bytes_mut();
        w.panels(depth, WIDTH, DEPTH, |p, i, v| {
            let v = v.map_or(0, |v| (v + more) as u8);
            match (four, i / QUAD % 2) {
                (false, _) => bytes[p * panel + i] = v,
                (true, 0) => bytes[p * panel + i / (2 * QUAD) * QUAD + i % QUAD] |= v,
                (true, _) => bytes[p * panel + i / (2 * QUAD) * QUAD + i % QUAD] |= v << 4,
            }
        });
        let sum = |group: usize, column: usize| -> i32 {
            let from = column * inputs + group * size;
            w.integers[from..from + size].iter().map(|&w| i32::from(w + more)).sum()
        };
        Some(QuadGroupWeights {
            inputs,
            columns,
            depth,
            group: depth / w.groups,
            weights,
            panel,
            four,
            sums: lasting(&w.by_panels(WIDTH, sum)),
            factors: lasting(&w.factors(WIDTH)),
            bias: padded_bias(w.bias, columns),
        })
    }

    /// Bytes of scratch for so many rows.
    pub fn room(&self, rows: usize) -> usize {
        rows * self.depth
    }

    /// Computes a part of the result.
    pub fn run(&self, isa: Isa, x: QuantizedRows<'_>, part: Part<'_>, scratch: &mut Scratch) {
        let (bytes, groups, rows) = (scratch.bytes_mut(), self.depth / self.group, part.rows.clone());
        let zeros: Vec<i32> = rows.clone().map(|row| x.row(row, self.inputs).unsigned_zero()).collect();
        let scales: Vec<f32> = rows.clone().map(|row| x.scale(row)).collect();
        let mut starts = Vec::with_capacity(if self.four { rows.len() * groups } else { 0 });
        isa.vectorize(
            #[inline(always)]
            || {
                for ((to, row), zero) in bytes.chunks_exact_mut(self.depth).zip(rows).zip(&zeros) {
                    // Weights for what is behind are zeros.
                    let to = &mut to[..self.inputs];
                    x.row(row, self.inputs).unsigned(to);
                    if self.four {
                        for group in to.chunks_exact(self.inputs / groups) {
                            let sum: i32 = group.iter().map(|&b| i32::from(b)).sum();
                            starts.push(
                                zero.wrapping_mul(group.len() as i32).wrapping_sub(sum).wrapping_mul(EIGHT),
                            );
                        }
                    }
                }
            },
        );
        let sums: &[[i32; WIDTH]] = bytemuck::cast_slice::<u8, i32>(self.sums.bytes()).as_chunks().0;
        let (factors, bias) = (self.factors.f32().as_chunks().0, self.bias.f32().as_chunks().0);
        for p in part.panels.clone() {
            let of_panel = p * groups..(p + 1) * groups;
            let strip = QuadGroups {
                x: bytes,
                zeros: &zeros,
                scales: &scales,
                depth: self.depth,
                group: self.group,
                panel: &self.weights.bytes()[p * self.panel..][..self.panel],
                four: self.four,
                starts: &starts,
                sums: &sums[of_panel.clone()],
                factors: &factors[of_panel],
                bias: &bias[p],
                columns: WIDTH.min(self.columns - p * WIDTH),
                out: &mut part.out[(p - part.panels.start) * WIDTH..],
                stride: part.stride,
            };
            quad_groups(isa, strip);
        }
    }
}
