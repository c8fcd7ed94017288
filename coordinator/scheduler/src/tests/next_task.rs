//! Asking for tasks: repeated polls, fetching ahead, sharing between jobs, backups.

use std::time::Duration;

use shardmill_protocol::process::Progress;
use shardmill_protocol::{Fault, Grant, Outcome, Task};

use super::world::*;
use crate::{Action, Answer, Config, Event, Notice, ReplyId};

#[test]
fn the_same_number_gets_the_same_grant_and_one_out_of_turn_gets_none() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.submit(1);
    let grant = world.grant(session).unwrap();
    let ask = |number| move |reply| Event::NextTask { reply, session, number, ahead: false };
    assert_eq!(world.ask(ask(0)).0, Some(Answer::Grant(grant)));
    assert_eq!(world.ask(ask(2)).0, Some(Answer::Unknown));
    assert_eq!(world.ask(ask(1)).0, None, "the next one waits");
}

#[test]
fn everybody_who_waits_for_a_number_gets_its_grant_and_who_has_gone_gets_nothing() {
    let mut world = World::new();
    let session = world.join(1, 1);
    for reply in [51, 52, 53] {
        let reply = ReplyId(reply);
        assert_eq!(world.send(Event::NextTask { reply, session, number: 0, ahead: false }), []);
    }
    assert_eq!(world.send(Event::PollClosed { reply: ReplyId(52) }), []);
    let reply = ReplyId(60);
    let actions = world.send(Event::Submit { reply, submission: submission(1) });
    let answered: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Answer { reply, answer: Answer::Grant(_) } => Some(reply.0),
            _ => None,
        })
        .collect();
    assert_eq!(answered, [51, 53]);
}

#[test]
fn a_poll_that_is_closed_while_its_grant_waits_for_the_disk_finds_it_again() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.syncs = false;
    world.send(Event::Submit { reply: ReplyId(50), submission: submission(1) });
    world.send(Event::NextTask { reply: ReplyId(51), session, number: 0, ahead: false });
    world.send(Event::PollClosed { reply: ReplyId(51) });
    let actions = world.sync_all();
    assert!(!actions.iter().any(|action| matches!(action, Action::Answer { reply: ReplyId(51), .. })), "{actions:?}");
    let (answer, _) = world.ask(|reply| Event::NextTask { reply, session, number: 0, ahead: false });
    assert!(matches!(answer, Some(Answer::Grant(_))));
}

#[test]
fn a_busy_worker_fetches_ahead_while_there_is_plenty_and_its_second_task_takes_over_the_threads() {
    let mut world = World::new();
    let session = world.join(1, 2);
    world.planned_job(1, session, 2, 20);
    world.map_all(session, 20);
    let first = world.grant(session).unwrap();
    assert_eq!(world.grant(session), None, "it is busy");
    let ahead = world.next(session, true).unwrap();
    assert_eq!((ahead.threads, ahead.memory_bytes), (first.threads, first.memory_bytes));
    assert_eq!(ahead.task.range().start, first.task.range().end);
    assert_eq!(world.next(session, true), None, "one, and no more");
    let used = |world: &World| world.scheduler.workers(world.now)[0].threads_used;
    assert_eq!(used(&world), 2);
    world.send(Event::PollClosed { reply: ReplyId(10_000) });
    world.done(&first, reduced(&first));
    assert_eq!(used(&world), 2, "the second one goes on with them");
    world.done(&ahead, reduced(&ahead));
}

#[test]
fn nothing_is_fetched_ahead_when_little_is_left() {
    let mut world = World::new();
    let session = world.join(1, 2);
    world.planned_job(1, session, 2, 5);
    world.map_all(session, 5);
    let first = world.grant(session).unwrap();
    assert_eq!(first.task, Task::Reduce(0..2));
    assert_eq!(world.next(session, true), None, "three partitions are less than two for each thread");
}

