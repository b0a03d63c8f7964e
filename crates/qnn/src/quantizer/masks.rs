//! Masks of attention, in integers: numbers that rule scores out, added to these or put in their place.
//!
//! An observer takes −∞ for nothing and −10³⁸ for a range; either way the scores are lost, or what is masked is not. So what is
//! masked has a range that goes on below the least score, far enough for a softmax, and a mask has a range of its own.

use lowbit_core::ir::{Arg, NewNode, Node, NodeId, Program, ValueId};
use lowbit_core::ops::{self, OpDef, views};
use lowbit_core::passes::{Pass, PassFailure};
use lowbit_core::quant::{DeriveRule, Mapping, QParams, QRange, QScheme, Site, Spec, choose_qparams};

/// From here on a number masks.
const HUGE: f64 = 1e4;
/// How far what is masked lies below the least score: e⁻¹⁶ of its weight is less than 16 bits hold.
const BELOW: f64 = 16.0;
/// The lowest number of a mask in integers, further down than scores reach.
const LOWEST: f64 = -1020.0;

/// A mask is made by at most so many nodes in a row.
const DEEPEST: usize = 16;

/// What only moves or casts a mask.
static HANDS_ON: &[&OpDef] = &[&ops::TO_DTYPE, &ops::TO_DTYPE_LAYOUT, &ops::TO_COPY, &ops::TRIL, &ops::TRIU];
/// What takes a flag from one.
static FROM_ONE: &[&OpDef] = &[&ops::RSUB, &ops::RSUB_SCALAR, &ops::SUB, &ops::LOGICAL_NOT];
/// What is made of a literal.
static FILLED: &[&OpDef] = &[&ops::FULL, &ops::FULL_LIKE, &ops::NEW_FULL];

/// Parameters of a mask, from [`LOWEST`] to 0.
pub fn params(range: QRange) -> QParams {
    QParams::per_tensor(range, -LOWEST / (range.max() - range.min()) as f64, range.max())
}

/// Parameters of scores, some of them masked, from the scores' own.
pub fn masked(scores: Site, range: QRange, scheme: QScheme) -> Spec {
    let lowered = |from: &[QParams]| {
        let p = &from[0];
        let real = |q: i64| (q as f64 - p.zero_point[0]) * p.scale[0];
        let (min, max) = (real(p.range.min()) - BELOW, real(p.range.max()));
        let affine = QScheme { granularity: p.granularity, mapping: Mapping::Affine };
        let (scale, zero) = choose_qparams(min as f32, max as f32, p.range, affine, f32::MIN_POSITIVE);
        QParams::new(p.range, p.granularity, vec![f64::from(scale)], vec![zero])
    };
    Spec::Derived { from: vec![scores], rule: DeriveRule::Custom(lowered), range, scheme }
}

fn is_huge(x: f64) -> bool {
    x <= -HUGE
}

/// The argument of a node that holds scores, some of which it masks.
pub fn scores(program: &Program, n: &Node) -> Option<usize> {
    let mask = |i: usize| views::value(n.arg(i)).is_some_and(|v| is_mask(program, v));
    let other = |a: usize, b: usize| match (mask(a), mask(b)) {
        (false, true) => Some(a),
        (true, false) => Some(b),
        _ => None,
    };
    match n.op() {
        op if *op == ops::ADD => other(0, 1),
        op if *op == ops::WHERE => other(1, 2),
        op if *op == ops::MASKED_FILL_SCALAR => literal(n).then_some(0),
        _ => None,
    }
}

/// Whether a literal of a node masks.
fn literal(n: &Node) -> bool {
    n.args().iter().any(|a| matches!(a, Arg::Float(_) | Arg::Int(_)) && views::float(a).is_some_and(is_huge))
}

/// Whether a value holds nothing but what masks, and zeros or ones.
pub fn is_mask(program: &Program, v: ValueId) -> bool {
    mask_within(program, v, DEEPEST)
}

