//! [`MasksLast`]: attention's masks behind everything else that is added to scores.

use super::{Pass, PassFailure};
use crate::ir::{NewNode, NodeId, Program, ValueId};
use crate::ops::{self, OpDef, views};
use crate::quantizer::{is_mask, scores};

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
