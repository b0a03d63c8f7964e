//! `debug`: which nodes of a quantized program are to blame. Streamed like `evaluate`.
//!
//! Values are matched with those of the float program by name. Each is compared twice: *running free*, where errors add up
//! on their way, and *on its own*, where every node is fed the float program's values through the quantize and
//! dequantize nodes before it, so that only its own error shows. A result is taken as its readers get it: behind the
//! clamp that devices compute with it, and behind its own quantize and dequantize nodes. A pair of these between two nodes
//! thus counts for both: it is there for both, and goes only when both stay in floating point.

use super::Error;
use super::evaluate::worse;
use super::measure::{Measure, Sums};
use crate::executor::{Executor, Session};
use crate::ir::{Def, Graph, Key, NewNode, NodeId, Program, Use, ValueId, verify};
use crate::ops::{self, OpDef};
use crate::passes::PassError;
use crate::passes::fold_constants::constant_values;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// What was found about one value that both programs make.
#[derive(Clone, Debug)]
pub struct Culprit {
    /// Name of the value: its node's, where that has one result.
    pub value: String,
    /// Name of the node of the quantized program that makes it.
    pub node: String,
    /// Its operator.
    pub op: &'static str,
    /// Path of its module.
    pub module: String,
    /// Its own error: the node is fed the float program's values.
    pub own: Measure,
    /// Its error in the running program, with what it inherits.
    pub run: Measure,
}

/// What debugging found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Samples compared.
    pub samples: usize,
    /// In program order.
    pub nodes: Vec<Culprit>,
    /// Floating-point values of the quantized program that the float program has no counterpart for, by name, without
    /// dequantized ones and constants. Their errors show in the next values that have one.
    pub unmatched: Vec<String>,
}

impl Findings {
    /// The nodes by their own error, NaN first, then from the lowest SQNR to the highest; equal ones in program order.
    pub fn worst_first(&self) -> Vec<&Culprit> {
        let mut sorted: Vec<&Culprit> = self.nodes.iter().collect();
        sorted.sort_by(|a, b| worse(a.own.sqnr_db, b.own.sqnr_db));
        sorted
    }
}

/// A value that both programs make.
#[derive(Debug)]
struct Pair {
    float: ValueId,
    quantized: ValueId,
    /// The nodes of the quantized program behind it whose result its readers get: a clamp, quantize and dequantize.
    behind: Vec<NodeId>,
    /// What these stand for in the float program.
    seen: ValueId,
    own: Sums,
    run: Sums,
}

/// Compares a quantized program with the float one, node by node and sample by sample.
#[derive(Debug)]
pub struct Debugger {
    program: Program,
    pairs: Vec<Pair>,
    unmatched: Vec<String>,
    float: Box<dyn Session>,
    free: Box<dyn Session>,
    forced: Box<dyn Session>,
    /// Pairs by the value that is watched.
    by_free: BTreeMap<ValueId, Vec<usize>>,
    by_forced: BTreeMap<ValueId, usize>,
    /// The pairs whose float values the forced program takes behind its own inputs, in that order.
    fed: Vec<usize>,
    samples: usize,
}

impl Debugger {
    /// Loads both programs. Batch norms that the quantized one lacks are taken to be folded: the layer before one is
    /// compared with the norm's result.
    ///
    /// # Errors
    /// When the programs take different inputs or share no value, or the executor cannot run one of them.
    pub fn new(float: &Program, quantized: &Program, executor: &dyn Executor) -> Result<Self, Error> {
        same_inputs(float, quantized)?;
        let (pairs, unmatched) = pair(float, quantized)?;
        let (program, fed, own) = forced(quantized, &pairs)?;
        let watch: BTreeSet<ValueId> = pairs.iter().flat_map(|p| [p.float, p.seen]).collect();
        let mut by_free: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        for (i, p) in pairs.iter().enumerate() {
            let last = p.behind.last().map_or(p.quantized, |&n| quantized.graph.node(n).output());
            by_free.entry(last).or_default().push(i);
        }
        let by_forced: BTreeMap<ValueId, usize> = own.iter().copied().zip(0..).collect();
        Ok(Debugger {
            float: executor.load(float, &Vec::from_iter(watch))?,
            free: executor.load(quantized, &Vec::from_iter(by_free.keys().copied()))?,
            forced: executor.load(&program, &own)?,
            program: quantized.clone(),
            pairs,
            unmatched,
            by_free,
            by_forced,
            fed,
            samples: 0,
        })
    }

