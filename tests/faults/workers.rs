//! Workers that are killed or stopped.

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, WorkerState};
use shardmill_tests::{Place, names_in};

use crate::world::{CUT, ONE_THREAD, World, attempt_in, fault_of, text_with};

#[test]
fn a_worker_killed_while_mapping_costs_its_range_a_second_try_and_nothing_else() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let mut first = world.worker("first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let hit = world.running(job, TaskKind::Map);
    assert_eq!(hit.worker, first.id());
    let _second = world.worker("second");
    first.process().kill();
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    assert_eq!((attempt_in(&view, &hit).state, fault_of(&view, &hit)), (AttemptState::Ended, Some("worker lost")));
    assert!(view.phases.iter().all(|phase| phase.charges.is_empty()), "nobody is charged: {view:#?}");
}

#[test]
fn a_killed_worker_takes_its_job_process_with_it() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let mut worker = world.worker("worker");
    world.submit(&text_with(&[(60, "!map:gate:map")]), CUT);
    // Whoever stands at the gate stays there as long as this is held.
    let _reached = gate.reached();
    worker.process().kill();
    shardmill_tests::cluster::wait_until("nobody stands at the gate any more", || gate.is_reached().is_none());
}

#[test]
fn a_worker_killed_after_mapping_takes_its_output_with_it_and_the_range_is_mapped_again() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("last");
    // The first worker maps until it stands at the last shard; a second one comes and maps nothing before the first is killed.
    let text = text_with(&[(119, "!map:gate:last")]);
    let mut first = world.worker("first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let view = world.cluster.job(job);
    let accepted: Vec<_> =
        view.attempts.iter().filter(|attempt| attempt.task.kind() == TaskKind::Map && attempt.state == AttemptState::Accepted).collect();
    assert!(!accepted.is_empty() && accepted.iter().all(|attempt| attempt.worker == first.id()), "{view:#?}");
    let _second = world.worker("second");
    first.process().kill();
    gate.open();
    drop(reached);
    let after = world.succeeds_with(job, &text);
    for attempt in accepted {
        assert_eq!(attempt_in(&after, attempt).state, AttemptState::Lost);
        assert!(after.lost.contains(&attempt.task.range()), "{:?}", after.lost);
    }
}

#[test]
fn a_worker_killed_while_reducing_is_replaced() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("reduce");
    let text = text_with(&[(60, "!reduce:gate:reduce")]);
    let mut first = world.worker("first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let hit = world.running(job, TaskKind::Reduce);
    let _second = world.worker("second");
    first.process().kill();
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    assert_eq!((attempt_in(&view, &hit).state, fault_of(&view, &hit)), (AttemptState::Ended, Some("worker lost")));
    assert!(!view.lost.is_empty(), "its map outputs were still needed: {view:#?}");
}

#[test]
fn parts_of_a_worker_killed_after_reporting_stay_and_are_not_made_again() {
    let place = Place::new();
    let world = World::new(&place);
    // Two gates in reduce: at the second one the first reduce task of this worker is accepted, if it was another task.
    let gates = ["r0", "r1", "r2", "r3", "r4", "r5"].map(|name| world.gate(name));
    let orders: Vec<String> = (0..6).map(|at| format!("!reduce:gate:r{at}")).collect();
    let orders: Vec<(usize, &str)> = orders.iter().enumerate().map(|(at, order)| (at * 20, order.as_str())).collect();
    let text = text_with(&orders);
    let mut first = world.worker("first");
    let job = world.submit(&text, "--shard-bytes 64 --partitions 30");
    let mut left: Vec<_> = gates.into_iter().collect();
    let accepted = loop {
        let view = world.cluster.job(job);
        let accepted =
            view.attempts.iter().find(|attempt| attempt.task.kind() == TaskKind::Reduce && attempt.state == AttemptState::Accepted);
        if let Some(accepted) = accepted {
            break accepted.clone();
        }
        assert!(!left.is_empty(), "no reduce task was accepted before the last gate: {view:#?}");
        if let Some(at) = left.iter().position(|gate| gate.is_reached().is_some()) {
            left.remove(at).open();
        }
        std::thread::yield_now();
    };
    let _second = world.worker("second");
    first.process().kill();
    left.into_iter().for_each(shardmill_tests::gate::Gate::open);
    let view = world.succeeds_with(job, &text);
    assert_eq!(attempt_in(&view, &accepted).state, AttemptState::Accepted);
    let again = view.attempts.iter().filter(|attempt| {
        let (one, other) = (attempt.task.range(), accepted.task.range());
        attempt.task.kind() == TaskKind::Reduce && attempt.attempt != accepted.attempt && one.start < other.end && other.start < one.end
    });
    assert_eq!(again.count(), 0, "{view:#?}");
}

