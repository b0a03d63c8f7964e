//! Arguments of the file to [`Arg`]s: found by name, completed with the schema's defaults, of the kind the schema wants.

use super::memory::TensorId;
use super::scope::Binding;
use super::{Importer, Scope, symbols};
use crate::schema;
use crate::schema::{
    Argument, NamedArgument, OptionalTensorArgument, Str, SymBoolArgument, SymFloatArgument, SymIntArgument,
};
use lowbit_core::ir::{Arg, ConstKind, ModuleStack, ValueId};
use lowbit_core::ops::{ArgKind, ArgSpec, OpDef, lookup};
use lowbit_core::{DType, SymInt, Tensor};

/// Arguments of a node, ready for the graph.
pub struct Call {
    /// The operator, which may be another overload than the file names: see [`Importer::call`].
    pub op: &'static OpDef,
    /// Complete, in schema order.
    pub args: Vec<Arg>,
    /// The tensor of argument 0, when it is one.
    pub first: Option<TensorId>,
}

impl<'a> Importer<'a> {
    /// The arguments of a call of `op`.
    ///
    /// PyTorch lets a Python number stand where the schema says `Tensor` (`x + 1` is `aten.add.Tensor(x, 1)`). Such a
    /// call becomes the overload that takes a number, `aten.add.Scalar`, which computes the same; where there is none,
    /// the number becomes a constant.
    pub fn call(
        &mut self,
        scope: &Scope<'a>,
        op: &'static OpDef,
        inputs: &'a [NamedArgument<'a>],
        name: &str,
        module: &ModuleStack,
    ) -> Result<Call, String> {
        let op = scalar_overload(op, inputs).unwrap_or(op);
        let schema = op.schema();
        let mut given: Vec<Option<&'a Argument<'a>>> = vec![None; schema.args.len()];
        for (i, input) in inputs.iter().enumerate() {
            // In-place operators call their operand `self`, their twins not always (`dropout` has `input`).
            let place = schema.index_of(&input.name).or((i == 0 && &*input.name == "self").then_some(0));
            match place {
                Some(p) if given[p].is_some() => {
                    return Err(format!("argument {} is given twice", input.name));
                }
                Some(p) => given[p] = Some(&input.arg),
                None if matches!(input.arg, Argument::None(_)) => {}
                None => {
                    return Err(format!("argument {} is not one of {}{}", input.name, op.name, op.schema));
                }
            }
        }
        let mut args = Vec::with_capacity(schema.args.len());
        let mut first = None;
        for (i, (spec, given)) in schema.args.iter().zip(&given).enumerate() {
            let arg = match (given, &spec.default) {
                (Some(Argument::None(_)), _) if spec.optional => Arg::None,
                (Some(a), _) => {
                    if let (0, Argument::Tensor(t)) = (i, a) {
                        first = Some(scope.tensor(&t.name)?);
                    }
                    self.arg(scope, spec, a).map_err(|e| format!("argument {} {e}", spec.name))?
                }
                (None, Some(default)) => default.clone(),
                (None, None) => return Err(format!("argument {} is missing", spec.name)),
            };
            args.push(arg);
        }
        self.numbers_to_tensors(&schema.args, &mut args, name, module)?;
        Ok(Call { op, args, first })
    }

    /// One argument. A number where the schema says `Tensor` stays a number for now.
    fn arg(&mut self, scope: &Scope<'a>, spec: &ArgSpec, arg: &'a Argument<'a>) -> Result<Arg, String> {
        use ArgKind as K;
        let wrong = || Err(format!("should be {:?}, is {}", spec.kind, describe(arg)));
        Ok(match (spec.kind, arg) {
            (K::Tensor, Argument::Tensor(t)) => Arg::Value(self.tensor_value(scope, &t.name)?),
            (K::Tensor, Argument::OptTensor(OptionalTensorArgument::Tensor(t))) => {
                Arg::Value(self.tensor_value(scope, &t.name)?)
            }
            (K::Tensor, Argument::OptTensor(OptionalTensorArgument::None(_))) => Arg::None,
            (K::TensorList, Argument::Tensors(l)) => {
                Arg::Values(l.iter().map(|t| self.tensor_value(scope, &t.name)).collect::<Result<_, _>>()?)
            }
            (K::OptTensorList, Argument::Tensors(l)) => Arg::OptValues(
                l.iter().map(|t| self.tensor_value(scope, &t.name).map(Some)).collect::<Result<_, _>>()?,
            ),
            (K::OptTensorList, Argument::OptTensors(l)) => {
                let one = |t: &'a OptionalTensorArgument<'a>| match t {
                    OptionalTensorArgument::Tensor(t) => self.tensor_value(scope, &t.name).map(Some),
                    OptionalTensorArgument::None(_) => Ok(None),
                    OptionalTensorArgument::Other(k) => Err(format!("holds a tensor of kind {k}")),
                };
                Arg::OptValues(l.iter().map(one).collect::<Result<_, _>>()?)
            }

            (K::Int | K::Scalar | K::Tensor, Argument::Int(n)) => Arg::from(*n),
            (K::Int | K::Scalar | K::Tensor, Argument::SymInt(s)) => Arg::Int(scope.int(s)?),
            (K::Int, Argument::Bool(b)) => Arg::from(i64::from(*b)),
            (K::IntList, Argument::Int(n)) => Arg::ints([*n]),
            (K::IntList, Argument::SymInt(s)) => Arg::Ints(vec![scope.int(s)?]),
            (K::IntList, Argument::Ints(l)) => Arg::ints(l.iter().copied()),
            (K::IntList, Argument::SymInts(l)) => {
                Arg::Ints(l.iter().map(|s| scope.int(s)).collect::<Result<_, _>>()?)
            }
            (K::IntList, Argument::Tensors(l)) if l.is_empty() => Arg::Ints(vec![]),

            (K::Float | K::Scalar | K::Tensor, Argument::Float(x)) => Arg::Float(x.0),
            (K::Float | K::Scalar | K::Tensor, Argument::SymFloat(s)) => Arg::Float(scope.float(s)?),
            (K::Float, Argument::Int(n)) => Arg::Float(*n as f64),
            (K::Float, Argument::SymInt(s)) => match scope.int(s)?.known() {
                Some(n) => Arg::Float(n as f64),
                None => {
                    return Err("is a float that depends on a dynamic size, which lowbit cannot keep".into());
                }
            },
            (K::FloatList, Argument::Floats(l)) => Arg::Floats(l.iter().map(|x| x.0).collect()),
            (K::FloatList, Argument::Ints(l)) => Arg::Floats(l.iter().map(|&n| n as f64).collect()),
            (K::FloatList, Argument::Float(x)) => Arg::Floats(vec![x.0]),
            (K::FloatList, Argument::SymFloats(l)) => {
                Arg::Floats(l.iter().map(|s| scope.float(s)).collect::<Result<_, _>>()?)
            }

            (K::Bool | K::Scalar | K::Tensor, Argument::Bool(b)) => Arg::Bool(*b),
            (K::Bool | K::Scalar | K::Tensor, Argument::SymBool(s)) => Arg::Bool(scope.bool(s)?),
            (K::Bool, Argument::Int(n @ (0 | 1))) => Arg::Bool(*n == 1),
            (K::BoolList, Argument::Bools(l)) => Arg::Bools(l.clone()),
            (K::Str, Argument::Str(s)) => Arg::from(&**s),
            (K::DType, Argument::DType(n)) => Arg::DType(symbols::dtype(*n)?),
            (K::Other, Argument::MemoryFormat(n)) => match schema::memory_format(*n) {
                Some(f) => Arg::from(f),
                None => return Err(format!("is memory format number {n}, which lowbit does not know")),
            },
            (K::Other, Argument::Layout(schema::STRIDED)) => Arg::from("strided"),
            (K::Other, Argument::Layout(_)) => {
                return Err("asks for a sparse tensor; lowbit knows dense ones".into());
            }
            (K::Other, Argument::Device(d)) => match d.index {
                Some(i) => Arg::from(&format!("{}:{i}", d.kind)[..]),
                None => Arg::from(&*d.kind),
            },
            (K::Other, Argument::Str(s)) => Arg::from(&**s),
            _ => return wrong(),
        })
    }

    /// The current value of a tensor by its name in the file.
    fn tensor_value(&mut self, scope: &Scope<'a>, name: &Str<'a>) -> Result<ValueId, String> {
        let t = scope.tensor(name)?;
        self.memory.read(&mut self.program, t)
    }

    /// Replaces numbers in tensor places by constants of no dimensions, of a type that leaves the result's type what
    /// PyTorch makes it (a Python number only ever changes a tensor's category: bool, integer, float).
    fn numbers_to_tensors(
        &mut self,
        specs: &[ArgSpec],
        args: &mut [Arg],
        name: &str,
        module: &ModuleStack,
    ) -> Result<(), String> {
        let among = args
            .iter()
            .filter_map(|a| match a {
                Arg::Value(v) => Some(self.program.graph.ty(*v).dtype),
                _ => None,
            })
            .reduce(DType::promote);
        for (spec, arg) in specs.iter().zip(args) {
            if spec.kind != ArgKind::Tensor {
                continue;
            }
            let number = match arg {
                Arg::Bool(b) => Tensor::from_bools(&[], vec![*b]).expect("one element is what a scalar has"),
                Arg::Int(SymInt::Known(n)) => match among {
                    Some(d) if d.is_float() => float(*n as f64, among),
                    _ => Tensor::scalar(*n),
                },
                Arg::Int(n) => {
                    let dtype = match among {
                        Some(d) if d.is_float() => float(0.0, among).dtype(),
                        _ => DType::I64,
                    };
                    let args = vec![Arg::Ints(vec![]), Arg::Int(n.clone()), Arg::DType(dtype)];
                    let (memory, program) = (&mut self.memory, &mut self.program);
                    let name = format!("{name}_{}", spec.name).into();
                    *arg = memory.emit(program, "aten.full.default", args, name, module.clone())?.into();
                    continue;
                }
                Arg::Float(x) => float(*x, among),
                _ => continue,
            };
            *arg =
                self.program.add_constant(&format!("{name}_{}", spec.name), ConstKind::Tensor, number).into();
        }
        Ok(())
    }
}

