//! Raising: a package read back, as a program that lowbit runs, inspects and compares.
//!
//! Every MIL operator has a row in [`ops`] that says it in PyTorch's operators. What a package holds quantized stays so where
//! lowbit has a node for it; sparse weights become plain ones.
//!
//! Floats are computed in single precision. What the package computes in half precision is rounded to it, value by value, or
//! not at all: see [`Rounding`]. Sizes that a package computes (`shape`, `gather`, `concat`, `reshape`) are followed as
//! formulas over its inputs' sizes, since lowbit's programs hold no integers that flow into shapes.

mod call;
mod constants;
mod ops;
mod sizes;

use crate::mil::{Arg, Constant, DType, Operation, Type, program::Input};
use crate::package::{Feature, Package, Sizes};
use call::Call;
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{
    Arg as CoreArg, ConstId, ConstKind, Def, MutationTarget, NewNode, Program, SymbolRange, TensorType,
    ValueId,
};
use lowbit_core::symint::SymInt;
use std::collections::HashMap;

/// Whether values are rounded to the floating-point types that a package computes in.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing is rounded: what the package means, for comparisons to the last bit.
    Exact,
    /// What has type `fp16` is rounded to half precision where an operator makes it, as devices do that compute in it.
    #[default]
    AsTyped,
}

/// Why a package cannot be raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct RaiseError {
    /// The function, or the operator and the value it makes.
    pub place: String,
    /// What is wrong with it, or what lowbit lacks.
    pub reason: String,
}

/// What rows give: values, or why there are none.
type Raised<T> = Result<T, String>;

/// The largest state that is filled with zeros, in bytes. Beyond it a file is damaged rather than large.
const LARGEST_STATE: i64 = 1 << 32;

/// Most dimensions of a tensor. Core ML has 5; what has many more comes from a damaged file, and would take long.
const MAX_RANK: usize = 16;

/// The program that a package's function computes: `main`, or the only one.
///
/// Inputs have the names and types of the model's description, open sizes its ranges. Outputs are single floats where the
/// package gives floats (rounded, where it gives half ones) and `int32` where it gives integers. States become buffers, zeros
/// at first, that the program overwrites.
///
/// # Errors
/// Names the operator that lowbit has no counterpart for, or whose arguments do not fit together or its declared results.
pub fn raise(package: &Package, rounding: Rounding) -> Result<Program, RaiseError> {
    let functions = &package.program.functions;
    let function = match (functions.iter().find(|(name, _)| name == "main"), &functions[..]) {
        (Some((_, f)), _) | (None, [(_, f)]) => f,
        _ => {
            let names: Vec<&str> = functions.iter().map(|(n, _)| &**n).collect();
            let reason = format!("there is no function main; there are: {}", names.join(", "));
            return Err(RaiseError { place: "program".into(), reason });
        }
    };
    let mut r = Raiser { rounding, ..Raiser::default() };
    for input in &function.inputs {
        r.input(input, package)
            .map_err(|reason| RaiseError { place: format!("input {}", input.name), reason })?;
    }
    for op in &function.operations {
        r.operation(op).map_err(|reason| {
            let first = op.outputs.first().map_or("", |(n, _)| n);
            RaiseError { place: format!("operator {} ({first})", op.op), reason }
        })?;
    }
    r.finish(&function.outputs).map_err(|reason| RaiseError { place: "outputs".into(), reason })
}

/// Every operator that can be raised.
pub fn operators() -> impl Iterator<Item = &'static str> {
    ops::names()
}

/// What a name of the package stands for.
#[derive(Clone, Debug)]
enum Value {
    /// A tensor of the program.
    Tensor(ValueId),
    /// A constant that nothing has read as a tensor yet.
    Const(Constant),
    /// Integers that follow from the inputs' sizes.
    Sizes(sizes::List),
    /// A state.
    State(ConstId),
}

impl From<ValueId> for Value {
    fn from(v: ValueId) -> Self {
        Value::Tensor(v)
    }
}

