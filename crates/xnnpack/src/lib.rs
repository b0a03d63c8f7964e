//! XNNPACK backend: quantizer and lowering to the delegate that ExecuTorch loads.
//!
//! Recipes: `int8-static` (default), which quantizes where XNNPACK rounds; `int8-static-per-channel` and
//! `int8-static-per-tensor`, at the places of ExecuTorch's quantizer; `int8-dynamic-per-channel`;
//! `int8-dynamic-int4-per-channel` and `int8-dynamic-int4-per-group`, which take 8 bits, a scale a channel, for layers
//! that XNNPACK has no 4-bit weights for, and say so. Options of the quantizer:
//!
//! | option | value | |
//! |---|---|---|
//! | `activation-range` | `-128..127` | the integers of activations |
//! | `weight-range` | `-127..127` | the integers of weights, but for 4-bit recipes |
//! | `group-size` | `32` | inputs of a channel that share a scale: a multiple of 32 up to 256 |
//! | `embedding` | `float` | `int8`, `int4` or `int2`: tables of embeddings, with every recipe |
//! | `embedding-group-size` | a row | elements of a row that share a scale |
//! | `embedding-mapping` | `symmetric` | or `asymmetric`, with zero points |
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
use lowbit_core::quantizer::Quantizer;

/// The backend.
#[derive(Copy, Clone, Debug)]
pub struct Xnnpack;

lowbit_core::register_backend!(Xnnpack);

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
        quantizer::with_options(self.name(), recipe, options)
    }

    fn lowering(&self, options: &Options) -> Result<Box<dyn Lowering>, BackendError> {
        // `quantize` hands its options to both.
        match options.keys().find(|o| !quantizer::is_option(o)) {
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
        let groups = quantizer::INT4_GROUP;
        try_it(first, &[("module-name:head", groups), ("group-size", "64"), ("weight-range", "-7..7")])
            .unwrap();
        try_it(
            groups,
            &[("embedding", "int2"), ("embedding-group-size", "8"), ("embedding-mapping", "asymmetric")],
        )
        .unwrap();
        for (recipe, options, want) in [
            (
                "int4",
                &[][..],
                "it has: int8-static, int8-static-per-channel, int8-static-per-tensor, int8-dynamic-per-channel, \
                 int8-dynamic-int4-per-channel, int8-dynamic-int4-per-group",
            ),
            (first, &[("speed", "fast")], "there are: activation-range"),
            (first, &[("weight-range", "-8")], "no range such as"),
            (first, &[("weight-range", "-200..7")], "i8"),
            (first, &[("module-name:head", "int5")], "neither float nor one of"),
            (groups, &[("group-size", "48")], "multiples of 32"),
            (groups, &[("group-size", "512")], "multiples of 32"),
            (groups, &[("weight-range", "-7..7")], "from -8 to 7"),
            (first, &[("group-size", "64")], "only recipe int8-dynamic-int4-per-group"),
            (first, &[("embedding", "int3")], "none of float, int8, int4, int2"),
            (first, &[("embedding-group-size", "32")], "say also embedding="),
            (first, &[("embedding", "int4"), ("embedding-group-size", "0")], "no number of elements"),
            (first, &[("embedding", "int4"), ("embedding-mapping", "log")], "neither symmetric nor"),
        ] {
            let e = try_it(recipe, options).unwrap_err();
            assert!(e.contains(want), "{e}");
        }
        Xnnpack.lowering(&[("operator:aten.add".to_string(), "float".to_string())].into()).unwrap();
        let e = Xnnpack.lowering(&[("a".to_string(), "b".to_string())].into()).unwrap_err();
        assert!(e.to_string().contains("no options"), "{e}");
    }
}
