//! Weights at their true width: integers with scales, indices into tables, both without their zeros where that is asked for.

use super::sparse::{Kept, dense};
use super::{Emitted, dim, ints, out};
use crate::Target;
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Arg, Constant, DType, Type, pack};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg as CoreArg, Node};
use lowbit_core::ops;
use std::borrow::Cow;

/// Bits that hold the integers of a range.
pub(super) fn width(min: i64, max: i64) -> u32 {
    if min >= -8 && max <= 7 { 4 } else { 8 }
}

/// A constant that is stored as integers.
pub(super) struct Weight<'a> {
    /// The integers.
    pub data: &'a Tensor,
    /// What an integer takes.
    pub bits: u32,
    /// Scales, in C order of blocks.
    pub scale: Vec<f32>,
    /// The integers that stand for zero.
    pub zero_points: Vec<i64>,
    /// How many scales there are along each dimension.
    pub blocks: Vec<usize>,
}

impl Weight<'_> {
    /// As a value of floats.
    pub fn emit(self, b: &mut Builder<'_>, ty: Type) -> Emitted<Var> {
        let shape = self.data.shape().to_vec();
        let signed = match self.data.dtype() {
            CoreType::I8 => true,
            CoreType::U8 => false,
            other => return Err(format!("Core ML has no weights of {other}")),
        };
        let split: Vec<usize> = (0..shape.len()).filter(|&d| self.blocks[d] != 1).collect();
        if b.settings.target >= Target::Ios18 {
            return Ok(self.blockwise(b, ty, &shape, signed));
        }
        if self.bits < 8 {
            return Err(format!("Core ML has {}-bit integers from target ios18 on", self.bits));
        }
        let axis = match split[..] {
            [] => 0,
            [d] if self.blocks[d] == shape[d] => d,
            _ => return Err("Core ML has scales by groups and blocks from target ios18 on".into()),
        };
        let list = |n: usize| if split.is_empty() { vec![] } else { vec![n] };
        let dtype = if signed { DType::I8 } else { DType::U8 };
        let zeros: Vec<u8> = self.zero_points.iter().map(|&z| z as u8).collect();
        let attributes = vec![
            ("quantized_data", Constant::new(dtype, shape, self.data.bytes().clone())),
            ("zero_point", Constant::new(dtype, list(zeros.len()), zeros)),
            ("scale", Constant::floats(ty.dtype, &list(self.scale.len()), &self.scale)),
            ("axis", Constant::i32(axis as i32)),
        ];
        Ok(b.with_attributes("constexpr_affine_dequantize", attributes, ty))
    }

    /// As iOS 18 has it: scales have as many dimensions as the weight.
    fn blockwise(self, b: &mut Builder<'_>, ty: Type, shape: &[usize], signed: bool) -> Var {
        let dtype = match (self.bits, signed) {
            (4, true) => DType::I4,
            (4, false) => DType::U4,
            (_, true) => DType::I8,
            (_, false) => DType::U8,
        };
        let stored = |bytes: Vec<u8>| if self.bits < 8 { pack(bytes, self.bits) } else { bytes };
        if let Some(kept) = self.kept(b, shape) {
            let values: Vec<u8> = kept.of(self.data.bytes());
            let mut inputs = vec![
                ("data_mask", Arg::Const(kept.mask(shape))),
                ("nonzero_data", Arg::Const(Constant::new(dtype, [kept.count()], stored(values)))),
                ("scale", Arg::Const(Constant::floats(ty.dtype, &self.blocks, &self.scale))),
            ];
            inputs.extend(self.offset(dtype).map(|o| ("offset", Arg::Const(o))));
            return dense(b, "constexpr_sparse_blockwise_shift_scale", inputs, &kept, ty);
        }
        let data = match (b.is_rehearsal(), self.bits) {
            (true, _) => bytes::Bytes::new(),
            (_, 8) => self.data.bytes().clone(),
            _ => pack(self.data.bytes().iter().copied(), self.bits).into(),
        };
        let mut inputs = vec![
            ("data", Arg::Const(Constant::new(dtype, shape.iter().copied(), data))),
            ("scale", Arg::Const(Constant::floats(ty.dtype, &self.blocks, &self.scale))),
        ];
        inputs.extend(self.offset(dtype).map(|o| ("offset", Arg::Const(o))));
        b.with_constants("constexpr_blockwise_shift_scale", inputs, vec![ty]).pop().expect("one result")
    }

    /// Zero points, where they are not all zero.
    fn offset(&self, dtype: DType) -> Option<Constant> {
        let zeros = self.zero_points.iter().map(|&z| z as u8);
        let stored = if self.bits < 8 { pack(zeros, self.bits) } else { zeros.collect() };
        let any = self.zero_points.iter().any(|&z| z != 0);
        any.then(|| Constant::new(dtype, self.blocks.iter().copied(), stored))
    }

    /// What is not zero, when zeros are to be left out and are many.
    fn kept(&self, b: &Builder<'_>, shape: &[usize]) -> Option<Kept> {
        if b.is_rehearsal() || b.settings.sparsity.is_none() {
            return None;
        }
        // The place of an element's block, dimension by dimension.
        let block = |mut i: usize| {
            let (mut at, mut stride) = (0, 1);
            for d in (0..shape.len()).rev() {
                let k = i % shape[d];
                i /= shape[d];
                at += k * self.blocks[d] / shape[d] * stride;
                stride *= self.blocks[d];
            }
            at
        };
        let data = self.data.bytes();
        let any = self.zero_points.iter().any(|&z| z != 0);
        let zero = |i: usize| if any { self.zero_points[block(i)] as u8 } else { 0 };
        Kept::find(data.len(), |i| data[i] != zero(i))
    }
}

