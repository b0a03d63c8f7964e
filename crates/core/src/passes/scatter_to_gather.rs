//! [`ScatterToGather`]: sums into known places as sums of what is picked for each place.

use super::{Pass, PassFailure};
use crate::ir::{Arg, ConstKind, NewNode, NodeId, Program, ValueId};
use crate::ops::{self, OpDef, views};
use crate::symint::SymInt;
use crate::tensor::Tensor;

/// `index_put(self, [.., places], values, accumulate=True)` with constant places becomes an `index_select` of the values that
/// go to each place, zeros where others have more, and a sum: for devices that add nothing up in place. Windows that are
/// folded into a picture are such sums.
#[derive(Copy, Clone, Debug, Default)]
pub struct ScatterToGather;

/// A sum into places of a dimension.
struct Found {
    into: ValueId,
    values: ValueId,
    dim: usize,
    /// Entries of `values` along the dimension.
    count: usize,
    /// The entries that go to each place.
    entries: Vec<Vec<usize>>,
}

impl Pass for ScatterToGather {
    fn name(&self) -> &'static str {
        "scatter_to_gather"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let found: Vec<_> = program.graph.nodes().filter_map(|n| Some((n, find(program, n)?))).collect();
        for (n, f) in &found {
            rewrite(program, *n, f)?;
        }
        Ok(!found.is_empty())
    }
}

fn find(program: &Program, n: NodeId) -> Option<Found> {
    let (g, node) = (&program.graph, program.graph.node(n));
    if *node.op() != ops::INDEX_PUT || views::bool(node.arg(3)) != Some(true) {
        return None;
    }
    let (into, values) = (views::value(node.arg(0))?, views::value(node.arg(2))?);
    let slots: Vec<Option<ValueId>> = match node.arg(1) {
        Arg::OptValues(slots) => slots.clone(),
        Arg::Values(slots) => slots.iter().copied().map(Some).collect(),
        _ => return None,
    };
    let dim = slots.iter().position(Option::is_some)?;
    let places = program.frozen(slots[dim]?).filter(|t| t.shape().len() == 1 && t.dtype().is_int())?;
    let size = usize::try_from(g.ty(into).shape[dim].known()?).ok()?;
    let count = places.numel();
    let mut shape = g.ty(into).shape.clone();
    shape[dim] = count.into();
    if count == 0 || slots[dim + 1..].iter().any(Option::is_some) || g.ty(values).shape != shape {
        return None;
    }
    let mut entries = vec![vec![]; size];
    for (entry, place) in places.to_f64().into_iter().enumerate() {
        let place = if place < 0.0 { place + size as f64 } else { place };
        // A place before the first is an error, which is left to whoever runs the program.
        entries.get_mut(usize::try_from(place as i64).ok()?)?.push(entry);
    }
    Some(Found { into, values, dim, count, entries })
}

/// Whether a value is zeros.
fn is_zero(program: &Program, v: ValueId) -> bool {
    let g = &program.graph;
    let full = |n: NodeId| *g.node(n).op() == ops::FULL && views::float(g.node(n).arg(1)) == Some(0.0);
    g.producer(v).is_some_and(full) || program.frozen(v).is_some_and(|t| t.to_f64().iter().all(|x| *x == 0.0))
}

fn rewrite(program: &mut Program, n: NodeId, f: &Found) -> Result<(), PassFailure> {
    let most = f.entries.iter().map(Vec::len).max().unwrap_or(0);
    let zeros = f.entries.iter().any(|e| e.len() < most);
    let name = program.graph.node(n).name.clone();
    let module = program.graph.node(n).module.clone();
    let numbers: Vec<i64> = f
        .entries
        .iter()
        .flat_map(|e| (0..most).map(|i| e.get(i).copied().unwrap_or(f.count) as i64))
        .collect();
    let fail = |e: crate::tensor::TensorError| PassFailure(format!("{name}: {e}"));
    let numbers = Tensor::new(&[numbers.len()], numbers).map_err(fail)?;
    let numbers = program.add_constant(&format!("{name}_entries"), ConstKind::Tensor, numbers);
    let mut shape: Vec<SymInt> = program.graph.ty(f.into).shape.clone();
    let rank = shape.len();
    shape.insert(f.dim + 1, most.into());
    let add_to = (!is_zero(program, f.into)).then_some(f.into);
    let made = program.graph.node(n).output();
    let g = &mut program.graph;
    let mut op = |op: &'static OpDef, args: Vec<Arg>| -> Result<ValueId, PassFailure> {
        let node = g.insert_before(n, NewNode::new(op, args).in_module(&module))?;
        Ok(g.node(node).output())
    };
    let mut x = f.values;
    if zeros {
        let mut pads = vec![0; 2 * (rank - f.dim)];
        *pads.last_mut().ok_or_else(|| PassFailure(format!("{name}: it has no dimensions")))? = 1;
        x = op(&ops::CONSTANT_PAD_ND, vec![x.into(), Arg::ints(pads), Arg::Float(0.0)])?;
    }
    x = op(&ops::INDEX_SELECT, vec![x.into(), f.dim.into(), numbers.into()])?;
    x = op(&ops::VIEW, vec![x.into(), Arg::Ints(shape)])?;
    x = op(&ops::SUM_DIM, vec![x.into(), Arg::ints([f.dim as i64 + 1])])?;
    if let Some(into) = add_to {
        x = op(&ops::ADD, vec![into.into(), x.into()])?;
    }
    g.replace_uses(made, x, None);
    g.erase(n);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};
    use crate::passes::DeadCode;

    /// Whether it changed, the program, and the entries that are picked.
    fn rewritten(text: &str) -> (bool, String, Vec<f64>) {
        let mut p = text::parse(text).unwrap();
        let changed = ScatterToGather.run(&mut p).unwrap();
        DeadCode.run(&mut p).unwrap();
        verify(&p).unwrap();
        let entries = p.live_constants().next().map(|(_, c)| c.tensor.to_f64()).unwrap_or_default();
        (changed, text::print(&p), entries)
    }

    #[test]
    fn windows_are_picked_and_summed() {
        let (changed, text, entries) = rewritten(
            "program {
              %x : f32[2, 4] = input
              %i : i64[4] = constant \"i\" [0, 1, 1, -1]
              %z : f32[2, 3] = aten.full.default(size=[2, 3], fill_value=0.0, dtype=f32)
              %y : f32[2, 3] = aten.index_put.default(%z, indices=[none, %i], values=%x, accumulate=true)
              return %y
            }",
        );
        assert!(changed);
        assert_eq!(entries, [0.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(text.contains("f32[2, 5]") && !text.contains("aten.add"), "{text}");
        assert!(text.contains("f32[2, 3, 2] = aten.view") && text.contains("dim=[2]"), "{text}");
    }

    #[test]
    fn what_is_there_is_added_and_what_overwrites_stays() {
        let program = |accumulate| {
            format!(
                "program {{
                  %x : f32[2, 4] = input
                  %z : f32[3, 4] = input
                  %i : i64[2] = constant \"i\" [2, 0]
                  %y : f32[3, 4] = aten.index_put.default(%z, indices=[%i], values=%x, accumulate={accumulate})
                  return %y
                }}"
            )
        };
        let (changed, text, _) = rewritten(&program("true"));
        assert!(changed && text.contains("aten.add.Tensor(%z, "), "{text}");
        assert!(!rewritten(&program("false")).0);
    }
}
