//! Operator signatures in PyTorch's syntax (`native_functions.yaml`).

use super::call::InferError;
use crate::dtype::DType;
use crate::ir::Arg;

/// What an argument holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ArgKind {
    Tensor,
    TensorList,
    OptTensorList,
    Int,
    IntList,
    Float,
    FloatList,
    Bool,
    BoolList,
    /// An int, a float or a bool.
    Scalar,
    Str,
    DType,
    /// Layout, device, memory format, generator: kept as text, without effect on results.
    Other,
}

/// One argument of a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgSpec {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: ArgKind,
    /// Whether `None` is allowed.
    pub optional: bool,
    /// Its default.
    pub default: Option<Arg>,
    /// Whether it can only be given by name.
    pub kwarg_only: bool,
}

/// A parsed signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// Arguments in order.
    pub args: Vec<ArgSpec>,
    /// Number of results; `None` when it is a list (`Tensor[]`) whose length depends on the arguments.
    pub returns: Option<usize>,
}

impl Schema {
    /// Reads `(Tensor self, int dim=-1, *, bool keepdim=False) -> Tensor`.
    ///
    /// # Errors
    /// A sentence on what is not understood.
    pub fn parse(text: &str) -> Result<Schema, String> {
        let (args, returns) = text.split_once("->").ok_or("-> is missing")?;
        let args = args.trim();
        let args = args.strip_prefix('(').and_then(|a| a.strip_suffix(')')).ok_or("( … ) is missing")?;
        let mut out = Vec::new();
        let mut kwarg_only = false;
        for arg in split_top(args) {
            if arg == "*" {
                kwarg_only = true;
                continue;
            }
            out.push(parse_arg(arg, kwarg_only).map_err(|e| format!("{arg:?}: {e}"))?);
        }
        let returns = returns.trim();
        let returns = match returns.strip_prefix('(').and_then(|r| r.strip_suffix(')')) {
            _ if returns.starts_with("Tensor[]") => None,
            Some(list) => Some(split_top(list).len()),
            None => Some(1),
        };
        Ok(Schema { args: out, returns })
    }

    /// The place of the argument called `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.args.iter().position(|a| a.name == name)
    }

    /// Checks number and kind of complete arguments.
    ///
    /// # Errors
    /// Names the first argument that does not fit.
    pub fn check(&self, args: &[Arg]) -> Result<(), InferError> {
        if args.len() != self.args.len() {
            return Err(InferError::new(format!("takes {} arguments, has {}", self.args.len(), args.len())));
        }
        for (spec, arg) in self.args.iter().zip(args) {
            let fits = match (spec.kind, arg) {
                (_, Arg::None) => spec.optional,
                (ArgKind::Tensor, Arg::Value(_))
                | (ArgKind::TensorList, Arg::Values(_))
                | (ArgKind::OptTensorList, Arg::OptValues(_))
                | (ArgKind::Int, Arg::Int(_))
                | (ArgKind::IntList, Arg::Ints(_))
                | (ArgKind::Float, Arg::Float(_))
                | (ArgKind::FloatList, Arg::Floats(_))
                | (ArgKind::Bool, Arg::Bool(_))
                | (ArgKind::BoolList, Arg::Bools(_))
                | (ArgKind::Scalar, Arg::Int(_) | Arg::Float(_) | Arg::Bool(_))
                | (ArgKind::Str, Arg::Str(_))
                | (ArgKind::DType, Arg::DType(_))
                | (ArgKind::Other, Arg::Str(_)) => true,
                _ => false,
            };
            if !fits {
                return Err(InferError::new(format!(
                    "argument {} should be {:?}, is {arg:?}",
                    spec.name, spec.kind
                )));
            }
        }
        Ok(())
    }
}

