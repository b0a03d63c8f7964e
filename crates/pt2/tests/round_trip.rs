//! What is written is read back as the same program.

use bytes::Bytes;
use lowbit_core::ir::{Arg, ConstKind, Leaf, NewNode, Program, text, verify};
use lowbit_core::ops;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Every `.pt2` file that the repository's tests have.
fn files() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = entries(&here.join("tests/data"));
    for folder in entries(&here.join("../../tests/data")) {
        files.extend(
            ["model.pt2", "model_core.pt2"].map(|n| folder.join(n)).into_iter().filter(|f| f.exists()),
        );
    }
    files.push(here.join("../cli/demo/model.pt2"));
    files.retain(|f| f.extension().is_some_and(|e| e == "pt2"));
    files.sort();
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
}

fn written(program: &Program) -> Bytes {
    lowbit_pt2::write(program, Cursor::new(vec![])).unwrap().into_inner().into()
}

/// Everything about a program but its elements.
fn describe(p: &Program) -> String {
    let constants: Vec<_> =
        p.live_constants().map(|(_, c)| (&c.name, c.kind, c.persistent, c.tensor.shape())).collect();
    let modules: Vec<_> = p.graph.nodes().map(|n| p.graph.node(n).module.clone()).collect();
    format!("{}{:#?}\n{constants:#?}\n{:?}\n{modules:#?}", text::print(p), p.signature, p.symbols)
}

/// What a file says in other words than the program: outputs are called like what makes them, pools say their stride.
fn as_spelled(p: &mut Program) {
    let leaves = p.signature.call.iter().flat_map(|c| &c.outputs);
    let numbers: Vec<bool> =
        leaves.filter(|l| !matches!(l, Leaf::Literal(_, Arg::None))).map(|l| *l != Leaf::Tensor).collect();
    for (i, &v) in p.graph.outputs()[..p.signature.outputs.len()].iter().enumerate() {
        if !numbers.get(i).is_some_and(|number| *number) {
            p.signature.outputs[i] = match p.constant(v) {
                Some(c) => format!("b_{}", c.name).into(),
                None => p.graph.value(v).name.clone(),
            };
        }
    }
    for n in p.graph.nodes().collect::<Vec<_>>() {
        let (op, mut args) = (p.graph.node(n).op(), p.graph.node(n).args().to_vec());
        let place = |name: &str| op.schema().index_of(name);
        if let (Some(k), Some(s)) = (place("kernel_size"), place("stride"))
            && args[s] == Arg::Ints(vec![])
        {
            args[s] = args[k].clone();
            p.graph.rewrite(n, op, args).unwrap();
        }
    }
}

