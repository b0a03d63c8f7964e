//! [`Builder`]: a region's values as tensors of a subgraph, each in the layouts that were asked for.

use super::layout::Layout;
use super::quant::{self, QParams, dequantized, qparams};
use super::weight;
use crate::subgraph::{
    Binary, Clamp, ConstantData, Datatype, EXTERNAL_INPUT, EXTERNAL_OUTPUT, Graph, MAX_DIMS, NO_VALUE, Node,
    Op, Quant, Reshape, Transpose, Unary, Value,
};
use half::f16;
use lowbit_core::backend::NamedData;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Key, NodeId, Program, TensorType, ValueId};
use lowbit_core::ops::{self, views};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an emitter gives: `Err` says why the node cannot be had after all.
pub type Emit<T = ()> = Result<T, String>;

/// Builds a subgraph node by node.
#[derive(Debug)]
pub struct Builder<'a> {
    /// The region.
    pub part: &'a Program,
    graph: Graph,
    /// For each value: the tensors that hold it, the first one made first.
    tensors: Vec<Vec<(Layout, u32)>>,
    /// The tensors of values quantized while running.
    dynamic: BTreeMap<(ValueId, Vec<Option<usize>>, i32), u32>,
    /// Inputs and outputs by value: external ids; outputs are taken out when they are made.
    outputs: BTreeMap<ValueId, u32>,
    named: BTreeMap<String, Arc<[u8]>>,
    constants: BTreeMap<String, u32>,
    debug_handle: u32,
}

impl<'a> Builder<'a> {
    /// A subgraph with the inputs of `part`.
    pub fn new(part: &'a Program) -> Self {
        let g = &part.graph;
        let count = |n: usize| u32::try_from(n).expect("few inputs and outputs");
        let inputs = count(g.inputs().len());
        let mut b = Builder {
            part,
            graph: Graph { num_externs: inputs + count(g.outputs().len()), ..Graph::default() },
            tensors: vec![Vec::new(); g.table_sizes().1],
            dynamic: BTreeMap::new(),
            outputs: g.outputs().iter().zip(inputs..).map(|(&v, id)| (v, id)).collect(),
            named: BTreeMap::new(),
            constants: BTreeMap::new(),
            debug_handle: 0,
        };
        for (i, &v) in g.inputs().iter().enumerate() {
            let (datatype, quant) = b.type_of(v);
            let layout = Layout::plain(g.ty(v));
            let dims = layout.dims(part, g.ty(v));
            let id = b.add(Value {
                datatype,
                dims,
                quant,
                constant: 0,
                external_id: count(i),
                flags: EXTERNAL_INPUT,
            });
            b.graph.inputs.push(id);
            b.tensors[v.index()].push((layout, id));
        }
        b
    }

    /// Says which node the following operators come from.
    pub fn set_debug_handle(&mut self, number: usize) {
        self.debug_handle = u32::try_from(number).unwrap_or(u32::MAX);
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &'a TensorType {
        self.part.graph.ty(v)
    }

    fn add(&mut self, value: Value) -> u32 {
        self.graph.values.push(value);
        u32::try_from(self.graph.values.len() - 1).expect("few values")
    }

    /// Adds an operator.
    pub fn push(&mut self, op: Op, clamp: Option<Clamp>) {
        self.graph.nodes.push(Node { op, clamp, debug_handle: self.debug_handle });
    }

    /// Element type and quantization parameters of a value's tensors.
    fn type_of(&self, v: ValueId) -> (Datatype, Option<Quant>) {
        match self.ty(v).dtype {
            DType::F16 => (Datatype::Fp16, None),
            DType::I8 => {
                let quant =
                    self.params(v).map(|p| Quant::PerTensor { scale: p.scale, zero_point: p.zero_point });
                (Datatype::Qint8, quant)
            }
            _ => (Datatype::Fp32, None),
        }
    }

    /// What the integers of `v` mean: as the node that makes them says, or one that reads them.
    pub fn params(&self, v: ValueId) -> Option<QParams> {
        let g = &self.part.graph;
        let made = g.producer(v).filter(|&n| *g.node(n).op() == ops::QUANTIZE_PER_TENSOR);
        let read = || g.users(v).into_iter().find(|&n| *g.node(n).op() == ops::DEQUANTIZE_PER_TENSOR);
        qparams(g.node(made.or_else(read)?)).ok()
    }

    /// The i8 value behind a dequantized one that has no tensor of its own yet.
    fn lazy(&self, v: ValueId) -> Option<ValueId> {
        if self.part.frozen(v).is_some() { None } else { dequantized(self.part, v).map(|d| d.int8) }
    }

