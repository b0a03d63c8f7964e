//! Operators that the table does not have because another one of it says the same. Each is declared with PyTorch's
//! schema and turned into the other while its node is imported.

use lowbit_core::SymInt;
use lowbit_core::ir::{Arg, ModuleStack, Program, TensorType, ValueId};
use lowbit_core::ops::{OpDef, OpTraits, lookup};
use std::sync::{Arc, OnceLock};

use super::memory::Memory;

/// What a rewrite sees and may add to.
pub struct Site<'i> {
    pub program: &'i mut Program,
    pub memory: &'i mut Memory,
    pub name: Arc<str>,
    pub module: ModuleStack,
    /// Strides of operand 0 as recorded.
    pub strides: Option<Vec<SymInt>>,
}

/// The call that says the same.
type Same = Result<(&'static str, Vec<Arg>), String>;

struct Rewrite {
    op: OpDef,
    to: fn(&mut Site<'_>, Vec<Arg>) -> Same,
}

macro_rules! rewrites {
    ($($name:literal $schema:literal => $to:expr;)*) => {
        static REWRITES: [Rewrite; [$($name),*].len()] = [$(Rewrite {
            op: OpDef {
                name: $name,
                schema: $schema,
                // Such a node never reaches a graph.
                infer: |c| c.error("is rewritten at import"),
                traits: OpTraits::NONE,
                parsed: OnceLock::new(),
            },
            to: $to,
        }),*];
    };
}

rewrites! {
    "aten.std.default" "(Tensor self, bool unbiased=True) -> Tensor" => |_, a| deviation("aten.std.correction", a, None);
    "aten.var.default" "(Tensor self, bool unbiased=True) -> Tensor" => |_, a| deviation("aten.var.correction", a, None);
    "aten.std.dim" "(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> Tensor" => |_, a| deviation("aten.std.correction", a, Some(1));
    "aten.var_mean.dim" "(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> (Tensor, Tensor)" => |_, a| deviation("aten.var_mean.correction", a, Some(1));
    "aten.as_strided.default" "(Tensor self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None) -> Tensor" => as_strided;
    "aten.index_add.default" "(Tensor self, int dim, Tensor index, Tensor source, *, Scalar alpha=1) -> Tensor" => index_add;
    "aten.index_copy.default" "(Tensor self, int dim, Tensor index, Tensor source) -> Tensor" => |s, a| index_put(s, a, false);
    "aten.index_fill.int_Scalar" "(Tensor self, int dim, Tensor index, Scalar value) -> Tensor" => index_fill;
    "aten.index_fill.int_Tensor" "(Tensor self, int dim, Tensor index, Tensor value) -> Tensor" => |s, a| index_put(s, a, false);
}

/// The declaration of an operator that is rewritten.
pub fn find(name: &str) -> Option<&'static OpDef> {
    REWRITES.iter().find(|r| r.op.name == name).map(|r| &r.op)
}

/// Whether `op` comes from [`find`].
pub fn is_rewritten(op: &'static OpDef) -> bool {
    REWRITES.iter().any(|r| std::ptr::eq(&r.op, op))
}

/// The operator and arguments to import instead.
pub fn apply(
    site: &mut Site<'_>,
    op: &'static OpDef,
    args: Vec<Arg>,
) -> Result<(&'static OpDef, Vec<Arg>), String> {
    let Some(r) = REWRITES.iter().find(|r| std::ptr::eq(&r.op, op)) else { return Ok((op, args)) };
    let (name, args) = (r.to)(site, args)?;
    Ok((lookup(name).ok_or_else(|| format!("needs {name}, which lowbit does not have"))?, args))
}

/// `unbiased` is a correction of 1, its absence one of 0. `dim`: place of the dimensions, the flags follow.
fn deviation(to: &'static str, args: Vec<Arg>, dim: Option<usize>) -> Same {
    let at = dim.map_or(1, |d| d + 1);
    let correction = i64::from(args.get(at) == Some(&Arg::Bool(true)));
    let dims = dim.and_then(|d| args.get(d).cloned()).unwrap_or(Arg::None);
    let keep = args.get(at + 1).cloned().unwrap_or(Arg::Bool(false));
    Ok((to, vec![args[0].clone(), dims, correction.into(), keep]))
}

/// Strides mean nothing here; export writes this operator where it restates the strides that a tensor has.
fn as_strided(site: &mut Site<'_>, args: Vec<Arg>) -> Same {
    let (Arg::Value(x), Arg::Ints(size), Arg::Ints(stride)) = (&args[0], &args[1], &args[2]) else {
        return Err("has no tensor, sizes and strides".into());
    };
    let shape = &site.program.graph.ty(*x).shape;
    let restated = site.strides.as_ref().is_some_and(|own| {
        let dims = size.iter().zip(stride).zip(own);
        size == shape && own.len() == stride.len() && dims.clone().all(|((n, s), own)| *n == 1 || s == own)
    });
    if restated && matches!(args[3], Arg::None) {
        return Ok(("aten.view.default", vec![args[0].clone(), args[1].clone()]));
    }
    Err("reads memory by strides, which lowbit does not keep; use reshape, unfold or slicing in the model"
        .into())
}

/// `index_put(self, [None, …, index], values)` with `index` at dimension `dim`.
fn index_put(site: &mut Site<'_>, args: Vec<Arg>, accumulate: bool) -> Same {
    let [x @ Arg::Value(v), Arg::Int(SymInt::Known(dim)), Arg::Value(index), values, ..] = &args[..] else {
        return Err("has no tensor, dimension and index".into());
    };
    let rank = site.program.graph.ty(*v).rank();
    let dim = lowbit_core::ops::wrap_dim(*dim, rank).map_err(|e| e.to_string())?;
    let mut indices: Vec<Option<ValueId>> = vec![None; dim];
    indices.push(Some(*index));
    Ok((
        "aten.index_put.default",
        vec![x.clone(), Arg::OptValues(indices), values.clone(), accumulate.into()],
    ))
}

fn index_add(site: &mut Site<'_>, mut args: Vec<Arg>) -> Same {
    let alpha = args.pop().unwrap_or(Arg::None);
    if alpha != Arg::from(1) {
        let scaled = vec![args[3].clone(), alpha];
        args[3] = site.emit("aten.mul.Scalar", scaled)?.into();
    }
    index_put(site, args, true)
}

fn index_fill(site: &mut Site<'_>, mut args: Vec<Arg>) -> Same {
    let Arg::Value(x) = args[0] else { return Err("has no tensor".into()) };
    let TensorType { dtype, .. } = *site.program.graph.ty(x);
    let value = args[3].clone();
    args[3] = site.emit("aten.full.default", vec![Arg::Ints(vec![]), value, Arg::DType(dtype)])?.into();
    index_put(site, args, false)
}

impl Site<'_> {
    fn emit(&mut self, op: &str, args: Vec<Arg>) -> Result<ValueId, String> {
        self.memory.emit(self.program, op, args, self.name.clone(), self.module.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::ops::Schema;

    #[test]
    fn rewritten_operators_parse_and_have_no_row() {
        for r in &REWRITES {
            assert!(Schema::parse(r.op.schema).is_ok(), "{}", r.op.name);
            assert!(lookup(r.op.name).is_none(), "{} has a row", r.op.name);
        }
    }
}
