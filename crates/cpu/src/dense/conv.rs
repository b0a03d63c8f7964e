//! Convolutions of images, `[batch][depth][height][width][channels]`, without copying patches.

use super::Epilogue;
use super::blocks::{Places, Rows, product, product_by_columns, rows_together, shares_columns};
use super::geometry::Geometry;
use super::panels::{Panels, padded_bias};
use super::winograd::{self, Winograd};
use crate::memory::{Aligned, Scratch};
use crate::parallel::Threads;
use crate::simd::{DepthwiseRow, Floats, Isa, OUTSIDE, Seen, WIDEST, depthwise_row};
use lowbit_core::Tensor;
use std::ops::Range;
use std::sync::OnceLock;

/// The longest piece of padding that the tile kernel has zeros for.
const LONGEST: usize = 4096;

/// Images of at most this many channels are copied with their side borders, so that a filter row is one piece.
const FEW_CHANNELS: usize = 16;

/// An image that is convolved, or several.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Image<'a> {
    /// Dense.
    pub elements: &'a [f32],
    /// Whether the channels are planes, `[batch][channels][depth][height][width]`, which filters that
    /// [copy lines](Filter::copies_lines) take as well. They are put last on the way.
    pub planes: bool,
}

/// Bytes of the first-level cache for lines that the rows of a depthwise convolution share.
const SHARED: usize = 20 * 1024;

/// Channels of a pixel that are at least to be read together: with fewer, memory comes in pieces that are too small.
const TOGETHER: usize = 96;

/// The packed weights of a convolution; of the image's size they depend only on whether [`Filter::transforms`] it.
#[derive(Debug)]
pub(crate) struct Filter {
    weights: Weights,
    bias: Vec<Aligned>,
}

#[derive(Debug)]
enum Weights {
    /// `[taps][padded channels]`
    Depthwise(Aligned, usize),
    /// One for each group.
    Dense(Vec<Panels>),
    /// Transformed, and what they come from: images that are not finite are convolved with these.
    Winograd(Winograd, Tensor, OnceLock<Vec<Panels>>),
}

impl Filter {
    /// Whether a convolution is computed with transformed weights.
    pub fn transforms(g: &Geometry) -> bool {
        winograd::suits(g)
    }

    /// Packs weights `[out channels, in channels / groups, taps…]`; `None` where only the general kernel can convolve.
    pub fn new(isa: Isa, g: &Geometry, weight: &Tensor, bias: Option<&[f32]>) -> Option<Filter> {
        let w = &*weight.to_f32();
        let (ic, oc, taps) = (g.in_channels / g.groups, g.out_channels / g.groups, g.taps());
        let padded = g.padding != [0; 3];
        if w.is_empty() || g.padding.iter().any(|&p| p < 0) || padded && ic > LONGEST {
            return None;
        }
        if ic == 1 && oc == 1 {
            let channels = g.out_channels.next_multiple_of(16);
            let mut weights = Aligned::lasting(taps * channels * size_of::<f32>());
            for (i, &v) in w.iter().enumerate() {
                weights.f32_mut()[i % taps * channels + i / taps] = v;
            }
            let mut b = Aligned::floats(channels);
            if let Some(bias) = bias {
                b.f32_mut()[..bias.len()].copy_from_slice(bias);
            }
            return Some(Filter { weights: Weights::Depthwise(weights, channels), bias: vec![b] });
        }
        let bias = (0..g.groups).map(|i| padded_bias(bias.map(|b| &b[i * oc..][..oc]), oc)).collect();
        let transformed = Filter::transforms(g).then(|| Winograd::new(isa, g, w)).flatten();
        let weights = match transformed {
            Some(transformed) => Weights::Winograd(transformed, weight.clone(), OnceLock::new()),
            None => Weights::Dense(dense_panels(isa, g, w)),
        };
        Some(Filter { weights, bias })
    }

    /// Whether these weights are transformed: then images are convolved as a whole.
    pub fn is_transformed(&self) -> bool {
        matches!(self.weights, Weights::Winograd(..))
    }

