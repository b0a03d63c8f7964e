//! Symbolic sizes: reading them, their ranges, and whether two expressions agree.

use crate::schema::{RangeConstraint, Str, SymInt as SchemaInt, TensorMeta};
use crate::{schema, srepr};
use lowbit_core::ir::{SymbolRange, TensorType};
use lowbit_core::symint::Bindings;
use lowbit_core::{DType, SymInt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Sizes read so far, by their text in the file, and the ranges of symbols.
pub struct Symbols<'a> {
    parsed: HashMap<&'a str, SymInt>,
    ranges: HashMap<&'a str, SymbolRange>,
    /// The size each symbol had when the model was exported.
    hints: HashMap<Arc<str>, i64>,
}

impl<'a> Symbols<'a> {
    pub fn new(constraints: &'a HashMap<Str<'a>, RangeConstraint>) -> Self {
        let range = |c: &RangeConstraint| SymbolRange {
            min: c.min_val.map_or(0, |b| b.0.max(0)),
            max: c.max_val.map_or(i64::MAX, |b| b.0),
            hint: None,
        };
        let ranges = constraints.iter().map(|(name, c)| (&**name, range(c))).collect();
        Symbols { parsed: HashMap::new(), ranges, hints: HashMap::new() }
    }

    /// One size.
    pub fn size(&mut self, size: &'a SchemaInt<'a>) -> Result<SymInt, String> {
        let e = match size {
            SchemaInt::Int(n) => return Ok(SymInt::Known(*n)),
            SchemaInt::Other(k) => return Err(format!("a size of kind {k} is not known")),
            SchemaInt::Expr(e) => e,
        };
        if let Some(v) = self.parsed.get(&*e.expr_str) {
            return Ok(v.clone());
        }
        let v = srepr::parse(&e.expr_str)?;
        if let (Some(s), Some(schema::Hint::Int(n))) = (v.as_symbol(), &e.hint) {
            self.hints.entry(s.clone()).or_insert(*n);
        }
        self.parsed.insert(&e.expr_str, v.clone());
        Ok(v)
    }

    /// The type of a tensor as recorded.
    pub fn tensor_type(&mut self, meta: &'a TensorMeta<'a>) -> Result<TensorType, String> {
        let dtype = dtype(meta.dtype)?;
        if meta.layout != schema::STRIDED {
            return Err("is a sparse tensor; lowbit knows dense ones only".into());
        }
        let shape = meta.sizes.iter().map(|s| self.size(s)).collect::<Result<Vec<_>, _>>()?;
        for s in shape.iter().flat_map(SymInt::symbols) {
            if srepr::is_unbacked(&s) {
                return Err(format!(
                    "has a size ({s}) that depends on the data, as after nonzero, item, unique or a boolean mask; lowbit \
                     needs sizes that follow from the input shapes"
                ));
            }
        }
        Ok(TensorType { dtype, shape })
    }

    /// The range of a symbol; any size from 0 up when the file gives none. Its size at export, as far as it was read.
    pub fn range(&self, symbol: &str) -> SymbolRange {
        let free = SymbolRange { min: 0, max: i64::MAX, hint: None };
        SymbolRange {
            hint: self.hints.get(symbol).copied(),
            ..self.ranges.get(symbol).copied().unwrap_or(free)
        }
    }

    /// Whether two types are one: equal element types, and sizes that are equal expressions or take equal values for
    /// sizes in range.
    pub fn agree(&self, a: &TensorType, b: &TensorType) -> bool {
        a.dtype == b.dtype
            && a.shape.len() == b.shape.len()
            && a.shape.iter().zip(&b.shape).all(|(a, b)| a == b || self.same_values(a, b))
    }

    /// Whether two formulas take equal values: for any sizes in range; else while sizes that were equal at export stay
    /// equal; else for multiples of the sizes at export. The latter two because guards that export found (equal batches,
    /// a height that 32 divides) are not in the ranges.
    fn same_values(&self, a: &SymInt, b: &SymInt) -> bool {
        let mut symbols = a.symbols();
        symbols.extend(b.symbols());
        symbols.sort();
        symbols.dedup();
        if symbols.is_empty() {
            return false;
        }
        let hint = |s: &Arc<str>| self.hints.get(s).copied();
        let equal = |value: &dyn Fn(usize, &Arc<str>) -> i64| {
            let bind = |(i, s): (usize, &Arc<str>)| {
                let r = self.range(s);
                (s.clone(), value(i, s).clamp(r.min, r.max.max(r.min)))
            };
            let bindings: Bindings = symbols.iter().enumerate().map(bind).collect();
            matches!((a.eval(&bindings), b.eval(&bindings)), (Ok(x), Ok(y)) if x == y)
        };
        let spread = |k: i64, i: i64| (k * 7 + 1) * (i * 3 + 5) % 97;
        let free = (0..6).all(|k| equal(&|i, s| self.range(s).min.saturating_add(spread(k, i as i64))));
        // Symbols of one size at export count as one.
        let place =
            |s: &Arc<str>| symbols.iter().position(|t| hint(t) == hint(s) && hint(s).is_some()).unwrap_or(0);
        let tied =
            || (0..6).all(|k| equal(&|_, s| self.range(s).min.saturating_add(spread(k, place(s) as i64))));
        let scaled = || [1, 2, 3, 5].iter().all(|k| equal(&|_, s| hint(s).unwrap_or(2).saturating_mul(*k)));
        free || (symbols.iter().all(|s| hint(s).is_some()) && (tied() || scaled()))
    }

    /// The ranges of these symbols.
    pub fn table(&self, symbols: impl IntoIterator<Item = Arc<str>>) -> BTreeMap<Arc<str>, SymbolRange> {
        symbols.into_iter().map(|s| (s.clone(), self.range(&s))).collect()
    }
}

/// An element type by its number in the schema.
pub fn dtype(number: i64) -> Result<DType, String> {
    schema::dtype(number).map_err(|name| format!("has element type {name}, which lowbit does not have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_agree_by_value() {
        let constraints: HashMap<Str<'_>, RangeConstraint> =
            serde_json::from_str(r#"{"s0": {"min_val": 2, "max_val": null}}"#).unwrap();
        let symbols = Symbols::new(&constraints);
        let ty = |t: &str| TensorType::new(DType::F32, [SymInt::parse(t).unwrap()]);
        assert!(symbols.agree(&ty("Max(1, s0)"), &ty("s0")), "s0 is never below 2");
        assert!(!symbols.agree(&ty("s0"), &ty("s0 + 1")));
        // What was equal at export may have to stay so; s0 and s1 were 32, s2 was 7.
        let mut symbols = symbols;
        symbols.hints = [("s0", 32), ("s1", 32), ("s2", 7)].into_iter().map(|(s, n)| (s.into(), n)).collect();
        assert!(symbols.agree(&ty("(8*s1)//s0"), &ty("8")));
        assert!(symbols.agree(&ty("(s0//32)*32"), &ty("s0")));
        assert!(!symbols.agree(&ty("s2"), &ty("s0")) && !symbols.agree(&ty("(s2//2)*2"), &ty("s2")));
        symbols.hints.clear();
        assert!(!symbols.agree(&ty("3"), &ty("4")));
        assert!(!symbols.agree(&ty("(s0//2)*2"), &ty("s0")));
        assert_eq!(symbols.range("s0"), SymbolRange { min: 2, max: i64::MAX, hint: None });
    }
}
