//! What the NPU executes: instructions over registers of int8 tensors, and their bytes.
//!
//! All numbers are little-endian.
//!
//! ```text
//! "ACME"  u32 length of all in bytes  u32 inputs
//! u32 count, count × u32               registers that are outputs
//! u32 count, count × instruction
//!
//! 1  u32 input  i8 zero  u32 output  i8 zero  i8 min  i8 max          linear
//!    u32 count, count × i8 weight (rows of the output, one after another)
//!    u32 rows, rows × (i32 bias, i32 factor, u8 shift)
//! 2  2 × (u32 input, i8 zero)  u32 output  i8 zero  i8 min  i8 max    add
//!    i32 factor, i32 factor, u8 shift
//! ```

use std::fmt;

/// A place for a tensor of int8. The first ones hold the inputs.
pub type Register = u32;

/// A whole program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// How many inputs there are.
    pub inputs: u32,
    /// The registers that are outputs, in order.
    pub outputs: Vec<Register>,
    /// In the order they run.
    pub instructions: Vec<Instruction>,
}

/// One instruction. `range` bounds the integers of the output: a relu is a range from its zero point up.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Instruction {
    /// `output[r, o] = clamp(scale[o] · (bias[o] + Σ weight[o, i] · (input[r, i] − input_zero)) + output_zero)`
    Linear {
        input: Register,
        input_zero: i8,
        weight: Vec<i8>,
        bias: Vec<i32>,
        scale: Vec<Scale>,
        output: Register,
        output_zero: i8,
        range: (i8, i8),
    },
    /// `output = clamp(Σ factor · (input − zero) + output_zero)`
    Add {
        inputs: [Register; 2],
        zeros: [i8; 2],
        sum: Sum,
        output: Register,
        output_zero: i8,
        range: (i8, i8),
    },
}

/// A positive number as an integer: `factor · 2^−shift`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Scale {
    pub factor: i32,
    pub shift: u8,
}

/// Greatest shift: a product of 62 bits and its rounding fit 64 bits.
const SHIFTS: std::ops::RangeInclusive<i32> = 1..=62;

impl Scale {
    /// The nearest to `x`, with 31 bits.
    ///
    /// # Errors
    /// When `x` is not positive, or too far from 1.
    pub fn new(x: f64) -> Result<Self, String> {
        let shift = shift_for(x)?;
        // 2^31 itself, which rounding may reach, is one too many.
        let factor = (x * 2f64.powi(shift)).round().min(f64::from(i32::MAX));
        Ok(Scale { factor: factor as i32, shift: shift as u8 })
    }

    /// `x` times this, rounded to the nearest integer, halves up.
    pub fn apply(self, x: i32) -> i64 {
        rounded(i64::from(x) * i64::from(self.factor), self.shift)
    }
}

/// Two factors with one shift.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Sum {
    pub factors: [i32; 2],
    pub shift: u8,
}

impl Sum {
    /// The nearest to two numbers; the greater one has 31 bits.
    ///
    /// # Errors
    /// As [`Scale::new`].
    pub fn new(x: [f64; 2]) -> Result<Self, String> {
        let shift = shift_for(x[0].max(x[1]))?;
        let factor = |x: f64| (x * 2f64.powi(shift)).round().min(f64::from(i32::MAX)) as i32;
        Ok(Sum { factors: x.map(factor), shift: shift as u8 })
    }

    /// Both products, added, rounded to the nearest integer, halves up.
    pub fn apply(self, x: [i32; 2]) -> i64 {
        let products = x.iter().zip(self.factors).map(|(&x, f)| i64::from(x) * i64::from(f));
        rounded(products.sum(), self.shift)
    }
}

fn shift_for(x: f64) -> Result<i32, String> {
    let shift = if x > 0.0 && x.is_finite() { 30 - x.log2().floor() as i32 } else { 0 };
    match SHIFTS.contains(&shift) {
        true => Ok(shift),
        false => Err(format!("a ratio of scales is {x:e}, beyond the Acme NPU's multiplier")),
    }
}

fn rounded(x: i64, shift: u8) -> i64 {
    (x + (1 << (shift - 1))) >> shift
}

/// Bytes that are no program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobError(pub &'static str);

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BlobError {}

