//! One attempt: its inputs in place, run, sealed or failed.
//!
//! ```text
//! room on the disk ─▶ directories ─▶ sources of a reduce task ─▶ its job's process, alone ─▶ outcome, checked against the files
//! ```
//! What it leaves is removed by whoever knows whether it counts ([`session`](crate::session)).

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use shardmill_datasets::Plan;
use shardmill_datasets::index::Index;
use shardmill_datasets::manifest::ManifestInput;
use shardmill_protocol::fault::Breach;
use shardmill_protocol::process::Order;
use shardmill_protocol::rpc::api::{ApiError, CHUNK_BYTES, JobSetup};
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::slots::{self, Slots};
use shardmill_protocol::task::MapOutput;
use shardmill_protocol::{AttemptId, Digest, Failure, Fault, Grant, Outcome, Suspect, Task};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use crate::disk::{self, Disk, MAP_INDEX, MAP_RUN};
use crate::held::{Stage, Stop};
use crate::log::Captured;
use crate::shuffle::fetch::Wish;
use crate::shuffle::sources::{self, List, ListError, Pages, Sight};
use crate::worker::Worker;
use crate::{seat, session};

/// How often it is looked whether what is written still fits.
const DISK_WATCH: Duration = Duration::from_secs(2);
/// How often what a job process writes is sent on.
const LOG_PAUSE: Duration = Duration::from_secs(1);
/// How long the coordinator may take for a page.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times that a list of sources may change while it is read.
const CHANGES: usize = 10;
/// Times that it is waited for when it is not there: a third of a second in all.
const WAITS: u32 = 3;

/// An attempt that is to be run.
pub(crate) struct Attempt<'w> {
    pub(crate) worker: &'w Worker,
    pub(crate) grant: &'w Grant,
    pub(crate) stop: watch::Receiver<Option<Stop>>,
}

/// An attempt that is ready to run.
struct Prepared {
    setup: Arc<JobSetup>,
    order: Order,
    list: Option<Digest>,
}

/// What has become of an attempt.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it ended.
    pub(crate) result: Result<Outcome, Failure>,
    /// What its process has written to stderr and stdout.
    pub(crate) log: Vec<u8>,
}

impl Ended {
    fn failed(failure: impl Into<Failure>) -> Self {
        Self { result: Err(failure.into()), log: Vec::new() }
    }
}

/// The directory of an attempt in the staging directory of its job.
pub(crate) fn staged_directory(setup: &JobSetup, attempt: AttemptId) -> PathBuf {
    setup.staging.join("attempts").join(attempt.directory())
}

