//! Products of integers whose rows are quantized one by one while running, and whose weights have a scale a group of inputs.
//!
//! Weights stay as narrow as they are: a panel is unpacked when rows pass by it, to the pairs of `i16` that
//! [`crate::simd::pair_strip`] sums. The sums of a group are exact; groups, each times its scale, are added up in floating point.

use crate::parallel::Threads;
use crate::simd::{COLUMNS, Isa, PairStrip, Parts, Places, pair_strip};

/// Elements of rows that are widened together: half of a small second-level cache.
const STRIP: usize = 48 * 1024;

/// The weights of a linear layer: integers, packed, with the scales of their groups.
#[derive(Debug)]
pub(crate) struct GroupedWeights {
    /// Inputs, filled up to whole pairs, and outputs.
    depth: usize,
    columns: usize,
    /// Inputs that share a scale, filled up likewise.
    group: usize,
    integers: Packed,
    /// `[panels][groups][COLUMNS]`
    scales: Vec<f32>,
    /// `[panels][COLUMNS]`
    bias: Vec<f32>,
}

/// Panels `[pairs][COLUMNS]` of two neighbours along the depth.
#[derive(Debug)]
enum Packed {
    /// The first in the low half of a byte.
    Four(Vec<u8>),
    Eight(Vec<[i8; 2]>),
    Sixteen(Vec<[i16; 2]>),
}

impl GroupedWeights {
    /// Packs integers `[columns, depth]`, zero points taken off, with scales `[columns, groups]` and a bias for each column.
    /// `None` where groups are no pairs, sums could overflow, or counts do not fit.
    pub fn new(w: &[i16], scales: &[f32], bias: Option<&[f32]>, columns: usize) -> Option<GroupedWeights> {
        let inputs = w.len().checked_div(columns)?;
        let groups = scales.len().checked_div(columns)?;
        let size = inputs.checked_div(groups)?;
        let whole =
            inputs * columns == w.len() && groups * columns == scales.len() && size * groups == inputs;
        let fits = size <= (i32::MAX as usize) / (255 * 255) && w.iter().all(|w| w.unsigned_abs() <= 255);
        if !whole || !fits || groups > 1 && size % 2 == 1 || bias.is_some_and(|b| b.len() != columns) {
            return None;
        }
        let (depth, panels) = (inputs.next_multiple_of(2), columns.div_ceil(COLUMNS));
        let pair = |i: usize| {
            let (panel, pair, column) = (i / COLUMNS / (depth / 2), i / COLUMNS % (depth / 2), i % COLUMNS);
            let row =
                w.get((panel * COLUMNS + column) * inputs..).filter(|_| panel * COLUMNS + column < columns);
            [0, 1].map(|k| row.filter(|_| 2 * pair + k < inputs).map_or(0, |row| row[2 * pair + k]))
        };
        let pairs = (0..panels * COLUMNS * depth / 2).map(pair);
        let integers = if w.iter().all(|w| (-8..8).contains(w)) {
            Packed::Four(pairs.map(|[a, b]| (a & 15 | b << 4) as u8).collect())
        } else if w.iter().all(|w| (-128..128).contains(w)) {
            Packed::Eight(pairs.map(|p| p.map(|w| w as i8)).collect())
        } else {
            Packed::Sixteen(pairs.collect())
        };
        let scale = |i: usize| {
            let (panel, group, column) = (i / COLUMNS / groups, i / COLUMNS % groups, i % COLUMNS);
            let column = panel * COLUMNS + column;
            if column < columns { scales[column * groups + group] } else { 0.0 }
        };
        let scales = (0..panels * groups * COLUMNS).map(scale).collect();
        let mut padded = bias.map_or(vec![], <[f32]>::to_vec);
        padded.resize(panels * COLUMNS, 0.0);
        Some(GroupedWeights { depth, columns, group: depth / groups, integers, scales, bias: padded })
    }

