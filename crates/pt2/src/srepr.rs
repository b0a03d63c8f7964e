//! Symbolic sizes: `.pt2` files hold them as sympy's `srepr`, e.g.
//! `Add(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Integer(1))`.

use lowbit_core::SymInt;

/// Nesting that is still read: PyTorch's own expressions stay far below.
const MAX_DEPTH: u32 = 48;

/// Length that is still read: PyTorch's own formulas stay below a tenth of it.
const MAX_LENGTH: usize = 8 << 10;

/// Reads an integer expression.
pub fn parse(text: &str) -> Result<SymInt, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("a size is a formula of {} characters, more than lowbit reads", text.len()));
    }
    let mut p = Parser { rest: text, depth: 0 };
    let v = p.expr().map_err(|e| format!("cannot read the size {text:?}: {e}"))?;
    if p.rest.trim_start().is_empty() {
        Ok(v)
    } else {
        Err(format!("cannot read the size {text:?}: {:?} is left over", p.rest))
    }
}

/// Whether sizes of this name are only known once the program runs (`u0`: the result of `nonzero`, `item`, …).
pub fn is_unbacked(symbol: &str) -> bool {
    symbol.strip_prefix('u').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: char) -> Result<(), String> {
        self.rest = self.rest.trim_start();
        self.rest = self.rest.strip_prefix(token).ok_or_else(|| format!("{token:?} is missing"))?;
        Ok(())
    }

    fn peek(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.starts_with(token)
    }

    fn word(&mut self, more: &str) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || more.contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn expr(&mut self) -> Result<SymInt, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply".into());
        }
        let function = self.word("");
        self.eat('(')?;
        let value = match function {
            "Integer" => self.word("-").parse::<i64>().map(SymInt::Known).map_err(|e| e.to_string())?,
            "Symbol" => {
                self.eat('\'')?;
                let name = self.word("");
                self.eat('\'')?;
                // Assumptions: positive=True, integer=True.
                while self.peek(',') {
                    self.eat(',')?;
                    self.word("");
                    self.eat('=')?;
                    self.word("");
                }
                SymInt::symbol(name)
            }
            // Sizes are not negative, so truncation rounds down.
            "FloorToInt" | "TruncToInt" => {
                let (over, under) = self.fraction()?;
                over.floor_div(&under)
            }
            "CeilToInt" => {
                let (over, under) = self.fraction()?;
                over.ceil_div(&under)
            }
            _ => {
                let mut args = vec![self.expr()?];
                while self.peek(',') {
                    self.eat(',')?;
                    // Keyword arguments (evaluate=False) say nothing about the value.
                    let keyword =
                        self.rest.trim_start().split(['=', '(', ',', ')']).next().map_or(0, str::len);
                    if self.rest.trim_start()[keyword..].starts_with('=') {
                        self.word("");
                        self.eat('=')?;
                        self.word("");
                        continue;
                    }
                    args.push(self.expr()?);
                }
                apply(function, args)?
            }
        };
        self.eat(')')?;
        self.depth -= 1;
        Ok(value)
    }
}

impl Parser<'_> {
    /// A real number, which only occurs inside a rounding: numerator and denominator. PyTorch computes these in
    /// floating point; sizes are small enough for that to be exact.
    fn fraction(&mut self) -> Result<(SymInt, SymInt), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply".into());
        }
        let one = SymInt::Known(1);
        let (start, function) = (self.rest, self.word(""));
        let value = match function {
            "Float" => {
                self.eat('(')?;
                self.eat('\'')?;
                let text = self.word(".-+");
                self.eat('\'')?;
                self.eat(',')?;
                self.word("");
                self.eat('=')?;
                self.word("");
                self.eat(')')?;
                dyadic(text)?
            }
            "ToFloat" => {
                self.eat('(')?;
                let x = self.expr()?;
                self.eat(')')?;
                (x, one)
            }
            "IntTrueDiv" => {
                self.eat('(')?;
                let over = self.expr()?;
                self.eat(',')?;
                let under = self.expr()?;
                self.eat(')')?;
                (over, under)
            }
            "FloatTrueDiv" | "Mul" | "Add" => {
                self.eat('(')?;
                let (mut over, mut under) = self.fraction()?;
                while self.peek(',') {
                    self.eat(',')?;
                    let (a, b) = self.fraction()?;
                    (over, under) = match function {
                        "Mul" => (over * a, under * b),
                        "Add" => (over * b.clone() + a * under.clone(), under * b),
                        _ => (over * b, under * a),
                    };
                }
                self.eat(')')?;
                (over, under)
            }
            _ => {
                self.rest = start;
                (self.expr()?, one)
            }
        };
        self.depth -= 1;
        Ok(value)
    }
}

