//! Extremes that the executor finds while it computes are those that a pass over the elements finds.

use crate::op_calls;
use lowbit_core::executor::{Executor, Watchlist};
use lowbit_core::ir::{Program, ValueId, text};
use lowbit_core::quant::observer::{Extremes, extremes};
use lowbit_core::{DType, Tensor, ops};
use lowbit_cpu::{CpuExecutor, Isa};
use lowbit_testing::data;
use std::collections::BTreeSet;

/// Layers of each kind, with and without what is computed in the same step.
const PROGRAM: &str = "program {
  %x : f32[2, 16, 9, 9] = input
  %w : f32[20, 16, 3, 3] = constant \"w\"
  %b : f32[20] = constant \"b\"
  %c : f32[2, 20, 9, 9] = aten.conv2d.default(%x, %w, %b, [1, 1], [1, 1], [1, 1], 1)
  %r : f32[2, 20, 9, 9] = aten.relu.default(%c)
  %dw : f32[20, 1, 3, 3] = constant \"dw\"
  %d : f32[2, 20, 9, 9] = aten.conv2d.default(%r, %dw, %b, [1, 1], [1, 1], [1, 1], 20)
  %k : f32[2, 20, 9, 9] = aten.dropout.default(%d, 0.1, false)
  %s : f32[2, 20, 9, 9] = aten.add.Tensor(%k, %r, alpha=1)
  %v : f32[2, 1620] = aten.view.default(%s, [2, 1620])
  %lw : f32[7, 1620] = constant \"lw\"
  %l : f32[2, 7] = aten.linear.default(%v, %lw)
  return %l
}";

#[test]
fn extremes_are_those_of_the_elements() {
    let mut program = text::parse(PROGRAM).unwrap();
    data::fill(&mut program);
    let values: Vec<ValueId> = program.graph.values().map(|(v, _)| v).collect();
    let inputs = data::inputs(&program, 0);
    for isa in Isa::available() {
        for threads in [1, 3] {
            let executor = CpuExecutor::with_isa(isa).threads(threads).unwrap();
            // A value that nobody watches may be computed together with the next.
            for watch in values.iter().map(std::slice::from_ref).chain([&values[..]]) {
                let mut known = vec![];
                let mut session = executor.load(&program, watch).unwrap();
                session
                    .run(&inputs, &mut |v, seen| {
                        let elements: Vec<f32> = seen.view.to_tensor().to_f32().into_owned();
                        if let Some(found) = seen.extremes {
                            assert_eq!(found, extremes(&elements), "{isa:?}, {threads} threads");
                            known.push(program.graph.value(v).name.to_string());
                        }
                    })
                    .unwrap();
                if watch.len() > 1 && threads == 1 {
                    assert_eq!(known, ["c", "d", "l"], "{isa:?}");
                }
            }
        }
    }
}

/// Elements and extremes of all values, by name, that a session shows.
fn shown(
    executor: &CpuExecutor,
    program: &Program,
    watch: &Watchlist,
    inputs: &[Tensor],
) -> Vec<(String, Vec<f32>, Option<Extremes>)> {
    let mut shown = vec![];
    let mut session = executor.load_watching(program, watch).unwrap();
    session
        .run(inputs, &mut |v, seen| {
            let elements = seen.view.to_tensor().to_f32().into_owned();
            shown.push((program.graph.value(v).name.to_string(), elements, seen.extremes));
        })
        .unwrap();
    shown
}

#[test]
fn what_is_passed_on_the_way_need_not_be_kept_for_its_extremes() {
    let mut program = text::parse(PROGRAM).unwrap();
    data::fill(&mut program);
    let values: Vec<ValueId> = program.graph.values().map(|(v, _)| v).collect();
    let named = |name: &str| {
        values.iter().copied().find(|&v| program.graph.value(v).name.to_string() == name).unwrap()
    };
    let watch = Watchlist { elements: [named("r")].into(), extremes: ["c", "d", "k", "l"].map(named).into() };
    let mut inputs = data::inputs(&program, 0);
    for bad in [false, true] {
        if bad {
            let mut x = inputs[0].to_f32().into_owned();
            x[100] = f32::INFINITY;
            inputs[0] = Tensor::new(inputs[0].shape(), x).unwrap();
        }
        for isa in Isa::available() {
            for threads in [1, 3] {
                let executor = CpuExecutor::with_isa(isa).threads(threads).unwrap();
                let all = shown(&executor, &program, &Watchlist::elements(&values), &inputs);
                let some = shown(&executor, &program, &watch, &inputs);
                let names: Vec<&str> = some.iter().map(|(name, ..)| &name[..]).collect();
                assert_eq!(names, ["c", "r", "d", "k", "l"]);
                for (name, elements, found) in &some {
                    let (_, whole, _) = all.iter().find(|(n, ..)| n == name).unwrap();
                    assert_eq!(found.unwrap_or_else(|| extremes(elements)), extremes(whole), "{name}");
                    // Only what is not finite is kept where it need not be.
                    assert_eq!(
                        elements.is_empty(),
                        matches!(&name[..], "c" | "d" | "k") && !bad,
                        "{isa:?} {threads} {name}"
                    );
                    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                    assert!(elements.iter().zip(whole).all(same), "{isa:?} {threads} {name}");
                }
            }
        }
    }
}

/// Extremes and histograms of such values are taken over from their operands.
#[test]
fn what_rearranges_keeps_every_element() {
    let mut tried = BTreeSet::new();
    for line in op_calls::lines(include_str!("../data/op_calls.txt")) {
        let operator = op_calls::operator(line).unwrap();
        if !operator.traits.rearranges {
            continue;
        }
        let call = op_calls::build(line, DType::F32).unwrap();
        let mut session = CpuExecutor::default().load(&call.program, &[]).unwrap();
        let outputs = session.run(&call.inputs, &mut |_, _| {}).unwrap();
        let sorted = |t: &Tensor| {
            let mut elements = t.to_f64();
            elements.sort_by(f64::total_cmp);
            elements
        };
        assert_eq!(outputs.len(), 1, "{line}");
        assert_eq!(sorted(&outputs[0]), sorted(&call.inputs[0]), "{line}");
        tried.insert(operator.name);
    }
    let all: BTreeSet<&str> = ops::all().filter(|op| op.traits.rearranges).map(|op| op.name).collect();
    assert_eq!(tried, all, "each needs a call in op_calls.txt");
}
