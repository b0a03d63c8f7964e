//! The quantizer: which tensors HTP takes as integers, and how.
//!
//! Activations are quantized where ExecuTorch's `QnnQuantizer` does ([`table`]); layers with a clamp behind round once.
//!
//! | option | value | |
//! |---|---|---|
//! | `weight-granularity` | `per-channel` | or `per-tensor` |
//! | `block-size` | 32 | input channels that share a scale, of `16a4w-block` |
//! | `observer` | | `histogram` (of 8 bits), `min-max` (of 16), or `moving-average-min-max`, ExecuTorch's |
//! | `activation-scheme` | `affine` | or `symmetric` |
//! | `node:NAME`, `module-name:PATH`, `pattern:REGEX`, `module-type:TYPE`, `operator:NAME` | a recipe, or `float` | for parts of the model |

mod blocks;
mod masks;
mod options;
mod recipes;
mod rules;
pub mod table;

pub use blocks::{SMALL_BLOCKS, STEPS};
pub(crate) use options::NAMES;
pub use options::is_option;
pub use recipes::{RECIPES, Scales, Scheme, fits, recipe};
pub use rules::rules;

use crate::NAME;
use crate::lowering::MAX_RANK;
use crate::settings::bad_option;
use crate::soc::{Soc, WIDE_WEIGHTS};
use lowbit_core::backend::{BackendError, Options};
use lowbit_core::ir::{NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::passes::{
    BatchNormToConv, Decompose, FewerDimensions, FoldBatchNorm, MasksLast, Pipeline, ProductsToLinear,
    Recompose, ScatterToGather, Unroll,
};
use lowbit_core::quantizer::{OpConfig, Quantizer, RuleQuantizer, Scope};
use options::{Recipes, known, scope};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// A quantizer with the chip's rules and nothing configured yet.
pub fn quantizer(soc: &Soc) -> RuleQuantizer {
    let q = RuleQuantizer::unset(rules(soc.arch >= WIDE_WEIGHTS)).mixed().fold_constants();
    q.prepare(pieces).finish(rules::read_as_made)
}

/// Recurrent layers of at most so many steps are taken apart: the chip has no loop.
const MOST_STEPS: i64 = 256;

/// Products with constants become layers, and what the chip has no operator for is taken apart.
fn pieces() -> Pipeline {
    let layers = Pipeline::default().then(ProductsToLinear).then(Decompose { keep: is_not_padded_by_word });
    let layers = layers.then(Recompose).then(FoldBatchNorm).then(BatchNormToConv);
    let pieces = layers.then(Decompose { keep }).then(ScatterToGather).then(Unroll { most: MOST_STEPS });
    pieces.then(FewerDimensions { most: MAX_RANK }).then(MasksLast)
}

/// A convolution with padding `"same"` or `"valid"` is taken apart, and put together with numbers.
fn is_not_padded_by_word(program: &Program, n: NodeId) -> bool {
    ![&ops::CONV1D_PADDING, &ops::CONV2D_PADDING, &ops::CONV3D_PADDING].contains(&program.graph.node(n).op())
}

/// Operators that a rule quantizes stay whole.
fn keep(program: &Program, n: NodeId) -> bool {
    static RULED: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
        let steps = rules(true).iter().flat_map(|r| r.chain).flat_map(|step| step.iter());
        steps.map(|op| op.name).collect()
    });
    let op = program.graph.node(n).op();
    RULED.contains(op.name) && *op != ops::RMS_NORM && !has_unequal_windows(program, n)
}

/// An adaptive pool of windows of several sizes, which the chip lacks: its pieces are averages of slices.
fn has_unequal_windows(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    let pools = [&ops::ADAPTIVE_AVG_POOL1D, &ops::ADAPTIVE_AVG_POOL2D, &ops::ADAPTIVE_AVG_POOL2D_CORE];
    let shape = |v: ValueId| program.graph.ty(v).known_shape();
    let shapes = node.operands().next().and_then(shape).zip(shape(node.output()));
    pools.contains(&node.op())
        && shapes.is_some_and(|(have, want)| have.iter().zip(&want).any(|(h, w)| *w > 0 && h % w != 0))
}

/// The quantizer of a recipe.
///
/// # Errors
/// [`BackendError::UnknownRecipe`]; [`BackendError::BadOption`], also for what the chip lacks.
pub fn with_options(name: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
    let recipes = Recipes::read(options)?;
    let global = recipes.get("recipe", name)?.ok_or_else(|| BackendError::UnknownRecipe {
        backend: NAME,
        recipe: name.into(),
        known: known(),
    })?;
    let mut q = quantizer(recipes.soc);
    let mut names = vec![name];
    // Backwards, so that of two modules, one inside the other, the inner one comes first.
    for (option, value) in options.iter().rev() {
        let Some(scope) = scope(option)? else { continue };
        if value == "float" {
            q = q.set(scope, OpConfig::float());
            continue;
        }
        let wrong =
            || bad_option(option, format!("{value:?} is neither float nor one of {}", known().join(", ")));
        let scheme = recipes.get(option, value)?.ok_or_else(wrong)?;
        q = q.set(scope, scheme.config());
        names.push(value);
    }
    recipes.check(&names)?;
    Ok(Box::new(q.set(Scope::Global, global.config())))
}

#[cfg(test)]
mod tests;
