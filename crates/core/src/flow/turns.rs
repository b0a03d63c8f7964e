//! Samples side by side on several threads, with the results of one after the other: whatever depends on the order of samples,
//! as sums of floats do, is done in turns.

use super::Error;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Why samples ended early.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The next one could not be had.
    Source(E),
    /// One of them failed: the first, as if they had run one after the other.
    Sample {
        /// Its number, from 0, among those of this call.
        number: usize,
        /// What is wrong.
        error: Error,
    },
}

impl<E> Stopped<E> {
    /// The same, behind `before` other samples.
    pub(super) fn after(self, before: usize) -> Self {
        match self {
            Stopped::Sample { number, error } => Stopped::Sample { number: number + before, error },
            other => other,
        }
    }
}

/// Turns at some items that every sample takes, in the order of samples.
#[derive(Debug)]
pub(super) struct Turns {
    /// How often a sample takes each item.
    each: Vec<usize>,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    /// How often each item was taken.
    taken: Vec<usize>,
    /// How many of the first samples are through with everything, and others that are.
    through: usize,
    others: BTreeSet<usize>,
    /// The first sample that failed.
    failed: Option<usize>,
}

impl Turns {
    /// Items that each sample takes so often.
    pub fn new(each: Vec<usize>) -> Turns {
        let state = State { taken: vec![0; each.len()], through: 0, others: BTreeSet::new(), failed: None };
        Turns { each, state: Mutex::new(state), moved: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with an item once all samples before are through with it; not at all when one of them has failed.
    pub fn take(&self, item: usize, sample: usize, f: impl FnOnce()) {
        let mut state = self.state();
        while state.taken[item] < sample * self.each[item] && state.through < sample {
            if state.failed.is_some_and(|failed| failed < sample) {
                return;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        f();
        self.state().taken[item] += 1;
        self.moved.notify_all();
    }

    /// A sample is through with everything, also with items that it left out.
    fn end(&self, sample: usize) {
        let mut state = self.state();
        state.others.insert(sample);
        while state.others.first() == Some(&state.through) {
            state.others.pop_first();
            state.through += 1;
        }
        self.moved.notify_all();
    }

    /// No sample behind this one waits any more.
    fn fail(&self, sample: usize) {
        let mut state = self.state();
        state.failed = Some(state.failed.map_or(sample, |other| other.min(sample)));
        self.moved.notify_all();
    }

    fn failed(&self) -> bool {
        self.state().failed.is_some()
    }
}

/// Runs every sample on the next free worker; gives how many there were.
///
/// # Errors
/// [`Stopped`]
pub(super) fn side_by_side<W: Send, I: Send, E>(
    workers: Vec<W>,
    turns: &Turns,
    samples: impl Iterator<Item = Result<I, E>>,
    run: impl Fn(&mut W, usize, I) -> Result<(), Error> + Sync,
) -> Result<usize, Stopped<E>> {
    /// Frees those who wait for a sample, however it ends: in a panic, too.
    struct Running<'a> {
        turns: &'a Turns,
        number: usize,
        good: bool,
    }
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            if self.good { self.turns.end(self.number) } else { self.turns.fail(self.number) }
        }
    }
    let first: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let (sender, receiver) = sync_channel::<(usize, I)>(1);
    // The workers': should all of them be gone, in panics, nothing can be sent any more.
    let receiver = Arc::new(Mutex::new(receiver));
    let work = |mut worker: W, receiver: Arc<Mutex<Receiver<(usize, I)>>>| {
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, sample)) = next else { return };
            let mut running = Running { turns, number, good: false };
            match run(&mut worker, number, sample) {
                Ok(()) => running.good = true,
                Err(error) => {
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(other, _)| number < *other) {
                        *first = Some((number, error));
                    }
                }
            }
        }
    };
    let mut count = 0;
    let mut source = Ok(());
    std::thread::scope(|scope| {
        let work = &work;
        for worker in workers {
            let receiver = receiver.clone();
            scope.spawn(move || work(worker, receiver));
        }
        drop(receiver);
        for sample in samples {
            match sample {
                Ok(_) if turns.failed() => break,
                Ok(sample) => match sender.send((count, sample)) {
                    Ok(()) => count += 1,
                    Err(_) => break,
                },
                Err(e) => {
                    source = Err(e);
                    break;
                }
            }
        }
        drop(sender);
    });
    match (first.into_inner().unwrap_or_else(PoisonError::into_inner), source) {
        (Some((number, error)), _) => Err(Stopped::Sample { number, error }),
        (None, Err(e)) => Err(Stopped::Source(e)),
        (None, Ok(())) => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What three workers write down at two items, the second taken twice by each sample; sample `bad` fails in between.
    fn written(bad: Option<usize>) -> (Result<usize, Stopped<&'static str>>, [Vec<usize>; 2]) {
        let lists = [Mutex::new(vec![]), Mutex::new(vec![])];
        let turns = Turns::new(vec![1, 2]);
        let done = side_by_side(vec![(); 3], &turns, (0..20).map(Ok), |(), number, sample: usize| {
            assert_eq!(number, sample);
            std::thread::sleep(Duration::from_micros((number as u64 * 7919) % 300));
            let put = |item: usize| turns.take(item, number, || lists[item].lock().unwrap().push(number));
            put(0);
            if bad.is_some_and(|bad| number >= bad) {
                return Err(Error::Labels(number.to_string()));
            }
            put(1);
            put(1);
            Ok(())
        });
        (done, lists.map(|list| list.into_inner().unwrap()))
    }

    #[test]
    fn turns_are_in_the_order_of_samples() {
        let (done, [once, twice]) = written(None);
        assert!(matches!(done, Ok(20)));
        assert_eq!(once, (0..20).collect::<Vec<_>>());
        assert_eq!(twice, (0..40).map(|i| i / 2).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_what_was_left_out() {
        let list = Mutex::new(vec![]);
        let turns = Turns::new(vec![1]);
        let done = side_by_side(vec![(); 3], &turns, (0..20).map(Ok::<usize, ()>), |(), number, _| {
            if number % 4 != 1 {
                turns.take(0, number, || list.lock().unwrap().push(number));
            }
            Ok(())
        });
        assert!(matches!(done, Ok(20)));
        assert_eq!(list.into_inner().unwrap(), (0..20).filter(|n| n % 4 != 1).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_that_fails_is_told_and_nobody_waits_for_it() {
        let (done, [_, twice]) = written(Some(4));
        let Err(Stopped::Sample { number, error }) = done else { panic!("{done:?}") };
        assert_eq!((number, error.to_string().contains('4')), (4, true));
        assert_eq!(twice, [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_panic_ends_it() {
        let run = || {
            let turns = Turns::new(vec![1]);
            side_by_side(vec![(); 2], &turns, (0..9).map(Ok::<usize, ()>), |(), number, _| {
                turns.take(0, number, || assert!(number < 2, "as it should"));
                Ok(())
            })
        };
        assert!(std::panic::catch_unwind(run).is_err());
    }

    #[test]
    fn a_source_that_fails_is_told() {
        let samples = [Ok(1), Err("gone"), Ok(2)].into_iter();
        let done = side_by_side(vec![(); 2], &Turns::new(vec![]), samples, |(), _, _: i32| Ok(()));
        assert!(matches!(done, Err(Stopped::Source("gone"))));
    }
}
