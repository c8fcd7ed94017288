//! What threads take their work from, in order, and how a fault ends the work behind it.
//!
//! Of several faults the first one in the order of the input is reported, so work before a fault goes on: it may hold an earlier one.
//! Work behind it is void, and stops at the next block.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::fault::Fault;

/// Numbers of shards or partitions, each handed out once.
pub(crate) struct Queue {
    next: AtomicU32,
    /// The first number that is not handed out any more.
    end: AtomicU32,
}

impl Queue {
    pub(crate) fn new(numbers: Range<u32>) -> Self {
        Self { next: AtomicU32::new(numbers.start), end: AtomicU32::new(numbers.end) }
    }

    pub(crate) fn take(&self) -> Option<u32> {
        Some(self.next.fetch_add(1, Relaxed)).filter(|number| !self.is_void(*number))
    }

    /// Whether nobody needs what comes of `number` any more.
    pub(crate) fn is_void(&self, number: u32) -> bool {
        number >= self.end.load(Relaxed)
    }

    /// Ends the work behind `number` because of a fault there; all of it if the fault is not the input's.
    pub(crate) fn fail(&self, number: u32, fault: &Fault) {
        let end = match fault {
            // Nobody asked for the work that was stopped, or everybody is asked to stop.
            Fault::Interrupted => return,
            Fault::BadRecord(_) | Fault::Input(_) | Fault::ReduceFailed { .. } | Fault::Unwritable { .. } => number + 1,
            Fault::Panicked { .. }
            | Fault::DiskFull { .. }
            | Fault::DiskFailed { .. }
            | Fault::OutOfMemory { .. }
            | Fault::OutputLost { .. } => 0,
        };
        self.end.fetch_min(end, Relaxed);
    }
}

/// What all threads have given, or the fault to report: the first one in the order of the work. An interruption only follows from others.
pub(crate) fn all_or_first<T>(results: Vec<Result<T, (u32, Fault)>>) -> Result<Vec<T>, Fault> {
    let mut given = Vec::with_capacity(results.len());
    let mut first: Option<(u32, Fault)> = None;
    for result in results {
        match result {
            Ok(value) => given.push(value),
            Err(found) => {
                let comes_first = |known: &(u32, Fault)| match (&known.1, &found.1) {
                    (_, Fault::Interrupted) => false,
                    (Fault::Interrupted, _) => true,
                    _ => found.0 < known.0,
                };
                if first.as_ref().is_none_or(comes_first) {
                    first = Some(found);
                }
            }
        }
    }
    first.map_or(Ok(given), |(_, fault)| Err(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(key: &str) -> Fault {
        Fault::ReduceFailed { key: key.to_owned(), cause: String::new() }
    }

    #[test]
    fn a_fault_of_the_input_ends_the_work_behind_it_and_none_before() {
        let queue = Queue::new(2..9);
        assert_eq!([queue.take(), queue.take(), queue.take()], [Some(2), Some(3), Some(4)]);
        queue.fail(3, &failed("k"));
        assert_eq!([2, 3, 4, 8].map(|number| queue.is_void(number)), [false, false, true, true]);
        assert_eq!(queue.take(), None);
        queue.fail(4, &failed("k"));
        assert!(!queue.is_void(3), "a later fault changes nothing");
        queue.fail(2, &failed("k"));
        assert!(queue.is_void(3));
    }

    #[test]
    fn any_other_fault_ends_all_work_and_an_interruption_none() {
        let queue = Queue::new(0..9);
        queue.fail(3, &Fault::Interrupted);
        assert_eq!(queue.take(), Some(0));
        queue.fail(3, &Fault::OutOfMemory { detail: String::new() });
        assert!(queue.is_void(0));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn of_several_faults_the_first_in_the_order_of_the_work_is_reported() {
        let results = vec![Ok(1), Err((5, failed("five"))), Err((0, Fault::Interrupted)), Err((2, failed("two")))];
        assert!(matches!(all_or_first(results), Err(Fault::ReduceFailed { key, .. }) if key == "two"));
        assert!(matches!(all_or_first(vec![Ok(1), Err((0, Fault::Interrupted))]), Err(Fault::Interrupted)));
        assert_eq!(all_or_first(vec![Ok(1), Ok(2)]).unwrap(), [1, 2]);
    }
}
