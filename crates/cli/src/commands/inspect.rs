//! `lowbit inspect`: what a program holds.

use super::import::import;
use crate::args::Inspect;
use crate::error::CliError;
use lowbit_core::ir::{Program, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn run(args: &Inspect) -> Result<(), CliError> {
    let program = import(&args.model)?;
    if args.text {
        crate::output::print(format_args!("{}", text::print(&program)));
        return Ok(());
    }
    let summary = summary(&program);
    if args.json {
        say!("{summary:#}");
    } else {
        print_table(&summary);
    }
    Ok(())
}

fn summary(program: &Program) -> Value {
    let g = &program.graph;
    let named = |names: &[std::sync::Arc<str>], values: &[lowbit_core::ir::ValueId]| -> Vec<Value> {
        names.iter().zip(values).map(|(n, &v)| json!({"name": n, "type": g.ty(v).to_string()})).collect()
    };
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    for n in g.nodes() {
        *ops.entry(g.node(n).op().name).or_default() += 1;
    }
    let (mut count, mut elements, mut bytes) = (0usize, 0usize, 0usize);
    for (_, c) in program.live_constants() {
        count += 1;
        elements += c.tensor.numel();
        bytes += c.tensor.bytes().len();
    }
    let symbols: BTreeMap<_, _> =
        program.symbols.iter().map(|(s, r)| (s, json!({"min": r.min, "max": r.max}))).collect();
    json!({
        "inputs": named(&program.signature.inputs, g.inputs()),
        "outputs": named(&program.signature.outputs, program.user_outputs()),
        "mutations": program.signature.mutations.len(),
        "symbols": symbols,
        "constants": {"count": count, "elements": elements, "bytes": bytes},
        "nodes": g.nodes().len(),
        "operators": ops,
    })
}

fn print_table(s: &Value) {
    for kind in ["inputs", "outputs"] {
        for v in s[kind].as_array().into_iter().flatten() {
            say!("{:<10} {} : {}", &kind[..kind.len() - 1], text_of(&v["name"]), text_of(&v["type"]));
        }
    }
    for (name, r) in s["symbols"].as_object().into_iter().flatten() {
        let max = if r["max"] == json!(i64::MAX) { "any".into() } else { r["max"].to_string() };
        say!("{:<10} {name} from {} to {max}", "symbol", r["min"]);
    }
    let c = &s["constants"];
    say!("{:<10} {} tensors, {} elements, {} bytes", "constants", c["count"], c["elements"], c["bytes"]);
    if s["mutations"] != json!(0) {
        say!("{:<10} {} buffers or inputs are overwritten", "mutations", s["mutations"]);
    }
    say!("{:<10} {}", "nodes", s["nodes"]);
    for (op, n) in s["operators"].as_object().into_iter().flatten() {
        say!("  {n:>5} {op}");
    }
}

fn text_of(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}
