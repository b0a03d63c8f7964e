//! What the peers get wrong, and lowbit must not. Numbers are those of the list that was made when reading them; each has
//! its test here, in its order.
//!
//! | | there | here |
//! |---|---|---|
//! | 0.1 | a convolution that others read, too, is folded into a batch norm | `batch_norms_fold_where_it_is_right` |
//! | 0.2 | one weight under two batch norms: the second norm is lost | the same |
//! | 0.3 | a grouped transposed convolution before a batch norm crashes | the same |
//! | 0.4 | the packet `aten.linear` as operator type quantizes nothing | `operators_by_packet_and_by_overload` |
//! | 0.5 | the annotator of `cat` does not ask the filter | `filters_reach_every_rule` |
//! | 0.6 | converting without calibration gives scale 1 and a warning | `converting_without_calibration_lists_the_sites` |
//! | 0.8 | unsigned activations are taken for signed ones | `unsigned_activations_stay_outside_with_a_reason` |
//! | 0.9 | a slice gets other parameters than it reads, which the runtime refuses | `slices_share_what_they_read` |
//! | 0.10 | symmetric ranges taken at run time are forgotten when lowering | `symmetric_ranges_at_run_time_have_a_reason` |
//! | 0.11 | batch norms are folded with eps 1e-5, whatever they say | `batch_norms_fold_with_their_own_eps` |
//! | 0.12 | members of a composed quantizer neither validate nor pin | `composed_quantizers_validate_and_pin` |

use super::flow::{Listed, converted, int8, listed, operators, params, program, run, weight};
use lowbit_core::backend::{Backend, Options};
use lowbit_core::flow::{Converted, Error, Fold, Lowered, lower, prepare};
use lowbit_core::ir::Program;
use lowbit_core::passes::{FoldBatchNorm, Pass};
use lowbit_core::quant::{Mapping, ObserverKind, QParams, QRange, QuantSpec, Spec};
use lowbit_core::quantizer::{Composed, NodeFilter, OpConfig, Quantizer, Scope};
use lowbit_core::{DType, ops};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use lowbit_xnnpack::Xnnpack;
use lowbit_xnnpack::quantizer::{RECIPES, STATIC, quantizer};
use std::sync::Arc;

/// Folding batch norms keeps what a program computes, and leaves so many.
fn folds(text: &str, norms_left: usize) {
    let float = program(text);
    let mut folded = float.clone();
    FoldBatchNorm.run(&mut folded).unwrap();
    let left = operators(&folded).iter().filter(|o| o.contains("batch_norm")).count();
    assert_eq!(left, norms_left, "{folded:?}");
    let inputs = data::inputs(&float, 0);
    for (a, b) in run(&float, &inputs).iter().zip(run(&folded, &inputs)) {
        super::cases::same(&b, a).unwrap();
    }
}

/// A batch norm `to` of `x`, with `n` channels.
fn norm(x: &str, y: &str, to: &str, n: usize, eps: &str) -> String {
    let var: Vec<String> = (0..n).map(|i| format!("{}.5", i + 1)).collect();
    let list = var.join(", ");
    format!(
        "  %v{to} : f32[{n}] = constant \"{to}.var\" [{list}]
  %m{to} : f32[{n}] = constant \"{to}.mean\"
  %g{to} : f32[{n}] = constant \"{to}.weight\" [{list}]
  %b{to} : f32[{n}] = constant \"{to}.bias\"
  %{to} : {y} = aten.batch_norm.default(%{x}, %g{to}, %b{to}, %m{to}, %v{to}, false, 0.1, {eps}, false)\n"
    )
}

const HEAD: &str = "program {
  %x : f32[1, 4, 6, 6] = input
  %w : f32[4, 4, 3, 3] = constant \"conv.weight\"
  %c : f32[1, 4, 4, 4] = aten.conv2d.default(%x, %w)\n";
const TYPE: &str = "f32[1, 4, 4, 4]";

