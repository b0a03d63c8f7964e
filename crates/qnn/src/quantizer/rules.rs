//! The rules that the [table](super::table) stands for.

use super::masks;
use super::table::{HTP, How, OWN, Row};
use crate::lowering::operators;
use lowbit_core::dtype::DType;
use lowbit_core::ir::{Program, ValueId};
use lowbit_core::ops::{self, OpDef};
use lowbit_core::quant::{
    Annotation, Annotations, Blocks, DeriveRule, Granularity, Mapping, ObserverKind, QParams, QRange,
    QScheme, QuantSpec, Site, Spec,
};
use lowbit_core::quantizer::{Match, OpConfig, Rule, is_mask, scores};
use std::sync::LazyLock;

type Outcome = Result<(), String>;

/// What clamps: a layer with it behind rounds once.
static CLAMPS: &[&OpDef] =
    &[&ops::RELU, &ops::RELU6, &ops::HARDTANH, &ops::CLAMP, &ops::CLAMP_MIN, &ops::CLAMP_MAX];

/// The rules for chips that multiply 16-bit activations with each other, or that do not.
pub fn rules(wide: bool) -> &'static [Rule] {
    static BOTH: LazyLock<[&'static [Rule]; 2]> = LazyLock::new(|| [make(false), make(true)]);
    BOTH[usize::from(wide)]
}

/// Rules live as long as the program: they are made once.
fn make(wide: bool) -> &'static [Rule] {
    // What cannot be lowered is taken apart, or left in floating point.
    let known = |row: &Row| -> &'static [&'static OpDef] {
        let lowered = |op: &&OpDef| operators().any(|o| o == *op);
        row.targets.iter().filter_map(|t| ops::lookup(t)).filter(lowered).collect::<Vec<_>>().leak()
    };
    let mut chains = vec![];
    let mut singles = vec![];
    for row in HTP.iter().chain(OWN) {
        let Some(annotate) = annotate(row.how, wide) else { continue };
        let first = known(row);
        if first.is_empty() {
            continue;
        }
        let rule = |chain, name| Rule { name, chain, dynamic: false, annotate };
        if matches!(row.how, How::Layer) || ["Add", "Sub", "Mul"].contains(&row.name) {
            let chain: &'static [_] = vec![first, CLAMPS].leak();
            chains.push(rule(chain, String::leak(format!("{}_clamp", row.name))));
        }
        let chain: &'static [_] = vec![first].leak();
        singles.push(rule(chain, row.name));
    }
    chains.extend(singles);
    chains.leak()
}

fn annotate(how: How, wide: bool) -> Option<fn(&Match<'_>, &OpConfig, &mut Annotations) -> Outcome> {
    Some(match how {
        How::Layer => layer,
        How::Unary => unary,
        How::Fixed => fixed,
        How::Tanh => tanh,
        How::Binary => binary,
        How::MatMul if wide => matmul_signed,
        How::MatMul => matmul_narrow,
        How::Shared => shared,
        How::Cat => cat,
        How::Norm => norm,
        How::Select => select,
        How::Compare => compare,
        How::Read => read,
        How::Nothing => return None,
    })
}

/// Where argument `i` is read, if it holds floats.
fn float(m: &Match<'_>, i: usize) -> Option<Site> {
    m.value(i).filter(|&v| m.program.graph.ty(v).dtype == DType::F32).and_then(|_| m.arg(i))
}

/// Whether activations have 16 bits.
fn is_wide(how: &OpConfig) -> bool {
    range(how.input_activation.as_ref()) == Some(QRange::UINT16)
}

fn range(spec: Option<&Spec>) -> Option<QRange> {
    match spec? {
        Spec::Observed(s) => Some(s.range),
        Spec::Fixed(p) => Some(p.range),
        Spec::Derived { range, .. } => Some(*range),
        _ => None,
    }
}

/// What a tensor of argument `i` is read as: what the recipe says, unless it is a mask.
fn read_as(m: &Match<'_>, i: usize, how: &OpConfig) -> Option<Spec> {
    match (m.value(i), range(how.input_activation.as_ref())) {
        (Some(v), Some(range)) if is_mask(m.program, v) => Some(Spec::Fixed(masks::params(range))),
        _ => how.input_activation.clone(),
    }
}

/// What the result is made as: what the recipe says, unless it is a mask, or holds scores some of which are masked.
fn made_as(m: &Match<'_>, how: &OpConfig) -> Option<Spec> {
    let (p, n) = (m.program, m.first());
    let recipe = how.output_activation.clone();
    let (Some(range), Some(Spec::Observed(spec))) = (range(recipe.as_ref()), &how.input_activation) else {
        return recipe;
    };
    if is_mask(p, p.graph.node(n).output()) {
        return Some(Spec::Fixed(masks::params(range)));
    }
    match scores(p, p.graph.node(n)).and_then(|i| float(m, i)) {
        Some(scores) => Some(masks::masked(scores, range, spec.scheme)),
        None => recipe,
    }
}

