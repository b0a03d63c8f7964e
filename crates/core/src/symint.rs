//! [`SymInt`]: an integer that may depend on the program's symbols (a dynamic batch size, say).
//!
//! Kept as a sum of products with integer coefficients, so that equal expressions compare equal however they were
//! built; what is no polynomial (floor division, remainder, minimum, maximum) is an atom of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// The value of each symbol in one run.
pub type Bindings = BTreeMap<Arc<str>, i64>;

/// An integer, known or an expression over symbols. Arithmetic saturates instead of overflowing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymInt {
    /// A plain integer.
    Known(i64),
    /// An expression that holds at least one symbol.
    Expr(Arc<Poly>),
}

/// A sum of products; canonical: no zero coefficient, sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Poly(BTreeMap<Vec<Atom>, i64>);

/// A factor of a product.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Symbol(Arc<str>),
    Call(Func, SymInt, SymInt),
}

#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Func {
    FloorDiv,
    Max,
    Min,
    /// A product too large to be multiplied out: see [`MAX_TERMS`].
    Mul,
}

/// Terms up to which a product is multiplied out, and factors that a term may have. Sizes of real models have a handful;
/// the limits keep hostile files from growing expressions without end.
const MAX_TERMS: usize = 256;
const MAX_FACTORS: usize = 16;

/// A symbol that [`SymInt::eval`] was given no value for, or a division by zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// No value for this symbol.
    #[error("symbol {0} has no value; it is the size of no input dimension")]
    Unbound(Arc<str>),
    /// A divisor evaluated to zero.
    #[error("{0} divides by zero")]
    DivisionByZero(String),
}

impl SymInt {
    /// The symbol `name` itself.
    pub fn symbol(name: impl Into<Arc<str>>) -> Self {
        Self::atom(Atom::Symbol(name.into()))
    }

    /// The integer, when no symbol is involved.
    pub fn known(&self) -> Option<i64> {
        match self {
            SymInt::Known(n) => Some(*n),
            SymInt::Expr(_) => None,
        }
    }

