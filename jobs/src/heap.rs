//! The allocator of every executable that runs jobs, and what it knows: how much heap each thread holds.
//!
//! Values of a job may own memory (strings, vectors, states that grow). No trait could ask every type how much; the allocator
//! knows. A thread that folds values compares its balance with what it was when its table was empty. Memory that one thread
//! allocates and another frees shows in both balances, with opposite signs: mapping threads hand nothing over while they map.
//!
//! It does without huge pages (feature `no_thp`). Threads keep stretches for blocks of many sizes, most of which they use in part:
//! with huge pages all of each would be memory that no balance knows of, and that can be as much again as what is known.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

#[cfg(not(shardmill_sanitize))]
use mimalloc::MiMalloc as Inner;
// A sanitizer sees what goes through its own allocator.
#[cfg(shardmill_sanitize)]
use std::alloc::System as Inner;

thread_local! {
    static BALANCE: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and not freed; less than zero where it frees what others have allocated.
#[inline]
pub(crate) fn balance() -> isize {
    BALANCE.get()
}

/// Makes freed memory go back to the system at once, as a budget demands: by default it is kept for a while, in case.
pub(crate) fn give_back_at_once() {
    #[cfg(not(shardmill_sanitize))]
    {
        /// `mi_option_purge_delay`, which the bindings have no name for: the same in versions 2 and 3 of the C header.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        // SAFETY: setting an option has no precondition; the allocator reads it when it next frees a page.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    }
}

/// Mimalloc, counted.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

#[inline(always)]
fn add(bytes: isize) {
    // A thread that is ending has no balance any more, and needs none.
    let _ = BALANCE.try_with(|balance| balance.set(balance.get() + bytes));
}

// SAFETY: every call is passed on as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promise is the inner allocator's.
        unsafe { Inner.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promise is the inner allocator's.
        unsafe { Inner.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller's promise is the inner allocator's.
        unsafe { Inner.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        add(bytes as isize - layout.size() as isize);
        // SAFETY: the caller's promise is the inner allocator's.
        unsafe { Inner.realloc(pointer, layout, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_balance_is_what_it_holds() {
        let before = balance();
        let mut held: Vec<u8> = Vec::with_capacity(1000);
        assert_eq!(balance() - before, 1000);
        held.reserve_exact(5000);
        assert_eq!(balance() - before, held.capacity() as isize);
        std::thread::spawn(|| drop(vec![0u8; 100_000])).join().unwrap();
        drop(held);
        assert!((balance() - before).abs() < 4096, "{}", balance() - before);
    }
}
