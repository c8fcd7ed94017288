//! `coordinator run`: a cluster for one job. A coordinator and workers are started here, and are gone when the job is.
//!
//! They are the same programs as in any cluster, as processes of this machine that speak over loopback. Their state lies in a
//! temporary directory beside the output, as the data between map and reduce may be as large as the input. They are in a process
//! group of their own, so that an interrupt at the terminal comes to this process alone, and die with it, whatever ends it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use shardmill_datasets::Room;
use shardmill_datasets::request::parse_bytes;
use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::connect::{connect, within};
use shardmill_protocol::rpc::join::JoinFile;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::client;
use crate::client::connect::Find;
use crate::client::follow::OnInterrupt;
use crate::client::submit::{Submission, submit};
use crate::fault_point::FaultPoint;
use crate::publish::Publisher;

/// How long a call to the embedded coordinator may take.
const CALL: Duration = Duration::from_secs(10);
/// How long an interrupted job may take to be cancelled by whoever follows it.
const INTERRUPTED: Duration = Duration::from_secs(12);
/// How long what is left of a job may take to be swept.
const SWEEPING: Duration = Duration::from_secs(15);
/// How long processes may take to end by themselves.
const ENDING: Duration = Duration::from_secs(5);
/// How often something is looked at that nobody tells of.
const LOOK: Duration = Duration::from_millis(5);
/// How much of a log is shown when its process has failed.
const LOG_LINES: usize = 20;

/// `coordinator run`
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    submission: Submission,
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Cluster")]
    workers: u32,
    /// Threads of each worker [default: all cores, shared out].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Cluster")]
    threads: Option<u32>,
    /// Memory of all workers together [default: half of what there is].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Cluster")]
    memory: Option<u64>,
    /// Where to keep what lies between map and reduce [default: beside the output].
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    temp_dir: Option<PathBuf>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbedError {
    /// A program cannot be started.
    #[error("cannot start {}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    /// There is no worker to start.
    #[error("no `worker` is beside {}: build it, or put it there", path.display())]
    NoWorker { path: PathBuf },
    /// There is too little memory for the workers.
    #[error(
        "{workers} workers of {threads} threads need a memory budget of at least {least} MiB, not {given} MiB; give --memory {least}MiB, \
         or fewer --workers or --threads"
    )]
    Memory { workers: u32, threads: u32, least: u64, given: u64 },
    /// A process of the cluster has ended by itself.
    #[error("the {what} has ended ({how}); it last said:\n{log}")]
    Ended { what: String, how: String, log: String },
    /// The temporary directory cannot be made.
    #[error("cannot keep temporary files in {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// The system refuses.
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
}

/// Starts a cluster, runs the job on it, and stops the cluster, however the job ends.
pub(crate) fn run(arguments: Run) -> ExitCode {
    // The processes that are started die with the thread that starts them: this one, which lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|source| EmbedError::System { action: "start", source }).and_then(|runtime| {
        let outcome = runtime.block_on(run_job(arguments));
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", crate::publish::chain(&error));
            match error {
                EmbedError::NoWorker { .. } | EmbedError::Memory { .. } | EmbedError::Directory { .. } => ExitCode::from(2),
                EmbedError::Spawn { .. } | EmbedError::Ended { .. } | EmbedError::System { .. } => ExitCode::FAILURE,
            }
        }
    }
}

async fn run_job(arguments: Run) -> Result<ExitCode, EmbedError> {
    let Run { submission, workers, threads, memory, temp_dir } = arguments;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let threads = threads.unwrap_or_else(|| (cores / workers).max(1));
    let memory = memory.unwrap_or_else(|| rustix::system::sysinfo().totalram as u64 / 2);
    let least = u64::from(workers) * (u64::from(threads) * Room::LEAST_SHARE).max(Room::LEAST_PROCESS);
    if memory < least {
        return Err(EmbedError::Memory { workers, threads, least: least >> 20, given: memory >> 20 });
    }
    let memory = memory / u64::from(workers);
    let directory = TempDirectory::new(&temp_dir.unwrap_or_else(|| beside(&submission.request.output)))?;
    let mut interrupts = Interrupts::new()?;
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&directory.path, workers, threads, memory) => cluster?,
        () = interrupts.next() => return Ok(ExitCode::from(130)),
    };
    let find = Find { coordinator: Some(cluster.state.clone()), is_fleeting: true };
    let outcome = {
        let mut submitted = std::pin::pin!(submit(&find, submission, OnInterrupt::Cancel));
        tokio::select! {
            outcome = &mut submitted => Ok(client::exit(outcome)),
            failed = cluster.failure() => Err(failed),
            // Whoever follows the job cancels it; where nothing was submitted yet, there is nothing to wait for.
            () = interrupts.next() => {
                let _ = timeout(INTERRUPTED, submitted).await;
                Ok(ExitCode::from(130))
            }
        }
    };
    cluster.stop().await;
    outcome
}

/// Where the temporary directory goes by itself: where the output will be, as far as that is there already.
fn beside(output: &Path) -> PathBuf {
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let there = absolute.ancestors().skip(1).find(|above| above.is_dir());
    there.map_or_else(std::env::temp_dir, Path::to_owned)
}

