//! Preparing and converting, where torchao has no case, or is wrong: specs and groups, callbacks, folding.

use lowbit_core::executor::Executor;
use lowbit_core::flow::{Converted, Error, Fold, Prepared, prepare};
use lowbit_core::ir::{Arg, NodeId, NodeWriter, Program, ValueId, text};
use lowbit_core::ops::{self, InferError};
use lowbit_core::quant::{
    Annotations, Blocks, DeriveRule, Granularity, Mapping, Observer, ObserverError, ObserverFactory,
    ObserverKind, ObserverState, QParams, QRange, QScheme, QuantError, QuantSpec, Site, Spec,
};
use lowbit_core::quantizer::{Composed, EmbeddingQuantizer, Quantizer};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use std::fmt;
use std::sync::Arc;

/// A program with filled weights.
pub(super) fn program(text: &str) -> Program {
    let mut p = text::parse(text).unwrap();
    data::fill(&mut p);
    p
}

pub(super) fn node(p: &Program, name: &str) -> NodeId {
    p.graph.nodes().find(|n| *p.graph.node(*n).name == *name).unwrap()
}

/// `%name` or `%name#slot`.
pub(super) fn site(p: &Program, place: &str) -> Site {
    match place.split_once('#') {
        Some((name, slot)) => Site::input(node(p, name), slot.parse().unwrap()),
        None => Site::Output(p.graph.values().find(|(_, v)| *v.name == *place).unwrap().0),
    }
}

pub(super) fn run(p: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    CpuExecutor::default().load(p, &[]).unwrap().run(inputs, &mut |_, _| {}).unwrap()
}

pub(super) type Specs = Vec<(&'static str, Spec)>;
pub(super) type Pins = Vec<(&'static str, QParams)>;

/// Annotates the sites it is told to, and pins parameters.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) specs: Specs,
    pub(super) pins: Pins,
    pub(super) refuses: Option<&'static str>,
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listed")
    }
}

impl Quantizer for Listed {
    fn annotate(&self, p: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        out.set_rule("listed");
        for (place, spec) in &self.specs {
            out.set(site(p, place), spec.clone());
        }
        Ok(())
    }

    fn validate(&self, _: &Program, _: &Annotations) -> Result<(), QuantError> {
        self.refuses.map_or(Ok(()), |why| Err(QuantError::Config(why.into())))
    }

    fn adjust(&self, prepared: &mut Prepared) -> Result<(), QuantError> {
        for (place, params) in &self.pins {
            let site = site(prepared.program(), place);
            prepared.pin(site, params.clone())?;
        }
        Ok(())
    }
}

/// The same, with a node whose inputs are shared with nobody else.
#[derive(Debug)]
struct Alone(Listed, &'static str);

impl Quantizer for Alone {
    fn annotate(&self, p: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        out.forbid_implicit_sharing(node(p, self.1));
        self.0.annotate(p, out)
    }

    fn adjust(&self, prepared: &mut Prepared) -> Result<(), QuantError> {
        self.0.adjust(prepared)
    }
}

pub(super) fn listed(specs: Specs) -> Listed {
    Listed { specs, ..Listed::default() }
}

pub(super) fn int8() -> QuantSpec {
    QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::MinMax)
}

pub(super) fn weight() -> QuantSpec {
    QuantSpec::new(QRange::INT8_SYM, Mapping::Symmetric, ObserverKind::MinMax).per_channel(0)
}

pub(super) fn calibrated(p: &Program, q: &dyn Quantizer) -> Prepared {
    let mut prepared = prepare(p.clone(), q).unwrap();
    let mut session = prepared.load(&CpuExecutor::default()).unwrap();
    for sample in 0..4 {
        prepared.calibrate(&mut *session, &data::inputs(p, sample)).unwrap();
    }
    prepared
}

pub(super) fn converted(p: &Program, q: &dyn Quantizer, fold: Fold) -> Converted {
    calibrated(p, q).convert_with(&CpuExecutor::default(), fold).unwrap()
}

/// Operators by name, short.
pub(super) fn operators(p: &Program) -> Vec<&'static str> {
    p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect()
}

