//! Quantization by blocks, and the choice of parameters, in torchao's order of floating-point operations.

use super::{Build, PassFailure, Table, Values, integer, number, one, out_type};
use crate::dtype::DType;
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::quant::runs;
use crate::symint::SymInt;
use crate::tensor::{Tensor, TensorError};

/// A tensor with every dimension that holds several blocks split into blocks and what is in one.
struct Blocks {
    /// The split shape.
    shape: Vec<SymInt>,
    /// The same with 1 for the dimensions inside a block: the shape of parameters.
    params: Vec<SymInt>,
    /// The dimensions inside a block.
    inner: Vec<usize>,
}

fn blocks(size: &[SymInt], block: &[SymInt]) -> Blocks {
    let mut out = Blocks { shape: vec![], params: vec![], inner: vec![] };
    for (n, b) in size.iter().zip(block) {
        if b == n || *b == 1 {
            if *b != 1 {
                out.inner.push(out.shape.len());
            }
            out.shape.push(n.clone());
            out.params.push(if *b == 1 { n.clone() } else { 1.into() });
        } else {
            out.inner.push(out.shape.len() + 1);
            out.shape.extend([n.floor_div(b), b.clone()]);
            out.params.extend([n.floor_div(b), 1.into()]);
        }
    }
    out
}

/// The block sizes in argument `i`, for the tensor in argument 0.
fn block_sizes(b: &Build<'_>, n: &Node, i: usize) -> Result<(ValueId, Blocks), PassFailure> {
    let x = b.tensor(n, 0)?;
    match n.arg(i) {
        Arg::Ints(l) if l.len() == b.ty(x).rank() => Ok((x, blocks(&b.ty(x).shape, l))),
        _ => Err(PassFailure("the block size has another number of dimensions than the input".into())),
    }
}

/// Bounds in arguments `i` and `i + 1`, or those of the element type.
fn bounds(n: &Node, i: usize, dtype: DType) -> Result<(f64, f64), PassFailure> {
    let (lo, hi) = dtype
        .int_bounds()
        .ok_or_else(|| PassFailure(format!("{dtype} is no integer type; only those are expressed")))?;
    let or = |i: usize, bound: i64| ops::views::float(n.arg(i)).unwrap_or(bound as f64);
    Ok((or(i, lo), or(i + 1, hi)))
}

/// Parameters in argument `i` as f32, shaped to go with the blocks.
fn params(b: &mut Build<'_>, n: &Node, i: usize, at: &Blocks) -> Result<Option<ValueId>, PassFailure> {
    let Arg::Value(p) = n.arg(i) else { return Ok(None) };
    if b.ty(*p).numel() == 0 {
        return Ok(None);
    }
    let p = b.cast(*p, DType::F32)?;
    let shape = at.params.clone();
    Ok(Some(b.view(p, shape)?))
}

/// `clamp(round(x · (1/scale)) + zero_point)`; per token and per group the zero point is added before rounding.
fn quantize(b: &mut Build<'_>, n: &Node, at: &Blocks, zero_first: bool, range: (f64, f64)) -> Values {
    let x = b.tensor(n, 0)?;
    let out = out_type(b, n);
    let x = b.cast(x, DType::F32)?;
    let mut y = b.view(x, at.shape.clone())?;
    // `quantize_affine` has its block sizes in front of the scale.
    let first = 1 + usize::from(matches!(n.arg(1), Arg::Ints(_)));
    let Some(scale) = params(b, n, first, at)? else { return Ok(None) };
    let zero = params(b, n, first + 1, at)?;
    let inverse = b.op(&ops::RECIPROCAL, [scale.into()])?;
    y = b.op(&ops::MUL, [y.into(), inverse.into()])?;
    if let (Some(z), true) = (zero, zero_first) {
        y = b.op(&ops::ADD, [y.into(), z.into()])?;
    }
    y = b.op(&ops::ROUND, [y.into()])?;
    if let (Some(z), false) = (zero, zero_first) {
        y = b.op(&ops::ADD, [y.into(), z.into()])?;
    }
    y = b.op(&ops::CLAMP, [y.into(), Arg::Float(range.0), Arg::Float(range.1)])?;
    y = b.cast(y, out.dtype)?;
    one(b.view(y, out.shape)?)
}

