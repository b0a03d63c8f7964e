//! Weights and biases: constants of layers, with the scales that they are dequantized with.

use super::{Builder, Emitted, Node};
use crate::graph::{DType, Encoding, TensorId};
use crate::lowering::builder::permute;
use crate::lowering::kind::Kind;
use crate::soc::BLOCK_WEIGHTS;
use bytes::Bytes;
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};
use lowbit_core::quant::runs;
use std::borrow::Cow;

static DEQUANTIZE: &[&OpDef] =
    &[&ops::DEQUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_CHANNEL, &ops::DEQUANTIZE_AFFINE];

/// Whether a value is dequantized from a constant.
pub fn is_weight(program: &Program, v: ValueId) -> bool {
    let producer = program.graph.producer(v).map(|n| program.graph.node(n));
    producer
        .is_some_and(|n| DEQUANTIZE.contains(&n.op()) && n.operands().all(|o| program.frozen(o).is_some()))
}

/// What shares a scale.
#[derive(Clone, Debug, PartialEq)]
enum Scales {
    Tensor,
    /// The axis.
    Axis(usize),
    /// Output channels by runs of so many input channels.
    Blocks(usize),
}

/// A constant of a layer.
#[derive(Debug)]
pub struct Weight<'a> {
    name: String,
    data: Cow<'a, Tensor>,
    /// `None`: floats.
    scales: Option<(Scales, Vec<f32>)>,
    zero_points: Vec<i32>,
    range: (i64, i64),
}

impl<'a> Weight<'a> {
    /// The weight in argument `i`.
    ///
    /// # Errors
    /// When it is computed from inputs, or stored in a way that the chip does not know.
    pub fn read(b: &Builder<'a>, node: &Node, i: usize) -> Emitted<Self> {
        let v = views::value(node.arg(i)).ok_or_else(|| format!("argument {i} is no tensor"))?;
        let p = b.program;
        let name = p.graph.value(v).name.to_string();
        if let Some(data) = p.frozen(v) {
            let data = Cow::Borrowed(data);
            return Ok(Weight { name, data, scales: None, zero_points: vec![], range: (0, 0) });
        }
        if !is_weight(p, v) {
            return Err("HTP takes constant weights and biases only".into());
        }
        let n = p.graph.producer(v).map(|n| p.graph.node(n)).ok_or("it has no weight")?;
        let frozen = |i: usize| views::value(n.arg(i)).and_then(|v| p.frozen(v));
        let data = frozen(0).ok_or("its weight is no constant")?;
        let numbers = |t: &Tensor| t.to_f32().into_owned();
        let whole = |i: usize, count: usize| match frozen(i) {
            Some(t) => t.to_f64().iter().map(|&z| z as i32).collect(),
            None => vec![0; count],
        };
        let range = |i: usize| {
            let ends = views::float(n.arg(i)).zip(views::float(n.arg(i + 1)));
            ends.map(|(a, b)| (a as i64, b as i64))
                .or_else(|| data.dtype().int_bounds())
                .ok_or("its integers have no range")
        };
        let (shares, scales, zero_points, range) = match n.op() {
            op if *op == ops::DEQUANTIZE_PER_TENSOR => {
                let scale = super::number(n, 1)? as f32;
                let zero = i32::try_from(super::int(n, 2)?).map_err(|e| e.to_string())?;
                (Scales::Tensor, vec![scale], vec![zero], range(3)?)
            }
            op if *op == ops::DEQUANTIZE_PER_CHANNEL => {
                let scales = numbers(frozen(1).ok_or("its scales are no constant")?);
                let axis = super::dim(n, 3, data.shape().len())?;
                let zero_points = whole(2, scales.len());
                (Scales::Axis(axis), scales, zero_points, range(4)?)
            }
            _ => {
                let scales = numbers(frozen(2).ok_or("its scales are no constant")?);
                let block = super::ints(n, 1)?;
                let shares = blocks(&block, data.shape())?;
                let zero_points = whole(3, scales.len());
                (shares, scales, zero_points, range(5)?)
            }
        };
        Ok(Weight { name, data: Cow::Borrowed(data), scales: Some((shares, scales)), zero_points, range })
    }

