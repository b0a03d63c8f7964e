//! The right-hand side of a product, packed as the tile kernel reads it.

use crate::dense::gemm::Mat;
use crate::memory::Aligned;
use crate::simd::{Isa, WIDEST};

/// A matrix `[depth, columns]` as panels `[columns / width][depth][width]`; the last is padded with zeros.
#[derive(Debug)]
pub(crate) struct Panels {
    data: Aligned,
    pub width: usize,
    pub depth: usize,
    pub columns: usize,
}

impl Panels {
    /// None yet: memory for one matrix after another.
    pub fn empty(isa: Isa) -> Panels {
        Panels { data: Aligned::default(), width: isa.width(), depth: 0, columns: 0 }
    }

    /// Packs a matrix that stays.
    pub fn new(isa: Isa, b: Mat<'_>) -> Panels {
        let mut panels = Panels::empty(isa);
        panels.data = Aligned::lasting(panels.room(b.size));
        panels.pack(b);
        panels
    }

    /// How many bytes a matrix of `[depth, columns]` takes.
    fn room(&self, [depth, columns]: [usize; 2]) -> usize {
        columns.div_ceil(self.width) * depth * self.width * size_of::<f32>()
    }

    /// Packs another matrix into the same memory.
    pub fn pack(&mut self, b: Mat<'_>) {
        let ([depth, columns], [row, col]) = (b.size, b.strides);
        let width = self.width;
        (self.depth, self.columns) = (depth, columns);
        self.data.grow(self.room(b.size));
        for (p, panel) in self.data.f32_mut().chunks_exact_mut((depth * width).max(1)).enumerate() {
            let first = p * width;
            if first >= columns {
                break;
            }
            let n = width.min(columns - first);
            if n < width {
                panel.fill(0.0);
            }
            if col == 1 {
                for (k, line) in panel.chunks_exact_mut(width).enumerate() {
                    copy(&b.data[k * row + first..][..n], &mut line[..n]);
                }
                continue;
            }
            // Columns lie along memory: 16 of each at a time, so that what is written stays in the cache.
            for start in (0..depth).step_by(16) {
                let end = depth.min(start + 16);
                let lines = &mut panel[start * width..end * width];
                for j in 0..n {
                    let column = &b.data[(first + j) * col + start * row..];
                    let lines = lines.chunks_exact_mut(width);
                    match row {
                        1 => lines.zip(column).for_each(|(line, &v)| line[j] = v),
                        _ => lines.zip(column.iter().step_by(row.max(1))).for_each(|(line, &v)| line[j] = v),
                    }
                }
            }
        }
    }

    /// Packs the filter of a convolution, `[columns][channels][taps]`, with its rows in the order `taps`, `channels`.
    pub fn of_filter(isa: Isa, w: &[f32], columns: usize, channels: usize, taps: usize) -> Panels {
        let depth = channels * taps;
        let mut reordered = vec![0f32; depth * columns];
        for n in 0..columns {
            for c in 0..channels {
                for t in 0..taps {
                    reordered[(t * channels + c) * columns + n] = w[(n * channels + c) * taps + t];
                }
            }
        }
        Panels::new(isa, Mat::dense(&reordered, depth, columns))
    }

    /// How many bytes the panels take.
    pub fn bytes(&self) -> usize {
        self.room([self.depth, self.columns])
    }

    /// How many panels there are.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Panel `p`: `depth · width` elements.
    pub fn panel(&self, p: usize) -> &[f32] {
        &self.data.f32()[p * self.depth * self.width..][..self.depth * self.width]
    }
}

/// Copies, in pieces of a size that is known: a call for each would take longer.
fn copy(from: &[f32], to: &mut [f32]) {
    let ((from, rest), (to, last)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    last.copy_from_slice(rest);
}

/// A bias padded to whole panels; zeros when there is none.
pub(crate) fn padded_bias(bias: Option<&[f32]>, columns: usize) -> Aligned {
    let mut out = Aligned::floats(columns.next_multiple_of(WIDEST));
    if let Some(bias) = bias {
        out.f32_mut()[..columns].copy_from_slice(bias);
    }
    out
}
