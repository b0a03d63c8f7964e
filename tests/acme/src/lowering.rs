//! Which nodes the NPU takes, and its instructions for them.
//!
//! An instruction stands for `dequantize → linear or add [→ relu] → quantize`. The linear or add claims the others;
//! left to themselves, those stay outside.

use crate::blob::{Instruction, Program as AcmeProgram, Register, Scale, Sum};
use lowbit_core::backend::{BackendError, Blob, Claim, Lowering};
use lowbit_core::ir::{NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::ops::views::{Linear, PerChannel, PerTensor};
use lowbit_core::passes::{DuplicateDequantize, Pipeline, Recompose};
use lowbit_core::{DType, Tensor};
use std::collections::BTreeMap;

/// The lowering.
#[derive(Copy, Clone, Debug)]
pub struct AcmeLowering;

impl Lowering for AcmeLowering {
    fn delegate_id(&self) -> &'static str {
        "AcmeBackend"
    }

    fn passes(&self) -> Pipeline {
        Pipeline::default().then(Recompose).then(DuplicateDequantize)
    }

    fn claim(&self, program: &Program, node: NodeId) -> Claim {
        let op = program.graph.node(node).op();
        match Step::of(program, node) {
            Some(Ok(step)) => Claim::Take(step.along()),
            Some(Err(why)) => Claim::Leave(why.into()),
            None if is_border(op) => Claim::Leave("it belongs to no layer that the Acme NPU takes".into()),
            None => Claim::Leave(format!("the Acme NPU has no {}", op.name).into()),
        }
    }

    fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
        let g = &part.graph;
        let mut registers: BTreeMap<ValueId, Register> = BTreeMap::new();
        let mut next = 0;
        let mut register = |v: ValueId| {
            *registers.entry(v).or_insert_with(|| {
                next += 1;
                next - 1
            })
        };
        // Registers 0, 1, … hold the inputs.
        g.inputs().iter().for_each(|&v| {
            register(v);
        });
        let mut instructions = Vec::new();
        for n in g.nodes() {
            let Some(step) = Step::of(part, n) else { continue };
            let step = step.and_then(|s| s.instruction(part, &mut register));
            instructions.push(step.map_err(|reason| BackendError::Refused { node: n, reason })?);
        }
        let outputs = g.outputs().iter().map(|&v| register(v)).collect();
        let inputs = u32::try_from(g.inputs().len()).expect("few inputs");
        let program = AcmeProgram { inputs, outputs, instructions };
        Ok(Blob { bytes: program.to_bytes(), ..Blob::default() })
    }
}

fn is_border(op: &ops::OpDef) -> bool {
    let border =
        [&ops::RELU, &ops::QUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_TENSOR, &ops::DEQUANTIZE_PER_CHANNEL];
    border.contains(&op)
}

/// Whether a sum is one the NPU has: no `alpha`, no broadcasting.
pub fn plain_sum(program: &Program, n: NodeId) -> Result<(), String> {
    let node = program.graph.node(n);
    if ops::views::float(node.arg(2)) != Some(1.0) {
        return Err("the Acme NPU adds without alpha".into());
    }
    let shape = &program.graph.ty(node.output()).shape;
    match node.operands().all(|v| program.graph.ty(v).shape == *shape) {
        true => Ok(()),
        false => Err("the Acme NPU adds tensors of one shape; expand the smaller one".into()),
    }
}

/// A linear layer or sum with the nodes around it.
struct Step {
    node: NodeId,
    /// The dequantize of each operand: one for a sum of a value with itself.
    operands: Vec<NodeId>,
    relu: Option<NodeId>,
    quantize: NodeId,
}

impl Step {
    /// The step around `n`, or why there is none; `None` when `n` is neither linear nor add.
    fn of(program: &Program, n: NodeId) -> Option<Result<Step, String>> {
        let op = program.graph.node(n).op();
        match *op == ops::LINEAR || *op == ops::ADD {
            true => Some(Self::around(program, n)),
            false => None,
        }
    }

    fn around(program: &Program, n: NodeId) -> Result<Step, String> {
        let g = &program.graph;
        let node = g.node(n);
        let dequantized: Vec<ValueId> = match Linear::of(program, n) {
            Some(l) => {
                if l.bias.is_some_and(|b| program.frozen(b).is_none()) {
                    return Err("the Acme NPU needs a constant bias".into());
                }
                vec![l.input, l.weight]
            }
            None => {
                plain_sum(program, n)?;
                node.operands().collect()
            }
        };
        let mut operands = Vec::new();
        for v in dequantized {
            let name = &g.value(v).name;
            let dq = g.producer(v).filter(|p| is_int8_dequantize(program, *p));
            let dq =
                dq.ok_or_else(|| format!("%{name} is not quantized to int8; use a recipe of this backend"))?;
            // A float that somebody else reads as well would have to leave the NPU.
            if g.is_output(v) || g.value(v).uses().iter().any(|u| u.node != n) {
                return Err(format!("%{name} is also read elsewhere as floats"));
            }
            if !operands.contains(&dq) {
                operands.push(dq);
            }
        }
        let only_reader = |v: ValueId| match g.value(v).uses() {
            [u] if !g.is_output(v) => Some(u.node),
            _ => None,
        };
        let mut end = only_reader(node.output());
        let relu = end.filter(|r| *g.node(*r).op() == ops::RELU);
        if let Some(r) = relu {
            end = only_reader(g.node(r).output());
        }
        let quantize = end.filter(|q| {
            *g.node(*q).op() == ops::QUANTIZE_PER_TENSOR && g.ty(g.node(*q).output()).dtype == DType::I8
        });
        let quantize = quantize.ok_or("its result is not quantized to int8 before it is read")?;
        Ok(Step { node: n, operands, relu, quantize })
    }

