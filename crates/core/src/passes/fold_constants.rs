//! [`FoldConstants`]: what is computed from constants alone is computed now, not by the device in every run.

use super::{DeadCode, Decompose, Pass, PassFailure};
use crate::executor::{Executor, RunError};
use crate::ir::{Arg, ConstId, ConstKind, Def, Key, Node, NodeId, Program, TensorType, ValueId};
use crate::ops::{self, OpDef};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Replaces values that depend on constants alone by constants: masks, tables of relative positions, weights that the
/// model normalizes when it runs.
///
/// Files must not swell by it. A result takes the room of the constants that nobody needs once it is there; beyond
/// that, all results together may take a twentieth of the program's constants (at least [`ROOM`] bytes). What does not
/// fit is left to the device, but what it is made of may fit.
///
/// Integers stay integers: quantize and dequantize nodes are for backends to see. So are views, transposes and slices
/// of constants, by which they know a layer; [`FoldMoves`](super::FoldMoves) folds those when that is done. Tensors of
/// one number (`zeros_like`) are left too, and what is made of them is folded.
#[derive(Copy, Clone, Debug)]
pub struct FoldConstants<'a> {
    /// What computes.
    pub executor: &'a dyn Executor,
}

/// What results may add to a program with few constants, in bytes.
pub const ROOM: usize = 4096;

impl Pass for FoldConstants<'_> {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let wanted = Search::new(program).run();
        if wanted.is_empty() {
            return Ok(false);
        }
        // What cannot be computed here may still run on the device, and fails there as it would have.
        let Ok(results) = evaluate(program, &wanted, self.executor) else { return Ok(false) };
        for (&v, result) in wanted.iter().zip(results) {
            let name = format!("{}_folded", program.graph.value(v).name);
            let to = program.add_constant(&name, ConstKind::Tensor, result);
            program.graph.replace_uses(v, to, None);
        }
        DeadCode.run(program)?;
        Ok(true)
    }
}

/// Operators that make tensors of one number, and look at no more of a tensor than its type.
static UNIFORM: &[&OpDef] = &[
    &ops::ZERO,
    &ops::ZEROS_LIKE,
    &ops::ONES_LIKE,
    &ops::FULL_LIKE,
    &ops::EMPTY_LIKE,
    &ops::FILL_SCALAR,
    &ops::NEW_ZEROS,
    &ops::NEW_ONES,
    &ops::NEW_FULL,
    &ops::NEW_EMPTY,
];

/// The operands whose elements count.
fn read(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let skipped = match node.op() {
        op if UNIFORM.contains(&op) => usize::MAX,
        op if *op == ops::FILL => 1,
        _ => 0,
    };
    node.operands().skip(skipped)
}

/// Values that are computed from constants alone, the constants included, by number. What takes its shape from an input
/// (`ones_like`) is none of them, though its elements are known.
pub(crate) fn constant_values(program: &Program) -> Vec<bool> {
    let computed = |n| program.graph.node(n).operands().collect();
    fixed_values(program, computed, |n| is_settled(program, n))
}

fn fixed_values(
    program: &Program,
    reads: impl Fn(NodeId) -> Vec<ValueId>,
    foldable: impl Fn(NodeId) -> bool,
) -> Vec<bool> {
    let g = &program.graph;
    let mut fixed = vec![false; g.values().len()];
    for (c, k) in program.constants.iter() {
        fixed[k.value.index()] = !program.is_mutated(c);
    }
    for n in g.nodes() {
        let node = g.node(n);
        // What has no operands at all (arange, zeros) is as fixed as a constant.
        if !node.op().traits.random && reads(n).iter().all(|v| fixed[v.index()]) && foldable(n) {
            node.outputs().iter().for_each(|v| fixed[v.index()] = true);
        }
    }
    fixed
}

/// Computes values that depend on constants alone.
pub(crate) fn evaluate(
    program: &Program,
    wanted: &[ValueId],
    executor: &dyn Executor,
) -> Result<Vec<Tensor>, RunError> {
    let mut part = program.clone();
    // The same graph with other outputs: what they do not need is dropped, inputs stay unread.
    part.signature.outputs = wanted.iter().map(|&v| program.graph.value(v).name.clone()).collect();
    part.signature.mutations.clear();
    part.graph.set_outputs(wanted.to_vec());
    // In forms that take no tensor for its type.
    let keep = |p: &Program, n: NodeId| {
        let op = p.graph.node(n).op();
        *op != ops::FILL && !UNIFORM.contains(&op)
    };
    Decompose { keep }.run(&mut part).map_err(|e| RunError::Unsupported(e.0))?;
    DeadCode.run(&mut part).map_err(|e| RunError::Unsupported(e.0))?;
    part.graph.drop_inputs();
    part.signature.inputs.clear();
    executor.load(&part, &[])?.run(&[], &mut |_, _| {})
}

