//! Executes programs as the NPU does: in integers alone.

use crate::blob::{Instruction, Program};
use lowbit_core::Tensor;

/// An int8 tensor in a register.
#[derive(Clone, Debug)]
struct Int8 {
    shape: Vec<usize>,
    data: Vec<i8>,
}

/// Runs a program on int8 tensors.
///
/// # Errors
/// A sentence, when bytes, registers or shapes do not fit.
pub fn run(bytes: &[u8], inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let program = Program::from_bytes(bytes).map_err(|e| e.to_string())?;
    if inputs.len() != program.inputs as usize {
        return Err(format!("{} inputs, the program takes {}", inputs.len(), program.inputs));
    }
    let mut registers: Vec<Option<Int8>> = Vec::new();
    for (i, t) in inputs.iter().enumerate() {
        let data = t.as_slice::<i8>().ok_or_else(|| format!("input {i} is {}, not int8", t.dtype()))?;
        registers.push(Some(Int8 { shape: t.shape().to_vec(), data: data.to_vec() }));
    }
    let count = registers.len() + program.instructions.len();
    registers.resize(count, None);
    for i in &program.instructions {
        let (output, made) = execute(i, &registers)?;
        let place = registers.get_mut(output as usize).ok_or("there is no such register")?;
        *place = Some(made);
    }
    program
        .outputs
        .iter()
        .map(|&r| {
            let t = read(&registers, r)?;
            Tensor::new(&t.shape, t.data.clone()).map_err(|e| e.to_string())
        })
        .collect()
}

fn read(registers: &[Option<Int8>], r: u32) -> Result<&Int8, String> {
    registers.get(r as usize).and_then(Option::as_ref).ok_or_else(|| format!("register {r} is empty"))
}

fn execute(i: &Instruction, registers: &[Option<Int8>]) -> Result<(u32, Int8), String> {
    match i {
        Instruction::Linear { input, input_zero, weight, bias, scale, output, output_zero, range } => {
            let x = read(registers, *input)?;
            let rows = bias.len();
            let columns = x.shape.last().copied().unwrap_or(0);
            if columns == 0 || weight.len() != rows * columns {
                return Err(format!("a weight of {} elements on {:?}", weight.len(), x.shape));
            }
            let mut data = Vec::with_capacity(x.data.len() / columns * rows);
            for row in x.data.chunks_exact(columns) {
                for ((w, b), s) in weight.chunks_exact(columns).zip(bias).zip(scale) {
                    let products = row
                        .iter()
                        .zip(w)
                        .map(|(&x, &w)| (i32::from(x) - i32::from(*input_zero)) * i32::from(w));
                    let sum = products.fold(*b, i32::saturating_add);
                    data.push(clamp(s.apply(sum), *output_zero, *range));
                }
            }
            let mut shape = x.shape.clone();
            shape.pop();
            shape.push(rows);
            Ok((*output, Int8 { shape, data }))
        }
        Instruction::Add { inputs, zeros, sum, output, output_zero, range } => {
            let (a, b) = (read(registers, inputs[0])?, read(registers, inputs[1])?);
            if a.shape != b.shape {
                return Err(format!("a sum of {:?} and {:?}", a.shape, b.shape));
            }
            let from = |x: i8, i: usize| i32::from(x) - i32::from(zeros[i]);
            let add = |(&a, &b)| clamp(sum.apply([from(a, 0), from(b, 1)]), *output_zero, *range);
            Ok((
                *output,
                Int8 { shape: a.shape.clone(), data: a.data.iter().zip(&b.data).map(add).collect() },
            ))
        }
    }
}

fn clamp(x: i64, zero: i8, (lo, hi): (i8, i8)) -> i8 {
    (x + i64::from(zero)).clamp(i64::from(lo), i64::from(hi)) as i8
}
