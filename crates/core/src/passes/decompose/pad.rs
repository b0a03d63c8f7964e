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
    borders(b, n, &mode)
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
            parts.push(piece(b, x, d, mode, *before, true)?);
        }
        let (start, end) = (SymInt::from((-before).max(0)), size.clone() - (-after).max(0));
        parts.push(if start == 0 && end == size { x } else { b.slice(x, d, start, end)? });
        if *after > 0 {
            parts.push(piece(b, x, d, mode, *after, false)?);
        }
        x = b.cat(parts, d)?;
    }
    one(x)
}

/// `width` entries to be put in front of dimension `d`, or behind it.
fn piece(
    b: &mut Build<'_>,
    x: ValueId,
    d: usize,
    mode: &str,
    width: i64,
    front: bool,
) -> Result<ValueId, PassFailure> {
    let size = b.ty(x).shape[d].clone();
    match (mode, front) {
        ("circular", true) => b.slice(x, d, size.clone() - width, size),
        ("circular", false) => b.slice(x, d, 0.into(), width.into()),
        ("reflect", front) => {
            let (start, end) = if front {
                (SymInt::from(1), SymInt::from(1 + width))
            } else {
                (size.clone() - (1 + width), size - 1)
            };
            let part = b.slice(x, d, start, end)?;
            b.op(&ops::FLIP, [part.into(), Arg::ints([d])])
        }
        ("replicate", front) => {
            let (start, end) = if front { (0.into(), 1.into()) } else { (size.clone() - 1, size) };
            let part = b.slice(x, d, start, end)?;
            let mut shape = b.ty(part).shape.clone();
            shape[d] = width.into();
            b.expand(part, shape)
        }
        _ => Err(PassFailure(format!("there is no padding mode {mode:?}"))),
    }
}

pub(super) const TABLE: Table = &[
    ("aten.pad.default", pad),
    ("aten.reflection_pad1d.default", reflection),
    ("aten.reflection_pad2d.default", reflection),
    ("aten.replication_pad2d.default", replication),
];
