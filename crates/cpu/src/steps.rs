//! Steps of a plan, carried out in its arena.

use crate::dense::conv::{Image, convolve, convolve_rows};
use crate::dense::gemm::multiply;
use crate::dense::groups::{self, QuantizedRows};
use crate::dense::integer;
use crate::dense::strips::Quantized;
use crate::dense::{Epilogue, Watch};
use crate::kernel::{Kernel, KernelCall, KernelError, TensorMut, TensorRef};
use crate::kernels::format::{quantize_channels_last, reorder};
use crate::math::clamp_nan;
use crate::memory::{Aligned, Rest, nothing, take_out};
use crate::parallel::Threads;
use crate::plan::{Group, IntegerStep, Layer, Layout, Place, Plan, Run, Step, Turn};
use crate::profile::Profile;
use crate::simd::{Isa, Stages, UNBOUNDED};
use bytes::Bytes;
use lowbit_core::dtype::DType;
use lowbit_core::executor::{Probe, RunError, Watched};
use lowbit_core::ir::{Program, ValueId};
use lowbit_core::quant::observer::Extremes;
use lowbit_core::{Tensor, TensorView};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A run of a plan.
#[derive(Copy, Clone)]
pub(crate) struct Running<'a> {
    pub program: &'a Program,
    pub plan: &'a Plan,
    pub inputs: &'a [Tensor],
    /// Constants by id.
    pub state: &'a [Tensor],
    pub isa: Isa,
    pub threads: &'a Threads,
}

impl Running<'_> {
    /// Shows watched inputs and constants.
    pub fn show_first(&self, arena: &Aligned, probe: &mut Probe<'_>) {
        let arena = Rest::all(arena.bytes());
        self.plan.watched_first.iter().for_each(|&(v, slot)| self.memory(&arena).show(v, slot, None, probe));
    }

    /// Carries out the steps of a group, and shows what is watched of them.
    pub fn group(
        &self,
        group: &Group,
        arena: &mut Aligned,
        probe: &mut Probe<'_>,
        profile: &mut Option<Profile>,
    ) -> Result<(), RunError> {
        let steps = &self.plan.steps[group.steps.clone()];
        let measured = profile.is_some();
        let now = || measured.then(Instant::now);
        let since = |begin: Option<Instant>| begin.map_or(Duration::ZERO, |begin| begin.elapsed());
        let mut doing: Vec<Doing<'_>> = steps.iter().map(Doing::new).collect();
        for turn in &group.turns {
            let (doing, begin) = (&mut doing[turn.step], now());
            self.carry_out(doing.step, Some(turn), doing.whole(), arena)?;
            doing.time += since(begin);
        }
        // Extremes that were not found by turns are looked for in whole results.
        let by_turns = !group.turns.is_empty() && doing.iter_mut().all(Doing::finds);
        for (at, doing) in doing.iter_mut().enumerate() {
            if !by_turns {
                let begin = now();
                *doing = Doing { time: doing.time, ..Doing::new(doing.step) };
                self.carry_out(doing.step, None, doing.whole(), arena)?;
                doing.finds();
                doing.time += since(begin);
            }
            let begin = now();
            self.show(doing, !by_turns || at + 1 == steps.len(), arena, probe)?;
            if let Some(profile) = profile {
                profile.add(self.program, doing.step, doing.time, since(begin));
            }
        }
        Ok(())
    }

    /// A copy of each result.
    pub fn results(&self, arena: &Aligned) -> Vec<Tensor> {
        let arena = Rest::all(arena.bytes());
        self.plan.results.iter().map(|&s| self.memory(&arena).copy(s)).collect()
    }

    fn memory<'b>(&'b self, arena: &'b Rest<'b>) -> Memory<'b> {
        Memory { plan: self.plan, inputs: self.inputs, state: self.state, arena }
    }

    /// Where a step's outputs lie in the arena, or the rows of a turn.
    fn outputs(&self, step: &Step, turn: Option<&Turn>) -> Vec<Range<usize>> {
        let part = |&s: &usize| match (self.plan.slots[s].place, turn) {
            (Place::Arena(at), Some(Turn { to, .. })) => {
                Some(at + size_of::<f32>() * to.start..at + size_of::<f32>() * to.end)
            }
            (Place::Arena(at), None) => Some(at..at + self.plan.slots[s].bytes()),
            _ => None,
        };
        step.outputs.iter().filter_map(part).collect()
    }

    fn carry_out(
        &self,
        step: &Step,
        turn: Option<&Turn>,
        ending: Ending<'_>,
        arena: &mut Aligned,
    ) -> Result<(), RunError> {
        // Outputs are taken out, so that inputs can be borrowed beside them; a step never reads what it writes.
        let (mut outs, rest) = take_out(arena.bytes_mut(), &self.outputs(step, turn));
        let memory = self.memory(&rest);
        let done = carry_out(self.threads, step, turn, self.program, memory, &mut outs, self.isa, ending);
        done.map_err(|e| RunError::node(self.program, step.node, e.0))
    }

    /// Shows what is watched of a step that was carried out; of a result that is not `whole` nothing but the extremes that were found.
    fn show(
        &self,
        doing: &Doing<'_>,
        whole: bool,
        arena: &mut Aligned,
        probe: &mut Probe<'_>,
    ) -> Result<(), RunError> {
        self.show_passed(doing, arena, probe)?;
        let arena = Rest::all(arena.bytes());
        let memory = self.memory(&arena);
        for &(v, slot) in &doing.step.watched {
            let same = doing.step.outputs.first().is_some_and(|&out| self.plan.same(slot, out));
            match (doing.bounded(), whole) {
                (Some(known), false) => probe(v, only(known)),
                (known, _) => memory.show(v, slot, known.filter(|_| same), probe),
            }
        }
        Ok(())
    }

    /// Shows what the step passed on the way.
    fn show_passed(
        &self,
        doing: &Doing<'_>,
        arena: &mut Aligned,
        probe: &mut Probe<'_>,
    ) -> Result<(), RunError> {
        let (step, missing) = (doing.step, doing.missing());
        let passed = &step.passed;
        for (values, found) in [(&passed.sums, doing.found.sums), (&passed.results, doing.found.results)] {
            if let Some(found) = found {
                values.iter().for_each(|&v| probe(v, only(found)));
            }
        }
        let &[out] = &step.outputs[..] else { return Ok(()) };
        if missing == Stages::default() {
            return Ok(());
        }
        // What is not finite has to be counted, and what has one sign looked at, before something is added to it, or it is bounded.
        let mut again = |added: bool, values: &[ValueId]| {
            self.carry_out(step, None, Ending { added, clamp: UNBOUNDED, watch: None }, arena)?;
            let arena = Rest::all(arena.bytes());
            values.iter().for_each(|&v| self.memory(&arena).show(v, out, None, probe));
            Ok::<(), RunError>(())
        };
        if missing.sums {
            again(false, &passed.sums)?;
        }
        again(true, if missing.results { &passed.results } else { &[] })?;
        let (outs, _) = take_out(arena.bytes_mut(), &self.outputs(step, None));
        outs.into_iter().for_each(|out| bound(self.threads, self.isa, step.clamp(), out));
        Ok(())
    }
}

