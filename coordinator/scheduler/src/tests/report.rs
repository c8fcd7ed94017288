//! Reports: results and failures, and what follows from each.

use std::path::PathBuf;

use shardmill_protocol::task::SetAside;
use shardmill_protocol::view::JobPhase;
use shardmill_protocol::{Digest, Failure, Fault, Fence, Outcome, Task};

use super::world::*;
use crate::{Action, Answer, Ending, Event, Fact, Failed, Notice};

fn ending(world: &World, n: u128) -> String {
    world.scheduler.job_status(job(n), world.now).unwrap().ending.map_or_else(String::new, |ending| ending.kind)
}

fn charges(world: &World, n: u128) -> Vec<(u32, u32)> {
    world.scheduler.job_view(job(n), world.now).unwrap().phases.last().unwrap().charges.clone()
}

/// Waits until a session is granted something, and returns it.
fn patiently(world: &mut World, session: shardmill_protocol::SessionId) -> Box<shardmill_protocol::Grant> {
    for _ in 0..40 {
        if let Some(grant) = world.grant(session) {
            return grant;
        }
        world.pass(1000);
        world.beat(session, &[]);
    }
    panic!("nothing was granted for 40 s");
}

#[test]
fn a_result_is_journaled_and_answered_when_it_is_on_the_disk_and_again_whenever_it_is_asked() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    world.syncs = false;
    let range = grant.task.range();
    let (answer, actions) = world.report(&grant, Ok(mapped(&range, 1)));
    let Outcome::Mapped { index, tally, .. } = mapped(&range, 1) else { unreachable!() };
    let outcome = Outcome::Mapped { index, partition_bytes: vec![], tally, set_aside: None };
    let number = world.facts.last().unwrap().0;
    let fact = Fact::Done { attempt: grant.attempt, worker: worker(1), task: grant.task.clone(), outcome, elapsed_ms: 0 };
    assert_eq!((answer, actions), (None, vec![Action::Journal { number, fact }]));
    assert_eq!(world.report(&grant, Ok(mapped(&range, 1))), (None, vec![]), "asked again, it waits as well");
    let answers = world.sync_all();
    assert_eq!(answers.iter().filter(|action| matches!(action, Action::Answer { answer: Answer::Accepted, .. })).count(), 2);
    assert_eq!(world.report(&grant, Ok(mapped(&range, 1))).0, Some(Answer::Accepted));
}

#[test]
fn a_report_under_another_fence_is_rejected_and_changes_nothing() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    let epoch = world.scheduler.epoch();
    let wrong = [
        Fence { epoch: shardmill_protocol::Epoch(epoch.0 + 1), ..grant.fence },
        Fence { session: shardmill_protocol::SessionId(77), ..grant.fence },
        Fence { grant: grant.fence.grant + 1, ..grant.fence },
    ];
    for fence in wrong {
        let mut grant = grant.clone();
        grant.fence = fence;
        let (answer, actions) = world.report(&grant, Ok(mapped(&grant.task.range(), 1)));
        assert_eq!((answer, actions.len()), (Some(Answer::Rejected), 1));
        let (answer, actions) = world.report(&grant, Err(crash(&[])));
        assert_eq!((answer, actions.len()), (Some(Answer::Noted), 1));
    }
    world.done(&grant, mapped(&grant.task.range(), 1));
}

#[test]
fn a_worker_that_was_given_up_may_report_whatever_it_likes_and_nothing_happens() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    world.pass(15_000);
    assert_eq!(world.report(&grant, Ok(mapped(&grant.task.range(), 1))).0, Some(Answer::Rejected));
    let two = world.join(2, 1);
    assert_eq!(world.grant(two).unwrap().task, grant.task);
}

#[test]
fn a_result_that_does_not_fit_its_task_is_a_false_report() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 1, 2);
    let grant = world.grant(session).unwrap();
    assert_eq!(world.report(&grant, Ok(mapped(&(0..1), 3))).0, Some(Answer::Rejected));
    assert_eq!(charges(&world, 1), [(0, 1)]);
}

#[test]
fn a_fault_of_the_job_ends_it_at_once() {
    let mut world = World::new();
    let session = world.join(1, 2);
    let id = world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    let failure: Failure = Fault::Refused { message: "no such column".to_owned() }.into();
    let actions = world.fail(&grant, failure.clone());
    let number = world.facts.last().unwrap().0;
    let failed =
        Failed::Attempt { task: grant.task.clone(), attempt: grant.attempt, worker: worker(1), attempts: 1, failure: failure.clone() };
    assert_eq!(
        actions[..5],
        [
            Action::Notice(Notice::Ended(grant.attempt, worker(1), Box::new(failure))),
            Action::Discard { attempt: grant.attempt },
            Action::Journal { number, fact: Fact::Ended { job: id, ending: Ending::Failed(Box::new(failed)) } },
            Action::Notice(Notice::Phase(id, JobPhase::Failed)),
            Action::Sweep { job: id, keep_staging: false },
        ]
    );
    assert!(world.scheduler.job_status(id, world.now).unwrap().ending.unwrap().refused);
}

