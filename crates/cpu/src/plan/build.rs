//! From nodes to steps.

use super::constants::evaluate;
use super::copies::{copies, views};
use super::fuse::{Fused, Fusion};
use super::integers::Integers;
use super::layout::{Follow, Layout, follow, indifferent, reduces_positions, rename};
use super::{Packed, Place, Plan, Product, Run, Shared, Slot, Step, concrete};
use crate::dense::conv::Filter;
use crate::dense::gemm::Mat;
use crate::dense::geometry::Geometry;
use crate::dense::panels::{Panels, padded_bias};
use crate::kernel::{ConcreteArg, KernelCall, TensorRef, kernel};
use crate::kernels::channels_last;
use crate::kernels::shape::starts;
use crate::simd::{Isa, Stages};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType;
use lowbit_core::executor::{RunError, Watchlist};
use lowbit_core::ir::{Def, Key, Node, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::Bindings;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Builder<'a> {
    pub(super) program: &'a Program,
    pub(super) bindings: &'a Bindings,
    watch: &'a Watchlist,
    constant: &'a [bool],
    pub(super) shared: &'a mut Shared,
    pub(super) isa: Isa,
    /// Which slot holds a value in a format.
    at: BTreeMap<(ValueId, Layout), usize>,
    plan: Plan,
}

impl<'a> Builder<'a> {
    pub fn new(
        program: &'a Program,
        bindings: &'a Bindings,
        watch: &'a Watchlist,
        constant: &'a [bool],
        shared: &'a mut Shared,
        isa: Isa,
    ) -> Result<Self, RunError> {
        let plan = Plan {
            slots: vec![],
            steps: vec![],
            groups: vec![],
            arena: 0,
            watched_first: vec![],
            results: vec![],
            folded: vec![],
        };
        let mut b = Builder { program, bindings, watch, constant, shared, isa, at: BTreeMap::new(), plan };
        let given = |v: &ValueId| !matches!(program.graph.value(*v).def(), Def::Node(..));
        for &v in watch.elements.union(&watch.extremes).filter(|&v| given(v)) {
            let slot = b.slot(v, Layout::Contiguous, None)?;
            b.plan.watched_first.push((v, slot));
        }
        Ok(b)
    }

    pub fn finish(mut self, simulate: bool) -> Result<Plan, RunError> {
        let g = &self.program.graph;
        let integers = match simulate {
            true => Integers::default(),
            false => {
                let is_layer = |n: NodeId| self.is_integer_layer(n);
                Integers::new(self.program, self.watch, self.constant, &is_layer)
            }
        };
        let taken = |n: NodeId| integers.joined.contains(&n) || integers.groups.contains_key(&n);
        let packable = |n: NodeId| !taken(n) && self.is_packable(n);
        let fusion = Fusion::new(self.program, self.watch, packable);
        for n in g.nodes() {
            if fusion.joined.contains(&n) || integers.joined.contains(&n) {
                continue;
            }
            let node = g.node(n);
            let first = self.plan.steps.len();
            if node.outputs().iter().all(|v| self.constant[v.index()]) {
                // Computed when planning; a step is needed only to show it.
                let watched = node.outputs().iter().filter(|v| self.watch.contains(**v));
                for &v in watched.clone() {
                    self.slot(v, Layout::Contiguous, None)?;
                }
                if watched.count() > 0 {
                    self.push(n, Run::Nothing, vec![], vec![], vec![]);
                }
            } else {
                match (integers.groups.get(&n), fusion.groups.get(&n)) {
                    (Some(group), _) => self.integers(n, group)?,
                    (_, Some(fused)) => self.fused(n, fused)?,
                    _ => self.node(n)?,
                }
            }
            if self.plan.steps.len() > first {
                self.watch_last(n);
            }
        }
        let results = self.program.user_outputs().iter().copied();
        let results: Vec<ValueId> = results.chain(self.program.mutations().map(|(_, v)| v)).collect();
        for v in results {
            let slot = self.slot(v, Layout::Contiguous, None)?;
            self.plan.results.push(slot);
        }
        Ok(self.plan)
    }

