//! The operators XNNPACK has, one row each: whether it takes a node, with which others, and what becomes of it.
//!
//! `take` looks at the whole program, `emit` at the region; both read the same few nodes around the one at hand, so
//! they come to the same conclusion. Adding an operator is a row in one of the files here.

mod attention;
mod binary;
mod conv;
mod join;
mod linear;
mod norm;
mod pool;
mod quantized;
mod reduce;
mod resize;
mod shape;
mod unary;

use super::build::{Builder, Emit, Exit};
use super::quant::{Dequantized, QParams, dequantized, exit};
use crate::subgraph::MAX_DIMS;
pub use conv::is_fully_connected;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{NodeId, Program, ValueId};
use lowbit_core::ops::OpDef;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What XNNPACK does with some operators.
pub struct Row {
    /// The operators.
    pub ops: &'static [&'static OpDef],
    /// Whether it takes a node, and what goes along: the quantize and dequantize nodes it absorbs.
    pub take: fn(&Program, NodeId) -> Result<Vec<NodeId>, String>,
    /// Adds it to a subgraph.
    pub emit: fn(&mut Builder<'_>, NodeId) -> Emit,
}

static FAMILIES: &[&[Row]] = &[
    attention::ROWS,
    binary::ROWS,
    conv::ROWS,
    join::ROWS,
    linear::ROWS,
    norm::ROWS,
    pool::ROWS,
    quantized::ROWS,
    reduce::ROWS,
    resize::ROWS,
    shape::ROWS,
    unary::ROWS,
];

/// Every row.
pub fn all() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().flat_map(|f| f.iter())
}

/// The row of an operator.
pub fn row(op: &OpDef) -> Option<&'static Row> {
    static BY_NAME: LazyLock<HashMap<&str, &Row>> =
        LazyLock::new(|| all().flat_map(|r| r.ops.iter().map(move |o| (o.name, r))).collect());
    BY_NAME.get(op.name).copied()
}

/// When an operator can work on integers.
#[derive(Copy, Clone, Debug)]
pub enum Integers {
    /// Never.
    Never,
    /// When those of its operands and result mean the same.
    Same,
    /// When this agrees to what those of its operands and result mean.
    If(fn(&[QParams], QParams) -> bool),
}

/// What a node reads and makes: floats, or integers with the quantize and dequantize nodes absorbed.
#[derive(Clone, Debug)]
pub struct Io {
    /// The operands that were asked about.
    pub inputs: Vec<ValueId>,
    /// Where the result goes.
    pub exit: Exit,
    /// The nodes absorbed.
    pub along: Vec<NodeId>,
}

impl Io {
    /// Reads the surroundings of `n`, whose operands are `operands`. With `fuse`, an activation runs with it.
    pub fn of(program: &Program, n: NodeId, operands: &[ValueId], integers: Integers, fuse: bool) -> Io {
        if let Some(io) = Self::integers(program, n, operands, integers, fuse) {
            return io;
        }
        let exit = exit(program, n, false, fuse);
        Io { inputs: operands.to_vec(), exit, along: exit.activation.into_iter().collect() }
    }

    fn integers(
        program: &Program,
        n: NodeId,
        operands: &[ValueId],
        integers: Integers,
        fuse: bool,
    ) -> Option<Io> {
        let read: Vec<Dequantized> =
            operands.iter().map(|&v| dequantized(program, v)).collect::<Option<_>>()?;
        let exit = exit(program, n, true, fuse);
        let (q, params) = exit.quantize?;
        let reads: Vec<QParams> = read.iter().map(|d| d.params).collect();
        let agreed = match integers {
            Integers::Never => false,
            Integers::Same => reads.iter().all(|p| p.same(&params)),
            Integers::If(agrees) => agrees(&reads, params),
        };
        let along = read.iter().map(|d| d.node).chain(exit.activation).chain([q]).collect();
        agreed.then(|| Io { inputs: read.iter().map(|d| d.int8).collect(), exit, along })
    }
}

/// Whether `v` is a constant, also one that is stored as integers.
fn is_constant(program: &Program, v: ValueId) -> bool {
    let stored = dequantized(program, v).map_or(v, |d| d.int8);
    program.frozen(stored).is_some()
}

