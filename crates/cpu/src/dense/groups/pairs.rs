//! Weights with scales a group, where pairs are multiplied: what rows hold is widened to `i16`, zero points taken off, and so is a
//! panel when rows pass by it ([`crate::simd::pair_strip`]).

use super::{Part, QuantizedRows, Unpacked};
use crate::dense::panels::padded_bias;
use crate::memory::{Aligned, Scratch};
use crate::simd::{COLUMNS, Isa, PairStrip, Parts, Places, pair_strip};

/// Columns of a panel.
pub(super) const WIDTH: usize = COLUMNS;

/// The packed weights.
#[derive(Debug)]
pub(super) struct PairGroups {
    inputs: usize,
    columns: usize,
    /// Inputs and those of a group, filled up to whole pairs.
    depth: usize,
    group: usize,
    integers: Packed,
    /// `[panels][groups][WIDTH]`
    scales: Vec<f32>,
    /// By column, and zeros up to whole panels.
    bias: Aligned,
}

/// Panels `[pairs][WIDTH]` of two neighbours along the depth.
#[derive(Debug)]
enum Packed {
    /// The first in the low half of a byte.
    Four(Vec<u8>),
    Eight(Vec<i8>),
    Sixteen(Vec<i16>),
}

impl PairGroups {
    /// Packs. `None` where groups are no pairs.
    pub fn new(w: Unpacked<'_>) -> Option<PairGroups> {
        if w.groups > 1 && !(w.inputs / w.groups).is_multiple_of(2) {
            return None;
        }
        let depth = w.inputs.next_multiple_of(2);
        let each = |put: &mut dyn FnMut(i16)| w.panels(depth, WIDTH, 2, |_, _, v| put(v.unwrap_or(0)));
        let integers = if w.four() {
            let (mut bytes, mut low) = (vec![], None);
            each(&mut |v| match low.take() {
                None => low = Some(v & 15),
                Some(low) => bytes.push((low | v << 4) as u8),
            });
            Packed::Four(bytes)
        } else if w.eight() {
            let mut bytes = vec![];
            each(&mut |v| bytes.push(v as i8));
            Packed::Eight(bytes)
        } else {
            let mut integers = vec![];
            each(&mut |v| integers.push(v));
            Packed::Sixteen(integers)
        };
        Some(PairGroups {
            inputs: w.inputs,
            columns: w.columns,
            depth,
            group: depth / w.groups,
            integers,
            scales: w.factors(WIDTH),
            bias: padded_bias(w.bias, w.columns),
        })
    }

    /// Bytes of scratch for so many rows, a panel, and the rows' sums.
    pub fn room(&self, rows: usize) -> usize {
        (rows + WIDTH) * self.depth * size_of::<i16>() + rows * WIDTH * size_of::<f32>()
    }

    /// Computes a part of the result.
    pub fn run(&self, isa: Isa, x: QuantizedRows<'_>, part: Part<'_>, scratch: &mut Scratch) {
        let (count, depth) = (part.rows.len(), self.depth);
        let (sums, rest) = scratch.bytes_mut().split_at_mut(count * WIDTH * size_of::<f32>());
        let (sums, rest): (&mut [f32], &mut [i16]) =
            (bytemuck::cast_slice_mut(sums), bytemuck::cast_slice_mut(rest));
        let (panel, wide) = rest.split_at_mut(WIDTH * depth);
        let wide = &mut wide[..count * depth];
        isa.vectorize(
            #[inline(always)]
            || {
                for (to, row) in wide.chunks_exact_mut(depth).zip(part.rows.clone()) {
                    let (to, behind) = to.split_at_mut(self.inputs);
                    x.row(row, self.inputs).centred(to, |v| v);
                    behind.fill(0);
                }
            },
        );
        let places = Places::new((0..count).map(|i| i * depth).collect());
        let groups: Vec<Places> =
            (0..depth).step_by(self.group.max(1)).map(|at| Places::new(vec![at])).collect();
        for p in part.panels.clone() {
            self.unpack(isa, p, panel);
            sums.fill(0.0);
            for (g, group) in groups.iter().enumerate() {
                let strip = PairStrip {
                    x: wide,
                    rows: &places,
                    pieces: group,
                    depth: self.group / 2,
                    panel: &panel[g * self.group * WIDTH..],
                    columns: WIDTH,
                    partial: &mut [],
                    first: true,
                    last: true,
                    finish: Parts { out: sums, factors: &self.scales[(p * groups.len() + g) * WIDTH..] },
                    channel: 0,
                    stride: WIDTH,
                };
                pair_strip(isa, strip);
            }
            let bias = &self.bias.f32()[p * WIDTH..][..WIDTH];
            isa.vectorize(
                #[inline(always)]
                || {
                    let from = (p - part.panels.start) * WIDTH;
                    let columns = WIDTH.min(self.columns - p * WIDTH);
                    let rows = part.rows.clone().zip(sums.chunks_exact(WIDTH)).enumerate();
                    for (i, (row, sums)) in rows {
                        let (scale, out) = (x.scale(row), &mut part.out[i * part.stride + from..][..columns]);
                        let pairs = out.iter_mut().zip(sums.iter().zip(bias));
                        pairs.for_each(|(o, (s, b))| *o = s * scale + b);
                    }
                },
            );
        }
    }

    /// Widens a panel.
    fn unpack(&self, isa: Isa, panel: usize, out: &mut [i16]) {
        let (from, len) = (panel * WIDTH * self.depth, WIDTH * self.depth);
        match &self.integers {
            Packed::Four(bytes) => isa.vectorize(
                #[inline(always)]
                || {
                    for (o, &b) in out.chunks_exact_mut(2).zip(&bytes[from / 2..][..len / 2]) {
                        let b = i16::from(b as i8);
                        (o[0], o[1]) = ((b << 12) >> 12, b >> 4);
                    }
                },
            ),
            Packed::Eight(bytes) => isa.vectorize(
                #[inline(always)]
                || out.iter_mut().zip(&bytes[from..][..len]).for_each(|(o, &w)| *o = i16::from(w)),
            ),
            Packed::Sixteen(integers) => out.copy_from_slice(&integers[from..][..len]),
        }
    }
}
