//! Depthwise filters of integers, where bytes are multiplied by fours: lines of the image stay bytes
//! ([`crate::simd::depthwise_quad_row`]).

use super::geometry::Geometry;
use super::strips::{Held, Work, line_length};
use crate::memory::Aligned;
use crate::simd::{
    DEPTHWISE_BLOCK as BLOCK, DEPTHWISE_ROWS as ROWS, DepthwiseQuadRow, Isa, beyond_depthwise_quads,
    depthwise_quad_channel, depthwise_quad_row, has_depthwise_quads,
};

/// The packed weights.
#[derive(Debug)]
pub(super) struct DepthwiseQuads {
    /// Those of [`DepthwiseQuadRow::weights`].
    weights: Aligned,
    /// Those of [`DepthwiseQuadRow::sums`].
    sums: Vec<[i32; BLOCK]>,
}

impl DepthwiseQuads {
    /// Packs integers `[channels, taps…]`, zero points taken off. `None` where they do not fit bytes, or there is no
    /// kernel for such filters.
    pub fn new(isa: Isa, g: &Geometry, w: &[i16]) -> Option<DepthwiseQuads> {
        let [kd, kh, columns] = g.kernel;
        let known = g.dilation[2] == 1 && has_depthwise_quads(isa, kd * kh, columns, g.stride[2]);
        if !known || !w.iter().all(|&w| i8::try_from(w).is_ok()) {
            return None;
        }
        let (taps, blocks) = (g.taps(), g.out_channels.div_ceil(BLOCK));
        let rows = (kd * kh).next_multiple_of(ROWS);
        let mut weights = Aligned::lasting(blocks * rows * columns * BLOCK);
        let mut sums = vec![[0; BLOCK]; blocks];
        let parts = weights.bytes_mut().chunks_exact_mut(rows * columns * BLOCK);
        for (block, (part, sums)) in parts.zip(&mut sums).enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                let channel = depthwise_quad_channel(g.out_channels, block, i);
                // Of a block with too few channels.
                let Some(w) = w.get(channel * taps..(channel + 1) * taps) else { continue };
                *sum = w.iter().map(|&w| i32::from(w)).sum();
                for (tap, &v) in w.iter().enumerate() {
                    let (row, column) = (tap / columns, tap % columns);
                    let place = (row / ROWS * columns + column) * BLOCK + i;
                    part[place * ROWS + row % ROWS] = v as u8;
                }
            }
        }
        Some(DepthwiseQuads { weights, sums })
    }

    /// Bytes that [`run`](Self::run) needs room for: lines, one of zeros, and what is read beyond the last.
    pub fn room(g: &Geometry) -> usize {
        (Held::count(g) + 1) * line_length(g)
            + beyond_depthwise_quads(g.in_channels, g.kernel[2], g.stride[2])
    }

    /// Computes a strip of the result.
    pub fn run(&self, Work { isa, g, rescale, x, strip, out }: Work<'_>, bytes: &mut [u8]) {
        let (line, zero) = (line_length(g), x.unsigned_zero());
        let outside = Held::count(g) * line;
        bytes[outside..][..line].fill(zero as u8);
        let mut held = Held::new(g);
        let mut rows = vec![outside; (g.kernel[0] * g.kernel[1]).next_multiple_of(ROWS)];
        let row_length = g.output[2] * g.in_channels * rescale.size();
        for (row, out) in strip.rows.clone().zip(out.chunks_exact_mut(row_length)) {
            let there = held.hold(
                isa,
                g,
                x,
                (strip.z, row),
                bytes,
                zero as u8,
                #[inline(always)]
                |x, to| x.unsigned(to),
            );
            // Weights for rows that there are not are zeros: whichever are read.
            rows.iter_mut()
                .zip(there.iter().cycle())
                .for_each(|(row, there)| *row = there.unwrap_or(outside));
            let row = DepthwiseQuadRow {
                x: bytes,
                rows: &rows,
                channels: g.in_channels,
                kernel: g.kernel[2],
                stride: g.stride[2],
                weights: bytemuck::cast_slice(self.weights.bytes()),
                sums: &self.sums,
                zero,
                finish: rescale.scaled(out),
            };
            depthwise_quad_row(isa, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::integer::{IntegerFilter, convolve};
    use super::super::rescale::{Grid, Rescale};
    use super::super::strips::Quantized;
    use super::*;
    use crate::parallel::Threads;
    use crate::simd::UNBOUNDED;

    /// Width, channels, filter rows and columns, stride, padding, dilation.
    type Case = (usize, usize, [usize; 2], usize, i64, usize);

    fn geometry((width, channels, [kh, kw], stride, padding, dilation): Case) -> Geometry {
        // The image is a line higher than wide, and more is added behind it than in front.
        let size = |n: usize, k: usize| {
            let all = n + 2 * padding as usize + usize::from(padding > 0);
            all.checked_sub((k - 1) * dilation + 1).map_or(0, |room| room / stride + 1)
        };
        Geometry {
            batch: 2,
            groups: channels,
            in_channels: channels,
            out_channels: channels,
            input: [1, width + 1, width],
            output: [1, size(width + 1, kh), size(width, kw)],
            kernel: [1, kh, kw],
            stride: [1, stride, stride],
            dilation: [1, dilation, dilation],
            padding: [0, padding, padding],
        }
    }

    /// The sum for each element of the result.
    fn sums(g: &Geometry, x: Quantized<'_>, w: &[i16]) -> Vec<i32> {
        let ([_, height, width], [_, oh, ow]) = (g.input, g.output);
        let mut all = vec![];
        for i in 0..g.batch * oh * ow * g.in_channels {
            let (channel, pixel) = (i % g.in_channels, i / g.in_channels);
            let (n, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let mut sum = 0;
            for tap in 0..g.taps() {
                let (ky, kx) = (tap / g.kernel[2], tap % g.kernel[2]);
                let y = (oy * g.stride[1] + ky * g.dilation[1]) as i64 - g.padding[1];
                let x_ = (ox * g.stride[2] + kx * g.dilation[2]) as i64 - g.padding[2];
                if (0..height as i64).contains(&y) && (0..width as i64).contains(&x_) {
                    let at = (n * height + y as usize) * width + x_ as usize;
                    let b = x.data[at * g.in_channels + channel];
                    let b = if x.signed { i32::from(b as i8) } else { i32::from(b) };
                    sum += (b - x.zero) * i32::from(w[channel * g.taps() + tap]);
                }
            }
            all.push(sum);
        }
        all
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        let mut cases: Vec<Case> = vec![];
        for kernel in [[1, 1], [2, 2], [3, 3], [5, 5], [7, 7], [3, 5], [1, 3]] {
            for (i, &channels) in [1, 8, 17, 32, 64, 144].iter().enumerate() {
                for (stride, padding) in [(1, 0), (1, 1), (2, 1), (2, 2), (1, 3), (3, 1)] {
                    for width in [1, 2, 7, 12 + i] {
                        cases.push((width, channels, kernel, stride, padding, 1));
                    }
                    cases.push((11, channels, kernel, stride, padding, 2));
                }
            }
        }
        let threads = [1, 2].map(|n| Threads::new(n).unwrap());
        let mut by_quads = 0;
        for (i, &case) in cases.iter().enumerate() {
            let g = geometry(case);
            if g.output.contains(&0) {
                continue;
            }
            let bits = |n: usize| ((n * 7919 + i * 31) * 2_654_435) >> 7;
            let data: Vec<u8> =
                (0..2 * g.input[1] * g.input[2] * g.in_channels).map(|n| bits(n) as u8).collect();
            let w: Vec<i16> = (0..g.in_channels * g.taps()).map(|n| i16::from(bits(n + 99) as i8)).collect();
            let (signed, zero) =
                [(true, -128), (true, 127), (false, 0), (false, 255), (true, -3), (false, 117)][i % 6];
            let x = Quantized { data: &data, signed, zero };
            let sums = sums(&g, x, &w);
            let bias: Vec<f32> = (0..g.in_channels).map(|n| n as f32 * 0.7 - 20.0).collect();
            let scales: Vec<f64> = (0..g.in_channels).map(|n| 0.003 + n as f64 * 0.0001).collect();
            let grids = [
                (Grid { scale: 0.5, zero: -7, min: -128, max: 127 }, UNBOUNDED),
                (Grid { scale: 0.5, zero: 255, min: 0, max: 255 }, (-60.0, 0.0)),
                (Grid { scale: 0.08, zero: -128, min: -128, max: 127 }, (-1.0, f32::INFINITY)),
                (Grid { scale: 0.08, zero: 117, min: 0, max: 255 }, UNBOUNDED),
                (Grid { scale: 1e-30, zero: 100, min: 0, max: 255 }, UNBOUNDED),
            ];
            for grid in [None, Some(grids[i / 6 % 5])] {
                let clamp = grid.map_or((-1e3, 1e3), |(_, clamp)| clamp);
                let rescale = Rescale::new(&scales, Some(&bias), clamp, grid.map(|(grid, _)| grid));
                let bounds = grid.map(|(grid, _)| grid.clamped(clamp.0, clamp.1));
                let mut want = vec![];
                for (n, &sum) in sums.iter().enumerate() {
                    let (scale, bias) = (scales[n % g.in_channels], f64::from(bias[n % g.in_channels]));
                    let step = bounds.map_or(1.0, |grid| grid.scale);
                    let v = (sum as f32).mul_add((scale / step) as f32, (bias / step) as f32);
                    match bounds {
                        None => want.extend(v.clamp(clamp.0, clamp.1).to_ne_bytes()),
                        Some(grid) => {
                            let whole = f64::from(v).round_ties_even() + f64::from(grid.zero);
                            want.push(whole.clamp(f64::from(grid.min), f64::from(grid.max)) as i32 as u8);
                        }
                    }
                }
                for isa in Isa::available() {
                    let filter = IntegerFilter::new(isa, &g, &w).expect("integers of 8 bits");
                    by_quads += usize::from(DepthwiseQuads::new(isa, &g, &w).is_some());
                    for threads in &threads {
                        let mut out = vec![0u8; want.len()];
                        convolve(isa, threads, &g, &filter, &rescale, x, &mut out);
                        assert_eq!(out, want, "{isa:?}, {case:?}, {signed} {zero}, {grid:?}");
                    }
                }
            }
        }
        let vnni = Isa::available().into_iter().any(|isa| has_depthwise_quads(isa, 3, 3, 1));
        assert_eq!(by_quads > 0, vnni);
    }

    #[test]
    fn wide_weights_are_left_to_others() {
        let g = geometry((9, 8, [3, 3], 1, 1, 1));
        let mut w = vec![1; 72];
        w[40] = 128;
        assert!(Isa::available().into_iter().all(|isa| DepthwiseQuads::new(isa, &g, &w).is_none()));
    }
}