pub(super) fn params(c: &Converted, value: &str, user: Option<(&str, u32)>) -> QParams {
    let wanted = user.map(|(n, slot)| (n.to_string(), slot));
    let found = c.sites.iter().find(|s| s.value == value && s.user == wanted);
    found
        .and_then(|s| s.params.as_deref().cloned())
        .unwrap_or_else(|| panic!("{value} {user:?} has no parameters"))
}

const TWICE: &str = "program {
  %x : f32[2, 8] = input
  %a : f32[2, 8] = aten.relu.default(%x)
  %b : f32[2, 8] = aten.add.Tensor(%a, %a)
  %c : f32[2, 8] = aten.sigmoid.default(%b)
  return %c
}";

#[test]
fn both_operands_of_add_x_x_can_be_named() {
    let p = program(TWICE);
    let q = |specs: Specs| operators(&converted(&p, &listed(specs), Fold::default()).program);
    let narrow = || QuantSpec { range: QRange::INT4, ..int8() };
    // One spec for both: one pair. Two specs: a pair for each operand. One operand alone: the other stays float.
    let one = q(vec![("b#0", int8().into()), ("b#1", int8().into())]);
    assert_eq!(one.iter().filter(|o| o.starts_with("quantize")).count(), 1, "{one:?}");
    let two = q(vec![("b#0", int8().into()), ("b#1", narrow().into())]);
    assert_eq!(two.iter().filter(|o| o.starts_with("quantize")).count(), 2, "{two:?}");
    let c = converted(&p, &listed(vec![("b#1", int8().into())]), Fold::default());
    let add = c.program.graph.node(node(&c.program, "b"));
    let made: Vec<bool> = add
        .operands()
        .map(|v| *c.program.graph.node(c.program.graph.producer(v).unwrap()).op() == ops::RELU)
        .collect();
    assert_eq!(made, [true, false]);
}

#[test]
fn shared_specs_may_name_what_comes_later() {
    let p = program(TWICE);
    let shared = Spec::SharedWith(site(&p, "c"));
    let specs = vec![("x", shared.clone()), ("b#0", shared.clone()), ("b#1", shared), ("c", int8().into())];
    let c = converted(&p, &listed(specs), Fold::default());
    assert_eq!(params(&c, "x", None), params(&c, "c", None));
    assert_eq!(params(&c, "a", Some(("b", 0))), params(&c, "c", None));
}

#[test]
fn readers_that_forbid_sharing_have_their_own_observer() {
    let p = program(TWICE);
    let specs = || listed(["a", "b#0", "b#1"].map(|place| (place, int8().into())).into());
    let count = |q: &dyn Quantizer| prepare(p.clone(), q).unwrap().groups().groups.len();
    assert_eq!((count(&specs()), count(&Alone(specs(), "b"))), (1, 2));
}

const CONV: &str = "program {
  %x : f32[1, 3, 6, 6] = input
  %w : f32[4, 3, 3, 3] = constant \"conv.weight\"
  %b : f32[4] = constant \"conv.bias\"
  %y : f32[1, 4, 4, 4] = aten.conv2d.default(%x, %w, %b)
  return %y
}";

fn conv_specs(p: &Program) -> Specs {
    let bias = Spec::Derived {
        from: vec![site(p, "y#0"), site(p, "y#1")],
        rule: DeriveRule::BiasScale,
        range: QRange::INT32,
        scheme: QScheme { granularity: Granularity::Channel { axis: 0 }, mapping: Mapping::Symmetric },
    };
    vec![("y#0", int8().into()), ("y#1", weight().into()), ("y#2", bias), ("y", int8().into())]
}

#[test]
fn a_bias_takes_its_scale_from_each_channel() {
    let p = program(CONV);
    let c = converted(&p, &listed(conv_specs(&p)), Fold::default());
    let of = |v, slot| params(&c, v, Some(("y", slot)));
    let (x, w, b) = (of("x", 0), of("w", 1), of("b", 2));
    let product: Vec<f64> = w.scale.iter().map(|w| f64::from(*w as f32 * x.scale[0] as f32)).collect();
    assert_eq!(b.scale, product);
    assert_eq!(b.zero_point, [0.0; 4]);
    let ints = c.program.constants.iter().find(|(_, c)| c.tensor.dtype() == DType::I32).unwrap().1;
    assert_eq!(&*ints.name, "conv.bias_quantized");
}

