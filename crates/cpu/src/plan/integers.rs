//! Which operators between dequantize and quantize nodes run on the integers themselves.
//!
//! A group ends at a quantize node, or at a layer whose result stays in floating point, and reaches back to what its
//! operands are dequantized from. Dequantize nodes that only such groups read never run.

use super::build::operands;
use super::layout::are_positions;
use crate::dense::rescale::Grid;
use crate::simd::UNBOUNDED;
use lowbit_core::DType;
use lowbit_core::executor::Watchlist;
use lowbit_core::ir::{Arg, Def, Key, Node, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;
use std::collections::{BTreeMap, BTreeSet};

/// 8-bit integers and what they stand for.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub value: ValueId,
    pub grid: Grid,
    pub signed: bool,
}

/// 8-bit integers whose scales and zero points are chosen while running: of each row, or of all.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct RowSource {
    pub value: ValueId,
    pub scale: ValueId,
    pub zero: Option<ValueId>,
    pub signed: bool,
}

/// What a group computes.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// A convolution or linear layer. The result is bounded by `clamp`, and on `to` unless it is in floating point.
    Layer { root: NodeId, x: Source, clamp: (f32, f32), to: Option<Grid> },
    /// A linear layer of rows, with groups of weights.
    Rows { root: NodeId, x: RowSource },
    /// A sum of two.
    Add { x: Source, y: Source, clamp: (f32, f32), to: Grid },
    /// The mean of each channel's positions.
    Mean { root: NodeId, x: Source, clamp: (f32, f32), to: Grid },
    /// Functions of one element: a table of all 256 results.
    Table { x: Source, chain: Vec<NodeId> },
    /// A node that only moves elements, or takes the largest: of the integers as well.
    Move { node: NodeId, inputs: Vec<ValueId> },
}

/// A form, and the value it makes.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub form: Form,
    pub output: ValueId,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Integers {
    /// Keyed by the last node of the group, at whose place it runs.
    pub groups: BTreeMap<NodeId, Group>,
    /// Nodes that do not run on their own: inside groups, and dequantize nodes that nothing else reads.
    pub joined: BTreeSet<NodeId>,
}

/// The grid of a quantize or dequantize node whose parameters are known.
pub(super) fn grid(node: &Node) -> Option<Grid> {
    if *node.op() != ops::QUANTIZE_PER_TENSOR && *node.op() != ops::DEQUANTIZE_PER_TENSOR {
        return None;
    }
    let float = |i: usize| match node.arg(i) {
        Arg::Float(x) => Some(*x),
        Arg::Int(n) => n.known().map(|n| n as f64),
        _ => None,
    };
    let int = |i: usize| float(i).filter(|x| x.fract() == 0.0 && x.abs() <= 255.0).map(|x| x as i32);
    let (scale, zero, min, max) = (float(1)?, int(2)?, int(3)?, int(4)?);
    (scale.is_finite() && scale > 0.0 && min <= max).then_some(Grid { scale, zero, min, max })
}

/// Whether a grid's integers are what `dtype` holds, and whether that is signed.
fn fits(grid: Grid, dtype: DType) -> Option<bool> {
    let (low, high, signed) = match dtype {
        DType::I8 => (-128, 127, true),
        DType::U8 => (0, 255, false),
        _ => return None,
    };
    let inside = |n: i32| (low..=high).contains(&n);
    (inside(grid.zero) && inside(grid.min) && inside(grid.max)).then_some(signed)
}

struct Finder<'a> {
    program: &'a Program,
    watch: &'a Watchlist,
    constant: &'a [bool],
}

