//! What linear layers and convolutions have in common: weight, bias, and how they are quantized.

use super::build::{Builder, Emit, Exit, float_bytes, permuted};
use super::quant::{Dequantized, dequantized, exit};
use super::weight::{self, Scales, Weight, as_floats, check_requantization, int32_bias};
use crate::subgraph::{Datatype, NO_VALUE, Quant};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::ops::views;

/// How a layer computes.
#[derive(Clone, Debug)]
pub enum Form {
    /// With floats throughout.
    Float,
    /// With integers throughout; parameters are known.
    Static {
        /// Its input.
        input: Dequantized,
    },
    /// The input is quantized while running, the result is a float.
    Dynamic {
        /// The node that quantizes the input.
        quantize: NodeId,
    },
    /// Float input and result, integer weight.
    WeightOnly,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// How it computes.
    pub form: Form,
    /// What it reads: floats, integers, or floats that are quantized while running.
    pub input: ValueId,
    /// Its weight.
    pub weight: Weight,
    /// The value that is its weight, as a float.
    pub weight_value: ValueId,
    /// Its bias.
    pub bias: Option<ValueId>,
    /// Where its result goes.
    pub exit: Exit,
    /// The nodes absorbed.
    pub along: Vec<NodeId>,
}

/// What a kind of layer can do.
#[derive(Copy, Clone, Debug)]
pub struct Abilities {
    /// Inputs quantized while running.
    pub dynamic: bool,
    /// Float inputs with integer weights.
    pub weight_only: bool,
    /// The axis of the weight whose indices may have scales of their own.
    pub channel_axis: Option<usize>,
}

impl Layer {
    /// Reads the surroundings of `n`: arguments 0, 1 and 2 are input, weight and bias. `input` is what argument 0 stands
    /// for (past an absorbed pad).
    ///
    /// # Errors
    /// Why XNNPACK cannot have it.
    pub fn of(program: &Program, n: NodeId, input: ValueId, abilities: Abilities) -> Result<Layer, String> {
        let node = program.graph.node(n);
        let weight_value = views::value(node.arg(1)).ok_or("it has no weight")?;
        let weight = weight::weight(program, weight_value)?;
        let bias = weight::bias(program, node.arg(2))?;
        let float = |along: Vec<NodeId>| {
            let exit = exit(program, n, false, true);
            Layer {
                form: Form::Float,
                input,
                weight: weight.clone(),
                weight_value,
                bias,
                exit,
                along: along.into_iter().chain(exit.activation).collect(),
            }
        };
        let Weight::Int8 { node: dequantize, scales, range, .. } = &weight else { return Ok(float(vec![])) };
        let axis_fits = match scales {
            Scales::Tensor(_) => true,
            Scales::Channel { axis, .. } => Some(*axis) == abilities.channel_axis,
        };
        // Falls back on floats: the weight is dequantized beforehand, q/dq around the layer become conversions.
        let fallback = float(vec![*dequantize]);
        if !axis_fits {
            return Ok(fallback);
        }
        if let Some(d) = dequantized(program, input) {
            let exit = exit(program, n, true, true);
            let Some((q, out)) = exit.quantize else { return Ok(fallback) };
            let fits = check_requantization(d.params.scale, scales, out.scale).is_ok()
                && bias
                    .and_then(|b| program.frozen(b))
                    .is_none_or(|b| int32_bias(b, d.params.scale, scales).is_ok());
            if !fits || range.0 < -128 || range.1 > 127 {
                return Ok(fallback);
            }
            let along = [d.node, *dequantize].into_iter().chain(exit.activation).chain([q]).collect();
            return Ok(Layer { form: Form::Static { input: d }, input: d.int8, exit, along, ..fallback });
        }
        if let Some((quantize, mut along, x)) = quantized_while_running(program, input) {
            if !abilities.dynamic {
                return Err("XNNPACK has no such layer whose input is quantized while running".into());
            }
            if !matches!(scales, Scales::Channel { .. }) {
                return Err(
                    "XNNPACK quantizes inputs while running only if weights have a scale a channel".into()
                );
            }
            along.extend(fallback.along.iter().copied());
            return Ok(Layer { form: Form::Dynamic { quantize }, input: x, along, ..fallback });
        }
        let f32_only = program.graph.ty(input).dtype == DType::F32;
        if abilities.weight_only && f32_only && matches!(scales, Scales::Channel { .. }) {
            return Ok(Layer { form: Form::WeightOnly, ..fallback });
        }
        Ok(fallback)
    }