    /// The layouts that a value can be had in for nothing, or for an elementwise pass; the first is the one it was
    /// made in. Empty for constants, which can be had in any.
    pub fn layouts(&self, v: ValueId) -> Vec<Layout> {
        let mut out: Vec<Layout> = self.tensors[v.index()].iter().map(|(l, _)| l.clone()).collect();
        if let Some(int8) = self.lazy(v) {
            for l in self.layouts(int8) {
                if !out.contains(&l) {
                    out.push(l);
                }
            }
        }
        out
    }

    /// Whether a value is constant, also behind a dequantize.
    pub fn is_constant(&self, v: ValueId) -> bool {
        self.part.frozen(v).is_some() || self.lazy(v).is_some_and(|q| self.part.frozen(q).is_some())
    }

    /// The layout to work in when any will do.
    pub fn home(&self, v: ValueId) -> Layout {
        self.layouts(v).into_iter().next().unwrap_or_else(|| Layout::plain(self.ty(v)))
    }

    /// Says that `v` is what tensor `id` holds.
    pub fn alias(&mut self, v: ValueId, layout: Layout, id: u32) {
        self.tensors[v.index()].push((layout, id));
    }

    /// Says that `y` is `x` with other names for its dimensions, in every layout that `x` has been made in.
    ///
    /// # Errors
    /// When `x` cannot be had.
    pub fn rename(&mut self, x: ValueId, y: ValueId, name: impl Fn(usize) -> Option<usize>) -> Emit {
        let home = self.home(x);
        self.get(x, &home)?;
        for (layout, id) in self.tensors[x.index()].clone() {
            // A size of 1 has no name, whatever it was called.
            let axes = layout.renamed(&name).axes().to_vec();
            let renamed = Layout::new(self.ty(y), axes);
            self.alias(y, renamed, id);
        }
        Ok(())
    }

    /// A new tensor for a value in a layout; the caller's, when that is what it wants.
    ///
    /// # Errors
    /// When it has too many axes, or integers without parameters.
    pub fn define(&mut self, v: ValueId, layout: &Layout) -> Emit<u32> {
        if layout.rank() > MAX_DIMS {
            return Err(format!("it has {} dimensions, XNNPACK takes {MAX_DIMS}", layout.rank()));
        }
        let ty = self.ty(v);
        let external = if *layout == Layout::plain(ty) { self.outputs.remove(&v) } else { None };
        let (datatype, quant) = self.type_of(v);
        if ty.dtype == DType::I8 && quant.is_none() {
            return Err("it makes integers that nothing says the meaning of".into());
        }
        let dims = layout.dims(self.part, ty);
        let flags = if external.is_some() { EXTERNAL_OUTPUT } else { 0 };
        let external_id = external.unwrap_or(NO_VALUE);
        let id = self.add(Value { datatype, dims, quant, constant: 0, external_id, flags });
        if external.is_some() {
            self.graph.outputs.push(id);
        }
        self.tensors[v.index()].push((layout.clone(), id));
        Ok(id)
    }

    /// A tensor between the operators of one node, of the type of `like`.
    pub fn scratch(&mut self, like: ValueId, dims: Vec<u32>) -> u32 {
        let (datatype, quant) = self.type_of(like);
        self.add(Value { datatype, dims, quant, constant: 0, external_id: NO_VALUE, flags: 0 })
    }

    /// An operator between others of one node; its result is of the type of `like`.
    pub fn unary(&mut self, op: fn(Unary) -> Op, input: u32, like: ValueId, dims: &[u32]) -> u32 {
        let output = self.scratch(like, dims.to_vec());
        self.push(op(Unary { input, output, flags: 0 }), None);
        output
    }

    /// As [`unary`](Self::unary), with two operands.
    pub fn binary(&mut self, op: fn(Binary) -> Op, a: u32, b: u32, like: ValueId, dims: &[u32]) -> u32 {
        let output = self.scratch(like, dims.to_vec());
        self.push(op(Binary { input1: a, input2: b, output, flags: 0 }), None);
        output
    }

    /// A tensor that holds `v` in `layout`.
    ///
    /// # Errors
    /// When it cannot be brought into that layout.
    pub fn get(&mut self, v: ValueId, layout: &Layout) -> Emit<u32> {
        if let Some((_, id)) = self.tensors[v.index()].iter().find(|(l, _)| l == layout) {
            return Ok(*id);
        }
        if self.is_constant(v) {
            return self.constant(v, layout);
        }
        // Moving integers is cheaper than moving the floats they stand for.
        if let Some(int8) = self.lazy(v) {
            let input = self.get(int8, layout)?;
            let output = self.define(v, layout)?;
            self.push(Op::Convert(Unary { input, output, flags: 0 }), None);
            return Ok(output);
        }
        let have = &self.tensors[v.index()];
        let from = have.iter().find(|(l, _)| l.order() == layout.order()).or(have.first()).cloned();
        let (from, id) = from.ok_or_else(|| format!("%{} is not made yet", self.part.graph.value(v).name))?;
        self.convert(v, &from, id, layout)
    }

