//! [`FewerDimensions`]: moves of more dimensions than a runtime has, with fewer.

use super::{Pass, PassFailure};
use crate::ir::{Arg, NewNode, Node, NodeId, Program, ValueId};
use crate::ops::{self, OpDef, wrap_dim};
use crate::symint::SymInt;

/// Cutting a picture into windows is a view of six dimensions, which are put into another order and viewed as fewer again.
/// Dimensions of one, and those that stay neighbours, need not be apart for that. What is computed of single elements between
/// such views is computed before.
#[derive(Copy, Clone, Debug)]
pub struct FewerDimensions {
    /// The most that there may be.
    pub most: usize,
}

/// A permutation between views: the nodes that permute, the view before, and the views behind.
struct Found {
    first: NodeId,
    source: ValueId,
    sizes: Vec<SymInt>,
    order: Vec<usize>,
    views: Vec<NodeId>,
}

static VIEWS: &[&OpDef] = &[&ops::VIEW, &ops::RESHAPE, &ops::VIEW_COPY, &ops::UNSAFE_VIEW, &ops::FLATTEN];

/// What may stand between.
static SAME: &[&OpDef] = &[&ops::CLONE, &ops::CONTIGUOUS, &ops::ALIAS];

impl Pass for FewerDimensions {
    fn name(&self) -> &'static str {
        "fewer_dimensions"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let mut changed = false;
        for n in program.graph.nodes().collect::<Vec<_>>() {
            changed |= before_view(program, n, self.most)?;
        }
        let found: Vec<Found> = program.graph.nodes().filter_map(|n| find(program, n, self.most)).collect();
        for f in &found {
            rewrite(program, f, self.most)?;
        }
        Ok(changed || !found.is_empty())
    }
}

/// A view of few dimensions as many: where node `n` takes a value from such a one, what it views.
fn viewed(program: &Program, n: NodeId, most: usize) -> Option<ValueId> {
    let g = &program.graph;
    let x = g.node(n).operands().next()?;
    let view = g.producer(x).filter(|&v| VIEWS.contains(&g.node(v).op()))?;
    let source = g.node(view).operands().next()?;
    (g.ty(x).rank() > most && g.ty(source).rank() <= most).then_some(source)
}

/// Computes elements before they are viewed as many dimensions, and views what was viewed so as few at once.
fn before_view(program: &mut Program, n: NodeId, most: usize) -> Result<bool, PassFailure> {
    let Some(source) = viewed(program, n, most) else { return Ok(false) };
    let g = &mut program.graph;
    let node = g.node(n).clone();
    let out = g.ty(node.output()).clone();
    let viewed_again = VIEWS.contains(&node.op()) && out.rank() <= most;
    let rank = g.ty(source).rank();
    let single = |v: ValueId| g.ty(v).rank() <= rank && g.ty(v).shape.iter().all(|s| *s == SymInt::from(1));
    let of_elements = node.op().traits.elementwise
        && matches!(node.arg(0), Arg::Value(_))
        && node.operands().skip(1).all(single);
    if viewed_again {
        g.rewrite(n, &ops::VIEW, vec![source.into(), Arg::Ints(out.shape)])?;
    } else if of_elements {
        let mut args = node.args().to_vec();
        args[0] = source.into();
        let computed = NewNode::new(node.op(), args).in_module(&node.module);
        let computed = g.insert_before(n, computed)?;
        let computed = g.node(computed).output();
        g.rewrite(n, &ops::VIEW, vec![computed.into(), Arg::Ints(out.shape)])?;
    }
    Ok(viewed_again || of_elements)
}

/// The order in which a node puts dimensions.
fn order(program: &Program, node: &Node) -> Option<Vec<usize>> {
    let rank = program.graph.ty(node.output()).rank();
    let dim = |i: usize| wrap_dim(ops::views::int(node.arg(i))?, rank).ok();
    match node.op() {
        op if *op == ops::PERMUTE || *op == ops::PERMUTE_COPY => {
            ops::views::ints(node.arg(1))?.iter().map(|&d| wrap_dim(d, rank).ok()).collect()
        }
        op if *op == ops::TRANSPOSE || *op == ops::SWAPAXES => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.swap(dim(1)?, dim(2)?);
            Some(order)
        }
        op if SAME.contains(&op) => Some((0..rank).collect()),
        _ => None,
    }
}

fn find(program: &Program, first: NodeId, most: usize) -> Option<Found> {
    let g = &program.graph;
    let node = g.node(first);
    let view = g.producer(node.operands().next()?).filter(|&v| VIEWS.contains(&g.node(v).op()))?;
    let source = g.node(view).operands().next()?;
    let sizes = g.ty(node.operands().next()?).shape.clone();
    if sizes.len() <= most || g.ty(source).rank() > most {
        return None;
    }
    // Several permutations in a row are one.
    let mut last = node;
    let mut all = order(program, last)?;
    let views = loop {
        let v = last.output();
        let users = g.users(v);
        if g.is_output(v) {
            return None;
        }
        if users.iter().all(|&u| VIEWS.contains(&g.node(u).op()) && g.ty(g.node(u).output()).rank() <= most) {
            break users;
        }
        let [next] = users[..] else { return None };
        last = g.node(next);
        let then = order(program, last)?;
        all = then.iter().map(|&d| all[d]).collect();
    };
    Some(Found { first, source, sizes, order: all, views })
}