/// SIGINT and SIGTERM, as they come.
struct Interrupts(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

impl Interrupts {
    fn new() -> Result<Self, EmbedError> {
        let wait = |kind| signal(kind).map_err(|source| EmbedError::System { action: "wait for signals", source });
        Ok(Self(wait(SignalKind::interrupt())?, wait(SignalKind::terminate())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// A directory that is removed with all that is in it. Locked for as long as its run lives: one that is found unlocked was left by
/// a run that was killed.
struct TempDirectory {
    path: PathBuf,
    _lock: fs::File,
}

/// How the names of these directories begin.
const PREFIX: &str = ".shardmill-cluster-";

impl TempDirectory {
    fn new(parent: &Path) -> Result<Self, EmbedError> {
        let mut random = [0; 6];
        getrandom::fill(&mut random)
            .map_err(|error| EmbedError::System { action: "make a name", source: io::Error::other(error.to_string()) })?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = parent.join(format!("{PREFIX}{name}"));
        let made = || -> io::Result<fs::File> {
            // Only one run at a time sweeps or creates here, so that none is swept before it is locked.
            let gate = fs::File::open(parent)?;
            gate.lock()?;
            sweep(parent)?;
            fs::create_dir(&path)?;
            let lock = fs::File::open(&path)?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = made().map_err(|source| EmbedError::Directory { path: path.clone(), source })?;
        Ok(Self { path, _lock: lock })
    }
}

/// Removes what killed runs have left: their claims and staging beside outputs, and their directories.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_dead = || fs::File::open(entry.path()).is_ok_and(|left| left.try_lock().is_ok());
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) || !is_dead() {
            continue;
        }
        let claims = entry.path().join("state/claims");
        let given_up = match claims.is_dir() {
            true => Publisher::new(claims, String::new(), FaultPoint::default()).give_up_all_but(&BTreeSet::new()),
            false => Ok(()),
        };
        // What cannot be removed takes room, and is no reason not to run.
        if let Err(error) = given_up.and_then(|()| fs::remove_dir_all(entry.path())) {
            eprintln!("warning: cannot remove {}: {error}", entry.path().display());
        }
    }
    Ok(())
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The processes.
struct Cluster {
    state: PathBuf,
    coordinator: Member,
    workers: Vec<Member>,
}

/// One of them.
struct Member {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Cluster {
    async fn start(directory: &Path, workers: u32, threads: u32, memory: u64) -> Result<Self, EmbedError> {
        let own = std::env::current_exe().map_err(|source| EmbedError::System { action: "find this program", source })?;
        let worker = own.with_file_name("worker");
        if !worker.is_file() {
            return Err(EmbedError::NoWorker { path: own });
        }
        let state = directory.join("state");
        let mut serve = Command::new(&own);
        serve.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(&state).stdout(Stdio::piped());
        let mut coordinator = Member::start(serve, "coordinator".to_owned(), directory.join("coordinator.log"))?;
        coordinator.is_ready().await?;
        let start = |number| {
            let name = format!("worker-{number}");
            let mut command = Command::new(&worker);
            command.arg("--join").arg(state.join(JoinFile::name(Role::Worker))).arg("--dir").arg(directory.join(&name));
            command.args(["--threads", &threads.to_string(), "--memory", &memory.to_string()]).stdout(Stdio::null());
            Member::start(command, name.clone(), directory.join(format!("{name}.log")))
        };
        let workers = (1..=workers).map(start).collect::<Result<_, _>>()?;
        Ok(Self { state, coordinator, workers })
    }

    /// Waits until a process ends that should not.
    async fn failure(&mut self) -> EmbedError {
        let members = std::iter::once(&mut self.coordinator).chain(&mut self.workers);
        let ends: Vec<_> = members.map(|member| Box::pin(member.end())).collect();
        futures::future::select_all(ends).await.0
    }

    /// Cancels what still runs, waits until nothing is left of it, and ends all processes.
    async fn stop(mut self) {
        let swept = async {
            let Ok(join) = JoinFile::read(&self.state.join(JoinFile::name(Role::Submit))) else { return };
            let Ok(connection) = connect(&join).await else { return };
            if let Ok(Ok(jobs)) = connection.client.jobs(within(CALL), 0).await {
                for job in jobs.iter().filter(|job| !job.phase.is_final()) {
                    // A job that ends by itself meanwhile needs no cancelling.
                    let _ = connection.client.cancel(within(CALL), job.job).await;
                }
            }
            let claims = self.state.join("claims");
            while fs::read_dir(&claims).is_ok_and(|mut claims| claims.next().is_some()) {
                sleep(LOOK).await;
            }
        };
        if timeout(SWEEPING, swept).await.is_err() {
            eprintln!("warning: staging beside the output could not be swept in time");
        }
        for member in self.workers.iter_mut().chain([&mut self.coordinator]) {
            member.terminate();
        }
        for member in self.workers.iter_mut().chain([&mut self.coordinator]) {
            if timeout(ENDING, member.child.wait()).await.is_err() {
                // One that has just ended cannot be killed, and needs not be.
                let _ = member.child.kill().await;
            }
        }
    }
}

impl Member {
    fn start(mut command: Command, what: String, log: PathBuf) -> Result<Self, EmbedError> {
        let program = PathBuf::from(command.as_std().get_program());
        let failed = |source| EmbedError::Spawn { path: program.clone(), source };
        let file = fs::File::create(&log).map_err(failed)?;
        command.stdin(Stdio::null()).stderr(file).process_group(0).kill_on_drop(true);
        // SAFETY: between fork and exec only one system call is made, which allocates nothing and touches no memory.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().map_err(failed)?;
        Ok(Self { what, child, log })
    }

    /// Waits for the one line on stdout that says so.
    async fn is_ready(&mut self) -> Result<(), EmbedError> {
        let stdout = self.child.stdout.take().expect("it is piped");
        let mut line = String::new();
        match BufReader::new(stdout).read_line(&mut line).await {
            Ok(read) if read > 0 => Ok(()),
            _ => Err(self.end().await),
        }
    }

    /// Waits for its end, and says how it was.
    async fn end(&mut self) -> EmbedError {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        EmbedError::Ended { what: self.what.clone(), how, log }
    }

    fn terminate(&self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            // One that has just ended was not waited for, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}