    /// Whether images are copied line by line, with their borders: then their channels may be planes.
    pub fn copies_lines(&self, g: &Geometry) -> bool {
        matches!(self.weights, Weights::Dense(_)) && reads_rows(g) && g.padding[2] > 0
    }
}

/// Whether a filter row is one piece of an image's line, whose borders are copied if it has any.
fn reads_rows(g: &Geometry) -> bool {
    let (channels, kernel) = (g.in_channels, g.kernel[2]);
    let is_one = kernel > 1 && g.dilation[2] == 1 && g.groups == 1 && kernel * channels <= LONGEST;
    is_one && (g.padding[2] == 0 || channels <= FEW_CHANNELS)
}

/// Panels of dense weights, for each group.
fn dense_panels(isa: Isa, g: &Geometry, w: &[f32]) -> Vec<Panels> {
    let (ic, oc, taps) = (g.in_channels / g.groups, g.out_channels / g.groups, g.taps());
    w.chunks_exact(oc * ic * taps).map(|w| Panels::of_filter(isa, w, oc, ic, taps)).collect()
}

/// Convolves `x` into `out`, which is dense and channels last.
pub(crate) fn convolve(
    isa: Isa,
    threads: &Threads,
    g: &Geometry,
    filter: &Filter,
    x: Image<'_>,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let image = g.input.iter().product::<usize>() * g.in_channels;
    let result = g.output.iter().product::<usize>() * g.out_channels;
    if image == 0 || result == 0 {
        return;
    }
    let images = x.elements.chunks_exact(image).zip(out.chunks_exact_mut(result)).take(g.batch);
    for (i, (elements, out)) in images.enumerate() {
        let x = Image { elements, ..x };
        let residual = epilogue.residual.map(|r| &r[i * result..][..result]);
        convolve_rows(isa, threads, g, filter, x, 0, out, Epilogue { residual, ..epilogue });
    }
}

/// Convolves one image, into all rows of the result or, unless the filter [is transformed](Filter::is_transformed) or has depth, some
/// from `first` on. `x` may hold only the lines that these are made of, or some more: line `y` is the `y`th, counted on from the first
/// again. What a filter of one pixel reads is one piece.
pub(crate) fn convolve_rows(
    isa: Isa,
    threads: &Threads,
    g: &Geometry,
    filter: &Filter,
    x: Image<'_>,
    first: usize,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let bias = &filter.bias;
    let first = first * g.output[2];
    match &filter.weights {
        Weights::Depthwise(weights, padded) => {
            let row = g.output[2] * g.out_channels;
            let part = parts(out.len(), row, threads.count());
            let work = out.chunks_mut(part).enumerate();
            threads.for_each(
                work,
                || (),
                |(), (i, out)| {
                    let residual = epilogue.residual.map(|r| &r[i * part..][..out.len()]);
                    let (epilogue, first) =
                        (Epilogue { residual, ..epilogue }, first + i * part / g.out_channels);
                    let depthwise = match epilogue.watch {
                        Some(_) => depthwise::<true>,
                        None => depthwise::<false>,
                    };
                    depthwise(isa, g, weights, *padded, &bias[0], x.elements, first, out, epilogue);
                },
            );
        }
        Weights::Dense(groups) => dense(isa, threads, g, groups, bias, x, first, out, epilogue),
        Weights::Winograd(transformed, weight, direct) => {
            if !transformed.convolve(isa, threads, g, bias[0].f32(), x.elements, out, epilogue) {
                let groups = direct.get_or_init(|| dense_panels(isa, g, &weight.to_f32()));
                dense(isa, threads, g, groups, bias, x, first, out, epilogue);
            }
        }
    }
}

/// The size of parts of `len` elements, whole `unit`s, so that `threads` have a few each.
fn parts(len: usize, unit: usize, threads: usize) -> usize {
    if threads < 2 {
        return len.max(1);
    }
    len.div_ceil(unit * threads * 2).max(1) * unit
}

