//! Specs and recipes as a case file writes them.

use super::fx::{Fx, operands, text};
use lowbit_core::DType;
use lowbit_core::ir::{Arg, NodeWriter, Program, ValueId};
use lowbit_core::ops::{self, InferError};
use lowbit_core::quant::{
    Annotations, Blocks, DeriveRule, Granularity, Mapping, Observer, ObserverError, ObserverFactory,
    ObserverKind, ObserverState, QParams, QRange, QScheme, QuantSpec, Site, Spec,
};
use lowbit_core::quantizer::{Composed, EmbeddingQuantizer, OpConfig, Quantizer, RuleQuantizer, Scope};
use ndarray::ArrayViewD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The operands of `user` that read `from`, in the graph before observers.
pub fn reads(program: &Program, fused: &Fx<'_>, user: &str, from: &Value) -> Vec<Site> {
    let (Some(n), Some(fx)) = (fused.find(program, user), fused.get(user)) else { return vec![] };
    let slots = operands(fx).into_iter().enumerate().filter(|(_, v)| *v == from);
    slots.map(|(slot, _)| Site::input(n, slot as u32)).collect()
}

/// The sites of `{"node": …}` or `{"edge": [from, user]}`.
pub fn sites(program: &Program, fused: &Fx<'_>, v: &Value) -> Vec<Site> {
    match v["edge"].as_array() {
        Some(edge) => reads(program, fused, text(&edge[1]["node"]), &edge[0]),
        None => output(program, fused, text(&v["node"]["node"])).into_iter().collect(),
    }
}

/// Where a node, or an input of the program, is made.
pub fn output(program: &Program, fused: &Fx<'_>, name: &str) -> Option<Site> {
    let made = fused.find(program, name).and_then(|n| program.graph.node(n).outputs().first().copied());
    let mut inputs = program.graph.inputs().iter().copied();
    made.or_else(|| inputs.find(|v| *program.graph.value(*v).name == *name)).map(Site::Output)
}

fn dtype(v: &Value) -> Result<DType, String> {
    Ok(match text(v) {
        "torch.int8" => DType::I8,
        "torch.uint8" => DType::U8,
        "torch.int16" => DType::I16,
        "torch.uint16" => DType::U16,
        "torch.int32" => DType::I32,
        other => return Err(format!("element type {other}")),
    })
}

fn scheme(v: &Value) -> Result<QScheme, String> {
    let scheme = text(&v["qscheme"]);
    let mapping = match scheme.rsplit('_').next() {
        Some("symmetric") => Mapping::Symmetric,
        Some("affine") => Mapping::Affine,
        Some("qparams") => Mapping::AffineFloat,
        _ => return Err(format!("scheme {scheme:?}")),
    };
    let axis = v["ch_axis"].as_u64().unwrap_or(0) as u32;
    let channel = scheme.contains("per_channel");
    Ok(QScheme {
        granularity: if channel { Granularity::Channel { axis } } else { Granularity::Tensor },
        mapping,
    })
}

/// The scheme of an observer of the affine family, from its arguments.
fn affine_scheme(args: &Value) -> Result<QScheme, String> {
    // "<MappingType.SYMMETRIC: 1>", "PerGroup(group_size=128)", "PerBlock(block_size=(1, 32))"
    let mapping = match text(&args["mapping_type"]).trim_matches(['<', '>']).split([':', '.']).nth(1) {
        Some("SYMMETRIC") => Mapping::Symmetric,
        Some("SYMMETRIC_NO_CLIPPING_ERR") => Mapping::SymmetricNoClipping,
        _ if args["preserve_zero"] == false => Mapping::AffineFloat,
        _ => Mapping::Affine,
    };
    let (kind, rest) = text(&args["granularity"]).split_once('(').unwrap_or_default();
    let numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    let blocks = match (kind, &numbers[..]) {
        ("PerTensor", _) => Some(Blocks::Tensor),
        ("PerToken", _) => Some(Blocks::Token),
        ("PerAxis", [axis]) => Some(Blocks::Axis(*axis)),
        ("PerRow", [axis]) => Some(Blocks::Row(*axis)),
        ("PerGroup", [size]) => Some(Blocks::Group(*size)),
        ("PerBlock", sizes) => Blocks::sizes(sizes),
        _ => None,
    };
    let granularity = blocks.ok_or_else(|| format!("granularity {}", args["granularity"]))?;
    Ok(QScheme { granularity: Granularity::Blocks(granularity), mapping })
}