/// Dimensions as groups of neighbours that stay so, in their old order; those of one are left out.
fn groups(sizes: &[SymInt], order: &[usize]) -> Vec<Vec<usize>> {
    let one = SymInt::from(1);
    let kept: Vec<usize> = order.iter().copied().filter(|&d| sizes[d] != one).collect();
    let mut groups: Vec<Vec<usize>> = vec![];
    for d in kept {
        match groups.last_mut() {
            // Between neighbours lie at most dimensions of one.
            Some(g) if g.last().is_some_and(|&l| l < d && sizes[l + 1..d].iter().all(|s| *s == one)) => {
                g.push(d)
            }
            _ => groups.push(vec![d]),
        }
    }
    groups
}

fn rewrite(program: &mut Program, f: &Found, most: usize) -> Result<(), PassFailure> {
    let new = groups(&f.sizes, &f.order);
    let mut old: Vec<usize> = (0..new.len()).collect();
    old.sort_by_key(|&i| new[i][0]);
    if new.len() > most {
        return Ok(());
    }
    let size = |g: &Vec<usize>| g.iter().map(|&d| f.sizes[d].clone()).product::<SymInt>();
    let shape: Vec<SymInt> = old.iter().map(|&i| size(&new[i])).collect();
    let place = |i: usize| old.iter().position(|&o| o == i).unwrap_or(0);
    let perm: Vec<usize> = (0..new.len()).map(place).collect();
    let g = &mut program.graph;
    let module = g.node(f.first).module.clone();
    let view = NewNode::new(&ops::VIEW, [f.source.into(), Arg::Ints(shape)]).in_module(&module);
    let view = g.insert_before(f.first, view)?;
    let from = g.node(view).output();
    let moved = NewNode::new(&ops::PERMUTE, [from.into(), Arg::ints(perm)]).in_module(&module);
    let moved = g.insert_before(f.first, moved)?;
    let moved = g.node(moved).output();
    for &v in &f.views {
        let shape = g.ty(g.node(v).output()).shape.clone();
        g.rewrite(v, &ops::VIEW, vec![moved.into(), Arg::Ints(shape)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};
    use crate::passes::DeadCode;

    fn narrowed(text: &str) -> (bool, String) {
        let mut p = text::parse(text).unwrap();
        let changed = FewerDimensions { most: 5 }.run(&mut p).unwrap();
        DeadCode.run(&mut p).unwrap();
        verify(&p).unwrap();
        (changed, text::print(&p))
    }

    #[test]
    fn windows_take_four_dimensions() {
        let (changed, text) = narrowed(
            "program {
              %x : f32[3, 4, 8, 32] = input
              %v : f32[3, 2, 2, 4, 2, 32] = aten.view.default(%x, size=[3, 2, 2, 4, 2, 32])
              %t : f32[3, 2, 4, 2, 2, 32] = aten.permute.default(%v, dims=[0, 1, 3, 2, 4, 5])
              %y : f32[24, 4, 32] = aten.view.default(%t, size=[24, 4, 32])
              return %y
            }",
        );
        assert!(changed);
        assert!(text.contains("f32[6, 2, 4, 64]") && text.contains("dims=[0, 2, 1, 3]"), "{text}");
    }

    #[test]
    fn ones_are_left_out_and_permutations_joined() {
        let (changed, text) = narrowed(
            "program {
              %x : f32[1, 8, 4, 4] = input
              %v : f32[1, 8, 2, 2, 2, 2] = aten.view.default(%x, size=[1, 8, 2, 2, 2, 2])
              %t : f32[1, 8, 2, 2, 2, 2] = aten.transpose.int(%v, dim0=3, dim1=4)
              %u : f32[2, 2, 2, 2, 1, 8] = aten.permute.default(%t, dims=[2, 3, 4, 5, 0, 1])
              %c : f32[2, 2, 2, 2, 1, 8] = aten.clone.default(%u)
              %y : f32[4, 4, 8] = aten.view.default(%c, size=[4, 4, 8])
              return %y
            }",
        );
        assert!(changed);
        assert!(text.contains("f32[8, 2, 2, 2, 2]") && text.contains("dims=[1, 3, 2, 4, 0]"), "{text}");
    }

    #[test]
    fn what_is_read_between_stays() {
        let (changed, _) = narrowed(
            "program {
              %x : f32[3, 4, 8, 32] = input
              %v : f32[3, 2, 2, 4, 2, 32] = aten.view.default(%x, size=[3, 2, 2, 4, 2, 32])
              %t : f32[3, 2, 4, 2, 2, 32] = aten.permute.default(%v, dims=[0, 1, 3, 2, 4, 5])
              %r : f32[3, 2, 4, 2, 2, 32] = aten.relu.default(%t)
              return %r
            }",
        );
        assert!(!changed);
    }

    #[test]
    fn elements_are_computed_before_the_view() {
        let (changed, text) = narrowed(
            "program {
              %x : f32[16, 16] = input
              %by : f32[] = constant \"by\" [4.0]
              %v : f32[1, 4, 4, 1, 4, 4] = aten.view.default(%x, size=[1, 4, 4, 1, 4, 4])
              %d : f32[1, 4, 4, 1, 4, 4] = aten.div.Tensor(%v, %by)
              %r : f32[1, 4, 4, 1, 4, 4] = aten.relu.default(%d)
              %y : f32[16, 1, 4, 4] = aten.reshape.default(%r, shape=[16, 1, 4, 4])
              return %y
            }",
        );
        assert!(changed);
        assert!(
            text.contains("f32[16, 16] = aten.div.Tensor(%x, %by)") && !text.contains("f32[1, 4, 4"),
            "{text}"
        );
    }
}
