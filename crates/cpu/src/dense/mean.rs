//! Means of the positions of quantized channels.

use super::rescale::{Grid, Rounding};
use crate::pages::LINE;
use crate::parallel::Threads;
use crate::simd::Isa;

/// `clamp(round(a · sum + b))`: the mean of a channel's quantized positions, on a grid of its own.
#[derive(Debug)]
pub(crate) struct Mean {
    channels: usize,
    positions: usize,
    /// What makes bytes without a sign of those of the input.
    flip: u8,
    factor: f32,
    offset: f32,
    rounding: Rounding,
}

impl Mean {
    /// Of so many channels of so many positions, on grid `x`; bounded by `clamp`, stored on `to`.
    pub fn new(
        (x, signed): (Grid, bool),
        (channels, positions): (usize, usize),
        clamp: (f32, f32),
        to: Grid,
    ) -> Mean {
        let (flip, zero) = if signed { (128, x.zero + 128) } else { (0, x.zero) };
        let scale = x.scale / to.scale;
        Mean {
            channels,
            positions,
            flip,
            factor: (scale / positions as f64) as f32,
            offset: (-scale * f64::from(zero)) as f32,
            rounding: Rounding::new(to, clamp),
        }
    }

    /// Of images channels last. Sums are exact.
    pub fn run(&self, isa: Isa, threads: &Threads, x: &[u8], out: &mut [u8]) {
        /// Positions whose sum 32 bits hold.
        const SUMMED: usize = 1 << 24;
        let image = self.channels * self.positions;
        if image == 0 {
            return;
        }
        // Lines of channels, so that no two threads read the same.
        let part = threads.together(self.channels.div_ceil(LINE), LINE * self.positions) * LINE;
        let images = x.chunks_exact(image).zip(out.chunks_exact_mut(self.channels));
        let parts = images.flat_map(|(x, out)| {
            let parts = out.chunks_mut(part).enumerate();
            parts.map(move |(i, out)| (x, i * part, out))
        });
        threads.for_each(
            parts,
            || (vec![0u32; part.min(self.channels)], vec![0u64; part.min(self.channels)]),
            |(sums, totals), (x, first, out)| {
                isa.vectorize(
                    #[inline(always)]
                    || {
                        let (sums, totals) = (&mut sums[..out.len()], &mut totals[..out.len()]);
                        totals.fill(0);
                        for x in x.chunks(self.channels.saturating_mul(SUMMED)) {
                            sums.fill(0);
                            for pixel in x.chunks_exact(self.channels) {
                                let pixel = &pixel[first..first + sums.len()];
                                let bytes = pixel.iter().map(|b| u32::from(b ^ self.flip));
                                sums.iter_mut().zip(bytes).for_each(|(sum, b)| *sum += b);
                            }
                            totals.iter_mut().zip(&*sums).for_each(|(total, &sum)| *total += u64::from(sum));
                        }
                        for (o, &total) in out.iter_mut().zip(&*totals) {
                            let v = total as f32 * self.factor + self.offset;
                            *o = self.rounding.byte(v);
                        }
                    },
                );
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::UNBOUNDED;

    #[test]
    fn more_are_summed_than_32_bits_can_tell() {
        let grid = Grid { scale: 0.5, zero: 3, min: 0, max: 255 };
        let positions = (1 << 24) + (1 << 20);
        let mean = Mean::new((grid, false), (1, positions), UNBOUNDED, grid);
        let mut out = [0];
        mean.run(Isa::best(), Threads::ALONE, &vec![255; positions], &mut out);
        assert_eq!(out, [255]);
    }
}
