//! The driver: the one loop around the scheduler. It takes an event, asks what is to be done, and has it done.
//!
//! ```text
//! service ── asks ──▶              ──▶ answers, to whoever waits
//! journal ── synced ──▶  driver    ──▶ facts, to the journal
//! blocking threads ── done ──▶     ──▶ reading, assembling, revealing, sweeping, on blocking threads
//! ```
//! A thread of its own: the scheduler computes, so it must not hold up those that wait. Whatever takes long is done elsewhere and
//! comes back as an event. Time is what has passed since the process began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use shardmill_protocol::rpc::api::JobSpec;
use shardmill_protocol::view::{JobStatus, JobView};
use shardmill_protocol::{Digest, Input, JobId};
use shardmill_scheduler::{Action, Answer, Event, Fact, PublishResult, ReplyId, Scheduler, Submission, Tick};
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

use crate::artifacts::Artifacts;
use crate::fit;
use crate::journal::{Ended, Entry, Journal, JournalError, Listener};
use crate::logs::Logs;
use crate::notice;
use crate::publish::{Accepted, Publisher, Target, chain, read_weights};

/// Whoever watches jobs is told of what changes no more often than this; a new phase is told at once.
const WATCH: Duration = Duration::from_millis(20);
/// The shortest pause between two ticks: a deadline that time alone does not move must not become a busy loop.
const TICK: Duration = Duration::from_millis(5);
/// How long after a failed sweep it is tried again at first, and at last.
const SWEEP_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the driver is told.
enum Message {
    Ask {
        reply: ReplyId,
        event: Box<Event>,
        answer: oneshot::Sender<Answer>,
    },
    /// Nobody waits for this answer any more.
    Closed(ReplyId),
    Happened(Box<Event>),
    Read(Box<dyn FnOnce(&Driver) + Send>),
    Watch {
        job: JobId,
        seen: u64,
        answer: oneshot::Sender<Option<JobStatus>>,
    },
    Forgotten(Vec<JobId>),
    Stop,
}

/// The driver has ended, or is about to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

/// Speaks with the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: Sender<Message>,
    next_reply: Arc<AtomicU64>,
}

impl Handle {
    fn send(&self, message: Message) -> Result<(), Stopped> {
        self.messages.send(message).map_err(|_| Stopped)
    }

    /// Asks a question, and waits for the answer. Whoever no longer waits has asked nothing.
    pub(crate) async fn ask(&self, event: impl FnOnce(ReplyId) -> Event) -> Result<Answer, Stopped> {
        let reply = ReplyId(self.next_reply.fetch_add(1, Relaxed));
        let (answer, answered) = oneshot::channel();
        self.send(Message::Ask { reply, event: Box::new(event(reply)), answer })?;
        let mut waiting = Waiting { handle: self, reply, is_over: false };
        let answer = answered.await;
        waiting.is_over = true;
        answer.map_err(|_| Stopped)
    }

    /// Says that something has happened.
    pub(crate) fn tell(&self, event: Event) {
        // A driver that has ended needs not know.
        let _ = self.send(Message::Happened(Box::new(event)));
    }

    /// Looks at the state.
    pub(crate) async fn read<T: Send + 'static>(&self, look: impl FnOnce(&Driver) -> T + Send + 'static) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let look = move |driver: &Driver| {
            // Whoever asked may have gone.
            let _ = answer.send(look(driver));
        };
        self.send(Message::Read(Box::new(look)))?;
        answered.await.map_err(|_| Stopped)
    }

    /// Waits until a job's version is beyond `seen`; nothing if the scheduler does not know the job.
    pub(crate) async fn watch(&self, job: JobId, seen: u64) -> Result<Option<JobStatus>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Watch { job, seen, answer })?;
        answered.await.map_err(|_| Stopped)
    }

    /// Has the driver end.
    pub(crate) fn stop(&self) {
        let _ = self.send(Message::Stop);
    }
}

/// Tells the driver when a question is given up.
struct Waiting<'h> {
    handle: &'h Handle,
    reply: ReplyId,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.handle.send(Message::Closed(self.reply));
        }
    }
}

/// What the journal tells goes to the driver as events.
pub(crate) struct ToDriver(pub(crate) Handle);

impl Listener for ToDriver {
    fn synced(&mut self, fact: u64) {
        self.0.tell(Event::Synced { fact });
    }

    fn forgotten(&mut self, jobs: Vec<JobId>) {
        let _ = self.0.send(Message::Forgotten(jobs));
    }

    fn failed(&mut self, error: JournalError) {
        tracing::error!(error = chain(&error), "journal failed: nothing more can be promised, so this process ends");
        std::process::exit(1);
    }
}

