//! Quantize and dequantize: on the chip a change of scale, a change of type, or nothing at all.

use super::{Builder, Emitted, Made, Node, Table};
use crate::lowering::kind;
use lowbit_core::ir::ValueId;
use lowbit_core::ops::{self, views};

pub static TABLE: Table = &[
    (&ops::TO_COPY, cast),
    (&ops::TO_DTYPE, cast),
    (&ops::TO_DTYPE_LAYOUT, cast),
    (&ops::QUANTIZE_PER_TENSOR, quantize),
    (&ops::DEQUANTIZE_PER_TENSOR, dequantize),
    (&ops::DEQUANTIZE_PER_CHANNEL, weight),
    (&ops::DEQUANTIZE_AFFINE, weight),
];

fn quantize(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = views::value(n.arg(0)).ok_or("argument 0 is no tensor")?;
    let want = kind::of_parameters(n)?;
    if b.kind(x)? == want && b.fixed_constant(x).is_none() {
        return aliased(b, n.output(), x);
    }
    let at = b.layout(&[x]);
    let t = b.value(x, at)?;
    Ok(vec![(b.convert(t, &want)?, at)])
}

/// What is dequantized stays as it is: readers know what it means.
fn dequantize(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let x = views::value(n.arg(0)).ok_or("argument 0 is no tensor")?;
    if b.program.frozen(x).is_some() {
        // Readers take the constant themselves.
        return Ok(vec![]);
    }
    let (have, said) = (b.kind(x)?, kind::of_parameters(n)?);
    if have != said {
        return Err("it dequantizes with other parameters than the integers were made with".into());
    }
    aliased(b, n.output(), x)
}

fn aliased(b: &mut Builder<'_>, v: ValueId, of: ValueId) -> Emitted<Vec<Made>> {
    b.value(of, b.layout(&[of]))?;
    b.alias(v, of);
    Ok(vec![])
}

/// Layers take their weights themselves.
fn weight(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    match n.operands().all(|v| b.program.frozen(v).is_some()) {
        true => Ok(vec![]),
        false => Err("HTP has a scale a channel for constants only".into()),
    }
}

/// Another element type.
fn cast(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Made>> {
    let at = super::layout(b, n);
    let x = b.arg(n, 0, at)?;
    super::finished(b, n, x, at)
}
