//! The depthwise kernel: one output row of a convolution in which every channel has its own filter, channels last.

use super::finish::Finish;
use super::vector::{Portable, Vector};
use super::{Isa, Kind, WIDEST, ZEROS, fetch, shares};
use std::ops::Range;

/// One row of the result. Each output element sums over the filter's rows, then columns, starting from the bias.
#[derive(Debug)]
pub(crate) struct DepthwiseRow<'a, F> {
    /// The image, `[height][width][channels]`.
    pub x: &'a [f32],
    /// Where the input row for each filter row starts in `x`; `None` outside of the image.
    pub rows: &'a [Option<usize>],
    /// What is read next, to be fetched meanwhile.
    pub next: &'a [f32],
    /// Channels, and those that are computed: whole pairs of registers, unless they are the last.
    pub channels: usize,
    pub some: Range<usize>,
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
    /// What becomes of the sums; the result is `[output width][channels]`. Some may be finished twice, as the same.
    pub finish: F,
}

/// Computes a row.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn depthwise_row<F: Finish>(isa: Isa, mut r: DepthwiseRow<'_, F>) {
    let line = r.width * r.channels;
    assert!(r.rows.iter().flatten().all(|&o| o + line <= r.x.len()));
    assert!(r.padded >= r.channels && r.padded.is_multiple_of(16) && r.bias.len() >= r.padded);
    assert!(r.weights.len() >= r.rows.len() * r.kernel * r.padded);
    assert!(r.some.end == r.channels || r.some.end < r.channels && r.some.len().is_multiple_of(WIDEST));
    assert!(r.finish.takes(r.padded));
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `run` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => avx512(&mut r),
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
    let square = r.rows.len() == r.kernel && r.dilation == 1 && outputs >= 4 && r.channels <= ZEROS.len();
    // SAFETY: there are so many pixels.
    unsafe {
        match (square, r.kernel, r.stride) {
            (true, 3, 1) => squares::<V, F, 3, 1>(r, outputs),
            (true, 3, 2) => squares::<V, F, 3, 2>(r, outputs),
            (true, 5, 1) => squares::<V, F, 5, 1>(r, outputs),
            _ => any::<V, F>(r, outputs),
        }
    }
}

/// The most columns that four windows of [`squares`] have.
const WIDE: usize = 9;

/// Filters of `K` by `K`, four pixels of the result at a time. Each pixel of the image is loaded once for the windows that it is in,
/// and zeros stand for those outside.
#[inline(always)]
unsafe fn squares<V: Vector, F: Finish, const K: usize, const STRIDE: usize>(
    r: &mut DepthwiseRow<'_, F>,
    outputs: usize,
) {
    let wide = 3 * STRIDE + K;
    let mut next = shares(r.next, outputs.div_ceil(4));
    for o in (0..outputs).step_by(4) {
        next.next().into_iter().for_each(fetch);
        // The last four may be some of those before again.
        let o = o.min(outputs - 4);
        let mut pixels = [[ZEROS.as_ptr(); WIDE]; K];
        let inside = o * STRIDE >= r.padding && o * STRIDE - r.padding + wide <= r.width;
        for (pixels, row) in pixels.iter_mut().zip(r.rows) {
            let Some(row) = row else { continue };
            let line = r.x.as_ptr().wrapping_add(*row);
            let from = (o * STRIDE).wrapping_sub(r.padding);
            if inside {
                let mut pixel = line.wrapping_add(from * r.channels);
                for p in &mut pixels[..wide] {
                    *p = pixel;
                    pixel = pixel.wrapping_add(r.channels);
                }
                continue;
            }
            for (column, pixel) in pixels[..wide].iter_mut().enumerate() {
                let at = from.wrapping_add(column);
                if at < r.width {
                    *pixel = line.wrapping_add(at * r.channels);
                }
            }
        }
        let Range { start: mut channel, end } = r.some;
        // SAFETY: pixels are inside, or zeros for all channels; registers are loaded whole only where all their channels are there.
        unsafe {
            while channel + 2 * V::LANES <= end {
                four::<V, F, K, STRIDE, 2, true>(r, &pixels, channel, o);
                channel += 2 * V::LANES;
            }
            if channel + V::LANES <= end {
                four::<V, F, K, STRIDE, 1, true>(r, &pixels, channel, o);
                channel += V::LANES;
            }
            if channel < end {
                four::<V, F, K, STRIDE, 1, false>(r, &pixels, channel, o);
            }
        }
    }
}

/// Some channels of four pixels from `o`; `WHOLE` registers of them.
#[inline(always)]
unsafe fn four<
    V: Vector,
    F: Finish,
    const K: usize,
    const STRIDE: usize,
    const N: usize,
    const WHOLE: bool,