impl Program {
    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"ACME\0\0\0\0".to_vec();
        let u32 = |out: &mut Vec<u8>, n: u32| out.extend(n.to_le_bytes());
        let len = |out: &mut Vec<u8>, n: usize| u32(out, u32::try_from(n).expect("models are smaller"));
        u32(&mut out, self.inputs);
        len(&mut out, self.outputs.len());
        self.outputs.iter().for_each(|&r| u32(&mut out, r));
        len(&mut out, self.instructions.len());
        for i in &self.instructions {
            match i {
                Instruction::Linear {
                    input,
                    input_zero,
                    weight,
                    bias,
                    scale,
                    output,
                    output_zero,
                    range,
                } => {
                    out.push(1);
                    u32(&mut out, *input);
                    out.push(*input_zero as u8);
                    u32(&mut out, *output);
                    out.extend([*output_zero as u8, range.0 as u8, range.1 as u8]);
                    len(&mut out, weight.len());
                    out.extend(weight.iter().map(|&w| w as u8));
                    len(&mut out, bias.len());
                    for (b, s) in bias.iter().zip(scale) {
                        out.extend(b.to_le_bytes());
                        out.extend(s.factor.to_le_bytes());
                        out.push(s.shift);
                    }
                }
                Instruction::Add { inputs, zeros, sum, output, output_zero, range } => {
                    out.push(2);
                    for (r, z) in inputs.iter().zip(zeros) {
                        u32(&mut out, *r);
                        out.push(*z as u8);
                    }
                    u32(&mut out, *output);
                    out.extend([*output_zero as u8, range.0 as u8, range.1 as u8]);
                    sum.factors.iter().for_each(|f| out.extend(f.to_le_bytes()));
                    out.push(sum.shift);
                }
            }
        }
        let length = u32::try_from(out.len()).expect("models are smaller");
        out[4..8].copy_from_slice(&length.to_le_bytes());
        out
    }

    /// The program of these bytes; what comes after it is not looked at.
    ///
    /// # Errors
    /// When they are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlobError> {
        let mut r = Reader(bytes);
        if r.take(4)? != b"ACME" {
            return Err(BlobError("not an Acme program"));
        }
        let length = r.u32()? as usize;
        r.0 = bytes.get(8..length).ok_or(BlobError("cut short"))?;
        let inputs = r.u32()?;
        let outputs = r.list(|r| r.u32())?;
        let instructions = r.list(Reader::instruction)?;
        match r.0 {
            [] => Ok(Program { inputs, outputs, instructions }),
            _ => Err(BlobError("longer than its instructions")),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BlobError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(BlobError("cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlobError> {
        self.take(N)?.try_into().map_err(|_| BlobError("cut short"))
    }

    fn u32(&mut self) -> Result<u32, BlobError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, BlobError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn i8(&mut self) -> Result<i8, BlobError> {
        Ok(i8::from_le_bytes(self.array()?))
    }

    fn shift(&mut self) -> Result<u8, BlobError> {
        let [shift] = self.array()?;
        if SHIFTS.contains(&i32::from(shift)) { Ok(shift) } else { Err(BlobError("no such shift")) }
    }

    fn range(&mut self) -> Result<(i8, i8), BlobError> {
        let (lo, hi) = (self.i8()?, self.i8()?);
        if lo <= hi { Ok((lo, hi)) } else { Err(BlobError("an empty range")) }
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, BlobError>,
    ) -> Result<Vec<T>, BlobError> {
        // Nothing is reserved for a count that may be wrong.
        (0..self.u32()?).map(|_| item(self)).collect()
    }

    fn instruction(&mut self) -> Result<Instruction, BlobError> {
        let [code] = self.array()?;
        match code {
            1 => {
                let (input, input_zero) = (self.u32()?, self.i8()?);
                let (output, output_zero, range) = (self.u32()?, self.i8()?, self.range()?);
                let weight = self.list(Self::i8)?;
                let rows = self.list(|r| Ok((r.i32()?, Scale { factor: r.i32()?, shift: r.shift()? })))?;
                let (bias, scale) = rows.into_iter().unzip();
                Ok(Instruction::Linear { input, input_zero, weight, bias, scale, output, output_zero, range })
            }
            2 => {
                let a = (self.u32()?, self.i8()?);
                let b = (self.u32()?, self.i8()?);
                let (output, output_zero, range) = (self.u32()?, self.i8()?, self.range()?);
                let sum = Sum { factors: [self.i32()?, self.i32()?], shift: self.shift()? };
                let (inputs, zeros) = ([a.0, b.0], [a.1, b.1]);
                Ok(Instruction::Add { inputs, zeros, sum, output, output_zero, range })
            }
            _ => Err(BlobError("no such instruction")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_near() {
        for x in [1e-8, 0.000_37, 0.5, 0.999_999_999_9, 1.0, 3.25, 1000.0] {
            let s = Scale::new(x).unwrap();
            for n in [-100_000, -3, 0, 1, 77, 2_000_000] {
                let exact = f64::from(n) * x;
                assert!((s.apply(n) as f64 - exact).abs() <= 0.5 + exact.abs() * 1e-9, "{n} x {x}");
            }
        }
        for x in [0.0, -1.0, f64::NAN, 1e-12, 1e12] {
            assert!(Scale::new(x).is_err(), "{x}");
        }
        assert_eq!(Sum::new([0.5, 0.25]).unwrap().apply([3, 4]), 3);
    }

    #[test]
    fn bytes_read_back_and_broken_ones_are_refused() {
        let program = Program {
            inputs: 2,
            outputs: vec![3, 2],
            instructions: vec![
                Instruction::Add {
                    inputs: [0, 1],
                    zeros: [-3, 4],
                    sum: Sum::new([0.25, 1.5]).unwrap(),
                    output: 2,
                    output_zero: 7,
                    range: (7, 127),
                },
                Instruction::Linear {
                    input: 2,
                    input_zero: 7,
                    weight: vec![1, -2, 3, -4],
                    bias: vec![100, -100],
                    scale: vec![Scale::new(0.01).unwrap(); 2],
                    output: 3,
                    output_zero: -128,
                    range: (-128, 127),
                },
            ],
        };
        let mut bytes = program.to_bytes();
        assert_eq!(Program::from_bytes(&bytes).unwrap(), program);
        for cut in 0..bytes.len() {
            assert!(Program::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        bytes.push(9);
        assert_eq!(Program::from_bytes(&bytes).unwrap(), program, "what follows is not its own");
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            let _ = Program::from_bytes(&broken);
        }
    }
}
