//! Which nodes spoil a quantized program.

use super::flow::{Specs, converted, int8, listed, program, site, weight};
use lowbit_core::executor::Executor;
use lowbit_core::flow::{Converted, Culprit, Debugger, Findings, Fold, Measure, device_program};
use lowbit_core::ir::{Program, text};
use lowbit_core::quant::{Mapping, ObserverKind, QRange, QuantSpec, Spec};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use std::ops::Range;

fn debug(float: &Program, quantized: &Program) -> Findings {
    debug_on(10..14, float, quantized)
}

fn debug_on(samples: Range<usize>, float: &Program, quantized: &Program) -> Findings {
    let mut debugger = Debugger::new(float, quantized, &CpuExecutor::default()).unwrap();
    for sample in samples {
        debugger.add(&data::inputs(float, sample)).unwrap();
    }
    debugger.finish()
}

fn row<'a>(f: &'a Findings, value: &str) -> &'a Culprit {
    f.nodes.iter().find(|c| c.value == value).unwrap_or_else(|| panic!("no row for {value}"))
}

const NET: &str = "program {
  %x : f32[4, 16] = input
  %wa : f32[16, 16] = constant \"a.weight\"
  %wb : f32[16, 16] = constant \"b.weight\"
  %a : f32[4, 16] = aten.linear.default(%x, %wa)    ; net.a
  %r : f32[4, 16] = aten.relu.default(%a)    ; net.act
  %b : f32[4, 16] = aten.linear.default(%r, %wb)    ; net.b
  %s : f32[4, 16] = aten.sigmoid.default(%b)
  %t : f32[4, 16] = aten.add.Tensor(%s, %r)
  return %t
}";

fn int4() -> Spec {
    QuantSpec { range: QRange::INT4, ..int8() }.into()
}

fn net(specs: Specs) -> (Converted, Findings) {
    let p = program(NET);
    let c = converted(&p, &listed(specs), Fold::default());
    let findings = debug(&p, &c.program);
    (c, findings)
}

#[test]
fn a_node_is_blamed_for_its_own_operands_alone() {
    let (_, one) = net(vec![("b#0", int4())]);
    let exact = f64::INFINITY;
    // Nothing is inherited: alone and running free are the same.
    let b = row(&one, "b");
    assert!(b.own == b.run && b.own.sqnr_db > 10.0 && b.own.sqnr_db < 40.0, "{b:?}");
    assert_eq!((row(&one, "a").run.sqnr_db, row(&one, "r").run.sqnr_db), (exact, exact));
    // What follows is exact, and inherits.
    for follower in ["s", "t"] {
        let c = row(&one, follower);
        assert!(c.own.sqnr_db == exact && c.run.sqnr_db < 60.0, "{c:?}");
    }
    assert_eq!((&*one.worst_first()[0].node, &*b.module, b.op), ("b", "net.b", "aten.linear.default"));
    // With another culprit before it, its own error stays what it was to the bit; running free it gets worse.
    let (_, two) = net(vec![("a#0", int4()), ("b#0", int4())]);
    assert_eq!(row(&two, "b").own, b.own);
    assert!(row(&two, "b").run.sqnr_db < b.run.sqnr_db);
    let a = row(&two, "a");
    assert!(a.own == a.run && a.own.sqnr_db < 40.0, "{a:?}");
}

#[test]
fn weights_are_part_of_their_layer() {
    let narrow = QuantSpec::new(QRange::INT4, Mapping::Symmetric, ObserverKind::MinMax);
    let (_, f) = net(vec![("a#1", narrow.into()), ("b#1", weight().into())]);
    let [a, b] = ["a", "b"].map(|n| row(&f, n).own.sqnr_db);
    assert!(a < 25.0 && b > 40.0, "{a} {b}");
}

