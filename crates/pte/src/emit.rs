//! A lowered program as values and instructions of one execution plan.

use crate::WriteError;
use crate::kernels::{ALL, TO_DIM_ORDER, kernel};
use crate::memory::{Interval, plan as plan_memory};
use crate::schema::{EValue, Instruction, Plan, Tensor};
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Arg, Def, MutationTarget, NodeId, Program, ValueId};
use lowbit_core::ops;
use lowbit_core::symint::{SymOp, SymTree};
use lowbit_core::{SymInt, Tensor as CoreTensor};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What emission gives besides the plan: constants and initial states, in the order of their numbers (from 1).
#[derive(Debug, Default)]
pub(crate) struct Emitted {
    pub plan: Plan,
    pub constants: Vec<CoreTensor>,
    pub states: Vec<CoreTensor>,
}

/// Emits a program whose nodes all have kernels, are delegate calls, or repeat one of `bodies`.
pub(crate) fn emit(program: &Program, bodies: &[Program]) -> Result<Emitted, WriteError> {
    let mut e = Emitter {
        program,
        bodies,
        loops: vec![],
        buffers: BTreeSet::new(),
        out: Emitted { plan: Plan { name: "forward".into(), ..Plan::default() }, ..Emitted::default() },
        value_of: BTreeMap::new(),
        numbers: HashMap::new(),
        symbols: BTreeMap::new(),
        operators: HashMap::new(),
        constants: HashMap::new(),
    };
    e.run()?;
    e.place();
    Ok(e.out)
}

pub(crate) struct Emitter<'p> {
    /// What is being emitted: the program, or the body of a loop.
    pub(crate) program: &'p Program,
    pub(crate) bodies: &'p [Program],
    pub(crate) out: Emitted,
    /// The plan's value for each tensor of `program`.
    pub(crate) value_of: BTreeMap<ValueId, i32>,
    /// First and last instruction of each loop.
    pub(crate) loops: Vec<(usize, usize)>,
    /// Values of buffers that the program overwrites.
    buffers: BTreeSet<i32>,
    /// Literals, each once: lookups only.
    numbers: HashMap<String, i32>,
    /// Values of computed integers.
    symbols: BTreeMap<SymInt, i32>,
    operators: HashMap<(String, String), i32>,
    /// Constants by contents: equal ones are stored once.
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), u32>,
}

