//! [`Program`](crate::schema::Program) as a FlatBuffer. Field numbers follow the schema's order of fields.

use crate::schema::{EValue, Instruction, Plan, Program, Tensor};
use flatbuffers::{
    FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, UnionWIPOffset, VOffsetT, Vector, WIPOffset,
};

type Builder = FlatBufferBuilder<'static>;
type Table = WIPOffset<TableFinishedWIPOffset>;

/// The place of field number `i` in a table's directory.
const fn slot(i: VOffsetT) -> VOffsetT {
    4 + 2 * i
}

/// A table written field by field; what it points at must be written before.
fn table(b: &mut Builder, fill: impl FnOnce(&mut Builder)) -> Table {
    let start = b.start_table();
    fill(b);
    b.end_table(start)
}

fn tables(
    b: &mut Builder,
    list: &[Table],
) -> WIPOffset<Vector<'static, ForwardsUOffset<TableFinishedWIPOffset>>> {
    b.create_vector(list)
}

/// The bytes of the buffer, without header and segments.
pub(crate) fn write(p: &Program) -> Vec<u8> {
    let mut b = Builder::new();
    let plan = plan(&mut b, &p.plan);
    let plans = tables(&mut b, &[plan]);
    let segments: Vec<Table> = p
        .segments
        .iter()
        .map(|&(offset, size)| {
            table(&mut b, |b| {
                b.push_slot(slot(0), offset, 0u64);
                b.push_slot(slot(1), size, 0u64);
            })
        })
        .collect();
    let segments = tables(&mut b, &segments);
    let constants = p.constants.as_ref().map(|s| subsegments(&mut b, s));
    let states = p.states.as_ref().map(|s| {
        let t = subsegments(&mut b, s);
        tables(&mut b, &[t])
    });
    let named: Vec<Table> = p
        .named
        .iter()
        .map(|(key, segment)| {
            let key = b.create_string(key);
            table(&mut b, |b| {
                b.push_slot_always(slot(0), key);
                b.push_slot(slot(1), *segment, 0u32);
            })
        })
        .collect();
    let named = (!named.is_empty()).then(|| tables(&mut b, &named));
    // Nothing is stored inside the program, but ExecuTorch's own reader wants to see that.
    let (no_buffers, no_blobs) = (tables(&mut b, &[]), tables(&mut b, &[]));
    let root = table(&mut b, |b| {
        b.push_slot(slot(0), 0u32, 0u32);
        b.push_slot_always(slot(1), plans);
        b.push_slot_always(slot(2), no_buffers);
        b.push_slot_always(slot(3), no_blobs);
        b.push_slot_always(slot(4), segments);
        if let Some(c) = constants {
            b.push_slot_always(slot(5), c);
        }
        if let Some(s) = states {
            b.push_slot_always(slot(6), s);
        }
        if let Some(n) = named {
            b.push_slot_always(slot(7), n);
        }
    });
    b.finish(root, Some("ET12"));
    b.finished_data().to_vec()
}

fn subsegments(b: &mut Builder, (segment, offsets): &(u32, Vec<u64>)) -> Table {
    let offsets = b.create_vector(offsets);
    table(b, |b| {
        b.push_slot(slot(0), *segment, 0u32);
        b.push_slot_always(slot(1), offsets);
    })
}

fn plan(b: &mut Builder, p: &Plan) -> Table {
    let values: Vec<Table> = p
        .values
        .iter()
        .map(|v| {
            let (tag, value) = evalue(b, v);
            table(b, |b| {
                b.push_slot(slot(0), tag, 0u8);
                b.push_slot_always(slot(1), value);
            })
        })
        .collect();
    let values = tables(b, &values);
    let chain = chain(b, p);
    let chains = tables(b, &[chain]);
    let operators: Vec<Table> = p
        .operators
        .iter()
        .map(|(name, overload)| {
            let (name, overload) = (b.create_string(name), b.create_string(overload));
            table(b, |b| {
                b.push_slot_always(slot(0), name);
                b.push_slot_always(slot(1), overload);
            })
        })
        .collect();
    let operators = tables(b, &operators);
    let delegates = delegates(b, p);
    let name = b.create_string(&p.name);
    let (inputs, outputs) = (b.create_vector(&p.inputs), b.create_vector(&p.outputs));
    // Memory 0 is reserved; everything lies in memory 1.
    let sizes = b.create_vector(&[0i64, i64::try_from(p.memory).unwrap_or(i64::MAX)]);
    let container = {
        let empty = b.create_string("");
        table(b, |b| {
            b.push_slot_always(slot(0), empty);
            b.push_slot_always(slot(1), empty);
        })
    };
    table(b, |b| {
        b.push_slot_always(slot(0), name);
        b.push_slot_always(slot(1), container);
        b.push_slot_always(slot(2), values);
        b.push_slot_always(slot(3), inputs);
        b.push_slot_always(slot(4), outputs);
        b.push_slot_always(slot(5), chains);
        b.push_slot_always(slot(6), operators);
        b.push_slot_always(slot(7), delegates);
        b.push_slot_always(slot(8), sizes);
    })
}

