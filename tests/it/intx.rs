//! Weights and embeddings of few bits are torchao's to the bit: `tests/data/parity/intx.{json,npz,pt2}`, written by the script
//! beside them.

use super::cases::same;
use lowbit::data::npy;
use lowbit_core::backend::{Backend, Options};
use lowbit_core::executor::Executor;
use lowbit_core::flow::{self, Converted, prepare};
use lowbit_core::ir::{NodeId, Program, text};
use lowbit_core::ops::{self, views};
use lowbit_core::passes::{PackEmbeddings, Pass};
use lowbit_core::quant::{Blocks, Mapping, ObserverKind, QRange, QuantSpec, observer};
use lowbit_core::quantizer::EmbeddingQuantizer;
use lowbit_core::{DType, Tensor};
use lowbit_cpu::CpuExecutor;
use lowbit_xnnpack::Xnnpack;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Arrays = BTreeMap<String, Tensor>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity")
}

fn read() -> (Value, Arrays) {
    let json = std::fs::read_to_string(folder().join("intx.json")).unwrap();
    let arrays = npy::read(&folder().join("intx.npz"), |_| true).unwrap();
    (serde_json::from_str(&json).unwrap(), arrays.into_iter().collect())
}

/// Elements that are the same; a scale a row may be a column there.
fn equal(got: &Tensor, expected: &Tensor) -> Result<(), String> {
    let same = got.numel() == expected.numel() && got.to_f64() == expected.to_f64();
    if same { Ok(()) } else { Err(format!("{got:?}, expected {expected:?}")) }
}

struct Case {
    range: QRange,
    mapping: Mapping,
    group: Option<u32>,
}

fn case(v: &Value) -> Case {
    let range = match v["bits"].as_i64().unwrap() {
        8 => QRange::INT8,
        4 => QRange::INT4,
        _ => QRange::INT2,
    };
    let mapping = if v["symmetric"] == true { Mapping::Symmetric } else { Mapping::Affine };
    Case { range, mapping, group: v["group"].as_u64().map(|g| g as u32) }
}

#[test]
fn integers_and_scales_are_torchaos() {
    let (cases, arrays) = read();
    for v in cases["tensors"].as_array().unwrap() {
        let Case { range, mapping, group } = case(v);
        let array = |key: &str| &arrays[&format!("{}.{key}", v["name"].as_str().unwrap())];
        let blocks = group.map_or(Blocks::Token, Blocks::Group);
        let mut o = observer::create(&QuantSpec::intx(range, mapping, ObserverKind::MinMax, blocks)).unwrap();
        o.observe(arrays["w"].view::<f32>().unwrap());
        let params = o.qparams().unwrap();
        let floats = |key: &str| array(key).to_f64();
        assert_eq!(params.scale, floats("scale").to_vec(), "{v}");
        assert_eq!(params.zero_point, floats("zero").to_vec(), "{v}");
        equal(&params.quantize(&arrays["w"]).unwrap(), array("int")).unwrap_or_else(|e| panic!("{v}: {e}"));
    }
}

/// From floats to what ExecuTorch's kernel reads, and what the kernel's twin here makes of it.
#[test]
fn tables_of_embeddings_are_executorchs() {
    let (cases, arrays) = read();
    for v in cases["tensors"].as_array().unwrap() {
        let Case { range, mapping, group } = case(v);
        let array = |key: &str| &arrays[&format!("{}.{key}", v["name"].as_str().unwrap())];
        let mut p = text::parse(
            "program {
              %i : i64[2, 2] = input
              %w : f32[6, 64] = constant \"w\"
              %e : f32[2, 2, 64] = aten.embedding.default(%w, %i)
              return %e
            }",
        )
        .unwrap();
        let (w, _) = p.constants.iter().next().unwrap();
        p.constants[w].tensor = arrays["w"].clone();
        let q = EmbeddingQuantizer::intx(range, mapping, group);
        let executor = CpuExecutor::default();
        let converted = prepare(p, &q).unwrap().convert(&executor).unwrap();
        let run = |p: &Program| {
            let indices = std::slice::from_ref(&arrays["indices"]);
            let out = executor.load(p, &[]).unwrap().run(indices, &mut |_, _| {}).unwrap();
            equal(&out[0], array("rows")).unwrap_or_else(|e| panic!("{v}: {e}"));
        };
        run(&converted.program);
        let mut packed = converted.program;
        assert!(PackEmbeddings.run(&mut packed).unwrap());
        run(&packed);
        let nodes: Vec<NodeId> = packed.graph.nodes().collect();
        assert_eq!(nodes.len(), 1, "{v}: {}", text::print(&packed));
        let table = packed.frozen(packed.graph.node(nodes[0]).operands().next().unwrap()).unwrap();
        assert_eq!((table.dtype(), table.shape()), (array("table").dtype(), array("table").shape()), "{v}");
        equal(table, array("table")).unwrap_or_else(|e| panic!("{v}: {e}"));
    }
}

