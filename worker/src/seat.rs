//! Seats: one for each job that this worker serves, in which its one job process sits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use bundled_jobs as bundled;
use shardmill_protocol::fault::Unstartable;
use shardmill_protocol::process::Setup;
use shardmill_protocol::rpc::api::{ApiError, JobSetup, Program};
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::{Digest, Failure, Fault, JobId, VERSION};
use tokio::sync::{Mutex, OnceCell};

use crate::artifact;
use crate::disk::{self, Disk};
use crate::line::Line;
use crate::process::{Launch, Process, Rules};
use crate::shuffle::sources::Kept;

/// How long the coordinator may take to say what a job is.
const PATIENCE: Duration = Duration::from_secs(10);

/// A job, with the process that serves it.
#[derive(Debug)]
pub(crate) struct Seat {
    job: JobId,
    setup: OnceCell<Arc<JobSetup>>,
    process: Mutex<Option<Process>>,
    /// What was fetched for attempts that then failed.
    pub(crate) kept: Kept,
    /// Process directories made so far.
    starts: AtomicU64,
}

/// All jobs that are served.
#[derive(Debug, Default)]
pub(crate) struct Seats(StdMutex<BTreeMap<JobId, Arc<Seat>>>);

impl Seats {
    /// The seat of a job.
    pub(crate) fn of(&self, job: JobId) -> Arc<Seat> {
        let seat = || {
            let (setup, process) = (OnceCell::new(), Mutex::default());
            Arc::new(Seat { job, setup, process, kept: Kept::default(), starts: AtomicU64::new(0) })
        };
        Arc::clone(self.0.lock().expect("no holder panics").entry(job).or_insert_with(seat))
    }

    /// The jobs that have one.
    pub(crate) fn jobs(&self) -> BTreeSet<JobId> {
        self.0.lock().expect("no holder panics").keys().copied().collect()
    }

    /// The executables that are in use.
    pub(crate) fn artifacts(&self) -> BTreeSet<Digest> {
        let seats = self.0.lock().expect("no holder panics");
        let programs = seats.values().filter_map(|seat| match seat.setup.get()?.spec.program {
            Program::Artifact { digest, .. } => Some(digest),
            Program::Bundled(_) => None,
        });
        programs.collect()
    }

    /// Ends a job's process, once its attempt is over, and gives its seat up; false if something of it cannot be killed.
    pub(crate) async fn clear(&self, job: JobId) -> bool {
        let seat = self.0.lock().expect("no holder panics").remove(&job);
        match seat {
            Some(seat) => end(&mut *seat.process.lock().await).await,
            None => true,
        }
    }

    /// Ends all processes; false if something cannot be killed.
    pub(crate) async fn clear_all(&self) -> bool {
        let mut all = true;
        for job in self.jobs() {
            all &= self.clear(job).await;
        }
        all
    }
}

/// Ends the process that sits there; false if something of it cannot be killed.
pub(crate) async fn end(process: &mut Option<Process>) -> bool {
    match process.take() {
        Some(mut process) => process.end().await,
        None => true,
    }
}

impl Seat {
    /// What the job is. Asked for once.
    pub(crate) async fn setup(&self, line: &Line) -> Result<Arc<JobSetup>, ApiError> {
        let job = self.job;
        let ask = || async {
            let setup = line.call(|live| async move { live.client.job_setup(within(PATIENCE), job).await });
            setup.await.map(Arc::new)
        };
        self.setup.get_or_try_init(ask).await.cloned()
    }

    /// What the job is, if that was learned already.
    pub(crate) fn setup_now(&self) -> Option<Arc<JobSetup>> {
        self.setup.get().cloned()
    }

    /// The place of the job's process, whether one sits there or not. One attempt at a time has it.
    pub(crate) fn process(&self) -> &Mutex<Option<Process>> {
        &self.process
    }

    /// Starts a process for the job.
    pub(crate) async fn start(&self, disk: &Disk, line: &Line, rules: &Rules, setup: &JobSetup, memory: u64) -> Result<Process, Failure> {
        let directory_of = |start: u64| disk.job_directory(self.job).join(format!("process-{start}"));
        let start = self.starts.fetch_add(1, Relaxed);
        // What the process before this one has left goes, and what a worker before this one has.
        [start.saturating_sub(1), start].into_iter().for_each(|start| disk::remove(&directory_of(start)));
        let directory = directory_of(start);
        std::fs::create_dir_all(&directory).map_err(|error| disk::fault(&directory, &error))?;
        let launch = self.launch(disk, line, rules, &setup.spec.program, &directory).await?;
        let said = Setup {
            version: VERSION,
            job: self.job,
            name: setup.spec.name.clone(),
            parameters: setup.spec.parameters.clone(),
            request: setup.spec.request.clone(),
            staging: setup.staging.clone(),
        };
        Process::start(rules, &launch, &said, memory).await
    }

    async fn launch(&self, disk: &Disk, line: &Line, rules: &Rules, program: &Program, directory: &Path) -> Result<Launch, Fault> {
        let launch = |program: PathBuf, arguments: &[&str]| Launch {
            program,
            arguments: arguments.iter().map(Into::into).collect(),
            directory: directory.to_owned(),
        };
        match program {
            Program::Artifact { digest, bytes } => Ok(launch(artifact::ensure(disk, line, *digest, *bytes).await?, &["task"])),
            Program::Bundled(name) if bundled::exists(name) => Ok(launch(rules.guard.clone(), &[bundled::VERB, name, "task"])),
            Program::Bundled(name) => {
                let cause = format!("this worker has no bundled job {name:?}: use the same release of shardmill everywhere");
                Err(Fault::SpawnFailed { reason: Unstartable::System, cause })
            }
        }
    }
}
