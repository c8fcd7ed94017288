//! The service: turns a call into an event, awaits the answer, and decides nothing.
//!
//! Who may call what, and how large a call may be, was checked before it comes here (`protocol/src/rpc/{roles,limits}.rs`). A
//! handler is dropped when its caller goes, so it owns no change: those are the driver's. A long poll ends with nothing after a
//! while, and tells the driver so by being dropped.

pub(crate) mod roster;
mod submit;

use std::sync::Arc;
use std::time::Duration;

use shardmill_protocol::process::Progress;
use shardmill_protocol::rpc::api::{
    ApiError, CancelAnswer, Chunk, Control, HeartbeatAnswer, HeldOutput, JobSetup, JobSpec, Registered, SourcesPage, Verdict, WorkerHello,
};
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::view::{JobStatus, JobView, WorkerView};
use shardmill_protocol::{AttemptId, Digest, Failure, Fence, Grant, JobId, Outcome, SessionId, WorkerId};
use shardmill_scheduler::{Answer, Event, Registration};
use tarpc::context::Context;

use self::roster::Roster;
use self::submit::Keys;
use crate::artifacts::{ArtifactError, Artifacts};
use crate::driver::{Handle, Stopped};
use crate::fit;
use crate::journal::{History, JournalError};
use crate::logs::Logs;
use crate::publish::{Publisher, chain};
use crate::state::StateDirectory;

/// Jobs in a page of the list.
const JOBS_PER_PAGE: usize = 32;

/// What calls are answered with.
pub(crate) struct Service {
    pub(crate) driver: Handle,
    pub(crate) state: StateDirectory,
    pub(crate) artifacts: Artifacts,
    pub(crate) logs: Arc<Logs>,
    pub(crate) publisher: Publisher,
    pub(crate) history: History,
    pub(crate) is_full: Arc<std::sync::atomic::AtomicBool>,
    /// Told to workers as they register.
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    /// How long a long poll is held.
    pub(crate) poll: Duration,
    pub(crate) roster: Roster,
    pub(crate) keys: Keys,
}

/// The service, as each call gets it.
#[derive(Clone)]
pub(crate) struct Call(pub(crate) Arc<Service>);

impl From<Stopped> for ApiError {
    fn from(_: Stopped) -> Self {
        Self::Unavailable { message: "it is stopping".to_owned() }
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        Self::Unavailable { message: chain(&error) }
    }
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Unknown(digest) => unknown("artifact", digest),
            ArtifactError::Digest(digest) => Self::Digest(digest),
            ArtifactError::Gap { .. } | ArtifactError::Platform(_) | ArtifactError::TooLong { .. } => {
                Self::Refused { message: error.to_string() }
            }
            ArtifactError::Io { .. } => Self::Unavailable { message: chain(&error) },
        }
    }
}

fn unknown(what: &str, id: impl ToString) -> ApiError {
    ApiError::Unknown { what: what.to_owned(), id: id.to_string() }
}

/// An answer that does not fit the question: the scheduler answers each kind of question in few ways.
fn unexpected(answer: &Answer) -> ApiError {
    tracing::error!(?answer, "answer does not fit the question");
    ApiError::Unavailable { message: "it has made a mistake, which its log tells of".to_owned() }
}

/// Does what reads or writes files, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Stopped.into())
}

/// The one id of several that begins so.
fn by_prefix<I: Copy + ToString>(ids: impl IntoIterator<Item = I>, prefix: &str, what: &str) -> Result<I, ApiError> {
    let wanted = prefix.to_ascii_lowercase();
    let fits: Vec<I> = ids.into_iter().filter(|id| id.to_string().starts_with(&wanted)).take(9).collect();
    match fits[..] {
        [] => Err(unknown(what, prefix)),
        [one] => Ok(one),
        _ => Err(ApiError::Ambiguous { prefix: prefix.to_owned(), candidates: fits.iter().map(ToString::to_string).collect() }),
    }
}

