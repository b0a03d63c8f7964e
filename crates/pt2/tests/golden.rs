//! What the importer makes of the files in `data/`: each `.pt2` beside the text of its program, `.ir`.
//! `UPDATE_EXPECT=1 cargo test -p lowbit-pt2` writes the texts anew.

use lowbit_core::ir::{Program, text, verify};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The program's text, then the caller's names for inputs and outputs.
fn describe(p: &Program) -> String {
    let s = &p.signature;
    format!("{}; inputs {:?}\n; outputs {:?}\n", text::print(p), s.inputs, s.outputs)
}

#[test]
fn programs_are_as_recorded() {
    let mut files: Vec<_> = std::fs::read_dir(data()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "pt2"));
    files.sort();
    assert!(files.len() > 10, "the files are there");
    let mut wrong = vec![];
    for file in files {
        let program = lowbit_pt2::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        verify(&program).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let (got, place) = (describe(&program), file.with_extension("ir"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&place, &got).unwrap();
        } else if std::fs::read_to_string(&place).unwrap_or_default() != got {
            wrong.push(format!("{}:\n{got}", place.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn weights_are_shared_and_have_their_elements() {
    let p = lowbit_pt2::read(&data().join("weights.pt2")).unwrap();
    let find = |name: &str| &p.constants.iter().find(|(_, c)| *c.name == *name).expect(name).1.tensor;
    // A cut out of a larger storage, and the same storage turned.
    let cut: Vec<f32> = [2, 3, 4, 5].iter().flat_map(|r| (1..5).map(move |c| (r * 6 + c) as f32)).collect();
    assert_eq!(find("cut").as_slice::<f32>(), Some(&cut[..]));
    let turned: Vec<f32> = (0..4).flat_map(|c| (0..8).map(move |r| (r * 6 + c) as f32)).collect();
    assert_eq!(find("turned").as_slice::<f32>(), Some(&turned[..]));
    assert_eq!(find("wide").to_f64(), [0., 0., 0., 1., 1., 1., 2., 2., 2., 3., 3., 3.]);
    for name in ["f16", "bf16", "f64", "i8"] {
        assert_eq!(find(name).to_f64(), [0., 1., 2., 3.], "{name}");
    }
    assert_eq!(find("mask").to_f64(), [1., 0., 1., 0.]);
    assert_eq!(find("none").shape(), [0, 4]);
    // A tied pair has its elements once, in the file.
    assert_eq!(find("one.weight").bytes().as_ptr(), find("two.weight").bytes().as_ptr());
}

#[test]
fn weights_lie_in_the_file() {
    // Start the file where the first weight is aligned, as in a file that PyTorch wrote.
    let file = std::fs::read(data().join("weights.pt2")).unwrap();
    let shared = (0..8).any(|pad| {
        let bytes = bytes::Bytes::from([&vec![0; pad], &file[..]].concat()).slice(pad..);
        let p = lowbit_pt2::read_bytes(bytes.clone()).unwrap();
        let one = p.constants.iter().find(|(_, c)| &*c.name == "one.weight").unwrap().1;
        bytes.as_ptr_range().contains(&one.tensor.bytes().as_ptr())
    });
    assert!(shared, "at one of eight places it must be aligned");
}
