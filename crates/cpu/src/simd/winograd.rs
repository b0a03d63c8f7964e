//! The two ends of Winograd's convolution F(2 × 2, 3 × 3): an image's patches of 4 × 4 pixels become 16 numbers a channel each, and
//! 16 sums a channel become 2 × 2 pixels of the result (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015).
//!
//! Patches and sums lie in 16 planes `[tiles][channels]`, one for each number.

use super::finish::{Finish, Floats};
use super::vector::{Portable, Vector};
use super::{Isa, Kind, ZEROS};

/// Numbers of a patch; also multiplications for each pair of channels.
pub(crate) const PLANES: usize = 16;

/// Pixels of a patch in each direction.
const PATCH: usize = 4;

/// The patches of a row of tiles: neighbours start two pixels apart.
#[derive(Debug)]
pub(crate) struct PatchRow<'a> {
    /// The lines of the image, `[width][channels]`, that patches reach; `None` outside of the image.
    pub lines: [Option<&'a [f32]>; PATCH],
    /// At most [`ZEROS`] has elements.
    pub channels: usize,
    /// Where the first patch starts: so many pixels left of the image.
    pub padding: usize,
    /// How many patches there are.
    pub tiles: usize,
    /// Where their numbers go: the first plane's from the start on, the next `plane` elements later.
    pub out: &'a mut [f32],
    pub plane: usize,
}

/// Computes `Bᵀ · d · B` for each patch `d`; whether all of the image that it read is finite.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn spread_patches(isa: Isa, mut p: PatchRow<'_>) -> bool {
    let line = p.lines.iter().flatten().next().map_or(0, |line| line.len());
    assert!(p.lines.iter().flatten().all(|other| other.len() == line));
    assert!(p.channels > 0 && p.channels <= ZEROS.len());
    assert!(p.tiles * p.channels <= p.plane && p.out.len() >= (PLANES - 1) * p.plane + p.tiles * p.channels);
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `spread` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => spread_avx512(&mut p, line),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => spread_avx2(&mut p, line),
            Kind::Portable => spread::<Portable>(&mut p, line),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn spread_avx512(p: &mut PatchRow<'_>, line: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { spread::<super::vector::Avx512>(p, line) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn spread_avx2(p: &mut PatchRow<'_>, line: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { spread::<super::vector::Avx2>(p, line) }
}

#[inline(always)]
unsafe fn spread<V: Vector>(p: &mut PatchRow<'_>, line: usize) -> bool {
    let width = line / p.channels;
    let mut finite = true;
    for tile in 0..p.tiles {
        let mut pixels = [[ZEROS.as_ptr(); PATCH]; PATCH];
        for (pixels, line) in pixels.iter_mut().zip(p.lines) {
            let Some(line) = line else { continue };
            for (column, pixel) in pixels.iter_mut().enumerate() {
                let at = (2 * tile + column).wrapping_sub(p.padding);
                if at < width {
                    *pixel = line[at * p.channels..].as_ptr();
                }
            }
        }
        // SAFETY: each pixel has so many channels, and the result has room for each patch; see `spread_patches`.
        unsafe {
            let out = p.out.as_mut_ptr().add(tile * p.channels);
            let mut channel = 0;
            // Zeros, until something is not finite.
            let mut zeros = V::splat(0.0);
            while channel + V::LANES <= p.channels {
                spread_one::<V, true>(&pixels, channel, V::LANES, out, p.plane, &mut zeros);
                channel += V::LANES;
            }
            if channel < p.channels {
                spread_one::<V, false>(&pixels, channel, p.channels - channel, out, p.plane, &mut zeros);
            }
            finite &= zeros.all_zero();
        }
    }
    finite
}

/// `left` channels of a patch from `channel` on, `WHOLE` registers or fewer. Written without closures, which the compiler would leave
/// outside.
#[inline(always)]
unsafe fn spread_one<V: Vector, const WHOLE: bool>(
    pixels: &[[*const f32; PATCH]; PATCH],
    channel: usize,
    left: usize,
    out: *mut f32,
    plane: usize,
    zeros: &mut V,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut d = [[V::splat(0.0); PATCH]; PATCH];
        for (d, pixels) in d.iter_mut().zip(pixels) {
            for (d, pixel) in d.iter_mut().zip(pixels) {
                let pixel = pixel.add(channel);
                *d = if WHOLE { V::load(pixel) } else { V::load_part(pixel, left) };
            }
            let sum = d[0].add(d[1]).add(d[2].add(d[3]));
            *zeros = sum.fma(V::splat(0.0), *zeros);
        }
        let mut rows = [[V::splat(0.0); PATCH]; PATCH];
        for i in 0..PATCH {
            let column = spread_four([d[0][i], d[1][i], d[2][i], d[3][i]]);
            for (row, v) in rows.iter_mut().zip(column) {
                row[i] = v;
            }
        }
        for (y, row) in rows.into_iter().enumerate() {
            for (x, v) in spread_four(row).into_iter().enumerate() {
                let out = out.add((y * PATCH + x) * plane + channel);
                if WHOLE { v.store(out) } else { v.store_part(out, left) }
            }
        }
    }
}