/// A channel to a driver that is still to be made.
pub(crate) fn channel_to_driver() -> (Handle, Inbox) {
    let (messages, received) = channel();
    (Handle { messages, next_reply: Arc::new(AtomicU64::new(0)) }, Inbox(received))
}

/// What a driver will be told.
pub(crate) struct Inbox(Receiver<Message>);

/// What the driver has things done with.
pub(crate) struct Tools {
    pub(crate) runtime: Runtime,
    pub(crate) journal: Journal,
    pub(crate) publisher: Publisher,
    pub(crate) artifacts: Artifacts,
    pub(crate) logs: Arc<Logs>,
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

/// The scheduler, with what the shell knows besides.
pub(crate) struct Driver {
    scheduler: Scheduler,
    handle: Handle,
    tools: Tools,
    began: Instant,
    ticked: Option<Instant>,
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
}

impl Driver {
    /// Makes a driver of a scheduler to which all facts were replayed, `swept` being those jobs that they say are.
    pub(crate) fn new(scheduler: Scheduler, swept: BTreeSet<JobId>, keys: Vec<(JobId, String)>, handle: Handle, tools: Tools) -> Self {
        let jobs: Vec<JobId> = scheduler.jobs().collect();
        let targets = jobs.iter().filter_map(|job| Some((*job, Arc::new(target(scheduler.submission(*job)?)))));
        Self {
            targets: targets.collect(),
            keys: keys.into_iter().map(|(job, key)| (key, job)).collect(),
            swept,
            scheduler,
            handle,
            tools,
            began: Instant::now(),
            ticked: None,
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
            let due = [self.tick_due(), self.watch_due].into_iter().flatten().min();
            let received = match due {
                Some(due) => inbox.0.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => inbox.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.tick_due().is_some_and(|due| due <= Instant::now()) {
                self.ticked = Some(Instant::now());
                self.handle(Event::Tick);
            }
            if self.watch_due.is_some_and(|due| due <= Instant::now()) {
                self.tell_watchers();
            }
        }
    }

    /// When the scheduler is to be told that time has passed.
    fn tick_due(&self) -> Option<Instant> {
        let deadline = self.began + self.scheduler.next_deadline()?.0;
        Some(self.ticked.map_or(deadline, |ticked| deadline.max(ticked + TICK)))
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
        if let Event::Submit { submission, .. } = &event {
            self.targets.entry(submission.job).or_insert_with(|| Arc::new(target(submission)));
        }
        let actions = self.scheduler.handle(self.now(), event);
        if !self.watching.is_empty() && self.watch_due.is_none() {
            self.watch_due = Some(self.watched + WATCH);
        }
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
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
                Action::Discard { attempt } => {
                    let Some(target) = self.targets.get(&attempt.job).cloned() else { continue };
                    let publisher = self.tools.publisher.clone();
                    self.tools.runtime.spawn_blocking(move || {
                        if let Err(error) = publisher.discard(&target, attempt) {
                            tracing::warn!(%attempt, error = chain(&error), "staged files cannot be removed");
                        }
                    });
                }
                Action::Sweep { job, keep_staging } => self.sweep(job, keep_staging),
                Action::Notice(notice) => {
                    if matches!(notice, shardmill_scheduler::Notice::Phase(..)) {
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
        }
    }

    /// Lets a job become history.
    fn retire(&mut self, job: JobId) {
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

    fn keep_needed_artifacts(&self) {
        let live = self.targets.iter().filter(|(job, _)| !self.scheduler.has_ended(**job));
        let needed: BTreeSet<Digest> = live.filter_map(|(_, target)| target.artifact()).collect();
        let artifacts = self.tools.artifacts.clone();
        self.tools.runtime.spawn_blocking(move || {
            if let Err(error) = artifacts.keep(&needed) {
                tracing::warn!(error = chain(&error), "executables that nobody needs cannot be removed");
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
        status.name.clone_from(&self.targets.get(&job)?.spec.name);
        Some(status)
    }

    /// A job in full, if the scheduler knows it.
    pub(crate) fn view(&self, job: JobId) -> Option<JobView> {
        let mut view = self.scheduler.job_view(job, self.now())?;
        view.status.name.clone_from(&self.targets.get(&job)?.spec.name);
        Some(view)
    }

    /// The workers, as the scheduler knows them.
    pub(crate) fn workers(&self) -> Vec<shardmill_protocol::view::WorkerView> {
        self.scheduler.workers(self.now())
    }
}

/// What a submission says of publishing.
fn target(submission: &Submission) -> Target {
    let spec: JobSpec = postcard::from_bytes(&submission.spec).expect("the service has encoded it, and the journal has checked it");
    Target { job: submission.job, output: submission.output.clone().into(), spec }
}
