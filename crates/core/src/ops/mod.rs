//! Operators: one row each, with the schema PyTorch gives it and lowbit's shape rule.
//!
//! Adding one is a row in the family's file here, a kernel in the `cpu` crate and a golden case. Only functional
//! operators have rows: the importer turns in-place ones into these.

pub mod arguments;
mod call;
mod rules;
mod schema;
pub mod views;

pub use call::{Call, InferError, wrap_dim};
pub use schema::{ArgKind, ArgSpec, Schema};

use crate::ir::TensorType;
use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, OnceLock};

/// A shape rule: the types of the outputs from arguments and operand types.
pub type Infer = fn(&Call<'_>) -> Result<Vec<TensorType>, InferError>;

/// One operator.
pub struct OpDef {
    /// Full name with overload: `aten.conv2d.default`.
    pub name: &'static str,
    /// Signature in PyTorch's syntax, without the name: `(Tensor self, int dim=-1) -> Tensor`.
    pub schema: &'static str,
    /// The shape rule.
    pub infer: Infer,
    /// What passes may assume of it.
    pub traits: OpTraits,
    #[doc(hidden)]
    pub parsed: OnceLock<Schema>,
}

/// What passes may assume of an operator. All false: nothing.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct OpTraits {
    /// Computes each output element from the elements at the same (broadcast) place of its operands.
    pub elementwise: bool,
    /// Moves or repeats elements of operand 0 and changes none: reshape, permute, slice, clone …
    pub moves_data: bool,
    /// Gives each element of operand 0 once, and no others: reshape, permute, flip, clone …
    pub rearranges: bool,
    /// The output can only take values of operand 0 (or between them), so that it can carry the same quantization
    /// parameters: `moves_data` operators, relu, max pool, average pool …
    pub shares_qparams: bool,
    /// Draws random numbers: never folded.
    pub random: bool,
    /// Output types cannot be inferred; whoever makes a node declares them.
    pub declared_types: bool,
}

impl OpTraits {
    /// No assumption.
    pub const NONE: OpTraits = OpTraits {
        elementwise: false,
        moves_data: false,
        rearranges: false,
        shares_qparams: false,
        random: false,
        declared_types: false,
    };
}

impl OpDef {
    /// The parsed signature.
    pub fn schema(&self) -> &Schema {
        self.parsed.get_or_init(|| Schema::parse(self.schema).expect("a test parses the schema of every row"))
    }

    /// The middle part of the name: `conv2d`.
    pub fn short_name(&self) -> &'static str {
        self.name.split('.').nth(1).unwrap_or(self.name)
    }

    /// The name without its overload: `aten.conv2d`.
    pub fn packet(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(p, _)| p)
    }
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for OpDef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.name == other.name
    }
}
impl Eq for OpDef {}

