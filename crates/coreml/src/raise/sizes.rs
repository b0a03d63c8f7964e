//! Integers that follow from the inputs' sizes: what packages compute with tensors of int32, lowbit keeps as formulas.

use super::call::Call;
use super::{Raised, Value, constants};
use crate::mil::Constant;
use lowbit_core::ops::wrap_dim;
use lowbit_core::symint::SymInt;

/// Longer lists are data, not shapes.
const LONGEST: usize = 64;

/// The largest formula: real models stay far below.
pub const LARGEST: usize = 1 << 10;

/// A list of integers, or a single one.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The integers.
    pub entries: Vec<SymInt>,
    /// Whether it is a single one, without dimensions.
    pub scalar: bool,
}

impl List {
    fn new(entries: Vec<SymInt>) -> Self {
        List { entries, scalar: false }
    }

    /// The integers of a constant, when it is a short list of such.
    pub fn of(c: &Constant) -> Option<List> {
        if c.ty.rank() > 1 || c.ty.numel()? > LONGEST || c.ty.dtype == crate::mil::DType::Bool {
            return None;
        }
        let entries = constants::ints(c).ok()?.into_iter().map(SymInt::from).collect();
        Some(List { entries, scalar: c.ty.rank() == 0 })
    }

    /// As a constant, when nothing depends on inputs; what does not fit 32 bits is cut.
    pub fn constant(&self) -> Option<Constant> {
        let known: Option<Vec<i64>> = self.entries.iter().map(SymInt::known).collect();
        let cut = |n: &i64| (*n).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        let known: Vec<i32> = known?.iter().map(cut).collect();
        Some(if self.scalar { Constant::i32(*known.first()?) } else { Constant::i32s(&known) })
    }

    /// Its dimensions.
    pub fn rank(&self) -> usize {
        usize::from(!self.scalar)
    }
}

/// The integers that an operator makes of others, when it is one of those that shapes are computed with.
pub fn follow(c: &Call<'_>) -> Raised<Option<List>> {
    let made = match &*c.op.op {
        "shape" => Some(shape(c)?),
        _ if !reads_sizes(c) => None,
        "identity" => c.list("x"),
        "cast" if c.declared()?.is_float() => None,
        "cast" | "reshape" | "squeeze" | "expand_dims" => moved(c)?,
        "gather" => gather(c)?,
        "slice_by_index" => slice(c)?,
        "concat" => joined(c, "values"),
        "stack" => joined(c, "values").filter(|_| c.op.outputs.iter().all(|(_, t)| t.rank() == 1)),
        "add" => pairs(c, |a, b| Some(a.clone() + b))?,
        "sub" => pairs(c, |a, b| Some(a.clone() - b.clone()))?,
        "mul" => pairs(c, |a, b| Some(a.clone() * b.clone()))?,
        "floor_div" => pairs(c, |a, b| (*b != 0).then(|| a.floor_div(b)))?,
        "mod" => pairs(c, |a, b| (*b != 0).then(|| a.modulo(b)))?,
        "maximum" => pairs(c, |a, b| Some(a.sym_max(b)))?,
        "minimum" => pairs(c, |a, b| Some(a.sym_min(b)))?,
        "reduce_prod" => c.list("x").filter(|l| !l.scalar).map(|l| {
            let scalar = c.op.outputs.iter().all(|(_, t)| t.rank() == 0);
            List { entries: vec![l.entries.into_iter().product()], scalar }
        }),
        _ => None,
    };
    match made {
        Some(l) if l.entries.len() > LONGEST => Err(format!("it computes {} sizes", l.entries.len())),
        Some(l) if !l.entries.iter().all(|n| n.is_at_most(LARGEST)) => {
            Err("the formula of a size is too long".into())
        }
        other => Ok(other),
    }
}

fn reads_sizes(c: &Call<'_>) -> bool {
    c.op.inputs.iter().any(|(name, _)| c.values(name).any(|v| matches!(v, Some(Value::Sizes(_)))))
}