/// A float as a fraction over a power of two.
fn dyadic(text: &str) -> Result<(SymInt, SymInt), String> {
    let x: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    (0..=40u32)
        .map(|bits| (x * f64::from(bits).exp2(), 1i64 << bits))
        .find(|(n, _)| n.fract() == 0.0)
        .filter(|(n, _)| n.abs() < 2f64.powi(53))
        .map(|(n, under)| ((n as i64).into(), under.into()))
        .ok_or_else(|| format!("{text} is no fraction that lowbit keeps"))
}

fn apply(function: &str, args: Vec<SymInt>) -> Result<SymInt, String> {
    Ok(match (function, &args[..]) {
        ("Add", _) => args.into_iter().sum(),
        ("Mul", _) => args.into_iter().product(),
        ("Max", [first, rest @ ..]) => rest.iter().fold(first.clone(), |a, b| a.sym_max(b)),
        ("Min", [first, rest @ ..]) => rest.iter().fold(first.clone(), |a, b| a.sym_min(b)),
        ("FloorDiv" | "CleanDiv", [a, b]) => a.floor_div(b),
        ("Mod" | "PythonMod", [a, b]) => a.modulo(b),
        ("Pow" | "PowByNatural", [a, n]) => match n.known() {
            Some(n @ 0..=8) => (0..n).map(|_| a.clone()).product(),
            _ => return Err(format!("exponent {n} is not an integer from 0 to 8")),
        },
        ("Identity", [a]) => a.clone(),
        _ => return Err(format!("lowbit has no function {function} of {} arguments", args.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sympys_form() {
        let s = "Symbol('s77', positive=True, integer=True)";
        for (text, want) in [
            ("Integer(-3)".to_string(), "-3"),
            (s.to_string(), "s77"),
            (format!("Add(Mul(Integer(2), {s}), Integer(1))"), "2*s77 + 1"),
            (format!("FloorDiv(Add({s}, Integer(-1)), Integer(2))"), "(s77 - 1)//2"),
            (format!("Mul(Integer(4), Pow({s}, Integer(2)))"), "4*s77**2"),
            (format!("Max(Integer(1), {s})"), "Max(1, s77)"),
            (format!("Mul({s}, Integer(3), evaluate=False)"), "3*s77"),
            (format!("TruncToInt(IntTrueDiv({s}, Integer(2)))"), "s77//2"),
            (format!("TruncToInt(Mul(Float('2.0', precision=53), ToFloat(Mul(Integer(2), {s}))))"), "4*s77"),
            (format!("FloorToInt(Mul(Float('1.5', precision=53), ToFloat({s})))"), "(3*s77)//2"),
            (format!("TruncToInt(FloatTrueDiv(ToFloat({s}), Float('0.25', precision=53)))"), "4*s77"),
            (format!("CeilToInt(IntTrueDiv({s}, Integer(2)))"), "(s77 + 1)//2"),
        ] {
            assert_eq!(parse(&text), Ok(SymInt::parse(want).unwrap()), "{text}");
        }
    }

    #[test]
    fn bad_text_is_an_error() {
        let deep = "Add(".repeat(1000);
        for text in [
            "",
            "Integer(",
            "Integer(1.5)",
            "Symbol(s0)",
            "Sin(Integer(1))",
            "Integer(1) x",
            "Pow(Integer(2), \
             Integer(99))",
            &deep,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unbacked_symbols_are_told_by_name() {
        assert!(is_unbacked("u0") && is_unbacked("u12"));
        assert!(!is_unbacked("s0") && !is_unbacked("u") && !is_unbacked("used"));
    }
}
