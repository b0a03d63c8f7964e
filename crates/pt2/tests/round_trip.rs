//! What is written is read back as the same program.

use bytes::Bytes;
use lowbit_core::ir::{Arg, Leaf, Program, text, verify};
use std::io::Cursor;
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
