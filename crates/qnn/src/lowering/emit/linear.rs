//! Products.

use super::weight::{Weight, bias, is_weight};
use super::{Builder, Emitted, Made, Node, Table, out};
use crate::graph::Param;
use crate::lowering::builder::Layout;
use lowbit_core::ops::{self, views};

pub static TABLE: Table =
    &[(&ops::LINEAR, linear), (&ops::MATMUL, matmul), (&ops::BMM, matmul), (&ops::MM, matmul)];

fn linear(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let v = views::value(n.arg(1)).ok_or("argument 1 is no tensor")?;
    if b.program.frozen(v).is_none() && !is_weight(b.program, v) {
        if views::value(n.arg(2)).is_some() {
            return Err("HTP takes constant weights and biases only".into());
        }
        return product(b, n, true);
    }
    let x = b.arg(n, 0, Layout::Plain)?;
    let mut w = Weight::read(b, n, 1)?.finer(b, x);
    if b.settings.exact {
        w = w.in_bytes(b, n, 2, x);
    }
    let (kind, dims) = out(b, n, Layout::Plain)?;
    let features = *b.get(x).dims.last().ok_or("its input has no features")?;
    let rows: u32 = b.get(x).dims[..b.get(x).dims.len() - 1].iter().product();
    let features_out = w.shape()[0] as u32;
    let y = if w.has_blocks() {
        // The library makes another sum of the bias of its own layer now and then (a run in twenty, SDK 2.51) when the weight
        // has scales by blocks; not of a convolution over a line of rows, which computes the same.
        let line = b.reshape(x, vec![1, 1, rows, features]);
        let weight = w.add(b, &[1, 0])?;
        b.lift(weight);
        b.lift(weight);
        let mut inputs = vec![line, weight];
        inputs.extend(bias(b, n, 2, line, &w)?);
        super::conv::pointwise(b, inputs, (kind, vec![1, 1, rows, features_out]))
    } else {
        // The chip's own layer has rows and features.
        let flat = b.reshape(x, vec![rows, features]);
        let mut inputs = vec![flat, w.add(b, &[0, 1])?];
        inputs.extend(bias(b, n, 2, flat, &w)?);
        let params = vec![("keep_dims", Param::Bool(false))];
        b.one("FullyConnected", params, inputs, (kind, vec![rows, features_out]))
    };
    Ok(vec![(b.reshape(y, dims), Layout::Plain)])
}

fn matmul(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    product(b, n, false)
}

fn product(b: &mut Builder<'_>, n: &Node, transposed: bool) -> Emitted<Vec<Made>> {
    let [x, y] = [b.arg(n, 0, Layout::Plain)?, b.arg(n, 1, Layout::Plain)?];
    if [x, y].iter().any(|&t| b.get(t).dims.len() < 2) {
        return Err("HTP multiplies matrices only".into());
    }
    let to = out(b, n, Layout::Plain)?;
    let params = vec![("transpose_in0", Param::Bool(false)), ("transpose_in1", Param::Bool(transposed))];
    Ok(vec![(b.one("MatMul", params, vec![x, y], to), Layout::Plain)])
}
