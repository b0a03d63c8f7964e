//! `int8-static`.

use super::{annotated, program, starting};
use crate::quantizer::STATIC;
use lowbit_core::ir::Program;

/// Every pattern with activations, the ways around them, and what has no rule.
const PATTERNS: &str = "program {
  %x : f32[1, 8, 12, 12] = input
  %k : f32[8, 8, 3, 3] = constant \"k\"
  %b : f32[8] = constant \"b\"
  %k1 : f32[8, 8, 1] = constant \"k1\"
  %w : f32[8, 8] = constant \"w\"
  %conv : f32[1, 8, 10, 10] = aten.conv2d.default(%x, %k, %b) ; block.conv
  %relu : f32[1, 8, 10, 10] = aten.relu.default(%conv) ; block.act
  %gate : f32[1, 8, 8, 8] = aten.conv2d.default(%relu, %k, none) ; block.gate
  %sigmoid : f32[1, 8, 8, 8] = aten.sigmoid.default(%gate) ; block
  %twice : f32[1, 8, 6, 6] = aten.conv2d.default(%sigmoid, %k, none) ; block
  %more : f32[1, 8, 6, 6] = aten.add.Scalar(%twice, 2.0) ; sums
  %sum : f32[1, 8, 6, 6] = aten.add.Tensor(%more, %twice) ; sums
  %clipped : f32[1, 8, 6, 6] = aten.hardtanh.default(%sum, 0, 6) ; sums
  %pooled : f32[1, 8, 3, 3] = aten.max_pool2d.default(%clipped, [2, 2], [2, 2]) ; sums
  %flat : f32[1, 8, 9] = aten.flatten.using_ints(%pooled, 2, 3) ; sums
  %row : f32[1, 8, 9] = aten.conv1d.default(%flat, %k1, %b) ; row
  %unit : f32[1, 8, 9] = aten.hardtanh.default(%row, -1, 1) ; row
  %mean : f32[1, 8] = aten.mean.dim(%unit, [2]) ; head
  %head : f32[1, 8] = aten.linear.default(%mean, %w, %b) ; head
  %tanh : f32[1, 8] = aten.tanh.default(%head) ; head
  %soft : f32[1, 8] = aten.softmax.int(%tanh, 1) ; head
  %last : f32[1, 8] = aten.mean.dim(%soft, [0], true) ; head
  %product : f32[1, 1] = aten.matmul.default(%last, %turned) ; head
  return %product
}";

fn patterns() -> Program {
    let turned = "  %turned : f32[8, 1] = aten.permute.default(%tanh, [1, 0]) ; head\n  %soft";
    program(&PATTERNS.replacen("  %soft", turned, 1))
}

#[test]
fn activations_are_quantized_by_patterns() {
    let own = "0..255 symmetric histogram";
    let kernel = "-128..127 symmetric Channel(0)";
    let positive = "0..255 affine histogram";
    let mut want = [
        format!("conv: [{own}] [{kernel}]"),
        format!("relu: -> {positive}"),
        format!("gate: [{positive}] [{kernel}]"),
        "sigmoid: -> 0..255 0.00390625 0".into(),
        // A layer alone comes after all with activations.
        format!("twice: [0..255 0.00390625 0] [{kernel}] -> {own}"),
        format!("more: [{own}] -> {own}"),
        format!("sum: [{own}] [{own}]"),
        format!("clipped: -> {positive}"),
        "pooled: -> as %clipped".into(),
        "flat: -> as %pooled".into(),
        // Convolutions come before sums and pools: what those make is rounded once more.
        format!("row: [{own}] [{kernel}]"),
        format!("unit: -> {own}"),
        "mean: -> as %unit".into(),
        format!("head: [{own}] [{kernel}]"),
        "tanh: -> 0..255 0.0078125 128".into(),
        "turned: ; there is no rule for aten.permute.default".into(),
        "soft: ; there is no rule for aten.softmax.int".into(),
        "last: ; it hands on what it reads, which is not quantized".into(),
        format!("product: [{own}] [{own}] -> {own}"),
    ];
    assert_eq!(annotated(patterns(), STATIC, &[("requantize", "true")]), want);
    for (layer, from) in [("row", "flat"), ("head", "mean")] {
        let line = want.iter_mut().find(|l| l.starts_with(layer)).unwrap();
        *line = format!("{layer}: [as %{from}] [{kernel}]");
    }
    assert_eq!(annotated(patterns(), STATIC, &[]), want);
}

#[test]
fn options_change_the_static_recipe() {
    for (given, node, want) in [
        (
            &[("scheme", "affine")][..],
            "conv",
            "conv: [0..255 affine histogram] [-128..127 affine Channel(0)]",
        ),
        (&[("scheme", "affine")], "sigmoid", "sigmoid: -> 0..255 0.00390625 0"),
        // Weights are there as a whole, and need no histogram.
        (
            &[("weight-dtype", "uint8"), ("weight-granularity", "per-tensor")],
            "conv",
            "conv: [0..255 symmetric histogram] [0..255 symmetric min-max]",
        ),
        (
            &[("observer", "min-max"), ("weight-granularity", "per-tensor")],
            "conv",
            "conv: [0..255 symmetric min-max] [-128..127 symmetric min-max]",
        ),
        (
            &[("observer", "moving-average-min-max"), ("weight-granularity", "per-tensor")],
            "conv",
            "conv: [0..255 symmetric average] [-128..127 symmetric average]",
        ),
        (&[("activation-dtype", "float32")], "conv", "conv: [-128..127 symmetric Channel(0)]"),
        (&[("activation-dtype", "float32"), ("target", "ios16")], "relu", "relu:"),
        (
            &[("activation-dtype", "float32")],
            "sum",
            "sum: ; activations are set to floating point, and it has no weight",
        ),
        (&[("weight-dtype", "float32")], "conv", "conv: ; everything is set to floating point"),
        (&[("module-name:block", "float")], "gate", "gate: ; module \"block\" is set to floating point"),
        (
            &[("module-name:block.conv", "float")],
            "gate",
            "gate: [0..255 symmetric histogram] [-128..127 symmetric Channel(0)]",
        ),
        // The inner one of two modules, whatever their names.
        (
            &[("module-name:block", "float"), ("module-name:block.gate", "int8-static")],
            "gate",
            "gate: [0..255 symmetric histogram] [-128..127 symmetric Channel(0)] -> 0..255 symmetric histogram",
        ),
        (
            &[("operator:aten.matmul", "float")],
            "product",
            "product: ; operator aten.matmul is set to floating point",
        ),
        (
            &[("operator:aten.linear", "int8-weight-only"), ("weight-threshold", "0")],
            "head",
            "head: [-128..127 symmetric Axis(0)]",
        ),
        (
            &[("operator:aten.linear", "int8-weight-only")],
            "head",
            "head: ; its weight has 64 elements; up to 2048 stay in floating point (option weight-threshold)",
        ),
    ] {
        let lines = annotated(patterns(), STATIC, given);
        assert_eq!(starting(&lines, node), want, "{given:?}");
    }
}
