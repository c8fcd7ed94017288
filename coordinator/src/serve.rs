//! `coordinator serve`: puts the parts together, says where it is, and runs until it is told to stop.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use shardmill_protocol::Epoch;
use shardmill_protocol::rpc::api::{Control, Role};
use shardmill_protocol::rpc::join::{JoinError, JoinFile};
use shardmill_protocol::rpc::secret::{Secret, Secrets};
use shardmill_protocol::rpc::serve::{Capacity, Door};
use shardmill_protocol::rpc::tls::{Identity, TlsError};
use shardmill_scheduler::{Fact, Scheduler};
use tarpc::server::Serve;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::artifacts::Artifacts;
use crate::config::{Config, LogFormat};
use crate::driver::{Driver, Stopped, ToDriver, Tools, channel_to_driver};
use crate::journal::{JournalError, Opened};
use crate::logs::Logs;
use crate::publish::{Publisher, chain};
use crate::service::roster::Roster;
use crate::service::{Call, Service};
use crate::state::{StateDirectory, StateError};

/// Threads that wait for the network. The work is done elsewhere.
const ASYNC_THREADS: usize = 2;

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The state directory is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal is of no use.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The certificate is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A join file is of no use.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The address cannot be had.
    #[error("cannot listen on {address}: choose another address with --listen HOST:PORT, or any free port with --listen 127.0.0.1:0")]
    Listen { address: String, source: std::io::Error },
    /// The system refuses what every process needs.
    #[error("cannot {action}")]
    System { action: &'static str, source: std::io::Error },
    /// The driver has ended by itself.
    #[error("the coordinator has made a mistake, which the lines above tell of; started again, it goes on from what is journaled")]
    Broken,
}

impl ServeError {
    /// What the process says with its exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::State(StateError::InUse { .. }) => 4,
            Self::State(_) | Self::Journal(_) | Self::Tls(_) | Self::Join(_) => 78,
            Self::Listen { .. } => 2,
            Self::System { .. } | Self::Broken => 1,
        }
    }
}

impl From<Stopped> for ServeError {
    fn from(_: Stopped) -> Self {
        Self::Broken
    }
}

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::System { action, source }
}

/// Runs a coordinator until SIGTERM or SIGINT.
pub(crate) fn serve(config: Config) -> ExitCode {
    start_log(config.log_format);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coordinator: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,tarpc=error".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(config: Config) -> Result<(), ServeError> {
    let state = StateDirectory::open(&config.state)?;
    let mut opened = Opened::open(state.path(), config.scheduler.history)?;
    let (mut facts, mut swept) = (vec![], BTreeSet::new());
    opened.replay(|number, fact| {
        if let Fact::Swept { job } = &fact {
            swept.insert(*job);
        }
        facts.push((number, fact));
    })?;
    // The last facts may be history by now, and their numbers are not used again: an epoch of long ago changes nothing else.
    facts.push((opened.last(), Fact::Epoch(Epoch(0))));
    let scheduler = Scheduler::replay(config.scheduler.clone(), facts);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(ASYNC_THREADS).enable_all().build();
    let runtime = runtime.map_err(system("start threads"))?;
    // Before anything is written: whoever is refused here has changed nothing.
    let listener = runtime.block_on(listen(&config, state.path()))?;

    let publisher = Publisher::new(state.directory("claims")?, state.name(), config.fault_point.clone());
    let live: BTreeSet<_> = scheduler.jobs().filter(|job| !swept.contains(job)).collect();
    publisher.give_up_all_but(&live).map_err(system("read the directory of claims"))?;
    let artifacts = Artifacts::new(state.directory("artifacts")?, config.max_executable_bytes);
    let logs = Arc::new(Logs::new(state.directory("logs")?));
    let keys = opened.history().keys()?;
    let known: BTreeSet<_> = scheduler.jobs().chain(keys.iter().map(|(job, _)| *job)).collect();
    logs.keep(&known).map_err(system("remove the logs of forgotten jobs"))?;

    let (handle, inbox) = channel_to_driver();
    let (history, is_full) = (opened.history(), opened.is_full());
    let journal = opened.start(ToDriver(handle.clone()), config.fault_point.clone());
    let tools = Tools {
        runtime: runtime.handle().clone(),
        journal,
        publisher: publisher.clone(),
        artifacts: artifacts.clone(),
        logs: logs.clone(),
        fault_point: config.fault_point.clone(),
    };
    let driver = Driver::new(scheduler, swept, keys, handle.clone(), tools);
    let (ending, ended) = oneshot::channel::<()>();
    let drive = move || {
        // Dropped when the driver ends, however it does.
        let _ending = ending;
        driver.run(&inbox);
    };
    let thread = std::thread::Builder::new().name("driver".to_owned()).spawn(drive).map_err(system("start a thread"))?;

    let served = runtime.block_on(async {
        let epoch = handle.read(|driver| driver.scheduler().epoch()).await?;
        let service = Service {
            driver: handle.clone(),
            artifacts,
            logs,
            publisher,
            history,
            is_full,
            heartbeat: config.scheduler.heartbeat,
            lease: config.scheduler.lease,
            poll: config.poll,
            roster: Roster::new(epoch),
            keys: Default::default(),
            state,
        };
        serve_calls(&config, service, listener, ended).await
    });
    handle.stop();
    // A panic of the driver has been shown.
    let _ = thread.join();
    // What is still publishing or sweeping is repeated by the next start.
    runtime.shutdown_background();
    served
}

