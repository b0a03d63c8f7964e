//! A [`Graph`] to bytes.

use super::table::{Builder, Field, Offset, slot};
use super::value::{Quant, Value};
use super::{Clamp, Graph, Node, header};
use flatbuffers::{ForwardsUOffset, WIPOffset};

/// Tables of the unions `XNNQuantParams` and `XValueUnion`.
const PER_CHANNEL: u8 = 1;
const PER_TENSOR: u8 = 2;
const PER_TOKEN: u8 = 3;
const PER_CHANNEL_GROUP: u8 = 4;
const TENSOR_VALUE: u8 = 1;
const QUANTIZED_TENSOR_VALUE: u8 = 2;

impl Graph {
    /// What the delegate reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut b = Builder::with_capacity(1024);
        let constants: Vec<Offset> =
            self.constants.iter().map(|c| constant(&mut b, c.size, &c.key)).collect();
        let values: Vec<Offset> =
            self.values.iter().enumerate().map(|(id, v)| write_value(&mut b, id, v)).collect();
        let nodes: Vec<Offset> = self.nodes.iter().map(|n| write_node(&mut b, n)).collect();
        // The first entry stands for "not constant".
        let none = constant(&mut b, 0, "");
        let constants: Vec<Offset> = std::iter::once(none).chain(constants).collect();

        let version = b.create_string("0");
        let nodes = vector(&mut b, &nodes);
        let values = vector(&mut b, &values);
        let constants = vector(&mut b, &constants);
        let inputs = self.inputs.prepare(&mut b);
        let outputs = self.outputs.prepare(&mut b);
        let start = b.start_table();
        b.push_slot_always(slot(0), version);
        b.push_slot_always(slot(1), nodes);
        b.push_slot_always(slot(2), values);
        b.push_slot(slot(3), self.num_externs, 0);
        b.push_slot_always(slot(4), inputs);
        b.push_slot_always(slot(5), outputs);
        // 6 and 7: data inside the FlatBuffer, which is deprecated, and buffer sizes, which nobody reads.
        b.push_slot_always(slot(8), constants);
        let root: Offset = b.end_table(start);
        b.finish(root, Some("XN00"));
        header::wrap(b.finished_data())
    }
}

fn vector(
    b: &mut Builder,
    tables: &[Offset],
) -> WIPOffset<flatbuffers::Vector<'static, ForwardsUOffset<flatbuffers::TableFinishedWIPOffset>>> {
    b.create_vector(tables)
}

/// A `ConstantDataOffset`: either a key or an offset in the blob; the other says that it is not meant.
fn constant(b: &mut Builder, size: u64, key: &str) -> Offset {
    let key = (!key.is_empty()).then(|| b.create_string(key));
    let start = b.start_table();
    if let Some(key) = key {
        b.push_slot(slot(0), u64::MAX, 0);
        b.push_slot(slot(1), size, 0);
        b.push_slot_always(slot(2), key);
    }
    b.end_table(start)
}

fn write_value(b: &mut Builder, id: usize, v: &Value) -> Offset {
    let dims = v.dims.prepare(b);
    let start = b.start_table();
    b.push_slot(slot(0), v.datatype as i16, 0);
    b.push_slot(slot(1), u32::try_from(v.dims.len()).expect("few dimensions"), 0);
    b.push_slot_always(slot(2), dims);
    b.push_slot(slot(3), v.constant, 0);
    b.push_slot(slot(4), v.external_id, 0);
    b.push_slot(slot(5), v.flags, 0);
    b.push_slot(slot(6), u32::try_from(id).expect("few values"), 0);
    let tensor: Offset = b.end_table(start);
    let (tag, union) = match &v.quant {
        None => (TENSOR_VALUE, tensor.as_union_value()),
        Some(q) => {
            let (tag, params) = write_quant(b, q);
            let start = b.start_table();
            b.push_slot_always(slot(0), tensor);
            b.push_slot(slot(1), tag, 0);
            b.push_slot_always(slot(2), params);
            (QUANTIZED_TENSOR_VALUE, b.end_table(start).as_union_value())
        }
    };
    let start = b.start_table();
    b.push_slot(slot(0), tag, 0u8);
    b.push_slot_always(slot(1), union);
    b.end_table(start)
}