    /// Copies `v` from one layout into another.
    fn convert(&mut self, v: ValueId, from: &Layout, id: u32, to: &Layout) -> Emit<u32> {
        if from.order() == to.order() {
            return self.reshape(v, id, to);
        }
        if from.rank() == to.rank() {
            return self.transpose(v, from, id, to);
        }
        // Axes of size 1 come and go on the side where nothing has to be copied: not at the border.
        let leaves = *to == Layout::plain(self.ty(v)) && self.outputs.contains_key(&v);
        let between = |axes: Vec<Option<usize>>| Layout::new(self.ty(v), axes);
        let refit = |order: &[usize], like: &Layout| {
            let mut order = order.iter();
            like.axes().iter().map(|a| a.and_then(|_| order.next().copied())).collect::<Vec<_>>()
        };
        if leaves {
            let mid = between(refit(&from.order(), to));
            let id = self.reshape(v, id, &mid)?;
            self.transpose(v, &mid, id, to)
        } else {
            let mid = between(refit(&to.order(), from));
            let id = self.transpose(v, from, id, &mid)?;
            self.reshape(v, id, to)
        }
    }

    fn reshape(&mut self, v: ValueId, input: u32, to: &Layout) -> Emit<u32> {
        let new_shape = to.reshape_dims(self.ty(v))?;
        let output = self.define(v, to)?;
        let num_dims = u32::try_from(new_shape.len()).expect("few dimensions");
        self.push(Op::StaticReshape(Reshape { num_dims, new_shape, input, output, flags: 0 }), None);
        Ok(output)
    }

    /// `from` and `to` have equally many axes.
    fn transpose(&mut self, v: ValueId, from: &Layout, input: u32, to: &Layout) -> Emit<u32> {
        let mut units = (0..from.rank()).filter(|&i| from.axes()[i].is_none());
        let place = |a: &Option<usize>| match a {
            Some(d) => from.position(*d),
            None => units.next(),
        };
        let perm: Option<Vec<usize>> = to.axes().iter().map(place).collect();
        let perm = perm.ok_or("its layouts do not have the same dimensions")?;
        let perm: Vec<u32> = perm.into_iter().map(|p| p as u32).collect();
        let output = self.define(v, to)?;
        let num_dims = u32::try_from(perm.len()).expect("few dimensions");
        self.push(Op::StaticTranspose(Transpose { num_dims, perm, input, output, flags: 0 }), None);
        Ok(output)
    }

    /// A constant of the program as a tensor: floats, or integers with the parameters of a tensor.
    fn constant(&mut self, v: ValueId, layout: &Layout) -> Emit<u32> {
        let ty = self.ty(v);
        let (dims, order) = (layout.dims(self.part, ty), layout.order());
        let (datatype, quant, data) = if ty.dtype == DType::I8 {
            let t = self.part.frozen(v).ok_or("it is not constant")?;
            let p = self.params(v).ok_or("it reads integers that nothing says the meaning of")?;
            let quant = Quant::PerTensor { scale: p.scale, zero_point: p.zero_point };
            (Datatype::Qint8, Some(quant), permuted(t.bytes(), t.shape(), &order, 1))
        } else {
            let (shape, floats) = weight::as_floats(self.part, v).ok_or("its constant is not a float")?;
            let (datatype, bytes) = float_bytes(&floats, ty.dtype);
            let size = bytes.len() / floats.len().max(1);
            (datatype, None, permuted(&bytes, &shape, &order, size))
        };
        let constant = self.data(data);
        let id = self.add(Value { datatype, dims, quant, constant, external_id: NO_VALUE, flags: 0 });
        self.tensors[v.index()].push((layout.clone(), id));
        Ok(id)
    }

    /// A constant that no value of the program stands for.
    pub fn literal(
        &mut self,
        datatype: Datatype,
        dims: Vec<u32>,
        quant: Option<Quant>,
        data: Vec<u8>,
    ) -> u32 {
        let constant = self.data(data);
        self.add(Value { datatype, dims, quant, constant, external_id: NO_VALUE, flags: 0 })
    }

    /// A number, as a tensor of the float type of `like`.
    pub fn number(&mut self, x: f64, like: ValueId) -> u32 {
        let (datatype, bytes) = float_bytes(&[x as f32], self.ty(like).dtype);
        self.literal(datatype, vec![1], None, bytes)
    }

