//! The numbers of a convolution, and the patches of an image in C order.

use std::ops::Range;

/// The numbers of a convolution with three spatial dimensions; fewer are padded with ones in front.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub groups: usize,
    /// Channels of the larger ("image") and the smaller ("columns") side, all groups.
    pub in_channels: usize,
    pub out_channels: usize,
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    /// Padding before each dimension.
    pub padding: [i64; 3],
}

fn three(v: &[i64], fill: i64) -> [i64; 3] {
    let mut out = [fill; 3];
    let n = v.len();
    out[3 - n..].copy_from_slice(v);
    out
}

fn sizes(v: &[usize]) -> [usize; 3] {
    let mut out = [1; 3];
    out[3 - v.len()..].copy_from_slice(v);
    out
}

impl Geometry {
    pub fn new(
        x: &[usize],
        w: &[usize],
        out: &[usize],
        stride: &[i64],
        padding: &[i64],
        dilation: &[i64],
        groups: i64,
    ) -> Geometry {
        let n = w.len() - 2;
        let first = x.len() - n;
        Geometry {
            batch: if first == 2 { x[0] } else { 1 },
            groups: groups as usize,
            in_channels: x[first - 1],
            out_channels: out[first - 1],
            input: sizes(&x[first..]),
            output: sizes(&out[first..]),
            kernel: sizes(&w[2..]),
            stride: three(stride, 1).map(|v| v as usize),
            dilation: three(dilation, 1).map(|v| v as usize),
            padding: three(padding, 0),
        }
    }

    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether each position of the result comes from the one of the image at its place.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && self.stride == [1; 3] && self.padding == [0; 3]
    }

    /// For output position `o` and tap `k` along dimension `d`: the input index, if inside.
    pub fn source(&self, d: usize, o: usize, k: usize) -> Option<usize> {
        let i = (o * self.stride[d] + k * self.dilation[d]) as i64 - self.padding[d];
        (0..self.input[d] as i64).contains(&i).then_some(i as usize)
    }

    /// The output positions along dimension `d` at which tap `k` lies inside.
    pub fn inside(&self, d: usize, k: usize) -> Range<usize> {
        let start = (0..self.output[d]).find(|&o| self.source(d, o, k).is_some()).unwrap_or(self.output[d]);
        let end = (start..self.output[d]).rev().find(|&o| self.source(d, o, k).is_some());
        start..end.map_or(start, |end| end + 1)
    }

    /// The lines of the image, of depth 1, that some rows of the result are made of.
    pub fn lines(&self, rows: Range<usize>) -> Range<usize> {
        let at = |row: usize, tap: usize| {
            let line = (row * self.stride[1] + tap * self.dilation[1]) as i64 - self.padding[1];
            line.clamp(0, self.input[1] as i64) as usize
        };
        let last = rows.end.saturating_sub(1);
        at(rows.start, 0)..(at(last, self.kernel[1] - 1) + 1).min(self.input[1])
    }

    /// Calls `f(row offset in columns, row offset in image, first and last column inside, image column step)` for every
    /// tap and every output row; columns outside are left alone.
    pub fn for_each_row(&self, mut f: impl FnMut(usize, usize, Range<usize>, usize, usize)) {
        let [_, kh, kw] = self.kernel;
        let [od, oh, ow] = self.output;
        for t in 0..self.taps() {
            let (a, b, c) = (t / (kh * kw), t / kw % kh, t % kw);
            let inside = self.inside(2, c);
            let Some(first) = self.source(2, inside.start, c) else { continue };
            for z in 0..od {
                let Some(iz) = self.source(0, z, a) else { continue };
                for y in 0..oh {
                    let Some(iy) = self.source(1, y, b) else { continue };
                    let row = (iz * self.input[1] + iy) * self.input[2];
                    f(t, (z * oh + y) * ow, inside.clone(), row + first, self.stride[2]);
                }
            }
        }
    }

    /// Patches of `channels` planes as a matrix `[channels · taps, output positions]`.
    pub fn columns(&self, image: &[f32], channels: usize, cols: &mut [f32]) {
        cols.fill(0.0);
        let (plane, positions): (usize, usize) = (self.input.iter().product(), self.output.iter().product());
        let taps = self.taps();
        self.for_each_row(|t, row, inside, from, step| {
            for ch in 0..channels {
                let base = (ch * taps + t) * positions + row;
                let to = &mut cols[base + inside.start..base + inside.end];
                let src = &image[ch * plane + from..];
                if step == 1 {
                    to.copy_from_slice(&src[..to.len()]);
                } else {
                    to.iter_mut().enumerate().for_each(|(i, o)| *o = src[i * step]);
                }
            }
        });
    }

    /// The inverse: adds every patch element to where it came from.
    pub fn scatter(&self, cols: &[f32], channels: usize, image: &mut [f32]) {
        let (plane, positions): (usize, usize) = (self.input.iter().product(), self.output.iter().product());
        let taps = self.taps();
        self.for_each_row(|t, row, inside, to, step| {
            for ch in 0..channels {
                let base = (ch * taps + t) * positions + row;
                let src = &cols[base + inside.start..base + inside.end];
                let place = &mut image[ch * plane + to..];
                src.iter().enumerate().for_each(|(i, v)| place[i * step] += v);
            }
        });
    }
}
