//! Matrix products and convolutions: weights are packed once, then each is tiles of [`crate::simd`].

mod blocks;
pub(crate) mod conv;
mod depthwise_quads;
pub(crate) mod gemm;
pub(crate) mod geometry;
pub(crate) mod groups;
pub(crate) mod integer;
pub(crate) mod mean;
mod pairs;
pub(crate) mod panels;
mod quads;
pub(crate) mod rescale;
pub(crate) mod strips;
mod winograd;

use crate::simd::{GreatestBits, Stages, UNBOUNDED};
use lowbit_core::quant::observer::Extremes;
use std::sync::{Mutex, PoisonError};

/// What happens to each sum before it is stored: `clamp(sum + residual, low, high)`.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Epilogue<'a> {
    /// Added; of the result's shape and layout.
    pub residual: Option<&'a [f32]>,
    /// Bounds; infinities for none.
    pub clamp: (f32, f32),
    /// Where the extremes go, of the sums and of what is bounded.
    pub watch: Option<&'a Watch>,
}

impl Epilogue<'_> {
    /// The sum as it is.
    pub const NONE: Epilogue<'static> = Epilogue { residual: None, clamp: UNBOUNDED, watch: None };
}

/// What was seen of a layer's sums and results, in parts and by several threads.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Stages<GreatestBits>>);

impl Watch {
    /// Adds a part.
    pub fn add(&self, part: Stages<GreatestBits>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Stages { sums: seen.sums.and(part.sums), results: seen.results.and(part.results) };
    }

    /// All parts.
    pub fn seen(self) -> Stages<GreatestBits> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The extremes, where they are known.
    pub fn extremes(self) -> Stages<Option<Extremes>> {
        self.seen().map(GreatestBits::extremes)
    }
}
