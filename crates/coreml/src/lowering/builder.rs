//! Builds the function of a region: one value after another, constants where they are first needed.

use crate::mil::{Arg, Constant, DType, Function, Operation, Type, program::Input};
use crate::package::{Border, Feature, Sizes};
use crate::{Precision, Settings};
use lowbit_core::Tensor;
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Def, Key, Node, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};
use lowbit_core::symint::SymInt;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A value of the function.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub ty: Type,
}

/// An argument of an operator.
#[derive(Clone, Debug)]
pub enum In {
    /// A value.
    Var(Var),
    /// Several.
    Vars(Vec<Var>),
    /// A constant, for which an operator `const` is made.
    Const(Constant),
}

macro_rules! from { ($($t:ty, $x:ident => $e:expr;)*) => { $(impl From<$t> for In { fn from($x: $t) -> In { $e } })* } }
from! {
    Var, v => In::Var(v);
    &Var, v => In::Var(v.clone());
    Vec<Var>, v => In::Vars(v);
    Constant, c => In::Const(c);
    bool, b => In::Const(Constant::bool(b));
    i32, n => In::Const(Constant::i32(n));
    &[i32], l => In::Const(Constant::i32s(l));
    Vec<i32>, l => In::Const(Constant::i32s(&l));
    &str, s => In::Const(Constant::str(s));
}

/// Why an operator cannot be expressed, for the report.
pub type Emitted<T> = Result<T, String>;

/// The function under construction.
pub struct Builder<'a> {
    /// The region.
    pub program: &'a Program,
    /// What is asked of it.
    pub settings: &'a Settings,
    /// The floating-point type of the operator at hand.
    pub float: DType,
    function: Function,
    values: Vec<Option<Var>>,
    constants: HashMap<Vec<u8>, Var>,
    names: BTreeSet<String>,
    /// Whether operators are only tried: nothing is kept, and constants need no elements.
    rehearsal: bool,
}

impl<'a> Builder<'a> {
    /// An empty function.
    pub fn new(program: &'a Program, settings: &'a Settings) -> Self {
        let values = vec![None; program.graph.table_sizes().1];
        Builder { values, rehearsal: false, ..Builder::rehearsal(program, settings) }
    }

    /// A function that only finds out whether operators can be expressed: every value is there already.
    pub fn rehearsal(program: &'a Program, settings: &'a Settings) -> Self {
        let function = Function { opset: settings.target.opset().into(), ..Function::default() };
        Builder {
            program,
            settings,
            float: settings.float(),
            function,
            values: vec![],
            constants: HashMap::new(),
            names: BTreeSet::new(),
            rehearsal: true,
        }
    }

