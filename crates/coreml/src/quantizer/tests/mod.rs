//! What the recipes do with each kind of operator, and what options and targets change.

mod activations;
mod refusals;
mod weights;

use super::with_options;
use lowbit_core::backend::Options;
use lowbit_core::flow::prepare;
use lowbit_core::ir::{ModuleFrame, ModuleStack, Program, text};
use lowbit_core::quant::{Granularity, Mapping, ObserverKind, Site, Spec};
use std::fmt::Write;

/// A program from its text, whose comments name modules inside modules.
fn program(text: &str) -> Program {
    let mut p = text::parse(text).unwrap();
    for n in p.graph.nodes().collect::<Vec<_>>() {
        let path = p.graph.node(n).module.path().to_string();
        let ends = path.match_indices('.').map(|(i, _)| i).chain([path.len()]);
        let frame = |end| ModuleFrame { path: path[..end].into(), type_name: "Part".into() };
        p.graph.set_module(n, ModuleStack::new(ends.map(frame).collect()));
    }
    p
}

fn options(given: &[(&str, &str)]) -> Options {
    given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn spec(p: &Program, spec: &Spec) -> String {
    let of = |granularity| match granularity {
        Granularity::Blocks(b) => format!("{b:?}"),
        Granularity::Channel { axis } => format!("Channel({axis})"),
        Granularity::Tensor => "Tensor".into(),
    };
    match spec {
        Spec::Observed(s) => {
            let scheme = if s.scheme.mapping == Mapping::Affine { "affine" } else { "symmetric" };
            let observer = match s.observer {
                ObserverKind::MinMax => "min-max",
                ObserverKind::Histogram { .. } => "histogram",
                _ => "average",
            };
            let range = format!("{}..{}", s.range.min(), s.range.max());
            match s.scheme.granularity {
                Granularity::Tensor => format!("{range} {scheme} {observer}"),
                g => format!("{range} {scheme} {}", of(g)),
            }
        }
        Spec::Fixed(q) => format!("{}..{} {} {}", q.range.min(), q.range.max(), q.scale[0], q.zero_point[0]),
        Spec::SharedWith(site) => format!("as {}", site.describe(p).split(' ').next().unwrap()),
        Spec::Codebook(c) => format!("{} bits {}", c.bits(), of(c.granularity())),
        other => format!("{other:?}"),
    }
}

/// One line a node: how what it reads and makes is quantized, and the reason or remark.
fn annotated(p: Program, recipe: &str, given: &[(&str, &str)]) -> Vec<String> {
    let q = with_options(recipe, &options(given)).unwrap();
    let prepared = prepare(p, &*q).unwrap();
    let (p, out) = (prepared.program(), prepared.annotations());
    let mut lines = vec![];
    for n in p.graph.nodes() {
        let node = p.graph.node(n);
        let mut line = format!("{}:", node.name);
        for slot in 0..node.operands().count() as u32 {
            if let Some(a) = out.get(Site::input(n, slot)) {
                write!(line, " [{}]", spec(p, &a.spec)).unwrap();
            }
        }
        if let Some(a) = out.get(Site::Output(node.output())) {
            write!(line, " -> {}", spec(p, &a.spec)).unwrap();
        }
        if let Some(why) = out.remarked(n).or(out.reason(n).filter(|_| !out.is_claimed(n))) {
            write!(line, " ; {why}").unwrap();
        }
        lines.push(line);
    }
    lines
}

fn starting<'a>(lines: &'a [String], name: &str) -> &'a str {
    let found = lines.iter().find(|l| l.split(':').next() == Some(name));
    found.unwrap_or_else(|| panic!("no node {name} in {lines:#?}"))
}