fn shape(c: &Call<'_>) -> Raised<List> {
    Ok(List::new(match c.values("x").next() {
        Some(Some(Value::Tensor(v))) => c.ty(*v).shape.clone(),
        Some(Some(Value::Const(k))) => k.ty.shape.clone(),
        Some(Some(Value::Sizes(l))) if l.scalar => vec![],
        Some(Some(Value::Sizes(l))) => vec![l.entries.len().into()],
        _ => return Err("argument x has no shape".into()),
    }))
}

/// The same integers, with or without a dimension.
fn moved(c: &Call<'_>) -> Raised<Option<List>> {
    let Some(l) = c.list("x") else { return Ok(None) };
    let rank = c.op.outputs.first().map_or(1, |(_, t)| t.rank());
    Ok(match rank {
        0 if l.entries.len() == 1 => Some(List { scalar: true, ..l }),
        1 => Some(List::new(l.entries)),
        _ => None,
    })
}

fn gather(c: &Call<'_>) -> Raised<Option<List>> {
    let (Some(x), Some(at)) = (c.list("x").filter(|l| !l.scalar), c.list("indices")) else { return Ok(None) };
    let pick = |i: &SymInt| {
        let i = i.known()?;
        x.entries.get(wrap_dim(i, x.entries.len()).ok()?).cloned()
    };
    let entries: Option<Vec<SymInt>> = at.entries.iter().map(pick).collect();
    let entries = entries.ok_or_else(|| format!("an index is outside a list of {}", x.entries.len()))?;
    Ok(Some(List { entries, scalar: at.scalar }))
}

fn slice(c: &Call<'_>) -> Raised<Option<List>> {
    let Some(x) = c.list("x").filter(|l| !l.scalar) else { return Ok(None) };
    let n = x.entries.len() as i64;
    let bound = |name: &str, mask: &str, default: i64| -> Raised<i64> {
        if c.truth(mask, false)? {
            return Ok(default);
        }
        let at = c.int(name)?;
        Ok(if at < 0 { at.saturating_add(n).max(0) } else { at.min(n) })
    };
    let stride = c.opt_int("stride")?.unwrap_or(1);
    if stride < 1 {
        return Ok(None);
    }
    let begin = bound("begin", "begin_mask", 0)?;
    if c.truth("squeeze_mask", false)? {
        let entry = usize::try_from(begin).ok().and_then(|i| x.entries.get(i)).cloned();
        let entry = entry.ok_or_else(|| format!("index {begin} is outside a list of {n}"))?;
        return Ok(Some(List { entries: vec![entry], scalar: true }));
    }
    let end = bound("end", "end_mask", n)?.max(begin);
    let part = &x.entries[begin as usize..end as usize];
    let stride = usize::try_from(stride).unwrap_or(usize::MAX);
    Ok(Some(List::new(part.iter().step_by(stride).cloned().collect())))
}

/// Lists behind one another.
fn joined(c: &Call<'_>, name: &str) -> Option<List> {
    let mut entries = vec![];
    let known = c.constants_each(name);
    for (value, constant) in c.values(name).zip(known) {
        let list = match value {
            Some(Value::Sizes(l)) => l.clone(),
            _ => List::of(&constant?)?,
        };
        entries.extend(list.entries);
    }
    Some(List::new(entries))
}

/// A function of two lists of one length, or of a list and a single integer.
fn pairs(c: &Call<'_>, f: impl Fn(&SymInt, &SymInt) -> Option<SymInt>) -> Raised<Option<List>> {
    let (Some(x), Some(y)) = (c.list("x"), c.list("y")) else { return Ok(None) };
    let (n, m) = (x.entries.len(), y.entries.len());
    if n != m && n != 1 && m != 1 {
        return Err(format!("lists of {n} and {m} integers do not fit together"));
    }
    let length = if n == 1 { m } else { n };
    let at = |l: &List, i: usize| l.entries[if l.entries.len() == 1 { 0 } else { i }].clone();
    let entries = (0..length).map(|i| f(&at(&x, i), &at(&y, i))).collect::<Option<Vec<_>>>();
    let entries = entries.ok_or("a size is divided by zero")?;
    Ok(Some(List { entries, scalar: x.scalar && y.scalar }))
}