#[test]
fn a_time_that_has_come_while_nobody_could_take_anything_is_no_deadline() {
    let mut world = World::new();
    let sessions = [world.join(1, 1), world.join(2, 1)];
    world.planned_job(1, sessions[0], 8, 1);
    world.grant(sessions[0]).unwrap();
    world.planned_job(2, sessions[1], 8, 1);
    let failed = world.grant(sessions[1]).unwrap();
    assert_eq!(failed.attempt.job, job(2));
    world.fail(&failed, stall(&[]));
    // There is always something for whoever comes: nobody looks at what has failed.
    let due = world.scheduler.next_deadline().unwrap();
    assert!(due > world.now && due < at(1_000), "after its backoff");
    world.pass(1_000);
}

#[test]
fn a_piece_whose_time_has_come_is_granted_at_the_next_event_whatever_that_is() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 1, 1);
    let grant = world.grant(session).unwrap();
    world.fail(&grant, stall(&[]));
    assert_eq!(world.next(session, false), None);
    let due = world.scheduler.next_deadline().unwrap();
    assert!(due > world.now && due < at(1_000), "after its backoff");
    world.now = due;
    let (_, actions) = world.ask(|reply| Event::Cancel { reply, job: job(9) });
    assert!(actions.iter().any(|action| matches!(action, Action::Notice(Notice::Granted(..)))), "{actions:?}");
}

#[test]
fn a_task_takes_some_time_at_least_while_that_leaves_as_much_to_every_other_thread() {
    let mut world = World::with(Config { least_task: Duration::from_secs(1), portion: 500, ..Config::default() });
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, one, 64, 1);
    let report = |world: &mut World, grant: &Grant, millis| {
        world.pass(millis);
        world.beat(one, &[grant.attempt]);
        world.done(grant, mapped(&grant.task.range(), 1));
    };
    // Nothing is known of the pace yet: a quarter of what is pending.
    let first = world.grant(one).unwrap();
    assert_eq!(first.task, Task::Map(0..16));
    // A tenth of a second for each shard: ten of them at least, and the quarter is more.
    report(&mut world, &first, 1600);
    let second = world.grant(one).unwrap();
    assert_eq!(second.task, Task::Map(16..28));
    report(&mut world, &second, 1200);
    // The quarter is nine now.
    let third = world.grant(one).unwrap();
    assert_eq!(third.task, Task::Map(28..38));
    report(&mut world, &third, 1000);
    // Still ten, for the other thread has as many left then.
    let fourth = world.grant(one).unwrap();
    assert_eq!(fourth.task, Task::Map(38..48));
    // And ten for that one, which leaves six: the first has ten of its own.
    assert_eq!(world.grant(two).unwrap().task, Task::Map(48..58));
    // When both are nearly done, each gets half of what is left.
    report(&mut world, &fourth, 1000);
    assert_eq!(world.grant(one).unwrap().task, Task::Map(58..61));
}

#[test]
fn jobs_share_the_threads_and_the_one_with_fewest_is_next() {
    let mut world = World::new();
    let session = world.join(1, 4);
    for n in [1, 2] {
        world.submit(n);
        let draft = world.grant(session).unwrap();
        world.done(&draft, Outcome::Drafted { draft: digest("draft"), surveys: 0 });
        let plan = world.grant(session).unwrap();
        world.done(&plan, planned(100, 1));
    }
    world.weigh(job(1), 100);
    world.weigh(job(2), 100);
    let one = world.grant(session).unwrap();
    let two = world.grant(session).unwrap();
    assert_eq!((one.threads, two.threads), (2, 2));
    assert_eq!((one.memory_bytes, two.memory_bytes), (2 * GIB, 2 * GIB));
    assert_ne!(one.attempt.job, two.attempt.job);
    // A worker that comes now serves both as well, whichever has less.
    let other = world.join(2, 1);
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let grant = world.grant(other).unwrap();
        jobs.push(grant.attempt.job.0);
        world.done(&grant, mapped(&grant.task.range(), 1));
    }
    assert!(jobs == [1, 2, 1, 2] || jobs == [2, 1, 2, 1], "{jobs:?}");
}