    /// Has the last step show what `n` computes, as far as it is watched.
    fn watch_last(&mut self, n: NodeId) {
        let outputs = self.program.graph.node(n).outputs();
        let watched: Vec<(ValueId, usize)> =
            outputs.iter().filter(|v| self.watch.contains(**v)).map(|&v| (v, self.made(v))).collect();
        if let Some(step) = self.plan.steps.last_mut() {
            step.watched = watched;
        }
    }

    /// The slot that `v` was first made in.
    fn made(&self, v: ValueId) -> usize {
        let of = |l| self.at.get(&(v, l)).copied();
        let both = of(Layout::Contiguous).into_iter().chain(of(Layout::ChannelsLast));
        both.min().unwrap_or_default()
    }

    /// The format that `v` was first made in.
    pub(super) fn format(&self, v: ValueId) -> Layout {
        if self.at.contains_key(&(v, Layout::Contiguous)) || self.at.contains_key(&(v, Layout::ChannelsLast))
        {
            self.plan.slots[self.made(v)].layout
        } else {
            Layout::Contiguous
        }
    }

    pub(super) fn shape(&self, v: ValueId, n: NodeId) -> Result<Vec<usize>, RunError> {
        let shape = self.program.graph.ty(v).resolve(self.bindings);
        shape.map_err(|e| RunError::node(self.program, n, format!("shape of an operand: {e}")))
    }

    pub(super) fn push(
        &mut self,
        node: NodeId,
        run: Run,
        args: Vec<ConcreteArg>,
        inputs: Vec<usize>,
        outputs: Vec<usize>,
    ) {
        self.plan.steps.push(Step {
            node,
            run,
            args,
            inputs,
            outputs,
            watched: vec![],
            passed: Stages::default(),
        });
    }

    /// A new slot of `v`, made by the step that follows.
    pub(super) fn make(&mut self, v: ValueId, shape: Vec<usize>, layout: Layout, place: Place) -> usize {
        let dims = layout.dims(&shape);
        let dtype = self.program.graph.ty(v).dtype;
        self.plan.slots.push(Slot { place, dtype, shape, layout, dims });
        self.at.insert((v, layout), self.plan.slots.len() - 1);
        self.plan.slots.len() - 1
    }

    /// The slot of `v` in a format; changes the format where there is only the other. `n` is who asks.
    pub(super) fn slot(&mut self, v: ValueId, layout: Layout, n: Option<NodeId>) -> Result<usize, RunError> {
        if let Some(&s) = self.at.get(&(v, layout)) {
            return Ok(s);
        }
        let other = match layout {
            Layout::Contiguous => Layout::ChannelsLast,
            Layout::ChannelsLast => Layout::Contiguous,
        };
        let from = match self.at.get(&(v, other)) {
            Some(&s) => s,
            None => {
                let g = &self.program.graph;
                let place = match g.value(v).def() {
                    Def::Input(i) => Place::Input(i as usize),
                    Def::Const(c) => Place::Const(c.index()),
                    Def::Node(..) => {
                        let t = self.evaluate(v)?;
                        self.shared.folded.insert(v, t.clone());
                        self.plan.folded.push(t);
                        Place::Folded(self.plan.folded.len() - 1)
                    }
                };
                let shape = g.ty(v).resolve(self.bindings).unwrap_or_default();
                let s = self.make(v, shape, Layout::Contiguous, place);
                if layout == Layout::Contiguous {
                    return Ok(s);
                }
                s
            }
        };
        let shape = self.plan.slots[from].shape.clone();
        if indifferent(&shape) {
            return Ok(self.make(v, shape, layout, Place::Alias(from, 0)));
        }
        if layout == Layout::ChannelsLast && self.quantizes_last(v, from) {
            return Ok(from);
        }
        let to = self.make(v, shape, layout, Place::Nowhere);
        let node = n.or_else(|| self.program.graph.producer(v)).or_else(|| self.program.graph.nodes().next());
        if let Some(node) = node {
            self.push(node, Run::Reorder, vec![], vec![from], vec![to]);
        }
        Ok(to)
    }

