//! Builds the graph of a region: tensors where they are first needed, each in the layout that is asked for.
//!
//! PyTorch has channels in dimension 1, the chip wants them last. A value may be there in either order, or both; operators
//! without a preference take what there is, so that images are turned only where they enter and leave.

use super::kind::{self, Kind};
use crate::graph::{DType, Encoding, Graph, Op, Param, Role, Tensor, TensorId};
use crate::settings::Settings;
use bytes::Bytes;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Key, Node, NodeId, Program, ValueId};
use lowbit_core::ops::{self, views};
use std::collections::BTreeSet;

/// Why an operator cannot be expressed, for the report.
pub type Emitted<T> = Result<T, String>;

/// The order of a tensor's dimensions.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The program's.
    Plain,
    /// Dimension 1, of channels, behind all others.
    Last,
}

impl Layout {
    /// Which dimension of the program's each dimension is.
    pub fn order(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::Last if rank > 2 => [0].into_iter().chain(2..rank).chain([1]).collect(),
            _ => (0..rank).collect(),
        }
    }

    /// Where the program's dimension `d` lies.
    pub fn place(self, d: usize, rank: usize) -> usize {
        self.order(rank).iter().position(|&o| o == d).unwrap_or(d)
    }
}

/// What an operator makes.
pub type Made = (TensorId, Layout);

/// The tensors that stand for a value.
#[derive(Copy, Clone, Debug, Default)]
struct Slots {
    plain: Option<TensorId>,
    last: Option<TensorId>,
}

/// A graph under construction.
#[derive(Debug)]
pub struct Builder<'a> {
    /// The region.
    pub program: &'a Program,
    /// The chip, and what is asked.
    pub settings: &'a Settings,
    graph: Graph,
    /// The node that each operator is for.
    origins: Vec<NodeId>,
    origin: Option<NodeId>,
    values: Vec<Slots>,
    /// The value that each stands for: quantizing and dequantizing changes nothing on the chip.
    roots: Vec<ValueId>,
    names: BTreeSet<String>,
    rehearsal: bool,
}

impl<'a> Builder<'a> {
    /// An empty graph.
    pub fn new(program: &'a Program, settings: &'a Settings) -> Self {
        Builder {
            program,
            settings,
            graph: Graph::default(),
            origins: vec![],
            origin: None,
            values: vec![Slots::default(); program.graph.table_sizes().1],
            roots: program.graph.values().map(|(v, _)| v).collect(),
            names: BTreeSet::new(),
            rehearsal: false,
        }
    }

    /// A graph that only finds out whether operators can be expressed: every value is there already, in any layout.
    pub fn rehearsal(program: &'a Program, settings: &'a Settings) -> Self {
        Builder { rehearsal: true, ..Builder::new(program, settings) }
    }

    /// Says which node the following operators are for.
    pub fn set_origin(&mut self, n: NodeId) {
        self.origin = Some(n);
    }