#[test]
fn a_worker_stopped_past_its_lease_and_continued_reports_in_vain_and_leaves_no_trace() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let mut first = world.worker("first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let hit = world.running(job, TaskKind::Map);
    first.process().signal(libc::SIGSTOP);
    let _second = world.worker("second");
    world.cluster.until_worker(first.id(), WorkerState::Lost);
    // Its job process was not stopped: it goes through the gate and seals, and the worker will find that when it wakes up.
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    assert_eq!((attempt_in(&view, &hit).state, fault_of(&view, &hit)), (AttemptState::Ended, Some("worker lost")));
    let manifest = std::fs::read(place.path("out/words/_SUCCESS")).unwrap();
    first.process().signal(libc::SIGCONT);
    world.cluster.until_worker(first.id(), WorkerState::Live);
    shardmill_tests::cluster::wait_until("its attempts are gone", || {
        let jobs = first.directory().join("jobs");
        !jobs.is_dir() || names_in(&jobs).is_empty()
    });
    assert_eq!(std::fs::read(place.path("out/words/_SUCCESS")).unwrap(), manifest);
    assert_eq!(attempt_in(&world.cluster.job(job), &hit).state, AttemptState::Ended);
    world.nothing_is_left(&["words"]);
}

#[test]
fn when_the_last_worker_dies_the_job_waits_and_a_new_one_finishes_it() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let mut first = world.worker("first");
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    first.process().kill();
    world.cluster.until_worker(first.id(), WorkerState::Lost);
    let status = world.cluster.job(job).status;
    assert!(!status.phase.is_final() && status.workers_live == 0 && status.running == 0, "{status:#?}");
    gate.open();
    drop(reached);
    let _new = world.worker("new");
    world.succeeds_with(job, &text);
}

#[test]
fn a_worker_that_hangs_is_overtaken_by_a_backup_attempt() {
    let place = Place::new();
    let world = World::with(&place, "--lease 3s --backup-after 1s");
    // Only the first attempt that comes by hangs, and is never said to be stalled within the test.
    let text = text_with(&[(110, "!map:hang:once")]);
    let _workers = [world.worker("first"), world.worker("second")];
    let job = world.submit(&text, CUT);
    let view = world.succeeds_with(job, &text);
    let overtaken: Vec<_> = view
        .attempts
        .iter()
        .filter(|attempt| attempt.failure.as_ref().is_some_and(|failure| failure.fault.kind() == "lost race"))
        .collect();
    assert_eq!(overtaken.len(), 1, "{view:#?}");
    let backup = view.attempts.iter().find(|attempt| attempt.backup && attempt.state == AttemptState::Accepted).unwrap();
    assert_eq!(backup.task, overtaken[0].task);
    assert_ne!(backup.worker, overtaken[0].worker);
    assert!(view.phases.iter().all(|phase| phase.charges.is_empty()), "{view:#?}");
}

#[test]
fn a_shard_that_takes_three_workers_with_it_ends_the_job_and_not_the_cluster() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("poison");
    let text = text_with(&[(60, "!map:gate:poison")]);
    let job = {
        let mut first = world.worker("worker-0");
        let job = world.submit(&text, CUT);
        drop(gate.reached());
        first.process().kill();
        job
    };
    for at in 1..3 {
        let mut worker = world.cluster.worker(&format!("worker-{at}"), ONE_THREAD);
        let standing = |attempt: &shardmill_protocol::view::AttemptView| {
            attempt.worker == worker.id() && attempt.task.kind() == TaskKind::Map && attempt.state == AttemptState::Running
        };
        world.cluster.until_attempt(job, "the next worker has a map task", standing);
        drop(gate.reached());
        worker.process().kill();
    }
    let status = world.cluster.end(job);
    let ending = status.ending.unwrap();
    assert!(ending.kind.contains("poison"), "{ending:#?}");
    world.nothing_is_left(&[]);
    drop(gate);
    // The cluster lives.
    let _worker = world.worker("last");
    let text = text_with(&[]);
    let job = world.submit(&text, CUT);
    world.succeeds_with(job, &text);
}
