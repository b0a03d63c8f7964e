//! Constants, tensors out of sizes and numbers, and triangles of matrices.

use super::{Table, kept, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value, constants};
use lowbit_core::dtype::DType;
use lowbit_core::ir::Arg;
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    kept("const", |c| Ok(vec![Value::Const(c.constant("val")?)])),
    kept("fill", |c| {
        let (shape, value) = (c.sizes("shape")?, number(c, "value", 0)?);
        let dtype = constants::inside(c.declared()?)?;
        one(c.node(&ops::FULL, [shape.into(), value, dtype.into()])?)
    }),
    kept("fill_like", |c| {
        let (like, value) = (c.tensor("ref_tensor")?, number(c, "value", 0)?);
        let dtype = constants::inside(c.declared()?)?;
        one(c.node(&ops::FULL_LIKE, [like.into(), value, dtype.into()])?)
    }),
    new("range_1d", |c| {
        let dtype = constants::inside(c.declared()?)?;
        let ends = ["start", "end", "step"].map(|name| match dtype.is_float() {
            true => c.float(name).map(Arg::Float),
            false => c.size(name).map(Arg::Int),
        });
        let [start, end, step] = ends;
        one(c.node(&ops::ARANGE_START_STEP, [start?, end?, step?, dtype.into()])?)
    }),
    kept("one_hot", |c| {
        let indices = c.tensor("indices")?;
        let (size, rank) = (c.size("one_hot_vector_size")?, c.rank(indices) + 1);
        let axis = c.axis("axis", -1, rank)?;
        let classes = c.node(&ops::ARANGE, [Arg::Int(size.clone()), DType::I32.into()])?;
        let shape = (0..rank).map(|d| if d == axis { size.clone() } else { SymInt::from(1) });
        let classes = c.reshape(classes, shape.collect())?;
        let indices = c.node(&ops::UNSQUEEZE, [indices.into(), axis.into()])?;
        let hot = c.node(&ops::EQ, [indices.into(), classes.into()])?;
        let (on, off) = (number(c, "on_value", 1)?, number(c, "off_value", 0)?);
        let y = c.node(&ops::WHERE_SCALAR, [hot.into(), on, off])?;
        one(c.cast(y, constants::inside(c.declared()?)?)?)
    }),
    kept("band_part", |c| {
        let mut x = c.tensor("x")?;
        if c.rank(x) < 2 {
            return Err(format!("argument x is {}, no matrix", c.ty(x)));
        }
        let (lower, upper) = (c.opt_int("lower")?.unwrap_or(-1), c.opt_int("upper")?.unwrap_or(-1));
        // Less than zero keeps a whole triangle.
        if lower >= 0 {
            x = c.node(&ops::TRIU, [x.into(), (-lower).into()])?;
        }
        if upper >= 0 {
            x = c.node(&ops::TRIL, [x.into(), upper.into()])?;
        }
        one(x)
    }),
];

/// A number of the kind that was given.
fn number(c: &Call<'_>, name: &str, default: i64) -> Raised<Arg> {
    Ok(match c.opt_constant(name)? {
        None => Arg::from(default),
        Some(k) if k.as_floats().is_some() => Arg::Float(c.float(name)?),
        Some(k) if k.ty.dtype == crate::mil::DType::Bool => Arg::Bool(c.truth(name, false)?),
        Some(_) => Arg::from(c.int(name)?),
    })
}
