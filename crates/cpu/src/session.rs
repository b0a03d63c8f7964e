//! Sessions: a loaded program with its plans and the state of its buffers.

use crate::dense::conv::convolve;
use crate::dense::gemm::multiply;
use crate::dense::groups::{self, QuantizedRows};
use crate::dense::integer;
use crate::dense::strips::Quantized;
use crate::dense::{Epilogue, Watch};
use crate::kernel::{Kernel, KernelCall, KernelError, TensorMut, TensorRef};
use crate::math::clamp_nan;
use crate::memory::{Aligned, Rest, nothing, take_out};
use crate::parallel::Threads;
use crate::plan::{
    IntegerStep, Layer, Layout, Place, Plan, Run, Shared, Step, UNBOUNDED, constant_values, reorder,
};
use crate::profile::{OperatorTime, Profile};
use crate::scan::CpuScan;
use crate::simd::Isa;
use bytes::Bytes;
use lowbit_core::dtype::DType;
use lowbit_core::executor::{Executor, Probe, RunError, Session, Watched, Watchlist};
use lowbit_core::ir::{Key, MutationTarget, Program, ValueId};
use lowbit_core::passes::{FoldBatchNorm, Pass};
use lowbit_core::quant::observer::{Extremes, Scan};
use lowbit_core::symint::Bindings;
use lowbit_core::{Tensor, TensorView};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Runs programs on this machine's CPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CpuExecutor {
    isa: Isa,
    simulate: bool,
    threads: Threads,
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
            shared: Shared::default(),
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

/// A tensor over bytes that a view borrows, in the order that the program has its dimensions.
fn view<'a>(dtype: DType, dims: &[usize], layout: Layout, bytes: &'a [u8]) -> TensorView<'a> {
    macro_rules! view {
        ($variant:ident) => {{
            let mut v = ndarray::ArrayViewD::from_shape(ndarray::IxDyn(dims), bytemuck::cast_slice(bytes))
                .expect("a slot's bytes fit its shape");
            if layout == Layout::ChannelsLast {
                let rank = dims.len();
                let axes: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
                v = v.permuted_axes(axes);
            }
            TensorView::$variant(v)
        }};
    }
    match dtype {
        DType::F32 => view!(F32),
        DType::F16 => view!(F16),
        DType::BF16 => view!(BF16),
        DType::F64 => view!(F64),
        DType::I8 => view!(I8),
        DType::U8 => view!(U8),
        DType::I16 => view!(I16),
        DType::U16 => view!(U16),
        DType::I32 => view!(I32),
        DType::I64 => view!(I64),
        _ => view!(Bool),
    }
}

/// Everything a value's bytes may lie in.
#[derive(Copy, Clone)]
struct Memory<'a> {
    plan: &'a Plan,
    inputs: &'a [Tensor],
    state: &'a [Tensor],
    arena: &'a Rest<'a>,
}

impl<'a> Memory<'a> {
    fn bytes(&self, slot: usize) -> &'a [u8] {
        let root = &self.plan.slots[self.plan.root(slot)];
        match root.place {
            Place::Input(i) => self.inputs[i].bytes(),
            Place::Const(c) => self.state[c].bytes(),
            Place::Folded(i) => self.plan.folded[i].bytes(),
            Place::Arena(at) => self.arena.bytes(at..at + root.bytes()),
            Place::Alias(_) | Place::Nowhere => nothing(),
        }
    }

    fn f32(&self, slot: usize) -> &'a [f32] {
        bytemuck::cast_slice(self.bytes(slot))
    }

    /// For kernels: sizes in the order of memory, or as the program has them.
    fn tensor(&self, slot: usize, logical: bool) -> TensorRef<'a> {
        let s = &self.plan.slots[slot];
        TensorRef { dtype: s.dtype, shape: if logical { &s.shape } else { &s.dims }, bytes: self.bytes(slot) }
    }

    /// Shows a value to the probe.
    fn show(&self, v: ValueId, slot: usize, extremes: Option<Extremes>, probe: &mut Probe<'_>) {
        let s = &self.plan.slots[slot];
        probe(v, Watched { view: view(s.dtype, &s.dims, s.layout, self.bytes(slot)), extremes });
    }

    fn copy(&self, slot: usize) -> Tensor {
        let s = &self.plan.slots[slot];
        Tensor::from_bytes(s.dtype, &s.shape, Bytes::copy_from_slice(self.bytes(slot)))
            .expect("a slot's bytes fit its shape")
    }
}

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
            let plan =
                Plan::new(program, bindings, &self.watch, &self.constant, shared, self.isa, self.simulate)?;
            self.plans.insert(bindings.clone(), Arc::new(plan));
        }
        self.arena.grow(self.plans[bindings].arena);
        Ok(())
    }
}

