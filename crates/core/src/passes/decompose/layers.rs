//! Layers: convolutions in their core form, normalization, attention, products.

use super::{Build, PassFailure, Table};
use crate::ir::{Arg, Node, ValueId};
use crate::ops;
use crate::symint::SymInt;

type Values = Result<Option<Vec<ValueId>>, PassFailure>;

fn one(v: ValueId) -> Values {
    Ok(Some(vec![v]))
}

/// A list argument widened to `n` entries.
fn widened(node: &Node, i: usize, n: usize) -> Result<Vec<i64>, PassFailure> {
    match ops::views::ints(node.arg(i)) {
        Some(l) if l.len() == 1 => Ok(vec![l[0]; n]),
        Some(l) => Ok(l),
        None => Err(PassFailure(format!("argument {i} is no list of integers"))),
    }
}

fn zeros(n: usize) -> Arg {
    Arg::ints(vec![0i64; n])
}

/// `conv1d/2d/3d` to `convolution`; `"same"` becomes padding, with an explicit pad when it is odd.
fn conv(b: &mut Build<'_>, n: &Node) -> Values {
    let (mut x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let spatial = b.ty(w).rank() - 2;
    let (stride, dilation) = (widened(n, 3, spatial)?, widened(n, 5, spatial)?);
    let padding = match n.arg(4) {
        Arg::Str(s) if &**s == "same" => {
            let total: Vec<i64> = (0..spatial)
                .map(|d| Ok(dilation[d] * (b.ty(w).shape[2 + d].known().ok_or_else(dynamic)? - 1)))
                .collect::<Result<_, PassFailure>>()?;
            if total.iter().any(|t| t % 2 != 0) {
                let pads: Vec<i64> = total.iter().rev().flat_map(|t| [0, t % 2]).collect();
                x = b.op(&ops::CONSTANT_PAD_ND, [x.into(), Arg::ints(pads), Arg::Float(0.0)])?;
            }
            total.iter().map(|t| t / 2).collect()
        }
        Arg::Str(_) => vec![0; spatial],
        _ => widened(n, 4, spatial)?,
    };
    let args = [
        x.into(),
        w.into(),
        n.arg(2).clone(),
        Arg::ints(stride),
        Arg::ints(padding),
        Arg::ints(dilation),
        false.into(),
        zeros(spatial),
        n.arg(6).clone(),
    ];
    batched(b, n, args)
}

fn dynamic() -> PassFailure {
    PassFailure("a kernel size depends on a symbol".into())
}

/// `convolution` needs a batch; one is added where the input has none.
fn batched(b: &mut Build<'_>, n: &Node, mut args: [Arg; 9]) -> Values {
    let x = ops::views::value(&args[0]).ok_or_else(|| PassFailure("the input is no tensor".into()))?;
    let w = b.tensor(n, 1)?;
    if b.ty(x).rank() == b.ty(w).rank() {
        return one(b.op(&ops::CONVOLUTION, args)?);
    }
    args[0] = b.op(&ops::UNSQUEEZE, [x.into(), 0.into()])?.into();
    let y = b.op(&ops::CONVOLUTION, args)?;
    one(b.op(&ops::SQUEEZE_DIM, [y.into(), 0.into()])?)
}

/// `conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)`
fn conv_transpose(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, w) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let spatial = b.ty(w).rank() - 2;
    let list = |i: usize| widened(n, i, spatial).map(Arg::ints);
    let args = [
        x.into(),
        w.into(),
        n.arg(2).clone(),
        list(3)?,
        list(4)?,
        list(7)?,
        true.into(),
        list(5)?,
        n.arg(6).clone(),
    ];
    batched(b, n, args)
}

