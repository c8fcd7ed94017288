//! Scaling out is launching workers, scaling in is stopping them.

use shardmill_protocol::view::{AttemptState, WorkerState};
use shardmill_tests::Place;
use shardmill_tests::cluster::Cluster;
use shardmill_tests::gate::Gate;

use crate::parallel::{counts, naive, submit};

#[test]
fn workers_that_join_get_work_and_workers_that_leave_are_not_missed() {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let flags = "--threads 1 --memory 128MiB";
    let first = cluster.worker("worker-0", flags);
    // Sixteen gates far apart: whoever has work stands at one of them.
    let gates: Vec<_> = (0..16).map(|at| Gate::close(&place, &format!("g{at}"))).collect();
    let text: String = (0..16).map(|at| format!("!map:gate:g{at}\n{}", "word\n".repeat(20))).collect();
    let job = submit(&cluster, &place, "out", &text, "--shard-bytes 16 --partitions 3");
    let _at_first = gates[0].reached();
    assert!(cluster.job(job).attempts.iter().all(|attempt| attempt.worker == first.id()));

    // One becomes four: each of the new ones is at work although the first one has not moved.
    let mut others: Vec<_> = (1..4).map(|at| cluster.worker(&format!("worker-{at}"), flags)).collect();
    for other in &others {
        let running =
            |attempt: &shardmill_protocol::view::AttemptView| attempt.worker == other.id() && attempt.state == AttemptState::Running;
        cluster.until_attempt(job, "a new worker is at work", running);
    }

    // Four become two: one is drained and one is killed.
    let mut killed = others.pop().unwrap();
    killed.process().kill();
    let mut drained = others.pop().unwrap();
    drained.process().signal(libc::SIGTERM);
    gates.into_iter().for_each(Gate::open);
    drop(_at_first);
    assert_eq!(drained.process().wait(), Some(0), "{}", drained.process().told());
    cluster.until_worker(drained.id(), WorkerState::Gone);
    let (view, output) = cluster.success(job);
    assert_eq!(counts(&output), naive(&text));
    assert!(view.attempts.iter().any(|attempt| attempt.worker == others[0].id() && attempt.state == AttemptState::Accepted));
}
