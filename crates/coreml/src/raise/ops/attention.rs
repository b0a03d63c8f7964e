//! Attention.

use super::{Table, new, one};
use lowbit_core::ir::Arg;
use lowbit_core::ops;

pub static TABLE: Table = &[new("scaled_dot_product_attention", |c| {
    let (q, k, v) = (c.tensor("query")?, c.tensor("key")?, c.tensor("value")?);
    let mask = c.opt_tensor("attn_mask")?;
    one(c.node(&ops::SCALED_DOT_PRODUCT_ATTENTION, [q.into(), k.into(), v.into(), Arg::optional(mask)])?)
})];
