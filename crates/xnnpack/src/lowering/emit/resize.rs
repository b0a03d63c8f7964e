//! Bilinear resizing.

use super::{Builder, Emit, Integers, Io, Row, check_values, flag, tensor, to_u32};
use crate::lowering::layout::Layout;
use crate::subgraph::{FLAG_ALIGN_CORNERS, Op, Resize};
use lowbit_core::ir::{Arg, NodeId, Program};
use lowbit_core::ops;

pub static ROWS: &[Row] = &[Row {
    ops: &[&ops::UPSAMPLE_BILINEAR2D_VEC, &ops::UPSAMPLE_BILINEAR2D],
    take: |p, n| Ok(plan(p, n)?.io.along),
    emit,
}];

struct Plan {
    io: Io,
    height: u32,
    width: u32,
    flags: u32,
}

fn plan(program: &Program, n: NodeId) -> Result<Plan, String> {
    check_values(program, n)?;
    let g = &program.graph;
    let node = g.node(n);
    let x = tensor(program, n, 0)?;
    if program.frozen(x).is_some() {
        return Err("its input is constant".into());
    }
    let (from, to) = (g.ty(x), g.ty(node.output()));
    if from.rank() != 4 {
        return Err(format!("XNNPACK resizes images, this is {from}"));
    }
    let size = |d: usize| to.shape[d].known().ok_or("the size it makes depends on a symbol");
    let (height, width) = (size(2)?, size(3)?);
    let align = flag(program, n, 2);
    // A scale that was given counts, not the ratio of sizes, which XNNPACK takes.
    let scales = match node.arg(3) {
        Arg::Floats(s) => s.clone(),
        Arg::Float(h) => vec![*h, if let Arg::Float(w) = node.arg(4) { *w } else { *h }],
        _ => vec![],
    };
    for (s, d) in scales.iter().zip([2, 3]).filter(|_| !align) {
        let exact = from.shape[d].known().map(|n| n as f64 * s);
        if exact != to.shape[d].known().map(|n| n as f64) {
            return Err(format!("its scale {s} does not fit its sizes exactly"));
        }
    }
    let io = Io::of(program, n, &[x], Integers::Never, false);
    let flags = if align { FLAG_ALIGN_CORNERS } else { 0 };
    Ok(Plan { io, height: to_u32(height)?, width: to_u32(width)?, flags })
}

fn emit(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let p = plan(b.part, n)?;
    let (x, y) = (p.io.inputs[0], p.io.exit.value);
    let input = b.get(x, &Layout::channels_last(b.ty(x), 2))?;
    let output = b.define(y, &Layout::channels_last(b.ty(y), 2))?;
    let resize = Resize { new_height: p.height, new_width: p.width, input, output, flags: p.flags };
    b.push(Op::StaticResizeBilinear2D(resize), None);
    Ok(())
}