impl<'p> Emitter<'p> {
    fn run(&mut self) -> Result<(), WriteError> {
        let g = &self.program.graph;
        for &v in g.inputs() {
            let t = self.tensor(v, 0)?;
            self.out.plan.inputs.push(t);
        }
        for n in g.nodes() {
            self.node(n)?;
        }
        for (target, v) in self.program.mutations() {
            let to = match target {
                MutationTarget::Buffer(c) => self.program.constants[c].value,
                MutationTarget::Input(i) => g.inputs()[i as usize],
            };
            if to == v {
                continue;
            }
            let (to, from) = (self.operand(to)?, self.operand(v)?);
            let blocking = self.literal(EValue::Bool(false));
            self.call("aten::copy_", "", vec![to, from, blocking, to]);
        }
        for &v in self.program.user_outputs() {
            let t = self.operand(v)?;
            self.out.plan.outputs.push(t);
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, v: EValue) -> i32 {
        self.out.plan.values.push(v);
        i32::try_from(self.out.plan.values.len() - 1).expect("fewer than 2^31 values")
    }

    /// A literal, shared with equal ones.
    pub(crate) fn literal(&mut self, v: EValue) -> i32 {
        // Floats by their bits: 0.0 and −0.0 differ.
        let key = match &v {
            EValue::Double(x) => format!("d{:x}", x.to_bits()),
            other => format!("{other:?}"),
        };
        if let Some(&i) = self.numbers.get(&key) {
            return i;
        }
        let i = self.push(v);
        self.numbers.insert(key, i);
        i
    }

    fn operator(&mut self, name: &str, overload: &str) -> i32 {
        let key = (name.to_string(), overload.to_string());
        if let Some(&i) = self.operators.get(&key) {
            return i;
        }
        let i = i32::try_from(self.out.plan.operators.len()).expect("few operators");
        self.out.plan.operators.push(key.clone());
        self.operators.insert(key, i);
        i
    }

    /// Calls a kernel.
    pub(crate) fn call(&mut self, name: &str, overload: &str, args: Vec<i32>) {
        let op = self.operator(name, overload);
        self.out.plan.instructions.push(Instruction::Kernel { op, args });
    }

    /// Adds a tensor value.
    pub(crate) fn tensor(&mut self, v: ValueId, data_buffer: u32) -> Result<i32, WriteError> {
        let (scalar_type, sizes, dynamic) = planned(self.program, v)?;
        let i = self.push(EValue::Tensor(Tensor { scalar_type, sizes, data_buffer, offset: None, dynamic }));
        self.value_of.insert(v, i);
        Ok(i)
    }

    /// The plan's value of a tensor that is read.
    pub(crate) fn operand(&mut self, v: ValueId) -> Result<i32, WriteError> {
        if let Some(&i) = self.value_of.get(&v) {
            return Ok(i);
        }
        let Some(c) = self.program.constant(v) else {
            return Err(WriteError::Internal(format!(
                "%{} is read before it is made",
                self.program.graph.value(v).name
            )));
        };
        let tensor = c.tensor.clone();
        let mutated =
            matches!(self.program.graph.value(v).def(), Def::Const(c) if self.program.is_mutated(c));
        if mutated {
            self.out.states.push(tensor);
            let number = u32::try_from(self.out.states.len()).expect("few buffers");
            let i = self.tensor(v, number)?;
            self.buffers.insert(i);
            return Ok(i);
        }
        let key = (tensor.dtype(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        let number = match self.constants.get(&key) {
            Some(&n) => n,
            None => {
                self.out.constants.push(tensor);
                let n = u32::try_from(self.out.constants.len()).expect("fewer than 2^32 constants");
                self.constants.insert(key, n);
                n
            }
        };
        self.tensor(v, number)
    }

    pub(crate) fn node(&mut self, n: NodeId) -> Result<(), WriteError> {
        let node = self.program.graph.node(n);
        if *node.op() == ops::LOOP {
            return self.repeat(n);
        }
        if *node.op() == ops::CALL_DELEGATE {
            let delegate = ops::views::int(node.arg(0)).unwrap_or(0);
            let mut args = vec![];
            for v in node.operands() {
                args.push(self.operand(v)?);
            }
            for &v in node.outputs() {
                args.push(self.tensor(v, 0)?);
            }
            let delegate = i32::try_from(delegate).expect("few delegates");
            self.out.plan.instructions.push(Instruction::Delegate { delegate, args });
            return Ok(());
        }
        let Some(&(_, name, overload, places)) = kernel(node.op().name) else {
            return Err(WriteError::Internal(format!("{} has no kernel", node.op().name)));
        };
        let mut args = vec![];
        if places == TO_DIM_ORDER {
            args.push(self.operand(node.operands().next().unwrap_or(node.output()))?);
            args.push(self.literal(EValue::Bool(false)));
            let rank = self.program.graph.ty(node.output()).rank();
            args.push(self.int_list(&(0..rank).map(SymInt::from).collect::<Vec<_>>())?);
        } else {
            let all: Vec<usize> =
                if places == ALL { (0..node.args().len()).collect() } else { places.to_vec() };
            for i in all {
                args.push(self.arg(node.arg(i))?);
            }
        }
        let outs: Vec<i32> = node.outputs().iter().map(|&v| self.tensor(v, 0)).collect::<Result<_, _>>()?;
        match (node.op().schema().returns, &outs[..]) {
            // A list: the list itself is the output, and what is returned.
            (None, _) => {
                let list = self.push(EValue::TensorList(outs));
                args.extend([list, list]);
            }
            (_, [out]) => args.extend([*out, *out]),
            _ => {
                args.extend(&outs);
                let list = self.push(EValue::TensorList(outs));
                args.push(list);
            }
        }
        self.call(name, overload, args);
        Ok(())
    }

    fn arg(&mut self, arg: &Arg) -> Result<i32, WriteError> {
        Ok(match arg {
            Arg::None => self.literal(EValue::Null),
            Arg::Value(v) => self.operand(*v)?,
            Arg::Values(vs) => {
                let items = vs.iter().map(|&v| self.operand(v)).collect::<Result<_, _>>()?;
                self.push(EValue::TensorList(items))
            }
            Arg::OptValues(vs) => {
                let items =
                    vs.iter().map(|v| v.map_or(Ok(-1), |v| self.operand(v))).collect::<Result<_, _>>()?;
                self.push(EValue::OptionalTensorList(items))
            }
            Arg::Int(n) => self.int(n)?,
            Arg::Ints(l) => self.int_list(l)?,
            Arg::Float(x) => self.literal(EValue::Double(*x)),
            Arg::Floats(l) => self.literal(EValue::DoubleList(l.clone())),
            Arg::Bool(b) => self.literal(EValue::Bool(*b)),
            Arg::Bools(l) => self.literal(EValue::BoolList(l.clone())),
            // Memory formats and devices mean nothing here.
            Arg::Str(s) if is_format(s) => self.literal(EValue::Null),
            Arg::Str(s) => self.literal(EValue::String(s.to_string())),
            Arg::DType(d) => {
                let number =
                    scalar_type(*d).ok_or_else(|| WriteError::Internal(format!("{d} has no number")))?;
                self.literal(EValue::Int(number.into()))
            }
            other => return Err(WriteError::Internal(format!("{other:?} cannot be written"))),
        })
    }

    pub(crate) fn int_list(&mut self, list: &[SymInt]) -> Result<i32, WriteError> {
        let items: Vec<i64> =
            list.iter().map(|n| Ok(self.int(n)?.into())).collect::<Result<_, WriteError>>()?;
        Ok(self.literal(EValue::IntList(items)))
    }

    /// An integer: a literal, or one that instructions compute from sizes of the inputs.
    pub(crate) fn int(&mut self, n: &SymInt) -> Result<i32, WriteError> {
        if let Some(n) = n.known() {
            return Ok(self.literal(EValue::Int(n)));
        }
        if let Some(&i) = self.symbols.get(n) {
            return Ok(i);
        }
        let i = self.tree(&n.to_tree())?;
        self.symbols.insert(n.clone(), i);
        Ok(i)
    }

    fn tree(&mut self, t: &SymTree) -> Result<i32, WriteError> {
        match t {
            SymTree::Known(n) => Ok(self.literal(EValue::Int(*n))),
            SymTree::Symbol(s) => {
                let key = SymInt::symbol(s.clone());
                if let Some(&i) = self.symbols.get(&key) {
                    return Ok(i);
                }
                let g = &self.program.graph;
                let found = g.inputs().iter().find_map(|&v| {
                    let d = g.ty(v).shape.iter().position(|d| *d == key)?;
                    Some((v, d))
                });
                let (v, d) = found.ok_or_else(|| WriteError::Symbol(s.to_string()))?;
                let (x, d) = (self.operand(v)?, self.literal(EValue::Int(d as i64)));
                let out = self.push(EValue::Int(0));
                self.call("aten::sym_size", "int", vec![x, d, out]);
                self.symbols.insert(key, out);
                Ok(out)
            }
            SymTree::Op(op, a, b) => {
                let (a, b) = (self.tree(a)?, self.tree(b)?);
                let name = match op {
                    SymOp::Add => "executorch_prim::add",
                    SymOp::Mul => "executorch_prim::mul",
                    SymOp::FloorDiv => "executorch_prim::floordiv",
                    SymOp::Max => "executorch_prim::sym_max",
                    SymOp::Min => "executorch_prim::sym_min",
                };
                let out = self.push(EValue::Int(0));
                self.call(name, "Scalar", vec![a, b, out]);
                Ok(out)
            }
        }
    }

    /// Plans memory for every tensor that is not a constant.
    fn place(&mut self) {
        let states = std::mem::take(&mut self.buffers);
        let plan = &mut self.out.plan;
        let end = plan.instructions.len() + 1;
        let mut life: BTreeMap<i32, (usize, usize)> = BTreeMap::new();
        let touch = |life: &mut BTreeMap<i32, (usize, usize)>, v: i32, at: usize| {
            let l = life.entry(v).or_insert((at, at));
            *l = (l.0.min(at), l.1.max(at));
        };
        for (at, i) in plan.instructions.iter().enumerate() {
            let args = match i {
                Instruction::Kernel { args, .. } | Instruction::Delegate { args, .. } => &args[..],
                Instruction::JumpFalse { .. } => &[],
            };
            for &v in args {
                match &plan.values[v as usize] {
                    EValue::TensorList(l) | EValue::OptionalTensorList(l) => {
                        l.iter().filter(|&&v| v >= 0).for_each(|&v| touch(&mut life, v, at + 1));
                    }
                    _ => touch(&mut life, v, at + 1),
                }
            }
        }
        plan.inputs.iter().for_each(|&v| touch(&mut life, v, 0));
        plan.outputs.iter().for_each(|&v| touch(&mut life, v, end));
        for &(first, last) in &self.loops {
            crate::loops::stretch(life.values_mut(), first + 1, last + 1);
        }
        let (mut who, mut intervals) = (vec![], vec![]);
        for (i, v) in plan.values.iter().enumerate() {
            let EValue::Tensor(t) = v else { continue };
            let index = i32::try_from(i).expect("counted above");
            let state = states.contains(&index);
            if t.data_buffer > 0 && !state {
                continue;
            }
            let (first, last) = if state { (0, end) } else { life.get(&index).copied().unwrap_or((0, 0)) };
            let elements: u64 = t.sizes.iter().map(|&s| s.max(0) as u64).product();
            let size = elements * element_size(t.scalar_type);
            who.push(i);
            intervals.push(Interval { first, last, size });
        }
        let (offsets, total) = plan_memory(&intervals);
        for (i, o) in who.into_iter().zip(offsets) {
            if let EValue::Tensor(t) = &mut self.out.plan.values[i] {
                t.offset = Some(o);
            }
        }
        self.out.plan.memory = total;
    }
}

fn is_format(s: &str) -> bool {
    s.ends_with("_format") || s.starts_with("channels_last") || s.starts_with("cpu") || s == "strided"
}

/// The number of an element type in `c10::ScalarType`.
pub(crate) fn scalar_type(d: DType) -> Option<i8> {
    Some(match d {
        DType::U8 => 0,
        DType::I8 => 1,
        DType::I16 => 2,
        DType::I32 => 3,
        DType::I64 => 4,
        DType::F16 => 5,
        DType::F32 => 6,
        DType::F64 => 7,
        DType::Bool => 11,
        DType::BF16 => 15,
        DType::U16 => 27,
        _ => return None,
    })
}

fn element_size(scalar_type: i8) -> u64 {
    DType::ALL.iter().find(|d| self::scalar_type(**d) == Some(scalar_type)).map_or(0, |d| d.size() as u64)
}

/// Only for messages.
pub(crate) fn describe(program: &Program, n: NodeId) -> String {
    let node = program.graph.node(n);
    match node.module.path() {
        "" => format!("{} ({})", node.name, node.op().name),
        path => format!("{} ({} in {path})", node.name, node.op().name),
    }
}

/// Element type and largest sizes of a tensor, and whether any size may be smaller.
pub(crate) fn planned(program: &Program, v: ValueId) -> Result<(i8, Vec<i32>, bool), WriteError> {
    let value = program.graph.value(v);
    let (name, ty) = (|| value.name.to_string(), || value.ty.to_string());
    let scalar_type =
        scalar_type(value.ty.dtype).ok_or_else(|| WriteError::Type { value: name(), ty: ty() })?;
    let mut dynamic = false;
    let sizes = value.ty.shape.iter().map(|d| {
        dynamic |= d.known().is_none();
        let (_, hi) = d.bounds(&|s| program.range(s));
        i32::try_from(hi).map_err(|_| WriteError::Unbounded { value: name(), ty: ty() })
    });
    Ok((scalar_type, sizes.collect::<Result<_, _>>()?, dynamic))
}
