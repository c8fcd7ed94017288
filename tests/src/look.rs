//! Waiting for what can be seen and nobody tells of.

use std::thread;
use std::time::Duration;

/// How often a test looks before it gives up: for some minutes.
const LOOKS: u32 = 1_000_000;
/// Between two looks. A test that looked all the time would take a core from those that it waits for, and from the tests beside it.
const PAUSE: Duration = Duration::from_micros(200);

/// Looks until there is something to be found; nothing if that takes minutes.
pub fn look_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..LOOKS {
        if let Some(found) = look() {
            return Some(found);
        }
        thread::sleep(PAUSE);
    }
    None
}

/// Waits until something can be seen.
///
/// # Panics
/// If it cannot be seen for minutes.
pub fn wait_until(what: &str, mut is_seen: impl FnMut() -> bool) {
    look_for(|| is_seen().then_some(())).unwrap_or_else(|| panic!("waited in vain until {what}"));
}
