//! A coordinator that does what a test says: real connections, real TLS, answers from a table.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use shardmill_protocol::rpc::api::{ApiError, CancelAnswer, ControlRequest, ControlResponse, JobSpec, Role};
use shardmill_protocol::rpc::join::JoinFile;
use shardmill_protocol::rpc::secret::{Secret, Secrets};
use shardmill_protocol::rpc::serve::{Capacity, Door, serve};
use shardmill_protocol::rpc::tls::Identity;
use shardmill_protocol::task::{PlanFacts, Tally};
use shardmill_protocol::view::{JobPhase, JobStatus, JobView, WorkerView};
use shardmill_protocol::{Digest, JobId};
use tarpc::ServerError;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// A coordinator, and a place for files.
pub(crate) struct Fake {
    pub(crate) place: TempDir,
    pub(crate) world: Arc<World>,
    pub(crate) identity: Identity,
    secrets: Vec<(Role, Secret)>,
    runtime: Runtime,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What the coordinator knows and does.
pub(crate) struct World {
    pub(crate) jobs: watch::Sender<BTreeMap<JobId, JobStatus>>,
    pub(crate) told: Mutex<Told>,
}

/// What it was told, and what it shall answer.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) artifacts: BTreeMap<Digest, Vec<u8>>,
    /// Offset, length and whether it was the last one, of each chunk.
    pub(crate) chunks: Vec<(u64, usize, bool)>,
    pub(crate) specs: Vec<JobSpec>,
    pub(crate) cancelled: Vec<JobId>,
    pub(crate) drained: Vec<String>,
    /// What submit answers instead of a job.
    pub(crate) refusal: Option<ApiError>,
    /// What cancel answers, and whether it cancels.
    pub(crate) too_late: bool,
    /// It is stopping: whoever watches is told so.
    pub(crate) is_stopping: bool,
    /// So many submissions are heard and not answered.
    pub(crate) unanswered: usize,
    pub(crate) views: BTreeMap<JobId, JobView>,
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) log: Vec<u8>,
}

/// So often is looked for what nobody tells of.
const LOOKS: u64 = 200_000_000;

pub(crate) const JOB: JobId = JobId(0x0123_4567_89ab_cdef << 64);

pub(crate) fn status(job: JobId, phase: JobPhase, version: u64) -> JobStatus {
    JobStatus {
        job,
        name: "fake".to_owned(),
        output: "/out".to_owned(),
        phase,
        elapsed_ms: 1500,
        version,
        plan: Some(PlanFacts { files: 1, input_bytes: 2048, shards: 2, partitions: 1, ..PlanFacts::default() }),
        units: BTreeMap::new(),
        bytes: BTreeMap::new(),
        shuffle_bytes: 0,
        running: 0,
        retries: 0,
        spilled_bytes: 0,
        bad_records: 0,
        workers_live: 1,
        workers_lost: 0,
        tally: Tally { records: 10, groups: 3, ..Tally::default() },
        output_records: 3,
        output_bytes: 30,
        ending: None,
        is_swept: phase.is_final(),
    }
}

impl Fake {
    pub(crate) fn start() -> Self {
        let mut fake = Self {
            place: tempfile::tempdir().unwrap(),
            world: Arc::new(World { jobs: watch::Sender::new(BTreeMap::new()), told: Mutex::default() }),
            identity: Identity::generate().unwrap(),
            secrets: Role::ALL.into_iter().map(|role| (role, Secret::random().unwrap())).collect(),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            running: None,
        };
        std::fs::create_dir(fake.state()).unwrap();
        fake.stand();
        fake
    }

    /// Listens, at a new address, and writes the join files.
    pub(crate) fn stand(&mut self) {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let door = Door {
            tls: self.identity.acceptor().unwrap(),
            secrets: Arc::new(Secrets::new(self.secrets.clone())),
            capacity: Capacity::default(),
        };
        let world = Arc::clone(&self.world);
        let handler = move |_, _, request| answer(Arc::clone(&world), request);
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(serve(listener, door, handler, async { drop(stopped.await) }));
        self.running = Some((stop, task));
        for (role, secret) in &self.secrets {
            let join = JoinFile { address: address.clone(), fingerprint: self.identity.fingerprint(), secret: *secret, role: *role };
            join.write(&self.state().join(JoinFile::name(*role))).unwrap();
        }
    }