fn depthwise<const SEE: bool>(
    isa: Isa,
    g: &Geometry,
    weights: &Aligned,
    padded: usize,
    bias: &Aligned,
    x: &[f32],
    first: usize,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let [kd, kh, kw] = g.kernel;
    let line = g.input[2] * g.in_channels;
    // Of short lines, some channels after the others: what a row reads of these is still in the first-level cache for the next row.
    let together = SHARED / size_of::<f32>() / (kd * kh * g.input[2]) / WIDEST * WIDEST;
    let step = if together < TOGETHER { g.in_channels } else { together };
    let mut rows = vec![None; kd * kh];
    let mut seen = Seen::NOTHING;
    for channel in (0..g.in_channels).step_by(step) {
        for (i, out) in out.chunks_exact_mut(g.output[2] * g.out_channels).enumerate() {
            let residual = epilogue.residual.map(|r| &r[i * out.len()..][..out.len()]);
            let i = first / g.output[2] + i;
            let (z, y) = (i / g.output[1], i % g.output[1]);
            for (t, row) in rows.iter_mut().enumerate() {
                let source = g.source(0, z, t / kh).zip(g.source(1, y, t % kh));
                *row = source.map(|(z, y)| place(z * g.input[1] + y, x.len() / line) * line);
            }
            // The lines behind those of this row: the next row reads as many as it lies below.
            let below = rows.iter().flatten().max().map_or(x.len(), |&last| (last + line).min(x.len()));
            let next = &x[below..x.len().min(below + g.stride[1] * line)];
            let row = DepthwiseRow {
                x,
                rows: &rows,
                next: if step < g.in_channels { &[] } else { next },
                channels: g.in_channels,
                some: channel..g.in_channels.min(channel + step),
                width: g.input[2],
                kernel: kw,
                stride: g.stride[2],
                dilation: g.dilation[2],
                padding: g.padding[2] as usize,
                weights: weights.f32(),
                bias: bias.f32(),
                padded,
                finish: Floats::<SEE> { out, residual, clamp: epilogue.clamp, seen: &mut seen },
            };
            depthwise_row(isa, row);
        }
    }
    if let Some(watch) = epilogue.watch {
        watch.add(seen.bits());
    }
}

/// Where the pieces of a window lie.
struct Windows<'a> {
    g: &'a Geometry,
    /// Distance of image rows, and how many of them are held: line `y` is the `y`th, counted on from the first again.
    line: usize,
    held: usize,
    /// Distance of pixels.
    pixel: usize,
    /// For each piece of a filter row: the result's columns at which it lies inside of the image, and where it lies at column 0, in
    /// pixels from where the image row starts.
    pieces: Vec<(Range<usize>, i64)>,
}

impl<'a> Windows<'a> {
    /// `rows`: a piece is a filter row (its pixels lie behind one another) rather than a pixel. `shift`: how far the image was moved
    /// right by its copied border.
    fn new(g: &'a Geometry, (line, held): (usize, usize), rows: bool, shift: i64) -> Self {
        let first = |k: usize| (k * g.dilation[2]) as i64 - g.padding[2] + shift;
        let pieces = match rows {
            true => vec![(0..g.output[2], first(0))],
            false => (0..g.kernel[2]).map(|k| (g.inside(2, k), first(k))).collect(),
        };
        Windows { g, line, held, pixel: g.in_channels, pieces }
    }

    fn taps(&self) -> usize {
        self.g.kernel[0] * self.g.kernel[1] * self.pieces.len()
    }