/// Evaluation-mode batch norms to the core form; absent weight and bias become ones and zeros.
fn batch_norm(b: &mut Build<'_>, n: &Node) -> Values {
    if ops::views::bool(n.arg(5)) != Some(false) {
        return Ok(None);
    }
    let (Arg::Value(mean), Arg::Value(_)) = (n.arg(3).clone(), n.arg(4)) else { return Ok(None) };
    let ty = b.ty(mean).clone();
    let mut args = vec![n.arg(0).clone()];
    for (i, fill) in [(1, 1.0), (2, 0.0)] {
        args.push(match n.arg(i) {
            Arg::Value(v) => Arg::Value(*v),
            _ => b.full(ty.shape.clone(), fill, ty.dtype)?.into(),
        });
    }
    args.extend([n.arg(3).clone(), n.arg(4).clone(), n.arg(6).clone(), n.arg(7).clone()]);
    Ok(Some(b.all(&ops::NATIVE_BATCH_NORM_LEGIT_NO_TRAINING, args)?[..n.outputs().len()].to_vec()))
}

/// `layer_norm(input, shape, weight, bias, eps, cudnn)`
fn layer_norm(b: &mut Build<'_>, n: &Node) -> Values {
    one(b.op(&ops::NATIVE_LAYER_NORM, n.args()[..5].to_vec())?)
}

/// `group_norm(input, groups, weight, bias, eps)`
fn group_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    grouped(b, x, n.arg(1).clone(), n.arg(2).clone(), n.arg(3).clone(), n.arg(4).clone())
}

fn grouped(b: &mut Build<'_>, x: ValueId, groups: Arg, weight: Arg, bias: Arg, eps: Arg) -> Values {
    let shape = b.ty(x).shape.clone();
    let inner: SymInt = shape[2..].iter().cloned().product();
    let args =
        [x.into(), weight, bias, shape[0].clone().into(), shape[1].clone().into(), inner.into(), groups, eps];
    one(b.op(&ops::NATIVE_GROUP_NORM, args)?)
}

/// `instance_norm` over its own statistics is a group norm with one group a channel.
fn instance_norm(b: &mut Build<'_>, n: &Node) -> Values {
    if ops::views::bool(n.arg(5)) != Some(true) {
        return Ok(None);
    }
    let x = b.tensor(n, 0)?;
    let channels = b.ty(x).shape[1].clone();
    grouped(b, x, Arg::Int(channels), n.arg(1).clone(), n.arg(2).clone(), n.arg(7).clone())
}

/// `x · rsqrt(mean(x²) + eps) · weight`
fn rms_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let x = b.tensor(n, 0)?;
    let count = match n.arg(1) {
        Arg::Ints(l) => l.len(),
        _ => return Ok(None),
    };
    let dims: Vec<i64> = (1..=count as i64).map(|d| -d).rev().collect();
    let square = b.op(&ops::MUL, [x.into(), x.into()])?;
    let mean = b.op(&ops::MEAN_DIM, [square.into(), Arg::ints(dims), true.into()])?;
    let eps = ops::views::float(n.arg(3)).unwrap_or(f64::from(f32::EPSILON));
    let shifted = b.op(&ops::ADD_SCALAR, [mean.into(), Arg::Float(eps)])?;
    let inv = b.op(&ops::RSQRT, [shifted.into()])?;
    let y = b.op(&ops::MUL, [x.into(), inv.into()])?;
    match n.arg(2) {
        Arg::Value(w) => one(b.op(&ops::MUL, [y.into(), (*w).into()])?),
        _ => one(y),
    }
}

