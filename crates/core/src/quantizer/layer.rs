//! [`Layer`]: operators that have a weight, and where it is.

use crate::ir::{Node, ValueId};
use crate::ops::{self, OpDef, views};

/// An operator with a weight.
#[derive(Debug)]
pub struct Layer {
    /// The operator.
    pub op: &'static OpDef,
    /// The argument that the weight is in.
    pub arg: usize,
    /// The weight's axis of output channels; of an embedding, its rows.
    pub output_axis: u32,
    /// The weight's axis of input channels; of a grouped convolution, those of a group.
    pub input_axis: u32,
}

const fn layer(op: &'static OpDef) -> Layer {
    Layer { op, arg: 1, output_axis: 0, input_axis: 1 }
}

const fn transposed(op: &'static OpDef) -> Layer {
    Layer { op, arg: 1, output_axis: 1, input_axis: 0 }
}

static LAYERS: &[Layer] = &[
    layer(&ops::LINEAR),
    layer(&ops::CONV1D),
    layer(&ops::CONV1D_PADDING),
    layer(&ops::CONV2D),
    layer(&ops::CONV2D_PADDING),
    layer(&ops::CONV3D),
    layer(&ops::CONV3D_PADDING),
    transposed(&ops::CONV_TRANSPOSE1D),
    transposed(&ops::CONV_TRANSPOSE2D),
    transposed(&ops::CONV_TRANSPOSE3D),
    Layer { op: &ops::EMBEDDING, arg: 0, output_axis: 0, input_axis: 1 },
];

impl Layer {
    /// What kind of layer a node is, if it is one.
    pub fn of(node: &Node) -> Option<&'static Layer> {
        LAYERS.iter().find(|l| l.op == node.op())
    }

    /// The weight of a node of this kind.
    pub fn weight(&self, node: &Node) -> Option<ValueId> {
        views::value(node.arg(self.arg))
    }
}
