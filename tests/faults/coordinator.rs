//! A coordinator that is killed and started again on its state.

use std::net::TcpStream;
use std::path::Path;

use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, JobView, WorkerState};
use shardmill_tests::cluster::{Cluster, each_unit_counts_once};
use shardmill_tests::{BrokenDisk, Job, Output, Place, sales, wait_until};

use crate::world::{CUT, ONE_THREAD, World, attempt_in, text_with};

/// Kills the coordinator while an attempt of this kind stands at a gate; the attempt goes on and counts.
fn killed_at(gate: &str, order: &str, kind: TaskKind) {
    let place = Place::new();
    let world = World::new(&place);
    let worker = world.worker("first");
    let closed = world.gate(gate);
    let text = text_with(&[(60, order)]);
    let job = world.submit(&text, CUT);
    let reached = closed.reached();
    let before = world.cluster.job(job);
    let held = world.running(job, kind);
    // What was accepted before it stays so.
    world.cluster.until_journaled();
    world.cluster.restart();
    // When the worker has come back, it was told to go on.
    world.cluster.until_worker(worker.id(), WorkerState::Live);
    assert_eq!(attempt_in(&world.cluster.job(job), &held).state, AttemptState::Running);
    closed.open();
    drop(reached);
    let after = world.succeeds_with(job, &text);
    assert_eq!(attempt_in(&after, &held).state, AttemptState::Accepted);
    // What was accepted before still is, and nothing was done twice.
    for attempt in before.attempts.iter().filter(|attempt| attempt.state == AttemptState::Accepted) {
        assert_eq!(attempt_in(&after, attempt).state, AttemptState::Accepted);
    }
    nothing_was_done_in_vain(&after);
}

/// No attempt was made in vain, and those that there were have done everything once.
fn nothing_was_done_in_vain(view: &JobView) {
    assert!(view.attempts.iter().all(|attempt| attempt.state == AttemptState::Accepted), "{view:#?}");
    each_unit_was_done_once(view);
}

/// What was accepted is everything, once. An attempt whose grant a death has kept from its worker may have been made anew.
fn each_unit_was_done_once(view: &JobView) {
    each_unit_counts_once(view);
    assert!(view.lost.is_empty(), "{view:#?}");
}

#[test]
fn a_coordinator_killed_while_a_job_is_planned_goes_on() {
    killed_at("bind", "", TaskKind::Plan);
}

#[test]
fn a_coordinator_killed_while_a_job_maps_goes_on() {
    killed_at("map", "!map:gate:map", TaskKind::Map);
}

#[test]
fn a_coordinator_killed_while_a_job_reduces_goes_on() {
    killed_at("reduce", "!reduce:gate:reduce", TaskKind::Reduce);
}

#[test]
fn job_processes_that_hear_nothing_of_the_coordinator_for_too_long_are_ended_and_their_tasks_done_again() {
    let place = Place::new();
    let world = World::new(&place);
    let mut worker = world.cluster.worker("worker", &format!("{ONE_THREAD} --orphan-after 1s"));
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let held = world.running(job, TaskKind::Map);
    world.cluster.kill();
    wait_until("nobody stands at the gate any more", || gate.is_reached().is_none());
    assert!(!worker.process().has_ended());
    world.cluster.restart();
    gate.open();
    drop(reached);
    let view = world.succeeds_with(job, &text);
    let counts = |attempt: &AttemptView| attempt.attempt == held.attempt && attempt.state == AttemptState::Accepted;
    assert!(!view.attempts.iter().any(counts) && view.phases.iter().all(|phase| phase.charges.is_empty()), "{view:#?}");
    assert!(worker.process().told().contains("the coordinator has not been heard of for too long"));
}

#[test]
fn a_coordinator_that_was_stopped_for_longer_than_its_lease_hears_its_workers_before_it_takes_them_for_lost() {
    let place = Place::new();
    let world = World::new(&place);
    let worker = world.worker("worker");
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    // What says that a lease has passed is another cluster, whose worker is silent for that long.
    let elsewhere = Place::new();
    let other = World::new(&elsewhere);
    let mut silent = other.worker("silent");
    world.cluster.coordinator().signal(libc::SIGSTOP);
    silent.process().signal(libc::SIGSTOP);
    other.cluster.until_worker(silent.id(), WorkerState::Lost);
    world.cluster.coordinator().signal(libc::SIGCONT);
    world.cluster.until_worker(worker.id(), WorkerState::Live);
    gate.open();
    drop(reached);
    nothing_was_done_in_vain(&world.succeeds_with(job, &text));
}

#[test]
fn a_coordinator_whose_disk_breaks_ends_at_once_and_goes_on_from_what_it_has_told() {
    let place = Place::new();
    let world = World::new(&place);
    let disk = BrokenDisk::new(&place);
    world.cluster.kill();
    world.cluster.start_again_with(|command| disk.hold(command));
    let _worker = world.worker("worker");
    let gate = world.gate("map");
    let text = text_with(&[(60, "!map:gate:map")]);
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let held = world.running(job, TaskKind::Map);
    disk.break_down();
    gate.open();
    drop(reached);
    let code = world.cluster.coordinator_mut().wait();
    let told = world.cluster.coordinator().told();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("cannot write the journal") && told.contains("Input/output error"), "{told}");
    world.cluster.start_again("");
    let after = world.succeeds_with(job, &text);
    assert_eq!(attempt_in(&after, &held).state, AttemptState::Accepted);
    nothing_was_done_in_vain(&after);
}