/// A program under construction.
#[derive(Debug, Default)]
struct Raiser {
    rounding: Rounding,
    program: Program,
    values: HashMap<String, Value>,
    /// The element types that the package gives its values.
    types: HashMap<String, DType>,
    /// What each state holds by now.
    states: Vec<(ConstId, ValueId)>,
}

impl Raiser {
    /// Gives a name its value, once.
    fn define(&mut self, name: &str, dtype: DType, value: Value) -> Raised<()> {
        self.types.insert(name.into(), dtype);
        match self.values.insert(name.into(), value) {
            None => Ok(()),
            Some(_) => Err(format!("there are two values {name}")),
        }
    }

    /// An input or a state.
    fn input(&mut self, input: &Input, package: &Package) -> Raised<()> {
        let border = if input.state { &package.border.states } else { &package.border.inputs };
        let feature = border.iter().find(|f| f.name == input.name);
        let feature = feature.ok_or("the model's description does not list it")?;
        if feature.dtype != input.ty.dtype {
            let names = (feature.dtype.name(), input.ty.dtype.name());
            return Err(format!("it is {} in the model's description, {} in the function", names.0, names.1));
        }
        if input.ty.rank() > MAX_RANK {
            return Err(format!("it has {} dimensions", input.ty.rank()));
        }
        if input.state {
            return self.state(input);
        }
        for (i, d) in input.ty.shape.iter().enumerate() {
            if let Some(symbol) = d.as_symbol() {
                self.program.symbols.insert(symbol.clone(), range(feature, i)?);
            }
        }
        let outside = match input.ty.dtype {
            DType::F16 => CoreType::F16,
            other => constants::inside(other)?,
        };
        let ty = TensorType { dtype: outside, shape: input.ty.shape.clone() };
        let mut v = self.program.graph.add_input(&input.name, ty);
        self.program.signature.inputs.push(input.name.as_str().into());
        if outside == CoreType::F16 {
            v = self.cast(v, CoreType::F32, &format!("{}.f32", input.name))?;
        }
        self.define(&input.name, input.ty.dtype, v.into())
    }