impl Finder<'_> {
    fn node(&self, n: NodeId) -> &Node {
        self.program.graph.node(n)
    }

    /// What a value is dequantized from.
    fn source(&self, v: ValueId) -> Option<Source> {
        let n = self.program.graph.producer(v)?;
        let node = self.node(n);
        if self.constant[v.index()] || *node.op() != ops::DEQUANTIZE_PER_TENSOR {
            return None;
        }
        let (grid, value) = (grid(node)?, node.operands().next()?);
        let g = &self.program.graph;
        (g.ty(v).dtype == DType::F32).then_some(())?;
        Some(Source { value, grid, signed: fits(grid, g.ty(value).dtype)? })
    }

    /// The node that makes a value which nobody else needs.
    fn sole(&self, v: ValueId) -> Option<NodeId> {
        let value = self.program.graph.value(v);
        let hidden = value.uses().len() == 1 && !self.watch.contains(v) && !self.program.graph.is_output(v);
        self.program.graph.producer(v).filter(|_| hidden && matches!(value.def(), Def::Node(..)))
    }

    /// A convolution or linear layer of quantized input and weights.
    fn layer(&self, n: NodeId) -> Option<Source> {
        let node = self.node(n);
        let conv = ops::CONVOLUTIONS.contains(&node.op()) || *node.op() == ops::CONVOLUTION;
        let (x, w, bias) = operands(node).filter(|_| conv || *node.op() == ops::LINEAR)?;
        let source = self.source(x)?;
        let g = &self.program.graph;
        let fixed = |v: ValueId| self.constant[v.index()] && g.ty(v).dtype == DType::F32;
        (fixed(w) && bias.is_none_or(fixed)).then_some(())?;
        let quantized = self.node(g.producer(w)?);
        let per_channel = *quantized.op() == ops::DEQUANTIZE_PER_CHANNEL
            && matches!(quantized.arg(3), Arg::Int(n) if n.known() == Some(0));
        (per_channel || *quantized.op() == ops::DEQUANTIZE_PER_TENSOR).then_some(())?;
        let integers = quantized.operands().next()?;
        matches!(g.ty(integers).dtype, DType::I8 | DType::U8).then_some(source)
    }

    /// A linear layer whose input was quantized while running.
    fn rows(&self, n: NodeId) -> Option<RowSource> {
        let g = &self.program.graph;
        let node = self.node(n);
        let (x, w, bias) = operands(node).filter(|_| *node.op() == ops::LINEAR)?;
        let fixed = |v: ValueId| self.constant[v.index()] && g.ty(v).dtype == DType::F32;
        (fixed(w) && bias.is_none_or(fixed) && !self.constant[x.index()]).then_some(())?;
        let rounded = self.node(g.producer(x)?);
        let &[value, scale, ref zero @ ..] = &rounded.operands().collect::<Vec<_>>()[..] else { return None };
        let shape = &g.ty(value).shape;
        let row = |block: &[SymInt]| {
            let parts = shape.split_last().zip(block.split_last());
            parts.is_some_and(|((n, _), (b, outer))| n == b && outer.iter().all(|b| b.known() == Some(1)))
        };
        let by_rows = *rounded.op() == ops::DEQUANTIZE_PER_TENSOR_TENSOR
            || *rounded.op() == ops::DEQUANTIZE_AFFINE
                && matches!(rounded.arg(1), Arg::Ints(block) if block == shape || row(block));
        let signed = match g.ty(value).dtype {
            DType::I8 => true,
            DType::U8 => false,
            _ => return None,
        };
        // Scales of weights: in groups of inputs, or one an output.
        let quantized = self.node(g.producer(w)?);
        let is = |n: &SymInt, want: i64| n.known() == Some(want);
        let by_channels = *quantized.op() == ops::DEQUANTIZE_PER_CHANNEL
            && matches!(quantized.arg(3), Arg::Int(axis) if is(axis, 0));
        let by_groups = *quantized.op() == ops::DEQUANTIZE_AFFINE
            && matches!(quantized.arg(1), Arg::Ints(block) if block.first().is_some_and(|b| is(b, 1)));
        let mut parts = quantized.operands();
        let integers = parts.next().and_then(|v| self.program.frozen(v))?;
        let scales =
            parts.next().map(|v| g.ty(v).shape.iter().map(|n| n.known()).product::<Option<i64>>())??;
        // Neighbours are multiplied in pairs.
        let size = (integers.numel() as i64).checked_div(scales)?;
        let paired = size % 2 == 0 || integers.shape().last().is_some_and(|&n| n as i64 == size);
        let known = matches!(integers.dtype(), DType::I8 | DType::U8) && paired;
        let whole = |z: &f32| z.fract() == 0.0 && z.abs() <= 255.0;
        let zeros =
            parts.next().is_none_or(|v| self.program.frozen(v).is_some_and(|z| z.to_f32().iter().all(whole)));
        let floats = g.ty(x).dtype == DType::F32 && g.ty(node.output()).dtype == DType::F32;
        (by_rows && (by_channels || by_groups) && known && zeros && floats).then_some(())?;
        Some(RowSource { value, scale, zero: zero.first().copied(), signed })
    }

    /// Whether a node makes one number of all positions of a channel: their mean.
    fn averages_positions(&self, n: NodeId) -> bool {
        let node = self.node(n);
        let types = |v: ValueId| self.program.graph.ty(v);
        let Some(x) = node.operands().next().map(types).filter(|x| x.shape.len() >= 3) else { return false };
        let Arg::Ints(list) = node.arg(1) else { return false };
        let known: Option<Vec<i64>> = list.iter().map(SymInt::known).collect();
        let (Some(list), rank) = (known, x.shape.len()) else { return false };
        let pools = node.op().short_name().trim_start_matches('_').starts_with("adaptive_avg_pool");
        let positions = match *node.op() == ops::MEAN_DIM {
            true => are_positions(&list, rank),
            false => pools && list.len() == rank - 2 && list.iter().all(|&n| n == 1),
        };
        positions && types(node.output()).dtype == DType::F32
    }

    /// The group that ends at a quantize node, with the nodes in it.
    fn before_quantize(&self, n: NodeId, is_layer: &dyn Fn(NodeId) -> bool) -> Option<(Form, Vec<NodeId>)> {
        let node = self.node(n);
        let g = &self.program.graph;
        let to = grid(node).filter(|_| *node.op() == ops::QUANTIZE_PER_TENSOR)?;
        let signed = fits(to, g.ty(node.output()).dtype)?;
        let v = node.operands().next().filter(|&v| g.ty(v).dtype == DType::F32)?;
        let last = self.sole(v)?;
        let mut joined = vec![n];
        // A clamp between, unless it is all there is.
        let (mut root, mut bounds) = (last, UNBOUNDED);
        if let Some(found) = ops::bounds(self.node(last).op(), self.node(last).args())
            && let Some(inner) = self.node(last).operands().next().and_then(|v| self.sole(v))
            && *self.node(inner).op() != ops::DEQUANTIZE_PER_TENSOR
        {
            (root, bounds) = (inner, found);
            joined.push(last);
        }
        joined.push(root);
        if let Some(x) = self.layer(root).filter(|_| is_layer(root)) {
            return Some((Form::Layer { root, x, clamp: bounds, to: Some(to) }, joined));
        }
        let inner = self.node(root);
        let sources = inner.operands().map(|v| self.source(v)).collect::<Option<Vec<Source>>>();
        let alpha = |i: usize| match inner.arg(i) {
            Arg::Int(n) => n.known() == Some(1),
            Arg::Float(x) => *x == 1.0,
            _ => false,
        };
        if let (Some(&[x, y]), true) = (sources.as_deref(), *inner.op() == ops::ADD && alpha(2)) {
            let same = inner.operands().all(|v| g.ty(v) == g.ty(inner.output()));
            return same.then_some((Form::Add { x, y, clamp: bounds, to }, joined));
        }
        if let (Some(&[x]), true) = (sources.as_deref(), self.averages_positions(root)) {
            return Some((Form::Mean { root, x, clamp: bounds, to }, joined));
        }
        if let Some(sources) = sources.filter(|s| !s.is_empty() && root == last) {
            let moves = inner.op().traits.moves_data || [&ops::MAX_POOL2D, &ops::CAT].contains(&inner.op());
            let alike = sources.iter().all(|s| (s.grid, s.signed) == (to, signed));
            let all = inner.outputs().len() == 1 && g.ty(inner.output()).dtype == DType::F32;
            if moves && alike && all {
                let inputs = sources.iter().map(|s| s.value).collect();
                return Some((Form::Move { node: root, inputs }, joined));
            }
        }
        let (x, chain) = self.chain(last)?;
        let mut joined = chain.clone();
        joined.push(n);
        let chain = joined.clone();
        Some((Form::Table { x, chain }, joined))
    }

    /// Functions of one element, from a dequantized value to `last`.
    fn chain(&self, last: NodeId) -> Option<(Source, Vec<NodeId>)> {
        let (mut chain, mut n) = (vec![], last);
        loop {
            let node = self.node(n);
            let mut operands = node.operands();
            let (Some(v), None) = (operands.next(), operands.next()) else { return None };
            let g = &self.program.graph;
            let unary = node.op().traits.elementwise
                && !node.op().traits.random
                && node.outputs().len() == 1
                && g.ty(node.output()) == g.ty(v)
                && g.ty(v).dtype == DType::F32;
            if !unary {
                return None;
            }
            chain.insert(0, n);
            match self.source(v) {
                Some(x) => return Some((x, chain)),
                None => n = self.sole(v)?,
            }
        }
    }
}