impl Attempt<'_> {
    /// Runs it, to whatever end.
    pub(crate) async fn run(self) -> Ended {
        let mut stop = self.stop.clone();
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            fault = stopped(&mut stop) => Err(fault),
        };
        match prepared {
            Ok(prepared) => self.run_prepared(prepared).await,
            Err(fault) => Ended::failed(fault),
        }
    }

    async fn prepare(&self) -> Result<Prepared, Fault> {
        let Self { worker, grant, .. } = self;
        worker.contact.fresh().await;
        let seat = worker.seats.of(grant.attempt.job);
        let setup = seat.setup(&worker.line).await.map_err(|error| {
            tracing::debug!(attempt = %grant.attempt, %error, "what the job is cannot be learned");
            Fault::Cancelled
        })?;
        worker.shelf.open(grant.attempt.job, setup.capability);
        let (directory, staged) = self.make_directories(&setup).await?;
        let (sources, list) = match &grant.task {
            Task::Reduce(partitions) => {
                let list = self.list().await?;
                (Some(self.gather(&setup, &list, partitions, &directory).await?), Some(list.digest))
            }
            _ => (None, None),
        };
        let share = (grant.threads, worker.config.thread_count());
        let memory = matches!(grant.task, Task::Map(_)).then(|| worker.disk.memory().offer(grant.attempt, share)).flatten();
        let order = Order {
            attempt: grant.attempt,
            task: grant.task.clone(),
            threads: grant.threads,
            memory_bytes: grant.memory_bytes,
            directory,
            staged,
            inputs: grant.inputs.clone(),
            set_aside: grant.set_aside.clone(),
            sources,
            memory,
            durable: setup.spec.durable,
        };
        Ok(Prepared { setup, order, list })
    }

    async fn make_directories(&self, setup: &Arc<JobSetup>) -> Result<(PathBuf, PathBuf), Fault> {
        let (disk, setup, attempt) = (Arc::clone(&self.worker.disk), Arc::clone(setup), self.grant.attempt);
        let threads = self.grant.threads as usize;
        let made = spawn_blocking(move || {
            disk.check_room(DISK_WATCH)?;
            let directory = disk.create_attempt(attempt)?;
            let slots = directory.join(slots::FILE_NAME);
            Slots::create(&slots, threads).map_err(|error| disk::fault(&slots, &error))?;
            let staged = stage(&setup, attempt).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Fault::OutputUnseen { path: setup.staging.clone() },
                _ => disk::fault(&setup.staging, &error),
            })?;
            Ok((directory, staged))
        });
        made.await.expect("making directories does not panic")
    }

    /// The list of map outputs that it reads. If one is being made again, the attempt is handed back: who waits for that to be done may
    /// be the one who could do it.
    async fn list(&self) -> Result<List, Fault> {
        let attempt = self.grant.attempt;
        let waits = AtomicU32::new(0);
        'again: for _ in 0..CHANGES {
            let (mut pages, mut number) = (Pages::default(), 0);
            loop {
                let waits = &waits;
                let page = self.worker.line.call(|live| async move {
                    match live.client.sources(within(PATIENCE), live.session, attempt, number).await? {
                        Err(ApiError::Unavailable { .. }) if waits.fetch_add(1, Relaxed) == WAITS => Ok(Ok(None)),
                        answer => Ok(answer.map(Some)),
                    }
                });
                let page = page.await.map_err(|error: ApiError| {
                    tracing::debug!(%attempt, %error, "its sources cannot be learned");
                    Fault::Cancelled
                })?;
                let Some(page) = page else { return Err(Fault::Drained) };
                let more = page.more;
                match pages.push(page) {
                    Err(ListError::Changed) => continue 'again,
                    Err(ListError::Damaged) => break,
                    Ok(()) if more => number += 1,
                    Ok(()) => match pages.end() {
                        Ok(list) => return Ok(list),
                        Err(_) => break,
                    },
                }
            }
        }
        // Whoever grants it again has another list by then.
        tracing::warn!(%attempt, "the list of its sources keeps changing, or does not have its digest");
        Err(Fault::Drained)
    }

    async fn gather(&self, setup: &JobSetup, list: &List, partitions: &Range<u32>, directory: &Path) -> Result<PathBuf, Fault> {
        let (trouble, mut troubles) = mpsc::unbounded_channel();
        let wish = Wish { capability: setup.capability, partitions: partitions.clone(), trouble };
        let sight = Sight { me: self.worker.disk.id(), fetch_always: self.worker.config.fetch_always };
        let seat = self.worker.seats.of(self.grant.attempt.job);
        let gathering = async move { sources::gather(&self.worker.fetcher, &seat.kept, sight, &wish, list, directory).await };
        let telling = async {
            while let Some(trouble) = troubles.recv().await {
                // Not again when there is no answer: each time is counted.
                let live = self.worker.line.live().await;
                if let Err(error) = live.client.fetch_trouble(within(PATIENCE), live.session, trouble.output, trouble.damaged).await {
                    tracing::debug!(output = %trouble.output, %error, "trouble could not be told");
                }
            }
        };
        // What is told counts even if the attempt then ends because of it.
        tokio::join!(gathering, telling).0
    }

    async fn run_prepared(self, prepared: Prepared) -> Ended {
        let Self { worker, grant, mut stop } = self;
        let Prepared { setup, order, list } = prepared;
        let seat = worker.seats.of(grant.attempt.job);
        let turn = async {
            let process = seat.process().lock().await;
            let threads = worker.threads.acquire_many(grant.threads.min(worker.config.thread_count())).await;
            worker.contact.fresh().await;
            (process, threads.expect("the semaphore is never closed"))
        };
        let (mut process, _threads) = tokio::select! {
            turn = turn => turn,
            fault = stopped(&mut stop) => return Ended::failed(fault),
        };
        worker.attempts.enter(grant.attempt, Stage::Running);
        if !process.as_ref().is_some_and(|process| process.is_alive()) {
            worker.ended(seat::end(&mut process).await);
            let start = seat.start(&worker.disk, &worker.line, &worker.rules, &setup, grant.memory_bytes);
            let started = tokio::select! {
                started = start => started,
                // Whatever was started goes with what is dropped here.
                fault = stopped(&mut stop) => Err(fault.into()),
            };
            match started {
                Ok(started) => *process = Some(started),
                Err(failure) => return Ended::failed(failure),
            }
        }
        let running = process.as_mut().expect("one was started");
        let stopped = async {
            tokio::select! {
                fault = stopped(&mut stop) => fault,
                fault = overflow(&worker.disk) => fault,
            }
        };
        let stderr = running.stderr();
        let result = tokio::select! {
            result = running.run(&order, |progress| worker.attempts.progress(grant.attempt, progress), stopped) => result,
            never = tell_log(worker, grant.attempt, &stderr) => match never {},
        };
        let result = match result {
            Ok(outcome) => check(&worker.disk, &order, outcome, list).await,
            failed => failed,
        };
        match &result {
            Ok(_) => Ended { log: running.take_log(), result },
            Err(_) => {
                // What has failed once may be in any state: the next attempt gets another process.
                let gone = running.end().await;
                let log = running.take_log();
                *process = None;
                worker.ended(gone);
                Ended { result: result.map_err(|failure| blame(failure, &order, &setup)), log }
            }
        }
    }
}