/// A tensor's elements as integers.
fn integers(t: &Tensor) -> Vec<i64> {
    t.to_f64().iter().map(|&x| x as i64).collect()
}

/// A weight with parameters in tensors: data, scales and zero points are arguments 0 to 2.
fn weight<'a>(
    b: &Builder<'a>,
    n: &Node,
    blocks: Vec<usize>,
    range: (i64, i64),
    scale: usize,
) -> Emitted<Weight<'a>> {
    let fixed = |i: usize| b.frozen(n, i).ok_or("Core ML has scales of their own for constants only");
    let (data, scale, zeros) = (fixed(0)?, fixed(scale)?, b.frozen(n, scale + 1));
    let scale = scale.to_f32().into_owned();
    let zero_points = zeros.map_or_else(|| vec![0; scale.len()], integers);
    if let Some(z) = zeros.filter(|z| z.dtype().is_float() && z.to_f64().iter().any(|x| x.fract() != 0.0)) {
        return Err(format!("its zero points are fractions ({})", z.dtype()));
    }
    Ok(Weight { data, bits: width(range.0, range.1), scale, zero_points, blocks })
}

pub(super) fn per_channel(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    let axis = dim(n, 3, ty.rank())?;
    let channels = b.frozen(n, 1).map_or(0, Tensor::numel);
    let blocks = (0..ty.rank()).map(|d| if d == axis { channels } else { 1 }).collect();
    let w = weight(b, n, blocks, (super::int(n, 4)?, super::int(n, 5)?), 1)?;
    Ok(vec![w.emit(b, ty)?])
}

pub(super) fn per_group(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    let blocks = b.frozen(n, 1).map(|s| s.shape().to_vec()).ok_or("its scales are computed")?;
    let w = weight(b, n, blocks, (super::int(n, 3)?, super::int(n, 4)?), 1)?;
    Ok(vec![w.emit(b, ty)?])
}

/// torchao's form: the sizes of blocks, and parameters for each.
pub(super) fn affine(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    let sizes = ints(n, 1)?;
    let shape =
        ty.shape.iter().map(|d| d.known()).collect::<Option<Vec<_>>>().ok_or("it has an open size")?;
    let blocks = shape.iter().zip(&sizes).map(|(&n, &s)| (n / s.max(1)) as usize).collect();
    let bounds = b.frozen(n, 0).and_then(|t| t.dtype().int_bounds()).unwrap_or((-128, 127));
    let limit = |i: usize, default: i64| match n.arg(i) {
        CoreArg::None => Ok(default),
        _ => super::number(n, i).map(|x| x as i64),
    };
    let range = (limit(5, bounds.0)?, limit(6, bounds.1)?);
    let w = weight(b, n, blocks, range, 2)?;
    Ok(vec![w.emit(b, ty)?])
}