/// Chooses what to fold.
struct Search<'p> {
    program: &'p Program,
    fixed: Vec<bool>,
    /// The first constant with the same elements: files hold equal ones once.
    first: BTreeMap<ConstId, ConstId>,
    seen: BTreeSet<ValueId>,
    /// Constants whose room a result has taken already, or that somebody needs in any case.
    occupied: BTreeSet<ConstId>,
    /// Bytes that results may still add.
    room: usize,
    wanted: Vec<ValueId>,
}

impl<'p> Search<'p> {
    fn new(program: &'p Program) -> Self {
        let g = &program.graph;
        let reads = |n| read(g.node(n)).collect();
        let fixed = fixed_values(program, reads, |n| foldable(program, n));
        let needed_by = |n: NodeId| g.node(n).outputs().iter().any(|o| !fixed[o.index()]);
        let needed = |v: ValueId| g.is_output(v) || g.value(v).uses().iter().any(|u| needed_by(u.node));
        let live = || program.live_constants();
        let mut equal: BTreeMap<(usize, &[u8]), ConstId> = BTreeMap::new();
        let first: BTreeMap<ConstId, ConstId> = live()
            .filter(|(_, k)| g.value(k.value).uses().iter().any(|u| !needed_by(u.node)))
            .map(|(c, k)| (c, *equal.entry((k.tensor.bytes().len(), k.tensor.bytes())).or_insert(c)))
            .collect();
        let occupied =
            live().filter(|(_, k)| needed(k.value)).filter_map(|(c, _)| first.get(&c).copied()).collect();
        let total: usize = live().map(|(_, k)| k.tensor.bytes().len()).sum();
        Search {
            program,
            fixed,
            first,
            seen: BTreeSet::new(),
            occupied,
            room: (total / 20).max(ROOM),
            wanted: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<ValueId> {
        let g = &self.program.graph;
        for n in g.nodes() {
            let node = g.node(n);
            if node.outputs().iter().any(|o| !self.fixed[o.index()]) {
                read(node).for_each(|v| self.want(v));
            }
        }
        g.outputs().iter().for_each(|&v| self.want(v));
        self.wanted
    }

    /// Folds `v` if it is fixed, or what it is made of.
    fn want(&mut self, v: ValueId) {
        let mut stack = vec![v];
        while let Some(v) = stack.pop() {
            let g = &self.program.graph;
            let Some(n) = g.producer(v).filter(|_| self.fixed[v.index()]) else { continue };
            if !self.seen.insert(v) {
                continue;
            }
            let node = g.node(n);
            let left =
                UNIFORM.contains(&node.op()) || node.op().traits.moves_data && node.operands().count() == 1;
            if left || !self.fits(v) {
                stack.extend(read(node));
            } else {
                self.wanted.push(v);
            }
        }
    }

    /// Whether there is room for `v`, which it then takes.
    fn fits(&mut self, v: ValueId) -> bool {
        let freed: BTreeSet<ConstId> = self.sources(v).difference(&self.occupied).copied().collect();
        let given: usize = freed.iter().map(|&c| self.program.constants[c].tensor.bytes().len()).sum();
        let Some(size) = bytes(self.program.graph.ty(v)) else { return false };
        let Some(room) = self.room.checked_sub(size.saturating_sub(given)) else { return false };
        self.room = room;
        self.occupied.extend(freed);
        true
    }

    /// The constants behind a value.
    fn sources(&self, v: ValueId) -> BTreeSet<ConstId> {
        let g = &self.program.graph;
        let (mut found, mut seen, mut stack) = (BTreeSet::new(), BTreeSet::from([v]), vec![v]);
        while let Some(v) = stack.pop() {
            match g.value(v).def() {
                Def::Const(c) => drop(found.insert(self.first.get(&c).copied().unwrap_or(c))),
                Def::Node(n, _) => stack.extend(read(g.node(n)).filter(|v| seen.insert(*v))),
                Def::Input(_) => {}
            }
        }
        found
    }
}

/// Bytes of a value whose shape is known.
fn bytes(ty: &TensorType) -> Option<usize> {
    ty.known_shape()?.iter().try_fold(ty.dtype.size(), |n, &d| n.checked_mul(d))
}

/// Whether a node is the same for every size of the program's inputs.
fn is_settled(program: &Program, n: NodeId) -> bool {
    let node = program.graph.node(n);
    let literal = |a: &Arg| match a {
        Arg::Int(i) => i.known().is_some(),
        Arg::Ints(l) => l.iter().all(|i| i.known().is_some()),
        _ => true,
    };
    node.args().iter().all(literal) && node.outputs().iter().all(|&v| bytes(program.graph.ty(v)).is_some())
}

/// Whether a node may be folded once its operands are known: it is none of quantization.
fn foldable(program: &Program, n: NodeId) -> bool {
    program.graph.node(n).op().name.starts_with("aten.") && is_settled(program, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Probe, Session};
    use crate::ir::{text, verify};

    /// Gives ones for whatever is asked, and checks that nothing depends on inputs.
    #[derive(Debug)]
    struct Ones;
    #[derive(Debug)]
    struct Loaded(Vec<(crate::DType, Vec<usize>)>);

    impl Executor for Ones {
        fn load(&self, program: &Program, _: &[ValueId]) -> Result<Box<dyn Session>, RunError> {
            assert!(verify(program).is_ok() && program.graph.inputs().is_empty());
            let ty = |&v| (program.graph.ty(v).dtype, program.graph.ty(v).known_shape().unwrap());
            Ok(Box::new(Loaded(program.graph.outputs().iter().map(ty).collect())))
        }
    }
    impl Session for Loaded {
        fn run(&mut self, _: &[Tensor], _: &mut Probe<'_>) -> Result<Vec<Tensor>, RunError> {
            let ones = |(dtype, shape): &(crate::DType, Vec<usize>)| {
                let n: usize = shape.iter().product();
                Tensor::from_bytes(*dtype, shape, vec![1; n * dtype.size()].into()).unwrap()
            };
            Ok(self.0.iter().map(ones).collect())
        }
    }

    /// Folds, and gives the operators that are left.
    fn folded(program: &str) -> Vec<&'static str> {
        let mut p = text::parse(program).unwrap();
        let changed = FoldConstants { executor: &Ones }.run(&mut p).unwrap();
        verify(&p).unwrap();
        assert!(changed || text::print(&p) == text::print(&text::parse(program).unwrap()));
        p.graph.nodes().map(|n| p.graph.node(n).op().short_name()).collect()
    }

    #[test]
    fn what_depends_on_constants_alone_is_computed() {
        let left = folded(
            "program {
              %x : f32[4, 4] = input
              %table : f32[7] = constant \"table\"
              %places : i64[4, 4] = constant \"places\"
              %bias : f32[4, 4] = aten.index.Tensor(%table, [%places])
              %twice : f32[4, 4] = aten.add.Tensor(%bias, %bias)
              %range : i64[4] = aten.arange.default(4)
              %far : bool[4] = aten.gt.Scalar(%range, 2)
              %y : f32[4, 4] = aten.add.Tensor(%x, %twice)
              %z : f32[4, 4] = aten.masked_fill.Scalar(%y, %far, 0.0)
              return %z, %range
            }",
        );
        assert_eq!(left, ["add", "masked_fill"]);
    }