    /// A state, as a buffer.
    fn state(&mut self, input: &Input) -> Raised<()> {
        let dtype = constants::inside(input.ty.dtype)?;
        let shape = input.ty.shape.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok()));
        let shape = shape.collect::<Option<Vec<usize>>>().ok_or("a state has no open sizes")?;
        let size = shape.iter().fold(dtype.size() as i64, |n, &d| n.saturating_mul(d as i64));
        if size > LARGEST_STATE {
            return Err(format!("a state of {size} bytes; lowbit fills at most {LARGEST_STATE} with zeros"));
        }
        let zeros = Tensor::zeros(dtype, &shape).map_err(|e| e.to_string())?;
        let v = self.program.add_constant(&input.name, ConstKind::Buffer, zeros);
        let Def::Const(c) = self.program.graph.value(v).def() else { return Err("it is no buffer".into()) };
        self.states.push((c, v));
        self.define(&input.name, input.ty.dtype, Value::State(c))
    }

    /// An operator: nodes for it, then rounding where it makes half floats.
    fn operation(&mut self, op: &Operation) -> Raised<()> {
        let in_place = op.inputs.iter().flat_map(|(name, args)| args.iter().map(move |a| (name, a)));
        let in_place = in_place.filter_map(|(name, a)| match a {
            Arg::Const(c) => Some((name, c)),
            Arg::Name(_) => None,
        });
        for (name, c) in in_place.chain(op.attributes.iter().map(|(n, c)| (n, c))) {
            constants::check(c).map_err(|why| format!("argument {name}: {why}"))?;
        }
        let place = op.outputs.first().map_or(&*op.op, |(n, _)| &**n).to_string();
        let mut call = Call::new(self, op, &place);
        let (made, new) = match sizes::follow(&call)? {
            Some(list) => (vec![Value::Sizes(list)], false),
            None => {
                let row = ops::find(&op.op)?;
                let made = (row.raise)(&mut call)?;
                (made, row.new || self.reads_single(op))
            }
        };
        if made.len() != op.outputs.len() {
            return Err(format!("it has {} results, {} were expected", op.outputs.len(), made.len()));
        }
        for ((name, ty), value) in op.outputs.iter().zip(made) {
            let value = match value {
                Value::Tensor(v) => self.result(v, name, &place, ty, new)?.into(),
                Value::Const(c) if c.ty != *ty => {
                    return Err(format!("{name} is declared as {ty:?}, and is {:?}", c.ty));
                }
                Value::Sizes(l) if l.rank() != ty.rank() => {
                    return Err(format!("{name} is declared as {ty:?}, and has {} dimensions", l.rank()));
                }
                other => other,
            };
            self.define(name, ty.dtype, value)?;
        }
        Ok(())
    }

    /// Whether an operator reads single floats, which no half ones hold, even if it only picks among them.
    fn reads_single(&self, op: &Operation) -> bool {
        op.inputs.iter().flat_map(|(_, args)| args).any(|a| match a {
            Arg::Name(n) => self.types.get(n) == Some(&DType::F32),
            Arg::Const(c) => c.ty.dtype == DType::F32,
        })
    }

    /// A result as it was declared: integers in the declared width, half floats rounded, and under its own name.
    fn result(&mut self, v: ValueId, name: &str, place: &str, declared: &Type, new: bool) -> Raised<ValueId> {
        let have = self.program.graph.ty(v).clone();
        let want = constants::inside(declared.dtype)?;
        let open = |a: &SymInt, b: &SymInt| a == b || a.known().is_none() || b.known().is_none();
        let fits = have.rank() == declared.rank()
            && have.shape.iter().zip(&declared.shape).all(|(a, b)| open(a, b))
            && (have.dtype == want || have.dtype.is_int() && want.is_int());
        if !fits || have.rank() > MAX_RANK {
            return Err(format!("{name} is declared as {declared:?}, its arguments give {have}"));
        }
        let mut out = v;
        if have.dtype != want {
            out = self.cast(out, want, name)?;
        }
        if new && declared.dtype == DType::F16 && self.rounding == Rounding::AsTyped {
            let half = self.cast(out, CoreType::F16, &format!("{name}.f16"))?;
            out = self.cast(half, CoreType::F32, name)?;
        }
        // Values that only pass through keep the name they have.
        let g = &mut self.program.graph;
        match g.producer(out).filter(|n| g.node(*n).name.starts_with(&format!("{place}."))) {
            Some(n) if g.node(n).outputs().len() > 1 => g.rename(out, name),
            Some(n) => g.rename_node(n, name),
            None => {}
        }
        if !g.ty(out).shape.iter().all(|d| d.is_at_most(sizes::LARGEST)) {
            return Err(format!("the sizes of {name} are formulas that are too long"));
        }
        Ok(out)
    }

    /// A value in another element type.
    fn cast(&mut self, v: ValueId, to: CoreType, name: &str) -> Raised<ValueId> {
        if self.program.graph.ty(v).dtype == to {
            return Ok(v);
        }
        let cast = NewNode::new(&lowbit_core::ops::TO_COPY, [v.into(), to.into()]).named(name);
        self.append(cast).map(|made| made[0])
    }

    /// A node at the end; its results.
    fn append(&mut self, new: NewNode) -> Raised<Vec<ValueId>> {
        let g = &mut self.program.graph;
        let n = g.append(new).map_err(|e| e.message)?;
        Ok(g.node(n).outputs().to_vec())
    }

    /// The value of a name as a tensor; constants and sizes become one.
    fn tensor(&mut self, name: &str) -> Raised<ValueId> {
        let v = match self.values.get(name) {
            Some(Value::Tensor(v)) => return Ok(*v),
            Some(Value::State(_)) => return Err(format!("{name} is a state, which is not read yet")),
            Some(Value::Const(c)) => {
                let t = constants::tensor(c)?;
                self.program.add_constant(name, ConstKind::Parameter, t)
            }
            Some(Value::Sizes(list)) => {
                let list = list.clone();
                self.materialized(&list, name)?
            }
            None => return Err(format!("there is no value {name} yet")),
        };
        self.values.insert(name.into(), v.into());
        Ok(v)
    }

    /// Sizes as a tensor of int32.
    fn materialized(&mut self, list: &sizes::List, name: &str) -> Raised<ValueId> {
        if let Some(c) = list.constant() {
            let t = constants::tensor(&c)?;
            return Ok(self.program.add_constant(name, ConstKind::Tensor, t));
        }
        let shape: Vec<SymInt> = if list.scalar { vec![] } else { vec![1.into()] };
        let mut parts = vec![];
        for n in &list.entries {
            let args = [CoreArg::Ints(shape.clone()), CoreArg::Int(n.clone()), CoreType::I32.into()];
            parts.push(
                self.append(NewNode::new(&lowbit_core::ops::FULL, args).named(format!("{name}.full")))?[0],
            );
        }
        match parts[..] {
            [one] => Ok(one),
            _ => {
                let cat = NewNode::new(&lowbit_core::ops::CAT, [CoreArg::Values(parts), 0.into()]);
                Ok(self.append(cat.named(format!("{name}.cat")))?[0])
            }
        }
    }

    /// The program with its outputs, and what it overwrites.
    fn finish(mut self, outputs: &[String]) -> Raised<Program> {
        let mut values = vec![];
        for name in outputs {
            let v = self.tensor(name)?;
            if self.program.graph.ty(v).dtype == CoreType::Bool {
                return Err(format!("{name} is bool, which Core ML does not give"));
            }
            values.push(v);
            self.program.signature.outputs.push(name.as_str().into());
        }
        for (c, v) in self.states {
            // What is only read is an ordinary constant.
            if v != self.program.constants[c].value {
                self.program.signature.mutations.push(MutationTarget::Buffer(c));
                values.push(v);
            }
        }
        self.program.graph.set_outputs(values);
        Ok(self.program)
    }
}

