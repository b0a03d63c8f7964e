//! Compressed constants: integers with scales, indices into tables, and weights that are mostly zero.
//!
//! Before iOS 18 the parameters are attributes, indices and masks are packed in bytes, and the shape is told; since then they
//! are arguments with shapes of their own. Integers and tables stay as they are, in nodes that make floats of them; what is
//! sparse, and integers that other compressed constants are made of, become plain constants.

use super::quantized::{Parameters, Range};
use super::{Table, new, one};
use crate::mil::{Constant, DType, unpack};
use crate::raise::call::Call;
use crate::raise::{Raised, Value, constants};
use lowbit_core::Tensor;
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;
use lowbit_core::quant::runs;

pub static TABLE: Table = &[
    new("constexpr_affine_dequantize", |c| {
        let data = c.constant("quantized_data")?;
        let mut p = Parameters::read(c)?;
        if p.scales.len() == 1 {
            p.axis = None;
        }
        let range = Range::stored(data.ty.dtype)?;
        let q = c.constant_tensor("quantized_data", constants::tensor(&data)?);
        one(p.dequantize(c, q, range)?)
    }),
    new("constexpr_blockwise_shift_scale", shift_scale),
    new("constexpr_lut_to_dense", table),
    new("constexpr_sparse_to_dense", dense),
    new("constexpr_lut_to_sparse", sparse_table),
    new("constexpr_sparse_blockwise_shift_scale", sparse_shift_scale),
    new("constexpr_cast", |c| {
        let source = c.constant("source_val")?;
        let to = c.declared()?;
        if !to.is_float() || !source.ty.dtype.is_float() {
            return Err(format!("it makes {} of {:?}", to.name(), source.ty));
        }
        plain(to, &constants::shape(&source)?, &constants::floats(&source)?)
    }),
];

/// A constant of floats.
fn plain(dtype: DType, shape: &[usize], x: &[f32]) -> Raised<Vec<Value>> {
    Ok(vec![Value::Const(Constant::floats(dtype, shape, x))])
}

/// How many elements of each dimension share a parameter, when there are as many as `counts` says along each.
fn blocks(shape: &[usize], counts: &[usize]) -> Raised<Vec<usize>> {
    let fits = |(n, k): (&usize, &usize)| *k > 0 && n % k == 0;
    if shape.len() != counts.len() || !shape.iter().zip(counts).all(fits) {
        return Err(format!("parameters {counts:?} do not divide data {shape:?}"));
    }
    Ok(shape.iter().zip(counts).map(|(n, k)| n / k).collect())
}

/// `scale · (data − offset)`, a scale and an offset for each block.
fn shift_scale(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (data, scale) = (c.constant("data")?, c.constant("scale")?);
    let shape = constants::shape(&data)?;
    let counts = constants::shape(&scale)?;
    let block = blocks(&shape, &counts)?;
    let scales = constants::floats(&scale).map_err(|e| format!("argument scale is {e}"))?;
    let offset = c.opt_constant("offset")?;
    if offset.as_ref().is_some_and(|o| o.ty.shape != scale.ty.shape) {
        return Err("arguments scale and offset have different shapes".into());
    }
    let whole = offset.as_ref().map(constants::ints).transpose();
    let (Ok(offsets), false) = (whole, data.ty.dtype.is_float()) else {
        // Data or offsets that are floats: nothing of them is quantized.
        let offsets = offset.map_or_else(|| Ok(vec![0.0; scales.len()]), |o| numbers(&o))?;
        let mut x = numbers(&data)?;
        runs(&shape, &block, |b, run| x[run].iter_mut().for_each(|x| *x = (*x - offsets[b]) * scales[b]));
        return plain(scale.ty.dtype, &shape, &x);
    };
    let zeros = offsets.unwrap_or_else(|| vec![0; scales.len()]);
    let range = Range::stored(data.ty.dtype)?;
    let q = c.constant_tensor("data", constants::tensor(&data)?);
    let split: Vec<usize> = (0..shape.len()).filter(|&d| counts[d] != 1).collect();
    let channels = match split[..] {
        [] => Some(None),
        [d] if block[d] == 1 => Some(Some(d as i64)),
        _ => None,
    };
    if let Some(axis) = channels {
        return one(Parameters { scales, zeros, axis }.dequantize(c, q, range)?);
    }
    // Dimensions that one block fills are left out, as PyTorch has it.
    let listed = |d: &usize| block[*d] == 1 || block[*d] != shape[*d];
    let counts: Vec<usize> = (0..shape.len()).filter(listed).map(|d| counts[d]).collect();
    let tensor = |t: Result<Tensor, lowbit_core::tensor::TensorError>| t.map_err(|e| e.to_string());
    let zero_points = match zeros.iter().any(|&z| z != 0) {
        true => {
            let z = tensor(Tensor::new(&counts, zeros.iter().map(|&z| z as i32).collect()))?;
            Arg::Value(c.constant_tensor("offset", z))
        }
        false => Arg::None,
    };
    let scales = tensor(Tensor::new(&counts, scales))?;
    let scales = c.constant_tensor("scale", scales);
    let args = [
        q.into(),
        Arg::ints(block),
        scales.into(),
        zero_points,
        range.dtype.into(),
        range.min.into(),
        range.max.into(),
    ];
    one(c.node(&ops::DEQUANTIZE_AFFINE, args)?)
}

