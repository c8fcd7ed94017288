//! Workers whose failures are their own: in a job, they are left alone for a while, and at last left out.

use shardmill_protocol::{AttemptId, JobId, WorkerId};

use crate::action::Notice;
use crate::event::Tick;
use crate::retry::backoff;
use crate::scheduler::Scheduler;

/// What is held against a worker, in one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) charges: u32,
    /// It gets nothing before that.
    pub(crate) until: Tick,
    /// It gets nothing at all.
    pub(crate) out: bool,
    /// It did not see the directory of the output when it last needed it.
    pub(crate) blind: bool,
}

impl Scheduler {
    /// Charges a worker in a job: it gets nothing of it for a while, and nothing at all if it happens again and again.
    pub(crate) fn charge_worker(&mut self, id: JobId, worker: WorkerId, attempt: AttemptId) {
        // Whoever has gone begins anew when it comes back.
        if !self.fleet.lives(worker) {
            return;
        }
        let workers = self.fleet.sessions.len();
        let (limit, now) = (self.config.worker_charges, self.now);
        let out = self.job(id).standings.values().filter(|standing| standing.out).count();
        let charges = self.jobs[&id].standings.get(&worker).map_or(0, |standing| standing.charges) + 1;
        let until = Tick(now.0 + backoff(&self.config, charges, attempt));
        let standing = self.job(id).standings.entry(worker).or_default();
        (standing.charges, standing.until) = (charges, until);
        if charges >= limit && !standing.out && (out + 1) * 3 <= workers {
            standing.out = true;
            self.outbox.notice(Notice::LeftOut(id, worker));
        }
    }

    /// Notes that a worker does not see the directory of a job's output; returns whether another one may. Then this one is asked again
    /// as late as can be: that it sees it by then takes somebody who looks after its machine.
    pub(crate) fn unseen_only_there(&mut self, id: JobId, worker: WorkerId) -> bool {
        let until = Tick(self.now.0 + self.config.longest_backoff);
        let job = self.jobs.get_mut(&id).expect("an attempt of it has failed");
        job.standings.entry(worker).or_default().blind = true;
        let is_blind = |worker: &WorkerId| job.standings.get(worker).is_some_and(|standing| standing.blind);
        let others = self.fleet.sessions.values().any(|session| !is_blind(&session.worker));
        if others {
            job.standings.entry(worker).or_default().until = until;
        }
        others
    }

    /// Workers have gone: those of them that were left out are forgotten, and if too many of the rest are left out, all are let in again.
    pub(crate) fn review_standings(&mut self) {
        let workers = self.fleet.sessions.len();
        for id in &self.open {
            let job = self.jobs.get_mut(id).expect("open jobs are known");
            job.standings.retain(|worker, _| self.fleet.lives(*worker));
            let out = job.standings.values().filter(|standing| standing.out).count();
            if out * 3 > workers {
                job.standings.clear();
                self.outbox.notice(Notice::LetInAgain(*id));
                self.stir.all = true;
            }
        }
    }

    /// Notes that a worker did not find an input file; returns whether it is the only one, and others can be asked.
    pub(crate) fn missing_only_there(&mut self, id: JobId, worker: WorkerId) -> bool {
        let others = self.fleet.sessions.values().any(|session| session.worker != worker && session.takes_tasks());
        let job = self.job(id);
        job.missing.insert(worker);
        others && job.missing.len() == 1
    }
}
