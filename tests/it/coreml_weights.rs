//! Programs by the recipes of the Core ML quantizer, run: every layout of weights is carried out, and costs what its bits cost.

use lowbit::data::npy;
use lowbit_core::Tensor;
use lowbit_core::backend::Options;
use lowbit_core::executor::Executor;
use lowbit_core::flow::{Converted, prepare};
use lowbit_core::ir::{Program, text};
use lowbit_coreml::quantizer::with_options;
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use std::path::Path;

/// Layers whose weights are laid out in all ways there are.
const LAYERS: &str = "program {
  %tokens : i64[2, 5] = input
  %image : f32[1, 16, 6, 6] = input
  %block : f32[1, 4, 4, 4, 4] = input
  %table : f32[50, 64] = constant \"table\"
  %w : f32[48, 64] = constant \"w\"
  %m : f32[48, 96] = constant \"m\"
  %k1 : f32[64, 16, 3, 3] = constant \"k1\"
  %k2 : f32[64, 32, 2, 2] = constant \"k2\"
  %k3 : f32[32, 4, 3, 3, 3] = constant \"k3\"
  %rows : f32[2, 5, 64] = aten.embedding.default(%table, %tokens)
  %linear : f32[2, 5, 48] = aten.linear.default(%rows, %w, none)
  %product : f32[2, 5, 96] = aten.matmul.default(%linear, %m)
  %conv : f32[1, 64, 4, 4] = aten.conv2d.default(%image, %k1, none)
  %up : f32[1, 32, 8, 8] = aten.conv_transpose2d.input(%conv, %k2, none, [2, 2])
  %solid : f32[1, 32, 2, 2, 2] = aten.conv3d.default(%block, %k3, none)
  return %product, %up, %solid
}";

fn options(given: &[(&str, &str)]) -> Options {
    given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn run(p: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    CpuExecutor::default().load(p, &[]).unwrap().run(inputs, &mut |_, _| {}).unwrap()
}

/// Signal to noise in decibels.
fn sqnr(float: &Tensor, other: &Tensor) -> f64 {
    let (float, other) = (float.to_f64(), other.to_f64());
    let noise: f64 = float.iter().zip(&other).map(|(a, b)| (a - b).powi(2)).sum();
    10.0 * (float.iter().map(|a| a * a).sum::<f64>() / noise).log10()
}

fn converted(p: Program, recipe: &str, given: &[(&str, &str)], calls: &[Vec<Tensor>]) -> Converted {
    let executor = CpuExecutor::default();
    let q = with_options(recipe, &options(given)).unwrap();
    let mut prepared = prepare(p, &*q).unwrap();
    assert_eq!(prepared.needs_data(), recipe == "int8-static");
    let mut session = prepared.load(&executor).unwrap();
    for call in calls {
        prepared.calibrate(&mut *session, call).unwrap();
    }
    prepared.convert(&executor).unwrap()
}

#[test]
fn weights_cost_what_their_bits_cost() {
    let mut p = text::parse(LAYERS).unwrap();
    data::fill(&mut p);
    let inputs = data::inputs(&p, 0);
    let float = run(&p, &inputs);
    let grouped = ("lut-granularity", "per-grouped-channel");
    // The first output has three compressed layers behind it.
    let table: &[(&str, &[(&str, &str)], f64)] = &[
        ("int8-weight-only", &[], 40.0),
        ("int8-weight-only", &[("scheme", "affine")], 40.0),
        ("int8-weight-only", &[("weight-granularity", "per-tensor")], 40.0),
        ("int8-weight-only-per-group", &[("group-size", "4")], 40.0),
        ("int8-weight-only-per-group", &[("block-size", "4x16")], 40.0),
        ("int4-weight-only-per-channel", &[], 16.0),
        ("int4-weight-only-per-group", &[("group-size", "16")], 16.0),
        ("int4-weight-only-per-group", &[("group-size", "2"), ("scheme", "affine")], 16.0),
        ("lut1", &[], 1.5),
        ("lut2", &[], 7.0),
        ("lut3", &[], 13.0),
        ("lut4", &[], 18.0),
        ("lut4", &[grouped, ("channel-group-size", "16")], 19.0),
        ("lut4", &[grouped, ("channel-group-size", "2"), ("channel-axis", "input")], 19.0),
        ("lut6", &[], 30.0),
        ("lut8", &[], 40.0),
    ];
    let mut poor = vec![];
    for &(recipe, given, least) in table {
        let q = converted(p.clone(), recipe, given, &[]);
        for (i, (a, b)) in float.iter().zip(run(&q.program, &inputs)).enumerate() {
            let db = sqnr(a, &b);
            if db < least {
                poor.push(format!("{recipe} {given:?}: output {i}: {db:.1} dB, less than {least}"));
            }
        }
    }
    assert!(poor.is_empty(), "{}", poor.join("\n"));
}

/// Sums lie between convolutions here.
#[test]
fn values_are_better_rounded_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity/pt2e");
    let p = lowbit_pt2::read(&folder.join("residual_cnn.pt2")).unwrap();
    let (_, images) = npy::read(&folder.join("residual_cnn.npz"), |_| true).unwrap().pop().unwrap();
    let size = images.numel() / images.shape()[0] * 4;
    let image = |k: usize| {
        let bytes = images.bytes().slice(k * size..(k + 1) * size);
        Tensor::from_bytes(images.dtype(), &images.shape()[1..], bytes).unwrap()
    };
    let calls: Vec<Vec<Tensor>> = (0..images.shape()[0]).map(|k| vec![image(k)]).collect();
    let quality = |given: &[(&str, &str)]| -> (f64, usize) {
        let q = converted(p.clone(), "int8-static", given, &calls);
        let db = calls.iter().map(|c| sqnr(&run(&q.reference, c)[0], &run(&q.program, c)[0])).sum::<f64>();
        let nodes = q.program.graph.nodes();
        let rounds = nodes.filter(|&n| q.program.graph.node(n).op().name.contains(".quantize_per")).count();
        (db / calls.len() as f64, rounds)
    };
    let range = ("observer", "min-max");
    let (once, twice) = (quality(&[range]), quality(&[range, ("requantize", "true")]));
    assert!(once.0 > twice.0 && once.1 < twice.1, "{once:?} {twice:?}");
}