#[test]
fn batch_norms_fold_where_it_is_right() {
    let one = norm("c", TYPE, "n", 4, "0.001");
    folds(&format!("{HEAD}{one}  return %n\n}}"), 0);
    // Somebody else reads the convolution: it must not change.
    folds(&format!("{HEAD}{one}  %s : {TYPE} = aten.add.Tensor(%n, %c)\n  return %s\n}}"), 1);
    // One weight under two norms.
    let two = norm("d", TYPE, "o", 4, "0.001");
    let second = format!("  %d : {TYPE} = aten.conv2d.default(%x, %w)\n");
    folds(&format!("{HEAD}{second}{one}{two}  %s : {TYPE} = aten.add.Tensor(%n, %o)\n  return %s\n}}"), 0);
    // Groups of a transposed convolution, whose weight has the outputs of one group alone.
    let wide = "f32[1, 6, 8, 8]";
    let transposed = format!(
        "program {{
  %x : f32[1, 4, 6, 6] = input
  %w : f32[4, 3, 3, 3] = constant \"up.weight\"
  %c : {wide} = aten.conv_transpose2d.input(%x, %w, groups=2)\n"
    );
    folds(&format!("{transposed}{}  return %n\n}}", norm("c", wide, "n", 6, "0.001")), 0);
}

#[test]
fn operators_by_packet_and_by_overload() {
    let p = program(
        "program {
  %x : f32[2, 8] = input
  %w : f32[8, 8] = constant \"fc.weight\"
  %y : f32[2, 8] = aten.linear.default(%x, %w)
  %z : f32[2, 8] = aten.add.Tensor(%y, %x)
  return %z
}",
    );
    let annotated = |q: &dyn Quantizer| prepare(p.clone(), q).unwrap().annotations().len();
    let config = || OpConfig::new(int8(), weight());
    for name in ["aten.linear", "aten.linear.default"] {
        assert_eq!(annotated(&quantizer().operator(name, config())), 3, "{name}: input, weight, result");
        // The same as an option of a recipe, which leaves the sum's two operands and its result.
        let options: Options = [(format!("operator:{name}"), "float".to_string())].into();
        for recipe in ["int8-static-per-channel", "int8-static-per-tensor"] {
            assert_eq!(annotated(&*Xnnpack.quantizer(recipe, &options).unwrap()), 3, "{recipe}, {name}");
        }
    }
    // Neither name is there: no silence.
    for name in ["aten.conv2d", "linear", "aten.linear.other"] {
        let e = prepare(p.clone(), &quantizer().operator(name, config())).unwrap_err();
        assert!(e.to_string().contains(name), "{e}");
    }
}

#[test]
fn filters_reach_every_rule() {
    let p = program(
        "program {
  %x : f32[1, 4] = input
  %y : f32[1, 4] = input
  %z : f32[1, 8] = aten.cat.default([%x, %y], 1)
  return %z
}",
    );
    let filter = |keep: bool| -> NodeFilter {
        Arc::new(move |_, _| if keep { Ok(()) } else { Err("not this one".into()) })
    };
    let taken = |mut q: Box<dyn Quantizer>, keep: bool| {
        q.filter(filter(keep)).unwrap();
        prepare(p.clone(), &*q).unwrap().annotations().len()
    };
    let all = || -> Box<dyn Quantizer> {
        Box::new(quantizer().set(Scope::Global, OpConfig::new(int8(), weight())))
    };
    assert_eq!((taken(all(), true), taken(all(), false)), (3, 0));
    for recipe in RECIPES.iter().filter(|r| r.name.starts_with("int8-static-per")) {
        let q = || Xnnpack.quantizer(recipe.name, &Options::new()).unwrap();
        assert!(taken(q(), true) > 0, "{}", recipe.name);
        assert_eq!(taken(q(), false), 0, "{}", recipe.name);
    }
}

