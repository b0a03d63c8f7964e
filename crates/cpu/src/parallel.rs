//! Work shared out among threads. What is computed never depends on how: every piece writes its own part of the result.

use crate::spread::Processors;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements that are worth another thread.
pub(crate) const PART: usize = 16 * 1024;

/// Threads that help the one that runs a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Threads(Option<Arc<Helpers>>);

#[derive(Debug)]
struct Helpers {
    pool: rayon::ThreadPool,
    /// Of the caller and then the helpers.
    processors: Processors,
}

/// Does something when it is dropped, after a panic as well.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Waits for what takes about as long as an operator, and does the pool's work meanwhile, where this thread is one of its own. The
/// processor goes to other threads now and then: one of them may be what is waited for.
fn wait_until(done: impl Fn() -> bool) {
    const SPINS: usize = 100;
    while !(0..SPINS).any(|_| {
        std::hint::spin_loop();
        while rayon::yield_now() == Some(rayon::Yield::Executed) {}
        done()
    }) {
        std::thread::yield_now();
    }
}

impl Helpers {
    /// Which thread this is: the caller is the first.
    fn thread(&self) -> usize {
        self.pool.current_thread_index().map_or(0, |helper| helper + 1)
    }
}

impl Threads {
    /// The caller and nobody else.
    pub const ALONE: &'static Threads = &Threads(None);

    /// `count` threads in all, the caller's included.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(count: usize) -> Result<Threads, String> {
        if count < 2 {
            return Ok(Threads(None));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count - 1).build();
        let pool = pool.map_err(|e| e.to_string())?;
        Ok(Threads(Some(Arc::new(Helpers { pool, processors: Processors::new(count) }))))
    }

    /// How many there are, the caller's included.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |helpers| helpers.pool.current_num_threads() + 1)
    }

    /// How many of `count` pieces, of so many elements each, are an item of work: all, or half a thread's where they are worth it.
    pub fn together(&self, count: usize, elements: usize) -> usize {
        match self.count() == 1 || count * elements < 2 * PART {
            true => count.max(1),
            false => count.div_ceil(2 * self.count()),
        }
    }

    /// Calls `f` with the helpers awake: waking one takes longer than many operators.
    pub fn awake<R>(&self, f: impl FnOnce() -> R) -> R {
        let Some(helpers) = self.0.as_deref() else { return f() };
        let done = AtomicBool::new(false);
        helpers.processors.note(0);
        helpers.pool.in_place_scope(|scope| {
            // To each of them: who waits for something else may do the pool's work meanwhile, and must not come upon another's.
            scope.spawn_broadcast(|_, helper| {
                helpers.processors.leave_others(helper.index() + 1);
                wait_until(|| done.load(Ordering::Acquire));
            });
            let _done = OnDrop(|| done.store(true, Ordering::Release));
            f()
        })
    }

    /// Calls `work` for every item. Each thread has a scratch of its own, made by `scratch`, and items of its own, the same ones
    /// whenever there are as many: what it wrote for the last operator is still in its caches. When these are done it helps others.
    pub fn for_each<I: Send, S>(
        &self,
        items: impl Iterator<Item = I>,
        scratch: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, I) + Sync,
    ) {
        let Some(helpers) = self.0.as_deref() else {
            let mut own = scratch();
            return items.for_each(|item| work(&mut own, item));
        };
        let items: Vec<I> = items.collect();
        let (all, count) = (items.len(), self.count().min(items.len()));
        let mut items = items.into_iter();
        if count < 2 {
            let mut own = scratch();
            return items.for_each(|item| work(&mut own, item));
        }
        let share = |t: usize| all * (t + 1) / count - all * t / count;
        let shares: Vec<Mutex<VecDeque<I>>> =
            (0..count).map(|t| Mutex::new(items.by_ref().take(share(t)).collect())).collect();
        let help = |thread: usize| {
            // A panic elsewhere leaves shares as they should be; it is passed on when all have ended.
            let share = |t: usize| shares[t % count].lock().unwrap_or_else(PoisonError::into_inner);
            let mut own = scratch();
            loop {
                let next = share(thread).pop_front();
                let next = next.or_else(|| (1..count).find_map(|other| share(thread + other).pop_back()));
                let Some(item) = next else { return };
                work(&mut own, item);
            }
        };
        // The caller works too: entering the pool and coming back would cost more than many operators.
        let busy = AtomicUsize::new(count - 1);
        helpers.pool.in_place_scope(|scope| {
            for _ in 1..count {
                scope.spawn(|_| {
                    let _done = OnDrop(|| _ = busy.fetch_sub(1, Ordering::Release));
                    help(helpers.thread());
                });
            }
            help(0);
            // The end of a scope lets the system put the caller to sleep, which takes longer than many operators too.
            wait_until(|| busy.load(Ordering::Acquire) == 0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for count in [1, 2, 3] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.count(), count);
            let work = || {
                for n in [0, 1, 2, 100] {
                    let mut out = vec![0usize; n];
                    threads.for_each(out.iter_mut().enumerate(), || 1, |one, (i, o)| *o += i + *one);
                    assert_eq!(out, (1..=n).collect::<Vec<_>>());
                }
            };
            work();
            threads.awake(work);
        }
    }

    #[test]
    fn work_inside_of_work_comes_to_an_end() {
        for count in [2, 3] {
            let threads = Threads::new(count).unwrap();
            let work = || {
                let mut out = vec![[0usize; 5]; 7];
                let inner = |part: &mut [usize; 5]| threads.for_each(part.iter_mut(), || (), |(), x| *x += 1);
                (0..100).for_each(|_| threads.for_each(out.iter_mut(), || (), |(), part| inner(part)));
                assert_eq!(out, vec![[100; 5]; 7]);
            };
            work();
            threads.awake(work);
        }
    }

    #[test]
    fn helpers_are_let_go_after_a_panic() {
        let threads = Threads::new(2).unwrap();
        let panics = || threads.awake(|| panic!("as it should"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        threads.awake(|| ());
    }
}
