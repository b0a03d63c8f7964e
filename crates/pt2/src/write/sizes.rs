//! Sizes that depend on symbols: as sympy's `srepr`, and as nodes that compute them from the inputs.

use super::names::Names;
use lowbit_core::SymInt;
use lowbit_core::ir::{Program, ValueId};
use lowbit_core::symint::{Bindings, SymOp, SymTree};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The `range_constraints` of a program.
pub fn ranges(program: &Program) -> Value {
    let bound = |n: i64| if n == i64::MAX { Value::Null } else { n.into() };
    let range = |(s, r): (&Arc<str>, &lowbit_core::ir::SymbolRange)| {
        (s.to_string(), json!({"min_val": r.min, "max_val": bound(r.max)}))
    };
    program.symbols.iter().map(range).collect::<Map<_, _>>().into()
}

/// Expressions over symbols that were written so far.
#[derive(Debug)]
pub struct Sizes {
    /// A size in range for each symbol: PyTorch reasons with an example of each.
    hints: Bindings,
    /// The name of the node that computes each expression.
    made: BTreeMap<SymInt, String>,
    /// `sym_int_values`
    pub values: Map<String, Value>,
    /// A formula that readers would not take: no real model has one.
    pub unreadable: Option<SymInt>,
}

impl Sizes {
    pub fn new(program: &Program) -> Sizes {
        let hint = |(s, r): (&Arc<str>, &lowbit_core::ir::SymbolRange)| {
            // 0 and 1 would be taken for fixed.
            (s.clone(), r.hint.unwrap_or(2.max(r.min)).clamp(r.min, r.max.max(r.min)))
        };
        let hints = program.symbols.iter().map(hint).collect();
        Sizes { hints, made: BTreeMap::new(), values: Map::new(), unreadable: None }
    }

    /// A size in a tensor's description.
    pub fn describe(&mut self, n: &SymInt) -> Value {
        match n {
            SymInt::Known(n) => json!({"as_int": n}),
            n => {
                let hint = n.eval(&self.hints).map(|n| json!({"as_int": n})).unwrap_or_default();
                let formula = srepr(&n.to_tree());
                if crate::srepr::parse(&formula).as_ref() != Ok(n) {
                    self.unreadable.get_or_insert_with(|| n.clone());
                }
                json!({"as_expr": {"expr_str": formula, "hint": hint}})
            }
        }
    }

    /// A size as an argument: `{"as_int": 3}`, or the name of a node. Nodes that are needed for it go to `nodes`.
    pub fn argument(
        &mut self,
        n: &SymInt,
        program: &Program,
        names: &mut Names,
        nodes: &mut Vec<Value>,
    ) -> Result<Value, String> {
        if let SymInt::Known(n) = n {
            return Ok(json!({"as_int": n}));
        }
        if let Some(name) = self.made.get(n) {
            return Ok(json!({"as_name": name}));
        }
        let name = match (n.as_symbol(), n.to_tree()) {
            (Some(s), _) => self.symbol(s, program, names, nodes)?,
            (None, SymTree::Op(op, a, b)) => {
                let [a, b] = [*a, *b].map(|t| from_tree(&t));
                let a = self.argument(&a, program, names, nodes)?;
                let b = self.argument(&b, program, names, nodes)?;
                let (target, short) = operator(op);
                self.node(target, short, [("a", operand(a)), ("b", operand(b))], n, names, nodes)
            }
            (None, _) => return Err(format!("has the size {n}, which is no formula")),
        };
        self.made.insert(n.clone(), name.clone());
        Ok(json!({"as_name": name}))
    }

    /// The node that reads a symbol off an input.
    fn symbol(
        &mut self,
        s: &Arc<str>,
        program: &Program,
        names: &mut Names,
        nodes: &mut Vec<Value>,
    ) -> Result<String, String> {
        let inputs = program.graph.inputs().iter();
        let dims: Vec<(ValueId, usize, &SymInt)> = inputs
            .flat_map(|&v| program.graph.ty(v).shape.iter().enumerate().map(move |(d, n)| (v, d, n)))
            .collect();
        let plain = dims.iter().find(|(_, _, n)| n.as_symbol() == Some(s));
        let (&(v, d, size), (slope, offset)) = match plain {
            Some(p) => (p, (1, 0)),
            // A size such as 2*s + 1.
            None => dims
                .iter()
                .find_map(|at| Some((at, linear(at.2, s)?)))
                .ok_or_else(|| format!("depends on {s}, which no size of an input tells"))?,
        };
        let input = json!({"as_tensor": {"name": names.value(v)}});
        let args = [("self", input), ("dim", json!({"as_int": d}))];
        let mut name = self.node("torch.ops.aten.sym_size.int", "sym_size_int", args, size, names, nodes);
        let of = |name: &str| operand(json!({"as_name": name}));
        if offset != 0 {
            let args = [("a", of(&name)), ("b", json!({"as_int": offset}))];
            name = self.node("_operator.sub", "sub", args, &(size.clone() - offset), names, nodes);
        }
        if slope != 1 {
            let args = [("a", of(&name)), ("b", json!({"as_int": slope}))];
            name =
                self.node("_operator.floordiv", "floordiv", args, &SymInt::symbol(s.clone()), names, nodes);
        }
        Ok(name)
    }

