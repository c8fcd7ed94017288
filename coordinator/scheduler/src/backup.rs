//! Backup attempts: a second try at a task that is late, on a worker that has nothing else to do. The first that is sealed wins.

use std::time::Duration;

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::{AttemptId, JobId, SessionId};

use crate::event::Tick;
use crate::grant::Choice;
use crate::job::Job;
use crate::scheduler::{Scheduler, millis};
use crate::share::{Need, Share};

impl Scheduler {
    /// Whether looking for stragglers could find any.
    pub(crate) fn may_look_for_stragglers(&self) -> bool {
        self.recovery.is_none() && !self.fleet.idle.is_empty() && self.open.iter().any(|id| self.jobs[id].late_phase().is_some())
    }

    /// Gives idle workers a second try at what is late.
    pub(crate) fn back_up_stragglers(&mut self) {
        if self.now < self.next_look || !self.may_look_for_stragglers() {
            return;
        }
        self.next_look = Tick(self.now.0 + self.config.heartbeat);
        for id in self.open.clone() {
            let Some(kind) = self.jobs[&id].late_phase() else { continue };
            for attempt in self.jobs[&id].stragglers(kind, self.now, self.config.backup_age) {
                let Some((session, choice)) = self.backup_of(id, attempt) else { continue };
                let key = (kind, choice.task.range().start);
                self.job(id).doubled.insert(key);
                self.grant(session, id, choice);
            }
        }
    }

    fn backup_of(&self, id: JobId, attempt: AttemptId) -> Option<(SessionId, Choice)> {
        let job = &self.jobs[&id];
        let late = &job.live[&attempt];
        let need = Need { thread_memory_bytes: job.thread_memory(late.task.kind()), memory_bytes: late.terms.memory_bytes };
        self.fleet.idle.iter().find_map(|session_id| {
            let session = &self.fleet.sessions[session_id];
            let fits = session.takes_tasks()
                && session.worker != late.worker
                && !job.shuts_out(session.worker, self.now)
                && session.held_of(id).next().is_none();
            let share = Share::of(session, late.threads, need).filter(|_| fits)?;
            let choice = Choice { task: late.task.clone(), share, terms: late.terms.clone(), backup: true, ahead: false };
            Some((*session_id, choice))
        })
    }
}

impl Job {
    /// The phase whose stragglers hold the job up: three quarters of it are granted.
    fn late_phase(&self) -> Option<TaskKind> {
        let kind = self.at().filter(|kind| matches!(kind, TaskKind::Map | TaskKind::Reduce))?;
        let work = &self.works[&kind];
        let late = !self.live.is_empty() && work.pending_weight().saturating_mul(4) <= work.weight(&(0..work.units));
        late.then_some(kind)
    }

    /// Attempts that deserve a backup, oldest first; as many as are allowed.
    fn stragglers(&self, kind: TaskKind, now: Tick, least_age: Duration) -> Vec<AttemptId> {
        let work = &self.works[&kind];
        let backups = self.live.values().filter(|live| live.backup).count();
        let allowed = (self.live.len() / 10).max(1).saturating_sub(backups);
        let mut late: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| live.task.kind() == kind && !live.backup && !live.ahead)
            .filter(|(_, live)| !self.doubled.contains(&(kind, live.task.range().start)))
            .filter_map(|(attempt, live)| {
                let range = live.task.range();
                let (age, weight) = (millis(now, live.granted), work.weight(&range));
                let expected = work.expected_ms(weight)?;
                let old = age > u64::try_from(least_age.as_millis()).unwrap_or(u64::MAX) && age > expected.saturating_mul(3) / 2;
                // Slower than half the median: done · expected < weight · age / 2. Where bytes are not known, time alone has to tell.
                let slow = match work.bytes(&range) {
                    0 => age > expected.saturating_mul(2),
                    bytes => u128::from(live.progress.bytes) * u128::from(expected) * 2 < u128::from(bytes) * u128::from(age),
                };
                (old && slow).then_some((live.granted, *attempt))
            })
            .collect();
        late.sort_unstable();
        late.into_iter().take(allowed).map(|(_, attempt)| attempt).collect()
    }
}
