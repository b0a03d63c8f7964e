//! Resampling of images and sequences.

use super::rules::{Types, differ, one};
use super::{Call, InferError};
use crate::ir::Arg;
use crate::symint::SymInt;

ops! {
    UPSAMPLE_NEAREST1D_VEC = "aten.upsample_nearest1d.vec" "(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_LINEAR1D_VEC = "aten.upsample_linear1d.vec" "(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_NEAREST2D_VEC = "aten.upsample_nearest2d.vec" "(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_BILINEAR2D_VEC = "aten.upsample_bilinear2d.vec" "(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_BICUBIC2D_VEC = "aten.upsample_bicubic2d.vec" "(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_NEAREST2D = "aten.upsample_nearest2d.default" "(Tensor self, SymInt[2] output_size, float? scales_h=None, float? scales_w=None) -> Tensor", to_size;
    UPSAMPLE_BILINEAR2D = "aten.upsample_bilinear2d.default" "(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor", to_size;
    UPSAMPLE_BICUBIC2D = "aten.upsample_bicubic2d.default" "(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor", to_size;
    UPSAMPLE_BILINEAR2D_AA_VEC = "aten._upsample_bilinear2d_aa.vec" "(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_BILINEAR2D_AA = "aten._upsample_bilinear2d_aa.default" "(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor", to_size;
    UPSAMPLE_BICUBIC2D_AA_VEC = "aten._upsample_bicubic2d_aa.vec" "(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor", to_size_or_scale;
    UPSAMPLE_BICUBIC2D_AA = "aten._upsample_bicubic2d_aa.default" "(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None) -> Tensor", to_size;
    AFFINE_GRID_GENERATOR = "aten.affine_grid_generator.default" "(Tensor theta, SymInt[] size, bool align_corners) -> Tensor", affine_grid;
    GRID_SAMPLER = "aten.grid_sampler.default" "(Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners) -> Tensor", grid;
    GRID_SAMPLER_2D = "aten.grid_sampler_2d.default" "(Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners) -> Tensor", grid;
}

fn resized(c: &Call<'_>, size: Vec<SymInt>) -> Types {
    let x = c.tensor(0)?;
    let Some(keep) = x.rank().checked_sub(size.len()).filter(|&k| k == 2) else {
        return c.error(format!("input is {x}; batch, channels and {} sizes are needed", size.len()));
    };
    one(x.dtype, x.shape[..keep].iter().cloned().chain(size).collect())
}

/// `upsample_*(input, output_size, …)`
fn to_size(c: &Call<'_>) -> Types {
    resized(c, c.syms(1)?.to_vec())
}

/// The `.vec` forms: an output size, or factors of the input's sizes (rounded down).
fn to_size_or_scale(c: &Call<'_>) -> Types {
    if let Arg::Ints(size) = c.arg(1) {
        return resized(c, size.clone());
    }
    let x = c.tensor(0)?;
    let factors = c.op.schema().index_of("scale_factors").map(|i| c.arg(i));
    let Some(Arg::Floats(factors)) = factors else { return c.error("either an output size or scale factors are needed") };
    let spatial = x.shape.get(2..).unwrap_or_default();
    if spatial.len() != factors.len() {
        return c.error(format!("{} scale factors for {x}", factors.len()));
    }
    let size = spatial.iter().zip(factors).map(|(n, f)| scaled(n, *f)).collect::<Result<_, InferError>>();
    resized(c, size?)
}

/// `floor(n · factor)`
fn scaled(n: &SymInt, factor: f64) -> Result<SymInt, InferError> {
    match n.known() {
        Some(n) => Ok(SymInt::Known((n as f64 * factor) as i64)),
        None if factor.fract() == 0.0 => Ok(n.clone() * factor as i64),
        None if (1.0 / factor).fract() == 0.0 => Ok(n.floor_div(&((1.0 / factor) as i64).into())),
        None => Err(InferError::new(format!("a dynamic size {n} cannot be scaled by {factor}; give an output size"))),
    }
}

/// `grid_sampler(input, grid, …)`
fn grid(c: &Call<'_>) -> Types {
    let (x, g) = (c.tensor(0)?, c.tensor(1)?);
    if x.rank() != g.rank() || x.rank() < 4 {
        return c.error(format!("input {x} and grid {g} do not fit"));
    }
    let spatial = &g.shape[1..g.rank() - 1];
    one(x.dtype, x.shape[..2].iter().chain(spatial).cloned().collect())
}

/// `affine_grid_generator(theta, [N, C, (D,) H, W], …)`: for each point of the output, where it lies in the input.
fn affine_grid(c: &Call<'_>) -> Types {
    let (theta, size) = (c.tensor(0)?, c.syms(1)?);
    let Some(dims @ 2..=3) = size.len().checked_sub(2) else {
        return c.error(format!("the size {size:?} is none of images or volumes"));
    };
    let fit = theta.rank() == 3
        && theta.shape.iter().zip([&size[0], &dims.into(), &(dims + 1).into()]).all(|(a, b)| !differ(a, b));
    if !fit {
        return c.error(format!("theta {theta} does not fit the size {size:?}"));
    }
    one(theta.dtype, [&size[..1], &size[2..], &[dims.into()]].concat())
}
