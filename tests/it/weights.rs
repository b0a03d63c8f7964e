//! Weights by [`WeightQuantizer`] are torchao's to the bit: `tests/data/parity/weights.{json,npz}`, written by the script beside
//! them.

use lowbit::data::npy;
use lowbit_core::executor::Executor;
use lowbit_core::flow::{Converted, Place, lower, prepare};
use lowbit_core::ir::{Key, Program, text};
use lowbit_core::quant::{Blocks, Codebook, Granularity, Mapping, ObserverKind, QRange, QuantSpec, observer};
use lowbit_core::quantizer::{
    Composed, EmbeddingQuantizer, Intx, Quantizer, Scope, WeightConfig, WeightQuantizer,
};
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use lowbit_testing::data;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

struct Cases {
    tables: Value,
    arrays: BTreeMap<String, Tensor>,
}

impl Cases {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity");
        let text = std::fs::read_to_string(folder.join("weights.json")).unwrap();
        let arrays = npy::read(&folder.join("weights.npz"), |_| true).unwrap();
        let mut cases =
            Cases { tables: serde_json::from_str(&text).unwrap(), arrays: arrays.into_iter().collect() };
        for name in cases.tables["bf16"].as_array().unwrap() {
            let t = cases.arrays.get_mut(name.as_str().unwrap()).unwrap();
            *t = Tensor::from_f32(DType::BF16, t.shape(), &t.to_f32()).unwrap();
        }
        cases
    }

    fn table(&self, name: &str) -> &[Value] {
        self.tables[name].as_array().unwrap()
    }

    fn array(&self, row: &Value, key: &str) -> &Tensor {
        &self.arrays[row[key].as_str().unwrap()]
    }
}

fn mapping(row: &Value) -> Mapping {
    match row["mapping"].as_str().unwrap() {
        "SYMMETRIC" => Mapping::Symmetric,
        "ASYMMETRIC" => Mapping::Affine,
        _ => Mapping::SymmetricNoClipping,
    }
}

fn config(row: &Value) -> WeightConfig {
    let intx = || Intx {
        bits: row["bits"].as_u64().unwrap() as u8,
        group: row["group"].as_u64().map(|g| g as u32),
        mapping: mapping(row),
        scale: row["scale_dtype"].as_str().map(|s| DType::from_name(s).unwrap()),
        search: row["search"] == true,
    };
    match row["config"].as_str().unwrap() {
        "Int8WeightOnlyConfig" => WeightConfig::Int8WeightOnly,
        "IntxWeightOnlyConfig" => WeightConfig::IntxWeightOnly(intx()),
        _ => WeightConfig::Int8DynamicActivationIntxWeight(intx()),
    }
}

/// A layer with this weight.
fn layer(weight: &Tensor) -> Program {
    let (dtype, shape) = (weight.dtype(), weight.shape());
    let (input, output, op) = match *shape {
        [out, channels] => (vec![3, channels], vec![3, out], "linear"),
        [out, channels, ..] => (vec![1, channels, 4, 4], vec![1, out, 2, 2], "conv2d"),
        _ => panic!("{shape:?}"),
    };
    let text = format!(
        "program {{
          %x : {dtype}{input:?} = input
          %w : {dtype}{shape:?} = constant \"w\"
          %y : {dtype}{output:?} = aten.{op}.default(%x, %w)
          return %y
        }}"
    );
    let mut p = text::parse(&text).unwrap();
    p.constants[Key::new(0)].tensor = weight.clone();
    p
}

fn converted(p: &Program, q: &dyn Quantizer) -> Converted {
    let prepared = prepare(p.clone(), q).unwrap();
    assert!(!prepared.needs_data());
    prepared.convert(&CpuExecutor::default()).unwrap()
}

fn constant<'a>(p: &'a Program, name: &str) -> &'a Tensor {
    let found = p.constants.iter().find(|(_, c)| *c.name == *name);
    found.map(|(_, c)| &c.tensor).unwrap_or_else(|| panic!("no constant {name}"))
}

fn run(p: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    CpuExecutor::default().load(p, &[]).unwrap().run(inputs, &mut |_, _| {}).unwrap()
}