impl Integers {
    /// Finds all groups. A value in `watch` is always computed, so nothing joins past it; `is_layer` says which layers the
    /// integer kernels take.
    pub fn new(
        program: &Program,
        watch: &Watchlist,
        constant: &[bool],
        is_layer: &dyn Fn(NodeId) -> bool,
    ) -> Integers {
        let find = Finder { program, watch, constant };
        let g = &program.graph;
        let mut out = Integers::default();
        // Nodes that no longer read the floats.
        let mut readers: BTreeSet<NodeId> = BTreeSet::new();
        let runs = |n: NodeId| !find.node(n).outputs().iter().all(|v| constant[v.index()]);
        for n in g.nodes().filter(|&n| runs(n)) {
            if let Some((form, joined)) = find.before_quantize(n, is_layer) {
                out.groups.insert(n, Group { form, output: find.node(n).output() });
                readers.extend(&joined);
                out.joined.extend(joined.into_iter().filter(|&j| j != n));
            }
        }
        out.merge_bounds(&find);
        for n in g.nodes().filter(|&n| runs(n) && is_layer(n)) {
            if !readers.contains(&n)
                && let Some(x) = find.layer(n)
            {
                let form = Form::Layer { root: n, x, clamp: UNBOUNDED, to: None };
                out.groups.insert(n, Group { form, output: find.node(n).output() });
                readers.insert(n);
            } else if let Some(x) = find.rows(n) {
                out.groups
                    .insert(n, Group { form: Form::Rows { root: n, x }, output: find.node(n).output() });
                readers.insert(n);
            }
        }
        let dequantizes =
            [&ops::DEQUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_TENSOR_TENSOR, &ops::DEQUANTIZE_AFFINE];
        for n in g.nodes().filter(|&n| dequantizes.contains(&find.node(n).op()) && runs(n)) {
            let v = find.node(n).output();
            let unread = g.value(v).uses().iter().all(|u| readers.contains(&u.node));
            if unread && !watch.contains(v) && !g.is_output(v) {
                out.joined.insert(n);
            }
        }
        out
    }

