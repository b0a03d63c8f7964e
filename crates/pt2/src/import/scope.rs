//! Names of a graph of the file, and what they stand for.

use super::memory::TensorId;
use lowbit_core::SymInt;
use std::collections::HashMap;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Binding {
    Tensor(TensorId),
    /// A size, or why it cannot be known.
    Int(Result<SymInt, String>),
    /// A float; `None` when it depends on dynamic sizes.
    Float(Option<f64>),
    /// A condition; `None` when it depends on dynamic sizes.
    Bool(Option<bool>),
    /// An input that holds something lowbit has no use for.
    Constant,
}

impl Binding {
    /// For errors.
    pub fn describe(&self) -> &'static str {
        match self {
            Binding::Tensor(_) => "a tensor",
            Binding::Int(_) => "a size",
            Binding::Float(_) => "a float",
            Binding::Bool(_) => "a condition",
            Binding::Constant => "a constant input",
        }
    }
}

/// The names of one graph.
#[derive(Default)]
pub struct Scope<'a>(HashMap<&'a str, Binding>);

impl<'a> Scope<'a> {
    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.0.get(name)
    }

    pub fn bind(&mut self, name: &'a str, to: Binding) {
        self.0.insert(name, to);
    }
}