/// Indices that the program widens, as PyTorch's operator wants them.
fn widened<'a>(b: &Builder<'a>, n: &Node) -> Option<&'a Tensor> {
    let g = &b.program.graph;
    let cast = g.node(g.producer(n.operands().next()?)?);
    if *cast.op() == ops::TO_COPY { b.frozen(cast, 0) } else { None }
}

/// Indices as bytes, in whichever type of integers the program has them.
fn indices(codes: &Tensor) -> Emitted<Cow<'_, [u8]>> {
    if let Some(bytes) = codes.as_slice::<u8>() {
        return Ok(Cow::Borrowed(bytes));
    }
    let wide = codes.as_slice::<i32>().map(|c| c.iter().map(|&i| i as u8).collect());
    let wider = || codes.as_slice::<i64>().map(|c| c.iter().map(|&i| i as u8).collect());
    wide.or_else(wider).ok_or_else(|| format!("Core ML has no indices of {}", codes.dtype()))
}

/// Indices of what is not zero, where zeros are many: what a table, the only one, holds zero for.
fn nonzero_codes(b: &Builder<'_>, codes: &[u8], tables: &Tensor) -> Option<(Kept, Vec<u8>)> {
    if b.is_rehearsal() || b.settings.sparsity.is_none() || tables.numel() > 256 {
        return None;
    }
    let table = tables.to_f32();
    let kept = Kept::find(codes.len(), |i| table.get(usize::from(codes[i])).is_none_or(|&x| x != 0.0))?;
    let values = kept.of(codes);
    Some((kept, values))
}

/// Indices into tables. Before iOS 18 there is one table, of 2, 4, 16, 64 or 256 values.
pub(super) fn codebook(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    let codes = b.frozen(n, 0).or_else(|| widened(b, n));
    let (codes, tables) = codes.zip(b.frozen(n, 1)).ok_or("Core ML has tables for constants only")?;
    let bits = super::int(n, 2)? as u32;
    let dtype = DType::unsigned(bits).filter(|d| d.bits() <= 8);
    let dtype = dtype.ok_or_else(|| format!("Core ML has tables of 1, 2, 3, 4, 6 and 8 bits, not {bits}"))?;
    let shape = codes.shape();
    let codes = indices(codes)?;
    let rehearsal = b.is_rehearsal();
    let packed = || if rehearsal { vec![] } else { pack(codes.iter().copied(), bits) };
    if b.settings.target >= Target::Ios18 {
        let lut = b.tensor(tables)?;
        if let Some((kept, values)) = nonzero_codes(b, &codes, tables) {
            let inputs = vec![
                ("indices_mask", Arg::Const(kept.mask(shape))),
                (
                    "indices_nonzero_data",
                    Arg::Const(Constant::new(dtype, [kept.count()], pack(values, bits))),
                ),
                ("lut", Arg::Const(lut)),
            ];
            return Ok(vec![dense(b, "constexpr_lut_to_sparse", inputs, &kept, ty)]);
        }
        let inputs = vec![
            ("indices", Arg::Const(Constant::new(dtype, shape.iter().copied(), packed()))),
            ("lut", Arg::Const(lut)),
        ];
        return Ok(b.with_constants("constexpr_lut_to_dense", inputs, vec![ty]));
    }
    let size = 1usize << bits;
    if tables.numel() != size || !matches!(bits, 1 | 2 | 4 | 6 | 8) {
        return Err(
            "Core ML has several tables for a weight, and tables of 8 values, from target ios18 on".into()
        );
    }
    let packed = packed();
    let sizes: Vec<u8> = shape.iter().flat_map(|&d| (d as u32).to_le_bytes()).collect();
    let attributes = vec![
        ("indices", Constant::new(DType::U8, [packed.len()], packed)),
        ("lut", Constant::floats(ty.dtype, &[size], &tables.to_f32())),
        ("shape", Constant::new(DType::U32, [shape.len()], sizes)),
    ];
    Ok(vec![b.with_attributes("constexpr_lut_to_dense", attributes, ty)])
}