/// The elements of a constant as floats, whatever it holds.
fn numbers(k: &Constant) -> Raised<Vec<f32>> {
    match k.as_floats() {
        Some(l) => Ok(l),
        None => Ok(constants::ints(k)?.iter().map(|&n| n as f32).collect()),
    }
}

/// A table's indices, their shape, the shape of the tables, and how many bits an index takes.
struct Indexed {
    codes: Vec<u8>,
    shape: Vec<usize>,
    /// A number of tables along each dimension, the length of a table, and of its entries.
    tables: Vec<usize>,
    bits: u32,
}

impl Indexed {
    /// Reads the arguments of either form.
    fn read(c: &Call<'_>, indices: &Constant, lut: &Constant) -> Raised<Self> {
        let told = c.opt_ints("shape")?;
        let mut tables = constants::shape(lut)?;
        let shape = match &told {
            None => constants::shape(indices)?,
            Some(l) => sizes(l)?,
        };
        if told.is_some() {
            // One table, of a list of numbers.
            let [length] = tables[..] else { return Err(format!("argument lut is {:?}", lut.ty)) };
            tables = vec![1; shape.len()];
            tables.extend([length, 1]);
        }
        let [.., length, _] = tables[..] else { return Err(format!("argument lut is {:?}", lut.ty)) };
        let bits = length.checked_ilog2().unwrap_or(0);
        if !length.is_power_of_two() || !(1..=8).contains(&bits) {
            return Err(format!("argument lut has {length} entries"));
        }
        let codes = match told {
            Some(_) => {
                let n = count(&shape)?;
                if indices.ty.dtype != DType::U8 || indices.bytes().len() != (n * bits as usize).div_ceil(8) {
                    return Err(format!(
                        "argument indices is {:?} for {n} indices of {bits} bits",
                        indices.ty
                    ));
                }
                unpack(indices.bytes(), bits, n, false)
            }
            None => constants::ints(indices)?.iter().map(|&n| n as u8).collect(),
        };
        if let Some(code) = codes.iter().find(|&&k| usize::from(k) >= length) {
            return Err(format!("index {code} is beyond a table of {length}"));
        }
        Ok(Indexed { codes, shape, tables, bits })
    }

    /// Which table each index goes into.
    fn parts(&self) -> Raised<Vec<usize>> {
        let counts = &self.tables[..self.tables.len() - 2];
        let block = blocks(&self.shape, counts)?;
        let mut parts = vec![0; self.codes.len()];
        runs(&self.shape, &block, |b, run| parts[run].fill(b));
        Ok(parts)
    }
}

/// Sizes of a shape that is told; their product stays far from overflow.
fn sizes(list: &[i64]) -> Raised<Vec<usize>> {
    list.iter().map(|&n| usize::try_from(n).map_err(|_| format!("argument shape is {list:?}"))).collect()
}