/// Carries out one step; its outputs have been taken out of `memory`. The extremes of what it bounds by `clamp` go to `watch`, if the
/// step finds them on the way.
fn carry_out(
    threads: &Threads,
    step: &Step,
    program: &Program,
    memory: Memory<'_>,
    outs: &mut [&mut [u8]],
    isa: Isa,
    clamp: (f32, f32),
    watch: Option<&Watch>,
) -> Result<(), KernelError> {
    let plan = memory.plan;
    let residual = || step.inputs.get(1).map(|&r| memory.f32(r));
    let epilogue = || Epilogue { residual: residual(), clamp, watch };
    match &step.run {
        Run::Nothing => Ok(()),
        Run::Reorder => {
            let (from, to) = (&plan.slots[step.inputs[0]], &plan.slots[step.outputs[0]]);
            let last = to.layout == Layout::ChannelsLast;
            reorder(&from.shape, from.dtype.size(), memory.bytes(step.inputs[0]), outs[0], last);
            Ok(())
        }
        Run::Convolve(g, filter, _) => {
            let out = bytemuck::cast_slice_mut(outs[0]);
            convolve(isa, threads, g, filter, memory.f32(step.inputs[0]), out, epilogue());
            Ok(())
        }
        Run::Multiply(p, _) => {
            let (x, depth) = (memory.f32(step.inputs[0]), p.panels.depth);
            let out = bytemuck::cast_slice_mut::<u8, f32>(outs[0]);
            let rows = out.len().checked_div(p.panels.columns).unwrap_or(0);
            multiply(isa, threads, x, rows, depth, &p.panels, &p.bias, out, epilogue());
            Ok(())
        }
        Run::Bound(low, high) => {
            bound(threads, isa, (*low, *high), outs[0]);
            Ok(())
        }
        Run::Integer(integer) => {
            let input = |layer: &Layer| {
                let (signed, zero) = layer.input;
                Quantized { data: memory.bytes(step.inputs[0]), signed, zero }
            };
            match integer {
                IntegerStep::Convolve(g, layer) => {
                    let (filter, rescale) = (&layer.filter, &layer.rescale);
                    integer::convolve(isa, threads, g, filter, rescale, input(layer), outs[0]);
                }
                IntegerStep::Multiply(layer) => integer::multiply(
                    isa,
                    threads,
                    &layer.filter,
                    &layer.rescale,
                    input(layer),
                    layer.depth,
                    layer.columns,
                    outs[0],
                ),
                IntegerStep::Rows(layer) => {
                    let scales = memory.tensor(step.inputs[1], true).as_vec::<f32>();
                    let zeros = step.inputs.get(2).map(|&z| memory.tensor(z, true).as_vec::<i32>());
                    let x = QuantizedRows {
                        data: memory.bytes(step.inputs[0]),
                        signed: layer.signed,
                        scales: &scales,
                        zeros: zeros.as_deref().unwrap_or_default(),
                    };
                    let out = bytemuck::cast_slice_mut(outs[0]);
                    groups::multiply(isa, threads, &layer.weights, x, out);
                }
                IntegerStep::Add(add) => {
                    add.run(isa, memory.bytes(step.inputs[0]), memory.bytes(step.inputs[1]), outs[0]);
                }
                IntegerStep::Table(table) => {
                    let bytes = outs[0].iter_mut().zip(memory.bytes(step.inputs[0]));
                    bytes.for_each(|(o, &b)| *o = table[usize::from(b)]);
                }
            }
            Ok(())
        }
        Run::Kernel(kernel) | Run::ChannelsLast(kernel) => {
            let logical = matches!(step.run, Run::ChannelsLast(_));
            let operands: Vec<TensorRef<'_>> =
                step.inputs.iter().map(|&s| memory.tensor(s, logical)).collect();
            let shape = |s: &usize| {
                let slot = &plan.slots[*s];
                (slot.dtype, if logical { &slot.shape[..] } else { &slot.dims[..] })
            };
            let mut outs: Vec<TensorMut<'_>> = step
                .outputs
                .iter()
                .map(shape)
                .zip(outs)
                .map(|((dtype, shape), bytes)| TensorMut { dtype, shape, bytes })
                .collect();
            let op = program.graph.node(step.node).op();
            let call = KernelCall { op, args: &step.args, inputs: &operands, isa, threads };
            match &mut outs[..] {
                [out] if shares_elements(&call, out) => element_by_element(*kernel, &call, out),
                _ => kernel(&call, &mut outs),
            }
        }
    }
}

/// Bounds floats in place; NaN stays NaN.
fn bound(threads: &Threads, isa: Isa, (low, high): (f32, f32), out: &mut [u8]) {
    threads.for_each(
        bytemuck::cast_slice_mut::<u8, f32>(out).chunks_mut(PART),
        || (),
        |(), part| {
            isa.vectorize(
                #[inline(always)]
                || part.iter_mut().for_each(|x| *x = clamp_nan(*x, low, high)),
            );
        },
    );
}

/// Elements that are worth another thread.
const PART: usize = 32 * 1024;

