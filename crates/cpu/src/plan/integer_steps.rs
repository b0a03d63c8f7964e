//! From groups of [`Integers`](super::integers::Integers) to steps.

use super::build::{Builder, Kind, kind, operands};
use super::integers::{Form, Group, Source};
use super::layout::Layout;
use super::{Place, Run, concrete};
use crate::dense::geometry::Geometry;
use crate::dense::groups::GroupedWeights;
use crate::dense::integer::{IntegerFilter, line};
use crate::dense::mean::Mean;
use crate::dense::rescale::{Addition, Grid, Rescale};
use crate::kernel::{KernelCall, TensorMut, TensorRef, kernel};
use lowbit_core::executor::RunError;
use lowbit_core::ir::{NodeId, ValueId};
use lowbit_core::symint::Bindings;
use lowbit_core::{DType, Tensor};
use std::sync::Arc;

/// A step on integers.
#[derive(Debug)]
pub enum IntegerStep {
    /// A convolution, channels last.
    Convolve(Geometry, Arc<Layer>),
    /// Rows times a matrix.
    Multiply(Arc<Layer>),
    /// Rows, quantized while running, times a matrix. Inputs: integers, scales, and zero points if there are any.
    Rows(Arc<RowLayer>),
    /// A sum of two tensors.
    Add(Addition),
    /// The mean of each channel's positions, channels last.
    Mean(Mean),
    /// Every byte becomes the one at its place.
    Table(Box<[u8; 256]>),
}

/// A layer's packed integers, and what becomes of its sums.
#[derive(Debug)]
pub struct Layer {
    pub(crate) filter: IntegerFilter,
    pub(crate) rescale: Rescale,
    /// Whether the input is signed, and its zero point.
    pub(crate) input: (bool, i32),
    /// Rows and columns, where it is a matrix.
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

/// A linear layer's packed integers, for rows that are quantized while running.
#[derive(Debug)]
pub struct RowLayer {
    pub(crate) weights: GroupedWeights,
    /// Whether the input is signed.
    pub(crate) signed: bool,
}

/// Bytes less the zero point at each place.
fn centred(integers: &Tensor, zero: impl Fn(usize) -> i16) -> Vec<i16> {
    let signed = integers.dtype() == DType::I8;
    let of = |(i, &b): (usize, &u8)| {
        let q = if signed { i16::from(b as i8) } else { i16::from(b) };
        q.saturating_sub(zero(i))
    };
    integers.bytes().iter().enumerate().map(of).collect()
}

impl Builder<'_> {
    /// Whether the integer kernels take this layer, apart from its operands.
    pub(super) fn is_integer_layer(&self, n: NodeId) -> bool {
        const LARGEST: usize = (i32::MAX as usize) / (255 * 255);
        let node = self.program.graph.node(n);
        let Some((x, w, _)) = operands(node) else { return false };
        let ranks = [x, w].map(|v| self.program.graph.ty(v).shape.len());
        let (Ok(w_shape), Ok(out)) = (self.shape(w, n), self.shape(node.output(), n)) else { return false };
        let depth: usize = w_shape.iter().skip(1).product();
        if w_shape.contains(&0) || out.contains(&0) || depth > LARGEST {
            return false;
        }
        match kind(node) {
            Kind::Convolution => {
                ranks[0] == ranks[1]
                    && ranks[1] >= 3
                    && matches!(self.geometry(n, x, w, &out), Ok(Some(g)) if g.padding.iter().all(|&p| p >= 0))
            }
            Kind::Product => ranks[1] == 2 && ranks[0] >= 1,
            Kind::Other => false,
        }
    }

