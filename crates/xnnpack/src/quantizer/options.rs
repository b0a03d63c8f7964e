//! Options of the quantizer: what they change in a recipe, and for which part of a program.

use super::{DYNAMIC, INT4_CHANNEL, INT4_GROUP, RECIPES, STATIC, Scales, Symmetric};
use lowbit_core::backend::{BackendError, Options};
use lowbit_core::quant::{Mapping, QRange};
use lowbit_core::quantizer::{Composed, EmbeddingQuantizer, OpConfig, Quantizer, Scope};
use std::sync::Arc;

/// The options, for messages.
const NAMES: &str = "activation-range, weight-range, group-size, embedding, embedding-group-size, embedding-mapping, \
                     module-name:PATH, module-type:TYPE, operator:NAME";

/// Whether the quantizer has an option of this name.
pub fn is_option(option: &str) -> bool {
    Scope::of_option(option).is_some() || NAMES.split(", ").any(|name| name == option)
}

/// The options given, read one by one.
struct Reader<'a> {
    backend: &'static str,
    options: &'a Options,
}

impl Reader<'_> {
    fn bad(&self, option: &str, reason: impl Into<String>) -> BackendError {
        BackendError::BadOption { backend: self.backend, option: option.into(), reason: reason.into() }
    }

    fn read<T>(
        &self,
        option: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, BackendError> {
        let text = self.options.get(option);
        text.map(|text| parse(text).map_err(|why| self.bad(option, why))).transpose()
    }

    /// What a recipe means here.
    fn recipe(&self, name: &str) -> Result<Option<Symmetric>, BackendError> {
        let Some(mut s) = super::recipe(name) else { return Ok(None) };
        if let Some(range) = self.read("activation-range", super::range)? {
            s.activation = range;
        }
        let weight = self.read("weight-range", super::range)?;
        if ![INT4_CHANNEL, INT4_GROUP].contains(&name) {
            s.weight = weight.unwrap_or(s.weight);
        }
        if let (Scales::Group(size), Some(given)) =
            (&mut s.scales, self.read("group-size", super::group_size)?)
        {
            *size = given;
        }
        Ok(Some(s))
    }

    /// Refuses options that change nothing here.
    fn check(&self, recipe: &str) -> Result<(), BackendError> {
        let scoped =
            self.options.iter().filter(|(o, _)| Scope::of_option(o).is_some()).map(|(_, recipe)| &**recipe);
        let recipes: Vec<&str> = scoped.chain([recipe]).collect();
        let any = |is: &dyn Fn(&str) -> bool| recipes.iter().any(|r| is(r));
        let has = |option: &str| self.options.contains_key(option);
        if let Some(unknown) = self.options.keys().find(|o| !is_option(o)) {
            return Err(self.bad(unknown, format!("there is no such option; there are: {NAMES}")));
        }
        if has("group-size") && !any(&|r| r == INT4_GROUP) {
            return Err(self.bad("group-size", format!("only recipe {INT4_GROUP} has groups")));
        }
        if has("weight-range")
            && !any(&|r| super::recipe(r).is_some() && r != INT4_CHANNEL && r != INT4_GROUP)
        {
            return Err(self.bad("weight-range", "weights of 4 bits are from -8 to 7"));
        }
        for option in ["embedding-group-size", "embedding-mapping"] {
            if has(option) && !has("embedding") {
                return Err(self
                    .bad(option, "embeddings are in floating point; say also embedding=int8, int4 or int2"));
            }
        }
        Ok(())
    }

    /// What quantizes embeddings, if they are to be.
    fn embedding(&self) -> Result<Option<EmbeddingQuantizer>, BackendError> {
        let range = |text: &str| match text {
            "float" => Ok(None),
            "int8" => Ok(Some(QRange::INT8)),
            "int4" => Ok(Some(QRange::INT4)),
            "int2" => Ok(Some(QRange::INT2)),
            _ => Err(format!("{text:?} is none of float, int8, int4, int2")),
        };
        let mapping = |text: &str| match text {
            "symmetric" => Ok(Mapping::Symmetric),
            "asymmetric" => Ok(Mapping::Affine),
            _ => Err(format!("{text:?} is neither symmetric nor asymmetric")),
        };
        let group = |text: &str| match text.trim().parse() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(format!("{text:?} is no number of elements of a row")),
        };
        let range = self.read("embedding", range)?.flatten();
        let mapping = self.read("embedding-mapping", mapping)?.unwrap_or(Mapping::Symmetric);
        let group = self.read("embedding-group-size", group)?;
        Ok(range.map(|range| EmbeddingQuantizer::intx(range, mapping, group)))
    }
}

/// The quantizer of a recipe with options.
///
/// # Errors
/// When there is no such recipe or option, or a value makes no sense.
pub fn with_options(
    backend: &'static str,
    recipe: &str,
    options: &Options,
) -> Result<Box<dyn Quantizer>, BackendError> {
    let reader = Reader { backend, options };
    let known = || RECIPES.iter().map(|r| r.name);
    let global = reader.recipe(recipe)?.ok_or_else(|| BackendError::UnknownRecipe {
        backend,
        recipe: recipe.into(),
        known: known().collect(),
    })?;
    reader.check(recipe)?;
    let mut q = match recipe {
        STATIC => super::rounding(),
        DYNAMIC | INT4_CHANNEL | INT4_GROUP => super::with_products(),
        _ => {
            let mut q = super::quantizer();
            q.filter(Arc::new(super::nothing_recurrent)).expect("rules have filters");
            q
        }
    };
    q = q.set(Scope::Global, global.config());
    let mut embedding = reader.embedding()?;
    for (option, value) in options {
        let Some(scope) = Scope::of_option(option) else { continue };
        if value != "float" {
            let known = || known().collect::<Vec<_>>().join(", ");
            let wrong = || reader.bad(option, format!("{value:?} is neither float nor one of {}", known()));
            q = q.set(scope, reader.recipe(value)?.ok_or_else(wrong)?.config());
            continue;
        }
        if let Some(e) = &mut embedding {
            let scope = scope.clone();
            let keep = move |p: &_, n| match scope.holds(p, n) {
                true => Err(format!("{scope} is set to floating point")),
                false => Ok(()),
            };
            e.filter(Arc::new(keep)).expect("embeddings have filters");
        }
        q = q.set(scope, OpConfig::float());
    }
    Ok(match embedding {
        // Embeddings first: what they say of a table they leave is more than that there is no rule.
        Some(e) => Box::new(Composed::new(vec![Box::new(e), Box::new(q)])),
        None => Box::new(q),
    })
}