    /// The sizes of its dimensions.
    pub fn shape(&self) -> &[usize] {
        self.data.shape()
    }

    /// Whether it has scales by blocks.
    pub fn has_blocks(&self) -> bool {
        matches!(self.scales, Some((Scales::Blocks(_), _)))
    }

    /// A weight of single points, in a form that the chip sums up more finely. It drops the last bits of sums of 16-bit
    /// activations (measured: some hundred units); these stand for a sixteenth as much where a channel is one block, since its
    /// 4-bit integers are multiplied by 16 before. (Of channels that are no multiple of 16 the library makes something else.)
    pub fn finer(mut self, b: &Builder<'_>, x: TensorId) -> Self {
        let points =
            self.data.shape()[2..].iter().all(|&k| k == 1) && self.data.shape()[1].is_multiple_of(16);
        let symmetric = self.zero_points.iter().all(|z| *z == 0);
        let four = self.bits() == Some(4) && self.data.dtype() == CoreType::I8;
        if let Some((shares @ Scales::Axis(0), _)) = &mut self.scales
            && is_wide(b, x)
            && points
            && symmetric
            && four
            && b.settings.soc.arch >= BLOCK_WEIGHTS
        {
            *shares = Scales::Blocks(self.data.shape()[1]);
        }
        self
    }

    /// The same numbers in whole bytes, of layer `node` with input `x`: integers of 4 or 2 bits times 16 or 64, and scales as
    /// much smaller. The bits of sums that the chip drops beside 16-bit activations (see [`finer`](Self::finer)) stand for as
    /// much less then. As it is where that changes nothing, or where argument `i`, the bias, would not fit 32 bits.
    pub fn in_bytes(self, b: &Builder<'_>, node: &Node, i: usize, x: TensorId) -> Self {
        let (Some(bits), Some((shares, scales)), CoreType::I8) =
            (self.bits(), &self.scales, self.data.dtype())
        else {
            return self;
        };
        if !is_wide(b, x) || self.has_blocks() {
            return self;
        }
        let times = 1i32 << (8 - bits);
        let ints: Vec<i8> = self.data.bytes().iter().map(|&q| (i32::from(q as i8) * times) as i8).collect();
        let Ok(data) = Tensor::new(self.shape(), ints) else { return self };
        let wider = Weight {
            name: self.name.clone(),
            data: Cow::Owned(data),
            scales: Some((shares.clone(), scales.iter().map(|s| s / times as f32).collect())),
            zero_points: self.zero_points.iter().map(|z| z * times).collect(),
            range: (self.range.0 * i64::from(times), self.range.1 * i64::from(times)),
        };
        if integers(b, node, i, x, &wider).is_ok() { wider } else { self }
    }

    /// The true width of its integers, if less than a byte.
    fn bits(&self) -> Option<u32> {
        match self.range.1 - self.range.0 {
            0..=3 => Some(2),
            4..=15 => Some(4),
            _ => None,
        }
    }

