//! Work that several threads share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmcore::Progress;

/// How long nobody looks how far the threads have come: to look takes time from them.
const LOOK: Duration = Duration::from_millis(50);

/// What the threads share.
struct Shared<I, E> {
    state: Mutex<State<E>>,
    items: Mutex<I>,
    /// A thread has ended.
    ended: Condvar,
}

struct State<E> {
    /// Bytes that are done.
    done: u64,
    /// How many threads work.
    working: usize,
    failure: Option<E>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets `threads` threads do `items`, each as soon as it is free. Each thread has what `worker` makes, and
/// `work` tells how many bytes are done by an item. `progress` is called by this thread, as work is done.
///
/// # Errors
///
/// The first that any item or any work has; what is being worked on then is still finished.
pub(crate) fn share<T: Send, W, E: Send>(
    threads: usize,
    items: impl Iterator<Item = Result<T, E>> + Send,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T) -> Result<u64, E> + Sync,
    total: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), E> {
    let threads = threads.max(1);
    let shared = Shared {
        state: Mutex::new(State {
            done: 0,
            working: threads,
            failure: None,
        }),
        items: Mutex::new(items),
        ended: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _ended = Ended(&shared);
                let mut own = worker();
                while let Some(item) = shared.next() {
                    let result = item.and_then(|item| work(&mut own, item));
                    let mut state = lock(&shared.state);
                    match result {
                        Ok(done) => state.done += done,
                        Err(error) => {
                            state.failure.get_or_insert(error);
                            break;
                        }
                    }
                }
            });
        }
        let mut told = None;
        let mut state = lock(&shared.state);
        while state.working > 0 {
            let done = state.done;
            drop(state);
            // Whoever hears of progress may count on it that there is some.
            if told != Some(done) {
                told = Some(done);
                progress(Progress { done, total });
            }
            state = lock(&shared.state);
            if state.working > 0 {
                let waited = shared.ended.wait_timeout(state, LOOK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let done = state.done;
        drop(state);
        progress(Progress { done, total });
    });
    let state = shared
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    state.failure.map_or(Ok(()), Err)
}

impl<T, E, I: Iterator<Item = Result<T, E>>> Shared<I, E> {
    /// The next item, unless there is none, or something failed.
    fn next(&self) -> Option<Result<T, E>> {
        if lock(&self.state).failure.is_some() {
            return None;
        }
        lock(&self.items).next()
    }
}

/// Tells that a thread has ended, however it did.
struct Ended<'a, I, E>(&'a Shared<I, E>);

impl<I, E> Drop for Ended<'_, I, E> {
    fn drop(&mut self) {
        lock(&self.0.state).working -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn all_items_are_done_once() {
        for threads in 0..5 {
            let sum = AtomicU64::new(0);
            let mut calls = Vec::new();
            let items = (1..=100_u64).map(Ok::<_, ()>);
            let work = |own: &mut u64, item| {
                *own += item;
                sum.fetch_add(item, Ordering::SeqCst);
                Ok(item)
            };
            share(threads, items, || 0, work, 5050, &mut |at| {
                calls.push(at.done);
            })
            .unwrap();
            assert_eq!(sum.into_inner(), 5050);
            assert!(calls.is_sorted());
            assert_eq!(calls.last(), Some(&5050));
        }
    }

    #[test]
    fn the_first_failure_ends_it() {
        let items = || (0..1000).map(|item| if item == 300 { Err(item) } else { Ok(item) });
        let failing = |at: i32| {
            let done = AtomicU64::new(0);
            let work = |(): &mut (), item: i32| {
                done.fetch_add(1, Ordering::SeqCst);
                if item == at { Err(item) } else { Ok(1) }
            };
            let error = share(2, items(), || (), work, 1000, &mut |_| {}).unwrap_err();
            (error, done.into_inner())
        };
        assert_eq!(failing(7).0, 7);
        assert!(failing(7).1 < 300);
        assert_eq!(failing(5000).0, 300);
    }
}
