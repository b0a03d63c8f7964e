//! Operators that work element by element on one tensor.

use super::{Builder, Emit, Integers, Io, Row, check_values, float, tensor};
use crate::lowering::quant::{QParams, activation};
use crate::subgraph::{Binary, Clamp, Elu, LeakyRelu, Op, Unary};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, NodeId, Program};
use lowbit_core::ops;

pub static ROWS: &[Row] = &[
    Row {
        ops: &[
            &ops::ABS,
            &ops::CEIL,
            &ops::COS,
            &ops::EXP,
            &ops::FLOOR,
            &ops::HARDSWISH,
            &ops::LOG,
            &ops::NEG,
            &ops::RSQRT,
            &ops::SIGMOID,
            &ops::SIN,
            &ops::SQRT,
            &ops::SQUARE,
            &ops::TANH,
            &ops::POW_TENSOR_SCALAR,
            &ops::LEAKY_RELU,
            &ops::ELU,
        ],
        take,
        emit,
    },
    Row {
        ops: &[&ops::RELU, &ops::RELU6, &ops::HARDTANH, &ops::CLAMP, &ops::CLAMP_MIN, &ops::CLAMP_MAX],
        take: take_clamp,
        emit: emit_clamp,
    },
    Row { ops: &[&ops::GELU], take: take_gelu, emit: gelu },
    Row { ops: &[&ops::SILU], take: take_float, emit: silu },
    Row { ops: &[&ops::HARDSIGMOID], take: take_float, emit: hardsigmoid },
    Row { ops: &[&ops::RECIPROCAL], take: take_float, emit: reciprocal },
];

type Make = fn(Unary) -> Op;

/// The node that computes `n`, given its input and output.
fn operator(program: &Program, n: NodeId) -> Result<Box<dyn Fn(Unary) -> Op>, String> {
    let node = program.graph.node(n);
    let simple: Make = match node.op() {
        op if *op == ops::ABS => Op::Abs,
        op if *op == ops::CEIL => Op::Ceiling,
        op if *op == ops::COS => Op::Cos,
        op if *op == ops::EXP => Op::Exp,
        op if *op == ops::FLOOR => Op::Floor,
        op if *op == ops::HARDSWISH => Op::Hardswish,
        op if *op == ops::LOG => Op::Log,
        op if *op == ops::NEG => Op::Negate,
        op if *op == ops::RSQRT => Op::ReciprocalSquareRoot,
        op if *op == ops::SIGMOID => Op::Sigmoid,
        op if *op == ops::SIN => Op::Sin,
        op if *op == ops::SQRT => Op::SquareRoot,
        op if *op == ops::SQUARE => Op::Square,
        op if *op == ops::TANH => Op::Tanh,
        op if *op == ops::POW_TENSOR_SCALAR => match float(program, n, 1)? {
            2.0 => Op::Square,
            0.5 => Op::SquareRoot,
            -0.5 => Op::ReciprocalSquareRoot,
            x => return Err(format!("XNNPACK has powers of 2, 0.5 and -0.5, this one is {x}")),
        },
        op if *op == ops::GELU => Op::Gelu,
        op if *op == ops::LEAKY_RELU => {
            let negative_slope = float(program, n, 1)? as f32;
            return Ok(Box::new(move |Unary { input, output, flags }| {
                Op::LeakyReLU(LeakyRelu { negative_slope, input, output, flags })
            }));
        }
        op if *op == ops::ELU => {
            if (float(program, n, 2)?, float(program, n, 3)?) != (1.0, 1.0) {
                return Err("XNNPACK's elu scales neither input nor output".into());
            }
            let alpha = float(program, n, 1)? as f32;
            return Ok(Box::new(move |Unary { input, output, flags }| {
                Op::ELU(Elu { alpha, input, output, flags })
            }));
        }
        op => return Err(format!("XNNPACK has no {}", op.name)),
    };
    Ok(Box::new(simple))
}

/// A function of one int8 is a table of 256 entries. Results are cut off at −128 and 127 only.
fn whole_range(_: &[QParams], out: QParams) -> bool {
    out.bounds().is_none()
}

fn io(program: &Program, n: NodeId) -> Result<Io, String> {
    Ok(Io::of(program, n, &[tensor(program, n, 0)?], Integers::If(whole_range), false))
}

fn take(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    check_values(program, n)?;
    let _ = operator(program, n)?;
    Ok(io(program, n)?.along)
}