    /// Runs one sample through the float program, the quantized one, and the quantized one fed by the float one.
    ///
    /// # Errors
    /// When the inputs do not fit, or a kernel fails.
    pub fn add(&mut self, inputs: &[Tensor]) -> Result<(), Error> {
        let Debugger { pairs, by_free, by_forced, .. } = self;
        let mut reference: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        self.float.run(inputs, &mut |v, t| {
            reference.insert(v, t.view.to_tensor());
        })?;
        self.free.run(inputs, &mut |v, t| {
            let actual = t.view.to_tensor();
            for &i in &by_free[&v] {
                let pair = &mut pairs[i];
                pair.run.add(&reference[&pair.seen].to_f32(), &actual.to_f32());
            }
        })?;
        let fed = self.fed.iter().map(|&i| reference[&pairs[i].float].clone());
        let inputs: Vec<Tensor> = inputs.iter().cloned().chain(fed).collect();
        self.forced.run(&inputs, &mut |v, t| {
            let pair = &mut pairs[by_forced[&v]];
            pair.own.add(&reference[&pair.seen].to_f32(), &t.view.to_tensor().to_f32());
        })?;
        self.samples += 1;
        Ok(())
    }

    /// What was found so far.
    pub fn finish(self) -> Findings {
        let g = &self.program.graph;
        let culprit = |p: &Pair| {
            let node = g.node(g.producer(p.quantized)?);
            Some(Culprit {
                value: g.value(p.quantized).name.to_string(),
                node: node.name.to_string(),
                op: node.op().name,
                module: node.module.path().to_string(),
                own: p.own.measure(),
                run: p.run.measure(),
            })
        };
        Findings {
            samples: self.samples,
            nodes: self.pairs.iter().filter_map(culprit).collect(),
            unmatched: self.unmatched,
        }
    }
}

/// Whether one set of inputs fits both.
fn same_inputs(float: &Program, quantized: &Program) -> Result<(), Error> {
    let list = |p: &Program| -> Vec<String> {
        p.graph.inputs().iter().map(|&v| format!("%{} {}", p.graph.value(v).name, p.graph.ty(v))).collect()
    };
    let (f, q) = (float.graph.inputs(), quantized.graph.inputs());
    let fits = f.len() == q.len() && f.iter().zip(q).all(|(f, q)| alike(float, *f, quantized, *q));
    match fits {
        true => Ok(()),
        false => Err(Error::Models(format!(
            "the float program takes {}, the quantized one {}; they were not made of the same model",
            list(float).join(", "),
            list(quantized).join(", ")
        ))),
    }
}

/// Whether two values have the same type, as far as sizes are known: symbols may have other names in another file.
fn alike(a: &Program, va: ValueId, b: &Program, vb: ValueId) -> bool {
    let (a, b) = (a.graph.ty(va), b.graph.ty(vb));
    let size = |(a, b): (&crate::SymInt, &crate::SymInt)| match (a.known(), b.known()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => true,
        _ => false,
    };
    a.dtype == b.dtype && a.rank() == b.rank() && a.shape.iter().zip(&b.shape).all(size)
}

/// Pairs of values in the order of the quantized program, and the names of its values that stay alone.
fn pair(float: &Program, quantized: &Program) -> Result<(Vec<Pair>, Vec<String>), Error> {
    let (f, q) = (&float.graph, &quantized.graph);
    let made = |g: &Graph| -> Vec<ValueId> { g.nodes().flat_map(|n| g.node(n).outputs().to_vec()).collect() };
    let by_name: BTreeMap<&str, ValueId> = made(f).into_iter().map(|v| (&*f.value(v).name, v)).collect();
    let names: BTreeSet<&str> = q.nodes().map(|n| &*q.node(n).name).collect();
    let constant = constant_values(quantized);
    let (mut pairs, mut alone) = (Vec::new(), Vec::new());
    let inputs = q.inputs().iter().zip(f.inputs());
    let mut known: BTreeMap<ValueId, ValueId> = inputs.map(|(&q, &f)| (q, f)).collect();
    for v in made(q) {
        let of_integers = q.producer(v).is_some_and(|n| is(q, n, "dequantize") || is(q, n, "choose_qparams"));
        if !q.ty(v).dtype.is_float() || constant[v.index()] || of_integers {
            continue;
        }
        let name = &*q.value(v).name;
        let named = by_name.get(name).filter(|&&c| same_place(float, c, quantized, v, &known));
        let counterpart = named.map(|&c| stands_for(float, c, &names));
        match counterpart.filter(|&c| alike(float, c, quantized, v)) {
            Some(float) => {
                known.insert(v, float);
                let (own, run) = (Sums::default(), Sums::default());
                pairs.push(Pair { float, quantized: v, behind: vec![], seen: float, own, run });
            }
            None => alone.push(name.to_string()),
        }
    }
    for p in &mut pairs {
        let clamped = clamp_behind(quantized, p.quantized);
        let clamped = clamped.and_then(|n| Some((n, *known.get(&q.node(n).output())?)));
        if let Some((n, float)) = clamped {
            (p.behind, p.seen) = (vec![n], float);
        }
        let last = p.behind.last().map_or(p.quantized, |&n| q.node(n).output());
        p.behind.extend(stored(quantized, last).into_iter().flatten());
    }
    match pairs.is_empty() {
        false => Ok((pairs, alone)),
        true => Err(Error::Models(
            "no value of the quantized program has the name and type of one of the float program; \
             give the program that it was made of"
                .into(),
        )),
    }
}

