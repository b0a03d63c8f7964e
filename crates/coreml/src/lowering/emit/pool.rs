//! Pooling.

use super::conv::batched;
use super::{Emitted, Table, ints, narrow, out, truth, widened};
use crate::lowering::builder::{Builder, Var};
use crate::mil::{Constant, Type};
use lowbit_core::ir::{Arg, Node};
use lowbit_core::ops;
use lowbit_core::symint::SymInt;

pub static TABLE: Table = &[
    (&ops::MAX_POOL1D, max_pool),
    (&ops::MAX_POOL2D, max_pool),
    (&ops::MAX_POOL3D, max_pool),
    (&ops::MAX_POOL2D_WITH_INDICES, max_pool),
    (&ops::AVG_POOL1D, avg_pool),
    (&ops::AVG_POOL2D, avg_pool),
    (&ops::AVG_POOL3D, avg_pool),
    (&ops::ADAPTIVE_AVG_POOL1D, global),
    (&ops::ADAPTIVE_AVG_POOL2D, global),
    (&ops::ADAPTIVE_AVG_POOL3D, global),
    (&ops::ADAPTIVE_AVG_POOL2D_CORE, global),
    (&ops::ADAPTIVE_AVG_POOL3D_CORE, global),
];

/// The kernel's size and stride, which is the size where none is given, and the pads.
fn window(n: &Node, dims: usize) -> Emitted<[Vec<i32>; 3]> {
    let kernel = widened(n, 1, dims, &[])?;
    let stride = widened(n, 2, dims, &kernel)?;
    let pads = widened(n, 3, dims, &vec![0; dims])?;
    let pads: Vec<i64> = pads.iter().flat_map(|&p| [p, p]).collect();
    Ok([narrow(&kernel)?, narrow(&stride)?, narrow(&pads)?])
}

/// What `ceil_mode` adds at the end of each dimension, so that a last window fits that starts inside.
fn beyond(
    x: &Var,
    ty: &Type,
    dims: usize,
    [kernel, stride, pads]: &[Vec<i32>; 3],
    dilation: &[i64],
) -> Option<Vec<i32>> {
    let size = |s: &[SymInt], i: usize| s[s.len() - dims + i].known().and_then(|n| i32::try_from(n).ok());
    let extra = |i: usize| {
        let covered = (size(&ty.shape, i)? - 1) * stride[i] + dilation[i] as i32 * (kernel[i] - 1) + 1;
        Some((covered - size(&x.ty.shape, i)? - pads[2 * i] - pads[2 * i + 1]).max(0))
    };
    (0..dims).map(extra).collect()
}

fn max_pool(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let dims = dimensions(n, &x)?;
    let mut places = window(n, dims)?;
    let dilation = widened(n, 4, dims, &[1])?;
    let g = &b.program.graph;
    if n.outputs().get(1).is_some_and(|&v| !g.value(v).uses().is_empty() || g.is_output(v)) {
        return Err("Core ML's max pool does not say where it found them".into());
    }
    if truth(n, 5)? {
        let extra = beyond(&x, &ty, dims, &places, &dilation).ok_or("it rounds up open sizes")?;
        (0..dims).for_each(|i| places[2][2 * i + 1] += extra[i]);
    }
    let y = if dilation.iter().any(|&d| d != 1) {
        dilated(b, x, ty, places, &dilation)?
    } else {
        let [kernel, stride, pads] = places;
        batched(b, x, dims + 2, ty, |b, x, ty| {
            let inputs = vec![
                ("x", x.into()),
                ("kernel_sizes", kernel.into()),
                ("strides", stride.into()),
                ("pad_type", "custom".into()),
                ("pad", pads.into()),
            ];
            b.op("max_pool", inputs, ty)
        })?
    };
    // The places that nobody asks for need no value.
    let unread = n.outputs()[1..].iter().map(|&v| Ok(Var { name: "".into(), ty: b.type_of(v)? }));
    [Ok(y)].into_iter().chain(unread).collect()
}