    /// The symbol's name, when this is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        let SymInt::Expr(p) = self else { return None };
        let (atoms, 1) = p.0.first_key_value()? else { return None };
        match (p.0.len(), &atoms[..]) {
            (1, [Atom::Symbol(s)]) => Some(s),
            _ => None,
        }
    }

    /// The value under `bindings`.
    ///
    /// # Errors
    /// When a symbol has no value, or a divisor is zero.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, EvalError> {
        let p = match self {
            SymInt::Known(n) => return Ok(*n),
            SymInt::Expr(p) => p,
        };
        let mut sum = 0i64;
        for (atoms, &k) in &p.0 {
            let mut product = k;
            for a in atoms {
                let v = match a {
                    Atom::Symbol(s) => *bindings.get(s).ok_or_else(|| EvalError::Unbound(s.clone()))?,
                    Atom::Call(f, a, b) => f
                        .apply(a.eval(bindings)?, b.eval(bindings)?)
                        .ok_or_else(|| EvalError::DivisionByZero(self.to_string()))?,
                };
                product = product.saturating_mul(v);
            }
            sum = sum.saturating_add(product);
        }
        Ok(sum)
    }

    /// The least and greatest value while each symbol stays in its range (interval arithmetic: may be wider than
    /// the truth, never narrower). `None` for a bound that is not known.
    pub fn bounds(&self, range: &dyn Fn(&str) -> (i64, i64)) -> (i64, i64) {
        let p = match self {
            SymInt::Known(n) => return (*n, *n),
            SymInt::Expr(p) => p,
        };
        let (mut lo, mut hi) = (0i64, 0i64);
        for (atoms, &k) in &p.0 {
            let (mut a, mut b) = (k, k);
            for atom in atoms {
                let (c, d) = match atom {
                    Atom::Symbol(s) => range(s),
                    Atom::Call(f, x, y) => f.bounds(x.bounds(range), y.bounds(range)),
                };
                let ends =
                    [a.saturating_mul(c), a.saturating_mul(d), b.saturating_mul(c), b.saturating_mul(d)];
                (a, b) = (*ends.iter().min().expect("four ends"), *ends.iter().max().expect("four ends"));
            }
            (lo, hi) = (lo.saturating_add(a), hi.saturating_add(b));
        }
        (lo, hi)
    }

    /// Every symbol in the expression, sorted, each once.
    pub fn symbols(&self) -> Vec<Arc<str>> {
        let mut out = Vec::new();
        self.collect_symbols(&mut out);
        out.sort();
        out.dedup();
        out
    }

    /// Whether the expression has at most `limit` terms and factors in all, those inside functions included. Larger ones
    /// come from no real model; readers of files refuse them.
    pub fn is_at_most(&self, limit: usize) -> bool {
        fn count(e: &SymInt, left: &mut usize) -> bool {
            let SymInt::Expr(p) = e else { return true };
            p.0.keys().all(|atoms| {
                let Some(rest) = left.checked_sub(1 + atoms.len()) else { return false };
                *left = rest;
                atoms.iter().all(|a| match a {
                    Atom::Symbol(_) => true,
                    Atom::Call(_, x, y) => count(x, left) && count(y, left),
                })
            })
        }
        count(self, &mut { limit })
    }

    fn collect_symbols(&self, out: &mut Vec<Arc<str>>) {
        let SymInt::Expr(p) = self else { return };
        for a in p.0.keys().flatten() {
            match a {
                Atom::Symbol(s) => out.push(s.clone()),
                Atom::Call(_, x, y) => {
                    x.collect_symbols(out);
                    y.collect_symbols(out);
                }
            }
        }
    }

    /// Division rounding towards minus infinity (Python's `//`). Cancels what surely divides; symbols are sizes,
    /// so they are taken to be positive.
    pub fn floor_div(&self, by: &SymInt) -> SymInt {
        match (self.known(), by.known()) {
            (Some(a), Some(b)) if b != 0 => {
                let quotient = a.checked_div_euclid(b).unwrap_or(i64::MAX);
                return SymInt::Known(
                    quotient - i64::from(b < 0 && a.checked_rem_euclid(b).unwrap_or(0) != 0),
                );
            }
            (Some(0), _) => return SymInt::Known(0),
            (_, Some(1)) => return self.clone(),
            (None, Some(b)) if b > 0 => return self.floor_div_known(b),
            _ => {}
        }
        if let Some((atoms, d)) = by.single_term()
            && d > 0
        {
            // Terms that `by` divides leave the division; the rest stays inside it.
            let mut whole = Poly::default();
            let mut rest = Poly::default();
            for (t, k) in self.terms() {
                match cancel(&t, &atoms) {
                    Some(left) if k % d == 0 => whole.add(left, k / d),
                    _ => rest.add(t, k),
                }
            }
            let (whole, rest) = (whole.simplify(), rest.simplify());
            if whole != SymInt::Known(0) || rest == SymInt::Known(0) {
                return match rest {
                    SymInt::Known(0) => whole,
                    rest => whole + rest.floor_div(by),
                };
            }
        }
        if let Some(quotient) = self.exact_div(by) {
            return quotient;
        }
        Self::atom(Atom::Call(Func::FloorDiv, self.clone(), by.clone()))
    }

    /// Division by a positive integer, brought to one form so that equal divisions compare equal.
    fn floor_div_known(&self, d: i64) -> SymInt {
        // (x // a + y) // d  is  (x + a y) // (a d)
        for (t, k) in self.terms() {
            if let ([Atom::Call(Func::FloorDiv, x, SymInt::Known(a))], 1) = (&t[..], k)
                && let (true, Some(ad)) = (*a > 0, a.checked_mul(d))
            {
                let inner = SymInt::Expr(Arc::new(Poly(BTreeMap::from([(t.clone(), 1)]))));
                return (x.clone() + (self.clone() - inner) * *a).floor_div(&SymInt::Known(ad));
            }
        }
        let common = self.terms().iter().fold(d, |g, (_, k)| gcd(g, *k));
        let d = d / common;
        // Whole multiples of the divisor leave the division.
        let mut whole = Poly::default();
        let mut rest = Poly::default();
        for (t, k) in self.terms() {
            let k = k / common;
            whole.add(t.clone(), k.div_euclid(d));
            rest.add(t, k.rem_euclid(d));
        }
        match rest.simplify() {
            // The remainder of a plain integer is less than the divisor.
            SymInt::Known(_) => whole.simplify(),
            rest => whole.simplify() + Self::atom(Atom::Call(Func::FloorDiv, rest, SymInt::Known(d))),
        }
    }

    /// The quotient, when `by` divides without remainder as a polynomial.
    fn exact_div(&self, by: &SymInt) -> Option<SymInt> {
        // Longer monomials first, then by factors: an order that products keep.
        fn leading(e: &SymInt) -> Option<(Vec<Atom>, i64)> {
            e.terms().into_iter().max_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)))
        }
        let (divisor, d) = leading(by)?;
        let mut rest = self.clone();
        let mut quotient = Poly::default();
        // Each step removes the leading term; more steps than terms of a quotient that is kept are in vain.
        for _ in 0..MAX_TERMS {
            let Some((t, k)) = leading(&rest) else { return Some(quotient.simplify()) };
            let left = cancel(&t, &divisor).filter(|_| k.checked_rem(d) == Some(0))?;
            let step = Poly(BTreeMap::from([(left.clone(), k / d)])).simplify();
            quotient.add(left, k / d);
            rest = rest - by.clone() * step;
            if !rest.is_at_most(4 * MAX_TERMS) {
                return None;
            }
        }
        None
    }

    /// Division rounding up, for sizes.
    pub fn ceil_div(&self, by: &SymInt) -> SymInt {
        (self.clone() + by.clone() - 1).floor_div(by)
    }

    /// Python's `%`: the remainder has the divisor's sign.
    pub fn modulo(&self, by: &SymInt) -> SymInt {
        self.clone() - self.floor_div(by) * by.clone()
    }

    /// The larger of two.
    pub fn sym_max(&self, other: &SymInt) -> SymInt {
        Self::pick(Func::Max, self, other)
    }

    /// The smaller of two.
    pub fn sym_min(&self, other: &SymInt) -> SymInt {
        Self::pick(Func::Min, self, other)
    }

    fn pick(f: Func, a: &SymInt, b: &SymInt) -> SymInt {
        match (a.known(), b.known()) {
            (Some(x), Some(y)) => SymInt::Known(f.apply(x, y).expect("no division")),
            _ if a == b => a.clone(),
            _ => {
                let (a, b) = if a <= b { (a, b) } else { (b, a) };
                Self::atom(Atom::Call(f, a.clone(), b.clone()))
            }
        }
    }

    fn atom(a: Atom) -> SymInt {
        SymInt::Expr(Arc::new(Poly(BTreeMap::from([(vec![a], 1)]))))
    }

    fn terms(&self) -> Vec<(Vec<Atom>, i64)> {
        match self {
            SymInt::Known(0) => vec![],
            SymInt::Known(n) => vec![(vec![], *n)],
            SymInt::Expr(p) => p.0.iter().map(|(a, &k)| (a.clone(), k)).collect(),
        }
    }

    fn single_term(&self) -> Option<(Vec<Atom>, i64)> {
        let t = self.terms();
        (t.len() == 1).then(|| t.into_iter().next().expect("one term"))
    }

    /// The expression as a tree, for code that computes it at run time.
    pub fn to_tree(&self) -> SymTree {
        let mut sum: Option<SymTree> = None;
        for (atoms, k) in self.terms() {
            let mut product = (k != 1 || atoms.is_empty()).then_some(SymTree::Known(k));
            for a in atoms {
                let a = match a {
                    Atom::Symbol(s) => SymTree::Symbol(s),
                    Atom::Call(f, x, y) => {
                        let op = match f {
                            Func::FloorDiv => SymOp::FloorDiv,
                            Func::Max => SymOp::Max,
                            Func::Min => SymOp::Min,
                            Func::Mul => SymOp::Mul,
                        };
                        SymTree::Op(op, Box::new(x.to_tree()), Box::new(y.to_tree()))
                    }
                };
                product = Some(match product {
                    None => a,
                    Some(p) => SymTree::Op(SymOp::Mul, Box::new(p), Box::new(a)),
                });
            }
            let product = product.expect("a term has a factor");
            sum = Some(match sum {
                None => product,
                Some(s) => SymTree::Op(SymOp::Add, Box::new(s), Box::new(product)),
            });
        }
        sum.unwrap_or(SymTree::Known(0))
    }
}