const CONV: &str = "program {
  %x : f32[1, 3, 6, 6] = input
  %w : f32[4, 3, 3, 3] = constant \"conv.weight\"
  %y : f32[1, 4, 4, 4] = aten.conv2d.default(%x, %w)    ; net.conv
  return %y
}";

#[test]
fn converting_without_calibration_lists_the_sites() {
    let p = program(CONV);
    let specs = vec![("y#0", int8().into()), ("y#1", weight().into()), ("y", int8().into())];
    let e = prepare(p, &listed(specs)).unwrap().convert(&CpuExecutor::default()).unwrap_err();
    assert!(matches!(&e, Error::Unobserved(sites) if sites.len() == 2), "{e}");
    for words in ["2 sites were never observed", "%y#0 (net.conv)", "%y (net.conv)", "calibrate"] {
        assert!(e.to_string().contains(words), "{words:?} is not in: {e}");
    }
}

fn lowered(program: Program) -> Lowered {
    lower(program, &[&*Xnnpack.lowering(&Options::new()).unwrap()]).unwrap()
}

/// Why the nodes of this operator stay outside of delegates; all of them must.
fn outside<'a>(l: &'a Lowered, packet: &str) -> Vec<&'a str> {
    let all = l.nodes.iter().filter(|n| n.op.contains(packet)).count();
    let found: Vec<&str> = l.outside().filter(|(n, _)| n.op.contains(packet)).map(|(_, why)| why).collect();
    assert!(all > 0 && found.len() == all, "{packet}: {} of {all} are outside", found.len());
    found
}

/// Element types of what delegates read and make.
fn border(l: &Lowered) -> Vec<DType> {
    let g = &l.program.graph;
    let calls = g.nodes().map(|n| g.node(n)).filter(|n| n.op().name.contains("call_delegate"));
    let values = calls.flat_map(|n| n.operands().chain(n.outputs().iter().copied()).collect::<Vec<_>>());
    values.map(|v| g.ty(v).dtype).collect()
}

#[test]
fn unsigned_activations_stay_outside_with_a_reason() {
    let p = program(CONV);
    let unsigned = || Spec::from(QuantSpec { range: QRange::UINT8, ..int8() });
    let specs = vec![("y#0", unsigned()), ("y#1", weight().into()), ("y", unsigned())];
    let c = converted(&p, &listed(specs), Fold::default());
    let l = lowered(c.program);
    for op in ["quantize_per_tensor", "dequantize_per_tensor"] {
        for why in outside(&l, op) {
            assert!(why.contains("XNNPACK quantizes to i8, this is u8"), "{why}");
        }
    }
    // The convolution computes with floats, never with unsigned integers that it takes for signed ones.
    assert_eq!((l.delegates.len(), border(&l)), (1, vec![DType::F32, DType::F32]));
    // The quantizer's options give signed ranges only.
    let options: Options = [("activation-range".to_string(), "0..255".to_string())].into();
    assert!(Xnnpack.quantizer(STATIC, &options).is_err());
}

fn quantized(p: &Program, recipe: &str) -> Converted {
    converted(p, &*Xnnpack.quantizer(recipe, &Options::new()).unwrap(), Fold::default())
}

#[test]
fn slices_share_what_they_read() {
    let p = program(
        "program {
  %x : f32[1, 4, 6, 6] = input
  %w : f32[8, 4, 3, 3] = constant \"conv.weight\"
  %v : f32[8, 4, 3, 3] = constant \"next.weight\"
  %c : f32[1, 8, 4, 4] = aten.conv2d.default(%x, %w)
  %s : f32[1, 4, 4, 4] = aten.slice.Tensor(%c, 1, 0, 4)
  %n : f32[1, 8, 2, 2] = aten.conv2d.default(%s, %v)
  return %n
}",
    );
    for recipe in [STATIC, "int8-static-per-channel", "int8-static-per-tensor"] {
        let c = quantized(&p, recipe);
        let q = |op: &ops::OpDef| -> Vec<String> {
            let g = &c.program.graph;
            let nodes = g.nodes().map(|n| g.node(n)).filter(|n| *n.op() == *op);
            nodes
                .filter(|n| n.operands().any(|v| ["c", "s"].contains(&&*g.value(v).name)))
                .map(|n| format!("{:?}", &n.args()[1..]))
                .collect()
        };
        let made = q(&ops::QUANTIZE_PER_TENSOR);
        assert!(!made.is_empty() && made.iter().all(|m| *m == made[0]), "{recipe}: {made:?}");
        let l = lowered(c.program);
        assert_eq!(l.outside().count(), 0, "{recipe}: {:?}", l.outside().collect::<Vec<_>>());
    }
}