/// Folds leading dimensions into one, multiplies in batches, and unfolds. Batches are broadcast first.
pub(super) fn matmul_of(b: &mut Build<'_>, x: ValueId, y: ValueId) -> Result<ValueId, PassFailure> {
    let (tx, ty) = (b.ty(x).clone(), b.ty(y).clone());
    let (rx, ry) = (tx.rank(), ty.rank());
    let last = |t: &crate::ir::TensorType, k: usize| t.shape[t.rank() - k].clone();
    if rx == 2 && ry == 2 {
        return b.op(&ops::MM, [x.into(), y.into()]);
    }
    if rx == 1 || ry == 1 {
        // A vector is a matrix of one row, or one column.
        let x2 = if rx == 1 { b.op(&ops::UNSQUEEZE, [x.into(), 0.into()])? } else { x };
        let y2 = if ry == 1 { b.op(&ops::UNSQUEEZE, [y.into(), 1.into()])? } else { y };
        let z = matmul_of(b, x2, y2)?;
        let z = if ry == 1 { b.op(&ops::SQUEEZE_DIM, [z.into(), Arg::from(-1)])? } else { z };
        let dim = if ry == 1 { -1 } else { -2 };
        return if rx == 1 { b.op(&ops::SQUEEZE_DIM, [z.into(), Arg::from(dim)]) } else { Ok(z) };
    }
    if ry == 2 {
        let rows: SymInt = tx.shape[..rx - 1].iter().cloned().product();
        let flat = b.view(x, vec![rows, last(&tx, 1)])?;
        let z = b.op(&ops::MM, [flat.into(), y.into()])?;
        let mut shape = tx.shape[..rx - 1].to_vec();
        shape.push(last(&ty, 1));
        return b.view(z, shape);
    }
    let batch = |t: &crate::ir::TensorType| t.shape[..t.rank() - 2].to_vec();
    let (bx, by) = (batch(&tx), batch(&ty));
    let r = bx.len().max(by.len());
    let at = |s: &[SymInt], i: usize| (i + s.len()).checked_sub(r).map_or(SymInt::Known(1), |k| s[k].clone());
    let shape: Vec<SymInt> = (0..r).map(|i| if at(&bx, i) == 1 { at(&by, i) } else { at(&bx, i) }).collect();
    let count: SymInt = shape.iter().cloned().product();
    let flat = |b: &mut Build<'_>, v: ValueId, t: &crate::ir::TensorType| {
        let mut full = shape.clone();
        full.extend([last(t, 2), last(t, 1)]);
        let v = if t.shape == full { v } else { b.op(&ops::EXPAND, [v.into(), Arg::Ints(full)])? };
        b.view(v, vec![count.clone(), last(t, 2), last(t, 1)])
    };
    let (fx, fy) = (flat(b, x, &tx)?, flat(b, y, &ty)?);
    let z = b.op(&ops::BMM, [fx.into(), fy.into()])?;
    let mut out = shape.clone();
    out.extend([last(&tx, 2), last(&ty, 1)]);
    b.view(z, out)
}

fn matmul(b: &mut Build<'_>, n: &Node) -> Values {
    let (x, y) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    one(matmul_of(b, x, y)?)
}

/// `beta·self + alpha·(batch1 · batch2)`
fn baddbmm(b: &mut Build<'_>, n: &Node) -> Values {
    let p = b.op(&ops::BMM, [n.arg(1).clone(), n.arg(2).clone()])?;
    let (beta, alpha) =
        (ops::views::float(n.arg(3)).unwrap_or(1.0), ops::views::float(n.arg(4)).unwrap_or(1.0));
    let p = if alpha == 1.0 { p } else { b.scale(p, alpha)? };
    let x = b.tensor(n, 0)?;
    let x = if beta == 1.0 { x } else { b.scale(x, beta)? };
    one(b.op(&ops::ADD, [x.into(), p.into()])?)
}

/// Attention as two products with a softmax between them.
fn attention(b: &mut Build<'_>, n: &Node) -> Values {
    let (q, k, v) = (b.tensor(n, 0)?, b.tensor(n, 1)?, b.tensor(n, 2)?);
    let (tq, tk) = (b.ty(q).clone(), b.ty(k).clone());
    let r = tq.rank();
    if tk.shape[..tk.rank() - 2] != tq.shape[..r - 2] && ops::views::bool(n.arg(7)) == Some(true) {
        return grouped_attention(b, n, q, k, v);
    }
    let scale = match ops::views::float(n.arg(6)) {
        Some(s) => s,
        None => match tq.shape[r - 1].known() {
            Some(e) => 1.0 / (e as f64).sqrt(),
            None => return Ok(None),
        },
    };
    let order: Vec<usize> = (0..tk.rank() - 2).chain([tk.rank() - 1, tk.rank() - 2]).collect();
    let kt = b.permute(k, &order)?;
    let q = b.scale(q, scale)?;
    let mut scores = matmul_of(b, q, kt)?;
    if ops::views::bool(n.arg(5)) == Some(true) {
        let (l, s) = (tq.shape[r - 2].clone(), tk.shape[tk.rank() - 2].clone());
        let ones = b.op(&ops::FULL, [Arg::Ints(vec![l, s]), Arg::Float(1.0), crate::DType::F32.into()])?;
        let seen = b.op(&ops::TRIL, [ones.into(), 0.into()])?;
        let hidden = b.op(&ops::EQ_SCALAR, [seen.into(), 0.into()])?;
        scores =
            b.op(&ops::MASKED_FILL_SCALAR, [scores.into(), hidden.into(), Arg::Float(f64::NEG_INFINITY)])?;
    }
    if let Arg::Value(mask) = n.arg(3) {
        scores = if b.ty(*mask).dtype == crate::DType::Bool {
            let hidden = b.op(&ops::LOGICAL_NOT, [(*mask).into()])?;
            b.op(&ops::MASKED_FILL_SCALAR, [scores.into(), hidden.into(), Arg::Float(f64::NEG_INFINITY)])?
        } else {
            b.op(&ops::ADD, [scores.into(), (*mask).into()])?
        };
    }
    let rank = b.ty(scores).rank();
    let weights = b.op(&ops::SOFTMAX, [scores.into(), Arg::from(rank - 1)])?;
    one(matmul_of(b, weights, v)?)
}

