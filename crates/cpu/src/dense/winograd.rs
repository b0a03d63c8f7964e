//! Winograd's convolution F(2 × 2, 3 × 3) of channels-last images: 16 multiplications for four pixels of the result where its
//! definition has 36 (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015). Tiles of 2 × 2 pixels are
//! rows of 16 matrix products, one for each number of a patch.
//!
//! Sums are rounded otherwise than those of [`super::conv`], and no worse: both are within a few units in the last place of the
//! largest term. What the filter is used for does not depend on threads or on what was computed before.

use super::blocks::{Places, Rows, product};
use super::gemm::Mat;
use super::geometry::Geometry;
use super::panels::Panels;
use super::{Epilogue, Watch};
use crate::memory::{Aligned, Scratch};
use crate::parallel::Threads;
use crate::simd::{Floats, Isa, PLANES, PatchRow, Seen, SumRow, gather_pixels, spread_patches};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a block of tiles, before and behind the products: half of a second-level cache.
const BLOCK: usize = 512 * 1024;

/// Tiles of a block at least: packed filters come from far away for each.
const TILES: usize = 28;

/// Channels of either side at least: with fewer, what is saved goes to the patches.
const CHANNELS: usize = 32;

/// Tiles of an image at least: with fewer, reading 16 numbers of a filter for 9 costs what is saved.
const IMAGE: usize = 40;

/// The most channels that patches have zeros for.
const MOST: usize = 4096;

/// A filter's 16 matrices `[in channels, out channels]`.
#[derive(Debug)]
pub(super) struct Winograd {
    planes: Vec<Panels>,
    /// What sums start from.
    zeros: Aligned,
}

/// Whether a convolution has this form, and is worth it.
pub(super) fn suits(g: &Geometry) -> bool {
    let [depth, height, width] = g.output;
    (g.kernel, g.stride, g.dilation) == ([1, 3, 3], [1; 3], [1; 3])
        && (g.groups, g.input[0], depth, g.padding[0]) == (1, 1, 1, 0)
        && g.padding.iter().all(|&p| p >= 0)
        && (CHANNELS..=MOST).contains(&g.in_channels)
        && g.out_channels >= CHANNELS
        && height.div_ceil(2) * width.div_ceil(2) >= IMAGE
}

/// `Gᵀ`, by which three weights become four.
const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

impl Winograd {
    /// Packs weights `[out channels, in channels, 3, 3]`; `None` where they are not finite.
    pub fn new(isa: Isa, g: &Geometry, w: &[f32]) -> Option<Winograd> {
        if !w.iter().all(|w| w.is_finite()) {
            return None;
        }
        let (ic, oc) = (g.in_channels, g.out_channels);
        let mut planes = vec![vec![0f32; ic * oc]; PLANES];
        for (n, filter) in w.chunks_exact(9 * ic).enumerate() {
            for (c, w) in filter.chunks_exact(9).enumerate() {
                for (i, u) in spread_filter(w).into_iter().enumerate() {
                    planes[i][n * ic + c] = u;
                }
            }
        }
        let pack = |plane: Vec<f32>| Panels::new(isa, Mat::dense(&plane, oc, ic).t());
        let zeros = Aligned::floats(oc.next_multiple_of(crate::simd::WIDEST));
        Some(Winograd { planes: planes.into_iter().map(pack).collect(), zeros })
    }

    /// Convolves one image; `bias` is padded to whole panels. `false` if something is not finite, which would be spread over
    /// whole tiles: the result is of no use then, and `watch` was told nothing.
    pub fn convolve(
        &self,
        isa: Isa,
        threads: &Threads,
        g: &Geometry,
        bias: &[f32],
        x: &[f32],
        out: &mut [f32],
        epilogue: Epilogue<'_>,
    ) -> bool {
        let rows = block_rows(g, threads.count());
        let (part, finite, watch) =
            (2 * rows * g.output[2] * g.out_channels, AtomicBool::new(true), Watch::default());
        let inner = Epilogue { watch: epilogue.watch.map(|_| &watch), ..epilogue };
        threads.for_each(
            out.chunks_mut(part).enumerate(),
            || Block::new(g, rows),
            |block, (i, out)| {
                let residual = epilogue.residual.map(|r| &r[i * part..][..out.len()]);
                let first = i * rows;
                let tiles = first..g.output[1].div_ceil(2).min(first + rows);
                if finite.load(Ordering::Relaxed) {
                    let done = block.run(self, isa, g, bias, x, tiles, out, Epilogue { residual, ..inner });
                    finite.fetch_and(done, Ordering::Relaxed);
                }
            },
        );
        let finite = finite.into_inner();
        if let (true, Some(to)) = (finite, epilogue.watch) {
            to.add(watch.seen());
        }
        finite
    }
}

/// `G · w · Gᵀ`, rounded once.
fn spread_filter(w: &[f32]) -> [f32; PLANES] {
    let sum = |g: &[f64; 3], w: [f64; 3]| g[0] * w[0] + g[1] * w[1] + g[2] * w[2];
    let w = |row: usize, column: usize| f64::from(w[row * 3 + column]);
    let rows = G.map(|g| [0, 1, 2].map(|column| sum(&g, [0, 1, 2].map(|row| w(row, column)))));
    std::array::from_fn(|i| sum(&G[i % 4], rows[i / 4]) as f32)
}

