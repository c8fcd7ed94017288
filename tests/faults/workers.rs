//! Workers that are killed or stopped.

use std::path::PathBuf;

use shardmill_protocol::JobId;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, JobView, WorkerState};
use shardmill_tests::cluster::{Worker, units_accepted};
use shardmill_tests::gate::Gate;
use shardmill_tests::{Place, names_in, wait_until};

use crate::world::{CUT, ONE_THREAD, World, attempt_in, fault_of, text_with, until_one_is_reduced};

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
    shardmill_tests::wait_until("nobody stands at the gate any more", || gate.is_reached().is_none());
}

/// The map attempts that are accepted.
fn mapped(view: &JobView) -> Vec<&AttemptView> {
    let is_mapped = |attempt: &&AttemptView| attempt.task.kind() == TaskKind::Map && attempt.state == AttemptState::Accepted;
    view.attempts.iter().filter(is_mapped).collect()
}

/// The outputs of these attempts were lost on the way, and their ranges mapped again.
fn are_lost(after: &JobView, accepted: Vec<&AttemptView>) {
    for attempt in accepted {
        assert_eq!(attempt_in(after, attempt).state, AttemptState::Lost);
        assert!(after.lost.contains(&attempt.task.range()), "{:?}", after.lost);
    }
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
    let accepted = mapped(&view);
    assert!(!accepted.is_empty() && accepted.iter().all(|attempt| attempt.worker == first.id()), "{view:#?}");
    let _second = world.worker("second");
    first.process().kill();
    gate.open();
    drop(reached);
    are_lost(&world.succeeds_with(job, &text), accepted);
}

#[test]
fn map_outputs_in_memory_are_gone_with_their_process_though_the_worker_comes_back() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("last");
    let text = text_with(&[(119, "!map:gate:last")]);
    let flags = format!("{ONE_THREAD} --output-memory 32MiB");
    let mut first = world.cluster.worker("first", &flags);
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let view = world.cluster.job(job);
    let accepted = mapped(&view);
    let runs: Vec<_> = accepted.iter().map(|attempt| directories_of(&place, &first, attempt)[0].join("map.run")).collect();
    assert!(!runs.is_empty() && runs.iter().all(|run| run.is_symlink() && run.exists()), "{runs:?}");
    first.process().kill();
    let again = world.cluster.worker("first", &flags);
    assert_eq!(again.id(), first.id());
    gate.open();
    drop(reached);
    are_lost(&world.succeeds_with(job, &text), accepted);
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
    let (accepted, left) = until_one_is_reduced(&world, job, gates.into());
    let _second = world.worker("second");
    first.process().kill();
    left.into_iter().for_each(Gate::open);
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
    let (gate, reduce) = (world.gate("map"), world.gate("reduce"));
    let text = text_with(&[(60, "!map:gate:map"), (90, "!reduce:gate:reduce")]);
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
    // Everything was mapped by the other one meanwhile, and the job goes on.
    let at_reduce = reduce.reached();
    // What it has staged is swept with the job.
    let [kept, _] = directories_of(&place, &first, &hit);
    assert!(kept.is_dir());
    first.process().signal(libc::SIGCONT);
    world.cluster.until_worker(first.id(), WorkerState::Live);
    wait_until("its files are gone", || !kept.exists());
    let gone = |view: &JobView| {
        assert_eq!((attempt_in(view, &hit).state, fault_of(view, &hit)), (AttemptState::Ended, Some("worker lost")));
        assert!(units_accepted(view, TaskKind::Map) == view.status.units[&TaskKind::Map].1, "each shard counts once: {view:#?}");
    };
    gone(&world.cluster.job(job));
    reduce.open();
    drop(at_reduce);
    gone(&world.succeeds_with(job, &text));
    wait_until("nothing of the job is left", || {
        let jobs = first.directory().join("jobs");
        !jobs.is_dir() || names_in(&jobs).is_empty()
    });
}

