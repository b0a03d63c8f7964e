//! Which nodes go to a delegate together.

use super::reason;
use crate::backend::Claim;
use crate::ir::{Key, NodeId, Program};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The regions of a program.
#[derive(Debug)]
pub struct Regions {
    /// For each node: its region, numbered in the order they run.
    pub region_of: Vec<Option<usize>>,
    /// For each node: why it is in none.
    pub why: Vec<Cow<'static, str>>,
    /// Nodes outside and regions in an order that can run, near the program's own.
    pub schedule: Vec<Step>,
}

/// One step of the outer program.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A node that stays outside.
    Node(NodeId),
    /// A region.
    Region(usize),
}

/// Nodes that cannot be parted: a node that stays outside, or one that is taken with those it takes along.
struct Group {
    members: Vec<NodeId>,
    taken: bool,
    /// Groups it reads from and is read by, each once.
    before: Vec<usize>,
    after: Vec<usize>,
}

/// Finds the regions. Claims that would make a delegate wait for itself are withdrawn.
pub fn find(program: &Program, claims: &mut [Option<Claim>]) -> Regions {
    loop {
        let groups = groups(program, claims);
        let order = topological(&groups);
        if order.len() == groups.len() {
            return stages(program, claims, &groups, &order);
        }
        // The groups left over lie on cycles or behind them. The program itself has no cycle: parting the groups on
        // cycles breaks every one.
        let mut sorted = vec![false; groups.len()];
        order.iter().for_each(|&i| sorted[i] = true);
        for (i, g) in groups.iter().enumerate() {
            if !sorted[i] && g.members.len() > 1 && on_cycle(&groups, i, &sorted) {
                for &n in &g.members {
                    if matches!(&claims[n.index()], Some(Claim::Take(with)) if with.iter().any(|&m| m != n)) {
                        let why = "what it would take along depends on it through a node outside";
                        claims[n.index()] = Some(Claim::Leave(why.into()));
                    }
                }
            }
        }
    }
}