#[test]
fn programs_come_back() {
    let (mut count, mut wrong) = (0, vec![]);
    for file in files() {
        let Ok(mut program) = lowbit_pt2::read(&file) else { continue };
        let bytes = written(&program);
        assert_eq!(bytes, written(&program), "{}: other bytes the second time", file.display());
        let back = lowbit_pt2::read_bytes(bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        verify(&back).unwrap();
        as_spelled(&mut program);
        let (got, want) = (describe(&back), describe(&program));
        if got != want {
            let mut lines = got.lines().zip(want.lines()).filter(|(a, b)| a != b).take(3);
            let show = |(a, b): (&str, &str)| format!("\n  {a}\n  not {b}");
            wrong.push(format!("{}:{}", file.display(), lines.by_ref().map(show).collect::<String>()));
        }
        for ((_, a), (_, b)) in program.live_constants().zip(back.live_constants()) {
            assert_eq!(a.tensor, b.tensor, "{}: {}", file.display(), a.name);
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "only {count} files");
}

/// A quantized linear layer with an open batch, which counts its calls.
const LAYER: &str = r#"
program {
  symbol s0 in 2..64
  %x : f32[s0, 4] = input
  %bias : f32[6] = constant "l.bias" [1, 2, 3, 4, 5, 6]
  %weight : i8[6, 4] = constant "l.weight_quantized"
  %scale : f32[6] = constant "l.scale"
  %count : f32[2, 2] = constant "count"
  %quantize : i8[s0, 4] = quantized_decomposed.quantize_per_tensor.default(%x, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)    ; l
  %dequantize : f32[s0, 4] = quantized_decomposed.dequantize_per_tensor.default(%quantize, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)    ; l
  %channels : f32[6, 4] = quantized_decomposed.dequantize_per_channel.default(%weight, %scale, none, axis=0, quant_min=-127, quant_max=127, dtype=i8)    ; l
  %linear : f32[s0, 6] = aten.linear.default(%dequantize, %channels, %bias)    ; l
  %heads : f32[s0, 2, 3] = aten.view.default(%linear, size=[s0, 2, 3])
  %turned : f32[s0, 3, 2] = aten.transpose.int(%heads, dim0=1, dim1=2)
  %flat : f32[6*s0] = aten.view.default(%turned, size=[6*s0])
  %old : f32[4] = aten.view.default(%count, size=[4])
  %more : f32[2, 2] = aten.add.Scalar(%count, other=inf)
  %values : f32[s0, 1], %places : i64[s0, 1] = aten.topk.default(%linear, k=1)
  return %flat, %old, %values
  update "count" = %more
}
"#;

#[test]
fn json_is_as_recorded() {
    let mut p = text::parse(LAYER).unwrap();
    for (name, kind) in
        [("weight", ConstKind::Tensor), ("scale", ConstKind::Buffer), ("count", ConstKind::Buffer)]
    {
        let (id, _) = p.constants.iter().find(|(_, c)| &*p.graph.value(c.value).name == name).unwrap();
        p.constants[id].kind = kind;
        p.constants[id].persistent = name != "count";
    }
    let find = |name: &str| p.graph.nodes().find(|n| &*p.graph.node(*n).name == name).unwrap();
    let sources = [("quantize", "linear"), ("channels", "linear")].map(|(a, b)| (find(a), find(b)));
    let export = lowbit_pt2::Export::new(&p, &sources.into()).unwrap();
    let file = export.write(Cursor::new(vec![])).unwrap().into_inner();
    let mut zip = zip::ZipArchive::new(Cursor::new(&file)).unwrap();
    let mut got = String::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0, "entries are aligned");
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        let mut content = vec![];
        entry.read_to_end(&mut content).unwrap();
        got += &format!("// {}, {} bytes\n", entry.name().unwrap(), content.len());
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&content)
            && json.is_object()
        {
            got += &lines(&json);
        }
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/written.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&place, &got).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&place).unwrap_or_default(), got, "UPDATE_EXPECT=1 writes it anew");
    verify(&lowbit_pt2::read_bytes(file.into()).unwrap()).unwrap();
}

/// JSON with a line for each node, value and specification.
fn lines(json: &serde_json::Value) -> String {
    use serde_json::Value;
    fn write(v: &Value, depth: usize, out: &mut String) {
        let pad = "  ".repeat(depth);
        match v {
            Value::Object(o) if depth < 4 && !o.is_empty() => {
                for (k, v) in o {
                    *out += &format!("{pad}{k}:\n");
                    write(v, depth + 1, out);
                }
            }
            Value::Array(a) if depth < 5 && !a.is_empty() => a.iter().for_each(|v| write(v, depth + 1, out)),
            leaf => *out += &format!("{pad}{leaf}\n"),
        }
    }
    let mut out = String::new();
    write(json, 0, &mut out);
    out
}

#[test]
fn storages_are_written_once() {
    let mut p = text::parse(
        r#"
program {
  %one : f32[2] = constant "one" [1, 2]
  %two : f32[2] = constant "two"
  %state : f32[2] = constant "state"
  %sum : f32[2] = aten.add.Tensor(%one, %two)
  %next : f32[2] = aten.add.Tensor(%sum, %state)
  return %sum
  update "state" = %next
}
"#,
    )
    .unwrap();
    let ids: Vec<_> = p.constants.iter().map(|(id, _)| id).collect();
    for &id in &ids[1..] {
        p.constants[id].tensor = p.constants[ids[0]].tensor.clone();
    }
    let back = lowbit_pt2::read_bytes(written(&p)).unwrap();
    let place =
        |name: &str| back.constants.iter().find(|(_, c)| &*c.name == name).unwrap().1.tensor.bytes().as_ptr();
    assert_eq!(place("one"), place("two"));
    assert_ne!(place("one"), place("state"), "what is overwritten is alone");
}

#[test]
fn what_pytorch_has_no_name_for_is_refused() {
    let mut p = text::parse("program {\n  %x : f32[4] = input\n  return %x\n}").unwrap();
    let x = p.graph.inputs()[0];
    let call = NewNode {
        types: Some(vec![p.graph.ty(x).clone()]),
        ..NewNode::new(&ops::CALL_DELEGATE, vec![0.into(), vec![x].into()])
    };
    let n = p.graph.append(call.named("region")).unwrap();
    p.graph.set_outputs(vec![p.graph.node(n).output()]);
    let message = lowbit_pt2::write(&p, Cursor::new(vec![])).unwrap_err().to_string();
    assert!(message.contains("%region") && message.contains("before lowering"), "{message}");
}
