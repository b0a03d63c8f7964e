//! Bytes back to a [`Graph`], for tests. Written apart from the writer, after the FlatBuffers format alone.

use super::value::{Datatype, Quant, Value};
use super::{Clamp, ConstantData, Graph, Node, Op, header};

/// A table in a FlatBuffer.
#[derive(Copy, Clone)]
pub struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Table<'a> {
    fn bytes4(self, at: usize) -> [u8; 4] {
        self.bytes[at..at + 4].try_into().unwrap()
    }

    fn u16_at(self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// Where field number `i` is, when it is there.
    fn field(self, i: usize) -> Option<usize> {
        // A directory may lie on either side of the tables that share it.
        let directory = (self.at as i64 - i64::from(i32::from_le_bytes(self.bytes4(self.at)))) as usize;
        let place = 4 + 2 * i;
        let offset = if place < self.u16_at(directory) { self.u16_at(directory + place) } else { 0 };
        (offset != 0).then_some(self.at + offset)
    }

    fn target(self, at: usize) -> usize {
        at + u32::from_le_bytes(self.bytes4(at)) as usize
    }

    pub fn u8(self, i: usize) -> u8 {
        self.field(i).map_or(0, |at| self.bytes[at])
    }

    pub fn i16(self, i: usize) -> i16 {
        self.field(i).map_or(0, |at| self.u16_at(at) as i16)
    }

    pub fn u32(self, i: usize) -> u32 {
        self.field(i).map_or(0, |at| u32::from_le_bytes(self.bytes4(at)))
    }

    pub fn u64(self, i: usize) -> u64 {
        self.field(i).map_or(0, |at| u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap()))
    }

    pub fn f32(self, i: usize) -> f32 {
        f32::from_bits(self.u32(i))
    }

    pub fn table(self, i: usize) -> Option<Table<'a>> {
        self.field(i).map(|at| Table { at: self.target(at), ..self })
    }

    /// Places of a vector's entries, each of `size` bytes.
    fn entries(self, i: usize, size: usize) -> impl Iterator<Item = usize> {
        let start = self.field(i).map_or(0, |at| self.target(at));
        let n = if start == 0 { 0 } else { u32::from_le_bytes(self.bytes4(start)) as usize };
        (0..n).map(move |k| start + 4 + k * size)
    }

    pub fn u32s(self, i: usize) -> Vec<u32> {
        self.entries(i, 4).map(|at| u32::from_le_bytes(self.bytes4(at))).collect()
    }

    pub fn f32s(self, i: usize) -> Vec<f32> {
        self.u32s(i).into_iter().map(f32::from_bits).collect()
    }

    pub fn tables(self, i: usize) -> Vec<Table<'a>> {
        self.entries(i, 4).map(|at| Table { at: self.target(at), ..self }).collect()
    }

    pub fn string(self, i: usize) -> String {
        self.entries(i, 1).map(|at| self.bytes[at] as char).collect()
    }
}

impl Graph {
    /// Reads a blob.
    pub fn read(blob: &[u8]) -> Graph {
        let bytes = header::unwrap(blob);
        assert_eq!(&bytes[4..8], b"XN00");
        let root = Table { bytes, at: u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize };
        let constants = root.tables(8);
        let named = |t: &Table<'_>| {
            assert_eq!(t.u64(0), u64::MAX);
            ConstantData { size: t.u64(1), key: t.string(2) }
        };
        Graph {
            nodes: root.tables(1).into_iter().map(read_node).collect(),
            values: root.tables(2).into_iter().enumerate().map(|(i, t)| read_value(i, t)).collect(),
            num_externs: root.u32(3),
            inputs: root.u32s(4),
            outputs: root.u32s(5),
            constants: constants[1..].iter().map(named).collect(),
        }
    }
}

fn read_node(t: Table<'_>) -> Node {
    Node {
        op: Op::read(t.u8(0), t.table(1).unwrap()),
        clamp: t.table(3).map(|c| Clamp { min: c.f32(0), max: c.f32(1) }),
        debug_handle: t.u32(2),
    }
}

fn read_value(id: usize, t: Table<'_>) -> Value {
    let union = t.table(1).unwrap();
    let (t, quant) = match t.u8(0) {
        1 => (union, None),
        2 => (union.table(0).unwrap(), Some(read_quant(union.u8(1), union.table(2).unwrap()))),
        other => panic!("no value type {other}"),
    };
    assert_eq!(t.u32(6) as usize, id);
    let dims = t.u32s(2);
    assert_eq!(t.u32(1) as usize, dims.len());
    Value {
        datatype: Datatype::ALL.into_iter().find(|d| *d as i16 == t.i16(0)).unwrap(),
        dims,
        quant,
        constant: t.u32(3),
        external_id: t.u32(4),
        flags: t.u32(5),
    }
}

fn read_quant(tag: u8, t: Table<'_>) -> Quant {
    match tag {
        1 => Quant::PerChannel { scales: t.f32s(0), channel_dim: t.u32(1) as i32 },
        2 => Quant::PerTensor { scale: t.f32(0), zero_point: t.u32(1) as i32 },
        3 => Quant::PerToken { num_nonbatch_dims: t.u32(0) as i32 },
        4 => Quant::PerChannelGroup {
            scale_constant: t.u32(4),
            num_scales: t.u32(5),
            channel_dim: t.u32(1) as i32,
            group_size: t.u32(2) as i32,
        },
        other => panic!("no quantization parameters {other}"),
    }
}
