//! Products of integers whose rows are quantized one by one while running, and whose weights have a scale a group of inputs.
//!
//! Weights stay as narrow as they are: a panel is unpacked when rows pass by it, to what the instruction set multiplies. The sums of
//! a group are exact; groups, each times its scale, are added up in floating point.

mod pairs;
mod quads;

use super::strips::Quantized;
use crate::memory::Scratch;
use crate::parallel::Threads;
use crate::simd::Isa;
use pairs::PairGroups;
use quads::QuadGroupWeights;
use std::ops::Range;

/// Elements of rows that are widened together: half of a small second-level cache.
const STRIP: usize = 48 * 1024;

/// The weights of a linear layer: integers, packed, with the scales of their groups.
#[derive(Debug)]
pub(crate) struct GroupedWeights {
    inputs: usize,
    columns: usize,
    packed: Packed,
}

#[derive(Debug)]
enum Packed {
    Pairs(PairGroups),
    Quads(QuadGroupWeights),
}

/// Integers `[columns, inputs]`, zero points taken off, with scales `[columns, groups]` and a bias for each column.
#[derive(Copy, Clone, Debug)]
struct Unpacked<'a> {
    integers: &'a [i16],
    scales: &'a [f32],
    bias: Option<&'a [f32]>,
    columns: usize,
    inputs: usize,
    groups: usize,
}

impl Unpacked<'_> {
    /// Whether 4 bits hold all.
    fn four(&self) -> bool {
        self.integers.iter().all(|w| (-8..8).contains(w))
    }

    /// Whether 8 bits hold all.
    fn eight(&self) -> bool {
        self.integers.iter().all(|&w| i8::try_from(w).is_ok())
    }

    /// Calls `put(panel, place, integer)` for all of the panels `[depth / unit][width][unit]`, in their order. `None`: behind the last
    /// input or column.
    fn panels(
        &self,
        depth: usize,
        width: usize,
        unit: usize,
        mut put: impl FnMut(usize, usize, Option<i16>),
    ) {
        for panel in 0..self.columns.div_ceil(width) {
            let mut place = 0;
            for k in (0..depth).step_by(unit) {
                for column in panel * width..(panel + 1) * width {
                    for k in k..k + unit {
                        let there = k < self.inputs && column < self.columns;
                        put(panel, place, there.then(|| self.integers[column * self.inputs + k]));
                        place += 1;
                    }
                }
            }
        }
    }

    /// Something of each group and column as `[panels][groups][width]`, filled up with `T::default()`.
    fn by_panels<T: Default>(&self, width: usize, of: impl Fn(usize, usize) -> T) -> Vec<T> {
        let (groups, panels) = (self.groups, self.columns.div_ceil(width));
        let place = |i: usize| (i / width % groups, i / width / groups * width + i % width);
        let at = |i| Some(place(i)).filter(|(_, column)| *column < self.columns);
        (0..panels * groups * width).map(|i| at(i).map_or(T::default(), |(g, c)| of(g, c))).collect()
    }

    /// The scales, likewise.
    fn factors(&self, width: usize) -> Vec<f32> {
        self.by_panels(width, |group, column| self.scales[column * self.groups + group])
    }
}

impl GroupedWeights {
    /// Packs integers `[columns, inputs]`, zero points taken off, with scales `[columns, groups]` and a bias for each column.
    /// `None` where there are no inputs, groups are no pairs, sums could overflow, or counts do not fit.
    pub fn new(
        isa: Isa,
        integers: &[i16],
        scales: &[f32],
        bias: Option<&[f32]>,
        columns: usize,
    ) -> Option<GroupedWeights> {
        let inputs = integers.len().checked_div(columns)?;
        let groups = scales.len().checked_div(columns)?;
        let size = inputs.checked_div(groups)?;
        let whole =
            inputs * columns == integers.len() && groups * columns == scales.len() && size * groups == inputs;
        let fits = size > 0
            && size <= (i32::MAX as usize) / (255 * 255)
            && integers.iter().all(|w| w.unsigned_abs() <= 255);
        if !whole || !fits || bias.is_some_and(|b| b.len() != columns) {
            return None;
        }
        let w = Unpacked { integers, scales, bias, columns, inputs, groups };
        let packed = match QuadGroupWeights::new(isa, w) {
            Some(quads) => Packed::Quads(quads),
            None => Packed::Pairs(PairGroups::new(w)?),
        };
        Some(GroupedWeights { inputs, columns, packed })
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        match self.packed {
            Packed::Pairs(_) => pairs::WIDTH,
            Packed::Quads(_) => quads::WIDTH,
        }
    }