    /// Has the last step, if it is what quantizes a picture to `slot`, put it channels last at once.
    fn quantizes_last(&mut self, v: ValueId, slot: usize) -> bool {
        let g = &self.program.graph;
        let Some(step) = self.plan.steps.last_mut() else { return false };
        let node = g.node(step.node);
        let bytes = |v: ValueId| matches!(g.ty(v).dtype, DType::I8 | DType::U8);
        let floats = |v: ValueId| g.ty(v).dtype == DType::F32;
        let quantizes = matches!(step.run, Run::Kernel(_))
            && step.outputs == [slot]
            && *node.op() == ops::QUANTIZE_PER_TENSOR
            && node.operands().all(floats)
            && bytes(v);
        if quantizes {
            step.run = Run::QuantizeLast;
            let slot = &mut self.plan.slots[slot];
            slot.layout = Layout::ChannelsLast;
            slot.dims = slot.layout.dims(&slot.shape);
            if let Some(s) = self.at.remove(&(v, Layout::Contiguous)) {
                self.at.insert((v, Layout::ChannelsLast), s);
            }
        }
        quantizes
    }

    /// A value that is the same in every run.
    pub(super) fn evaluate(&self, v: ValueId) -> Result<Tensor, RunError> {
        match self.shared.folded.get(&v) {
            Some(t) => Ok(t.clone()),
            None => evaluate(self.program, v, self.isa, &mut BTreeMap::new()),
        }
    }

    fn is_constant_f32(&self, v: ValueId) -> bool {
        self.constant[v.index()] && self.program.graph.ty(v).dtype == DType::F32
    }

    /// Whether this node is a convolution or product whose weights can be packed once.
    fn is_packable(&self, n: NodeId) -> bool {
        let g = &self.program.graph;
        let node = g.node(n);
        let f32_in = |slot: usize| node.operands().nth(slot).is_some_and(|v| g.ty(v).dtype == DType::F32);
        let Some((x, w, bias)) = operands(node) else { return false };
        let constant = |v: Option<ValueId>| v.is_none_or(|v| self.is_constant_f32(v));
        let weights_are_constant = constant(Some(w));
        let [x, w] = [x, w].map(|v| g.ty(v).shape.len());
        // Where the result's channels are: a bias has one element for each.
        let (ranks, channel) = match kind(node) {
            Kind::Convolution => (x == w && w >= 3, 1),
            Kind::Product => (x >= 1 && w == 2, x.saturating_sub(1)),
            Kind::Other => (false, 0),
        };
        ranks
            && f32_in(0)
            && f32_in(1)
            && weights_are_constant
            && constant(bias)
            && bias.is_none_or(|b| {
                g.ty(b).shape.len() == 1 && g.ty(b).shape.last() == g.ty(node.output()).shape.get(channel)
            })
            && g.ty(node.output()).dtype == DType::F32
            && !self.constant[node.output().index()]
    }