    /// Stores data under a key made of its contents; equal data is stored once.
    pub fn data(&mut self, bytes: Vec<u8>) -> u32 {
        // 128 bits of the hash: the key is stored in the blob and in the program.
        let hash = Sha256::digest(&bytes);
        let key: String = hash.iter().take(16).map(|b| format!("{b:02x}")).collect();
        if let Some(&i) = self.constants.get(&key) {
            return i;
        }
        self.graph.constants.push(ConstantData { size: bytes.len() as u64, key: key.clone() });
        let i = u32::try_from(self.graph.constants.len()).expect("few constants");
        self.constants.insert(key.clone(), i);
        self.named.insert(key, bytes.into());
        i
    }

    /// The tensor of a value that is quantized while running, from the quantize node that makes it.
    ///
    /// # Errors
    /// When its input cannot be had.
    pub fn dynamic(&mut self, quantize: NodeId, layout: &Layout, num_nonbatch_dims: i32) -> Emit<u32> {
        let node = self.part.graph.node(quantize);
        let (x, q) = (views::value(node.arg(0)).ok_or("it quantizes nothing")?, node.output());
        let key = (q, layout.axes().to_vec(), num_nonbatch_dims);
        if let Some(&id) = self.dynamic.get(&key) {
            return Ok(id);
        }
        let input = self.get(x, layout)?;
        let dims = layout.dims(self.part, self.ty(x));
        let quant = Some(Quant::PerToken { num_nonbatch_dims });
        let datatype = Datatype::Qdint8;
        let output = self.add(Value { datatype, dims, quant, constant: 0, external_id: NO_VALUE, flags: 0 });
        self.push(Op::Convert(Unary { input, output, flags: 0 }), None);
        self.dynamic.insert(key, output);
        Ok(output)
    }

    /// Brings every output to the caller, and gives the blob's parts.
    ///
    /// # Errors
    /// The value that cannot be brought there, and why.
    pub fn finish(mut self) -> Result<(Graph, Vec<NamedData>), (ValueId, String)> {
        while let Some((&v, _)) = self.outputs.first_key_value() {
            let plain = Layout::plain(self.ty(v));
            let deliver = |b: &mut Self| -> Emit {
                let id = b.get(v, &plain)?;
                if b.outputs.contains_key(&v) {
                    // It is another value's tensor under another name, or a constant.
                    let output = b.define(v, &plain)?;
                    let new_shape = plain.reshape_dims(b.ty(v));
                    let same = b.graph.values[id as usize].dims == b.graph.values[output as usize].dims;
                    match new_shape {
                        Ok(new_shape) if !same => {
                            let num_dims = u32::try_from(new_shape.len()).expect("few dimensions");
                            let reshape = Reshape { num_dims, new_shape, input: id, output, flags: 0 };
                            b.push(Op::StaticReshape(reshape), None);
                        }
                        _ => b.push(Op::Copy(Unary { input: id, output, flags: 0 }), None),
                    }
                }
                Ok(())
            };
            deliver(&mut self).map_err(|why| (v, why))?;
        }
        super::tables::guard(&mut self.graph);
        let alignment = crate::subgraph::CONSTANT_ALIGNMENT;
        let named = self.named.into_iter().map(|(key, bytes)| NamedData { key, bytes, alignment });
        Ok((self.graph, named.collect()))
    }
}

/// Floats in the element type of a tensor: f16 stays f16, everything else becomes f32.
pub fn float_bytes(x: &[f32], dtype: DType) -> (Datatype, Vec<u8>) {
    if dtype == DType::F16 {
        let half: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
        (Datatype::Fp16, bytemuck::cast_slice(&half).to_vec())
    } else {
        (Datatype::Fp32, bytemuck::cast_slice(x).to_vec())
    }
}

/// Elements of `size` bytes with dimension `order[i]` of `shape` in place `i`; dimensions that are not listed have
/// size 1.
pub fn permuted(bytes: &[u8], shape: &[usize], order: &[usize], size: usize) -> Vec<u8> {
    if order.is_sorted() {
        return bytes.to_vec();
    }
    let mut strides = vec![1; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * shape[d + 1];
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; order.len()];
    let mut at = 0;
    for _ in 0..bytes.len() / size.max(1) {
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for (i, &d) in index.iter_mut().zip(order).rev() {
            *i += 1;
            at += strides[d];
            if *i < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            *i = 0;
        }
    }
    out
}

/// The result of a node as the subgraph makes it: see [`quant::exit`].
pub type Exit = quant::Exit;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_move_with_their_dimensions() {
        let x: Vec<u8> = (0..24).collect();
        // [2, 3, 4] → [4, 2, 3]
        let y = permuted(&x, &[2, 3, 4], &[2, 0, 1], 1);
        assert_eq!(y[..7], [0, 4, 8, 12, 16, 20, 1]);
        assert_eq!(permuted(&x, &[2, 1, 3, 2], &[2, 0, 3], 2)[..6], [0, 1, 2, 3, 12, 13]);
        assert_eq!(permuted(&x, &[2, 3, 4], &[0, 1, 2], 1), x);
    }
}
