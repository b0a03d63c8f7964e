//! Extremes that the executor finds while it computes are those that a pass over the elements finds.

use lowbit_core::executor::Executor;
use lowbit_core::ir::{ValueId, text};
use lowbit_core::quant::observer::extremes;
use lowbit_cpu::{CpuExecutor, Isa};
use lowbit_testing::data;

/// Layers of each kind, with and without what is computed in the same step.
const PROGRAM: &str = "program {
  %x : f32[2, 16, 9, 9] = input
  %w : f32[20, 16, 3, 3] = constant \"w\"
  %b : f32[20] = constant \"b\"
  %c : f32[2, 20, 9, 9] = aten.conv2d.default(%x, %w, %b, [1, 1], [1, 1], [1, 1], 1)
  %r : f32[2, 20, 9, 9] = aten.relu.default(%c)
  %dw : f32[20, 1, 3, 3] = constant \"dw\"
  %d : f32[2, 20, 9, 9] = aten.conv2d.default(%r, %dw, %b, [1, 1], [1, 1], [1, 1], 20)
  %s : f32[2, 20, 9, 9] = aten.add.Tensor(%d, %r, alpha=1)
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
                    assert_eq!(known, ["c", "r", "d", "l"], "{isa:?}");
                }
            }
        }
    }
}