fn floats(m: &Match<'_>) -> Outcome {
    let v = m.program.graph.node(m.last()).output();
    match m.program.graph.ty(v).dtype {
        DType::F32 => Ok(()),
        other => Err(format!("it makes {other}; only f32 is quantized")),
    }
}

/// Inputs of these arguments, as far as they hold floats.
fn inputs(m: &Match<'_>, how: &OpConfig, args: &[usize], out: &mut Annotations) -> Outcome {
    let sites: Vec<(usize, Site)> = args.iter().filter_map(|&i| Some((i, float(m, i)?))).collect();
    if sites.is_empty() {
        return Err("it reads no floats".into());
    }
    for (i, site) in sites {
        out.set(site, read_as(m, i, how));
    }
    Ok(())
}

fn unary(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    inputs(m, how, &[0], out)?;
    out.set(m.output(), made_as(m, how));
    Ok(())
}

fn binary(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    inputs(m, how, &[0, 1], out)?;
    out.set(m.output(), made_as(m, how));
    Ok(())
}

fn compare(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    inputs(m, how, &[0, 1], out)
}

fn read(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    inputs(m, how, &[0], out)
}

fn select(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    inputs(m, how, &[1, 2], out)?;
    out.set(m.output(), made_as(m, how));
    Ok(())
}

/// What lies from 0 to 1 takes all integers for that.
fn fixed(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    unary(m, how, out)?;
    if let Some(range) = range(how.output_activation.as_ref()) {
        let scale = 1.0 / (range.max() - range.min() + 1) as f64;
        out.set(m.output(), Spec::Fixed(QParams::per_tensor(range, scale, 0)));
    }
    Ok(())
}

fn tanh(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    unary(m, how, out)?;
    if is_wide(how) {
        out.set(m.output(), Spec::Fixed(QParams::per_tensor(QRange::UINT16, 1.0 / 32768.0, 32768)));
    }
    Ok(())
}

/// The second operand of a product of 16 bits has signs.
fn matmul_signed(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    second(m, how, QRange::INT16, Mapping::Symmetric, out)
}

/// Chips before V73 take a second operand of 8 bits.
fn matmul_narrow(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    second(m, how, QRange::UINT8, Mapping::Affine, out)
}

fn second(m: &Match<'_>, how: &OpConfig, range: QRange, mapping: Mapping, out: &mut Annotations) -> Outcome {
    binary(m, how, out)?;
    if let (true, Some(Spec::Observed(s)), Some(site)) = (is_wide(how), &how.input_activation, float(m, 1)) {
        let mut spec = QuantSpec { range, ..s.clone() };
        spec.scheme.mapping = mapping;
        out.set(site, Spec::Observed(spec));
    }
    Ok(())
}

/// The result has the parameters of what is read. That is what makes it's, where that is quantized: see [`read_as_made`].
fn shared(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    let input = float(m, 0).ok_or("it reads no floats")?;
    out.set(input, read_as(m, 0, how));
    let g = &m.program.graph;
    for &v in g.node(m.last()).outputs() {
        let used = !g.value(v).uses().is_empty() || g.is_output(v);
        if used && g.ty(v).dtype == DType::F32 {
            out.set(Site::Output(v), Spec::SharedWith(input));
        }
    }
    Ok(())
}

fn cat(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    let count = m.program.graph.node(m.first()).operands().count();
    let last = u32::try_from(count).map_err(|_| "it joins too many parts")?;
    let slots: Vec<Site> = (0..last).map(|i| Site::input(m.first(), i)).collect();
    let values: Vec<ValueId> = m.program.graph.node(m.first()).operands().collect();
    if values.iter().any(|&v| m.program.graph.ty(v).dtype != DType::F32) {
        return Err("some of its parts are no floats".into());
    }
    out.set(slots[0], how.input_activation.clone());
    for i in 1..count {
        // A tensor that occurs twice has one set of parameters.
        let spec = if values[i] == values[0] {
            how.input_activation.clone()
        } else {
            Some(Spec::SharedWith(slots[0]))
        };
        out.set(slots[i], spec);
    }
    out.set(m.output(), Spec::SharedWith(slots[0]));
    Ok(())
}

