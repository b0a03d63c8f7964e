//! Loops: the instructions of a body, and a jump back to the first of them.
//!
//! What is carried has one place, which a step's results are copied to when all of them are there. What is stacked grows by
//! one slice a step: the kernel that copies a slice in sets the size, so such a tensor is of open size to the runtime.

use crate::WriteError;
use crate::emit::Emitter;
use crate::schema::{EValue, Instruction};
use lowbit_core::ir::{NodeId, ValueId};
use lowbit_core::{SymInt, ops};

impl Emitter<'_> {
    /// Emits a `lowbit.loop`.
    pub(crate) fn repeat(&mut self, n: NodeId) -> Result<(), WriteError> {
        let outer = self.program;
        let node = outer.graph.node(n);
        let malformed = || WriteError::Internal(format!("%{} is no loop", node.name));
        let body = ops::views::int(node.arg(0)).and_then(|i| self.bodies.get(usize::try_from(i).ok()?));
        let (body, bodies) = (body.ok_or_else(malformed)?, node.outputs());
        let list = |i: usize| node.arg(i).values().collect::<Vec<ValueId>>();
        let (carry, xs, captured) = (list(1), list(2), list(3));
        let (inputs, outputs) = (body.graph.inputs(), body.user_outputs());
        let fits = inputs.len() == carry.len() + xs.len() + captured.len() && outputs.len() == bodies.len();
        let steps = xs.first().and_then(|&x| outer.graph.ty(x).shape.first()).filter(|_| fits);
        let count = self.int(steps.ok_or_else(malformed)?)?;

        // Runs start at step 0, whatever the one before left here.
        let (at, done) = (self.push(EValue::Int(0)), self.push(EValue::Bool(false)));
        let (zero, one) = (self.literal(EValue::Int(0)), self.literal(EValue::Int(1)));
        self.call("executorch_prim::sub", "Scalar", vec![at, at, at]);
        let last = match ops::views::bool(node.arg(4)) {
            Some(true) => Some(self.scalar("sub", count, one)),
            _ => None,
        };
        let mut carried = vec![];
        for (&from, &to) in carry.iter().zip(bodies) {
            let from = self.operand(from)?;
            let to = self.tensor(to, 0)?;
            self.copy(from, to);
            carried.push(to);
        }
        let mut stacked = vec![];
        for &v in &bodies[carry.len()..] {
            let is_read = !outer.graph.value(v).uses().is_empty() || outer.graph.is_output(v);
            stacked.push(if is_read { Some(self.stack(v)?) } else { None });
        }
        let xs = xs.iter().map(|&x| self.operand(x)).collect::<Result<Vec<i32>, _>>()?;
        let captured = captured.iter().map(|&v| self.operand(v)).collect::<Result<Vec<i32>, _>>()?;

        let first = self.out.plan.instructions.len();
        let place = match last {
            Some(last) => self.scalar("sub", last, at),
            None => at,
        };
        let values = std::mem::take(&mut self.value_of);
        self.program = body;
        self.value_of.extend(inputs.iter().copied().zip(carried.iter().copied()));
        for (&x, &v) in xs.iter().zip(&inputs[carried.len()..]) {
            let slice = self.tensor(v, 0)?;
            self.call("aten::select_copy", "int_out", vec![x, zero, place, slice, slice]);
        }
        self.value_of.extend(inputs[carried.len() + xs.len()..].iter().copied().zip(captured));
        for m in body.graph.nodes() {
            self.node(m)?;
        }
        let made = outputs.iter().map(|&v| self.operand(v)).collect::<Result<Vec<i32>, _>>()?;
        (self.program, self.value_of) = (outer, values);

        for (&slice, to) in made[carried.len()..].iter().zip(stacked) {
            if let Some(to) = to {
                self.call("executorch_prim::et_copy_index", "tensor", vec![to, slice, at]);
            }
        }
        made.iter().zip(carried).for_each(|(&from, to)| self.copy(from, to));
        self.call("executorch_prim::add", "Scalar", vec![at, one, at]);
        self.call("executorch_prim::eq", "Scalar", vec![at, count, done]);
        let jump = self.out.plan.instructions.len();
        let to = i32::try_from(first).expect("fewer than 2^31 instructions");
        self.out.plan.instructions.push(Instruction::JumpFalse { condition: done, to });
        self.loops.push((first, jump));
        Ok(())
    }

    /// An integer computed from two.
    fn scalar(&mut self, what: &str, a: i32, b: i32) -> i32 {
        let out = self.push(EValue::Int(0));
        self.call(&format!("executorch_prim::{what}"), "Scalar", vec![a, b, out]);
        out
    }

    fn copy(&mut self, from: i32, to: i32) {
        let format = self.literal(EValue::Null);
        self.call("aten::clone", "out", vec![from, format, to, to]);
    }

    /// A tensor that slices are stacked in. The kernel wants the sizes of a slice to be right from the start.
    fn stack(&mut self, v: ValueId) -> Result<i32, WriteError> {
        let shape = &self.program.graph.ty(v).shape;
        let open = shape[1..].iter().any(|d: &SymInt| d.known().is_none());
        let i = self.tensor(v, 0)?;
        if let EValue::Tensor(t) = &mut self.out.plan.values[i as usize] {
            t.dynamic = true;
        }
        if open {
            let (size, format) = (self.int_list(shape)?, self.literal(EValue::Null));
            self.call("aten::empty", "out", vec![size, format, i, i]);
        }
        Ok(i)
    }
}