#[test]
fn suspects_are_charged_and_alone_on_one_thread_next_and_the_others_go_on_as_ranges() {
    let mut world = World::new();
    let session = world.join(1, 4);
    world.planned_job(1, session, 16, 1);
    let grant = world.grant(session).unwrap();
    assert_eq!(grant.task, Task::Map(0..8));
    let failure = crash(&[suspect(2, 10), suspect(5, 20)]);
    let actions = world.fail(&grant, failure.clone());
    let fact = Fact::Charged { job: job(1), task: Task::Map(0..8), units: vec![2, 5], failure };
    assert!(actions.iter().any(|action| matches!(action, Action::Journal { fact: journaled, .. } if *journaled == fact)));
    assert_eq!(charges(&world, 1), [(2, 1), (5, 1)]);
    assert_eq!(world.grant(session).map(|grant| grant.task), Some(Task::Map(0..2)), "suspects wait a little");
    world.pass(1000);
    let two = world.join(2, 4);
    let alone = world.grant(two).unwrap();
    assert_eq!((&alone.task, alone.threads, alone.memory_bytes), (&Task::Map(2..3), 1, GIB));
}

#[test]
fn a_failure_that_names_nobody_halves_the_range_until_a_single_shard_is_left() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let mut grant = world.grant(session).unwrap();
    let mut lengths = Vec::new();
    loop {
        lengths.push(grant.task.range().len());
        world.fail(&grant, stall(&[]));
        if lengths.last() == Some(&1) {
            break;
        }
        assert_eq!(charges(&world, 1), []);
        loop {
            let next = patiently(&mut world, session);
            if next.task.range().start == 0 {
                grant = next;
                break;
            }
            world.done(&next, mapped(&next.task.range(), 1));
        }
    }
    assert_eq!((lengths, charges(&world, 1)), (vec![4, 2, 1], vec![(0, 1)]));
}

#[test]
fn four_charges_on_one_shard_end_the_job_and_two_identical_ones_that_cannot_change() {
    for (failures, expected) in [
        (vec![stall(&[]), stall(&[]), stall(&[]), stall(&[])], "stalled"),
        (vec![crash(&[suspect(0, 1)]), crash(&[suspect(0, 2)]), crash(&[suspect(0, 3)]), crash(&[suspect(0, 4)])], "signalled"),
        (vec![crash(&[suspect(0, 7)]), crash(&[suspect(0, 7)])], "signalled"),
    ] {
        let mut world = World::new();
        let session = world.join(1, 1);
        world.planned_job(1, session, 1, 1);
        let last = failures.len() - 1;
        for (tried, failure) in failures.into_iter().enumerate() {
            assert_eq!(ending(&world, 1), "");
            let grant = patiently(&mut world, session);
            world.fail(&grant, failure);
            assert_eq!(ending(&world, 1) == expected, tried == last);
        }
    }
}

#[test]
fn a_record_that_is_found_guilty_twice_is_left_out_if_that_is_allowed() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.submit_as(crate::Submission { max_bad_records: 1, ..submission(1) });
    world.plan(id, session, 1, 1);
    for _ in 0..2 {
        let grant = patiently(&mut world, session);
        assert_eq!(grant.set_aside, []);
        world.fail(&grant, crash(&[suspect(0, 7)]));
    }
    let record = SetAside { shard: 0, record: 7 };
    assert!(world.facts.iter().any(|(_, fact)| *fact == Fact::SetAside { job: id, records: vec![record] }));
    assert_eq!(charges(&world, 1), [], "what was held against the shard was the record's");
    let grant = patiently(&mut world, session);
    assert_eq!(grant.set_aside, [record]);
    // A second one is more than the limit.
    world.fail(&grant, crash(&[suspect(0, 9)]));
    let grant = patiently(&mut world, session);
    world.fail(&grant, crash(&[suspect(0, 9)]));
    assert_eq!(ending(&world, 1), "signalled");
}

