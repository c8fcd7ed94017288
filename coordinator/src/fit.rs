//! Cutting lists to size: an answer must fit into a frame, and what is kept of an ended job must not grow with its attempts.

use serde::Serialize;
use shardmill_protocol::view::{JobView, WorkerState, WorkerView};

/// What one answer may hold; a frame has room for a little more.
pub(crate) const ANSWER_BYTES: usize = 900 << 10;
/// What is kept of an ended job.
pub(crate) const HISTORY_BYTES: usize = 64 << 10;

/// Lets go of the older half of a list until the whole is small enough.
fn cut<A: Serialize, E>(answer: &mut A, bytes: usize, list: impl Fn(&mut A) -> &mut Vec<E>) {
    while postcard::to_stdvec(answer).map_or(usize::MAX, |encoded| encoded.len()) > bytes && !list(answer).is_empty() {
        let list = list(answer);
        list.drain(..list.len().div_ceil(2));
    }
}

/// Cuts a job's view: first its oldest attempts go, then the oldest of what was lost, charged and set aside.
pub(crate) fn job(view: &mut JobView, bytes: usize) {
    cut(view, bytes, |view| &mut view.attempts);
    cut(view, bytes, |view| &mut view.lost);
    for phase in 0..view.phases.len() {
        cut(view, bytes, |view| &mut view.phases[phase].charges);
    }
    cut(view, bytes, |view| &mut view.set_aside);
}

/// Cuts a list of workers: those that are lost or gone go first.
pub(crate) fn workers(views: &mut Vec<WorkerView>, bytes: usize) {
    views.sort_by_key(|view| !matches!(view.state, WorkerState::Lost | WorkerState::Gone));
    cut(views, bytes, |views| views);
    views.sort_by_key(|view| view.worker);
}

#[cfg(test)]
mod tests {
    use shardmill_protocol::WorkerId;

    use super::*;

    fn worker(number: u128, state: WorkerState) -> WorkerView {
        WorkerView {
            worker: WorkerId(number),
            address: "x".repeat(1000),
            state,
            threads: 1,
            threads_used: 0,
            memory_bytes: 1,
            running: vec![],
            outputs: 0,
            silent_ms: 0,
        }
    }

    #[test]
    fn workers_that_are_there_are_shown_before_those_that_are_gone() {
        let mut views: Vec<_> =
            (0..40).map(|number| worker(number, if number % 2 == 0 { WorkerState::Live } else { WorkerState::Gone })).collect();
        workers(&mut views, 25_000);
        assert_eq!(views.iter().map(|view| view.worker.0).collect::<Vec<_>>(), (0..40).step_by(2).collect::<Vec<_>>());
        let all = views.clone();
        workers(&mut views, 25_000);
        assert_eq!(views, all);
    }
}
