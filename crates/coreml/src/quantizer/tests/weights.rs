//! Recipes for weights alone, and parts of programs with recipes of their own.

use super::{annotated, options, program, starting};
use crate::quantizer::{STATIC, with_options};
use lowbit_core::flow::prepare;

/// Layers with weights of all kinds.
const LAYERS: &str = "program {
  %tokens : i64[2, 5] = input
  %image : f32[1, 3, 8, 8] = input
  %block : f32[1, 4, 5, 5, 5] = input
  %table : f32[100, 64] = constant \"table\"
  %w1 : f32[48, 64] = constant \"w1\"
  %w2 : f32[64, 48] = constant \"w2\"
  %m : f32[64, 96] = constant \"m\"
  %k1 : f32[128, 3, 3, 3] = constant \"k1\"
  %k2 : f32[64, 128, 3, 3] = constant \"k2\"
  %k3 : f32[64, 12, 2, 2] = constant \"k3\"
  %k4 : f32[32, 4, 3, 3, 3] = constant \"k4\"
  %small : f32[8, 96] = constant \"small\"
  %rows : f32[2, 5, 64] = aten.embedding.default(%table, %tokens) ; rows
  %whole : f32[2, 5, 48] = aten.linear.default(%rows, %w1, none) ; mlp.whole
  %odd : f32[2, 5, 64] = aten.linear.default(%whole, %w2, none) ; mlp.odd
  %product : f32[2, 5, 96] = aten.matmul.default(%odd, %m) ; product
  %little : f32[2, 5, 8] = aten.linear.default(%product, %small, none) ; little
  %conv : f32[1, 128, 6, 6] = aten.conv2d.default(%image, %k1, none) ; conv
  %deep : f32[1, 64, 4, 4] = aten.conv2d.default(%conv, %k2, none) ; deep
  %up : f32[1, 12, 8, 8] = aten.conv_transpose2d.input(%deep, %k3, none, [2, 2]) ; up
  %solid : f32[1, 32, 3, 3, 3] = aten.conv3d.default(%block, %k4, none) ; solid
  return %little, %up, %solid
}";

fn compressed(recipe: &str, given: &[(&str, &str)]) -> Vec<String> {
    let lines = annotated(program(LAYERS), recipe, given);
    lines.into_iter().filter(|l| !l.starts_with("permute")).collect()
}

#[test]
fn weights_are_compressed_by_recipes() {
    let little =
        "little: ; its weight has 768 elements; up to 2048 stay in floating point (option weight-threshold)";
    let eight = |n: u32, what: &str, group: u32| {
        format!(
            "its {n} {what} channels are no multiple of the group of {group}; its weight takes 8 bits, a scale a channel"
        )
    };
    let int8 = "-128..127 symmetric Axis";
    let channels: Vec<String> = ["rows", "whole", "odd", "product"]
        .iter()
        .map(|n| format!("{n}: [{int8}(0)]"))
        .chain([little.into()])
        .chain(["conv", "deep"].map(|n| format!("{n}: [{int8}(0)]")))
        .chain([format!("up: [{int8}(1)]"), format!("solid: [{int8}(0)]")])
        .collect();
    assert_eq!(compressed("int8-weight-only", &[]), channels);
    let four: Vec<String> = channels.iter().map(|l| l.replace("-128..127", "-8..7")).collect();
    assert_eq!(compressed("int4-weight-only-per-channel", &[]), four);
    let affine: Vec<String> = channels.iter().map(|l| l.replace("symmetric", "affine")).collect();
    assert_eq!(compressed("int8-weight-only", &[("scheme", "affine")]), affine);

    let want = [
        "rows: [-8..7 symmetric Group(32)]".to_string(),
        "whole: [-8..7 symmetric Group(32)]".into(),
        format!("odd: [{int8}(0)] ; {}", eight(48, "input", 32)),
        "product: [-8..7 symmetric Group(32)]".into(),
        little.into(),
        format!("conv: [{int8}(0)] ; {}", eight(3, "input", 32)),
        // A block takes in whole kernels.
        "deep: [-8..7 symmetric Sizes([1, 32, 3, 3])]".into(),
        "up: [-8..7 symmetric Sizes([32, 1, 2, 2])]".into(),
        format!("solid: [{int8}(0)] ; {}", eight(4, "input", 32)),
    ];
    assert_eq!(compressed("int4-weight-only-per-group", &[]), want);
    for (given, node, want) in [
        (("group-size", "16"), "odd", "odd: [-8..7 symmetric Group(16)]".to_string()),
        (("group-size", "2"), "solid", "solid: [-8..7 symmetric Sizes([2, 3, 3, 3])]".into()),
        (("block-size", "4x16"), "whole", "whole: [-8..7 symmetric Sizes([1, 1, 4, 16])]".into()),
        (("block-size", "5x16"), "odd", format!("odd: [{int8}(0)] ; {}", eight(64, "output", 5))),
        (("weight-threshold", "700"), "little", "little: [-8..7 symmetric Group(32)]".into()),
        (("module-type:Nothing", "float"), "", "a configuration is set for modules of type Nothing".into()),
    ] {
        if node.is_empty() {
            let q = with_options("int4-weight-only-per-group", &options(&[given])).unwrap();
            let e = prepare(program(LAYERS), &*q).unwrap_err();
            assert!(e.to_string().contains(&want), "{e}");
            continue;
        }
        assert_eq!(starting(&compressed("int4-weight-only-per-group", &[given]), node), want, "{given:?}");
    }
}

#[test]
fn weights_become_tables() {
    let lines = compressed("lut4", &[]);
    for node in ["rows", "odd", "deep", "up", "solid"] {
        assert_eq!(starting(&lines, node), format!("{node}: [4 bits Tensor]"));
    }
    let grouped = ("lut-granularity", "per-grouped-channel");
    for (given, node, want) in [
        (&[grouped][..], "deep", "deep: [6 bits Channels { axis: 0, size: 32 }]"),
        (&[grouped, ("channel-group-size", "3")], "up", "up: [6 bits Channels { axis: 1, size: 3 }]"),
        (
            &[grouped, ("channel-group-size", "16"), ("channel-axis", "input")],
            "whole",
            "whole: [6 bits Channels { axis: 1, size: 16 }]",
        ),
        (
            &[grouped],
            "whole",
            "whole: [6 bits Tensor] ; its 48 output channels are no multiple of the group of 32; it has one table",
        ),
    ] {
        assert_eq!(starting(&compressed("lut6", given), node), want, "{given:?}");
    }
}

#[test]
fn parts_take_recipes_of_their_own() {
    let lines = compressed(
        "int4-weight-only-per-group",
        &[
            ("module-name:mlp", "lut4"),
            ("module-name:mlp.odd", "int8-static"),
            ("operator:aten.conv2d", "float"),
        ],
    );
    assert_eq!(starting(&lines, "whole"), "whole: [4 bits Tensor]");
    assert_eq!(
        starting(&lines, "odd"),
        "odd: [0..255 symmetric histogram] [-128..127 symmetric Channel(0)] -> 0..255 symmetric histogram"
    );
    assert_eq!(starting(&lines, "deep"), "deep: ; operator aten.conv2d is set to floating point");
    assert_eq!(starting(&lines, "rows"), "rows: [-8..7 symmetric Group(32)]");
    let lines = compressed(STATIC, &[("operator:aten.embedding", "lut8")]);
    assert_eq!(starting(&lines, "rows"), "rows: [8 bits Tensor]");
    assert_eq!(starting(&lines, "up"), "up: ; there is no rule for aten.conv_transpose2d.input",);
}
