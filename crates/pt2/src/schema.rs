//! The JSON that `torch.export.save` writes (PyTorch's `torch/_export/serde/schema.py`, version 8), as far as lowbit
//! needs it. Strings borrow from the file where they hold no escapes; fields that are not listed here, stack traces above
//! all, are skipped without being stored, which also lets newer minor versions through.

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

/// The major version of the schema that lowbit reads and writes.
pub const MAJOR: i64 = 8;

/// The minor version of what lowbit writes.
pub const MINOR: i64 = 20;

/// A string that borrows from the JSON text if it can.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Str<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(s.to_owned())))
            }
        }
        d.deserialize_str(V)
    }
}

impl Deref for Str<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Str<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Str<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A float; infinities and NaN come as strings.
#[derive(Copy, Clone, Debug)]
pub struct Float(pub f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Float;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"Infinity\", \"-Infinity\" or \"NaN\"")
            }
            fn visit_f64<E>(self, x: f64) -> Result<Float, E> {
                Ok(Float(x))
            }
            fn visit_i64<E>(self, x: i64) -> Result<Float, E> {
                Ok(Float(x as f64))
            }
            fn visit_u64<E>(self, x: u64) -> Result<Float, E> {
                Ok(Float(x as f64))
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Float, E> {
                match s {
                    "Infinity" => Ok(Float(f64::INFINITY)),
                    "-Infinity" => Ok(Float(f64::NEG_INFINITY)),
                    "NaN" => Ok(Float(f64::NAN)),
                    _ => Err(E::custom(format!("{s:?} is no number"))),
                }
            }
        }
        d.deserialize_any(V)
    }
}

/// A bound of a range: integers that do not fit saturate.
#[derive(Copy, Clone, Debug)]
pub struct Bound(pub i64);

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Float(x) = match serde_json::Number::deserialize(d)? {
            n if n.is_i64() => return Ok(Bound(n.as_i64().unwrap_or(i64::MAX))),
            n => Float(n.as_f64().unwrap_or(f64::INFINITY)),
        };
        Ok(Bound(x as i64))
    }
}

/// A union of PyTorch's schema: an object with one key that names the case. Cases of newer versions become `Other`, so
/// that the error can say where they occur.
macro_rules! union {
    ($(#[$meta:meta])* $name:ident { $($key:literal => $case:ident($ty:ty)),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[allow(dead_code)] // cases that are only told apart
        pub enum $name<'a> { $($case($ty),)* Other(Str<'a>) }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct V<'a>(std::marker::PhantomData<&'a ()>);
                impl<'de: 'a, 'a> Visitor<'de> for V<'a> {
                    type Value = $name<'a>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("an object with one key, a ", stringify!($name)))
                    }
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let Some(key) = map.next_key::<Str<'de>>()? else {
                            return Err(de::Error::custom(concat!("empty ", stringify!($name))));
                        };
                        let value = match &*key {
                            $($key => $name::$case(map.next_value()?),)*
                            _ => {
                                map.next_value::<IgnoredAny>()?;
                                $name::Other(key)
                            }
                        };
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        Ok(value)
                    }
                }
                d.deserialize_map(V(std::marker::PhantomData))
            }
        }
    };
}

