//! Packages come from strangers: whatever is changed in one, reading and raising it ends in a program or an error.

use super::{CASES, notation};
use lowbit_core::ir::verify;
use lowbit_coreml::mil::{Arg, Constant, DType, Data, Operation, Type};
use lowbit_coreml::package::Package;
use lowbit_coreml::raise::{Rounding, raise};
use lowbit_testing::data::Numbers;

/// Numbers from 0 up to `n`.
fn below(r: &mut Numbers, n: usize) -> usize {
    (r.bits() % n.max(1) as u64) as usize
}

/// Raises, and checks what comes out.
fn survives(package: &Package, what: &dyn Fn() -> String) {
    for rounding in [Rounding::Exact, Rounding::AsTyped] {
        if let Ok(program) = raise(package, rounding)
            && let Err(e) = verify(&program)
        {
            panic!("{}\n{e}", what());
        }
    }
}

/// A constant of any type and shape, with a liking for those that break arithmetic.
fn constant(r: &mut Numbers) -> Constant {
    let extreme = [0, 1, -1, 2, 3, i32::MAX, i32::MIN, 1 << 20, -7, 64];
    let int = |r: &mut Numbers| extreme[below(r, extreme.len())];
    match below(r, 9) {
        0 => Constant::str(["", "same", "custom", "int8", "fp32", "reflect", "update"][below(r, 7)]),
        1 => Constant::bool(r.bits().is_multiple_of(2)),
        2 | 3 => Constant::i32(int(r)),
        4 | 5 => Constant::i32s(&(0..below(r, 6)).map(|_| int(r)).collect::<Vec<_>>()),
        6 => Constant::float(DType::F32, [0.0, -1.5, f32::NAN, f32::INFINITY, 3e38, 1e-45][below(r, 6)]),
        7 => Constant::floats(DType::F16, &[2, 3], &[1.0, -2.0, 0.5, f32::NAN, 0.0, 7.0]),
        _ => {
            let dtype = [DType::U8, DType::I8, DType::U4, DType::I4, DType::U1, DType::U3][below(r, 6)];
            let shape: Vec<usize> = (0..below(r, 4)).map(|_| 1 + below(r, 5)).collect();
            let bytes = (0..dtype.bytes(shape.iter().product())).map(|_| r.bits() as u8);
            Constant::new(dtype, shape, bytes.collect::<Vec<_>>())
        }
    }
}

fn change(r: &mut Numbers, o: &mut Operation, names: &[String]) {
    let ty = |r: &mut Numbers| {
        let dtype = [DType::F16, DType::F32, DType::I32, DType::Bool, DType::I8, DType::Str][below(r, 6)];
        Type::new(dtype, (0..below(r, 5)).map(|_| below(r, 4)))
    };
    let slot = below(r, o.inputs.len());
    match below(r, 8) {
        0 if !o.inputs.is_empty() => drop(o.inputs.remove(slot)),
        1 if !o.inputs.is_empty() => o.inputs[slot].1 = vec![Arg::Const(constant(r))],
        2 if !o.inputs.is_empty() => o.inputs[slot].1 = vec![Arg::Name(names[below(r, names.len())].clone())],
        3 if !o.inputs.is_empty() => {
            let again = o.inputs[slot].1.clone();
            o.inputs[slot].1.extend(again);
        }
        4 if !o.attributes.is_empty() => {
            let slot = below(r, o.attributes.len());
            o.attributes[slot].1 = constant(r);
        }
        5 if !o.outputs.is_empty() => {
            let slot = below(r, o.outputs.len());
            o.outputs[slot].1 = ty(r);
        }
        6 => o.outputs.push((names[below(r, names.len())].clone(), ty(r))),
        _ => drop(o.outputs.pop()),
    }
}

#[test]
fn changed_operators_are_programs_or_errors() {
    let mut r = Numbers::new("operators");
    for case in notation::cases(CASES) {
        for _ in 0..60 {
            let mut package = case.package.clone();
            let f = &mut package.program.functions[0].1;
            let made = f.operations.iter().flat_map(|o| o.outputs.iter().map(|(n, _)| n.clone()));
            let names: Vec<String> = made.chain(f.inputs.iter().map(|i| i.name.clone())).collect();
            // Constants too: they are operators of their own.
            for _ in 0..1 + below(&mut r, 2) {
                let at = below(&mut r, f.operations.len());
                change(&mut r, &mut f.operations[at], &names);
            }
            survives(&package, &|| format!("{}\nchanged to\n{:#?}", case.source, package.program));
        }
    }
}

#[test]
fn changed_borders_are_programs_or_errors() {
    let mut r = Numbers::new("borders");
    for case in notation::cases(CASES).filter(|c| !c.package.border.inputs.is_empty()) {
        for _ in 0..10 {
            let mut package = case.package.clone();
            let at = below(&mut r, package.border.inputs.len());
            let f = &mut package.program.functions[0].1;
            match below(&mut r, 4) {
                0 => drop(package.border.inputs.remove(at)),
                1 => f.outputs.push(f.inputs[below(&mut r, f.inputs.len())].name.clone()),
                2 => {
                    let at = below(&mut r, f.inputs.len());
                    let input = &mut f.inputs[at];
                    let huge = [0, 1 << 20, i64::MAX, -1][below(&mut r, 4)];
                    input.ty.shape.iter_mut().for_each(|d| *d = huge.into());
                }
                _ => f.inputs.iter_mut().for_each(|i| i.state = !i.state),
            }
            survives(&package, &|| format!("{}\nchanged to\n{package:#?}", case.source));
        }
    }
}

/// Bytes of the model and of its weights.
#[test]
fn changed_files_are_programs_or_errors() {
    let mut r = Numbers::new("files");
    for case in notation::cases(CASES) {
        let files = case.package.files();
        for _ in 0..30 {
            let mut files = files.clone();
            let names: Vec<String> = files.keys().cloned().collect();
            let name = &names[below(&mut r, names.len())];
            let bytes = files.get_mut(name).unwrap();
            for _ in 0..1 + below(&mut r, 3) {
                let at = below(&mut r, bytes.len());
                match below(&mut r, 4) {
                    0 => bytes[at] ^= 1 << below(&mut r, 8),
                    1 => bytes[at] = r.bits() as u8,
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, r.bits() as u8),
                }
            }
            let read = Package::read(&mut |name| files.get(name).map(|b| b.clone().into()));
            if let Ok(package) = read {
                survives(&package, &|| format!("{}\nbytes changed in {name}", case.source));
            }
        }
    }
}

/// Elements that are not there are asked for by nobody.
#[test]
fn constants_of_other_length_are_errors() {
    for case in notation::cases(CASES) {
        let mut package = case.package.clone();
        for o in &mut package.program.functions[0].1.operations {
            for (_, c) in &mut o.attributes {
                if let Data::Bytes(b) = &mut c.data {
                    *b = b.slice(..b.len() / 2);
                }
            }
        }
        survives(&package, &|| format!("{}\nwith half the elements", case.source));
    }
}