#[test]
fn more_bad_records_than_allowed_end_the_job_whoever_set_them_aside() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.submit_as(crate::Submission { max_bad_records: 3, ..submission(1) });
    world.plan(id, session, 4, 1);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let grant = world.grant(session).unwrap();
        let Outcome::Mapped { index, partition_bytes, tally, .. } = mapped(&grant.task.range(), 1) else { unreachable!() };
        let set_aside = Some((2, Digest::default()));
        answers.push(world.report(&grant, Ok(Outcome::Mapped { index, partition_bytes, tally, set_aside })).0.unwrap());
    }
    assert_eq!((answers, ending(&world, 1).as_str()), (vec![Answer::Accepted, Answer::Rejected], "too many bad records"));
}

#[test]
fn out_of_memory_is_tried_once_more_alone_with_twice_the_memory() {
    let mut world = World::new();
    let (small, large) = (world.join(1, 4), world.join(2, 8));
    world.planned_job(1, small, 4, 1);
    let oom = |limit_bytes| Failure {
        fault: Fault::OutOfMemory { limit_bytes, peak_bytes: 0 },
        suspects: [suspect(0, 1)].into(),
        files: Box::default(),
    };
    let grant = world.grant(small).unwrap();
    assert_eq!((grant.threads, grant.memory_bytes), (1, GIB));
    world.fail(&grant, oom(grant.memory_bytes));
    world.pass(1000);
    let grant = world.grant(large).unwrap();
    assert_eq!((&grant.task, grant.threads, grant.memory_bytes), (&Task::Map(0..1), 1, 2 * GIB));
    world.fail(&grant, oom(grant.memory_bytes));
    assert_eq!(ending(&world, 1), "out of memory");
}

#[test]
fn a_worker_with_three_charges_is_left_out_but_never_more_than_a_third() {
    let full = || -> Failure { Fault::DiskFull { path: PathBuf::from("/disk") }.into() };
    for (workers, left_out) in [(2, false), (3, true)] {
        let mut world = World::new();
        let sessions: Vec<_> = (1..=workers).map(|n| world.join(n, 1)).collect();
        world.planned_job(1, sessions[0], 8, 1);
        let mut notices = Vec::new();
        for _ in 0..3 {
            let grant = patiently(&mut world, sessions[0]);
            notices = world.fail(&grant, full());
            assert_eq!(world.grant(sessions[0]), None, "it is left alone for a while");
            for other in &sessions[1..] {
                world.beat(*other, &[]);
            }
        }
        assert_eq!(notices.contains(&Action::Notice(Notice::LeftOut(job(1), worker(1)))), left_out);
        assert_eq!(charges(&world, 1), [], "no shard is to blame");
        let other = world.join(20, 1);
        let grant = patiently(&mut world, other);
        assert!(matches!(grant.task, Task::Map(_)), "others go on");
        if left_out {
            // Too few are left for one to be left out.
            for session in &sessions[1..] {
                world.ask(|reply| Event::Leave { reply, session: *session });
            }
            assert!(world.facts.len() > 3);
            let grant = patiently(&mut world, sessions[0]);
            assert!(matches!(grant.task, Task::Map(_)), "it is let in again");
        }
    }
}

#[test]
fn what_fails_by_its_workers_fault_is_done_elsewhere_at_once_and_not_there_again_for_a_while() {
    let mut world = World::new();
    let sessions = [world.join(1, 1), world.join(2, 1)];
    world.planned_job(1, sessions[0], 1, 1);
    let grant = world.grant(sessions[0]).unwrap();
    assert_eq!(world.next(sessions[1], false), None);
    let actions = world.fail(&grant, Fault::DiskFull { path: PathBuf::from("/disk") }.into());
    let given =
        |action: &Action| matches!(action, Action::Notice(Notice::Granted(again, to, _)) if again.task == grant.task && *to == worker(2));
    assert!(actions.iter().any(given), "{actions:?}");
    let mut world = World::new();
    let only = world.join(1, 1);
    world.planned_job(1, only, 1, 1);
    let grant = world.grant(only).unwrap();
    world.fail(&grant, Fault::DiskFull { path: PathBuf::from("/disk") }.into());
    assert_eq!(world.next(only, false), None);
    for _ in 0..3 {
        world.pass(4_000);
        world.beat(only, &[]);
    }
    let actions = world.pass(3_000);
    assert!(actions.iter().any(|action| matches!(action, Action::Notice(Notice::Granted(..)))), "there is no elsewhere: {actions:?}");
}

