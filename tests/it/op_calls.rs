//! Programs of one operator from the lines of `tests/data/op_calls.txt`, with inputs.

use lowbit_core::ir::{Arg, ConstKind, NewNode, Program, SymbolRange, TensorType, ValueId};
use lowbit_core::ops::{self, ArgKind, OpDef};
use lowbit_core::{DType, SymInt, Tensor};

/// One call as a program.
pub struct OpCall {
    pub program: Program,
    pub inputs: Vec<Tensor>,
}

/// The lines that hold calls.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'))
}

/// The operator of a line.
pub fn operator(line: &str) -> Result<&'static OpDef, String> {
    let name = line.split(' ').next().unwrap_or_default();
    ops::lookup(name).ok_or_else(|| format!("there is no operator {name}"))
}

/// Makes the program, with `element` in place of the element type that is left open.
pub fn build(line: &str, element: DType) -> Result<OpCall, String> {
    build_open(line, element, &[])
}

/// As [`build`], with the symbol `s0` for the size of some axes, given as input and axis.
pub fn build_open(line: &str, element: DType, open: &[(usize, usize)]) -> Result<OpCall, String> {
    let op = operator(line)?;
    let mut b = Builder { program: Program::default(), inputs: vec![], element, seed: 1, open };
    if !open.is_empty() {
        // Sizes 0 and 1 are never symbols in exported programs.
        b.program.symbols.insert("s0".into(), SymbolRange { min: 2, max: 1 << 20, hint: None });
    }
    let mut args: Vec<Arg> = vec![];
    let specs = &op.schema().args;
    let (line, results) = match line.split_once(" -> ") {
        Some((line, n)) => (line, Some(n.parse::<usize>().map_err(|e| e.to_string())?)),
        None => (line, None),
    };
    for (i, word) in words(line).into_iter().skip(1).enumerate() {
        let (at, text) = match word.split_once('=').filter(|(name, _)| op.schema().index_of(name).is_some()) {
            Some((name, value)) => (op.schema().index_of(name).unwrap_or(i), value),
            None => (i, &word[..]),
        };
        let spec = specs.get(at).ok_or("too many arguments")?;
        while args.len() < at {
            args.push(specs[args.len()].default.clone().ok_or("an argument is missing")?);
        }
        args.push(b.arg(text, spec.kind)?);
    }
    let n = b.program.graph.append(NewNode::new(op, args)).map_err(|e| format!("{line}: {e}"))?;
    let mut outputs = b.program.graph.node(n).outputs().to_vec();
    outputs.truncate(results.unwrap_or(usize::MAX));
    b.program.signature.outputs = (0..outputs.len()).map(|i| format!("out{i}").into()).collect();
    b.program.graph.set_outputs(outputs);
    Ok(OpCall { program: b.program, inputs: b.inputs })
}

/// Splits at spaces outside brackets and quotes.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut depth, mut word) = (vec![], 0, String::new());
    for c in line.chars() {
        depth += match c {
            '(' | '[' => 1,
            ')' | ']' => -1,
            _ => 0,
        };
        if c == ' ' && depth == 0 {
            out.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    out.push(word);
    out.retain(|w| !w.is_empty());
    out
}

struct Builder<'a> {
    program: Program,
    open: &'a [(usize, usize)],
    inputs: Vec<Tensor>,
    element: DType,
    seed: u64,
}