/// The number of elements of a shape, if that many can be.
fn count(shape: &[usize]) -> Raised<usize> {
    let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n < 1 << 40);
    n.ok_or_else(|| format!("{shape:?} is too large"))
}

/// The dimension that a table's entries of several numbers go along.
fn vector_axis(c: &Call<'_>, vector: usize, rank: usize) -> Raised<usize> {
    if vector > 1 && !c.has("vector_axis") {
        return Err("argument vector_axis is missing".into());
    }
    if vector > 1 { c.axis("vector_axis", 0, rank) } else { Ok(rank.saturating_sub(1)) }
}

/// Indices into tables. Tables of integers are themselves quantized: the integers are looked up here.
fn table(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (indices, lut) = (c.constant("indices")?, c.constant("lut")?);
    let i = Indexed::read(c, &indices, &lut)?;
    let [counts @ .., length, vector] = &i.tables[..] else { return Err("argument lut is no table".into()) };
    let (length, vector) = (*length, *vector);
    let block = blocks(&i.shape, counts)?;
    if !lut.ty.dtype.is_float() {
        if vector != 1 || lut.ty.dtype.bits() != 8 {
            return Err(format!("argument lut is {:?}; tables of integers hold single bytes", lut.ty));
        }
        let entries = lut.bytes();
        let parts = i.parts()?;
        let bytes: Vec<u8> =
            i.codes.iter().zip(parts).map(|(&k, p)| entries[p * length + usize::from(k)]).collect();
        return Ok(vec![Value::Const(Constant::new(lut.ty.dtype, i.shape, bytes))]);
    }
    let rank = i.shape.len();
    let axis = vector_axis(c, vector, rank)?;
    let codes = Tensor::new(&i.shape, i.codes).map_err(|e| e.to_string())?;
    let tables = constants::tensor_of_shape(&lut, &i.tables)?;
    let (codes, tables) = (c.constant_tensor("indices", codes), c.constant_tensor("lut", tables));
    let args = [codes.into(), tables.into(), i64::from(i.bits).into(), Arg::ints(block)];
    let mut y: ValueId = c.node(&ops::DEQUANTIZE_CODEBOOK, args)?;
    if vector > 1 {
        // The entries lie in a dimension of their own, the last.
        let order: Vec<usize> = (0..=axis).chain([rank]).chain(axis + 1..rank).collect();
        y = c.permute(y, &order)?;
        let mut shape = i.shape.clone();
        shape[axis] *= vector;
        y = c.reshape(y, shape.into_iter().map(Into::into).collect())?;
    }
    one(y)
}

/// Which elements of a sparse constant are there, and its shape.
fn mask(c: &Call<'_>, name: &str) -> Raised<(Vec<bool>, Vec<usize>)> {
    let mask = c.constant(name)?;
    let (bits, shape) = match c.opt_ints("shape")? {
        Some(l) => {
            let shape = sizes(&l)?;
            let n = count(&shape)?;
            if mask.ty.dtype != DType::U8 || mask.bytes().len() != n.div_ceil(8) {
                return Err(format!("argument {name} is {:?} for {n} elements", mask.ty));
            }
            (unpack(mask.bytes(), 1, n, false), shape)
        }
        None => {
            let bits = constants::ints(&mask)?.iter().map(|&n| u8::from(n != 0)).collect();
            (bits, constants::shape(&mask)?)
        }
    };
    Ok((bits.into_iter().map(|b| b != 0).collect(), shape))
}

/// Refuses a mask of another number of elements.
fn as_many(bits: &[bool], n: usize) -> Raised<()> {
    match bits.iter().filter(|b| **b).count() {
        set if set == n => Ok(()),
        set => Err(format!("the mask has {set} elements, there are {n}")),
    }
}

