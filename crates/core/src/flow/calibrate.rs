//! `calibrate`: observers watch the program run.

use super::turns::{Stopped, Turns, side_by_side};
use super::{Error, Prepared};
use crate::dtype::DType;
use crate::executor::{Executor, Session, Watched};
use crate::ir::{Program, ValueId};
use crate::ops::bounds;
use crate::quant::Observer;
use crate::quant::observer::{Batch, Bounded, Extremes, Scan};
use crate::tensor::{Tensor, TensorView};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

impl Prepared {
    /// Loads the program for calibration: pass the session to every [`calibrate`](Self::calibrate).
    ///
    /// # Errors
    /// When the executor cannot run the program.
    pub fn load(&self, executor: &dyn Executor) -> Result<Box<dyn Session>, Error> {
        Ok(executor.load_watching(&self.program, &self.watchlist())?)
    }

    /// Runs one call of the program and lets the observers watch.
    ///
    /// # Errors
    /// When inputs do not fit, or hold NaN or infinities: names the sample and the input.
    pub fn calibrate(&mut self, session: &mut dyn Session, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        let scan = session.scan();
        check(&self.program, &*scan, inputs, self.samples)?;
        let Prepared { watch, observers, not_finite, .. } = self;
        let mut last = None;
        let outputs = session.run(inputs, &mut |v, seen| {
            let Some(Watchers { groups, bounded }) = watch.get(&v) else { return };
            with_batch(&*scan, v, *bounded, &seen, &mut last, |batch| {
                let bad = batch.extremes().not_finite;
                if bad > 0 {
                    *not_finite.entry(v).or_default() += bad;
                }
                for &g in groups {
                    observers[g].iter_mut().for_each(|o| o.look(batch));
                }
            });
        })?;
        self.samples += 1;
        Ok(outputs)
    }

    /// Runs all samples, several at once where the session has several threads: the observers see each when those before are
    /// through with it, so that what they find is the same.
    ///
    /// # Errors
    /// [`Stopped`]: a sample could not be had, or its run failed as in [`calibrate`](Self::calibrate).
    pub fn calibrate_all<E>(
        &mut self,
        session: &mut dyn Session,
        mut samples: impl Iterator<Item = Result<Vec<Tensor>, E>>,
    ) -> Result<(), Stopped<E>> {
        // What all sessions share is made ready by the first run.
        let mut number = 0;
        let mut alone = |prepared: &mut Prepared, session: &mut dyn Session, inputs| {
            let inputs: Vec<Tensor> = match inputs {
                Ok(inputs) => inputs,
                Err(e) => return Err(Stopped::Source(e)),
            };
            prepared.calibrate(session, &inputs).map_err(|error| Stopped::Sample { number, error })?;
            number += 1;
            Ok(())
        };
        let Some(first) = samples.next() else { return Ok(()) };
        alone(self, session, first)?;
        let sessions = session.apart(usize::MAX);
        if sessions.len() < 2 {
            return samples.try_for_each(|inputs| alone(self, session, inputs));
        }
        self.calibrate_apart(sessions, samples).map_err(|stopped| stopped.after(1))
    }

    /// Runs samples on these sessions.
    fn calibrate_apart<E>(
        &mut self,
        sessions: Vec<Box<dyn Session>>,
        samples: impl Iterator<Item = Result<Vec<Tensor>, E>>,
    ) -> Result<(), Stopped<E>> {
        let Prepared { program, watch, observers, not_finite, samples: before, .. } = self;
        // Values of a group are seen in the order of the program, and then those of the next sample.
        let mut looks = vec![0; observers.len()];
        watch.values().flat_map(|w| &w.groups).for_each(|&g| looks[g] += 1);
        let turns = Turns::new(looks);
        let observers: Vec<Mutex<&mut Option<Box<dyn Observer>>>> =
            observers.iter_mut().map(Mutex::new).collect();
        let bad: Mutex<BTreeMap<ValueId, usize>> = Mutex::new(std::mem::take(not_finite));
        let (watch, first) = (&*watch, *before);
        let run = |session: &mut Box<dyn Session>, number: usize, inputs: Vec<Tensor>| {
            let scan = session.scan();
            check(program, &*scan, &inputs, first + number)?;
            let mut last = None;
            session.run(&inputs, &mut |v, seen| {
                let Some(Watchers { groups, bounded }) = watch.get(&v) else { return };
                with_batch(&*scan, v, *bounded, &seen, &mut last, |batch| {
                    let not_finite = batch.extremes().not_finite;
                    if not_finite > 0 {
                        *bad.lock().unwrap_or_else(PoisonError::into_inner).entry(v).or_default() +=
                            not_finite;
                    }
                    for &g in groups {
                        turns.take(g, number, || {
                            let mut observer = observers[g].lock().unwrap_or_else(PoisonError::into_inner);
                            observer.iter_mut().for_each(|o| o.look(batch));
                        });
                    }
                });
            })?;
            Ok(())
        };
        let count = side_by_side(sessions, &turns, samples, run);
        *not_finite = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        *before += count?;
        Ok(())
    }
}

/// Calibration data must be finite.
fn check(program: &Program, scan: &dyn Scan, inputs: &[Tensor], sample: usize) -> Result<(), Error> {
    for (i, (t, name)) in inputs.iter().zip(&program.signature.inputs).enumerate() {
        let bad = if t.dtype().is_float() { scan.extremes(&t.to_f32()).not_finite } else { 0 };
        if bad > 0 {
            return Err(Error::NotFinite { sample, input: format!("{name} (in{i})"), count: bad });
        }
    }
    Ok(())
}

/// What was seen of `v`, as observers look at it. `last`: the value that was seen before, and its extremes.
fn with_batch(
    scan: &dyn Scan,
    v: ValueId,
    bounded: Option<Bounded>,
    seen: &Watched<'_>,
    last: &mut Option<(ValueId, Extremes)>,
    f: impl FnOnce(&Batch<'_>),
) {
    let tensor;
    let x = match &seen.view {
        TensorView::F32(x) => x.view(),
        other => {
            let copy = other.to_tensor();
            tensor =
                Tensor::new(copy.shape(), copy.to_f32().into_owned()).expect("as many elements as before");
            tensor.view().expect("made of f32")
        }
    };
    let follow = |b: Bounded| last.filter(|(of, _)| *of == b.of)?.1.bounded(b.low, b.high);
    let known = seen.extremes.or_else(|| bounded.and_then(follow));
    let batch = Batch::new(x, scan).with_extremes(known).of_value(v, bounded);
    f(&batch);
    *last = Some((v, batch.extremes()));
}

/// The groups that watch a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchers {
    pub groups: Vec<usize>,
    /// How the value follows from another one, if it does.
    pub bounded: Option<Bounded>,
}

impl Watchers {
    /// None yet, of this value.
    pub fn of(program: &Program, v: ValueId) -> Watchers {
        Watchers { groups: vec![], bounded: bounded(program, v) }
    }
}

/// How a value follows from another of the same elements, if it does.
fn bounded(program: &Program, v: ValueId) -> Option<Bounded> {
    let g = &program.graph;
    let node = g.node(g.producer(v)?);
    let (low, high) = match node.op().traits.rearranges {
        true => (f32::NEG_INFINITY, f32::INFINITY),
        false => bounds(node.op(), node.args())?,
    };
    let of = node.operands().next()?;
    let floats = [v, of].iter().all(|&v| g.ty(v).dtype == DType::F32);
    floats.then_some(Bounded { of, low, high })
}
