//! Shape and dtype rules that many operators share: broadcasting, promotion, reduction.

use super::call::{Call, InferError, wrap_dim};
use crate::dtype::DType;
use crate::ir::{Arg, TensorType};
use crate::symint::SymInt;

/// What a shape rule gives.
pub(super) type Types = Result<Vec<TensorType>, InferError>;

/// One output.
pub(super) fn one(dtype: DType, shape: Vec<SymInt>) -> Types {
    Ok(vec![TensorType { dtype, shape }])
}

/// The type of argument 0, unchanged.
pub(super) fn same(c: &Call<'_>) -> Types {
    Ok(vec![c.tensor(0)?.clone()])
}

/// Whether two sizes surely differ. Formulas that are not equal as formulas may be equal for every size that export's
/// guards let through, so they get the benefit of the doubt.
pub(super) fn differ(a: &SymInt, b: &SymInt) -> bool {
    matches!((a.known(), b.known()), (Some(a), Some(b)) if a != b)
}

/// Two dimensions broadcast together. A symbol meets a size of its own or 1: export has guarded whatever else it met,
/// so the known side wins, and the first of two formulas.
pub(super) fn broadcast_dim(a: &SymInt, b: &SymInt) -> Option<SymInt> {
    match (a.known(), b.known()) {
        _ if a == b => Some(a.clone()),
        (Some(1), _) => Some(b.clone()),
        (_, Some(1)) => Some(a.clone()),
        (Some(_), None) => Some(a.clone()),
        (None, Some(_)) => Some(b.clone()),
        (None, None) => Some(a.clone()),
        _ => None,
    }
}

/// Shapes broadcast together, aligned at the last dimension.
pub(super) fn broadcast(a: &[SymInt], b: &[SymInt]) -> Result<Vec<SymInt>, InferError> {
    let rank = a.len().max(b.len());
    let one = SymInt::Known(1);
    let at = |s: &[SymInt], i: usize| (i + s.len()).checked_sub(rank).map_or(one.clone(), |k| s[k].clone());
    (0..rank)
        .map(|i| {
            broadcast_dim(&at(a, i), &at(b, i))
                .ok_or_else(|| InferError::new(format!("shapes {a:?} and {b:?} do not broadcast")))
        })
        .collect()
}

/// Collects operands for PyTorch's promotion: tensors with dimensions outrank those without, which outrank Python
/// numbers, unless the weaker one is of a higher category (bool < integer < float).
#[derive(Default)]
pub(super) struct Promotion {
    dims: Option<DType>,
    zero: Option<DType>,
    wrapped: Option<DType>,
}

impl Promotion {
    pub(super) fn tensor(mut self, t: &TensorType) -> Self {
        let slot = if t.shape.is_empty() { &mut self.zero } else { &mut self.dims };
        *slot = Some(slot.map_or(t.dtype, |d| d.promote(t.dtype)));
        self
    }

    pub(super) fn number(mut self, arg: &Arg) -> Self {
        let d = match arg {
            Arg::Int(_) => DType::I64,
            Arg::Float(_) => DType::F32,
            Arg::Bool(_) => DType::Bool,
            _ => return self,
        };
        self.wrapped = Some(self.wrapped.map_or(d, |w| w.promote(d)));
        self
    }

    pub(super) fn result(self) -> DType {
        let category = |d: DType| if d == DType::Bool { 0 } else { 1 + u8::from(d.is_float()) };
        let combine = |strong: Option<DType>, weak: Option<DType>| match (strong, weak) {
            (Some(s), Some(w)) if category(w) > category(s) => Some(s.promote(w)),
            (s, w) => s.or(w),
        };
        combine(self.dims, combine(self.zero, self.wrapped)).unwrap_or(DType::F32)
    }
}

/// Integers and booleans become the default float type.
pub(super) fn floated(d: DType) -> DType {
    if d.is_float() { d } else { DType::F32 }
}

/// Element-wise, of floats: integers become floats.
pub(super) fn unary_float(c: &Call<'_>) -> Types {
    let x = c.tensor(0)?;
    one(floated(x.dtype), x.shape.clone())
}