    /// Ends all connections, and answers nobody any more.
    pub(crate) fn fall(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.send(()).unwrap();
        self.runtime.block_on(task).unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A command that is told where this coordinator is.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = coordinator();
        command.arg(arguments[0]).arg("--coordinator").arg(self.state()).args(&arguments[1..]);
        command
    }

    /// Lets a job stand so.
    pub(crate) fn set(&self, status: JobStatus) {
        self.world.jobs.send_modify(|jobs| {
            jobs.insert(status.job, status);
        });
    }

    /// Waits until somebody watches a job.
    pub(crate) fn watched(&self) {
        for _ in 0..LOOKS {
            if self.world.jobs.receiver_count() > 0 {
                return;
            }
            std::thread::yield_now();
        }
        panic!("nobody watches");
    }
}

/// The executable, in an environment that says nothing of coordinators.
pub(crate) fn coordinator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.env_remove("SHARDMILL_COORDINATOR").env("XDG_STATE_HOME", "/nonexistent").stdin(Stdio::null());
    command
}

async fn answer(world: Arc<World>, request: ControlRequest) -> Result<ControlResponse, ServerError> {
    Ok(match request {
        ControlRequest::Watch { job, seen } => ControlResponse::Watch(watch_job(&world, job, seen).await),
        ControlRequest::Submit { spec } => {
            let answer = submit(&world, spec);
            match answer {
                Some(answer) => ControlResponse::Submit(answer),
                None => std::future::pending().await,
            }
        }
        other => at_once(&world, other),
    })
}

async fn watch_job(world: &World, job: JobId, seen: u64) -> Result<JobStatus, ApiError> {
    let mut jobs = world.jobs.subscribe();
    let is_news = |jobs: &BTreeMap<JobId, JobStatus>| jobs.get(&job).is_none_or(|status| status.version > seen);
    let jobs = jobs.wait_for(is_news).await.unwrap();
    if world.told.lock().unwrap().is_stopping {
        return Err(ApiError::Unavailable { message: "it is stopping".to_owned() });
    }
    jobs.get(&job).cloned().ok_or_else(|| unknown("job", job.to_string()))
}

fn unknown(what: &str, id: String) -> ApiError {
    ApiError::Unknown { what: what.to_owned(), id }
}

fn submit(world: &World, spec: JobSpec) -> Option<Result<JobId, ApiError>> {
    let mut told = world.told.lock().unwrap();
    let is_new = told.specs.iter().all(|known| known.key != spec.key);
    told.specs.push(spec);
    if told.unanswered > 0 {
        told.unanswered -= 1;
        return None;
    }
    if let Some(refusal) = told.refusal.clone() {
        return Some(Err(refusal));
    }
    drop(told);
    world.jobs.send_if_modified(|jobs| {
        let is_missing = is_new && !jobs.contains_key(&JOB);
        if is_missing {
            jobs.insert(JOB, status(JOB, JobPhase::Planning, 1));
        }
        is_missing
    });
    Some(Ok(JOB))
}

