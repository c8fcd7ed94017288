//! A worker: what all of its parts share, and its life from the first registration to the last farewell.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use shardmill_protocol::rpc::api::{Role, WorkerHello};
use shardmill_protocol::rpc::connect::{ConnectError, within};
use shardmill_protocol::rpc::join::{JoinError, JoinFile, default_state_directory};
use shardmill_protocol::rpc::shuffle::is_plain;
use shardmill_protocol::rpc::tls::{Identity, TlsError};
use shardmill_protocol::task::MapOutput;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{Config, ConfigError};
use crate::disk::{Disk, DiskError};
use crate::held::Attempts;
use crate::line::{Contact, Line};
use crate::process::Rules;
use crate::seat::Seats;
use crate::shuffle::fetch::Fetcher;
use crate::shuffle::serve::{Server, Shelf};
use crate::{artifact, heartbeat, session};

/// How often it is asked which jobs have ended.
const SWEEP: Duration = Duration::from_secs(2);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The first pause after an output could not be fetched.
const FETCH_PAUSE: Duration = Duration::from_millis(200);

/// Why a worker cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no join file.
    #[error("no coordinator is known: start one here with `coordinator serve`, or give its join file with --join")]
    NoCoordinator,
    /// The join file is of no use.
    #[error("the join file cannot be used")]
    Join(#[from] JoinError),
    /// The join file is for somebody else.
    #[error("the join file is for the role {0}: a worker needs the coordinator's worker.join")]
    Role(Role),
    /// The directory cannot be a worker's.
    #[error("the worker's directory cannot be used")]
    Disk(#[from] DiskError),
    /// There can be no address to serve map outputs at.
    #[error("cannot serve map outputs at {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no certificate.
    #[error("map outputs cannot be served over TLS")]
    Tls(#[from] TlsError),
    /// The coordinator will have nothing to do with this worker.
    #[error("the coordinator cannot be joined")]
    Connect(#[from] ConnectError),
}

impl WorkerError {
    /// The exit code of a worker that ends because of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Role(_) | Self::Listen { .. } | Self::NoCoordinator | Self::Disk(DiskError::Name { .. }) => 2,
            Self::Join(error) if error.is_missing() => 2,
            Self::Join(_) | Self::Tls(_) | Self::Disk(DiskError::Damaged { .. } | DiskError::Io { .. }) => 78,
            Self::Disk(DiskError::InUse { .. }) => 4,
            Self::Connect(error) => error.exit_code(),
        }
    }
}

/// What the parts of a worker share.
pub(crate) struct Worker {
    pub(crate) config: Config,
    join: Mutex<JoinFile>,
    join_path: PathBuf,
    pub(crate) disk: Arc<Disk>,
    pub(crate) rules: Rules,
    pub(crate) line: Line,
    pub(crate) contact: Contact,
    pub(crate) attempts: Attempts,
    pub(crate) seats: Seats,
    pub(crate) threads: Semaphore,
    pub(crate) fetcher: Fetcher,
    pub(crate) shelf: Arc<Shelf>,
    /// What it says of itself when it registers, but for what it holds.
    pub(crate) hello: WorkerHello,
    /// Whether it is to leave.
    pub(crate) leaving: watch::Sender<Option<Leave>>,
}

/// How a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// What runs is finished, however long it takes.
    Finish,
    /// What runs is finished within a limit, or handed back.
    HandBack,
}

impl Worker {
    /// Where the coordinator is: as its file says now, for it may have come back elsewhere.
    pub(crate) fn join(&self) -> JoinFile {
        let mut known = self.join.lock().expect("no holder panics");
        if let Ok(now) = JoinFile::read(&self.join_path) {
            *known = now;
        }
        known.clone()
    }

    /// The worker is to leave. Who is in a hurry decides.
    pub(crate) fn leave(&self, how: Leave) {
        self.leaving.send_if_modified(|leaving| {
            let is_new = leaving.is_none() || how == Leave::HandBack && *leaving != Some(Leave::HandBack);
            if is_new {
                *leaving = Some(how);
            }
            is_new
        });
    }

    /// Takes note of whether an ended process is gone. One that cannot be killed keeps its memory and its threads for ever, so
    /// nothing more is taken on here.
    pub(crate) fn ended(&self, is_gone: bool) {
        if !is_gone {
            tracing::error!("a job process cannot be killed; this worker takes no more tasks");
            self.leave(Leave::HandBack);
        }
    }