/// As [`is_mask`], made by at most so many nodes in a row.
fn mask_within(program: &Program, v: ValueId, room: usize) -> bool {
    let g = &program.graph;
    if room == 0 || !g.ty(v).dtype.is_float() {
        return false;
    }
    if let Some(t) = program.frozen(v) {
        let values = t.to_f64();
        return values.iter().any(|x| is_huge(*x)) && values.iter().all(|x| is_huge(*x) || x.abs() <= 1.0);
    }
    let Some(n) = g.producer(v) else { return false };
    let node = g.node(n);
    let op = node.op();
    let mask = |i: usize| views::value(node.arg(i)).is_some_and(|v| mask_within(program, v, room - 1));
    let made = |i: usize| views::value(node.arg(i)).is_none_or(|v| is_made(program, v));
    let flag = |i: usize| views::value(node.arg(i)).is_some_and(|v| is_flag(program, v, room - 1));
    if op.traits.moves_data || HANDS_ON.contains(&op) {
        return mask(0);
    }
    match op {
        _ if FILLED.contains(&op) => literal(node),
        op if *op == ops::WHERE => match (mask(1), mask(2)) {
            (true, true) => true,
            (true, false) => made(2),
            (false, true) => made(1),
            (false, false) => false,
        },
        op if *op == ops::MASKED_FILL_SCALAR => mask(0) || made(0) && literal(node),
        op if *op == ops::MUL => mask(0) && flag(1) || mask(1) && flag(0),
        op if *op == ops::MUL_SCALAR => literal(node) && flag(0),
        _ => false,
    }
}

/// Whether a value is made of nothing that is computed: zeros to be masked.
fn is_made(program: &Program, v: ValueId) -> bool {
    let g = &program.graph;
    let filled = |n: NodeId| FILLED.contains(&g.node(n).op()) || g.node(n).operands().count() == 0;
    program.frozen(v).is_some() || g.producer(v).is_some_and(filled)
}

/// Whether a value is 0 or 1 everywhere, as far as can be seen: truth values and integers as floats, and one less these.
fn is_flag(program: &Program, v: ValueId, room: usize) -> bool {
    let g = &program.graph;
    if !g.ty(v).dtype.is_float() {
        return true;
    }
    if let Some(t) = program.frozen(v) {
        return t.to_f64().iter().all(|x| (0.0..=1.0).contains(x));
    }
    let Some(n) = g.producer(v).filter(|_| room > 0) else { return false };
    let (node, op) = (g.node(n), g.node(n).op());
    let known = op.traits.moves_data || [HANDS_ON, FILLED, FROM_ONE].iter().any(|list| list.contains(&op));
    known && node.operands().all(|v| is_flag(program, v, room - 1))
}

/// What hands on all that it reads.
static SAME: &[&OpDef] = &[&ops::CONTIGUOUS, &ops::CLONE, &ops::ALIAS, &ops::DETACH];

/// Masks after everything is added: `x + (bias + mask)` becomes `(x + bias) + mask`, and `x + where(seen, bias, −∞)` becomes
/// `where(seen, x + bias, −∞)`. In integers, what is masked has a place below the least score, not below the least bias.
#[derive(Copy, Clone, Debug)]
pub struct MasksLast;

impl Pass for MasksLast {
    fn name(&self) -> &'static str {
        "masks_last"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let mut changed = false;
        for n in program.graph.nodes().collect::<Vec<_>>() {
            let node = program.graph.node(n).clone();
            if *node.op() != ops::ADD || views::float(node.arg(2)) != Some(1.0) {
                continue;
            }
            let (Some(a), Some(b)) = (views::value(node.arg(0)), views::value(node.arg(1))) else { continue };
            let found = [(a, b), (b, a)].into_iter().find_map(|(x, y)| Some((x, masks(program, y)?)));
            let Some((x, (by, place))) = found else { continue };
            let g = &mut program.graph;
            let by = g.node(by).clone();
            let sum = NewNode::new(&ops::ADD, [x.into(), by.arg(place).clone()]).in_module(&node.module);
            let sum = g.insert_before(n, sum)?;
            let mut args = by.args().to_vec();
            args[place] = g.node(sum).output().into();
            g.rewrite(n, by.op(), args)?;
            changed = true;
        }
        Ok(changed)
    }
}

/// The node that masks what becomes `v`, and the argument that it masks.
fn masks(program: &Program, v: ValueId) -> Option<(NodeId, usize)> {
    let g = &program.graph;
    let mut n = g.producer(v)?;
    while SAME.contains(&g.node(n).op()) {
        n = g.producer(views::value(g.node(n).arg(0))?)?;
    }
    scores(program, g.node(n)).filter(|_| !is_mask(program, v)).map(|place| (n, place))
}
