//! A lock with two kinds of users: checkpoints, which somebody waits for, and bulk work (an install, the removal of what is
//! left), which comes back for the lock again and again and must not keep it from the others. Locks of the standard library
//! are not fair: whoever lets go and takes it again at once usually wins.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A value that one thread at a time may use.
#[derive(Debug, Default)]
pub(super) struct Turns<T> {
    value: Mutex<T>,
    /// Checkpoints that wait for the value.
    waiting: Mutex<usize>,
    none_waits: Condvar,
}

impl<T> Turns<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), waiting: Mutex::new(0), none_waits: Condvar::new() }
    }

    /// For a checkpoint: next in turn, after at most one step of bulk work.
    pub(super) fn next(&self) -> MutexGuard<'_, T> {
        *lock(&self.waiting) += 1;
        let value = lock(&self.value);
        *lock(&self.waiting) -= 1;
        self.none_waits.notify_all();
        value
    }

    /// For one step of bulk work: after every checkpoint that waits.
    pub(super) fn patient(&self) -> MutexGuard<'_, T> {
        let waiting = self.none_waits.wait_while(lock(&self.waiting), |waiting| *waiting > 0);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
        lock(&self.value)
    }
}

/// The values are connections and marks: whole between any two statements, whoever panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn bulk_work_lets_a_checkpoint_in_between_two_steps() {
        let turns = Arc::new(Turns::new(0u64));
        let stop = Arc::new(AtomicBool::new(false));
        let (bulk, end) = (turns.clone(), stop.clone());
        let busy = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                *bulk.patient() += 1;
            }
        });
        for _ in 0..20 {
            drop(turns.next());
            // As a checkpoint that waits: one step may be under way, another may have passed the check already.
            *lock(&turns.waiting) += 1;
            let before = *lock(&turns.value);
            (0..1_000).for_each(|_| std::thread::yield_now());
            let after = *turns.next();
            *lock(&turns.waiting) -= 1;
            turns.none_waits.notify_all();
            assert!(after - before <= 2, "{before} {after}");
        }
        stop.store(true, Ordering::SeqCst);
        busy.join().unwrap();
    }
}