    fn fused(&mut self, last: NodeId, fused: &Fused) -> Result<(), RunError> {
        let n = fused.root;
        let node = self.program.graph.node(n);
        let Some((x, w, bias)) = operands(node) else { return self.node(n) };
        let bias = match bias {
            Some(b) => Some(self.evaluate(b)?.to_f32().into_owned()),
            None => None,
        };
        let out_shape = self.shape(node.output(), n)?;
        if kind(node) == Kind::Convolution {
            let Some((g, filter)) = self.filter(n, x, w, bias.as_deref(), &out_shape)? else {
                return self.unfused(last, fused);
            };
            let planes = filter.copies_lines(&g) && !self.at.contains_key(&(x, Layout::ChannelsLast));
            let layout = if planes { Layout::Contiguous } else { Layout::ChannelsLast };
            let mut inputs = vec![self.slot(x, layout, Some(n))?];
            if let Some(r) = fused.residual {
                inputs.push(self.slot(r, Layout::ChannelsLast, Some(n))?);
            }
            let out = self.make(fused.output, out_shape, Layout::ChannelsLast, Place::Nowhere);
            self.push(n, Run::Convolve(g, filter, fused.clamp), vec![], inputs, vec![out]);
            self.passes(fused);
            return Ok(());
        }
        let product = match self.shared.products.get(&n) {
            Some(p) => p.clone(),
            None => {
                let weight = self.evaluate(w)?;
                // `linear` has its weights transposed.
                let transposed = *node.op() == ops::LINEAR;
                let columns = weight.shape()[usize::from(!transposed)];
                let pack = || {
                    let values = weight.to_f32();
                    let mat = Mat::dense(&values, weight.shape()[0], weight.shape()[1]);
                    Panels::new(self.isa, if transposed { mat.t() } else { mat })
                };
                let packed = match self.program.graph.value(w).def() {
                    Def::Const(_) => self.shared.packs.share(&weight, transposed, pack),
                    _ => Packed::own(pack()),
                };
                let product = Product { packed, bias: padded_bias(bias.as_deref(), columns) };
                weight.release();
                self.shared.products.entry(n).or_insert(Arc::new(product)).clone()
            }
        };
        let mut inputs = vec![self.slot(x, Layout::Contiguous, Some(n))?];
        if let Some(r) = fused.residual {
            inputs.push(self.slot(r, Layout::Contiguous, Some(n))?);
        }
        let out = self.make(fused.output, out_shape, Layout::Contiguous, Place::Nowhere);
        self.push(n, Run::Multiply(product, fused.clamp), vec![], inputs, vec![out]);
        self.passes(fused);
        Ok(())
    }

    /// Has the last step show what it passes on the way.
    fn passes(&mut self, fused: &Fused) {
        if let Some(step) = self.plan.steps.last_mut() {
            step.passed = fused.passed.clone();
        }
    }

    /// The nodes of a group one by one.
    fn unfused(&mut self, last: NodeId, fused: &Fused) -> Result<(), RunError> {
        let g = &self.program.graph;
        let mut n = fused.root;
        loop {
            self.node(n)?;
            if n == last {
                return Ok(());
            }
            self.watch_last(n);
            let [only] = g.value(g.node(n).output()).uses() else { return Ok(()) };
            n = only.node;
        }
    }

    fn filter(
        &mut self,
        n: NodeId,
        x: ValueId,
        w: ValueId,
        bias: Option<&[f32]>,
        out_shape: &[usize],
    ) -> Result<Option<(Geometry, Arc<Filter>)>, RunError> {
        let g = self.geometry(n, x, w, out_shape)?;
        let Some(g) = g else { return Ok(None) };
        let key = (n, Filter::transforms(&g));
        if let Some(filter) = self.shared.filters.get(&key) {
            return Ok(Some((g, filter.clone())));
        }
        let weight = self.evaluate(w)?;
        let Some(filter) = Filter::new(self.isa, &g, &weight, bias) else { return Ok(None) };
        weight.release();
        let filter = self.shared.filters.entry(key).or_insert(Arc::new(filter)).clone();
        Ok(Some((g, filter)))
    }

    /// One node by its kernel.
    pub(super) fn node(&mut self, n: NodeId) -> Result<(), RunError> {
        let node = self.program.graph.node(n);
        let inputs: Vec<ValueId> = node.operands().collect();
        self.call(n, &inputs, node.outputs())
    }

