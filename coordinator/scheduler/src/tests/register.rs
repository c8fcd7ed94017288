//! Registering: new sessions, resumed ones, and what a restarted coordinator learns from them.

use std::time::Duration;

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::{Digest, Fence, Grant, Task};

use super::world::*;
use crate::{Action, Answer, Event, Fact, HeldOutput, Notice, Registration, ReplyId};

fn registration(threads: u32) -> Registration {
    Registration { threads, memory_bytes: u64::from(threads) * GIB, ..Registration::default() }
}

#[test]
fn a_worker_is_journaled_when_it_first_comes_and_answered_then() {
    let mut world = World::new();
    let register = |reply| Event::Register { reply, worker: worker(1), registration: registration(2) };
    let (answer, actions) = world.ask(register);
    let epoch = world.scheduler.epoch();
    let Some(Answer::Registered { session, .. }) = answer.clone() else { panic!("{answer:?}") };
    let reply = ReplyId(1);
    let first = Answer::Registered { epoch, session, adopted: vec![], kill: vec![] };
    assert_eq!(
        actions,
        [
            Action::Journal { number: 2, fact: Fact::WorkerKnown(worker(1)) },
            Action::Notice(Notice::WorkerJoined(worker(1))),
            Action::Answer { reply, answer: first },
        ]
    );
}

#[test]
fn a_worker_that_comes_back_within_its_lease_resumes_its_session_and_its_attempts() {
    let mut world = World::new();
    let session = world.join(1, 2);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    world.pass(14_000);
    let stranger = attempt(job(1), 99);
    let mut attempts = vec![held(&grant), held(&grant)];
    attempts[1].attempt = stranger;
    let answer = world.register_as(1, Registration { resumes: Some(session), attempts, ..registration(2) });
    let (epoch, adopted) = (world.scheduler.epoch(), vec![(grant.attempt, grant.fence)]);
    assert_eq!(answer, Answer::Registered { epoch, session, adopted, kill: vec![stranger] });
    world.pass(14_000);
    world.done(&grant, mapped(&grant.task.range(), 1));
}

#[test]
fn what_is_sealed_and_not_yet_answered_goes_on_with_its_output() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    let sealed = Registration { attempts: vec![held(&grant)], outputs: vec![kept(&grant)], ..registration(1) };
    // Its connection breaks; then the coordinator dies.
    let Answer::Registered { adopted, kill, .. } = world.register_as(1, Registration { resumes: Some(session), ..sealed.clone() }) else {
        panic!("it is registered")
    };
    assert_eq!((adopted, kill), (vec![(grant.attempt, grant.fence)], vec![]));
    world.restart();
    world.weigh(job(1), 8);
    let Answer::Registered { adopted, kill, .. } = world.register_as(1, sealed) else { panic!("it is registered") };
    assert_eq!((adopted.len(), kill), (1, vec![]));
    let adopted = Grant { fence: adopted[0].1, ..*grant };
    world.done(&adopted, mapped(&adopted.task.range(), 1));
}

#[test]
fn a_worker_that_was_started_anew_keeps_what_it_still_has_and_loses_the_rest() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let helper = world.join(2, 1);
    world.planned_job(1, session, 8, 1);
    let first = world.grant(session).unwrap();
    world.done(&first, mapped(&first.task.range(), 1));
    let second = world.grant(session).unwrap();
    world.done(&second, mapped(&second.task.range(), 1));
    let running = world.grant(session).unwrap();
    let reply = world.reply();
    let again = Registration { attempts: vec![held(&running)], outputs: vec![kept(&first)], ..registration(1) };
    let actions = world.send(Event::Register { reply, worker: worker(1), registration: again });
    let Some(Answer::Registered { session: new, adopted, kill, .. }) = answer_to(reply, &actions) else { panic!("{actions:?}") };
    let fence = Fence { epoch: world.scheduler.epoch(), session: new, grant: running.fence.grant + 1 };
    assert_eq!((adopted, kill), (vec![(running.attempt, fence)], vec![]));
    let lost = Fact::OutputLost { attempt: second.attempt, shards: second.task.range(), damaged: false };
    assert!(actions.iter().any(|action| matches!(action, Action::Journal { fact, .. } if *fact == lost)), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Notice(Notice::OutputLost(output, _)) if *output == first.attempt)));
    // The old fence is of no use, the new one is.
    let range = running.task.range();
    assert_eq!(world.report(&running, Ok(mapped(&range, 1))).0, Some(Answer::Rejected));
    let mut adopted = running.clone();
    adopted.fence = fence;
    world.done(&adopted, mapped(&range, 1));
    // What was lost is granted first, and whole.
    assert_eq!(world.grant(helper).unwrap().task, second.task);
}