#[test]
fn an_input_that_one_worker_does_not_see_is_its_fault_and_one_that_two_do_not_see_the_jobs() {
    let missing = || -> Failure { Fault::InputMissing { path: PathBuf::from("/in"), cause: String::new() }.into() };
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, one, 8, 1);
    let grant = world.grant(one).unwrap();
    world.fail(&grant, missing());
    assert_eq!((ending(&world, 1).as_str(), world.grant(one)), ("", None));
    let grant = patiently(&mut world, two);
    world.fail(&grant, missing());
    assert_eq!(ending(&world, 1), "input missing");
}

#[test]
fn a_worker_that_does_not_see_the_output_is_left_alone_and_costs_the_job_nothing() {
    let unseen = || -> Failure { Fault::OutputUnseen { path: PathBuf::from("/staging") }.into() };
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, one, 8, 1);
    // More often than any budget allows.
    for _ in 0..30 {
        let grant = world.grant(two).unwrap();
        world.fail(&grant, unseen());
        assert_eq!(world.grant(two), None, "it is left alone for a while");
        for _ in 0..30 {
            world.pass(1000);
            world.beat(one, &[]);
            world.beat(two, &[]);
        }
    }
    assert_eq!((ending(&world, 1).as_str(), charges(&world, 1)), ("", vec![]));
    let grant = world.grant(one).unwrap();
    assert!(matches!(grant.task, Task::Map(_)), "others go on, at once");
}

#[test]
fn a_job_whose_output_no_worker_sees_ends_at_its_start_and_later_only_when_its_budget_is_used_up() {
    let unseen = || -> Failure { Fault::OutputUnseen { path: PathBuf::from("/staging") }.into() };
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.submit(1);
    for (session, wanted) in [(one, ""), (two, "output unseen")] {
        let grant = patiently(&mut world, session);
        assert_eq!(grant.task, Task::Draft);
        world.fail(&grant, unseen());
        assert_eq!(ending(&world, 1), wanted);
    }
    world.ask(|reply| Event::Leave { reply, session: two });
    world.planned_job(2, one, 8, 1);
    let grant = patiently(&mut world, one);
    world.fail(&grant, unseen());
    assert_eq!(ending(&world, 2), "");
    let mut failures = 1;
    while ending(&world, 2).is_empty() {
        let grant = patiently(&mut world, one);
        world.fail(&grant, unseen());
        failures += 1;
    }
    assert_eq!((ending(&world, 2).as_str(), failures), ("too many attempts", 21));
}

#[test]
fn more_failures_than_the_budget_end_the_job() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 400, 1);
    let mut failures = 0;
    while ending(&world, 1).is_empty() {
        let grant = patiently(&mut world, session);
        // Another shard each time: none has four charges.
        world.fail(&grant, stall(&[suspect(grant.task.range().end - 1, 1)]));
        failures += 1;
    }
    // Two were accepted, draft and plan.
    assert_eq!((ending(&world, 1).as_str(), failures), ("too many attempts", 21));
}

#[test]
fn what_is_handed_back_is_granted_again_at_once() {
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, one, 8, 1);
    let grant = world.grant(one).unwrap();
    world.ask(|reply| Event::Drain { reply, worker: worker(1) });
    assert_eq!(world.beat(one, &[grant.attempt]).0, Some(Answer::Heartbeat { kill: vec![], drain: true }));
    world.fail(&grant, Fault::Drained.into());
    assert_eq!(world.grant(one), None, "it takes no more");
    assert_eq!(world.grant(two).unwrap().task.range().start, 0);
    assert_eq!(world.ask(|reply| Event::Leave { reply, session: one }).0, Some(Answer::Done));
    assert_eq!(world.ask(|reply| Event::Drain { reply, worker: worker(1) }).0, Some(Answer::Unknown));
}

#[test]
fn a_range_that_is_mapped_again_with_another_result_ends_the_job() {
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    let id = world.planned_job(1, one, 2, 1);
    let first = world.grant(one).unwrap();
    world.done(&first, mapped(&first.task.range(), 1));
    world.ask(|reply| Event::Leave { reply, session: one });
    let again = world.grant(two).unwrap();
    assert_eq!(again.task, first.task);
    let Outcome::Mapped { partition_bytes, tally, .. } = mapped(&again.task.range(), 1) else { unreachable!() };
    let other = Outcome::Mapped { index: Digest::default(), partition_bytes, tally, set_aside: None };
    let (answer, actions) = world.report(&again, Ok(other));
    assert_eq!(answer, Some(Answer::Rejected));
    let failed = Failed::NotDeterministic { shards: first.task.range(), first: digest(first.task.range()), second: Digest::default() };
    let fact = Fact::Ended { job: id, ending: Ending::Failed(Box::new(failed)) };
    assert!(actions.iter().any(|action| matches!(action, Action::Journal { fact: journaled, .. } if *journaled == fact)));
}