fn write_quant(b: &mut Builder, q: &Quant) -> (u8, Offset) {
    match q {
        Quant::PerTensor { scale, zero_point } => {
            let start = b.start_table();
            b.push_slot(slot(0), *scale, 0.0);
            b.push_slot(slot(1), *zero_point, 0);
            (PER_TENSOR, b.end_table(start))
        }
        // Scales lie in the table itself: as named data each set would take its key twice, here and in the program.
        Quant::PerChannel { scales, channel_dim } => {
            let scales = b.create_vector(scales);
            let start = b.start_table();
            b.push_slot_always(slot(0), scales);
            b.push_slot(slot(1), *channel_dim, 0);
            (PER_CHANNEL, b.end_table(start))
        }
        Quant::PerToken { num_nonbatch_dims } => {
            let start = b.start_table();
            b.push_slot(slot(0), *num_nonbatch_dims, 0);
            (PER_TOKEN, b.end_table(start))
        }
        Quant::PerChannelGroup { scale_constant, num_scales, channel_dim, group_size } => {
            // The compiler asks for the length of this vector also when scales are elsewhere.
            let scales = b.create_vector::<f32>(&[]);
            let start = b.start_table();
            b.push_slot_always(slot(0), scales);
            b.push_slot(slot(1), *channel_dim, 0);
            b.push_slot(slot(2), *group_size, 0);
            b.push_slot(slot(4), *scale_constant, 0);
            b.push_slot(slot(5), *num_scales, 0);
            (PER_CHANNEL_GROUP, b.end_table(start))
        }
    }
}

fn write_node(b: &mut Builder, n: &Node) -> Offset {
    let clamp = n.clamp.map(|Clamp { min, max }| {
        let start = b.start_table();
        b.push_slot(slot(0), min, 0.0);
        b.push_slot(slot(1), max, 0.0);
        let t: Offset = b.end_table(start);
        t
    });
    let op = n.op.write(b);
    let start = b.start_table();
    b.push_slot(slot(0), n.op.tag(), 0);
    b.push_slot_always(slot(1), op);
    b.push_slot(slot(2), n.debug_handle, 0);
    if let Some(clamp) = clamp {
        b.push_slot_always(slot(3), clamp);
    }
    b.end_table(start)
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = |datatype, quant, constant| Value {
            datatype,
            dims: vec![1, 28, 28, 3],
            quant,
            constant,
            external_id: NO_VALUE,
            flags: 0,
        };
        let quants = [
            None,
            Some(Quant::PerTensor { scale: 0.5, zero_point: -3 }),
            Some(Quant::PerChannel { scales: vec![0.25, 0.125], channel_dim: 3 }),
            Some(Quant::PerToken { num_nonbatch_dims: 3 }),
            Some(Quant::PerChannelGroup { scale_constant: 1, num_scales: 4, channel_dim: 0, group_size: 32 }),
        ];
        let mut g = Graph {
            num_externs: 2,
            inputs: vec![0],
            outputs: vec![1],
            constants: vec![ConstantData { size: 12, key: "abc".into() }],
            ..Graph::default()
        };
        for d in Datatype::ALL {
            for q in &quants {
                g.values.push(value(d, q.clone(), 1));
            }
        }
        g.values[0] = Value { external_id: 1, flags: EXTERNAL_INPUT, ..value(Datatype::Qint8, None, 0) };
        // Every field of every table with a number of its own.
        let conv = Conv {
            padding_top: 1,
            padding_right: 2,
            padding_bottom: 3,
            padding_left: 4,
            kernel_height: 5,
            kernel_width: 6,
            subsampling_height: 7,
            subsampling_width: 8,
            dilation_height: 9,
            dilation_width: 10,
            group_input_channels: 11,
            group_output_channels: 12,
            groups: 13,
            adjustment_height: 14,
            adjustment_width: 15,
            input: 16,
            filter: 17,
            bias: NO_VALUE,
            output: 19,
            flags: 20,
        };
        let ops = [
            Op::Conv2d(conv),
            Op::StaticConstantPad(StaticPad {
                pre_paddings: vec![0, 1],
                post_paddings: vec![2, 3],
                padding_value: -0.5,
                input: 4,
                output: 5,
                flags: 6,
            }),
            Op::Concatenate5(Cat {
                axis: 1,
                input1: 2,
                input2: 3,
                input3: 4,
                input4: 5,
                output: 6,
                flags: 7,
                input5: 8,
            }),
            Op::LeakyReLU(LeakyRelu { negative_slope: 0.01, input: 1, output: 2, flags: 3 }),
            Op::Cos(Unary { input: 1, output: 2, flags: 3 }),
            Op::Add(Binary { input1: 1, input2: 2, output: 3, flags: 4 }),
        ];
        for (i, op) in ops.into_iter().enumerate() {
            let clamp = (i % 2 == 0).then_some(Clamp::RELU);
            g.nodes.push(Node { op, clamp, debug_handle: i as u32 });
        }
        assert_eq!(Graph::read(&g.to_bytes()), g);
    }
}