    /// Widens a panel.
    fn unpack(&self, isa: Isa, panel: usize, out: &mut [i16]) {
        let range = panel * COLUMNS * self.depth / 2..(panel + 1) * COLUMNS * self.depth / 2;
        match &self.integers {
            Packed::Four(bytes) => isa.vectorize(
                #[inline(always)]
                || {
                    for (o, &b) in out.chunks_exact_mut(2).zip(&bytes[range]) {
                        let b = i16::from(b as i8);
                        (o[0], o[1]) = ((b << 12) >> 12, b >> 4);
                    }
                },
            ),
            Packed::Eight(pairs) => isa.vectorize(
                #[inline(always)]
                || out.iter_mut().zip(pairs[range].as_flattened()).for_each(|(o, &w)| *o = i16::from(w)),
            ),
            Packed::Sixteen(pairs) => out.copy_from_slice(pairs[range].as_flattened()),
        }
    }
}

/// Rows of bytes, each with a scale and a zero point, or all with one.
#[derive(Copy, Clone, Debug)]
pub(crate) struct QuantizedRows<'a> {
    /// Integers, rows behind one another.
    pub data: &'a [u8],
    /// Whether they are `i8`.
    pub signed: bool,
    /// Of each row, or one.
    pub scales: &'a [f32],
    /// What stands for zero, of each row, or one; none: zero.
    pub zeros: &'a [i32],
}

impl QuantizedRows<'_> {
    fn scale(&self, row: usize) -> f32 {
        if self.scales.len() > 1 { self.scales[row] } else { self.scales[0] }
    }

    fn zero(&self, row: usize) -> i16 {
        let zero = if self.zeros.len() > 1 { self.zeros.get(row) } else { self.zeros.first() };
        zero.map_or(0, |&z| z as i16)
    }
}

/// `out = x · weights + bias`: rows of as many bytes as the weights have inputs.
pub(crate) fn multiply(
    isa: Isa,
    threads: &Threads,
    w: &GroupedWeights,
    inputs: usize,
    x: QuantizedRows<'_>,
    out: &mut [f32],
) {
    let rows = out.len().checked_div(w.columns).unwrap_or(0);
    let strip = (STRIP / w.depth.max(1)).clamp(1, rows.max(1)).min(rows.div_ceil(threads.count()).max(1));
    let parts: Vec<(usize, &mut [f32])> = out.chunks_mut((strip * w.columns).max(1)).enumerate().collect();
    let scratch = || Scratch {
        wide: vec![0; strip * w.depth],
        panel: vec![0; w.depth * COLUMNS],
        sums: vec![0.0; strip * COLUMNS],
        groups: (0..w.depth).step_by(w.group.max(1)).map(|at| Places::new(vec![at])).collect(),
    };
    threads.for_each(parts.into_iter(), scratch, |scratch, (i, out)| {
        strip_of_rows(isa, w, inputs, x, i * strip, scratch, out);
    });
}

struct Scratch {
    wide: Vec<i16>,
    panel: Vec<i16>,
    sums: Vec<f32>,
    /// Where each group starts.
    groups: Vec<Places>,
}

