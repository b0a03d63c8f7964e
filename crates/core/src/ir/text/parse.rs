//! Parsing. Constants have no data in the text form, so they are all zeros unless a few elements are written out:
//! `constant "fc.bias" [0.5, -1.0]`.

use crate::dtype::DType;
use crate::ir::{
    Arg, ConstKind, ModuleFrame, ModuleStack, MutationTarget, NewNode, Program, SymbolRange, TensorType,
    ValueId,
};
use crate::ops::{self, ArgKind, ArgSpec};
use crate::symint::SymInt;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// Text that is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}\n  in: {text}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// The line.
    pub text: String,
}

/// Reads the text form. Types are checked against the operators' shape rules.
///
/// # Errors
/// The first line that is not understood, or whose types do not fit.
pub fn parse(text: &str) -> Result<Program, ParseError> {
    let mut p = Builder::default();
    let mut open = false;
    let mut closed = false;
    for (i, raw) in text.lines().enumerate() {
        let (line, module) = match raw.split_once(';') {
            Some((l, m)) => (l.trim(), m.trim()),
            None => (raw.trim(), ""),
        };
        let fail = |message: String| ParseError { line: i + 1, message, text: raw.trim().into() };
        match line {
            "" => continue,
            "program {" if !open => open = true,
            "}" if open && !closed => closed = true,
            _ if !open || closed => {
                return Err(fail("a program starts with `program {` and ends with `}`".into()));
            }
            _ => p.line(line, module).map_err(fail)?,
        }
    }
    let end =
        |message: &str| ParseError { line: text.lines().count(), message: message.into(), text: "".into() };
    if !closed {
        return Err(end("the closing `}` is missing"));
    }
    let outputs = p.outputs.ok_or_else(|| end("`return` is missing"))?;
    p.program.signature.outputs = outputs.iter().map(|&v| p.program.graph.value(v).name.clone()).collect();
    p.program.graph.set_outputs(outputs.into_iter().chain(p.updates).collect());
    Ok(p.program)
}

#[derive(Default)]
struct Builder {
    program: Program,
    values: HashMap<String, ValueId>,
    outputs: Option<Vec<ValueId>>,
    updates: Vec<ValueId>,
}

