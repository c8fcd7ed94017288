//! The driver: the one loop around the scheduler. It takes an event, asks what is to be done, and has it done.
//!
//! ```text
//! service ── asks ──▶              ──▶ answers, to whoever waits
//! journal ── synced ──▶  driver    ──▶ facts, to the journal
//! blocking threads ── done ──▶     ──▶ reading, assembling, revealing, sweeping, on blocking threads
//! ```
//! A thread of its own: the scheduler computes, so it must not hold up those that wait. Whatever takes long is done elsewhere and
//! comes back as an event. Time is what has passed since the process began.

mod handle;
mod perform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shardmill_protocol::JobId;
use shardmill_protocol::rpc::api::JobSpec;
use shardmill_protocol::view::{JobStatus, JobView, WorkerView};
use shardmill_scheduler::{Answer, Event, ReplyId, Scheduler, Submission, Tick};
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

use self::handle::Message;
pub(crate) use self::handle::{Handle, Inbox, Stopped, ToDriver, channel_to_driver};
use crate::artifacts::Artifacts;
use crate::fault_point::{FaultPoint, Place};
use crate::journal::Journal;
use crate::logs::Logs;
use crate::publish::{Publisher, Target};

/// Whoever watches jobs is told of what changes no more often than this; a new phase is told at once.
const WATCH: Duration = Duration::from_millis(20);

/// What the driver has things done with.
pub(crate) struct Tools {
    pub(crate) runtime: Runtime,
    pub(crate) journal: Journal,
    pub(crate) publisher: Publisher,
    pub(crate) artifacts: Artifacts,
    pub(crate) logs: Arc<Logs>,
    pub(crate) fault_point: FaultPoint,
}

/// Who waits for a job's version to be beyond one that was seen.
struct Watcher {
    seen: u64,
    answer: oneshot::Sender<Option<JobStatus>>,
}

impl Watcher {
    /// Whether there is nothing new yet.
    fn waits_on(&self, status: &JobStatus) -> bool {
        status.version <= self.seen && !status.phase.is_final()
    }
}

/// Who wakes up so much later than asked for has not only waited for a processor.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// The scheduler, with what the shell knows besides.
pub(crate) struct Driver {
    scheduler: Scheduler,
    handle: Handle,
    tools: Tools,
    began: Instant,
    waiting: BTreeMap<ReplyId, oneshot::Sender<Answer>>,
    watching: BTreeMap<JobId, Vec<Watcher>>,
    /// When watchers are to be told what has changed.
    watch_due: Option<Instant>,
    watched: Instant,
    /// The jobs that the scheduler knows.
    targets: BTreeMap<JobId, Arc<Target>>,
    /// The keys of jobs that are history.
    keys: BTreeMap<String, JobId>,
    /// Ended jobs of which nothing is left in staging.
    swept: BTreeSet<JobId>,
    /// How long jobs had been there when this driver began. The scheduler knows no clock but its own.
    before_ms: BTreeMap<JobId, u64>,
}