/// Rows of tiles of a block: about the same for each, and enough blocks for all threads.
fn block_rows(g: &Geometry, threads: usize) -> usize {
    let [height, width] = [g.output[1], g.output[2]].map(|n| n.div_ceil(2));
    let fit = BLOCK / (PLANES * 4 * (g.in_channels + g.out_channels) * width);
    let most = fit.max(TILES.div_ceil(width)).min(height.div_ceil(threads));
    height.div_ceil(height.div_ceil(most.max(1)))
}

/// What a block of tiles is computed in: patches, then sums.
struct Block {
    memory: Scratch,
    /// Distance of planes.
    apart: [usize; 2],
}

impl Block {
    fn new(g: &Geometry, rows: usize) -> Block {
        let tiles = rows * g.output[2].div_ceil(2);
        // An odd number of cache lines: planes at equal places would share the same few lines of a cache otherwise.
        let apart =
            [g.in_channels, g.out_channels].map(|channels| ((tiles * channels).div_ceil(16) | 1) * 16);
        Block { memory: Scratch::of(PLANES * (apart[0] + apart[1]) * 4), apart }
    }

    /// Computes rows `tiles` of tiles; whether all that they read was finite.
    fn run(
        &mut self,
        filter: &Winograd,
        isa: Isa,
        g: &Geometry,
        bias: &[f32],
        x: &[f32],
        tiles: Range<usize>,
        out: &mut [f32],
        epilogue: Epilogue<'_>,
    ) -> bool {
        let (ic, oc, [_, height, width]) = (g.in_channels, g.out_channels, g.output);
        let (across, line) = (width.div_ceil(2), g.input[2] * ic);
        let apart = self.apart;
        let (patches, sums) = self.memory.f32_mut().split_at_mut(PLANES * apart[0]);
        for (i, row) in tiles.clone().enumerate() {
            let lines = std::array::from_fn(|y| {
                let y = (2 * row + y).checked_sub(g.padding[1] as usize).filter(|&y| y < g.input[1])?;
                Some(&x[y * line..][..line])
            });
            let finite = spread_patches(
                isa,
                PatchRow {
                    lines,
                    channels: ic,
                    padding: g.padding[2] as usize,
                    tiles: across,
                    out: &mut patches[i * across * ic..],
                    plane: apart[0],
                },
            );
            if !finite {
                return false;
            }
        }
        let count = tiles.len() * across;
        for (i, panels) in filter.planes.iter().enumerate() {
            let x = &patches[i * apart[0]..];
            let rows = Rows { x, first: 0, pieces: 1, depth: ic, places: Places::Apart(ic) };
            let out = &mut sums[i * apart[1]..][..count * oc];
            product(isa, rows, panels, 0..panels.count(), filter.zeros.f32(), 0, oc, out, Epilogue::NONE);
        }
        let mut seen = Seen::NOTHING;
        for (i, row) in tiles.enumerate() {
            let (sums, at) = (&sums[i * across * oc..], 2 * i * width * oc);
            let (rows, clamp) = ((height - 2 * row).min(2), epilogue.clamp);
            let s = SumRow { sums, plane: apart[1], channels: oc, width, rows, bias };
            let (out, residual) = (&mut out[at..], epilogue.residual.map(|r| &r[at..]));
            match epilogue.watch {
                Some(_) => gather_pixels(isa, s, Floats::<true> { out, residual, clamp, seen: &mut seen }),
                None => gather_pixels(isa, s, Floats::<false> { out, residual, clamp, seen: &mut seen }),
            }
        }
        if let Some(watch) = epilogue.watch {
            watch.add(seen.bits());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::conv::{Filter, Image, convolve};
    use crate::simd::Stages;
    use lowbit_core::Tensor;
    use lowbit_core::quant::observer::extremes;

    fn geometry(channels: [usize; 2], [height, width]: [usize; 2], padding: [usize; 2]) -> Geometry {
        Geometry {
            batch: 2,
            groups: 1,
            in_channels: channels[0],
            out_channels: channels[1],
            input: [1, height, width],
            output: [1, height + 2 * padding[0] - 2, width + 2 * padding[1] - 2],
            kernel: [1, 3, 3],
            stride: [1; 3],
            dilation: [1; 3],
            padding: [0, padding[0] as i64, padding[1] as i64],
        }
    }

    /// By definition, in `f64`.
    fn reference(g: &Geometry, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f64> {
        let [_, height, width] = g.output;
        let mut out = vec![];
        for i in 0..g.batch * height * width {
            let (image, y, u) = (i / (height * width), i / width % height, i % width);
            for n in 0..g.out_channels {
                let mut sum = f64::from(bias[n]);
                for t in 0..9 {
                    let (Some(iy), Some(ix)) = (g.source(1, y, t / 3), g.source(2, u, t % 3)) else {
                        continue;
                    };
                    let pixel = ((image * g.input[1] + iy) * g.input[2] + ix) * g.in_channels;
                    for c in 0..g.in_channels {
                        sum += f64::from(x[pixel + c]) * f64::from(w[(n * g.in_channels + c) * 9 + t]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    fn numbers(count: usize, seed: u32, of: impl Fn(f32) -> f32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761) | 1;
        let next = |_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            of((s >> 8) as f32 / 8_388_608.0 - 1.0)
        };
        (0..count).map(next).collect()
    }

    /// Everything that a convolution of these numbers needs.
    struct Case {
        g: Geometry,
        x: Vec<f32>,
        w: Vec<f32>,
        bias: Vec<f32>,
    }

    impl Case {
        fn new(g: Geometry, of: impl Fn(f32) -> f32 + Copy) -> Case {
            assert!(suits(&g), "{g:?}");
            let x = numbers(g.batch * g.input[1] * g.input[2] * g.in_channels, 1, of);
            let w = numbers(g.in_channels * g.out_channels * 9, 2, of);
            let bias = numbers(g.out_channels, 3, of);
            Case { g, x, w, bias }
        }

        fn reference(&self) -> Vec<f64> {
            reference(&self.g, &self.x, &self.w, &self.bias)
        }

        fn run(&self, isa: Isa, threads: usize, epilogue: Epilogue<'_>) -> Vec<f32> {
            let weight = Tensor::new(&[self.w.len()], self.w.clone()).unwrap();
            let filter = Filter::new(isa, &self.g, &weight, Some(&self.bias)).unwrap();
            let positions = self.g.batch * self.g.output[1] * self.g.output[2];
            let mut out = vec![f32::NAN; positions * self.g.out_channels];
            let (x, threads) = (Image { elements: &self.x, planes: false }, Threads::new(threads).unwrap());
            convolve(isa, &threads, &self.g, &filter, x, &mut out, epilogue);
            out
        }
    }

    #[test]
    fn sums_of_small_integers_are_exact() {
        let sizes = [[14, 14], [13, 17], [12, 16], [6, 41], [1, 90], [90, 1]];
        for (i, size) in sizes.into_iter().enumerate() {
            let padding = [[1, 1], [0, 2], [2, 0], [1, 0], [2, 1], [1, 2]][i];
            let channels = [[32, 32], [33, 47], [40, 64], [64, 36], [32, 33], [65, 32]][i];
            let case = Case::new(geometry(channels, size, padding), |x| (x * 4.0).round());
            let want = case.reference();
            let residual = numbers(want.len(), 4, |x| (x * 50.0).round());
            let sums: Vec<f32> = want.iter().zip(&residual).map(|(sum, r)| *sum as f32 + r).collect();
            let bounded: Vec<f32> = sums.iter().map(|x| x.clamp(-60.0, 70.0)).collect();
            for isa in Isa::available() {
                let exact: Vec<f64> = case.run(isa, 1, Epilogue::NONE).into_iter().map(f64::from).collect();
                assert_eq!(exact, want, "{isa:?} {size:?} {padding:?}");
                let watch = Watch::default();
                let epilogue =
                    Epilogue { residual: Some(&residual), clamp: (-60.0, 70.0), watch: Some(&watch) };
                assert_eq!(case.run(isa, 3, epilogue), bounded, "{isa:?} {size:?} {padding:?}");
                let want = Stages { sums: &want.iter().map(|&x| x as f32).collect(), results: &sums };
                assert_eq!(watch.extremes(), want.map(|x: &Vec<f32>| Some(extremes(x))));
            }
        }
    }

    #[test]
    fn other_sums_are_as_near_as_sums_are_and_the_same_bits_everywhere() {
        let case = Case::new(geometry([64, 40], [15, 14], [1, 1]), |x| x);
        let (want, portable) = (case.reference(), case.run(Isa::PORTABLE, 1, Epilogue::NONE));
        // 577 terms below 1: what rounding each by half a unit in the last place comes to, on average, times four.
        let bound = 4.0 * 577f64.sqrt() * f64::from(f32::EPSILON);
        let far = portable.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(far < bound, "{far} of {bound}");
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                assert_eq!(case.run(isa, threads, Epilogue::NONE), portable, "{isa:?} {threads}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_where_it_is() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = Case::new(geometry([32, 32], [14, 14], [1, 1]), |x| (x * 4.0).round());
            case.x[(5 * 14 + 5) * 32 + 3] = bad;
            case.w.fill(1.0);
            let want = case.reference();
            for isa in Isa::available() {
                let watch = Watch::default();
                let out = case.run(isa, 2, Epilogue { watch: Some(&watch), ..Epilogue::NONE });
                let as_wanted = |(a, b): (&f32, &f64)| f64::from(*a) == *b || a.is_nan() && b.is_nan();
                assert!(out.iter().zip(&want).all(as_wanted), "{isa:?} {bad}");
                assert_eq!(out.iter().filter(|x| !x.is_finite()).count(), 9 * 32);
                assert_eq!(watch.extremes(), Stages::default(), "{isa:?} {bad}");
            }
        }
    }
}