#[test]
fn a_worker_that_leaves_with_the_last_output_is_not_waited_for_by_those_that_were_to_read_it() {
    let place = Place::new();
    let world = World::new(&place);
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let _workers = [world.worker("first"), world.worker("second")];
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    wait_until("all else is mapped", || {
        let view = world.cluster.job(job);
        units_accepted(&view, TaskKind::Map) + world.running(job, TaskKind::Map).task.range().len() as u64
            == view.status.units[&TaskKind::Map].1
    });
    let last = world.running(job, TaskKind::Map);
    assert!(world.cluster.command("drain").arg(last.worker.to_string()).status().unwrap().success());
    // What it reports now is the last output: others are granted reduce tasks at once, and it leaves with the output.
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    assert_eq!(view.status.retries, 0, "{view:#?}");
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

/// Where an attempt's files lie: on its worker, and beside the output.
fn directories_of(place: &Place, worker: &Worker, attempt: &AttemptView) -> [PathBuf; 2] {
    let (job, attempt) = (attempt.attempt.job, attempt.attempt.directory());
    let staging = place.path("out").join(format!(".words.shardmill-{job}"));
    [worker.directory().join("jobs").join(job.to_string()).join(&attempt), staging.join("attempts").join(&attempt)]
}

/// A line a shard, the last ones with gates at which the first process that comes by stands alone; the first eight of those are the task
/// that it has then, with most of the phase behind it and the rest still to be granted.
fn slow_text(last: &str) -> String {
    let line = |at: usize| match at {
        45..56 => format!("word !map:slow:s{at}"),
        63 => format!("word {last}"),
        _ => format!("word w{}", at % 7),
    };
    (0..64).map(|at| format!("{:<63}\n", line(at))).collect()
}

/// Waits until the only attempt that runs is so old that it is late by any measure, as the coordinator counts: it is at a fourth of
/// what a task before it was, and has taken twice as long.
fn until_late(world: &World<'_>, job: JobId) -> AttemptView {
    let is_map = |attempt: &&AttemptView| attempt.task.kind() == TaskKind::Map;
    let longest = |view: &JobView| {
        view.attempts.iter().filter(is_map).filter(|map| map.state == AttemptState::Accepted).map(|map| map.elapsed_ms).max()
    };
    let mut late = None;
    wait_until("the attempt is late", || {
        let view = world.cluster.job(job);
        let longest = longest(&view).unwrap();
        late = view.attempts.iter().find(|map| map.state == AttemptState::Running && map.elapsed_ms > 2 * longest + 10).cloned();
        late.is_some()
    });
    late.unwrap()
}

/// The attempts at one task: the one that was late, and the one that won.
fn overtaken(view: &JobView, late: &AttemptView) -> AttemptView {
    let lost = attempt_in(view, late);
    assert_eq!((lost.state, fault_of(view, late)), (AttemptState::Ended, Some("lost race")));
    let won: Vec<_> = view.attempts.iter().filter(|attempt| attempt.task == late.task && attempt.attempt != late.attempt).collect();
    assert!(won.len() == 1 && won[0].backup && won[0].worker != late.worker, "{won:#?}");
    assert_eq!(won[0].state, AttemptState::Accepted);
    assert!(view.phases.iter().all(|phase| phase.charges.is_empty()) && view.status.retries == 0, "nobody is to blame: {view:#?}");
    won[0].clone()
}

#[test]
fn a_slow_worker_is_overtaken_by_a_backup_attempt_though_it_moves() {
    let place = Place::new();
    // Heard of all the time, so that nothing else can be the reason.
    let world = World::with(&place, "--lease 60s --heartbeat 20ms --backup-after 1ms");
    let mut gates: Vec<_> = (45..56).map(|at| world.gate(&format!("s{at}"))).collect();
    let text = slow_text("");
    let slow = world.worker("slow");
    let job = world.submit(&text, "--shard-bytes 64 --partitions 3");
    let mut standing = gates[0].reached();
    let hit = world.running(job, TaskKind::Map);
    // It takes a step, and another one, and comes nowhere near its end.
    for steps in 1..3 {
        gates.remove(0).open();
        drop(standing);
        standing = gates[0].reached();
        let moved = |attempt: &AttemptView| attempt.attempt == hit.attempt && attempt.progress.bytes >= steps * 64;
        world.cluster.until_attempt(job, "it has moved", moved);
    }
    let late = until_late(&world, job);
    assert_eq!((late.attempt, late.worker), (hit.attempt, slow.id()));
    assert!(0 < late.progress.bytes && late.progress.bytes * 2 < late.bytes, "{late:#?}");
    let _quick = world.worker("quick");
    let won = world.cluster.until_attempt(job, "the backup has won", |attempt| attempt.backup && attempt.state == AttemptState::Accepted);
    drop(standing);
    gates.into_iter().for_each(Gate::open);
    let view = world.succeeds_with(job, &text);
    assert_eq!(overtaken(&view, &hit).attempt, won.attempt);
}

#[test]
fn the_late_report_of_a_slow_worker_is_refused_and_leaves_no_trace() {
    let place = Place::new();
    let world = World::with(&place, "--lease 600s --heartbeat 20ms --backup-after 1ms");
    let (gate, reduce) = (world.gate("s48"), world.gate("reduce"));
    let text = slow_text("!reduce:gate:reduce");
    let (mut slow, line) = world.cluster.worker_on_a_line("slow", ONE_THREAD);
    let job = world.submit(&text, "--shard-bytes 64 --partitions 3");
    let standing = gate.reached();
    let late = until_late(&world, job);
    // Whoever is overtaken learns of it with the answer to a heartbeat. Here its report is to come first.
    line.keep_answers_to_heartbeats();
    let _quick = world.worker("quick");
    // The other one has done all of the rest, and reduces by now.
    let at_reduce = reduce.reached();
    let won = overtaken(&world.cluster.job(job), &late);
    assert!(!slow.process().told().contains("report rejected"));
    let [kept, staged] = directories_of(&place, &slow, &late);
    assert!(kept.is_dir(), "it is still at work");
    gate.open();
    drop(standing);
    wait_until("its report is refused", || slow.process().told().contains("report rejected"));
    wait_until("its files are gone", || !kept.exists() && !staged.exists());
    assert_eq!(overtaken(&world.cluster.job(job), &late).attempt, won.attempt);
    reduce.open();
    drop(at_reduce);
    let view = world.succeeds_with(job, &text);
    assert_eq!(overtaken(&view, &late).attempt, won.attempt);
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
        let standing = |attempt: &AttemptView| {
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