/// Element-wise over arguments 0 and 1, each a tensor or a number.
fn binary_parts(c: &Call<'_>) -> Result<(DType, Vec<SymInt>), InferError> {
    let mut p = Promotion::default();
    let mut shape = vec![];
    for i in 0..2 {
        match c.opt_tensor(i) {
            Some(t) => {
                p = p.tensor(t);
                shape = broadcast(&shape, &t.shape)?;
            }
            None => p = p.number(c.arg(i)),
        }
    }
    Ok((p.result(), shape))
}

/// Element-wise with promotion.
pub(super) fn binary(c: &Call<'_>) -> Types {
    let (dtype, shape) = binary_parts(c)?;
    one(dtype, shape)
}

/// Element-wise with promotion; integers become floats (true division).
pub(super) fn binary_float(c: &Call<'_>) -> Types {
    let (dtype, shape) = binary_parts(c)?;
    one(floated(dtype), shape)
}

/// Division: true, or rounded when argument 2 says so.
pub(super) fn division(c: &Call<'_>) -> Types {
    let (dtype, shape) = binary_parts(c)?;
    one(if matches!(c.arg(2), Arg::Str(_)) { dtype } else { floated(dtype) }, shape)
}

/// Element-wise with a boolean result.
pub(super) fn compare(c: &Call<'_>) -> Types {
    let (_, shape) = binary_parts(c)?;
    one(DType::Bool, shape)
}

/// Argument 0 tested element by element.
pub(super) fn predicate(c: &Call<'_>) -> Types {
    one(DType::Bool, c.tensor(0)?.shape.clone())
}

/// Arguments 0, 1, 2 element-wise, promoted together.
pub(super) fn ternary(c: &Call<'_>) -> Types {
    let mut p = Promotion::default();
    let mut shape = vec![];
    for i in 0..3 {
        if let Some(t) = c.opt_tensor(i) {
            p = p.tensor(t);
            shape = broadcast(&shape, &t.shape)?;
        } else {
            p = p.number(c.arg(i));
        }
    }
    one(p.result(), shape)
}

/// The dimensions a reduction runs over: argument `i` (absent or empty: all of them), as flags.
pub(super) fn reduced(c: &Call<'_>, i: usize, rank: usize) -> Result<Vec<bool>, InferError> {
    let dims = match c.arg(i) {
        Arg::None => vec![],
        Arg::Int(_) => vec![c.int(i)?],
        _ => c.ints(i)?,
    };
    let mut flags = vec![dims.is_empty(); rank];
    for d in dims {
        let d = wrap_dim(d, rank)?;
        if let Some(f) = flags.get_mut(d) {
            if *f {
                return Err(InferError::new(format!("dimension {d} is reduced twice")));
            }
            *f = true;
        }
    }
    Ok(flags)
}

/// A shape without its reduced dimensions, or with ones in their place.
pub(super) fn reduce_shape(shape: &[SymInt], reduced: &[bool], keepdim: bool) -> Vec<SymInt> {
    let dims = shape.iter().zip(reduced);
    if keepdim {
        dims.map(|(d, &r)| if r { SymInt::Known(1) } else { d.clone() }).collect()
    } else {
        dims.filter(|(_, r)| !**r).map(|(d, _)| d.clone()).collect()
    }
}

/// A list argument widened to `n` entries: one entry stands for all, none for `default`.
pub(super) fn widened(c: &Call<'_>, i: usize, n: usize, default: &[i64]) -> Result<Vec<i64>, InferError> {
    let l = c.ints(i)?;
    match l.len() {
        0 => Ok(default.to_vec()),
        1 => Ok(vec![l[0]; n]),
        k if k == n => Ok(l),
        k => Err(InferError::new(format!("{k} numbers for {n} spatial dimensions"))),
    }
}

/// Whether a keyword argument called `name` gives an element type; `fallback` if not.
pub(super) fn dtype_or(c: &Call<'_>, name: &str, fallback: DType) -> DType {
    c.op.schema().index_of(name).and_then(|i| c.opt_dtype(i)).unwrap_or(fallback)
}
