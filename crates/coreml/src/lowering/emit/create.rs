//! Values out of nothing, and other element types.

use super::{Emitted, Table, out, sizes};
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::Type;
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::TO_COPY, |b, n| {
        let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
        Ok(vec![b.cast(&x, ty.dtype)])
    }),
    (&ops::FULL, |b, n| {
        let ty = out(b, n)?;
        let value = super::binary::number(b, ty.dtype, super::number(n, 1)?)?;
        fill(b, ty, value)
    }),
    (&ops::ARANGE, range),
    (&ops::ARANGE_START_STEP, range),
];

/// One value everywhere.
fn fill(b: &mut Builder<'_>, ty: Type, value: Var) -> Emitted<Vec<Var>> {
    if ty.rank() == 0 {
        return Ok(vec![value]);
    }
    let shape = sizes::list(b, &ty.shape)?;
    Ok(vec![b.op("fill", vec![("shape", shape), ("value", value.into())], ty)])
}

/// Numbers in equal steps; the end may depend on the sizes of inputs.
fn range(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let ty = out(b, n)?;
    let plain = *n.op() == ops::ARANGE;
    let bound = |b: &mut Builder<'_>, arg: &Arg| -> Emitted<In> {
        match arg {
            Arg::Int(k) if k.known().is_none() => {
                let x = sizes::scalar(b, k)?;
                Ok(b.cast(&x, ty.dtype).into())
            }
            _ => {
                let x = ops::views::float(arg).ok_or("its bounds are no numbers")?;
                Ok(super::binary::number(b, ty.dtype, x)?.into())
            }
        }
    };
    let [start, end, step] = if plain {
        [Arg::Int(0.into()), n.arg(0).clone(), Arg::Int(1.into())]
    } else {
        [n.arg(0).clone(), n.arg(1).clone(), n.arg(2).clone()]
    };
    let inputs = vec![("end", bound(b, &end)?), ("start", bound(b, &start)?), ("step", bound(b, &step)?)];
    Ok(vec![b.op("range_1d", inputs, ty)])
}