#[test]
fn symmetric_ranges_at_run_time_have_a_reason() {
    let p = program(
        "program {
  %x : f32[2, 8] = input
  %w : f32[8, 8] = constant \"fc.weight\"
  %y : f32[2, 8] = aten.linear.default(%x, %w)
  return %y
}",
    );
    let symmetric = QuantSpec::new(QRange::INT8_SYM, Mapping::Symmetric, ObserverKind::Placeholder).dynamic();
    let c =
        converted(&p, &listed(vec![("y#0", symmetric.into()), ("y#1", weight().into())]), Fold::default());
    let inputs = data::inputs(&p, 0);
    let (exact, got) = (run(&p, &inputs), run(&c.program, &inputs));
    let most =
        exact[0].to_f32().iter().zip(got[0].to_f32().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most > 0.0 && most < 0.05, "{most}");
    let l = lowered(c.program);
    for op in ["choose_qparams_symmetric", "quantize_per_tensor", "dequantize_per_tensor"] {
        for why in outside(&l, op) {
            assert!(why.contains("XNNPACK"), "{why}");
        }
    }
    assert_eq!(border(&l), [DType::F32, DType::F32]);
    // What is outside has kernels there.
    lowbit_pte::write(&l).unwrap();
}

#[test]
fn batch_norms_fold_with_their_own_eps() {
    // Among variances of 1.5 to 4.5, an eps of 10 that is taken for 1e-5 doubles the result.
    for eps in ["0.00001", "0.001", "0.1", "10.0"] {
        folds(&format!("{HEAD}{}  return %n\n}}", norm("c", TYPE, "n", 4, eps)), 0);
    }
    let with = |eps| program(&format!("{HEAD}{}  return %n\n}}", norm("c", TYPE, "n", 4, eps)));
    let inputs = data::inputs(&with("10.0"), 0);
    let [a, b] = ["0.00001", "10.0"].map(|eps| run(&with(eps), &inputs)[0].to_f32().to_vec());
    assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 0.1), "the test would not see the difference");
}

#[test]
fn composed_quantizers_validate_and_pin() {
    let p = program(CONV);
    let compose = |a: Listed, b: Listed| Composed::new(vec![Box::new(a), Box::new(b)]);
    let input = || listed(vec![("y#0", int8().into())]);
    let weights = || listed(vec![("y#1", weight().into())]);
    let refuses = || Listed { refuses: Some("not on this device"), ..input() };
    for q in [compose(weights(), refuses()), compose(refuses(), weights())] {
        let e = prepare(p.clone(), &q).unwrap_err();
        assert!(e.to_string().contains("not on this device"), "{e}");
    }
    let pinned = QParams::per_tensor(QRange::INT8, 0.125, 3);
    let pins = || Listed { pins: vec![("y#0", pinned.clone())], ..input() };
    for q in [compose(weights(), pins()), compose(pins(), weights())] {
        let c = prepare(p.clone(), &q).unwrap().convert(&CpuExecutor::default()).unwrap();
        assert_eq!(params(&c, "x", Some(("y", 0))), pinned);
    }
    // The callback of one member may pin what another has annotated.
    let later = Listed { pins: vec![("y#0", pinned.clone())], ..Listed::default() };
    assert!(!prepare(p, &compose(input(), later)).unwrap().needs_data());
}
