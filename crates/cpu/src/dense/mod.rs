//! Matrix products and convolutions: weights are packed once, then each is tiles of [`crate::simd`].

mod blocks;
pub(crate) mod conv;
pub(crate) mod gemm;
pub(crate) mod geometry;
pub(crate) mod groups;
pub(crate) mod integer;
pub(crate) mod panels;
pub(crate) mod rescale;

/// What happens to each sum before it is stored: `clamp(sum + residual, low, high)`.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Epilogue<'a> {
    /// Added; of the result's shape and layout.
    pub residual: Option<&'a [f32]>,
    /// Bounds; infinities for none.
    pub clamp: (f32, f32),
}

impl Epilogue<'_> {
    /// The sum as it is.
    pub const NONE: Epilogue<'static> =
        Epilogue { residual: None, clamp: (f32::NEG_INFINITY, f32::INFINITY) };
}
