//! Padding with what lies at the borders.

use super::{Build, PassFailure, Table, Values, one};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

/// `pad(self, pad, mode, value)`
fn pad(b: &mut Build<'_>, n: &Node) -> Values {
    let mode = match n.arg(2) {
        Arg::Str(s) => s.to_string(),
        _ => "constant".into(),
    };
    if mode == "constant" {
        let value = ops::views::float(n.arg(3)).unwrap_or(0.0);
        let x = b.tensor(n, 0)?;
        return one(b.op(&ops::CONSTANT_PAD_ND, [x.into(), n.arg(1).clone(), Arg::Float(value)])?);
    }
    // The names that kernels go by, where there is one.
    let Some(pads) = ops::views::ints(n.arg(1)) else { return borders(b, n, &mode) };
    let (rank, dims) = (b.ty(b.tensor(n, 0)?).rank(), pads.len() / 2);
    let named = match (&mode[..], dims) {
        ("reflect", 1) => Some(&ops::REFLECTION_PAD1D),
        ("reflect", 2) => Some(&ops::REFLECTION_PAD2D),
        ("replicate", 2) => Some(&ops::REPLICATION_PAD2D),
        _ => None,
    };
    match named.filter(|_| (dims + 1..=dims + 2).contains(&rank) && pads.iter().all(|&p| p >= 0)) {
        Some(op) => one(b.op(op, n.args()[..2].to_vec())?),
        None => borders(b, n, &mode),
    }
}

fn reflection(b: &mut Build<'_>, n: &Node) -> Values {
    borders(b, n, "reflect")
}
fn replication(b: &mut Build<'_>, n: &Node) -> Values {
    borders(b, n, "replicate")
}

/// Dimension by dimension, pieces are joined to both ends; a negative pad cuts instead.
fn borders(b: &mut Build<'_>, n: &Node, mode: &str) -> Values {
    let mut x = b.tensor(n, 0)?;
    let Some(pads) = ops::views::ints(n.arg(1)) else {
        return Err(PassFailure("its width depends on a symbol; export with a fixed one".into()));
    };
    let rank = b.ty(x).rank();
    for (i, pair) in pads.chunks(2).enumerate() {
        let (Some(d), [before, after]) = ((rank).checked_sub(i + 1), pair) else { return Ok(None) };
        let size = b.ty(x).shape[d].clone();
        let mut parts = vec![];
        if *before > 0 {
            parts.extend(pieces(b, x, d, mode, *before, true)?);
        }
        let (start, end) = (SymInt::from((-before).max(0)), size.clone() - (-after).max(0));
        parts.push(if start == 0 && end == size { x } else { b.slice(x, d, start, end)? });
        if *after > 0 {
            parts.extend(pieces(b, x, d, mode, *after, false)?);
        }
        x = b.cat(parts, d)?;
    }
    one(x)
}

/// Up to this width, the entries beyond a border are put together one by one: nothing has to be turned round or
/// repeated, which few backends do.
pub const NARROW: i64 = 4;

/// `width` entries to be put in front of dimension `d`, or behind it.
fn pieces(
    b: &mut Build<'_>,
    x: ValueId,
    d: usize,
    mode: &str,
    width: i64,
    front: bool,
) -> Result<Vec<ValueId>, PassFailure> {
    let size = b.ty(x).shape[d].clone();
    let narrow = width <= NARROW;
    Ok(match (mode, front) {
        ("circular", true) => vec![b.slice(x, d, size.clone() - width, size)?],
        ("circular", false) => vec![b.slice(x, d, 0.into(), width.into())?],
        ("reflect", true) if narrow => {
            (1..=width).rev().map(|i| b.slice(x, d, i.into(), (i + 1).into())).collect::<Result<_, _>>()?
        }
        ("reflect", false) if narrow => (1..=width)
            .map(|i| b.slice(x, d, size.clone() - (i + 1), size.clone() - i))
            .collect::<Result<_, _>>()?,
        ("reflect", front) => {
            let (start, end) = if front {
                (SymInt::from(1), SymInt::from(1 + width))
            } else {
                (size.clone() - (1 + width), size - 1)
            };
            let part = b.slice(x, d, start, end)?;
            vec![b.op(&ops::FLIP, [part.into(), Arg::ints([d])])?]
        }
        ("replicate", front) => {
            let (start, end) = if front { (0.into(), 1.into()) } else { (size.clone() - 1, size) };
            let part = b.slice(x, d, start, end)?;
            if narrow {
                return Ok(vec![part; width as usize]);
            }
            let mut shape = b.ty(part).shape.clone();
            shape[d] = width.into();
            vec![b.expand(part, shape)?]
        }
        _ => return Err(PassFailure(format!("there is no padding mode {mode:?}"))),
    })
}

pub(super) const TABLE: Table = &[
    ("aten.pad.default", pad),
    ("aten.reflection_pad1d.default", reflection),
    ("aten.reflection_pad2d.default", reflection),
    ("aten.replication_pad2d.default", replication),
];