    /// The offsets of all pieces for output positions `first..first + n`: entry `tap·n + i`.
    fn fill(&self, first: usize, n: usize, offsets: &mut [usize]) {
        let (g, across) = (self.g, self.pieces.len());
        let [_, height, width] = g.output;
        offsets.fill(OUTSIDE);
        // Position by position would take a fifth of the time of a filter with few channels: rows, or what is left of them.
        let mut from = first;
        while from < first + n {
            let (row, x) = (from / width, from % width);
            let end = width.min(x + first + n - from);
            for (t, offsets) in offsets.chunks_exact_mut(n).enumerate() {
                let (a, b) = (t / (g.kernel[1] * across), t / across % g.kernel[1]);
                let source = g.source(0, row / height, a).zip(g.source(1, row % height, b));
                let Some((iz, iy)) = source else { continue };
                let (inside, column) = &self.pieces[t % across];
                let (x, end) = (x.max(inside.start), end.min(inside.end));
                let line = place(iz * g.input[1] + iy, self.held) * self.line;
                let line = line as i64 + column * self.pixel as i64;
                for x in x..end {
                    let at = line + (x * g.stride[2] * self.pixel) as i64;
                    offsets[row * width + x - first] = at as usize;
                }
            }
            from += end - x;
        }
    }
}

/// Positions of the result from `first` on, whole rows of them.
fn dense(
    isa: Isa,
    threads: &Threads,
    g: &Geometry,
    groups: &[Panels],
    bias: &[Aligned],
    x: Image<'_>,
    first: usize,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let (ic, oc, rows) = (g.in_channels / g.groups, g.out_channels / g.groups, reads_rows(g));
    let positions = out.len() / g.out_channels;
    let mut scratch = None;
    let (x, line, shift) = match rows && g.padding[2] > 0 {
        true => {
            let all = g.input[0] * g.input[1];
            let lines = match all == g.input[1] && g.output[0] == 1 {
                true => g.lines(first / g.output[2]..(first + positions) / g.output[2]),
                false => 0..all,
            };
            let x = with_side_borders(isa, g, x, lines, &mut scratch);
            (x, x.len() / all, g.padding[2])
        }
        false => (x.elements, g.input[2] * g.in_channels, 0),
    };
    let windows = Windows::new(g, (line, x.len() / line), rows, shift);
    let taps = windows.taps();
    let list = |row: usize, count: usize, list: &mut [usize]| windows.fill(row, count, list);
    let (places, first) = match g.is_pointwise() {
        true => (Places::Apart(g.in_channels), first % (x.len() / g.in_channels)),
        false => (Places::Listed(&list), first),
    };
    let rows = |group: usize, from: usize| Rows {
        x: &x[group * ic..],
        first: first + from,
        pieces: taps,
        depth: groups[group].depth / taps,
        places,
    };
    if g.groups == 1 && shares_columns(isa, threads, positions) {
        product_by_columns(isa, threads, rows(0, 0), &groups[0], bias[0].f32(), out, epilogue);
        return;
    }
    let part = rows_together(isa, threads, positions, &groups[0]) * g.out_channels;
    let work = out.chunks_mut(part.max(1)).enumerate();
    threads.for_each(
        work,
        || (),
        |(), (i, out)| {
            let residual = epilogue.residual.map(|r| &r[i * part..][..out.len()]);
            let (epilogue, from) = (Epilogue { residual, ..epilogue }, i * part / g.out_channels);
            for (group, panels) in groups.iter().enumerate() {
                let (all, column, bias) = (0..panels.count(), group * oc, bias[group].f32());
                let rows = rows(group, from);
                product(isa, rows, panels, all, bias, column, g.out_channels, out, epilogue);
            }
        },
    );
}

/// Where a line is among those that are held: these are counted on from the first again.
fn place(line: usize, held: usize) -> usize {
    // Most often all are, and to divide takes long.
    if line < held { line } else { line % held }
}

