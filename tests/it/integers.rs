//! Converted programs in integer arithmetic: as far from the ones with quantize and dequantize nodes as one rounding.

use lowbit_core::executor::Executor;
use lowbit_core::flow::{ConvertOptions, Converted, Fold, prepare};
use lowbit_core::ir::{Program, text};
use lowbit_core::quantizer::{Intx, Quantizer, Scope, WeightConfig, WeightQuantizer};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use lowbit_xnnpack::quantizer::{Scales, Symmetric, quantizer};

fn program(text: &str) -> Program {
    let mut p = text::parse(text).unwrap();
    data::fill(&mut p);
    p
}

fn converted(p: &Program, q: &dyn Quantizer, options: ConvertOptions) -> Converted {
    let mut prepared = prepare(p.clone(), q).unwrap();
    let mut session = prepared.load(&CpuExecutor::default()).unwrap();
    for sample in 0..4 {
        prepared.calibrate(&mut *session, &data::inputs(p, sample)).unwrap();
    }
    drop(session);
    prepared.convert_with(&CpuExecutor::default(), options).unwrap()
}

fn run(p: &Program, inputs: &[Tensor]) -> Vec<f64> {
    let mut session = CpuExecutor::default().load(p, &[]).unwrap();
    session.run(inputs, &mut |_, _| {}).unwrap()[0].to_f64()
}

/// Largest distance between both forms, and how many elements differ at all, over new inputs.
fn distance(p: &Program, q: &dyn Quantizer) -> (f64, f64, Program) {
    let floats = converted(p, q, ConvertOptions::default());
    let integers = converted(p, q, ConvertOptions { integers: true, ..ConvertOptions::default() });
    let (mut largest, mut differ, mut count) = (0f64, 0, 0);
    for sample in 4..12 {
        let inputs = data::inputs(p, sample);
        for (a, b) in run(&floats.program, &inputs).into_iter().zip(run(&integers.program, &inputs)) {
            largest = largest.max((a - b).abs());
            differ += usize::from((a - b).abs() > 1e-6 * a.abs().max(1.0));
            count += 1;
        }
    }
    (largest, differ as f64 / count as f64, integers.program)
}

/// Layers compute with integers, and no quantize or dequantize node is left.
fn check(p: &Program, layers: &[&str]) {
    let g = &p.graph;
    for n in g.nodes().map(|n| g.node(n)) {
        let op = n.op().short_name();
        assert!(!op.contains("quantize_per"), "{}", text::print(p));
        if layers.contains(&op) {
            let first = g.ty(n.operands().next().unwrap()).dtype;
            assert!(!first.is_float(), "{}", text::print(p));
        }
    }
}

fn symmetric(per_channel: bool, dynamic: bool) -> impl Quantizer {
    let scales = if per_channel { Scales::Channel } else { Scales::Tensor };
    let config = Symmetric { scales, dynamic, ..Symmetric::default() };
    quantizer().set(Scope::Global, config.config())
}

const LINEAR: &str = "program {
  %x : f32[3, 16] = input
  %w : f32[8, 16] = constant \"w\"
  %b : f32[8] = constant \"b\"
  %y : f32[3, 8] = aten.linear.default(%x, %w, %b)
  %z : f32[3, 8] = aten.relu.default(%y)
  return %z
}";

const CONV: &str = "program {
  %x : f32[2, 4, 9, 8] = input
  %v : f32[6, 2, 3, 3] = constant \"v\"
  %w : f32[5, 6, 1, 1] = constant \"w\"
  %b : f32[6] = constant \"b\"
  %y : f32[2, 6, 5, 4] = aten.conv2d.default(%x, %v, %b, stride=[2, 2], padding=[1, 1], groups=2)
  %r : f32[2, 6, 5, 4] = aten.relu.default(%y)
  %p : f32[2, 6, 4, 3] = aten.max_pool2d.default(%r, [2, 2], [1, 1])
  %z : f32[2, 5, 4, 3] = aten.conv2d.default(%p, %w)
  return %z
}";

const ADD: &str = "program {
  %x : f32[4, 16] = input
  %y : f32[4, 16] = input
  %a : f32[4, 16] = aten.add.Tensor(%x, %y)
  %r : f32[4, 16] = aten.relu.default(%a)
  %z : f32[4, 16] = aten.add.Tensor(%r, %y)
  return %z
}";