/// [`SymInt`] as an expression tree.
#[derive(Clone, Debug, PartialEq)]
pub enum SymTree {
    /// An integer.
    Known(i64),
    /// A symbol.
    Symbol(Arc<str>),
    /// An operator over two operands.
    Op(SymOp, Box<SymTree>, Box<SymTree>),
}

/// Operators of [`SymTree`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SymOp {
    Add,
    Mul,
    FloorDiv,
    Max,
    Min,
}

impl Func {
    fn apply(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Func::FloorDiv => SymInt::Known(a).floor_div(&SymInt::Known(b)).known(),
            Func::Max => Some(a.max(b)),
            Func::Min => Some(a.min(b)),
            Func::Mul => Some(a.saturating_mul(b)),
        }
    }

    fn bounds(self, (a, b): (i64, i64), (c, d): (i64, i64)) -> (i64, i64) {
        match self {
            Func::Max => (a.max(c), b.max(d)),
            Func::Min => (a.min(c), b.min(d)),
            Func::FloorDiv | Func::Mul => {
                let ends: Vec<i64> = [(a, c), (a, d), (b, c), (b, d)]
                    .into_iter()
                    .filter_map(|(x, y)| self.apply(x, y))
                    .collect();
                match (ends.iter().min(), ends.iter().max()) {
                    (Some(&lo), Some(&hi)) if c > 0 || d < 0 || self == Func::Mul => (lo, hi),
                    _ => (i64::MIN, i64::MAX),
                }
            }
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(1)
}

/// `term / by` as lists of factors, when every factor of `by` is one of `term`.
fn cancel(term: &[Atom], by: &[Atom]) -> Option<Vec<Atom>> {
    let mut left = term.to_vec();
    for b in by {
        left.remove(left.iter().position(|a| a == b)?);
    }
    Some(left)
}

impl Poly {
    fn add(&mut self, mut atoms: Vec<Atom>, k: i64) {
        atoms.sort();
        let n = self.0.entry(atoms).or_insert(0);
        *n = n.saturating_add(k);
    }

    fn simplify(mut self) -> SymInt {
        self.0.retain(|_, k| *k != 0);
        match self.0.len() {
            0 => SymInt::Known(0),
            1 if self.0.contains_key(&vec![]) => SymInt::Known(self.0[&vec![]]),
            _ => SymInt::Expr(Arc::new(self)),
        }
    }
}

impl<T: Into<SymInt>> Add<T> for SymInt {
    type Output = SymInt;
    fn add(self, other: T) -> SymInt {
        let other = other.into();
        if let (SymInt::Known(a), SymInt::Known(b)) = (&self, &other) {
            return SymInt::Known(a.saturating_add(*b));
        }
        let mut p = Poly::default();
        for (t, k) in self.terms().into_iter().chain(other.terms()) {
            p.add(t, k);
        }
        p.simplify()
    }
}

impl<T: Into<SymInt>> Mul<T> for SymInt {
    type Output = SymInt;
    fn mul(self, other: T) -> SymInt {
        let other = other.into();
        if let (SymInt::Known(a), SymInt::Known(b)) = (&self, &other) {
            return SymInt::Known(a.saturating_mul(*b));
        }
        let mut p = Poly::default();
        let (left, right) = (self.terms(), other.terms());
        let degree = |terms: &[(Vec<Atom>, i64)]| terms.iter().map(|(a, _)| a.len()).max().unwrap_or(0);
        if left.len() * right.len() > MAX_TERMS || degree(&left) + degree(&right) > MAX_FACTORS {
            let (a, b) = if self <= other { (self, other) } else { (other, self) };
            return SymInt::atom(Atom::Call(Func::Mul, a, b));
        }
        for (a, j) in left {
            for (b, k) in &right {
                p.add([&a[..], &b[..]].concat(), j.saturating_mul(*k));
            }
        }
        p.simplify()
    }
}

impl<T: Into<SymInt>> Sub<T> for SymInt {
    type Output = SymInt;
    fn sub(self, other: T) -> SymInt {
        self + -other.into()
    }
}

impl Neg for SymInt {
    type Output = SymInt;
    fn neg(self) -> SymInt {
        self * -1
    }
}

impl std::iter::Sum for SymInt {
    fn sum<I: Iterator<Item = SymInt>>(it: I) -> SymInt {
        let mut p = Poly::default();
        for (t, k) in it.flat_map(|x| x.terms()) {
            p.add(t, k);
        }
        p.simplify()
    }
}

impl std::iter::Product for SymInt {
    fn product<I: Iterator<Item = SymInt>>(it: I) -> SymInt {
        it.fold(SymInt::Known(1), |a, b| a * b)
    }
}

impl From<i64> for SymInt {
    fn from(n: i64) -> Self {
        SymInt::Known(n)
    }
}
impl From<i32> for SymInt {
    fn from(n: i32) -> Self {
        SymInt::Known(n.into())
    }
}
impl From<usize> for SymInt {
    fn from(n: usize) -> Self {
        SymInt::Known(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<&SymInt> for SymInt {
    fn from(n: &SymInt) -> Self {
        n.clone()
    }
}
impl PartialEq<i64> for SymInt {
    fn eq(&self, n: &i64) -> bool {
        self.known() == Some(*n)
    }
}

impl fmt::Display for SymInt {
    /// Sympy's spelling, which [`SymInt::parse`] reads: `2*s77 + 1`, `(s0 - 1)//2`, `Max(1, s3)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms = self.terms();
        if terms.is_empty() {
            return f.write_str("0");
        }
        // The constant term sorts first; it reads better last.
        let first = usize::from(terms[0].0.is_empty() && terms.len() > 1);
        terms.rotate_left(first);
        for (i, (atoms, k)) in terms.iter().enumerate() {
            match (i, *k < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let k = k.unsigned_abs();
            if k != 1 || atoms.is_empty() {
                write!(f, "{k}")?;
            }
            for (j, a) in atoms.iter().enumerate() {
                if j > 0 || k != 1 {
                    f.write_str("*")?;
                }
                match a {
                    Atom::Symbol(s) => f.write_str(s)?,
                    Atom::Call(Func::FloorDiv, x, y) => write!(f, "(({x})//({y}))")?,
                    Atom::Call(Func::Max, x, y) => write!(f, "Max({x}, {y})")?,
                    Atom::Call(Func::Min, x, y) => write!(f, "Min({x}, {y})")?,
                    Atom::Call(Func::Mul, x, y) => write!(f, "({x})*({y})")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SymInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Debug for Poly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SymInt::Expr(Arc::new(self.clone())))
    }
}

/// The text is no integer expression that lowbit knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {text:?} as an integer expression: {reason}")]
pub struct ParseSymIntError {
    /// The whole text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl SymInt {
    /// Reads an expression as sympy prints it (the form PyTorch stores in `.pt2` files).
    ///
    /// # Errors
    /// When the text holds anything but integers, names, `+ - * // % **`, parentheses and the functions `FloorDiv`,
    /// `CleanDiv`, `Mod`, `PythonMod`, `Max`, `Min`.
    pub fn parse(text: &str) -> Result<SymInt, ParseSymIntError> {
        let mut p = Parser { rest: text, depth: 0 };
        let fail = |reason: String| ParseSymIntError { text: text.into(), reason };
        let v = p.sum().map_err(fail)?;
        p.skip();
        if p.rest.is_empty() { Ok(v) } else { Err(fail(format!("{:?} is left over", p.rest))) }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(r) => {
                self.rest = r;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<SymInt, String> {
        self.depth += 1;
        if self.depth > 64 {
            return Err("nested too deeply".into());
        }
        let mut v = self.product()?;
        loop {
            if self.eat("+") {
                v = v + self.product()?;
            } else if self.eat("-") {
                v = v - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(v);
            }
        }
    }

    fn product(&mut self) -> Result<SymInt, String> {
        let mut v = self.power()?;
        loop {
            if self.eat("//") {
                v = v.floor_div(&self.power()?);
            } else if self.eat("%") {
                v = v.modulo(&self.power()?);
            } else if self.eat("*") {
                v = v * self.power()?;
            } else {
                return Ok(v);
            }
        }
    }

    fn power(&mut self) -> Result<SymInt, String> {
        // As in Python, a sign binds tighter than a product: -7//2 is (-7)//2.
        if self.eat("-") {
            return Ok(-self.power()?);
        }
        let v = self.primary()?;
        if !self.eat("**") {
            return Ok(v);
        }
        match self.primary()?.known() {
            Some(n @ 0..=8) => Ok((0..n).map(|_| v.clone()).product()),
            _ => Err("an exponent must be an integer from 0 to 8".into()),
        }
    }

    fn primary(&mut self) -> Result<SymInt, String> {
        if self.eat("(") {
            let v = self.sum()?;
            return if self.eat(")") { Ok(v) } else { Err("a ) is missing".into()) };
        }
        self.skip();
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            return Err("an operand is missing".into());
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse::<i64>().map(SymInt::Known).map_err(|e| e.to_string());
        }
        if !self.eat("(") {
            return Ok(SymInt::symbol(word));
        }
        let mut args = vec![self.sum()?];
        while self.eat(",") {
            args.push(self.sum()?);
        }
        if !self.eat(")") {
            return Err("a ) is missing".into());
        }
        match (word, &args[..]) {
            ("FloorDiv" | "CleanDiv", [a, b]) => Ok(a.floor_div(b)),
            ("Mod" | "PythonMod", [a, b]) => Ok(a.modulo(b)),
            ("Max", [a, rest @ ..]) => Ok(rest.iter().fold(a.clone(), |x, y| x.sym_max(y))),
            ("Min", [a, rest @ ..]) => Ok(rest.iter().fold(a.clone(), |x, y| x.sym_min(y))),
            _ => Err(format!("{word} with {} arguments is not a known function", args.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(t: &str) -> SymInt {
        SymInt::parse(t).unwrap()
    }

    #[test]
    fn equal_expressions_are_equal() {
        for (a, b) in [
            ("s0 + s0", "2*s0"),
            ("(s0 + 1)*(s0 - 1)", "s0**2 - 1"),
            ("(4*s0)//2", "2*s0"),
            ("(6*s0 + 3)//2", "3*s0 + 1"),
            ("(s0*s1*49)//s0", "49*s1"),
            ("FloorDiv(s0 - 1, 2) + 1", "((s0 - 1)//2) + 1"),
            ("Max(1, s0)", "Max(s0, 1)"),
            ("s0 - s0", "0"),
            ("-7//2", "-4"),
            ("((s0//2)//2)//2", "s0//8"),
            ("((s0//80 - 3)//2 - 1)//2 + 1", "(s0 - 80)//320"),
            ("(2*s0 + 4)//6", "(s0 + 2)//3"),
            ("(3*s0 + 5)//2", "s0 + 2 + (s0 + 1)//2"),
            ("(32*s0 + 32*s0*((s1 - 1)//4))//(s0 + s0*((s1 - 1)//4))", "32"),
            ("(s0**2 - 1)//(s0 + 1)", "s0 - 1"),
            ("(s0**2 + 3*s0*s1 + 2*s1**2)//(s0 + s1)", "s0 + 2*s1"),
        ] {
            assert_eq!(s(a), s(b), "{a} / {b}");
        }
    }

    #[test]
    fn printing_parses_back() {
        for t in
            ["s77", "2*s77 + 1", "((s0 - 1)//2) + 1", "Max(1, s0)*3 - s1**2", "(7*s0 + 3) % 5", "0", "-4"]
        {
            assert_eq!(s(&s(t).to_string()), s(t), "{t} -> {}", s(t));
        }
    }

    #[test]
    fn evaluation_and_bounds_agree_with_python() {
        let b: Bindings = [("s0".into(), 7)].into();
        for (t, want) in [("((s0 - 10)//2)", -2), ("(s0 - 10) % 4", 1), ("s0**2 - 1", 48), ("Min(s0, 3)", 3)]
        {
            assert_eq!(s(t).eval(&b), Ok(want), "{t}");
        }
        // Whatever form a division is brought to, its value stays.
        for n in [1, 2, 3, 7, 8, 31, 100] {
            let at = |t: &str| s(t).eval(&[("s0".into(), n)].into()).unwrap();
            assert_eq!(
                at("((s0//3 + 2*s0)//4 - 1)//5"),
                ((n / 3 + 2 * n).div_euclid(4) - 1).div_euclid(5),
                "{n}"
            );
            assert_eq!(at("(6*s0 - 9)//12"), (6 * n - 9).div_euclid(12), "{n}");
            assert_eq!(at("(s0*s0 + 1)//(s0 + 1)"), (n * n + 1) / (n + 1), "{n}");
            assert_eq!(at("(-s0)//4"), (-n).div_euclid(4), "{n}");
        }
        assert_eq!(s("2*s0 + 1").bounds(&|_| (1, 10)), (3, 21));
        assert!(s("s9").eval(&b).is_err());
    }

    #[test]
    fn products_stop_being_multiplied_out() {
        let sum = |from: usize| (from..from + 40).map(|i| SymInt::symbol(format!("s{i}"))).sum::<SymInt>();
        let big = sum(0) * sum(100);
        assert_eq!(big, sum(100) * sum(0));
        let ones: Bindings = big.symbols().into_iter().map(|s| (s, 1)).collect();
        assert_eq!(big.eval(&ones), Ok(1600));
        assert_eq!(s(&big.to_string()), big);
        assert!(big.is_at_most(200) && !big.is_at_most(100));
        let power = (0..100).fold(SymInt::Known(1), |p, _| p * SymInt::symbol("s0"));
        assert_eq!(power.eval(&[("s0".into(), 1)].into()), Ok(1));
        assert_eq!(power.bounds(&|_| (1, 1)), (1, 1));
    }

    #[test]
    fn bad_text_is_an_error() {
        for t in ["", "s0 +", "(s0", "sin(s0)", "s0 $", "99999999999999999999", "s0**s1", &"(".repeat(100)] {
            assert!(SymInt::parse(t).is_err(), "{t}");
        }
    }
}
