//! A coordinator that is killed and started again on its state.

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::AttemptState;
use shardmill_tests::Place;
use shardmill_tests::cluster::units_accepted;

use crate::world::{CUT, World, attempt_in, text_with};

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
fn a_job_submitted_to_a_coordinator_that_dies_before_there_is_a_worker_is_run() {
    let place = Place::new();
    let world = World::new(&place);
    let text = text_with(&[]);
    let job = world.submit(&text, CUT);
    world.cluster.restart();
    let _worker = world.worker("worker");
    world.succeeds_with(job, &text);
}