#[test]
fn after_a_restart_nothing_is_granted_until_every_known_worker_has_registered() {
    let mut world = World::new();
    let (one, two) = (world.join(1, 1), world.join(2, 1));
    world.planned_job(1, one, 8, 1);
    let done = world.grant(one).unwrap();
    world.done(&done, mapped(&done.task.range(), 1));
    let running = world.grant(two).unwrap();
    let actions = world.restart();
    assert!(matches!(actions[0], Action::Journal { fact: Fact::Epoch(epoch), .. } if epoch.0 == 2));
    assert!(matches!(actions[1..], [Action::ReadWeights { .. }]), "{actions:?}");
    world.weigh(job(1), 8);

    let Answer::Registered { session: one, kill, .. } =
        world.register_as(1, Registration { outputs: vec![kept(&done)], ..registration(1) })
    else {
        panic!("it is registered")
    };
    assert_eq!(kill, []);
    assert_eq!(world.next(one, false), None);
    let mut stranger = held(&running);
    stranger.attempt.number += 100;
    let attempts = vec![held(&running), stranger.clone()];
    let reply = world.reply();
    let actions = world.send(Event::Register { reply, worker: worker(2), registration: Registration { attempts, ..registration(1) } });
    let Some(Answer::Registered { adopted, kill, .. }) = answer_to(reply, &actions) else { panic!("{actions:?}") };
    assert_eq!(adopted.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [running.attempt], "it runs on");
    assert_eq!(kill, [stranger.attempt], "its range is another's");
    let granted = actions.iter().find_map(|action| match action {
        Action::Notice(Notice::Granted(grant, _, _)) => Some(grant.task.range()),
        _ => None,
    });
    assert_eq!(granted.unwrap().start, running.task.range().end, "what is done and what runs is not granted again");
    assert_eq!(world.scheduler.job_view(job(1), world.now).unwrap().lost, []);
}

#[test]
fn after_a_lease_a_restarted_coordinator_waits_no_longer_and_what_is_not_there_is_lost() {
    let mut world = World::new();
    let one = world.join(1, 1);
    world.join(2, 1);
    world.planned_job(1, one, 8, 1);
    let done = world.grant(one).unwrap();
    world.done(&done, mapped(&done.task.range(), 1));
    world.restart();
    world.weigh(job(1), 8);
    let two = world.join(2, 1);
    assert_eq!(world.next(two, false), None);
    world.pass(11_000);
    world.beat(two, &[]);
    assert_eq!(world.scheduler.next_deadline(), Some(at(15_000)));
    let actions = world.pass(4000);
    let journaled: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Journal { fact, .. } => Some(fact.clone()),
            _ => None,
        })
        .collect();
    let lost = Fact::OutputLost { attempt: done.attempt, shards: done.task.range(), damaged: false };
    assert_eq!(journaled, [Fact::WorkerForgotten(worker(1)), lost]);
    assert!(
        actions.iter().any(|action| matches!(action, Action::Notice(Notice::Granted(grant, _, _)) if grant.task == done.task)),
        "{actions:?}"
    );
}

#[test]
fn an_output_with_another_digest_is_not_attached() {
    let mut world = World::new();
    let one = world.join(1, 1);
    world.planned_job(1, one, 1, 1);
    let done = world.grant(one).unwrap();
    world.done(&done, mapped(&done.task.range(), 1));
    world.restart();
    let wrong = HeldOutput { index: Digest::default(), ..kept(&done) };
    let Answer::Registered { kill, .. } = world.register_as(1, Registration { outputs: vec![wrong], ..registration(1) }) else {
        panic!("it is registered")
    };
    assert_eq!(kill, [done.attempt]);
    assert_eq!(world.scheduler.job_view(job(1), world.now).unwrap().lost, [done.task.range()]);
}

#[test]
fn a_report_that_was_accepted_before_the_restart_is_accepted_again_and_its_output_is_there() {
    let mut world = World::new();
    let one = world.join(1, 1);
    world.planned_job(1, one, 1, 1);
    let done = world.grant(one).unwrap();
    world.done(&done, mapped(&done.task.range(), 1));
    world.restart();
    // The worker did not hear the answer, and takes it for an attempt.
    let answer = world.register_as(1, Registration { attempts: vec![held(&done)], ..registration(1) });
    assert!(matches!(answer, Answer::Registered { adopted, kill, .. } if adopted.is_empty() && kill.is_empty()));
    assert_eq!(world.report(&done, Ok(mapped(&(0..1), 1))).0, Some(Answer::Accepted), "whatever its fence");
    assert_eq!(world.scheduler.job_view(job(1), world.now).unwrap().lost, []);
}

#[test]
fn what_runs_is_adopted_though_the_end_of_the_attempt_before_it_was_forgotten() {
    let mut world = World::new();
    let one = world.join(1, 1);
    world.planned_job(1, one, 8, 1);
    let ended = world.grant(one).unwrap();
    world.done(&ended, mapped(&ended.task.range(), 1));
    let running = world.grant(one).unwrap();
    // The coordinator dies before what it has accepted is on its disk.
    assert!(matches!(world.facts.pop(), Some((_, Fact::Done { .. }))));
    world.restart();
    world.weigh(job(1), 8);
    let attempts = vec![held(&ended), held(&running)];
    let Answer::Registered { adopted, kill, .. } = world.register_as(1, Registration { attempts, ..registration(1) }) else {
        panic!("it is registered")
    };
    assert_eq!(kill, []);
    assert_eq!(adopted.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [ended.attempt, running.attempt]);
    let [ended, running] = [(ended, adopted[0].1), (running, adopted[1].1)].map(|(grant, fence)| Grant { fence, ..*grant });
    world.done(&running, mapped(&running.task.range(), 1));
    world.done(&ended, mapped(&ended.task.range(), 1));
    assert_eq!(world.scheduler.job_view(job(1), world.now).unwrap().status.units[&TaskKind::Map].0, u64::from(running.task.range().end));
}