/// `(q − zero_point) · scale`
fn dequantize(b: &mut Build<'_>, n: &Node, at: &Blocks) -> Values {
    let q = b.tensor(n, 0)?;
    let out = out_type(b, n);
    let q = b.cast(q, DType::F32)?;
    let mut y = b.view(q, at.shape.clone())?;
    let first = 1 + usize::from(matches!(n.arg(1), Arg::Ints(_)));
    let Some(scale) = params(b, n, first, at)? else { return Ok(None) };
    if let Some(z) = params(b, n, first + 1, at)? {
        y = b.op(&ops::SUB, [y.into(), z.into()])?;
    }
    y = b.op(&ops::MUL, [y.into(), scale.into()])?;
    y = b.cast(y, out.dtype)?;
    one(b.view(y, out.shape)?)
}

fn quantize_affine(b: &mut Build<'_>, n: &Node) -> Values {
    let (_, at) = block_sizes(b, n, 1)?;
    let range = bounds(n, 5, out_type(b, n).dtype)?;
    quantize(b, n, &at, false, range)
}

fn dequantize_affine(b: &mut Build<'_>, n: &Node) -> Values {
    let (_, at) = block_sizes(b, n, 1)?;
    dequantize(b, n, &at)
}

/// Runs of argument 6 elements along the last dimension.
fn group(b: &Build<'_>, n: &Node) -> Result<Blocks, PassFailure> {
    let x = b.tensor(n, 0)?;
    let shape = &b.ty(x).shape;
    let mut block = vec![SymInt::Known(1); shape.len()];
    match block.last_mut() {
        Some(last) => *last = integer(n, 6)?.into(),
        None => return Err(PassFailure("a scalar has no groups".into())),
    }
    Ok(blocks(shape, &block))
}

fn quantize_group(b: &mut Build<'_>, n: &Node) -> Values {
    let at = group(b, n)?;
    quantize(b, n, &at, true, (number(n, 3)?, number(n, 4)?))
}

fn dequantize_group(b: &mut Build<'_>, n: &Node) -> Values {
    let at = group(b, n)?;
    dequantize(b, n, &at)
}

/// The form with bounds in tensors, when those are constants, is the one with bounds as numbers.
fn tensor2(b: &mut Build<'_>, n: &Node, op: &'static ops::OpDef) -> Values {
    let mut args = n.args().to_vec();
    for arg in &mut args[3..5] {
        let Arg::Value(v) = *arg else { return Ok(None) };
        let Some(t) = b.program.frozen(v).filter(|t| t.numel() == 1) else {
            return Err(PassFailure(format!("its bounds are computed (%{})", b.program.graph.value(v).name)));
        };
        *arg = Arg::Int(SymInt::Known(t.to_f64()[0] as i64));
    }
    one(b.op(op, args)?)
}
fn quantize_tensor2(b: &mut Build<'_>, n: &Node) -> Values {
    tensor2(b, n, &ops::QUANTIZE_PER_TENSOR_TENSOR)
}
fn dequantize_tensor2(b: &mut Build<'_>, n: &Node) -> Values {
    tensor2(b, n, &ops::DEQUANTIZE_PER_TENSOR_TENSOR)
}

/// A constant, also behind a change of element type.
fn constant(b: &Build<'_>, v: ValueId) -> Option<Tensor> {
    let g = &b.program.graph;
    let cast = || g.producer(v).map(|n| g.node(n)).filter(|n| *n.op() == ops::TO_COPY);
    b.program.frozen(v).or_else(|| b.program.frozen(cast()?.operands().next()?)).cloned()
}