impl Builder {
    fn line(&mut self, line: &str, module: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("symbol ") {
            let (name, range) = rest.split_once(" in ").ok_or("`symbol s in min..max` expected")?;
            let (min, max) = range.split_once("..").ok_or("a range min..max expected")?;
            let min = min.trim().parse().map_err(|_| "the minimum is no integer")?;
            let max = if max.trim() == "inf" { Ok(i64::MAX) } else { max.trim().parse() };
            let range = SymbolRange { min, max: max.map_err(|_| "the maximum is no integer")?, hint: None };
            self.program.symbols.insert(name.trim().into(), range);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("return") {
            let names: Vec<&str> = rest.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
            self.outputs = Some(names.into_iter().map(|n| self.value(n)).collect::<Result<_, _>>()?);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("update ") {
            return self.update(rest);
        }
        let (results, call) = line.split_once(" = ").ok_or("`%name : type = …` expected")?;
        let mut named = Vec::new();
        for part in split_top(results) {
            let (name, ty) = part.split_once(':').ok_or("`%name : type` expected")?;
            let name = name.trim().strip_prefix('%').ok_or("a value's name starts with %")?;
            named.push((name.to_string(), parse_type(ty.trim())?));
        }
        match (&named[..], call.trim()) {
            ([(name, ty)], "input") => {
                let v = self.program.graph.add_input(name, ty.clone());
                self.program.signature.inputs.push(name.as_str().into());
                self.define(name, v)
            }
            ([(name, ty)], c) if c.starts_with("constant ") => {
                let v = self.constant(name, ty, c["constant ".len()..].trim())?;
                self.define(name, v)
            }
            _ => self.node(&named, call.trim(), module),
        }
    }

    fn value(&self, name: &str) -> Result<ValueId, String> {
        let bare = name
            .strip_prefix('%')
            .ok_or_else(|| format!("{name:?} is no value; a value's name starts with %"))?;
        self.values.get(bare).copied().ok_or_else(|| format!("{name} is not defined above"))
    }

    fn define(&mut self, name: &str, v: ValueId) -> Result<(), String> {
        if &*self.program.graph.value(v).name != name {
            self.program.graph.rename(v, name);
        }
        match self.values.insert(name.into(), v) {
            None => Ok(()),
            Some(_) => Err(format!("%{name} is defined twice")),
        }
    }

    fn update(&mut self, rest: &str) -> Result<(), String> {
        let (target, value) = rest.split_once(" = ").ok_or("`update target = %value` expected")?;
        let target = match target.trim().strip_prefix("input ") {
            Some(i) => MutationTarget::Input(i.parse().map_err(|_| "an input number expected")?),
            None => {
                let name = target.trim().trim_matches('"');
                let found = self.program.constants.iter().find(|(_, c)| &*c.name == name);
                MutationTarget::Buffer(found.ok_or_else(|| format!("no constant is named {name:?}"))?.0)
            }
        };
        let value = self.value(value.trim())?;
        self.program.signature.mutations.push(target);
        self.updates.push(value);
        Ok(())
    }

    fn constant(&mut self, name: &str, ty: &TensorType, rest: &str) -> Result<ValueId, String> {
        let rest = rest.strip_prefix('"').ok_or("a quoted name expected")?;
        let (fqn, data) = rest.split_once('"').ok_or("a quoted name expected")?;
        let shape = ty.known_shape().ok_or("a constant has no symbols in its shape")?;
        let tensor = match data.trim() {
            "" => Tensor::zeros(ty.dtype, &shape).map_err(|e| e.to_string())?,
            list => {
                let list = list
                    .strip_prefix('[')
                    .and_then(|l| l.strip_suffix(']'))
                    .ok_or("elements in [ … ] expected")?;
                let data: Vec<f64> = split_top(list)
                    .iter()
                    .map(|x| x.parse().map_err(|_| format!("{x:?} is no number")))
                    .collect::<Result<_, _>>()?;
                from_f64(ty.dtype, &shape, &data)?
            }
        };
        let v = self.program.add_constant(fqn, ConstKind::Parameter, tensor);
        self.program.graph.rename(v, name);
        Ok(v)
    }

    fn node(&mut self, results: &[(String, TensorType)], call: &str, module: &str) -> Result<(), String> {
        let (op, args) = call.split_once('(').ok_or("`operator(arguments)` expected")?;
        let args = args.strip_suffix(')').ok_or("the closing ) is missing")?;
        let op = ops::lookup(op).ok_or_else(|| format!("there is no operator {op:?}"))?;
        let specs = &op.schema().args;
        let mut found: Vec<Option<Arg>> = vec![None; specs.len()];
        for (i, text) in split_top(args).into_iter().enumerate() {
            let (place, text) = match text.split_once('=').filter(|(n, _)| is_word(n)) {
                Some((name, t)) => {
                    let place = op.schema().index_of(name);
                    (place.ok_or_else(|| format!("{} has no argument {name:?}", op.name))?, t)
                }
                None => (i, text),
            };
            let spec =
                specs.get(place).ok_or_else(|| format!("{} takes {} arguments", op.name, specs.len()))?;
            found[place] =
                Some(self.arg(spec, text.trim()).map_err(|e| format!("argument {}: {e}", spec.name))?);
        }
        let args: Vec<Arg> = specs
            .iter()
            .zip(found)
            .map(|(s, a)| {
                a.or_else(|| s.default.clone()).ok_or_else(|| format!("argument {} is missing", s.name))
            })
            .collect::<Result<_, _>>()?;
        let name = match results {
            [(name, _)] => name.clone(),
            // `%split_0, %split_1` come from a node called `split`.
            many => many[0].0.trim_end_matches("_0").to_string(),
        };
        let module = match module {
            "" => ModuleStack::default(),
            path => ModuleStack::new(vec![ModuleFrame { path: path.into(), type_name: "".into() }]),
        };
        let types: Vec<TensorType> = results.iter().map(|(_, t)| t.clone()).collect();
        let mut new = NewNode { op, args, name: name.into(), module, types: None };
        if op.traits.declared_types {
            new.types = Some(types.clone());
        }
        let n = self.program.graph.append(new).map_err(|e| e.to_string())?;
        let outputs = self.program.graph.node(n).outputs().to_vec();
        if outputs.len() != results.len() {
            return Err(format!("{} has {} results, {} are named", op.name, outputs.len(), results.len()));
        }
        for (&v, (name, ty)) in outputs.iter().zip(results) {
            let have = self.program.graph.ty(v);
            if have != ty {
                return Err(format!("%{name} is written as {ty}, the operator makes {have}"));
            }
            self.define(name, v)?;
        }
        Ok(())
    }

    fn arg(&self, spec: &ArgSpec, text: &str) -> Result<Arg, String> {
        if text == "none" {
            return Ok(Arg::None);
        }
        let items = || -> Result<Vec<&str>, String> {
            let l = text.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
            Ok(split_top(l.ok_or("a list [ … ] expected")?))
        };
        let number = |t: &str| t.parse::<f64>().map_err(|_| format!("{t:?} is no number"));
        let int = |t: &str| SymInt::parse(t).map_err(|e| e.to_string());
        let boolean = |t: &str| t.parse::<bool>().map_err(|_| format!("{t:?} is neither true nor false"));
        Ok(match spec.kind {
            ArgKind::Tensor => Arg::Value(self.value(text)?),
            ArgKind::TensorList => {
                Arg::Values(items()?.into_iter().map(|t| self.value(t)).collect::<Result<_, _>>()?)
            }
            ArgKind::OptTensorList => Arg::OptValues(
                items()?
                    .into_iter()
                    .map(|t| if t == "none" { Ok(None) } else { self.value(t).map(Some) })
                    .collect::<Result<_, _>>()?,
            ),
            ArgKind::Int => Arg::Int(int(text)?),
            ArgKind::IntList => Arg::Ints(items()?.into_iter().map(int).collect::<Result<_, _>>()?),
            ArgKind::Float => Arg::Float(number(text)?),
            ArgKind::FloatList => Arg::Floats(items()?.into_iter().map(number).collect::<Result<_, _>>()?),
            ArgKind::Bool => Arg::Bool(boolean(text)?),
            ArgKind::BoolList => Arg::Bools(items()?.into_iter().map(boolean).collect::<Result<_, _>>()?),
            ArgKind::Scalar => match text {
                "true" | "false" => Arg::Bool(text == "true"),
                _ if text.contains(['.', 'e', 'n']) => Arg::Float(number(text)?),
                _ => Arg::Int(int(text)?),
            },
            ArgKind::Str | ArgKind::Other => Arg::Str(text.trim_matches('"').into()),
            ArgKind::DType => {
                Arg::DType(DType::from_name(text).ok_or_else(|| format!("{text:?} is no element type"))?)
            }
        })
    }
}

fn is_word(s: &str) -> bool {
    !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Splits at commas outside brackets and quotes.
fn split_top(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start, mut out) = (0i32, false, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => depth -= 1,
            ',' if depth == 0 && !quoted => {
                out.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(text[start..].trim());
    out.retain(|s| !s.is_empty());
    out
}

fn parse_type(text: &str) -> Result<TensorType, String> {
    let (dtype, dims) = text.split_once('[').ok_or("a type such as f32[1, 3] expected")?;
    let dims = dims.strip_suffix(']').ok_or("the closing ] of a type is missing")?;
    let dtype = DType::from_name(dtype.trim()).ok_or_else(|| format!("{dtype:?} is no element type"))?;
    let shape = split_top(dims).into_iter().map(SymInt::parse).collect::<Result<Vec<_>, _>>();
    Ok(TensorType { dtype, shape: shape.map_err(|e| e.to_string())? })
}

/// A tensor of any element type from numbers, rounded to it.
fn from_f64(dtype: DType, shape: &[usize], data: &[f64]) -> Result<Tensor, String> {
    fn make<T: crate::tensor::Element>(
        dtype: DType,
        shape: &[usize],
        data: Vec<T>,
    ) -> Result<Tensor, String> {
        let bytes: Arc<[u8]> = bytemuck::cast_slice(&data).into();
        Tensor::from_bytes(dtype, shape, bytes::Bytes::from_owner(bytes)).map_err(|e| e.to_string())
    }
    macro_rules! cast {
        ($t:ty) => {
            make::<$t>(dtype, shape, data.iter().map(|&x| x as $t).collect())
        };
    }
    match dtype {
        DType::F32 => cast!(f32),
        DType::F64 => cast!(f64),
        DType::F16 => make(dtype, shape, data.iter().map(|&x| half::f16::from_f64(x)).collect()),
        DType::BF16 => make(dtype, shape, data.iter().map(|&x| half::bf16::from_f64(x)).collect()),
        DType::I8 => cast!(i8),
        DType::U8 | DType::Bool => cast!(u8),
        DType::I16 => cast!(i16),
        DType::U16 => cast!(u16),
        DType::I32 => cast!(i32),
        DType::I64 => cast!(i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text::print, verify};

    const LINEAR: &str = r#"program {
  symbol s0 in 1..8
  %x : f32[s0, 4] = input
  %w : f32[3, 4] = constant "fc.weight"
  %b : f32[3] = constant "fc.bias"
  %fc : f32[s0, 3] = aten.linear.default(%x, %w, %b)    ; fc
  %q : i8[s0, 3] = quantized_decomposed.quantize_per_tensor.default(%fc, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
  return %q, %x
  update "fc.bias" = %b
}
"#;

    #[test]
    fn what_is_printed_parses_back() {
        let p = parse(LINEAR).unwrap();
        verify(&p).unwrap();
        assert_eq!(print(&p), LINEAR);
    }

    #[test]
    fn wrong_text_is_an_error_at_its_line() {
        for (from, to, line, message) in [
            ("f32[s0, 3] = aten", "f32[s0, 4] = aten", 6, "the operator makes"),
            ("aten.linear.default(%x", "aten.linear.default(%y", 6, "%y is not defined"),
            ("aten.linear.default", "aten.linea.default", 6, "no operator"),
            ("scale=0.5, ", "", 7, "scale is missing"),
            ("s0 in 1..8", "s0 1..8", 2, "expected"),
            ("  return %q, %x\n", "", 9, "`return` is missing"),
        ] {
            let e = parse(&LINEAR.replace(from, to)).unwrap_err();
            assert!(e.message.contains(message), "{from}: {e}");
            assert!(e.line == line || message.contains("return"), "{from}: {e}");
        }
    }
}