/// `Bᵀ · d`.
#[inline(always)]
unsafe fn spread_four<V: Vector>([a, b, c, d]: [V; PATCH]) -> [V; PATCH] {
    // SAFETY: the caller's.
    unsafe { [a.sub(c), b.add(c), c.sub(b), b.sub(d)] }
}

/// The sums of a row of tiles, which become one or two rows of the result.
#[derive(Debug)]
pub(crate) struct SumRow<'a> {
    /// The first plane's from the start on, the next `plane` elements later.
    pub sums: &'a [f32],
    pub plane: usize,
    pub channels: usize,
    /// Width of the result.
    pub width: usize,
    /// Rows of the result: one or two.
    pub rows: usize,
    /// At least as many elements as there are channels, rounded up to whole registers.
    pub bias: &'a [f32],
}

/// Computes `Aᵀ · m · A + bias` for the sums `m` of each tile. `to`: what becomes of these pixels; the result starts at the first.
///
/// # Panics
/// When slices are too short for what the other fields say: a bug of the caller.
pub(crate) fn gather_pixels<const SEE: bool>(isa: Isa, s: SumRow<'_>, mut to: Floats<'_, SEE>) {
    let (tiles, pixels) = (s.width.div_ceil(2), s.rows * s.width * s.channels);
    assert!(s.channels > 0 && (1..=2).contains(&s.rows));
    assert!(s.bias.len() >= s.channels.next_multiple_of(16));
    assert!(s.sums.len() >= (PLANES - 1) * s.plane + tiles * s.channels);
    assert!(to.out.len() >= pixels && to.residual.is_none_or(|r| r.len() >= pixels));
    // SAFETY: an `Isa` exists only where its features were detected; the checks above are what `gather` asks for.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => gather_avx512(&s, &mut to),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => gather_avx2(&s, &mut to),
            Kind::Portable => gather::<Portable, SEE>(&s, &mut to),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn gather_avx512<const SEE: bool>(s: &SumRow<'_>, to: &mut Floats<'_, SEE>) {
    // SAFETY: the caller's.
    unsafe { gather::<super::vector::Avx512, SEE>(s, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn gather_avx2<const SEE: bool>(s: &SumRow<'_>, to: &mut Floats<'_, SEE>) {
    // SAFETY: the caller's.
    unsafe { gather::<super::vector::Avx2, SEE>(s, to) }
}

#[inline(always)]
unsafe fn gather<V: Vector, const SEE: bool>(s: &SumRow<'_>, to: &mut Floats<'_, SEE>) {
    let row = s.width * s.channels;
    for tile in 0..s.width.div_ceil(2) {
        let (first, whole) = (2 * tile * s.channels, 2 * tile + 1 < s.width && s.rows == 2);
        let mut channel = 0;
        while channel < s.channels {
            let left = s.channels - channel;
            // SAFETY: sums and bias reach as far as `gather_pixels` has checked; registers are read and written whole only where
            // all their channels are there.
            unsafe {
                let sums = s.sums.as_ptr().add(tile * s.channels + channel);
                let bias = V::load(s.bias.as_ptr().add(channel));
                let at = first + channel;
                let pixels = match left >= V::LANES {
                    true => gather_one::<V, true>(sums, s.plane, left, bias),
                    false => gather_one::<V, false>(sums, s.plane, left, bias),
                };
                if whole {
                    let [[a, b], [c, d]] = pixels;
                    to.store([[a], [b]], at, s.channels, channel, left);
                    to.store([[c], [d]], at + row, s.channels, channel, left);
                } else {
                    for (y, pixels) in pixels.into_iter().enumerate().take(s.rows) {
                        for (x, pixel) in pixels.into_iter().enumerate().take(s.width - 2 * tile) {
                            to.store([[pixel]], at + y * row + x * s.channels, 0, channel, left);
                        }
                    }
                }
            }
            channel += V::LANES;
        }
    }
}

/// One register of channels of a tile: two rows of two pixels.
#[inline(always)]
unsafe fn gather_one<V: Vector, const WHOLE: bool>(
    sums: *const f32,
    plane: usize,
    left: usize,
    bias: V,
) -> [[V; 2]; 2] {
    // SAFETY: the caller's.
    unsafe {
        let mut rows = [[V::splat(0.0); PATCH]; 2];
        for x in 0..PATCH {
            let mut m = [V::splat(0.0); PATCH];
            for (y, m) in m.iter_mut().enumerate() {
                let from = sums.add((y * PATCH + x) * plane);
                *m = if WHOLE { V::load(from) } else { V::load_part(from, left) };
            }
            let [upper, lower] = gather_two(m);
            (rows[0][x], rows[1][x]) = (upper, lower);
        }
        let ([a, b], [c, d]) = (gather_two(rows[0]), gather_two(rows[1]));
        [[a.add(bias), b.add(bias)], [c.add(bias), d.add(bias)]]
    }
}

/// `Aᵀ · m`.
#[inline(always)]
unsafe fn gather_two<V: Vector>([a, b, c, d]: [V; PATCH]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe { [a.add(b).add(c), b.sub(c).sub(d)] }
}