/// Stretches lives over the loop between two instructions: what comes from outside, or is for outside, is there in every
/// step.
pub(crate) fn stretch<'a>(lives: impl Iterator<Item = &'a mut (usize, usize)>, first: usize, last: usize) {
    let inside = |at: usize| (first..=last).contains(&at);
    for life in lives {
        match (inside(life.0), inside(life.1)) {
            (true, false) => life.0 = first,
            (false, true) => life.1 = last,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::emit::emit;
    use crate::schema::{EValue, Instruction};
    use lowbit_core::flow::lower;
    use lowbit_core::ir::text;

    /// A GRU in both directions.
    fn gru(steps: usize) -> lowbit_core::flow::Lowered {
        let text = format!(
            "program {{
              symbol s0 in 1..4
              %x : f32[{steps}, s0, 3] = input
              %h : f32[2, s0, 4] = input
              %w : f32[12, 3] = constant \"w\"
              %u : f32[12, 4] = constant \"u\"
              %y : f32[{steps}, s0, 8], %hn : f32[2, s0, 4] = aten.gru.input(%x, %h, [%w, %u, %w, %u], has_biases=false, num_layers=1, dropout=0.0, train=false, bidirectional=true, batch_first=false)
              return %y
            }}"
        );
        lower(text::parse(&text).unwrap(), &[]).unwrap()
    }

    #[test]
    fn loops_jump_back_to_their_first_instruction() {
        let l = gru(9);
        let mut programs = [vec![l.program.clone()], l.bodies.clone()].concat();
        programs.iter_mut().try_for_each(crate::portable::prepare).unwrap();
        let plan = emit(&programs[0], &programs[1..]).unwrap().plan;
        let name = |i: &Instruction| match i {
            Instruction::Kernel { op, .. } => plan.operators[*op as usize].0.clone(),
            other => format!("{other:?}"),
        };
        let jumps = plan.instructions.iter().enumerate().filter_map(|(at, i)| match i {
            Instruction::JumpFalse { condition, to } => Some((at, *condition, *to as usize)),
            _ => None,
        });
        let jumps: Vec<_> = jumps.collect();
        assert_eq!(jumps.len(), 2);
        for (i, &(at, condition, to)) in jumps.iter().enumerate() {
            assert_eq!(plan.values[condition as usize], EValue::Bool(false));
            // Backwards, the place is computed first.
            assert_eq!(name(&plan.instructions[to + i]), "aten::select_copy");
            let tail: Vec<String> = plan.instructions[at - 4..at].iter().map(name).collect();
            let want = ["prim::et_copy_index", "clone", "prim::add", "prim::eq"];
            assert!(tail.iter().zip(want).all(|(t, w)| t.ends_with(w)), "{tail:?}");
            // The stack is of open size, and planned for all steps.
            let Instruction::Kernel { args, .. } = &plan.instructions[at - 4] else { panic!() };
            let EValue::Tensor(stack) = &plan.values[args[0] as usize] else { panic!() };
            assert!(stack.dynamic && stack.sizes == [9, 4, 4]);
        }
    }

    #[test]
    fn files_do_not_grow_with_steps() {
        let size = |steps| crate::write(&gru(steps)).unwrap().len();
        // Small numbers may be there for other reasons, and literals are stored once.
        assert_eq!(size(20), size(2000));
    }

    #[test]
    fn what_a_loop_reads_stays() {
        let mut lives = [(0, 3), (3, 9), (4, 5), (0, 1), (1, 9), (6, 6)];
        super::stretch(lives.iter_mut(), 2, 6);
        assert_eq!(lives, [(0, 6), (2, 9), (4, 5), (0, 1), (1, 9), (6, 6)]);
    }
}
