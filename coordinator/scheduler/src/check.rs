//! What is true of every state, whatever has happened: checked by the tests after every step.

use std::collections::BTreeMap;

use shardmill_protocol::task::TaskKind;

use crate::job::{Job, Stage};
use crate::scheduler::Scheduler;
use crate::work::{Gave, Holding};

impl Scheduler {
    /// Panics if the state contradicts itself.
    pub(crate) fn check(&self) {
        for (id, session) in &self.fleet.sessions {
            let used: u32 = session.held.values().map(|held| held.slots).sum();
            assert_eq!(used, session.used, "threads in use are those of what is held, session {id}");
            assert!(session.used <= session.threads);
            for (attempt, held) in session.held.iter().filter(|(_, held)| !held.dying) {
                let live = &self.jobs[&attempt.job].live[attempt];
                assert_eq!((live.session, live.ahead), (*id, held.slots == 0), "attempt {attempt}");
            }
            assert_eq!(session.wish.is_some(), self.fleet.idle.contains(id), "who wishes is idle");
        }
        let threads: u64 = self.fleet.sessions.values().filter(|session| !session.draining).map(|session| u64::from(session.threads)).sum();
        assert_eq!(threads, self.fleet.threads);
        let mut dying: BTreeMap<_, u64> = BTreeMap::new();
        for (attempt, held) in self.fleet.sessions.values().flat_map(|session| &session.held) {
            *dying.entry(attempt.job).or_default() += u64::from(held.dying);
        }
        for (id, job) in &self.jobs {
            assert_eq!(job.dying, dying.get(id).copied().unwrap_or(0), "attempts being killed of {id}");
            assert_eq!(self.open.contains(id), !job.has_ended());
            self.check_job(job);
        }
        let left_out = |job: &Job| job.standings.values().filter(|standing| standing.out).count();
        for job in self.open.iter().map(|id| &self.jobs[id]) {
            assert!(left_out(job) * 3 <= self.fleet.sessions.len(), "no more than a third is left out");
        }
    }

    fn check_job(&self, job: &Job) {
        let mut slots = 0;
        for (attempt, live) in &job.live {
            assert!(matches!(job.stage, Stage::Working), "nothing runs of a job that does not work");
            assert_eq!((live.fence.epoch, live.fence.session), (self.epoch, live.session));
            slots += u64::from(self.fleet.sessions[&live.session].held[attempt].slots);
        }
        assert_eq!(slots, job.threads, "threads in use of job {}", job.id());
        if matches!(job.stage, Stage::Working) {
            for kind in job.works.keys() {
                check_cover(job, *kind);
            }
            assert!(job.retries <= self.config.spare_attempts + job.accepted_count() / 10, "attempts stay within the budget");
        }
        for charge in job.works.values().flat_map(|work| work.charges.values()) {
            assert!(charge.count < self.config.unit_charges, "enough charges end a job");
        }
        for damages in job.works.values().flat_map(|work| work.damages.values()) {
            assert!(damages.len() < self.config.unit_charges as usize, "enough damaged outputs end a job");
        }
        for losses in job.works.values().flat_map(|work| work.losses.values()) {
            assert!(*losses < self.config.lost_workers, "enough lost workers end a job");
        }
    }
}

/// Every unit is pending, in one live task (which may have a backup), or done: exactly one of them.
fn check_cover(job: &Job, kind: TaskKind) {
    let work = &job.works[&kind];
    let live = job.live.values().filter(|live| live.task.kind() == kind && !live.backup).map(|live| live.task.range());
    let backups = job.live.values().filter(|live| live.task.kind() == kind && live.backup).map(|live| live.task.range());
    let there = |gave: &Gave| !matches!(gave, Gave::Output { holding: Holding::Lost, .. });
    let done = work.done.values().filter(|accepted| there(&accepted.gave)).map(|accepted| accepted.range.clone());
    let mut live: Vec<_> = live.collect();
    live.extend(backups.filter(|range| !live.contains(range)).collect::<Vec<_>>());
    let mut ranges: Vec<_> = done.chain(live).chain(work.pending().ranges()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut next = 0;
    for range in ranges {
        assert_eq!(range.start, next, "{kind} units of {} are covered once, at {range:?}", job.id());
        next = range.end;
    }
    assert_eq!(next, work.units, "all {kind} units of {} are covered", job.id());
}

impl Scheduler {
    /// What a journal must be able to give back, as text to be compared.
    pub(crate) fn durable(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{:?}\n", self.keys);
        for (id, job) in &self.jobs {
            let stage = match &job.stage {
                Stage::Working => "working".to_owned(),
                Stage::Assembling => "assembling".to_owned(),
                Stage::Committed(digest) => format!("committed {digest}"),
                Stage::Ended(ended) => {
                    let _ = writeln!(text, "{id} {:?} {}", ended.ending, ended.sweep == crate::job::Sweep::Done);
                    continue;
                }
            };
            let _ =
                writeln!(text, "{id} {stage} retries {} bad {} aside {:?} {:?}", job.retries, job.bad_records, job.set_aside, job.tally);
            for (kind, work) in &job.works {
                let _ = writeln!(text, "  {kind} {}/{} {:?} {:?}", work.done_units, work.units, work.charges, work.damages);
                for (start, accepted) in &work.done {
                    let lost = matches!(accepted.gave, Gave::Output { holding: Holding::Lost, .. });
                    let attempt = accepted.attempt(*id);
                    let _ = writeln!(text, "    {start}..{} {attempt} on {} lost {lost}", accepted.range.end, accepted.worker);
                }
            }
        }
        text
    }
}
