//! The program representation: SSA values and nodes over a table of operators.

pub mod arena;
mod arg;
mod edit;
mod graph;
mod program;
pub mod text;
mod types;
mod verify;
mod writer;

pub use arena::{Arena, Key};
pub use arg::Arg;
pub use edit::NewNode;
pub use graph::{ConstId, Def, Graph, ModuleFrame, ModuleStack, Node, NodeId, Use, Value, ValueId};
pub use program::{
    BindError, CallSpec, ConstKind, Constant, Leaf, MutationTarget, Program, Signature, SymbolRange,
};
pub use types::TensorType;
pub use verify::{VerifyError, VerifyErrors, verify};
pub use writer::NodeWriter;