/// Declares operators, one row each, and the module's slice `OPS` of them all:
/// `ID = "name" "schema", shape_rule, trait, trait;`
macro_rules! ops {
    ($($(#[$meta:meta])* $id:ident = $name:literal $schema:literal, $infer:expr $(, $flag:ident)*;)*) => {
        $(
            #[doc = concat!("`", $name, $schema, "`")]
            $(#[$meta])*
            pub static $id: $crate::ops::OpDef = $crate::ops::OpDef {
                name: $name,
                schema: $schema,
                infer: $infer,
                traits: $crate::ops::OpTraits { $($flag: true,)* ..$crate::ops::OpTraits::NONE },
                parsed: ::std::sync::OnceLock::new(),
            };
        )*
        pub(super) static OPS: &[&$crate::ops::OpDef] = &[$(&$id),*];
    };
}

/// The families. Each is a module of rows, re-exported here: `ops::LINEAR`.
macro_rules! families {
    ($($family:ident),* $(,)?) => {
        $(mod $family; pub use $family::*;)*
        static FAMILIES: &[&[&OpDef]] = &[$($family::OPS),*];
    };
}
families! {
    activation, cast, conv, create, delegate, elementwise, index, linear, norm, pool, quantized, reduce, resize, rnn, shape,
}

/// Every operator, by family.
pub fn all() -> impl Iterator<Item = &'static OpDef> {
    FAMILIES.iter().flat_map(|f| f.iter().copied())
}

/// The operator of this full name (`aten.relu.default`).
pub fn lookup(name: &str) -> Option<&'static OpDef> {
    static BY_NAME: LazyLock<HashMap<&str, &OpDef>> = LazyLock::new(|| all().map(|o| (o.name, o)).collect());
    BY_NAME.get(name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Arg, Graph, NewNode, ValueId};
    use crate::symint::SymInt;

    #[test]
    fn schemas_parse_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for op in all() {
            let schema = Schema::parse(op.schema);
            assert!(schema.is_ok(), "{}: {schema:?}", op.name);
            assert!(names.insert(op.name), "{} has two rows", op.name);
            assert_eq!(op.name.split('.').count(), 3, "{} is not namespace.name.overload", op.name);
        }
    }

    /// Any number, with a liking for those that break arithmetic.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }

        fn int(&mut self) -> i64 {
            let extreme = [i64::MIN, i64::MAX, i64::MIN + 1, 1 << 31, -(1 << 31), 1 << 62, 1 << 40, 100];
            match self.below(4) {
                0 => extreme[self.below(extreme.len())],
                _ => self.below(7) as i64 - 2,
            }
        }

        fn size(&mut self) -> SymInt {
            match self.below(8) {
                0 => SymInt::symbol("s0"),
                1 => SymInt::symbol("s1") * 2 + 1,
                2 => self.int().saturating_abs().into(),
                _ => SymInt::from(self.below(5)),
            }
        }

        fn arg(&mut self, kind: ArgKind, tensors: &[ValueId]) -> Arg {
            let tensor = |r: &mut Self| tensors[r.below(tensors.len())];
            let n = self.below(6);
            match kind {
                ArgKind::Tensor => tensor(self).into(),
                ArgKind::TensorList => Arg::Values((0..n).map(|_| tensor(self)).collect()),
                ArgKind::OptTensorList => {
                    Arg::OptValues((0..n).map(|i| (i % 2 == 0).then(|| tensor(self))).collect())
                }
                ArgKind::Int => match self.below(4) {
                    0 => self.size().into(),
                    _ => self.int().into(),
                },
                ArgKind::IntList => Arg::Ints(match self.below(4) {
                    0 => (0..n).map(|_| self.size()).collect(),
                    _ => (0..n).map(|_| self.int().into()).collect(),
                }),
                ArgKind::Float => Arg::Float([0.0, -1.5, f64::NAN, f64::INFINITY, 1e300, 2.0][n]),
                ArgKind::FloatList => Arg::Floats((0..n).map(|i| i as f64 * 1e200 - 1.0).collect()),
                ArgKind::Bool => Arg::Bool(n.is_multiple_of(2)),
                ArgKind::BoolList => Arg::Bools(vec![true; n]),
                ArgKind::Scalar => match n {
                    0 => Arg::Bool(true),
                    1 | 2 => Arg::Float([f64::NAN, 1e300][n - 1]),
                    _ => self.int().into(),
                },
                ArgKind::Str => Arg::from(["", "same", "i,j->k", "...a,ab->...b", "xy", "none"][n]),
                ArgKind::DType => Arg::DType(crate::DType::ALL[self.below(11)]),
                ArgKind::Other => Arg::from("cpu"),
            }
        }
    }

    /// Files come from strangers: shape rules answer to any arguments of the right kind, if only with an error.
    #[test]
    fn shape_rules_do_not_panic() {
        let mut r = Numbers(1);
        for op in all().filter(|o| !o.traits.declared_types) {
            for _ in 0..400 {
                let mut graph = Graph::default();
                let mut tensors = vec![];
                for _ in 0..4 {
                    let dtype = [crate::DType::F32, crate::DType::I64, crate::DType::Bool][r.below(3)];
                    let shape: Vec<_> = (0..r.below(6)).map(|_| r.size()).collect();
                    tensors.push(graph.add_input("x", TensorType { dtype, shape }));
                }
                let args: Vec<Arg> = op
                    .schema()
                    .args
                    .iter()
                    .map(|a| if a.optional && r.below(3) == 0 { Arg::None } else { r.arg(a.kind, &tensors) })
                    .collect();
                let _ = graph.append(NewNode::new(op, args));
            }
        }
    }
}
