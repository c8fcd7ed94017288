//! Jobs that are cancelled, in every phase.

use shardmill_protocol::JobId;
use shardmill_protocol::view::JobPhase;
use shardmill_tests::cluster::wait_until;
use shardmill_tests::{Place, names_in, program};

use crate::world::{CUT, World, processes_of, text_with};

/// Cancels a job at a gate: afterwards no process, no staging, no claim and no attempt's directory is left.
fn cancel_at(gate: &str, order: &str) {
    let place = Place::new();
    let world = World::new(&place);
    let worker = world.worker("worker");
    let closed = world.gate(gate);
    let job = world.submit(&text_with(&[(60, order)]), CUT);
    let reached = closed.reached();
    cancel(&world, job);
    drop(reached);
    let status = world.cluster.end(job);
    assert_eq!(status.phase, JobPhase::Cancelled);
    wait_until("its processes and files are gone", || {
        let jobs = worker.directory().join("jobs");
        processes_in(&place).is_empty() && (!jobs.is_dir() || names_in(&jobs).is_empty()) && names_in(&place.path("out")).is_empty()
    });
    // Once more is no error.
    cancel(&world, job);
}

/// Job processes that have this place's gates on their command line or are told of them: those whose directory lies in it.
fn processes_in(place: &Place) -> Vec<u32> {
    let here = place.path("");
    let inside = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.starts_with(&here));
    processes_of(&program("probe")).into_iter().filter(inside).collect()
}

fn cancel(world: &World<'_>, job: JobId) {
    let ended = world.cluster.command("cancel").arg(job.to_string()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_job_cancelled_while_it_is_planned_leaves_nothing() {
    cancel_at("bind", "");
}

#[test]
fn a_job_cancelled_while_it_maps_leaves_nothing() {
    cancel_at("map", "!map:gate:map");
}

#[test]
fn a_job_cancelled_while_it_reduces_leaves_nothing() {
    cancel_at("reduce", "!reduce:gate:reduce");
}

#[test]
fn a_job_cancelled_before_there_is_a_worker_leaves_nothing() {
    let place = Place::new();
    let world = World::new(&place);
    let job = world.submit(&text_with(&[]), CUT);
    cancel(&world, job);
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
    cancel(&world, job);
    world.succeeds_with(job, &text);
}