/// Several query heads to one key head: keys and values are repeated.
fn grouped_attention(b: &mut Build<'_>, n: &Node, q: ValueId, k: ValueId, v: ValueId) -> Values {
    let (tq, tk) = (b.ty(q).clone(), b.ty(k).clone());
    let (Some(hq), Some(hk)) = (tq.shape[tq.rank() - 3].known(), tk.shape[tk.rank() - 3].known()) else {
        return Ok(None);
    };
    let repeat = |b: &mut Build<'_>, t: ValueId| {
        let shape = b.ty(t).shape.clone();
        let r = shape.len();
        let x = b.op(&ops::UNSQUEEZE, [t.into(), (r - 2).into()])?;
        let mut wide = shape.clone();
        wide.insert(r - 2, (hq / hk).into());
        let x = b.op(&ops::EXPAND, [x.into(), Arg::Ints(wide)])?;
        let mut flat = shape;
        flat[r - 3] = hq.into();
        b.view(x, flat)
    };
    let (k, v) = (repeat(b, k)?, repeat(b, v)?);
    let mut args = n.args().to_vec();
    (args[1], args[2], args[7]) = (k.into(), v.into(), false.into());
    one(b.op(&ops::SCALED_DOT_PRODUCT_ATTENTION, args)?)
}

/// `v · g / ‖v‖` over all dimensions but `dim`.
fn weight_norm(b: &mut Build<'_>, n: &Node) -> Values {
    let (v, g) = (b.tensor(n, 0)?, b.tensor(n, 1)?);
    let d = ops::views::int(n.arg(2)).unwrap_or(0);
    let dims: Vec<i64> = (0..b.ty(v).rank() as i64).filter(|&i| i != d).collect();
    let square = b.op(&ops::MUL, [v.into(), v.into()])?;
    let sum = b.op(&ops::SUM_DIM, [square.into(), Arg::ints(dims), true.into()])?;
    let norm = b.op(&ops::SQRT, [sum.into()])?;
    let ratio = b.op(&ops::DIV, [g.into(), norm.into()])?;
    one(b.op(&ops::MUL, [v.into(), ratio.into()])?)
}

pub(super) const TABLE: Table = &[
    ("aten.conv1d.default", conv),
    ("aten.conv1d.padding", conv),
    ("aten.conv2d.default", conv),
    ("aten.conv2d.padding", conv),
    ("aten.conv3d.default", conv),
    ("aten.conv3d.padding", conv),
    ("aten.conv_transpose1d.default", conv_transpose),
    ("aten.conv_transpose2d.input", conv_transpose),
    ("aten.conv_transpose3d.input", conv_transpose),
    ("aten.batch_norm.default", batch_norm),
    ("aten.native_batch_norm.default", batch_norm),
    ("aten.layer_norm.default", layer_norm),
    ("aten.group_norm.default", group_norm),
    ("aten.instance_norm.default", instance_norm),
    ("aten.rms_norm.default", rms_norm),
    ("aten.matmul.default", matmul),
    ("aten.baddbmm.default", baddbmm),
    ("aten.scaled_dot_product_attention.default", attention),
    ("aten._weight_norm.default", weight_norm),
];
