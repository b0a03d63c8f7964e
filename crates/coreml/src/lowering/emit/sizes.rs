//! Sizes that depend on inputs, computed while the model runs.

use super::Emitted;
use super::binary::apply;
use crate::lowering::builder::{Builder, In, Var};
use crate::mil::{DType, Type};
use lowbit_core::symint::{SymInt, SymOp, SymTree};

/// A list of sizes as an argument: a constant, or put together from the sizes of inputs.
pub(super) fn list(b: &mut Builder<'_>, sizes: &[SymInt]) -> Emitted<In> {
    let known: Option<Vec<i64>> = sizes.iter().map(SymInt::known).collect();
    if let Some(known) = known {
        return Ok(super::narrow(&known)?.into());
    }
    let parts = sizes.iter().map(|s| size(b, s)).collect::<Emitted<Vec<Var>>>()?;
    if let [one] = &parts[..] {
        return Ok(one.into());
    }
    let ty = Type::new(DType::I32, [parts.len()]);
    let inputs = vec![("values", parts.into()), ("axis", 0.into()), ("interleave", false.into())];
    Ok(b.op("concat", inputs, ty).into())
}

/// A size as a list of one.
pub(super) fn size(b: &mut Builder<'_>, s: &SymInt) -> Emitted<Var> {
    tree(b, &s.to_tree())
}

/// A size as a single number.
pub(super) fn scalar(b: &mut Builder<'_>, s: &SymInt) -> Emitted<Var> {
    let x = size(b, s)?;
    Ok(b.op("squeeze", vec![("x", x.into()), ("axes", vec![0].into())], Type::scalar(DType::I32)))
}

fn tree(b: &mut Builder<'_>, t: &SymTree) -> Emitted<Var> {
    Ok(match t {
        SymTree::Known(n) => {
            let c = crate::mil::Constant::i32s(&super::narrow(&[*n])?);
            b.constant("size", c)
        }
        SymTree::Symbol(s) => symbol(b, s)?,
        SymTree::Op(op, x, y) => {
            let op = match op {
                SymOp::Add => "add",
                SymOp::Mul => "mul",
                SymOp::FloorDiv => "floor_div",
                SymOp::Max => "maximum",
                SymOp::Min => "minimum",
            };
            let (x, y) = (tree(b, x)?, tree(b, y)?);
            apply(b, op, x, y)
        }
    })
}

/// The size of the input dimension that a symbol stands for.
fn symbol(b: &mut Builder<'_>, name: &str) -> Emitted<Var> {
    let g = &b.program.graph;
    let is_it = |d: &SymInt| d.as_symbol().is_some_and(|s| **s == *name);
    let found = g.inputs().iter().find_map(|&v| Some((v, g.ty(v).shape.iter().position(is_it)?)));
    let (v, axis) = found.ok_or_else(|| format!("size {name} is that of no input"))?;
    let x = b.value(v)?;
    let ty = Type::new(DType::I32, [x.ty.rank()]);
    let shape = b.op("shape", vec![("x", x.into())], ty);
    let (begin, end) = (vec![axis as i32], vec![axis as i32 + 1]);
    let inputs = vec![("x", shape.into()), ("begin", begin.into()), ("end", end.into())];
    Ok(b.op("slice_by_index", inputs, Type::new(DType::I32, [1])))
}
