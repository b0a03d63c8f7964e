//! What there is not, and what the deployment target lacks.

use super::options;
use crate::Target;
use crate::quantizer::{RECIPES, STATIC, with_options};
use lowbit_core::backend::Options;

#[test]
fn what_cannot_be_is_refused() {
    let grouped = ("lut-granularity", "per-grouped-channel");
    for (recipe, given, error) in [
        (
            STATIC,
            &[("target", "ios16")][..],
            "target ios16 has no quantized activations; say target=ios17 or take recipe int8-weight-only",
        ),
        (
            "int4-weight-only-per-channel",
            &[("target", "ios17")],
            "target ios17 has no 4-bit integers; say target=ios18 or take recipe int8-weight-only",
        ),
        ("int4-weight-only-per-group", &[("target", "ios16")], "target ios16 has no 4-bit integers"),
        (
            "int8-weight-only-per-group",
            &[("target", "ios17")],
            "target ios17 has no scales for groups of channels; say target=ios18",
        ),
        (
            "lut3",
            &[("target", "ios17")],
            "target ios17 has no look-up tables of 3 bits; say target=ios18 or take recipe lut2 or lut4",
        ),
        (
            "lut4",
            &[("target", "ios17"), grouped],
            "target ios17 has no tables for groups of channels; say target=ios18 or lut-granularity=per-tensor",
        ),
        (
            "int8-weight-only",
            &[("target", "ios17"), ("module-name:a", "lut3")],
            "option \"module-name:a\": target ios17 has no look-up tables of 3 bits",
        ),
        ("lut5", &[], "1, 2, 3, 4, 6 and 8 bits at any target"),
        ("lut7", &[], "take lut4, lut6 or lut8"),
        ("int8-dynamic", &[], "Core ML cannot choose ranges while running"),
        ("int16-static", &[], "Core ML quantizes to 8 bits"),
        ("uint4-static", &[], "4-bit weights go with activations in floating point"),
        ("lut9", &[], "has no recipe \"lut9\"; it has: int8-static, int8-weight-only"),
        (STATIC, &[("weight-dtype", "int4")], "take recipe int4-weight-only-per-group"),
        (STATIC, &[("weight-dtype", "int2")], "\"int2\" is none of int8, uint8, float32"),
        (STATIC, &[("activation-dtype", "int8")], "say uint8"),
        (STATIC, &[("activation-dtype", "uint16")], "Core ML quantizes to 8 bits; say uint8 or float32"),
        (STATIC, &[("observer", "ema")], "none of histogram, min-max, moving-average-min-max"),
        (STATIC, &[("requantize", "yes")], "\"yes\" is none of false, true"),
        ("lut4", &[("requantize", "true")], "it is for recipe int8-static only"),
        (STATIC, &[("group-size", "32")], "it is for recipes by groups only"),
        (STATIC, &[("weight-threshold", "1")], "it is for recipes of weights only"),
        ("lut4", &[("scheme", "affine")], "it is for recipes with integers only"),
        ("lut4", &[("channel-group-size", "8")], "with lut-granularity=per-grouped-channel only"),
        ("int4-weight-only-per-group", &[("group-size", "0")], "\"0\" is no number of channels"),
        ("int4-weight-only-per-group", &[("block-size", "32")], "no size of a block such as 4x32"),
        ("int4-weight-only-per-group", &[("block-size", "1x8"), ("group-size", "8")], "give one of them"),
        ("lut4", &[("module-name:a", "lut12")], "\"lut12\" is neither float nor one of int8-static"),
        (
            "lut4",
            &[("group", "8")],
            "there is no such option; there are: target, precision, compute-units, whole, sparsity, shapes:INPUT, scheme",
        ),
    ] {
        let e = with_options(recipe, &options(given)).unwrap_err().to_string();
        assert!(e.contains(error), "{recipe} {given:?}: {e}");
    }
}

#[test]
fn each_recipe_has_a_target() {
    for recipe in RECIPES {
        assert!(with_options(recipe.name, &Options::new()).is_ok(), "{}", recipe.name);
        let least =
            Target::ALL.iter().find(|t| with_options(recipe.name, &options(&[("target", t.name())])).is_ok());
        let want = match recipe.name {
            STATIC => Target::Ios17,
            "int8-weight-only" | "lut1" | "lut2" | "lut4" | "lut6" | "lut8" => Target::Ios16,
            _ => Target::Ios18,
        };
        assert_eq!(least, Some(&want), "{}", recipe.name);
    }
}
