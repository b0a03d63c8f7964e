//! What linear layers and convolutions have in common: weight, bias, and how they are quantized.

use super::build::{Builder, Emit, Exit, float_bytes, permuted};
use super::quant::{Dequantized, dequantized, exit};
use super::weight::{self, Scales, Weight, as_floats, check_requantization, int32_bias};
use crate::subgraph::{Datatype, NO_VALUE, Quant};
use lowbit_core::SymInt;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, Node, NodeId, Program, ValueId};
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
    /// Its weight is stored in 4 bits, as a matrix.
    pub four_bits: bool,
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
    /// Inputs quantized while running, and what shares a range then.
    pub dynamic: Option<Share>,
    /// Weights of 4 bits, and those with a scale a group, when the input is quantized while running.
    pub four_bits: bool,
    /// Float inputs with integer weights.
    pub weight_only: bool,
    /// The axis of the weight whose indices may have scales of their own.
    pub channel_axis: Option<usize>,
}

/// What shares a range when a layer's input is quantized while running.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// A line along the last dimension.
    Row,
    /// A line along dimension 1.
    Pixel,
    /// An index of dimension 0.
    Image,
}

impl Share {
    /// Whether these are the sizes of what shares a range in a tensor of this shape.
    fn is_block(self, block: &[SymInt], shape: &[SymInt]) -> bool {
        let whole = |d: usize| match self {
            Share::Row => d + 1 == shape.len(),
            Share::Pixel => d == 1,
            Share::Image => d > 0,
        };
        let sizes = shape.iter().enumerate().map(|(d, n)| if whole(d) { n.clone() } else { 1.into() });
        block.len() == shape.len() && sizes.zip(block).all(|(n, b)| n == *b)
    }
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
                four_bits: false,
                weight_value,
                bias,
                exit,
                along: along.into_iter().chain(exit.activation).collect(),
            }
        };
        let Weight::Int8 { node: dequantize, scales, range, .. } = &weight else { return Ok(float(vec![])) };
        let running =
            quantized_while_running(program, input).filter(|r| match (&r.block, abilities.dynamic) {
                (Some(block), Some(share)) => share.is_block(block, &program.graph.ty(r.input).shape),
                (Some(_), None) => false,
                (None, _) => true,
            });
        // Rows of an odd number of integers lie as padded to bytes for some of XNNPACK's kernels, and packed for others.
        let inputs = program.graph.ty(weight_value).shape.get(1).and_then(SymInt::known);
        let even = inputs.is_some_and(|k| k % 2 == 0);
        let four_bits = abilities.four_bits && running.is_some() && *range == (-8, 7) && even;
        let axis_fits = match scales {
            Scales::Tensor(_) => true,
            Scales::Channel { axis, .. } => Some(*axis) == abilities.channel_axis,
            Scales::Group { size, scales } => {
                four_bits && size % 32 == 0 && weight::bf16_scales(scales).is_ok()
            }
        };
        // Falls back on floats: q/dq around the layer become conversions. The weight stays integers, where there is such a
        // layer, or else is dequantized beforehand.
        let mut fallback = float(vec![*dequantize]);
        if !axis_fits {
            return Ok(fallback);
        }
        let f32_only = program.graph.ty(input).dtype == DType::F32;
        if abilities.weight_only && f32_only && matches!(scales, Scales::Channel { .. }) {
            fallback.form = Form::WeightOnly;
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
        if let Some(Running { quantize, mut along, input: x, .. }) = running {
            if abilities.dynamic.is_none() {
                return Err("XNNPACK has no such layer whose input is quantized while running".into());
            }
            if matches!(scales, Scales::Tensor(_)) {
                return Err(
                    "XNNPACK quantizes inputs while running only if weights have a scale a channel".into()
                );
            }
            along.extend(fallback.along.iter().copied());
            return Ok(Layer { form: Form::Dynamic { quantize }, input: x, four_bits, along, ..fallback });
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
        let channel_dim = i32::try_from(channel_dim).map_err(|_| "its weight has too many dimensions")?;
        if let (Weight::Int8 { value, scales, .. }, false) = (&self.weight, matches!(self.form, Form::Float))
        {
            let t = b.part.frozen(*value).ok_or("its weight is not constant")?;
            let data = moved(t.bytes(), t.shape(), 1);
            let (datatype, quant) = match scales {
                Scales::Tensor(scale) => (Datatype::Qint8, Quant::PerTensor { scale: *scale, zero_point: 0 }),
                Scales::Channel { scales, .. } => {
                    let quant = Quant::PerChannel { scales: scales.clone(), channel_dim };
                    if self.four_bits {
                        return Ok(b.literal(Datatype::Qcint4, dims, Some(quant), nibbles(&data)));
                    }
                    (Datatype::Qcint8, quant)
                }
                Scales::Group { size, scales } => {
                    let count = |n: usize| u32::try_from(n).map_err(|_| "its weight is too large");
                    let num_scales = count(scales.len())?;
                    let scales = weight::bf16_scales(scales)?;
                    let scale_constant = b.data(bytemuck::cast_slice(&scales).to_vec());
                    let group_size = i32::try_from(*size).map_err(|_| "its groups are too large")?;
                    let quant =
                        Quant::PerChannelGroup { scale_constant, num_scales, channel_dim, group_size };
                    return Ok(b.literal(Datatype::Qbint4, dims, Some(quant), nibbles(&data)));
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
                Scales::Group { .. } => return Err("a layer of integers has no groups".into()),
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

/// A value that is quantized with parameters chosen while running, and dequantized.
struct Running {
    quantize: NodeId,
    /// All nodes of the chain.
    along: Vec<NodeId>,
    /// The float that is quantized.
    input: ValueId,
    /// The sizes of what shares a range, where the program says more than "all of it".
    block: Option<Vec<SymInt>>,
}

/// What `v` is dequantized from when that was quantized with parameters chosen while running.
fn quantized_while_running(program: &Program, v: ValueId) -> Option<Running> {
    let g = &program.graph;
    let dq = g.producer(v)?;
    let by_blocks = match g.node(dq).op() {
        op if *op == ops::DEQUANTIZE_PER_TENSOR_TENSOR => false,
        op if *op == ops::DEQUANTIZE_AFFINE => true,
        _ => return None,
    };
    // Where block sizes, scale, zero point and range are, in a (de)quantize; and the range and type in what chooses.
    let [scale, zero, dtype, min] = if by_blocks { [2, 3, 4, 5] } else { [1, 2, 5, 3] };
    let [chosen_min, chosen_dtype] = if by_blocks { [4, 3] } else { [1, 4] };
    let q = g.producer(views::value(g.node(dq).arg(0))?)?;
    let choose = g.producer(views::value(g.node(q).arg(scale))?)?;
    let (dequantize, quantize, chooser) = (g.node(dq), g.node(q), g.node(choose));
    let ops = match by_blocks {
        true => [&ops::QUANTIZE_AFFINE, &ops::CHOOSE_QPARAMS_AFFINE],
        false => [&ops::QUANTIZE_PER_TENSOR_TENSOR, &ops::CHOOSE_QPARAMS],
    };
    if [quantize.op(), chooser.op()] != ops {
        return None;
    }
    let input = views::value(quantize.arg(0))?;
    // The runtime chooses as these operators do: from −128 to 127, with the data's own minimum and maximum.
    let int8 = |n: &Node, dtype: usize, lo: usize| {
        let bound = |i: usize, of_type: i64| match n.arg(i) {
            Arg::None => Some(of_type),
            arg => views::int(arg),
        };
        *n.arg(dtype) == Arg::DType(DType::I8)
            && (bound(lo, -128), bound(lo + 1, 127)) == (Some(-128), Some(127))
    };
    let whole =
        int8(dequantize, dtype, min) && int8(quantize, dtype, min) && int8(chooser, chosen_dtype, chosen_min);
    let parameters = |n: &Node| [scale, zero].map(|i| views::value(n.arg(i)));
    let same = views::value(chooser.arg(0)) == Some(input)
        && parameters(quantize) == [0, 1].map(|i| chooser.outputs().get(i).copied())
        && parameters(dequantize) == parameters(quantize);
    let block = match by_blocks {
        true => {
            let same = *chooser.arg(2) == *quantize.arg(1) && *chooser.arg(2) == *dequantize.arg(1);
            let affine = *chooser.arg(1) == Arg::from("ASYMMETRIC");
            let Arg::Ints(block) = chooser.arg(2) else { return None };
            if !same || !affine {
                return None;
            }
            Some(block.clone())
        }
        false => None,
    };
    (whole && same).then(|| Running { quantize: q, along: vec![dq, q, choose], input, block })
}

/// Two 4-bit integers to a byte, the first in the low half, each plus 8.
fn nibbles(data: &[u8]) -> Vec<u8> {
    let half = |q: u8| (q as i8 + 8) as u8 & 15;
    data.chunks(2).map(|pair| pair.iter().rev().fold(0, |byte, &q| byte << 4 | half(q))).collect()
}

#[cfg(test)]
mod tests {
    use crate::Xnnpack;
    use crate::subgraph::{Datatype, Graph, Quant, Value};
    use half::bf16;
    use lowbit_core::backend::{Backend, Options};
    use lowbit_core::flow::{self, Lowered};
    use lowbit_core::ir::text;
    use lowbit_core::tensor::Tensor;

    /// A layer as torchao's 8da4w has it; `BLOCK` is what shares a range in its input, `GROUP` a scale in its weight.
    const LAYER: &str = "program {
      %x : f32[3, 64] = input
      %w : i8[2, 64] = constant \"w\"
      %s : f32[2, SCALES] = constant \"s\"
      %z : i8[2, SCALES] = constant \"z\"
      %xs : f32[ROWS], %xz : i8[ROWS] = torchao.choose_qparams_affine.default(%x, \"ASYMMETRIC\", BLOCK, i8, -128, 127, none, none, i8)
      %xq : i8[3, 64] = torchao.quantize_affine.default(%x, BLOCK, %xs, %xz, i8, -128, 127)
      %xd : f32[3, 64] = torchao.dequantize_affine.default(%xq, BLOCK, %xs, %xz, i8, -128, 127)
      %wd : f32[2, 64] = torchao.dequantize_affine.default(%w, [1, GROUP], %s, %z, i8, -8, 7)
      %y : f32[3, 2] = aten.linear.default(%xd, %wd, none)
      return %y
    }";

    fn lowered(group: usize, block: &str) -> Lowered {
        let scales = 64 / group;
        let rows = if block == "[1, 64]" { "3" } else { "" };
        let text = LAYER.replace("BLOCK", block).replace("ROWS", rows);
        let text = text.replace("SCALES", &scales.to_string()).replace("GROUP", &group.to_string());
        let mut p = text::parse(&text).unwrap();
        let w: Vec<i8> = (0..128).map(|i| (i % 16) as i8 - 8).collect();
        let s: Vec<f32> = (0..2 * scales).map(|i| 0.1 + i as f32).collect();
        let ids: Vec<_> = p.constants.iter().map(|(c, k)| (c, k.name.clone())).collect();
        for (c, name) in ids {
            match &*name {
                "w" => p.constants[c].tensor = Tensor::new(&[2, 64], w.clone()).unwrap(),
                "s" => p.constants[c].tensor = Tensor::new(&[2, scales], s.clone()).unwrap(),
                _ => {}
            }
        }
        let lowering = Xnnpack.lowering(&Options::new()).unwrap();
        flow::lower(p, &[&*lowering]).unwrap()
    }

    /// The weight's tensor, and the data of a constant by its place.
    fn weight(l: &Lowered) -> (Value, impl Fn(u32) -> Vec<u8> + '_) {
        let graph = Graph::read(&l.delegates[0].blob.bytes);
        let constant = graph.values.iter().find(|v| v.constant != 0).cloned().unwrap();
        let data = move |place: u32| {
            let key = &graph.constants[place as usize - 1].key;
            l.delegates[0].blob.named_data.iter().find(|d| d.key == *key).unwrap().bytes.to_vec()
        };
        (constant, data)
    }

    #[test]
    fn weights_of_four_bits_have_scales_of_groups_or_channels() {
        let packed: Vec<u8> = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(8);
        let l = lowered(32, "[1, 64]");
        assert!(l.outside().next().is_none(), "{:?}", l.nodes);
        let (value, data) = weight(&l);
        assert_eq!((value.datatype, &value.dims[..]), (Datatype::Qbint4, &[2, 64][..]));
        assert_eq!(data(value.constant), packed);
        let Some(Quant::PerChannelGroup { scale_constant, num_scales: 4, channel_dim: 0, group_size: 32 }) =
            value.quant
        else {
            panic!("{value:?}")
        };
        let scales: Vec<bf16> = [0.1, 1.1, 2.1, 3.1].map(bf16::from_f32).into();
        assert_eq!(data(scale_constant), bytemuck::cast_slice::<_, u8>(&scales));

        let l = lowered(64, "[1, 64]");
        let (value, data) = weight(&l);
        assert_eq!(value.datatype, Datatype::Qcint4);
        assert_eq!(value.quant, Some(Quant::PerChannel { scales: vec![0.1, 1.1], channel_dim: 0 }));
        assert_eq!(data(value.constant), packed);
    }

    #[test]
    fn what_xnnpack_does_otherwise_is_done_in_floats() {
        // Groups of 16, and one range for all rows: XNNPACK gets dequantized weights, and inputs from outside.
        for l in [lowered(16, "[1, 64]"), lowered(32, "[3, 64]")] {
            let (value, _) = weight(&l);
            assert_eq!(value.datatype, Datatype::Fp32);
            let outside: Vec<&str> = l.outside().map(|(n, _)| &*n.name).collect();
            assert_eq!(outside, ["xs", "xq", "xd"]);
        }
    }

    #[test]
    fn nibbles_are_offset_by_eight() {
        let x: Vec<u8> = [-8i8, 7, 0, 1, -1, 3].iter().map(|&x| x as u8).collect();
        assert_eq!(super::nibbles(&x), [0xf0, 0x98, 0xb7]);
    }
}
