//! A coordinator that is killed and started again on its state.

use std::net::TcpStream;
use std::path::Path;

use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, WorkerState};
use shardmill_tests::Place;
use shardmill_tests::cluster::{units_accepted, wait_until};

use crate::world::{CUT, ONE_THREAD, World, attempt_in, text_with};

/// Kills the coordinator while an attempt of this kind stands at a gate; the attempt goes on and counts.
fn killed_at(gate: &str, order: &str, kind: TaskKind) {
    let place = Place::new();
    let world = World::new(&place);
    let _workers = [world.worker("first")];
    let closed = world.gate(gate);
    let text = text_with(&[(60, order)]);
    let job = world.submit(&text, CUT);
    let reached = closed.reached();
    let before = world.cluster.job(job);
    let held = world.running(job, kind);
    world.cluster.restart();
    // The worker has come back and was told to go on.
    let adopted = world.cluster.until_attempt(job, "its attempt is adopted", |attempt| attempt.attempt == held.attempt);
    assert_eq!(adopted.state, AttemptState::Running);
    closed.open();
    drop(reached);
    let after = world.succeeds_with(job, &text);
    assert_eq!(attempt_in(&after, &held).state, AttemptState::Accepted);
    // What was accepted before still is, and nothing was done twice.
    for attempt in before.attempts.iter().filter(|attempt| attempt.state == AttemptState::Accepted) {
        assert_eq!(attempt_in(&after, attempt).state, AttemptState::Accepted);
    }
    for kind in [TaskKind::Map, TaskKind::Reduce] {
        assert_eq!(units_accepted(&after, kind), after.status.units[&kind].1);
    }
    assert!(after.lost.is_empty(), "{after:#?}");
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
