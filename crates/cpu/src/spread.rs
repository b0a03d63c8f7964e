//! Which processors threads run on. Systems may leave threads that wait for one another on one processor, for tens of runs of a small
//! network: they are seldom both ready, and each has its data there.

#[cfg(target_os = "linux")]
pub(crate) use linux::Processors;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::Processors;

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Where each of some threads was seen last.
    #[derive(Debug)]
    pub(crate) struct Processors(Vec<AtomicUsize>);

    impl Processors {
        /// Of so many threads.
        pub fn new(count: usize) -> Self {
            Processors((0..count).map(|_| AtomicUsize::new(usize::MAX)).collect())
        }

        /// Notes where the calling thread is, which is this one of them.
        pub fn note(&self, thread: usize) {
            self.0[thread].store(sched_getcpu(), Ordering::Relaxed);
        }

        /// Likewise, and moves it to a processor that it may run on and none of the others does, if there is one. Where it may run is
        /// as before then.
        pub fn leave_others(&self, thread: usize) {
            let others = || {
                let others = self.0.iter().enumerate().filter(|&(t, _)| t != thread);
                others.map(|(_, processor)| processor.load(Ordering::Relaxed))
            };
            let here = sched_getcpu();
            if others().any(|other| other == here)
                && let Ok(allowed) = sched_getaffinity(None)
            {
                let mut free = allowed;
                others().filter(|&other| other < CpuSet::MAX_CPU).for_each(|other| free.unset(other));
                if free.count() > 0 && sched_setaffinity(None, &free).is_ok() {
                    // Where this fails, the thread has fewer processors, and what it computes is the same.
                    let _ = sched_setaffinity(None, &allowed);
                }
            }
            self.note(thread);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_leaves_a_processor_that_another_is_on() {
            let allowed = sched_getaffinity(None).unwrap();
            let processors = Processors::new(2);
            let moves = || {
                // As if the other one were wherever this one is.
                processors.note(0);
                processors.leave_others(1);
                processors.0[0].load(Ordering::Relaxed) != processors.0[1].load(Ordering::Relaxed)
            };
            // The system might move it back at once, but not always.
            assert!(allowed.count() == 1 || (0..100).any(|_| moves()));
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    /// Other systems are not asked.
    #[derive(Debug)]
    pub(crate) struct Processors;

    impl Processors {
        pub fn new(_count: usize) -> Self {
            Processors
        }

        pub fn note(&self, _thread: usize) {}

        pub fn leave_others(&self, _thread: usize) {}
    }
}