/// Sends on what a job process writes to stderr, for as long as it is polled; the rest is sent before the report. Dropped while the
/// coordinator is away or has not answered, it leaves what it was telling to be told again rather than not at all.
async fn tell_log(worker: &Worker, attempt: AttemptId, stderr: &Captured) -> Infallible {
    loop {
        tokio::time::sleep(LOG_PAUSE).await;
        let untold = stderr.untold(CHUNK_BYTES);
        if !untold.is_empty() && session::tell_log(worker, attempt, &untold).await {
            stderr.told(untold.len());
        }
    }
}

/// Waits until an attempt is to stop.
async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Fault {
    match stop.wait_for(Option::is_some).await {
        Ok(stop) => stop.expect("it was waited for").fault(),
        // Nobody holds the attempt any more.
        Err(_) => Fault::Cancelled,
    }
}

/// Waits until what is written does not fit any more.
async fn overflow(disk: &Arc<Disk>) -> Fault {
    loop {
        tokio::time::sleep(DISK_WATCH).await;
        let disk = Arc::clone(disk);
        if let Err(fault) = spawn_blocking(move || disk.check_room(DISK_WATCH / 2)).await.expect("looking does not panic") {
            return fault;
        }
    }
}

/// Makes the attempt's directory in staging. The staging directory itself is the coordinator's to make.
fn stage(setup: &JobSetup, attempt: AttemptId) -> io::Result<PathBuf> {
    let attempts = setup.staging.join("attempts");
    match DirBuilder::new().create(&attempts) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let staged = staged_directory(setup, attempt);
    fs::create_dir(&staged)?;
    Ok(staged)
}

/// Adds what the threads were at to a failure of a process that could not say it itself.
fn blame(mut failure: Failure, order: &Order, setup: &JobSetup) -> Failure {
    let is_dead = matches!(
        failure.fault,
        Fault::Signalled { .. }
            | Fault::OutOfMemory { .. }
            | Fault::Stalled { .. }
            | Fault::ExitedWithoutResult { .. }
            | Fault::ProtocolBroken { .. }
    );
    if is_dead && failure.suspects.is_empty() {
        failure.suspects = slots::suspects(&order.directory.join(slots::FILE_NAME)).unwrap_or_default().into();
        failure.files = files_of(&failure.suspects, order, setup).unwrap_or_default();
    }
    failure
}