/// Extremes without elements.
fn only<'a>(extremes: Extremes) -> Watched<'a> {
    Watched { view: view(DType::F32, &[0], Layout::Contiguous, nothing()), extremes: Some(extremes) }
}

/// A step that is being carried out.
struct Doing<'a> {
    step: &'a Step,
    /// Where extremes go.
    watch: Option<Watch>,
    /// What they are.
    found: Stages<Option<Extremes>>,
    /// Spent so far.
    time: Duration,
}

impl<'a> Doing<'a> {
    fn new(step: &'a Step) -> Self {
        let watched = !step.watched.is_empty() || step.passed != Stages::default();
        let watch = watched.then(Watch::default);
        Doing { step, watch, found: Stages::default(), time: Duration::ZERO }
    }

    /// All of the step.
    fn whole(&self) -> Ending<'_> {
        Ending { added: true, clamp: self.step.clamp(), watch: self.watch.as_ref() }
    }

    /// Whether all that is watched was found on the way, once the step is done.
    fn finds(&mut self) -> bool {
        let Some(watch) = self.watch.take() else { return true };
        self.found = watch.extremes();
        self.missing() == Stages::default() && self.bounded().is_some()
    }

    /// What is watched on the way, but its extremes were not found.
    fn missing(&self) -> Stages<bool> {
        let Stages { sums, results } = &self.step.passed;
        Stages {
            sums: !sums.is_empty() && self.found.sums.is_none(),
            results: !results.is_empty() && self.found.results.is_none(),
        }
    }

    /// The extremes of the result.
    fn bounded(&self) -> Option<Extremes> {
        let (low, high) = self.step.clamp();
        self.found.results.and_then(|found| found.bounded(low, high))
    }
}