    /// The filter's tensor. Dimension `order[i]` of the weight is dimension `i` of the tensor, whose sizes are `dims`;
    /// `channel_dim` says where channels with scales of their own are then. Floats of f16 models stay f16 if `half`.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub fn filter(
        &self,
        b: &mut Builder<'_>,
        dims: Vec<u32>,
        order: &[usize],
        channel_dim: usize,
        half: bool,
    ) -> Emit<u32> {
        self.filter_with(b, dims, channel_dim, half, |bytes, shape, size| permuted(bytes, shape, order, size))
    }

    /// As [`filter`](Self::filter), with elements moved by `moved(bytes, shape, bytes of one)`.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub fn filter_with(
        &self,
        b: &mut Builder<'_>,
        dims: Vec<u32>,
        channel_dim: usize,
        half: bool,
        moved: impl Fn(&[u8], &[usize], usize) -> Vec<u8>,
    ) -> Emit<u32> {
        let channel_dim = i32::try_from(channel_dim).expect("few dimensions");
        if let (Weight::Int8 { value, scales, range, .. }, false) =
            (&self.weight, matches!(self.form, Form::Float))
        {
            let t = b.part.frozen(*value).ok_or("its weight is not constant")?;
            let data = moved(t.bytes(), t.shape(), 1);
            let (datatype, quant) = match scales {
                Scales::Tensor(scale) => (Datatype::Qint8, Quant::PerTensor { scale: *scale, zero_point: 0 }),
                Scales::Channel { scales, .. } => {
                    let quant = Quant::PerChannel { scales: scales.clone(), channel_dim };
                    let four_bits = *range == (-8, 7) && matches!(self.form, Form::Dynamic { .. });
                    if four_bits && dims.len() == 2 {
                        let data = nibbles(&data, dims[1] as usize);
                        return Ok(b.literal(Datatype::Qcint4, dims, Some(quant), data));
                    }
                    (Datatype::Qcint8, quant)
                }
            };
            return Ok(b.literal(datatype, dims, Some(quant), data));
        }
        let (shape, floats) = as_floats(b.part, self.weight_value).ok_or("its weight is not constant")?;
        let dtype = if half { b.ty(self.weight_value).dtype } else { DType::F32 };
        let (datatype, bytes) = float_bytes(&floats, dtype);
        let data = moved(&bytes, &shape, bytes.len() / floats.len().max(1));
        Ok(b.literal(datatype, dims, None, data))
    }

    /// The bias's tensor, or [`NO_VALUE`].
    ///
    /// # Errors
    /// When it does not fit.
    pub fn bias(&self, b: &mut Builder<'_>, half: bool) -> Emit<u32> {
        let Some(v) = self.bias else { return Ok(NO_VALUE) };
        let t = b.part.frozen(v).ok_or("its bias is not constant")?;
        let dims = vec![u32::try_from(t.numel()).map_err(|_| "its bias is too long")?];
        if let (Form::Static { input }, Weight::Int8 { scales, .. }) = (&self.form, &self.weight) {
            let (q, scales) = int32_bias(t, input.params.scale, scales)?;
            let data = bytemuck::cast_slice(&q).to_vec();
            return Ok(match scales {
                Scales::Tensor(scale) => {
                    b.literal(Datatype::Qint32, dims, Some(Quant::PerTensor { scale, zero_point: 0 }), data)
                }
                Scales::Channel { scales, .. } => b.literal(
                    Datatype::Qcint32,
                    dims,
                    Some(Quant::PerChannel { scales, channel_dim: 0 }),
                    data,
                ),
            });
        }
        let dtype = if half && matches!(self.form, Form::Float) { t.dtype() } else { DType::F32 };
        let (datatype, bytes) = float_bytes(&t.to_f32(), dtype);
        Ok(b.literal(datatype, dims, None, bytes))
    }

    /// The input's tensor in a layout; `num_nonbatch_dims` trailing axes share a scale when it is quantized while
    /// running.
    ///
    /// # Errors
    /// When it cannot be had in that layout.
    pub fn input(
        &self,
        b: &mut Builder<'_>,
        layout: &super::layout::Layout,
        num_nonbatch_dims: i32,
    ) -> Emit<u32> {
        match self.form {
            Form::Dynamic { quantize } => b.dynamic(quantize, layout, num_nonbatch_dims),
            _ => b.get(self.input, layout),
        }
    }
}

/// What `v` is dequantized from when that was quantized with parameters chosen while running: the quantize node, all
/// nodes of the chain, and the float.
fn quantized_while_running(program: &Program, v: ValueId) -> Option<(NodeId, Vec<NodeId>, ValueId)> {
    let g = &program.graph;
    let dq = g.producer(v)?;
    if *g.node(dq).op() != ops::DEQUANTIZE_PER_TENSOR_TENSOR {
        return None;
    }
    let q = g.producer(views::value(g.node(dq).arg(0))?)?;
    let choose = g.producer(views::value(g.node(q).arg(1))?)?;
    let (quantize, chooser) = (g.node(q), g.node(choose));
    if *quantize.op() != ops::QUANTIZE_PER_TENSOR_TENSOR || *chooser.op() != ops::CHOOSE_QPARAMS {
        return None;
    }
    let x = views::value(quantize.arg(0))?;
    // The runtime chooses as this operator does: from −128 to 127, with the data's own minimum and maximum.
    let whole = |n: &lowbit_core::ir::Node, lo: usize| {
        (views::int(n.arg(lo)), views::int(n.arg(lo + 1))) == (Some(-128), Some(127))
    };
    let int8 = *quantize.arg(5) == Arg::DType(DType::I8);
    let same = views::value(chooser.arg(0)) == Some(x)
        && views::value(quantize.arg(2)) == chooser.outputs().get(1).copied();
    (whole(quantize, 3) && whole(chooser, 1) && int8 && same).then(|| (q, vec![dq, q, choose], x))
}

/// Two 4-bit integers to a byte, the first in the low half, each plus 8; rows of an odd length get a 0 at the end.
fn nibbles(data: &[u8], row: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len().div_ceil(2));
    for r in data.chunks(row.max(1)) {
        for pair in r.chunks(2) {
            let half = |i: usize| pair.get(i).map_or(8, |&q| (q as i8 + 8) as u8 & 15);
            out.push(half(0) | half(1) << 4);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn nibbles_are_offset_by_eight() {
        let x: Vec<u8> = [-8i8, 7, 0, 1, -1, 3].iter().map(|&x| x as u8).collect();
        assert_eq!(super::nibbles(&x, 3), [0xf0, 0x88, 0x79, 0x8b]);
    }
}