/// Checks what holds for all operators: `f32` or `f16` throughout, one to six dimensions, nothing empty.
///
/// # Errors
/// The value in the way.
pub fn check_values(program: &Program, n: NodeId) -> Result<(), String> {
    let g = &program.graph;
    let node = g.node(n);
    let mut dtype = None;
    for v in node.operands().chain(node.outputs().iter().copied()) {
        let (name, ty) = (&g.value(v).name, g.ty(v));
        if !matches!(ty.dtype, DType::F32 | DType::F16) {
            return Err(format!("%{name} is {}; XNNPACK computes with f32 and f16", ty.dtype));
        }
        let constant = is_constant(program, v);
        // A constant takes on the type of what it meets; the operator's result says which that is.
        if !constant && *dtype.get_or_insert(ty.dtype) != ty.dtype {
            return Err(format!(
                "%{name} is {ty}, another of its tensors is not; XNNPACK does not mix types"
            ));
        }
        if !constant {
            check_shape(program, v)?;
        }
    }
    Ok(())
}

/// Checks the shape of a value that is not constant.
///
/// # Errors
/// What XNNPACK does not take.
pub fn check_shape(program: &Program, v: ValueId) -> Result<(), String> {
    let (name, ty) = (&program.graph.value(v).name, program.graph.ty(v));
    if ty.rank() == 0 {
        return Err(format!("%{name} has no dimensions; XNNPACK takes 1 to {MAX_DIMS}"));
    }
    if ty.rank() > MAX_DIMS {
        return Err(format!("%{name} has {} dimensions; XNNPACK takes 1 to {MAX_DIMS}", ty.rank()));
    }
    if ty.shape.iter().any(|d| d.known() == Some(0)) {
        return Err(format!("%{name} is {ty}; XNNPACK takes no empty tensors"));
    }
    Ok(())
}

/// The tensor of argument `i`.
///
/// # Errors
/// When it holds none.
pub fn tensor(program: &Program, n: NodeId, i: usize) -> Result<ValueId, String> {
    lowbit_core::ops::views::value(program.graph.node(n).arg(i))
        .ok_or_else(|| argument(program, n, i, "a tensor"))
}

/// The plain integer of argument `i`.
///
/// # Errors
/// When it is none.
pub fn int(program: &Program, n: NodeId, i: usize) -> Result<i64, String> {
    lowbit_core::ops::views::int(program.graph.node(n).arg(i))
        .ok_or_else(|| argument(program, n, i, "an integer without symbols"))
}

/// The plain integers of argument `i`, widened to `len` as PyTorch does; `default` when there are none.
///
/// # Errors
/// When they are none.
pub fn ints(program: &Program, n: NodeId, i: usize, len: usize, default: &[i64]) -> Result<Vec<i64>, String> {
    let node = program.graph.node(n);
    let bad = || argument(program, n, i, "a list of integers without symbols");
    let list = match node.arg(i) {
        lowbit_core::ir::Arg::None => Vec::new(),
        lowbit_core::ir::Arg::Int(x) => vec![x.known().ok_or_else(bad)?],
        arg => lowbit_core::ops::views::ints(arg).ok_or_else(bad)?,
    };
    match list.len() {
        0 => Ok(default.to_vec()),
        1 => Ok(vec![list[0]; len]),
        l if l == len => Ok(list),
        _ => Err(bad()),
    }
}

/// The number of argument `i`.
///
/// # Errors
/// When it is none.
pub fn float(program: &Program, n: NodeId, i: usize) -> Result<f64, String> {
    lowbit_core::ops::views::float(program.graph.node(n).arg(i))
        .ok_or_else(|| argument(program, n, i, "a number"))
}

/// Whether argument `i` is true.
pub fn flag(program: &Program, n: NodeId, i: usize) -> bool {
    lowbit_core::ops::views::bool(program.graph.node(n).arg(i)) == Some(true)
}

fn argument(program: &Program, n: NodeId, i: usize, want: &str) -> String {
    let name = program.graph.node(n).op().schema().args.get(i).map_or("?", |a| &a.name[..]).to_string();
    format!("its argument {name} is not {want}")
}

/// Dimension `d` counted from the front.
///
/// # Errors
/// When there is no such dimension.
pub fn dim(d: i64, rank: usize) -> Result<usize, String> {
    lowbit_core::ops::wrap_dim(d, rank).map_err(|e| e.message)
}

/// An integer as XNNPACK stores it.
///
/// # Errors
/// When it is negative or too large.
pub fn to_u32(x: i64) -> Result<u32, String> {
    u32::try_from(x).map_err(|_| format!("{x} is no size XNNPACK can store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_one_row() {
        let mut names = std::collections::BTreeSet::new();
        for op in all().flat_map(|r| r.ops) {
            assert!(names.insert(op.name), "{} has two rows", op.name);
        }
    }
}