    /// One node by its kernel, on these operands and for these outputs: its own, or the integers that they stand for.
    pub(super) fn call(
        &mut self,
        n: NodeId,
        inputs: &[ValueId],
        outputs: &[ValueId],
    ) -> Result<(), RunError> {
        let node = self.program.graph.node(n);
        let kernel = kernel(node.op())
            .ok_or_else(|| RunError::node(self.program, n, format!("{} has no kernel", node.op().name)))?;
        let shapes = outputs.iter().map(|&v| self.shape(v, n)).collect::<Result<Vec<_>, _>>()?;
        let same_type = inputs
            .first()
            .is_some_and(|&v| self.program.graph.ty(v).dtype == self.program.graph.ty(outputs[0]).dtype);
        let args = concrete(self.program, n, self.bindings)?;
        let lies = if same_type { self.lies(n, inputs, &shapes, &args)? } else { None };
        if let Some((layout, starts)) = lies {
            let from = self.slot(inputs[0], layout, Some(n))?;
            let outs = outputs.iter().zip(shapes).zip(starts);
            let outs = outs.map(|((&v, shape), at)| self.make(v, shape, layout, Place::Alias(from, at)));
            let outs = outs.collect();
            self.push(n, Run::Nothing, vec![], vec![from], outs);
            return Ok(());
        }
        if self.follows(n, inputs, outputs, &shapes, &args)? {
            return Ok(());
        }
        let slots = inputs.iter().map(|&v| self.slot(v, Layout::Contiguous, Some(n)));
        let slots = slots.collect::<Result<Vec<_>, _>>()?;
        let outs = outputs.iter().zip(shapes);
        let outs = outs.map(|(&v, s)| self.make(v, s, Layout::Contiguous, Place::Nowhere)).collect();
        self.push(n, Run::Kernel(kernel), args, slots, outs);
        Ok(())
    }

    /// Where the outputs of a node lie in its first operand, if it computes nothing: in which format, and from which bytes on.
    fn lies(
        &self,
        n: NodeId,
        inputs: &[ValueId],
        shapes: &[Vec<usize>],
        args: &[ConcreteArg],
    ) -> Result<Option<(Layout, Vec<usize>)>, RunError> {
        let (op, format) = (self.program.graph.node(n).op(), self.format(inputs[0]));
        if copies(op) || views(op) {
            let layout = if copies(op) { format } else { Layout::Contiguous };
            return Ok(Some((layout, vec![0])));
        }
        let (&[x], Layout::Contiguous) = (inputs, format) else { return Ok(None) };
        let (dtype, shape) = (self.program.graph.ty(x).dtype, self.shape(x, n)?);
        let operand = [TensorRef { dtype, shape: &shape, bytes: &[] }];
        let starts = starts(&KernelCall::alone(op, args, &operand, self.isa), shapes);
        let bytes = |starts: Vec<usize>| starts.into_iter().map(|at| at * dtype.size()).collect();
        Ok(starts.map(|starts| (Layout::Contiguous, bytes(starts))))
    }