#[test]
fn unfolded_weights_give_the_same_results() {
    let p = program(CONV);
    let q = listed(conv_specs(&p));
    let (folded, open) = (converted(&p, &q, Fold::Constants), converted(&p, &q, Fold::Nothing));
    let count = |c: &Converted| operators(&c.program).iter().filter(|o| o.starts_with("quantize")).count();
    assert_eq!((count(&folded), count(&open)), (2, 4));
    let inputs = data::inputs(&p, 9);
    assert_eq!(run(&folded.program, &inputs)[0].to_f32(), run(&open.program, &inputs)[0].to_f32());
}

#[test]
fn what_takes_its_shape_from_an_input_is_no_constant() {
    let p = program(
        "program {
          %x : f32[2, 8] = input
          %y : f32[2, 8] = aten.ones_like.default(%x)
          return %y
        }",
    );
    let c = converted(&p, &listed(vec![("y", int8().into())]), Fold::default());
    assert_eq!(operators(&c.program), ["ones_like", "quantize_per_tensor", "dequantize_per_tensor"]);
}

#[test]
fn every_reader_owns_what_dequantizes_for_it() {
    // Both readers are annotated: each has a node of its own. Then one is not, and the maker owns what it reads.
    let p = program(
        "program {
          %x : f32[2, 8] = input
          %a : f32[2, 8] = aten.relu.default(%x)
          %b : f32[2, 8] = aten.sigmoid.default(%a)
          %c : f32[2, 8] = aten.tanh.default(%a)
          return %b, %c
        }",
    );
    let owners = |claims: &'static [&'static str]| {
        let q = Claiming(listed(vec![("a", int8().into())]), claims);
        let c = converted(&p, &q, Fold::default());
        let g = &c.program.graph;
        let of = |reader: &str| {
            let read = g.node(node(&c.program, reader)).operands().next().unwrap();
            g.node(c.sources[&g.producer(read).unwrap()]).name.to_string()
        };
        [of("b"), of("c")]
    };
    assert_eq!(owners(&["a", "b", "c"]), ["b", "c"]);
    assert_eq!(owners(&["a", "c"]), ["a", "c"]);
    assert_eq!(owners(&["a"]), ["a", "a"]);
}

/// The same as [`Listed`], and says which nodes it has settled.
#[derive(Debug)]
struct Claiming(Listed, &'static [&'static str]);

impl Quantizer for Claiming {
    fn annotate(&self, p: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        self.1.iter().for_each(|n| out.claim(&[node(p, n)]));
        self.0.annotate(p, out)
    }
}

#[test]
fn every_inserted_node_knows_its_source() {
    let p = program(CONV);
    let c = converted(&p, &listed(conv_specs(&p)), Fold::Nothing);
    let float: Vec<NodeId> = p.graph.nodes().collect();
    for n in c.program.graph.nodes().filter(|n| !float.contains(n)) {
        let source = c.sources[&n];
        assert!(float.contains(&source), "{}", c.program.graph.node(n).name);
        assert_eq!(c.program.graph.node(n).module, c.reference.graph.node(source).module);
    }
}

#[test]
fn a_callback_pins_parameters_of_inputs_and_outputs() {
    let p = program(CONV);
    let pinned = QParams::per_tensor(QRange::INT8, 0.125, 3);
    let pins = vec![("y#0", pinned.clone()), ("y", pinned.clone())];
    let specs = vec![("y#0", int8().into()), ("y#1", weight().into()), ("y", int8().into())];
    let q = Composed::new(vec![Box::new(Listed { pins, ..listed(specs) })]);
    // Nothing is left to calibrate.
    let prepared = prepare(p.clone(), &q).unwrap();
    assert!(!prepared.needs_data());
    let c = prepared.convert(&CpuExecutor::default()).unwrap();
    assert_eq!(params(&c, "x", Some(("y", 0))), pinned);
    assert_eq!(params(&c, "y", None), pinned);
    let nowhere = Listed { pins: vec![("y#2", pinned)], ..Listed::default() };
    assert!(prepare(p, &nowhere).is_err());
}