    /// The step of a group.
    pub(super) fn integers(&mut self, last: NodeId, group: &Group) -> Result<(), RunError> {
        let shape = self.shape(group.output, last)?;
        match &group.form {
            Form::Layer { root, x, clamp, to } => {
                let node = self.program.graph.node(*root);
                let convolution = kind(node) == Kind::Convolution;
                let Some((float, w, _)) = operands(node) else { return self.node(*root) };
                let geometry = match convolution {
                    true => self.geometry(*root, float, w, &shape)?,
                    false => None,
                };
                let layer = self.layer(*root, geometry.as_ref(), x, *clamp, *to)?;
                let layout = if convolution { Layout::ChannelsLast } else { Layout::Contiguous };
                let input = self.slot(x.value, layout, Some(*root))?;
                let out = self.make(group.output, shape, layout, Place::Nowhere);
                let step = match geometry {
                    Some(g) => IntegerStep::Convolve(g, layer),
                    None => IntegerStep::Multiply(layer),
                };
                self.push(*root, Run::Integer(step), vec![], vec![input], vec![out]);
            }
            Form::Rows { root, x } => {
                let layer = self.row_layer(*root, x.signed)?;
                let operands = [Some(x.value), Some(x.scale), x.zero].into_iter().flatten();
                let inputs = operands.map(|v| self.slot(v, Layout::Contiguous, Some(*root)));
                let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
                let out = self.make(group.output, shape, Layout::Contiguous, Place::Nowhere);
                self.push(*root, Run::Integer(IntegerStep::Rows(layer)), vec![], inputs, vec![out]);
            }
            Form::Add { x, y, clamp, to } => {
                let last_format = [x, y].iter().any(|s| self.format(s.value) == Layout::ChannelsLast);
                let layout = if last_format { Layout::ChannelsLast } else { Layout::Contiguous };
                let inputs =
                    vec![self.slot(x.value, layout, Some(last))?, self.slot(y.value, layout, Some(last))?];
                let step = Addition::new((x.grid, x.signed), (y.grid, y.signed), *clamp, *to);
                let out = self.make(group.output, shape, layout, Place::Nowhere);
                self.push(last, Run::Integer(IntegerStep::Add(step)), vec![], inputs, vec![out]);
            }
            Form::Mean { root, x, clamp, to } => {
                let image = self.shape(x.value, last)?;
                let positions = image[2..].iter().product();
                let input = self.slot(x.value, Layout::ChannelsLast, Some(*root))?;
                let step = Mean::new((x.grid, x.signed), (image[1], positions), *clamp, *to);
                let out = self.make(group.output, shape, Layout::Contiguous, Place::Nowhere);
                self.push(*root, Run::Integer(IntegerStep::Mean(step)), vec![], vec![input], vec![out]);
            }
            Form::Table { x, chain } => {
                let table = self.table(x, chain)?;
                let layout = self.format(x.value);
                let input = self.slot(x.value, layout, Some(last))?;
                let out = self.make(group.output, shape, layout, Place::Nowhere);
                // What it is for is the first function, not the quantize node.
                self.push(chain[0], Run::Integer(IntegerStep::Table(table)), vec![], vec![input], vec![out]);
            }
            Form::Move { node, inputs } => self.call(*node, inputs, &[group.output])?,
        }
        Ok(())
    }

    /// Packs the weights of a layer, unless another plan has.
    fn layer(
        &mut self,
        n: NodeId,
        geometry: Option<&Geometry>,
        x: &Source,
        clamp: (f32, f32),
        to: Option<Grid>,
    ) -> Result<Arc<Layer>, RunError> {
        if let Some(layer) = self.shared.layers.get(&n) {
            return Ok(layer.clone());
        }
        let fail = |reason: &str| RunError::node(self.program, n, reason);
        let node = self.program.graph.node(n);
        let Some((_, w, bias)) = operands(node) else { return Err(fail("it is no layer")) };
        let quantized = self.program.graph.producer(w).map(|q| self.program.graph.node(q));
        let quantized = quantized.ok_or_else(|| fail("its weights are not quantized"))?;
        let parameters = quantized.operands().skip(1).map(|v| self.evaluate(v));
        let parameters = parameters.collect::<Result<Vec<_>, _>>()?;
        let integers = quantized.operands().next().map(|v| self.evaluate(v));
        let integers = integers.ok_or_else(|| fail("its weights are not quantized"))??;
        let columns = integers.shape()[0];
        let depth = integers.shape()[1..].iter().product::<usize>();
        let (scales, zeros) = match super::integers::grid(quantized) {
            Some(g) => (vec![g.scale; columns], vec![g.zero as i16; columns]),
            None => {
                let list = |i: usize| parameters.get(i).map(Tensor::to_f64);
                let zeros = list(1).unwrap_or_else(|| vec![0.0; columns]);
                let scales = list(0).unwrap_or_default();
                if scales.len() != columns || zeros.len() != columns {
                    return Err(fail("there are not as many scales as channels"));
                }
                (scales, zeros.iter().map(|&z| z as i16).collect())
            }
        };
        let centred = centred(&integers, |i| zeros[i / depth.max(1)]);
        integers.release();
        let matrix = line(1, depth, columns);
        let filter = IntegerFilter::new(self.isa, geometry.unwrap_or(&matrix), &centred)
            .ok_or_else(|| fail("its weights lie too far from their zero points"))?;
        let bias = match bias {
            Some(b) => Some(self.evaluate(b)?.to_f32().into_owned()),
            None => None,
        };
        let scales: Vec<f64> = scales.iter().map(|w| w * x.grid.scale).collect();
        let rescale = Rescale::new(&scales, bias.as_deref(), clamp, to);
        let layer = Layer { filter, rescale, input: (x.signed, x.grid.zero), depth, columns };
        Ok(self.shared.layers.entry(n).or_insert(Arc::new(layer)).clone())
    }