#[test]
fn a_job_process_has_one_attempt_at_a_time() {
    let mut world = World::new();
    let session = world.join(1, 4);
    let id = world.planned_job(1, session, 1, 1);
    let map = world.grant(session).unwrap();
    assert_eq!((map.threads, map.attempt.job), (1, id), "a single shard keeps a single thread busy");
    assert_eq!(world.grant(session), None);
    world.submit(2);
    assert_eq!(world.grant(session).unwrap().threads, 3, "the others are for another job");
}

#[test]
fn a_straggler_gets_a_backup_and_the_first_that_is_sealed_wins() {
    for original_wins in [true, false] {
        let mut world = World::new();
        let (slow, fast) = (world.join(1, 1), world.join(2, 1));
        let id = world.planned_job(1, fast, 8, 1);
        let late = world.grant(slow).unwrap();
        while let Some(grant) = world.grant(fast) {
            world.pass(1000);
            world.beat(slow, &[late.attempt]);
            world.beat(fast, &[grant.attempt]);
            world.done(&grant, mapped(&grant.task.range(), 1));
        }
        let mut granted = None;
        assert_eq!(world.next(fast, true), None);
        while world.now < at(60_000) && granted.is_none() {
            let bytes = 10;
            let attempts = vec![(late.attempt, Progress { bytes, ..Progress::default() })];
            world.ask(|reply| Event::Heartbeat { reply, session: slow, attempts });
            world.beat(fast, &[]);
            granted = world.pass(1000).into_iter().find_map(|action| match action {
                Action::Notice(Notice::Granted(grant, worker, true)) => Some((grant, worker, world.now)),
                _ => None,
            });
        }
        let (backup, by, when) = granted.unwrap();
        assert_eq!((&backup.task, by), (&late.task, worker(2)));
        assert!(when > at(30_000) && when < at(35_000), "{when:?}");
        let (winner, loser, lost_by) = if original_wins { (&late, &backup, worker(2)) } else { (&backup, &late, worker(1)) };
        let (answer, actions) = world.report(winner, Ok(mapped(&late.task.range(), 1)));
        assert_eq!(answer, Some(Answer::Accepted));
        assert!(actions.contains(&Action::Notice(Notice::Ended(loser.attempt, lost_by, Box::new(Fault::LostRace.into())))));
        // It may be taken up again if the winner's output is lost and its worker, lost as well, comes back.
        assert!(!actions.contains(&Action::Discard { attempt: loser.attempt }));
        let kill = world.beat(loser.fence.session, &[loser.attempt]).0;
        assert_eq!(kill, Some(Answer::Heartbeat { kill: vec![loser.attempt], drain: false }));
        assert_eq!(world.report(loser, Ok(mapped(&late.task.range(), 1))).0, Some(Answer::Rejected));
        assert_eq!(world.scheduler.job_status(id, world.now).unwrap().retries, 0);
    }
}

#[test]
fn an_attempt_that_is_as_fast_as_the_others_gets_no_backup() {
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, two, 8, 1);
    let long = world.grant(one).unwrap();
    while let Some(grant) = world.grant(two) {
        for _ in 0..15 {
            world.pass(1000 * grant.task.range().len() as u64);
            world.beat(one, &[long.attempt]);
            world.beat(two, &[grant.attempt]);
        }
        world.done(&grant, mapped(&grant.task.range(), 1));
    }
    assert_eq!(world.next(two, true), None);
    let age = world.now.0.as_millis() as u64;
    // It has done what is to be expected of its age.
    let attempts = vec![(long.attempt, Progress { bytes: (age / 15_000) << 20, ..Progress::default() })];
    world.ask(|reply| Event::Heartbeat { reply, session: one, attempts });
    assert!(!world.pass(1000).iter().any(|action| matches!(action, Action::Notice(Notice::Granted(..)))));
}