    /// Bytes of scratch for so many rows.
    fn room(&self, rows: usize) -> usize {
        match &self.packed {
            Packed::Pairs(pairs) => pairs.room(rows),
            Packed::Quads(quads) => quads.room(rows),
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

impl<'a> QuantizedRows<'a> {
    fn scale(&self, row: usize) -> f32 {
        if self.scales.len() > 1 { self.scales[row] } else { self.scales[0] }
    }

    /// The integers of a row of so many, with what stands for zero among them.
    fn row(&self, row: usize, inputs: usize) -> Quantized<'a> {
        let zero = if self.zeros.len() > 1 { self.zeros.get(row) } else { self.zeros.first() };
        let data = &self.data[row * inputs..][..inputs];
        Quantized { data, signed: self.signed, zero: zero.copied().unwrap_or(0) }
    }
}

/// Some rows by some panels.
struct Part<'a> {
    rows: Range<usize>,
    panels: Range<usize>,
    /// From the first row's first column of these panels, rows `stride` apart.
    out: &'a mut [f32],
    stride: usize,
}

/// `out = x · weights + bias`: rows of as many bytes as the weights have inputs.
pub(crate) fn multiply(
    isa: Isa,
    threads: &Threads,
    w: &GroupedWeights,
    x: QuantizedRows<'_>,
    out: &mut [f32],
) {
    let (columns, width) = (w.columns, w.width());
    let rows = out.len().checked_div(columns).unwrap_or(0);
    let panels = columns.div_ceil(width);
    // A single row is shared out by columns.
    let (strip, some) = match rows {
        1 => (1, panels.div_ceil(threads.count()).max(1)),
        _ => {
            let most = (STRIP / w.inputs.max(1)).clamp(1, rows.max(1));
            (most.min(rows.div_ceil(threads.count()).max(1)), panels)
        }
    };
    let size = if rows == 1 { some * width } else { strip * columns };
    let parts: Vec<Part<'_>> = out
        .chunks_mut(size.max(1))
        .enumerate()
        .map(|(i, out)| match rows {
            1 => Part { rows: 0..1, panels: i * some..panels.min((i + 1) * some), out, stride: columns },
            _ => {
                let rows = i * strip..rows.min((i + 1) * strip);
                Part { rows, panels: 0..panels, out, stride: columns }
            }
        })
        .collect();
    threads.for_each(
        parts.into_iter(),
        || Scratch::of(w.room(strip)),
        |scratch, part| match &w.packed {
            Packed::Pairs(pairs) => pairs.run(isa, x, part, scratch),
            Packed::Quads(quads) => quads.run(isa, x, part, scratch),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::has_quads;

    #[test]
    fn every_width_and_instruction_set_gives_the_same() {
        for (rows, inputs, columns, groups, reach) in [
            (1, 64, 16, 2, 8),
            (1, 32, 100, 1, 128),
            (2, 36, 70, 3, 8),
            (13, 40, 33, 4, 128),
            (5, 12, 40, 6, 128),
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
            let threads = Threads::new(2).unwrap();
            for (isa, threads) in
                Isa::available().into_iter().flat_map(|isa| [(isa, Threads::ALONE), (isa, &threads)])
            {
                let packed = GroupedWeights::new(isa, &w, &scales, Some(&bias), columns).unwrap();
                let bytes = reach <= 128 && inputs / groups % 4 == 0 || groups == 1;
                let quads = matches!(packed.packed, Packed::Quads(_));
                assert_eq!(quads, has_quads(isa) && bytes, "{isa:?} {inputs} {groups}");
                let mut out = vec![f32::NAN; rows * columns];
                let x = QuantizedRows { data: &x, signed: true, scales: &s, zeros: &z };
                multiply(isa, threads, &packed, x, &mut out);
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
        let isa = Isa::best();
        assert!(GroupedWeights::new(isa, &[1; 12], &[1.0; 4], None, 2).is_none(), "groups of three");
        assert!(GroupedWeights::new(isa, &[1; 12], &[1.0; 3], None, 2).is_none(), "a scale is missing");
        assert!(GroupedWeights::new(isa, &[256; 4], &[1.0; 2], None, 2).is_none(), "too wide");
        assert!(GroupedWeights::new(isa, &[1; 4], &[1.0; 2], Some(&[1.0]), 2).is_none(), "a bias is missing");
        assert!(GroupedWeights::new(isa, &[], &[], None, 0).is_none());
        assert!(GroupedWeights::new(isa, &[], &[1.0; 4], None, 4).is_none(), "no inputs");
    }
}