#[test]
fn an_attempt_whose_output_is_lost_is_not_taken_up_again_though_its_worker_never_heard_that_it_was_accepted() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    world.done(&grant, mapped(&grant.task.range(), 1));
    world.pass(5000);
    world.pass(10_000);
    let back = Registration { attempts: vec![held(&grant)], ..registration(1) };
    let Answer::Registered { adopted, kill, .. } = world.register_as(1, back) else { panic!("it may come at once") };
    assert_eq!((adopted, kill), (vec![], vec![grant.attempt]));
}

#[test]
fn what_began_before_a_restart_is_done_again() {
    let mut world = World::new();
    let session = world.join(1, 1);
    for n in 1..=4 {
        world.submit(n);
        world.plan(job(n), session, 0, 1);
        let reduce = world.grant(session).unwrap();
        world.done(&reduce, reduced(&reduce));
    }
    for n in 2..=4 {
        world.send(Event::Assembled { job: job(n), manifest: Ok(digest("manifest")) });
    }
    world.send(Event::Revealed { job: job(3), result: crate::PublishResult::Published });
    world.publish(job(4));
    let actions = world.restart();
    assert_eq!(
        actions[1..],
        [Action::Assemble { job: job(1) }, Action::Reveal { job: job(2) }, Action::Sweep { job: job(3), keep_staging: false }]
    );
}

#[test]
fn a_worker_that_flaps_is_asked_to_wait() {
    let mut world = World::new();
    for _ in 0..5 {
        world.join(1, 1);
    }
    assert_eq!(world.register_as(1, registration(1)), Answer::RegisterLater(Duration::from_secs(1)));
    world.pass(1000);
    world.join(1, 1);
}

#[test]
fn a_job_that_needs_more_memory_for_a_thread_than_any_worker_has_ends_and_one_that_fits_fewer_threads_gets_those() {
    let mut world = World::new();
    let session = world.join(1, 4);
    let id = world.submit(1);
    let draft = world.grant(session).unwrap();
    world.done(&draft, outcome(&draft, 8, 1));
    let plan = |thread_memory_bytes| {
        let shardmill_protocol::Outcome::Planned { plan, weights, facts } = planned(8, 1) else { unreachable!() };
        let facts = shardmill_protocol::task::PlanFacts { thread_memory_bytes, ..facts };
        shardmill_protocol::Outcome::Planned { plan, weights, facts }
    };
    let mut grant = world.grant(session).unwrap();
    while let Task::Survey(_) = grant.task {
        world.done(&grant, outcome(&grant, 8, 1));
        grant = world.grant(session).unwrap();
    }
    world.done(&grant, plan(3 * GIB / 2));
    world.weigh(id, 8);
    let map = world.grant(session).unwrap();
    assert_eq!((map.threads, map.memory_bytes), (2, 4 * GIB), "two threads with 1.5 GiB each fit into 4 GiB, three do not");

    let mut world = World::new();
    let session = world.join(1, 4);
    let id = world.submit(1);
    let draft = world.grant(session).unwrap();
    world.done(&draft, shardmill_protocol::Outcome::Drafted { draft: digest("draft"), surveys: 0 });
    let grant = world.grant(session).unwrap();
    world.done(&grant, plan(5 * GIB));
    world.weigh(id, 8);
    let ending = world.scheduler.job_status(id, world.now).unwrap().ending.unwrap();
    assert_eq!(ending.kind, "too little memory");
}

#[test]
fn attempts_that_were_accepted_or_lost_before_a_restart_are_shown_after_it() {
    let mut world = World::new();
    let session = world.join(1, 1);
    world.planned_job(1, session, 4, 1);
    let maps = world.map_all(session, 1);
    world.send(Event::FetchTrouble { session, output: maps[0].attempt, damaged: true });
    world.restart();
    let view = world.scheduler.job_view(job(1), world.now).unwrap();
    let states: Vec<_> = view.attempts.iter().map(|view| (view.attempt, view.state)).collect();
    use shardmill_protocol::view::AttemptState::{Accepted, Lost};
    let state = |grant: &shardmill_protocol::Grant| (grant.attempt, if grant.attempt == maps[0].attempt { Lost } else { Accepted });
    let planned = [(attempt(job(1), 1), Accepted), (attempt(job(1), 2), Accepted)];
    assert_eq!(states, planned.into_iter().chain(maps.iter().map(state)).collect::<Vec<_>>());
}