impl Driver {
    /// Makes a driver of a scheduler to which all facts were replayed, `swept` being those jobs that they say are.
    pub(crate) fn new(scheduler: Scheduler, swept: BTreeSet<JobId>, keys: Vec<(JobId, String)>, handle: Handle, tools: Tools) -> Self {
        let jobs: Vec<JobId> = scheduler.jobs().collect();
        let targets = jobs.iter().filter_map(|job| Some((*job, Arc::new(target(scheduler.submission(*job)?)))));
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let is_open = |job: &&JobId| scheduler.job_status(**job, Tick::default()).is_some_and(|status| !status.phase.is_final());
        let before_ms = jobs.iter().filter(is_open).map(|job| (*job, now_ms.saturating_sub(job.submitted_ms()))).collect();
        Self {
            before_ms,
            targets: targets.collect(),
            keys: keys.into_iter().map(|(job, key)| (key, job)).collect(),
            swept,
            scheduler,
            handle,
            tools,
            began: Instant::now(),
            waiting: BTreeMap::new(),
            watching: BTreeMap::new(),
            watch_due: None,
            watched: Instant::now(),
        }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, inbox: &Inbox) {
        let actions = self.scheduler.start(self.now());
        self.perform(actions);
        // The last process may have died between the two.
        for job in self.swept.clone() {
            self.retire(job);
        }
        self.keep_needed_artifacts();
        loop {
            let (tick_due, before) = (self.tick_due(), Instant::now());
            let due = [tick_due, self.watch_due].into_iter().flatten().min();
            let received = match due {
                Some(due) => inbox.0.recv_timeout(due.saturating_duration_since(before)),
                None => inbox.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if tick_due.is_some_and(|due| due.elapsed() > OVERSLEPT) {
                // This process, or the machine, was stopped for a while, and what was said to it meanwhile is still to be heard: for the
                // scheduler that time has not passed, or it would take all workers for lost.
                let stopped = before.elapsed();
                tracing::info!(seconds = stopped.as_secs_f64(), "this process did not run for a while");
                self.began += stopped;
            }
            match received {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.tick_due().is_some_and(|due| due <= Instant::now()) {
                self.handle(Event::Tick);
            }
            if self.watch_due.is_some_and(|due| due <= Instant::now()) {
                self.tell_watchers();
            }
        }
    }

    /// When the scheduler is to be told that time has passed.
    fn tick_due(&self) -> Option<Instant> {
        Some(self.began + self.scheduler.next_deadline()?.0)
    }

    fn now(&self) -> Tick {
        Tick(self.began.elapsed())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ask { reply, event, answer } => {
                self.waiting.insert(reply, answer);
                self.handle(*event);
            }
            Message::Closed(reply) => {
                if self.waiting.remove(&reply).is_some() {
                    self.handle(Event::PollClosed { reply });
                }
            }
            Message::Happened(event) => self.handle(*event),
            Message::Read(look) => look(self),
            Message::Watch { job, seen, answer } => {
                let watcher = Watcher { seen, answer };
                match self.status(job) {
                    Some(status) if watcher.waits_on(&status) => self.watching.entry(job).or_default().push(watcher),
                    status => drop(watcher.answer.send(status)),
                }
            }
            Message::Forgotten(jobs) => {
                self.keys.retain(|_, job| !jobs.contains(job));
                let logs = Arc::clone(&self.tools.logs);
                self.tools.runtime.spawn_blocking(move || {
                    for job in jobs {
                        if let Err(error) = logs.remove(job) {
                            tracing::warn!(%job, %error, "logs cannot be removed");
                        }
                    }
                });
            }
            Message::Stop => {}
        }
    }

    fn handle(&mut self, event: Event) {
        self.tools.fault_point.reach(Place::Event);
        if let Event::Submit { submission, .. } = &event {
            self.targets.entry(submission.job).or_insert_with(|| Arc::new(target(submission)));
        }
        let actions = self.scheduler.handle(self.now(), event);
        if !self.watching.is_empty() && self.watch_due.is_none() {
            self.watch_due = Some(self.watched + WATCH);
        }
        self.perform(actions);
    }

    fn tell_watchers(&mut self) {
        (self.watch_due, self.watched) = (None, Instant::now());
        for (job, watchers) in std::mem::take(&mut self.watching) {
            let status = self.status(job);
            let mut left = vec![];
            for watcher in watchers {
                match &status {
                    _ if watcher.answer.is_closed() => {}
                    Some(status) if watcher.waits_on(status) => left.push(watcher),
                    status => drop(watcher.answer.send(status.clone())),
                }
            }
            if !left.is_empty() {
                self.watching.insert(job, left);
            }
        }
    }

    /// The scheduler, to be looked at.
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// A job's submission and output, if the scheduler knows the job.
    pub(crate) fn target(&self, job: JobId) -> Option<Arc<Target>> {
        self.targets.get(&job).cloned()
    }

    /// The job that was submitted with this key.
    pub(crate) fn job_of_key(&self, key: &str) -> Option<JobId> {
        self.scheduler.job_of_key(key).or_else(|| self.keys.get(key).copied())
    }

    /// All jobs that are known, newest first.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        let known: BTreeSet<JobId> = self.scheduler.jobs().chain(self.keys.values().copied()).collect();
        known.into_iter().rev().collect()
    }

    /// How a job stands, if the scheduler knows it.
    pub(crate) fn status(&self, job: JobId) -> Option<JobStatus> {
        let mut status = self.scheduler.job_status(job, self.now())?;
        self.complete(&mut status)?;
        Some(status)
    }

    /// A job in full, if the scheduler knows it.
    pub(crate) fn view(&self, job: JobId) -> Option<JobView> {
        let mut view = self.scheduler.job_view(job, self.now())?;
        self.complete(&mut view.status)?;
        Some(view)
    }

    /// Adds what the scheduler does not know.
    fn complete(&self, status: &mut JobStatus) -> Option<()> {
        status.name.clone_from(&self.targets.get(&status.job)?.spec.name);
        status.elapsed_ms += self.before_ms.get(&status.job).copied().unwrap_or(0);
        Some(())
    }

    /// The workers, as the scheduler knows them.
    pub(crate) fn workers(&self) -> Vec<WorkerView> {
        self.scheduler.workers(self.now())
    }
}

/// What a submission says of publishing.
fn target(submission: &Submission) -> Target {
    let spec: JobSpec = postcard::from_bytes(&submission.spec).expect("the service has encoded it, and the journal has checked it");
    Target { job: submission.job, output: submission.output.clone().into(), spec }
}
