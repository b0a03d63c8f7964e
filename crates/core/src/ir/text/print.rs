//! Printing.

use crate::ir::{Arg, Graph, MutationTarget, NodeId, Program};
use std::fmt::Write;

/// The whole program.
pub fn print(program: &Program) -> String {
    let g = &program.graph;
    let mut out = String::from("program {\n");
    for (s, r) in &program.symbols {
        let max = if r.max == i64::MAX { "inf".to_string() } else { r.max.to_string() };
        let _ = writeln!(out, "  symbol {s} in {}..{max}", r.min);
    }
    // Writing to a String cannot fail.
    for &v in g.inputs() {
        let _ = writeln!(out, "  %{} : {} = input", g.value(v).name, g.value(v).ty);
    }
    for (_, c) in program.live_constants() {
        let _ =
            writeln!(out, "  %{} : {} = constant {:?}", g.value(c.value).name, g.value(c.value).ty, c.name);
    }
    for n in g.nodes() {
        let _ = writeln!(out, "  {}", node_line(program, n));
    }
    let names: Vec<String> =
        program.user_outputs().iter().map(|&v| format!("%{}", g.value(v).name)).collect();
    let _ = writeln!(out, "  return {}", names.join(", "));
    for (target, v) in program.mutations() {
        let target = match target {
            MutationTarget::Buffer(c) => format!("{:?}", program.constants[c].name),
            MutationTarget::Input(i) => format!("input {i}"),
        };
        let _ = writeln!(out, "  update {target} = %{}", g.value(v).name);
    }
    out.push_str("}\n");
    out
}

/// One node as a line: results, operator, arguments, and the module path as a comment.
pub fn node_line(program: &Program, n: NodeId) -> String {
    let g = &program.graph;
    let node = g.node(n);
    let results: Vec<String> =
        node.outputs().iter().map(|&v| format!("%{} : {}", g.value(v).name, g.value(v).ty)).collect();
    let specs = &node.op().schema().args;
    let mut args = Vec::new();
    let mut by_name = false;
    for (spec, arg) in specs.iter().zip(node.args()) {
        if spec.default.as_ref() == Some(arg) {
            by_name = true;
            continue;
        }
        let text = arg_text(g, arg);
        // Tensors come first and are clear by place; everything else reads better by name.
        let tensor = matches!(arg, Arg::Value(_) | Arg::Values(_) | Arg::OptValues(_));
        args.push(if tensor && !by_name && !spec.kwarg_only {
            text
        } else {
            format!("{}={text}", spec.name)
        });
        by_name |= !tensor;
    }
    let mut line = format!("{} = {}({})", results.join(", "), node.op().name, args.join(", "));
    if !node.module.path().is_empty() {
        let _ = write!(line, "    ; {}", node.module.path());
    }
    line
}

fn arg_text(g: &Graph, arg: &Arg) -> String {
    fn list<T>(items: &[T], f: impl Fn(&T) -> String) -> String {
        format!("[{}]", items.iter().map(f).collect::<Vec<_>>().join(", "))
    }
    let name = |v: &crate::ir::ValueId| format!("%{}", g.value(*v).name);
    match arg {
        Arg::None => "none".into(),
        Arg::Value(v) => name(v),
        Arg::Values(vs) => list(vs, name),
        Arg::OptValues(vs) => list(vs, |v| v.as_ref().map_or("none".into(), name)),
        Arg::Int(n) => n.to_string(),
        Arg::Ints(l) => list(l, |n| n.to_string()),
        Arg::Float(x) => float(*x),
        Arg::Floats(l) => list(l, |x| float(*x)),
        Arg::Bool(b) => b.to_string(),
        Arg::Bools(l) => list(l, |b| b.to_string()),
        Arg::Str(s) => format!("{s:?}"),
        Arg::DType(d) => d.name().into(),
    }
}

/// Always with a point or an exponent, so that it reads back as a float; the shortest digits that do.
fn float(x: f64) -> String {
    format!("{x:?}")
}