    /// Packs the weights of a layer of rows, unless another plan has.
    fn row_layer(&mut self, n: NodeId, signed: bool) -> Result<Arc<RowLayer>, RunError> {
        if let Some(layer) = self.shared.row_layers.get(&n) {
            return Ok(layer.clone());
        }
        let fail = |reason: &str| RunError::node(self.program, n, reason);
        let no_layer = || fail("its weights are not quantized");
        let Some((_, w, bias)) = operands(self.program.graph.node(n)) else { return Err(no_layer()) };
        let quantized =
            self.program.graph.producer(w).map(|q| self.program.graph.node(q)).ok_or_else(no_layer)?;
        let parts = quantized.operands().map(|v| self.evaluate(v)).collect::<Result<Vec<_>, _>>()?;
        let [integers, scales, zeros @ ..] = &parts[..] else { return Err(no_layer()) };
        let &[columns, inputs] = integers.shape() else { return Err(fail("its weights are no matrix")) };
        let size = (columns * inputs).checked_div(scales.numel()).unwrap_or(1).max(1);
        let zeros: Vec<i16> =
            zeros.first().map_or(vec![], |z| z.to_f32().iter().map(|&z| z as i16).collect());
        let centred = centred(integers, |i| zeros.get(i / size).copied().unwrap_or(0));
        integers.release();
        let bias = bias.map(|b| self.evaluate(b)).transpose()?;
        let bias = bias.as_ref().map(Tensor::to_f32);
        let weights = GroupedWeights::new(self.isa, &centred, &scales.to_f32(), bias.as_deref(), columns)
            .ok_or_else(|| fail("its weights lie too far from their zero points, or its groups are odd"))?;
        let layer = RowLayer { weights, signed };
        Ok(self.shared.row_layers.entry(n).or_insert(Arc::new(layer)).clone())
    }

    /// What a chain of functions makes of every integer: by the kernels that compute it otherwise.
    fn table(&self, x: &Source, chain: &[NodeId]) -> Result<Box<[u8; 256]>, RunError> {
        let g = &self.program.graph;
        let dequantize = g.producer(g.node(chain[0]).operands().next().unwrap_or(x.value));
        let mut bytes: Vec<u64> = (0..32u64)
            .map(|i| u64::from_ne_bytes(std::array::from_fn(|k| (i * 8) as u8 + k as u8)))
            .collect();
        let mut dtype = g.ty(x.value).dtype;
        let none = Bindings::default();
        for n in dequantize.into_iter().chain(chain.iter().copied()) {
            let node = g.node(n);
            let args = concrete(self.program, n, &none)?;
            let fail = |reason: String| RunError::node(self.program, n, reason);
            let run = kernel(node.op()).ok_or_else(|| fail(format!("{} has no kernel", node.op().name)))?;
            let to = g.ty(node.output()).dtype;
            let mut made = vec![0u64; 32 * to.size()];
            {
                let len = |d: DType| 256 * d.size();
                let input = &bytemuck::cast_slice(&bytes)[..len(dtype)];
                let inputs = [TensorRef { dtype, shape: &[256], bytes: input }];
                let out = &mut bytemuck::cast_slice_mut(&mut made)[..len(to)];
                let mut outs = [TensorMut { dtype: to, shape: &[256], bytes: out }];
                let call = KernelCall::alone(node.op(), &args, &inputs, self.isa);
                run(&call, &mut outs).map_err(|e| fail(e.0))?;
            }
            (bytes, dtype) = (made, to);
        }
        let mut table = Box::new([0u8; 256]);
        table.copy_from_slice(&bytemuck::cast_slice(&bytes)[..256]);
        Ok(table)
    }

    /// The numbers of a forward convolution.
    pub(super) fn geometry(
        &self,
        n: NodeId,
        x: ValueId,
        w: ValueId,
        out: &[usize],
    ) -> Result<Option<Geometry>, RunError> {
        let node = self.program.graph.node(n);
        let (x, w) = (self.shape(x, n)?, self.shape(w, n)?);
        let args = concrete(self.program, n, self.bindings)?;
        let of = |shape| TensorRef { dtype: DType::F32, shape, bytes: &[] };
        let shapes = [of(&x[..]), of(&w)];
        let call = KernelCall::alone(node.op(), &args, &shapes, self.isa);
        crate::kernels::conv::geometry(&call, out).map_err(|e| RunError::node(self.program, n, e.0))
    }
}
