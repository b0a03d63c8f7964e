//! What a value of the program is on the chip: its element type and encoding, found from the quantize and dequantize nodes
//! around it.

use super::builder::Emitted;
use crate::graph::{DType, Encoding};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, Node, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};

/// Element type and encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// The element type.
    pub dtype: DType,
    /// What its integers stand for.
    pub encoding: Encoding,
}

impl Kind {
    /// Plain elements.
    pub const fn plain(dtype: DType) -> Self {
        Kind { dtype, encoding: Encoding::None }
    }

    /// Whether integers stand for real numbers.
    pub fn is_fixed(&self) -> bool {
        self.dtype.is_fixed()
    }

    /// Whether it holds floats.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, DType::F16 | DType::F32)
    }

    /// Scale and offset, when there is one of each.
    pub fn scale_offset(&self) -> Option<(f32, i32)> {
        match self.encoding {
            Encoding::Tensor { scale, offset, .. } => Some((scale, offset)),
            _ => None,
        }
    }

    /// The integer that is nearest to a number, whether the type has it or not.
    pub fn integer(&self, value: f64) -> Option<i64> {
        let (scale, offset) = self.scale_offset()?;
        Some((value / f64::from(scale)).round_ties_even() as i64 - i64::from(offset))
    }

    /// The least and greatest real number.
    pub fn bounds(&self) -> Option<(f32, f32)> {
        let (scale, offset) = self.scale_offset()?;
        let (min, max) = match self.dtype {
            DType::U8 => (0, 255),
            DType::U16 => (0, 65535),
            DType::S8 => (-128, 127),
            DType::S16 => (-32768, 32767),
            _ => return None,
        };
        Some(((min + offset) as f32 * scale, (max + offset) as f32 * scale))
    }
}

/// Scale, zero point and integers of a `quantize_per_tensor` or `dequantize_per_tensor` node as an activation's kind.
///
/// # Errors
/// When the chip has no such integers.
pub fn of_parameters(node: &Node) -> Emitted<Kind> {
    let Arg::DType(dtype) = node.arg(5) else { return Err("its element type is not given".into()) };
    let number = views::float(node.arg(1)).zip(views::int(node.arg(2)));
    let range = views::int(node.arg(3)).zip(views::int(node.arg(4)));
    let (Some((scale, zero_point)), Some((min, max))) = (number, range) else {
        return Err("its parameters are no plain numbers".into());
    };
    let dtype = match (dtype, min, max) {
        (CoreType::U8, 0, 255) => DType::U8,
        // torchao has 16-bit activations in int32.
        (CoreType::U16 | CoreType::I32, 0, 65535) => DType::U16,
        (CoreType::I8, -128, 127) => DType::S8,
        (CoreType::I16, -32768, 32767) => DType::S16,
        _ => {
            return Err(format!(
                "HTP's activations take all of uint8 or uint16, not {min} to {max} in {dtype}; quantize for this backend"
            ));
        }
    };
    let scale = scale as f32;
    if !scale.is_normal() || scale <= 0.0 {
        return Err(format!("scale {scale:e} is no normal positive number"));
    }
    let offset = i32::try_from(-zero_point).map_err(|_| format!("zero point {zero_point} is too large"))?;
    Ok(Kind { dtype, encoding: Encoding::Tensor { scale, offset, bits: None } })
}

fn is(program: &Program, n: NodeId, op: &OpDef) -> bool {
    *program.graph.node(n).op() == *op
}

/// The per-tensor dequantize node that makes `v`.
pub fn dequantize_of(program: &Program, v: ValueId) -> Option<NodeId> {
    program.graph.producer(v).filter(|&n| is(program, n, &ops::DEQUANTIZE_PER_TENSOR))
}

/// The per-tensor quantize nodes that read `v`, in program order.
pub fn quantizers_of(program: &Program, v: ValueId) -> Vec<NodeId> {
    let mut users = program.graph.users(v);
    users.retain(|&n| is(program, n, &ops::QUANTIZE_PER_TENSOR));
    users
}

