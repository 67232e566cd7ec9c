//! An allocator that counts, for tests that bound what a piece of code holds at once.
#![allow(
    unsafe_code,
    reason = "there is no allocator without; this one counts, and leaves the work to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts by thread what is held and refuses what no test should ask for.
pub(crate) struct Counting;

/// More bytes than this are never handed out at once, so that a parser that believes a hostile size
/// fails at once instead of taking the machine's memory.
const CEILING: usize = 1 << 30;

thread_local! {
    /// Bytes held; below 0 in a thread that frees what others allocated.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most bytes that were held, or asked for, since this was last set.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts `bytes` more; false if that is more than any test should hold.
fn grow(bytes: usize) -> bool {
    let Ok(more) = isize::try_from(bytes) else {
        return false;
    };
    let held = HELD.get().saturating_add(more);
    PEAK.set(PEAK.get().max(held));
    if bytes <= CEILING {
        HELD.set(held);
    }
    bytes <= CEILING
}

/// Counts `bytes` less.
fn shrink(bytes: usize) {
    let less = isize::try_from(bytes).unwrap_or(isize::MAX);
    HELD.set(HELD.get().saturating_sub(less));
}

// SAFETY: every request goes to the system's allocator unchanged, and so does what it answers; the
// counting before allocates nothing, as the thread's counters are constants at first and need no drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the promises of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: as in `alloc`; `ptr` came from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The old and the new block may be there at the same time.
        if !grow(new_size) {
            return std::ptr::null_mut();
        }
        shrink(layout.size());
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Runs `run` and returns what it returned, and the most bytes that it held at once in this thread.
pub(crate) fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = run();
    (
        result,
        usize::try_from(PEAK.get().saturating_sub(before)).unwrap_or(0),
    )
}