#[test]
fn static_layers_are_one_rounding_apart() {
    for (text, layers) in [(LINEAR, "linear"), (CONV, "conv2d"), (ADD, "add_relu")] {
        let p = program(text);
        for per_channel in [false, true] {
            let q = symmetric(per_channel, false);
            let step = converted(&p, &q, ConvertOptions::default());
            let step = step.sites.iter().rev().find(|s| s.value == "z").unwrap();
            let step = step.params.as_ref().unwrap().scale[0];
            let (largest, differ, integers) = distance(&p, &q);
            check(&integers, &[layers, "max_pool2d"]);
            assert!(largest <= step * 2.001 && differ < 0.02, "{layers}: {largest} of {step}, {differ}");
        }
    }
}

#[test]
fn dynamic_layers_differ_in_last_bits() {
    for text in [LINEAR, CONV] {
        let p = program(text);
        for per_channel in [false, true] {
            let (largest, _, integers) = distance(&p, &symmetric(per_channel, true));
            check(&integers, &["linear"]);
            assert!(largest < 1e-4, "{largest}");
        }
    }
}

#[test]
fn weights_by_groups_are_summed_by_groups() {
    let p = program(
        "program {
          %x : f32[2, 3, 64] = input
          %w : f32[8, 64] = constant \"w\"
          %b : f32[8] = constant \"b\"
          %y : f32[2, 3, 8] = aten.linear.default(%x, %w, %b)
          return %y
        }",
    );
    for group in [None, Some(32)] {
        for mapping in [lowbit_core::quant::Mapping::Symmetric, lowbit_core::quant::Mapping::Affine] {
            let intx = Intx { bits: 4, group, mapping, ..Intx::default() };
            let q = WeightQuantizer::new(WeightConfig::Int8DynamicActivationIntxWeight(intx));
            let (largest, _, integers) = distance(&p, &q);
            let g = &integers.graph;
            let bmm = g.nodes().find(|&n| g.node(n).op().short_name() == "bmm").unwrap();
            assert_eq!(g.ty(g.node(bmm).output()).dtype, DType::I32);
            assert!(largest < 1e-5, "{largest}");
        }
    }
}

#[test]
fn conversions_are_exact() {
    // Sigmoid stays in floating point; what is around it is written out.
    let p = program(
        "program {
          %x : f32[3, 16] = input
          %w : f32[8, 16] = constant \"w\"
          %s : f32[3, 16] = aten.sigmoid.default(%x)
          %y : f32[3, 8] = aten.linear.default(%s, %w)
          return %y
        }",
    );
    let unfolded = ConvertOptions { fold: Fold::Nothing, integers: true };
    for per_channel in [false, true] {
        let q = symmetric(per_channel, false);
        let (a, b) = (
            converted(&p, &q, unfolded),
            converted(&p, &q, ConvertOptions { integers: true, ..ConvertOptions::default() }),
        );
        check(&a.program, &["linear"]);
        let inputs = data::inputs(&p, 7);
        assert_eq!(run(&a.program, &inputs), run(&b.program, &inputs));
    }
}

#[test]
fn sums_are_exact_where_floats_are_not() {
    let ints = |shape: &[usize], v: Vec<i32>| Tensor::new(shape, v).unwrap();
    let (x, w) = (vec![1 << 24, 1, 5], vec![1, 1, 0]);
    for (shape, out, op) in [("[1, 3]", "[1, 1]", "linear"), ("[1, 1, 1, 3]", "[1, 1, 1, 1]", "conv2d")] {
        let p = text::parse(&format!(
            "program {{
              %x : i32{shape} = input
              %w : i32{shape} = input
              %y : i32{out} = aten.{op}.default(%x, %w)
              return %y
            }}"
        ));
        let p = p.unwrap();
        let sizes = p.graph.ty(p.graph.inputs()[0]).known_shape().unwrap();
        assert_eq!(run(&p, &[ints(&sizes, x.clone()), ints(&sizes, w.clone())]), [16_777_217.0], "{op}");
    }
}
