//! Picking and placing elements: slices, gathers, scatters, embeddings.

use super::rules::{Types, broadcast, one, same};
use super::{Call, InferError};
use crate::dtype::DType;
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;

ops! {
    SLICE = "aten.slice.Tensor" "(Tensor self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor", slice, moves_data, shares_qparams;
    SLICE_COPY = "aten.slice_copy.Tensor" "(Tensor self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor", slice, moves_data, shares_qparams;
    NARROW = "aten.narrow.default" "(Tensor self, int dim, SymInt start, SymInt length) -> Tensor", narrow, moves_data, shares_qparams;
    SELECT = "aten.select.int" "(Tensor self, int dim, SymInt index) -> Tensor", select, moves_data, shares_qparams;
    SELECT_COPY = "aten.select_copy.int" "(Tensor self, int dim, SymInt index) -> Tensor", select, moves_data, shares_qparams;
    INDEX = "aten.index.Tensor" "(Tensor self, Tensor?[] indices) -> Tensor", index, moves_data, shares_qparams;
    INDEX_SELECT = "aten.index_select.default" "(Tensor self, int dim, Tensor index) -> Tensor", index_select, moves_data, shares_qparams;
    GATHER = "aten.gather.default" "(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor", gather, moves_data, shares_qparams;
    EMBEDDING = "aten.embedding.default" "(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False) -> Tensor", embedding, moves_data, shares_qparams;
    EMBEDDING_BAG = "aten.embedding_bag.default" "(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, bool sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False) -> (Tensor, Tensor, Tensor, Tensor)", embedding_bag;
    EMBEDDING_BAG_PADDING_IDX = "aten.embedding_bag.padding_idx" "(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq, int mode, bool sparse, Tensor? per_sample_weights, bool include_last_offset, int? padding_idx) -> (Tensor, Tensor, Tensor, Tensor)", embedding_bag;
    EMBEDDING_BAG_FORWARD_ONLY = "aten._embedding_bag_forward_only.default" "(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, bool sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1) -> (Tensor, Tensor, Tensor, Tensor)", embedding_bag;
    INDEX_PUT = "aten.index_put.default" "(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor", same;
    SLICE_SCATTER = "aten.slice_scatter.default" "(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor", same;
    SELECT_SCATTER = "aten.select_scatter.default" "(Tensor self, Tensor src, int dim, SymInt index) -> Tensor", same;
    SCATTER = "aten.scatter.src" "(Tensor self, int dim, Tensor index, Tensor src) -> Tensor", same;
    SCATTER_VALUE = "aten.scatter.value" "(Tensor self, int dim, Tensor index, Scalar value) -> Tensor", same;
    SCATTER_ADD = "aten.scatter_add.default" "(Tensor self, int dim, Tensor index, Tensor src) -> Tensor", same;
    TRIL = "aten.tril.default" "(Tensor self, SymInt diagonal=0) -> Tensor", same;
    TRIU = "aten.triu.default" "(Tensor self, SymInt diagonal=0) -> Tensor", same;
    EMBEDDING_BYTE = "quantized_decomposed.embedding_byte.default" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices) -> Tensor", |c| quantized_embedding(c, 1);
    EMBEDDING_BYTE_DTYPE = "quantized_decomposed.embedding_byte.dtype" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None) -> Tensor", |c| quantized_embedding(c, 1);
    EMBEDDING_4BIT = "quantized_decomposed.embedding_4bit.default" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices) -> Tensor", |c| quantized_embedding(c, 2);
    EMBEDDING_4BIT_DTYPE = "quantized_decomposed.embedding_4bit.dtype" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None) -> Tensor", |c| quantized_embedding(c, 2);
    EMBEDDING_2BIT = "quantized_decomposed.embedding_2bit.default" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices) -> Tensor", |c| quantized_embedding(c, 4);
    EMBEDDING_2BIT_DTYPE = "quantized_decomposed.embedding_2bit.dtype" "(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None) -> Tensor", |c| quantized_embedding(c, 4);
}

/// A start or end of a slice inside `0..=size`: negative ones count from the back.
fn bound(at: &SymInt, size: &SymInt) -> SymInt {
    match (at.known(), size.known()) {
        (Some(a), Some(n)) => (if a < 0 { (a + n).max(0) } else { a.min(n) }).into(),
        (Some(a), None) if a < 0 => size.clone() + a,
        (Some(i64::MAX), None) => size.clone(),
        // A plain start is taken to be inside: export guards it.
        _ => at.clone(),
    }
}

/// `slice(self, dim, start, end, step)`
fn slice(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let Some(size) = x.shape.get(d) else { return c.error("a scalar cannot be sliced") };
    let mut shape = x.shape.clone();
    shape[d] = sliced(c, size, 2)?;
    one(x.dtype, shape)
}

/// The length of a slice whose start, end and step are arguments `first..`.
fn sliced(c: &Call<'_>, size: &SymInt, first: usize) -> Result<SymInt, InferError> {
    let at = |i: usize, default: i64| match c.arg(i) {
        Arg::Int(n) => n.clone(),
        _ => default.into(),
    };
    let (start, end, step) = (bound(&at(first, 0), size), bound(&at(first + 1, i64::MAX), size), c.int(first + 2)?);
    if step < 1 {
        return Err(InferError::new("the step of a slice must be positive"));
    }
    let n = (end - start).ceil_div(&step.into());
    Ok(n.known().map_or(n, |n| n.max(0).into()))
}

