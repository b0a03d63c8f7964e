//! Matrix products: linear layers and products of computed tensors.

use super::{Builder, Emit, Row, check_values, float, tensor};
use crate::lowering::gemm::{Abilities, Form, Layer, Share};
use crate::lowering::layout::Layout;
use crate::lowering::quant::exit;
use crate::lowering::weight;
use crate::subgraph::{Binary, FLAG_TRANSPOSE_WEIGHTS, FullyConnected, NO_VALUE, Op};
use lowbit_core::SymInt;
use lowbit_core::ir::{NodeId, Program, TensorType, ValueId};
use lowbit_core::ops;

pub static ROWS: &[Row] = &[
    Row { ops: &[&ops::LINEAR], take: |p, n| Ok(linear(p, n)?.along), emit: emit_linear },
    Row {
        ops: &[&ops::MM, &ops::ADDMM, &ops::BMM, &ops::MATMUL],
        take: |p, n| Ok(product(p, n)?.exit.activation.into_iter().collect()),
        emit: emit_product,
    },
];

fn linear(program: &Program, n: NodeId) -> Result<Layer, String> {
    check_values(program, n)?;
    let x = tensor(program, n, 0)?;
    let abilities =
        Abilities { dynamic: Some(Share::Row), four_bits: true, weight_only: true, channel_axis: Some(0) };
    Layer::of(program, n, x, abilities)
}

/// A layout whose innermost axis is the last dimension: the one at hand, or the plain one.
pub fn rows(b: &Builder<'_>, v: ValueId) -> Layout {
    let ty = b.ty(v);
    let fits = |l: &Layout| l.rank() > 1 && l.ends_with(ty, ty.rank() - 1) && !is_unit_row(ty);
    b.layouts(v).into_iter().find(fits).unwrap_or_else(|| Layout::plain(ty))
}

/// A last dimension of size 1 cannot be told from another.
fn is_unit_row(ty: &TensorType) -> bool {
    ty.shape.last().and_then(SymInt::known) == Some(1)
}

/// The layout of a product's result: that of its left operand, the last dimension replaced.
fn result_layout(b: &Builder<'_>, left: &Layout, result: ValueId) -> Layout {
    let ty = b.ty(result);
    let mut axes = left.axes().to_vec();
    if let Some(last) = axes.last_mut() {
        *last = Some(ty.rank() - 1);
    }
    Layout::new(ty, axes)
}

fn emit_linear(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let layer = linear(b.part, n)?;
    let layout = rows(b, layer.input);
    let input = layer.input(b, &layout, 1)?;
    let shape = b.ty(layer.weight_value).known_shape().ok_or("its weight's size depends on symbols")?;
    let dims = shape.iter().map(|&d| d as u32).collect();
    let filter = layer.filter(b, dims, &[0, 1], 0, true)?;
    let bias = layer.bias(b, true)?;
    let result = result_layout(b, &layout, layer.exit.value);
    let output = b.define(layer.exit.value, &result)?;
    if matches!(layer.form, Form::WeightOnly) && bias != NO_VALUE {
        // XNNPACK's kernels of float inputs and integer weights multiply the bias with the weight's scales, too.
        let dims = result.dims(b.part, b.ty(layer.exit.value));
        let product = b.scratch(layer.exit.value, dims);
        let fc = FullyConnected { input, filter, bias: NO_VALUE, output: product, flags: 0 };
        b.push(Op::FullyConnected(fc), None);
        b.push(Op::Add(Binary { input1: product, input2: bias, output, flags: 0 }), layer.exit.clamp);
        return Ok(());
    }
    b.push(Op::FullyConnected(FullyConnected { input, filter, bias, output, flags: 0 }), layer.exit.clamp);
    Ok(())
}

/// A product of two float tensors, to which a bias may be added.
struct Product {
    left: ValueId,
    right: ValueId,
    bias: Option<ValueId>,
    exit: super::Exit,
    /// The right operand is one constant matrix.
    matrix: bool,
}

fn product(program: &Program, n: NodeId) -> Result<Product, String> {
    check_values(program, n)?;
    let g = &program.graph;
    let node = g.node(n);
    let with_bias = *node.op() == ops::ADDMM;
    let first = usize::from(with_bias);
    let (left, right) = (tensor(program, n, first)?, tensor(program, n, first + 1)?);
    let mut bias = None;
    if with_bias {
        if (float(program, n, 3)?, float(program, n, 4)?) != (1.0, 1.0) {
            return Err("XNNPACK multiplies without factors beta and alpha".into());
        }
        bias = weight::bias(program, node.arg(0))?;
        let features = g.ty(right).shape.last();
        if bias.is_some_and(|v| g.ty(v).rank() != 1 || g.ty(v).shape.first() != features) {
            return Err("what it adds is not one number a column".into());
        }
    }
    let (l, r) = (g.ty(left), g.ty(right));
    if l.rank() < 2 || r.rank() < 2 {
        return Err(format!("XNNPACK multiplies matrices, these are {l} and {r}"));
    }
    if program.frozen(left).is_some() {
        return Err("its left operand is constant".into());
    }
    let constant = program.frozen(right).is_some();
    let matrix = r.rank() == 2 && constant;
    // A fully connected node adds a bias and clamps; a batched product does neither.
    if with_bias && !matrix {
        return Err("XNNPACK adds a bias to products with constant matrices only".into());
    }
    Ok(Product { left, right, bias, exit: exit(program, n, false, matrix), matrix })
}

fn emit_product(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let p = product(b.part, n)?;
    if p.matrix {
        let layout = rows(b, p.left);
        let input = b.get(p.left, &layout)?;
        let filter = b.get(p.right, &Layout::plain(b.ty(p.right)))?;
        let bias = match p.bias {
            Some(v) => b.get(v, &Layout::plain(b.ty(v)))?,
            None => NO_VALUE,
        };
        let result = result_layout(b, &layout, p.exit.value);
        let output = b.define(p.exit.value, &result)?;
        let fc = FullyConnected { input, filter, bias, output, flags: FLAG_TRANSPOSE_WEIGHTS };
        b.push(Op::FullyConnected(fc), p.exit.clamp);
        return Ok(());
    }
    let (left, right) = (Layout::plain(b.ty(p.left)), b.ty(p.right));
    let input1 = b.get(p.left, &left)?;
    let (layout, flags) = right_operand(b, p.right, right);
    let input2 = b.get(p.right, &layout)?;
    let output = b.define(p.exit.value, &Layout::plain(b.ty(p.exit.value)))?;
    b.push(Op::BatchMatrixMultiply(Binary { input1, input2, output, flags }), None);
    Ok(())
}

/// The right operand of a product as it lies, or with rows and columns swapped, whichever is at hand.
pub fn right_operand(b: &Builder<'_>, v: ValueId, ty: &TensorType) -> (Layout, u32) {
    let rank = ty.rank();
    let swapped = Layout::new(ty, (0..rank - 2).chain([rank - 1, rank - 2]).map(Some));
    // With a row or column of size 1 the two look alike.
    let clear = ty.shape[rank - 2..].iter().all(|d| d.known() != Some(1));
    let plain = Layout::plain(ty);
    let have = b.layouts(v);
    if clear && !have.contains(&plain) && have.contains(&swapped) {
        (swapped, FLAG_TRANSPOSE_WEIGHTS)
    } else {
        (plain, 0)
    }
}