    /// Runs a node on channels-last operands, if it can and they are.
    fn follows(
        &mut self,
        n: NodeId,
        inputs: &[ValueId],
        outputs: &[ValueId],
        shapes: &[Vec<usize>],
        args: &[ConcreteArg],
    ) -> Result<bool, RunError> {
        let node = self.program.graph.node(n);
        let Some(how) = follow(node.op()) else { return Ok(false) };
        let operands = inputs.iter().map(|&v| self.shape(v, n)).collect::<Result<Vec<_>, _>>()?;
        let is_last =
            |b: &Self, i: usize| operands[i].len() >= 3 && b.format(inputs[i]) == Layout::ChannelsLast;
        let last = Layout::ChannelsLast;
        let Some(kernel) = kernel(node.op()) else { return Ok(false) };
        let (run, args, out_layout, slots) = match how {
            Follow::Elementwise => {
                let out = &shapes[0];
                let full = (0..inputs.len()).any(|i| is_last(self, i) && operands[i] == *out);
                let movable =
                    operands.iter().all(|s| s.len() == out.len() || indifferent(&padded(s, out.len())));
                if !full || !movable || shapes.len() != 1 {
                    return Ok(false);
                }
                let mut slots = vec![];
                for (&v, shape) in inputs.iter().zip(&operands) {
                    slots.push(if shape.len() == out.len() {
                        self.slot(v, last, Some(n))?
                    } else {
                        self.padded_slot(v, padded(shape, out.len()), n)?
                    });
                }
                (Run::Kernel(kernel), args.to_vec(), last, slots)
            }
            Follow::Whole if is_last(self, 0) => {
                let rest = inputs[1..].iter().map(|&v| self.slot(v, Layout::Contiguous, Some(n)));
                let mut slots = rest.collect::<Result<Vec<_>, _>>()?;
                slots.insert(0, self.slot(inputs[0], last, Some(n))?);
                (Run::Kernel(kernel), args.to_vec(), Layout::Contiguous, slots)
            }
            Follow::Dim(at) if (0..inputs.len()).any(|i| is_last(self, i)) => {
                let rank = shapes[0].len();
                let mut slots = vec![];
                for (&v, shape) in inputs.iter().zip(&operands) {
                    // Per-channel parameters have one dimension.
                    let layout = if shape.len() == rank { last } else { Layout::Contiguous };
                    slots.push(self.slot(v, layout, Some(n))?);
                }
                (Run::Kernel(kernel), rename(args.to_vec(), at, rank), last, slots)
            }
            Follow::Dims(at) if is_last(self, 0) && reduces_positions(args, at, operands[0].len()) => {
                let rank = operands[0].len();
                let layout = if shapes[0].len() == rank { last } else { Layout::Contiguous };
                let slots = vec![self.slot(inputs[0], last, Some(n))?];
                (Run::Kernel(kernel), rename(args.to_vec(), at, rank), layout, slots)
            }
            Follow::Kernel(own) if is_last(self, 0) && shapes[0].len() == operands[0].len() => {
                let dtype = self.program.graph.ty(inputs[0]).dtype;
                let knows = dtype == DType::F32 || channels_last::takes_bytes(node.op()) && dtype.size() == 1;
                if !knows || shapes.iter().any(|s| s.len() != operands[0].len()) {
                    return Ok(false);
                }
                let rest = inputs[1..].iter().map(|&v| self.slot(v, Layout::Contiguous, Some(n)));
                let mut slots = rest.collect::<Result<Vec<_>, _>>()?;
                slots.insert(0, self.slot(inputs[0], last, Some(n))?);
                (Run::ChannelsLast(own), args.to_vec(), last, slots)
            }
            _ => return Ok(false),
        };
        let outs = outputs.iter().zip(shapes);
        let outs = outs.map(|(&v, s)| self.make(v, s.clone(), out_layout, Place::Nowhere)).collect();
        self.push(n, run, args, slots, outs);
        Ok(true)
    }

    /// A view of `v` with ones in front, whose format is all the same.
    fn padded_slot(&mut self, v: ValueId, shape: Vec<usize>, n: NodeId) -> Result<usize, RunError> {
        let from = self.slot(v, Layout::Contiguous, Some(n))?;
        let dims = Layout::ChannelsLast.dims(&shape);
        let dtype = self.plan.slots[from].dtype;
        let slot = Slot { place: Place::Alias(from, 0), dtype, shape, layout: Layout::ChannelsLast, dims };
        self.plan.slots.push(slot);
        Ok(self.plan.slots.len() - 1)
    }
}

fn padded(shape: &[usize], rank: usize) -> Vec<usize> {
    let mut out = vec![1; rank.saturating_sub(shape.len())];
    out.extend(shape);
    out
}

#[derive(Copy, Clone, PartialEq)]
pub(super) enum Kind {
    Convolution,
    Product,
    Other,
}

pub(super) fn kind(node: &Node) -> Kind {
    match node.op().short_name() {
        "conv1d" | "conv2d" | "conv3d" | "convolution" => Kind::Convolution,
        _ if operands(node).is_some() => Kind::Product,
        _ => Kind::Other,
    }
}

/// Operand, weights and bias of a convolution or product with constant-shaped weights.
pub(super) fn operands(node: &Node) -> Option<(ValueId, ValueId, Option<ValueId>)> {
    let v = |i: usize| node.arg(i).values().next();
    match node.op().short_name() {
        "conv1d" | "conv2d" | "conv3d" | "convolution" | "linear" => Some((v(0)?, v(1)?, v(2))),
        "mm" | "matmul" => Some((v(0)?, v(1)?, None)),
        "addmm" if is_one(node, 3) && is_one(node, 4) => Some((v(1)?, v(2)?, v(0))),
        _ => None,
    }
}

fn is_one(node: &Node, i: usize) -> bool {
    use lowbit_core::ir::Arg;
    match node.arg(i) {
        Arg::Int(n) => n.known() == Some(1),
        Arg::Float(x) => *x == 1.0,
        _ => false,
    }
}