impl Service {
    /// Asks the driver in a long poll; nothing if there is no answer for long.
    async fn poll<T>(&self, answer: impl Future<Output = Result<T, Stopped>>) -> Result<Option<T>, ApiError> {
        match tokio::time::timeout(self.poll, answer).await {
            Ok(answer) => Ok(Some(answer?)),
            Err(_) => Ok(None),
        }
    }

    /// A job that has become history.
    async fn ended(&self, job: JobId) -> Result<JobView, ApiError> {
        let history = self.history.clone();
        let ended = blocking(move || history.get(job)).await??;
        ended.map(|ended| ended.view).ok_or_else(|| unknown("job", job))
    }

    async fn status(&self, job: JobId) -> Result<JobStatus, ApiError> {
        match self.driver.read(move |driver| driver.status(job)).await? {
            Some(status) => Ok(status),
            None => Ok(self.ended(job).await?.status),
        }
    }

    async fn live_session(&self, session: SessionId) -> Result<WorkerId, ApiError> {
        self.driver.read(move |driver| driver.scheduler().worker_of(session)).await?.ok_or(ApiError::NoSession)
    }
}

impl Control for Call {
    async fn held_outputs(self, _: Context, worker: WorkerId, first: bool, outputs: Vec<HeldOutput>) -> Result<(), ApiError> {
        self.0.roster.add_held(worker, first, outputs)
    }

    async fn register(self, _: Context, hello: WorkerHello) -> Result<Registered, ApiError> {
        let service = self.0;
        let outputs = service.roster.take_held(hello.worker);
        let registration = Registration {
            threads: hello.threads,
            memory_bytes: hello.memory_bytes,
            resumes: hello.resumes.filter(|(epoch, _)| *epoch == service.roster.epoch()).map(|(_, session)| session),
            attempts: hello.attempts.iter().map(roster::held_attempt).collect(),
            outputs: outputs.iter().map(roster::held_output).collect(),
        };
        let worker = hello.worker;
        // Who fetches from this worker needs to know where it is, as soon as it is registered.
        service.roster.enter(hello);
        match service.driver.ask(move |reply| Event::Register { reply, worker, registration }).await? {
            Answer::Registered { epoch, session, adopted, kill } => {
                Ok(Registered { epoch, session, adopted, kill, heartbeat: service.heartbeat, lease: service.lease })
            }
            Answer::RegisterLater(wait) => Err(ApiError::Later { wait }),
            other => Err(unexpected(&other)),
        }
    }

    async fn heartbeat(self, _: Context, session: SessionId, attempts: Vec<(AttemptId, Progress)>) -> Result<HeartbeatAnswer, ApiError> {
        let answer = self.0.driver.ask(move |reply| Event::Heartbeat { reply, session, attempts }).await?;
        let epoch = self.0.roster.epoch();
        match answer {
            Answer::Heartbeat { kill, drain } => Ok(HeartbeatAnswer { epoch, kill, drain }),
            Answer::NoSession => Err(ApiError::NoSession),
            other => Err(unexpected(&other)),
        }
    }

    async fn next_task(self, _: Context, session: SessionId, number: u64, ahead: bool) -> Result<Option<Grant>, ApiError> {
        let answer = self.0.driver.ask(move |reply| Event::NextTask { reply, session, number, ahead });
        match self.0.poll(answer).await? {
            None => Ok(None),
            Some(Answer::Grant(grant)) => Ok(Some(*grant)),
            Some(Answer::NoSession) => Err(ApiError::NoSession),
            Some(other) => Err(unexpected(&other)),
        }
    }

