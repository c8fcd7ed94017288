//! Cancelling a job, whatever it is at.

use shardmill_protocol::Fault;
use shardmill_protocol::view::JobPhase;

use super::world::*;
use crate::{Action, Answer, CancelAnswer, Ending, Event, Fact, Notice, ReplyId};

#[test]
fn a_cancelled_job_is_swept_once_its_worker_has_killed_what_it_ran() {
    let mut world = World::new();
    let session = world.join(1, 2);
    let id = world.planned_job(1, session, 8, 1);
    let grant = world.grant(session).unwrap();
    let number = world.facts.len() as u64 + 1;
    let (answer, actions) = world.ask(|reply| Event::Cancel { reply, job: id });
    assert_eq!(answer, Some(Answer::Cancel(CancelAnswer::Cancelling)));
    let reply = ReplyId(match &actions[3] {
        Action::Answer { reply, .. } => reply.0,
        action => panic!("{action:?}"),
    });
    assert_eq!(
        actions,
        [
            Action::Journal { number, fact: Fact::Ended { job: id, ending: Ending::Cancelled } },
            Action::Notice(Notice::Ended(grant.attempt, worker(1), Box::new(Fault::Cancelled.into()))),
            Action::Notice(Notice::Phase(id, JobPhase::Cancelled)),
            Action::Answer { reply, answer: Answer::Cancel(CancelAnswer::Cancelling) },
        ]
    );
    let (answer, actions) = world.beat(session, &[grant.attempt]);
    assert_eq!((answer, actions.len()), (Some(Answer::Heartbeat { kill: vec![grant.attempt], drain: false }), 1));
    let (_, actions) = world.beat(session, &[]);
    assert_eq!(actions[0], Action::Sweep { job: id, keep_staging: false });
    assert_eq!(world.report(&grant, Ok(outcome(&grant, 8, 1))).0, Some(Answer::Rejected));
    assert_eq!(world.ask(|reply| Event::Cancel { reply, job: id }).0, Some(Answer::Cancel(CancelAnswer::Cancelling)));
}

#[test]
fn a_worker_that_cannot_kill_does_not_keep_staging_for_ever() {
    let mut world = World::new();
    let session = world.join(1, 2);
    let id = world.submit(1);
    let grant = world.grant(session).unwrap();
    world.ask(|reply| Event::Cancel { reply, job: id });
    for _ in 0..9 {
        assert_eq!(world.pass(1000), []);
        world.beat(session, &[grant.attempt]);
    }
    assert_eq!(world.pass(1000), [Action::Sweep { job: id, keep_staging: false }]);
}

#[test]
fn a_job_can_be_cancelled_until_its_commit_has_begun() {
    let mut world = World::new();
    let session = world.join(1, 1);
    for (n, committed) in [(1, false), (2, true)] {
        let id = world.submit(n);
        world.plan(id, session, 0, 1);
        let grant = world.grant(session).unwrap();
        world.done(&grant, reduced(&grant));
        if committed {
            world.send(Event::Assembled { job: id, manifest: Ok(digest("manifest")) });
        }
        let expected = if committed { CancelAnswer::TooLate } else { CancelAnswer::Cancelling };
        assert_eq!(world.ask(|reply| Event::Cancel { reply, job: id }).0, Some(Answer::Cancel(expected)));
        if committed {
            world.publish(id);
            assert_eq!(world.ask(|reply| Event::Cancel { reply, job: id }).0, Some(Answer::Cancel(CancelAnswer::Ended)));
        } else {
            assert_eq!(world.send(Event::Assembled { job: id, manifest: Ok(digest("manifest")) }), [], "it comes too late");
        }
    }
    assert_eq!(world.ask(|reply| Event::Cancel { reply, job: job(9) }).0, Some(Answer::Unknown));
}