/// Element types and bits are the same; blocks that fill a dimension have no dimension here.
fn same(got: &Tensor, want: &Tensor) -> Result<(), String> {
    let differ =
        got.to_f64().into_iter().zip(want.to_f64()).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    if (got.dtype(), got.numel()) != (want.dtype(), want.numel()) {
        return Err(format!("{}{:?}, {}{:?} there", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    if differ > 0 { Err(format!("{differ} of {} elements", got.numel())) } else { Ok(()) }
}

fn close(got: &Tensor, want: &Tensor, relative: f64) -> Result<(), String> {
    let far = |(a, b): &(f64, f64)| (a - b).abs() > relative * b.abs().max(1e-3);
    match got.to_f64().into_iter().zip(want.to_f64()).find(far) {
        Some((a, b)) => Err(format!("{a}, {b} there")),
        None => Ok(()),
    }
}

fn check(cases: &Cases, row: &Value) -> Result<(), String> {
    let program = layer(cases.array(row, "weight"));
    let c = converted(&program, &WeightQuantizer::default().set(Scope::Global, config(row)));
    let parts = [("qdata", "w_quantized"), ("scale", "w_scale"), ("zero_point", "w_zero_point")];
    for (key, name) in parts {
        let (got, want) = (constant(&c.program, name), cases.array(row, key));
        // A search adds in another order.
        let equal =
            if row["search"] == true && key == "scale" { close(got, want, 1e-5) } else { same(got, want) };
        equal.map_err(|e| format!("{key}: {e}"))?;
    }
    if row.get("output").is_some() {
        let got = run(&c.program, &[cases.array(row, "input").clone()]);
        close(&got[0], cases.array(row, "output"), 1e-5).map_err(|e| format!("output: {e}"))?;
    }
    Ok(())
}

#[test]
fn integers_and_scales_are_torchaos() {
    let cases = Cases::read();
    let failures: Vec<String> = cases
        .table("quantized")
        .iter()
        .filter_map(|row| Some(format!("{row}: {}", check(&cases, row).err()?)))
        .collect();
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
    assert_eq!(cases.table("quantized").len(), 214);
}

#[test]
fn zero_points_are_searched_as_torchao_does() {
    let cases = Cases::read();
    for row in cases.table("hqq") {
        let (bits, group) = (row["bits"].as_u64().unwrap(), row["group"].as_u64().unwrap() as u32);
        let range = QRange::new(DType::U8, 0, (1 << bits) - 1).unwrap();
        let spec =
            QuantSpec::new(range, Mapping::AffineFloat, ObserverKind::Hqq).blocks(Blocks::Group(group));
        let mut o = observer::create(&spec).unwrap();
        let weight = cases.array(row, "weight");
        o.observe(weight.view::<f32>().unwrap());
        let params = o.qparams().unwrap();
        let vector = |v: &[f64]| Tensor::new(&[v.len()], v.to_vec()).unwrap();
        close(&vector(&params.scale), cases.array(row, "scale"), 1e-6).unwrap();
        // A ten-thousandth of a step: powers and sums are rounded in another way.
        let zeros = params.zero_point.iter().zip(cases.array(row, "zero_point").to_f64());
        let apart = zeros.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-4, "{row}: {apart} steps");
        let got = params.quantize(weight).unwrap();
        same(&got, cases.array(row, "qdata")).unwrap_or_else(|e| panic!("{row}: {e}"));
    }
}

#[test]
fn fractional_zero_points_are_those_of_int4_weight_only() {
    let cases = Cases::read();
    for row in cases.table("tinygemm") {
        let group = row["group"].as_u64().map(|g| g as u32);
        let intx = Intx { bits: 4, group, mapping: Mapping::AffineFloat, ..Intx::default() };
        let config = WeightConfig::IntxWeightOnly(intx);
        let mut c = converted(&layer(cases.array(row, "weight")), &WeightQuantizer::new(config));
        let q: Vec<f64> = constant(&c.program, "w_quantized").to_f64().iter().map(|q| q + 8.0).collect();
        assert_eq!(q, cases.array(row, "qdata").to_f64(), "{row}");
        let linear = c.program.graph.nodes().last().unwrap();
        let read = c.program.graph.node(linear).operands().nth(1).unwrap();
        c.program.graph.set_outputs(vec![read]);
        let values = run(&c.program, &data::inputs(&c.program, 0));
        close(&values[0], cases.array(row, "values"), 1e-5).unwrap_or_else(|e| panic!("{row}: {e}"));
    }
    assert_eq!(cases.table("tinygemm").len(), 2);
}

#[test]
fn codebooks_are_no_worse_than_the_peers() {
    let cases = Cases::read();
    for row in cases.table("codebooks") {
        let bits = row["bits"].as_u64().unwrap() as u8;
        let granularity = match row["block_size"].as_array().unwrap()[..] {
            [ref r, ref c] if *r == -1 && *c == -1 => Granularity::Tensor,
            [ref r, ref c] if *r == -1 => {
                Granularity::Blocks(Blocks::Channels { axis: 1, size: c.as_u64().unwrap() as u32 })
            }
            [ref r, _] => Granularity::Blocks(Blocks::Channels { axis: 0, size: r.as_u64().unwrap() as u32 }),
            _ => panic!("{row}"),
        };
        let weight = cases.array(row, "weight");
        let book = WeightConfig::CodebookWeightOnly(Codebook::new(bits, granularity).unwrap());
        let mut c = converted(&layer(weight), &WeightQuantizer::new(book));
        let (codes, table) = (constant(&c.program, "w_codes"), constant(&c.program, "w_codebook"));
        assert_eq!(codes.shape(), weight.shape());
        assert_eq!(table.shape(), cases.array(row, "codebook").shape(), "{row}");
        // What the program reads in place of the weight, ours and theirs.
        let linear = c.program.graph.nodes().last().unwrap();
        let read = c.program.graph.node(linear).operands().nth(1).unwrap();
        c.program.graph.set_outputs(vec![read]);
        let input = data::inputs(&c.program, 0);
        let values = run(&c.program, &input);
        let error = |t: &Tensor| -> f64 {
            t.to_f64().into_iter().zip(weight.to_f64()).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let theirs = row["error"].as_f64().unwrap();
        assert!(error(&values[0]) <= theirs * (1.0 + 1e-6), "{row}: {}, {theirs} there", error(&values[0]));
        for (_, k) in c.program.constants.clone().iter() {
            let their = match &*k.name {
                "w_codes" => cases.array(row, "codes").clone(),
                "w_codebook" => {
                    let t = cases.array(row, "codebook");
                    Tensor::new(t.shape(), t.to_f32().into_owned()).unwrap()
                }
                _ => continue,
            };
            let (id, _) = c.program.constants.iter().find(|(_, other)| other.name == k.name).unwrap();
            c.program.constants[id].tensor = their;
        }
        same(&run(&c.program, &input)[0], cases.array(row, "values"))
            .unwrap_or_else(|e| panic!("{row}: {e}"));
    }
}

const NET: &str = "program {
  %t : i64[2, 5] = input
  %table : f32[12, 32] = constant \"embed.weight\"
  %a : f32[32, 32] = constant \"layers.0.weight\"
  %b : f32[32, 32] = constant \"layers.1.weight\"
  %c : f32[32, 32] = constant \"head.weight\"
  %bias : f32[32] = constant \"head.bias\"
  %e : f32[2, 5, 32] = aten.embedding.default(%table, %t)    ; embed
  %x : f32[2, 5, 32] = aten.linear.default(%e, %a)    ; layers.0
  %y : f32[2, 5, 32] = aten.linear.default(%x, %b)    ; layers.1
  %r : f32[2, 5, 32] = aten.relu.default(%y)    ; act
  %z : f32[2, 5, 32] = aten.linear.default(%r, %c, %bias)    ; head
  return %z
}";

fn net() -> Program {
    let mut p = text::parse(NET).unwrap();
    data::fill(&mut p);
    p
}

/// The operators of the converted program, short.
fn operators(q: &dyn Quantizer) -> Vec<String> {
    let c = converted(&net(), q);
    c.program.graph.nodes().map(|n| c.program.graph.node(n).op().short_name().to_string()).collect()
}

fn intx(bits: u8, group: u32) -> WeightConfig {
    WeightConfig::IntxWeightOnly(Intx { bits, group: Some(group), ..Intx::default() })
}

/// Bits of each layer's integers, embedding first; 32 for floats.
fn bits(q: &dyn Quantizer) -> Vec<u32> {
    let c = converted(&net(), q);
    let of = |layer: &str| {
        let site = c
            .sites
            .iter()
            .find(|s| s.user.as_ref().is_some_and(|(n, slot)| n == layer && *slot == u32::from(n != "e")));
        site.and_then(|s| s.spec.range).map_or(32, |r| (r.max() - r.min() + 1).ilog2())
    };
    ["e", "x", "y", "z"].map(of).into()
}

#[test]
fn scopes_say_which_layers() {
    let linear = || WeightQuantizer::new(intx(4, 32));
    let name = |n: &str| Scope::ModuleName(n.into());
    assert_eq!(bits(&linear()), [32, 4, 4, 4]);
    assert_eq!(bits(&linear().skip(name("head"))), [32, 4, 4, 32]);
    assert_eq!(bits(&WeightQuantizer::default().set(Scope::Global, intx(8, 32))), [8, 8, 8, 8]);
    let patterns = linear()
        .set(Scope::regex(r"layers\.\d").unwrap(), intx(2, 16))
        .set(name("layers.1"), intx(3, 16))
        .set(Scope::glob("emb*").unwrap(), intx(8, 32))
        .set(Scope::Parameter("head.weight".into()), intx(6, 32));
    assert_eq!(bits(&patterns), [8, 2, 3, 6]);
    let picked = Scope::picked(|p, n| *p.graph.node(n).name == *"y");
    assert_eq!(bits(&WeightQuantizer::default().set(picked, intx(5, 8))), [32, 32, 5, 32]);
    // Another quantizer takes the rest.
    let embedding =
        QuantSpec::intx(QRange::INT4, Mapping::Symmetric, ObserverKind::MinMax, Blocks::Group(16));
    let both = Composed::new(vec![Box::new(linear()), Box::new(EmbeddingQuantizer::new(embedding))]);
    assert_eq!(bits(&both), [4, 4, 4, 4]);
    // A name that is not there is a slip.
    let slip = prepare(net(), &linear().skip(name("tail"))).unwrap_err().to_string();
    assert!(slip.contains("module \"tail\", which nothing in the program belongs to"), "{slip}");
}

#[test]
fn what_does_not_fit_is_said() {
    let book = Codebook::new(4, Granularity::Blocks(Blocks::Channels { axis: 0, size: 5 })).unwrap();
    let half = |dtype| WeightConfig::Half { dtype, activations: false };
    for (config, layer, why) in [
        (intx(4, 24), "x", "do not divide"),
        (intx(9, 32), "x", "1 to 8 bits, not 9"),
        (WeightConfig::CodebookWeightOnly(book), "x", "do not divide"),
        (WeightConfig::Int8DynamicActivationIntxWeight(Intx::default()), "e", "only linear layers"),
        (half(DType::I8), "x", "i8 is no half type"),
        (half(DType::F16), "r", "no constants wider than f16"),
    ] {
        let c = converted(&net(), &WeightQuantizer::default().set(Scope::Global, config));
        assert!(c.reasons[layer].contains(why), "{layer}: {}", c.reasons[layer]);
    }
}

#[test]
fn half_floats_are_cast_where_they_are_read() {
    let half = |activations| WeightConfig::Half { dtype: DType::F16, activations };
    assert_eq!(
        operators(&WeightQuantizer::new(half(false)).skip(Scope::ModuleName("layers.0".into()))),
        ["convert_element_type"; 3]
            .into_iter()
            .chain(["embedding", "linear", "linear", "relu", "linear"])
            .collect::<Vec<_>>()
    );
    let c = converted(&net(), &WeightQuantizer::default().set(Scope::Global, half(true)));
    let weight = constant(&c.program, "head.weight_f16");
    assert_eq!((weight.dtype(), weight.shape()), (DType::F16, &[32, 32][..]));
    let inputs = data::inputs(&net(), 0);
    let (float, got) = (run(&net(), &inputs), run(&c.program, &inputs));
    let apart =
        float[0].to_f64().into_iter().zip(got[0].to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 0.0 && apart < 0.01, "{apart}");
    // What comes out is what f16 holds.
    assert!(
        got[0].to_f32().iter().all(|&v| Tensor::from_f32(DType::F16, &[1], &[v]).unwrap().to_f32()[0] == v)
    );
    let mut large = net();
    large.constants[Key::new(1)].tensor = Tensor::new(&[32, 32], vec![1e5f32; 1024]).unwrap();
    let c = converted(&large, &WeightQuantizer::new(half(false)));
    assert_eq!(c.reasons["x"], "1024 elements of %a are too large for f16");
}

#[test]
fn a_device_without_codebooks_gets_floats() {
    let book = WeightConfig::CodebookWeightOnly(Codebook::new(4, Granularity::Tensor).unwrap());
    let c = converted(&net(), &WeightQuantizer::new(book));
    let lowered = lower(c.program.clone(), &[&lowbit_xnnpack::lowering::Xnnpack]).unwrap();
    let of = |op: &str| {
        lowered.nodes.iter().filter(|n| n.op.contains(op)).map(|n| n.place.clone()).collect::<Vec<_>>()
    };
    let why = "XnnpackBackend has no codebooks; the values are stored as floats";
    assert_eq!(of("codebook"), vec![Place::Outside(why.into()); 3]);
    assert_eq!(of("linear"), vec![Place::Delegate(0); 3]);
    assert!(!lowbit_pte::write(&lowered).unwrap().is_empty());
}
