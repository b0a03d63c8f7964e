//! Observers and q/dq operators are torchao's to the bit: `tests/data/parity/observers.{json,npz}`, written by the script
//! beside them.

use lowbit::data::npy;
use lowbit_core::executor::Executor;
use lowbit_core::ir::{Arg, ConstKind, NewNode, Program};
use lowbit_core::ops::{self, ArgKind};
use lowbit_core::quant::{Mapping, ObserverError, ObserverKind, QRange, QuantSpec, observer};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

type Arrays = BTreeMap<String, Tensor>;

fn read() -> (Value, Arrays) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity");
    let text = std::fs::read_to_string(folder.join("observers.json")).unwrap();
    let arrays = npy::read(&folder.join("observers.npz"), |_| true).unwrap();
    (serde_json::from_str(&text).unwrap(), arrays.into_iter().collect())
}

pub fn dtype(v: &Value) -> DType {
    match v.as_str().unwrap() {
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "int16" => DType::I16,
        "uint16" => DType::U16,
        "int32" => DType::I32,
        "float32" => DType::F32,
        "float64" => DType::F64,
        other => panic!("{other}"),
    }
}

fn spec(case: &Value) -> QuantSpec {
    let kind = match case["observer"].as_str().unwrap() {
        "MinMaxObserver" | "PerChannelMinMaxObserver" => ObserverKind::MinMax,
        "HistogramObserver" => ObserverKind::Histogram { bins: case["bins"].as_u64().unwrap() as u32 },
        _ => ObserverKind::MovingAverage { constant: case["averaging_constant"].as_f64().unwrap() },
    };
    let (min, max) = (case["quant_min"].as_i64().unwrap(), case["quant_max"].as_i64().unwrap());
    let range = QRange::new(dtype(&case["dtype"]), min, max).unwrap();
    let mapping = if case["symmetric"] == true { Mapping::Symmetric } else { Mapping::Affine };
    let spec = QuantSpec::new(range, mapping, kind).eps(case["eps"].as_f64().unwrap());
    match case["ch_axis"].as_u64() {
        Some(axis) => spec.per_channel(axis as u32),
        None => spec,
    }
}

fn check_observer(case: &Value, arrays: &Arrays) -> Result<(), String> {
    let mut o = observer::create(&spec(case)).map_err(|e| e.to_string())?;
    for call in case["calls"].as_array().unwrap() {
        o.observe(arrays[call.as_str().unwrap()].view::<f32>().unwrap());
    }
    let got = o.qparams();
    if case["seen"] == false {
        return if got == Err(ObserverError::SawNothing) { Ok(()) } else { Err(format!("{got:?}")) };
    }
    let got = got.map_err(|e| e.to_string())?;
    let numbers = |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_i64().unwrap());
    let scale: Vec<f32> = numbers("scale").map(|bits| f32::from_bits(bits as u32)).collect();
    let zero: Vec<i64> = numbers("zero_point").collect();
    let same = got.scale.iter().map(|s| *s as f32).eq(scale.iter().copied());
    if same && got.zero_point.iter().copied().eq(zero.iter().map(|&z| z as f64)) {
        return Ok(());
    }
    Err(format!("{:?} {:?}, expected {scale:?} {zero:?}", got.scale, got.zero_point))
}

fn check_operator(case: &Value, arrays: &Arrays) -> Result<(), String> {
    let op = ops::lookup(case["op"].as_str().unwrap()).ok_or("no such operator")?;
    let mut program = Program::default();
    let mut args = vec![];
    for (v, spec) in case["args"].as_array().unwrap().iter().zip(&op.schema().args) {
        args.push(match (v, spec.kind) {
            (Value::Null, _) => Arg::None,
            (Value::Object(o), _) if o.contains_key("array") => {
                let t = arrays[o["array"].as_str().unwrap()].clone();
                program.add_constant("t", ConstKind::Tensor, t).into()
            }
            (Value::Object(o), _) => Arg::DType(dtype(&o["dtype"])),
            (Value::String(s), _) => Arg::from(&**s),
            (Value::Array(list), _) => Arg::Ints(list.iter().map(|n| n.as_i64().unwrap().into()).collect()),
            (Value::Bool(b), _) => Arg::Bool(*b),
            (n, ArgKind::Float) => Arg::Float(n.as_f64().unwrap()),
            (n, _) => match n.as_i64() {
                Some(n) => Arg::Int(n.into()),
                None => Arg::Float(n.as_f64().unwrap()),
            },
        });
    }
    let left = op.schema().args[args.len()..].iter().map(|a| a.default.clone().unwrap());
    args.extend(left.collect::<Vec<_>>());
    let n = program.graph.append(NewNode::new(op, args)).map_err(|e| e.message)?;
    let outputs = program.graph.node(n).outputs().to_vec();
    program.signature.outputs = outputs.iter().map(|_| "out".into()).collect();
    program.graph.set_outputs(outputs);
    let mut session = CpuExecutor::default().load(&program, &[]).map_err(|e| e.to_string())?;
    let got = session.run(&[], &mut |_, _| {}).map_err(|e| e.to_string())?;
    for (got, name) in got.iter().zip(case["outputs"].as_array().unwrap()) {
        let expected = &arrays[name.as_str().unwrap()];
        if (got.dtype(), got.shape()) != (expected.dtype(), expected.shape()) {
            let kind = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
            return Err(format!("{}, expected {}", kind(got), kind(expected)));
        }
        for (a, b) in got.to_f64().into_iter().zip(expected.to_f64()) {
            if a.to_bits() != b.to_bits() {
                return Err(format!("{a}, expected {b}"));
            }
        }
    }
    Ok(())
}

fn all(kind: &str, check: fn(&Value, &Arrays) -> Result<(), String>) {
    let (cases, arrays) = read();
    let cases = cases[kind].as_array().unwrap();
    let failures: Vec<String> =
        cases.iter().filter_map(|c| check(c, &arrays).err().map(|e| format!("{c}: {e}"))).collect();
    assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn observers_are_torchaos_to_the_bit() {
    all("observers", check_observer);
}

#[test]
fn quantization_operators_are_pytorchs_to_the_bit() {
    all("operators", check_operator);
}
