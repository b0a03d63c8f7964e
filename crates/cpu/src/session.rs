//! Sessions: a loaded program with its plans and the state of its buffers.

use crate::memory::Aligned;
use crate::parallel::Threads;
use crate::plan::{Packs, Plan, Shared, constant_values};
use crate::profile::{OperatorTime, Profile};
use crate::scan::CpuScan;
use crate::simd::Isa;
use crate::steps::Running;
use lowbit_core::Tensor;
use lowbit_core::executor::{Executor, Probe, RunError, Session, Watchlist};
use lowbit_core::ir::{Key, MutationTarget, Program, ValueId};
use lowbit_core::passes::{FoldBatchNorm, Pass};
use lowbit_core::quant::observer::Scan;
use lowbit_core::symint::Bindings;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs programs on this machine's CPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CpuExecutor {
    isa: Isa,
    simulate: bool,
    threads: Threads,
    /// What the sessions have in common.
    packs: Packs,
}

impl CpuExecutor {
    /// Runs with this instruction set rather than the best one. Results are the same bits.
    pub fn with_isa(isa: Isa) -> Self {
        CpuExecutor { isa, ..Self::default() }
    }

    /// Computes what is between dequantize and quantize nodes in floating point, as PyTorch runs such programs, rather than
    /// on the integers. Each operator's result is the same within one step of its quantize node.
    #[must_use]
    pub fn simulated(self) -> Self {
        CpuExecutor { simulate: true, ..self }
    }

    /// Uses `count` threads in all, the caller's included. Results are the same bits.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn threads(self, count: usize) -> Result<Self, RunError> {
        let threads = Threads::new(count).map_err(RunError::Unsupported)?;
        Ok(CpuExecutor { threads, ..self })
    }

    /// As [`load_watching`](Executor::load_watching), with what a session of this executor offers besides.
    ///
    /// # Errors
    /// When the program holds an operator without a kernel.
    pub fn open(&self, program: &Program, watch: &Watchlist) -> Result<CpuSession, RunError> {
        for n in program.graph.nodes() {
            let op = program.graph.node(n).op();
            if crate::kernel::kernel(op).is_none() {
                return Err(RunError::node(program, n, format!("{} has no kernel", op.name)));
            }
        }
        // Batch norms become part of the weights, unless somebody wants to see what is in front of them.
        let mut program = program.clone();
        if watch.is_empty() {
            FoldBatchNorm.run(&mut program).map_err(|e| RunError::Unsupported(e.0))?;
        }
        Ok(CpuSession {
            state: program.constants.iter().map(|(_, c)| c.tensor.clone()).collect(),
            watch: watch.clone(),
            constant: constant_values(&program),
            shared: Shared::new(&self.packs),
            isa: self.isa,
            simulate: self.simulate,
            threads: self.threads.clone(),
            program,
            plans: BTreeMap::new(),
            arena: Aligned::default(),
            profile: None,
        })
    }
}

impl Executor for CpuExecutor {
    fn load(&self, program: &Program, watch: &[ValueId]) -> Result<Box<dyn Session>, RunError> {
        self.load_watching(program, &Watchlist::elements(watch))
    }

    fn load_watching(&self, program: &Program, watch: &Watchlist) -> Result<Box<dyn Session>, RunError> {
        Ok(Box::new(self.open(program, watch)?))
    }
}

/// A loaded program.
#[derive(Debug)]
pub struct CpuSession {
    program: Program,
    /// Constants by id; mutated buffers change from run to run.
    state: Vec<Tensor>,
    watch: Watchlist,
    /// By value: whether it is the same in every run.
    constant: Vec<bool>,
    isa: Isa,
    simulate: bool,
    threads: Threads,
    plans: BTreeMap<Bindings, Arc<Plan>>,
    /// What the plans have in common.
    shared: Shared,
    /// What the plans compute in, one at a time.
    arena: Aligned,
    /// Where time goes, when that is asked for.
    profile: Option<Profile>,
}

/// Bytes that the arenas of sessions side by side may take together.
const ARENAS: usize = 1 << 30;

impl CpuSession {
    /// Starts to measure how long each operator takes, from zero.
    pub fn measure(&mut self) {
        self.profile = Some(Profile::default());
    }

    /// What was measured so far, in the order of the program; nothing unless [`measure`](Self::measure) was called.
    pub fn times(&self) -> Vec<OperatorTime> {
        self.profile.as_ref().map_or(vec![], Profile::times)
    }

    /// Bytes that hold values between operators, for all input shapes seen so far.
    pub fn buffer_bytes(&self) -> usize {
        self.arena.bytes().len()
    }

    /// Plans for these symbols, unless there is a plan, and makes room for what it needs.
    fn prepare(&mut self, bindings: &Bindings) -> Result<(), RunError> {
        if !self.plans.contains_key(bindings) {
            let (program, shared) = (&self.program, &mut self.shared);
            let (watch, constant, alone) = (&self.watch, &self.constant, self.threads.count() == 1);
            let plan = Plan::new(program, bindings, watch, constant, shared, self.isa, self.simulate, alone)?;
            self.plans.insert(bindings.clone(), Arc::new(plan));
        }
        self.arena.grow(self.plans[bindings].arena);
        Ok(())
    }
}

impl Session for CpuSession {
    fn scan(&self) -> Arc<dyn Scan> {
        Arc::new(CpuScan { isa: self.isa, threads: self.threads.clone() })
    }

    fn apart(&self, most: usize) -> Vec<Box<dyn Session>> {
        let room = ARENAS / self.arena.bytes().len().max(1);
        let count = self.threads.count().min(most).min(room);
        if count < 2 || self.program.mutations().next().is_some() {
            return vec![];
        }
        let one = |threads: Threads| CpuSession {
            program: self.program.clone(),
            state: self.state.clone(),
            watch: self.watch.clone(),
            constant: self.constant.clone(),
            isa: self.isa,
            simulate: self.simulate,
            // Steps that no threads share are planned otherwise.
            plans: if threads.count() > 1 { self.plans.clone() } else { BTreeMap::new() },
            threads,
            shared: self.shared.clone(),
            arena: Aligned::default(),
            profile: None,
        };
        let threads: Result<Vec<Threads>, String> =
            (0..count).map(|_| Threads::new(self.threads.count() / count)).collect();
        let threads = threads.unwrap_or_default().into_iter();
        threads.map(|threads| Box::new(one(threads)) as Box<dyn Session>).collect()
    }

    fn run(&mut self, inputs: &[Tensor], probe: &mut Probe<'_>) -> Result<Vec<Tensor>, RunError> {
        let threads = self.threads.clone();
        threads.awake(|| self.run_awake(inputs, probe))
    }
}

impl CpuSession {
    fn run_awake(&mut self, inputs: &[Tensor], probe: &mut Probe<'_>) -> Result<Vec<Tensor>, RunError> {
        let bindings = self.program.bind(inputs)?;
        self.prepare(&bindings)?;
        let plan = &self.plans[&bindings];
        let running = Running {
            program: &self.program,
            plan,
            inputs,
            state: &self.state,
            isa: self.isa,
            threads: &self.threads,
        };
        running.show_first(&self.arena, probe);
        for group in &plan.groups {
            running.group(group, &mut self.arena, probe, &mut self.profile)?;
        }
        let mut results = running.results(&self.arena);
        let updates = results.split_off(self.program.user_outputs().len());
        for ((target, _), tensor) in self.program.mutations().zip(updates) {
            if let MutationTarget::Buffer(c) = target {
                self.state[c.index()] = tensor;
            }
        }
        Ok(results)
    }
}