    /// A clamp of a layer's or sum's quantized result, on the same grid, is only a narrower range of integers.
    fn merge_bounds(&mut self, find: &Finder<'_>) {
        let g = &find.program.graph;
        let tables = self.groups.iter().filter(|(_, group)| matches!(group.form, Form::Table { .. }));
        let ends: Vec<NodeId> = tables.map(|(&n, _)| n).collect();
        for end in ends {
            let Some(Group { form: Form::Table { x, chain }, output }) = self.groups.get(&end) else {
                continue;
            };
            let (x, output, chain) = (*x, *output, chain.clone());
            let &[bounding, quantize] = &chain[..] else { continue };
            let Some(bounds) = ops::bounds(find.node(bounding).op(), find.node(bounding).args()) else {
                continue;
            };
            let floats = find.node(bounding).operands().next();
            let hidden = find.sole(x.value).is_some() && floats.is_some_and(|v| find.sole(v).is_some());
            if !hidden
                || grid(find.node(quantize)) != Some(x.grid)
                || g.ty(output).dtype != g.ty(x.value).dtype
            {
                continue;
            }
            let Some(before) = g.producer(x.value) else { continue };
            let Some(Group { mut form, .. }) = self.groups.get(&before).cloned() else { continue };
            match &mut form {
                Form::Layer { to: Some(to), .. } | Form::Add { to, .. } | Form::Mean { to, .. } => {
                    *to = to.clamped(bounds.0, bounds.1)
                }
                _ => continue,
            }
            self.groups.remove(&before);
            self.joined.insert(before);
            self.groups.insert(end, Group { form, output });
        }
    }
}