/// What becomes of a step's sums.
#[derive(Copy, Clone)]
struct Ending<'a> {
    /// Whether the residual is added.
    added: bool,
    /// Bounds.
    clamp: (f32, f32),
    /// Where extremes go, if the step finds them on the way.
    watch: Option<&'a Watch>,
}

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
        let (root, start) = self.plan.origin(slot);
        let part = start..start + self.plan.slots[slot].bytes();
        match self.plan.slots[root].place {
            Place::Input(i) => &self.inputs[i].bytes()[part],
            Place::Const(c) => &self.state[c].bytes()[part],
            Place::Folded(i) => &self.plan.folded[i].bytes()[part],
            Place::Arena(at) => self.arena.bytes(at + part.start..at + part.end),
            Place::Alias(..) | Place::Nowhere => nothing(),
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

/// Carries out one step, or its turn; what it writes has been taken out of `memory`.
fn carry_out(
    threads: &Threads,
    step: &Step,
    turn: Option<&Turn>,
    program: &Program,
    memory: Memory<'_>,
    outs: &mut [&mut [u8]],
    isa: Isa,
    ending: Ending<'_>,
) -> Result<(), KernelError> {
    let plan = memory.plan;
    let Ending { added, clamp, watch } = ending;
    let residual = || step.inputs.get(1).filter(|_| added).map(|&r| memory.f32(r));
    let epilogue = || Epilogue { residual: residual(), clamp, watch };
    match &step.run {
        Run::Nothing => Ok(()),
        Run::Reorder => {
            let (from, to) = (&plan.slots[step.inputs[0]], &plan.slots[step.outputs[0]]);
            let last = to.layout == Layout::ChannelsLast;
            reorder(isa, &from.shape, from.dtype.size(), memory.bytes(step.inputs[0]), outs[0], last);
            Ok(())
        }
        Run::QuantizeLast => {
            let (op, inputs) = (program.graph.node(step.node).op(), [memory.tensor(step.inputs[0], true)]);
            quantize_channels_last(
                &KernelCall { op, args: &step.args, inputs: &inputs, isa, threads },
                outs[0],
            )
        }
        Run::Convolve(g, filter, _) => {
            let (slot, out) = (step.inputs[0], bytemuck::cast_slice_mut(outs[0]));
            let planes = plan.slots[slot].layout == Layout::Contiguous;
            let x = Image { elements: memory.f32(slot), planes };
            let Some(turn) = turn else {
                convolve(isa, threads, g, filter, x, out, epilogue());
                return Ok(());
            };
            let residual = residual().map(|r| &r[turn.elements.clone()]);
            let x = Image { elements: &x.elements[turn.from.clone()], ..x };
            let epilogue = Epilogue { residual, ..epilogue() };
            convolve_rows(isa, threads, g, filter, x, turn.rows.start, out, epilogue);
            Ok(())
        }
        Run::Multiply(p, _) => {
            let (x, panels) = (memory.f32(step.inputs[0]), &p.packed.panels);
            let out = bytemuck::cast_slice_mut::<u8, f32>(outs[0]);
            let rows = out.len().checked_div(panels.columns).unwrap_or(0);
            multiply(isa, threads, x, rows, panels.depth, panels, &p.bias, out, epilogue());
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
                    let [x, y] = [0, 1].map(|i| memory.bytes(step.inputs[i]));
                    in_parts(threads, outs[0], 1, |part, out| add.run(isa, &x[part.clone()], &y[part], out));
                }
                IntegerStep::Mean(mean) => mean.run(isa, threads, memory.bytes(step.inputs[0]), outs[0]),
                IntegerStep::Table(table) => {
                    let x = memory.bytes(step.inputs[0]);
                    in_parts(threads, outs[0], 1, |part, out| {
                        out.iter_mut().zip(&x[part]).for_each(|(o, &b)| *o = table[usize::from(b)]);
                    });
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
    in_parts(threads, out, size_of::<f32>(), |_, part| {
        isa.vectorize(
            #[inline(always)]
            || {
                bytemuck::cast_slice_mut::<u8, f32>(part)
                    .iter_mut()
                    .for_each(|x| *x = clamp_nan(*x, low, high))
            },
        );
    });
}

/// Calls `f` for parts of a result whose elements, of `size` bytes, come from those at the same places alone, with where they are.
fn in_parts(threads: &Threads, out: &mut [u8], size: usize, f: impl Fn(Range<usize>, &mut [u8]) + Sync) {
    let part = threads.together(out.len() / size, 1);
    threads.for_each(
        out.chunks_mut(part * size).enumerate(),
        || (),
        |(), (i, out)| f(i * part..i * part + out.len() / size, out),
    );
}

/// Whether threads can share the elements of a result.
fn shares_elements(call: &KernelCall<'_>, out: &TensorMut<'_>) -> bool {
    let traits = &call.op.traits;
    let alike = call.inputs.iter().all(|x| x.shape == out.shape);
    traits.elementwise && !traits.random && alike && call.threads.count() > 1
}

/// Calls a kernel for parts of the elements.
fn element_by_element(
    kernel: Kernel,
    call: &KernelCall<'_>,
    out: &mut TensorMut<'_>,
) -> Result<(), KernelError> {
    let dtype = out.dtype;
    let failed: Mutex<Option<KernelError>> = Mutex::new(None);
    in_parts(call.threads, out.bytes, dtype.size(), |part, bytes| {
        let shape = [part.len()];
        let bytes_of = |x: &TensorRef<'_>| x.dtype.size() * part.start..x.dtype.size() * part.end;
        let inputs: Vec<TensorRef<'_>> = call
            .inputs
            .iter()
            .map(|x| TensorRef { dtype: x.dtype, shape: &shape, bytes: &x.bytes[bytes_of(x)] })
            .collect();
        let call = KernelCall { inputs: &inputs, ..*call };
        if let Err(e) = kernel(&call, &mut [TensorMut { dtype, shape: &shape, bytes }]) {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