/// The image, channels last, with zeros left and right of each row, as wide as the last window reaches.
fn with_side_borders<'a>(
    isa: Isa,
    g: &Geometry,
    x: Image<'_>,
    lines: Range<usize>,
    scratch: &'a mut Option<Scratch>,
) -> &'a [f32] {
    let (line, left) = (g.input[2] * g.in_channels, g.padding[2] as usize * g.in_channels);
    let reach = ((g.output[2] - 1) * g.stride[2] + g.kernel[2]) * g.in_channels;
    let wide = reach.max(left + line);
    let size = g.input[0] * g.input[1] * wide;
    let out = &mut scratch.insert(Scratch::of(size * size_of::<f32>())).f32_mut()[..size];
    let Image { elements, planes } = x;
    let held = elements.len() / line;
    for (y, to) in out.chunks_exact_mut(wide).enumerate().take(lines.end).skip(lines.start) {
        let y = place(y, held);
        to[..left].fill(0.0);
        let inner = &mut to[left..left + line];
        match planes {
            true => {
                let (row, plane) = (g.input[2], elements.len() / g.in_channels);
                let channel = |c: usize| &elements[c * plane + y * row..][..row];
                put_last(isa, channel, g.in_channels, inner);
            }
            false => inner.copy_from_slice(&elements[y * line..][..line]),
        }
        to[left + line..].fill(0.0);
    }
    out
}

/// Puts rows of `count` channels behind one another pixel by pixel.
fn put_last<'a>(isa: Isa, channel: impl Fn(usize) -> &'a [f32], count: usize, to: &mut [f32]) {
    if count == 3 {
        isa.vectorize(
            #[inline(always)]
            || interleave(std::array::from_fn(channel), to),
        );
        return;
    }
    for c in 0..count {
        to[c..].iter_mut().step_by(count).zip(channel(c)).for_each(|(to, from)| *to = *from);
    }
}