fn range(v: &Value) -> Result<QRange, String> {
    let dtype = dtype(&v["dtype"])?;
    let (low, high) = dtype.int_bounds().expect("an integer type");
    let bound = |key: &str, default| v[key].as_i64().unwrap_or(default);
    QRange::new(dtype, bound("quant_min", low), bound("quant_max", high)).map_err(|e| e.to_string())
}

/// `Ok(None)`: nothing is quantized there. `Err`: what lowbit has not.
pub fn spec(v: &Value, program: &Program, fused: &Fx<'_>) -> Result<Option<Spec>, String> {
    Ok(Some(match text(&v["kind"]) {
        "" => return Ok(None),
        "shared" => match sites(program, fused, &v["with"]).first() {
            Some(site) => Spec::SharedWith(*site),
            None => return Err(format!("a spec shared with {}", v["with"])),
        },
        "derived" => Spec::Derived {
            from: v["from"].as_array().into_iter().flatten().flat_map(|f| sites(program, fused, f)).collect(),
            rule: DeriveRule::BiasScale,
            range: range(v)?,
            scheme: scheme(v)?,
        },
        "fixed" => Spec::Fixed(QParams::per_tensor(
            range(v)?,
            v["scale"].as_f64().ok_or("a scale")?,
            v["zero_point"].as_i64().ok_or("a zero point")?,
        )),
        "observed" => return observed(v).map(|s| s.map(Spec::Observed)),
        other => return Err(format!("{other} specs")),
    }))
}

fn observed(v: &Value) -> Result<Option<QuantSpec>, String> {
    let dynamic = v["is_dynamic"] == true;
    let args = &v["observer"]["args"];
    let constant = args["averaging_constant"].as_f64().unwrap_or(0.01);
    let class = text(&v["observer"]["class"]);
    let observer = match class {
        "MinMaxObserver" | "PerChannelMinMaxObserver" | "AffineQuantizedMinMaxObserver" => {
            ObserverKind::MinMax
        }
        "HistogramObserver" => ObserverKind::Histogram { bins: args["bins"].as_u64().unwrap_or(2048) as u32 },
        "MovingAverageMinMaxObserver"
        | "MovingAveragePerChannelMinMaxObserver"
        | "AffineQuantizedMovingAverageMinMaxObserver" => ObserverKind::MovingAverage { constant },
        "PlaceholderObserver" | "AffineQuantizedPlaceholderObserver" if dynamic => ObserverKind::Placeholder,
        // A float element type: torchao takes the observer out again.
        "PlaceholderObserver" => return Ok(None),
        "Int4Observer" => ObserverKind::Custom(Arc::new(Int4)),
        other => return Err(format!("observer {other}")),
    };
    let affine = class.starts_with("Affine");
    // The operator that chooses parameters at run time has another default than the observers.
    let least = if affine && dynamic { f32::MIN_POSITIVE } else { f32::EPSILON };
    let eps = args["eps"].as_f64().unwrap_or(f64::from(least));
    let mut spec = QuantSpec::new(range(v)?, Mapping::Affine, observer).eps(eps);
    spec.scheme = if affine { affine_scheme(args)? } else { scheme(v)? };
    spec.dynamic = dynamic;
    Ok(Some(spec))
}

/// The observer of torchao's test of observers that write their own nodes. There it writes operators that the test
/// registers, for integers from 0 to 15; here the ones for any range.
#[derive(Debug)]
struct Int4;

impl ObserverFactory for Int4 {
    fn create(&self, _: &QuantSpec) -> Box<dyn Observer> {
        Box::new(Int4)
    }
}

