//! A node's arguments as plain values, for lowerings: what is not of the kind is a reason to leave the node.

use super::{views, wrap_dim};
use crate::ir::Node;

/// The number in argument `i`.
///
/// # Errors
/// When it is none.
pub fn number(node: &Node, i: usize) -> Result<f64, String> {
    views::float(node.arg(i)).ok_or_else(|| format!("argument {i} is no number"))
}

/// The integer in argument `i`.
///
/// # Errors
/// When it is none, or depends on the sizes of inputs.
pub fn int(node: &Node, i: usize) -> Result<i64, String> {
    views::int(node.arg(i)).ok_or_else(|| format!("argument {i} is no plain integer"))
}

/// The integers in argument `i`.
///
/// # Errors
/// When it is no list, or one of them depends on the sizes of inputs.
pub fn ints(node: &Node, i: usize) -> Result<Vec<i64>, String> {
    views::ints(node.arg(i)).ok_or_else(|| format!("argument {i} is no list of plain integers"))
}

/// The integers in argument `i` for `n` dimensions: one stands for all, none for `default`.
///
/// # Errors
/// As [`ints`].
pub fn widened(node: &Node, i: usize, n: usize, default: &[i64]) -> Result<Vec<i64>, String> {
    Ok(match ints(node, i)? {
        l if l.is_empty() => default.to_vec(),
        l if l.len() == 1 => vec![l[0]; n],
        l => l,
    })
}

/// The truth value in argument `i`.
///
/// # Errors
/// When it is none.
pub fn truth(node: &Node, i: usize) -> Result<bool, String> {
    views::bool(node.arg(i)).ok_or_else(|| format!("argument {i} is no truth value"))
}

/// The dimension in argument `i`, counted from the front of `rank`.
///
/// # Errors
/// When it is no plain integer, or there is no such dimension.
pub fn dim(node: &Node, i: usize, rank: usize) -> Result<usize, String> {
    wrap_dim(int(node, i)?, rank).map_err(|e| e.message)
}
