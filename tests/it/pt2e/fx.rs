//! Graphs as a case file writes them, and the quantize/dequantize pairs in them and in lowbit's programs.

use lowbit_core::Tensor;
use lowbit_core::ir::{Arg, Def, NodeId, Program, ValueId};
use serde_json::Value;
use std::collections::BTreeMap;

/// A graph of a case: nodes by name, in order.
pub struct Fx<'a> {
    pub nodes: &'a [Value],
    index: BTreeMap<&'a str, usize>,
    /// Values of attributes, where known.
    attributes: &'a BTreeMap<String, Tensor>,
}

/// Where a float tensor comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Constant,
    Input(usize),
    /// A value by its name.
    Value(String),
}

/// What an operand reads.
#[derive(Clone, Debug)]
pub enum Operand {
    Float(Source),
    Quantized(Box<Pair>),
}

/// A dequantize node, and what is in front of it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Empty when parameters are chosen while running.
    pub scale: Vec<f64>,
    pub zero_point: Vec<f64>,
    pub axis: Option<i64>,
    /// Block sizes, in the family that has them.
    pub block: Vec<i64>,
    pub range: (i64, i64),
    /// Folded integers.
    pub integers: Option<Tensor>,
    /// What the quantize node reads, when there is one.
    pub from: Option<Operand>,
    /// In lowbit's program: the dequantize node and the quantize node.
    pub nodes: Vec<NodeId>,
}

fn dequantizes(name: &str) -> bool {
    name.contains(".dequantize_per_") || name.contains(".dequantize_affine")
}

/// Whether an operator quantizes, dequantizes or chooses parameters.
pub fn quantizes(name: &str) -> bool {
    ["quantize_per_", "quantize_affine", "choose_qparams"].iter().any(|part| name.contains(part))
}

/// Where a dequantize operator has its scale, and its lower bound.
fn places(name: &str) -> (usize, usize) {
    match name {
        _ if name.contains("_affine") => (2, 5),
        _ if name.contains("_channel") => (1, 4),
        _ => (1, 3),
    }
}

impl<'a> Fx<'a> {
    pub fn new(nodes: &'a Value, attributes: &'a BTreeMap<String, Tensor>) -> Self {
        let nodes = nodes.as_array().map_or(&[][..], |n| n);
        let index = nodes.iter().enumerate().map(|(i, n)| (text(&n["name"]), i)).collect();
        Fx { nodes, index, attributes }
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.index.get(name).map(|&i| &self.nodes[i])
    }

    /// Nodes that compute something, quantization aside.
    pub fn computing(&self) -> impl Iterator<Item = &'a Value> + '_ {
        self.nodes.iter().filter(|n| {
            let target = text(&n["target"]);
            n["op"] == "call_function" && !target.contains("getitem") && !quantizes(target)
        })
    }

    pub fn operand(&self, v: &Value) -> Operand {
        let Some(node) = v["node"].as_str().and_then(|n| self.get(n)) else {
            return Operand::Float(Source::Constant);
        };
        if !dequantizes(text(&node["target"])) {
            return Operand::Float(self.source(node));
        }
        let args = node["args"].as_array().expect("a list of arguments");
        let target = text(&node["target"]);
        let (scale, bounds) = places(target);
        let dynamic = args[scale]["node"].is_string();
        let numbers = |v: &Value| match v["attr"].as_str() {
            _ if dynamic => vec![],
            Some(name) => self.attributes.get(name).map(Tensor::to_f64).unwrap_or_default(),
            None => v.as_f64().into_iter().collect(),
        };
        let inner = self.get(args[0]["node"].as_str().unwrap_or_default());
        let int = |i: usize| args[i].as_i64().unwrap_or_default();
        Operand::Quantized(Box::new(Pair {
            scale: numbers(&args[scale]),
            zero_point: numbers(&args[scale + 1]),
            axis: target.contains("per_channel").then(|| int(3)),
            block: args[1].as_array().into_iter().flatten().filter_map(Value::as_i64).collect(),
            // The operators of one of torchao's tests have their range built in.
            range: if target.contains("int4") { (0, 15) } else { (int(bounds), int(bounds + 1)) },
            integers: args[0]["attr"].as_str().and_then(|a| self.attributes.get(a).cloned()),
            from: inner.map(|q| self.operand(&q["args"][0])),
            nodes: vec![],
        }))
    }

