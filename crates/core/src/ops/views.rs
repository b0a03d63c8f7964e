//! Typed reading of nodes: `Linear::of(&program, node)` gives `input`, `weight`, `bias` as fields.

use crate::ir::{Arg, NodeId, Program, ValueId};

/// Declares a view: a struct whose fields are arguments of one or several operators of the same leading arguments.
#[macro_export]
macro_rules! op_view {
    ($(#[$meta:meta])* $vis:vis $name:ident = $($op:path)|+ { $($field:ident : $kind:ident @ $index:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name { $(#[allow(missing_docs)] pub $field: $crate::op_view!(@type $kind)),* }
        impl $name {
            /// The view of `node`, when it is this operator with these kinds of arguments.
            pub fn of(program: &$crate::ir::Program, node: $crate::ir::NodeId) -> Option<Self> {
                let n = program.graph.node(node);
                if !($(*n.op() == $op)||+) { return None }
                Some($name { $($field: $crate::op_view!(@get $kind n $index)),* })
            }
        }
    };
    (@type value) => { $crate::ir::ValueId };
    (@type opt) => { Option<$crate::ir::ValueId> };
    (@type int) => { i64 };
    (@type ints) => { Vec<i64> };
    (@type float) => { f64 };
    (@type bool) => { bool };
    (@get value $n:ident $i:literal) => { $crate::ops::views::value($n.arg($i))? };
    (@get opt $n:ident $i:literal) => { $crate::ops::views::value($n.arg($i)) };
    (@get int $n:ident $i:literal) => { $crate::ops::views::int($n.arg($i))? };
    (@get ints $n:ident $i:literal) => { $crate::ops::views::ints($n.arg($i))? };
    (@get float $n:ident $i:literal) => { $crate::ops::views::float($n.arg($i))? };
    (@get bool $n:ident $i:literal) => { $crate::ops::views::bool($n.arg($i))? };
}

/// The tensor an argument holds.
pub fn value(arg: &Arg) -> Option<ValueId> {
    match arg {
        Arg::Value(v) => Some(*v),
        _ => None,
    }
}

/// The plain integer an argument holds.
pub fn int(arg: &Arg) -> Option<i64> {
    match arg {
        Arg::Int(n) => n.known(),
        _ => None,
    }
}

/// The plain integers an argument holds.
pub fn ints(arg: &Arg) -> Option<Vec<i64>> {
    match arg {
        Arg::Ints(l) => l.iter().map(|n| n.known()).collect(),
        _ => None,
    }
}

/// The number an argument holds, integers and booleans widened.
pub fn float(arg: &Arg) -> Option<f64> {
    match arg {
        Arg::Float(x) => Some(*x),
        Arg::Int(n) => n.known().map(|n| n as f64),
        Arg::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

/// The boolean an argument holds.
pub fn bool(arg: &Arg) -> Option<bool> {
    match arg {
        Arg::Bool(b) => Some(*b),
        _ => None,
    }
}

op_view! {
    /// `aten.linear.default`
    pub Linear = super::LINEAR { input: value @ 0, weight: value @ 1, bias: opt @ 2 }
}
op_view! {
    /// `quantize_per_tensor.default` and `dequantize_per_tensor.default`
    pub PerTensor = super::QUANTIZE_PER_TENSOR | super::DEQUANTIZE_PER_TENSOR {
        input: value @ 0, scale: float @ 1, zero_point: int @ 2, quant_min: int @ 3, quant_max: int @ 4,
    }
}
op_view! {
    /// `quantize_per_channel.default` and `dequantize_per_channel.default`
    pub PerChannel = super::QUANTIZE_PER_CHANNEL | super::DEQUANTIZE_PER_CHANNEL {
        input: value @ 0, scales: value @ 1, zero_points: opt @ 2, axis: int @ 3, quant_min: int @ 4, quant_max: int @ 5,
    }
}

/// The nodes of `program` that `view` recognises, in program order.
pub fn all<T>(program: &Program, view: impl Fn(&Program, NodeId) -> Option<T>) -> Vec<(NodeId, T)> {
    program.graph.nodes().filter_map(|n| Some((n, view(program, n)?))).collect()
}
