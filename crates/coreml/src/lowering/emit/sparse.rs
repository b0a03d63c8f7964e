//! Weights without their zeros: a bit for each element, and the elements that are not zero.

use crate::Target;
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Arg, Constant, DType, Type, pack};

/// Elements up to which leaving out zeros is not worth while, as in coremltools.
const SMALL: usize = 2048;

/// Which elements are not zero.
pub(in crate::lowering) struct Kept(Vec<bool>);

impl Kept {
    /// Finds them; `None` when they are more than half, or few in all.
    pub fn find(n: usize, kept: impl Fn(usize) -> bool) -> Option<Kept> {
        let all: Vec<bool> = (0..n).map(kept).collect();
        let count = all.iter().filter(|&&k| k).count();
        (n > SMALL && 2 * count <= n).then_some(Kept(all))
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|&&k| k).count()
    }

    /// Those of a list.
    pub fn of<T: Copy>(&self, all: &[T]) -> Vec<T> {
        all.iter().zip(&self.0).filter(|(_, k)| **k).map(|(x, _)| *x).collect()
    }

    fn bits(&self) -> Vec<u8> {
        pack(self.0.iter().map(|&k| u8::from(k)), 1)
    }

    /// A bit for each element.
    pub fn mask(&self, shape: &[usize]) -> Constant {
        Constant::new(DType::U1, shape.iter().copied(), self.bits())
    }
}

/// What an operator makes of the elements that are not zero, with zeros between.
pub(super) fn dense(
    b: &mut Builder<'_>,
    op: &'static str,
    inputs: Vec<(&'static str, Arg)>,
    kept: &Kept,
    ty: Type,
) -> Var {
    let types = vec![ty.with(DType::U1), Type::new(ty.dtype, [kept.count()])];
    let made = b.with_constants(op, inputs, types);
    let name = |i: usize| Arg::Name(made[i].name.to_string());
    let inputs = vec![("nonzero_data", name(1)), ("mask", name(0))];
    b.with_constants("constexpr_sparse_to_dense", inputs, vec![ty]).pop().expect("one result")
}

/// A constant of floats without its zeros, where they are many.
pub(in crate::lowering) fn floats(b: &mut Builder<'_>, c: &Constant) -> Option<Var> {
    if b.settings.sparsity.is_none() || b.is_rehearsal() || !c.ty.dtype.is_float() {
        return None;
    }
    let x = c.as_floats()?;
    let kept = Kept::find(x.len(), |i| x[i] != 0.0)?;
    let shape: Vec<usize> = c.ty.shape.iter().map(|d| d.known().unwrap_or(0) as usize).collect();
    let values = Constant::floats(c.ty.dtype, &[kept.count()], &kept.of(&x));
    if b.settings.target >= Target::Ios18 {
        let inputs = vec![("nonzero_data", Arg::Const(values)), ("mask", Arg::Const(kept.mask(&shape)))];
        return b.with_constants("constexpr_sparse_to_dense", inputs, vec![c.ty.clone()]).pop();
    }
    let bits = kept.bits();
    let sizes: Vec<u8> = shape.iter().flat_map(|&d| (d as u32).to_le_bytes()).collect();
    let attributes = vec![
        ("nonzero_data", values),
        ("mask", Constant::new(DType::U8, [bits.len()], bits)),
        ("shape", Constant::new(DType::U32, [shape.len()], sizes)),
    ];
    Some(b.with_attributes("constexpr_sparse_to_dense", attributes, c.ty.clone()))
}