/// Splits at commas outside brackets.
fn split_top(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0i32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
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

fn parse_arg(text: &str, kwarg_only: bool) -> Result<ArgSpec, String> {
    let (decl, default) = match text.split_once('=') {
        Some((d, v)) => (d.trim(), Some(v.trim())),
        None => (text, None),
    };
    let (ty, name) = decl.rsplit_once(' ').ok_or("a name is missing")?;
    let ty = ty.trim();
    // `Tensor(a!)` marks aliasing; lowbit's operators are functional, so it means `Tensor`.
    let ty = match (ty.find('('), ty.find(')')) {
        (Some(a), Some(b)) => format!("{}{}", &ty[..a], &ty[b + 1..]),
        _ => ty.to_string(),
    };
    let (base, optional) = match ty.strip_suffix('?') {
        Some(b) => (b, true),
        None => (&ty[..], false),
    };
    // `int[2]` and `SymInt[1]` also take one integer in PyTorch; the importer widens it.
    let (base, list) = match base.split_once('[') {
        Some((b, _)) => (b, true),
        None => (base, false),
    };
    let kind = match (base, list) {
        ("Tensor", false) => ArgKind::Tensor,
        ("Tensor", true) => ArgKind::TensorList,
        ("Tensor?", true) => ArgKind::OptTensorList,
        ("int" | "SymInt", false) => ArgKind::Int,
        ("int" | "SymInt", true) => ArgKind::IntList,
        ("float", false) => ArgKind::Float,
        ("float", true) => ArgKind::FloatList,
        ("bool", false) => ArgKind::Bool,
        ("bool", true) => ArgKind::BoolList,
        ("Scalar", false) => ArgKind::Scalar,
        ("str", false) => ArgKind::Str,
        ("ScalarType", false) => ArgKind::DType,
        ("Layout" | "Device" | "MemoryFormat" | "Generator", false) => ArgKind::Other,
        _ => return Err(format!("type {ty:?} is not known")),
    };
    let default = default.map(|d| parse_default(kind, d)).transpose()?;
    Ok(ArgSpec { name: name.to_string(), kind, optional, default, kwarg_only })
}

fn parse_default(kind: ArgKind, text: &str) -> Result<Arg, String> {
    let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bad = |_| format!("default {text:?} is not understood");
    Ok(match (kind, text) {
        (_, "None") => Arg::None,
        (ArgKind::Bool | ArgKind::Scalar, "True") => Arg::Bool(true),
        (ArgKind::Bool | ArgKind::Scalar, "False") => Arg::Bool(false),
        (ArgKind::Int, "Mean") => Arg::from(1),
        (ArgKind::Int, _) => Arg::from(text.parse::<i64>().map_err(|e| bad(e.to_string()))?),
        (ArgKind::Float, _) => Arg::Float(text.parse().map_err(|_| bad(String::new()))?),
        (ArgKind::Scalar, _) => match text.parse::<i64>() {
            Ok(n) => Arg::from(n),
            Err(_) => Arg::Float(text.parse().map_err(|_| bad(String::new()))?),
        },
        (ArgKind::IntList, _) => match list {
            Some(l) => Arg::ints(
                split_top(l)
                    .iter()
                    .map(|n| n.parse::<i64>())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| bad(e.to_string()))?,
            ),
            None => Arg::ints([text.parse::<i64>().map_err(|e| bad(e.to_string()))?]),
        },
        (ArgKind::TensorList, "[]") => Arg::Values(vec![]),
        (ArgKind::DType, "long") => Arg::DType(DType::I64),
        (ArgKind::DType, "float") => Arg::DType(DType::F32),
        (ArgKind::Str, _) => Arg::from(text.trim_matches(['"', '\''])),
        (ArgKind::Other, _) => Arg::from(text),
        _ => return Err(bad(String::new())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pytorchs_syntax() {
        let s = Schema::parse(
            "(Tensor input, Tensor? bias=None, SymInt[2] stride=1, Tensor(a!) out, int[2] dims=[0,1], *, Scalar alpha=1, \
             ScalarType? dtype=None, str pad=\"zeros\", Tensor?[] indices) -> (Tensor, Tensor)",
        )
        .unwrap();
        assert_eq!(s.args.len(), 9);
        assert_eq!(s.returns, Some(2));
        assert_eq!(s.args[2].default, Some(Arg::ints([1])));
        assert_eq!(s.args[4].default, Some(Arg::ints([0, 1])));
        assert_eq!(s.args[5].default, Some(Arg::from(1)));
        assert!(s.args[5].kwarg_only && !s.args[4].kwarg_only);
        assert_eq!(s.args[8].kind, ArgKind::OptTensorList);
        assert_eq!(Schema::parse("(Tensor self) -> Tensor[]").unwrap().returns, None);
        assert!(Schema::parse("(Foo x) -> Tensor").is_err());
    }
}
