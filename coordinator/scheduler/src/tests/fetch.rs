//! Map outputs that are lost, and reduce attempts that cannot fetch them.

use shardmill_protocol::{Digest, Fault, Grant, Outcome, SessionId, Task};

use super::world::*;
use crate::{Action, Answer, Ending, Event, Fact, Failed, Notice};

/// A job with four map outputs on the first of three workers, and a reduce attempt on the second.
fn reducing() -> (World, Vec<SessionId>, Vec<Grant>, Box<Grant>) {
    let mut world = World::new();
    let sessions: Vec<_> = (1..=3).map(|n| world.join(n, 1)).collect();
    world.planned_job(1, sessions[0], 4, 4);
    let maps = world.map_all(sessions[0], 4);
    let reduce = world.grant(sessions[1]).unwrap();
    assert!(matches!(reduce.task, Task::Reduce(_)) && reduce.list == Some(list_of(&maps)));
    (world, sessions, maps, reduce)
}

fn trouble(world: &mut World, session: SessionId, output: &Grant, damaged: bool) -> Vec<Action> {
    world.send(Event::FetchTrouble { session, output: output.attempt, damaged })
}

#[test]
fn an_output_is_lost_when_two_workers_or_one_three_times_cannot_fetch_it_or_it_is_damaged() {
    for troubles in [vec![(1, false), (2, false)], vec![(1, false), (1, false), (1, false)], vec![(1, true)]] {
        let (mut world, sessions, maps, reduce) = reducing();
        let mut last = Vec::new();
        for (times, (n, damaged)) in troubles.iter().enumerate() {
            assert!(last.is_empty(), "before the {times}-th it is not lost");
            last = trouble(&mut world, sessions[*n], &maps[1], *damaged);
        }
        let number = world.facts.last().unwrap().0;
        let shards = maps[1].task.range();
        let damaged = troubles.contains(&(1, true));
        assert_eq!(
            last,
            [
                Action::Journal { number, fact: Fact::OutputLost { attempt: maps[1].attempt, shards, damaged } },
                Action::Notice(Notice::OutputLost(maps[1].attempt, worker(1))),
            ]
        );
        assert_eq!(sources(&world, &reduce), None, "the list is not whole");
        assert_eq!(world.grant(sessions[0]), None, "not where it could not be fetched from, and nothing is reduced meanwhile");
        let again = world.grant(sessions[2]).unwrap();
        assert_eq!(again.task, maps[1].task, "it is mapped again, whole");
        assert_eq!(trouble(&mut world, sessions[1], &maps[1], true), [], "of what is lost nothing more is to be told");
        world.done(&again, mapped(&again.task.range(), 4));
        let holders: Vec<_> = sources(&world, &reduce).unwrap().into_iter().map(|(output, holder)| (output.attempt, holder)).collect();
        assert_eq!(holders[1], (again.attempt, worker(3)));
        assert_eq!((holders.len(), holders[0].1), (maps.len(), worker(1)));
        world.done(&reduce, reduced(&reduce));
    }
}

#[test]
fn a_reduce_attempt_that_gives_up_fetching_is_not_charged() {
    let (mut world, sessions, maps, reduce) = reducing();
    let fault = Fault::FetchFailed { worker: worker(1), output: maps[0].attempt, cause: String::new() };
    world.fail(&reduce, fault.into());
    let view = world.scheduler.job_view(job(1), world.now).unwrap();
    assert_eq!((view.status.retries, view.phases.last().unwrap().charges.len()), (0, 0));
    assert_eq!(view.lost, [], "one complaint is not enough");
    trouble(&mut world, sessions[2], &maps[0], false);
    assert_eq!(world.scheduler.job_view(job(1), world.now).unwrap().lost, [maps[0].task.range()]);
}

#[test]
fn whoever_serves_bad_data_is_charged_and_its_output_is_lost() {
    let (mut world, sessions, maps, reduce) = reducing();
    let actions = world.fail(&reduce, Fault::ServedBadData { worker: worker(1), output: maps[2].attempt }.into());
    assert!(actions.contains(&Action::Notice(Notice::OutputLost(maps[2].attempt, worker(1)))));
    assert_eq!(world.grant(sessions[0]), None, "it is left alone for a while");
    assert_eq!(world.grant(sessions[1]).unwrap().task, maps[2].task);
}

#[test]
fn a_worker_whose_own_output_is_gone_says_so_and_it_is_mapped_again() {
    let (mut world, sessions, maps, reduce) = reducing();
    world.fail(&reduce, Fault::OutputLost { output: maps[0].attempt, damaged: false }.into());
    let again = world.grant(sessions[1]).unwrap();
    assert_eq!(again.task, maps[0].task);
    world.done(&again, mapped(&again.task.range(), 4));
    assert_eq!(world.grant(sessions[1]).unwrap().task, reduce.task);
}