/// Zeros where nothing is.
fn dense(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let data = c.constant("nonzero_data")?;
    let (bits, shape) = mask(c, "mask")?;
    let n = data.ty.numel().unwrap_or(0);
    as_many(&bits, n)?;
    if data.ty.dtype.is_float() {
        let mut values = constants::floats(&data)?.into_iter();
        let x: Vec<f32> = bits.iter().map(|&b| if b { values.next().unwrap_or(0.0) } else { 0.0 }).collect();
        return plain(data.ty.dtype, &shape, &x);
    }
    let mut values = constants::ints(&data)?.into_iter();
    let bytes = bits.iter().map(|&b| if b { values.next().unwrap_or(0) as u8 } else { 0 });
    let bytes: Vec<u8> = bytes.collect();
    let width = data.ty.dtype.bits();
    let bytes = match width {
        8 => bytes,
        1..8 => crate::mil::pack(bytes, width),
        _ => return Err(format!("argument nonzero_data is {:?}", data.ty)),
    };
    Ok(vec![Value::Const(Constant::new(data.ty.dtype, shape, bytes))])
}

/// A mask as a constant.
fn masked(bits: &[bool], shape: &[usize]) -> Value {
    let bytes = crate::mil::pack(bits.iter().map(|&b| u8::from(b)), 1);
    Value::Const(Constant::new(DType::U1, shape.iter().copied(), bytes))
}

/// For each element that is there, which of the parameters are its.
fn places(bits: &[bool], shape: &[usize], counts: &[usize]) -> Raised<Vec<usize>> {
    let block = blocks(shape, counts)?;
    let mut parts = vec![0; bits.len()];
    runs(shape, &block, |b, run| parts[run].fill(b));
    Ok(parts.into_iter().zip(bits).filter(|(_, b)| **b).map(|(p, _)| p).collect())
}

/// Sparse integers, to sparse floats.
fn sparse_shift_scale(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (data, scale) = (c.constant("nonzero_data")?, c.constant("scale")?);
    let (bits, shape) = mask(c, "data_mask")?;
    let mut x = numbers(&data)?;
    as_many(&bits, x.len())?;
    let scales = constants::floats(&scale).map_err(|e| format!("argument scale is {e}"))?;
    let offsets = match c.opt_constant("offset")? {
        Some(o) if o.ty.shape == scale.ty.shape => numbers(&o)?,
        Some(_) => return Err("arguments scale and offset have different shapes".into()),
        None => vec![0.0; scales.len()],
    };
    let places = places(&bits, &shape, &constants::shape(&scale)?)?;
    x.iter_mut().zip(places).for_each(|(x, p)| *x = (*x - offsets[p]) * scales[p]);
    let values = Constant::floats(scale.ty.dtype, &[x.len()], &x);
    Ok(vec![masked(&bits, &shape), Value::Const(values)])
}

/// Sparse indices, to sparse entries of tables.
fn sparse_table(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (codes, lut) = (c.constant("indices_nonzero_data")?, c.constant("lut")?);
    let (bits, shape) = mask(c, "indices_mask")?;
    let codes = constants::ints(&codes)?;
    as_many(&bits, codes.len())?;
    let tables = constants::shape(&lut)?;
    let [counts @ .., length, vector] = &tables[..] else {
        return Err(format!("argument lut is {:?}", lut.ty));
    };
    let (length, vector) = (*length, *vector);
    if vector != 1 {
        return Err("argument lut holds lists; sparse constants have single numbers".into());
    }
    let places = places(&bits, &shape, counts)?;
    let entry = |(code, p): (i64, usize)| {
        let at = usize::try_from(code).ok().filter(|&k| k < length);
        at.map(|k| p * length + k).ok_or_else(|| format!("index {code} is beyond a table of {length}"))
    };
    let at = codes.into_iter().zip(places).map(entry).collect::<Raised<Vec<usize>>>()?;
    let values = match lut.as_floats() {
        Some(entries) => {
            let x: Vec<f32> = at.iter().map(|&i| entries[i]).collect();
            Constant::floats(lut.ty.dtype, &[x.len()], &x)
        }
        None if lut.ty.dtype.bits() == 8 => {
            let x: Vec<u8> = at.iter().map(|&i| lut.bytes()[i]).collect();
            Constant::new(lut.ty.dtype, [x.len()], x)
        }
        None => return Err(format!("argument lut is {:?}", lut.ty)),
    };
    Ok(vec![masked(&bits, &shape), Value::Const(values)])
}
