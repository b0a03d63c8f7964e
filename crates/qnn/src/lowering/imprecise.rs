//! Kernels of Qualcomm's that are further from exact integers than rounding explains, with what was measured.
//!
//! With 16-bit activations layers lose the last bits of their sums, some hundred units of the product of scales: the coarser
//! the weights, the more steps of the result that is. (Not where a channel is given as one block, or
//! small weights as bytes; see `Weight::finer` and `Weight::in_bytes` in `emit/weight.rs`.) Gelu and softmax are approximations.

use crate::graph::{DType, Encoding, Graph, Op, Param};
use lowbit_core::backend::Imprecise;

/// What was measured with.
const WITH: &str = "SDK 2.51, SM8650";

/// What the chip has a kernel for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kernel {
    /// Linear layers and convolutions of single points.
    Points,
    Window,
    Dilated,
    Depthwise,
    Transposed,
    Gelu,
    Softmax,
    Tanh,
    LayerNorm,
}

impl Kernel {
    fn of(graph: &Graph, op: &Op) -> Option<Kernel> {
        let single = || graph.tensors[op.inputs[1]].dims[..2] == [1, 1];
        let apart = |(name, p): &(&str, Param)| {
            *name == "dilation" && matches!(p, Param::U32s(list, _) if list.iter().any(|&d| d > 1))
        };
        Some(match op.kind {
            "FullyConnected" => Kernel::Points,
            "Conv2d" if single() => Kernel::Points,
            "Conv2d" if op.params.iter().any(apart) => Kernel::Dilated,
            "Conv2d" => Kernel::Window,
            // A channel's factor: there is nothing to sum up.
            "DepthWiseConv2d" if single() => return None,
            "DepthWiseConv2d" => Kernel::Depthwise,
            "TransposeConv2d" => Kernel::Transposed,
            "Gelu" => Kernel::Gelu,
            "Softmax" => Kernel::Softmax,
            "Tanh" => Kernel::Tanh,
            "LayerNorm" => Kernel::LayerNorm,
            _ => return None,
        })
    }

    /// Whether it sums up products with weights.
    fn is_layer(self) -> bool {
        !matches!(self, Kernel::Gelu | Kernel::Softmax | Kernel::Tanh | Kernel::LayerNorm)
    }

    fn name(self) -> &'static str {
        match self {
            Kernel::Points => "linear and 1x1",
            Kernel::Window => "convolution",
            Kernel::Dilated => "dilated convolution",
            Kernel::Depthwise => "depthwise",
            Kernel::Transposed => "transposed convolution",
            Kernel::Gelu => "gelu",
            Kernel::Softmax => "softmax",
            Kernel::Tanh => "tanh",
            Kernel::LayerNorm => "layer norm",
        }
    }
}

/// Kernel, bits of activations, bits of weights where there are any, and the most steps that were measured, in layers of 8 to
/// 256 input channels and with some thousand elements.
static ROWS: &[(Kernel, u32, u32, u32)] = &[
    (Kernel::Points, 16, 4, 44),
    (Kernel::Points, 16, 2, 244),
    (Kernel::Points, 16, 16, 55),
    (Kernel::Window, 16, 4, 30),
    (Kernel::Window, 16, 2, 157),
    (Kernel::Window, 16, 16, 36),
    (Kernel::Dilated, 16, 4, 10),
    (Kernel::Dilated, 16, 2, 61),
    (Kernel::Dilated, 16, 16, 321),
    (Kernel::Depthwise, 16, 4, 44),
    (Kernel::Depthwise, 16, 2, 159),
    (Kernel::Depthwise, 16, 16, 61),
    (Kernel::Transposed, 16, 4, 20),
    (Kernel::Transposed, 16, 2, 87),
    (Kernel::Transposed, 16, 16, 43),
    (Kernel::Gelu, 16, 0, 31),
    (Kernel::Softmax, 16, 0, 84),
    (Kernel::Gelu, 8, 0, 3),
    (Kernel::Tanh, 8, 0, 3),
    (Kernel::LayerNorm, 8, 0, 3),
];

/// What is known against the operators of a node: the worst of it.
pub fn of(graph: &Graph) -> Option<Imprecise> {
    graph.ops.iter().filter_map(|op| of_op(graph, op)).max_by_key(|i| i.steps)
}

