//! Heartbeats, leases, and the passing of time.

use shardmill_protocol::{Fault, Grant, Outcome, Task};

use super::world::*;
use crate::{Action, Answer, Config, Event, Fact, Notice, ReplyId};

#[test]
fn a_silent_worker_is_suspected_then_lost_and_its_range_is_granted_again_and_nobody_is_charged() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    let reply = ReplyId(100);
    world.send(Event::NextTask { reply, session, number: 3, ahead: false });
    assert_eq!(world.pass(4999), []);
    assert_eq!(world.scheduler.next_deadline(), Some(at(5000)));
    assert_eq!(world.pass(1), [Action::Notice(Notice::WorkerSuspect(worker(1)))]);
    assert_eq!(world.pass(9999), []);
    let number = world.facts.last().unwrap().0 + 1;
    assert_eq!(
        world.pass(1),
        [
            Action::Notice(Notice::Ended(grant.attempt, worker(1), Box::new(Fault::WorkerLost.into()))),
            Action::Notice(Notice::WorkerLost(worker(1))),
            Action::Journal { number, fact: Fact::WorkerForgotten(worker(1)) },
            Action::Answer { reply, answer: Answer::NoSession },
        ]
    );
    let two = world.join(2, 1);
    assert_eq!(world.grant(two).unwrap().task, Task::Map(0..4));
    let view = world.scheduler.job_view(job(1), world.now).unwrap();
    assert_eq!((view.status.retries, view.status.workers_lost), (0, 1));
    assert!(view.phases.iter().all(|phase| phase.charges.is_empty()));
}

#[test]
fn a_suspect_gets_nothing_until_it_is_heard_again() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.pass(5000);
    world.submit(1);
    assert_eq!(world.next(session, false), None);
    let (_, actions) = world.beat(session, &[]);
    assert!(actions.iter().any(|action| matches!(action, Action::Notice(Notice::Granted(..)))), "{actions:?}");
    world.pass(4999);
    assert_eq!(world.scheduler.next_deadline(), Some(at(10_000)));
}

#[test]
fn a_heartbeat_of_a_session_that_is_over_is_told_so() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.pass(15_000);
    assert_eq!(world.beat(session, &[]).0, Some(Answer::NoSession));
    assert_eq!(world.ask(|reply| Event::NextTask { reply, session, number: 0, ahead: false }).0, Some(Answer::NoSession));
}

#[test]
fn an_attempt_that_is_not_the_workers_is_killed_and_an_accepted_one_is_not() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    world.done(&grant, mapped(&grant.task.range(), 1));
    let stranger = attempt(job(7), 1);
    let (answer, actions) = world.beat(session, &[grant.attempt, stranger]);
    assert_eq!((answer, actions.len()), (Some(Answer::Heartbeat { kill: vec![stranger], drain: false }), 1));
}

#[test]
fn a_grant_that_is_never_listed_goes_back_uncharged() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    for _ in 0..4 {
        world.pass(1000);
        assert_eq!(world.beat(session, &[]).1.len(), 1);
    }
    world.pass(1000);
    let (_, actions) = world.beat(session, &[]);
    assert_eq!(actions[0], Action::Notice(Notice::Ended(grant.attempt, worker(1), Box::new(Fault::WorkerLost.into()))));
    assert_eq!(world.report(&grant, Ok(mapped(&grant.task.range(), 1))).0, Some(Answer::Rejected), "it is too late");
    let again = world.grant(session).unwrap();
    assert_eq!(again.task, grant.task);
    assert_eq!(world.scheduler.job_status(id, world.now).unwrap().retries, 0);
}

#[test]
fn a_shard_that_takes_three_workers_along_ends_its_job_and_is_alone_before() {
    let mut world = World::new();
    let session = world.join(9, 1);
    let id = world.planned_job(1, session, 3, 1);
    world.ask(|reply| Event::Drain { reply, worker: worker(9) });
    let mut tasks = Vec::new();
    for n in 1..=3 {
        let session = world.join(n, 1);
        let grant = world.grant(session).unwrap();
        tasks.push(grant.task.clone());
        world.pass(5000);
        world.pass(10_000);
    }
    assert_eq!(tasks, [Task::Map(0..1), Task::Map(0..1), Task::Map(0..1)]);
    let ending = world.scheduler.job_status(id, world.now).unwrap().ending.unwrap();
    assert_eq!((ending.kind.as_str(), ending.task, ending.attempts), ("poison", Some(Task::Map(0..1)), 3));
}

#[test]
fn a_range_that_takes_two_workers_along_is_granted_unit_by_unit() {
    let mut world = World::new();
    let session = world.join(9, 1);
    world.planned_job(1, session, 4, 1);
    world.ask(|reply| Event::Drain { reply, worker: worker(9) });
    for n in 1..=2 {
        let session = world.join(n, 4);
        assert_eq!(world.grant(session).unwrap().task, Task::Map(0..4));
        world.pass(5000);
        world.pass(10_000);
    }
    let session = world.join(3, 4);
    let grant = world.grant(session).unwrap();
    assert_eq!((&grant.task, grant.threads), (&Task::Map(0..1), 1));
}

#[test]
fn a_worker_that_comes_back_and_goes_on_was_not_lost_with_its_shard_however_often() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.planned_job(1, session, 1, 1);
    let mut running = *world.grant(session).unwrap();
    for _ in 0..4 {
        world.pass(5000);
        world.pass(10_000);
        running = world.come_back(1, &running);
    }
    world.done(&running, mapped(&(0..1), 1));
    assert!(world.scheduler.job_status(id, world.now).unwrap().ending.is_none());
}

#[test]
fn what_a_lost_worker_has_left_in_staging_is_removed_once_some_of_its_range_is_done_by_another_one() {
    let discards =
        |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::Discard { .. })).cloned().collect::<Vec<_>>();
    let mut world = World::new();
    let sessions = [world.join(1, 1), world.join(2, 1)];
    world.submit(1);
    let draft = world.grant(sessions[0]).unwrap();
    world.done(&draft, Outcome::Drafted { draft: digest("draft"), surveys: 8 });
    let surveyed = |grant: &Grant| Ok(outcome(grant, 0, 0));
    let [lost, back] = sessions.map(|session| world.grant(session).unwrap());
    assert_eq!((discards(&world.pass(5000)), discards(&world.pass(10_000))), (vec![], vec![]), "they may come back");

    let back = world.come_back(2, &back);
    let (answer, actions) = world.report(&back, surveyed(&back));
    assert_eq!((answer, discards(&actions)), (Some(Answer::Accepted), vec![]), "what comes back and goes on keeps what it has");

    let third = world.join(3, 4);
    let mut removed = Vec::new();
    while let Some(grant) = world.grant(third).filter(|grant| matches!(grant.task, Task::Survey(_))) {
        let overlaps = grant.task.range().start < lost.task.range().end && lost.task.range().start < grant.task.range().end;
        let found = discards(&world.report(&grant, surveyed(&grant)).1);
        assert!(overlaps || found.is_empty(), "{grant:?}");
        removed.extend(found);
    }
    assert_eq!(removed, [Action::Discard { attempt: lost.attempt }]);
}

#[test]
fn leases_can_be_short() {
    let config = Config::with_lease(std::time::Duration::from_millis(500));
    let mut world = World::with(config);
    let session = world.join(1, 1);
    world.pass(499);
    assert!(world.scheduler.worker_of(session).is_some());
    world.pass(1);
    assert!(world.scheduler.worker_of(session).is_none());
}
