//! The depthwise kernel: one output row of a convolution in which every channel has its own filter, channels last.

use super::finish::Finish;
use super::vector::{Portable, Vector};
use super::{Isa, Kind};
use std::ops::Range;

/// One row of the result. Each output element sums over the filter's rows, then columns, starting from the bias.
#[derive(Debug)]
pub(crate) struct DepthwiseRow<'a, F> {
    /// The image, `[height][width][channels]`.
    pub x: &'a [f32],
    /// Where the input row for each filter row starts in `x`; `None` outside of the image.
    pub rows: &'a [Option<usize>],
    /// Channels.
    pub channels: usize,
    /// Width of the image and of the filter; stride, dilation and padding along the row.
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub padding: usize,
    /// Weights `[filter rows][filter columns][padded]`.
    pub weights: &'a [f32],
    /// `padded` elements.
    pub bias: &'a [f32],
    /// Channels rounded up to whole registers.
    pub padded: usize,
    /// What becomes of the sums; the result is `[output width][channels]`.
    pub finish: F,
}

/// Computes a row.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
#[allow(private_bounds)]
pub(crate) fn depthwise_row<F: Finish>(isa: Isa, mut r: DepthwiseRow<'_, F>) {
    let line = r.width * r.channels;
    assert!(r.rows.iter().flatten().all(|&o| o + line <= r.x.len()));
    assert!(r.padded >= r.channels && r.padded.is_multiple_of(16) && r.bias.len() >= r.padded);
    assert!(r.weights.len() >= r.rows.len() * r.kernel * r.padded);
    assert!(r.finish.takes(r.padded));
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `run` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512(&mut r),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(&mut r),
            Kind::Portable => run::<Portable, F>(&mut r),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<F: Finish>(r: &mut DepthwiseRow<'_, F>) {
    // SAFETY: the caller's.
    unsafe { run::<super::vector::Avx512, F>(r) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<F: Finish>(r: &mut DepthwiseRow<'_, F>) {
    // SAFETY: the caller's.
    unsafe { run::<super::vector::Avx2, F>(r) }
}

#[inline(always)]
unsafe fn run<V: Vector, F: Finish>(r: &mut DepthwiseRow<'_, F>) {
    let outputs = r.finish.len() / r.channels.max(1);
    // Output columns whose whole window lies inside the image.
    let reach = (r.kernel - 1) * r.dilation;
    let first = r.padding.div_ceil(r.stride).min(outputs);
    let end = match (r.width + r.padding).checked_sub(reach + 1) {
        Some(room) => (room / r.stride + 1).clamp(first, outputs),
        None => first,
    };
    let mut channel = 0;
    while channel < r.channels {
        let left = r.channels - channel;
        // SAFETY: `channel` is inside; pixels are inside the row; `first..end` have whole windows; registers are loaded and
        // stored whole only where all their channels are there.
        unsafe {
            // Two registers side by side read whole lines of the cache.
            channel += if left >= 2 * V::LANES {
                pixels::<V, F, 2, true>(r, channel, first..end, outputs)
            } else if left >= V::LANES {
                pixels::<V, F, 1, true>(r, channel, first..end, outputs)
            } else {
                pixels::<V, F, 1, false>(r, channel, first..end, outputs)
            };
        }
    }
}

/// All pixels for `N` registers of channels, of which the ones in `whole` have their windows inside. Gives the channels.
#[inline(always)]
unsafe fn pixels<V: Vector, F: Finish, const N: usize, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_, F>,
    channel: usize,
    whole: Range<usize>,
    outputs: usize,
) -> usize {
    let Range { start: mut o, end } = whole;
    // SAFETY: see `run`.
    unsafe {
        for o in (0..o).chain(end..outputs) {
            border::<V, F, N, WHOLE>(r, channel, o);
        }
        // As many at a time as sums fit the registers: one alone waits for its own sum at each step.
        while N == 1 && o + 8 <= end {
            inside::<V, F, 8, N, WHOLE>(r, channel, o);
            o += 8;
        }
        while o + 4 <= end {
            inside::<V, F, 4, N, WHOLE>(r, channel, o);
            o += 4;
        }
        while o + 2 <= end {
            inside::<V, F, 2, N, WHOLE>(r, channel, o);
            o += 2;
        }
        if o < end {
            inside::<V, F, 1, N, WHOLE>(r, channel, o);
        }
    }
    N * V::LANES
}

/// `P` pixels from `o`, whose windows lie inside; `WHOLE` registers of channels.
#[inline(always)]
unsafe fn inside<V: Vector, F: Finish, const P: usize, const N: usize, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_, F>,
    channel: usize,
    o: usize,
) {
    let left = r.channels - channel;
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; P];
        for sum in sums.iter_mut() {
            for (n, sum) in sum.iter_mut().enumerate() {
                *sum = V::load(r.bias.as_ptr().add(channel + n * V::LANES));
            }
        }
        for (ky, row) in r.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for kx in 0..r.kernel {
                let weights = r.weights.as_ptr().add((ky * r.kernel + kx) * r.padded + channel);
                let mut w = [V::splat(0.0); N];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = V::load(weights.add(n * V::LANES));
                }
                let at = o * r.stride + kx * r.dilation - r.padding;
                let x = r.x.as_ptr().add(row + at * r.channels + channel);
                for (p, sum) in sums.iter_mut().enumerate() {
                    let x = x.add(p * r.stride * r.channels);
                    for n in 0..N {
                        let x = x.add(n * V::LANES);
                        let x = if WHOLE { V::load(x) } else { V::load_part(x, left) };
                        sum[n] = x.fma(w[n], sum[n]);
                    }
                }
            }
        }
        for (p, sum) in sums.into_iter().enumerate() {
            finish::<V, F, N>(r, sum, channel, o + p);
        }
    }
}

/// A pixel whose window hangs over an edge.
#[inline(always)]
unsafe fn border<V: Vector, F: Finish, const N: usize, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_, F>,
    channel: usize,
    o: usize,
) {
    let left = r.channels - channel;
    // SAFETY: see `run`; columns outside are skipped.
    unsafe {
        let mut sum = [V::splat(0.0); N];
        for (n, sum) in sum.iter_mut().enumerate() {
            *sum = V::load(r.bias.as_ptr().add(channel + n * V::LANES));
        }
        for (ky, row) in r.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for kx in 0..r.kernel {
                let Some(at) = (o * r.stride + kx * r.dilation).checked_sub(r.padding) else { continue };
                if at >= r.width {
                    continue;
                }
                let weights = r.weights.as_ptr().add((ky * r.kernel + kx) * r.padded + channel);
                let x = r.x.as_ptr().add(row + at * r.channels + channel);
                for (n, sum) in sum.iter_mut().enumerate() {
                    let x = x.add(n * V::LANES);
                    let x = if WHOLE { V::load(x) } else { V::load_part(x, left) };
                    *sum = x.fma(V::load(weights.add(n * V::LANES)), *sum);
                }
            }
        }
        finish::<V, F, N>(r, sum, channel, o);
    }
}

#[inline(always)]
unsafe fn finish<V: Vector, F: Finish, const N: usize>(
    r: &mut DepthwiseRow<'_, F>,
    sums: [V; N],
    channel: usize,
    o: usize,
) {
    let (at, left) = (o * r.channels + channel, r.channels - channel);
    // SAFETY: see `run`.
    unsafe {
        if N == 2 {
            return r.finish.store_two([sums[0], sums[N - 1]], at, channel);
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let n = n * V::LANES;
            r.finish.store(sums, at + n, channel + n, left - n);
        }
    }
}