impl Builder<'_> {
    /// Uniform in 0..1.
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 40) as f64 / (1u64 << 24) as f64
    }

    fn arg(&mut self, text: &str, kind: ArgKind) -> Result<Arg, String> {
        if text == "n" {
            return Ok(Arg::None);
        }
        let number = |t: &str| t.parse::<f64>().map_err(|_| format!("{t:?} is no number"));
        let list = |t: &str| {
            let inner =
                t.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(format!("{t:?} is no list"));
            inner.map(|t| t.split(',').filter(|t| !t.is_empty()).map(str::to_string).collect::<Vec<_>>())
        };
        Ok(match kind {
            ArgKind::Tensor => Arg::Value(self.tensor(text)?),
            ArgKind::TensorList | ArgKind::OptTensorList => {
                let inner =
                    text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).ok_or("no list of tensors")?;
                let values = words(inner)
                    .iter()
                    .map(|w| if w == "n" { Ok(None) } else { self.tensor(w).map(Some) })
                    .collect::<Result<Vec<_>, String>>()?;
                if kind == ArgKind::TensorList {
                    Arg::Values(values.into_iter().flatten().collect())
                } else {
                    Arg::OptValues(values)
                }
            }
            ArgKind::Bool => Arg::Bool(text == "true"),
            ArgKind::Scalar if text == "true" || text == "false" => Arg::Bool(text == "true"),
            ArgKind::Int => Arg::Int(SymInt::Known(number(text)? as i64)),
            ArgKind::Scalar => match text.parse::<i64>() {
                Ok(n) => Arg::Int(n.into()),
                Err(_) => Arg::Float(number(text)?),
            },
            ArgKind::Float => Arg::Float(number(text)?),
            ArgKind::IntList => {
                Arg::Ints(list(text)?.iter().map(|t| Ok(SymInt::Known(number(t)? as i64))).collect::<Result<
                    _,
                    String,
                >>(
                )?)
            }
            ArgKind::FloatList => {
                Arg::Floats(list(text)?.iter().map(|t| number(t)).collect::<Result<_, String>>()?)
            }
            ArgKind::Str => Arg::from(text.trim_matches('"')),
            ArgKind::DType => Arg::DType(
                DType::from_name(text.trim_start_matches(':')).ok_or(format!("no element type {text:?}"))?,
            ),
            _ => Arg::from(text.trim_matches('"')),
        })
    }

    /// `f[2,3]`, `i[4]<5`, `=i[0,2]` (these very numbers), `#3` (a constant).
    fn tensor(&mut self, text: &str) -> Result<ValueId, String> {
        let bad = || format!("{text:?} is no tensor");
        if let Some(number) = text.strip_prefix('#') {
            let t = Tensor::scalar(number.parse::<i64>().map_err(|_| bad())?);
            return Ok(self.program.add_constant("constant", ConstKind::Tensor, t));
        }
        if let Some(literal) = text.strip_prefix("=i") {
            let numbers: Vec<i64> = literal
                .split(['[', ']', ','])
                .filter(|t| !t.is_empty())
                .filter_map(|t| t.parse().ok())
                .collect();
            let rows = literal.matches('[').count().saturating_sub(1);
            let shape = if rows > 0 { vec![rows, numbers.len() / rows] } else { vec![numbers.len()] };
            return self.input(Tensor::new(&shape, numbers).map_err(|e| e.to_string())?);
        }
        let (kind, rest) = text.split_once('[').ok_or_else(bad)?;
        let (dims, limit) = rest.split_once(']').ok_or_else(bad)?;
        let shape: Vec<usize> = dims
            .split(',')
            .filter(|d| !d.is_empty())
            .map(|d| d.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let limit = limit.strip_prefix('<').and_then(|l| l.parse::<f64>().ok()).unwrap_or(0.0);
        let (dtype, low, high) = match kind {
            "f" => (self.element, -3.0, 3.0),
            "p" => (self.element, 0.3, 3.0),
            "u" => (self.element, -1.0, 1.0),
            "b" => (DType::Bool, 0.0, 2.0),
            "i" => (DType::I64, 0.0, limit),
            other => (DType::from_name(other).ok_or_else(bad)?, 0.0, limit),
        };
        // Unsigned integers have no room below zero, and divisors must not be zero.
        let low = if low < 0.0 && matches!(dtype, DType::U8 | DType::U16 | DType::Bool) { 0.0 } else { low };
        let low = if kind == "p" && !dtype.is_float() { 1.0 } else { low };
        let count = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|_| low + (high - low) * self.random()).collect();
        self.input(tensor_of(dtype, &shape, &values)?)
    }

    fn input(&mut self, t: Tensor) -> Result<ValueId, String> {
        let name = format!("in{}", self.inputs.len());
        let number = self.inputs.len();
        let size = |(axis, n): (usize, &usize)| match self.open.contains(&(number, axis)) {
            true => SymInt::symbol("s0"),
            false => SymInt::from(*n),
        };
        let ty = TensorType { dtype: t.dtype(), shape: t.shape().iter().enumerate().map(size).collect() };
        let v = self.program.graph.add_input(&name, ty);
        self.program.signature.inputs.push(name.into());
        self.inputs.push(t);
        Ok(v)
    }
}

/// Numbers in an element type; integers are rounded down.
pub fn tensor_of(dtype: DType, shape: &[usize], v: &[f64]) -> Result<Tensor, String> {
    fn ints<T: lowbit_core::tensor::Element>(
        shape: &[usize],
        v: &[f64],
        cast: impl Fn(f64) -> T,
    ) -> Result<Tensor, lowbit_core::tensor::TensorError> {
        Tensor::new(shape, v.iter().map(|x| cast(x.floor())).collect())
    }
    match dtype {
        DType::Bool => Tensor::from_bools(shape, v.iter().map(|x| *x >= 1.0).collect()),
        DType::F64 => Tensor::new(shape, v.to_vec()),
        DType::I64 => ints(shape, v, |x| x as i64),
        DType::I32 => ints(shape, v, |x| x as i32),
        DType::I16 => ints(shape, v, |x| x as i16),
        DType::U16 => ints(shape, v, |x| x as u16),
        DType::I8 => ints(shape, v, |x| x as i8),
        DType::U8 => ints(shape, v, |x| x as u8),
        _ => Tensor::from_f32(dtype, shape, &v.iter().map(|x| *x as f32).collect::<Vec<_>>()),
    }
    .map_err(|e| e.to_string())
}
