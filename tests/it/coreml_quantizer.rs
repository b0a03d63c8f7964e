//! The Core ML quantizer against ExecuTorch's `CoreMLQuantizer`: cases written by `tests/data/parity/coreml_quantizer.py`, of
//! each of its patterns with each activation, and of its configurations.

use crate::pt2e::{LEVELS, examine};
use lowbit_core::quant::{Mapping, ObserverKind, QRange};
use lowbit_core::quantizer::{OpConfig, RuleQuantizer, Scope};
use lowbit_coreml::quantizer::Static;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where lowbit means to differ: the case (any, if empty), the level, how the finding begins, and why.
type Difference = (&'static str, &'static str, &'static str, &'static str);

const FIXED: &str =
    "the range of its results is known; there it is meant to be fixed as well, but is observed";
const PADDING: &str = "a convolution with a word for its padding is one like others";
const AGAIN: &str = "a layer that is called once more is quantized there as well, with the same weight";
const POOLS: &str =
    "a pool reads integers of any pool before it, not only of kinds that come earlier in a list";
const METHOD: &str = "x.mean() is torch.mean(x)";
const BY_NAME: &str = "names come before types, and their configurations reach layers; there weights have no module, \
                       so that names never do";
const REST: &str = "what has no configuration is left alone, also behind a layer that has one";
const SIMULATED: &str = "observers watch the float program, not what is rounded layer by layer on the way";

const DIFFERENCES: &[Difference] = &[
    ("", "annotations", "%sigmoid", FIXED),
    ("", "annotations", "%hardsigmoid", FIXED),
    ("", "annotations", "%tanh", FIXED),
    ("normed", "annotations", "%mean", METHOD),
    ("others", "annotations", "%conv2d_1", PADDING),
    ("others", "annotations", "%conv2d_2", AGAIN),
    ("others", "annotations", "%gelu", AGAIN),
    ("others", "annotations", "%avg_pool2d", AGAIN),
    ("others", "annotations", "%max_pool2d", POOLS),
    ("others", "annotations", "%mean", METHOD),
    ("mlp_name_weights", "annotations", "%linear_1#1", BY_NAME),
    ("mlp_name_before_type", "annotations", "%linear#", BY_NAME),
    ("mlp_name_before_type", "annotations", "%relu", BY_NAME),
    ("mlp_name_before_type", "annotations", "%linear_1#0", BY_NAME),
    ("mlp_type_only", "annotations", "%linear (a)", REST),
    ("mlp_type_only", "annotations", "%relu", REST),
    ("mlp_type_only", "annotations", "%linear_1#0", REST),
    ("residual_simulated", "parameters", "", SIMULATED),
];

/// The quantizer of a `LinearQuantizerConfig`.
pub fn quantizer(config: &Value) -> Result<RuleQuantizer, String> {
    let mut q = lowbit_coreml::quantizer::quantizer();
    if !config["global_config"].is_null() {
        q = q.set(Scope::Global, module(&config["global_config"])?);
    }
    for (key, scope) in [
        ("module_name_configs", (|n| Scope::ModuleName(n)) as fn(_) -> _),
        ("module_type_configs", |n| Scope::ModuleType(n)),
    ] {
        for (name, c) in config[key].as_object().into_iter().flatten() {
            q = q.set(scope(name.as_str().into()), module(c)?);
        }
    }
    Ok(q)
}

/// The configuration of a `ModuleLinearQuantizerConfig`; null leaves a module in floating point.
fn module(c: &Value) -> Result<OpConfig, String> {
    if c.is_null() {
        return Ok(OpConfig::float());
    }
    let mut s = Static::default();
    for (key, value) in c.as_object().into_iter().flatten() {
        match (&**key, value.as_str().unwrap_or_default()) {
            ("quantization_scheme", "symmetric") => s.mapping = Mapping::Symmetric,
            ("quantization_scheme", "affine") => s.mapping = Mapping::Affine,
            // The reference makes 8 bits of 4 without a word.
            ("weight_dtype", "qint8" | "qint4") => s.weight = Some(QRange::INT8),
            ("weight_dtype", "quint8") => s.weight = Some(QRange::UINT8),
            ("weight_dtype", "float32") => s.weight = None,
            ("weight_per_channel", _) => s.per_channel = *value == true,
            ("activation_dtype", "float32") => s.activations = false,
            ("activation_observer" | "weight_observer", "min_max") => s.observer = ObserverKind::MinMax,
            _ => return Err(format!("{key}: {value}")),
        }
    }
    Ok(s.config())
}

/// Sites that the reference annotates in a case.
fn sites(case: &Path) -> usize {
    let text = std::fs::read_to_string(case.join("case.json")).unwrap();
    let case: Value = serde_json::from_str(&text).unwrap();
    let nodes = case["annotations"].as_array().unwrap();
    let inputs = nodes.iter().flat_map(|n| n["inputs"].as_array().unwrap()).map(|i| &i["spec"]);
    inputs.chain(nodes.iter().map(|n| &n["output"])).filter(|spec| !spec.is_null()).count()
}

#[test]
fn annotations_and_parameters_are_executorchs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parity/coreml");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|p| p.join("case.json").exists());
    cases.sort();
    let (mut unknown, mut met) = (vec![], BTreeSet::new());
    let (mut levels, mut compared, mut equal) = ([0; 5], 0, 0);
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let findings = examine(case).unwrap_or_else(|e| panic!("{name}: {e}"));
        let annotated = sites(case);
        compared += annotated;
        equal += annotated;
        for (i, found) in findings.iter().enumerate() {
            let Some(found) = found else { continue };
            levels[i] += 1;
            for finding in found {
                let is_meant = |(c, level, start, _): &Difference| {
                    (c.is_empty() || *c == name) && *level == LEVELS[i] && finding.starts_with(start)
                };
                match DIFFERENCES.iter().position(is_meant) {
                    Some(d) => _ = met.insert(d),
                    None => unknown.push(format!("{name}: {}: {finding}", LEVELS[i])),
                }
                equal -= usize::from(i == 0 && !finding.ends_with("None there"));
            }
        }
    }
    assert!(unknown.is_empty(), "{} unknown differences\n{}", unknown.len(), unknown.join("\n"));
    let gone: Vec<_> = DIFFERENCES.iter().enumerate().filter(|(i, _)| !met.contains(i)).collect();
    assert!(gone.is_empty(), "differences that are none any more: {gone:?}");
    assert_eq!((cases.len(), levels), (26, [26; 5]));
    assert_eq!((equal, compared), (562, 596), "sites that are equal, of those that are annotated there");
}
