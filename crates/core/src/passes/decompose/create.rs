//! Tensors made from nothing.

use super::{Build, PassFailure, Table, Values, integer, number, one, out_type};
use crate::ir::{Arg, Node};
use crate::ops;
use crate::tensor::Tensor;

/// Constants of the output's shape.
fn constant(b: &mut Build<'_>, n: &Node, value: Arg) -> Values {
    let t = out_type(b, n);
    one(b.op(&ops::FULL, [Arg::Ints(t.shape), value, t.dtype.into()])?)
}
fn zeros(b: &mut Build<'_>, n: &Node) -> Values {
    constant(b, n, 0.into())
}
fn ones(b: &mut Build<'_>, n: &Node) -> Values {
    constant(b, n, 1.into())
}
fn full(b: &mut Build<'_>, n: &Node) -> Values {
    constant(b, n, n.arg(1).clone())
}
fn new_full(b: &mut Build<'_>, n: &Node) -> Values {
    constant(b, n, n.arg(2).clone())
}
fn scalar(b: &mut Build<'_>, n: &Node) -> Values {
    constant(b, n, n.arg(0).clone())
}

/// One value, read from a tensor, in the shape of the output.
fn fill(b: &mut Build<'_>, n: &Node) -> Values {
    let (value, t) = (b.tensor(n, 1)?, out_type(b, n));
    let value = b.cast(value, t.dtype)?;
    one(b.expand(value, t.shape)?)
}

/// `arange(end)` and `arange(start, end)` in the form with a step.
fn arange(b: &mut Build<'_>, n: &Node) -> Values {
    let dtype = out_type(b, n).dtype;
    one(b.op(&ops::ARANGE_START_STEP, [n.arg(0).clone(), n.arg(1).clone(), 1.into(), dtype.into()])?)
}

/// `linspace(start, end, steps)` as a constant: the first half counts from the start, the second from the end, as
/// PyTorch does.
fn linspace(b: &mut Build<'_>, n: &Node) -> Values {
    let (start, end, t) = (number(n, 0)?, number(n, 1)?, out_type(b, n));
    let Some(steps) = t.shape[0].known().and_then(|s| usize::try_from(s).ok()) else {
        return Err(PassFailure("the number of steps depends on a symbol".into()));
    };
    if !t.dtype.is_float() {
        return Ok(None);
    }
    let single = t.dtype != crate::DType::F64;
    // Arithmetic is that of the element type.
    let round = |x: f64| if single { f64::from(x as f32) } else { x };
    let (start, end) = (round(start), round(end));
    let step = round((end - start) / (steps.max(2) - 1) as f64);
    let at = |i: usize| {
        let x = if i < steps / 2 || steps == 1 {
            start + round(step * i as f64)
        } else {
            end - round(step * (steps - 1 - i) as f64)
        };
        round(x)
    };
    let values: Vec<f64> = (0..steps).map(at).collect();
    let tensor = if single {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        Tensor::from_f32(t.dtype, &[steps], &values)
    } else {
        Tensor::new(&[steps], values)
    };
    let tensor = tensor.map_err(|e| PassFailure(e.to_string()))?;
    one(b.constant(&n.name.clone(), tensor))
}

/// Indices of a triangle as a constant; of each row, `columns` gives the first and the end.
fn triangle(b: &mut Build<'_>, n: &Node, columns: fn(i64, i64) -> (i64, i64)) -> Values {
    let (rows, cols, offset) = (integer(n, 0)?, integer(n, 1)?, integer(n, 2)?);
    let (mut numbers, mut column_numbers) = (vec![], vec![]);
    for i in 0..rows {
        let (start, end) = columns(i, offset);
        let entries = start.clamp(0, cols)..end.clamp(0, cols);
        numbers.extend(entries.clone().map(|_| i));
        column_numbers.extend(entries);
    }
    let shape = [2, numbers.len()];
    numbers.extend(column_numbers);
    let tensor = Tensor::new::<i64>(&shape, numbers).map_err(|e| PassFailure(e.to_string()))?;
    let indices = b.constant(&n.name.clone(), tensor);
    one(b.cast(indices, out_type(b, n).dtype)?)
}
fn tril_indices(b: &mut Build<'_>, n: &Node) -> Values {
    triangle(b, n, |i, offset| (0, i + offset + 1))
}
fn triu_indices(b: &mut Build<'_>, n: &Node) -> Values {
    triangle(b, n, |i, offset| (i + offset, i64::MAX))
}

fn rand(b: &mut Build<'_>, n: &Node) -> Values {
    let t = out_type(b, n);
    one(b.op(&ops::RAND, [Arg::Ints(t.shape), t.dtype.into()])?)
}
fn randn(b: &mut Build<'_>, n: &Node) -> Values {
    let t = out_type(b, n);
    one(b.op(&ops::RANDN, [Arg::Ints(t.shape), t.dtype.into()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.zeros.default", zeros),
    ("aten.zeros_like.default", zeros),
    ("aten.new_zeros.default", zeros),
    ("aten.zero.default", zeros),
    ("aten.empty.memory_format", zeros),
    ("aten.empty_like.default", zeros),
    ("aten.new_empty.default", zeros),
    ("aten.ones.default", ones),
    ("aten.ones_like.default", ones),
    ("aten.new_ones.default", ones),
    ("aten.full_like.default", full),
    ("aten.fill.Scalar", full),
    ("aten.fill.Tensor", fill),
    ("aten.new_full.default", new_full),
    ("aten.scalar_tensor.default", scalar),
    ("aten.arange.start", arange),
    ("aten.linspace.default", linspace),
    ("aten.tril_indices.default", tril_indices),
    ("aten.triu_indices.default", triu_indices),
    ("aten.rand_like.default", rand),
    ("aten.randn_like.default", randn),
    ("aten.randn.generator", randn),
];
