//! Catching panics of a job's code, with where they happened and without noise on the terminal.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static IN_COMBINE: Cell<bool> = const { Cell::new(false) };
}

/// A panic that was caught.
#[derive(Debug)]
pub(crate) struct Panic {
    /// What it said, and where.
    pub(crate) message: String,
    /// It happened in a combiner: folding belongs to no single record.
    pub(crate) in_combine: bool,
}

/// Makes panics that will be caught be told by whoever catches them, and not on the terminal.
pub(crate) fn be_quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let otherwise = take_hook();
        set_hook(Box::new(move |info| {
            if CATCHING.get() == 0 && !shardmill_datasets::is_guarded() {
                return otherwise(info);
            }
            let message = info.payload_as_str().unwrap_or("no message");
            let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
            CAUGHT.replace(Some(format!("panicked{place}: {message}")));
        }));
    });
}

/// Runs `code`, and returns its panic if it has one.
///
/// Whatever `code` was in the middle of changing must not be looked at afterwards, unless that is argued for.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    be_quiet();
    CATCHING.set(CATCHING.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(code));
    CATCHING.set(CATCHING.get() - 1);
    result.map_err(|_| Panic { message: CAUGHT.take().unwrap_or_else(|| "panicked".to_owned()), in_combine: IN_COMBINE.replace(false) })
}

/// Runs a combiner; a panic that leaves it is known to have done so. Costs nothing where there is none.
#[inline(always)]
pub(crate) fn combining<T>(code: impl FnOnce() -> T) -> T {
    struct Leaving;
    impl Drop for Leaving {
        #[cold]
        fn drop(&mut self) {
            IN_COMBINE.set(true);
        }
    }
    let leaving = Leaving;
    let result = code();
    std::mem::forget(leaving);
    result
}
