//! Where the time of a session's runs goes.

use crate::plan::{IntegerStep, Run, Step};
use lowbit_core::ir::{Key, Program};
use std::collections::BTreeMap;
use std::time::Duration;

/// The time of one operator over all runs since [`CpuSession::measure`](crate::CpuSession::measure).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorTime {
    /// The node's name.
    pub node: String,
    /// What was computed: the operator's name, and how where that says more.
    pub what: String,
    /// Spent in the operator itself.
    pub time: Duration,
    /// Spent in the probe, looking at what it made.
    pub watching: Duration,
}

/// Times by operator and kind of step: one node may be several steps.
#[derive(Debug, Default)]
pub(crate) struct Profile(BTreeMap<(u32, String), OperatorTime>);

impl Profile {
    /// Adds one run of a step.
    pub fn add(&mut self, program: &Program, step: &Step, time: Duration, watching: Duration) {
        let node = program.graph.node(step.node);
        let name = node.op().short_name();
        let what = match &step.run {
            Run::Reorder => "change of memory format".to_string(),
            Run::QuantizeLast => format!("{name}, change of memory format"),
            Run::Nothing | Run::Kernel(_) | Run::ChannelsLast(_) => name.to_string(),
            Run::Bound(..) => format!("{name}, in place"),
            Run::Convolve(g, ..) if g.groups > 1 => format!("{name} of groups, prepacked"),
            Run::Integer(IntegerStep::Convolve(g, _)) if g.groups > 1 => {
                format!("{name} of groups, integers")
            }
            Run::Integer(IntegerStep::Table(_)) => format!("{name}, table"),
            Run::Integer(_) => format!("{name}, integers"),
            Run::Convolve(..) | Run::Multiply(..) => format!("{name}, prepacked"),
        };
        let entry = self.0.entry((step.node.index() as u32, what.clone())).or_insert_with(|| OperatorTime {
            node: node.name.to_string(),
            what,
            time: Duration::ZERO,
            watching: Duration::ZERO,
        });
        entry.time += time;
        entry.watching += watching;
    }

    /// In the order of nodes.
    pub fn times(&self) -> Vec<OperatorTime> {
        self.0.values().cloned().collect()
    }
}