fn of_op(graph: &Graph, op: &Op) -> Option<Imprecise> {
    let kernel = Kernel::of(graph, op)?;
    let wide = match graph.tensors[op.inputs[0]].dtype {
        DType::U8 => 8,
        DType::U16 => 16,
        _ => return None,
    };
    let narrow = if kernel.is_layer() { weight_bits(graph, op)? } else { 0 };
    if narrow == 16 && is_short(graph, op) {
        return None;
    }
    let &(.., steps) = ROWS.iter().find(|(k, a, w, _)| (*k, *a, *w) == (kernel, wide, narrow))?;
    let name = kernel.name();
    let what = match narrow {
        0 if kernel == Kernel::LayerNorm => format!("the chip's {wide}-bit {name} rounds on the way"),
        0 => format!("the chip's {wide}-bit {name} is an approximation"),
        _ => format!(
            "the chip's {name} kernels with {wide}-bit activations and {narrow}-bit weights lose the last bits of their sums"
        ),
    };
    let cure = match (kernel, narrow) {
        (Kernel::LayerNorm, _) => "; recipe 16a8w has a finer one",
        (Kernel::Points, 2) => "; recipe 16a4w keeps them, of twice the bytes, as do 16a8w and exact=true",
        (_, 2 | 4) => "; exact=true keeps them, with a byte a weight, and recipe 16a8w does",
        (_, 16) => "; recipe 16a8w keeps them",
        _ => "",
    };
    let why = format!("{what}: up to {steps} of {} steps were measured ({WITH}){cure}", 1u32 << wide);
    Some(Imprecise { steps, why })
}

/// Whether a convolution of the chip's has so few input channels that its matrix unit, which loses bits of 16-bit weights, is
/// told to leave it alone (`SHORT_DEPTH_WITHOUT_HMX`); up to 4 are known to be exact.
fn is_short(graph: &Graph, op: &Op) -> bool {
    let whole = op.params.contains(&("group", Param::U32(1)));
    op.kind == "Conv2d" && whole && graph.tensors[op.inputs[1]].dims.get(2).is_some_and(|&c| c <= 4)
}

/// The width of a layer's weights; of scales by blocks, whose sums are finer, there is nothing to say.
fn weight_bits(graph: &Graph, op: &Op) -> Option<u32> {
    let weight = &graph.tensors[op.inputs[1]];
    match weight.encoding {
        Encoding::Tensor { bits: Some(bits), .. } | Encoding::Axis { bits: Some(bits), .. } => Some(bits),
        Encoding::Tensor { .. } | Encoding::Axis { .. } => Some(8 * weight.dtype.size() as u32),
        Encoding::Blocks { .. } | Encoding::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Role, Tensor};

    /// The steps that are known of an operator that reads `x`, and perhaps a weight of this encoding.
    fn steps(kind: &'static str, x: DType, weight: Option<([u32; 4], DType, Encoding)>) -> Option<u32> {
        let tensor = |dims: &[u32], dtype, encoding| Tensor {
            name: String::new(),
            role: Role::Native,
            dtype,
            dims: dims.to_vec(),
            encoding,
            data: Vec::new().into(),
        };
        let of_all = Encoding::Tensor { scale: 1.0, offset: 0, bits: None };
        let mut tensors = vec![tensor(&[1, 8, 8, 16], x, of_all)];
        tensors.extend(weight.map(|(dims, dtype, encoding)| tensor(&dims, dtype, encoding)));
        let inputs = (0..tensors.len()).collect();
        let params = vec![("group", Param::U32(1))];
        let op = Op { name: String::new(), kind, params, inputs, outputs: vec![] };
        of(&Graph { tensors, ops: vec![op] }).map(|i| i.steps)
    }

    #[test]
    fn kernels_are_told_apart() {
        let axis = |bits| Encoding::Axis { axis: 3, scales: vec![1.0], offsets: vec![0], bits };
        let (narrow, wide) = (DType::U8, DType::U16);
        let four = |dims: [u32; 4]| Some((dims, DType::S8, axis(Some(4))));
        assert_eq!(steps("Conv2d", wide, four([3, 3, 16, 8])), Some(30));
        assert_eq!(steps("Conv2d", narrow, four([3, 3, 16, 8])), None);
        assert_eq!(steps("Conv2d", wide, Some(([3, 3, 16, 8], DType::S8, axis(None)))), None);
        assert_eq!(steps("Conv2d", wide, Some(([3, 3, 16, 8], DType::S16, axis(None)))), Some(36));
        assert_eq!(steps("Conv2d", wide, Some(([3, 3, 4, 8], DType::S16, axis(None)))), None);
        let blocks = Encoding::Blocks { axis: 3, scales: vec![1.0], blocks: 1, multipliers: vec![16] };
        assert_eq!(steps("Conv2d", wide, Some(([1, 1, 16, 8], DType::S8, blocks))), None);
        assert_eq!(steps("DepthWiseConv2d", wide, four([3, 3, 1, 16])), Some(44));
        assert_eq!(steps("DepthWiseConv2d", wide, four([1, 1, 1, 16])), None);
        assert_eq!((steps("Softmax", wide, None), steps("Softmax", narrow, None)), (Some(84), None));
        assert_eq!(steps("LayerNorm", narrow, Some(([16, 1, 1, 1], DType::U8, axis(None)))), Some(3));
    }
}
