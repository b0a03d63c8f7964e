//! The quantizer: which tensors Core ML takes as integers or tables, and how.
//!
//! `int8-static` quantizes activations where ExecuTorch's `CoreMLQuantizer` does ([`RULES`]); the other recipes compress
//! weights alone, laid out as coremltools does ([`Compression`]). Parts of a program may take different recipes.
//!
//! | option | value | for |
//! |---|---|---|
//! | `scheme` | `symmetric` or `affine` | integers |
//! | `weight-dtype` | `int8`, `uint8`, or `float32`: nothing is quantized | `int8-static` |
//! | `weight-granularity` | `per-channel` or `per-tensor` | integers without groups |
//! | `activation-dtype` | `uint8`, or `float32`: weights alone | `int8-static` |
//! | `observer` | `histogram`, `min-max`, or `moving-average-min-max`, ExecuTorch's | `int8-static` |
//! | `requantize` | `false`, or `true`: some values are rounded twice, as by ExecuTorch's quantizer | `int8-static` |
//! | `group-size` | 32: input channels that share a scale | recipes by groups |
//! | `block-size` | `1x32`: output channels by input channels | recipes by groups |
//! | `weight-threshold` | 2048: elements up to which a weight stays in floating point | weights alone |
//! | `lut-granularity` | `per-tensor` or `per-grouped-channel` | tables |
//! | `channel-group-size` | 32: channels that share a table | tables by groups |
//! | `channel-axis` | `output` or `input`: which channels | tables by groups |
//! | `module-name:PATH`, `module-type:TYPE`, `operator:NAME` | a recipe, or `float` | all |

mod activations;
mod options;
mod prune;
mod recipes;
mod rules;
mod weights;

pub use activations::Static;
pub(crate) use options::NAMES;
pub use options::is_option;
pub use prune::Pruned;
pub use recipes::{How, RECIPES, STATIC, THRESHOLD, fits, recipe};
pub use rules::RULES;
pub use weights::{Compression, Form, Scales, Side};

use crate::NAME;
use lowbit_core::backend::{BackendError, Options};
use lowbit_core::passes::{Pipeline, ProductsToLinear, Recompose};
use lowbit_core::quantizer::{Composed, OpConfig, Quantizer, RuleQuantizer, Scope, WeightQuantizer};
use options::Recipes;

/// A quantizer with the rules of ExecuTorch's and nothing configured yet.
pub fn quantizer() -> RuleQuantizer {
    RuleQuantizer::unset(RULES).prepare(layers)
}

/// Products with constants become layers, and so do the pieces that decompositions left.
fn layers() -> Pipeline {
    Pipeline::default().then(ProductsToLinear).then(Recompose)
}

/// The quantizer of a recipe.
///
/// # Errors
/// [`BackendError::UnknownRecipe`]; [`BackendError::BadOption`], also for what the deployment target lacks.
pub fn with_options(name: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
    let recipes = Recipes::read(options)?;
    let known = || RECIPES.iter().map(|r| r.name);
    let global = recipes.get("recipe", name)?.ok_or_else(|| BackendError::UnknownRecipe {
        backend: NAME,
        recipe: name.into(),
        known: known().collect(),
    })?;
    let mut parts = vec![];
    let mut names = vec![name];
    // Backwards, so that of two modules, one inside the other, the inner one comes first.
    for (option, value) in options.iter().rev() {
        let Some(scope) = Scope::of_option(option) else { continue };
        if value == "float" {
            parts.push((scope, None));
            continue;
        }
        let wrong = || {
            let known = known().collect::<Vec<_>>().join(", ");
            crate::settings::bad_option(option, format!("{value:?} is neither float nor one of {known}"))
        };
        parts.push((scope, Some(recipes.get(option, value)?.ok_or_else(wrong)?)));
        names.push(value);
    }
    recipes.check(&names)?;
    let rules = if recipes.requantize { quantizer() } else { quantizer().finish(rules::read_as_made) };
    let inner = compose(rules, global, parts);
    Ok(match crate::Settings::read(options, is_option)?.sparsity {
        Some(share) => Box::new(Pruned { inner, share }),
        None => inner,
    })
}

/// Everything as `global` says, but for parts of the program.
fn compose(mut rules: RuleQuantizer, global: How, parts: Vec<(Scope, Option<How>)>) -> Box<dyn Quantizer> {
    let all = || parts.iter().filter_map(|(_, how)| how.as_ref()).chain([&global]);
    let any = |weights: bool| all().any(|how| matches!(how, How::Weights(_)) == weights);
    let (has_weights, has_static) = (any(true), any(false));
    let mut weights = WeightQuantizer::default().prepare(layers);
    for (scope, how) in parts.into_iter().chain([(Scope::Global, Some(global))]) {
        // Each is told of the other's scopes, which may be inside its own.
        (rules, weights) = match how {
            Some(How::Static(s)) => (rules.set(scope.clone(), s.config()), weights.pass_over(scope)),
            Some(How::Weights(c)) => {
                (rules.set(scope.clone(), OpConfig::float()), weights.set(scope, c.config()))
            }
            None => (rules.set(scope.clone(), OpConfig::float()), weights.skip(scope)),
        };
    }
    match (has_weights, has_static) {
        (true, false) => Box::new(weights),
        (false, _) => Box::new(rules),
        // Weights first: what they say of a layer they leave is more than that others have it.
        (true, true) => Box::new(Composed::new(vec![Box::new(weights), Box::new(rules)])),
    }
}

#[cfg(test)]
mod tests;