#[test]
fn results_are_taken_as_readers_get_them() {
    let (_, operand) = net(vec![("b#0", int4())]);
    let (c, result) = net(vec![("r", int4())]);
    // The result's integers: the relu's own error, and that of the layer that it is computed with.
    let [a, r] = ["a", "r"].map(|n| row(&result, n));
    assert!(r.own == a.own && r.own == r.run && r.own.sqnr_db < 40.0, "{r:?}");
    // They are the reader's operand, too, with the ranges that the operand alone had.
    assert_eq!(row(&result, "b").own, row(&operand, "b").own);
    // By hand: the float program's relu, through the scale that was found.
    let p = c.sites[0].params.clone().unwrap();
    let (scale, zero) = (p.scale[0] as f32, p.zero_point[0] as f32);
    let float = program(NET);
    let watched = site(&float, "r").value(&float).unwrap();
    let mut session = CpuExecutor::default().load(&float, &[watched]).unwrap();
    let (mut signal, mut noise) = (0.0, 0.0);
    for sample in 10..14 {
        let mut look = |_, t: lowbit_core::executor::Watched<'_>| {
            for &x in t.view.to_tensor().to_f32().iter() {
                let q = ((x / scale).round_ties_even() + zero).clamp(-8.0, 7.0);
                let y = (q - zero) * scale;
                signal += f64::from(x).powi(2);
                noise += f64::from(x - y).powi(2);
            }
        };
        session.run(&data::inputs(&float, sample), &mut look).unwrap();
    }
    let by_hand = 10.0 * (signal / noise).log10();
    assert!((by_hand - r.own.sqnr_db).abs() < 1e-6, "{by_hand} {}", r.own.sqnr_db);
}

#[test]
fn folded_batch_norms_stand_for_the_norm() {
    let p = program(
        "program {
  %x : f32[1, 3, 6, 6] = input
  %w : f32[4, 3, 3, 3] = constant \"conv.weight\"
  %g : f32[4] = constant \"norm.weight\" [3.0, -2.0, 5.0, 4.0]
  %o : f32[4] = constant \"norm.bias\" [1.0, 2.0, 3.0, 4.0]
  %m : f32[4] = constant \"norm.mean\" [0.5, 0.25, -1.0, 2.0]
  %v : f32[4] = constant \"norm.var\" [1.0, 2.0, 3.0, 4.0]
  %y : f32[1, 4, 4, 4] = aten.conv2d.default(%x, %w)
  %n : f32[1, 4, 4, 4] = aten.batch_norm.default(%y, %g, %o, %m, %v, false, 0.1, 0.001, false)
  %r : f32[1, 4, 4, 4] = aten.relu.default(%n)
  return %r
}",
    );
    let specs: Specs = vec![("y#0", int8().into()), ("y#1", weight().into()), ("r", int8().into())];
    let c = converted(&p, &listed(specs), Fold::default());
    let (f, folded) = (debug(&p, &c.program), debug(&c.reference, &c.program));
    assert_eq!(f.nodes.iter().map(|c| &*c.value).collect::<Vec<_>>(), ["y", "r"]);
    let [y, same] = [&f, &folded].map(|f| row(f, "y").own.sqnr_db);
    assert!(y > 30.0 && (y - same).abs() < 0.01, "{y} {same}");
}

#[test]
fn equal_names_of_other_nodes_are_no_pair() {
    let form = |first: &str, second: &str| {
        let text = format!(
            "program {{
  %x : f32[4] = input
  %y : f32[4] = input
  %sigmoid : f32[4] = aten.sigmoid.default(%{first})
  %sigmoid_1 : f32[4] = aten.sigmoid.default(%{second})
  %add : f32[4] = aten.add.Tensor(%sigmoid, %sigmoid_1)
  return %add
}}"
        );
        text::parse(&text).unwrap()
    };
    let f = debug(&form("x", "y"), &form("y", "x"));
    assert_eq!(f.unmatched, ["sigmoid", "sigmoid_1"]);
    let [sum] = &f.nodes[..] else { panic!("{f:?}") };
    assert_eq!((&*sum.value, sum.own.sqnr_db), ("add", f64::INFINITY));
}

