//! Submitting: keys, outputs, and what is remembered.

use super::world::*;
use crate::{Answer, Config, Event, Submission};

fn submit(world: &mut World, submission: Submission) -> Answer {
    world.ask(|reply| Event::Submit { reply, submission }).0.unwrap()
}

#[test]
fn a_submission_with_a_known_key_is_the_same_job_also_after_a_restart() {
    let mut world = World::new();
    let id = world.submit(1);
    let again = Submission { job: job(2), ..submission(1) };
    assert_eq!(submit(&mut world, again.clone()), Answer::Submitted { job: id, new: false });
    world.restart();
    assert_eq!(submit(&mut world, again), Answer::Submitted { job: id, new: false });
    assert_eq!((world.scheduler.job_of_key("key 1"), world.scheduler.jobs().count()), (Some(id), 1));
}

#[test]
fn an_output_belongs_to_one_job_until_that_is_swept_and_so_does_what_lies_in_it() {
    let mut world = World::new();
    let id = world.submit(1);
    let session = world.join(1, 1);
    for output in ["/out/1", "/out/1/inner", "/out"] {
        let second = Submission { output: output.to_owned(), ..submission(2) };
        assert_eq!(submit(&mut world, second), Answer::OutputClaimed { by: id }, "{output}");
    }
    world.plan(id, session, 0, 1);
    let reduce = world.grant(session).unwrap();
    world.done(&reduce, reduced(&reduce));
    world.publish(id);
    world.submit_as(Submission { output: "/out/1".to_owned(), ..submission(4) });
    world.submit_as(Submission { output: "/out/11".to_owned(), ..submission(3) });
}

#[test]
fn of_jobs_that_are_over_only_the_latest_are_remembered() {
    let mut world = World::with(Config { history: 2, ..Config::default() });
    let session = world.join(1, 1);
    for n in 1..=4 {
        let id = world.submit(n);
        world.plan(id, session, 0, 1);
        let reduce = world.grant(session).unwrap();
        world.done(&reduce, reduced(&reduce));
        world.publish(id);
    }
    assert_eq!(world.scheduler.jobs().collect::<Vec<_>>(), [job(3), job(4)]);
    assert!(world.scheduler.has_ended(job(1)) && world.scheduler.job_of_key("key 1").is_none());
}

#[test]
fn a_publishing_that_fails_keeps_staging_for_a_person_to_look_at() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.submit(1);
    world.plan(id, session, 0, 1);
    let reduce = world.grant(session).unwrap();
    world.done(&reduce, reduced(&reduce));
    let actions = world.send(Event::Assembled { job: id, manifest: Err("no space".to_owned()) });
    assert_eq!(actions.last(), Some(&crate::Action::Sweep { job: id, keep_staging: true }));
    assert_eq!(world.scheduler.job_status(id, world.now).unwrap().ending.unwrap().kind, "publish");
}

#[test]
fn a_job_whose_weights_cannot_be_read_ends() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.submit(1);
    let draft = world.grant(session).unwrap();
    world.done(&draft, shardmill_protocol::Outcome::Drafted { draft: digest("draft"), surveys: 0 });
    let plan = world.grant(session).unwrap();
    world.done(&plan, planned(3, 1));
    world.send(Event::Weights { job: id, shard_bytes: Some(vec![1; 2]) });
    assert_eq!(world.scheduler.job_status(id, world.now).unwrap().ending.unwrap().kind, "staging");
}
