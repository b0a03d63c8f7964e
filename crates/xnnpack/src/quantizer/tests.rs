//! What the recipes with weights of 4 bits do with each kind of layer.

use super::{DYNAMIC, INT4_CHANNEL, INT4_GROUP, STATIC, with_options};
use lowbit_core::backend::Options;
use lowbit_core::flow::prepare;
use lowbit_core::ir::{Program, text};
use lowbit_core::quant::{Annotations, Granularity, Site, Spec};
use std::fmt::Write;

/// Layers that fit and layers that do not.
const NET: &str = "program {
  %tokens : i64[2, 5] = input
  %image : f32[1, 3, 8, 8] = input
  %table : f32[10, 66] = constant \"table\"
  %w1 : f32[64, 66] = constant \"w1\"
  %w2 : f32[33, 64] = constant \"w2\"
  %w3 : f32[8, 33] = constant \"w3\"
  %k1 : f32[64, 3, 3, 3] = constant \"k1\"
  %k2 : f32[96, 64, 1, 1] = constant \"k2\"
  %rows : f32[2, 5, 66] = aten.embedding.default(%table, %tokens) ; rows
  %even : f32[2, 5, 64] = aten.linear.default(%rows, %w1, none) ; even
  %whole : f32[2, 5, 33] = aten.linear.default(%even, %w2, none) ; whole
  %odd : f32[2, 5, 8] = aten.linear.default(%whole, %w3, none) ; odd
  %conv : f32[1, 64, 6, 6] = aten.conv2d.default(%image, %k1, none) ; conv
  %point : f32[1, 96, 6, 6] = aten.conv2d.default(%conv, %k2, none) ; point
  return %odd, %point
}";

/// One line a layer: what its input and its weight become, and the remark or reason.
fn annotated(recipe: &str, options: &[(&str, &str)]) -> String {
    let options: Options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let q = with_options("xnnpack", recipe, &options).unwrap();
    let prepared = prepare(text::parse(NET).unwrap(), &*q).unwrap();
    let (p, out): (&Program, &Annotations) = (prepared.program(), prepared.annotations());
    let mut lines = String::new();
    for n in p.graph.nodes() {
        write!(lines, "{}:", p.graph.node(n).name).unwrap();
        for slot in 0..2 {
            match out.get(Site::input(n, slot)).map(|a| &a.spec) {
                Some(Spec::Observed(s)) => {
                    let blocks = match s.scheme.granularity {
                        Granularity::Blocks(b) => format!("{b:?}"),
                        Granularity::Channel { axis } => format!("Channel({axis})"),
                        Granularity::Tensor => "Tensor".into(),
                    };
                    write!(lines, " {}..{} {blocks}", s.range.min(), s.range.max()).unwrap();
                }
                _ => lines += " -",
            }
        }
        if let Some(why) = out.remarked(n).or(out.reason(n).filter(|_| !out.is_claimed(n))) {
            write!(lines, "; {why}").unwrap();
        }
        lines += "\n";
    }
    lines
}

#[test]
fn groups_that_are_whole() {
    let want = "\
rows: - -; aten.embedding.default has no dynamic rule
even: -128..127 Tensor -127..127 Channel(0); its 66 inputs are no multiple of the group of 32; its weight takes 8 bits
whole: -128..127 Token -8..7 Group(32)
odd: -128..127 Tensor -127..127 Channel(0); its 33 inputs are no multiple of the group of 32; its weight takes 8 bits
conv: -128..127 Tensor -127..127 Channel(0); XNNPACK has 4-bit weights for linear layers and pointwise convolutions only; \
its weight takes 8 bits
point: -128..127 Row(1) -8..7 Sizes([1, 32, 1, 1])
";
    assert_eq!(annotated(INT4_GROUP, &[]), want);
    let larger = annotated(INT4_GROUP, &[("group-size", "64")]);
    assert!(larger.contains("whole: -128..127 Token -8..7 Group(64)\n"), "{larger}");
    let none = annotated(INT4_GROUP, &[("group-size", "128")]);
    assert!(
        none.contains("its 64 inputs are no multiple of the group of 128") && !none.contains("-8..7"),
        "{none}"
    );
}

#[test]
fn channels_of_even_size() {
    let got = annotated(INT4_CHANNEL, &[]);
    let lines: Vec<&str> = got.lines().skip(1).collect();
    assert_eq!(
        lines[..2],
        ["even: -128..127 Tensor -8..7 Channel(0)", "whole: -128..127 Tensor -8..7 Channel(0)"]
    );
    assert!(lines[2].ends_with("its 33 inputs are an odd number; its weight takes 8 bits"), "{got}");
    assert_eq!(lines[4], "point: -128..127 Tensor -8..7 Channel(0)");
}

#[test]
fn a_module_of_its_own() {
    let got = annotated(DYNAMIC, &[("module-name:whole", INT4_GROUP), ("operator:aten.conv2d", "float")]);
    let lines: Vec<&str> = got.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "even: -128..127 Tensor -127..127 Channel(0)",
            "whole: -128..127 Token -8..7 Group(32)",
            "odd: -128..127 Tensor -127..127 Channel(0)",
            "conv: - -; operator aten.conv2d is set to floating point",
            "point: - -; operator aten.conv2d is set to floating point",
        ]
    );
}

#[test]
fn embeddings_go_with_every_recipe() {
    for (options, want) in [
        (&[("embedding", "int8")][..], "rows: -128..127 Token -"),
        (&[("embedding", "int4"), ("embedding-group-size", "33")], "rows: -8..7 Group(33) -"),
        (&[("embedding", "int2")], "rows: - -; its rows of 66 do not fill bytes of 4 integers"),
        (
            &[("embedding", "int4"), ("embedding-group-size", "32")],
            "rows: - -; its rows of 66 are no multiple of the group of 32",
        ),
        (
            &[("embedding", "int8"), ("module-name:rows", "float")],
            "rows: - -; module \"rows\" is set to floating point",
        ),
    ] {
        for recipe in [STATIC, DYNAMIC, INT4_GROUP] {
            let got = annotated(recipe, options);
            assert_eq!(got.lines().next(), Some(want), "{recipe}");
        }
    }
}
