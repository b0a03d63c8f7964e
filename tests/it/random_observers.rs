//! Observers against torchao's on random sequences of tensors: `tests/data/parity/random_observers.py` computes what torchao
//! finds, this file makes the same tensors. `LOWBIT_OBSERVERS` names other folders of results, separated by colons, whose
//! counts are printed (`cargo test random_observers -- --nocapture`).

use super::observers::dtype;
use lowbit::data::npy;
use lowbit_core::quant::{
    Blocks, Granularity, Mapping, ObserverKind, ObserverState, QParams, QRange, QScheme, QuantSpec, observer,
};
use ndarray::ArrayView;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Random 64-bit words (splitmix64).
fn word(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 2 to a power of at most 126 either way.
fn power_of_two(e: i64) -> f32 {
    f32::from_bits(((127 + e) as u32) << 23)
}

/// Elements of a tensor of 4 rows, and how many of them observers of whole tensors see.
struct Batch {
    x: Vec<f32>,
    size: usize,
}

/// The batches of sequence `k`, and whether all have one shape; step by step as the script does it.
fn sequence(k: u64) -> (Vec<Batch>, bool) {
    let head: Vec<u64> = (0..16).map(|i| word(k << 40, i)).collect();
    let (kind, batches, same) = (head[0] % 8, head[1] % 4 + 1, head[3] % 2 == 1);
    let exponent = (head[2] % 201) as i64 - 100;
    let mantissa = (1.0 + (head[4] >> 41) as f64 / f64::from(1 << 23)) as f32;
    let batch = |b: u64| {
        let w = if same { head[8] } else { head[8 + b as usize] };
        let q = ((w >> 8) % (1 << (w % 14))).min(6250);
        let size = if q == 0 { 0 } else { 16 * q - (w >> 40) % 16 };
        let growth = if kind == 5 { 2 * b as i64 } else { 0 };
        let scale = power_of_two(exponent + growth);
        let element = |i: u64| {
            let w = word((k << 40).wrapping_add((b + 1) << 32), i);
            let fields: u64 = (0..3).map(|f| (w >> (21 * f)) & ((1 << 21) - 1)).sum();
            let x = (fields as i64 - 3 * (1 << 20)) as f32 * power_of_two(-20);
            let x = match kind {
                1 => x.abs() + 0.5,
                2 => -(x.abs() + 0.5),
                3 if head[5] % 2 == 1 => -1.0,
                3 => 1.0,
                4 if w.is_multiple_of(97) && !i.is_multiple_of(q) => {
                    return if w >> 63 == 1 { f32::INFINITY } else { f32::NEG_INFINITY };
                }
                6 => x.max(0.0),
                7 if head[6] % (16 * q) == i => x * 64.0,
                _ => x,
            };
            x * mantissa * scale
        };
        Batch { x: (0..16 * q).map(element).collect(), size: size as usize }
    };
    ((0..batches).map(batch).collect(), same)
}

fn spec(c: &Value, columns: usize) -> QuantSpec {
    let text = |key: &str| c[key].as_str().unwrap_or_default();
    let constant = c["averaging_constant"].as_f64().unwrap_or(0.01);
    let kind = match text("observer") {
        "HistogramObserver" => ObserverKind::Histogram { bins: c["bins"].as_u64().unwrap() as u32 },
        name if name.contains("MovingAverage") => ObserverKind::MovingAverage { constant },
        _ => ObserverKind::MinMax,
    };
    let mapping = match (text("qscheme").rsplit('_').next().unwrap(), text("mapping")) {
        ("symmetric", _) | (_, "SYMMETRIC") => Mapping::Symmetric,
        (_, "SYMMETRIC_NO_CLIPPING_ERR") => Mapping::SymmetricNoClipping,
        ("qparams", _) | (_, "FLOAT") => Mapping::AffineFloat,
        _ => Mapping::Affine,
    };
    let quarter = (columns / 4) as u32;
    let granularity = match text("blocks") {
        "" if text("observer").contains("Channel") => Granularity::Channel { axis: 0 },
        "" => Granularity::Tensor,
        "PerTensor" => Granularity::Blocks(Blocks::Tensor),
        "PerAxis" => Granularity::Blocks(Blocks::Axis(0)),
        "PerRow" => Granularity::Blocks(Blocks::Row(1)),
        "PerToken" => Granularity::Blocks(Blocks::Token),
        "PerGroup" => Granularity::Blocks(Blocks::Group(quarter)),
        "PerBlock" => Granularity::Blocks(Blocks::sizes(&[2, quarter]).unwrap()),
        other => panic!("{other}"),
    };
    let (low, high) = (c["range"][1].as_i64().unwrap(), c["range"][2].as_i64().unwrap());
    let range = QRange::new(dtype(&c["range"][0]), low, high).unwrap();
    let mut spec = QuantSpec::new(range, mapping, kind).eps(c["eps"].as_f64().unwrap());
    spec.scheme = QScheme { granularity, mapping };
    spec
}

/// What observers of one kind have seen of a sequence.
fn seen(spec: &QuantSpec, batches: &[Batch], same: bool) -> ObserverState {
    let mut o = observer::create(spec).unwrap();
    let whole = matches!(spec.scheme.granularity, Granularity::Tensor | Granularity::Blocks(Blocks::Tensor));
    let grouped = matches!(spec.scheme.granularity, Granularity::Blocks(Blocks::Group(_) | Blocks::Sizes(_)));
    // Blocks of one element are left out: there they are one block of all elements.
    let single = spec.scheme.granularity == Granularity::Blocks(Blocks::Group(1));
    for b in if same || !grouped { batches } else { &batches[..1] }.iter().filter(|_| !single) {
        match whole {
            true => o.observe(ArrayView::from(&b.x[..b.size]).into_dyn()),
            false => o.observe(ArrayView::from_shape((4, b.x.len() / 4), &b.x).unwrap().into_dyn()),
        }
    }
    o.state()
}

/// The parameters of an observer that is given what others of its kind have seen.
fn chosen(spec: &QuantSpec, state: &ObserverState) -> Option<QParams> {
    let mut o = observer::create(spec).unwrap();
    o.merge(state).unwrap();
    o.qparams().ok()
}

#[derive(Default)]
struct Count {
    equal: usize,
    /// Scales one unit in the last place apart.
    near: usize,
    differ: usize,
}

/// Steps between two positive floats.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

/// A checksum of a histogram, as the script computes it.
fn checksum(counts: &[f32]) -> f64 {
    let words = counts.iter().zip(0..).map(|(c, i)| u64::from(c.to_bits()).wrapping_mul(word(0, i)));
    (words.fold(0, u64::wrapping_add) >> 16) as f64
}

/// Results by observer and element type, and the differences.
fn check(folder: &Path) -> (BTreeMap<(String, String), Count>, Vec<String>) {
    let text = std::fs::read_to_string(folder.join("random_observers.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let arrays: BTreeMap<_, _> =
        npy::read(&folder.join("random_observers.npz"), |_| true).unwrap().into_iter().collect();
    let (scales, zeros) = (arrays["scale"].to_f32(), arrays["zero"].to_f64());
    let checksums = arrays["counts"].to_f64();
    let width = arrays["scale"].shape()[1];
    let (first, count) = (json["first"].as_u64().unwrap(), json["count"].as_u64().unwrap());
    let configs = json["configs"].as_array().unwrap();
    let (mut counts, mut differences) = (BTreeMap::<_, Count>::new(), vec![]);
    for k in 0..count {
        let (batches, same) = sequence(first + k);
        let mut at = k as usize * width;
        let mut states: BTreeMap<String, ObserverState> = BTreeMap::new();
        let there = checksums[k as usize];
        for c in configs {
            let parts = c["parts"].as_u64().unwrap() as usize;
            let (scale, zero) = (&scales[at..at + parts], &zeros[at..at + parts]);
            at += parts;
            let spec = spec(c, batches[0].x.len() / 4);
            let kind = format!("{:?} {:?}", spec.observer, spec.scheme.granularity);
            let state = states.entry(kind).or_insert_with(|| seen(&spec, &batches, same));
            let got = chosen(&spec, state);
            let counts_differ = state.fields.get("counts").is_some_and(|counts| {
                if counts.is_empty() { !there.is_nan() } else { checksum(counts) != there }
            });
            let key = [&c["observer"], &c["range"][0]].map(|v| v.as_str().unwrap().to_string());
            let count = counts.entry(key.into()).or_default();
            let apart = match &got {
                None if scale.iter().all(|s| s.is_nan()) => Some(0),
                Some(p) if p.scale.len() == parts => {
                    let zeros = p.zero_point.iter().zip(zero).all(|(a, b)| a == b || b.is_nan());
                    let scales = p.scale.iter().zip(scale).map(|(a, b)| ulps(*a as f32, *b));
                    zeros.then(|| scales.max().unwrap_or(0))
                }
                _ => None,
            }
            .filter(|_| !counts_differ);
            match apart {
                Some(0) => count.equal += 1,
                Some(1) => count.near += 1,
                _ => {
                    count.differ += 1;
                    differences.push(format!("{} {c}: {got:?}, {scale:?} {zero:?} there", first + k));
                }
            }
        }
    }
    (counts, differences)
}

#[test]
fn random_observers_are_torchaos() {
    let (counts, differences) = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity"));
    assert!(differences.is_empty(), "{} differences, {}", differences.len(), differences[0]);
    for ((observer, dtype), c) in counts {
        assert!(c.near == 0 || observer == "HistogramObserver", "{observer} {dtype}: a scale is off by one");
        assert!(c.equal >= 16);
    }
}

#[test]
fn random_observers_elsewhere_are_counted() {
    let Ok(folders) = std::env::var("LOWBIT_OBSERVERS") else { return };
    let mut failed = 0;
    for folder in folders.split(':') {
        let (counts, differences) = check(Path::new(folder));
        differences.iter().take(20).for_each(|d| println!("{d}"));
        failed += differences.len();
        for ((observer, dtype), c) in counts {
            println!("{observer} {dtype}: {} equal, {} off by one, {} differ", c.equal, c.near, c.differ);
        }
    }
    assert_eq!(failed, 0, "observers differ from torchao's");
}
