//! MIL in short: `conv(x=%fp32[1,2,5,5], weight=#fp32[3,2,3,3], pad_type="same") -> fp32[1,3,5,5]`.
//!
//! * `%type` is an input, `&type` a state, `$name` a value of an earlier line; `(a, b)` are several.
//! * `#type` is a constant with elements 1, 2, 3 …, `#type{…}` one with these.
//! * `1`, `[1, 2]` are int32, `0.5` is fp32, `half(0.5)` is fp16; `true`, `[true, false]`, `"text"`.
//! * `@name=…` is an attribute, `name:=…` a constant in place; all others are `const` operators of their own.
//! * `?` is an open size, from 1 to 8.
//!
//! A case is some lines, and behind them, indented, what they become. `typed` before the first line rounds as typed. Results
//! are named by the line (`a, b = …`) or `r`, `r1` …; those of the last line are the function's.

use lowbit_core::SymInt;
use lowbit_coreml::Target;
use lowbit_coreml::mil::program::Input;
use lowbit_coreml::mil::{Arg, Constant, DType, Function, Operation, Program, Type, pack};
use lowbit_coreml::package::{Border, Feature, Package, Sizes};
use lowbit_coreml::raise::Rounding;

/// A case of the file.
pub struct Case {
    /// Its lines.
    pub source: String,
    /// What they mean.
    pub package: Package,
    /// How it is raised.
    pub rounding: Rounding,
    /// What it should become.
    pub expected: String,
}

/// The cases of a file.
pub fn cases(text: &str) -> impl Iterator<Item = Case> {
    text.split("\n\n").map(str::trim_end).filter(|b| !b.trim().is_empty()).map(|block| {
        let lines = block.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        let (out, source): (Vec<&str>, Vec<&str>) = lines.partition(|l| l.starts_with(' '));
        let expected = out.iter().map(|l| format!("{l}\n")).collect();
        let typed = source.first() == Some(&"typed");
        let rounding = if typed { Rounding::AsTyped } else { Rounding::Exact };
        let mut b = Builder::default();
        source.iter().skip(usize::from(typed)).for_each(|l| b.line(l));
        Case { source: source.join("\n"), package: b.finish(), rounding, expected }
    })
}

#[derive(Default)]
struct Builder {
    function: Function,
    border: Border,
    line: usize,
}

impl Builder {
    fn line(&mut self, line: &str) {
        self.line += 1;
        let bad = || -> ! { panic!("not understood: {line}") };
        let (head, results) = line.split_once(" -> ").unwrap_or((line.trim_end_matches(" ->"), ""));
        let types: Vec<Type> = split(results).iter().map(|t| ty(t)).collect();
        let open = head.find('(').unwrap_or_else(|| bad());
        let (names, op) = match head[..open].rsplit_once(" = ") {
            Some((names, op)) => (split(names).iter().map(|n| n.to_string()).collect(), op),
            None => (vec![], &head[..open]),
        };
        let mut o =
            Operation { op: op.to_string().into(), inputs: vec![], attributes: vec![], outputs: vec![] };
        for arg in split(head[open + 1..].strip_suffix(')').unwrap_or_else(|| bad())) {
            let (name, value) = arg.split_once('=').unwrap_or_else(|| bad());
            if let Some(name) = name.strip_prefix('@') {
                o.attributes.push((name.to_string().into(), constant(value).unwrap_or_else(|| bad())));
                continue;
            }
            let in_place = name.ends_with(':');
            let name = name.trim_end_matches(':');
            let parts = match value.strip_prefix('(') {
                Some(list) => split(list.strip_suffix(')').unwrap_or_else(|| bad())),
                None => vec![value],
            };
            let several = parts.len() > 1;
            let values = parts.iter().enumerate().map(|(i, v)| {
                let wish = if several { format!("{name}{i}") } else { name.to_string() };
                self.value(&wish, v, in_place).unwrap_or_else(|| bad())
            });
            let values: Vec<Arg> = values.collect();
            o.inputs.push((name.to_string().into(), values));
        }
        let default = |i: usize| if i == 0 { "r".to_string() } else { format!("r{i}") };
        let names = (0..types.len()).map(|i| names.get(i).cloned().unwrap_or_else(|| default(i)));
        o.outputs = names.zip(types).collect();
        // The results of the last line, or of the last that has some.
        if !o.outputs.is_empty() {
            self.function.outputs = o.outputs.iter().map(|(n, _)| n.clone()).collect();
        }
        self.function.operations.push(o);
    }

    fn value(&mut self, name: &str, text: &str, in_place: bool) -> Option<Arg> {
        if let Some(n) = text.strip_prefix('$') {
            return Some(Arg::Name(n.into()));
        }
        if let Some(t) = text.strip_prefix(['%', '&']) {
            let mut ty = ty(t);
            for d in ty.shape.iter_mut().filter(|d| d.known().is_none()) {
                *d = SymInt::symbol(format!("s{}", self.symbols()));
            }
            let state = text.starts_with('&');
            self.input(name, ty, state);
            return Some(Arg::Name(name.into()));
        }
        let c = constant(text)?;
        if in_place {
            return Some(Arg::Const(c));
        }
        let name = format!("{name}_{}", self.line);
        let outputs = vec![(name.clone(), c.ty.clone())];
        let attributes = vec![("val".into(), c)];
        self.function.operations.push(Operation { op: "const".into(), inputs: vec![], attributes, outputs });
        Some(Arg::Name(name))
    }