    /// The graph, and the node that each of its operators is for.
    pub fn into_parts(self) -> (Graph, Vec<NodeId>) {
        (self.graph, self.origins)
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// A name like `wish` that is free: letters, digits and underscores.
    fn name(&mut self, wish: &str) -> String {
        let ok = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
        let base: String = wish.chars().map(ok).collect();
        let mut name = base.clone();
        let mut n = 0;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, wish: &str, role: Role, kind: Kind, dims: Vec<u32>, data: Bytes) -> TensorId {
        let name = self.name(wish);
        // The chip's tensors have at least one dimension.
        let dims = if dims.is_empty() { vec![1] } else { dims };
        let Kind { dtype, encoding } = kind;
        self.graph.tensors.push(Tensor { name, role, dtype, dims, encoding, data });
        self.graph.tensors.len() - 1
    }

    /// Adds a constant.
    pub fn constant(&mut self, wish: &str, kind: Kind, dims: Vec<u32>, data: Bytes) -> TensorId {
        self.tensor(wish, Role::Static, kind, dims, data)
    }

    /// A tensor of the graph.
    pub fn get(&self, t: TensorId) -> &Tensor {
        &self.graph.tensors[t]
    }

    /// What a tensor of the graph is.
    pub fn kind_of(&self, t: TensorId) -> Kind {
        let t = self.get(t);
        Kind { dtype: t.dtype, encoding: t.encoding.clone() }
    }

    /// What a value is on the chip.
    ///
    /// # Errors
    /// When the chip has nothing of the kind.
    pub fn kind(&self, v: ValueId) -> Emitted<Kind> {
        kind::of(self.program, v)
    }

    /// The sizes of a value.
    ///
    /// # Errors
    /// When one is open.
    pub fn shape(&self, v: ValueId) -> Emitted<Vec<u32>> {
        let (ty, name) = (self.program.graph.ty(v), &self.program.graph.value(v).name);
        let known = ty.known_shape().ok_or_else(|| {
            format!(
                "%{name} is {ty}; the chip's graphs have fixed sizes: export the model without dynamic shapes"
            )
        })?;
        let fit = |n: usize| u32::try_from(n).map_err(|_| format!("%{name} is {ty}, too large for the chip"));
        known.into_iter().map(fit).collect()
    }

    /// Adds an operator with results of these kinds and sizes.
    pub fn op(
        &mut self,
        kind: &'static str,
        params: Vec<(&'static str, Param)>,
        inputs: Vec<TensorId>,
        outputs: Vec<(Kind, Vec<u32>)>,
    ) -> Vec<TensorId> {
        let origin = self.origin.unwrap_or_else(|| NodeId::new(0));
        let wish = match self.origin {
            Some(n) => self.program.graph.node(n).name.to_string(),
            None => kind.to_lowercase(),
        };
        let name = self.name(&format!("{wish}_{kind}"));
        let outputs: Vec<TensorId> = outputs
            .into_iter()
            .map(|(k, dims)| self.tensor(&format!("{name}_out"), Role::Native, k, dims, Bytes::new()))
            .collect();
        self.graph.ops.push(Op { name, kind, params, inputs, outputs: outputs.clone() });
        self.origins.push(origin);
        outputs
    }

    /// Adds an operator with one result.
    pub fn one(
        &mut self,
        kind: &'static str,
        params: Vec<(&'static str, Param)>,
        inputs: Vec<TensorId>,
        output: (Kind, Vec<u32>),
    ) -> TensorId {
        self.op(kind, params, inputs, vec![output])[0]
    }

    /// Says what stands for a value.
    pub fn set(&mut self, v: ValueId, (t, layout): Made) {
        let rank = self.program.graph.ty(v).rank();
        let slots = &mut self.values[self.roots[v.index()].index()];
        match layout {
            Layout::Last if rank > 2 => slots.last = Some(t),
            _ => slots.plain = Some(t),
        }
    }

    /// Lets the tensors of one value stand for another, too.
    pub fn alias(&mut self, v: ValueId, of: ValueId) {
        self.roots[v.index()] = self.roots[of.index()];
    }

    /// The tensor of argument `i`, in a layout.
    ///
    /// # Errors
    /// When it is no tensor, or cannot be on the chip.
    pub fn arg(&mut self, node: &Node, i: usize, layout: Layout) -> Emitted<TensorId> {
        let v = views::value(node.arg(i)).ok_or_else(|| format!("argument {i} is no tensor"))?;
        self.value(v, layout)
    }

    /// The layout that operators without a preference compute in: channels last when that is how some operand is there, and
    /// all others can be.
    pub fn layout(&self, operands: &[ValueId]) -> Layout {
        let ranks: BTreeSet<usize> = operands
            .iter()
            .filter(|v| self.fixed_constant(**v).is_none())
            .map(|v| self.program.graph.ty(*v).rank())
            .collect();
        let last = |v: &ValueId| {
            let Slots { plain, last } = self.values[self.roots[v.index()].index()];
            last.is_some() && plain.is_none()
        };
        match operands.iter().any(last) && ranks.len() == 1 {
            true => Layout::Last,
            false => Layout::Plain,
        }
    }

    /// The constant behind a value: itself, or what it is dequantized from.
    pub fn fixed_constant(&self, v: ValueId) -> Option<ValueId> {
        let p = self.program;
        if p.frozen(v).is_some() {
            return Some(v);
        }
        let from = p.graph.node(kind::dequantize_of(p, v)?).operands().next()?;
        p.frozen(from).map(|_| from)
    }

    /// A value in a layout. `rank`: constants of fewer dimensions get more, in front.
    ///
    /// # Errors
    /// When it cannot be on the chip.
    pub fn ranked(&mut self, v: ValueId, layout: Layout, rank: usize) -> Emitted<TensorId> {
        match self.fixed_constant(v) {
            Some(c) if self.program.graph.ty(v).rank() < rank && layout == Layout::Last => {
                self.constant_value(v, c, layout, rank)
            }
            _ => self.value(v, layout),
        }
    }

    /// A value in a layout.
    ///
    /// # Errors
    /// When it cannot be on the chip.
    pub fn value(&mut self, v: ValueId, layout: Layout) -> Emitted<TensorId> {
        let rank = self.program.graph.ty(v).rank();
        let layout = if rank > 2 { layout } else { Layout::Plain };
        let Slots { plain, last } = self.values[self.roots[v.index()].index()];
        let (have, other) = match layout {
            Layout::Plain => (plain, last),
            Layout::Last => (last, plain),
        };
        if let Some(t) = have {
            return Ok(t);
        }
        if let Some(c) = self.fixed_constant(v) {
            let t = self.constant_value(v, c, layout, rank)?;
            self.set(v, (t, layout));
            return Ok(t);
        }
        let t = match other {
            Some(t) => {
                let order = Layout::Last.order(rank);
                let order: Vec<usize> = match layout {
                    Layout::Last => order,
                    // The way back.
                    Layout::Plain => {
                        (0..rank).map(|d| order.iter().position(|&o| o == d).unwrap_or(d)).collect()
                    }
                };
                self.transpose(t, &order)
            }
            None if self.rehearsal => {
                let (kind, shape) = (self.kind(v)?, self.shape(v)?);
                let dims = layout.order(rank).into_iter().map(|d| shape[d]).collect();
                let name = self.program.graph.value(v).name.clone();
                self.tensor(&name, Role::Native, kind, dims, Bytes::new())
            }
            None => return Err(format!("%{} is not there yet", self.program.graph.value(v).name)),
        };
        self.set(v, (t, layout));
        Ok(t)
    }

    /// A constant as the chip has it, or the one that a value is dequantized from.
    fn constant_value(&mut self, v: ValueId, c: ValueId, layout: Layout, rank: usize) -> Emitted<TensorId> {
        let kind = self.kind(v)?;
        let name = self.program.graph.value(c).name.clone();
        let tensor = self.program.frozen(c).ok_or_else(|| format!("%{name} is overwritten"))?;
        let (dtype, data) = elements(tensor, kind.dtype)?;
        let kind = Kind { dtype, ..kind };
        let mut dims: Vec<usize> = vec![1; rank.saturating_sub(tensor.shape().len())];
        dims.extend(tensor.shape());
        let order = layout.order(dims.len());
        let data = permute(&data, &dims, &order, dtype.size());
        let dims = order.iter().map(|&d| u32::try_from(dims[d]).unwrap_or(u32::MAX)).collect();
        Ok(self.constant(&name, kind, dims, data))
    }

    /// The dimensions of a tensor in another order: dimension `i` is the old `order[i]`.
    pub fn transpose(&mut self, t: TensorId, order: &[usize]) -> TensorId {
        if order.iter().enumerate().all(|(i, &d)| i == d) {
            return t;
        }
        let dims = order.iter().map(|&d| self.get(t).dims[d]).collect();
        let perm: Vec<u32> = order.iter().map(|&d| d as u32).collect();
        let shape = vec![perm.len() as u32];
        let kind = self.kind_of(t);
        self.one("Transpose", vec![("perm", Param::U32s(perm, shape))], vec![t], (kind, dims))
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, t: TensorId, dims: Vec<u32>) -> TensorId {
        let dims = if dims.is_empty() { vec![1] } else { dims };
        if self.get(t).dims == dims {
            return t;
        }
        let kind = self.kind_of(t);
        self.one("Reshape", vec![], vec![t], (kind, dims))
    }

    /// The same numbers in another kind.
    ///
    /// # Errors
    /// When there is no way.
    pub fn convert(&mut self, t: TensorId, kind: &Kind) -> Emitted<TensorId> {
        let have = self.kind_of(t);
        if have == *kind {
            return Ok(t);
        }
        let op = match (have.is_fixed(), kind.is_fixed()) {
            (true, true) => "Convert",
            (false, true) if have.is_float() => "Quantize",
            (true, false) if kind.is_float() => "Dequantize",
            (false, false) => "Cast",
            // Integers that count, and those that stand for real numbers, meet as floats.
            _ if have.dtype == DType::Int32 || kind.dtype == DType::Int32 => {
                let between = self.convert(t, &Kind::plain(DType::F32))?;
                return self.convert(between, kind);
            }
            _ => return Err(format!("{} does not become {}", have.dtype.name(), kind.dtype.name())),
        };
        let dims = self.get(t).dims.clone();
        Ok(self.one(op, vec![], vec![t], (kind.clone(), dims)))
    }

    /// The region's inputs, in the order of the delegate's arguments. The runtime finds them by these names.
    ///
    /// # Errors
    /// When the chip takes none of that type.
    pub fn inputs(&mut self) -> Emitted<()> {
        for (k, &v) in self.program.graph.inputs().iter().enumerate() {
            let name = self.program.graph.value(v).name.clone();
            let (kind, shape) = (self.border(v)?, self.shape(v)?);
            let t = self.tensor(&format!("input_{k}_{name}"), Role::Input, kind, shape, Bytes::new());
            let t = if self.get(t).dtype == DType::Int64 {
                self.convert(t, &Kind::plain(DType::Int32))?
            } else {
                t
            };
            self.set(v, (t, Layout::Plain));
        }
        Ok(())
    }

    /// What a value is outside the chip.
    fn border(&self, v: ValueId) -> Emitted<Kind> {
        let kind = self.kind(v)?;
        let (ty, name) = (self.program.graph.ty(v), &self.program.graph.value(v).name);
        match ty.dtype {
            CoreType::I64 => Ok(Kind::plain(DType::Int64)),
            // torchao's 16-bit integers are wider outside than on the chip.
            CoreType::I32 if kind.is_fixed() => {
                Err(format!("%{name} holds 16-bit numbers in {ty}; HTP has them in 16 bits"))
            }
            CoreType::F32 => Ok(Kind::plain(DType::F32)),
            CoreType::F16 => Ok(Kind::plain(DType::F16)),
            _ => Ok(kind),
        }
    }

    /// The region's results, in the order of the delegate's results.
    ///
    /// # Errors
    /// When the chip gives none of that type.
    pub fn outputs(&mut self) -> Emitted<()> {
        let mut outputs = vec![];
        for (k, &v) in self.program.graph.outputs().iter().enumerate() {
            let name = self.program.graph.value(v).name.clone();
            let (kind, shape) = (self.border(v)?, self.shape(v)?);
            self.origin = self.program.graph.producer(v);
            let t = self.value(v, Layout::Plain)?;
            let t = self.reshape(t, shape);
            let mut t = self.convert(t, &kind)?;
            // What is no result of an operator, or a result twice, is copied.
            let copied = self.get(t).role != Role::Native || outputs.contains(&t);
            if copied {
                let (kind, dims) = (self.kind_of(t), self.get(t).dims.clone());
                t = self.one("Reshape", vec![], vec![t], (kind, dims));
            }
            let name = self.name(&format!("output_{k}_{name}"));
            let tensor = &mut self.graph.tensors[t];
            (tensor.role, tensor.name) = (Role::Output, name);
            outputs.push(t);
        }
        self.sort(&outputs);
        Ok(())
    }

    /// Puts results in their order before everything else but the inputs: that is the order of the compiled graph.
    fn sort(&mut self, outputs: &[TensorId]) {
        let tensors = std::mem::take(&mut self.graph.tensors);
        let inputs = (0..tensors.len()).filter(|&t| tensors[t].role == Role::Input);
        let rest = (0..tensors.len()).filter(|&t| !matches!(tensors[t].role, Role::Input | Role::Output));
        let order: Vec<TensorId> = inputs.chain(outputs.iter().copied()).chain(rest).collect();
        let mut new = vec![0; tensors.len()];
        for (i, &t) in order.iter().enumerate() {
            new[t] = i;
        }
        let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
        self.graph.tensors = order.iter().filter_map(|&t| tensors[t].take()).collect();
        for op in &mut self.graph.ops {
            op.inputs.iter_mut().chain(&mut op.outputs).for_each(|t| *t = new[*t]);
        }
        for s in &mut self.values {
            for t in [&mut s.plain, &mut s.last].into_iter().flatten() {
                *t = new[*t];
            }
        }
    }

    /// Takes out operators that make what nobody reads, and tensors that nobody has.
    pub fn prune(&mut self) {
        let mut read = vec![false; self.graph.tensors.len()];
        for (i, t) in self.graph.tensors.iter().enumerate() {
            read[i] = matches!(t.role, Role::Input | Role::Output);
        }
        let ops = std::mem::take(&mut self.graph.ops);
        let origins = std::mem::take(&mut self.origins);
        let mut kept = vec![];
        for (op, origin) in ops.into_iter().zip(origins).rev() {
            if op.outputs.iter().any(|&t| read[t]) {
                op.inputs.iter().chain(&op.outputs).for_each(|&t| read[t] = true);
                kept.push((op, origin));
            }
        }
        kept.reverse();
        (self.graph.ops, self.origins) = kept.into_iter().unzip();
        let mut new = vec![usize::MAX; read.len()];
        let mut count = 0;
        for (i, r) in read.iter().enumerate() {
            if *r {
                new[i] = count;
                count += 1;
            }
        }
        let mut i = 0;
        self.graph.tensors.retain(|_| {
            i += 1;
            read[i - 1]
        });
        for op in &mut self.graph.ops {
            op.inputs.iter_mut().chain(&mut op.outputs).for_each(|t| *t = new[*t]);
        }
    }
}

/// The elements of a constant as the chip stores them: its element type, and the bytes.
fn elements(t: &lowbit_core::Tensor, want: DType) -> Emitted<(DType, Bytes)> {
    let narrow = |min: f64, max: f64| -> Emitted<Vec<f64>> {
        let values = t.to_f64();
        match values.iter().find(|x| **x < min || **x > max) {
            Some(x) => Err(format!("a constant holds {x}, which {} cannot", want.name())),
            None => Ok(values),
        }
    };
    Ok(match (t.dtype(), want) {
        (CoreType::I64, DType::Int32) => {
            let list = narrow(f64::from(i32::MIN), f64::from(i32::MAX))?;
            (want, list.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect::<Vec<u8>>().into())
        }
        (CoreType::I32, DType::U16) => {
            let list = narrow(0.0, 65535.0)?;
            (want, list.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect::<Vec<u8>>().into())
        }
        (CoreType::F16, DType::F32) => {
            (want, t.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into())
        }
        _ => (want, t.bytes().clone()),
    })
}

/// Elements of `size` bytes with their dimensions in another order.
pub fn permute(data: &Bytes, dims: &[usize], order: &[usize], size: usize) -> Bytes {
    if order.iter().enumerate().all(|(i, &d)| i == d) || data.is_empty() {
        return data.clone();
    }
    let mut strides = vec![size; dims.len()];
    for d in (0..dims.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * dims[d + 1];
    }
    let mut out = Vec::with_capacity(data.len());
    let mut at = vec![0usize; dims.len()];
    loop {
        let from: usize = order.iter().zip(&at).map(|(&d, &i)| strides[d] * i).sum();
        out.extend_from_slice(&data[from..from + size]);
        let mut d = order.len();
        loop {
            if d == 0 {
                return out.into();
            }
            d -= 1;
            at[d] += 1;
            if at[d] < dims[order[d]] {
                break;
            }
            at[d] = 0;
        }
    }
}

/// Whether a node only says how a value is stored.
pub fn is_quantization(node: &Node) -> bool {
    [&ops::QUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_TENSOR].contains(&node.op())
}

impl Builder<'_> {
    /// Gives a constant one more dimension in front, of 1.
    pub fn lift(&mut self, t: TensorId) {
        let tensor = &mut self.graph.tensors[t];
        tensor.dims.insert(0, 1);
        if let Encoding::Axis { axis, .. } | Encoding::Blocks { axis, .. } = &mut tensor.encoding {
            *axis += 1;
        }
    }
}
