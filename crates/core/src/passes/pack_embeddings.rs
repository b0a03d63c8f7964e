//! [`PackEmbeddings`]: tables of quantized embeddings for the operators that dequantize no more than the rows asked for.

use super::{DeadCode, Pass, PassFailure};
use crate::dtype::DType;
use crate::ir::{Arg, ConstKind, NodeId, Program, ValueId};
use crate::ops::views::{int, ints, value};
use crate::ops::{self, OpDef};
use crate::quant::QRange;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Makes `dequantize` and `embedding` one operator of ExecuTorch's quantized library: `embedding_byte`, or for integers
/// from −8 to 7 `embedding_4bit` and from −2 to 1 `embedding_2bit`, whose tables are packed. Other readers of a table
/// keep theirs.
#[derive(Copy, Clone, Debug, Default)]
pub struct PackEmbeddings;

impl Pass for PackEmbeddings {
    fn name(&self) -> &'static str {
        "pack_embeddings"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<(NodeId, Table)> =
            program.graph.nodes().filter_map(|n| Some((n, table(program, n)?))).collect();
        let mut made = BTreeMap::new();
        for (n, table) in &found {
            let weight = match table.bits {
                8 => table.ints,
                bits => constant(program, &mut made, table.ints, bits, |t| packed(t, bits))?,
            };
            // No zero points is faster than zeros; others are floats of the result's type.
            let zeros = match table.zeros {
                Some(z) => Arg::Value(constant(program, &mut made, z, 0, |t| {
                    Tensor::from_f32(table.out, t.shape(), &t.to_f32())
                        .map_err(|e| PassFailure(e.to_string()))
                })?),
                None => Arg::None,
            };
            let [min, max] = [-1i64 << (table.bits - 1), (1 << (table.bits - 1)) - 1];
            let [min, max] = if table.unsigned { [0, 255] } else { [min, max] };
            let indices = program.graph.node(*n).arg(1).clone();
            let scales = program.graph.ty(table.scales).dtype;
            let mut args = vec![weight.into(), table.scales.into(), zeros, min.into(), max.into(), indices];
            let [plain, to_type] = operators(table.bits);
            let op = if scales == table.out {
                plain
            } else {
                args.push(table.out.into());
                to_type
            };
            program.graph.rewrite(*n, op, args)?;
        }
        if !found.is_empty() {
            DeadCode.run(program)?;
        }
        Ok(!found.is_empty())
    }
}

/// The operator for scales of the result's type, and the one for others.
fn operators(bits: u32) -> [&'static OpDef; 2] {
    match bits {
        2 => [&ops::EMBEDDING_2BIT, &ops::EMBEDDING_2BIT_DTYPE],
        4 => [&ops::EMBEDDING_4BIT, &ops::EMBEDDING_4BIT_DTYPE],
        _ => [&ops::EMBEDDING_BYTE, &ops::EMBEDDING_BYTE_DTYPE],
    }
}

/// A quantized table that an embedding reads.
struct Table {
    ints: ValueId,
    scales: ValueId,
    /// Zero points that are not all 0.
    zeros: Option<ValueId>,
    bits: u32,
    unsigned: bool,
    out: DType,
}

