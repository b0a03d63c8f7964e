//! Attention as one operator, which Core ML has from iOS 18 on.

use super::unary::scaled;
use super::{Emitted, Table, number, out, truth};
use crate::Target;
use crate::lowering::builder::{Builder, In, Var};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;

pub static TABLE: Table = &[(&ops::SCALED_DOT_PRODUCT_ATTENTION, attention)];

fn attention(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    if b.settings.target < Target::Ios18 {
        return Err("Core ML has attention as one operator from target ios18 on".into());
    }
    if truth(n, 5)? || truth(n, 7)? {
        return Err("Core ML's attention has no causal mask of its own and no grouped queries".into());
    }
    let (mut q, k, v, mask) = (b.arg(n, 0)?, b.arg(n, 1)?, b.arg(n, 2)?, b.opt(n, 3)?);
    let rank = q.ty.rank();
    if rank < 3
        || k.ty.rank() != rank
        || v.ty.rank() != rank
        || q.ty.shape[..rank - 2] != k.ty.shape[..rank - 2]
    {
        return Err("Core ML's attention wants batches of equal shape".into());
    }
    if let Some(m) = &mask
        && (m.ty.dtype.is_float() && super::beyond_half(b, n) || m.ty.rank() > rank)
    {
        return Err("its mask does not fit".into());
    }
    // The factor is fixed to 1 / √ size there.
    if *n.arg(6) != Arg::None {
        let size = q.ty.shape[rank - 1].known().ok_or("its vectors have an open size")?;
        q = scaled(b, q, number(n, 6)? * (size as f64).sqrt())?;
    }
    let mut inputs: Vec<(&str, In)> = vec![("query", q.into()), ("key", k.into()), ("value", v.into())];
    inputs.extend(mask.map(|m| ("attn_mask", In::Var(m))));
    Ok(vec![b.op("scaled_dot_product_attention", inputs, out(b, n)?)])
}
