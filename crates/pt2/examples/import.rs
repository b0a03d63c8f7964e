//! Imports each file given and prints a line about it: `cargo run -p lowbit-pt2 --example import -- FILES…`.
//! The exit code says whether all could be read.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let (mut good, mut bad) = (0, 0);
    for file in std::env::args().skip(1) {
        let start = Instant::now();
        match lowbit_pt2::read(Path::new(&file)) {
            Ok(p) => {
                let ms = start.elapsed().as_secs_f64() * 1e3;
                let invalid = lowbit_core::ir::verify(&p).err().map(|e| format!("\n{e}")).unwrap_or_default();
                println!(
                    "{file}: {} nodes, {} constants, {} inputs, {} outputs, {} mutations, {ms:.1} ms{invalid}",
                    p.graph.nodes().len(),
                    p.constants.len(),
                    p.signature.inputs.len(),
                    p.signature.outputs.len(),
                    p.signature.mutations.len(),
                );
                if invalid.is_empty() { good += 1 } else { bad += 1 }
            }
            Err(e) => {
                println!("{file}: {e}");
                bad += 1;
            }
        }
    }
    println!("{good} imported, {bad} not");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