/// The three channels of a picture, pixel by pixel. Compilers find the instructions for it in this form.
#[inline(always)]
pub(crate) fn interleave<T: Copy>([a, b, c]: [&[T]; 3], to: &mut [T]) {
    let pixels = a.iter().zip(b).zip(c);
    to.as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(to, ((a, b), c))| *to = [*a, *b, *c]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::Watch;
    use crate::simd::Stages;
    use lowbit_core::quant::observer::extremes;

    fn reference(g: &Geometry, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
        let (ic, oc) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let [kd, kh, kw] = g.kernel;
        let mut out = vec![];
        for b in 0..g.batch {
            for o in 0..g.output.iter().product::<usize>() {
                let (z, y, u) =
                    (o / (g.output[1] * g.output[2]), o / g.output[2] % g.output[1], o % g.output[2]);
                for n in 0..g.out_channels {
                    let mut sum = bias[n];
                    for t in 0..kd * kh * kw {
                        let at = [(0, z, t / (kh * kw)), (1, y, t / kw % kh), (2, u, t % kw)];
                        let [Some(iz), Some(iy), Some(ix)] = at.map(|(d, o, k)| g.source(d, o, k)) else {
                            continue;
                        };
                        let pixel = ((b * g.input[0] + iz) * g.input[1] + iy) * g.input[2] + ix;
                        for c in 0..ic {
                            let a = x[pixel * g.in_channels + n / oc * ic + c];
                            sum = a.mul_add(w[(n * ic + c) * g.taps() + t], sum);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    #[test]
    fn every_instruction_set_and_path_computes_the_same_bits() {
        // batch, groups, in, out, input, kernel, stride, dilation, padding
        type Case = (usize, usize, usize, usize, [usize; 3], [usize; 3], usize, usize, usize);
        let cases: &[Case] = &[
            (1, 1, 8, 40, [1, 7, 9], [1, 1, 1], 1, 1, 0),
            (2, 1, 3, 16, [1, 9, 8], [1, 3, 3], 2, 1, 1),
            (1, 1, 20, 33, [1, 6, 7], [1, 3, 3], 1, 1, 1),
            (1, 1, 18, 5, [1, 9, 9], [1, 3, 3], 1, 2, 2),
            (1, 2, 8, 6, [1, 5, 5], [1, 3, 3], 1, 1, 1),
            (2, 20, 20, 20, [1, 10, 11], [1, 3, 3], 1, 1, 1),
            (1, 17, 17, 17, [1, 10, 16], [1, 5, 5], 2, 1, 2),
            (1, 44, 44, 44, [1, 9, 14], [1, 3, 3], 2, 1, 1),
            (1, 24, 24, 24, [1, 6, 5], [1, 5, 5], 1, 1, 2),
            (1, 9, 9, 9, [1, 4, 3], [1, 3, 3], 1, 1, 1),
            (1, 6, 6, 6, [3, 5, 6], [3, 3, 3], 1, 1, 1),
            (1, 4, 4, 8, [1, 1, 12], [1, 1, 4], 1, 2, 3),
            (1, 1, 2, 3, [4, 5, 6], [2, 3, 2], 1, 1, 1),
            (1, 200, 200, 200, [1, 5, 6], [1, 3, 3], 1, 1, 1),
            (1, 203, 203, 203, [1, 7, 7], [1, 3, 3], 2, 1, 1),
        ];
        let mut planar = 0;
        for &(batch, groups, ic, oc, input, kernel, stride, dilation, padding) in cases {
            let one = |d: usize, v: usize| {
                if kernel[d] == 1 && input[d] == 1 { [1, 0][v] } else { [stride, padding][v] }
            };
            let (stride, padding): ([usize; 3], [usize; 3]) =
                (std::array::from_fn(|d| one(d, 0)), std::array::from_fn(|d| one(d, 1)));
            let output = std::array::from_fn(|d| {
                (input[d] + 2 * padding[d] - dilation * (kernel[d] - 1) - 1) / stride[d] + 1
            });
            let g = Geometry {
                batch,
                groups,
                in_channels: ic,
                out_channels: oc,
                input,
                output,
                kernel,
                stride,
                dilation: [dilation; 3],
                padding: padding.map(|p| p as i64),
            };
            let fill = |n: usize, step: usize| -> Vec<f32> {
                (0..n).map(|i| ((i * step) % 101) as f32 / 37.0 - 1.3).collect()
            };
            let x = fill(batch * input.iter().product::<usize>() * ic, 7);
            let w = fill(oc * (ic / groups) * g.taps(), 11);
            let weight = Tensor::new(&[w.len()], w.clone()).unwrap();
            let bias = fill(oc, 3);
            let want = reference(&g, &x, &w, &bias);
            let residual = fill(want.len(), 5);
            let three = Threads::new(3).unwrap();
            let (last, pixels) = (Image { elements: &x, planes: false }, x.len() / batch / ic);
            let channel = |i: usize| x[i / ic * pixels * ic..][..pixels * ic].iter().skip(i % ic).step_by(ic);
            let elements: Vec<f32> = (0..batch * ic).flat_map(channel).copied().collect();
            let planes = Image { elements: &elements, planes: true };
            for isa in Isa::available() {
                let filter = Filter::new(isa, &g, &weight, Some(&bias)).unwrap();
                let mut out = vec![f32::NAN; want.len()];
                convolve(isa, &Threads::default(), &g, &filter, last, &mut out, Epilogue::NONE);
                assert_eq!(out, want, "{isa:?} {g:?}");
                if filter.copies_lines(&g) {
                    out.fill(f32::NAN);
                    convolve(isa, &three, &g, &filter, planes, &mut out, Epilogue::NONE);
                    assert_eq!(out, want, "{isa:?} {g:?}");
                    planar += 1;
                }
                let watch = Watch::default();
                let epilogue = Epilogue { residual: Some(&residual), clamp: (0.0, 1.0), watch: Some(&watch) };
                convolve(isa, &three, &g, &filter, last, &mut out, epilogue);
                let added: Vec<f32> = want.iter().zip(&residual).map(|(a, b)| a + b).collect();
                let bounded: Vec<f32> = added.iter().map(|x| x.clamp(0.0, 1.0)).collect();
                assert_eq!(out, bounded, "{isa:?} {g:?}");
                let known = |x: &[f32]| Some(extremes(x)).filter(|_| x.iter().any(|&x| x < 0.0));
                let seen = Stages { sums: known(&want), results: known(&added) };
                assert_eq!(watch.extremes(), seen, "{isa:?} {g:?}");
            }
        }
        // Three channels, and two of an image with depth.
        assert_eq!(planar, 2 * Isa::available().len());
    }
}
