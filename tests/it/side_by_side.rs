//! Samples that several threads run at once leave what they leave one after the other, bit by bit.

use super::flow::{Listed, program, site};
use lowbit_core::Tensor;
use lowbit_core::flow::{Error, Evaluation, Evaluator, Prepared, Sample, Stopped, prepare};
use lowbit_core::ir::Program;
use lowbit_core::quant::{Mapping, ObserverKind, ObserverState, QRange, QuantSpec, Spec};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;

/// What is joined shares a range, so that one observer looks twice a sample.
const PROGRAM: &str = "program {
  %x : f32[1, 8, 12, 12] = input
  %w : f32[8, 8, 3, 3] = constant \"w\"
  %a : f32[1, 8, 12, 12] = aten.conv2d.default(%x, %w, none, [1, 1], [1, 1], [1, 1], 1)
  %b : f32[1, 8, 12, 12] = aten.relu.default(%a)
  %c : f32[1, 16, 12, 12] = aten.cat.default([%a, %b], 1)
  %d : f32[1, 16, 12, 12] = aten.tanh.default(%c)
  return %d
}";

fn prepared(float: &Program) -> Prepared {
    let histogram = QuantSpec::new(QRange::UINT8, Mapping::Affine, ObserverKind::Histogram { bins: 2048 });
    let average = ObserverKind::MovingAverage { constant: 0.3 };
    let average = QuantSpec::new(QRange::UINT8, Mapping::Affine, average);
    let observed = |spec: &QuantSpec| Spec::Observed(spec.clone());
    let specs = vec![
        ("x", observed(&average)),
        ("a", observed(&histogram)),
        ("b", observed(&histogram)),
        ("c", Spec::SharedWith(site(float, "a"))),
        ("d", observed(&average)),
    ];
    prepare(float.clone(), &Listed { specs, ..Listed::default() }).unwrap()
}

/// Samples whose ranges grow and shrink.
fn samples(float: &Program, count: usize) -> Vec<Vec<Tensor>> {
    let scaled = |i: usize| {
        let x = &data::inputs(float, i)[0];
        let scale = [1.0, 0.3, 2.5, 0.7][i % 4];
        let values: Vec<f32> = x.to_f32().iter().map(|v| v * scale).collect();
        vec![Tensor::new(x.shape(), values).unwrap()]
    };
    (0..count).map(scaled).collect()
}

fn calibrated(float: &Program, threads: usize, samples: &[Vec<Tensor>]) -> Result<Prepared, (usize, Error)> {
    let executor = CpuExecutor::default().threads(threads).unwrap();
    let mut prepared = prepared(float);
    let mut session = prepared.load(&executor).unwrap();
    match prepared.calibrate_all(&mut *session, samples.iter().cloned().map(Ok::<_, ()>)) {
        Ok(()) => Ok(prepared),
        Err(Stopped::Sample { number, error }) => Err((number, error)),
        Err(Stopped::Source(())) => panic!("all samples are there"),
    }
}

#[test]
fn observers_see_the_same() {
    let float = program(PROGRAM);
    let samples = samples(&float, 11);
    let states = |threads| -> Vec<ObserverState> {
        let prepared = calibrated(&float, threads, &samples).unwrap();
        assert_eq!(prepared.samples(), 11);
        prepared.states()
    };
    let executor = CpuExecutor::default();
    let mut by_hand = prepared(&float);
    let mut session = by_hand.load(&executor).unwrap();
    for sample in &samples {
        by_hand.calibrate(&mut *session, sample).unwrap();
    }
    for threads in [1, 2, 3, 8] {
        assert_eq!(states(threads), by_hand.states(), "{threads} threads");
    }
}

#[test]
fn the_first_bad_sample_is_named() {
    let float = program(PROGRAM);
    let mut samples = samples(&float, 9);
    for bad in [8, 5] {
        samples[bad] = vec![Tensor::new(&[1, 8, 12, 12], vec![f32::NAN; 8 * 144]).unwrap()];
    }
    for threads in [1, 3] {
        let (number, error) = calibrated(&float, threads, &samples).unwrap_err();
        assert_eq!(number, 5);
        let Error::NotFinite { sample: 5, count: 1152, .. } = error else { panic!("{error}") };
    }
}

#[test]
fn evaluation_finds_the_same() {
    let float = program(PROGRAM);
    let samples = samples(&float, 9);
    let converted = calibrated(&float, 1, &samples).unwrap().convert(&CpuExecutor::default()).unwrap();
    let evaluation = |threads: usize| -> Evaluation {
        let executor = CpuExecutor::default().threads(threads).unwrap();
        let mut evaluator = Evaluator::new(&float, &converted, &executor).unwrap();
        let samples = samples.iter().map(|inputs| Ok(Sample { inputs: inputs.clone(), labels: None }));
        let done: Result<(), Stopped<()>> = evaluator.add_all(samples);
        done.unwrap();
        evaluator.finish()
    };
    let one = format!("{:?}", evaluation(1));
    assert!(one.contains("samples: 9"), "{one}");
    for threads in [2, 3] {
        assert_eq!(format!("{:?}", evaluation(threads)), one, "{threads} threads");
    }
}