#[test]
fn composed_quantizers_agree_or_say_where_not() {
    let p = program(CONV);
    let compose = |a: Listed, b: Listed| Composed::new(vec![Box::new(a), Box::new(b)]);
    let input = || listed(vec![("y#0", int8().into())]);
    let weights = || listed(vec![("y#1", weight().into())]);
    let other = listed(vec![("y#0", QuantSpec { range: QRange::UINT8, ..int8() }.into())]);
    assert_eq!(prepare(p.clone(), &compose(input(), weights())).unwrap().groups().groups.len(), 2);
    // The same said twice is no conflict.
    assert!(prepare(p.clone(), &compose(input(), input())).is_ok());
    let e = prepare(p.clone(), &compose(input(), other)).unwrap_err();
    assert!(matches!(e, Error::Quant(QuantError::Conflict { .. })), "{e}");
}

#[test]
fn caches_hold_integers() {
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
    let q = listed(vec![("new#0", own.clone().into()), ("new#2", same()), ("new", same())]);
    let c = converted(&p, &q, Fold::ConstantsAndBuffers);
    let buffers: Vec<_> =
        c.program.live_constants().map(|(_, c)| (c.name.to_string(), c.tensor.dtype())).collect();
    assert_eq!(buffers, [("cache_quantized".to_string(), DType::I8)]);
    // Step by step what the float cache between the same q/dq pairs gives.
    let plain = converted(&p, &q, Fold::Constants);
    let mut sessions = [&c, &plain].map(|c| CpuExecutor::default().load(&c.program, &[]).unwrap());
    for sample in 0..6 {
        let inputs = data::inputs(&p, sample);
        let [a, b] = sessions.each_mut().map(|s| s.run(&inputs, &mut |_, _| {}).unwrap());
        assert_eq!(a[0].to_f32(), b[0].to_f32(), "step {sample}");
    }
    // Another scale for what is written: the cache stays in floating point.
    let pins = vec![("new", QParams::per_tensor(QRange::INT8, 0.5, 0))];
    let apart = Listed { pins, ..listed(vec![("new#0", own.clone().into()), ("new", own.into())]) };
    let c = converted(&p, &Alone(apart, "new"), Fold::ConstantsAndBuffers);
    assert!(c.program.live_constants().any(|(_, c)| &*c.name == "cache"));
}

#[test]
fn embeddings_of_every_width() {
    let p = program(
        "program {
  %i : i64[3] = input
  %w : f32[8, 32] = constant \"emb.weight\"
  %e : f32[3, 32] = aten.embedding.default(%w, %i)
  return %e
}",
    );
    let range = |dtype, low, high| QRange::new(dtype, low, high).unwrap();
    let symmetric = |range| QuantSpec::new(range, Mapping::Symmetric, ObserverKind::MinMax);
    let float = run(&p, &data::inputs(&p, 0));
    for (what, spec, step) in [
        // PyTorch cuts off what the fractional zero point leaves: up to one and a half steps.
        ("uint8 by row", None, 1.5 * 2.0 / 255.0),
        ("int8 by row", Some(symmetric(QRange::INT8).blocks(Blocks::Axis(0))), 2.0 / 255.0),
        ("int4 by group", Some(symmetric(QRange::INT4).blocks(Blocks::Group(16))), 2.0 / 15.0),
        (
            "int2 by group",
            Some(QuantSpec {
                scheme: QScheme {
                    granularity: Granularity::Blocks(Blocks::Group(8)),
                    mapping: Mapping::SymmetricNoClipping,
                },
                ..symmetric(range(DType::I8, -2, 1))
            }),
            2.0,
        ),
        (
            "uint4 by group, fitted",
            Some(QuantSpec {
                scheme: QScheme {
                    granularity: Granularity::Blocks(Blocks::Group(16)),
                    mapping: Mapping::AffineFloat,
                },
                ..symmetric(range(DType::U8, 0, 15))
            }),
            1.1 / 15.0,
        ),
    ] {
        let q = spec.map_or_else(EmbeddingQuantizer::default, EmbeddingQuantizer::new);
        let c = converted(&p, &q, Fold::default());
        let got = run(&c.program, &data::inputs(&p, 0));
        // Weights lie within ±sqrt(3 / 32).
        let limit = f64::from((3.0f32 / 32.0).sqrt()) * step;
        let most =
            got[0].to_f64().iter().zip(float[0].to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(most > 0.0 && most <= limit, "{what}: {most}, at most {limit}");
    }
}