    fn source(&self, node: &Value) -> Source {
        if node["op"] == "placeholder" {
            let inputs = self.nodes.iter().filter(|n| n["op"] == "placeholder");
            return Source::Input(inputs.take_while(|n| n["name"] != node["name"]).count());
        }
        Source::Value(text(&node["name"]).into())
    }

    /// The node of that name in lowbit's program. Files name the results of nodes with several, not these nodes.
    pub fn find(&self, program: &Program, name: &str) -> Option<NodeId> {
        let g = &program.graph;
        let takes = |n: &&Value| text(&n["target"]).contains("getitem") && n["args"][0]["node"] == name;
        match self.nodes.iter().find(takes) {
            Some(result) => {
                let named = |v: &ValueId| *g.value(*v).name == *text(&result["name"]);
                g.nodes().find(|&n| g.node(n).outputs().iter().any(&named))
            }
            // Graphs without in-place operators have been given other names than the file has.
            None => {
                let named = |name: &str| g.nodes().find(|&n| *g.node(n).name == *name);
                named(name).or_else(|| named(&format!("{name}_")))
            }
        }
    }
}

/// A string, or an empty one.
pub fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

/// The tensors that a node of a case reads, lists flattened.
pub fn operands(node: &Value) -> Vec<&Value> {
    fn walk<'a>(v: &'a Value, out: &mut Vec<&'a Value>) {
        match v {
            Value::Object(o) if o.contains_key("node") || o.contains_key("attr") => out.push(v),
            Value::Array(list) => list.iter().for_each(|v| walk(v, out)),
            _ => {}
        }
    }
    let mut out = vec![];
    walk(&node["args"], &mut out);
    node["kwargs"].as_object().into_iter().flat_map(|o| o.values()).for_each(|v| walk(v, &mut out));
    out
}

/// What reading a value of lowbit's program means.
pub fn operand(program: &Program, v: ValueId) -> Operand {
    let g = &program.graph;
    let source = match g.value(v).def() {
        Def::Input(i) => Source::Input(i as usize),
        Def::Const(_) => Source::Constant,
        Def::Node(n, _) if dequantizes(g.node(n).op().name) => {
            return Operand::Quantized(Box::new(pair(program, n)));
        }
        Def::Node(..) => Source::Value(g.value(v).name.to_string()),
    };
    Operand::Float(source)
}

fn pair(program: &Program, n: NodeId) -> Pair {
    let g = &program.graph;
    let node = g.node(n);
    let (scale, bounds) = places(node.op().name);
    let numbers = |i: usize| match node.arg(i) {
        Arg::Float(s) => vec![*s],
        Arg::Int(z) => z.known().map(|z| z as f64).into_iter().collect(),
        a => a.values().next().and_then(|v| program.frozen(v)).map(Tensor::to_f64).unwrap_or_default(),
    };
    let int = |i: usize| match node.arg(i) {
        Arg::Int(n) => n.known().unwrap_or_default(),
        Arg::Float(x) => *x as i64,
        _ => 0,
    };
    let inner = node.operands().next().expect("it reads integers");
    let q = g.producer(inner);
    Pair {
        scale: numbers(scale),
        zero_point: numbers(scale + 1),
        axis: node.op().name.contains("per_channel").then(|| int(3)),
        block: match node.arg(1) {
            Arg::Ints(block) => block.iter().filter_map(|b| b.known()).collect(),
            _ => vec![],
        },
        range: (int(bounds), int(bounds + 1)),
        integers: program.frozen(inner).cloned(),
        from: q.and_then(|q| g.node(q).operands().next()).map(|v| operand(program, v)),
        nodes: [n].into_iter().chain(q).collect(),
    }
}
