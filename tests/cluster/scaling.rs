//! Scaling out is launching workers, scaling in is stopping them.

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, WorkerState};
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
        let running = |attempt: &AttemptView| attempt.worker == other.id() && attempt.state == AttemptState::Running;
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

#[test]
fn a_worker_that_joins_in_the_middle_of_a_job_is_given_work_when_it_asks_and_waits_for_no_clock() {
    let place = Place::new();
    // No clock of this coordinator goes off within the test: with such a lease, heartbeats and all that it looks for now and then are
    // minutes and hours apart. So what a new worker gets is the answer to its question, and the time until then that of a few calls.
    let cluster = Cluster::with(&place, "--lease 6h");
    let flags = "--threads 1 --memory 128MiB";
    let first = cluster.worker("worker-0", flags);
    let gates: Vec<_> = (0..16).map(|at| Gate::close(&place, &format!("g{at}"))).collect();
    let text: String = (0..16).map(|at| format!("!map:gate:g{at}\n{}", "word\n".repeat(20))).collect();
    let job = submit(&cluster, &place, "out", &text, "--shard-bytes 16 --partitions 3");
    let at_first = gates[0].reached();
    let mut joined = Vec::new();
    for at in 1..4 {
        let worker = cluster.worker(&format!("worker-{at}"), flags);
        let is_at_work = |attempt: &AttemptView| attempt.worker == worker.id() && attempt.state == AttemptState::Running;
        cluster.until_attempt(job, "the new worker is at work", is_at_work);
        joined.push(worker);
    }
    // The others have not moved for that.
    let view = cluster.job(job);
    assert_eq!(view.attempts.iter().filter(|attempt| attempt.worker == first.id() && attempt.task.kind() == TaskKind::Map).count(), 1);
    drop(at_first);
    gates.into_iter().for_each(Gate::open);
    let (view, output) = cluster.success(job);
    assert_eq!(counts(&output), naive(&text));
    for worker in &joined {
        assert!(view.attempts.iter().any(|attempt| attempt.worker == worker.id() && attempt.state == AttemptState::Accepted), "{view:#?}");
    }
}
