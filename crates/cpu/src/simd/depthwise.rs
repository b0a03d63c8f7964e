//! The depthwise kernel: one output row of a convolution in which every channel has its own filter, channels last.

use super::vector::{Portable, Vector};
use super::{Isa, Kind};

/// One row of the result. Each output element sums over the filter's rows, then columns, starting from the bias.
#[derive(Debug)]
pub(crate) struct DepthwiseRow<'a> {
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
    /// The result, `[output width][channels]`.
    pub out: &'a mut [f32],
    /// Added to the sums; of the result's size.
    pub residual: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: (f32, f32),
}

/// Pixels computed together.
const PIXELS: usize = 8;

/// Computes a row.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn depthwise_row(isa: Isa, mut r: DepthwiseRow<'_>) {
    let line = r.width * r.channels;
    assert!(r.rows.iter().flatten().all(|&o| o + line <= r.x.len()));
    assert!(r.padded >= r.channels && r.padded.is_multiple_of(16) && r.bias.len() >= r.padded);
    assert!(r.weights.len() >= r.rows.len() * r.kernel * r.padded);
    assert!(r.residual.is_none_or(|v| v.len() >= r.out.len()));
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `run` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512(&mut r),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(&mut r),
            Kind::Portable => run::<Portable>(&mut r),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(r: &mut DepthwiseRow<'_>) {
    // SAFETY: the caller's.
    unsafe { run::<super::vector::Avx512>(r) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(r: &mut DepthwiseRow<'_>) {
    // SAFETY: the caller's.
    unsafe { run::<super::vector::Avx2>(r) }
}

#[inline(always)]
unsafe fn run<V: Vector>(r: &mut DepthwiseRow<'_>) {
    let outputs = r.out.len() / r.channels.max(1);
    // Output columns whose whole window lies inside the image.
    let reach = (r.kernel - 1) * r.dilation;
    let first = r.padding.div_ceil(r.stride).min(outputs);
    let end = match (r.width + r.padding).checked_sub(reach + 1) {
        Some(room) => (room / r.stride + 1).clamp(first, outputs),
        None => first,
    };
    let mut channel = 0;
    while channel < r.channels {
        // SAFETY: `channel` is inside; pixels are inside the row; `first..end` have whole windows; registers are loaded and
        // stored whole only where all their channels are there.
        unsafe {
            for o in (0..first).chain(end..outputs) {
                border::<V>(r, channel, o);
            }
            match channel + V::LANES <= r.channels {
                true => pixels::<V, true>(r, channel, first, end),
                false => pixels::<V, false>(r, channel, first, end),
            }
        }
        channel += V::LANES;
    }
}

/// Pixels `from..to`, whose windows lie inside.
#[inline(always)]
unsafe fn pixels<V: Vector, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_>,
    channel: usize,
    from: usize,
    to: usize,
) {
    let mut o = from;
    // SAFETY: see `run`.
    unsafe {
        while o + PIXELS <= to {
            inside::<V, PIXELS, WHOLE>(r, channel, o);
            o += PIXELS;
        }
        for o in o..to {
            inside::<V, 1, WHOLE>(r, channel, o);
        }
    }
}

/// `P` pixels from `o`, whose windows lie inside; `WHOLE` registers of channels.
#[inline(always)]
unsafe fn inside<V: Vector, const P: usize, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_>,
    channel: usize,
    o: usize,
) {
    let left = r.channels - channel;
    // SAFETY: see `run`.
    unsafe {
        let mut sums = [V::load(r.bias.as_ptr().add(channel)); P];
        for (ky, row) in r.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for kx in 0..r.kernel {
                let w = V::load(r.weights.as_ptr().add((ky * r.kernel + kx) * r.padded + channel));
                let at = o * r.stride + kx * r.dilation - r.padding;
                let x = r.x.as_ptr().add(row + at * r.channels + channel);
                for (p, sum) in sums.iter_mut().enumerate() {
                    let x = x.add(p * r.stride * r.channels);
                    let x = if WHOLE { V::load(x) } else { V::load_part(x, left) };
                    *sum = x.fma(w, *sum);
                }
            }
        }
        for (p, sum) in sums.into_iter().enumerate() {
            finish::<V, WHOLE>(r, sum, channel, o + p);
        }
    }
}

/// A pixel whose window hangs over an edge.
#[inline(always)]
unsafe fn border<V: Vector>(r: &mut DepthwiseRow<'_>, channel: usize, o: usize) {
    let left = r.channels - channel;
    // SAFETY: see `run`; columns outside are skipped.
    unsafe {
        let mut sum = V::load(r.bias.as_ptr().add(channel));
        for (ky, row) in r.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for kx in 0..r.kernel {
                let Some(at) = (o * r.stride + kx * r.dilation).checked_sub(r.padding) else { continue };
                if at >= r.width {
                    continue;
                }
                let w = V::load(r.weights.as_ptr().add((ky * r.kernel + kx) * r.padded + channel));
                let x = V::load_part(r.x.as_ptr().add(row + at * r.channels + channel), left);
                sum = x.fma(w, sum);
            }
        }
        finish::<V, false>(r, sum, channel, o);
    }
}

#[inline(always)]
unsafe fn finish<V: Vector, const WHOLE: bool>(
    r: &mut DepthwiseRow<'_>,
    mut sum: V,
    channel: usize,
    o: usize,
) {
    let (at, left) = (o * r.channels + channel, r.channels - channel);
    // SAFETY: see `run`.
    unsafe {
        if let Some(residual) = r.residual {
            sum = sum.add(V::load_part(residual.as_ptr().add(at), left));
        }
        let sum = sum.clamp(V::splat(r.clamp.0), V::splat(r.clamp.1));
        let out = r.out.as_mut_ptr().add(at);
        if WHOLE { sum.store(out) } else { sum.store_part(out, left) }
    }
}