/// Lines of a log that somebody should look at.
fn loud(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap();
    let is_loud = |line: &&str| [" WARN ", "ERROR ", "close_notify"].iter().any(|sign| line.contains(sign));
    text.lines().filter(is_loud).map(str::to_owned).collect()
}

#[test]
fn connections_that_end_are_no_news_at_either_end() {
    let place = Place::new();
    let world = World::new(&place);
    let mut worker = world.worker("worker");
    let text = text_with(&[]);
    let job = world.submit(&text, CUT);
    world.succeeds_with(job, &text);
    let watched = world.cluster.command("watch").arg(job.to_string()).output().unwrap();
    assert!(watched.status.success());
    let address = JoinFile::read(&world.cluster.state().join("read.join")).unwrap().address;
    drop(TcpStream::connect(address).unwrap());
    worker.process().signal(libc::SIGTERM);
    assert_eq!(worker.process().wait(), Some(0));
    let quiet: Vec<String> = Vec::new();
    assert_eq!((loud(&place.path("coordinator.log")), loud(&place.path("worker.log"))), (quiet.clone(), quiet.clone()));
    // A coordinator that is gone cannot be reached for a moment, and that is all there is to say of it.
    let second = world.worker("second");
    world.cluster.restart();
    world.cluster.until_worker(second.id(), WorkerState::Live);
    let told = loud(&place.path("second.log"));
    assert!(told.len() <= 1 && told.iter().all(|line| line.contains("cannot connect") || line.contains("cannot register")), "{told:#?}");
    assert_eq!(loud(&place.path("coordinator.log")), quiet);
}

#[test]
fn a_job_submitted_to_a_coordinator_that_dies_before_there_is_a_worker_is_run() {
    let place = Place::new();
    let world = World::new(&place);
    let text = text_with(&[]);
    let job = world.submit(&text, CUT);
    world.cluster.restart();
    let _worker = world.worker("worker");
    world.succeeds_with(job, &text);
}

#[test]
fn a_coordinator_killed_while_a_job_is_published_goes_on_and_has_nothing_done_again() {
    for (place, is_visible) in
        [("linking:1", false), ("linking:4", false), ("assembled:1", false), ("revealing:1", false), ("revealed:1", true)]
    {
        published_through_a_death_at(place, is_visible);
    }
}

#[test]
fn a_coordinator_killed_while_a_job_is_swept_sweeps_on() {
    published_through_a_death_at("swept:1", true);
}

fn published_through_a_death_at(fault_point: &str, is_visible: bool) {
    let place = Place::new();
    let world = World::with_once(&place, "--lease 3s", &format!("--die-at {fault_point}"));
    let _workers = [world.worker("first"), world.worker("second")];
    let gate = world.gate("reduce");
    let text = text_with(&[(60, "!reduce:gate:reduce")]);
    let job = world.submit(&text, CUT);
    let reached = gate.reached();
    let before = world.cluster.job(job);
    drop(reached);
    gate.open();
    world.cluster.until_dead();
    assert_eq!(place.path("out/words").exists(), is_visible, "{fault_point}");
    world.cluster.start_again("");
    let after = world.succeeds_with(job, &text);
    // Those of before and those that were running then. Nothing was granted any more.
    nothing_was_done_in_vain(&after);
    assert!(before.attempts.iter().all(|attempt| attempt_in(&after, attempt).state == AttemptState::Accepted));
    assert!(after.attempts.iter().all(|attempt| attempt.attempt.epoch == before.attempts[0].attempt.epoch), "{fault_point}: {after:#?}");
}

/// A job whose input has to be surveyed, as quotes in it hide newlines, so that it goes through every kind of task.
#[test]
fn a_coordinator_killed_after_any_commit_of_its_journal_goes_on_with_the_workers_that_are_there() {
    let place = Place::new();
    let input = place.write("in/sales.csv", sales::delimited(&sales::sales(7, 300, 40), ',', 7));
    let flags = "--shard-bytes 4KiB --partitions 3";
    let local = place.path("local");
    Job::new("sort", &local).input(&input).with(flags).with("--key city,price:desc").run().success();
    let expected = Output::whole(&local).parts();
    // The first commit is the epoch's, before anybody is listened to.
    let deaths = (2..).take_while(|commit| sorts_through_a_death_after(*commit, &input, flags, &expected)).count();
    assert!(deaths >= 8, "it has died {deaths} times");
}

/// Returns whether there were so many commits.
fn sorts_through_a_death_after(commit: usize, input: &Path, flags: &str, expected: &[Vec<u8>]) -> bool {
    let place = Place::new();
    let cluster = Cluster::start(&place);
    let arguments: Vec<&str> = ["--input", input.to_str().unwrap()]
        .into_iter()
        .chain(flags.split_whitespace())
        .chain(["--", "--key", "city,price:desc"])
        .collect();
    let job = cluster.submit(Path::new("sort"), &place.path("out"), &arguments);
    cluster.coordinator_mut().kill();
    cluster.start_again(&format!("--die-at after-commit:{commit}"));
    let _workers = [cluster.launch("first", ONE_THREAD), cluster.launch("second", ONE_THREAD)];
    let has_died = cluster.dies_before_the_end_of(job);
    // It may be about to die even now: what it makes history has a commit of its own.
    cluster.restart();
    let (view, output) = cluster.success(job);
    assert!(output.parts() == expected, "killed after commit {commit}: {view:#?}");
    assert!(view.status.units.contains_key(&TaskKind::Survey) && view.status.units[&TaskKind::Map].1 >= 5, "{view:#?}");
    each_unit_was_done_once(&view);
    has_died
}
