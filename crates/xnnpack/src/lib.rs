//! XNNPACK backend: quantizer and lowering to the delegate that ExecuTorch loads.
//!
//! Recipes: `int8-static` (default), which quantizes where XNNPACK rounds; `int8-static-per-channel` and
//! `int8-static-per-tensor`, at the places of ExecuTorch's quantizer; `int8-dynamic-per-channel`. Options of the quantizer:
//!
//! | option | value | |
//! |---|---|---|
//! | `activation-range` | `-128..127` | the integers of activations |
//! | `weight-range` | `-127..127` | the integers of weights |
//! | `module-name:PATH` | a recipe, or `float` | for one module and what is in it |
//! | `module-type:TYPE` | a recipe, or `float` | for modules of a type, `torch.nn.Conv2d` or `Conv2d` |
//! | `operator:NAME` | a recipe, or `float` | for an operator, `aten.linear` or `aten.linear.default` |
//!
//! Names win over types, types over operators, those over the recipe itself, which also says at which places.
#![forbid(unsafe_code)]

pub mod lowering;
pub mod quantizer;
pub mod subgraph;

use lowbit_core::backend::{Backend, BackendError, Lowering, Options, Recipe};
use lowbit_core::quantizer::{OpConfig, Quantizer, Scope};
use std::sync::Arc;

/// The backend.
#[derive(Copy, Clone, Debug)]
pub struct Xnnpack;

lowbit_core::register_backend!(Xnnpack);

/// Options of the quantizer, for error messages.
const OPTIONS: &str = "activation-range, weight-range, module-name:PATH, module-type:TYPE, operator:NAME";

/// Whether the quantizer has an option of this name.
fn is_quantizer_option(option: &str) -> bool {
    let scopes = ["module-name", "module-type", "operator"];
    let scoped = option.split_once(':').is_some_and(|(scope, _)| scopes.contains(&scope));
    scoped || ["activation-range", "weight-range"].contains(&option)
}

impl Backend for Xnnpack {
    fn name(&self) -> &'static str {
        "xnnpack"
    }

    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    fn recipes(&self) -> &'static [Recipe] {
        quantizer::RECIPES
    }

    fn quantizer(&self, recipe: &str, options: &Options) -> Result<Box<dyn Quantizer>, BackendError> {
        let bad = |option: &str, reason: String| BackendError::BadOption {
            backend: self.name(),
            option: option.into(),
            reason,
        };
        let range = |option: &str, default| match options.get(option) {
            Some(text) => quantizer::range(text).map_err(|why| bad(option, why)),
            None => Ok(default),
        };
        let base = quantizer::Symmetric::default();
        let activation = range("activation-range", base.activation)?;
        let weight = range("weight-range", base.weight)?;
        let config = |name: &str| {
            let with = |s| quantizer::Symmetric { activation, weight, ..s };
            quantizer::recipe(name).map(|s| with(s).config())
        };
        let global = config(recipe).ok_or_else(|| BackendError::UnknownRecipe {
            backend: self.name(),
            recipe: recipe.into(),
            known: quantizer::RECIPES.iter().map(|r| r.name).collect(),
        })?;
        let mut q = match recipe {
            quantizer::STATIC => quantizer::rounding(),
            quantizer::DYNAMIC => quantizer::step_by_step(),
            _ => {
                let mut q = quantizer::quantizer();
                q.filter(Arc::new(quantizer::leave_recurrent)).expect("rules have filters");
                q
            }
        };
        q = q.set(Scope::Global, global);
        for (option, value) in options {
            let scope = match option.split_once(':') {
                Some(("module-name", path)) => Scope::ModuleName(path.into()),
                Some(("module-type", name)) => Scope::ModuleType(name.into()),
                Some(("operator", name)) => Scope::Operator(name.into()),
                _ if option == "activation-range" || option == "weight-range" => continue,
                _ => return Err(bad(option, format!("there is no such option; there are: {OPTIONS}"))),
            };
            let set = if value == "float" { Some(OpConfig::float()) } else { config(value) };
            let known: Vec<&str> = quantizer::RECIPES.iter().map(|r| r.name).collect();
            let wrong = || bad(option, format!("{value:?} is neither float nor one of {}", known.join(", ")));
            q = q.set(scope, set.ok_or_else(wrong)?);
        }
        Ok(Box::new(q))
    }

    fn lowering(&self, options: &Options) -> Result<Box<dyn Lowering>, BackendError> {
        // `quantize` hands its options to both.
        match options.keys().find(|o| !is_quantizer_option(o)) {
            None => Ok(Box::new(lowering::Xnnpack)),
            Some(option) => Err(BackendError::BadOption {
                backend: self.name(),
                option: option.clone(),
                reason: "the lowering has no options".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_recipes_are_checked() {
        let try_it = |recipe: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Xnnpack.quantizer(recipe, &options).map(|_| ()).map_err(|e| e.to_string())
        };
        let first = Xnnpack.recipes()[0].name;
        for r in Xnnpack.recipes() {
            try_it(r.name, &[]).unwrap();
        }
        try_it(first, &[("weight-range", "-8..7"), ("activation-range", "-127..127")]).unwrap();
        try_it(first, &[("module-name:head", "float"), ("operator:aten.add", "int8-static-per-tensor")])
            .unwrap();
        for (recipe, options, want) in [
            (
                "int4",
                &[][..],
                "it has: int8-static, int8-static-per-channel, int8-static-per-tensor, int8-dynamic-per-channel",
            ),
            (first, &[("speed", "fast")], "there are: activation-range"),
            (first, &[("weight-range", "-8")], "no range such as"),
            (first, &[("weight-range", "-200..7")], "i8"),
            (first, &[("module-name:head", "int5")], "neither float nor one of"),
        ] {
            let e = try_it(recipe, options).unwrap_err();
            assert!(e.contains(want), "{e}");
        }
        Xnnpack.lowering(&[("operator:aten.add".to_string(), "float".to_string())].into()).unwrap();
        let e = Xnnpack.lowering(&[("a".to_string(), "b".to_string())].into()).unwrap_err();
        assert!(e.to_string().contains("no options"), "{e}");
    }
}