    #[test]
    fn moves_quantization_and_what_changes_are_left() {
        let program = "program {
          %x : f32[2, 3] = input
          %w : f32[3, 3] = constant \"w\"
          %q : i8[3, 3] = constant \"q\"
          %state : f32[3] = constant \"state\"
          %t : f32[3, 3] = aten.t.default(%w)
          %dq : f32[3, 3] = quantized_decomposed.dequantize_per_tensor.default(%q, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
          %double : f32[3, 3] = aten.add.Tensor(%dq, %dq)
          %new : f32[3] = aten.relu.default(%state)
          %a : f32[2, 3] = aten.mm.default(%x, %t)
          %b : f32[2, 3] = aten.mm.default(%a, %double)
          %c : f32[2, 3] = aten.add.Tensor(%b, %new)
          return %c
          update \"state\" = %new
        }";
        assert_eq!(folded(program).len(), 7);
    }

    #[test]
    fn files_do_not_swell() {
        // The sum takes 16 kB, four times what may be added; its operands are small.
        let left = folded(
            "program {
              %x : f32[64, 64] = input
              %a : f32[64] = constant \"a\"
              %r : f32[64] = aten.relu.default(%a)
              %column : f32[64, 1] = aten.unsqueeze.default(%r, dim=-1)
              %b : f32[64, 64] = aten.add.Tensor(%column, %r)
              %y : f32[64, 64] = aten.add.Tensor(%x, %b)
              return %y
            }",
        );
        assert_eq!(left, ["unsqueeze", "add", "add"]);
    }

    #[test]
    fn results_take_the_place_of_their_sources() {
        // What `x` holds does not count.
        let left = folded(
            "program {
              %x : f32[4, 4] = input
              %zeros : f32[8] = aten.new_zeros.default(%x, size=[8])
              %one : f32[] = constant \"one\" [1.0]
              %part : f32[4] = aten.slice.Tensor(%zeros, dim=0, start=0, end=4)
              %ones : f32[4] = aten.fill.Tensor(%part, %one)
              %mask : f32[8] = aten.slice_scatter.default(%zeros, %ones, dim=0, start=0, end=4)
              %like : f32[4, 4] = aten.zeros_like.default(%x)
              return %mask, %like
            }",
        );
        assert_eq!(left, ["zeros_like"]);
        // A result may take the place of its source, once.
        let left = folded(
            "program {
              %x : f32[64, 64] = input
              %w : f32[64, 64] = constant \"w\"
              %a : f32[64, 64] = aten.relu.default(%w)
              %b : f32[64, 64] = aten.neg.default(%w)
              %y : f32[64, 64] = aten.add.Tensor(%x, %a)
              %z : f32[64, 64] = aten.add.Tensor(%y, %b)
              return %z
            }",
        );
        assert_eq!(left, ["neg", "add", "add"]);
    }
}
