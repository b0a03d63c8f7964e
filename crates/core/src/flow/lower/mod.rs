//! Lowering: claims → maximal convex regions → one delegate call each.
//!
//! Regions are numbered by *stage*. Whatever needs the result of a node that stays outside, which itself needs a
//! delegate, belongs to a later delegate; everything else that a backend takes can run together. So the number of
//! delegates is the number of times that work has to change sides, and no more. A region is convex by construction:
//! a path that leaves it comes back at a later stage. The work is linear in nodes and operands, but for sorting.

mod loops;
mod outline;
mod regions;

use crate::backend::{Artifact, BackendError, Blob, Claim, Format, Imprecise, Lowering};
use crate::ir::{Key, ModuleStack, NodeId, Program};
use crate::ops::{self, InferError};
use crate::passes::PassError;
use std::borrow::Cow;
use std::sync::Arc;

/// A program with parts of it compiled for backends.
#[derive(Debug, Default)]
pub struct Lowered {
    /// What remains, with a `lowbit.call_delegate` node for each delegate; its argument 0 is a place in `delegates`.
    pub program: Program,
    /// What is repeated: argument 0 of a `lowbit.loop` node is a place here. A body is lowered like the program itself. Its
    /// inputs are what is carried from step to step, the step's slice of each sequence, and what it captures; its outputs
    /// are what is carried on, and what is stacked in the order of the steps.
    pub bodies: Vec<Program>,
    /// The compiled parts, in the order they are called; those of the program first, then those of the bodies.
    pub delegates: Vec<Delegate>,
    /// Where each node went, in program order, as the program was after the backends' passes. Codebooks that a backend's
    /// passes put floats in the place of follow.
    pub nodes: Vec<Placement>,
}

/// A whole program as a backend's own file.
#[derive(Debug)]
pub struct Packaged {
    /// The file or folder.
    pub artifact: Artifact,
    /// All nodes, as the program was after the backend's passes.
    pub nodes: Vec<Placement>,
}

/// A compiled part.
#[derive(Debug)]
pub struct Delegate {
    /// Its name in an ExecuTorch program: `XnnpackBackend`.
    pub id: &'static str,
    /// What the backend made of it.
    pub blob: Blob,
    /// Names of its nodes, in order: what a backend's node numbers (debug handles) count.
    pub nodes: Vec<Arc<str>>,
}

/// Where a node went.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Name of the node.
    pub name: Arc<str>,
    /// Its operator's full name.
    pub op: &'static str,
    /// The modules it belongs to.
    pub module: ModuleStack,
    /// The delegate, or why it stays outside.
    pub place: Place,
    /// What it becomes in the delegate, as [`Lowering::describe`] says.
    pub becomes: Option<String>,
    /// Where the device's kernel is known to be less exact than the program; also from [`Lowering::describe`].
    pub imprecise: Option<Imprecise>,
}

/// A delegate, or the reason for being in none.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In the delegate of this number.
    Delegate(usize),
    /// In none; each backend's reason.
    Outside(String),
}

impl Lowered {
    /// The nodes outside delegates, with the reasons.
    pub fn outside(&self) -> impl Iterator<Item = (&Placement, &str)> {
        self.nodes.iter().filter_map(|n| match &n.place {
            Place::Outside(why) => Some((n, &**why)),
            Place::Delegate(_) => None,
        })
    }
}

/// Why a program could not be lowered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// A backend's pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A backend failed to compile what it had claimed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nodes that a backend leaves, though all were asked for.
    #[error("{backend} leaves {} nodes, and all were to go there; change the model, quantize it otherwise, or ask for a .pte that need not be whole, which runs them outside:\n  {}", .nodes.len(), .nodes.join("\n  "))]
    Outside {
        /// The delegate.
        backend: &'static str,
        /// Name, operator and reason of each.
        nodes: Vec<String>,
    },
    /// A node could not be taken over into another program: a bug in its shape rule.
    #[error("{node}: {source}")]
    Copy {
        /// The node.
        node: Arc<str>,
        /// What its operator said.
        source: InferError,
    },
}

/// Lowers to the backends given; the first that claims a node gets it. What depends on constants alone runs on the
/// device like everything else, unless [`FoldConstants`](crate::passes::FoldConstants) has computed it before.
///
/// # Errors
/// When a pass fails, or a backend fails on a region it claimed. A node that a backend finds it cannot compile after
/// all ([`BackendError::Refused`]) stays outside; that is no error.
pub fn lower(program: Program, backends: &[&dyn Lowering]) -> Result<Lowered, LowerError> {
    lower_from(program, backends, 0)
}