impl Observer for Int4 {
    fn name(&self) -> &'static str {
        "int4"
    }

    fn observe(&mut self, _: ArrayViewD<'_, f32>) {}

    fn merge(&mut self, _: &ObserverState) -> Result<(), ObserverError> {
        Ok(())
    }

    fn state(&self) -> ObserverState {
        ObserverState { observer: self.name().into(), fields: BTreeMap::new() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        let range = QRange::new(DType::U8, 0, 15).expect("16 integers");
        Ok(QParams::per_tensor(range, 1.0, 0))
    }

    fn write(&self, x: ValueId, nodes: &mut NodeWriter<'_>) -> Option<Result<ValueId, InferError>> {
        let numbers = || [Arg::Float(1.0), 0.into(), 0.into(), 15.into(), DType::U8.into()];
        let quantize = [Arg::Value(x)].into_iter().chain(numbers()).collect::<Vec<_>>();
        let q = match nodes.op(&ops::QUANTIZE_PER_TENSOR, quantize) {
            Ok(q) => q,
            Err(e) => return Some(Err(e)),
        };
        let dequantize = [Arg::Value(q)].into_iter().chain(numbers()).collect::<Vec<_>>();
        Some(nodes.op(&ops::DEQUANTIZE_PER_TENSOR, dequantize))
    }
}

/// All annotations of a case.
pub fn annotations(case: &Value, program: &Program, fused: &Fx<'_>) -> Result<Annotations, String> {
    let mut out = Annotations::default();
    out.set_rule("case");
    for a in case["annotations"].as_array().into_iter().flatten() {
        let name = text(&a["node"]);
        let inputs = a["inputs"].as_array().into_iter().flatten();
        for i in inputs {
            for site in reads(program, fused, name, &i["from"]) {
                out.set(site, spec(&i["spec"], program, fused)?);
            }
        }
        if let Some(spec) = spec(&a["output"], program, fused)? {
            let site = output(program, fused, name)
                .ok_or_else(|| format!("%{name} is quantized, but not in the program"))?;
            out.set(site, spec);
        }
        if let Some(n) = fused.find(program, name) {
            out.claim(&[n]);
            if a["allow_implicit_sharing"] == false {
                out.forbid_implicit_sharing(n);
            }
        }
    }
    Ok(out)
}

/// The quantizer of a recipe; `None` for a test's own.
pub fn quantizer(recipe: &Value) -> Result<Option<Box<dyn Quantizer>>, String> {
    Ok(match text(&recipe["class"]) {
        "XNNPACKQuantizer" if recipe["has_filter"] == true => None,
        "XNNPACKQuantizer" => Some(Box::new(xnnpack(recipe)?)),
        "CoreMLQuantizer" => Some(Box::new(crate::coreml_quantizer::quantizer(&recipe["config"])?)),
        "EmbeddingQuantizer" => Some(Box::new(EmbeddingQuantizer::default())),
        "ComposableQuantizer" => {
            let parts = recipe["quantizers"].as_array().into_iter().flatten().map(quantizer);
            let parts: Option<Vec<_>> = parts.collect::<Result<_, _>>()?;
            parts.map(|p| Box::new(Composed::new(p)) as Box<dyn Quantizer>)
        }
        _ => None,
    })
}

fn xnnpack(recipe: &Value) -> Result<RuleQuantizer, String> {
    let config = |v: &Value| -> Result<OpConfig, String> {
        let part = |key: &str| match &v[key] {
            Value::Null => Ok(None),
            s => observed(s).map(|s| s.map(Spec::Observed)),
        };
        Ok(OpConfig {
            input_activation: part("input_activation")?,
            output_activation: part("output_activation")?,
            weight: part("weight")?,
            bias: part("bias")?,
            otherwise: None,
        })
    };
    let mut q = lowbit_xnnpack::quantizer::quantizer();
    if !recipe["global"].is_null() {
        q = q.set(Scope::Global, config(&recipe["global"])?);
    }
    for (key, scope) in [
        ("module_name", (|n| Scope::ModuleName(n)) as fn(_) -> _),
        ("module_type", |n| Scope::ModuleType(n)),
        ("operator_type", |n| Scope::Operator(n)),
    ] {
        for (name, c) in recipe[key].as_object().into_iter().flatten() {
            q = q.set(scope(name.as_str().into()), config(c)?);
        }
    }
    Ok(q)
}