/// Whether threads can share the elements of a result: each comes from those at its place alone, and there are many.
fn shares_elements(call: &KernelCall<'_>, out: &TensorMut<'_>) -> bool {
    let traits = &call.op.traits;
    let alike = call.inputs.iter().all(|x| x.shape == out.shape);
    traits.elementwise && !traits.random && alike && call.threads.count() > 1 && out.numel() >= 2 * PART
}

/// Calls a kernel for parts of the elements.
fn element_by_element(
    kernel: Kernel,
    call: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
) -> Result<(), KernelError> {
    let (dtype, size) = (out.dtype, out.dtype.size());
    let failed: Mutex<Option<KernelError>> = Mutex::new(None);
    call.threads.for_each(
        out.bytes.chunks_mut(PART * size).enumerate(),
        || (),
        |(), (i, bytes)| {
            let shape = [bytes.len() / size];
            let part = |x: &TensorRef<'_>| x.dtype.size() * i * PART..x.dtype.size() * (i * PART + shape[0]);
            let inputs: Vec<TensorRef<'_>> = call
                .inputs
                .iter()
                .map(|x| TensorRef { dtype: x.dtype, shape: &shape, bytes: &x.bytes[part(x)] })
                .collect();
            let call = KernelCall { inputs: &inputs, ..*call };
            if let Err(e) = kernel(&call, &mut [TensorMut { dtype, shape: &shape, bytes }]) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        },
    );
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
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
        let one = |threads| CpuSession {
            program: self.program.clone(),
            state: self.state.clone(),
            watch: self.watch.clone(),
            constant: self.constant.clone(),
            isa: self.isa,
            simulate: self.simulate,
            threads,
            plans: self.plans.clone(),
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
        let state = &self.state[..];
        let now = |on: bool| on.then(Instant::now);
        let whole = Rest::all(self.arena.bytes());
        let memory = Memory { plan, inputs, state, arena: &whole };
        plan.watched_first.iter().for_each(|&(v, slot)| memory.show(v, slot, None, probe));
        for step in &plan.steps {
            let part = |&s: &usize| match plan.slots[s].place {
                Place::Arena(at) => Some(at..at + plan.slots[s].bytes()),
                _ => None,
            };
            let parts: Vec<_> = step.outputs.iter().filter_map(part).collect();
            let (program, threads, isa) = (&self.program, &self.threads, self.isa);
            // Outputs are taken out, so that inputs can be borrowed beside them; a step never reads what it writes.
            let run = |arena: &mut Aligned, clamp: (f32, f32), watch: Option<&Watch>| {
                let (mut outs, rest) = take_out(arena.bytes_mut(), &parts);
                let memory = Memory { plan, inputs, state, arena: &rest };
                carry_out(threads, step, program, memory, &mut outs, isa, clamp, watch)
                    .map_err(|e| RunError::node(program, step.node, e.0))
            };
            let clamp = step.clamp();
            let begin = now(self.profile.is_some());
            let watch = (!step.watched.is_empty() || step.unbounded.is_some()).then(Watch::default);
            run(&mut self.arena, clamp, watch.as_ref())?;
            let done = now(begin.is_some());
            let found = watch.and_then(Watch::found);
            if let (Some(v), &[out]) = (step.unbounded, &step.outputs[..]) {
                if found.is_some() {
                    let view = view(DType::F32, &[0], Layout::Contiguous, nothing());
                    probe(v, Watched { view, extremes: found });
                } else {
                    // What is not finite has to be counted, and what has one sign looked at, before it is bounded.
                    run(&mut self.arena, UNBOUNDED, None)?;
                    let whole = Rest::all(self.arena.bytes());
                    Memory { plan, inputs, state, arena: &whole }.show(v, out, None, probe);
                    let (outs, _) = take_out(self.arena.bytes_mut(), &parts);
                    outs.into_iter().for_each(|out| bound(threads, isa, clamp, out));
                }
            }
            let whole = Rest::all(self.arena.bytes());
            let memory = Memory { plan, inputs, state, arena: &whole };
            let known = found.and_then(|found| found.bounded(clamp.0, clamp.1));
            for &(v, slot) in &step.watched {
                let same = step.outputs.first().is_some_and(|&out| plan.same(slot, out));
                memory.show(v, slot, known.filter(|_| same), probe);
            }
            if let (Some(profile), Some(begin), Some(done)) = (&mut self.profile, begin, done) {
                profile.add(&self.program, step, done - begin, done.elapsed());
            }
        }
        let whole = Rest::all(self.arena.bytes());
        let memory = Memory { plan, inputs, state, arena: &whole };
        let mut results: Vec<Tensor> = plan.results.iter().map(|&s| memory.copy(s)).collect();
        let updates = results.split_off(self.program.user_outputs().len());
        for ((target, _), tensor) in self.program.mutations().zip(updates) {
            if let MutationTarget::Buffer(c) = target {
                self.state[c.index()] = tensor;
            }
        }
        Ok(results)
    }
}
