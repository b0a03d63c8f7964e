//! Groups: which sites share one observer. torchao's union-find, with its order of events
//! (`_get_edge_or_node_to_group_id`), over operands instead of producer-consumer pairs.

use super::annotations::{Annotations, Site};
use super::spec::Spec;
use super::{QuantError, QuantSpec};
use crate::ir::{NodeId, Program, Use};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sites with one observer, or one set of fixed or derived parameters.
#[derive(Clone, Debug)]
pub struct Group {
    /// How they are quantized; never [`Spec::SharedWith`].
    pub spec: Spec,
    /// Members in program order.
    pub sites: Vec<Site>,
    /// The rule that annotated the first of them.
    pub rule: Arc<str>,
}

/// All groups of a program.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// In order of their first member.
    pub groups: Vec<Group>,
    of: BTreeMap<Site, usize>,
}

impl Groups {
    /// The group of a site.
    pub fn of(&self, site: Site) -> Option<usize> {
        self.of.get(&site).copied()
    }

    /// Forms the groups of all annotated sites.
    ///
    /// # Errors
    /// When a shared spec points at a site that is not annotated, or in a circle.
    pub fn form(program: &Program, annotations: &Annotations) -> Result<Groups, QuantError> {
        let sites = in_program_order(program, annotations);
        let index: BTreeMap<Site, usize> = sites.iter().enumerate().map(|(i, s)| (*s, i)).collect();
        let spec = |i: usize| &annotations.get(sites[i]).expect("listed because it is annotated").spec;
        let mut forest = Forest { parent: (0..sites.len()).collect() };
        let target = |i: usize| match spec(i) {
            Spec::SharedWith(other) => match index.get(other) {
                Some(&t) => Ok(Some(t)),
                None => Err(Annotations::bad_spec(
                    program,
                    sites[i],
                    format!("shares parameters with {}, which is not annotated", other.describe(program)),
                )),
            },
            _ => Ok(None),
        };
        // Follows shared specs from root to root; `None` for a circle without any other spec.
        let unwrapped = |forest: &Forest, mut i: usize| -> Result<Option<usize>, QuantError> {
            for _ in 0..=sites.len() {
                i = forest.root(i);
                match target(i)? {
                    Some(t) if forest.root(t) == i => return Ok(None),
                    Some(t) => i = t,
                    None => return Ok(Some(i)),
                }
            }
            Ok(None)
        };
        for (i, site) in sites.iter().enumerate() {
            if let Site::Input(u) = site {
                // Operands of one node that read one value are one edge in torchao.
                let sharing = annotations.allows_implicit_sharing(u.node);
                if let Some(v) = program.graph.operand(*u) {
                    let others = readers(program, v, *u).into_iter().filter(|o| sharing || o.node == u.node);
                    let made = sharing.then_some(Site::Output(v));
                    for other in others.map(Site::Input).chain(made) {
                        let Some(&o) = index.get(&other) else { continue };
                        let (mine, theirs) = (unwrapped(&forest, i)?, unwrapped(&forest, o)?);
                        if let (Some(a), Some(b)) = (mine, theirs)
                            && same_parameters(spec(a), spec(b))
                        {
                            forest.union(o, i, |r| target(r).ok().flatten());
                        }
                    }
                }
            }
            if let Some(t) = target(i)? {
                forest.union(t, i, |r| target(r).ok().flatten());
            }
        }
        let mut groups = Groups::default();
        let mut number: BTreeMap<usize, usize> = BTreeMap::new();
        for (i, &site) in sites.iter().enumerate() {
            let root = forest.root(i);
            let g = *number.entry(root).or_insert(groups.groups.len());
            if g == groups.groups.len() {
                let rule = annotations.get(site).map(|a| a.rule.clone()).unwrap_or_default();
                groups.groups.push(Group { spec: spec(i).clone(), sites: vec![], rule });
            }
            let group = &mut groups.groups[g];
            // The first member with a spec of its own makes the observer, wherever it stands.
            if matches!(group.spec, Spec::SharedWith(_)) {
                group.spec = spec(i).clone();
            }
            group.sites.push(site);
            groups.of.insert(site, g);
        }
        match groups.groups.iter().find(|g| matches!(g.spec, Spec::SharedWith(_))) {
            Some(g) => {
                let reason = "shares parameters in a circle; one of the sites needs a spec of its own";
                Err(Annotations::bad_spec(program, g.sites[0], reason))
            }
            None => Ok(groups),
        }
    }
}

/// Inputs and constants first, then node by node: operands, then outputs.
fn in_program_order(program: &Program, annotations: &Annotations) -> Vec<Site> {
    let g = &program.graph;
    let mut sites: Vec<Site> = g.inputs().iter().map(|&v| Site::Output(v)).collect();
    sites.extend(program.constants.iter().map(|(_, c)| Site::Output(c.value)));
    for n in g.nodes() {
        let count = g.node(n).operands().count();
        sites.extend((0..count).map(|slot| Site::input(n, u32::try_from(slot).expect("few operands"))));
        sites.extend(g.node(n).outputs().iter().map(|&v| Site::Output(v)));
    }
    sites.retain(|s| annotations.get(*s).is_some());
    sites
}