/// A third party's observer: the largest magnitude, and nodes that round to a power of two.
#[derive(Debug, Default)]
struct PowerOfTwo(f32);

impl ObserverFactory for PowerOfTwo {
    fn create(&self, _: &QuantSpec) -> Box<dyn Observer> {
        Box::new(PowerOfTwo::default())
    }
}

impl Observer for PowerOfTwo {
    fn name(&self) -> &'static str {
        "power_of_two"
    }

    fn observe(&mut self, x: ndarray::ArrayViewD<'_, f32>) {
        self.0 = x.iter().fold(self.0, |m, v| m.max(v.abs()));
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        self.0 = later.fields["most"].iter().fold(self.0, |m, v| m.max(*v));
        Ok(())
    }

    fn state(&self) -> ObserverState {
        ObserverState { observer: self.name().into(), fields: [("most".to_string(), vec![self.0])].into() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        let scale = f64::from(self.0 / 127.0).log2().ceil().exp2();
        Ok(QParams::per_tensor(QRange::INT8, scale, 0))
    }

    fn write(&self, x: ValueId, nodes: &mut NodeWriter<'_>) -> Option<Result<ValueId, InferError>> {
        let scale = self.qparams().ok()?.scale[0];
        let mut write = || {
            let steps = nodes.op(&ops::MUL_SCALAR, [Arg::Value(x), Arg::Float(1.0 / scale)])?;
            let whole = nodes.op(&ops::ROUND, [Arg::Value(steps)])?;
            nodes.op(&ops::MUL_SCALAR, [Arg::Value(whole), Arg::Float(scale)])
        };
        Some(write())
    }
}

#[test]
fn an_observer_may_write_its_own_nodes() {
    let p = program(TWICE);
    let kind = ObserverKind::Custom(Arc::new(PowerOfTwo::default()));
    let own = QuantSpec { observer: kind, ..int8() };
    let c = converted(&p, &listed(vec![("a", own.into())]), Fold::default());
    assert_eq!(operators(&c.program), ["relu", "mul", "round", "mul", "add", "sigmoid"]);
    let made = node(&c.program, "round");
    assert_eq!(c.sources[&made], node(&c.program, "a"));
}

#[test]
fn blocks_are_written_as_the_affine_family() {
    let p = program(
        "program {
  %x : f32[3, 8] = input
  %w : f32[4, 8] = constant \"fc.weight\"
  %y : f32[3, 4] = aten.linear.default(%x, %w)
  return %y
}",
    );
    let rows = QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::Placeholder)
        .blocks(Blocks::Token)
        .dynamic();
    let groups =
        QuantSpec::new(QRange::INT4, Mapping::Symmetric, ObserverKind::MinMax).blocks(Blocks::Group(4));
    let q = listed(vec![("y#0", rows.into()), ("y#1", groups.clone().into())]);
    let c = converted(&p, &q, Fold::default());
    let mut made = operators(&c.program);
    made.sort_unstable();
    let dequantize = "dequantize_affine";
    assert_eq!(made, ["choose_qparams_affine", dequantize, dequantize, "linear", "quantize_affine"]);
    let scale = c.program.constants.iter().find(|(_, c)| c.name.ends_with("_scale")).unwrap().1;
    assert_eq!(scale.tensor.shape(), [4, 2]);
    // A group that does not divide the row is refused where it is annotated.
    let bad = QuantSpec {
        scheme: QScheme { granularity: Granularity::Blocks(Blocks::Group(3)), ..groups.scheme },
        ..groups
    };
    let e = prepare(p, &listed(vec![("y#1", bad.into())])).unwrap_err();
    assert!(e.to_string().contains("%y#1") && e.to_string().contains("do not divide"), "{e}");
}
