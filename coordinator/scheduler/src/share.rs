//! What of a worker a task gets: threads, and memory in the same proportion.

use crate::fleet::Session;

/// A share of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// The threads that it takes up.
    pub(crate) slots: u32,
    /// The threads that it may use: fewer, if memory would not do for all.
    pub(crate) threads: u32,
    /// Its memory.
    pub(crate) memory_bytes: u64,
}

/// What a task needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// The least memory for a thread.
    pub(crate) thread_memory_bytes: u64,
    /// The least memory in all.
    pub(crate) memory_bytes: u64,
}

impl Share {
    /// About `wanted` threads of a worker, or more if memory demands it; nothing if too few are free.
    pub(crate) fn of(session: &Session, wanted: u32, need: Need) -> Option<Self> {
        let least = need.memory_bytes.max(need.thread_memory_bytes);
        let (threads, memory) = (u128::from(session.threads), u128::from(session.memory_bytes));
        let demanded = if least == 0 { 1 } else { (u128::from(least) * threads).div_ceil(memory.max(1)) };
        let slots = u32::try_from(demanded).ok()?.max(wanted.min(session.free())).max(1);
        if slots > session.free() {
            return None;
        }
        let memory_bytes = u64::try_from(memory * u128::from(slots) / threads).expect("a share is smaller than the whole");
        let fitting = memory_bytes.checked_div(need.thread_memory_bytes).unwrap_or(u64::MAX);
        Some(Self { slots, threads: wanted.min(slots).min(u32::try_from(fitting).unwrap_or(u32::MAX)).max(1), memory_bytes })
    }
}