/// The other operands that read a value, in program order.
fn readers(program: &Program, v: crate::ir::ValueId, but: Use) -> Vec<Use> {
    let mut uses: Vec<Use> = program.graph.value(v).uses().iter().copied().filter(|u| *u != but).collect();
    let rank = |a: &NodeId, b: &NodeId| program.graph.is_before(*a, *b);
    uses.sort_by(|a, b| match (a.node == b.node, rank(&a.node, &b.node)) {
        (true, _) => a.slot.cmp(&b.slot),
        (_, true) => std::cmp::Ordering::Less,
        _ => std::cmp::Ordering::Greater,
    });
    uses
}

/// Whether two specs lead to the same kind of parameters; what observes them does not matter.
fn same_parameters(a: &Spec, b: &Spec) -> bool {
    let key = |s: &QuantSpec| (s.range, s.scheme, s.dynamic);
    match (a, b) {
        (Spec::Observed(a), Spec::Observed(b)) => key(a) == key(b),
        (Spec::Fixed(a), Spec::Fixed(b)) => a == b,
        (Spec::Cast(a), Spec::Cast(b)) => a == b,
        (Spec::Codebook(a), Spec::Codebook(b)) => a == b,
        (Spec::Derived { range: r, scheme: s, .. }, Spec::Derived { range: t, scheme: u, .. }) => {
            r == t && s == u
        }
        _ => false,
    }
}

struct Forest {
    parent: Vec<usize>,
}

impl Forest {
    fn root(&self, mut i: usize) -> usize {
        while self.parent[i] != i {
            i = self.parent[i];
        }
        i
    }

    /// Hangs `child`'s tree under `parent`'s, or the other way round when the parent's root itself shares with the child.
    fn union(&mut self, parent: usize, child: usize, shares_with: impl Fn(usize) -> Option<usize>) {
        let (p, c) = (self.root(parent), self.root(child));
        if p == c {
            return;
        }
        match shares_with(p) {
            Some(t) if self.root(t) == c => self.parent[p] = c,
            _ => self.parent[c] = p,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;
    use crate::quant::{Mapping, ObserverKind, QRange};

    fn program() -> Program {
        let text = "program {
  %x : f32[4] = input
  %a : f32[4] = aten.relu.default(%x)
  %b : f32[4] = aten.add.Tensor(%a, %a)
  %c : f32[4] = aten.relu.default(%b)
  return %c
}";
        text::parse(text).unwrap()
    }

    fn spec() -> Spec {
        QuantSpec::new(QRange::INT8, Mapping::Affine, ObserverKind::MinMax).into()
    }

    fn node(p: &Program, name: &str) -> NodeId {
        p.graph.nodes().find(|n| &*p.graph.node(*n).name == name).unwrap()
    }

    #[test]
    fn a_value_and_its_readers_share() {
        let p = program();
        let (a, b) = (node(&p, "a"), node(&p, "b"));
        let mut n = Annotations::default();
        n.set(Site::Output(p.graph.node(a).output()), spec());
        n.set(Site::input(b, 0), spec()).set(Site::input(b, 1), spec());
        let groups = Groups::form(&p, &n).unwrap();
        assert_eq!(groups.groups.len(), 1, "both operands of add(a, a) and a itself");
        n.forbid_implicit_sharing(b);
        assert_eq!(Groups::form(&p, &n).unwrap().groups.len(), 2, "a, and both operands of add(a, a)");
    }

    #[test]
    fn an_anchor_may_come_later() {
        let p = program();
        let (a, c) = (node(&p, "a"), node(&p, "c"));
        let anchor = Site::Output(p.graph.node(c).output());
        let mut n = Annotations::default();
        n.set(Site::Output(p.graph.node(a).output()), Spec::SharedWith(anchor));
        assert!(Groups::form(&p, &n).is_err(), "the anchor is not annotated yet");
        n.set(anchor, spec());
        let groups = Groups::form(&p, &n).unwrap();
        assert_eq!(groups.groups.len(), 1);
        assert!(matches!(groups.groups[0].spec, Spec::Observed(_)));
    }

    #[test]
    fn circles_are_refused() {
        let p = program();
        let (a, c) = (
            Site::Output(p.graph.node(node(&p, "a")).output()),
            Site::Output(p.graph.node(node(&p, "c")).output()),
        );
        let mut n = Annotations::default();
        n.set(a, Spec::SharedWith(c)).set(c, Spec::SharedWith(a));
        assert!(Groups::form(&p, &n).unwrap_err().to_string().contains("circle"));
    }
}
