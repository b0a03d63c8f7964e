//! Pools.

use super::conv::{both, pictures};
use super::{Builder, Emitted, Made, Node, Table, ints, list, pairs, sizes, truth, widened};
use crate::graph::Param;
use lowbit_core::ir::Arg;
use lowbit_core::ops;

pub static TABLE: Table = &[
    (&ops::MAX_POOL1D, |b, n| max_pool(b, n, 1)),
    (&ops::MAX_POOL2D, |b, n| max_pool(b, n, 2)),
    (&ops::AVG_POOL1D, |b, n| avg_pool(b, n, 1)),
    (&ops::AVG_POOL2D, |b, n| avg_pool(b, n, 2)),
    (&ops::ADAPTIVE_AVG_POOL1D, adaptive),
    (&ops::ADAPTIVE_AVG_POOL2D, adaptive),
];

/// Numbers of `rounding_mode`.
const FLOOR: u32 = 0;
const CEIL: u32 = 1;

/// Kernel, stride and pads from arguments 1 to 3.
fn window(n: &Node, dims: usize) -> Emitted<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    let kernel = widened(n, 1, dims, &[])?;
    let stride = widened(n, 2, dims, &kernel)?;
    let around: Vec<i64> = both(widened(n, 3, dims, &[])?, 0).iter().flat_map(|&p| [p, p]).collect();
    Ok((sizes(&both(kernel, 1))?, sizes(&both(stride, 1))?, sizes(&around)?))
}

fn max_pool(b: &mut Builder<'_>, n: &Node, dims: usize) -> Emitted<Vec<Made>> {
    if widened(n, 4, dims, &[])?.iter().any(|&d| d != 1) {
        return Err("HTP's pools have no dilation".into());
    }
    let (kernel, stride, around) = window(n, dims)?;
    let rounding = if truth(n, 5)? { CEIL } else { FLOOR };
    pictures(b, n, |b, x, (kind, dims)| {
        let params = vec![
            ("filter_size", list(kernel)),
            ("stride", list(stride)),
            ("pad_amount", pairs(around)),
            ("rounding_mode", Param::U32(rounding)),
        ];
        let made = (b.kind_of(x), dims);
        let y = b.one("PoolMax2d", params, vec![x], made);
        b.convert(y, &kind)
    })
}

fn avg_pool(b: &mut Builder<'_>, n: &Node, dims: usize) -> Emitted<Vec<Made>> {
    if n.args().len() > 6 && *n.arg(6) != Arg::None {
        return Err("HTP's pools divide by the number of elements".into());
    }
    let (kernel, stride, around) = window(n, dims)?;
    let (rounding, edges) = (if truth(n, 4)? { CEIL } else { FLOOR }, truth(n, 5)?);
    if rounding == CEIL && edges && around.iter().any(|&p| p != 0) {
        return Err("HTP counts what lies beyond the pads, PyTorch does not".into());
    }
    pictures(b, n, |b, x, to| Ok(average(b, x, [kernel, stride, around], rounding, edges, to)))
}

fn average(
    b: &mut Builder<'_>,
    x: usize,
    [kernel, stride, around]: [Vec<u32>; 3],
    rounding: u32,
    edges: bool,
    to: (crate::lowering::kind::Kind, Vec<u32>),
) -> usize {
    let params = vec![
        ("filter_size", list(kernel)),
        ("stride", list(stride)),
        ("pad_amount", pairs(around)),
        ("rounding_mode", Param::U32(rounding)),
        ("count_pad_for_edges", Param::Bool(edges)),
    ];
    b.one("PoolAvg2d", params, vec![x], to)
}

/// Windows of equal size, without overlap.
fn adaptive(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    ints(n, 1)?;
    pictures(b, n, |b, x, to| {
        let (have, want) = (b.get(x).dims[1..3].to_vec(), to.1[1..3].to_vec());
        if have.iter().zip(&want).any(|(h, w)| *w == 0 || h % w != 0) {
            return Err(format!("HTP has pools of equal windows; {have:?} does not divide into {want:?}"));
        }
        let window: Vec<u32> = have.iter().zip(&want).map(|(h, w)| h / w).collect();
        Ok(average(b, x, [window.clone(), window, vec![0; 4]], FLOOR, false, to))
    })
}
