//! A job from its submission to its end, when nothing goes wrong.

use std::collections::BTreeSet;

use shardmill_protocol::view::JobPhase;
use shardmill_protocol::{Fence, Grant, Input, Task};

use super::world::*;
use crate::{Action, Answer, Ending, Event, Fact, Notice, PublishResult, ReplyId};

#[test]
fn a_job_goes_through_its_phases_and_each_rests_on_the_one_before() {
    let mut world = World::new();
    let session = world.join(1, 2);
    let id = world.submit(1);
    let mut tasks = Vec::new();
    let mut mapped = Vec::new();
    while let Some(grant) = world.grant(session) {
        tasks.push(grant.task.clone());
        let input = |number, name: &str, of| Input { attempt: attempt(id, number), name: name.to_owned(), digest: of };
        let inputs = match &grant.task {
            Task::Draft => vec![],
            Task::Survey(_) => vec![input(1, "draft", digest("draft"))],
            Task::Plan => {
                vec![input(1, "draft", digest("draft")), input(2, "surveys", digest(0..2)), input(3, "surveys", digest(2..3))]
            }
            Task::Map(_) | Task::Reduce(_) => vec![input(4, "plan", digest("plan"))],
        };
        assert_eq!(grant.inputs, inputs);
        let (answer, actions) = world.report(&grant, Ok(outcome(&grant, 4, 2)));
        assert_eq!(answer, Some(Answer::Accepted));
        match &grant.task {
            Task::Plan => {
                let file = input(4, "weights", digest("weights"));
                assert!(actions.contains(&Action::ReadWeights { job: id, file }));
                assert_eq!(world.grant(session), None, "nothing is mapped before the weights are known");
                world.weigh(id, 4);
            }
            Task::Map(_) => mapped.push(*grant),
            Task::Draft | Task::Survey(_) => {}
            Task::Reduce(_) => {
                assert_eq!(grant.list, Some(list_of(&mapped)));
                assert!(actions.contains(&Action::Assemble { job: id }));
            }
        }
    }
    let expected = [Task::Draft, Task::Survey(0..2), Task::Survey(2..3), Task::Plan, Task::Map(0..2), Task::Map(2..4), Task::Reduce(0..2)];
    assert_eq!(tasks, expected);

    let manifest = digest("manifest");
    assert_eq!(
        world.send(Event::Assembled { job: id, manifest: Ok(manifest) }),
        [
            Action::Journal { number: world.facts.last().unwrap().0, fact: Fact::CommitBegun { job: id, manifest } },
            Action::Reveal { job: id }
        ]
    );
    let parts: Vec<_> = world.scheduler.manifest(id).unwrap().parts.iter().map(|(_, part)| part.name.clone()).collect();
    assert_eq!(parts, ["part-0", "part-1"]);
    let ended = world.facts.last().unwrap().0 + 1;
    assert_eq!(
        world.send(Event::Revealed { job: id, result: PublishResult::Published }),
        [
            Action::Journal { number: ended, fact: Fact::Ended { job: id, ending: Ending::Succeeded } },
            Action::Notice(Notice::Phase(id, JobPhase::Succeeded)),
            Action::Sweep { job: id, keep_staging: false },
        ]
    );
    assert_eq!(world.send(Event::Swept { job: id }), [Action::Journal { number: ended + 1, fact: Fact::Swept { job: id } }]);
    assert_eq!(world.send(Event::Swept { job: id }), []);
    let status = world.scheduler.job_status(id, world.now).unwrap();
    assert_eq!((status.phase, status.tally.records, status.output_records), (JobPhase::Succeeded, 4, 2));
}

#[test]
fn a_job_without_shards_still_has_its_empty_parts() {
    let mut world = World::new();
    let session = world.join(1, 1);
    let id = world.submit(1);
    world.plan(id, session, 0, 1);
    let grant = world.grant(session).unwrap();
    assert_eq!((&grant.task, grant.list), (&Task::Reduce(0..1), Some(list_of(&[]))));
    assert_eq!(sources(&world, &grant), Some(vec![]));
    let (_, actions) = world.report(&grant, Ok(reduced(&grant)));
    assert!(actions.contains(&Action::Assemble { job: id }));
    world.publish(id);
    assert!(world.scheduler.has_ended(id));
}

#[test]
fn ranges_are_large_at_first_and_small_at_the_end_and_cover_every_shard_once() {
    let mut world = World::new();
    let sessions: Vec<_> = (1..=4).map(|n| world.join(n, 2)).collect();
    world.planned_job(1, sessions[0], 1000, 1);
    let mut grants: Vec<Grant> = Vec::new();
    'all: loop {
        for session in &sessions {
            let Some(grant) = world.grant(*session).filter(|grant| matches!(grant.task, Task::Map(_))) else { break 'all };
            world.done(&grant, mapped(&grant.task.range(), 1));
            grants.push(*grant);
        }
    }
    let lengths: Vec<_> = grants.iter().map(|grant| grant.task.range().len()).collect();
    assert_eq!(lengths[0], 125, "half of a quarter, as its worker has a quarter of the threads");
    assert!(lengths.is_sorted_by(|one, other| one >= other), "{lengths:?}");
    assert!(lengths.len() < 60 && *lengths.last().unwrap() == 1, "{lengths:?}");
    let shards: BTreeSet<_> = grants.iter().flat_map(|grant| grant.task.range()).collect();
    assert_eq!((shards.len(), lengths.iter().sum::<usize>()), (1000, 1000));
}

#[test]
fn a_grant_is_answered_when_its_job_is_on_the_disk_and_not_before() {
    let mut world = World::new();
    let session = world.join(1, 2);
    world.syncs = false;
    let (answer, actions) = world.ask(|reply| Event::Submit { reply, submission: submission(1) });
    assert_eq!(answer, None);
    assert_eq!(actions, [Action::Journal { number: 3, fact: Fact::Submitted(submission(1)) }]);
    assert_eq!(world.next(session, false), None);
    let asked = ReplyId(3);
    let grant = Grant {
        attempt: attempt(job(1), 1),
        fence: Fence { epoch: world.scheduler.epoch(), session, grant: 1 },
        task: Task::Draft,
        threads: 2,
        memory_bytes: 2 * GIB,
        inputs: vec![],
        set_aside: vec![],
        list: None,
    };
    assert_eq!(
        world.sync_all(),
        [
            Action::Answer { reply: ReplyId(2), answer: Answer::Submitted { job: job(1), new: true } },
            Action::Notice(Notice::Phase(job(1), JobPhase::Planning)),
            Action::Notice(Notice::Granted(Box::new(grant.clone()), worker(1), false)),
            Action::Answer { reply: asked, answer: Answer::Grant(Box::new(grant)) },
        ]
    );
}