    /// What the node takes along.
    fn along(&self) -> Vec<NodeId> {
        self.operands.iter().copied().chain(self.relu).chain([self.quantize]).collect()
    }

    fn instruction(
        &self,
        program: &Program,
        register: &mut impl FnMut(ValueId) -> Register,
    ) -> Result<Instruction, String> {
        let g = &program.graph;
        let out = PerTensor::of(program, self.quantize).ok_or("its result is not quantized per tensor")?;
        let (lo, hi) = (i8_of(out.quant_min)?, i8_of(out.quant_max)?);
        let zero = i8_of(out.zero_point)?;
        let range = (if self.relu.is_some() { lo.max(zero) } else { lo }, hi);
        let output = register(g.node(self.quantize).output());
        let source = |v: ValueId| {
            g.producer(v)
                .and_then(|p| PerTensor::of(program, p))
                .ok_or("an operand is not quantized per tensor")
        };
        let Some(linear) = Linear::of(program, self.node) else {
            let operands: Vec<ValueId> = g.node(self.node).operands().collect();
            let (a, b) = (source(operands[0])?, source(operands[1])?);
            let ratios = [a.scale / out.scale, b.scale / out.scale];
            return Ok(Instruction::Add {
                inputs: [register(a.input), register(b.input)],
                zeros: [i8_of(a.zero_point)?, i8_of(b.zero_point)?],
                sum: Sum::new(ratios)?,
                output,
                output_zero: zero,
                range,
            });
        };
        let input = source(linear.input)?;
        let (weight, scales) = weight(program, linear.weight)?;
        let rows = weight.shape()[0];
        let bias = linear.bias.and_then(|b| program.frozen(b)).map(|b| b.to_f32().into_owned());
        let (mut biases, mut factors) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for row in 0..rows {
            let scale = input.scale * scales[row % scales.len()];
            let b = bias.as_ref().map_or(0.0, |b| (f64::from(b[row]) / scale).round());
            if b.abs() > f64::from(i32::MAX / 2) {
                return Err(format!("bias {row} is beyond 31 bits at scale {scale:e}"));
            }
            biases.push(b as i32);
            factors.push(Scale::new(scale / out.scale)?);
        }
        Ok(Instruction::Linear {
            input: register(input.input),
            input_zero: i8_of(input.zero_point)?,
            weight: weight.as_slice::<i8>().ok_or("the weight is not int8")?.to_vec(),
            bias: biases,
            scale: factors,
            output,
            output_zero: zero,
            range,
        })
    }
}

fn is_int8_dequantize(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    let Some(v) = node.operands().next() else { return false };
    let int8 = program.graph.ty(v).dtype == DType::I8;
    let channels = PerChannel::of(program, n).is_some_and(|q| q.axis == 0 && program.frozen(v).is_some());
    int8 && (channels || *node.op() == ops::DEQUANTIZE_PER_TENSOR)
}

/// The integers of a weight, and a scale for each row, or one for all.
fn weight(program: &Program, v: ValueId) -> Result<(&Tensor, Vec<f64>), String> {
    let dq = program.graph.producer(v).ok_or("the weight is not quantized")?;
    let constant = |v| program.frozen(v).ok_or("the Acme NPU needs constant weights");
    if let Some(q) = PerTensor::of(program, dq) {
        return match q.zero_point {
            0 => Ok((constant(q.input)?, vec![q.scale])),
            z => Err(format!("the weight's zero point is {z}; the Acme NPU needs symmetric weights")),
        };
    }
    let q = PerChannel::of(program, dq).ok_or("the weight is not quantized")?;
    let zeros = q.zero_points.map(constant).transpose()?.map_or(vec![], Tensor::to_f64);
    if zeros.iter().any(|z| *z != 0.0) {
        return Err("the weight's zero points are not 0; the Acme NPU needs symmetric weights".into());
    }
    Ok((constant(q.input)?, constant(q.scales)?.to_f64()))
}

fn i8_of(n: i64) -> Result<i8, String> {
    i8::try_from(n).map_err(|_| format!("{n} is beyond int8"))
}