    /// The step of each output channel, or the only one. With blocks: what the small integers multiply.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    fn steps(&self) -> Emitted<Vec<f32>> {
        let Some((shares, scales)) = &self.scales else { return Err("its weight is not quantized".into()) };
        match shares {
            Scales::Blocks(_) => Ok(self.multipliers()?.0),
            _ => Ok(scales.clone()),
        }
    }

    /// The scale of each channel, and what each of its blocks multiplies that with.
    fn multipliers(&self) -> Emitted<(Vec<f32>, Vec<u8>)> {
        let Some((Scales::Blocks(_), scales)) = &self.scales else { return Err("it has no blocks".into()) };
        let channels = self.shape()[0];
        let per = scales.len() / channels.max(1);
        let (mut steps, mut all) = (vec![], vec![]);
        for of_channel in scales.chunks(per.max(1)) {
            let step = of_channel.iter().copied().fold(0f32, f32::max) / 16.0;
            for &s in of_channel {
                let times = s / step;
                let whole = times.round();
                if (times - whole).abs() > 1e-3 || !(1.0..=16.0).contains(&whole) {
                    return Err(format!(
                        "a block of its weight has scale {s:e}, which is no 1 to 16 times {step:e}, a sixteenth of its channel's greatest; quantize with recipe 16a4w-block"
                    ));
                }
                all.push(whole as u8);
            }
            steps.push(step);
        }
        Ok((steps, all))
    }

    /// Adds it with its dimensions in another order: dimension `i` is the old `order[i]`.
    ///
    /// # Errors
    /// When the chip has nothing of the kind.
    pub fn add(&self, b: &mut Builder<'_>, order: &[usize]) -> Emitted<TensorId> {
        let shape = self.shape();
        let place = |axis: usize| order.iter().position(|&o| o == axis).unwrap_or(axis) as u32;
        let (dtype, encoding) = match &self.scales {
            None => (DType::F32, Encoding::None),
            Some((shares, scales)) => {
                let dtype = match self.data.dtype() {
                    CoreType::I8 => DType::S8,
                    CoreType::I16 => DType::S16,
                    CoreType::U8 => DType::U8,
                    other => return Err(format!("HTP has no weights of {other}")),
                };
                let offsets: Vec<i32> = self.zero_points.iter().map(|z| -z).collect();
                let bits = self.bits().filter(|_| dtype == DType::S8);
                let encoding = match shares {
                    Scales::Tensor => Encoding::Tensor { scale: scales[0], offset: offsets[0], bits },
                    Scales::Axis(axis) => {
                        Encoding::Axis { axis: place(*axis), scales: scales.clone(), offsets, bits }
                    }
                    Scales::Blocks(_) if bits != Some(4) => {
                        return Err("HTP has scales by blocks for 4-bit weights only".into());
                    }
                    Scales::Blocks(size) => {
                        let (scales, multipliers) = self.multipliers()?;
                        let blocks = (shape[1] / size) as u32;
                        Encoding::Blocks { axis: place(0), scales, blocks, multipliers }
                    }
                };
                (dtype, encoding)
            }
        };
        let data = match &self.scales {
            None => floats(&self.data),
            Some(_) => self.data.bytes().clone(),
        };
        let data = permute(&data, shape, order, dtype.size());
        let dims = order.iter().map(|&d| u32::try_from(shape[d]).unwrap_or(u32::MAX)).collect();
        Ok(b.constant(&self.name, Kind { dtype, encoding }, dims, data))
    }

    /// Its numbers.
    fn values(&self) -> Emitted<Vec<f32>> {
        let raw = self.data.to_f64();
        let Some((shares, scales)) = &self.scales else { return Ok(self.data.to_f32().into_owned()) };
        let shape = self.shape();
        let block: Vec<usize> = match shares {
            Scales::Tensor => shape.to_vec(),
            Scales::Axis(a) => shape.iter().enumerate().map(|(d, &n)| if d == *a { 1 } else { n }).collect(),
            Scales::Blocks(_) => return Err("a bias has no blocks".into()),
        };
        let mut out = vec![0f32; raw.len()];
        runs(shape, &block, |i, run| {
            for k in run {
                out[k] = ((raw[k] - f64::from(self.zero_points[i])) * f64::from(scales[i])) as f32;
            }
        });
        Ok(out)
    }
}