/// Input, weight, bias and result of a linear layer or convolution. A weight that is computed makes it a product.
fn layer(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    let node = m.program.graph.node(m.first());
    let input = float(m, 0).ok_or("it reads no floats")?;
    let weight = m.arg(1).ok_or("it has no weight")?;
    let constant = |i: usize| m.value(i).is_some_and(|v| m.program.frozen(v).is_some());
    if !constant(1) || m.arg(2).is_some() && !constant(2) {
        return Err("its weight or bias is computed from inputs".into());
    }
    let transposed = [&ops::CONV_TRANSPOSE1D, &ops::CONV_TRANSPOSE2D].contains(&node.op());
    let spec = match how.weight.clone() {
        Some(Spec::Observed(s)) => Some(Spec::Observed(placed(m, s, transposed)?)),
        other => other,
    };
    let per_channel = matches!(&spec, Some(Spec::Observed(s)) if s.scheme.granularity != Granularity::Tensor);
    out.set(input, how.input_activation.clone());
    out.set(weight, spec.clone());
    // The channels of a group, or blocks, have scales that a bias has not: the lowering makes its integers.
    let plain =
        matches!(&spec, Some(Spec::Observed(s)) if !matches!(s.scheme.granularity, Granularity::Blocks(_)));
    let grouped = transposed && ops::views::int(node.arg(6)) != Some(1);
    if let (Some(bias), true, false) = (m.arg(2), plain && how.input_activation.is_some(), grouped) {
        let granularity = if per_channel { Granularity::Channel { axis: 0 } } else { Granularity::Tensor };
        let scheme = QScheme { granularity, mapping: Mapping::Symmetric };
        let from = vec![input, weight];
        out.set(bias, Spec::Derived { from, rule: DeriveRule::FittingBias, range: QRange::INT32, scheme });
    }
    out.set(m.output(), how.output_activation.clone());
    Ok(())
}

/// A weight's spec for this layer: the axis of its channels, and blocks where they fit.
fn placed(m: &Match<'_>, mut spec: QuantSpec, transposed: bool) -> Result<QuantSpec, String> {
    let shape = m.shape(1).ok_or("the size of its weight is open")?;
    match &mut spec.scheme.granularity {
        Granularity::Channel { axis } => *axis = u32::from(transposed),
        Granularity::Blocks(blocks @ Blocks::Group(_)) => {
            let Blocks::Group(size) = *blocks else { return Ok(spec) };
            if transposed || shape[2..].iter().any(|&k| k != 1) {
                return Err("HTP has scales by blocks in linear layers and 1x1 convolutions; it takes a scale a channel".into());
            }
            if !shape[1].is_multiple_of(size as usize) {
                return Err(format!(
                    "its {} input channels are no multiple of the block of {size}; it takes a scale a channel",
                    shape[1]
                ));
            }
            let mut sizes = vec![1, size];
            sizes.extend(shape[2..].iter().map(|_| 1));
            *blocks = Blocks::sizes(&sizes).ok_or("its weight has too many dimensions")?;
        }
        _ => {}
    }
    Ok(spec)
}

/// Input, factors, summands and result: factors have as many bits as activations, with signs from 16 bits on.
fn norm(m: &Match<'_>, how: &OpConfig, out: &mut Annotations) -> Outcome {
    floats(m)?;
    let input = float(m, 0).ok_or("it reads no floats")?;
    let constant = |i: usize| m.value(i).is_some_and(|v| m.program.frozen(v).is_some());
    out.set(input, how.input_activation.clone());
    out.set(m.output(), how.output_activation.clone());
    let Some(factor) = m.arg(2) else { return Ok(()) };
    if !constant(2) {
        return Err("its factors are computed from inputs".into());
    }
    let (range, mapping) = match is_wide(how) {
        true => (QRange::INT16, Mapping::Symmetric),
        false => (QRange::UINT8, Mapping::Affine),
    };
    let range =
        if range == QRange::INT16 { QRange::new(DType::I16, -32767, 32767).unwrap_or(range) } else { range };
    let spec = QuantSpec::new(range, mapping, ObserverKind::MinMax).eps(super::recipes::least_scale(range));
    out.set(factor, Spec::Observed(spec));
    if let (Some(bias), true) =
        (m.arg(3).filter(|_| *m.program.graph.node(m.first()).op() != ops::RMS_NORM), constant(3))
    {
        let scheme = QScheme { granularity: Granularity::Tensor, mapping: Mapping::Symmetric };
        let from = vec![input, factor];
        out.set(bias, Spec::Derived { from, rule: DeriveRule::BiasScale, range: QRange::INT32, scheme });
    }
    Ok(())
}

/// What an operator makes as integers, others read as these, unless they want integers of another type.
pub(super) fn read_as_made(program: &Program, out: &mut Annotations) {
    let twice = |(site, a): (Site, &Annotation)| {
        let (Site::Input(_), Spec::Observed(_)) = (site, &a.spec) else { return None };
        // The range of what is joined is that of all parts, whatever each of them has.
        if ["Cat", "Stack"].contains(&&*a.rule) {
            return None;
        }
        let made = Site::Output(site.value(program)?);
        let of = out.get(made)?;
        // Shared parameters: those of the root.
        let mut root = of;
        for _ in 0..program.graph.table_sizes().1 {
            let Spec::SharedWith(next) = &root.spec else { break };
            root = out.get(*next)?;
        }
        let same =
            range(Some(&root.spec)) == range(Some(&a.spec)) && !matches!(root.spec, Spec::SharedWith(_));
        (same && of.spec != a.spec).then(|| (site, made, a.rule.clone()))
    };
    for (site, made, rule) in out.iter().filter_map(twice).collect::<Vec<_>>() {
        out.set_rule(&rule).set(site, Spec::SharedWith(made));
    }
}