/// A whole program as a file of its own, of one of the backend's [formats](crate::backend::Backend::formats).
///
/// # Errors
/// [`LowerError::Outside`] lists the nodes that the backend does not take; it may also fail on the program as a whole.
pub fn package(
    mut program: Program,
    backend: &dyn Lowering,
    format: &Format,
) -> Result<Packaged, LowerError> {
    backend.passes().run(&mut program)?;
    let g = &program.graph;
    let left = g.nodes().filter_map(|n| match backend.claim(&program, n) {
        Claim::Take(_) => None,
        Claim::Leave(why) => Some((g.node(n), why)),
    });
    let left: Vec<String> = left.map(|(n, why)| format!("{} ({}): {why}", n.name, n.op().name)).collect();
    if !left.is_empty() {
        return Err(LowerError::Outside { backend: backend.delegate_id(), nodes: left });
    }
    let artifact = backend.artifact(&program, format)?;
    let mut nodes = placements(&program, |_| Place::Delegate(0));
    describe(&program, backend, &mut nodes);
    Ok(Packaged { artifact, nodes })
}

/// Lowers with delegates numbered from `first`.
fn lower_from(mut program: Program, backends: &[&dyn Lowering], first: usize) -> Result<Lowered, LowerError> {
    let mut delegates = Vec::new();
    let mut nodes: Vec<Placement> = Vec::new();
    for (i, backend) in backends.iter().enumerate() {
        let books = codebooks(&program);
        backend.passes().run(&mut program)?;
        let left = codebooks(&program);
        let why = format!("{} has no codebooks; the values are stored as floats", backend.delegate_id());
        let folded = books.into_iter().filter(|b| left.iter().all(|l| l.name != b.name));
        let folded: Vec<Placement> =
            folded.map(|b| Placement { place: Place::Outside(why.clone()), ..b }).collect();
        let (outer, parts, mut places) = lower_to(&program, *backend, first + delegates.len())?;
        places.extend(folded);
        nodes = merge(std::mem::take(&mut nodes), places, i == 0);
        program = outer;
        delegates.extend(parts);
    }
    if backends.is_empty() {
        nodes = placements(&program, |_| Place::Outside("no backend was given".into()));
    }
    let mut lowered = Lowered { program, bodies: vec![], delegates, nodes };
    loops::run(&mut lowered, backends, first)?;
    Ok(lowered)
}

type Parts = (Program, Vec<Delegate>, Vec<Placement>);