/// A float constant to be combined with a tensor of type `with`; half-precision operators compute in f32 inside.
fn float(x: f64, with: Option<DType>) -> Tensor {
    match with {
        Some(DType::F64) => Tensor::scalar(x),
        _ => Tensor::scalar(x as f32),
    }
}

/// The overload that takes numbers where `op` wants tensors and the call gives numbers.
fn scalar_overload(op: &OpDef, inputs: &[NamedArgument<'_>]) -> Option<&'static OpDef> {
    let is_number = |a: &Argument<'_>| {
        matches!(
            a,
            Argument::Int(_)
                | Argument::Float(_)
                | Argument::Bool(_)
                | Argument::SymInt(_)
                | Argument::SymFloat(_)
        )
    };
    let schema = op.schema();
    let number_at = |name: &str| {
        let spec = schema.index_of(name).map(|i| schema.args[i].kind);
        spec == Some(ArgKind::Tensor) && inputs.iter().any(|i| &*i.name == name && is_number(&i.arg))
    };
    let (packet, overload) = op.name.rsplit_once('.')?;
    let twin = match (packet, overload) {
        ("aten.where", "self") => match (number_at("self"), number_at("other")) {
            (true, true) => "Scalar",
            (true, false) => "ScalarSelf",
            (false, true) => "ScalarOther",
            (false, false) => return None,
        },
        (_, "Tensor_Tensor") if number_at("exponent") => "Tensor_Scalar",
        _ if !number_at("other") => return None,
        (_, "Tensor") => "Scalar",
        (_, "Tensor_mode") => "Scalar_mode",
        ("aten.floor_divide", "default") => "Scalar",
        _ => return None,
    };
    lookup(&format!("{packet}.{twin}"))
}

/// What a call does only in training, when it does: drop elements at random, or update the statistics it normalizes by
/// (which PyTorch does unseen, without an in-place operator).
pub fn training(op: &OpDef, args: &[Arg]) -> Option<&'static str> {
    let schema = op.schema();
    let arg = |name: &str| schema.index_of(name).map(|i| &args[i]);
    let on = |name: &str| arg(name) == Some(&Arg::Bool(true));
    let positive = |name: &str| matches!(arg(name), Some(Arg::Float(p)) if *p > 0.0);
    let dropout = on("train") && (positive("p") || positive("dropout"));
    let statistics =
        (on("training") || on("use_input_stats")) && matches!(arg("running_mean"), Some(Arg::Value(_)));
    match () {
        () if dropout || positive("dropout_p") => Some("drops elements at random"),
        () if statistics => Some("updates its running statistics"),
        () => None,
    }
}