/// Tables in constants are looked up here and now, for runtimes that know of no codebooks; others by one index for each
/// element into all of them together.
fn dequantize_codebook(b: &mut Build<'_>, n: &Node) -> Values {
    let (codes, tables) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let out = out_type(b, n);
    let (Some(shape), Some(sizes)) = (b.ty(codes).known_shape(), b.ty(tables).known_shape()) else {
        return Ok(None);
    };
    let [parts @ .., length, 1] = &sizes[..] else { return Ok(None) };
    let block: Vec<usize> = shape.iter().zip(parts).map(|(n, p)| n / (*p).max(1)).collect();
    let mut first = vec![0i64; shape.iter().product()];
    runs(&shape, &block, |part, run| first[run].fill((part * length) as i64));
    let failed = |e: TensorError| PassFailure(e.to_string());
    if let (Some(codes), Some(tables)) = (constant(b, codes), constant(b, tables)) {
        let entries = tables.to_f32();
        let found =
            first.iter().zip(codes.to_f64()).map(|(at, code)| entries.get(*at as usize + code as usize));
        let found: Option<Vec<f32>> = found.map(|e| e.copied()).collect();
        let found = found.ok_or_else(|| PassFailure("a code is outside its table".into()))?;
        let tensor = Tensor::from_f32(out.dtype, &shape, &found).map_err(failed)?;
        return one(b.constant(&format!("{}_folded", n.name), tensor));
    }
    let first = b.constant(&format!("{}_first", n.name), Tensor::new(&shape, first).map_err(failed)?);
    let codes = b.cast(codes, DType::I64)?;
    let index = b.op(&ops::ADD, [codes.into(), first.into()])?;
    let index = b.view(index, vec![SymInt::Known(shape.iter().product::<usize>() as i64)])?;
    let all = b.view(tables, vec![SymInt::Known(sizes.iter().product::<usize>() as i64)])?;
    let found = b.op(&ops::INDEX_SELECT, [all.into(), 0.into(), index.into()])?;
    let found = b.cast(found, out.dtype)?;
    one(b.view(found, out.shape)?)
}

fn convert(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let dtype = out_type(b, n).dtype;
    one(b.cast(x, dtype)?)
}

/// `(input, scales, zero_points, …)` with parameters of the types that ExecuTorch's kernel takes: f64 and i64.
fn quantize_channel(b: &mut Build<'_>, n: &Node) -> Values {
    let (scales, zeros) = (b.tensor(n, 1)?, b.tensor(n, 2)?);
    if (b.ty(scales).dtype, b.ty(zeros).dtype) == (DType::F64, DType::I64) {
        return Ok(None);
    }
    let mut args = n.args().to_vec();
    args[1] = b.cast(scales, DType::F64)?.into();
    args[2] = b.cast(zeros, DType::I64)?.into();
    one(b.op(&ops::QUANTIZE_PER_CHANNEL, args)?)
}

/// The largest magnitude over `dims`.
fn magnitude(b: &mut Build<'_>, x: ValueId, dims: Vec<usize>, keep: bool) -> Result<ValueId, PassFailure> {
    let x = b.cast(x, DType::F32)?;
    let x = b.op(&ops::ABS, [x.into()])?;
    b.op(&ops::AMAX, [x.into(), Arg::ints(dims), keep.into()])
}

/// Scales in the type and shape of output 0; a zero point of one value in those of output 1.
fn chosen(b: &mut Build<'_>, n: &Node, scale: ValueId, zero: f64) -> Values {
    let (s, z) = (b.ty(n.outputs()[0]).clone(), b.ty(n.outputs()[1]).clone());
    let scale = b.cast(scale, s.dtype)?;
    Ok(Some(vec![b.view(scale, s.shape)?, b.full(z.shape, zero, z.dtype)?]))
}

/// `(input, quant_min, quant_max, eps, dtype)`
fn choose_symmetric(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let dims = (0..b.ty(x).rank()).collect();
    let most = magnitude(b, x, dims, false)?;
    let half = (number(n, 2)? - number(n, 1)?) / 2.0;
    let scale = b.op(&ops::DIV_SCALAR, [most.into(), Arg::Float(half)])?;
    let scale = b.op(&ops::CLAMP, [scale.into(), n.arg(3).clone(), Arg::None])?;
    chosen(b, n, scale, if *n.arg(4) == Arg::DType(DType::U8) { 128.0 } else { 0.0 })
}

/// `(input, dtype)`: symmetric int8, one scale a row.
fn choose_per_token(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let Some(last) = b.ty(x).rank().checked_sub(1) else { return Ok(None) };
    let most = magnitude(b, x, vec![last], true)?;
    let scale = b.op(&ops::CLAMP, [most.into(), Arg::Float(1e-5), Arg::None])?;
    let scale = b.op(&ops::DIV_SCALAR, [scale.into(), Arg::Float(127.0)])?;
    chosen(b, n, scale, 0.0)
}