    fn symbols(&self) -> usize {
        self.function.inputs.iter().flat_map(|i| &i.ty.shape).filter(|d| d.known().is_none()).count()
    }

    fn input(&mut self, name: &str, ty: Type, state: bool) {
        let range = |d: &SymInt| d.known().map_or((1, Some(8)), |n| (n as u64, Some(n as u64)));
        let usual: Vec<i64> = ty.shape.iter().map(|d| d.known().unwrap_or(4)).collect();
        let sizes = match ty.numel() {
            Some(_) => Sizes::Fixed(usual),
            None => Sizes::Range(ty.shape.iter().map(range).collect(), usual),
        };
        let feature = Feature { name: name.into(), dtype: ty.dtype, sizes };
        if state {
            self.border.states.push(feature)
        } else {
            self.border.inputs.push(feature)
        }
        self.function.inputs.push(Input { name: name.into(), ty, state });
    }

    fn finish(mut self) -> Package {
        self.function.opset = Target::Ios18.opset().into();
        let types = self.function.operations.iter().flat_map(|o| &o.outputs);
        let outputs = types.filter(|(n, _)| self.function.outputs.contains(n)).map(|(n, t)| {
            // What models cannot give stays in these functions.
            let dtype = if t.dtype.is_float() { t.dtype } else { DType::I32 };
            Feature { name: n.clone(), dtype, sizes: Sizes::Fixed(vec![]) }
        });
        self.border.outputs = outputs.collect();
        let program = Program { functions: vec![("main".into(), self.function)] };
        Package { target: Target::Ios18, border: self.border, program }
    }
}

/// Splits at commas outside brackets and quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start, mut parts) = (0, false, 0, vec![]);
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if depth == 0 && !quoted => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

/// `fp32[2,3]`; `fp32` is a single number.
fn ty(text: &str) -> Type {
    let (name, shape) = text.split_once('[').unwrap_or((text, "]"));
    let dtype = DType::from_name(name).unwrap_or_else(|| panic!("no type: {text}"));
    let size = |d: &&str| match *d {
        "?" => SymInt::symbol("?"),
        n => n.parse::<i64>().unwrap_or_else(|_| panic!("no size: {text}")).into(),
    };
    Type { dtype, shape: split(shape.trim_end_matches(']')).iter().map(size).collect() }
}

fn constant(text: &str) -> Option<Constant> {
    if let Some(s) = text.strip_prefix('"') {
        return Some(Constant::str(s.strip_suffix('"')?));
    }
    if let Some(t) = text.strip_prefix('#') {
        let (t, elements) = t.split_once('{').unwrap_or((t, "}"));
        let ty = ty(t);
        let given = split(elements.trim_end_matches('}'));
        let mut numbers = given.iter().map(|e| e.parse().ok()).collect::<Option<Vec<f32>>>()?;
        if numbers.is_empty() {
            numbers = (0..ty.numel()?).map(|i| i as f32 + 1.0).collect();
        }
        return Some(of_type(ty, &numbers));
    }
    if let Some(x) = text.strip_prefix("half(") {
        return Some(Constant::float(DType::F16, x.strip_suffix(')')?.parse().ok()?));
    }
    let list = text.strip_prefix('[').map(|l| split(l.trim_end_matches(']')));
    let words = list.clone().unwrap_or_else(|| vec![text]);
    if let Some(flags) = words.iter().map(|w| w.parse::<bool>().ok()).collect::<Option<Vec<_>>>()
        && !flags.is_empty()
    {
        let bytes: Vec<u8> = flags.iter().map(|&b| b.into()).collect();
        return Some(Constant::new(DType::Bool, list.map(|l| l.len()), bytes));
    }
    if let Some(numbers) = words.iter().map(|w| w.parse::<i32>().ok()).collect::<Option<Vec<_>>>() {
        return Some(if list.is_some() { Constant::i32s(&numbers) } else { Constant::i32(numbers[0]) });
    }
    Some(Constant::float(DType::F32, text.parse().ok()?))
}

/// Numbers as they are stored.
fn of_type(ty: Type, numbers: &[f32]) -> Constant {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.known().unwrap() as usize).collect();
    if ty.dtype.is_float() {
        return Constant::floats(ty.dtype, &shape, numbers);
    }
    let bytes: Vec<u8> = match ty.dtype.bits() {
        8 => numbers.iter().map(|&x| x as i64 as u8).collect(),
        16 => numbers.iter().flat_map(|&x| (x as i16).to_le_bytes()).collect(),
        32 => numbers.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect(),
        bits => pack(numbers.iter().map(|&x| x as i64 as u8), bits),
    };
    Constant::new(ty.dtype, shape, bytes)
}
