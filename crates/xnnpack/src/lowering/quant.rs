//! Quantization around a node: dequantized operands, a quantized result, an activation between.

use crate::subgraph::Clamp;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, Node, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};

/// Parameters of one int8 tensor.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct QParams {
    /// Step between two integers.
    pub scale: f32,
    /// The integer of 0.
    pub zero_point: i32,
    /// Least integer.
    pub min: i64,
    /// Greatest integer.
    pub max: i64,
}

impl QParams {
    /// The real numbers that can be represented, when the range is narrower than int8's, which XNNPACK clamps to anyway.
    pub fn bounds(&self) -> Option<Clamp> {
        if (self.min, self.max) == (-128, 127) {
            return None;
        }
        let real = |q: i64| (q - i64::from(self.zero_point)) as f32 * self.scale;
        Some(Clamp { min: real(self.min), max: real(self.max) })
    }

    /// Whether both mean the same by an integer.
    pub fn same(&self, other: &QParams) -> bool {
        (self.scale, self.zero_point) == (other.scale, other.zero_point)
    }
}

/// The parameters of a `quantize_per_tensor` or `dequantize_per_tensor` node.
///
/// # Errors
/// When XNNPACK cannot take them.
pub fn qparams(node: &Node) -> Result<QParams, String> {
    let dtype = match node.arg(5) {
        Arg::DType(d) => *d,
        _ => return Err("its element type is not given".into()),
    };
    if dtype != DType::I8 {
        return Err(format!("XNNPACK quantizes to i8, this is {dtype}"));
    }
    let numbers = (
        views::float(node.arg(1)),
        views::int(node.arg(2)),
        views::int(node.arg(3)),
        views::int(node.arg(4)),
    );
    let (Some(scale), Some(zero_point), Some(min), Some(max)) = numbers else {
        return Err("its parameters are no plain numbers".into());
    };
    let scale = scale as f32;
    if !scale.is_normal() || scale <= 0.0 {
        return Err(format!("scale {scale:e}: XNNPACK takes normal positive numbers"));
    }
    let zero_point = i32::try_from(zero_point).ok().filter(|z| (-128..=127).contains(z));
    let Some(zero_point) = zero_point else { return Err("its zero point is outside int8".into()) };
    if min < -128 || max > 127 || min > max {
        return Err(format!("its range {min} to {max} is outside int8"));
    }
    Ok(QParams { scale, zero_point, min, max })
}

fn is(program: &Program, n: NodeId, op: &OpDef) -> bool {
    *program.graph.node(n).op() == *op
}

/// A dequantized operand.
#[derive(Copy, Clone, Debug)]
pub struct Dequantized {
    /// The dequantize node.
    pub node: NodeId,
    /// The integers.
    pub int8: ValueId,
    /// What they mean.
    pub params: QParams,
}

/// What `v` is dequantized from, per tensor, in a way XNNPACK knows.
pub fn dequantized(program: &Program, v: ValueId) -> Option<Dequantized> {
    let g = &program.graph;
    let n = g.producer(v)?;
    if !is(program, n, &ops::DEQUANTIZE_PER_TENSOR) {
        return None;
    }
    let node = g.node(n);
    Some(Dequantized { node: n, int8: views::value(node.arg(0))?, params: qparams(node).ok()? })
}

/// The node that quantizes `v`, when it is the only reader.
pub fn quantizer_of(program: &Program, v: ValueId) -> Option<(NodeId, QParams)> {
    let n = sole_reader(program, v)?;
    if !is(program, n, &ops::QUANTIZE_PER_TENSOR) {
        return None;
    }
    Some((n, qparams(program.graph.node(n)).ok()?))
}

/// The only node that reads `v`, once; none when the program returns it.
pub fn sole_reader(program: &Program, v: ValueId) -> Option<NodeId> {
    let g = &program.graph;
    match g.value(v).uses() {
        [u] if !g.is_output(v) => Some(u.node),
        _ => None,
    }
}

/// The bounds an activation node puts on its input.
pub fn activation(node: &Node) -> Option<Clamp> {
    let float = |i: usize| views::float(node.arg(i)).map(|x| x as f32);
    let or = |i: usize, other: f32| if *node.arg(i) == Arg::None { Some(other) } else { float(i) };
    Some(match node.op() {
        op if *op == ops::RELU => Clamp::RELU,
        op if *op == ops::RELU6 => Clamp { min: 0.0, max: 6.0 },
        op if *op == ops::HARDTANH => Clamp { min: float(1)?, max: float(2)? },
        op if *op == ops::CLAMP => Clamp { min: or(1, f32::NEG_INFINITY)?, max: or(2, f32::INFINITY)? },
        op if *op == ops::CLAMP_MIN => Clamp { min: float(1)?, max: f32::INFINITY },
        op if *op == ops::CLAMP_MAX => Clamp { min: f32::NEG_INFINITY, max: float(1)? },
        _ => return None,
    })
}

/// First `a`, then `b`.
pub fn both(a: Option<Clamp>, b: Option<Clamp>) -> Option<Clamp> {
    match (a, b) {
        // The later bound wins where they do not overlap, as when one runs after the other.
        (Some(a), Some(b)) => Some(Clamp { min: a.min.clamp(b.min, b.max), max: a.max.clamp(b.min, b.max) }),
        (a, b) => a.or(b),
    }
}

/// How a result leaves a node: through an activation, through a quantize.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Exit {
    /// The activation that runs with it.
    pub activation: Option<NodeId>,
    /// The quantize node that stores it as integers.
    pub quantize: Option<(NodeId, QParams)>,
    /// The bounds of both.
    pub clamp: Option<Clamp>,
    /// The value that the node really makes.
    pub value: ValueId,
}

/// Follows the result of `n`. Integers come out only if `integers` is set.
pub fn exit(program: &Program, n: NodeId, integers: bool, fuse: bool) -> Exit {
    let g = &program.graph;
    let v = g.node(n).output();
    let mut out = Exit { activation: None, quantize: None, clamp: None, value: v };
    if integers && let Some((q, params)) = quantizer_of(program, v) {
        return Exit {
            quantize: Some((q, params)),
            clamp: params.bounds(),
            value: g.node(q).output(),
            ..out
        };
    }
    let Some(act) = sole_reader(program, v).filter(|_| fuse) else { return out };
    let Some(clamp) = activation(g.node(act)).filter(|c| c.min <= c.max) else { return out };
    let made = g.node(act).output();
    if g.ty(made).dtype != g.ty(v).dtype {
        return out;
    }
    if integers {
        if let Some((q, params)) = quantizer_of(program, made) {
            out = Exit {
                activation: Some(act),
                quantize: Some((q, params)),
                clamp: both(Some(clamp), params.bounds()),
                value: g.node(q).output(),
            };
        }
        return out;
    }
    Exit { activation: Some(act), clamp: Some(clamp), value: made, ..out }
}