fn at_once(world: &World, request: ControlRequest) -> ControlResponse {
    let mut told = world.told.lock().unwrap();
    match request {
        ControlRequest::ArtifactSize { digest } => {
            ControlResponse::ArtifactSize(Ok(told.artifacts.get(&digest).map_or(0, |bytes| bytes.len() as u64)))
        }
        ControlRequest::Upload { digest, offset, chunk, last } => {
            told.chunks.push((offset, chunk.len(), last));
            let bytes = told.artifacts.entry(digest).or_default();
            bytes.truncate(offset as usize);
            bytes.extend_from_slice(&chunk);
            let is_whole = !last || Digest::of(bytes) == digest;
            ControlResponse::Upload(if is_whole { Ok(()) } else { Err(ApiError::Digest(digest)) })
        }
        ControlRequest::Cancel { job } => {
            told.cancelled.push(job);
            if told.too_late {
                return ControlResponse::Cancel(Ok(CancelAnswer::TooLate));
            }
            drop(told);
            world.jobs.send_modify(|jobs| {
                let status = jobs.get_mut(&job).unwrap();
                (status.phase, status.is_swept) = (JobPhase::Cancelled, true);
                status.version += 1;
            });
            ControlResponse::Cancel(Ok(CancelAnswer::Cancelling))
        }
        ControlRequest::FindJob { prefix } => {
            let jobs = world.jobs.borrow();
            let fits: Vec<JobId> = jobs.keys().copied().filter(|job| job.to_string().starts_with(&prefix)).collect();
            ControlResponse::FindJob(match fits.as_slice() {
                [] => Err(unknown("job", prefix)),
                [job] => Ok(*job),
                several => Err(ApiError::Ambiguous { prefix, candidates: several.iter().map(ToString::to_string).collect() }),
            })
        }
        ControlRequest::Jobs { page } => {
            let jobs: Vec<JobStatus> = world.jobs.borrow().values().rev().skip(2 * page as usize).take(2).cloned().collect();
            ControlResponse::Jobs(Ok(jobs))
        }
        ControlRequest::Job { job } => ControlResponse::Job(told.views.get(&job).cloned().ok_or_else(|| unknown("job", job.to_string()))),
        ControlRequest::Workers {} => ControlResponse::Workers(Ok(told.workers.clone())),
        ControlRequest::Logs { attempt, offset, .. } => {
            let all = match attempt {
                None => told.log.clone(),
                Some(attempt) => format!("log of {}\n", attempt.directory()).into_bytes(),
            };
            let rest = all.into_iter().skip(offset as usize).take(7).collect::<Vec<u8>>().into();
            ControlResponse::Logs(Ok(rest))
        }
        ControlRequest::Drain { prefix } => {
            let worker = told.workers.iter().find(|view| view.worker.to_string().starts_with(&prefix)).map(|view| view.worker);
            told.drained.push(prefix.clone());
            ControlResponse::Drain(worker.ok_or_else(|| unknown("worker", prefix)))
        }
        other => panic!("clients do not call {other:?}"),
    }
}

/// An executable that describes itself as a job, and whose parameter `--bad` is refused.
pub(crate) fn job_executable() -> &'static Path {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("job-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let (source, executable) = (place.join("job.rs"), place.join("job"));
        std::fs::write(&source, job_source()).unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc).args(["--edition", "2024", "-o"]).arg(&executable).arg(&source).status().unwrap();
        assert!(built.success());
        executable
    })
}

/// A program with the commands of a job that a client asks, of a protocol that the client speaks.
pub(crate) fn job_source() -> String {
    JOB_SOURCE.replace("MAJOR", &shardmill_protocol::VERSION.0.to_string())
}

const JOB_SOURCE: &str = r###"
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments[0].as_str() {
        "describe" => println!(r##"{{"name": "fake", "version": "1.2", "protocol": "MAJOR.7", "shape": "lines"}}"##),
        "check" if arguments.iter().any(|argument| argument == "--bad") => {
            eprintln!("error: there is no parameter --bad");
            std::process::exit(2);
        }
        "check" if arguments.iter().any(|argument| argument == "--help") => println!("parameters: --bad"),
        "check" => assert!(arguments[1] == "--input" && arguments[3] == "--output"),
        other => panic!("{other}"),
    }
}
"###;

/// A command that runs, and whose stderr is read as it comes.
pub(crate) struct Running {
    pub(crate) child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Waits for a line with this in it.
    pub(crate) fn says(&mut self, piece: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ended without saying {piece:?}: {all}");
            if line.contains(piece) {
                return line;
            }
            all.push_str(&line);
        }
    }

    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for its end: the exit code, and what it said last.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}