/// The bounds that a clamping node puts on its input, as real numbers.
pub fn clamp(node: &Node) -> Option<(f32, f32)> {
    let float = |i: usize| views::float(node.arg(i)).map(|x| x as f32);
    let or = |i: usize, other: f32| if *node.arg(i) == Arg::None { Some(other) } else { float(i) };
    Some(match node.op() {
        op if *op == ops::RELU => (0.0, f32::INFINITY),
        op if *op == ops::RELU6 => (0.0, 6.0),
        op if *op == ops::HARDTANH => (float(1)?, float(2)?),
        op if *op == ops::CLAMP => (or(1, f32::NEG_INFINITY)?, or(2, f32::INFINITY)?),
        op if *op == ops::CLAMP_MIN => (float(1)?, f32::INFINITY),
        op if *op == ops::CLAMP_MAX => (f32::NEG_INFINITY, float(1)?),
        _ => return None,
    })
}

/// Whether all that a kind can hold lies within bounds, but for less than half a step.
pub fn within(kind: &Kind, (low, high): (f32, f32)) -> bool {
    let (Some((min, max)), Some((scale, _))) = (kind.bounds(), kind.scale_offset()) else { return false };
    let slack = scale * 0.499;
    min >= low - slack && max <= high + slack
}

/// What a value is on the chip.
///
/// # Errors
/// When the chip has nothing of the kind, or the program says two things of it.
pub fn of(program: &Program, v: ValueId) -> Emitted<Kind> {
    let g = &program.graph;
    let name = &g.value(v).name;
    let about = |why: String| format!("%{name}: {why}");
    match g.ty(v).dtype {
        CoreType::F32 | CoreType::F16 => of_float(program, v),
        CoreType::I32 if integers(program, v).is_none() => Ok(Kind::plain(DType::Int32)),
        CoreType::I64 => Ok(Kind::plain(DType::Int32)),
        CoreType::Bool => Ok(Kind::plain(DType::Bool)),
        CoreType::U8 | CoreType::I8 | CoreType::U16 | CoreType::I16 | CoreType::I32 => {
            match integers(program, v) {
                Some(n) => of_parameters(g.node(n)).map_err(about),
                None => Err(about(format!("HTP has no plain {}", g.ty(v).dtype))),
            }
        }
        other => Err(about(format!("HTP has no {other}"))),
    }
}

/// The node that says what integers mean: the one that makes them, or one that reads them.
fn integers(program: &Program, v: ValueId) -> Option<NodeId> {
    let g = &program.graph;
    let made = g.producer(v).filter(|&n| is(program, n, &ops::QUANTIZE_PER_TENSOR));
    made.or_else(|| g.users(v).into_iter().find(|&n| is(program, n, &ops::DEQUANTIZE_PER_TENSOR)))
}

fn of_float(program: &Program, v: ValueId) -> Emitted<Kind> {
    let g = &program.graph;
    if let Some(dq) = dequantize_of(program, v) {
        return of_parameters(g.node(dq)).map_err(|why| format!("%{}: {why}", g.value(v).name));
    }
    let float = Ok(Kind::plain(DType::F32));
    // Inputs are quantized by the chip, but come as floats.
    if g.producer(v).is_none() || g.is_output(v) {
        return float;
    }
    let quantizers = quantizers_of(program, v);
    let readers = g.users(v);
    if quantizers.is_empty() {
        // An activation that clamps: what is clamped has the kind of the result.
        return match readers[..] {
            [act] if clamp(g.node(act)).is_some() && g.value(v).uses().len() == 1 => {
                of_float(program, g.node(act).output())
            }
            _ => float,
        };
    }
    let of = |&n: &NodeId| of_parameters(g.node(n)).map_err(|why| format!("%{}: {why}", g.node(n).name));
    let kinds = quantizers.iter().map(of).collect::<Emitted<Vec<Kind>>>()?;
    if readers.len() > quantizers.len() || kinds.iter().any(|k| *k != kinds[0]) {
        return Err(format!("%{} is read in two ways, as floats or with other scales", g.value(v).name));
    }
    Ok(kinds[0].clone())
}

/// The clamping nodes and quantize nodes that what makes `v` goes together with: they say what it is.
pub fn exits(program: &Program, v: ValueId) -> Vec<NodeId> {
    let g = &program.graph;
    let quantizers = quantizers_of(program, v);
    if !quantizers.is_empty() {
        return quantizers;
    }
    match g.users(v)[..] {
        [act]
            if clamp(g.node(act)).is_some()
                && !g.is_output(v)
                && of_float(program, v).is_ok_and(|k| k.is_fixed()) =>
        {
            [vec![act], exits(program, g.node(act).output())].concat()
        }
        _ => vec![],
    }
}
