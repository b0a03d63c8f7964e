//! Matrix products. The `rten-gemm` crate computes large ones; nothing else here knows it.

use crate::kernel::KernelError;
use rayon::{ThreadPool, ThreadPoolBuilder};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::{Matrix, NdTensorView};
use std::sync::LazyLock;

/// One thread: the crate splits work by the number of threads it finds, and sums in another order with each number.
/// Results must not depend on that.
static POOL: LazyLock<Option<ThreadPool>> =
    LazyLock::new(|| ThreadPoolBuilder::new().num_threads(1).build().ok());

thread_local! {
    /// Picks its kernel for this CPU once; it cannot be shared between threads.
    static EXECUTOR: GemmExecutor = GemmExecutor::default();
}

/// A matrix in a slice: element `(i, j)` is `data[i · row + j · col]`.
#[derive(Copy, Clone, Debug)]
pub struct Mat<'a> {
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

    fn view(self) -> Result<Matrix<'a>, KernelError> {
        NdTensorView::from_slice_with_strides(self.size, self.data, self.strides).map_err(|e| {
            KernelError(format!("matrix {:?} with strides {:?}: {e:?}", self.size, self.strides))
        })
    }
}

/// `out = a · b`, dense.
///
/// # Errors
/// When sizes do not fit (a bug of the caller).
pub fn gemm(a: Mat<'_>, b: Mat<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let ([m, k], [_, n]) = (a.size, b.size);
    if m == 0 || n == 0 {
        return Ok(());
    }
    // Packing costs more than it saves on tiny products.
    if k == 0 || m * k * n <= 2048 {
        for (i, row) in out.chunks_exact_mut(n).enumerate() {
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
    let (left, right) = (a.view()?, b.view()?);
    let run = || {
        let (left, right) = (GemmInputA::Unpacked(left), GemmInputB::Unpacked(right));
        EXECUTOR.with(|e| e.gemm(out, left, right, GemmOptions::default()))
    };
    let pool = POOL.as_ref().ok_or_else(|| KernelError::new("the system gives no thread to compute on"))?;
    pool.install(run).map_err(|e| KernelError(format!("matrix product {:?} x {:?}: {e:?}", a.size, b.size)))
}
