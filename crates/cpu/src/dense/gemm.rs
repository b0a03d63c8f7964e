//! Matrix products.

use super::Epilogue;
use super::blocks::{Places, Rows, product, product_by_columns, rows_together, shares_columns};
use super::panels::{Panels, padded_bias};
use crate::kernel::KernelError;
use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::simd::Isa;

/// A matrix in a slice: element `(i, j)` is `data[i · row + j · col]`.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Mat<'a> {
    /// Elements.
    pub data: &'a [f32],
    /// Number of rows and columns.
    pub size: [usize; 2],
    /// Distance of rows and of columns.
    pub strides: [usize; 2],
}

impl<'a> Mat<'a> {
    /// Rows behind one another.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat { data, size: [rows, cols], strides: [cols, 1] }
    }

    /// The transpose, without moving data.
    pub fn t(self) -> Self {
        let ([r, c], [rs, cs]) = (self.size, self.strides);
        Mat { data: self.data, size: [c, r], strides: [cs, rs] }
    }

    /// Whether every element is inside the slice.
    fn fits(&self) -> bool {
        let [r, c] = self.size;
        r == 0 || c == 0 || (r - 1) * self.strides[0] + (c - 1) * self.strides[1] < self.data.len()
    }
}

/// `out = a · b`, dense.
///
/// # Errors
/// When sizes do not fit (a bug of the caller).
pub(crate) fn gemm(isa: Isa, a: Mat<'_>, b: Mat<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let ([m, k], [depth, n]) = (a.size, b.size);
    if k != depth || !a.fits() || !b.fits() || out.len() < m * n {
        return Err(KernelError(format!("matrix product {:?} x {:?}: sizes do not fit", a.size, b.size)));
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    // Packing costs more than it saves on tiny products.
    if k == 0 || m * k * n <= 2048 {
        for (i, row) in out.chunks_exact_mut(n).take(m).enumerate() {
            for (j, o) in row.iter_mut().enumerate() {
                *o = (0..k)
                    .map(|p| {
                        a.data[i * a.strides[0] + p * a.strides[1]]
                            * b.data[p * b.strides[0] + j * b.strides[1]]
                    })
                    .sum();
            }
        }
        return Ok(());
    }
    let dense: Vec<f32>;
    let (rows, stride) = if a.strides[1] == 1 {
        (a.data, a.strides[0])
    } else {
        dense = (0..m * k).map(|i| a.data[i / k * a.strides[0] + i % k * a.strides[1]]).collect();
        (&dense[..], k)
    };
    let mut panels = Panels::empty(isa);
    panels.pack(b);
    multiply(isa, Threads::ALONE, rows, m, stride, &panels, &padded_bias(None, n), out, Epilogue::NONE);
    Ok(())
}

/// `out = x · panels + bias`, and the epilogue; `x` has `m` rows `stride` apart, `out` is dense.
pub(crate) fn multiply(
    isa: Isa,
    threads: &Threads,
    x: &[f32],
    m: usize,
    stride: usize,
    panels: &Panels,
    bias: &Aligned,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let columns = panels.columns;
    let rows = |first| Rows { x, first, pieces: 1, depth: panels.depth, places: Places::Apart(stride) };
    if shares_columns(isa, threads, m) {
        let rows = rows(0);
        product_by_columns(isa, threads, rows, panels, bias.f32(), &mut out[..m * columns], epilogue);
        return;
    }
    let part = rows_together(isa, threads, m, panels) * columns;
    let work = out[..m * columns].chunks_mut(part.max(1)).enumerate();
    threads.for_each(
        work,
        || (),
        |(), (i, out)| {
            let residual = epilogue.residual.map(|r| &r[i * part..][..out.len()]);
            let rows = rows(i * part / columns);
            let (all, epilogue) = (0..panels.count(), Epilogue { residual, ..epilogue });
            product(isa, rows, panels, all, bias.f32(), 0, columns, out, epilogue);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_and_odd_sizes() {
        for isa in Isa::available() {
            for (m, k, n) in [(1, 1, 1), (3, 50, 33), (29, 17, 64), (40, 3, 31), (9, 700, 45), (100, 300, 16)]
            {
                let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
                let b: Vec<f32> = (0..k * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
                let want: Vec<f32> =
                    (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum()).collect();
                let mut out = vec![0.0; m * n];
                gemm(isa, Mat::dense(&a, m, k), Mat::dense(&b, k, n), &mut out).unwrap();
                assert_eq!(out, want);
                // Sums of small integers are exact in any order.
                let at: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
                let bt: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
                gemm(isa, Mat::dense(&at, k, m).t(), Mat::dense(&bt, n, k).t(), &mut out).unwrap();
                assert_eq!(out, want);
            }
        }
    }

    #[test]
    fn wrong_sizes_are_an_error() {
        let a = [0.0; 6];
        assert!(gemm(Isa::best(), Mat::dense(&a, 2, 3), Mat::dense(&a, 2, 3), &mut [0.0; 6]).is_err());
    }
}
