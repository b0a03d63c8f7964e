//! Writing elements by indices. Only what replaces or adds has an operator in PyTorch.

use super::index::{coordinates, indices, places};
use super::{Table, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;

pub static TABLE: Table = &[
    new("scatter", |c| {
        let (data, indices) = (c.tensor("data")?, indices(c)?);
        let axis = c.axis("axis", 0, c.rank(data))?;
        write(c, data, places(axis, &[indices]))
    }),
    new("scatter_nd", |c| {
        let (data, indices) = (c.tensor("data")?, indices(c)?);
        let each = coordinates(c, indices, data)?;
        write(c, data, places(0, &each))
    }),
    new("scatter_along_axis", |c| {
        let (data, indices) = (c.tensor("data")?, indices(c)?);
        let axis = c.axis("axis", 0, c.rank(data))?;
        let (updates, add) = updates(c)?;
        let op = if add { &ops::SCATTER_ADD } else { &ops::SCATTER };
        one(c.node(op, [data.into(), axis.into(), indices.into(), updates.into()])?)
    }),
];

/// What is written, and whether it is added to what is there.
fn updates(c: &mut Call<'_>) -> Raised<(ValueId, bool)> {
    let (updates, mode) = (c.tensor("updates")?, c.str("mode", "add")?);
    match &*mode {
        "update" => Ok((updates, false)),
        "add" => Ok((updates, true)),
        "sub" => Ok((c.node(&ops::NEG, [updates.into()])?, true)),
        other => Err(format!("argument mode is {other:?}; lowbit has update, add and sub")),
    }
}

fn write(c: &mut Call<'_>, data: ValueId, places: Arg) -> Raised<Vec<Value>> {
    let (updates, add) = updates(c)?;
    one(c.node(&ops::INDEX_PUT, [data.into(), places, updates.into(), add.into()])?)
}