fn strip_of_rows(
    isa: Isa,
    w: &GroupedWeights,
    inputs: usize,
    x: QuantizedRows<'_>,
    first: usize,
    s: &mut Scratch,
    out: &mut [f32],
) {
    let rows = out.len() / w.columns;
    isa.vectorize(
        #[inline(always)]
        || {
            for (i, to) in s.wide.chunks_exact_mut(w.depth).take(rows).enumerate() {
                let (row, zero) = (first + i, x.zero(first + i));
                let pairs = to.iter_mut().zip(&x.data[row * inputs..(row + 1) * inputs]);
                match x.signed {
                    true => pairs.for_each(|(o, &b)| *o = i16::from(b as i8) - zero),
                    false => pairs.for_each(|(o, &b)| *o = i16::from(b) - zero),
                }
            }
        },
    );
    let places = Places::new((0..rows).map(|i| i * w.depth).collect());
    for panel in 0..w.columns.div_ceil(COLUMNS) {
        w.unpack(isa, panel, &mut s.panel);
        let sums = &mut s.sums[..rows * COLUMNS];
        sums.fill(0.0);
        for (g, group) in s.groups.iter().enumerate() {
            let strip = PairStrip {
                x: &s.wide,
                rows: &places,
                pieces: group,
                depth: w.group / 2,
                panel: &s.panel[g * w.group * COLUMNS..],
                columns: COLUMNS,
                partial: &mut [],
                first: true,
                last: true,
                finish: Parts { out: sums, factors: &w.scales[(panel * s.groups.len() + g) * COLUMNS..] },
                channel: 0,
                stride: COLUMNS,
            };
            pair_strip(isa, strip);
        }
        let bias = &w.bias[panel * COLUMNS..][..COLUMNS];
        isa.vectorize(
            #[inline(always)]
            || {
                let from = panel * COLUMNS;
                let to = w.columns.min(from + COLUMNS);
                for (i, (out, sums)) in
                    out.chunks_exact_mut(w.columns).zip(sums.chunks_exact(COLUMNS)).enumerate()
                {
                    let scale = x.scale(first + i);
                    let pairs = out[from..to].iter_mut().zip(sums.iter().zip(bias));
                    pairs.for_each(|(o, (s, b))| *o = s * scale + b);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_instruction_set_gives_the_same() {
        for (rows, inputs, columns, groups, reach) in [
            (1, 64, 16, 2, 8),
            (7, 96, 33, 3, 8),
            (30, 7, 5, 1, 8),
            (9, 64, 20, 1, 128),
            (64, 128, 31, 4, 255),
        ] {
            let number = |i: usize, reach: i16| ((i * 7919 % 509) as i16 % (2 * reach)) - reach;
            let w: Vec<i16> = (0..inputs * columns).map(|i| number(i, reach)).collect();
            let x: Vec<u8> = (0..rows * inputs).map(|i| (i * 31 % 251) as u8).collect();
            let scales: Vec<f32> = (0..columns * groups).map(|i| (i % 7 + 1) as f32 / 64.0).collect();
            let bias: Vec<f32> = (0..columns).map(|i| i as f32 - 3.0).collect();
            let (s, z): (Vec<f32>, Vec<i32>) =
                (0..rows).map(|r| ((r % 5 + 1) as f32 / 4.0, r as i32 - 20)).unzip();
            let packed = GroupedWeights::new(&w, &scales, Some(&bias), columns).unwrap();
            let wide = match packed.integers {
                Packed::Four(_) => 8,
                Packed::Eight(_) => 128,
                Packed::Sixteen(_) => 255,
            };
            assert_eq!(wide, reach);
            let threads = Threads::new(2).unwrap();
            for (isa, threads) in
                Isa::available().into_iter().flat_map(|isa| [(isa, Threads::ALONE), (isa, &threads)])
            {
                let mut out = vec![f32::NAN; rows * columns];
                let x = QuantizedRows { data: &x, signed: true, scales: &s, zeros: &z };
                multiply(isa, threads, &packed, inputs, x, &mut out);
                for (i, &got) in out.iter().enumerate() {
                    let (r, c) = (i / columns, i % columns);
                    let part = |g: usize| {
                        let at = |k: usize| i32::from(x.data[r * inputs + k] as i8) - z[r];
                        let sum: i32 = (g * inputs / groups..(g + 1) * inputs / groups)
                            .map(|k| at(k) * i32::from(w[c * inputs + k]))
                            .sum();
                        sum as f32 * scales[c * groups + g]
                    };
                    // All of these are exact.
                    let want = (0..groups).map(part).sum::<f32>() * s[r] + bias[c];
                    assert_eq!(got, want, "{isa:?} {rows} {inputs} {columns} {i}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left() {
        assert!(GroupedWeights::new(&[1; 12], &[1.0; 4], None, 2).is_none(), "groups of three");
        assert!(GroupedWeights::new(&[1; 12], &[1.0; 3], None, 2).is_none(), "a scale is missing");
        assert!(GroupedWeights::new(&[256; 4], &[1.0; 2], None, 2).is_none(), "too wide");
        assert!(GroupedWeights::new(&[1; 4], &[1.0; 2], Some(&[1.0]), 2).is_none(), "a bias is missing");
        assert!(GroupedWeights::new(&[], &[], None, 0).is_none());
    }
}