/// What an argument is, for errors.
pub fn describe(arg: &Argument<'_>) -> String {
    match arg {
        Argument::None(_) => "None".into(),
        Argument::Tensor(t) => format!("tensor %{}", t.name),
        Argument::Tensors(_) | Argument::OptTensors(_) => "a list of tensors".into(),
        Argument::OptTensor(_) => "an optional tensor".into(),
        Argument::Int(n) => format!("integer {n}"),
        Argument::Ints(l) => format!("integers {l:?}"),
        Argument::Float(x) => format!("float {}", x.0),
        Argument::Floats(_) | Argument::SymFloats(_) => "a list of floats".into(),
        Argument::Str(s) => format!("string {s:?}"),
        Argument::SymInt(SymIntArgument::Name(n)) => format!("size %{n}"),
        Argument::SymInt(_) => "an integer".into(),
        Argument::SymInts(_) => "a list of sizes".into(),
        Argument::DType(_) => "an element type".into(),
        Argument::MemoryFormat(_) => "a memory format".into(),
        Argument::Layout(_) => "a layout".into(),
        Argument::Device(_) => "a device".into(),
        Argument::Bool(b) => format!("{b}"),
        Argument::Bools(_) => "a list of booleans".into(),
        Argument::SymBool(_) => "a condition on sizes".into(),
        Argument::SymFloat(_) => "a float that depends on sizes".into(),
        Argument::Graph(_) => "a graph".into(),
        Argument::CustomObj(o) => format!("an object of class {}", o.class_fqn),
        Argument::Other(k) => format!("an argument of kind {k}, which lowbit does not know"),
    }
}