/// `narrow(self, dim, start, length)`
fn narrow(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let mut shape = x.shape.clone();
    let Some(size) = shape.get_mut(d) else { return c.error("a scalar cannot be narrowed") };
    *size = c.sym(3)?;
    one(x.dtype, shape)
}

/// `select(self, dim, index)`
fn select(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let d = c.dim(1, x.rank())?;
    let Some(n) = x.shape.get(d) else { return c.error("a scalar has nothing to select") };
    if let (Some(i), Some(n)) = (c.sym(2)?.known(), n.known())
        && (i < -n || i >= n)
    {
        return c.error(format!("index {i} is outside dimension {d} of {x}"));
    }
    let mut shape = x.shape.clone();
    shape.remove(d);
    one(x.dtype, shape)
}

/// `index(self, indices)`: indexed dimensions become the broadcast shape of the indices, in place of the first of them
/// if they are neighbours, in front otherwise.
fn index(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    let Arg::OptValues(indices) = c.arg(1) else { return c.error("indices are missing") };
    let mut at: Vec<Option<SymInt>> = x.shape.iter().cloned().map(Some).collect();
    let mut picked: Vec<SymInt> = vec![];
    let mut places = vec![];
    for (d, i) in indices.iter().enumerate() {
        let Some(i) = i else { continue };
        let i = c.graph.ty(*i);
        if !matches!(i.dtype, DType::I64 | DType::I32 | DType::U8 | DType::I8 | DType::I16) {
            return c.error(format!("index {d} is {i}; the number of elements a mask picks depends on its contents"));
        }
        let Some(slot) = at.get_mut(d) else { return c.error(format!("{} indices for {x}", indices.len())) };
        *slot = None;
        places.push(d);
        picked = broadcast(&picked, &i.shape)?;
    }
    let Some(&first) = places.first() else { return same(c) };
    let neighbours = places.windows(2).all(|w| w[1] == w[0] + 1);
    let place = if neighbours { first } else { 0 };
    let rest = |r: std::ops::Range<usize>| at[r].iter().flatten().cloned();
    let (before, after) =
        if neighbours { (rest(0..place), rest(place..at.len())) } else { (rest(0..0), rest(0..at.len())) };
    one(x.dtype, before.chain(picked).chain(after).collect())
}

/// `index_select(self, dim, index)`
fn index_select(c: &Call<'_>) -> Types {
    let (x, i) = (c.tensor(0)?, c.tensor(2)?);
    let d = c.dim(1, x.rank())?;
    let mut shape = x.shape.clone();
    if let Some(size) = shape.get_mut(d) {
        *size = i.numel();
    }
    one(x.dtype, shape)
}

/// `gather(self, dim, index)`
fn gather(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    c.dim(1, x.rank())?;
    one(x.dtype, c.tensor(2)?.shape.clone())
}

/// `embedding(weight, indices)`
fn embedding(c: &Call<'_>) -> Types {
    let (w, i) = (c.tensor(0)?, c.tensor(1)?);
    let [_, width] = &w.shape[..] else { return c.error(format!("weight is {w}; it should have two dimensions")) };
    if !matches!(i.dtype, DType::I64 | DType::I32) {
        return c.error(format!("indices are {i}; int64 or int32 is needed"));
    }
    one(w.dtype, i.shape.iter().chain([width]).cloned().collect())
}

/// `embedding_bag(weight, indices, offsets, …)`: bags, offset of each index, bag sizes, maximal indices.
fn embedding_bag(c: &Call<'_>) -> Types {
    let (w, i, o) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    let [_, width] = &w.shape[..] else { return c.error(format!("weight is {w}; it should have two dimensions")) };
    let last = matches!(c.arg(7), Arg::Bool(true));
    let mode = c.int(4)?;
    let bags = o.numel() - i64::from(last);
    let index = |shape: Vec<SymInt>| TensorType { dtype: i.dtype, shape };
    // Modes: 0 sum, 1 mean, 2 max. Only what a mode needs is filled in.
    let per_index = if mode == 0 { vec![0.into()] } else { vec![i.numel()] };
    let max = if mode == 2 { vec![bags.clone(), width.clone()] } else { vec![bags.clone()] };
    Ok(vec![
        TensorType { dtype: w.dtype, shape: vec![bags.clone(), width.clone()] },
        index(per_index),
        index(vec![bags]),
        index(max),
    ])
}

/// Rows of a quantized table: argument 0 packs `per_byte` numbers a byte, argument 5 is the indices.
fn quantized_embedding(c: &Call<'_>, per_byte: i64) -> Types {
    let (w, i) = (c.tensor(0)?, c.tensor(5)?);
    let [_, width] = &w.shape[..] else { return c.error(format!("weight is {w}; it should have two dimensions")) };
    if !matches!(w.dtype, DType::I8 | DType::U8) {
        return c.error(format!("weight is {w}; it should hold bytes"));
    }
    let dtype = c.opt_dtype(6).unwrap_or(c.tensor(1)?.dtype);
    one(dtype, i.shape.iter().cloned().chain([width.clone() * per_byte]).collect())
}
