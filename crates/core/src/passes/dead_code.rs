//! [`DeadCode`]: removes nodes that nobody reads.

use super::{Pass, PassFailure};
use crate::ir::{Key, NodeId, Program};

/// Removes nodes whose results nobody reads, and those that only such nodes read.
#[derive(Copy, Clone, Debug, Default)]
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(&self, program: &mut Program) -> Result<bool, PassFailure> {
        let g = &program.graph;
        let (nodes, values) = g.table_sizes();
        let mut read = vec![false; values];
        let mut live = vec![false; nodes];
        g.outputs().iter().for_each(|v| read[v.index()] = true);
        for n in g.nodes().rev() {
            if g.node(n).outputs().iter().any(|v| read[v.index()]) {
                live[n.index()] = true;
                g.node(n).operands().for_each(|v| read[v.index()] = true);
            }
        }
        let dead: Vec<NodeId> = g.nodes().filter(|n| !live[n.index()]).collect();
        program.graph.erase_all(&dead);
        Ok(!dead.is_empty())
    }
}