    async fn report(
        self,
        _: Context,
        session: SessionId,
        attempt: AttemptId,
        fence: Fence,
        result: Result<Outcome, Failure>,
    ) -> Result<Verdict, ApiError> {
        match self.0.driver.ask(move |reply| Event::Report { reply, session, attempt, fence, result }).await? {
            Answer::Accepted => Ok(Verdict::Accepted),
            Answer::Rejected => Ok(Verdict::Rejected),
            Answer::Noted => Ok(Verdict::Noted),
            Answer::NoSession => Err(ApiError::NoSession),
            other => Err(unexpected(&other)),
        }
    }

    async fn fetch_trouble(self, _: Context, session: SessionId, output: AttemptId, damaged: bool) -> Result<(), ApiError> {
        self.0.live_session(session).await?;
        self.0.driver.tell(Event::FetchTrouble { session, output, damaged });
        Ok(())
    }

    async fn sources(self, _: Context, session: SessionId, attempt: AttemptId, page: u32) -> Result<SourcesPage, ApiError> {
        let service = Arc::clone(&self.0);
        let page = move |driver: &crate::driver::Driver| service.roster.page(driver.scheduler(), session, attempt, page);
        self.0.driver.read(page).await?
    }

    async fn job_setup(self, _: Context, job: JobId) -> Result<JobSetup, ApiError> {
        let target = self.0.driver.read(move |driver| driver.target(job).filter(|_| !driver.scheduler().has_ended(job))).await?;
        let target = target.ok_or_else(|| unknown("job", job))?;
        let capability = Secret::new(self.0.state.capability(job));
        Ok(JobSetup { spec: target.spec.clone(), staging: target.staging(), capability })
    }

    async fn artifact_chunk(self, _: Context, digest: Digest, offset: u64) -> Result<Chunk, ApiError> {
        let artifacts = self.0.artifacts.clone();
        Ok(blocking(move || artifacts.chunk(digest, offset)).await??.into())
    }

    async fn log_chunk(self, _: Context, session: SessionId, attempt: AttemptId, bytes: Chunk) -> Result<(), ApiError> {
        self.0.live_session(session).await?;
        // On a full disk, logs are the first to go.
        let is_known = self.0.driver.read(move |driver| driver.target(attempt.job).is_some()).await?;
        if self.0.is_full() || !is_known {
            return Ok(());
        }
        let logs = Arc::clone(&self.0.logs);
        let written = blocking(move || logs.append(attempt, &bytes)).await?;
        if let Err(error) = written {
            // Its report comes behind it, and counts for more.
            tracing::warn!(%attempt, %error, "a log cannot be written");
        }
        Ok(())
    }

    async fn ended(self, _: Context, jobs: Vec<JobId>) -> Result<Vec<JobId>, ApiError> {
        let ended = move |driver: &crate::driver::Driver| jobs.into_iter().filter(|job| driver.scheduler().has_ended(*job)).collect();
        Ok(self.0.driver.read(ended).await?)
    }

    async fn leave(self, _: Context, session: SessionId) -> Result<(), ApiError> {
        match self.0.driver.ask(move |reply| Event::Leave { reply, session }).await? {
            Answer::Done => Ok(()),
            Answer::NoSession => Err(ApiError::NoSession),
            other => Err(unexpected(&other)),
        }
    }

    async fn artifact_size(self, _: Context, digest: Digest) -> Result<u64, ApiError> {
        let artifacts = self.0.artifacts.clone();
        blocking(move || artifacts.stored(digest)).await
    }

    async fn upload(self, _: Context, digest: Digest, offset: u64, chunk: Chunk, last: bool) -> Result<(), ApiError> {
        self.0.refuse_if_full()?;
        let artifacts = self.0.artifacts.clone();
        Ok(blocking(move || artifacts.upload(digest, offset, &chunk, last)).await??)
    }

    async fn submit(self, _: Context, spec: JobSpec) -> Result<JobId, ApiError> {
        // Goes on when the caller does not wait, or a claim would be left of which nobody knows why.
        let submitting = tokio::spawn(async move { self.0.submit(spec).await });
        submitting.await.map_err(|_| ApiError::from(Stopped))?
    }