fn table(program: &Program, n: NodeId) -> Option<Table> {
    let g = &program.graph;
    let node = g.node(n);
    // The kernel of 8 bits takes 64-bit indices only.
    let indices = g.ty(value(node.arg(1))?);
    if *node.op() != ops::EMBEDDING || indices.dtype != DType::I64 {
        return None;
    }
    let dequantize = g.node(g.producer(value(node.arg(0))?)?);
    let ints_value = value(dequantize.arg(0))?;
    let q = program.frozen(ints_value)?;
    let &[rows, width] = q.shape() else { return None };
    // Where scales, zero points and the least integer are, and how many elements of a row share a scale.
    let (at, group) = match dequantize.op() {
        op if *op == ops::DEQUANTIZE_PER_CHANNEL && int(dequantize.arg(3)) == Some(0) => ([1, 2, 4], width),
        op if *op == ops::DEQUANTIZE_PER_CHANNEL_GROUP => {
            ([1, 2, 3], usize::try_from(int(dequantize.arg(6))?).ok()?)
        }
        op if *op == ops::DEQUANTIZE_AFFINE => match ints(dequantize.arg(1))?[..] {
            [1, g] => ([2, 3, 5], usize::try_from(g).ok()?),
            _ => return None,
        },
        _ => return None,
    };
    let [scales, zeros, min] = at.map(|i| dequantize.arg(i));
    let scales = value(scales)?;
    let s = program.frozen(scales)?;
    let counted = width % group.max(1) == 0 && s.numel() == rows * (width / group.max(1));
    if !counted || !matches!(s.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    let zeros = match value(zeros) {
        Some(z) => Some(z).filter(|_| program.frozen(z).is_none_or(|t| t.to_f64().iter().any(|&z| z != 0.0))),
        None => None,
    };
    if zeros.is_some_and(|z| program.frozen(z).is_none_or(|t| t.shape() != s.shape())) {
        return None;
    }
    let range = (q.dtype(), int(min), int(dequantize.arg(at[2] + 1)));
    let is = |r: QRange| range == (r.dtype(), Some(r.min()), Some(r.max()));
    let bits = match () {
        _ if is(QRange::INT4) && width % 2 == 0 => 4,
        _ if is(QRange::INT2) && width % 4 == 0 => 2,
        _ if matches!(q.dtype(), DType::I8 | DType::U8) => 8,
        _ => return None,
    };
    let out = g.ty(node.output()).dtype;
    Some(Table { ints: ints_value, scales, zeros, bits, unsigned: q.dtype() == DType::U8, out })
}

/// What `make` makes of a constant, once for all that ask the same.
fn constant(
    program: &mut Program,
    made: &mut BTreeMap<(ValueId, u32), ValueId>,
    from: ValueId,
    bits: u32,
    make: impl Fn(&Tensor) -> Result<Tensor, PassFailure>,
) -> Result<ValueId, PassFailure> {
    if let Some(&v) = made.get(&(from, bits)) {
        return Ok(v);
    }
    let name = program.graph.value(from).name.to_string();
    let t = program.frozen(from).ok_or_else(|| PassFailure(format!("%{name} is not constant")))?;
    let t = make(t)?;
    let suffix = if bits == 0 { "floats" } else { "packed" };
    let v = program.add_constant(&format!("{name}_{suffix}"), ConstKind::Tensor, t);
    made.insert((from, bits), v);
    Ok(v)
}

/// Integers plus half their range, several to a byte: of two the first in the high half, of four in the low bits.
fn packed(t: &Tensor, bits: u32) -> Result<Tensor, PassFailure> {
    let fail = |why: &str| PassFailure(format!("a table of embeddings cannot be packed: {why}"));
    let (Some(q), &[rows, width]) = (t.as_slice::<i8>(), t.shape()) else {
        return Err(fail("it is no int8 matrix"));
    };
    let (count, half) = (8 / bits as usize, 1i16 << (bits - 1));
    let byte = |q: &[i8]| {
        q.iter().enumerate().try_fold(0u8, |byte, (i, &q)| {
            let x = u8::try_from(i16::from(q) + half).ok().filter(|&x| i16::from(x) < 2 * half)?;
            let place = if bits == 4 { 1 - i } else { i };
            Some(byte | x << (place as u32 * bits))
        })
    };
    let bytes: Option<Vec<u8>> = q.chunks(count).map(byte).collect();
    let bytes = bytes.ok_or_else(|| fail(&format!("it has integers of more than {bits} bits")))?;
    Tensor::new(&[rows, width / count], bytes).map_err(|e| fail(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};

    fn run(text: &str, constants: &[(&str, Tensor)]) -> Program {
        let mut p = text::parse(text).unwrap();
        for (name, t) in constants {
            let (c, _) = p.constants.iter().find(|(_, c)| *c.name == **name).unwrap();
            p.constants[c].tensor = t.clone();
        }
        PackEmbeddings.run(&mut p).unwrap();
        verify(&p).unwrap();
        p
    }

    fn tensor<T: crate::tensor::Element>(shape: &[usize], x: &[T]) -> Tensor {
        Tensor::new(shape, x.to_vec()).unwrap()
    }

    const GROUPS: &str = "program {
      %i : i64[3] = input
      %w : i8[2, 4] = constant \"w\"
      %s : f32[2, 2] = constant \"s\"
      %z : i8[2, 2] = constant \"z\"
      %d : f32[2, 4] = torchao.dequantize_affine.default(%w, [1, 2], %s, %z, i8, MIN, MAX)
      %e : f32[3, 4] = aten.embedding.default(%d, %i)
      return %e
    }";

    fn groups(min: &str, max: &str, zero: i8) -> Program {
        let w = tensor(&[2, 4], &[-2i8, 1, 0, -1, 1, 1, -2, 0]);
        let s = tensor(&[2, 2], &[0.5f32, 1.0, 2.0, 4.0]);
        let text = GROUPS.replace("MIN", min).replace("MAX", max);
        run(&text, &[("w", w), ("s", s), ("z", tensor(&[2, 2], &[0, zero, 0, 0]))])
    }

    #[test]
    fn tables_are_packed() {
        for (min, max, zero, want, bytes) in [
            ("-128", "127", 0, ("embedding_byte.default", ["w", "s", "i"].as_slice()), None),
            (
                "-8",
                "7",
                0,
                ("embedding_4bit.default", ["w_packed", "s", "i"].as_slice()),
                Some([0x69, 0x87, 0x99, 0x68].as_slice()),
            ),
            (
                "-2",
                "1",
                1,
                ("embedding_2bit.default", ["w_packed", "s", "z_floats", "i"].as_slice()),
                Some(&[0b01_10_11_00, 0b10_00_11_11]),
            ),
        ] {
            let p = groups(min, max, zero);
            let [n] = p.graph.nodes().collect::<Vec<_>>()[..] else { panic!("{}", text::print(&p)) };
            let node = p.graph.node(n);
            let read: Vec<&str> = node.operands().map(|v| &*p.graph.value(v).name).collect();
            assert_eq!((node.op().name.rsplit_once("decomposed.").unwrap().1, &read[..]), want);
            let packed =
                p.constants.iter().find(|(_, c)| &*c.name == "w_packed").map(|(_, c)| &c.tensor.bytes()[..]);
            assert_eq!(packed, bytes);
        }
    }

    #[test]
    fn other_readers_and_other_tables_stay() {
        let whole = "program {
          %i : i64[3] = input
          %x : f32[1, 4] = input
          %w : i8[2, 4] = constant \"w\"
          %s : f32[2] = constant \"s\"
          %z : i64[2] = constant \"z\"
          %d : f32[2, 4] = quantized_decomposed.dequantize_per_channel.default(%w, %s, %z, AXIS, -127, 127, i8)
          %e : f32[3, 4] = aten.embedding.default(%d, %i)
          %h : f32[1, 2] = aten.linear.default(%x, %d)
          return %e, %h
        }";
        let w = tensor(&[2, 4], &[1i8; 8]);
        let s = tensor(&[2], &[1f32, 2.0]);
        let constants = [("w", w), ("s", s), ("z", tensor(&[2], &[0i64, 0]))];
        let p = run(&whole.replace("AXIS", "0"), &constants);
        let ops: Vec<&str> = p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect();
        assert_eq!(ops, ["dequantize_per_channel", "embedding_byte", "linear"]);
        // A scale for each column is none of the kernels'.
        let columns = whole.replace("AXIS", "1").replace("f32[2] ", "f32[4] ").replace("i64[2] ", "i64[4] ");
        let constants = [
            ("w", tensor(&[2, 4], &[1i8; 8])),
            ("s", tensor(&[4], &[1f32; 4])),
            ("z", tensor(&[4], &[0i64; 4])),
        ];
        let p = run(&columns, &constants);
        let ops: Vec<&str> = p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect();
        assert_eq!(ops, ["dequantize_per_channel", "embedding", "linear"]);
    }
}