/// The range of dimension `i` of a feature.
fn range(feature: &Feature, i: usize) -> Raised<SymbolRange> {
    let missing = || format!("the model's description gives no range for dimension {i}");
    let size = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(match &feature.sizes {
        Sizes::Fixed(_) => return Err(missing()),
        Sizes::Range(ranges, usual) => {
            let (min, max) = ranges.get(i).ok_or_else(missing)?;
            let (min, max) = (size(*min), max.map_or(i64::MAX, size));
            SymbolRange { min, max, hint: usual.get(i).copied() }
        }
        Sizes::Enumerated(shapes) => {
            let all = || shapes.iter().filter_map(|s| s.get(i).copied());
            let (min, max) = all().min().zip(all().max()).ok_or_else(missing)?;
            SymbolRange { min, max, hint: all().next() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::ops;
    use std::path::Path;

    /// The string literals of the files in a folder.
    fn literals(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                literals(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(text.split('"').skip(1).step_by(2).map(String::from));
            }
        }
    }

    /// What the lowering writes can be read back: it names no operator that is refused.
    #[test]
    fn the_lowering_writes_what_can_be_raised() {
        let mut found = vec![];
        literals(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lowering"), &mut found);
        let raised = super::operators().filter(|name| found.iter().any(|l| l == name)).count();
        assert!(raised > 90, "{raised} operators: are their names still literals?");
        // An argument of `select` has the name of an operator.
        let refused = ops::REFUSED.iter().map(|(name, _)| *name).filter(|name| *name != "cond");
        let written: Vec<&str> = refused.filter(|name| found.iter().any(|l| l == name)).collect();
        assert!(written.is_empty(), "the lowering writes {written:?}, which have no row");
    }
}