macro_rules! record {
    ($($(#[$meta:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, serde::Deserialize)]
        pub struct $name<'a> { $($(#[$attr])* pub $field: $ty,)* }
    )* };
}

record! {
    /// `models/<name>.json`
    ExportedProgram {
        #[serde(borrow)] graph_module: GraphModule<'a>,
        #[serde(borrow, default)] range_constraints: HashMap<Str<'a>, RangeConstraint>,
        schema_version: Option<Version>,
        #[serde(borrow)] torch_version: Option<Str<'a>>,
    }
    /// The versions alone, for when the rest cannot be read.
    Versions {
        schema_version: Option<Version>,
        #[serde(borrow)] torch_version: Option<Str<'a>>,
    }
    GraphModule {
        #[serde(borrow)] graph: Graph<'a>,
        #[serde(borrow)] signature: GraphSignature<'a>,
        #[serde(borrow, default)] module_call_graph: Vec<ModuleCallEntry<'a>>,
    }
    /// How the module of path `fqn` is called; the root's is the program's.
    ModuleCallEntry { #[serde(borrow)] fqn: Str<'a>, #[serde(borrow)] signature: Option<ModuleCallSignature<'a>> }
    ModuleCallSignature {
        #[serde(borrow)] in_spec: Str<'a>,
        #[serde(borrow)] out_spec: Str<'a>,
        #[serde(borrow, default)] forward_arg_names: Option<Vec<Str<'a>>>,
    }
    Graph {
        #[serde(borrow)] inputs: Vec<Argument<'a>>,
        #[serde(borrow)] outputs: Vec<Argument<'a>>,
        #[serde(borrow)] nodes: Vec<Node<'a>>,
        #[serde(borrow)] tensor_values: HashMap<Str<'a>, TensorMeta<'a>>,
        #[serde(borrow)] sym_int_values: HashMap<Str<'a>, SymInt<'a>>,
        #[serde(borrow, default)] sym_bool_values: HashMap<Str<'a>, SymBool<'a>>,
        #[serde(borrow, default)] sym_float_values: HashMap<Str<'a>, SymFloat<'a>>,
    }
    Node {
        #[serde(borrow)] target: Str<'a>,
        #[serde(borrow)] inputs: Vec<NamedArgument<'a>>,
        #[serde(borrow)] outputs: Vec<Argument<'a>>,
        #[serde(borrow)] metadata: Metadata<'a>,
        #[serde(borrow)] name: Option<Str<'a>>,
    }
    Metadata { #[serde(borrow)] nn_module_stack: Option<Str<'a>> }
    NamedArgument { #[serde(borrow)] name: Str<'a>, #[serde(borrow)] arg: Argument<'a> }
    TensorArgument { #[serde(borrow)] name: Str<'a> }
    GraphArgument { #[serde(borrow)] graph: Box<Graph<'a>> }
    CustomObj { #[serde(borrow)] class_fqn: Str<'a> }
    Device { #[serde(borrow, rename = "type")] kind: Str<'a>, index: Option<i64> }
    SymExpr { #[serde(borrow)] expr_str: Str<'a>, #[serde(borrow)] hint: Option<Hint<'a>> }
    /// `dtype` and `layout` are the numbers of PyTorch's enums.
    TensorMeta {
        dtype: i64,
        #[serde(borrow)] sizes: Vec<SymInt<'a>>,
        #[serde(borrow)] strides: Vec<SymInt<'a>>,
        #[serde(borrow)] storage_offset: SymInt<'a>,
        layout: i64,
    }
    GraphSignature {
        #[serde(borrow)] input_specs: Vec<InputSpec<'a>>,
        #[serde(borrow)] output_specs: Vec<OutputSpec<'a>>,
    }
    UserSpec { #[serde(borrow)] arg: Argument<'a> }
    ParameterSpec { #[serde(borrow)] arg: TensorArgument<'a>, #[serde(borrow)] parameter_name: Str<'a> }
    BufferSpec {
        #[serde(borrow)] arg: TensorArgument<'a>,
        #[serde(borrow)] buffer_name: Str<'a>,
        /// Mutations do not have it.
        persistent: Option<bool>,
    }
    ConstantSpec { #[serde(borrow)] arg: TensorArgument<'a>, #[serde(borrow)] tensor_constant_name: Str<'a> }
    ConstantInputSpec { #[serde(borrow)] name: Str<'a>, #[serde(borrow)] value: Option<Argument<'a>> }
    CustomObjSpec { #[serde(borrow)] custom_obj_name: Str<'a> }
    InputMutationSpec { #[serde(borrow)] arg: TensorArgument<'a>, #[serde(borrow)] user_input_name: Str<'a> }
    /// `data/weights/<name>_weights_config.json` and its twin for constants.
    PayloadConfig { #[serde(borrow)] config: HashMap<Str<'a>, PayloadMeta<'a>> }
    PayloadMeta {
        #[serde(borrow)] path_name: Str<'a>,
        #[serde(default)] use_pickle: bool,
        #[serde(borrow)] tensor_meta: Option<TensorMeta<'a>>,
    }
}

/// Version of the schema.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct Version {
    pub major: i64,
    pub minor: i64,
}

/// Range of a symbol; `None` is unbounded.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct RangeConstraint {
    pub min_val: Option<Bound>,
    pub max_val: Option<Bound>,
}

union! { Hint { "as_int" => Int(i64), "as_bool" => Bool(bool), "as_float" => Float(Float) } }
union! { SymInt { "as_expr" => Expr(SymExpr<'a>), "as_int" => Int(i64) } }
union! { SymBool { "as_expr" => Expr(IgnoredAny), "as_bool" => Bool(bool) } }
union! { SymFloat { "as_expr" => Expr(IgnoredAny), "as_float" => Float(Float) } }
union! { SymIntArgument { "as_name" => Name(Str<'a>), "as_int" => Int(i64) } }
union! { SymFloatArgument { "as_name" => Name(Str<'a>), "as_float" => Float(Float) } }
union! { SymBoolArgument { "as_name" => Name(Str<'a>), "as_bool" => Bool(bool) } }
union! { OptionalTensorArgument { "as_tensor" => Tensor(TensorArgument<'a>), "as_none" => None(bool) } }
union! {
    /// An argument, or a name for a result.
    Argument {
        "as_none" => None(bool),
        "as_tensor" => Tensor(TensorArgument<'a>),
        "as_tensors" => Tensors(Vec<TensorArgument<'a>>),
        "as_int" => Int(i64),
        "as_ints" => Ints(Vec<i64>),
        "as_float" => Float(Float),
        "as_floats" => Floats(Vec<Float>),
        "as_string" => Str(Str<'a>),
        "as_sym_int" => SymInt(SymIntArgument<'a>),
        "as_sym_ints" => SymInts(Vec<SymIntArgument<'a>>),
        "as_scalar_type" => DType(i64),
        "as_memory_format" => MemoryFormat(i64),
        "as_layout" => Layout(i64),
        "as_device" => Device(Device<'a>),
        "as_bool" => Bool(bool),
        "as_bools" => Bools(Vec<bool>),
        "as_sym_bool" => SymBool(SymBoolArgument<'a>),
        "as_sym_float" => SymFloat(SymFloatArgument<'a>),
        "as_sym_floats" => SymFloats(Vec<SymFloatArgument<'a>>),
        "as_graph" => Graph(GraphArgument<'a>),
        "as_optional_tensors" => OptTensors(Vec<OptionalTensorArgument<'a>>),
        "as_optional_tensor" => OptTensor(OptionalTensorArgument<'a>),
        "as_custom_obj" => CustomObj(CustomObj<'a>),
    }
}
union! { InputSpec {
    "user_input" => User(UserSpec<'a>), "parameter" => Parameter(ParameterSpec<'a>), "buffer" => Buffer(BufferSpec<'a>),
    "tensor_constant" => Constant(ConstantSpec<'a>), "custom_obj" => CustomObj(CustomObjSpec<'a>),
    "constant_input" => ConstantInput(ConstantInputSpec<'a>),
} }
union! { OutputSpec {
    "user_output" => User(UserSpec<'a>), "loss_output" => Loss(IgnoredAny), "buffer_mutation" => Buffer(BufferSpec<'a>),
    "parameter_mutation" => Parameter(ParameterSpec<'a>), "user_input_mutation" => Input(InputMutationSpec<'a>),
} }

/// Numbers of `ScalarType` in the schema, with lowbit's type or the name of one it does not have.
pub fn dtype(number: i64) -> Result<lowbit_core::DType, &'static str> {
    use lowbit_core::DType::*;
    Ok(match number {
        1 => U8,
        2 => I8,
        3 => I16,
        4 => I32,
        5 => I64,
        6 => F16,
        7 => F32,
        8 => F64,
        12 => Bool,
        13 => BF16,
        28 => U16,
        9 => return Err("torch.complex32"),
        10 => return Err("torch.complex64"),
        11 => return Err("torch.complex128"),
        29 => return Err("torch.float8_e4m3fn"),
        30 => return Err("torch.float8_e5m2"),
        31 => return Err("torch.float8_e4m3fnuz"),
        32 => return Err("torch.float8_e5m2fnuz"),
        33 => return Err("torch.float8_e8m0fnu"),
        34 => return Err("torch.uint32"),
        35 => return Err("torch.uint64"),
        _ => return Err("an unknown element type"),
    })
}

/// Numbers of `MemoryFormat` in the schema, as PyTorch spells them.
pub fn memory_format(number: i64) -> Option<&'static str> {
    [
        None,
        Some("contiguous_format"),
        Some("channels_last"),
        Some("channels_last_3d"),
        Some("preserve_format"),
    ]
    .get(usize::try_from(number).ok()?)
    .copied()
    .flatten()
}

/// The number of an element type in the schema; the inverse of [`dtype`].
pub fn dtype_number(dtype: lowbit_core::DType) -> i64 {
    (0..64).find(|n| self::dtype(*n) == Ok(dtype)).unwrap_or_default()
}

/// The number of a memory format in the schema; the inverse of [`memory_format`].
pub fn memory_format_number(name: &str) -> Option<i64> {
    (0..8).find(|n| memory_format(*n) == Some(name))
}

/// The number of the dense layout in the schema.
pub const STRIDED: i64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions_read_known_and_unknown_cases() {
        let a: Argument<'_> =
            serde_json::from_str(r#"{"as_sym_ints": [{"as_name": "s"}, {"as_int": 3}]}"#).unwrap();
        assert!(matches!(&a, Argument::SymInts(l) if l.len() == 2));
        let a: Argument<'_> = serde_json::from_str(r#"{"as_hologram": {"x": [1]}, "more": 2}"#).unwrap();
        assert!(matches!(&a, Argument::Other(k) if &**k == "as_hologram"));
        assert!(serde_json::from_str::<Argument<'_>>("{}").is_err());
    }

    #[test]
    fn floats_read_infinities() {
        let f: Vec<Float> = serde_json::from_str(r#"[1, -2.5, "Infinity", "-Infinity", "NaN"]"#).unwrap();
        assert_eq!(f[1].0, -2.5);
        // The last bit matters: f32's least number must stay one of f32.
        let least: Float = serde_json::from_str("-3.4028234663852886e+38").unwrap();
        assert_eq!(least.0, f64::from(f32::MIN));
        assert_eq!(f[3].0, f64::NEG_INFINITY);
        assert!(f[4].0.is_nan());
        assert!(serde_json::from_str::<Float>("\"high\"").is_err());
        assert_eq!(serde_json::from_str::<Bound>("99999999999999999999").unwrap().0, i64::MAX);
    }

    #[test]
    fn strings_borrow_unless_escaped() {
        let s: Vec<Str<'_>> = serde_json::from_str(r#"["plain", "a\"b"]"#).unwrap();
        assert!(matches!(s[0].0, Cow::Borrowed("plain")));
        assert_eq!(&*s[1], "a\"b");
    }
}
