//! Sessions: a loaded program with its plans and the state of its buffers.

use crate::kernel::{KernelCall, TensorMut, TensorRef};
use crate::plan::{Place, Plan};
use bytes::Bytes;
use lowbit_core::dtype::DType;
use lowbit_core::executor::{Executor, Probe, RunError, Session};
use lowbit_core::ir::{Key, MutationTarget, Program, ValueId};
use lowbit_core::symint::Bindings;
use lowbit_core::{Tensor, TensorView};
use std::collections::{BTreeMap, BTreeSet};

/// Runs programs on this machine's CPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CpuExecutor {}

impl Executor for CpuExecutor {
    fn load(&self, program: &Program, watch: &[ValueId]) -> Result<Box<dyn Session>, RunError> {
        for n in program.graph.nodes() {
            let op = program.graph.node(n).op();
            if crate::kernel::kernel(op).is_none() {
                return Err(RunError::node(program, n, format!("{} has no kernel", op.name)));
            }
        }
        Ok(Box::new(CpuSession {
            state: program.constants.iter().map(|(_, c)| c.tensor.clone()).collect(),
            watch: watch.iter().copied().collect(),
            program: program.clone(),
            plans: BTreeMap::new(),
            buffers: Vec::new(),
        }))
    }
}

/// A loaded program.
#[derive(Debug)]
struct CpuSession {
    program: Program,
    /// Constants by id; mutated buffers change from run to run.
    state: Vec<Tensor>,
    watch: BTreeSet<ValueId>,
    plans: BTreeMap<Bindings, Plan>,
    /// Backing memory, in words so that every element type is aligned; shared by all plans.
    buffers: Vec<Vec<u64>>,
}

/// A tensor over bytes that a view borrows.
fn view<'a>(dtype: DType, shape: &[usize], bytes: &'a [u8]) -> TensorView<'a> {
    macro_rules! view {
        ($variant:ident) => {
            TensorView::$variant(
                ndarray::ArrayViewD::from_shape(ndarray::IxDyn(shape), bytemuck::cast_slice(bytes))
                    .expect("a slot's bytes fit its shape"),
            )
        };
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
struct Memory<'a> {
    inputs: &'a [Tensor],
    state: &'a [Tensor],
    buffers: &'a [Vec<u64>],
}

impl<'a> Memory<'a> {
    fn bytes(&self, plan: &Plan, v: ValueId) -> &'a [u8] {
        let slot = &plan.slots[v.index()];
        let len = slot.shape.iter().product::<usize>() * slot.dtype.size();
        match slot.place {
            Place::Input(i) => self.inputs[i].bytes(),
            Place::Const(c) => self.state[c].bytes(),
            Place::Buffer(b) => &bytemuck::cast_slice(&self.buffers[b])[..len],
            Place::Nowhere => &[],
        }
    }

    fn tensor(&self, plan: &'a Plan, v: ValueId) -> TensorRef<'a> {
        let slot = &plan.slots[v.index()];
        TensorRef { dtype: slot.dtype, shape: &slot.shape, bytes: self.bytes(plan, v) }
    }
}

impl Session for CpuSession {
    fn run(&mut self, inputs: &[Tensor], probe: &mut Probe<'_>) -> Result<Vec<Tensor>, RunError> {
        let bindings = self.program.bind(inputs)?;
        if !self.plans.contains_key(&bindings) {
            let plan = Plan::new(&self.program, &bindings, &self.watch)?;
            self.plans.insert(bindings.clone(), plan);
        }
        let plan = &self.plans[&bindings];
        if self.buffers.len() < plan.buffers.len() {
            self.buffers.resize_with(plan.buffers.len(), Vec::new);
        }
        for (have, &want) in self.buffers.iter_mut().zip(&plan.buffers) {
            let words = want.div_ceil(8);
            if have.len() < words {
                have.resize(words, 0);
            }
        }
        let show = |memory: &Memory<'_>, values: &[ValueId], probe: &mut Probe<'_>| {
            for &v in values {
                let t = memory.tensor(plan, v);
                probe(v, view(t.dtype, t.shape, t.bytes));
            }
        };
        let memory = Memory { inputs, state: &self.state, buffers: &self.buffers };
        show(&memory, &plan.watched_first, probe);
        for step in &plan.steps {
            if let Some(kernel) = step.kernel {
                // Outputs are taken out, so that inputs can be borrowed beside them; a step never reads what it writes.
                let mut taken: Vec<(usize, Vec<u64>)> = vec![];
                for v in &step.outputs {
                    if let Place::Buffer(b) = plan.slots[v.index()].place {
                        taken.push((b, std::mem::take(&mut self.buffers[b])));
                    }
                }
                let memory = Memory { inputs, state: &self.state, buffers: &self.buffers };
                let operands: Vec<TensorRef<'_>> =
                    step.inputs.iter().map(|&v| memory.tensor(plan, v)).collect();
                let mut outs: Vec<TensorMut<'_>> = step
                    .outputs
                    .iter()
                    .zip(&mut taken)
                    .map(|(v, (_, words))| {
                        let slot = &plan.slots[v.index()];
                        let len = slot.shape.iter().product::<usize>() * slot.dtype.size();
                        let bytes = &mut bytemuck::cast_slice_mut(words)[..len];
                        TensorMut { dtype: slot.dtype, shape: &slot.shape, bytes }
                    })
                    .collect();
                let op = self.program.graph.node(step.node).op();
                let call = KernelCall { op, args: &step.args, inputs: &operands };
                let result = kernel(&call, &mut outs);
                for (b, words) in taken {
                    self.buffers[b] = words;
                }
                result.map_err(|e| RunError::node(&self.program, step.node, e.0))?;
            }
            let memory = Memory { inputs, state: &self.state, buffers: &self.buffers };
            show(&memory, &step.watched, probe);
        }
        let memory = Memory { inputs, state: &self.state, buffers: &self.buffers };
        let copy = |v: ValueId| -> Tensor {
            let t = memory.tensor(plan, v);
            Tensor::from_bytes(t.dtype, t.shape, Bytes::copy_from_slice(t.bytes))
                .expect("a slot's bytes fit its shape")
        };
        let outputs: Vec<Tensor> = self.program.user_outputs().iter().map(|&v| copy(v)).collect();
        let updates: Vec<(MutationTarget, Tensor)> =
            self.program.mutations().map(|(target, v)| (target, copy(v))).collect();
        for (target, tensor) in updates {
            if let MutationTarget::Buffer(c) = target {
                self.state[c.index()] = tensor;
            }
        }
        Ok(outputs)
    }
}