fn emit(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let op = operator(b.part, n)?;
    let io = io(b.part, n)?;
    let layout = b.home(io.inputs[0]);
    let input = b.get(io.inputs[0], &layout)?;
    let output = b.define(io.exit.value, &layout)?;
    b.push(op(Unary { input, output, flags: 0 }), None);
    Ok(())
}

fn clamp_io(program: &Program, n: NodeId) -> Result<(Io, Clamp), String> {
    check_values(program, n)?;
    let clamp = activation(program.graph.node(n)).ok_or("its bounds are no plain numbers")?;
    if clamp.min.is_nan() || clamp.max.is_nan() || clamp.min > clamp.max {
        return Err(format!("its bounds are {} and {}; XNNPACK takes an interval", clamp.min, clamp.max));
    }
    let io = Io::of(program, n, &[tensor(program, n, 0)?], Integers::If(whole_range), false);
    Ok((io, clamp))
}

fn take_clamp(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    Ok(clamp_io(program, n)?.0.along)
}

fn emit_clamp(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (io, clamp) = clamp_io(b.part, n)?;
    let layout = b.home(io.inputs[0]);
    let input = b.get(io.inputs[0], &layout)?;
    let output = b.define(io.exit.value, &layout)?;
    b.push(Op::Clamp(Unary { input, output, flags: 0 }), Some(clamp));
    Ok(())
}

fn take_float(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    check_values(program, n).map(|()| Vec::new())
}

fn is_exact(program: &Program, n: NodeId) -> bool {
    *program.graph.node(n).arg(1) == Arg::from("none")
}

fn take_gelu(program: &Program, n: NodeId) -> Result<Vec<NodeId>, String> {
    if is_exact(program, n) && program.graph.ty(program.graph.node(n).output()).dtype == DType::F16 {
        return Err("XNNPACK has no gelu for f16".into());
    }
    if is_exact(program, n) { take(program, n) } else { take_float(program, n) }
}

/// XNNPACK's own is exact; the approximation is
/// `x / 2 · (1 + tanh(√(2/π) · x · (1 + 0.044715 · x²)))`.
fn gelu(b: &mut Builder<'_>, n: NodeId) -> Emit {
    if is_exact(b.part, n) {
        return emit(b, n);
    }
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let x = b.get(x, &layout)?;
    let dims = layout.dims(b.part, b.ty(y));
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let (cubic, linear, one, half) =
        (b.number(0.044715 * root, y), b.number(root, y), b.number(1.0, y), b.number(0.5, y));
    let a = b.binary(Op::Multiply, x, x, y, &dims);
    let a = b.binary(Op::Multiply, a, cubic, y, &dims);
    let a = b.binary(Op::Add, a, linear, y, &dims);
    let a = b.binary(Op::Multiply, a, x, y, &dims);
    let a = b.unary(Op::Tanh, a, y, &dims);
    let a = b.binary(Op::Add, a, one, y, &dims);
    let a = b.binary(Op::Multiply, a, half, y, &dims);
    let output = b.define(y, &layout)?;
    b.push(Op::Multiply(Binary { input1: a, input2: x, output, flags: 0 }), None);
    Ok(())
}

/// `x · sigmoid(x)`
fn silu(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let input = b.get(x, &layout)?;
    let gate = b.unary(Op::Sigmoid, input, y, &layout.dims(b.part, b.ty(y)));
    let output = b.define(y, &layout)?;
    b.push(Op::Multiply(Binary { input1: input, input2: gate, output, flags: 0 }), None);
    Ok(())
}

/// `clamp(x + 3, 0, 6) / 6`
fn hardsigmoid(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let input = b.get(x, &layout)?;
    let (three, sixth) = (b.number(3.0, y), b.number(1.0 / 6.0, y));
    let shifted = b.scratch(y, layout.dims(b.part, b.ty(y)));
    let clamp = Some(Clamp { min: 0.0, max: 6.0 });
    b.push(Op::Add(Binary { input1: input, input2: three, output: shifted, flags: 0 }), clamp);
    let output = b.define(y, &layout)?;
    b.push(Op::Multiply(Binary { input1: shifted, input2: sixth, output, flags: 0 }), None);
    Ok(())
}

/// `1 / x`
fn reciprocal(b: &mut Builder<'_>, n: NodeId) -> Emit {
    let (x, y) = (tensor(b.part, n, 0)?, b.part.graph.node(n).output());
    let layout = b.home(x);
    let input2 = b.get(x, &layout)?;
    let input1 = b.number(1.0, y);
    let output = b.define(y, &layout)?;
    b.push(Op::Div(Binary { input1, input2, output, flags: 0 }), None);
    Ok(())
}