fn floats(t: &Tensor) -> Bytes {
    match t.dtype() {
        CoreType::F32 => t.bytes().clone(),
        _ => t.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}

/// What blocks of these sizes are to a layer.
fn blocks(block: &[i64], shape: &[usize]) -> Emitted<Scales> {
    let whole = |d: usize| usize::try_from(block[d]).is_ok_and(|b| b == shape[d]);
    let odd = || format!("its weight of {shape:?} has scales for blocks of {block:?}, which HTP has not");
    if block.len() != shape.len() {
        return Err(odd());
    }
    let ones: Vec<usize> = (0..shape.len()).filter(|&d| !whole(d)).collect();
    match ones[..] {
        [] => Ok(Scales::Tensor),
        [axis] if block[axis] == 1 => Ok(Scales::Axis(axis)),
        // A run of input channels of one output channel, of whole kernels.
        [0, 1] if block[0] == 1 => usize::try_from(block[1]).map(Scales::Blocks).map_err(|_| odd()),
        _ => Err(odd()),
    }
}

/// Whether a tensor has integers of 16 bits that stand for numbers.
fn is_wide(b: &Builder<'_>, x: TensorId) -> bool {
    b.get(x).dtype.is_fixed() && b.get(x).dtype.size() == 2
}

/// The bias in argument `i` of a layer with input `x` in steps of the input times those of the weight, and these steps; `None`
/// where the input has no steps.
///
/// # Errors
/// When it is no constant, or does not fit 32 bits.
fn integers(
    b: &Builder<'_>,
    node: &Node,
    i: usize,
    x: TensorId,
    weight: &Weight<'_>,
) -> Emitted<Option<(Vec<i32>, Vec<f32>)>> {
    if *node.arg(i) == Arg::None {
        return Ok(None);
    }
    let Some((step, _)) = b.kind_of(x).scale_offset() else { return Ok(None) };
    let values = Weight::read(b, node, i)?.values()?;
    let steps: Vec<f32> = weight.steps()?.iter().map(|w| w * step).collect();
    let mut ints = Vec::with_capacity(values.len());
    for (c, v) in values.iter().enumerate() {
        // A group of a transposed convolution has the steps of the others.
        let exact = f64::from(*v) / f64::from(steps[c % steps.len()]);
        if exact.abs() > f64::from(i32::MAX) {
            return Err(format!(
                "its bias holds {v}, beyond 32 bits with steps of {:e}; take weights of fewer bits",
                steps[c % steps.len()]
            ));
        }
        ints.push(exact.round_ties_even() as i32);
    }
    Ok(Some((ints, steps)))
}

/// Adds the bias in argument `i` of a layer: 32-bit integers, whose steps are those of the input times those of the weight.
///
/// # Errors
/// When it is no constant, or does not fit 32 bits.
pub fn bias(
    b: &mut Builder<'_>,
    node: &Node,
    i: usize,
    x: TensorId,
    weight: &Weight<'_>,
) -> Emitted<Option<TensorId>> {
    if *node.arg(i) == Arg::None {
        return Ok(None);
    }
    let bias = Weight::read(b, node, i)?;
    let dims = |count| vec![u32::try_from(count).unwrap_or(u32::MAX)];
    let Some((ints, steps)) = integers(b, node, i, x, weight)? else {
        let values = bias.values()?;
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        return Ok(Some(b.constant(&bias.name, Kind::plain(DType::F32), dims(values.len()), data.into())));
    };
    // As the weight has them, also where there is one channel only: the chip forgets a bias that has one scale for all beside a
    // weight with scales by channels.
    let encoding = match weight.scales {
        Some((Scales::Tensor, _)) => Encoding::Tensor { scale: steps[0], offset: 0, bits: None },
        _ => {
            let scales: Vec<f32> = (0..ints.len()).map(|c| steps[c % steps.len()]).collect();
            Encoding::Axis { axis: 0, offsets: vec![0; scales.len()], scales, bits: None }
        }
    };
    let data = ints.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    Ok(Some(b.constant(&bias.name, Kind { dtype: DType::S32, encoding }, dims(ints.len()), data.into())))
}