    /// Removes a map output.
    pub(crate) fn discard(self: &Arc<Self>, output: MapOutput) {
        self.shelf.take(output.attempt);
        let disk = Arc::clone(&self.disk);
        spawn_blocking(move || disk.remove_attempt(output.attempt));
    }
}

/// Runs a worker until it is told to leave.
///
/// Boxed, so that it is compiled in this crate and not again in each one that polls it.
pub fn run(config: Config, rules: Rules, signals: watch::Receiver<u32>) -> BoxFuture<'static, Result<(), WorkerError>> {
    Box::pin(start(config, rules, signals))
}

async fn start(config: Config, rules: Rules, signals: watch::Receiver<u32>) -> Result<(), WorkerError> {
    config.validate()?;
    let (join, join_path) = join_file(&config)?;
    let disk = match &config.dir {
        Some(directory) => Disk::open(directory, config.disk)?,
        None => Disk::open_first_free(&config.default_directory()?, config.disk)?,
    };
    let disk = Arc::new(disk.with_memory(config.output_memory_bytes()));
    let (listener, address) = listen(&config, &join)?;
    let identity = Identity::generate()?;
    let tls = identity.acceptor()?;
    let hello = WorkerHello {
        worker: disk.id(),
        threads: config.thread_count(),
        memory_bytes: config.task_memory_bytes(),
        shuffle_address: address,
        fingerprint: identity.fingerprint(),
        disk: disk.proof(),
        resumes: None,
        platform: shardmill_protocol::platform(),
        place: place(),
        attempts: Vec::new(),
    };
    let shelf = Arc::new(Shelf::default());
    let swept = Arc::clone(&disk);
    for held in spawn_blocking(move || swept.sweep()).await.expect("sweeping does not panic") {
        shelf.put(held.output);
    }
    tracing::info!(worker = %disk.id(), directory = %disk.proof().directory.display(), address = hello.shuffle_address, coordinator = join.address, "worker started");
    let serving = tokio::spawn(Server { disk: Arc::clone(&disk), shelf: Arc::clone(&shelf), tls }.run(listener));
    let worker = Arc::new(Worker {
        attempts: Attempts::new(config.thread_count()),
        threads: Semaphore::new(config.thread_count() as usize),
        config,
        join: Mutex::new(join),
        join_path,
        disk,
        rules,
        line: Line::default(),
        contact: Contact::new(),
        seats: Seats::default(),
        fetcher: Fetcher::new(FETCH_PAUSE),
        shelf,
        hello,
        leaving: watch::Sender::new(None),
    });
    live(&worker, signals, serving).await
}

async fn live(worker: &Arc<Worker>, mut signals: watch::Receiver<u32>, serving: JoinHandle<()>) -> Result<(), WorkerError> {
    let heartbeats = heartbeat::start(Arc::clone(worker));
    let watching = tokio::spawn(sweep_ended(Arc::clone(worker)));
    let orphaning = tokio::spawn(end_orphans(Arc::clone(worker)));
    let polling = tokio::spawn(session::poll(Arc::clone(worker)));
    let listening = async {
        while signals.changed().await.is_ok() {
            worker.leave(Leave::HandBack);
        }
        pending::<()>().await;
    };
    let result = tokio::select! {
        error = session::keep(worker) => Err(error),
        () = farewell(worker) => Ok(()),
        () = listening => unreachable!("it never ends"),
    };
    for task in [watching, orphaning, polling, serving] {
        task.abort();
        // Ended by this, or before.
        let _ = task.await;
    }
    worker.seats.clear_all().await;
    heartbeats.stop();
    result
}

/// Waits until the worker is to leave, and then until it can.
async fn farewell(worker: &Arc<Worker>) {
    let mut leaving = worker.leaving.subscribe();
    let how = *leaving.wait_for(Option::is_some).await.expect("the sender is here");
    tracing::info!(?how, "leaving");
    worker.attempts.hand_back(false);
    let mut changes = worker.attempts.changes();
    let mut all_over = async || {
        while !worker.attempts.is_empty() {
            changes.changed().await.expect("the sender is here");
        }
    };
    if how == Some(Leave::Finish) {
        tokio::select! {
            () = all_over() => {}
            _ = leaving.wait_for(|how| *how == Some(Leave::HandBack)) => {}
        }
    }
    let deadline = Instant::now() + worker.config.drain_within;
    if timeout_at(deadline, all_over()).await.is_err() {
        worker.attempts.hand_back(true);
        // Killing and reporting take a moment; with nobody to report to it ends here all the same.
        let _ = timeout(worker.config.kill_after + FAREWELL, all_over()).await;
    }
    if let Some(live) = worker.line.now() {
        let left = live.client.leave(within(FAREWELL), live.session).await;
        tracing::debug!(?left, "farewell");
    }
}

