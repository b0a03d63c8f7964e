//! MIL's operators, one row each: the function that says it in PyTorch's.

mod activation;
mod attention;
mod compressed;
mod conv;
mod create;
mod elementwise;
mod index;
mod linear;
mod norm;
mod pool;
mod quantized;
mod reduce;
mod resize;
mod rnn;
mod scatter;
mod shape;
mod slice;
mod state;

use super::call::Call;
use super::{Raised, Value};
use lowbit_core::ir::ValueId;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Appends the nodes of an operator; a value for each of its results.
type Raise = fn(&mut Call<'_>) -> Raised<Vec<Value>>;

/// How an operator is raised.
#[derive(Copy, Clone)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Whether it makes numbers that its operands do not hold, and half floats may not have.
    pub new: bool,
    /// Makes the nodes.
    pub raise: Raise,
}

/// Operators of a family.
type Table = &'static [Row];

/// An operator whose results are rounded to the type they have.
const fn new(name: &'static str, raise: Raise) -> Row {
    Row { name, new: true, raise }
}

/// An operator that picks among its operands' numbers, or makes such as every floating-point type has.
const fn kept(name: &'static str, raise: Raise) -> Row {
    Row { name, new: false, raise }
}

static TABLES: &[Table] = &[
    activation::TABLE,
    attention::TABLE,
    compressed::TABLE,
    conv::TABLE,
    create::TABLE,
    elementwise::TABLE,
    index::TABLE,
    linear::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantized::TABLE,
    reduce::TABLE,
    resize::TABLE,
    rnn::TABLE,
    scatter::TABLE,
    shape::TABLE,
    slice::TABLE,
    state::TABLE,
];

/// Operators that are not raised, and why. With those that are, all that MIL has up to iOS 18.
pub static REFUSED: &[(&str, &str)] = &[
    ("non_zero", CONTENTS),
    ("non_maximum_suppression", CONTENTS),
    ("random_bernoulli", RANDOM),
    ("random_categorical", RANDOM),
    ("random_normal", RANDOM),
    ("random_uniform", RANDOM),
    ("cond", CONTROL),
    ("while_loop", CONTROL),
    ("make_list", CONTROL),
    ("list_gather", CONTROL),
    ("list_length", CONTROL),
    ("list_read", CONTROL),
    ("list_scatter", CONTROL),
    ("list_write", CONTROL),
    ("affine", FOREIGN),
    ("batch_to_space", FOREIGN),
    ("classify", FOREIGN),
    ("conv_quantized", FOREIGN),
    ("crop_resize", FOREIGN),
    ("reshape_like", FOREIGN),
    ("reverse_sequence", FOREIGN),
    ("space_to_batch", FOREIGN),
];

const CONTENTS: &str = "how much it gives depends on the contents of its input";
const RANDOM: &str = "it draws random numbers";
const CONTROL: &str = "lowbit's programs have neither control flow nor lists";
const FOREIGN: &str = "PyTorch has no such operator, and its converter to Core ML does not write it";

/// Operators that are followed as formulas over sizes, and only so.
const SIZES: &[&str] = &["shape"];

/// The row of an operator, or why it has none.
pub fn find(name: &str) -> Raised<Row> {
    static ROWS: LazyLock<HashMap<&str, Row>> =
        LazyLock::new(|| TABLES.iter().flat_map(|t| t.iter().map(|r| (r.name, *r))).collect());
    ROWS.get(name).copied().ok_or_else(|| {
        let known = REFUSED.iter().find(|(n, _)| *n == name);
        known.map_or("lowbit does not know this operator", |(_, why)| why).to_string()
    })
}

/// Every operator's name.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().flat_map(|t| t.iter().map(|r| r.name)).chain(SIZES.iter().copied())
}

/// A row's only result.
fn one(v: ValueId) -> Raised<Vec<Value>> {
    Ok(vec![v.into()])
}

/// Several results.
fn all(values: impl IntoIterator<Item = ValueId>) -> Raised<Vec<Value>> {
    Ok(values.into_iter().map(Value::from).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_operator_has_one_row() {
        let mut names: Vec<&str> = super::names().chain(super::REFUSED.iter().map(|(n, _)| *n)).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
    }
}