/// Whether group `start` reaches itself through unsorted groups.
fn on_cycle(groups: &[Group], start: usize, sorted: &[bool]) -> bool {
    let mut seen = vec![false; groups.len()];
    let mut stack = groups[start].after.clone();
    while let Some(i) = stack.pop() {
        if i == start {
            return true;
        }
        if !seen[i] && !sorted[i] {
            seen[i] = true;
            stack.extend(&groups[i].after);
        }
    }
    false
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

fn groups(program: &Program, claims: &[Option<Claim>]) -> Vec<Group> {
    let g = &program.graph;
    let (node_count, _) = g.table_sizes();
    let mut parent: Vec<usize> = (0..node_count).collect();
    let mut taken = vec![false; node_count];
    for n in g.nodes() {
        let Some(Claim::Take(with)) = &claims[n.index()] else { continue };
        taken[n.index()] = true;
        for m in with {
            taken[m.index()] = true;
            let (a, b) = (root(&mut parent, n.index()), root(&mut parent, m.index()));
            parent[a.max(b)] = a.min(b);
        }
    }
    // Numbered by the place of their first member, so that nothing depends on ids.
    let mut group_of = vec![usize::MAX; node_count];
    let mut groups: Vec<Group> = Vec::new();
    for n in g.nodes() {
        let r = root(&mut parent, n.index());
        if group_of[r] == usize::MAX {
            group_of[r] = groups.len();
            let taken = taken[n.index()];
            groups.push(Group { members: vec![], taken, before: vec![], after: vec![] });
        }
        let i = group_of[r];
        group_of[n.index()] = i;
        groups[i].members.push(n);
    }
    for n in g.nodes() {
        let i = group_of[n.index()];
        for p in g.node(n).operands().filter_map(|v| g.producer(v)) {
            let j = group_of[p.index()];
            if i != j {
                groups[i].before.push(j);
            }
        }
    }
    for i in 0..groups.len() {
        groups[i].before.sort_unstable();
        groups[i].before.dedup();
        for k in 0..groups[i].before.len() {
            let j = groups[i].before[k];
            groups[j].after.push(i);
        }
    }
    groups
}

/// Groups in an order that can run; those on cycles and behind them are missing.
fn topological(groups: &[Group]) -> Vec<usize> {
    let mut waits: Vec<usize> = groups.iter().map(|g| g.before.len()).collect();
    let mut ready: Vec<usize> = (0..groups.len()).rev().filter(|&i| waits[i] == 0).collect();
    let mut order = Vec::with_capacity(groups.len());
    while let Some(i) = ready.pop() {
        order.push(i);
        for &j in groups[i].after.iter().rev() {
            waits[j] -= 1;
            if waits[j] == 0 {
                ready.push(j);
            }
        }
    }
    order
}

/// Numbers groups by stage: a taken group runs in the delegate of its stage, a node outside after as many delegates.
fn stages(program: &Program, claims: &[Option<Claim>], groups: &[Group], order: &[usize]) -> Regions {
    let mut stage = vec![0usize; groups.len()];
    for &i in order {
        stage[i] = groups[i].before.iter().map(|&j| after(groups, &stage, j, i)).max().unwrap_or(0);
    }
    for &i in order.iter().rev() {
        postpone(program, groups, &mut stage, i);
    }
    number(program, claims, groups, &stage)
}

/// The least stage of `i` as far as its input `j` is concerned.
fn after(groups: &[Group], stage: &[usize], j: usize, i: usize) -> usize {
    stage[j] + usize::from(groups[j].taken && !groups[i].taken)
}

/// Moves a taken group to the stage of its first reader, when fewer bytes cross the border that way: a dequantize, say.
fn postpone(program: &Program, groups: &[Group], stage: &mut [usize], i: usize) {
    let g = &program.graph;
    let group = &groups[i];
    if !group.taken || group.members.iter().any(|&n| g.node(n).outputs().iter().any(|&v| g.is_output(v))) {
        return;
    }
    let latest = group.after.iter().map(|&j| stage[j] - usize::from(!groups[j].taken)).min();
    let Some(latest) = latest.filter(|&l| l > stage[i]) else { return };
    let inside = |n: NodeId| group.members.contains(&n);
    let mut saved = 0i64;
    let mut spent = 0i64;
    for &n in &group.members {
        for &v in g.node(n).outputs() {
            if g.users(v).iter().any(|&u| !inside(u)) {
                saved += bytes(program, v);
            }
        }
        for v in g.node(n).operands() {
            // Made by a delegate that ends before; whatever is made outside has to be passed in either way.
            if g.producer(v).is_some_and(|p| !inside(p)) {
                spent += bytes(program, v);
            }
        }
    }
    if saved > spent {
        stage[i] = latest;
    }
}

/// Bytes of a value, symbols at their greatest (or least, where that is unbounded).
fn bytes(program: &Program, v: crate::ir::ValueId) -> i64 {
    let ty = program.graph.ty(v);
    let size = |d: &crate::SymInt| {
        let (lo, hi) = d.bounds(&|s| program.range(s));
        if hi < 1 << 31 { hi } else { lo.max(1) }
    };
    ty.shape.iter().map(size).fold(ty.dtype.size() as i64, i64::saturating_mul)
}

fn number(program: &Program, claims: &[Option<Claim>], groups: &[Group], stage: &[usize]) -> Regions {
    let (node_count, _) = program.graph.table_sizes();
    let place = program.graph.positions();
    // Stages that no group is in have no number.
    let mut used: Vec<usize> = (0..groups.len()).filter(|&i| groups[i].taken).map(|i| stage[i]).collect();
    used.sort_unstable();
    used.dedup();
    let region = |i: usize| {
        groups[i].taken.then(|| used.binary_search(&stage[i]).expect("every stage in use is listed"))
    };
    let mut region_of = vec![None; node_count];
    let mut why = vec![Cow::Borrowed(""); node_count];
    for (i, g) in groups.iter().enumerate() {
        for &n in &g.members {
            region_of[n.index()] = region(i);
            why[n.index()] = reason(&claims[n.index()]);
        }
    }
    // Steps: regions first, then nodes outside. Each runs as soon as it can, the one that ended first in the program
    // before the others.
    let outside: Vec<NodeId> = program.graph.nodes().filter(|n| region_of[n.index()].is_none()).collect();
    let count = used.len();
    let mut step_of = vec![usize::MAX; node_count];
    let mut rank = vec![0; count + outside.len()];
    for n in program.graph.nodes() {
        if let Some(r) = region_of[n.index()] {
            step_of[n.index()] = r;
            rank[r] = place[n.index()];
        }
    }
    for (k, n) in outside.iter().enumerate() {
        step_of[n.index()] = count + k;
        rank[count + k] = place[n.index()];
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for n in program.graph.nodes() {
        let to = step_of[n.index()];
        for p in program.graph.node(n).operands().filter_map(|v| program.graph.producer(v)) {
            let from = step_of[p.index()];
            if from != to {
                edges.push((from, to));
            }
        }
    }
    edges.sort_unstable();
    edges.dedup();
    let mut waits = vec![0usize; rank.len()];
    edges.iter().for_each(|&(_, to)| waits[to] += 1);
    let mut ready: BinaryHeap<Reverse<(usize, usize)>> =
        (0..rank.len()).filter(|&s| waits[s] == 0).map(|s| Reverse((rank[s], s))).collect();
    let mut schedule = Vec::with_capacity(rank.len());
    while let Some(Reverse((_, s))) = ready.pop() {
        schedule.push(if s < count { Step::Region(s) } else { Step::Node(outside[s - count]) });
        let start = edges.partition_point(|&(from, _)| from < s);
        for &(_, to) in edges[start..].iter().take_while(|&&(from, _)| from == s) {
            waits[to] -= 1;
            if waits[to] == 0 {
                ready.push(Reverse((rank[to], to)));
            }
        }
    }
    Regions { region_of, why, schedule }
}