/// Asks now and then which jobs have ended, and removes all that there is of them.
async fn sweep_ended(worker: Arc<Worker>) {
    loop {
        sleep(SWEEP).await;
        let disk = Arc::clone(&worker.disk);
        let mut jobs = worker.seats.jobs();
        jobs.extend(spawn_blocking(move || disk.jobs()).await.expect("listing does not panic"));
        if jobs.is_empty() {
            continue;
        }
        for page in jobs.into_iter().collect::<Vec<_>>().chunks(shardmill_protocol::rpc::api::PAGE_ENTRIES) {
            let asked = worker.line.call(|live| {
                let jobs = page.to_vec();
                async move { live.client.ended(within(Duration::from_secs(10)), jobs).await }
            });
            for job in asked.await.unwrap_or_default() {
                worker.attempts.kill_job(job);
                let mut changes = worker.attempts.changes();
                while worker.attempts.is_at(job) {
                    changes.changed().await.expect("the sender is here");
                }
                worker.ended(worker.seats.clear(job).await);
                worker.shelf.close(job);
                let (disk, used) = (Arc::clone(&worker.disk), worker.seats.artifacts());
                let remove = move || {
                    disk.remove_job(job);
                    artifact::sweep(&disk, &used);
                };
                spawn_blocking(remove).await.expect("removing does not panic");
                tracing::info!(%job, "all that was left of an ended job is removed");
            }
        }
    }
}

/// Ends all job processes when the coordinator has been silent for too long; who knows whether it comes back.
async fn end_orphans(worker: Arc<Worker>) {
    loop {
        worker.contact.silent(worker.config.orphan_after).await;
        if !worker.attempts.is_empty() || !worker.seats.jobs().is_empty() {
            tracing::warn!("the coordinator has not been heard of for too long; job processes are ended");
        }
        worker.attempts.hand_back(true);
        worker.ended(worker.seats.clear_all().await);
        worker.line.live().await;
        worker.contact.fresh().await;
    }
}

fn join_file(config: &Config) -> Result<(JoinFile, PathBuf), WorkerError> {
    let given = config.coordinator.clone().or_else(default_state_directory).ok_or(WorkerError::NoCoordinator)?;
    let path = if given.is_dir() { given.join(JoinFile::name(Role::Worker)) } else { given };
    let join = match JoinFile::read(&path) {
        Err(error) if error.is_missing() && config.coordinator.is_none() => return Err(WorkerError::NoCoordinator),
        read => read?,
    };
    match join.role {
        Role::Worker => Ok((join, path)),
        role => Err(WorkerError::Role(role)),
    }
}

/// Where map outputs are served, and what others are told of it.
fn listen(config: &Config, join: &JoinFile) -> Result<(TcpListener, String), WorkerError> {
    let reached_from = own_address(&join.address);
    let address = config.listen.unwrap_or_else(|| match reached_from {
        Some(own) if !is_plain(own) => {
            SocketAddr::new(if own.is_ipv6() { std::net::Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        }
        _ => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
    });
    let failed = |source| WorkerError::Listen { address: address.to_string(), source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let shown = match &config.advertise {
        Some(host) if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => host.clone(),
        Some(host) => format!("{host}:{}", bound.port()),
        None if bound.ip().is_unspecified() => SocketAddr::new(reached_from.unwrap_or(bound.ip()), bound.port()).to_string(),
        None => bound.to_string(),
    };
    Ok((TcpListener::from_std(listener).map_err(failed)?, shown))
}

/// The address that this machine reaches another one from. Sends nothing.
fn own_address(other: &str) -> Option<IpAddr> {
    let other = other.to_socket_addrs().ok()?.next()?;
    let any: IpAddr = if other.is_ipv6() { std::net::Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(other).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn place() -> String {
    let host = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let host: String = host.trim().chars().take(200).collect();
    format!("{host}:{}", std::process::id())
}
