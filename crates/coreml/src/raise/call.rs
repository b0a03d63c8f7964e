//! [`Call`]: an operator of a package with its arguments, as the rows see it.

use super::{Raised, Raiser, Value, constants, sizes};
use crate::mil::{self, Constant, DType, Operation};
use lowbit_core::dtype::DType as CoreType;
use lowbit_core::ir::{Arg, ConstKind, NewNode, TensorType, ValueId};
use lowbit_core::ops::{OpDef, wrap_dim};
use lowbit_core::symint::SymInt;
use lowbit_core::{Tensor, ops};

/// An operator to be raised. Nodes that are made for it are named after it.
pub struct Call<'r> {
    /// The program so far.
    pub r: &'r mut Raiser,
    /// The operator.
    pub op: &'r Operation,
    /// The name of its first result.
    place: &'r str,
}

impl<'r> Call<'r> {
    /// The operator in the place where it stands.
    pub fn new(r: &'r mut Raiser, op: &'r Operation, place: &'r str) -> Self {
        Call { r, op, place }
    }

    /// The arguments of that name; none when it is left out.
    fn args(&self, name: &str) -> &'r [mil::Arg] {
        self.op.inputs.iter().find(|(n, _)| n == name).map_or(&[], |(_, a)| a)
    }

    /// Whether an argument is given.
    pub fn has(&self, name: &str) -> bool {
        !self.args(name).is_empty() || self.op.attribute(name).is_some()
    }

    /// The only argument of that name.
    fn arg(&self, name: &str) -> Raised<Option<&'r mil::Arg>> {
        match self.args(name) {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => Err(format!("argument {name} has {} values", several.len())),
        }
    }

    fn one(&mut self, arg: &'r mil::Arg, name: &str) -> Raised<ValueId> {
        match arg {
            mil::Arg::Name(n) => self.r.tensor(n),
            mil::Arg::Const(c) => {
                let t = constants::tensor(c).map_err(|e| format!("argument {name}: {e}"))?;
                Ok(self.constant_tensor(name, t))
            }
        }
    }

    /// A constant that belongs to this operator.
    pub fn constant_tensor(&mut self, name: &str, t: Tensor) -> ValueId {
        self.r.program.add_constant(&format!("{}.{name}", self.place), ConstKind::Parameter, t)
    }

    /// A tensor.
    pub fn tensor(&mut self, name: &str) -> Raised<ValueId> {
        self.opt_tensor(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// A tensor that may be left out.
    pub fn opt_tensor(&mut self, name: &str) -> Raised<Option<ValueId>> {
        if let Some(c) = self.op.attribute(name) {
            let t = constants::tensor(c).map_err(|e| format!("argument {name}: {e}"))?;
            return Ok(Some(self.constant_tensor(name, t)));
        }
        match self.arg(name)? {
            Some(a) => self.one(a, name).map(Some),
            None => Ok(None),
        }
    }

    /// A list of tensors.
    pub fn tensors(&mut self, name: &str) -> Raised<Vec<ValueId>> {
        match self.args(name) {
            [] => Err(format!("argument {name} is missing")),
            args => args.iter().map(|a| self.one(a, name)).collect(),
        }
    }

    /// The values of an argument, where they have names.
    pub fn values(&self, name: &str) -> impl Iterator<Item = Option<&Value>> {
        self.args(name).iter().map(|a| match a {
            mil::Arg::Name(n) => self.r.values.get(n),
            mil::Arg::Const(_) => None,
        })
    }

    /// The state that an argument names.
    pub fn state(&self, name: &str) -> Raised<lowbit_core::ir::ConstId> {
        match self.values(name).next() {
            Some(Some(Value::State(c))) => Ok(*c),
            _ => Err(format!("argument {name} is no state")),
        }
    }

    /// The constant behind each value of an argument, where it is one.
    pub fn constants_each(&self, name: &str) -> Vec<Option<Constant>> {
        if let Some(c) = self.op.attribute(name) {
            return vec![Some(c.clone())];
        }
        let of = |a: &mil::Arg| match a {
            mil::Arg::Const(c) => Some(c.clone()),
            mil::Arg::Name(n) => match self.r.values.get(n)? {
                Value::Const(c) => Some(c.clone()),
                Value::Sizes(l) => l.constant(),
                // A constant that something has read as a tensor already; states are none.
                Value::Tensor(v) => {
                    let k = self.r.program.constant(*v).filter(|k| k.kind != ConstKind::Buffer)?;
                    read_back(&k.tensor)
                }
                Value::State(_) => None,
            },
        };
        self.args(name).iter().map(of).collect()
    }

    /// A constant, that may be left out.
    pub fn opt_constant(&self, name: &str) -> Raised<Option<Constant>> {
        let mut all = self.constants_each(name);
        match (all.pop(), all.len()) {
            (None, _) => Ok(None),
            (_, n @ 1..) => Err(format!("argument {name} has {} values", n + 1)),
            (Some(None), 0) => Err(format!("argument {name} is computed; lowbit takes constants there")),
            (Some(c), 0) => Ok(c),
        }
    }

    /// A constant.
    pub fn constant(&self, name: &str) -> Raised<Constant> {
        self.opt_constant(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// Integers, that may be left out.
    pub fn opt_ints(&self, name: &str) -> Raised<Option<Vec<i64>>> {
        let c = self.opt_constant(name)?;
        c.map(|c| constants::ints(&c).map_err(|e| format!("argument {name} is {e}"))).transpose()
    }

    /// Integers.
    pub fn ints(&self, name: &str) -> Raised<Vec<i64>> {
        self.opt_ints(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// An integer, that may be left out.
    pub fn opt_int(&self, name: &str) -> Raised<Option<i64>> {
        match self.opt_ints(name)?.as_deref() {
            None => Ok(None),
            Some([n]) => Ok(Some(*n)),
            Some(l) => Err(format!("argument {name} has {} integers", l.len())),
        }
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Raised<i64> {
        self.opt_int(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// A truth value.
    pub fn truth(&self, name: &str, default: bool) -> Raised<bool> {
        Ok(self.opt_int(name)?.map_or(default, |n| n != 0))
    }

    /// A number, that may be left out; an integer counts too.
    pub fn opt_float(&self, name: &str) -> Raised<Option<f64>> {
        let Some(c) = self.opt_constant(name)? else { return Ok(None) };
        let found = match c.as_floats() {
            Some(l) => l.iter().map(|&x| f64::from(x)).collect(),
            None => c.as_ints().unwrap_or_default().iter().map(|&n| n as f64).collect::<Vec<_>>(),
        };
        match found[..] {
            [x] => Ok(Some(x)),
            _ => Err(format!("argument {name} is {:?}, no number", c.ty)),
        }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Raised<f64> {
        self.opt_float(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// A string.
    pub fn str(&self, name: &str, default: &str) -> Raised<String> {
        let Some(c) = self.opt_constant(name)? else { return Ok(default.into()) };
        c.as_str().map(String::from).ok_or_else(|| format!("argument {name} is {:?}, no string", c.ty))
    }

    /// Integers that may depend on the inputs' sizes.
    pub fn opt_sizes(&self, name: &str) -> Raised<Option<Vec<SymInt>>> {
        if let Some(Some(Value::Sizes(l))) = self.values(name).next() {
            return Ok(Some(l.entries.clone()));
        }
        let known = self.opt_ints(name).map_err(|_| {
            format!(
                "argument {name} is computed from more than the sizes of inputs, which lowbit does not follow"
            )
        })?;
        Ok(known.map(|l| l.into_iter().map(SymInt::from).collect()))
    }

    /// Integers that may depend on the inputs' sizes.
    pub fn sizes(&self, name: &str) -> Raised<Vec<SymInt>> {
        self.opt_sizes(name)?.ok_or_else(|| format!("argument {name} is missing"))
    }

    /// An integer that may depend on the inputs' sizes.
    pub fn size(&self, name: &str) -> Raised<SymInt> {
        match &self.sizes(name)?[..] {
            [n] => Ok(n.clone()),
            l => Err(format!("argument {name} has {} integers", l.len())),
        }
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        self.r.program.graph.ty(v)
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, v: ValueId) -> usize {
        self.ty(v).rank()
    }

    /// Whether a value holds floats.
    pub fn is_float(&self, v: ValueId) -> bool {
        self.ty(v).dtype.is_float()
    }

    /// An axis counted from the front.
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Raised<usize> {
        let axis = self.opt_int(name)?.unwrap_or(default);
        if rank == 0 {
            return Err(format!("argument {name}: a single number has no axes"));
        }
        wrap_dim(axis, rank).map_err(|e| format!("argument {name}: {}", e.message))
    }

    /// Axes counted from the front, ascending, each once.
    pub fn axes(&self, name: &str, rank: usize) -> Raised<Option<Vec<usize>>> {
        let Some(list) = self.opt_ints(name)? else { return Ok(None) };
        let axes = list.iter().map(|&d| match rank {
            0 => Err(format!("argument {name}: a single number has no axes")),
            _ => wrap_dim(d, rank).map_err(|e| format!("argument {name}: {}", e.message)),
        });
        let mut axes = axes.collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        match axes.windows(2).find(|w| w[0] == w[1]) {
            Some(w) => Err(format!("argument {name} names axis {} twice", w[0])),
            None => Ok(Some(axes)),
        }
    }

    /// A node's results.
    pub fn nodes(&mut self, op: &'static OpDef, args: impl Into<Vec<Arg>>) -> Raised<Vec<ValueId>> {
        let name = format!("{}.{}", self.place, op.short_name());
        self.r.append(NewNode::new(op, args).named(name))
    }

    /// A node's first result.
    pub fn node(&mut self, op: &'static OpDef, args: impl Into<Vec<Arg>>) -> Raised<ValueId> {
        let made = self.nodes(op, args)?;
        made.first().copied().ok_or_else(|| format!("{} has no result", op.name))
    }

    /// A value in another element type.
    pub fn cast(&mut self, v: ValueId, to: CoreType) -> Raised<ValueId> {
        let name = format!("{}.cast", self.place);
        self.r.cast(v, to, &name)
    }

    /// A value in another shape.
    pub fn reshape(&mut self, v: ValueId, shape: Vec<SymInt>) -> Raised<ValueId> {
        if self.ty(v).shape == shape {
            return Ok(v);
        }
        self.node(&ops::RESHAPE, [v.into(), shape.into()])
    }

    /// A value with its dimensions in another order.
    pub fn permute(&mut self, v: ValueId, order: &[usize]) -> Raised<ValueId> {
        if order.iter().enumerate().all(|(i, &d)| i == d) {
            return Ok(v);
        }
        self.node(&ops::PERMUTE, [v.into(), Arg::ints(order.iter().copied())])
    }

    /// The sum, product … of two values or of a value and a number.
    pub fn scaled(&mut self, v: ValueId, by: f64) -> Raised<ValueId> {
        if by == 1.0 { Ok(v) } else { self.node(&ops::MUL_SCALAR, [v.into(), Arg::Float(by)]) }
    }

    /// A value with a number added.
    pub fn shifted(&mut self, v: ValueId, by: f64) -> Raised<ValueId> {
        if by == 0.0 { Ok(v) } else { self.node(&ops::ADD_SCALAR, [v.into(), Arg::Float(by)]) }
    }

    /// The declared element type of the first result.
    pub fn declared(&self) -> Raised<DType> {
        self.op.outputs.first().map(|(_, t)| t.dtype).ok_or_else(|| "it has no result".into())
    }

    /// Integers of the sizes that an argument stands for, when it is a list of such: see [`sizes`].
    pub fn list(&self, name: &str) -> Option<sizes::List> {
        let several = self.values(name).count();
        match self.values(name).next()? {
            Some(Value::Sizes(l)) if several == 1 => Some(l.clone()),
            _ => sizes::List::of(&self.opt_constant(name).ok()??),
        }
    }
}

/// A constant of the program as one of MIL's: floats, integers, truth values.
fn read_back(t: &Tensor) -> Option<Constant> {
    let dtype = match t.dtype() {
        CoreType::F32 => DType::F32,
        CoreType::I8 => DType::I8,
        CoreType::U8 => DType::U8,
        CoreType::I16 => DType::I16,
        CoreType::U16 => DType::U16,
        CoreType::I32 => DType::I32,
        CoreType::Bool => DType::Bool,
        _ => return None,
    };
    Some(Constant::new(dtype, t.shape().iter().copied(), t.bytes().clone()))
}
