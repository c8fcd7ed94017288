//! Ranges: how much of what is pending makes a task.

use std::ops::Range;

use shardmill_protocol::Task;
use shardmill_protocol::task::{MAX_RANGE, TaskKind};

use crate::config::Config;
use crate::share::Share;
use crate::weights::Weights;
use crate::work::{Work, scale};

/// The task of a kind with a range.
pub(crate) fn task_of(kind: TaskKind, range: Range<u32>) -> Task {
    match kind {
        TaskKind::Draft => Task::Draft,
        TaskKind::Survey => Task::Survey(range),
        TaskKind::Plan => Task::Plan,
        TaskKind::Map => Task::Map(range),
        TaskKind::Reduce => Task::Reduce(range),
    }
}

/// What a thread has to do until all are done at once, counting what others have left of what they run, which weighs `running`.
pub(crate) fn level(work: &Work, share: Share, threads: u64, running: u64) -> u64 {
    part(work.pending_weight().saturating_add(running), share, threads)
}

fn part(of: u64, share: Share, threads: u64) -> u64 {
    scale(of, share.threads.into(), threads)
}

/// Where a task ends that begins where a piece does: with most of the worker's part of an even cut of all that is pending. While a phase
/// goes on at a pace at which that would be over in no time, with more: beginning and ending a task is not free. But never with more than
/// `level`, which leaves the same to every other thread.
pub(crate) fn cut(work: &Work, kind: TaskKind, piece: &Range<u32>, share: Share, threads: u64, level: u64, config: &Config) -> u32 {
    let weights = work.weights.as_ref().expect("what is granted has weights");
    let part = |of: u64| part(of, share, threads);
    let worthwhile = work.expected_weight(config.least_task.as_millis() as u64).unwrap_or(0);
    let fair = scale(part(work.pending_weight()), config.portion, 1000).max(worthwhile).min(level);
    let too_large = matches!(weights, Weights::Known(_)) && fair >= share.memory_bytes;
    let end = if too_large { weights.fit(piece, share.memory_bytes) } else { weights.fit_nearly(piece, fair) };
    // As many units as there are threads, if that leaves as many to the others.
    let least = u64::from(share.threads).min(part(work.pending().units())).max(1) as u32;
    let end = end.max(piece.start.saturating_add(least)).min(piece.end);
    match kind {
        TaskKind::Survey | TaskKind::Reduce => end.min(piece.start.saturating_add(MAX_RANGE)),
        TaskKind::Draft | TaskKind::Plan | TaskKind::Map => end,
    }
}