    async fn cancel(self, _: Context, job: JobId) -> Result<CancelAnswer, ApiError> {
        match self.0.driver.ask(move |reply| Event::Cancel { reply, job }).await? {
            Answer::Cancel(answer) => Ok(match answer {
                shardmill_scheduler::CancelAnswer::Cancelling => CancelAnswer::Cancelling,
                shardmill_scheduler::CancelAnswer::TooLate => CancelAnswer::TooLate,
                shardmill_scheduler::CancelAnswer::Ended => CancelAnswer::Ended,
            }),
            Answer::Unknown => self.0.ended(job).await.map(|_| CancelAnswer::Ended),
            other => Err(unexpected(&other)),
        }
    }

    async fn find_job(self, _: Context, prefix: String) -> Result<JobId, ApiError> {
        let jobs = self.0.driver.read(|driver| driver.jobs()).await?;
        by_prefix(jobs, &prefix, "job")
    }

    async fn watch(self, _: Context, job: JobId, seen: u64) -> Result<JobStatus, ApiError> {
        match self.0.poll(self.0.driver.watch(job, seen)).await? {
            Some(Some(status)) => Ok(status),
            Some(None) | None => self.0.status(job).await,
        }
    }

    async fn jobs(self, _: Context, page: u32) -> Result<Vec<JobStatus>, ApiError> {
        let wanted = move |driver: &crate::driver::Driver| {
            let jobs = driver.jobs().into_iter().skip(page as usize * JOBS_PER_PAGE).take(JOBS_PER_PAGE);
            jobs.map(|job| driver.status(job).ok_or(job)).collect::<Vec<_>>()
        };
        let mut statuses = vec![];
        for status in self.0.driver.read(wanted).await? {
            match status {
                Ok(status) => statuses.push(status),
                // One that has just dropped out of the history is no longer a job.
                Err(job) => statuses.extend(self.0.ended(job).await.ok().map(|view| view.status)),
            }
        }
        // The plan in words is for those who look at one job.
        statuses.iter_mut().filter_map(|status| status.plan.as_mut()).for_each(|plan| plan.text.clear());
        Ok(statuses)
    }

    async fn job(self, _: Context, job: JobId) -> Result<JobView, ApiError> {
        let mut view = match self.0.driver.read(move |driver| driver.view(job)).await? {
            Some(view) => view,
            None => self.0.ended(job).await?,
        };
        fit::job(&mut view, fit::ANSWER_BYTES);
        Ok(view)
    }

    async fn logs(self, _: Context, job: JobId, attempt: Option<AttemptId>, offset: u64) -> Result<Chunk, ApiError> {
        let logs = Arc::clone(&self.0.logs);
        let chunk = blocking(move || logs.read(job, attempt, offset)).await?;
        chunk.map(Chunk::from).map_err(|error| ApiError::Unavailable { message: format!("cannot read the logs of {job}: {error}") })
    }

    async fn workers(self, _: Context) -> Result<Vec<WorkerView>, ApiError> {
        let mut workers = self.0.driver.read(|driver| driver.workers()).await?;
        self.0.roster.name(&mut workers);
        fit::workers(&mut workers, fit::ANSWER_BYTES);
        Ok(workers)
    }

    async fn drain(self, _: Context, prefix: String) -> Result<WorkerId, ApiError> {
        let workers = self.0.driver.read(|driver| driver.workers()).await?;
        let worker = by_prefix(workers.iter().map(|view| view.worker), &prefix, "worker")?;
        match self.0.driver.ask(move |reply| Event::Drain { reply, worker }).await? {
            Answer::Done => Ok(worker),
            // It was found among those that are remembered.
            Answer::Unknown => Err(ApiError::Refused { message: format!("worker {worker} has left already") }),
            other => Err(unexpected(&other)),
        }
    }
}