impl<'a> Scope<'a> {
    fn find(&self, name: &str) -> Result<&Binding, String> {
        self.get(name).ok_or_else(|| format!("reads %{name}, which nothing before it defines"))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<TensorId, String> {
        match self.find(name)? {
            Binding::Tensor(t) => Ok(*t),
            other => Err(format!("reads %{name} as a tensor; it is {}", other.describe())),
        }
    }

    /// An integer.
    pub fn int(&self, arg: &SymIntArgument<'_>) -> Result<SymInt, String> {
        let name = match arg {
            SymIntArgument::Int(n) => return Ok(SymInt::Known(*n)),
            SymIntArgument::Name(n) => n,
            SymIntArgument::Other(k) => return Err(format!("holds a size of kind {k}")),
        };
        match self.find(name)? {
            Binding::Int(Ok(n)) => Ok(n.clone()),
            Binding::Int(Err(why)) => Err(format!("reads %{name}: {why}")),
            other => Err(format!("reads %{name} as an integer; it is {}", other.describe())),
        }
    }

    /// A float that is the same in every run.
    pub fn float(&self, arg: &SymFloatArgument<'_>) -> Result<f64, String> {
        let name = match arg {
            SymFloatArgument::Float(x) => return Ok(x.0),
            SymFloatArgument::Name(n) => n,
            SymFloatArgument::Other(k) => return Err(format!("holds a float of kind {k}")),
        };
        match self.find(name)? {
            Binding::Float(Some(x)) => Ok(*x),
            Binding::Float(None) => Err(format!(
                "reads %{name}, a float that depends on a dynamic size or on the data, which lowbit cannot keep"
            )),
            other => Err(format!("reads %{name} as a float; it is {}", other.describe())),
        }
    }

    /// A condition that is the same in every run.
    pub fn bool(&self, arg: &SymBoolArgument<'_>) -> Result<bool, String> {
        let name = match arg {
            SymBoolArgument::Bool(b) => return Ok(*b),
            SymBoolArgument::Name(n) => n,
            SymBoolArgument::Other(k) => return Err(format!("holds a condition of kind {k}")),
        };
        match self.find(name)? {
            Binding::Bool(Some(b)) => Ok(*b),
            Binding::Bool(None) => {
                Err(format!("reads %{name}, a condition on dynamic sizes, which lowbit cannot keep"))
            }
            other => Err(format!("reads %{name} as a condition; it is {}", other.describe())),
        }
    }
}