>(
    r: &mut DepthwiseRow<'_, F>,
    pixels: &[[*const f32; WIDE]; K],
    channel: usize,
    o: usize,
) {
    // SAFETY: see `squares`.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; 4];
        for sum in sums.iter_mut() {
            for (n, sum) in sum.iter_mut().enumerate() {
                *sum = V::load(r.bias.as_ptr().add(channel + n * V::LANES));
            }
        }
        let mut weights = r.weights.as_ptr().add(channel);
        for row in pixels {
            let mut w = [[V::splat(0.0); N]; K];
            for w in w.iter_mut() {
                for (n, w) in w.iter_mut().enumerate() {
                    *w = V::load(weights.add(n * V::LANES));
                }
                weights = weights.add(r.padded);
            }
            for column in 0..3 * STRIDE + K {
                for n in 0..N {
                    let x = row[column].add(channel + n * V::LANES);
                    let x = if WHOLE { V::load(x) } else { V::load_part(x, r.channels - channel) };
                    for (p, sum) in sums.iter_mut().enumerate() {
                        // From left to right, as every sum is made.
                        if (p * STRIDE..p * STRIDE + K).contains(&column) {
                            sum[n] = x.fma(w[column - p * STRIDE][n], sum[n]);
                        }
                    }
                }
            }
        }
        finish::<V, F, 4, N>(r, sums, channel, o);
    }
}

/// Filters of any size.
#[inline(always)]
unsafe fn any<V: Vector, F: Finish>(r: &mut DepthwiseRow<'_, F>, outputs: usize) {
    // Output columns whose whole window lies inside the image.
    let reach = (r.kernel - 1) * r.dilation;
    let first = r.padding.div_ceil(r.stride).min(outputs);
    let end = match (r.width + r.padding).checked_sub(reach + 1) {
        Some(room) => (room / r.stride + 1).clamp(first, outputs),
        None => first,
    };
    // Pixel by pixel, so that memory is read in its order.
    // SAFETY: pixels are inside the row, and `first..end` have whole windows.
    unsafe {
        for o in (0..first).chain(end..outputs) {
            channels::<V, F, 1>(r, o, false);
        }
        // As many at a time as sums fit the registers: one alone waits for its own sum at each step.
        let mut o = first;
        let mut next = shares(r.next, outputs.div_ceil(4));
        while o + 4 <= end {
            next.next().into_iter().for_each(fetch);
            channels::<V, F, 4>(r, o, true);
            o += 4;
        }
        while o + 2 <= end {
            channels::<V, F, 2>(r, o, true);
            o += 2;
        }
        if o < end {
            channels::<V, F, 1>(r, o, true);
        }
    }
}

/// All channels of `P` pixels from `o`, which have whole windows `within` the image; only one pixel may have not.
#[inline(always)]
unsafe fn channels<V: Vector, F: Finish, const P: usize>(
    r: &mut DepthwiseRow<'_, F>,
    o: usize,
    within: bool,
) {
    let Range { start: mut channel, end } = r.some;
    while channel < end {
        let left = end - channel;
        // SAFETY: `channel` is inside; registers are loaded and stored whole only where all their channels are there; see
        // `run` for pixels.
        unsafe {
            // Two registers side by side read whole lines of the cache.
            match (left >= 2 * V::LANES, left >= V::LANES, within) {
                (true, _, true) => inside::<V, F, P, 2, true>(r, channel, o),
                (_, true, true) => inside::<V, F, P, 1, true>(r, channel, o),
                (_, _, true) => inside::<V, F, P, 1, false>(r, channel, o),
                (true, _, _) => border::<V, F, 2, true>(r, channel, o),
                (_, true, _) => border::<V, F, 1, true>(r, channel, o),
                _ => border::<V, F, 1, false>(r, channel, o),
            }
        }
        channel += if left >= 2 * V::LANES { 2 * V::LANES } else { V::LANES };
    }
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
        finish::<V, F, P, N>(r, sums, channel, o);
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
        finish::<V, F, 1, N>(r, [sum], channel, o);
    }
}

/// Stores `P` pixels from `o`.
#[inline(always)]
unsafe fn finish<V: Vector, F: Finish, const P: usize, const N: usize>(
    r: &mut DepthwiseRow<'_, F>,
    sums: [[V; N]; P],
    channel: usize,
    o: usize,
) {
    // SAFETY: see `run`.
    unsafe { r.finish.store(sums, o * r.channels + channel, r.channels, channel, r.channels - channel) }
}