/// Whether two values of one name are the same result of the same operator on the same operands, as far as these are known:
/// another exporter may number its nodes anew. Another operator is a rewritten one.
fn same_place(
    float: &Program,
    vf: ValueId,
    quantized: &Program,
    vq: ValueId,
    known: &BTreeMap<ValueId, ValueId>,
) -> bool {
    let (f, q) = (&float.graph, &quantized.graph);
    let (Def::Node(nf, i), Def::Node(nq, j)) = (f.value(vf).def(), q.value(vq).def()) else { return false };
    if f.node(nf).op() != q.node(nq).op() {
        return true;
    }
    let operands = f.node(nf).operands().zip(q.node(nq).operands());
    i == j && operands.into_iter().all(|(f, v)| known.get(&origin(q, v)).is_none_or(|&known| known == f))
}

/// What was quantized and dequantized to make `v`.
fn origin(g: &Graph, mut v: ValueId) -> ValueId {
    while let Some(n) = g.producer(v).filter(|&n| is(g, n, "dequantize") || is(g, n, "quantize")) {
        match g.node(n).operands().next() {
            Some(x) => v = x,
            None => break,
        }
    }
    v
}

/// The value itself, or what a batch norm makes of it that the other program has folded away.
fn stands_for(float: &Program, v: ValueId, kept: &BTreeSet<&str>) -> ValueId {
    let g = &float.graph;
    match g.value(v).uses() {
        [Use { node, slot: 0 }] if !g.is_output(v) && g.node(*node).op().name.contains("batch_norm") => {
            if kept.contains(&*g.node(*node).name) {
                v
            } else {
                g.node(*node).output()
            }
        }
        _ => v,
    }
}

fn is(g: &Graph, n: NodeId, family: &str) -> bool {
    g.node(n).op().short_name().starts_with(family)
}

/// The clamp that alone reads `v`.
fn clamp_behind(program: &Program, v: ValueId) -> Option<NodeId> {
    let g = &program.graph;
    match g.value(v).uses() {
        [Use { node, slot: 0 }] if !g.is_output(v) && CLAMPS.contains(&g.node(*node).op()) => Some(*node),
        _ => None,
    }
}

static CLAMPS: &[&OpDef] = &[&ops::RELU, &ops::RELU6, &ops::HARDTANH, &ops::CLAMP];

/// The quantize node that alone reads `v`, with parameters that are known beforehand, and a dequantize node behind it. Ranges
/// that are chosen at run time are a matter of the reader.
fn stored(program: &Program, v: ValueId) -> Option<[NodeId; 2]> {
    let g = &program.graph;
    let users = g.users(v);
    let first = *users.first()?;
    let like_first = |&n: &NodeId| {
        let (a, b) = (g.node(first), g.node(n));
        is(g, n, "quantize") && a.op() == b.op() && a.args() == b.args()
    };
    let known = g.node(first).operands().skip(1).all(|p| matches!(g.value(p).def(), Def::Const(_)));
    if g.is_output(v) || !known || !users.iter().all(like_first) {
        return None;
    }
    let dequantize = g.users(g.node(first).output()).into_iter().find(|&n| is(g, n, "dequantize"))?;
    Some([first, dequantize])
}

/// The quantized program with an input for every pair, which all readers of the pair's value read instead; which pairs
/// these inputs are for (those that nobody reads need none), and the value to watch for each pair.
fn forced(quantized: &Program, pairs: &[Pair]) -> Result<(Program, Vec<usize>, Vec<ValueId>), Error> {
    let mut p = quantized.clone();
    let (mut fed, mut watch) = (Vec::new(), Vec::new());
    for (i, pair) in pairs.iter().enumerate() {
        let v = pair.quantized;
        if !p.graph.value(v).uses().is_empty() || p.graph.is_output(v) {
            let name = format!("{}_float", p.graph.value(v).name);
            let input = p.graph.add_input(&name, p.graph.ty(v).clone());
            p.signature.inputs.push(p.graph.value(input).name.clone());
            p.graph.replace_uses(v, input, None);
            fed.push(i);
        }
        let mut last = v;
        for &n in &pair.behind {
            last = again(&mut p, n, last)?;
        }
        watch.push(last);
    }
    verify(&p).map_err(|errors| PassError::Invalid { pass: "debug", errors })?;
    Ok((p, fed, watch))
}

/// A copy of `node` that reads `x` as its first operand, right behind what makes `x`.
fn again(p: &mut Program, node: NodeId, x: ValueId) -> Result<ValueId, Error> {
    let node = p.graph.node(node);
    let mut args = node.args().to_vec();
    args[0] = x.into();
    let new = NewNode::new(node.op(), args).in_module(&node.module);
    let made = match p.graph.producer(x) {
        Some(at) => p.graph.insert_after(at, new),
        None => p.graph.prepend(new),
    };
    let n = made.map_err(|e| Error::Models(e.message))?;
    Ok(p.graph.node(n).output())
}