/// One backend's round.
fn lower_to(program: &Program, backend: &dyn Lowering, first: usize) -> Result<Parts, LowerError> {
    let g = &program.graph;
    let mut claims: Vec<Option<Claim>> = vec![None; g.table_sizes().0];
    for n in g.nodes() {
        let claim = if *g.node(n).op() == ops::CALL_DELEGATE {
            Claim::Leave("it is a delegate already".into())
        } else {
            backend.claim(program, n)
        };
        claims[n.index()] = Some(claim);
    }
    // Refusals are rare, and each takes a node out, so this ends.
    loop {
        let found = regions::find(program, &mut claims);
        let (outer, parts) = outline::split(program, &found, first)?;
        let mut delegates = Vec::with_capacity(parts.len());
        let mut refused = None;
        for part in &parts {
            match backend.compile(&part.program) {
                Ok(blob) => delegates.push(Delegate { id: backend.delegate_id(), blob, nodes: part.names() }),
                Err(BackendError::Refused { node, reason }) => {
                    refused = Some((part.original(node), reason));
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        let Some((node, reason)) = refused else {
            let mut places = placements(program, |n| match found.region_of[n.index()] {
                Some(r) => Place::Delegate(first + r),
                None => Place::Outside(found.why[n.index()].to_string()),
            });
            describe(program, backend, &mut places);
            let outside = |p: &Placement| match &p.place {
                Place::Outside(why) => Some(format!("{} ({}): {why}", p.name, p.op)),
                Place::Delegate(_) => None,
            };
            let left: Vec<String> = places.iter().filter_map(outside).collect();
            if backend.whole() && !left.is_empty() {
                return Err(LowerError::Outside { backend: backend.delegate_id(), nodes: left });
            }
            return Ok((outer, delegates, places));
        };
        claims[node.index()] = Some(Claim::Leave(reason.into()));
        // Whoever counted on that node cannot go without it.
        for n in g.nodes().filter(|&n| n != node) {
            let needs = matches!(&claims[n.index()], Some(Claim::Take(with)) if with.contains(&node));
            if needs {
                let why = format!("it goes with %{}, which was refused", g.node(node).name);
                claims[n.index()] = Some(Claim::Leave(why.into()));
            }
        }
    }
}

/// Nodes that look values up in tables.
fn codebooks(program: &Program) -> Vec<Placement> {
    let mut nodes = placements(program, |_| Place::Outside(String::new()));
    nodes.retain(|n| n.op == ops::DEQUANTIZE_CODEBOOK.name);
    nodes
}

fn placements(program: &Program, place: impl Fn(NodeId) -> Place) -> Vec<Placement> {
    let g = &program.graph;
    g.nodes()
        .map(|n| {
            let node = g.node(n);
            Placement {
                name: node.name.clone(),
                op: node.op().name,
                module: node.module.clone(),
                place: place(n),
                becomes: None,
                imprecise: None,
            }
        })
        .collect()
}

/// Fills in what nodes in delegates become.
fn describe(program: &Program, backend: &dyn Lowering, places: &mut [Placement]) {
    for (n, p) in program.graph.nodes().zip(places) {
        if matches!(p.place, Place::Delegate(_))
            && let Some(told) = backend.describe(program, n)
        {
            (p.becomes, p.imprecise) = (Some(told.becomes), told.imprecise);
        }
    }
}

/// What a later backend says of the nodes that earlier ones left; in place of a delegate's nodes it saw one call.
fn merge(earlier: Vec<Placement>, later: Vec<Placement>, first: bool) -> Vec<Placement> {
    if first {
        return later;
    }
    let kept = earlier.iter().filter(|p| matches!(p.place, Place::Delegate(_)));
    let mut out: Vec<Placement> = kept.cloned().collect();
    for mut p in later.into_iter().filter(|p| p.op != ops::CALL_DELEGATE.name) {
        let before = earlier.iter().find(|e| e.name == p.name).map(|e| &e.place);
        if let (Place::Outside(now), Some(Place::Outside(then))) = (&mut p.place, before)
            && now != then
        {
            *now = format!("{then}; {now}");
        }
        out.push(p);
    }
    out
}

/// A claim's reason, when it is one.
fn reason(claim: &Option<Claim>) -> Cow<'static, str> {
    match claim {
        Some(Claim::Leave(why)) => why.clone(),
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{text, verify};
    use crate::passes::Pipeline;

    /// Takes relu, sigmoid and q/dq; refuses `tanh` only when compiling.
    #[derive(Debug)]
    struct Fake {
        refuse: Option<&'static str>,
    }

    impl Lowering for Fake {
        fn delegate_id(&self) -> &'static str {
            "Fake"
        }
        fn passes(&self) -> Pipeline {
            Pipeline::default()
        }
        fn claim(&self, program: &Program, node: NodeId) -> Claim {
            let n = program.graph.node(node);
            match n.op().short_name() {
                // An add takes its dequantize along, as a backend with integer kernels would.
                "add" => {
                    let with: Vec<NodeId> = n
                        .operands()
                        .filter_map(|v| program.graph.producer(v))
                        .filter(|p| program.graph.node(*p).op().short_name() == "dequantize_per_tensor")
                        .collect();
                    Claim::Take(with)
                }
                "relu" | "tanh" | "quantize_per_tensor" | "dequantize_per_tensor" => Claim::Take(vec![]),
                other => Claim::Leave(format!("no {other}").into()),
            }
        }
        fn compile(&self, part: &Program) -> Result<Blob, BackendError> {
            verify(part).unwrap();
            for n in part.graph.nodes() {
                if Some(part.graph.node(n).op().short_name()) == self.refuse {
                    return Err(BackendError::Refused { node: n, reason: "not today".into() });
                }
            }
            Ok(Blob { bytes: text::print(part).into_bytes(), ..Blob::default() })
        }
    }

    fn lowered(text: &str, refuse: Option<&'static str>) -> Lowered {
        let program = text::parse(text).unwrap();
        let l = lower(program, &[&Fake { refuse }]).unwrap();
        verify(&l.program).unwrap();
        l
    }

    fn calls(l: &Lowered) -> Vec<String> {
        let g = &l.program.graph;
        g.nodes().map(|n| g.node(n).op().short_name().to_string()).collect()
    }

    #[test]
    fn regions_are_as_large_as_they_can_be() {
        // Both branches fit in one delegate before the sigmoid and one after it.
        let l = lowered(
            "program {
              %x : f32[4] = input
              %a : f32[4] = aten.relu.default(%x)
              %s : f32[4] = aten.sigmoid.default(%a)
              %b : f32[4] = aten.tanh.default(%x)
              %c : f32[4] = aten.add.Tensor(%a, %b)
              %d : f32[4] = aten.add.Tensor(%c, %s)
              %e : f32[4] = aten.relu.default(%d)
              return %e, %b
            }",
            None,
        );
        assert_eq!(calls(&l), ["call_delegate", "sigmoid", "call_delegate"]);
        assert_eq!(l.delegates[0].nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(l.delegates[1].nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["d", "e"]);
        assert_eq!(l.program.signature.outputs.len(), 2);
        let left: Vec<_> = l.outside().map(|(n, why)| (&*n.name, why)).collect();
        assert_eq!(left, [("s", "no sigmoid")]);
    }

    #[test]
    fn small_tensors_cross_borders() {
        // %p1 could run in the first delegate; its input is a quarter of its output. %r must, so %p2 stays early.
        let l = lowered(
            "program {
              %x : f32[4] = input
              %q : i8[4] = quantized_decomposed.quantize_per_tensor.default(%x, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %p : f32[4] = quantized_decomposed.dequantize_per_tensor.default(%q, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %s : f32[4] = aten.sigmoid.default(%p)
              %p1 : f32[4] = quantized_decomposed.dequantize_per_tensor.default(%q, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %p2 : f32[4] = quantized_decomposed.dequantize_per_tensor.default(%q, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %r : f32[4] = aten.relu.default(%p2)
              %c : f32[4] = aten.mul.Tensor(%r, %s)
              %t : f32[4] = aten.tanh.default(%c)
              %u : f32[4] = aten.sub.Tensor(%t, %p1)
              %w : f32[4] = aten.relu.default(%u)
              return %w
            }",
            None,
        );
        let names = |i: usize| l.delegates[i].nodes.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(calls(&l), ["call_delegate", "sigmoid", "mul", "call_delegate", "sub", "call_delegate"]);
        assert_eq!(names(0), ["q", "p", "p2", "r"]);
        assert_eq!(names(1), ["p1", "t"], "{}", text::print(&l.program));
    }

    #[test]
    fn a_delegate_never_waits_for_itself() {
        // %u would take %p1 along, which %r needs before the mul outside, which %u needs.
        let l = lowered(
            "program {
              %x : i8[4] = input
              %p1 : f32[4] = quantized_decomposed.dequantize_per_tensor.default(%x, scale=0.5, zero_point=3, quant_min=-128, quant_max=127, dtype=i8)
              %r : f32[4] = aten.relu.default(%p1)
              %c : f32[4] = aten.mul.Tensor(%r, %r)
              %u : f32[4] = aten.add.Tensor(%c, %p1)
              return %u
            }",
            None,
        );
        assert_eq!(calls(&l), ["call_delegate", "mul", "add"]);
    }

    #[test]
    fn refused_nodes_stay_outside() {
        let l = lowered(
            "program {
              %x : f32[4] = input
              %a : f32[4] = aten.relu.default(%x)
              %b : f32[4] = aten.tanh.default(%a)
              %c : f32[4] = aten.relu.default(%b)
              return %c
            }",
            Some("tanh"),
        );
        assert_eq!(calls(&l), ["call_delegate", "tanh", "call_delegate"]);
        assert_eq!(l.nodes[1].place, Place::Outside("not today".into()));
        assert_eq!(l.nodes[2].place, Place::Delegate(1));
    }

    #[test]
    fn buffers_that_change_are_passed_in() {
        let l = lowered(
            "program {
              %x : f32[2] = input
              %state : f32[2] = constant \"state\"
              %w : f32[2] = constant \"w\"
              %a : f32[2] = aten.add.Tensor(%x, %state)
              %b : f32[2] = aten.add.Tensor(%a, %w)
              return %b
              update \"state\" = %a
            }",
            None,
        );
        let part = String::from_utf8(l.delegates[0].blob.bytes.clone()).unwrap();
        assert!(
            part.contains("%state : f32[2] = input") && part.contains("%w : f32[2] = constant"),
            "{part}"
        );
        assert_eq!(l.program.signature.mutations.len(), 1);
        assert_eq!(l.program.live_constants().count(), 1);
    }
}
