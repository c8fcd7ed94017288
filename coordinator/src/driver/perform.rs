//! What the scheduler asks for, and how it is done: facts go to the journal, answers to who waits, and work on files to threads that
//! may block, whence it comes back as an event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shardmill_protocol::{AttemptId, Digest, Input, JobId};
use shardmill_scheduler::{Action, Event, Fact, Notice, PublishResult};

use super::{Driver, Handle};
use crate::fit;
use crate::journal::{Ended, Entry};
use crate::notice;
use crate::publish::{Accepted, Publisher, Target, chain, read_weights};

/// How long after a failed sweep it is tried again at first, and at last.
const SWEEP_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Driver {
    pub(super) fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Journal { number, fact } => self.journal(number, fact),
                Action::Answer { reply, answer } => {
                    // Who is not there any more was answered already, or has closed the question.
                    let _ = self.waiting.remove(&reply).map(|waiting| waiting.send(answer));
                }
                Action::ReadWeights { job, file } => self.read_weights(job, file),
                Action::Assemble { job } => self.assemble(job),
                Action::Reveal { job } => self.reveal(job),
                Action::Discard { attempt } => self.discard(attempt),
                Action::Sweep { job, keep_staging } => self.sweep(job, keep_staging),
                Action::Notice(notice) => {
                    if matches!(notice, Notice::Phase(..)) {
                        self.watch_due = Some(Instant::now());
                    }
                    notice::log(&notice);
                }
            }
        }
    }

    fn journal(&mut self, number: u64, fact: Fact) {
        let swept = if let Fact::Swept { job } = &fact { Some(*job) } else { None };
        self.tools.journal.write(Entry::Fact(number, Box::new(fact)));
        if let Some(job) = swept {
            self.retire(job);
            self.keep_needed_artifacts();
            // Some wait for just that to use the output.
            self.watch_due = Some(Instant::now());
        }
    }

    /// Lets a job become history.
    pub(super) fn retire(&mut self, job: JobId) {
        self.swept.insert(job);
        if let (Some(mut view), Some(submission)) = (self.view(job), self.scheduler.submission(job)) {
            fit::job(&mut view, fit::HISTORY_BYTES);
            let key = submission.key.clone();
            self.keys.insert(key.clone(), job);
            self.tools.journal.write(Entry::Retired(job, Box::new(Ended { key, view })));
        }
        let Self { targets, swept, scheduler, .. } = self;
        targets.retain(|job, _| scheduler.submission(*job).is_some());
        swept.retain(|job| targets.contains_key(job));
    }

    pub(super) fn keep_needed_artifacts(&self) {
        let live = self.targets.iter().filter(|(job, _)| !self.scheduler.has_ended(**job));
        let needed: BTreeSet<Digest> = live.filter_map(|(_, target)| target.artifact()).collect();
        let artifacts = self.tools.artifacts.clone();
        self.tools.runtime.spawn_blocking(move || {
            if let Err(error) = artifacts.keep(&needed) {
                tracing::warn!(error = chain(&error), "executables that nobody needs cannot be removed");
            }
        });
    }

    fn discard(&self, attempt: AttemptId) {
        let Some(target) = self.targets.get(&attempt.job).cloned() else { return };
        let publisher = self.tools.publisher.clone();
        self.tools.runtime.spawn_blocking(move || {
            if let Err(error) = publisher.discard(&target, attempt) {
                tracing::warn!(%attempt, error = chain(&error), "staged files cannot be removed");
            }
        });
    }

    fn read_weights(&self, job: JobId, file: Input) {
        let Some(target) = self.targets.get(&job).cloned() else { return };
        let handle = self.handle.clone();
        self.tools.runtime.spawn_blocking(move || {
            let weights = read_weights(&target, &file);
            if let Err(error) = &weights {
                tracing::warn!(%job, error = chain(error), "weights cannot be read");
            }
            handle.tell(Event::Weights { job, shard_bytes: weights.ok() });
        });
    }

    /// What is needed to publish a job, if it is to be published.
    fn publishing(&self, job: JobId) -> Option<(Arc<Target>, Accepted, Publisher, Handle)> {
        let accepted = Accepted::from(self.scheduler.manifest(job)?);
        Some((self.targets.get(&job).cloned()?, accepted, self.tools.publisher.clone(), self.handle.clone()))
    }

    fn assemble(&self, job: JobId) {
        let Some((target, accepted, publisher, handle)) = self.publishing(job) else { return };
        self.tools.runtime.spawn_blocking(move || {
            let manifest = publisher.assemble(&target, &accepted).map_err(|error| chain(&error));
            match &manifest {
                Ok(manifest) => tracing::info!(%job, %manifest, "output put together"),
                // So it is, too, when the job was cancelled meanwhile and its staging is gone.
                Err(error) => tracing::warn!(%job, error, "output cannot be put together"),
            }
            handle.tell(Event::Assembled { job, manifest });
        });
    }

    fn reveal(&self, job: JobId) {
        let Some((target, accepted, publisher, handle)) = self.publishing(job) else { return };
        self.tools.runtime.spawn_blocking(move || {
            let result = match publisher.reveal(&target, &accepted) {
                Ok(replaced) => {
                    tracing::info!(%job, output = %target.output.display(), ?replaced, "output visible");
                    PublishResult::Published
                }
                Err(error) => PublishResult::Failed { cause: chain(&error) },
            };
            handle.tell(Event::Revealed { job, result });
        });
    }

    /// Sweeps until it is done: while the claim stands, nobody else can use the output.
    fn sweep(&self, job: JobId, keep_staging: bool) {
        let Some(target) = self.targets.get(&job).cloned() else { return };
        let (publisher, handle, runtime) = (self.tools.publisher.clone(), self.handle.clone(), self.tools.runtime.clone());
        self.tools.runtime.spawn(async move {
            let mut wait = SWEEP_AGAIN.0;
            loop {
                let (publisher, target) = (publisher.clone(), Arc::clone(&target));
                let swept = runtime.spawn_blocking(move || publisher.sweep(&target, keep_staging)).await;
                match swept {
                    Ok(Ok(())) => return handle.tell(Event::Swept { job }),
                    Ok(Err(error)) => tracing::warn!(%job, error = chain(&error), ?wait, "staging cannot be removed; trying again"),
                    // The process is ending.
                    Err(_) => return,
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(SWEEP_AGAIN.1);
            }
        });
    }
}