/// `(input, mapping_type, block_size, target_dtype, quant_min, quant_max, eps, …)`
fn choose_affine(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, at) = block_sizes(b, n, 2)?;
    let (Arg::DType(target), Arg::Str(mapping)) = (n.arg(3), n.arg(1)) else { return Ok(None) };
    let (min, max) = bounds(n, 4, *target)?;
    let smallest = match b.ty(x).dtype {
        DType::F16 => 2f64.powi(-14),
        DType::F64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    let eps = ops::views::float(n.arg(6)).unwrap_or(smallest);
    let x = b.cast(x, DType::F32)?;
    let x = b.view(x, at.shape.clone())?;
    let extreme = |b: &mut Build<'_>, op, (lo, hi): (Arg, Arg)| {
        let v = match at.inner.is_empty() {
            true => x,
            false => b.op(op, [x.into(), Arg::ints(at.inner.clone()), true.into()])?,
        };
        b.op(&ops::CLAMP, [v.into(), lo, hi])
    };
    let low = extreme(b, &ops::AMIN, (Arg::None, Arg::Float(0.0)))?;
    let high = extreme(b, &ops::AMAX, (Arg::Float(0.0), Arg::None))?;
    let middle = ((max + min + 1.0) / 2.0).trunc();
    let (scale, zero) = match &**mapping {
        "SYMMETRIC" => {
            let flipped = b.op(&ops::NEG, [low.into()])?;
            let most = b.op(&ops::MAXIMUM, [flipped.into(), high.into()])?;
            (b.op(&ops::DIV_SCALAR, [most.into(), Arg::Float((max - min) / 2.0)])?, None)
        }
        "SYMMETRIC_NO_CLIPPING_ERR" => {
            let low = b.op(&ops::DIV_SCALAR, [low.into(), Arg::Float(min)])?;
            let high = b.op(&ops::DIV_SCALAR, [high.into(), Arg::Float(max)])?;
            (b.op(&ops::MAXIMUM, [low.into(), high.into()])?, None)
        }
        "ASYMMETRIC" => {
            let span = b.op(&ops::SUB, [high.into(), low.into()])?;
            (b.op(&ops::DIV_SCALAR, [span.into(), Arg::Float(max - min)])?, Some(low))
        }
        other => return Err(PassFailure(format!("there is no mapping {other:?}"))),
    };
    let scale = b.op(&ops::CLAMP, [scale.into(), Arg::Float(eps), Arg::None])?;
    let Some(low) = zero else { return chosen(b, n, scale, middle) };
    let z = b.op(&ops::DIV, [low.into(), scale.into()])?;
    let z = b.op(&ops::ROUND, [z.into()])?;
    let z = b.op(&ops::RSUB_SCALAR, [z.into(), Arg::Float(min)])?;
    let z = b.op(&ops::CLAMP, [z.into(), Arg::Float(min), Arg::Float(max)])?;
    let (ts, tz) = (b.ty(n.outputs()[0]).clone(), b.ty(n.outputs()[1]).clone());
    let (scale, z) = (b.cast(scale, ts.dtype)?, b.cast(z, tz.dtype)?);
    Ok(Some(vec![b.view(scale, ts.shape)?, b.view(z, tz.shape)?]))
}

pub(super) const TABLE: Table = &[
    ("torchao.quantize_affine.default", quantize_affine),
    ("torchao.dequantize_affine.default", dequantize_affine),
    ("torchao.choose_qparams_affine.default", choose_affine),
    ("quantized_decomposed.quantize_per_channel_group.default", quantize_group),
    ("quantized_decomposed.dequantize_per_channel_group.default", dequantize_group),
    ("quantized_decomposed.quantize_per_channel.default", quantize_channel),
    ("quantized_decomposed.quantize_per_tensor.tensor2", quantize_tensor2),
    ("quantized_decomposed.dequantize_per_tensor.tensor2", dequantize_tensor2),
    ("quant.dequantize_codebook.default", dequantize_codebook),
    ("quantized_decomposed.convert_element_type.no_fuse", convert),
    ("quantized_decomposed.choose_qparams_symmetric.tensor", choose_symmetric),
    ("quantized_decomposed.choose_qparams_per_token.default", choose_per_token),
];