fn delegates(
    b: &mut Builder,
    p: &Plan,
) -> WIPOffset<Vector<'static, ForwardsUOffset<TableFinishedWIPOffset>>> {
    let list: Vec<Table> = p
        .delegates
        .iter()
        .map(|d| {
            let id = b.create_string(&d.id);
            let place = table(b, |b| {
                b.push_slot(slot(0), 1i8, 0i8); // in a segment
                b.push_slot(slot(1), d.segment, 0u32);
            });
            let specs: Vec<Table> = d
                .compile_specs
                .iter()
                .map(|(key, value)| {
                    let (key, value) = (b.create_string(key), b.create_vector(value));
                    table(b, |b| {
                        b.push_slot_always(slot(0), key);
                        b.push_slot_always(slot(1), value);
                    })
                })
                .collect();
            let specs = tables(b, &specs);
            table(b, |b| {
                b.push_slot_always(slot(0), id);
                b.push_slot_always(slot(1), place);
                b.push_slot_always(slot(2), specs);
            })
        })
        .collect();
    tables(b, &list)
}

fn chain(b: &mut Builder, p: &Plan) -> Table {
    let instructions: Vec<Table> = p
        .instructions
        .iter()
        .map(|i| {
            let (tag, first, args) = match i {
                Instruction::Kernel { op, args } => (1u8, *op, Some(args)),
                Instruction::Delegate { delegate, args } => (2u8, *delegate, Some(args)),
                Instruction::JumpFalse { condition, .. } => (4u8, *condition, None),
            };
            let args = args.map(|args| b.create_vector(args));
            let call = table(b, |b| {
                b.push_slot(slot(0), first, 0i32);
                if let Some(args) = args {
                    b.push_slot_always(slot(1), args);
                }
                if let Instruction::JumpFalse { to, .. } = i {
                    b.push_slot(slot(1), *to, 0i32);
                }
            });
            table(b, |b| {
                b.push_slot(slot(0), tag, 0u8);
                b.push_slot_always(slot(1), call);
            })
        })
        .collect();
    let instructions = tables(b, &instructions);
    let (inputs, outputs) = (b.create_vector::<i32>(&[]), b.create_vector::<i32>(&[]));
    table(b, |b| {
        b.push_slot_always(slot(0), inputs);
        b.push_slot_always(slot(1), outputs);
        b.push_slot_always(slot(2), instructions);
    })
}

/// A value's number in the schema's union, and its table.
fn evalue(b: &mut Builder, v: &EValue) -> (u8, WIPOffset<UnionWIPOffset>) {
    macro_rules! of {
        ($tag:literal, $push:expr) => {
            ($tag, table(b, $push).as_union_value())
        };
    }
    match v {
        EValue::Null => of!(1, |_| {}),
        EValue::Int(n) => of!(2, |b| b.push_slot(slot(0), *n, 0i64)),
        EValue::Bool(x) => of!(3, |b| b.push_slot(slot(0), *x, false)),
        EValue::Double(x) => of!(4, |b| b.push_slot(slot(0), *x, 0f64)),
        EValue::Tensor(t) => (5, tensor(b, t).as_union_value()),
        EValue::String(s) => {
            let s = b.create_string(s);
            of!(6, |b| b.push_slot_always(slot(0), s))
        }
        EValue::IntList(l) => {
            let l = b.create_vector(l);
            of!(7, |b| b.push_slot_always(slot(0), l))
        }
        EValue::DoubleList(l) => {
            let l = b.create_vector(l);
            of!(8, |b| b.push_slot_always(slot(0), l))
        }
        EValue::BoolList(l) => {
            let l = b.create_vector(l);
            of!(9, |b| b.push_slot_always(slot(0), l))
        }
        EValue::TensorList(l) => {
            let l = b.create_vector(l);
            of!(10, |b| b.push_slot_always(slot(0), l))
        }
        EValue::OptionalTensorList(l) => {
            let l = b.create_vector(l);
            of!(11, |b| b.push_slot_always(slot(0), l))
        }
    }
}

fn tensor(b: &mut Builder, t: &Tensor) -> Table {
    let sizes = b.create_vector(&t.sizes);
    let order: Vec<u8> = (0..t.sizes.len()).map(|d| u8::try_from(d).unwrap_or(u8::MAX)).collect();
    let order = b.create_vector(&order);
    let allocation = t.offset.map(|o| {
        table(b, |b| {
            b.push_slot(slot(0), 1u32, 0u32);
            b.push_slot(slot(1), o as u32, 0u32);
            b.push_slot(slot(2), (o >> 32) as u32, 0u32);
        })
    });
    table(b, |b| {
        b.push_slot(slot(0), t.scalar_type, 0i8);
        b.push_slot_always(slot(2), sizes);
        b.push_slot_always(slot(3), order);
        b.push_slot(slot(5), t.data_buffer, 0u32);
        if let Some(a) = allocation {
            b.push_slot_always(slot(6), a);
        }
        b.push_slot(slot(8), i8::from(t.dynamic), 0i8);
    })
}