/// The files in which suspects are that were being mapped: a record's number is of little use without.
fn files_of(suspects: &[Suspect], order: &Order, setup: &JobSetup) -> Option<Box<[String]>> {
    let (Task::Map(_), [input]) = (&order.task, order.inputs.as_slice()) else { return None };
    let plan = fs::read(staged_directory(setup, input.attempt).join(&input.name)).ok()?;
    let ((_, plan), _): ((Vec<ManifestInput>, Plan), _) = postcard::take_from_bytes(&plan).ok()?;
    let file_of = |suspect: &Suspect| plan.files.get(plan.shards.get(suspect.unit as usize)?.file as usize);
    suspects.iter().map(|suspect| Some(file_of(suspect)?.file.path.display().to_string())).collect()
}

/// Checks an outcome against the files that it speaks of, and completes it.
async fn check(disk: &Arc<Disk>, order: &Order, outcome: Outcome, list: Option<Digest>) -> Result<Outcome, Failure> {
    let (disk, order) = (Arc::clone(disk), order.clone());
    let checked = spawn_blocking(move || {
        let outcome = match outcome {
            Outcome::Reduced { parts, tally, .. } => Outcome::Reduced { list: list.unwrap_or_default(), parts, tally },
            other => other,
        };
        if matches!(order.task, Task::Map(_)) {
            let run = order.directory.join(MAP_RUN);
            disk.memory().settle(order.attempt, &run).map_err(|error| disk::fault(&run, &error))?;
        }
        if let Err(error) = compare(&order, &outcome) {
            tracing::warn!(attempt = %order.attempt, %error, "the job process reports what is not there");
            let stderr = format!("[{error}]");
            return Err(Fault::ProtocolBroken { breach: Breach::FalseReport, stderr }.into());
        }
        if let (Task::Map(shards), Outcome::Mapped { index, .. }) = (&order.task, &outcome) {
            disk.seal(&MapOutput { shards: shards.clone(), attempt: order.attempt, index: *index })?;
        }
        Ok(outcome)
    });
    checked.await.expect("comparing does not panic")
}

fn compare(order: &Order, outcome: &Outcome) -> io::Result<()> {
    let staged = |name: &str, digest: &Digest| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(order.staged.join(name))?)?;
        truth(hasher.finalize() == digest.0, format!("the file {name} has another digest"))
    };
    match (&order.task, outcome) {
        (Task::Draft, Outcome::Drafted { draft, .. }) => staged("draft", draft),
        (Task::Survey(_), Outcome::Surveyed { surveys }) => staged("surveys", surveys),
        (Task::Plan, Outcome::Planned { plan, weights, .. }) => staged("plan", plan).and_then(|()| staged("weights", weights)),
        (Task::Map(_), Outcome::Mapped { index, partition_bytes, set_aside, .. }) => {
            compare_output(&order.directory, index, partition_bytes)?;
            set_aside.as_ref().map_or(Ok(()), |(_, digest)| staged("quarantine", digest))
        }
        (Task::Reduce(partitions), Outcome::Reduced { parts, .. }) => {
            truth(parts.len() == partitions.len(), format!("{} parts of {} partitions", parts.len(), partitions.len()))?;
            // Their bytes were digested while they were written, and are checked again by whoever reads the output.
            parts.iter().try_for_each(|part| {
                truth(!part.name.contains('/'), format!("a part of the name {:?}", part.name))?;
                let metadata = fs::symlink_metadata(order.staged.join(&part.name))?;
                truth(metadata.is_file() && metadata.len() == part.bytes, format!("the part {} has another length", part.name))
            })
        }
        (task, _) => truth(false, format!("the outcome is not that of {task}")),
    }
}

fn compare_output(directory: &Path, index: &Digest, partition_bytes: &[u64]) -> io::Result<()> {
    let bytes = fs::read(directory.join(MAP_INDEX))?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let opened = Index::open(&bytes, &index.0).map_err(invalid)?;
    let segments = opened.segments(0..opened.partitions()).map_err(invalid)?;
    truth(
        segments.iter().map(|segment| segment.content_bytes).eq(partition_bytes.iter().copied()),
        "other bytes for partitions".to_owned(),
    )?;
    let stored: u64 = segments.iter().map(|segment| segment.stored_bytes).sum();
    truth(fs::metadata(directory.join(MAP_RUN))?.len() == stored, "map.run has another length".to_owned())
}

fn truth(is_true: bool, otherwise: String) -> io::Result<()> {
    if is_true { Ok(()) } else { Err(io::Error::other(otherwise)) }
}