    /// Whether operators are only tried.
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal
    }

    /// A name like `wish` that is free and that Core ML takes: letters, digits and underscores.
    pub fn name(&mut self, wish: &str) -> Arc<str> {
        let ok = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
        let mut base: String = wish.chars().map(ok).collect();
        if !base.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            base.insert(0, '_');
        }
        if self.rehearsal {
            return base.into();
        }
        let mut name = base.clone();
        let mut n = 0;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name.into()
    }

    /// The type of a value of the region as the function has it.
    pub fn type_of(&self, v: ValueId) -> Emitted<Type> {
        let ty = self.program.graph.ty(v);
        let dtype = self.dtype(ty.dtype)?;
        Ok(Type { dtype, shape: ty.shape.clone() })
    }

    /// The element type that stands for one of the region's.
    pub fn dtype(&self, ty: CoreType) -> Emitted<DType> {
        match DType::of(ty) {
            Some(d) if d.is_float() => Ok(self.float),
            Some(d) => Ok(d),
            None => Err(format!("Core ML has no {ty}")),
        }
    }

    /// The value in argument `i`.
    pub fn arg(&mut self, node: &Node, i: usize) -> Emitted<Var> {
        let v = views::value(node.arg(i)).ok_or_else(|| format!("argument {i} is no tensor"))?;
        self.value(v)
    }

    /// The value in argument `i`, if there is one.
    pub fn opt(&mut self, node: &Node, i: usize) -> Emitted<Option<Var>> {
        views::value(node.arg(i)).map(|v| self.value(v)).transpose()
    }

    /// The elements of argument `i`, when it is a constant.
    pub fn frozen(&self, node: &Node, i: usize) -> Option<&'a Tensor> {
        self.program.frozen(views::value(node.arg(i))?)
    }

    /// A value of the region, in the floating-point type of the operator at hand.
    pub fn value(&mut self, v: ValueId) -> Emitted<Var> {
        let ty = self.type_of(v)?;
        if self.rehearsal {
            return Ok(Var { name: "".into(), ty });
        }
        let var = match (&self.values[v.index()], self.program.graph.value(v).def()) {
            (Some(var), _) => var.clone(),
            (None, Def::Const(c)) => {
                let constant = &self.program.constants[c];
                let data = self.tensor(&constant.tensor)?;
                let sparse = super::emit::sparse::floats(self, &data);
                let var = sparse.unwrap_or_else(|| self.constant(&constant.name, data));
                if self.float == self.settings.float() {
                    self.values[v.index()] = Some(var.clone());
                }
                return Ok(var);
            }
            (None, _) => return Err(format!("%{} is not there yet", self.program.graph.value(v).name)),
        };
        if var.ty.dtype.is_float() { Ok(self.cast(&var, ty.dtype)) } else { Ok(var) }
    }

    /// Says which value of the function stands for one of the region.
    pub fn set(&mut self, v: ValueId, var: Var) {
        self.values[v.index()] = Some(var);
    }

    /// The elements of a tensor as a constant: floats in the type of the operator at hand, integers of 64 bits cut to 32,
    /// where too large ones become the largest.
    pub fn tensor(&self, t: &Tensor) -> Emitted<Constant> {
        let dtype = self.dtype(t.dtype())?;
        let shape = t.shape();
        if self.rehearsal {
            return Ok(Constant::new(dtype, shape.iter().copied(), vec![]));
        }
        Ok(match dtype {
            DType::F16 | DType::F32 if t.dtype() != CoreType::F32 || dtype == DType::F16 => {
                Constant::floats(dtype, shape, &t.to_f32())
            }
            DType::I32 if t.dtype() == CoreType::I64 => {
                let wide = t.as_slice::<i64>().unwrap_or_default().iter();
                let cut = |n: &i64| (*n).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                let bytes: Vec<u8> = wide.flat_map(|n| cut(n).to_le_bytes()).collect();
                Constant::new(dtype, shape.iter().copied(), bytes)
            }
            _ => Constant::new(dtype, shape.iter().copied(), t.bytes().clone()),
        })
    }

    /// An operator `const`; small ones are made once.
    pub fn constant(&mut self, wish: &str, c: Constant) -> Var {
        let ty = c.ty.clone();
        if self.rehearsal {
            return Var { name: "".into(), ty };
        }
        let small = c.ty.numel().is_some_and(|n| n < 16);
        let key = || [format!("{ty:?}{:?}", c.as_str()).as_bytes(), c.bytes()].concat();
        let key = small.then(key);
        if let Some(known) = key.as_ref().and_then(|k| self.constants.get(k)) {
            return known.clone();
        }
        let name = self.name(wish);
        let outputs = vec![(name.to_string(), ty.clone())];
        let attributes = vec![("val".into(), c)];
        self.function.operations.push(Operation { op: "const".into(), inputs: vec![], attributes, outputs });
        let var = Var { name, ty };
        self.constants.extend(key.map(|k| (k, var.clone())));
        var
    }

    /// An operator with one result.
    pub fn op(&mut self, op: &'static str, inputs: Vec<(&'static str, In)>, ty: Type) -> Var {
        self.all(op, inputs, vec![ty]).pop().expect("one type, one result")
    }

    /// An operator with any number of results.
    pub fn all(&mut self, op: &'static str, inputs: Vec<(&'static str, In)>, types: Vec<Type>) -> Vec<Var> {
        if self.rehearsal {
            return types.into_iter().map(|ty| Var { name: "".into(), ty }).collect();
        }
        let mut args = vec![];
        for (name, i) in inputs {
            let vars = match i {
                In::Var(v) => vec![v],
                In::Vars(v) => v,
                In::Const(c) => vec![self.constant(&format!("{op}_{name}"), c)],
            };
            args.push((name.into(), vars.into_iter().map(|v| Arg::Name(v.name.to_string())).collect()));
        }
        self.push(op, args, vec![], types)
    }

    /// An operator whose arguments are attributes: `constexpr_*` before iOS 18.
    pub fn with_attributes(
        &mut self,
        op: &'static str,
        attributes: Vec<(&'static str, Constant)>,
        ty: Type,
    ) -> Var {
        let attributes = attributes.into_iter().map(|(n, c)| (n.into(), c)).collect();
        self.push(op, vec![], attributes, vec![ty]).pop().expect("one type, one result")
    }

    /// An operator with its constants in place: `constexpr_*` from iOS 18 on.
    pub fn with_constants(
        &mut self,
        op: &'static str,
        inputs: Vec<(&'static str, Arg)>,
        types: Vec<Type>,
    ) -> Vec<Var> {
        let inputs = inputs.into_iter().map(|(n, a)| (n.into(), vec![a])).collect();
        self.push(op, inputs, vec![], types)
    }

    fn push(
        &mut self,
        op: &'static str,
        inputs: Vec<(crate::mil::program::Name, Vec<Arg>)>,
        attributes: Vec<(crate::mil::program::Name, Constant)>,
        types: Vec<Type>,
    ) -> Vec<Var> {
        let vars: Vec<Var> = types.into_iter().map(|ty| Var { name: self.name(op), ty }).collect();
        if !self.rehearsal {
            let outputs = vars.iter().map(|v| (v.name.to_string(), v.ty.clone())).collect();
            self.function.operations.push(Operation { op: op.into(), inputs, attributes, outputs });
        }
        vars
    }

    /// A value in another element type.
    pub fn cast(&mut self, x: &Var, dtype: DType) -> Var {
        if x.ty.dtype == dtype {
            return x.clone();
        }
        self.op("cast", vec![("x", x.into()), ("dtype", dtype.name().into())], x.ty.with(dtype))
    }

    /// Inputs and states, with the features that describe them. Floats are cast to the type that is computed in, booleans
    /// come as integers, single elements as lists of one.
    pub fn inputs(&mut self, border: &mut Border) -> Emitted<()> {
        let g = &self.program.graph;
        for (&v, given) in g.inputs().iter().zip(&self.program.signature.inputs) {
            let ty = g.ty(v);
            let dtype = outside(ty.dtype).ok_or_else(|| {
                format!("input {given} is {ty}; Core ML takes float32, float16, int32 and what fits in those")
            })?;
            let shape = if ty.rank() == 0 { vec![SymInt::from(1)] } else { ty.shape.clone() };
            let name = self.name(given);
            let var = Var { name: name.clone(), ty: Type { dtype, shape } };
            let sizes = match self.settings.shapes.get(&**given) {
                Some(shapes) => self.enumerated(given, &var.ty, shapes)?,
                None => self.sizes(&var.ty),
            };
            border.inputs.push(Feature { name: name.to_string(), dtype, sizes });
            self.function.inputs.push(Input { name: name.to_string(), ty: var.ty.clone(), state: false });
            let inside = self.type_of(v)?;
            let mut var = self.cast(&var, inside.dtype);
            if ty.rank() == 0 {
                var = self.op("squeeze", vec![("x", var.into())], inside);
            }
            self.set(v, var);
        }
        Ok(())
    }

    /// A buffer that the program overwrites, as state: half floats, which is all that Core ML keeps.
    pub fn state(&mut self, v: ValueId, name: &str, border: &mut Border) -> Emitted<Arc<str>> {
        let ty = self.program.graph.ty(v);
        if !ty.dtype.is_float() {
            return Err(format!("buffer {name} is {ty}; Core ML keeps floating-point state only"));
        }
        let Some(shape) = ty.known_shape() else { return Err(format!("buffer {name} has an open size")) };
        let name = self.name(name);
        let kept = Type::new(DType::F16, shape.iter().copied());
        let sizes = Sizes::Fixed(shape.iter().map(|&n| n as i64).collect());
        border.states.push(Feature { name: name.to_string(), dtype: DType::F16, sizes });
        self.function.inputs.push(Input { name: name.to_string(), ty: kept.clone(), state: true });
        let state = Var { name: name.clone(), ty: kept.clone() };
        let read = self.op("read_state", vec![("input", state.into())], kept);
        let inside = self.type_of(v)?;
        let var = self.cast(&read, inside.dtype);
        self.set(v, var);
        Ok(name)
    }

    /// Writes a new value into a state.
    pub fn keep(&mut self, state: Arc<str>, v: ValueId) -> Emitted<()> {
        let x = self.value(v)?;
        let x = self.cast(&x, DType::F16);
        let state = Var { name: state, ty: x.ty.clone() };
        self.all("write_state", vec![("input", state.into()), ("data", x.into())], vec![]);
        Ok(())
    }

    /// The function's results: each a value of its own, of a type that may leave it.
    pub fn outputs(&mut self, border: &mut Border) -> Emitted<()> {
        let outputs = self.program.user_outputs();
        let names = self.program.signature.outputs.clone();
        for (i, &v) in outputs.iter().enumerate() {
            let wish = self.called(v, names.get(i));
            let ty = self.program.graph.ty(v);
            let error = || format!("output {wish} is {ty}; Core ML gives float32, float16 and int32");
            let dtype = outside(ty.dtype).ok_or_else(error)?;
            let inside = self.value(v)?;
            let dtype = if dtype.is_float() { inside.ty.dtype } else { dtype };
            let mut var = self.cast(&inside, dtype);
            if ty.rank() == 0 {
                let one = Type::new(dtype, [1]);
                var = self.op("expand_dims", vec![("x", var.into()), ("axes", vec![0].into())], one);
            }
            let var = self.as_output(var, &wish);
            border.outputs.push(Feature {
                name: var.name.to_string(),
                dtype,
                sizes: self.sizes_of_output(&var.ty),
            });
            self.function.outputs.push(var.name.to_string());
        }
        Ok(())
    }

    /// What the caller knows an output by. A quantized program that was saved calls it what makes it; what was quantized there
    /// has the name that it had before.
    fn called(&self, v: ValueId, given: Option<&Arc<str>>) -> Arc<str> {
        let g = &self.program.graph;
        let own = &g.value(v).name;
        let given = given.unwrap_or(own);
        let from = |v: ValueId, op: &OpDef| {
            let n = g.node(g.producer(v)?);
            (n.op() == op).then(|| n.operands().next()).flatten()
        };
        let quantized = from(v, &ops::DEQUANTIZE_PER_TENSOR).and_then(|q| from(q, &ops::QUANTIZE_PER_TENSOR));
        match quantized.filter(|_| given == own) {
            Some(x) => g.value(x).name.clone(),
            None => given.clone(),
        }
    }

    /// A value under the name that the caller knows it by, and of its own: not an input, a constant, or another output.
    fn as_output(&mut self, var: Var, wish: &str) -> Var {
        let last =
            self.function.operations.iter().rposition(|o| o.outputs.iter().any(|(n, _)| *n == *var.name));
        let own = last.filter(|&i| {
            let o = &self.function.operations[i];
            &*o.op != "const" && !self.function.outputs.iter().any(|n| *n == *var.name)
        });
        let Some(at) = own else {
            let ty = var.ty.clone();
            let name = self.name(wish);
            let inputs = vec![("x".into(), vec![Arg::Name(var.name.to_string())])];
            let outputs = vec![(name.to_string(), ty.clone())];
            self.function.operations.push(Operation {
                op: "identity".into(),
                inputs,
                attributes: vec![],
                outputs,
            });
            return Var { name, ty };
        };
        let name = self.name(wish);
        let rename = |n: &mut String| {
            if **n == *var.name {
                *n = name.to_string();
            }
        };
        for o in &mut self.function.operations[at..] {
            o.outputs.iter_mut().for_each(|(n, _)| rename(n));
            for a in o.inputs.iter_mut().flat_map(|(_, a)| a) {
                if let Arg::Name(n) = a {
                    rename(n);
                }
            }
        }
        for v in self.values.iter_mut().flatten().filter(|v| v.name == var.name) {
            v.name = name.clone();
        }
        Var { name, ty: var.ty }
    }

    /// The shapes that an input may have, as they were listed.
    fn enumerated(&self, name: &str, ty: &Type, shapes: &[Vec<i64>]) -> Emitted<Sizes> {
        let fits = |d: &SymInt, n: i64| {
            let (lo, hi) = d.bounds(&|s| self.program.range(s));
            (lo..=hi).contains(&n)
        };
        let wrong = shapes
            .iter()
            .find(|s| s.len() != ty.rank() || !ty.shape.iter().zip(*s).all(|(d, &n)| fits(d, n)));
        match wrong {
            Some(s) => {
                Err(format!("option shapes:{name}: {s:?} is no shape of the input, which is {:?}", ty.shape))
            }
            None if ty.shape.iter().all(|d| d.known().is_some()) => Ok(self.sizes(ty)),
            None => Ok(Sizes::Enumerated(shapes.to_vec())),
        }
    }

    /// The sizes of an input: fixed, or a range for each dimension.
    fn sizes(&self, ty: &Type) -> Sizes {
        let fixed: Option<Vec<i64>> = ty.shape.iter().map(SymInt::known).collect();
        if let Some(shape) = fixed {
            return Sizes::Fixed(shape);
        }
        let bounds = |d: &SymInt| d.bounds(&|s| self.program.range(s));
        let range = |d: &SymInt| {
            let (lo, hi) = bounds(d);
            // What is not bounded is kept as large as such values are.
            (lo.max(1) as u64, (hi < i64::from(i32::MAX)).then_some(hi as u64))
        };
        let usual = |d: &SymInt| {
            let hint = d.as_symbol().and_then(|s| self.program.symbols.get(s)).and_then(|r| r.hint);
            d.known().or(hint).unwrap_or_else(|| bounds(d).0.max(1))
        };
        Sizes::Range(ty.shape.iter().map(range).collect(), ty.shape.iter().map(usual).collect())
    }

    /// The sizes of an output; none are said when they depend on inputs.
    fn sizes_of_output(&self, ty: &Type) -> Sizes {
        Sizes::Fixed(ty.shape.iter().map(SymInt::known).collect::<Option<_>>().unwrap_or_default())
    }

    /// The function, without what nobody reads.
    pub fn finish(mut self) -> Function {
        let mut read: BTreeSet<String> = self.function.outputs.iter().cloned().collect();
        let mut kept = vec![];
        for o in self.function.operations.into_iter().rev() {
            if o.outputs.is_empty() || o.outputs.iter().any(|(name, _)| read.contains(name)) {
                let names = o.inputs.iter().flat_map(|(_, args)| args).filter_map(|a| match a {
                    Arg::Name(name) => Some(name.clone()),
                    Arg::Const(_) => None,
                });
                read.extend(names);
                kept.push(o);
            }
        }
        kept.reverse();
        self.function.operations = kept;
        self.function
    }
}

/// The element type at the border for one of the region's: the runtime converts between it and the tensor's own.
fn outside(ty: CoreType) -> Option<DType> {
    match ty {
        CoreType::F32 | CoreType::F64 => Some(DType::F32),
        CoreType::F16 => Some(DType::F16),
        CoreType::I64 | CoreType::I32 | CoreType::I16 | CoreType::U8 | CoreType::Bool => Some(DType::I32),
        _ => None,
    }
}

impl Settings {
    /// The type of floating-point operators.
    pub fn float(&self) -> DType {
        match self.precision {
            Precision::Float16 => DType::F16,
            Precision::Float32 => DType::F32,
        }
    }
}