    fn node(
        &mut self,
        target: &str,
        wanted: &str,
        args: [(&str, Value); 2],
        result: &SymInt,
        names: &mut Names,
        nodes: &mut Vec<Value>,
    ) -> String {
        let name = names.free(wanted);
        let inputs = args.map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1}));
        nodes.push(json!({
            "target": target,
            "inputs": inputs,
            "outputs": [{"as_sym_int": {"as_name": &name}}],
            "metadata": {},
            "is_hop_single_tensor_return": null,
            "name": &name,
        }));
        let value = self.describe(result);
        self.values.insert(name.clone(), value);
        name
    }
}

/// A size as the operand of Python's arithmetic.
fn operand(size: Value) -> Value {
    match size.get("as_int") {
        Some(_) => size,
        None => json!({"as_sym_int": size}),
    }
}

/// PyTorch's operator, and a name for its node.
fn operator(op: SymOp) -> (&'static str, &'static str) {
    match op {
        SymOp::Add => ("_operator.add", "add"),
        SymOp::Mul => ("_operator.mul", "mul"),
        SymOp::FloorDiv => ("_operator.floordiv", "floordiv"),
        SymOp::Max => ("torch.sym_max", "sym_max"),
        SymOp::Min => ("torch.sym_min", "sym_min"),
    }
}

fn from_tree(tree: &SymTree) -> SymInt {
    match tree {
        SymTree::Known(n) => SymInt::Known(*n),
        SymTree::Symbol(s) => SymInt::symbol(s.clone()),
        SymTree::Op(op, a, b) => {
            let (a, b) = (from_tree(a), from_tree(b));
            match op {
                SymOp::Add => a + b,
                SymOp::Mul => a * b,
                SymOp::FloorDiv => a.floor_div(&b),
                SymOp::Max => a.sym_max(&b),
                SymOp::Min => a.sym_min(&b),
            }
        }
    }
}

/// sympy's `srepr`: what [`crate::srepr`] reads. Sums and products have all their operands in one call, as sympy's do.
fn srepr(tree: &SymTree) -> String {
    fn operands(op: SymOp, tree: &SymTree, out: &mut Vec<String>) {
        match tree {
            SymTree::Op(inner, a, b) if *inner == op && op != SymOp::FloorDiv => {
                operands(op, a, out);
                operands(op, b, out);
            }
            other => out.push(srepr(other)),
        }
    }
    match tree {
        SymTree::Known(n) => format!("Integer({n})"),
        SymTree::Symbol(s) => format!("Symbol('{s}', positive=True, integer=True)"),
        SymTree::Op(op, a, b) => {
            let function = match op {
                SymOp::Add => "Add",
                SymOp::Mul => "Mul",
                SymOp::FloorDiv => "FloorDiv",
                SymOp::Max => "Max",
                SymOp::Min => "Min",
            };
            let mut list = vec![];
            operands(*op, a, &mut list);
            operands(*op, b, &mut list);
            format!("{function}({})", list.join(", "))
        }
    }
}

/// Slope and offset, when `size` is a linear formula of `s` alone.
fn linear(size: &SymInt, s: &Arc<str>) -> Option<(i64, i64)> {
    if size.symbols() != [s.clone()] {
        return None;
    }
    let at = |x: i64| size.eval(&Bindings::from([(s.clone(), x)])).ok();
    let (offset, one) = (at(0)?, at(1)?);
    let slope = one.checked_sub(offset)?;
    let fits = |x: i64| Some(at(x)? == slope.checked_mul(x)?.checked_add(offset)?);
    (slope > 0 && fits(2)? && fits(1009)?).then_some((slope, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_read_back() {
        for text in [
            "s0",
            "2*s0 + 3",
            "s0*s1 - s1",
            "(s0 - 1)//2",
            "Max(1, s0)",
            "Min(s0, 4*s1**2)",
            "s0//s1",
            "a + b + c + d*e*f",
        ] {
            let n = SymInt::parse(text).unwrap();
            assert_eq!(crate::srepr::parse(&srepr(&n.to_tree())), Ok(n), "{text}");
        }
    }

    #[test]
    fn slopes_are_found() {
        let s: Arc<str> = "s0".into();
        let of = |text: &str| linear(&SymInt::parse(text).unwrap(), &s);
        assert_eq!(of("2*s0"), Some((2, 0)));
        assert_eq!(of("3*s0 + 1"), Some((3, 1)));
        assert_eq!(of("s0**2"), None);
        assert_eq!(of("s0//2"), None);
        assert_eq!(of("s0*s1"), None);
    }
}
