//! Products.

use super::{Table, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;

pub static TABLE: Table = &[
    new("linear", |c| {
        let (x, w, bias) = (c.tensor("x")?, c.tensor("weight")?, c.opt_tensor("bias")?);
        one(c.node(&ops::LINEAR, [x.into(), w.into(), Arg::optional(bias)])?)
    }),
    new("matmul", matmul),
    new("einsum", |c| {
        let (values, equation) = (c.tensors("values")?, c.str("equation", "")?);
        one(c.node(&ops::EINSUM, [equation.as_str().into(), values.into()])?)
    }),
];

fn matmul(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let (x, y) = (turned(c, "x", "transpose_x")?, turned(c, "y", "transpose_y")?);
    one(c.node(&ops::MATMUL, [x.into(), y.into()])?)
}

/// A matrix, its last two dimensions swapped if so told.
fn turned(c: &mut Call<'_>, name: &str, flag: &str) -> Raised<ValueId> {
    let v = c.tensor(name)?;
    match c.truth(flag, false)? {
        true if c.rank(v) < 2 => Err(format!("argument {name} has no two dimensions to swap")),
        true => c.node(&ops::TRANSPOSE, [v.into(), (-2).into(), (-1).into()]),
        false => Ok(v),
    }
}
