//! Observers' passes over all elements, compiled for this CPU and shared out among threads.

use crate::parallel::{PART, Threads};
use crate::simd::{Isa, histogram};
use lowbit_core::quant::observer::{Bins, Extremes, Scan, extremes};
use std::sync::{Mutex, PoisonError};

/// The passes of a session.
#[derive(Debug)]
pub(crate) struct CpuScan {
    pub isa: Isa,
    pub threads: Threads,
}

impl CpuScan {
    /// Scans parts and joins what was found; the order does not matter to what these passes find.
    fn parts<T: Send>(
        &self,
        x: &[f32],
        one: impl Fn(&[f32]) -> T + Sync,
        join: impl Fn(T, T) -> T + Sync,
    ) -> T {
        if self.threads.count() < 2 || x.len() <= PART {
            return one(x);
        }
        let found: Mutex<Option<T>> = Mutex::new(None);
        let part = x.len().div_ceil(2 * self.threads.count()).max(PART);
        self.threads.for_each(
            x.chunks(part),
            || (),
            |(), x| {
                let new = one(x);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                *found = Some(match found.take() {
                    Some(old) => join(old, new),
                    None => new,
                });
            },
        );
        found.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| one(&[]))
    }
}

impl Scan for CpuScan {
    fn extremes(&self, x: &[f32]) -> Extremes {
        let one = |x: &[f32]| {
            self.isa.vectorize(
                #[inline(always)]
                || extremes(x),
            )
        };
        self.parts(x, one, Extremes::and)
    }

    fn histogram(&self, x: &[f32], bins: Bins) -> Vec<u32> {
        let join = |mut a: Vec<u32>, b: Vec<u32>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        self.parts(x, |x| histogram(self.isa, x, bins), join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::quant::observer::Plain;

    #[test]
    fn every_instruction_set_and_number_of_threads_finds_the_same() {
        let mut x: Vec<f32> = (0..200_001).map(|i| ((i * 7919) % 10_007) as f32 * 1e-3 - 4.0).collect();
        let bins = Bins { low: -3.9, high: 5.5, count: 2048 };
        for bad in [0.5, f32::NAN, f32::INFINITY] {
            x[150_000] = bad;
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let scan = CpuScan { isa, threads: Threads::new(threads).unwrap() };
                    assert_eq!(scan.extremes(&x), Plain.extremes(&x), "{isa:?}");
                    assert_eq!(scan.histogram(&x, bins), Plain.histogram(&x, bins), "{isa:?}");
                }
            }
        }
    }
}