/// The integers and scales of the weight of `n`.
fn weight(p: &Program, n: NodeId) -> (&Tensor, &Tensor) {
    let node = p.graph.node(n);
    let slot = usize::from(*node.op() == ops::LINEAR);
    let dequantize = p.graph.node(p.graph.producer(node.operands().nth(slot).unwrap()).unwrap());
    assert_eq!(*dequantize.op(), ops::DEQUANTIZE_AFFINE);
    let constant = |i: usize| p.frozen(views::value(dequantize.arg(i)).unwrap()).unwrap();
    (constant(0), constant(2))
}

#[test]
fn networks_are_torchaos() {
    let (cases, arrays) = read();
    let float = lowbit_pt2::read(&folder().join("intx.pt2")).unwrap();
    let executor = CpuExecutor::default();
    for v in cases["networks"].as_array().unwrap() {
        let options: Options = serde_json::from_value(v["options"].clone()).unwrap();
        let q = Xnnpack.quantizer(v["recipe"].as_str().unwrap(), &options).unwrap();
        let Converted { program, remarks, .. } =
            prepare(float.clone(), &*q).unwrap().convert(&executor).unwrap();
        assert!(remarks.is_empty(), "{remarks:?}");
        let name = v["name"].as_str().unwrap();
        let array = |path: &str, key: &str| &arrays[&format!("{name}.{path}.{key}")];
        let layers = program.graph.nodes().filter(|&n| {
            let op = program.graph.node(n).op();
            *op == ops::LINEAR || *op == ops::EMBEDDING
        });
        let mut count = 0;
        for n in layers {
            let path = program.graph.node(n).module.path();
            let (ints, scales) = weight(&program, n);
            equal(ints, array(path, "int")).unwrap_or_else(|e| panic!("{name}.{path}: {e}"));
            equal(scales, array(path, "scale")).unwrap_or_else(|e| panic!("{name}.{path}: {e}"));
            count += 1;
        }
        assert_eq!(count, 5, "the shared weight is quantized for either reader");
        let tokens = std::slice::from_ref(&arrays["tokens"]);
        let out = executor.load(&program, &[]).unwrap().run(tokens, &mut |_, _| {}).unwrap();
        same(&out[0], &arrays[&format!("{name}.out")]).unwrap_or_else(|e| panic!("{name}: {e}"));

        // All of it is lowered: linear layers to one delegate, the embedding to the runtime's kernel.
        let lowering = Xnnpack.lowering(&options).unwrap();
        let lowered = flow::lower(program, &[&*lowering]).unwrap();
        let outside: Vec<&str> = lowered.outside().map(|(n, _)| n.op).collect();
        assert_eq!(lowered.delegates.len(), 1);
        assert!(
            matches!(outside[..], [op] if op.starts_with("quantized_decomposed.embedding_")),
            "{outside:?}"
        );
        lowbit_pte::write(&lowered).unwrap();
        let tables = lowered.program.live_constants().filter(|(_, c)| c.tensor.dtype() != DType::F32).count();
        assert_eq!(tables, 1, "the floats and the unpacked integers are gone");
    }
}
