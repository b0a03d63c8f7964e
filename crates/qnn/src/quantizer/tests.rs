//! What recipes, options and chips lead to.

use super::*;
use lowbit_core::flow::prepare;
use lowbit_core::ir::{Program, text};
use lowbit_core::quant::{Blocks, Granularity, Mapping, ObserverKind, Site, Spec};

fn options(given: &[(&str, &str)]) -> Options {
    given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn shown(p: &Program, spec: &Spec) -> String {
    match spec {
        Spec::Observed(s) => {
            let mapping = if s.scheme.mapping == Mapping::Affine { "affine" } else { "symmetric" };
            let shares = match s.scheme.granularity {
                Granularity::Tensor => String::new(),
                Granularity::Channel { axis } => format!(" by axis {axis}"),
                Granularity::Blocks(Blocks::Sizes(sizes)) => format!(" by {sizes:?}"),
                Granularity::Blocks(b) => format!(" by {b:?}"),
            };
            let observer = match s.observer {
                ObserverKind::Histogram { .. } => "histogram",
                ObserverKind::MinMax => "min-max",
                ObserverKind::MovingAverage { .. } => "average",
                _ => "small-blocks",
            };
            format!("{} {}..{} {mapping}{shares} {observer}", s.range.dtype(), s.range.min(), s.range.max())
        }
        Spec::Fixed(q) => format!("{} {} {}", q.range.dtype(), q.scale[0], q.zero_point[0]),
        Spec::SharedWith(site) => format!("as {}", site.describe(p)),
        Spec::Derived { range, .. } => format!("derived {}", range.dtype()),
        other => format!("{other:?}"),
    }
}

/// One line a node: how what it reads and makes is quantized, and the reason or remark.
fn annotated(text: &str, recipe: &str, given: &[(&str, &str)]) -> Vec<String> {
    let mut p = text::parse(&format!("program {{\n{text}\n}}")).unwrap();
    // The text form has no modules inside modules.
    for n in p.graph.nodes().collect::<Vec<_>>() {
        let path: std::sync::Arc<str> = p.graph.node(n).module.path().into();
        let frame = lowbit_core::ir::ModuleFrame { path, type_name: "Part".into() };
        p.graph.set_module(n, lowbit_core::ir::ModuleStack::new(vec![frame]));
    }
    let q = with_options(recipe, &options(given)).unwrap();
    let prepared = prepare(p, &*q).unwrap();
    let (p, out) = (prepared.program(), prepared.annotations());
    let mut lines = vec![];
    for n in p.graph.nodes() {
        let node = p.graph.node(n);
        let mut line = format!("{}:", node.name);
        for slot in 0..node.operands().count() as u32 {
            if let Some(a) = out.get(Site::input(n, slot)) {
                line += &format!(" [{}]", shown(p, &a.spec));
            }
        }
        for &v in node.outputs() {
            if let Some(a) = out.get(Site::Output(v)) {
                line += &format!(" -> {}", shown(p, &a.spec));
            }
        }
        if let Some(why) = out.remarked(n).or(out.reason(n).filter(|_| !out.is_claimed(n))) {
            line += &format!(" ; {why}");
        }
        lines.push(line);
    }
    lines
}

const LAYERS: &str = "%x : f32[1, 32, 4, 4] = input
    %w : f32[8, 32, 1, 1] = constant \"w\"
    %b : f32[8] = constant \"b\"
    %v : f32[8, 8, 3, 3] = constant \"v\"
    %c : f32[1, 8, 4, 4] = aten.conv2d.default(%x, %w, %b) ; first
    %r : f32[1, 8, 4, 4] = aten.relu.default(%c) ; first
    %d : f32[1, 8, 4, 4] = aten.conv2d.default(%r, %v, padding=[1, 1]) ; second
    %s : f32[1, 8, 4, 4] = aten.sigmoid.default(%d)
    %t : f32[1, 8, 4, 4] = aten.tanh.default(%s)
    return %t";

#[test]
fn layers_are_quantized_as_the_recipe_says() {
    let act = "u8 0..255 affine histogram";
    let weight = "i8 -127..127 symmetric by axis 0 min-max";
    let lines = annotated(LAYERS, "8a8w", &[]);
    assert_eq!(lines[0], format!("c: [{act}] [{weight}] [derived i32]"), "it rounds behind the relu");
    assert_eq!(lines[1], format!("r: -> {act}"));
    assert_eq!(lines[2], format!("d: [as %r (first)] [{weight}] -> {act}").replace("as %r (first)", act));
    assert_eq!(lines[3], format!("s: [{act}] -> u8 0.00390625 0"));
    assert!(lines[4].starts_with("t: [as %s] -> u8 0..255"), "{}", lines[4]);
    let lines = annotated(LAYERS, "16a4w", &[]);
    assert_eq!(
        lines[0],
        "c: [u16 0..65535 affine min-max] [i8 -7..7 symmetric by axis 0 min-max] [derived i32]"
    );
    assert!(lines[3].ends_with("-> u16 0.0000152587890625 0"), "{}", lines[3]);
    assert!(lines[4].ends_with("-> u16 0.000030517578125 32768"), "{}", lines[4]);
    let lines = annotated(LAYERS, "16a16w", &[]);
    assert!(lines[0].contains("[i16 -32767..32767 symmetric by axis 0 min-max]"), "{}", lines[0]);
    let lines = annotated(
        LAYERS,
        "8a8w",
        &[("weight-granularity", "per-tensor"), ("observer", "min-max"), ("activation-scheme", "symmetric")],
    );
    assert!(
        lines[0].contains("[u8 0..255 symmetric min-max] [i8 -127..127 symmetric min-max]"),
        "{}",
        lines[0]
    );
}

#[test]
fn blocks_go_where_the_chip_has_them() {
    let lines = annotated(LAYERS, "16a4w-block", &[("block-size", "16")]);
    assert!(lines[0].contains("by [1, 16, 1, 1] small-blocks"), "{}", lines[0]);
    assert!(!lines[0].contains("derived"), "blocks have no scale a channel for a bias: {}", lines[0]);
    assert!(lines[2].contains("by axis 0") && lines[2].contains("1x1 convolutions"), "{}", lines[2]);
}

#[test]
fn parts_of_the_model_differ() {
    let given = [("module-name:first", "float"), ("node:t", "16a8w"), ("operator:aten.sigmoid", "float")];
    let lines = annotated(LAYERS, "8a8w", &given);
    assert!(lines[0].contains("set to floating point"), "{}", lines[0]);
    assert!(lines[2].contains("u8 0..255"), "{}", lines[2]);
    assert!(lines[3].contains("set to floating point"), "{}", lines[3]);
    assert!(lines[4].contains("u16"), "{}", lines[4]);
    let lines = annotated(LAYERS, "8a8w", &[("pattern:f.*t", "8a4w")]);
    assert!(lines[0].contains("-7..7") && lines[2].contains("-127..127"), "{lines:?}");
}

#[test]
fn masks_have_ranges_of_their_own() {
    let text = "%x : f32[1, 4, 6, 6] = input
        %bias : f32[1, 4, 6, 6] = input
        %seen : bool[1, 1, 6, 6] = input
        %zero : f32[] = constant \"zero\" [0.0]
        %low : f32[] = constant \"low\" [-inf]
        %mask : f32[1, 1, 6, 6] = aten.where.self(%seen, %zero, %low)
        %wide : f32[1, 4, 6, 6] = aten.expand.default(%mask, [1, 4, 6, 6])
        %b : f32[1, 4, 6, 6] = aten.add.Tensor(%bias, %wide)
        %s : f32[1, 4, 6, 6] = aten.add.Tensor(%x, %b)
        %y : f32[1, 4, 6, 6] = aten.softmax.int(%s, -1)
        return %y";
    let lines = annotated(text, "8a8w", &[]);
    let act = "u8 0..255 affine histogram";
    assert_eq!(lines[0], format!("mask: [{act}] [u8 4 255] -> u8 4 255"));
    // The bias is added first, the mask last.
    let line = |name: &str| lines.iter().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
    assert_eq!(*line("add"), format!("add: [{act}] [{act}] -> {act}"));
    assert!(line("s").contains("-> derived u8"), "{lines:?}");
    assert!(line("y").starts_with("y: [as %s]"), "{lines:?}");
}

#[test]
fn flags_become_masks_and_numbers_do_not() {
    let text = |flag: &str| {
        format!(
            "%x : f32[1, 4] = input
            %m : i64[1, 4] = input
            %z : f32[1, 4] = input
            %f : f32[1, 4] = aten._to_copy.default(%m, dtype=f32)
            %r : f32[1, 4] = aten.rsub.Scalar({flag}, 1.0)
            %k : f32[1, 4] = aten.mul.Scalar(%r, -10000.0)
            %s : f32[1, 4] = aten.add.Tensor(%x, %k)
            return %s"
        )
    };
    let sum = |flag| annotated(&text(flag), "8a8w", &[]).into_iter().find(|l| l.starts_with("s:")).unwrap();
    assert!(sum("%f").ends_with("-> derived u8"), "{}", sum("%f"));
    assert!(sum("%z").ends_with("-> u8 0..255 affine histogram"), "{}", sum("%z"));
}

#[test]
fn joined_tensors_share_a_range() {
    let text = "%x : f32[1, 4] = input
        %z : f32[1, 4] = input
        %a : f32[1, 4] = aten.neg.default(%x)
        %c : f32[1, 8] = aten.cat.default([%a, %z], 1)
        %v : f32[8] = aten.view.default(%c, [8])
        return %v";
    let lines = annotated(text, "8a8w", &[]);
    assert!(lines[1].contains("[u8 0..255 affine histogram] [as %c#0] -> as %c#0"), "{}", lines[1]);
    assert!(lines[2].contains("-> as %v#0"), "{}", lines[2]);
}

#[test]
fn products_of_16_bits_follow_the_chip() {
    let text = "%x : f32[2, 4] = input
        %z : f32[4, 2] = input
        %y : f32[2, 2] = aten.matmul.default(%x, %z)
        return %y";
    let second = |soc| annotated(text, "16a8w", &[("soc", soc)])[0].clone();
    assert!(second("SM8550").contains("[i16 -32768..32767 symmetric min-max]"), "{}", second("SM8550"));
    assert!(second("SM8450").contains("[u8 0..255 affine min-max]"), "{}", second("SM8450"));
}

#[test]
fn what_cannot_be_is_refused() {
    let try_it = |recipe: &str, given: &[(&str, &str)]| {
        with_options(recipe, &options(given)).map(|_| ()).map_err(|e| e.to_string())
    };
    for r in RECIPES {
        try_it(r.name, &[]).unwrap();
    }
    for (recipe, given, want) in [
        ("int4", &[][..], "it has: 8a8w, 8a4w"),
        ("int8-static", &[], "take 8a8w"),
        ("fp16a8w", &[], "float=half"),
        (
            "16a16w",
            &[("soc", "SM8450")],
            "SM8450 (V69) has no 16-bit weights with 16-bit activations; say soc=SM8550 (V73) or take recipe 16a8w",
        ),
        (
            "16a4w-block",
            &[("target", "SM8350")],
            "SM8350 (V68) has no scales by blocks of weights; say soc=SM8450 (V69)",
        ),
        ("16a2w", &[("weight-granularity", "per-tensor")], "2-bit weights with a scale a channel"),
        ("8a8w", &[("block-size", "32")], "it is for recipe 16a4w-block only"),
        ("16a4w-block", &[("block-size", "10")], "multiples of 16"),
        ("8a8w", &[("node:x", "int5")], "neither float nor one of"),
        ("8a8w", &[("node:x", "16a16w"), ("soc", "SM8350")], "node:x"),
        ("8a8w", &[("pattern:(", "float")], "pattern:("),
        ("8a8w", &[("speed", "fast")], "there is no such option"),
    ] {
        let e = try_it(recipe, given).unwrap_err();
        assert!(e.contains(want), "{e}");
    }
}

/// What the chip lacks is there in pieces that rules quantize.
#[test]
fn pieces_are_quantized() {
    let form = |text: &str| {
        annotated(text, "8a8w", &[])
            .iter()
            .map(|l| l.split(':').next().unwrap().into())
            .collect::<Vec<String>>()
    };
    let windows = |size: usize| {
        let out = format!("f32[1, 8, {size}, {size}]");
        form(&format!(
            "%x : f32[1, 8, 7, 7] = input\n%y : {out} = aten.adaptive_avg_pool2d.default(%x, [{size}, {size}])\nreturn %y"
        ))
    };
    assert_eq!(windows(1), ["y"]);
    let pieces = windows(4);
    assert_eq!(pieces.iter().filter(|n| n.starts_with("mean")).count(), 8, "{pieces:?}");
    let lines = annotated(
        "%x : f32[1, 8, 20] = input
         %w : f32[4, 8, 3] = constant \"w\"
         %y : f32[1, 4, 20] = aten.conv1d.padding(%x, %w, none, stride=[1], padding=\"same\")
         %z : f32[1, 4, 20] = aten.log1p.default(%y)
         return %z",
        "8a8w",
        &[],
    );
    assert!(lines.iter().any(|l| l.starts_with("convolution:") && l.contains("i8")), "{lines:?}");
    assert!(lines.iter().any(|l| l.starts_with("log:") && l.contains("->")), "{lines:?}");
}

/// The targets of the table whose tensors would be quantized, were they lowered: the census of what is missing.
#[test]
fn what_is_not_lowered_is_listed() {
    let missing: Vec<&str> = table::HTP
        .iter()
        .filter(|r| r.how != table::How::Nothing)
        .flat_map(|r| r.targets)
        .copied()
        .filter(|t| ops::lookup(t).is_some_and(|op| !crate::lowering::operators().any(|o| o == op)))
        .collect();
    assert_eq!(missing, NOT_LOWERED);
}

/// `convolution`, `grid_sampler`, `max_pool2d_with_indices`, `_softmax` and their like become the operators that people write before.
const NOT_LOWERED: &[&str] = &[
    "aten.convolution.default",
    "aten.grid_sampler.default",
    "aten.native_layer_norm.default",
    "aten.max_pool2d_with_indices.default",
    "aten.adaptive_max_pool2d.default",
    "aten.round.decimals",
    "aten._softmax.default",
    "aten.where.ScalarSelf",
];
