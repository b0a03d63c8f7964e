//! The library's messages in words.
//!
//! Of an operator with the wrong element types it lists, over hundreds of lines, every combination that it has. Here that
//! becomes one sentence.

/// How many combinations a sentence lists.
const MOST: usize = 6;

/// One sentence of all messages; empty when there is nothing to say.
pub fn sentence(messages: &[String]) -> String {
    let all = messages.join("\n");
    if let Some(wrong) = types(&all) {
        return wrong;
    }
    let mut said: Vec<String> = vec![];
    for line in all.lines() {
        let line = codes(line.trim().trim_end_matches('.'));
        if !line.is_empty() && !said.contains(&line) {
            said.push(line);
        }
    }
    let more = said.len().saturating_sub(MOST);
    said.truncate(MOST);
    if more > 0 {
        said.push(format!("and {more} messages more"));
    }
    said.join("; ")
}

/// The sentence about element types, when the messages are about those.
fn types(all: &str) -> Option<String> {
    let requested = all.split("Requested I/O datatype set").nth(1)?;
    let (requested, supported) = requested.split_once("Supported I/O datatype sets")?;
    let asked = set(requested.lines())?;
    let inputs = asked.0.len();
    let mut sets: Vec<String> = vec![];
    for block in supported.split("Supported I/O datatype sets") {
        let lines: Vec<&str> = block.lines().collect();
        // A set begins with its number.
        let starts: Vec<usize> = (0..lines.len()).filter(|&i| number(lines[i])).collect();
        for (k, &start) in starts.iter().enumerate() {
            let end = starts.get(k + 1).copied().unwrap_or(lines.len());
            let Some((mut takes, makes)) = set(lines[start + 1..end].iter().copied()) else { continue };
            takes.truncate(inputs.max(1));
            let text = shown(&takes, &makes);
            if !sets.contains(&text) {
                sets.push(text);
            }
        }
    }
    // The closest ones first: those that differ in the fewest places. The sort is stable.
    let wanted = shown(&asked.0, &asked.1);
    let parts = |s: &str| {
        s.split([' ', ',', '(', ')']).filter(|p| !p.is_empty()).map(str::to_string).collect::<Vec<_>>()
    };
    let mine = parts(&wanted);
    sets.sort_by_key(|s| parts(s).iter().zip(&mine).filter(|(a, b)| a != b).count());
    let more = sets.len().saturating_sub(MOST);
    sets.truncate(MOST);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(format!("it has no {wanted}; it has {}{more}", sets.join(", ")))
}

fn number(line: &str) -> bool {
    let line = line.trim();
    line.strip_suffix(':').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn shown(takes: &[String], makes: &[String]) -> String {
    format!("({}) -> {}", takes.join(", "), makes.join(", "))
}

/// The types in lines such as `in[0]:QNN_DATATYPE_UFIXED_POINT_8`.
fn set<'a>(lines: impl Iterator<Item = &'a str>) -> Option<(Vec<String>, Vec<String>)> {
    let (mut takes, mut makes) = (vec![], vec![]);
    for line in lines {
        let Some((place, dtype)) = line.trim().split_once(':') else { continue };
        let dtype = dtype.trim();
        if dtype.is_empty() || dtype.starts_with('(') {
            continue;
        }
        match place {
            p if p.starts_with("in[") => takes.push(short(dtype)),
            p if p.starts_with("out[") => makes.push(short(dtype)),
            _ => {}
        }
    }
    (!makes.is_empty()).then_some((takes, makes))
}

/// `QNN_DATATYPE_UFIXED_POINT_8` as `u8`.
fn short(name: &str) -> String {
    let name = name.split_whitespace().next().unwrap_or(name);
    let name = name.strip_prefix("QNN_DATATYPE_").unwrap_or(name);
    for (long, short) in [
        ("UFIXED_POINT_", "u"),
        ("SFIXED_POINT_", "s"),
        ("BFLOAT_", "bf"),
        ("FLOAT_", "f"),
        ("UINT_", "uint"),
        ("INT_", "int"),
        ("BOOL_", "bool"),
    ] {
        if let Some(bits) = name.strip_prefix(long) {
            return if long == "BOOL_" { "bool".into() } else { format!("{short}{bits}") };
        }
    }
    name.to_lowercase()
}

/// A line with the numbers of element types replaced by names.
fn codes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("0x") {
        let digits = rest[at + 2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        let (code, after) = (&rest[at + 2..at + 2 + digits], &rest[at + 2 + digits..]);
        let dtype = u32::from_str_radix(code, 16).ok().and_then(crate::graph::DType::of_code);
        out.push_str(&rest[..at]);
        match dtype {
            Some(d) => out.push_str(d.name()),
            None => out.push_str(&rest[at..at + 2 + digits]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_types_become_a_sentence() {
        let said = "Unsupported input/output datatypes requested for the HTP Op 'MatMul' in the node 'n0'.\n\
                    Requested I/O datatype set:\n\n  in[0]:QNN_DATATYPE_UFIXED_POINT_16\n  in[1]:QNN_DATATYPE_SFIXED_POINT_16\n  in[2]: (optional)\n  \
                    out[0]:QNN_DATATYPE_UFIXED_POINT_16\n\nSupported I/O datatype sets for the configuration: FP16\n  1:\n  in[0]:QNN_DATATYPE_FLOAT_16\n  \
                    in[1]:QNN_DATATYPE_FLOAT_16\n  in[2]:QNN_DATATYPE_FLOAT_16\n  out[0]:QNN_DATATYPE_FLOAT_16\n\nSupported I/O datatype sets for the \
                    configuration: INT16\n  1:\n  in[0]:QNN_DATATYPE_UFIXED_POINT_16\n  in[1]:QNN_DATATYPE_SFIXED_POINT_8\n  out[0]:QNN_DATATYPE_UFIXED_POINT_16\n";
        let want = "it has no (u16, s16) -> u16; it has (u16, s8) -> u16, (f16, f16) -> f16";
        assert_eq!(sentence(&[said.to_string()]), want);
    }

    #[test]
    fn other_messages_are_joined() {
        let said = ["Tensor 0 and 0 have mismatching datatypes. 0x408 != 0x416.".to_string(), String::new()];
        assert_eq!(sentence(&said), "Tensor 0 and 0 have mismatching datatypes. u8 != u16");
        assert_eq!(sentence(&[]), "");
        let many: Vec<String> = (0..9).map(|i| format!("m{i}")).collect();
        assert!(sentence(&many).ends_with("; and 3 messages more"));
    }
}
