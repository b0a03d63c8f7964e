//! Matrix products and convolutions: weights are packed once, then each is tiles of [`crate::simd`].

mod blocks;
pub(crate) mod conv;
mod depthwise_quads;
pub(crate) mod gemm;
pub(crate) mod geometry;
pub(crate) mod groups;
pub(crate) mod integer;
mod pairs;
pub(crate) mod panels;
mod quads;
pub(crate) mod rescale;
pub(crate) mod strips;
mod winograd;

use crate::simd::Seen;
use lowbit_core::quant::observer::Extremes;
use std::sync::{Mutex, PoisonError};

/// What happens to each sum before it is stored: `clamp(sum + residual, low, high)`.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Epilogue<'a> {
    /// Added; of the result's shape and layout.
    pub residual: Option<&'a [f32]>,
    /// Bounds; infinities for none.
    pub clamp: (f32, f32),
    /// Where the extremes go, of what is bounded.
    pub watch: Option<&'a Watch>,
}

impl Epilogue<'_> {
    /// The sum as it is.
    pub const NONE: Epilogue<'static> =
        Epilogue { residual: None, clamp: (f32::NEG_INFINITY, f32::INFINITY), watch: None };
}

/// The extremes of a result before it is bounded, found while it is computed, in parts and by several threads.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Found>);

#[derive(Debug, Default)]
enum Found {
    #[default]
    Nothing,
    All(Extremes),
    /// Something may not be finite, or was not looked at.
    Bad,
}

impl Watch {
    /// Adds a part.
    pub fn add(&self, part: &Seen) {
        self.join(part.extremes().map_or(Found::Bad, Found::All));
    }

    /// Leaves out a part: whoever asks has to look for themselves.
    pub fn skip(&self) {
        self.join(Found::Bad);
    }

    /// Adds all that another one has found.
    pub fn take(&self, other: Watch) {
        self.join(other.0.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    fn join(&self, new: Found) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *found = match (new, &*found) {
            (Found::All(new), Found::All(old)) => Found::All(old.and(new)),
            (Found::Nothing, _) => return,
            (new, Found::Nothing) => new,
            _ => Found::Bad,
        };
    }

    /// The extremes, if all parts were added, and are finite for certain.
    pub fn found(self) -> Option<Extremes> {
        match self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Found::All(extremes) => Some(extremes),
            Found::Nothing | Found::Bad => None,
        }
    }
}
