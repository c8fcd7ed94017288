//! What must be true whatever happens, as it is seen from outside: checked against everything that the scheduler says.

use std::collections::{BTreeMap, BTreeSet};

use shardmill_protocol::task::list_digest;
use shardmill_protocol::{AttemptId, Digest, Epoch, Fence, JobId, Outcome, SessionId, Task};

use crate::{Action, Answer, Ending, Event, Fact, Notice, Scheduler};

/// What was seen so far, across all epochs.
#[derive(Default)]
pub(super) struct Witness {
    /// The fences that were given out, by attempt: the last one counts.
    fences: BTreeMap<AttemptId, Fence>,
    grants: BTreeSet<(Epoch, u64)>,
    sessions: BTreeSet<SessionId>,
    /// What somebody was told, and must be true for ever.
    accepted: BTreeSet<AttemptId>,
    submitted: BTreeSet<JobId>,
    ended: BTreeMap<JobId, Ending>,
    pub(super) visible: BTreeSet<JobId>,
    pub(super) hash: u64,
}

impl Witness {
    /// Looks at what follows from an event.
    pub(super) fn see(&mut self, scheduler: &Scheduler, event: &Event, actions: &[Action], journal: &[(u64, Fact)], synced: u64) {
        self.hash =
            format!("{event:?} {actions:?}").bytes().fold(self.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        for action in actions {
            match action {
                Action::Journal { fact, .. } => self.journaled(scheduler, event, fact),
                Action::Notice(Notice::Granted(grant, _, _)) => {
                    assert!(self.fences.insert(grant.attempt, grant.fence).is_none(), "I8: attempts are never numbered twice");
                    assert_eq!(grant.fence.epoch, scheduler.epoch());
                    assert!(self.grants.insert((grant.fence.epoch, grant.fence.grant)), "I8: grants are never numbered twice");
                }
                Action::Answer { answer: Answer::Accepted, .. } => {
                    let (Event::Report { .. } | Event::Synced { .. }) = event else { panic!("who was accepted by {event:?}?") };
                }
                Action::Answer { answer: Answer::Registered { epoch, adopted, session, .. }, .. } => {
                    assert_eq!(*epoch, scheduler.epoch(), "I11");
                    self.sessions.insert(*session);
                    self.fences.extend(adopted.iter().copied());
                }
                Action::Answer { answer: Answer::Submitted { job, .. }, .. } => {
                    self.submitted.insert(*job);
                }
                Action::Reveal { job } => {
                    let begun =
                        |(number, fact): &(u64, Fact)| *number <= synced && matches!(fact, Fact::CommitBegun { job: of, .. } if of == job);
                    assert!(journal.iter().any(begun), "I4: nothing is revealed before its commit is on the disk");
                    check_manifest(scheduler, *job);
                    self.visible.insert(*job);
                }
                Action::Sweep { job, .. } => {
                    let ended =
                        |(number, fact): &(u64, Fact)| *number <= synced && matches!(fact, Fact::Ended { job: of, .. } if of == job);
                    assert!(journal.iter().any(ended), "nothing is swept before its end is on the disk");
                }
                _ => {}
            }
        }
    }

    /// Notes what a worker or client was told.
    pub(super) fn told_accepted(&mut self, attempt: AttemptId) {
        self.accepted.insert(attempt);
    }

    fn journaled(&mut self, scheduler: &Scheduler, event: &Event, fact: &Fact) {
        match fact {
            Fact::Done { attempt, .. } => {
                let Event::Report { fence, session, attempt: reported, .. } = event else { panic!("accepted by {event:?}") };
                assert_eq!(reported, attempt);
                assert_eq!((fence.epoch, fence.session), (scheduler.epoch(), *session), "I2: of this epoch and session");
                assert!(self.fences.get(attempt).is_none_or(|last| last == fence), "I2: the fence is the last that was given");
                assert!(scheduler.worker_of(*session).is_some(), "I2: the session lives");
            }
            Fact::Ended { job, ending } => {
                assert!(self.ended.insert(*job, ending.clone()).is_none_or(|before| before == *ending), "I3: a job ends once");
                assert!(*ending != Ending::Succeeded || self.visible.contains(job), "I4: success is visible");
            }
            _ => {}
        }
    }

    /// A restart has left this of the journal: what was told must be in it.
    pub(super) fn restarted(&mut self, journal: &[(u64, Fact)]) {
        let done: BTreeSet<_> =
            journal.iter().filter_map(|(_, fact)| if let Fact::Done { attempt, .. } = fact { Some(*attempt) } else { None }).collect();
        let submitted = |fact: &Fact| if let Fact::Submitted(submission) = fact { Some(submission.job) } else { None };
        let submitted: BTreeSet<_> = journal.iter().filter_map(|(_, fact)| submitted(fact)).collect();
        assert!(self.accepted.is_subset(&done), "I10: what was told to be accepted is known after a restart");
        assert!(self.submitted.is_subset(&submitted), "I10: what was told to be submitted is known after a restart");
        // An end that was journaled and told to nobody may be forgotten, and come out otherwise.
        self.ended.retain(|job, _| journal.iter().any(|(_, fact)| matches!(fact, Fact::Ended { job: of, .. } if of == job)));
    }
}

fn check_manifest(scheduler: &Scheduler, job: JobId) {
    let manifest = scheduler.manifest(job).expect("what is published has a manifest");
    let names: Vec<_> = manifest.parts.iter().map(|(_, part)| part.name.clone()).collect();
    let expected: Vec<_> = (0..manifest.facts.partitions).map(|partition| format!("part-{partition}")).collect();
    assert_eq!(names, expected, "I1: every partition is there once, in order");
    assert_eq!(manifest.tally.records, u64::from(manifest.facts.shards), "I6: every shard is counted once");
}

/// What the whole journal says of itself.
pub(super) fn check_journal(journal: &[(u64, Fact)]) {
    assert!(journal.is_sorted_by(|one, other| one.0 + 1 == other.0), "I11: facts are numbered without gaps");
    let mut outputs: BTreeMap<JobId, BTreeMap<u32, (u32, Digest)>> = BTreeMap::new();
    let mut lists: BTreeMap<JobId, Digest> = BTreeMap::new();
    for (_, fact) in journal {
        let Fact::Done { attempt, task, outcome, .. } = fact else { continue };
        match (task, outcome) {
            (Task::Map(range), Outcome::Mapped { index, .. }) => {
                let first = outputs.entry(attempt.job).or_default().entry(range.start).or_insert((range.end, *index));
                assert_eq!(*first, (range.end, *index), "I14: a range has one index digest, whoever maps it");
            }
            (Task::Reduce(_), Outcome::Reduced { list, .. }) => {
                lists.insert(attempt.job, *list);
                let read: Vec<_> =
                    outputs.get(&attempt.job).into_iter().flatten().map(|(start, (end, index))| (*start..*end, *index)).collect();
                assert_eq!(list_digest(read.iter().map(|(range, index)| (range, index))), *list, "I13: reduce has read what was accepted");
            }
            _ => {}
        }
    }
    let mut ends = BTreeSet::new();
    for (_, fact) in journal {
        match fact {
            Fact::Ended { job, .. } => assert!(ends.insert(*job), "I3: a job ends once"),
            Fact::Done { attempt, .. } => assert!(!ends.contains(&attempt.job), "I3: nothing is accepted after the end"),
            _ => {}
        }
    }
}

/// Replaying gives the state that lives, and replaying twice gives no other.
pub(super) fn check_replay(scheduler: &Scheduler, journal: &[(u64, Fact)]) {
    let replayed = Scheduler::replay(scheduler.config.clone(), journal.iter().cloned());
    assert_eq!(replayed.durable(), scheduler.durable(), "I12: a replay gives the state that lives");
    let twice = journal.iter().chain(journal).cloned();
    assert_eq!(Scheduler::replay(scheduler.config.clone(), twice).durable(), replayed.durable(), "I12: a replay is idempotent");
}