/// Binds the address. With any port allowed, the one of the last time is tried first, so that workers find their way back.
async fn listen(config: &Config, state: &Path) -> Result<TcpListener, ServeError> {
    let before = JoinFile::read(&state.join(JoinFile::name(Role::Worker))).ok();
    let port = before.and_then(|join| join.address.rsplit_once(':')?.1.parse().ok());
    let again = config.listen.iter().filter(|address| address.port() == 0);
    let again = again.filter_map(|address| Some(SocketAddr::new(address.ip(), port?)));
    for address in again {
        if let Ok(listener) = TcpListener::bind(address).await {
            return Ok(listener);
        }
    }
    let bound = TcpListener::bind(&config.listen[..]).await;
    bound.map_err(|source| ServeError::Listen { address: config.listen_text.clone(), source })
}

async fn serve_calls(config: &Config, service: Service, listener: TcpListener, ended: oneshot::Receiver<()>) -> Result<(), ServeError> {
    let identity = Identity::kept_in(service.state.path())?;
    let bound = listener.local_addr().map_err(system("find out the own address"))?;
    let joins = join_files(service.state.path(), &address(config, bound), &identity)?;
    let secrets = Secrets::new(joins.iter().map(|(_, join)| (join.role, join.secret)));
    let door = Door { tls: identity.acceptor()?, secrets: Arc::new(secrets), capacity: Capacity::default() };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (terminate, interrupt) = match (&mut terminate, &mut interrupt) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        _ => return Err(ServeError::System { action: "wait for signals", source: std::io::Error::last_os_error() }),
    };
    // Whoever sees the files finds somebody who listens.
    for (path, join) in &joins {
        join.write(path)?;
    }
    announce(&joins, bound);

    let call = Call(Arc::new(service));
    let handler = move |_peer, context, request| call.clone().serve().serve(context, request);
    let mut outcome = Ok(());
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
            _ = ended => outcome = Err(ServeError::Broken),
        }
    };
    shardmill_protocol::rpc::serve::serve(listener, door, handler, stop).await;
    outcome
}

/// What to say of where this coordinator is.
fn address(config: &Config, bound: SocketAddr) -> String {
    match &config.advertise {
        Some(host) if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => host.clone(),
        Some(host) => format!("{host}:{}", bound.port()),
        // All addresses of this machine: others know it by its name.
        None if bound.ip().is_unspecified() => format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), bound.port()),
        None => bound.to_string(),
    }
}

/// The join files of all roles. Secrets stay what they were; a file that was removed gets a new one.
fn join_files(state: &Path, address: &str, identity: &Identity) -> Result<Vec<(PathBuf, JoinFile)>, ServeError> {
    let join = |role: &Role| {
        let path = state.join(JoinFile::name(*role));
        let secret = match JoinFile::read(&path) {
            Ok(join) => join.secret,
            Err(error) if error.is_missing() => Secret::random().map_err(system("make a secret"))?,
            Err(error) => return Err(error.into()),
        };
        Ok((path, JoinFile { address: address.to_owned(), fingerprint: identity.fingerprint(), secret, role: *role }))
    };
    Role::ALL.iter().map(join).collect()
}

/// Says on stdout, in one line, that all is ready.
fn announce(joins: &[(PathBuf, JoinFile)], bound: SocketAddr) {
    let files: Vec<String> = joins.iter().map(|(path, _)| path.display().to_string()).collect();
    // Nobody may be reading; the log has it, too.
    let _ = writeln!(std::io::stdout(), "coordinator ready at {bound}; to join: {}", files.join(" "));
    let _ = std::io::stdout().flush();
    tracing::info!(address = %bound, "coordinator ready");
}