#[test]
fn an_output_that_is_damaged_four_times_ends_the_job_however_it_is_noticed() {
    let (mut world, sessions, maps, mut reduce) = reducing();
    let (mut output, shards) = (maps[1].clone(), maps[1].task.range());
    for (time, holder) in [0, 2, 0, 2].into_iter().enumerate() {
        let facts = world.facts.len();
        match time {
            1 => drop(world.fail(&reduce, Fault::ServedBadData { worker: worker(holder as u128 + 1), output: output.attempt }.into())),
            2 => drop(world.fail(&reduce, Fault::OutputLost { output: output.attempt, damaged: true }.into())),
            _ => drop(trouble(&mut world, sessions[1], &output, true)),
        }
        if time == 3 {
            let workers = [1, 3, 1, 3].map(worker).into();
            let ending = Ending::Failed(Box::new(Failed::OutputDamaged { output: output.attempt, shards, workers }));
            assert_eq!(world.facts.last().unwrap().1, Fact::Ended { job: job(1), ending }, "it ends instead of being lost once more");
            assert_eq!(world.facts.len(), facts + 1);
            return;
        }
        assert_eq!(world.facts[facts].1, Fact::OutputLost { attempt: output.attempt, shards: shards.clone(), damaged: true });
        trouble(&mut world, sessions[1], &output, true);
        assert_eq!(world.facts.len(), facts + 1 + usize::from(time == 1), "what is told twice counts once; an attempt is charged");
        // Whoever had it is left alone for a while.
        world.pass(1_000);
        output = *world.grant(sessions[2 - holder]).unwrap();
        assert_eq!(output.task, maps[1].task);
        world.done(&output, mapped(&shards, 4));
        if time > 0 {
            reduce = world.grant(sessions[1]).unwrap();
        }
    }
}

#[test]
fn an_output_that_is_lost_with_its_worker_or_gone_is_mapped_again_any_number_of_times() {
    let (mut world, sessions, maps, mut reduce) = reducing();
    world.ask(|reply| Event::Leave { reply, session: sessions[0] });
    let mut output = world.map_all(sessions[2], 4).remove(0);
    for n in 4..14 {
        let next = world.join(n, 1);
        if n % 2 == 0 {
            world.fail(&reduce, Fault::OutputLost { output: output.attempt, damaged: false }.into());
        } else {
            world.ask(|reply| Event::Leave { reply, session: output.fence.session });
        }
        output = world.map_all(next, 4).remove(0);
        assert_eq!(output.task, maps[0].task);
        if n % 2 == 0 {
            reduce = world.grant(sessions[1]).unwrap();
        }
    }
    world.done(&reduce, reduced(&reduce));
}

#[test]
fn a_reduce_report_of_another_list_is_rejected() {
    let (mut world, _, _, reduce) = reducing();
    let Outcome::Reduced { parts, tally, .. } = reduced(&reduce) else { unreachable!() };
    let wrong = Outcome::Reduced { list: Digest::default(), parts, tally };
    assert_eq!(world.report(&reduce, Ok(wrong)).0, Some(Answer::Rejected));
    let view = world.scheduler.job_view(job(1), world.now).unwrap();
    assert_eq!((view.status.retries, view.phases.last().unwrap().done), (1, 0));
}

#[test]
fn outputs_of_a_worker_that_is_lost_or_leaves_are_mapped_again_and_those_no_longer_needed_are_not() {
    for leaves in [true, false] {
        let (mut world, sessions, maps, reduce) = reducing();
        if leaves {
            world.ask(|reply| Event::Leave { reply, session: sessions[0] });
        } else {
            world.pass(8000);
            world.beat(sessions[1], &[reduce.attempt]);
            world.beat(sessions[2], &[]);
            world.pass(7000);
            world.beat(sessions[1], &[reduce.attempt]);
            world.beat(sessions[2], &[]);
        }
        let view = world.scheduler.job_view(job(1), world.now).unwrap();
        assert_eq!(view.lost.len(), maps.len());
        let again = world.map_all(sessions[2], 4);
        assert_eq!(again.len(), maps.len());
        world.done(&reduce, reduced(&reduce));
        while let Some(grant) = world.grant(sessions[1]) {
            world.done(&grant, reduced(&grant));
        }
        // Everything is reduced: nobody needs them any more.
        let (_, actions) = world.ask(|reply| Event::Leave { reply, session: sessions[2] });
        assert!(!actions.iter().any(|action| matches!(action, Action::Notice(Notice::OutputLost(..)))));
    }
}
