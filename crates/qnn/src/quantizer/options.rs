//! Options of the quantizer: what they change in a recipe, and for which part of a program.

use super::recipes::{RECIPES, Scales, Scheme, fits, never, recipe};
use crate::settings::{Settings, bad_option, choice};
use crate::soc::Soc;
use lowbit_core::backend::{BackendError, Options};
use lowbit_core::ir::{NodeId, Program};
use lowbit_core::quant::ObserverKind;
use lowbit_core::quantizer::Scope;

/// The options, for messages.
pub(crate) const NAMES: &str = "weight-granularity, block-size, observer, activation-scheme, module-name:PATH, module-type:TYPE, \
                                operator:NAME, node:NAME, pattern:REGEX";

/// The part of a program that an option is for.
///
/// # Errors
/// When a pattern is no regular expression.
pub(super) fn scope(option: &str) -> Result<Option<Scope>, BackendError> {
    let Some((kind, rest)) = option.split_once(':') else { return Ok(None) };
    Ok(Some(match kind {
        "module-name" => Scope::ModuleName(rest.into()),
        "module-type" => Scope::ModuleType(rest.into()),
        "operator" => Scope::Operator(rest.into()),
        "node" => {
            let name = rest.to_string();
            Scope::picked(move |p: &Program, n: NodeId| {
                let node = p.graph.node(n);
                *node.name == *name || node.outputs().iter().any(|&v| *p.graph.value(v).name == *name)
            })
        }
        "pattern" => Scope::regex(rest).map_err(|e| bad_option(option, e.to_string()))?,
        _ => return Ok(None),
    }))
}

/// Whether the quantizer has an option of this name.
pub fn is_option(option: &str) -> bool {
    let parts = ["module-name", "module-type", "operator", "node", "pattern"];
    option.split_once(':').is_some_and(|(kind, _)| parts.contains(&kind))
        || CHANGES.iter().any(|(name, ..)| *name == option)
}

type Read = fn(&str) -> Result<Change, String>;

/// What an option changes; `false`: nothing in this recipe.
type Change = Box<dyn Fn(&mut Scheme) -> bool>;

/// Options that change recipes, and which recipes they are for.
static CHANGES: &[(&str, Read, &str)] = &[
    ("weight-granularity", weight_granularity, "recipes with one scale a channel"),
    ("block-size", block_size, "recipe 16a4w-block"),
    ("observer", observer, "all recipes"),
    ("activation-scheme", activation_scheme, "all recipes"),
];

/// What recipes mean with the options given.
pub(super) struct Recipes {
    /// The chip.
    pub soc: &'static Soc,
    changes: Vec<(&'static str, Change, &'static str)>,
}

impl Recipes {
    /// Reads the options.
    ///
    /// # Errors
    /// For unknown options and values that make no sense.
    pub fn read(options: &Options) -> Result<Self, BackendError> {
        let soc = Settings::read(options, is_option)?.soc;
        let mut changes = vec![];
        for &(name, read, whose) in CHANGES {
            let Some(text) = options.get(name) else { continue };
            changes.push((name, read(text.trim()).map_err(|why| bad_option(name, why))?, whose));
        }
        Ok(Recipes { soc, changes })
    }

    /// What a recipe means here; `option` is where it was named.
    ///
    /// # Errors
    /// When the chip lacks what it needs. `Ok(None)`: there is no such recipe.
    pub fn get(&self, option: &str, name: &str) -> Result<Option<Scheme>, BackendError> {
        let Some(mut scheme) = recipe(name) else {
            return never(name).map_or(Ok(None), |why| Err(bad_option(option, why)));
        };
        for (_, change, _) in &self.changes {
            change(&mut scheme);
        }
        fits(&scheme, self.soc).map_err(|why| bad_option(option, why))?;
        Ok(Some(scheme))
    }

    /// Refuses options that change none of these recipes.
    ///
    /// # Errors
    /// Names the recipes that an option is for.
    pub fn check(&self, names: &[&str]) -> Result<(), BackendError> {
        for (option, change, whose) in &self.changes {
            if !names.iter().any(|name| recipe(name).is_some_and(|mut s| change(&mut s))) {
                return Err(bad_option(option, format!("it is for {whose} only")));
            }
        }
        Ok(())
    }
}

fn weight_granularity(text: &str) -> Result<Change, String> {
    let scales = choice(text, &[("per-channel", Scales::Channel), ("per-tensor", Scales::Tensor)])?;
    Ok(Box::new(move |s| match s.scales {
        Scales::Block(_) => false,
        _ => {
            s.scales = scales;
            true
        }
    }))
}

fn block_size(text: &str) -> Result<Change, String> {
    let wrong = || format!("{text:?} is no size of a block: HTP takes multiples of 16");
    let size: u32 = text.parse().map_err(|_| wrong())?;
    if size == 0 || !size.is_multiple_of(16) {
        return Err(wrong());
    }
    Ok(Box::new(move |s| match &mut s.scales {
        Scales::Block(b) => {
            *b = size;
            true
        }
        _ => false,
    }))
}

fn observer(text: &str) -> Result<Change, String> {
    let kinds = [("histogram", 0), ("min-max", 1), ("moving-average-min-max", 2)];
    let all = [
        ObserverKind::Histogram { bins: 2048 },
        ObserverKind::MinMax,
        ObserverKind::MovingAverage { constant: 0.01 },
    ];
    let observer = all[choice(text, &kinds)?].clone();
    Ok(Box::new(move |s| {
        s.observer = Some(observer.clone());
        true
    }))
}

fn activation_scheme(text: &str) -> Result<Change, String> {
    let symmetric = choice(text, &[("affine", false), ("symmetric", true)])?;
    Ok(Box::new(move |s| {
        s.symmetric = symmetric;
        true
    }))
}

/// The names of all recipes, for messages.
pub(super) fn known() -> Vec<&'static str> {
    RECIPES.iter().map(|r| r.name).collect()
}
