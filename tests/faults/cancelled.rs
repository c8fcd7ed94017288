//! Jobs that are cancelled, in every phase.

use shardmill_protocol::JobId;
use shardmill_protocol::view::JobPhase;
use shardmill_tests::cluster::Worker;
use shardmill_tests::gate::Gate;
use shardmill_tests::{Place, descendants, is_alive, names_in, wait_until};

use crate::world::{CUT, World, text_with};

/// Cancels a job at a gate: afterwards no process, no staging, no claim and no attempt's directory is left.
fn cancel_at(gate: &str, order: &str, phase: JobPhase) {
    let place = Place::new();
    let world = World::new(&place);
    let mut worker = world.worker("worker");
    let closed = world.gate(gate);
    let job = world.submit(&text_with(&[(60, order)]), CUT);
    let reached = closed.reached();
    assert_eq!(world.cluster.job(job).status.phase, phase);
    let started = descendants(worker.process().number());
    assert!(!started.is_empty(), "a job process stands at the gate");
    assert_eq!(cancel(&world, job), Some(0));
    // Killed where it stands: the gate is still closed.
    wait_until("its processes are gone", || !started.iter().any(|process| is_alive(*process)));
    drop(reached);
    assert_eq!(world.cluster.end(job).phase, JobPhase::Cancelled);
    nothing_is_left(&world, &worker, &[]);
    // Once more is no error.
    assert_eq!(cancel(&world, job), Some(0));
}

/// Waits until nothing is left of any job but these outputs: what worker and coordinator have kept for it is gone, too. Executables are
/// kept for the next job that is built from the same source.
fn nothing_is_left(world: &World<'_>, worker: &Worker, outputs: &[&str]) {
    world.nothing_is_left(outputs);
    for kept in [worker.directory().join("jobs"), world.cluster.state().join("claims")] {
        wait_until("nothing is kept", || !kept.is_dir() || names_in(&kept).is_empty());
    }
}

/// Cancels a job; the answer is the command's exit code.
fn cancel(world: &World<'_>, job: JobId) -> Option<i32> {
    world.cluster.command("cancel").arg(job.to_string()).output().unwrap().status.code()
}

/// Cancels a job while its publishing stands at a place: it is cancelled or published, as its output was committed or not.
fn cancel_while_publishing_at(stand: &str, is_committed: bool) {
    let place = Place::new();
    let gate = Gate::close(&place, "publishing");
    let world = World::with_once(&place, "--lease 3s", &format!("--stand-at {stand}:{}", place.path("gates/publishing").display()));
    let worker = world.worker("worker");
    // The last file to be linked is that of the records set aside, which has a directory of its own.
    let text = text_with(if is_committed { &[] } else { &[(60, "!map:fail")] });
    let job = world.submit(&text, &format!("{CUT} --max-bad-records 1"));
    let reached = gate.reached();
    assert_eq!(world.cluster.job(job).status.phase, JobPhase::Publishing, "{stand}");
    assert_eq!(cancel(&world, job), Some(if is_committed { 4 } else { 0 }), "{stand}");
    if is_committed {
        gate.open();
        drop(reached);
        world.succeeds_with(job, &text);
        nothing_is_left(&world, &worker, &["words"]);
        // It has ended, and not by this.
        assert_eq!(cancel(&world, job), Some(0), "{stand}");
        world.succeeds_with(job, &text);
    } else {
        assert_eq!(world.cluster.end(job).phase, JobPhase::Cancelled, "{stand}");
        world.nothing_is_left(&[]);
        // Nobody has waited for the thread that puts the output together: it goes on where there is no directory any more.
        gate.open();
        drop(reached);
        let told = if stand == "assembled:1" { "output put together" } else { "output cannot be put together" };
        wait_until("it has said how that ended", || world.cluster.coordinator().told().contains(told));
        nothing_is_left(&world, &worker, &[]);
    }
}

#[test]
fn a_job_cancelled_before_its_output_is_committed_leaves_nothing_however_far_that_was_put_together() {
    for stand in ["assembling:1", "linking:1", "linking:4", "linking:6", "assembled:1"] {
        cancel_while_publishing_at(stand, false);
    }
}

#[test]
fn a_job_whose_output_is_committed_is_published_and_whoever_cancels_it_is_told_that_it_is_too_late() {
    for stand in ["revealing:1", "revealed:1"] {
        cancel_while_publishing_at(stand, true);
    }
}

#[test]
fn a_job_cancelled_while_it_is_planned_leaves_nothing() {
    cancel_at("bind", "", JobPhase::Planning);
}

#[test]
fn a_job_cancelled_while_it_maps_leaves_nothing() {
    cancel_at("map", "!map:gate:map", JobPhase::Mapping);
}

#[test]
fn a_job_cancelled_while_it_reduces_leaves_nothing() {
    cancel_at("reduce", "!reduce:gate:reduce", JobPhase::Reducing);
}

#[test]
fn a_job_cancelled_before_there_is_a_worker_leaves_nothing() {
    let place = Place::new();
    let world = World::new(&place);
    let job = world.submit(&text_with(&[]), CUT);
    assert_eq!(cancel(&world, job), Some(0));
    assert_eq!(world.cluster.end(job).phase, JobPhase::Cancelled);
    wait_until("its claim is gone", || names_in(&place.path("out")).is_empty());
}

#[test]
fn a_job_that_has_ended_cannot_be_cancelled_and_its_output_stays() {
    let place = Place::new();
    let world = World::new(&place);
    let _worker = world.worker("worker");
    let text = text_with(&[]);
    let job = world.submit(&text, CUT);
    world.succeeds_with(job, &text);
    assert_eq!(cancel(&world, job), Some(0));
    world.succeeds_with(job, &text);
}