#[test]
fn state_is_fed_too() {
    let p = program(
        "program {
  %x : f32[1, 4] = input
  %i : i64[1] = input
  %cache : f32[8, 4] = constant \"cache\"
  %new : f32[8, 4] = aten.index_put.default(%cache, [%i], %x)
  %y : f32[8, 4] = aten.sigmoid.default(%new)
  return %y
  update \"cache\" = %new
}",
    );
    let own = QuantSpec::new(QRange::INT8, Mapping::Symmetric, ObserverKind::MinMax);
    let same = || Spec::SharedWith(site(&p, "new#0"));
    let q = listed(vec![("new#0", own.into()), ("new#2", same()), ("new", same())]);
    for fold in [Fold::Constants, Fold::ConstantsAndBuffers] {
        let c = converted(&p, &q, fold);
        // What was calibrated on, so that nothing is cut off.
        let f = debug_on(0..4, &p, &c.program);
        let [new, y] = ["new", "y"].map(|n| row(&f, n));
        assert!(new.own.sqnr_db > 30.0 && new.run.sqnr_db > 30.0, "{fold:?} {new:?}");
        assert!(y.run.sqnr_db > 40.0 && y.own.sqnr_db > 40.0, "{fold:?} {y:?}");
    }
}

#[test]
fn ranges_are_taken_at_run_time_as_the_device_does() {
    let p = program(NET);
    let q = lowbit_core::backend::Backend::quantizer(
        &lowbit_xnnpack::Xnnpack,
        lowbit_xnnpack::quantizer::DYNAMIC,
        &lowbit_core::backend::Options::new(),
    )
    .unwrap();
    let c = converted(&p, &*q, Fold::default());
    let device = device_program(&c.program, &|p, n| q.dynamic_dims(p, n)).unwrap();
    assert_eq!(text::print(&device), text::print(&c.device_program().unwrap()));
    // Any operator may be asked about, whatever its second operand is.
    let slope = program(
        "program {
  %x : f32[1, 4, 2, 2] = input
  %s : f32[4] = constant \"slope\"
  %y : f32[1, 4, 2, 2] = aten.prelu.default(%x, %s)
  return %y
}",
    );
    slope.graph.nodes().for_each(|n| drop(q.dynamic_dims(&slope, n)));
    let [whole, rows] = [&c.program, &device].map(|q| row(&debug(&p, q), "a").own.sqnr_db);
    assert!(rows > whole + 1.0, "{whole} dB with one range, {rows} dB with one a row");
}

#[test]
fn programs_of_other_models_are_refused() {
    let other = program(
        "program {\n  %x : f32[4, 16] = input\n  %z : f32[4, 16] = aten.tanh.default(%x)\n  return %z\n}",
    );
    let narrow = program(
        "program {\n  %x : f32[4, 8] = input\n  %a : f32[4, 8] = aten.relu.default(%x)\n  return %a\n}",
    );
    for (q, want) in [
        (other, "no value of the quantized program"),
        (narrow, "%x f32[4, 16], the quantized one %x f32[4, 8]"),
    ] {
        let e = Debugger::new(&program(NET), &q, &CpuExecutor::default()).unwrap_err();
        assert!(e.to_string().contains(want), "{e}");
    }
}

#[test]
fn the_worst_come_first() {
    let of = |value: &str, sqnr_db: f64| {
        let own = Measure { sqnr_db, cosine: 1.0, max_abs: 0.0, mse: 0.0 };
        let (value, node, module) = (value.to_string(), value.to_string(), String::new());
        Culprit { value, node, op: "aten.relu.default", module, own, run: own }
    };
    let nan = f64::NAN;
    let given =
        [("a", 30.0), ("b", f64::INFINITY), ("c", 12.0), ("d", -nan), ("e", 12.0), ("f", nan), ("g", -3.0)];
    let nodes = given.map(|(name, db)| of(name, db)).into();
    let f = Findings { samples: 1, nodes, unmatched: vec![] };
    let order: String = f.worst_first().iter().map(|c| &*c.value).collect();
    assert_eq!(order, "dfgceab");
}