/// The greatest of what the kernel's places see, one after another.
fn dilated(
    b: &mut Builder<'_>,
    x: Var,
    ty: Type,
    [kernel, stride, pads]: [Vec<i32>; 3],
    dilation: &[i64],
) -> Emitted<Var> {
    let (dims, rank) = (kernel.len(), x.ty.rank());
    let sizes = ty.shape[rank - dims..].iter().map(SymInt::known).collect::<Option<Vec<_>>>();
    let sizes = sizes.ok_or("Core ML's max pool has no dilation, and a size is open")?;
    let mut around = vec![0; 2 * (rank - dims)];
    around.extend(&pads);
    let mut padded = x.ty.clone();
    for i in 0..dims {
        padded.shape[rank - dims + i] =
            padded.shape[rank - dims + i].clone() + i64::from(pads[2 * i] + pads[2 * i + 1]);
    }
    let least = Constant::float(x.ty.dtype, f32::NEG_INFINITY);
    let x = if pads.iter().all(|&p| p == 0) {
        x
    } else {
        let inputs = vec![
            ("x", x.into()),
            ("pad", around.into()),
            ("mode", "constant".into()),
            ("constant_val", least.into()),
        ];
        b.op("pad", inputs, padded)
    };
    let count: i32 = kernel.iter().product();
    if count > 64 {
        return Err("Core ML's max pool has no dilation, and its kernel is large".into());
    }
    let mut greatest: Option<Var> = None;
    for at in 0..count {
        let (mut seen, mut rest) = (x.clone(), at);
        for i in (0..dims).rev() {
            let from = i64::from(rest % kernel[i]) * dilation[i];
            rest /= kernel[i];
            let to = from + (sizes[i] - 1) * i64::from(stride[i]) + 1;
            seen = super::index::steps(b, seen, rank - dims + i, (from, to), i64::from(stride[i]), sizes[i]);
        }
        greatest = Some(match greatest {
            Some(g) => super::binary::apply(b, "maximum", g, seen),
            None => seen,
        });
    }
    greatest.ok_or_else(|| "its kernel is empty".into())
}

fn avg_pool(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let (x, ty) = (b.arg(n, 0)?, out(b, n)?);
    let dims = dimensions(n, &x)?;
    let mut places = window(n, dims)?;
    if n.args().len() > 6 && *n.arg(6) != Arg::None {
        return Err("Core ML's average pool has no divisor of its own".into());
    }
    let (mut ceil, mut exclude) = (truth(n, 4)?, !truth(n, 5)?);
    if ceil {
        // What lies beyond the end never counts, while pads may.
        let extra = beyond(&x, &ty, dims, &places, &vec![1; dims]);
        if extra.as_ref().is_some_and(|e| e.iter().all(|&e| e == 0)) {
            ceil = false;
        } else if let Some(extra) = extra.filter(|_| exclude || places[2].iter().all(|&p| p == 0)) {
            (0..dims).for_each(|i| places[2][2 * i + 1] += extra[i]);
            (ceil, exclude) = (false, true);
        } else if dims == 3 {
            return Err("Core ML rounds up the sizes of one or two dimensions only".into());
        }
    }
    let [kernel, stride, pads] = places;
    let y = batched(b, x, dims + 2, ty, |b, x, ty| {
        let mut inputs = vec![
            ("x", x.into()),
            ("kernel_sizes", kernel.into()),
            ("strides", stride.into()),
            ("pad_type", "custom".into()),
            ("pad", pads.into()),
            ("exclude_padding_from_average", exclude.into()),
        ];
        if ceil {
            inputs.push(("ceil_mode", true.into()));
        }
        b.op("avg_pool", inputs, ty)
    })?;
    Ok(vec![y])
}

/// The mean over each picture.
fn global(b: &mut Builder<'_>, n: &Node) -> Emitted<Vec<Var>> {
    let x = b.arg(n, 0)?;
    let dims = dimensions(n, &x)?;
    if ints(n, 1)?.iter().any(|&s| s != 1) {
        return Err("Core ML pools whole pictures, or with windows of one size".into());
    }
    let axes: Vec<i32> = (-(dims as i32)..0).collect();
    let inputs = vec![("x", x.into()), ("axes", axes.into()), ("keep_dims", true.into())];
    Ok(vec![b.op("reduce_mean", inputs, out(b, n)?)])
}

/// The dimensions that are pooled over: those of `…_pool2d`.
fn dimensions(n: &Node, x: &Var) -> Emitted<usize> {
    let dims = (1..=3).find(|d| n.op().short_name().contains(&format!("pool{d}d")));
    match dims {
        Some(d) if x.ty.rank() == d + 2 || x.ty.rank() == d + 1 => Ok(d),
        _ => Err(format!("it pools {:?}", x.ty)),
    }
}
